"""Breadth first through every state of a small world; the shortest way to the first broken rule, as a list of steps."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from .world import Broken, Game, Rules, World


class Found(NamedTuple):
    """What a search has met. `broken`: the rule, and the steps that lead there; empty when all hold."""

    states: int
    moves: int
    machine_states: int
    ends: int
    broken: str
    steps: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.states:,} states, {self.moves:,} moves, {self.machine_states:,} states of the machine"]
        if self.broken:
            lines += [f"{place:3}. {step}" for place, step in enumerate(self.steps, 1)]
            lines.append(f"     {self.broken}")
        return "\n".join(lines)


def search(rules: Rules) -> Found:
    """Every state that can be reached, each once; ends at the first rule that does not hold."""
    game = Game(rules)
    first = game.begin()
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    queue, moves, ends = deque([first]), 0, 0
    while queue:
        world = queue.popleft()
        last = "nothing more happens"
        try:
            if not any(True for _ in game.progress(world)):
                ends += 1
                game.check_end(world)
            for last, then in game.moves(world):
                moves += 1
                if then not in came_from:
                    came_from[then] = (world, last)
                    queue.append(then)
        except (Broken, AssertionError) as error:
            steps = (*_way(came_from, world), f"(after that) {last}")
            return Found(len(came_from), moves, len(game.brain), ends, str(error), steps)
    return Found(len(came_from), moves, len(game.brain), ends, "", ())


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> tuple[str, ...]:
    steps = []
    while (back := came_from[world]) is not None:
        world, step = back
        steps.append(step)
    return tuple(reversed(steps))
