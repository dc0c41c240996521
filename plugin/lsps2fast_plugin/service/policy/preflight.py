"""Can this be opened now? Asked by menus, quotes, buys and openings alike, so that what is offered can be kept.

Steps 10 and 11 of B-06 as arithmetic: inbound liquidity, the channel's size with its reserve and commitment fee (O-03),
on-chain funds, what is already spoken for, and what the budgets still allow. Asking the node is the caller's part.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lsps2fast.errors import PeerError
from lsps2fast.lsps.buys import Lack, check_liquidity, check_supply
from lsps2fast.lsps.lsps0 import try_later
from lsps2fast.lsps.lsps2 import BuyAsk, FeeParams, min_capacity_sat
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals
from lsps2fast_plugin.service.policy.rules import CapacityRule

EXPECTED_PARTS: Final = 10  # a payer may split; each part costs commitment weight (O-03)
CHAIN_DUST_SAT: Final = 546
STEP_MSAT: Final = 1_000_000  # of a largest payment that our means set: clients need not know to the sat what we have
NO_BOUND_SAT: Final = 10**12


class Payable(NamedTuple):
    """The largest payment that can be held and then forwarded, in as many parts as are accepted; and what bounds it."""

    msat: int
    why: Refusal


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
    overpay_ppm: int = 0  # of what is bought, that may be paid beyond it
    dust_limit_sat: int = CHAIN_DUST_SAT
    budget_sat: int = NO_BOUND_SAT  # the largest channel of this client that the budgets allow
    payable: Payable = Payable(NO_BOUND_SAT * 1000, Refusal.HELD_SATS)


def least_capacity_sat(ask: BuyAsk, facts: Facts) -> int:
    """Return the smallest channel through which the payment can go on (O-03); in variable mode the smallest one sold.

    Enough for a channel with and without anchors: which it becomes is known only when it is opened.
    """
    return _least_sat(_size_msat(ask), ask.params, facts)


def _size_msat(ask: BuyAsk) -> int:
    return ask.params.min_payment_size_msat if ask.payment_size_msat is None else ask.payment_size_msat


def _least_sat(size_msat: int, params: FeeParams, facts: Facts) -> int:
    forward_msat = max(size_msat - (params.fee_msat(size_msat) or 0), 0)
    parts = min(facts.max_parts, EXPECTED_PARTS)

    def least_sat(feerate_perkw: int, anchors: bool) -> int:
        return min_capacity_sat(forward_msat, parts, feerate_perkw, anchors, facts.zero_reserve, facts.dust_limit_sat)

    plain_sat = least_sat(facts.commitment_perkw, False)
    return plain_sat if facts.anchors_perkw is None else max(plain_sat, least_sat(facts.anchors_perkw, True))


def spendable_sat(facts: Facts) -> int:
    """Return what a new channel may cost at most, its funding transaction paid."""
    mining_sat = -(-4 * facts.open_vbytes * facts.feerate_perkw // 1000)
    return max(facts.confirmed_sat - facts.committed_sat - facts.keep_onchain_sat - mining_sat, 0)


def _room(facts: Facts) -> tuple[int, Refusal]:
    """Return the largest channel that our means allow, and what sets that bound."""
    funds_sat = spendable_sat(facts)
    if facts.budget_sat < funds_sat:
        return max(facts.budget_sat, 0), Refusal.CAPITAL_BUDGET
    return funds_sat, Refusal.ONCHAIN_FUNDS


def provide(ask: BuyAsk, facts: Facts, rule: CapacityRule) -> tuple[int | Lack, Refusal | None]:
    """Return the capacity in sat that can be given (step 11), or what lacks and the name to count it under.

    When our means reach for the payment but not for all the room that policy adds, the client gets a smaller channel
    rather than none, though never one below the smallest.
    """
    least_sat = least_capacity_sat(ask, facts)
    wanted = rule.capacity_sat(least_sat)
    if isinstance(wanted, Lack):
        return wanted, Refusal.CHANNEL_TOO_LARGE
    room_sat, bound = _room(facts)
    if room_sat >= rule.floor_sat(least_sat):
        return min(wanted, room_sat), None
    smallest_sat = rule.floor_sat(_least_sat(ask.params.min_payment_size_msat, ask.params, facts))
    return Lack.SIZE if smallest_sat <= room_sat else Lack.FUNDS, bound


def largest_payment_msat(params: FeeParams, facts: Facts, rule: CapacityRule) -> tuple[int | None, str]:
    """Return the largest payment of this offer that could be served now, None when there is none;
    and what bounds it.
    """
    room_sat, bound = _room(facts)
    top_msat, why = params.max_payment_size_msat, ""
    if facts.incoming_liquidity_msat is not None and facts.incoming_liquidity_msat < top_msat:
        top_msat, why = facts.incoming_liquidity_msat, Refusal.INBOUND_LIQUIDITY.value
    if facts.payable.msat < top_msat:
        top_msat, why = facts.payable.msat, facts.payable.why.value
    most_sat = min(room_sat, rule.max_sat)

    def fits(size_msat: int) -> bool:
        return rule.floor_sat(_least_sat(size_msat, params, facts)) <= most_sat

    low_msat = params.min_payment_size_msat
    if top_msat < low_msat:
        return None, why
    if not fits(top_msat):
        why = Refusal.CHANNEL_TOO_LARGE.value if rule.max_sat < room_sat else bound.value
        if not fits(low_msat):
            return None, why
        while top_msat - low_msat > 1:
            middle_msat = (low_msat + top_msat) // 2
            low_msat, top_msat = (middle_msat, top_msat) if fits(middle_msat) else (low_msat, middle_msat)
        top_msat = low_msat
    rounded_msat = top_msat - top_msat % STEP_MSAT if why else top_msat
    return max(rounded_msat, params.min_payment_size_msat), why


def preflight(ask: BuyAsk, facts: Facts, rule: CapacityRule, refusals: Refusals) -> int:
    """Take steps 10 and 11 of B-06; return the capacity in sat. Raises PeerError -32603 or 203, counted by reason."""
    if not facts.connected:
        refusals.count(Refusal.NOT_CONNECTED)
        raise try_later("you are not connected to this node")
    try:
        check_liquidity(ask, facts.incoming_liquidity_msat)
    except PeerError:
        refusals.count(Refusal.INBOUND_LIQUIDITY)
        raise
    if _size_msat(ask) > facts.payable.msat:
        refusals.count(facts.payable.why)
        return check_supply(ask, Lack.SIZE)
    provided, why = provide(ask, facts, rule)
    if why is not None:
        refusals.count(why)
    return check_supply(ask, provided)
