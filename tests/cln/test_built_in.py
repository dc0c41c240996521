"""A plugin finds out whether lightningd runs the built-in one whose place it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsps2fast_plugin.cln import built_in

ASK = "import os; from lsps2fast_plugin.cln import built_in; print(built_in.is_beside('cln-other', os.getpid()))"


def script(path: Path, *lines: str) -> Path:
    """Write an executable."""
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o700)
    return path


def asked_below_lightningd(directory: Path, other: str | None, launcher: bool = False, host: str = "lightningd") -> str:
    """Start a `host` that runs a plugin named `other` and one that asks; its answer.

    `other` waits on its stdin for the end of `host`, as a plugin does, and runs before anything is asked. `launcher`:
    a shell stands between.
    """
    ask = f'{sys.executable} -c "{ASK}"'
    lines = [f"{ask} | cat" if not launcher else f"{script(directory / 'launcher', ask, 'true')} | cat"]
    if other is not None:
        started = directory / "started"
        os.mkfifo(started)
        other_one = script(directory / other, f"echo up > {started}", "read line")
        lines[:0] = ["exec 3<&0", f"{other_one} <&3 &", f"read up < {started}"]
    command = [script(directory / host, *lines)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        answer = running.stdout.readline()
        running.stdin.close()
    return answer.strip()


@pytest.mark.parametrize("launcher", [False, True], ids=["started by lightningd", "by a script of the operator"])
def test_the_other_one_is_noticed_among_lightningds_plugins(tmp_path: Path, launcher: bool) -> None:
    """By its file name, also when a script of the operator starts ours."""
    assert asked_below_lightningd(tmp_path, "cln-other", launcher) == "True"


@pytest.mark.parametrize("other", [None, "cln-other-too"])
def test_no_other_plugin_is_taken_for_it(tmp_path: Path, other: str | None) -> None:
    assert asked_below_lightningd(tmp_path, other) == "False"


def test_the_plugin_of_another_lightningd_is_not_beside_ours() -> None:
    """Two nodes on one machine, one with the built-in plugin."""
    processes = {
        1: built_in.Process(0, ("init",)),
        10: built_in.Process(1, ("/usr/bin/lightningd", "--conf=a")),
        11: built_in.Process(10, ("/usr/libexec/c-lightning/plugins/cln-other",)),
        20: built_in.Process(1, ("/usr/bin/lightningd", "--conf=b")),
        21: built_in.Process(20, ("python", "/bin/ours")),
    }
    assert built_in._lightningd_above(processes, 21) == 20
    assert built_in._lightningd_above(processes, 11) == 10
    assert built_in._lightningd_above({}, 11) is None


def test_ps_says_the_same_as_proc() -> None:
    """Where there is no /proc."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as mine:
        assert mine.stdin is not None
        assert mine.stdout is not None
        mine.stdin.write(b"up\n")
        mine.stdin.flush()
        assert mine.stdout.readline() == b"up\n"  # it runs: until then its command line may be empty
        for found in (built_in._from_proc(), built_in._from_ps()):
            assert found[mine.pid].runs("cat")
            assert not found[mine.pid].runs("cln-other")
            assert found[mine.pid].parent in found
