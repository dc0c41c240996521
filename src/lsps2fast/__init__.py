"""LSPS2 (bLIP-52) without a clock, a socket, a thread or dice: facts in, orders out."""

__version__ = "0.1.0"
