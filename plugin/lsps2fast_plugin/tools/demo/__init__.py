"""`lsps2fast demo`: sales on the embedded node told as they happen, and an LSP that cheats."""
