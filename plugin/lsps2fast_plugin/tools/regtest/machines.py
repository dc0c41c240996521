"""One LSP on several machines: the keys and the database are the same, the disks are not, and one of them serves."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from lsps2fast_plugin.tools.regtest.postgres import Postgres
from lsps2fast_plugin.tools.regtest.processes import Lightningd
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, Town

UP, SELLS = "Server started with public key", "sells JIT channels"


class TakenOver(NamedTuple):
    """How long it took another machine to serve."""

    lightningd_s: float  # from its start until lightningd is up
    ours_s: float  # from there until the service sells


class Machines(Town):
    """A town whose LSP keeps everything in PostgreSQL; `lsp` is the machine that serves."""

    def __init__(self, directory: Path, mode: str = CLIENT_TRUSTS, **options: Any) -> None:
        self.database = Postgres("db", open_to_all(directory / "db"))
        super().__init__(directory, mode, lsp_options={"wallet": self.database.url}, **options)
        self.children.insert(0, self.database)
        self.taken_over: list[TakenOver] = []
        self._numbers = itertools.count(2)

    def open(self) -> None:
        """Start the database, and everything."""
        self.database.start()
        super().open()

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def machine(self, database: str | None = None) -> Lightningd:
        """Return another machine, not started. `database`: the URL it has of it."""
        other = self.node(f"lsp{next(self._numbers)}", {"wallet": database or self.database.url})
        home = other.directory / "regtest"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.lsp.directory / "regtest" / "hsm_secret", home)
        self.add_plugin(other, "service", self.service_options)
        return other

    def lose_machine(self) -> None:
        """Kill what runs on the machine that serves: lightningd, its daemons and its plugins, all at once."""
        process = self.lsp.process
        assert process is not None
        for pid in [*_descendants(process.pid), process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.lsp.gone()

    def take_over(self, other: Lightningd) -> TakenOver:
        """Have another machine serve; returns once it sells."""
        self.lsp = other
        other.start()
        other.wait_log(SELLS)
        text = other.log_text()
        begun, up, sells = (_time_of(text, words) for words in ("", UP, SELLS))
        found = TakenOver(up - begun, sells - up)
        self.taken_over.append(found)
        return found


def open_to_all(directory: Path) -> Path:
    """Make a directory into which the database's own user can go."""
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        directory.parent.chmod(0o711)
    return directory


def _descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _time_of(log: str, words: str) -> float:
    """Return when the first line with these words was logged, in seconds."""
    line = next(line for line in log.splitlines() if words in line and line[:2].isdigit())
    return datetime.fromisoformat(line.split(" ", 1)[0].replace("Z", "+00:00")).timestamp()
