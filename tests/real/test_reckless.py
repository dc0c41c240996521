"""Core Lightning's own `reckless` installs both plugins from this tree, starts one, and takes it away again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.wheels import ROOT, build_pure

from lsps2fast_plugin.tools.regtest import Town, until


def reckless(town: Town, wheels: Path, *words: str) -> str:
    """Run it for the payer's node; what it said. pip finds our wheel in `wheels`, and the rest where it always does."""
    program = shutil.which("reckless", path=f"{Path(town.programs.lightningd).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("reckless is not beside lightningd")
    path = f"{Path(town.programs.lightning_cli).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [program, "--lightning", str(town.payer.directory), "--regtest", "--verbose", *words],
        env={**os.environ, "PATH": path, "PIP_FIND_LINKS": str(wheels)},
        input="y\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def runs(town: Town) -> bool:
    """Whether the payer's node runs our service."""
    rows = town.payer.call("plugin", {"subcommand": "list"})["plugins"]
    return any("lsps2fast-service" in row["name"] and row["active"] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "repository"])
def test_reckless_installs_starts_and_removes(kind: str, found_town: Callable[..., Town], tmp_path: Path) -> None:
    """operator:O8: a source, then the plugin's name; the node need not be restarted."""
    build_pure(tmp_path)
    source = tmp_path / "lsps2fast"
    for name in ("lsps2fast-service", "lsps2fast-client"):
        shutil.copytree(ROOT / name, source / name)
    if kind == "repository":
        commit = ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "x"]
        for words in (["init", "-q"], ["add", "."], commit):
            subprocess.run(["git", *words], cwd=source, check=True, timeout=60)
    town = found_town(payer_channels=0)
    reckless(town, tmp_path, "source", "add", str(source))
    told = reckless(town, tmp_path, "install", "lsps2fast-service")
    assert "enabled" in told, told
    until(lambda: runs(town), "the service in the payer's node")
    town.payer.wait_log("sells JIT channels")
    assert town.payer.call("lsps2-pause", {})["paused"] is True
    reckless(town, tmp_path, "uninstall", "lsps2fast-service")
    until(lambda: not runs(town), "its end")
