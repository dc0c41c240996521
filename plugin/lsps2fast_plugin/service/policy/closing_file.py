"""[closing] and [[closing.rule]] of the policy file: TOML in, `Closing` out, or a ConfigError that names the line."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from lsps2fast_plugin.service.policy.closing import LEAST_PERKW, CloseRule, Closing
from lsps2fast_plugin.service.policy.toml import Path, Source

MOST_RULES: Final = 20
PATH: Final[Path] = ("closing",)


class ClosingTable(msgspec.Struct, frozen=True, kw_only=True):
    """[closing]."""

    max_feerate_perkw: Annotated[int, Meta(ge=LEAST_PERKW, le=100_000)] = Closing().max_feerate_perkw
    closes_per_day: Annotated[int, Meta(ge=1, le=1_000)] = Closing().closes_per_day
    closes_at_once: Annotated[int, Meta(ge=1, le=50)] = Closing().closes_at_once
    rule: object = None


class CloseRuleTable(msgspec.Struct, frozen=True, kw_only=True):
    """[[closing.rule]]."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    idle_days: Annotated[int, Meta(ge=1, le=36_500)]
    past_lifetime_blocks: Annotated[int, Meta(ge=0, le=10**6)] = 0
    max_return_ppm: Annotated[int, Meta(ge=-(10**7), le=10**7)] | None = None
    max_client_sat: Annotated[int, Meta(ge=0, le=10**12)] = 0
    min_ours_sat: Annotated[int, Meta(ge=0, le=10**12)] = CloseRule("", 1).min_ours_sat


CLOSING_MEANING: Final = MappingProxyType(
    {
        "closing": "the table of channels that may be closed; without a [[closing.rule]] none is",
        "max_feerate_perkw": f"close only at or below this estimate, {LEAST_PERKW} to 100000 sat per 1000 weight",
        "closes_per_day": "the most closes in 24 hours, 1 to 1000",
        "closes_at_once": "the most closes without a block, 1 to 50",
        "rule": "an array of tables [[closing.rule]]; the first that fits a channel counts",
        "name": "what logs, books and the dry run call the rule, 1 to 64 characters",
        "idle_days": "days without a forward over the channel, 1 to 36500",
        "past_lifetime_blocks": "blocks beyond the lifetime that was promised, 0 to 1000000",
        "max_return_ppm": "the most it may have earned a year, in parts per million of its capacity, within 10^7",
        "max_client_sat": "the most of the client's own money in it, 0 to 10^12 sat: it goes on chain",
        "min_ours_sat": "the least that comes back to us, less what the close costs, 0 to 10^12 sat",
    }
)


def closing_of(source: Source) -> Closing:
    """Return the rules of a file, none where it has no such table. Raises ConfigError."""
    table = source.table(PATH, ClosingTable, CLOSING_MEANING)
    paths = source.tables((*PATH, "rule"))
    if len(paths) > MOST_RULES:
        raise source.fail(paths[MOST_RULES], f"is rule {MOST_RULES + 1}; {MOST_RULES} is the most")
    found: dict[str, CloseRule] = {}
    for path in paths:
        rule = source.table(path, CloseRuleTable, CLOSING_MEANING)
        if rule.name in found:
            raise source.fail((*path, "name"), f"{rule.name!r} is the name of an earlier rule; give each its own")
        found[rule.name] = CloseRule(**msgspec.structs.asdict(rule))
    return Closing(tuple(found.values()), table.max_feerate_perkw, table.closes_per_day, table.closes_at_once)
