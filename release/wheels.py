"""Build the Linux wheels of each Python named, for four platforms: `make wheels PYTHONS="python3.12 python3.13"`.

zig, which PyPI serves as a package, compiles for each processor and libc; setuptools packs, under each Python. Then
each wheel is looked through: its extensions are of the processor and libc that its name says (auditwheel's verdict),
stripped, small, with the licence and a bill of materials beside them. What this machine can run is installed into a
fresh environment, where the tests of the core and the demo run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).parents[1]
MOST_BYTES = 1_500_000
FLAGS = "-O2 -DNDEBUG -g0 -fno-sanitize=undefined"  # zig's cc would trap what C leaves undefined
SOURCES = ("tests", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "docs")
TRY = ("tests/core", "tests/test_api.py", "tests/test_types.py")


class Target(NamedTuple):
    """A platform, as wheels, zig, Python and ELF name it."""

    tag: str
    zig: str
    suffix: str
    machine: str


TARGETS = (
    Target("manylinux_2_17_x86_64", "x86_64-linux-gnu.2.17", "x86_64-linux-gnu", "EM_X86_64"),
    Target("manylinux_2_17_aarch64", "aarch64-linux-gnu.2.17", "aarch64-linux-gnu", "EM_AARCH64"),
    Target("musllinux_1_2_x86_64", "x86_64-linux-musl", "x86_64-linux-musl", "EM_X86_64"),
    Target("musllinux_1_2_aarch64", "aarch64-linux-musl", "aarch64-linux-musl", "EM_AARCH64"),
)


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """Run a command quietly; end with what it said if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def environment(python: str, folder: Path, *packages: str) -> Path:
    """Return the Python of a fresh virtual environment that has the packages."""
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    run(inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "pip>=25.1")
    run(inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return inside


def headers(python: Path, folder: Path) -> Path:
    """Return a copy of a Python's headers for all targets: sizes are alike, and Debian's names no processor then."""
    ask = "import sysconfig as it; print(it.get_path('include'), it.get_config_var('MULTIARCH'))"
    include, multiarch = run(python, "-c", ask).split()
    shutil.copytree(include, folder)
    own = Path(include).parent / multiarch / Path(include).name / "pyconfig.h"
    if own.exists():
        shutil.copy(own, folder / "pyconfig.h")
    return folder


def build(python: Path, include: Path, sources: Path, target: Target, dist: Path) -> Path:
    """Return the wheel of one Python for one platform."""
    digits = run(python, "-c", "import sys; print('%d%d' % sys.version_info[:2])").strip()
    for stale in (*sources.glob("build"), *sources.glob("*/*.egg-info")):
        shutil.rmtree(stale)
    compiler = f"{sys.executable} -m ziglang cc -target {target.zig}"
    with tempfile.TemporaryDirectory() as out:
        run(
            *(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", out),
            *(f"--config-settings=--build-option=--plat-name={target.tag}", sources),
            LSPS2FAST_BUILD="compiled",
            CC=compiler,
            LDSHARED=f"{compiler} -shared -Wl,-s",
            CFLAGS=f"{FLAGS} -I{include}",
            SETUPTOOLS_EXT_SUFFIX=f".cpython-{digits}-{target.suffix}.so",
        )
        (made,) = Path(out).iterdir()
        return Path(shutil.move(made, dist / made.name))


def faults(wheel: Path, target: Target) -> list[str]:
    """Return what is wrong with a wheel."""
    found = []
    if wheel.stat().st_size > MOST_BYTES:
        found.append(f"{wheel.stat().st_size:,} bytes")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        extensions = [name for name in names if name.endswith(".so")]
        found += [
            f"no {part}"
            for part in ("licenses/LICENSE", "sboms/lsps2fast.cdx.json")
            if not any(part in n for n in names)
        ]
        if len(extensions) != sum(name.endswith(".pyx") for name in names):
            found.append(f"{len(extensions)} extensions")
        for name in extensions:
            elf = ELFFile(io.BytesIO(packed.read(name)))
            if elf["e_machine"] != target.machine or not name.endswith(f"-{target.suffix}.so"):
                found.append(f"{name} is {elf['e_machine']}")
            if elf.get_section_by_name(".symtab"):
                found.append(f"{name} is not stripped")
    verdict = json.loads(run(sys.executable, "-m", "auditwheel", "show", "--json", wheel))
    if target.tag.startswith("musllinux"):  # musl's loader takes this name for itself; auditwheel knows only Alpine's
        is_so = list(verdict["external_libs"]) == ["libc.so"]
    else:
        is_so = verdict["overall_tag"] == target.tag and not verdict["external_libs"]
    if not is_so:
        found.append(f"auditwheel: {verdict['overall_tag']}, {verdict['external_libs']}")
    return found


def try_out(python: str, wheel: Path, folder: Path) -> str:
    """Install a wheel into a fresh environment, run the demo and the core's tests there; return what they said."""
    inside = environment(python, folder / "venv", f"{wheel}[terminal,metrics,page]")
    run(
        inside,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--group",
        f"{ROOT}/pyproject.toml:test",
    )
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    origin = run(inside, "-c", "import lsps2fast as it; print(it.BACKEND, it.__file__)", cwd=folder).split()
    if origin[0] != "compiled" or not Path(origin[1]).is_relative_to(folder / "venv"):
        raise SystemExit(f"{wheel.name}: not what was installed, or not compiled: {origin}")
    run(folder / "venv" / "bin" / "lsps2fast", "demo", cwd=folder)
    told = run(inside, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TRY, cwd=folder)
    return told.strip().splitlines()[-1]


def main() -> None:
    """Build, look through, try out."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("sdist", type=Path, help="the source archive of `make dist`")
    ask.add_argument("pythons", nargs="+", help="a Python for each version, with its headers")
    ask.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the wheels go")
    asked = ask.parse_args()
    pythons = [python for python in asked.pythons if shutil.which(python)]
    for python in set(asked.pythons).difference(pythons):
        print(f"{python}: not here, so no wheel for it")
    bad = []
    with tempfile.TemporaryDirectory() as work:
        run("tar", "-xzf", asked.sdist.resolve(), "-C", work)
        (sources,) = Path(work).iterdir()
        for number, python in enumerate(pythons):
            packs = environment(python, Path(work) / f"build-{number}", "setuptools>=77.0.3", "Cython>=3.3.1,<3.4")
            include = headers(packs, Path(work) / f"headers-{number}")
            built = {}
            for target in TARGETS:
                wheel = build(packs, include, sources, target, asked.dist)
                built[target.tag] = wheel
                wrong = faults(wheel, target)
                bad += [f"{wheel.name}: {fault}" for fault in wrong]
                print(
                    f"{wheel.name}: {wheel.stat().st_size:,} bytes, {'; '.join(wrong) or 'as its name says'}",
                    flush=True,
                )
            ours = built[f"manylinux_2_17_{platform.machine()}"]
            folder = Path(work) / f"try-{number}"
            folder.mkdir()
            try:
                print(f"  installed: {try_out(python, ours, folder)}", flush=True)
            except SystemExit as end:
                bad.append(f"{ours.name} installed: {end}")
    if bad or not pythons:
        raise SystemExit("\n".join(bad) or "no Python to build for")


if __name__ == "__main__":
    main()
