"""Only what pyproject.toml cannot say: the extension modules.

`LSPS2FAST_BUILD=compiled` fails where they cannot be compiled, `LSPS2FAST_BUILD=pure` makes a wheel for any machine
without them; else they are left out where they cannot be compiled, and the core runs interpreted. Each wheel says what
is in it (PEP 770: `.dist-info/sboms/`).

`LSPS2FAST_ADDRESS=https://…` is where the repository can be read: links of README, and the project's own, lead there
from a package index. Without it the words of the links stay.
"""

import json
import os
import re
import sysconfig
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

CORE = ("_fsm", "_hook", "_live", "_parts", "_payment", "_scan", "_sessions", "_tlv")
READER = ("_inbox", "_keyset", "_reader", "_stream")  # the lane in C
VERSION = re.search(r'__version__ = "(.*)"', Path("src/lsps2fast/__init__.py").read_text("utf-8"))[1]
ADDRESS = os.environ.get("LSPS2FAST_ADDRESS", "").rstrip("/")
BUILD = os.environ.get("LSPS2FAST_BUILD", "auto")
if BUILD not in ("auto", "compiled", "pure"):
    raise SystemExit(f"LSPS2FAST_BUILD={BUILD}: say auto, compiled or pure")
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    if BUILD == "compiled":
        raise SystemExit(
            "the extensions need the GIL: take a Python that is not free-threaded, or LSPS2FAST_BUILD=pure"
        )
    BUILD = "pure"


class AllOrNone(build_ext):
    """All extensions, or none: a core half compiled is no core."""

    def run(self) -> None:
        """Compile; leave them out where that fails for whatever reason, unless the build says `compiled`."""
        try:
            super().run()
        except Exception as error:
            if BUILD == "compiled":
                raise
            print(f"lsps2fast: not compiled, so the core runs interpreted: {error}")
            for each in self.extensions:
                Path(self.get_ext_fullpath(each.name)).unlink(missing_ok=True)
            self.extensions = self.distribution.ext_modules = []


class WheelWithBill(bdist_wheel):
    """A wheel with its bill of materials: ours, and what Cython puts into each extension."""

    def write_wheelfile(self, wheelfile_base: str, *rest: object) -> None:
        """Write WHEEL, and the bill beside it."""
        super().write_wheelfile(wheelfile_base, *rest)
        ours = component(self.distribution.get_name(), self.distribution.get_version(), "MIT")
        parts = [component("cython", Cython.__version__, "Apache-2.0")] if self.distribution.has_ext_modules() else []
        bill = {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {"lifecycles": [{"phase": "build"}], "component": ours},
            "components": parts,
            "dependencies": [{"ref": ours["bom-ref"], "dependsOn": [part["bom-ref"] for part in parts]}],
        }
        folder = Path(wheelfile_base, "sboms")
        folder.mkdir(exist_ok=True)
        (folder / "lsps2fast.cdx.json").write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")


def component(name: str, version: str, licence: str) -> dict[str, object]:
    """Return a row of the bill."""
    purl = f"pkg:pypi/{name}@{version}"
    licences = [{"license": {"id": licence}}]
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl, "licenses": licences}


def description() -> str:
    """Return README with links that hold on a package index, where its files are not."""
    text = Path("README.md").read_text("utf-8")
    local = r"\]\((?!https:|#)([^)]+)\)"
    if ADDRESS:
        text = re.sub(r"!(\[[^]]*)" + local, rf"!\1]({ADDRESS}/raw/v{VERSION}/\2)", text)
        return re.sub(local, rf"]({ADDRESS}/blob/v{VERSION}/\1)", text)
    return re.sub(r"!?\[([^]]*)" + local, r"\1", text)


def addresses() -> dict[str, str]:
    """Return where the project can be found, by the names that indexes know."""
    places = {
        "Source": "",
        "Documentation": f"/tree/v{VERSION}/docs",
        "Issues": "/issues",
        "Changelog": f"/blob/v{VERSION}/CHANGELOG.md",
    }
    return {name: ADDRESS + place for name, place in places.items()} if ADDRESS else {}


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    project_urls=addresses(),
    cmdclass={"bdist_wheel": WheelWithBill, "build_ext": AllOrNone},
    ext_modules=cythonize(
        [
            *(Extension(f"lsps2fast.{name}", [f"src/lsps2fast/{name}.pyx"]) for name in CORE),
            *(
                Extension(
                    f"lsps2fast_plugin.cln.{name}",
                    [f"plugin/lsps2fast_plugin/cln/{name}.pyx"],
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
    else [],
)
