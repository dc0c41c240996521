"""Which channel an LSP may open to us: the openchannel hook as a pure function (I-11 … I-18).

Every channel that is safe is accepted, whatever else its LSP's software makes different; one that is unsafe or useless
is refused with a reason. lightningd does not say for which purchase a channel is meant: it is given to the one that
fills it best among those that have none, and the caller writes that down before it is accepted (rule:27).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

SCID_ALIAS: Final = 46
ZERO_CONF: Final = 50
ANNOUNCE: Final = 1  # bit 0 of channel_flags
TAKEN: Final = "every purchase it would fit has its channel already"
MOST_OPENINGS: Final = 100  # for one purchase; lightningd keeps each that came to nothing for two weeks
WORN_OUT: Final = f"{MOST_OPENINGS} channels were opened for this purchase, and it was not paid; make a new invoice"
DUST_MSAT: Final = 546_000
MOST_DUST_MSAT: Final = 3 * DUST_MSAT  # what is below goes to the miners when the channel is closed by force
LEAST_RESERVE_MSAT: Final = 1_000_000  # LDK never asks for less
LEAST_IN_FLIGHT: Final = 10  # the LSP must let at least a tenth of the channel be on its way back

Json = dict[str, Any]
CONTINUE: Final[Json] = {"result": "continue"}


class Wanted(NamedTuple):
    """A purchase that is neither paid nor over: what must fit into its channel for us, and the to_self_delay agreed.

    `free`: it has no channel in use.
    """

    receive_msat: int
    max_to_self_delay_blocks: int
    free: bool = True


class Limits(NamedTuple):
    """What of our own configuration an opening must respect."""

    our_to_self_delay_blocks: int
    zero_reserve: bool
    max_to_self_delay_blocks: int = 2016
    least_htlcs: int = 2
    max_htlc_minimum_msat: int = 1_000_000


class Decision(NamedTuple):
    """The hook's answer, why it is a refusal, which of the purchases wanted it is for, and what was tolerated."""

    answer: Json
    why: str | None = None
    purchase: int | None = None
    tolerated: tuple[str, ...] = ()


def reserve_msat(funding_msat: int, limits: Limits) -> int:
    """Return what lightningd makes the LSP keep on its side: 1 %, at least dust."""
    return 0 if limits.zero_reserve else max(funding_msat // 100, DUST_MSAT)


def fits(wanted: Wanted, funding_msat: int, limits: Limits) -> bool:
    """Return whether what a purchase brings us fits into a channel of this size."""
    return wanted.receive_msat + reserve_msat(funding_msat, limits) <= funding_msat


def is_zero_conf(request: Json) -> bool:
    """Return whether the channel is meant to be used before its funding confirms, as every JIT channel is."""
    return ZERO_CONF in _bits(request)


def _bits(request: Json) -> tuple[int, ...]:
    return tuple((request.get("channel_type") or {}).get("bits", ()))


def best(request: Json, wanted: Sequence[Wanted], limits: Limits) -> int | None:
    """Return which purchase without a channel this one is for: the largest that fits. None: none."""
    free = [
        index
        for index, each in enumerate(wanted)
        if each.free and _agreed(each, limits) and fits(each, request["funding_msat"], limits)
    ]
    return max(free, key=lambda index: wanted[index].receive_msat, default=None)


def _agreed(wanted: Wanted, limits: Limits) -> bool:
    return wanted.max_to_self_delay_blocks >= limits.our_to_self_delay_blocks


def refusal(request: Json, wanted: Sequence[Wanted], limits: Limits) -> str | None:
    """Return why this opening is no JIT channel we agreed to, or None."""
    funding_msat = request["funding_msat"]
    agreed = [each for each in wanted if _agreed(each, limits)]
    if request["channel_flags"] & ANNOUNCE:
        return "a JIT channel must not be announced"
    if request["push_msat"] != 0:
        return "push_msat is not agreed"
    if not agreed:
        return f"our to_self_delay of {limits.our_to_self_delay_blocks} blocks is above the agreed maximum"
    if (why := _unsafe(request, limits) or _useless(request, limits)) is not None:
        return why
    if not any(fits(each, funding_msat, limits) for each in agreed):
        least_msat = min(each.receive_msat for each in agreed)
        return f"it is too small to receive {least_msat} msat"
    return None if best(request, wanted, limits) is not None else TAKEN


def _unsafe(request: Json, limits: Limits) -> str | None:
    """Return what would cost us money when the channel is closed."""
    dust_msat, asked_msat = request["dust_limit_msat"], request["channel_reserve_msat"]
    most_msat = max(request["funding_msat"] // 100, LEAST_RESERVE_MSAT) + max(dust_msat, DUST_MSAT)
    if dust_msat > MOST_DUST_MSAT:
        return f"dust_limit_msat {dust_msat} is above {MOST_DUST_MSAT}"
    if asked_msat > most_msat:
        return f"channel_reserve_msat {asked_msat} is above 1 % (or {LEAST_RESERVE_MSAT} msat)"
    if request["to_self_delay"] > limits.max_to_self_delay_blocks:
        return (
            f"to_self_delay {request['to_self_delay']} is above our limit of {limits.max_to_self_delay_blocks} blocks"
        )
    return None


def _useless(request: Json, limits: Limits) -> str | None:
    """Return what would keep us from spending what we receive."""
    minimum_msat, htlcs = request.get("htlc_minimum_msat", 0), request.get("max_accepted_htlcs", 483)
    in_flight_msat = request.get("max_htlc_value_in_flight_msat", 2**64 - 1)
    if htlcs < limits.least_htlcs:
        return f"max_accepted_htlcs {htlcs} is below {limits.least_htlcs}"
    if minimum_msat > limits.max_htlc_minimum_msat:
        return f"htlc_minimum_msat {minimum_msat} is above our limit of {limits.max_htlc_minimum_msat}"
    if in_flight_msat < request["funding_msat"] // LEAST_IN_FLIGHT:
        return f"max_htlc_value_in_flight_msat {in_flight_msat} is below a tenth of the channel"
    return None


def _tolerated(request: Json) -> tuple[str, ...]:
    """Return what is not as bLIP-52 has it, and harmless."""
    found = []
    if SCID_ALIAS not in request["channel_type"]["bits"]:
        found.append("option_scid_alias is not in its type")
    if request["channel_reserve_msat"] > request["funding_msat"] // 100 + max(request["dust_limit_msat"], DUST_MSAT):
        found.append(f"its reserve of {request['channel_reserve_msat']} msat is above 1 %")
    return tuple(found)


def refused(why: str) -> Decision:
    """Return the decision not to let a channel in."""
    return Decision({"result": "reject", "error_message": f"no JIT channel: {why}"}, why)


def decide(request: Json, wanted: Sequence[Wanted], limits: Limits) -> Decision:
    """Judge the hook's `openchannel`; `wanted` are all purchases at this peer that are neither paid nor over.

    Without any purchase the opening is none of our business; nor is one that cannot be a JIT channel, as long as it
    does not ask to be used unconfirmed: the node's own policy decides about it.
    """
    if not wanted:
        return Decision(CONTINUE)
    why = refusal(request, wanted, limits)
    if why is not None and not is_zero_conf(request):
        return Decision(CONTINUE, TAKEN if why == TAKEN else None)  # that one may be free in a moment
    if why is not None:
        return refused(why)
    accepted: Json = {**CONTINUE, "mindepth": 0}
    if limits.zero_reserve:
        accepted["reserve"] = 0
    return Decision(accepted, None, best(request, wanted, limits), _tolerated(request))
