"""Whether a rule would close a channel now, and if not why: facts in, a verdict out. No clock, no I/O.

What binds a channel stands before every rule: a promise, HTLCs, something under way with its client. A rule can only
ask for more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from lsps2fast_plugin.service.policy.closing import CloseRule
from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS

MILLION: Final = 1_000_000
YEAR_MS: Final = 365 * DAY_MS
USABLE: Final = "CHANNELD_NORMAL"


class ChannelFacts(NamedTuple):
    """A channel that was sold, as lightningd and the ledger have it. `kept`: what is under way with its client."""

    channel_id: str
    peer_id: str
    jit_scid: str
    scids: tuple[int, ...]
    short_channel_id: str | None
    state: str
    is_ours: bool
    is_ready: bool
    confirmations: int
    min_lifetime_blocks: int
    htlcs: int
    capacity_msat: int
    ours_msat: int
    opening_fee_msat: int
    mining_msat: int
    locked_ms: int
    token: str | None = None
    band: str | None = None
    kept: str | None = None
    was_spliced: bool = False

    @property
    def client_msat(self) -> int:
        """Return what of it is the client's."""
        return self.capacity_msat - self.ours_msat


class Use(NamedTuple):
    """What went over a channel. lightningd may have deleted forwards of before `known_since_ms`."""

    used_ms: int
    routing_fees_msat: int
    known_since_ms: int = 0


class Now(NamedTuple):
    """When it is asked, and what a close would cost."""

    wall_ms: int
    closing_msat: int


class Verdict(NamedTuple):
    """`rule`: by which it would be closed. Else why not: what binds it, or one sentence for each rule."""

    rule: CloseRule | None = None
    bound: str | None = None
    refusals: tuple[tuple[str, str], ...] = ()

    @property
    def sentences(self) -> list[str]:
        """Return why it stays."""
        return [self.bound] if self.bound is not None else [f"{name}: {why}" for name, why in self.refusals]


def why_bound(facts: ChannelFacts) -> str | None:
    """Return what keeps a channel whatever the rules say, or None."""
    if not facts.is_ours:
        return "this node did not open it"
    if facts.confirmations < facts.min_lifetime_blocks:
        return f"it was sold to stay open for {facts.min_lifetime_blocks} confirmations and has {facts.confirmations}"
    if facts.kept is not None:
        return facts.kept
    if facts.state != USABLE:
        return f"it is in state {facts.state}"
    if facts.confirmations == 0:
        return "its funding is in no block"
    if facts.htlcs:
        return f"{facts.htlcs} HTLCs are in flight in it"
    if not facts.is_ready:
        return "its client is not connected, and nothing is closed by force"
    return None


def why_not(rule: CloseRule, facts: ChannelFacts, use: Use | None, now: Now) -> str | None:
    """Return what a channel lacks for this rule, or None. Without `use` only what is known without it is judged."""
    past = facts.confirmations - facts.min_lifetime_blocks
    if past < rule.past_lifetime_blocks:
        return f"it is {past} blocks past its lifetime, and the rule wants {rule.past_lifetime_blocks}"
    if facts.client_msat > 1000 * rule.max_client_sat:
        return (
            f"{facts.client_msat // 1000} sat in it are the client's, and the rule sends at most"
            f" {rule.max_client_sat} sat to the chain"
        )
    back_msat = facts.ours_msat - now.closing_msat
    if back_msat <= 0 or back_msat < 1000 * rule.min_ours_sat:
        return f"{max(back_msat, 0) // 1000} sat would come back, and the rule wants {rule.min_ours_sat}"
    return None if use is None else _unused(rule, facts, use, now)


def _unused(rule: CloseRule, facts: ChannelFacts, use: Use, now: Now) -> str | None:
    idle_ms = now.wall_ms - use.used_ms
    if idle_ms < rule.idle_days * DAY_MS:
        return f"it was used {max(idle_ms, 0) // DAY_MS} days ago, and the rule wants {rule.idle_days}"
    since_ms = max(now.wall_ms - rule.idle_days * DAY_MS, facts.locked_ms)
    if use.known_since_ms > since_ms:
        return "whether it was used is not known: lightningd deletes forwards sooner (autoclean-succeededforwards-age)"
    if rule.max_return_ppm is None:
        return None
    if use.known_since_ms > facts.locked_ms:
        if facts.was_spliced:
            return "what it earned is not known: it was spliced, and forwards are listed under the names it had"
        return "what it earned is not known: lightningd has deleted forwards (autoclean-succeededforwards-age)"
    return_ppm = return_ppm_a_year(facts, use, now.wall_ms)
    if return_ppm > rule.max_return_ppm:
        return f"it earned {return_ppm} ppm a year, and the rule takes what earned at most {rule.max_return_ppm}"
    return None


def return_ppm_a_year(facts: ChannelFacts, use: Use, wall_ms: int) -> int:
    """Return what a channel has brought since it was funded, less its funding's fee, as a share of its capacity."""
    net_msat = facts.opening_fee_msat + use.routing_fees_msat - facts.mining_msat
    age_ms = max(wall_ms - facts.locked_ms, 1)
    return net_msat * MILLION * YEAR_MS // (max(facts.capacity_msat, 1) * age_ms)


def decide(rules: Iterable[CloseRule], facts: ChannelFacts, use: Use | None, now: Now) -> Verdict:
    """Return the first rule by which this channel would be closed now, or all that speaks against it."""
    bound = why_bound(facts)
    if bound is not None:
        return Verdict(bound=bound)
    refusals: list[tuple[str, str]] = []
    for rule in rules:
        why = why_not(rule, facts, use, now)
        if why is None:
            return Verdict(rule=rule)
        refusals.append((rule.name, why))
    return Verdict(refusals=tuple(refusals))
