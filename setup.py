"""Only what pyproject.toml cannot say: the extension modules."""

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = ("_fsm", "_hook", "_live", "_parts", "_payment", "_scan", "_sessions", "_tlv")
READER = "plugin/lsps2fast_plugin/cln/_reader.pyx"

setup(
    ext_modules=cythonize(
        [
            *(Extension(f"lsps2fast.{name}", [f"src/lsps2fast/{name}.pyx"]) for name in CORE),
            Extension("lsps2fast_plugin.cln._reader", [READER], include_dirs=["src/lsps2fast"], libraries=["pthread"]),
        ],
        include_path=["src", "plugin"],
        compiler_directives={"language_level": 3, "auto_pickle": False},
    )
)
