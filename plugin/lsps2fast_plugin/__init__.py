"""Everything that touches the world: the plugins, the embedded node, the command line."""
