"""Beside lightningd's built-in plugin of the same trade: notice it, and stand aside with a sentence.

Both declare the same options, and a second plugin that does so ends lightningd at its start. So before ours declares
any, it looks whether lightningd runs the other. If so, it declares only the options that are its own (lightningd must
know each line of its configuration) and disables itself in `init`: the node runs, and the log says which line to add.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

from lsps2fast_plugin.cln.pyln_client import Plugin

PROC = "/proc"
PS = ("ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "args=")
PS_S = 5.0


class Process(NamedTuple):
    """One process: who started it, and the first words of its command line."""

    parent: int
    words: tuple[str, ...]

    def runs(self, name: str) -> bool:
        """Return whether this is the program, or the script, of that name."""
        return any(os.path.basename(word) == name for word in self.words[:2])


def is_beside(name: str, pid: int) -> bool:
    """Return whether the lightningd above process `pid` also runs a plugin called `name`."""
    processes = _from_proc() if os.path.exists(f"{PROC}/self") else _from_ps()
    host = _lightningd_above(processes, pid)
    return any(process.parent == host and process.runs(name) for process in processes.values())


def _lightningd_above(processes: dict[int, Process], pid: int) -> int | None:
    """Return the nearest ancestor called lightningd: there may be a launcher between; without one the parent."""
    parent = above = processes[pid].parent if pid in processes else None
    while above in processes:
        if processes[above].runs("lightningd"):
            return above
        above = processes[above].parent
    return parent


def _from_proc() -> dict[int, Process]:
    found = {}
    for pid in filter(str.isdigit, os.listdir(PROC)):
        try:
            parent = int(_read(f"{PROC}/{pid}/stat").rpartition(")")[2].split()[1])
            words = _read(f"{PROC}/{pid}/cmdline").split("\0")
        except OSError:  # it has ended meanwhile, or is not ours to look at
            continue
        found[int(pid)] = Process(parent, tuple(words))
    return found


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _from_ps() -> dict[int, Process]:
    try:
        text = subprocess.run(PS, capture_output=True, text=True, timeout=PS_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [line.split() for line in text.splitlines()]
    return {int(pid): Process(int(parent), tuple(words)) for pid, parent, *words in rows}


def stand_aside(name: str, add_options: Callable[[Plugin], None], own_prefix: str) -> int:
    """Run as a plugin that only says why it does not run, until lightningd ends it.

    `own_prefix`: of the options that the other one does not have.
    """
    plugin = Plugin(autopatch=False, dynamic=True)
    add_options(plugin)
    for option in [each for each in plugin.options if not each.startswith(own_prefix)]:
        del plugin.options[option]
    why = (
        f"lightningd runs its built-in {name}, and only one of both can do this work; add the line"
        f" disable-plugin={name} to lightningd's configuration and restart it"
    )

    def init(**_: Any) -> dict[str, str]:
        plugin.log(f"not started: {why}", "error")
        return {"disable": why}

    plugin.init()(init)
    plugin.run()
    return 0
