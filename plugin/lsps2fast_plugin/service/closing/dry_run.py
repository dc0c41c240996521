"""What the rules would do now, channel by channel: the answer of `lsps2-closable`. It changes nothing."""

from __future__ import annotations

from typing import Any, Final

from lsps2fast_plugin.cln.answers import PerKw
from lsps2fast_plugin.cln.models import NORMAL
from lsps2fast_plugin.service.closing.closer import Closer
from lsps2fast_plugin.service.closing.decision import ChannelFacts, Now, Use, decide, return_ppm_a_year, why_bound
from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS, text_of

MOST_CHANNELS: Final = 200  # in one answer: lightningd is asked for the forwards of each


async def closable(closer: Closer, rates: PerKw, idle_days: int, kept_too: bool) -> dict[str, Any]:
    """Return the channels that no promise binds any more, the longest unused first. Raises NodeError, MethodError."""
    now = closer.now(rates)
    sold = await closer.survey.sold()
    free = [facts for facts in sold if is_free(facts)]
    found = [_shown(closer, facts, await closer.survey.use(facts, now.wall_ms), now) for facts in free[:MOST_CHANNELS]]
    idle = [each for each in found if each["idle_days"] >= idle_days]
    answer: dict[str, Any] = {
        "feerate_perkw": rates.closing,
        "closing_msat": now.closing_msat,
        "by_rule": await _by_rule(closer, rates, now),
        "channels": sorted(idle, key=lambda each: -each["idle_days"]),
    }
    if kept_too:
        answer["kept"] = [
            {
                **_names(facts),
                "confirmations": facts.confirmations,
                "min_lifetime_blocks": facts.min_lifetime_blocks,
                "why": why_bound(facts),
            }
            for facts in sold
            if not is_free(facts)
        ]
    if len(free) > MOST_CHANNELS:
        answer["not_looked_at"] = len(free) - MOST_CHANNELS
    return answer


def is_free(facts: ChannelFacts) -> bool:
    """Return whether the channel is open and its promised lifetime over: it is its operator's to close."""
    is_open = facts.state in NORMAL and facts.confirmations > 0
    return is_open and facts.confirmations >= facts.min_lifetime_blocks


async def _by_rule(closer: Closer, rates: PerKw, now: Now) -> dict[str, Any]:
    """Return how closing by rule stands."""
    closing = closer.closing
    _, closed = await closer.room(now.wall_ms)
    return {
        "is_on": closer.is_on,
        "rules": [rule.name for rule in closing.rules],
        "is_cheap": closing.is_cheap(rates.closing, closer.is_cheap),
        "max_feerate_perkw": closing.max_feerate_perkw,
        "closed_in_24_hours": closed,
        "closes_per_day": closing.closes_per_day,
        "under_way": [
            {
                "channel_id": decision.channel_id,
                "peer_id": decision.peer_id,
                "rule": decision.rule,
                "decided_at": text_of(decision.decided_ms),
                "tries": decision.tries,
                **({} if decision.given_up is None else {"given_up": decision.given_up}),
            }
            for decision in closer.journal
        ],
    }


def _names(facts: ChannelFacts) -> dict[str, Any]:
    return {
        "channel_id": facts.channel_id,
        "short_channel_id": facts.short_channel_id,
        "peer_id": facts.peer_id,
        "jit_channel_scid": facts.jit_scid,
    }


def _shown(closer: Closer, facts: ChannelFacts, use: Use, now: Now) -> dict[str, Any]:
    verdict = decide(closer.closing.rules, facts, use, now)
    decided = closer.journal.of(facts.channel_id)
    rule = verdict.rule.name if verdict.rule is not None else None
    return {
        **_names(facts),
        **{name: value for name, value in (("token", facts.token), ("band", facts.band)) if value is not None},
        "capacity_msat": facts.capacity_msat,
        "to_us_msat": facts.ours_msat,
        "opening_fee_msat": facts.opening_fee_msat,
        "routing_fees_msat": use.routing_fees_msat,
        "mining_msat": facts.mining_msat,
        "confirmations": facts.confirmations,
        "min_lifetime_blocks": facts.min_lifetime_blocks,
        "last_used_at": text_of(use.used_ms),
        "idle_days": (now.wall_ms - use.used_ms) // DAY_MS,
        "return_ppm_a_year": return_ppm_a_year(facts, use, now.wall_ms),
        "rule": rule if decided is None else decided.rule,
        "why_not": [] if verdict.rule is not None else verdict.sentences,
    }
