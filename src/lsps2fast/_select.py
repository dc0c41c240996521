"""Compiled or interpreted core. Nothing else in the package looks at the switch.

`LSPS2FAST_PURE=1` executes the very `.pyx` sources as Python, so that a debugger, coverage and tracebacks point
at the real lines. `_hook` needs raw buffers and has a twin, `_hook_py.py`, held equal by a test; so has
`_raw`, what the machine wants of C.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

_TWINS = {"_hook": "_hook_py"}


def _cython_or_stand_in() -> None:
    """Interpreted runs import `cython`; where Cython is not installed a small stand-in serves."""
    if importlib.util.find_spec("cython") is None:
        sys.modules["cython"] = importlib.import_module("lsps2fast._no_cython")


def load_pure(name: str) -> ModuleType:
    """The core module `name` ("_fsm", "_tlv", "_hook") as interpreted Python."""
    if name in _TWINS:
        return importlib.import_module(f"lsps2fast.{_TWINS[name]}")
    full = f"lsps2fast.{name}_pure"
    if full in sys.modules:
        return sys.modules[full]
    _cython_or_stand_in()
    path = str(Path(__file__).with_name(f"{name}.pyx"))
    spec = importlib.util.spec_from_loader(full, SourceFileLoader(full, path), origin=path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules[full] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    return module


def load_compiled(name: str) -> ModuleType:
    """The core module `name` as compiled C. Raises ImportError when the extension is missing: no silent slow path."""
    try:
        return importlib.import_module(f"lsps2fast.{name}")
    except ImportError as error:
        raise ImportError(
            f"the compiled module lsps2fast.{name} cannot be loaded ({error}); install a wheel or run `make build`, "
            "or set LSPS2FAST_PURE=1 to run the core interpreted"
        ) from error


if os.environ.get("LSPS2FAST_PURE") == "1":
    BACKEND = "pure"
    load = load_pure
else:
    BACKEND = "compiled"
    load = load_compiled
