"""Only what pyproject.toml cannot say: the extension modules.

`LSPS2FAST_BUILD=compiled` fails where they cannot be compiled, `LSPS2FAST_BUILD=pure` makes a wheel for any machine
without them; else what cannot be compiled is left out, and the core runs interpreted.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = ("_fsm", "_hook", "_live", "_parts", "_payment", "_scan", "_sessions", "_tlv")
READER = ("_keyset", "_reader", "_stream")  # the lane in C
BUILD = os.environ.get("LSPS2FAST_BUILD", "auto")
if BUILD not in ("auto", "compiled", "pure"):
    raise SystemExit(f"LSPS2FAST_BUILD={BUILD}: say auto, compiled or pure")


def extension(name: str, source: str, **how: list[str]) -> Extension:
    """Return one extension module; without a compiler it is left out, if the build allows that."""
    return Extension(name, [source], optional=BUILD == "auto", **how)


setup(
    ext_modules=cythonize(
        [
            *(extension(f"lsps2fast.{name}", f"src/lsps2fast/{name}.pyx") for name in CORE),
            *(
                extension(
                    f"lsps2fast_plugin.cln.{name}",
                    f"plugin/lsps2fast_plugin/cln/{name}.pyx",
                    include_dirs=["src/lsps2fast"],
                    libraries=["pthread"],
                )
                for name in READER
            ),
        ],
        include_path=["src", "plugin"],
        compiler_directives={"language_level": 3, "auto_pickle": False},
    )
    if BUILD != "pure"
    else []
)
