"""`lsps2fast regtest` as a person uses it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.town import BUILT_INS

from lsps2fast_plugin.tools.regtest import Programs, until

COMMAND = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "regtest"]


@pytest.fixture
def place(programs: Programs) -> Iterator[Path]:
    """A directory that does not exist yet, short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="l2p-", dir="/tmp") as directory:
        yield Path(directory) / "p"


@contextlib.contextmanager
def up(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A playground in the foreground, killed at the end whatever happens."""
    log = place.parent / "up"
    with open(log, "w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [*COMMAND, "up", "--dir", str(place)], stdout=out, stderr=subprocess.STDOUT, text=True
        )
    try:
        until(lambda: "ends and removes everything" in log.read_text(), "playground", say=log.read_text)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def pids(place: Path) -> list[int]:
    """Processes of the playground."""
    return list(json.loads((place / "state.json").read_text())["pids"].values())


def test_ctrl_c_ends_everything(place: Path) -> None:
    """Point 3: after Ctrl-C no process and no file is left."""
    with up(place) as process:
        children = pids(place)
        assert len(children) == 4
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert not place.exists()
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_an_option_that_the_plugin_does_not_take_is_named(place: Path) -> None:
    """A word of the person who tries is answered in a sentence, and nothing is left."""
    for option, code, words in (
        (
            "lsps2-reuse=sometimes",
            2,
            "the LSP's plugin does not start: lsps2-reuse='sometimes' is unknown; give off or free or fee",
        ),
        ("lsps2-blinded-paths=on", 1, "--lsps2-blinded-paths=on: doesn't allow an argument"),
    ):
        command = [*COMMAND, "up", "--dir", str(place), "--option", option]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert not place.exists()


@pytest.mark.parametrize("crash", [False, True])
def test_down_ends_it_from_elsewhere_also_after_a_crash(place: Path, crash: bool) -> None:
    """Point 3: `down` asks the foreground to end, and clears away what a killed one left."""
    with up(place) as process:
        children = pids(place)
        end_of_foreground = {True: process.kill, False: lambda: None}[crash]
        end_of_foreground()
        down = subprocess.run([*COMMAND, "down", "--dir", str(place)], capture_output=True, text=True, timeout=120)
        assert (down.returncode, down.stdout) == (0, "the playground is gone\n")
        process.wait(60)
    assert not place.exists()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "end of the nodes")


def with_stand_ins(programs: Programs, directory: Path) -> Path:
    """A lightningd that starts plugins with the names and options of the built-in ones, whatever it was built with."""
    directory.mkdir()
    flags = []
    for built_in, text in BUILT_INS.values():
        path = directory / built_in
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o700)
        flags.append(f"--plugin={path}")
    for name, line in (
        ("lightningd", " ".join([programs.lightningd, *flags])),
        ("lightning-cli", programs.lightning_cli),
    ):
        (directory / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (directory / name).chmod(0o700)
    return directory


@pytest.mark.parametrize("stand_ins", [False, True], ids=["as built", "with stand-ins"])
def test_the_demo_proves_its_sums_on_real_nodes(place: Path, programs: Programs, stand_ins: bool) -> None:
    """`lsps2fast regtest demo`: three sales, every check holds, nothing is left; beside built-in plugins, too.

    A stand-in is enough to end a lightningd on which nothing disables it (cln:N5).
    """
    env = dict(os.environ)
    if stand_ins:
        env["LSPS2FAST_CLN_DIR"] = str(with_stand_ins(programs, place.parent / "cln"))
    command = [*COMMAND, "demo", "--json", "--dir", str(place)]
    demo = subprocess.run(command, capture_output=True, text=True, timeout=200, env=env)
    assert demo.returncode == 0, demo.stderr
    report = json.loads(demo.stdout)
    assert report["ok"]
    assert len(report["sales"]) == 3
    assert not place.exists()
