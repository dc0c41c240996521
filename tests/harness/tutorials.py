"""Pages that are followed step by step: each command with what the page shows of its answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^( *)```(console|text|json)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
FAILS = "# fails"


class Step(NamedTuple):
    """A command, and the blocks of text or JSON that follow it."""

    command: str
    shown: list[tuple[str, str]]

    @property
    def fails(self) -> bool:
        """Whether the page says that the command is refused."""
        return self.command.endswith(FAILS)


def steps(page: Path) -> list[Step]:
    """Return the steps of a page, in its order."""
    found: list[Step] = []
    for indent, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = [line.removeprefix(indent) for line in text.splitlines()]
        if language == "console":
            found += [Step(line.removeprefix("$ "), []) for line in lines if line.startswith("$ ")]
        elif found:
            found[-1].shown.append((language, "\n".join(lines)))
    return found


def is_part(shown: object, answer: object) -> bool:
    """Return whether an answer has what a page shows: members and entries may be left out, a text's begin be "…"."""
    match shown, answer:
        case dict(), dict():
            return all(name in answer and is_part(value, answer[name]) for name, value in shown.items())
        case list(), list():
            return (not shown) == (not answer) and all(any(is_part(one, each) for each in answer) for one in shown)
        case str(), str():
            return answer.endswith(shown.removeprefix("…"))
    return shown == answer


def plain(line: str) -> str:
    """Return a line of the demo without what differs in each run: its time, ids and hashes."""
    line = re.sub(r"^ +\d+\.\d{3} ", "", line)
    line = re.sub(r"\b\d{4,}x\d+x\d+\b", "SCID", line)
    return " ".join(re.sub(r"\b[0-9a-f]{8,}…?", "HASH", line).split())


def missing(kind: str, shown: str, answer: str) -> list[str]:
    """Return what a page shows and an answer does not have."""
    if kind == "json":
        return [] if is_part(json.loads(shown), json.loads(answer)) else [shown]
    told = {plain(line) for line in answer.splitlines()}
    return [line for line in shown.splitlines() if plain(line) not in told]
