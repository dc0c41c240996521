"""What the project says of itself in several places is said alike."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import lsps2fast

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WORKFLOWS = ROOT / ".github" / "workflows"


def test_pythons_are_the_same_everywhere() -> None:
    """Classifiers, wheels and the workflow that tests: a Python that is promised is tested."""
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    tested = re.search(r"python: \[(.*)\]", (WORKFLOWS / "test.yml").read_text("utf-8"))
    assert tested is not None
    assert re.findall(r"3\.\d+", tested[1]) == promised
    minors = re.search(r"cp31\{(.*)\}", PROJECT["tool"]["cibuildwheel"]["build"])
    assert minors is not None
    assert [f"3.1{minor}" for minor in minors[1].split(",")] == promised
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"


def test_the_version_stands_in_one_place() -> None:
    """`lsps2fast.__version__`, which a release's tag is held against."""
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "lsps2fast.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", lsps2fast.__version__)
    newest = re.findall(r"^## (\S+) \(", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)[0]
    assert newest == lsps2fast.__version__
    assert "src/lsps2fast/__init__.py" in (WORKFLOWS / "release.yml").read_text("utf-8")


def test_workflows_run_what_the_readme_says() -> None:
    """The verbs of the Makefile, and nothing that only a workflow knows."""
    verbs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    used = {verb for page in WORKFLOWS.glob("*.yml") for verb in re.findall(r"make ([a-z-]+)", page.read_text("utf-8"))}
    assert used
    assert used <= verbs | {"count"}


def test_what_security_names_exists() -> None:
    """Its links, its tests, and each row of the design that it names is proved by a test."""
    page = (ROOT / "SECURITY.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", page) + re.findall(r"`(tests/[^`]+|plugin/[^`]+)`", page):
        assert (ROOT / target).exists(), target
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for row in re.findall(r"(?:people|wallet):[A-Z]\d+", page):
        assert row in tests, row


def test_actions_are_pinned_by_hash() -> None:
    """A tag can be moved; only the action that publishes is named by its branch, and says why."""
    used = [line for page in WORKFLOWS.glob("*.yml") for line in re.findall(r"uses: (.*)", page.read_text("utf-8"))]
    loose = [line for line in used if not line.startswith("./") and not re.fullmatch(r"\S+@[0-9a-f]{40} # v\S+", line)]
    assert used
    assert [line.split("@")[0] for line in loose] == ["pypa/gh-action-pypi-publish"]
    assert "#" in loose[0]
