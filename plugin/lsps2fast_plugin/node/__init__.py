"""The embedded node: what a plugin sees of lightningd, small enough for a demo and strict enough for tests."""
