"""lightningd, for any plugin: its pipes, its RPC, its datastore, the names of its channels. Knows nothing of LSPS2."""
