"""What a release consists of: pinned tools, a layout that reckless finds, wheels that say what is in them."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from harness.wheels import build_pure
from packaging.requirements import Requirement

import lsps2fast

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = sorted((ROOT / "release" / "lock").glob("*.txt"))
PLUGINS = ("lsps2fast-client", "lsps2fast-service")


def pinned(lock: Path) -> dict[str, list[str]]:
    """Return the versions of each package in a lock; more than one where they differ by Python or platform."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", lock.read_text("utf-8"), re.M):
        versions.setdefault(name, []).append(version)
    return versions


def asked_for(group: str) -> list[Requirement]:
    """Return what a group of pyproject.toml asks for, the groups in it included."""
    found: list[Requirement] = []
    for row in PROJECT["dependency-groups"][group]:
        found += [Requirement(row)] if isinstance(row, str) else asked_for(row["include-group"])
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_pins_what_its_group_asks_for(lock: Path) -> None:
    """`make lock` writes them anew."""
    wanted = asked_for(lock.stem)
    if lock.stem == "dev":
        rows = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
        wanted += [Requirement(text) for texts in rows for text in texts]
        wanted += [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    have = pinned(lock)
    assert wanted
    for requirement in wanted:
        versions = have.get(requirement.name.lower())
        assert versions, requirement
        assert all(requirement.specifier.contains(version) for version in versions), (requirement, versions)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_has_a_hash_of_everything_and_fits_the_others(lock: Path) -> None:
    """pip takes none of it without; one environment takes them all."""
    rows = re.split(r"\n(?=[a-z0-9])", re.sub(r"^#.*\n", "", lock.read_text("utf-8"), flags=re.M))
    assert rows
    assert [row.splitlines()[0] for row in rows if "--hash=sha256:" not in row] == []
    for name, versions in pinned(ROOT / "release" / "lock" / "dev.txt").items():
        assert pinned(lock).get(name, versions) == versions, name


@pytest.mark.parametrize("name", PLUGINS)
def test_reckless_finds_the_plugin(name: str) -> None:
    """It looks for a folder of the plugin's name at the top, an entry of that name in it, and requirements.txt."""
    folder = ROOT / name
    assert os.access(folder / f"{name}.py", os.X_OK)
    (requirement,) = (folder / "requirements.txt").read_text("utf-8").splitlines()
    assert Requirement(requirement).name == "lsps2fast"
    assert Requirement(requirement).specifier.contains(lsps2fast.__version__)


@pytest.mark.parametrize("name", PLUGINS)
def test_what_reckless_starts_is_the_plugin(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its wrapper runs the entry by its name, from the folder."""
    module = f"lsps2fast_plugin.{name.removeprefix('lsps2fast-')}.app"
    monkeypatch.syspath_prepend(str(ROOT / name))
    monkeypatch.setattr(f"{module}.main", lambda: 17)
    with pytest.raises(SystemExit) as end:
        runpy.run_module(name, {}, "__main__")
    assert end.value.code == 17


@pytest.mark.process
@pytest.mark.slow
def test_a_wheel_has_its_licence_its_bill_and_its_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEP 639 and PEP 770; the wheel for any machine has nothing of Cython's in it. operator:O8: its links hold."""
    monkeypatch.setenv("LSPS2FAST_ADDRESS", "https://forge.example/it/")
    wheel = build_pure(tmp_path)
    assert wheel.name == f"lsps2fast-{lsps2fast.__version__}-py3-none-any.whl"
    about = f"lsps2fast-{lsps2fast.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as packed:
        assert packed.read(f"{about}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
        metadata = packed.read(f"{about}/METADATA").decode()
        bill = json.loads(packed.read(f"{about}/sboms/lsps2fast.cdx.json"))
        assert f"{about}/sboms/lsps2fast.cdx.json" in packed.read(f"{about}/RECORD").decode()
        assert not [name for name in packed.namelist() if name.endswith((".so", ".c"))]
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/lsps2fast@{lsps2fast.__version__}"
    assert bill["components"] == []
    for name, place in {"Source": "", "Issues": "/issues"}.items():
        assert f"\nProject-URL: {name}, https://forge.example/it{place}\n" in metadata
    own = rf"https://forge\.example/it/(blob|raw)/v{re.escape(lsps2fast.__version__)}/"
    links = re.findall(r"\]\(([^)]*)\)", metadata)
    ours = [link for link in links if "forge.example" in link]
    assert ours
    for link in ours:
        assert re.match(own, link), link
        assert (ROOT / re.sub(own, "", link).partition("#")[0]).is_file(), link
    assert [link for link in links if not link.startswith("https://")] == []


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(("build", "ends"), [("auto", 0), ("compiled", 1)])
def test_without_a_compiler_all_extensions_are_left_out(build: str, ends: int, tmp_path: Path) -> None:
    """operator:O7: no compiler at all is another failure than one that fails; `compiled` says so instead."""
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    missing = str(tmp_path / "cc")
    env = {**os.environ, "LSPS2FAST_BUILD": build, "CC": missing, "LDSHARED": missing}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert bool(done.returncode) == bool(ends), done.stderr
    assert ("so the core runs interpreted" in done.stdout) == (build == "auto")
    assert list(tmp_path.rglob("*.so")) == []


@pytest.mark.process
@pytest.mark.slow
def test_the_source_archive_has_every_file_of_the_repository(tmp_path: Path) -> None:
    """operator:O8: what a test reads, and a page links to, is in it; nothing that was built is.

    Run from the archive itself, it holds that an archive of it would have the same files.
    """
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "--quiet", "egg_info", "--egg-base", tmp_path],
        cwd=ROOT,
        env={**os.environ, "LSPS2FAST_BUILD": "pure"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    taken = set((tmp_path / "lsps2fast.egg-info" / "SOURCES.txt").read_text("utf-8").splitlines())
    assert {name for name in taken if name.endswith((".c", ".so", ".pyc"))} == set()
    assert files_of_the_repository() - taken == set()


def files_of_the_repository() -> set[str]:
    """Return what git tracks; from the archive, what the archive brought."""
    if not (ROOT / ".git").exists():
        brought = (ROOT / "lsps2fast.egg-info" / "SOURCES.txt").read_text("utf-8").splitlines()
        return {name for name in brought if ".egg-info/" not in name}
    asked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return {name for name in asked.split("\0") if name and (ROOT / name).exists()}


@pytest.mark.process
def test_without_an_address_the_words_of_the_links_stay() -> None:
    """A link that leads nowhere on a package index is worse than none."""
    env = {name: value for name, value in os.environ.items() if name != "LSPS2FAST_ADDRESS"}
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "setup.py", "--long-description"],
        cwd=ROOT,
        env={**env, "LSPS2FAST_BUILD": "pure"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    links = re.findall(r"\]\(([^)]*)\)", told)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
