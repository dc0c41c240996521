"""Both runs of the core in one process: the compiled extensions, and the same modules interpreted."""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import lsps2fast
from lsps2fast._backend import SOURCES, Interpreted

RUNS = ("compiled", "pure")


def load_core(run: str, name: str) -> ModuleType:
    """Return the core module `name` ("_fsm") in run `run`. A missing extension raises, so a test fails, never skips."""
    return _imported(run)[f"lsps2fast.{name}"]


def load_compiled(name: str) -> ModuleType:
    """Return it as an extension, also in a process that runs the core interpreted. Raises ImportError."""
    return _imported("compiled")[f"lsps2fast.{name}"]


def load_pure(name: str) -> ModuleType:
    """Return it interpreted; `_hook` as its twin."""
    return _imported("pure")[f"lsps2fast.{name}"]


@functools.cache
def _imported(run: str) -> dict[str, ModuleType]:
    """Import all core modules in run `run`; those of the other run stay for all others."""
    if run == lsps2fast.BACKEND:
        return {name: importlib.import_module(name) for name in SOURCES}
    before = {name: sys.modules.pop(name) for name in SOURCES if name in sys.modules}
    finders = sys.meta_path[:]
    others = [finder for finder in finders if not isinstance(finder, Interpreted)]
    sys.meta_path[:] = [Interpreted(), *others] if run == "pure" else others
    try:
        return {name: importlib.import_module(name) for name in SOURCES}
    finally:
        sys.meta_path[:] = finders
        for name in SOURCES:
            sys.modules.pop(name, None)
            vars(lsps2fast).pop(name.rpartition(".")[2], None)
        for name, module in before.items():
            sys.modules[name] = module
            setattr(lsps2fast, name.rpartition(".")[2], module)
