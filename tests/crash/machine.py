"""Runs one case and says what was wrong at the end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from .books import violations
from .case import Case
from .inside import once
from .ledger import differences, read, records
from .nursery import Nursery
from .points import UNCOUNTED
from .scenarios import SCENARIOS
from .stage import LIMIT_S, Stage, Stuck

WIDTH = 300  # of a line of the transcript


@dataclass(frozen=True)
class Outcome:
    """What came of a case: points passed, whether the harm was done, what was violated."""

    case: Case
    points: tuple[str, ...]
    hit: bool
    violations: tuple[str, ...]
    tail: str = ""
    recoveries: int = 0  # starts after a death


async def run(nursery: Nursery | None, case: Case, tail: int = 0) -> Outcome:
    """Play it to its end, with processes of this nursery or, without one, in a world inside. Never raises for what the
    plugin does.
    """
    plan = SCENARIOS[case.scenario]
    stage = Stage(
        nursery,
        case.mode,
        case.seed,
        deaths=case.deaths,
        trouble=case.trouble,
        misdeed=case.misdeed,
        mutant=case.mutant,
        options=plan.options,
        **plan.world,
    )
    try:
        async with asyncio.timeout(2 * LIMIT_S), stage:  # beginning and end have no limit of their own
            found = await asyncio.wait_for(_play(stage, plan.play), LIMIT_S)
    except Exception as error:  # whatever the world died of is a finding
        found = [f"{type(error).__name__}: {error}"]
    shown = _story(stage, tail) if tail else ""
    return Outcome(case, tuple(stage.points), stage.hit, tuple(found), shown, stage.died)


def play(case: Case, tail: int = 0) -> Outcome:
    """Run it in this process; the same case comes to the same outcome, by the same steps."""
    try:
        return once(f"{case} {case.seed}", lambda: run(None, case, tail))
    except Exception as error:
        return Outcome(case, (), False, (f"{type(error).__name__}: {error}",))


async def _play(stage: Stage, play: Any) -> list[str]:
    try:
        await play(stage)
    except Stuck as stuck:
        stage.problems.append(f"stuck: {stuck}")
    await stage.finish()
    stats: dict[str, object] = await stage.lsp.call("lsps2-stats")
    await stage.lsp.call("lsps2-listsales", {"limit": 1})  # answered once all that has happened is written
    said = differences(read(stage.ledger), records(stage.lsp.datastore.rows))
    return [*violations(stage, stats), *said]


def _story(stage: Stage, lines: int) -> str:
    """The last lines of the transcript, without the machine's own questions."""
    own = tuple(f'"driver:{name}' for name in UNCOUNTED)
    told = []
    for entry in stage.world.transcript.entries:
        text = json.dumps(entry["msg"])
        if not any(name in text for name in own):
            told.append(f"  {entry['t']:9.3f} {entry['dir']:<11} {entry['peer']:<14} {text[:WIDTH]}")
    return "\n".join(told[-lines:])
