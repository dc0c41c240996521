"""LSPS2 (bLIP-52), sans-I/O: no clock, no I/O, no threads, no randomness. Facts go in, actions come out."""

from lsps2fast._backend import BACKEND

__version__ = "0.1.0"
__all__ = ["BACKEND", "__version__"]
