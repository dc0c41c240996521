"""Which cases there are: every point of every scenario, every RPC call in trouble, deaths while recovering."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from .machine import Case, Outcome
from .points import PLUGIN, PLUGIN_STOP, POWER, STOP, Death
from .scenarios import SCENARIOS
from .stage import TROUBLES, Trouble

MILESTONES = (
    "reply datastore",
    "answer htlc_accepted",
    "note forward_event",
    "reply fundchannel_complete",
    "rpc sendpsbt",
)
ABSENT = "lsps2-policy-"  # methods of a plugin that is not there: "unknown command" is the only answer there can be
FAMILIES = ("deaths", "troubles", "recovery")


def dry_cases(names: Iterable[str], modes: Iterable[str], seed: int) -> list[Case]:
    """Each scenario in each of its modes, undisturbed."""
    wanted = set(modes)
    return [Case(name, mode, seed=seed) for name in names for mode in SCENARIOS[name].modes if mode in wanted]


def _calls(points: Iterable[str], life: int) -> list[tuple[str, int]]:
    """(method, nth) of every RPC call in one life that lightningd itself answers."""
    head = f"{life}/rpc "
    names = [point.removeprefix(head) for point in points if point.startswith(head) and ABSENT not in point]
    return [(method, int(nth)) for method, _, nth in (name.partition("#") for name in names)]


def deaths(dry: Outcome, kinds: Iterable[str]) -> list[Case]:
    """One death at each point."""
    return [replace(dry.case, deaths=(Death(kind, point),)) for kind in kinds for point in dry.points]


def troubles(dry: Outcome) -> list[Case]:
    """Each RPC call of an undisturbed run, in each trouble."""
    calls = _calls(dry.points, 1)
    return [replace(dry.case, trouble=Trouble(kind, method, nth)) for method, nth in calls for kind in TROUBLES]


def again(first: Outcome) -> list[Case]:
    """A second death at each point of the recovery from a first one."""
    (death,) = first.case.deaths
    later = [point for point in first.points if point.startswith("2/")]
    return [replace(first.case, deaths=(death, Death(death.kind, point))) for point in later]


def recovery_troubles(first: Outcome) -> list[Case]:
    """Each RPC call of the recovery from a death, in each trouble."""
    calls = _calls(first.points, 2)
    return [
        replace(first.case, trouble=Trouble(kind, method, nth, after=1)) for method, nth in calls for kind in TROUBLES
    ]


def milestones(dry: Outcome, kinds: Iterable[str] = (PLUGIN, POWER)) -> list[Case]:
    """Deaths after which there is something to recover: at each journal write, each answer, each settlement."""
    marks = [point for point in dry.points if any(f"/{word}#" in point for word in MILESTONES)]
    return [replace(dry.case, deaths=(Death(kind, point),)) for kind in kinds for point in marks]


def sample(cases: list[Case], most: int, seed: int) -> list[Case]:
    """At most so many of them, spread evenly and the same for one seed."""
    if len(cases) <= most:
        return cases
    return random.Random(seed).sample(cases, most)


STOPS = (STOP, PLUGIN_STOP)
KILLS = (PLUGIN, POWER)
