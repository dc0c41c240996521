"""The operator's rules for channels whose promised lifetime is over: which may be closed, how many, at what feerate.

Plain values, checked before they become one of these. What they mean for a channel is decided in `closing.decision`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LEAST_PERKW: Final = 253  # what nodes relay at the least


class CloseRule(NamedTuple):
    """A channel for which all of this holds may be closed. `max_return_ppm` None: whatever it earned."""

    name: str
    idle_days: int
    past_lifetime_blocks: int = 0
    max_return_ppm: int | None = None  # a year, of its whole capacity
    max_client_sat: int = 0  # of the client's own money
    min_ours_sat: int = 25_000  # of ours that comes back, less what the close costs


class Closing(NamedTuple):
    """All rules, the first that fits counts, and what bounds the closes of all of them together."""

    rules: tuple[CloseRule, ...] = ()
    max_feerate_perkw: int = 1_250
    closes_per_day: int = 5
    closes_at_once: int = 2

    def is_cheap(self, feerate_perkw: int, was_cheap: bool) -> bool:
        """Return whether closes may be asked for at this feerate.

        Cheap hours begin at four fifths of the ceiling and last until it is passed, so that an estimate that wavers
        about one value does not begin and end them with each block.
        """
        begin_perkw = max(4 * self.max_feerate_perkw // 5, LEAST_PERKW)
        return feerate_perkw <= (self.max_feerate_perkw if was_cheap else min(begin_perkw, self.max_feerate_perkw))

    def room(self, closed_in_a_day: int, under_way: int) -> int:
        """Return how many more closes may be asked for now."""
        return max(min(self.closes_per_day - closed_in_a_day, self.closes_at_once - under_way), 0)
