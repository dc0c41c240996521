"""Whether the parts of a payment could all be out in its channel at once, as lightningd counts; crumbs give way.

What lightningd would refuse is known once the channel's type and the fee rate of its commitments are (people:S19). Who
has the invoice can add parts, so a payment that is whole without the smallest ones goes on without them (rule:24).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lsps2fast._parts import IncomingHtlc, allocate
from lsps2fast._payment import Payment
from lsps2fast._sessions import Sessions
from lsps2fast.actions import PartKey, PartStatus
from lsps2fast.table import State
from lsps2fast_plugin.service.forward_limits import ForwardLimits, Room

WOULD_NOT_BE_FORWARDED: Final = "would not be forwarded"  # key of `Sessions.refused`


class Verdict(NamedTuple):
    """Why lightningd would not forward them all, or None; and the parts to drop, without which it would."""

    why: str | None
    drop: tuple[PartKey, ...] = ()


class OutgoingRooms:
    """The channels of payments under way, by jit scid, and what fits into them."""

    def __init__(self, sessions: Sessions, forward_limits: ForwardLimits) -> None:
        self._sessions = sessions
        self._forward_limits = forward_limits
        self._rooms: dict[int, Room] = {}

    def learn(self, jit_scid: int, room: Room) -> None:
        """Remember what the channel of a payment is, or will be."""
        self._rooms[jit_scid] = room

    def get(self, jit_scid: int) -> Room | None:
        """Return what is known of the channel on this scid."""
        return self._rooms.get(jit_scid)

    def forget(self, jit_scid: int) -> None:
        """Forget a buy that has ended."""
        self._rooms.pop(jit_scid, None)

    def judge(self, jit_scid: int) -> Verdict:
        """Say whether the payment under way on this scid could go out."""
        core, room = self._sessions.buys.get(jit_scid), self._rooms.get(jit_scid)
        if core is None or core.holder is None or room is None:
            return Verdict(None)
        return self._judge(core.holder, room, None)

    def judge_joiner(self, part: IncomingHtlc) -> Verdict:
        """Say whether this part could go out beside those of its payment, whose channel is there or being made."""
        core, room = self._sessions.buys.get(part.jit_scid), self._rooms.get(part.jit_scid)
        if core is None or core.holder is None or room is None or part.key in self._sessions.index:
            return Verdict(None)
        if core.holder.payment_hash != part.payment_hash:
            return Verdict(None)
        return self._judge(core.holder, room, part)

    def _judge(self, session: Payment, room: Room, newcomer: IncomingHtlc | None) -> Verdict:
        """Leave out the smallest parts, the last of equals first, as long as the others are a whole payment."""
        held = [part for part in session.parts if part.status == PartStatus.HELD]
        more = [] if newcomer is None else [newcomer]
        why = self._overfull(session, room, held + more)
        if why is None or session.state >= State.AWAITING_SETTLEMENT:
            return Verdict(why)
        sum_msat = sum(part.amt_to_forward_msat for part in held + more)
        needed_msat = max(session.buy.size_msat, session.fee_msat + 1)
        drop: list[PartKey] = []
        held.reverse()
        for part in sorted(held, key=lambda part: part.amt_to_forward_msat):
            sum_msat -= part.amt_to_forward_msat
            too_large = newcomer is not None and part.amt_to_forward_msat >= newcomer.amt_to_forward_msat
            if sum_msat < needed_msat or too_large:
                break
            held.remove(part)
            drop.append(part.key)
            if self._overfull(session, room, held + more) is None:
                return Verdict(None, tuple(drop))
        return Verdict(why)

    def _overfull(self, session: Payment, room: Room, parts: list[IncomingHtlc]) -> str | None:
        """Say why these parts could not all be out at once, beside those that are out, or None."""
        values_msat = [part.amt_to_forward_msat for part in parts]
        fees_msat = allocate(values_msat, session.floor_msat, session.fee_msat) or [0] * len(values_msat)
        outs_msat = [value - fee for value, fee in zip(values_msat, fees_msat, strict=True)]
        out = [part for part in session.parts if part.status == PartStatus.FORWARDED]
        outs_msat += [part.amt_to_forward_msat - part.extra_fee_msat for part in out]
        return self._forward_limits.set_refusal(
            outs_msat, room.channel_type, room.feerate_perkw, little_dust=room.little_dust
        )
