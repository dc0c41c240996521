"""Channels that are ordered and paid ahead (LSPS1): the books of orders, kept from what the embedded nodes did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.channels import Channel
from lsps2fast_plugin.simnode.payer import Part, Payment

from .story import Violation

KEPT_S = 8 * 86_400.0  # that an order is remembered after its invoice has ended


class Opened(Protocol):
    """A channel that was opened for an order: an `Account` of the books."""

    channel: Channel
    sent_s: float
    paid: bool
    is_whole: bool

    @property
    def funding(self) -> object:
        """None as long as it was never on chain."""

    @property
    def is_on_chain(self) -> bool:
        """Whether the chain has its funding, or waits for it."""


@dataclass(eq=False)
class Order:
    """One order, as its client knows it. `lives`: starts of the plugin before it."""

    buyer: Client
    honest: bool
    id: str
    price_msat: int
    capacity_sat: int
    invoice: str
    since_s: float
    until_s: float
    lives: int
    payments: list[tuple[Payment, int]] = field(default_factory=list)  # with the total that each names
    accounts: list[Opened] = field(default_factory=list)  # channels that were opened for it
    given_away: bool = False  # its payer closed the channels of its parts while it was sent

    @property
    def parts(self) -> Iterator[tuple[Part, int]]:
        """Return every HTLC that was sent for it, with the total that it names."""
        return ((part, total_msat) for payment, total_msat in self.payments for part in payment.parts)

    @property
    def taken_msat(self) -> int:
        """Return what the LSP has taken."""
        return sum(part.htlc.amount_msat for part, _ in self.parts if part.htlc.preimage is not None)

    @property
    def lost_msat(self) -> int:
        """Return what was not taken because its channel has closed; what was given back before that is not lost."""
        return sum(part.amount_msat for part, _ in self.parts if part.htlc.preimage is None and _is_lost(part))

    @property
    def is_paid(self) -> bool:
        """Whether its price has come."""
        return self.taken_msat >= self.price_msat

    @property
    def is_still(self) -> bool:
        """Whether no HTLC for it is under way, but in channels that have closed."""
        return all(part.result.done() or part.end.channel.dead for part, _ in self.parts)

    @property
    def is_held(self) -> bool:
        """Whether the LSP has a part that is not answered."""
        return any(part.htlc.delivered and not part.htlc.removing for part, _ in self.parts)

    @property
    def on_chain(self) -> list[Opened]:
        """Return its channels whose funding is or was on chain."""
        return [account for account in self.accounts if account.funding is not None]


class OrderBooks:
    """All orders of late. `income_msat` is what the LSP has taken for them."""

    def __init__(self) -> None:
        self.all: list[Order] = []
        self._past_msat = 0

    def find(self, channel: Channel) -> Order | None:
        """Return the order that this channel is for: a client orders no two of one size."""
        taker = channel.opener.other.owner
        fitting = (each for each in self.all if each.buyer is taker and each.capacity_sat == channel.capacity_sat)
        return next(fitting, None)

    @property
    def income_msat(self) -> int:
        """Return what has come for orders, ever."""
        return self._past_msat + sum(each.taken_msat for each in self.all)

    def tidy(self, now_s: float) -> None:
        """Forget what ended long ago."""
        old = [each for each in self.all if each.until_s + KEPT_S < now_s and each.is_still]
        self._past_msat += sum(each.taken_msat for each in old)
        self.all = [each for each in self.all if each not in old]


def _is_lost(part: Part) -> bool:
    """Return whether the channel of a part has closed with the part in it."""
    htlc = part.htlc
    return part.end.channel.dead and (htlc.lost_on_chain or not htlc.removed or htlc.failure is None)


def check_told(order: Order, told: dict[str, Any]) -> None:
    """Hold what its client is told of an order against what came of it. Raises Violation."""
    state = told["order_state"], told["payment"]["bolt11"]["state"]
    came_msat = order.taken_msat + order.lost_msat  # it may not be called given away yet
    has_all = order.on_chain and (came_msat >= order.price_msat or order.given_away)
    has_some = order.taken_msat or any(each.is_on_chain for each in order.accounts)
    if order.is_still and ((state == ("COMPLETED", "PAID") and not has_all) or (state[0] == "FAILED" and has_some)):
        came = f"{order.taken_msat} of {order.price_msat} msat came, {len(order.on_chain)} channels are there"
        raise Violation("rule:20", f"the client of {short(order)} is told {' '.join(state)}: {came}")


def is_more_than_one(order: Order) -> bool:
    """Return whether what was taken is more than a whole payment and the part that made it whole."""
    taken = [each for each in order.parts if each[0].htlc.preimage is not None]
    if len(taken) < 2:
        return False
    taken.sort(key=lambda each: each[0].htlc.received_s)
    before_msat = sum(part.htlc.amount_msat for part, _ in taken[:-1])
    return before_msat >= taken[-1][1]


def short(order: Order) -> str:
    """Return what a violation calls it."""
    return f"order {order.id[:8]} of {order.buyer.name}"
