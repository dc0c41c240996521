"""Stands in for the module `cython` where the core runs interpreted on a machine without Cython."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

compiled = False


class _Type:
    """A C type name: usable in annotations, as a cast and as an array type."""

    def __call__(self, *args: Any) -> Any:
        return args[0] if args else 0

    def __getitem__(self, _: Any) -> _Type:
        return self


int = uint = long = ulong = longlong = ulonglong = short = ushort = char = uchar = _Type()
bint = double = float = size_t = Py_ssize_t = void = p_char = p_uchar = _Type()


def pointer(_: Any) -> _Type:
    """Return a pointer's type."""
    return _Type()


def _same(thing: Any) -> Any:
    return thing


def _decorator(*_: Any, **__: Any) -> Callable[[Any], Any]:
    return _same


cclass = cfunc = ccall = final = inline = _same
boundscheck = wraparound = cdivision = freelist = locals = exceptval = returns = nogil = _decorator


def declare(_: Any = None, value: Any = None, **__: Any) -> Any:
    """Return the value of a module-level constant; a C attribute has none until the code sets it."""
    return value


def cast(_: Any, value: Any, **__: Any) -> Any:
    """Return the value, unchanged."""
    return value
