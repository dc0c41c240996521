"""What a run is made of: settings, and the happenings that follow from its seed, each with a number.

A happening depends on the seed and its own number only. So one can be left out and all others stay as they are: this is
how a story is made shorter.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

DAY_S = 86_400.0
NONE = "none"
REUSES = {3: "free", 6: "fee"}  # by the seed, modulo 7
LIFETIMES = (60, 200)  # blocks that a channel is promised to stay, where rules close others
RULES_FILE = "rules.toml"
BATCH_WINDOW_MS = 30_000  # in a town few come at one time
FIRST_GUEST = 500_000  # numbers of guests; other people have smaller ones
MODES = ("lsp-trusts-client", "client-trusts-lsp")


@dataclass(frozen=True)
class Plan:
    """One run, wholly: the same plan gives the same run."""

    seed: int
    days: float = 30.0
    people: float = 12.0  # who come to town in a day
    only: tuple[str, ...] = ()  # strategies; honest people come in any case
    without: frozenset[int] = field(default_factory=frozenset)  # numbers of happenings that are left out
    weather: bool = True
    mutant: str = ""
    mode: str = ""  # of the LSP; by default the seed decides
    reuse: str = ""  # what the LSP takes for a payment over a channel that its client has; likewise
    closing: str = ""  # "on" or "off": whether rules close idle channels; likewise
    batch: str = ""  # whether channels share fundings, "on" or "off"; likewise
    orders: str = ""  # whether channels may be ordered ahead (LSPS1), "on" or "off"; likewise
    stop_at_step: int = 0

    @property
    def trust_mode(self) -> str:
        """Who trusts whom in this run."""
        return self.mode or MODES[self.seed % 2]

    @property
    def least_channel_sat(self) -> int:
        """The operator's smallest channel: mostly the usual one (people:L5, people:L6)."""
        return 60_000 if self.seed % 5 == 3 else 20_000

    @property
    def is_tight(self) -> bool:
        """Whether channels are made without headroom."""
        return self.seed % 5 == 4

    @property
    def reuse_mode(self) -> str:
        """What is done with room in channels that clients have."""
        return self.reuse or REUSES.get(self.seed % 7, "off")

    @property
    def closes(self) -> bool:
        """Whether the operator has rules that close idle channels."""
        return (self.closing or ("on" if self.seed % 11 == 8 else "off")) == "on"

    @property
    def sells_ahead(self) -> bool:
        """Whether channels may be ordered."""
        return (self.orders or ("on" if self.seed % 3 == 0 else "off")) == "on"

    @property
    def batches(self) -> bool:
        """Whether channels share fundings."""
        return (self.batch or ("on" if self.seed % 4 == 2 else "off")) == "on"

    @property
    def lifetime_blocks(self) -> int:
        """How long a paid channel must stay, in a town with such rules."""
        return LIFETIMES[self.seed % 2]

    @property
    def options(self) -> dict[str, Any]:
        """What the operator sets beside the defaults. A policy file says the same, and has rules besides."""
        rules = {"lsps2-policy-file": RULES_FILE, "lsps2-close-by-rule": "on"} if self.closes else {}
        headroom = {"lsps2-channel-headroom-sat": 0} if self.is_tight else {}
        small = {"lsps2-min-channel-sat": self.least_channel_sat}
        ways = {"lsps2-trust-mode": self.trust_mode, "lsps2-reuse": self.reuse_mode, "lsps2-blinded-paths": True}
        batch = {"lsps2-batch-window-ms": BATCH_WINDOW_MS} if self.batches else {}
        orders = {"lsps2-lsps1": "on"} if self.sells_ahead else {}
        return {**ways, "lsps2-webhooks": 2, **headroom, **small, **rules, **batch, **orders}

    def strategists(self, known: Iterable[str]) -> list[str]:
        """Return which of these strategies may come."""
        kinds = list(known)
        return [each for each in self.only if each in kinds] if self.only else kinds

    def command(self) -> str:
        """Return what plays it again."""
        words = [f"lsps2fast simulate --seed {self.seed} --days {self.days:g} --people {self.people:g}"]
        if self.only:
            words.append("--only " + " ".join(self.only))
        if self.mode:
            words.append(f"--mode {self.mode}")
        if self.reuse:
            words.append(f"--reuse {self.reuse}")
        if self.closing:
            words.append(f"--closing {self.closing}")
        if self.batch:
            words.append(f"--batch {self.batch}")
        if self.orders:
            words.append(f"--orders {self.orders}")
        if not self.weather:
            words.append("--no-weather")
        if self.mutant:
            words.append(f"--mutant {self.mutant}")
        if self.without:
            words.append("--without " + spans(self.without))
        return " ".join(words)


class Guests(NamedTuple):
    """People who come to some towns only, drawn from a stream of their own: others do the same without them.

    Their numbers begin at `first`; they are so many as `share` of all others.
    """

    stream: str
    first: int
    share: float
    honest: Sequence[str]
    strategies: Sequence[str] = ()


@dataclass(frozen=True)
class Happening:
    """An arrival in town, or a change of the weather: `name` says who or what."""

    number: int
    at_s: float
    name: str
    is_weather: bool = False


def happenings(
    plan: Plan,
    honest: Sequence[str],
    strategies: Sequence[str],
    weather: Sequence[str],
    guests: Iterable[Guests] = (),
) -> list[Happening]:
    """Everything that comes to town in a run, in order, less what the plan leaves out.

    Three of five people are honest; four storms a day on the average.
    """
    found = []
    for group in (Guests("people", 0, 1.0, honest, strategies), *guests):
        people = random.Random(f"{plan.seed}/{group.stream}")
        rate = plan.people * group.share / DAY_S
        number, at_s = group.first, 0.0
        while rate and (at_s := at_s + people.expovariate(rate)) < plan.days * DAY_S:
            number += 2
            pool = group.honest if people.random() < 0.6 or not group.strategies else group.strategies
            found.append(Happening(number, at_s, people.choice(pool)))
    skies = random.Random(f"{plan.seed}/weather")
    number, at_s = 1, 0.0
    while plan.weather and weather and (at_s := at_s + skies.expovariate(4 / DAY_S)) < plan.days * DAY_S:
        number += 2
        found.append(Happening(number, at_s, skies.choice(weather), is_weather=True))
    return sorted((each for each in found if each.number not in plan.without), key=lambda each: each.at_s)


def spans(numbers: frozenset[int]) -> str:
    """Return `2-8,13`: people have even numbers and the weather odd ones, so a span counts in twos."""
    ordered, parts = sorted(numbers), []
    for parity in (0, 1):
        line = [each for each in ordered if each % 2 == parity]
        while line:
            first = last = line.pop(0)
            while line and line[0] == last + 2:
                last = line.pop(0)
            parts.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(parts)


def numbers_of(text: str) -> frozenset[int]:
    """Read what `spans` wrote. Raises ValueError."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        span = range(int(first), int(last or first) + 1, 2)
        if not span:
            raise ValueError(f"{part} ends before it begins")
        found.update(span)
    return frozenset(found)
