"""Run the core compiled or interpreted. Nothing else in the package looks at the switch.

With `LSPS2FAST_PURE=1` an import finder executes the very `.pyx` sources as Python, so that a debugger, coverage and
tracebacks point at the real lines. `_hook` needs raw buffers and has a twin, `_hook_py.py`, held equal by a test.
So does an installation that was built without a compiler, or is the wheel for any machine: it has no extension at all.
Where there are extensions, and one is missing or was made for another Python, that is an ImportError.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Final

_HERE: Final = os.path.dirname(__file__)
SOURCES: Final = {
    "lsps2fast._fsm": "_fsm.pyx",
    "lsps2fast._hook": "_hook_py.py",
    "lsps2fast._live": "_live.pyx",
    "lsps2fast._parts": "_parts.pyx",
    "lsps2fast._payment": "_payment.pyx",
    "lsps2fast._sessions": "_sessions.pyx",
    "lsps2fast._tlv": "_tlv.pyx",
}
"""The modules with an extension, and the source that each is interpreted from."""
BINARY: Final = (".so", ".pyd")


class Interpreted:
    """Find the core's modules as Python sources. Where Cython is not installed a small stand-in serves."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a core module, None for any other."""
        if fullname not in SOURCES:
            return None
        if "cython" not in sys.modules and importlib.util.find_spec("cython") is None:
            sys.modules["cython"] = importlib.import_module("lsps2fast._no_cython")
        source = os.path.join(_HERE, SOURCES[fullname])
        return importlib.util.spec_from_file_location(fullname, source, loader=SourceFileLoader(fullname, source))


class _Missing:
    """Asked last, when no extension was found."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ImportError for a core module."""
        if fullname in SOURCES:
            raise ImportError(
                f"the compiled module {fullname} is missing; install a wheel or run `make build`, "
                "or set LSPS2FAST_PURE=1 to run the core interpreted",
                name=fullname,
            )
        return None


def _is_built() -> bool:
    """Return whether any extension of the core lies beside its source, of whatever Python."""
    stems = {os.path.splitext(source)[0] for source in SOURCES.values()}
    return any(name.partition(".")[0] in stems and name.endswith(BINARY) for name in os.listdir(_HERE))


if os.environ.get("LSPS2FAST_PURE") == "1" or not _is_built():
    BACKEND = "pure"
    sys.meta_path.insert(0, Interpreted())
else:
    BACKEND = "compiled"
    sys.meta_path.append(_Missing())
