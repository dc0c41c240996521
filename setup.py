"""Only what pyproject.toml cannot say: the extension modules."""

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = ("_fsm", "_hook", "_sessions", "_tlv")
LANE = "plugin/lsps2fast_plugin/_lane.pyx"
LANE_IN_C = ["plugin/lsps2fast_plugin/_keyed.pxd", "plugin/lsps2fast_plugin/_stream.pxd", "src/lsps2fast/_scan.pxd"]

setup(
    ext_modules=cythonize(
        [
            *(Extension(f"lsps2fast.{name}", [f"src/lsps2fast/{name}.pyx"]) for name in CORE),
            Extension("lsps2fast_plugin._lane", [LANE], depends=LANE_IN_C, libraries=["pthread"]),
        ],
        include_path=["src", "plugin"],
        compiler_directives={"language_level": 3, "auto_pickle": False},
    )
)
