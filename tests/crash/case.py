"""One case by its name: a story, a trust mode, and what goes wrong in it. `parse()` reads what `str()` writes.

mpp client-trusts-lsp plugin@1/reply datastore#3 power@2/+17
single lsp-trusts-client client@funding_signed/error plugin@deed/+4 late@1/sendpsbt#1
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lsps2fast_plugin.simnode.faults import Fault
from lsps2fast_plugin.simnode.script import DEEDS, MESSAGES
from lsps2fast_plugin.simnode.world import World

from .points import DEATHS, Death

LSP_TRUSTS, CLIENT_TRUSTS = "lsp-trusts-client", "client-trusts-lsp"
MODES = (CLIENT_TRUSTS, LSP_TRUSTS)
TROUBLES = ("fail", "lost", "hang", "late", "twice")
CLIENT = "client"


@dataclass(frozen=True)
class Trouble:
    """A fault on one RPC call: `fail`, `lost` (done, answered with an error), `hang`, `late`, `twice`."""

    kind: str
    method: str
    nth: int
    after: int = 0  # lives of the plugin before it is laid

    def lay(self, world: World) -> Fault:
        """Put it in the way."""
        faults = world.lsp.faults
        match self.kind:
            case "fail":
                return faults.fail(self.method, nth=self.nth)
            case "lost":
                return faults.fail(self.method, nth=self.nth, after=True)
            case "hang":
                return faults.hang(self.method, nth=self.nth)
            case "late":
                return faults.late(self.method, nth=self.nth)
            case "twice":
                return faults.twice(self.method, nth=self.nth)
        raise ValueError(f"{self.kind!r} is no trouble: give one of {', '.join(TROUBLES)}")

    def __str__(self) -> str:
        return f"{self.kind}@{self.after + 1}/{self.method}#{self.nth}"

    @classmethod
    def parse(cls, text: str) -> Trouble:
        """Read str(); raises ValueError."""
        kind, _, rest = text.partition("@")
        life, _, call = rest.partition("/")
        method, _, nth = call.partition("#")
        if kind not in TROUBLES or not life.isdigit() or not nth.isdigit():
            raise ValueError(f"{text!r} is no trouble: give KIND@LIFE/METHOD#NTH, KIND one of {', '.join(TROUBLES)}")
        return cls(kind, method, int(nth), int(life) - 1)


@dataclass(frozen=True)
class Misdeed:
    """What the first client does at a message of its open (`simnode.script`)."""

    message: str
    deed: str

    @property
    def gives_up(self) -> bool:
        """Whether the client thereby renounces the channel, and perhaps money of its own in it."""
        return self.deed in ("error", "close")

    def __str__(self) -> str:
        return f"{CLIENT}@{self.message}/{self.deed}"

    @classmethod
    def parse(cls, text: str) -> Misdeed:
        """Read str(); raises ValueError."""
        message, slash, deed = text.removeprefix(f"{CLIENT}@").partition("/")
        if not slash or message.partition("#")[0] not in MESSAGES or deed not in DEEDS:
            raise ValueError(f"{text!r} is no misdeed: give {CLIENT}@MESSAGE/DEED, DEED one of {', '.join(DEEDS)}")
        return cls(message, deed)


@dataclass(frozen=True)
class Case:
    """One run; str() names it for a replay."""

    scenario: str
    mode: str
    deaths: tuple[Death, ...] = ()
    trouble: Trouble | None = None
    seed: int = 1
    mutant: str = ""
    misdeed: Misdeed | None = None

    def __str__(self) -> str:
        harm = [*([self.misdeed] if self.misdeed else []), *self.deaths, *([self.trouble] if self.trouble else [])]
        return " ".join([self.scenario, self.mode, *map(str, harm)])

    @classmethod
    def parse(cls, text: str, seed: int) -> Case:
        """Read str(); raises ValueError for what it cannot be."""
        scenario, mode, *rest = text.split(" ", 2)
        if mode not in MODES:
            raise ValueError(f"{text!r} names no case: the second word is {' or '.join(MODES)}")
        deaths, trouble, misdeed = [], None, None
        for harm in re.findall(r"\S+@.*?(?= \S+@|$)", rest[0]) if rest else []:
            kind = harm.partition("@")[0]
            if kind in DEATHS:
                deaths.append(Death.parse(harm))
            elif kind == CLIENT:
                misdeed = Misdeed.parse(harm)
            else:
                trouble = Trouble.parse(harm)
        return cls(scenario, mode, tuple(deaths), trouble, seed, misdeed=misdeed)
