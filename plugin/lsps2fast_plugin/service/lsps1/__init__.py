"""LSPS1 (bLIP-51): channels that clients order and pay ahead; beside JIT channels, out of the same coins."""
