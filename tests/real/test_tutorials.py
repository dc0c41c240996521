"""Pages on regtest, played as a reader would: the playground runs, and each command is typed in its order."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from harness.tutorials import FAILS, Step, missing, steps

from lsps2fast_plugin.tools.regtest import Programs, until

DOCS = Path(__file__).parents[2] / "docs"
OURS = f"{sys.executable} -m lsps2fast_plugin.tools.cli"
UP = "lsps2fast regtest up"
PATIENCE_S = 120
CHANGES = re.compile(r"invoice|xpay|pause|resume|cancel|generate")


class Reader:
    """Types the commands of a page; what the page leaves open is taken from the answers so far."""

    def __init__(self, place: Path, printed: str) -> None:
        self.place = place
        self.aliases = dict(re.findall(r'alias (\w+)="(.*)"', printed))
        (self.lsp_id,) = set(re.findall(r"lsps-lsps2-getinfo (0[23][0-9a-f]{64})", printed))
        self.known: dict[str, str] = {}
        self.first: dict[str, str] = {}

    def type(self, step: Step) -> str:
        """Run a command; return what it said."""
        word, _, rest = step.command.removesuffix(FAILS).strip().partition(" ")
        if word == "lsps2fast":
            return self._run(f"{OURS} {rest.replace('…/', f'{self.place}/')}", step)
        rest = re.sub(r"\b0[23]…", self.lsp_id, rest)
        rest = re.sub(r"\blnbcrt\w*…", self.known.get("bolt11", ""), rest)
        rest = rest.replace("JIT_CHANNEL_SCID", self.known.get("jit_channel_scid", ""))
        rest = rest.replace("PAYMENT_HASH", self.first.get("payment_hash", ""))
        return self._run(f"{self.aliases[word]} {rest}", step)

    def _run(self, command: str, step: Step) -> str:
        if command.endswith("&"):  # it ends with the page
            subprocess.run(["sh", "-c", f"{command[:-1]} >/dev/null 2>&1 &"], timeout=PATIENCE_S, check=True)
            return ""
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert bool(done.returncode) == step.fails, f"{command}\n{done.stdout}{done.stderr}"
        if "lsps-lsps2-invoice" in command:
            answer = json.loads(done.stdout)
            self.known |= {name: answer[name] for name in ("bolt11", "jit_channel_scid", "payment_hash")}
            self.first = self.first or dict(self.known)
        return done.stdout

    def lacks(self, step: Step) -> list[str]:
        """Type a command; return what the page shows and the answer has not."""
        answer = self.type(step)
        return [line for kind, shown in step.shown for line in missing(kind, shown, answer)]

    def shows(self, step: Step) -> bool:
        """Type a command; return whether its answer is the one of the page."""
        return not self.lacks(step)


@contextlib.contextmanager
def playground(command: str) -> Iterator[Reader]:
    """`lsps2fast regtest up`, in a directory of its own; ended whatever happens."""
    with tempfile.TemporaryDirectory(prefix="l2t-", dir="/tmp") as directory:
        place, log = Path(directory) / "p", Path(directory) / "up"
        with open(log, "w", encoding="utf-8") as out:
            words = [*OURS.split(), *command.split()[1:], "--dir", str(place)]
            process = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)
        try:
            until(lambda: "ends and removes everything" in log.read_text(), "playground", say=log.read_text)
            yield Reader(place, log.read_text())
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "page",
    [
        "tutorial/a-jit-channel-on-regtest",
        "tutorial/first-day-selling",
        "how-to/use-channels-that-clients-have",
        "how-to/share-funding-transactions",
    ],
)
def test_a_tutorial_does_what_it_says(page: str, programs: Programs) -> None:
    """Each command succeeds, or fails where the page says so, and answers what the page shows."""
    played = steps(DOCS / f"{page}.md")
    begin = next(number for number, step in enumerate(played) if step.command.startswith(UP))
    with playground(played[begin].command) as reader:
        for step in played[begin + 1 :]:
            if step.command.startswith("lsps2fast regtest"):
                continue  # its end is played by test_playground.py
            if CHANGES.search(step.command):
                assert reader.lacks(step) == []
            else:  # it only looks: a payment is over a moment after its payer knows
                until(partial(reader.shows, step), step.command)
