"""Only what pyproject.toml cannot say: the extension modules."""

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = ("_fsm", "_hook", "_sessions", "_tlv")

setup(
    ext_modules=cythonize(
        [Extension(f"lsps2fast.{name}", [f"src/lsps2fast/{name}.pyx"]) for name in CORE],
        compiler_directives={"language_level": 3, "auto_pickle": False},
    )
)
