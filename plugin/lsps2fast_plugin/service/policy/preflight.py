"""Can this buy be kept? Judged before it is sold, from facts about the node, so that no payment fails for it later.

Steps 10 and 11 of B-06 as arithmetic: inbound liquidity, the channel's size with its reserve and commitment fee (O-03),
on-chain funds and what is already spoken for. Asking the node is the caller's part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from lsps2fast.errors import PeerError
from lsps2fast.lsps.buys import Lack, check_liquidity, check_supply
from lsps2fast.lsps.lsps0 import client_rejected
from lsps2fast.lsps.lsps2 import BuyAsk, min_capacity_sat
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals

EXPECTED_PARTS: Final = 10  # a payer may split; each part costs commitment weight (O-03)
CHAIN_DUST_SAT: Final = 546


class Facts(NamedTuple):
    """The node's present state, as far as a sale depends on it."""

    connected: bool
    incoming_liquidity_msat: int | None  # of public channels (B-08), None when that is unknown
    confirmed_sat: int  # confirmed outputs that nothing has reserved
    committed_sat: int  # promised to payments that collect or open now and have reserved nothing yet
    keep_onchain_sat: int
    feerate_perkw: int  # of the funding transaction
    commitment_perkw: int  # of a channel without anchors
    open_vbytes: int
    anchors_perkw: int | None = None  # of commitments with anchors, None when there will be none
    zero_reserve: bool = False
    max_parts: int = EXPECTED_PARTS
    dust_limit_sat: int = CHAIN_DUST_SAT


def least_capacity_sat(ask: BuyAsk, facts: Facts) -> int:
    """Return the smallest channel through which the payment can go on (O-03); in variable mode the smallest one sold.

    Enough for a channel with and without anchors: which it becomes is known only when it is opened.
    """
    return _least_sat(_size_msat(ask), ask, facts)


def _size_msat(ask: BuyAsk) -> int:
    return ask.params.min_payment_size_msat if ask.payment_size_msat is None else ask.payment_size_msat


def _least_sat(size_msat: int, ask: BuyAsk, facts: Facts) -> int:
    forward_msat = max(size_msat - (ask.params.fee_msat(size_msat) or 0), 0)
    parts = min(facts.max_parts, EXPECTED_PARTS)

    def least_sat(feerate_perkw: int, anchors: bool) -> int:
        return min_capacity_sat(forward_msat, parts, feerate_perkw, anchors, facts.zero_reserve, facts.dust_limit_sat)

    plain_sat = least_sat(facts.commitment_perkw, False)
    return plain_sat if facts.anchors_perkw is None else max(plain_sat, least_sat(facts.anchors_perkw, True))


def spendable_sat(facts: Facts) -> int:
    """Return what a new channel may cost at most, its funding transaction paid."""
    mining_sat = -(-4 * facts.open_vbytes * facts.feerate_perkw // 1000)
    return max(facts.confirmed_sat - facts.committed_sat - facts.keep_onchain_sat - mining_sat, 0)


def provide(ask: BuyAsk, facts: Facts, rule: Callable[[int], int | Lack]) -> tuple[int | Lack, Refusal | None]:
    """Return the capacity in sat that can be given (step 11), or what lacks and the name to count it under.

    `rule` is the policy: least capacity in, wanted capacity out. When the funds reach for the payment but not for all
    the room that policy adds, the client gets a smaller channel rather than none.
    """
    least_sat = least_capacity_sat(ask, facts)
    wanted = rule(least_sat)
    if isinstance(wanted, Lack):
        return wanted, Refusal.CHANNEL_TOO_LARGE
    funds_sat = spendable_sat(facts)
    if funds_sat >= least_sat:
        return min(wanted, funds_sat), None
    smaller_would_do = _least_sat(ask.params.min_payment_size_msat, ask, facts) <= funds_sat
    return Lack.SIZE if smaller_would_do else Lack.FUNDS, Refusal.ONCHAIN_FUNDS


def preflight(ask: BuyAsk, facts: Facts, rule: Callable[[int], int | Lack], refusals: Refusals) -> int:
    """Steps 10 and 11 of B-06: the capacity in sat. Raises PeerError 1 or 203, counted by its reason."""
    if not facts.connected:
        refusals.count(Refusal.NOT_CONNECTED)
        raise client_rejected("you are not connected to this node")
    try:
        check_liquidity(ask, facts.incoming_liquidity_msat)
    except PeerError:
        refusals.count(Refusal.INBOUND_LIQUIDITY)
        raise
    provided, why = provide(ask, facts, rule)
    if why is not None:
        refusals.count(why)
    return check_supply(ask, provided)
