"""Only what pyproject.toml cannot say: the extension modules."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CORE = ("_fsm", "_hook", "_parts", "_sessions", "_tlv")
READER = "plugin/lsps2fast_plugin/cln/_reader.pyx"
SOURCES = [*(f"src/lsps2fast/{name}.pyx" for name in CORE), READER]


def older_than_headers() -> bool:
    """Whether some C was made before a .pxd changed: Cython does not see what `cython.cimports` brings in."""
    headers = [*Path("src/lsps2fast").glob("*.pxd"), *Path("plugin/lsps2fast_plugin/cln").glob("*.pxd")]
    made = [c for c in (Path(source).with_suffix(".c") for source in SOURCES) if c.exists()]
    return bool(made) and min(c.stat().st_mtime for c in made) < max(h.stat().st_mtime for h in headers)


setup(
    ext_modules=cythonize(
        [
            *(Extension(f"lsps2fast.{name}", [f"src/lsps2fast/{name}.pyx"]) for name in CORE),
            Extension("lsps2fast_plugin.cln._reader", [READER], libraries=["pthread"]),
        ],
        force=older_than_headers(),
        include_path=["src", "plugin"],
        compiler_directives={"language_level": 3, "auto_pickle": False},
    )
)
