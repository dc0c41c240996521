"""Several channels that one transaction funds: who takes part, and how far each has come (`Batches`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NamedTuple

from lsps2fast import actions as order
from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.buys import Buy
from lsps2fast_plugin.service.funding import Plan

Key = tuple[int, bytes]  # jit scid, payment hash
TOGETHER: Final = 2  # so many transactions are tried for all; then each has one of its own


@dataclass(eq=False)
class Member:
    """One payment that opens its channel in a batch; what it has not come to yet is None."""

    buy: Buy
    reserve: order.ReserveCoins
    plan: Plan | None = None
    funding: order.Funding | None = None  # as journalled
    open: order.OpenChannel | None = None
    broadcast: order.Broadcast | None = None
    is_back: bool = False  # its channel was closed, and it has ordered another

    @property
    def key(self) -> Key:
        """The payment."""
        return self.reserve.jit_scid, self.reserve.payment_hash

    @property
    def peer_id(self) -> str:
        """The client."""
        return self.buy.peer_id


@dataclass(eq=False)
class Batch:
    """Payments whose channels are to be funded together."""

    name: str
    until_ms: int  # no more join after that
    members: dict[Key, Member] = field(default_factory=dict)
    tries: int = 0  # transactions that came to nothing
    inputs: tuple[str, ...] = ()
    free_sat: int = 0  # what was free when they were chosen, these among it
    signed: bool = False  # the channels are, and their records are being written
    spoilt: bool = False  # one of those was given up: this transaction is sent for none

    def has_peer(self, peer_id: str) -> bool:
        """Return whether a channel of this client is in it."""
        return any(member.peer_id == peer_id for member in self.members.values())

    def free_sat_for(self, member: Member, counted: Iterable[Member]) -> int:
        """Return what is free to this one: less what counts for others of it (rule:18)."""
        others = (each.plan.capacity_sat for each in counted if each is not member and each.plan is not None)
        return max(self.free_sat - sum(others), 0)

    @property
    def plans(self) -> dict[int, Plan]:
        """What channels its members need, by jit scid."""
        return {member.buy.jit_scid: member.plan for member in self.members.values() if member.plan is not None}


class LeftOut(Lsps2Error):
    """A batch went on without this one, for a reason that is its own."""


class Outcome(NamedTuple):
    """What came of a transaction: sent, or who is to open another channel, and whether its coins are spent.

    `closing`: the closes of those whose channel takes long to close; each opens another once it is closed.
    """

    sent: bool
    again: tuple[Member, ...] = ()
    spent: bool = False
    closing: Mapping[Key, asyncio.Task[None]] = MappingProxyType({})


def shares(total: int, count: int) -> list[int]:
    """Split a sum into so many equal shares; the first has what is left over."""
    share, rest = divmod(total, count)
    return [share + rest, *[share] * (count - 1)]
