"""Which channel an LSP may open to us: the openchannel hook as a pure function (I-11 … I-18).

lightningd does not say for which purchase a channel is meant, and an LSP may serve several. So the question is whether
all JIT channels it has in use, and the new one, can each be given to a purchase of its own that fits into it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

SCID_ALIAS: Final = 46
ZERO_CONF: Final = 50
ANNOUNCE: Final = 1  # bit 0 of channel_flags
TAKEN: Final = "every purchase has its channel already, or they do not fit into these channels"
DUST_MSAT: Final = 546_000
MOST_DUST_MSAT: Final = 3 * DUST_MSAT  # what is below goes to the miners when the channel is closed by force

Json = dict[str, Any]
CONTINUE: Final[Json] = {"result": "continue"}


class Wanted(NamedTuple):
    """A purchase that awaits its channel: what must fit into it for us, and the to_self_delay agreed."""

    receive_msat: int
    max_to_self_delay_blocks: int


class Limits(NamedTuple):
    """What of our own configuration an opening must respect."""

    our_to_self_delay_blocks: int
    zero_reserve: bool


def reserve_msat(funding_msat: int, limits: Limits) -> int:
    """What lightningd makes the LSP keep on its side: 1 %, at least dust."""
    return 0 if limits.zero_reserve else max(funding_msat // 100, DUST_MSAT)


def _fits(wanted: Wanted, funding_msat: int, limits: Limits) -> bool:
    return wanted.receive_msat + reserve_msat(funding_msat, limits) <= funding_msat


def _one_each(wanted: Sequence[Wanted], channels_msat: Sequence[int], limits: Limits) -> bool:
    """Whether each channel can be given to a purchase of its own. Small ones first: what fits there fits in all."""
    pairs = zip(sorted(wanted), sorted(channels_msat), strict=False)
    return len(channels_msat) <= len(wanted) and all(_fits(each, size_msat, limits) for each, size_msat in pairs)


def is_zero_conf(request: Json) -> bool:
    """Whether the channel is meant to be used before its funding confirms, as every JIT channel is."""
    return ZERO_CONF in (request.get("channel_type") or {}).get("bits", ())


def refusal(request: Json, wanted: Sequence[Wanted], in_use_msat: Sequence[int], limits: Limits) -> str | None:
    """Why this opening is no JIT channel we agreed to, or None."""
    funding_msat, reserve_asked_msat = request["funding_msat"], request["channel_reserve_msat"]
    agreed = [each for each in wanted if each.max_to_self_delay_blocks >= limits.our_to_self_delay_blocks]
    if request["channel_flags"] & ANNOUNCE:
        return "a JIT channel must not be announced"
    if SCID_ALIAS not in request["channel_type"]["bits"]:
        return "a JIT channel must have option_scid_alias"
    if request["push_msat"] != 0:
        return "push_msat is not agreed"
    if not agreed:
        return f"our to_self_delay of {limits.our_to_self_delay_blocks} blocks is above the agreed maximum"
    if request["dust_limit_msat"] > MOST_DUST_MSAT:
        return f"dust_limit_msat {request['dust_limit_msat']} is above {MOST_DUST_MSAT}"
    if reserve_asked_msat > funding_msat // 100 + max(request["dust_limit_msat"], DUST_MSAT):
        return f"channel_reserve_msat {reserve_asked_msat} is above 1 %"
    if not any(_fits(each, funding_msat, limits) for each in agreed):
        least_msat = min(each.receive_msat for each in agreed)
        return f"it is too small to receive {least_msat} msat"
    if not _one_each(agreed, [*in_use_msat, funding_msat], limits):
        return TAKEN
    return None


def answer(
    request: Json, wanted: Sequence[Wanted], in_use_msat: Sequence[int], limits: Limits
) -> tuple[Json, str | None]:
    """The hook's answer, and why it is a refusal.

    `request` is the hook's `openchannel`; `wanted` the purchases at this peer that are neither paid nor over;
    `in_use_msat` the sizes of the JIT channels it has opened for them and that are, or may come, in normal operation.
    Without any purchase the opening is none of our business.
    """
    if not wanted:
        return CONTINUE, None
    why = refusal(request, wanted, in_use_msat, limits)
    if why is not None:
        return {"result": "reject", "error_message": f"no JIT channel: {why}"}, why
    accepted: Json = {**CONTINUE, "mindepth": 0}
    if limits.zero_reserve:
        accepted["reserve"] = 0
    return accepted, None
