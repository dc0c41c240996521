"""Which cases there are: every point of every scenario, every RPC call in trouble, clients that misbehave at every
message, deaths while recovering, and chains of several harms drawn by chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

from lsps2fast_plugin.simnode.script import DEEDS, MESSAGES

from .case import TROUBLES, Case, Misdeed, Trouble
from .machine import Outcome
from .points import PLUGIN, PLUGIN_STOP, POWER, STOP, Death
from .scenarios import SCENARIOS

MILESTONES = (
    "reply datastore",
    "answer htlc_accepted",
    "note forward_event",
    "reply fundchannel_complete",
    "rpc sendpsbt",
)
ABSENT = "lsps2-policy-"  # methods of a plugin that is not there: "unknown command" is the only answer there can be
FAMILIES = ("deaths", "troubles", "recovery", "clients", "chains")
STOPS = (STOP, PLUGIN_STOP)
KILLS = (PLUGIN, POWER)
# Where clients misbehave: one part, several, two clients of whom one is honest, parts that come late, two channels.
# And several clients whose channels are funded together.
MISBEHAVING = (
    "single",
    "mpp",
    "ordered",
    "two-clients",
    "late-part",
    "two-buys-of-one-client",
    "failed-part",
    "batch",
    "batch-with-one-coin",
)
BEFORE_CHANNEL = ("open_channel", "accept_channel", "funding_created")
AFTER_DEED = 12  # points behind the client's deed at which the plugin dies
SHORTEST_CHAIN, LONGEST_CHAIN, MEAN_LIFE = 2, 8, 15.0  # deaths of a chain; points a life lasts, on average


def dry_cases(names: Iterable[str], modes: Iterable[str], seed: int) -> list[Case]:
    """Return each scenario in each of its modes, undisturbed."""
    wanted = set(modes)
    return [Case(name, mode, seed=seed) for name in names for mode in SCENARIOS[name].modes if mode in wanted]


def _calls(points: Iterable[str], life: int) -> list[tuple[str, int]]:
    """Return (method, nth) of every RPC call in one life that lightningd itself answers."""
    head = f"{life}/rpc "
    names = [point.removeprefix(head) for point in points if point.startswith(head) and ABSENT not in point]
    return [(method, int(nth)) for method, _, nth in (name.partition("#") for name in names)]


def deaths(dry: Outcome, kinds: Iterable[str]) -> list[Case]:
    """Return one death at each point."""
    return [replace(dry.case, deaths=(Death(kind, point),)) for kind in kinds for point in dry.points]


def troubles(dry: Outcome) -> list[Case]:
    """Return each RPC call of an undisturbed run, in each trouble."""
    calls = _calls(dry.points, 1)
    return [replace(dry.case, trouble=Trouble(kind, method, nth)) for method, nth in calls for kind in TROUBLES]


def again(first: Outcome) -> list[Case]:
    """Return a second death at each point of the recovery from a first one."""
    (death,) = first.case.deaths
    later = [point for point in first.points if point.startswith("2/")]
    return [replace(first.case, deaths=(death, Death(death.kind, point))) for point in later]


def recovery_troubles(first: Outcome) -> list[Case]:
    """Return each RPC call of the recovery from a death, in each trouble."""
    calls = _calls(first.points, 2)
    return [
        replace(first.case, trouble=Trouble(kind, method, nth, after=1)) for method, nth in calls for kind in TROUBLES
    ]


def milestones(dry: Outcome, kinds: Iterable[str] = (PLUGIN, POWER)) -> list[Case]:
    """Return deaths after which there is something to recover: at each record, each answer, each settlement."""
    marks = [point for point in dry.points if any(f"/{word}#" in point for word in MILESTONES)]
    return [replace(dry.case, deaths=(Death(kind, point),)) for kind in kinds for point in marks]


def misdeeds() -> list[Misdeed]:
    """Return each deed at each message; before there is a channel there is none to close."""
    pairs = [(message, deed) for message in MESSAGES for deed in DEEDS]
    return [Misdeed(*pair) for pair in pairs if pair[1] != "close" or pair[0] not in BEFORE_CHANNEL]


def clients(names: Sequence[str], modes: Iterable[str], seed: int) -> list[Case]:
    """Return the client doing each deed at each message, in each story for it."""
    chosen = [name for name in MISBEHAVING if name in names]
    return [replace(dry, misdeed=deed) for dry in dry_cases(chosen, modes, seed) for deed in misdeeds()]


def clients_and_deaths(cases: Iterable[Case]) -> list[Case]:
    """Return the same with a death of the plugin, or of everything, right after the deed."""
    points = [f"deed/+{count}" for count in range(1, AFTER_DEED + 1)]
    return [replace(case, deaths=(Death(kind, point),)) for case in cases for kind in KILLS for point in points]


def chains(dry: Sequence[Outcome], count: int, seed: int) -> list[Case]:
    """Return stories in which several things go wrong, drawn by chance: deaths in a row, a client, a call."""
    dice = random.Random(f"chains {seed}")
    return [_chain(dice, dice.choice(dry)) for _ in range(count)]


def _chain(dice: random.Random, dry: Outcome) -> Case:
    kinds = dice.choices((*KILLS, *STOPS), (5, 5, 1, 1), k=dice.randint(SHORTEST_CHAIN, LONGEST_CHAIN))
    misdeed = dice.choice(misdeeds()) if dry.case.scenario in MISBEHAVING and dice.random() < 0.4 else None
    first = "deed/+1" if misdeed is not None and dice.random() < 0.5 else dice.choice(dry.points)
    lives = [1 + int(dice.expovariate(1 / MEAN_LIFE)) for _ in kinds[1:]]
    points = [first, *(f"{life}/+{count}" for life, count in enumerate(lives, start=2))]
    trouble = None
    if dice.random() < 0.3:
        method, nth = dice.choice(_calls(dry.points, 1))
        trouble = Trouble(dice.choice(TROUBLES), method, nth if (late := dice.randrange(2)) == 0 else 1, after=late)
    deaths_ = tuple(Death(kind, point) for kind, point in zip(kinds, points, strict=True))
    return replace(dry.case, deaths=deaths_, trouble=trouble, misdeed=misdeed)


def sample(cases: list[Case], most: int, seed: int) -> list[Case]:
    """Return at most so many of them, spread evenly and the same for one seed."""
    if len(cases) <= most:
        return cases
    return random.Random(seed).sample(cases, most)
