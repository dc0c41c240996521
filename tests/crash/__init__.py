"""The crash machine: kills the plugin, or the whole node, at every point of a sale, and counts the money afterwards."""
