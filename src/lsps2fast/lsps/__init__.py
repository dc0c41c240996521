"""The messages between LSP and client: LSPS0, LSPS2, promises, buys, and what a wallet checks."""
