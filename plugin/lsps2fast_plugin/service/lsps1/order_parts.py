"""HTLCs that pay orders, held in the hook `htlc_accepted` until their payment is whole and its channel is there.

Nothing with an order's payment hash goes on to lightningd while this plugin lives: what lightningd would refuse is
refused here by the same rules (BOLT 4), the others are counted here. lightningd has the invoice all the same, for the
time without this plugin: it lets go on what a plugin that has died held (cln:H12), and takes the payment itself.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from lsps2fast import _tlv as tlv
from lsps2fast.errors import MalformedTlv
from lsps2fast.lsps.receiving import details_failure
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter, Keys
from lsps2fast_plugin.cln.scid_aliases import Key

TEMPORARY_NODE_FAILURE: Final = "2002"


class Host(Protocol):
    """What is used of the host."""

    def settle(self, ids: Any, preimage: bytes) -> None:
        """Answer `resolve`."""

    def fail(self, id_raw: bytes, failure_hex: str) -> None:
        """Answer `fail`."""

    def let_go(self, id_raw: bytes) -> None:
        """Answer `continue`."""


class SharedHashes:
    """The payment hashes of sales under way, as `Sessions` wants them; those of orders stay when a sale has ended."""

    def __init__(self, keys: Keys[bytes]) -> None:
        self._keys = keys
        self.orders: dict[bytes, Payable] = {}

    def add(self, payment_hash: bytes) -> None:
        """Take one in."""
        self._keys.add(payment_hash)

    def discard(self, payment_hash: bytes) -> None:
        """Take one out, unless an order has it, too: anyone can send a part of that hash to a jit scid."""
        if payment_hash not in self.orders:
            self._keys.discard(payment_hash)


class Payable(NamedTuple):
    """The invoice of an order."""

    order_id: str
    secret: str
    asked_msat: int


@dataclass
class PartSet:
    """The parts of one payment that are held, by their keys; a part may be asked about more than once (K-07)."""

    total_msat: int
    since_ms: int
    calls: dict[Key, list[Any]] = field(default_factory=dict)
    whole: bool = False

    @property
    def sum_msat(self) -> int:
        """Return what they bring."""
        return sum(calls[0].amount_msat for calls in self.calls.values())

    @property
    def expiry(self) -> int:
        """Return the height at which the first of them runs out."""
        heights: Iterator[int] = (calls[0].cltv_expiry for calls in self.calls.values())
        return min(heights)

    def each_call(self) -> Iterator[Any]:
        """Return every call that waits for its answer."""
        for calls in self.calls.values():
            yield from calls


class OrderParts:
    """The parts that are held for each order."""

    def __init__(
        self,
        interest: HtlcFilter,
        shared: SharedHashes,
        sold: Container[bytes],
        host: Host,
        collect_ms: int,
        most_parts: int,
    ) -> None:
        """`sold`: payment hashes of sales under way. `collect_ms`: so long the first part of a payment waits for the
        others; `most_parts`: of one payment.
        """
        self._interest = interest
        self._payables = shared.orders
        self._sold = sold
        self._host = host
        self._collect_ms = collect_ms
        self._most_parts = most_parts
        self._sets: dict[str, PartSet] = {}
        self._parts = self.held_msat = 0  # of all that is held

    def __len__(self) -> int:
        return self._parts

    # Which are ours --------------------------------------------------------------------------------

    def watch(self, order_id: str, payment_hash: str, text: str) -> None:
        """See the HTLCs of this invoice."""
        raw = bytes.fromhex(payment_hash)
        if raw not in self._payables:
            from lsps2fast import bolt11  # with coincurve, which a node that sells none ahead does not need

            invoice = bolt11.decode(text)
            self._payables[raw] = Payable(order_id, invoice.payment_secret.hex(), invoice.amount_msat or 0)
            self._interest.payment_hashes.add(raw)

    def forget(self, payment_hash: str) -> None:
        """See them no more, unless a sale has the same hash."""
        raw = bytes.fromhex(payment_hash)
        if self._payables.pop(raw, None) is not None and raw not in self._sold:
            self._interest.payment_hashes.discard(raw)

    def order_of(self, call: Any) -> str | None:
        """Return the order that an HTLC pays which ends here, None: it pays none."""
        if call.next_scid != -1 or call.forward_to is not None:
            return None
        payable = self._payables.get(call.payment_hash)
        return None if payable is None else payable.order_id

    # Taking them in --------------------------------------------------------------------------------

    def keys(self, order_id: str) -> tuple[Key, ...]:
        """Return the parts that are held for this order."""
        found = self._sets.get(order_id)
        return () if found is None else tuple(found.calls)

    def whole(self, order_id: str) -> PartSet | None:
        """Return the whole payment of this order, None: it is not here."""
        found = self._sets.get(order_id)
        return found if found is not None and found.whole else None

    def why_not(self, call: Any, height: int, least_blocks: int) -> str | None:
        """Return the failure of an HTLC that BOLT 4 refuses by itself, or that runs out within so many blocks."""
        payable = self._payables[call.payment_hash]
        failure = details_failure(call.amount_msat, height)
        try:
            payload = tlv.read_payload(call.payload_hex)
        except MalformedTlv:
            return failure
        if payload.blinded or call.payment_secret != payable.secret:
            return failure
        if not payable.asked_msat <= call.total_msat <= 2 * payable.asked_msat:
            return failure
        if call.amount_msat < (payload.amt_to_forward_msat or 0):
            return f"0013{call.amount_msat:016x}"
        if call.cltv_expiry < (payload.outgoing_cltv_value or 0):
            return f"0012{call.cltv_expiry:08x}"
        return failure if call.cltv_expiry - height < least_blocks else None

    def hold(self, call: Any, key: Key, now_ms: int, height: int) -> str | None:
        """Hold a part of its order's payment, or return the failure: what it does not join stays as it is.

        A part that is held already is the same part (rule:3).
        """
        payable = self._payables[call.payment_hash]
        found = self._sets.get(payable.order_id)
        if found is not None and key in found.calls:
            found.calls[key].append(call)
            return None
        failure = details_failure(call.amount_msat, height)
        if found is None:
            found = PartSet(call.total_msat, now_ms)
        elif found.whole or found.total_msat != call.total_msat:
            return failure
        if len(found.calls) >= self._most_parts:
            return TEMPORARY_NODE_FAILURE
        sum_msat = found.sum_msat + call.amount_msat if found.calls else call.amount_msat
        if call.amount_msat < 1 or sum_msat > 2 * payable.asked_msat:
            return failure
        self._sets[payable.order_id] = found
        found.calls[key] = [call]
        self._parts += 1
        self.held_msat += call.amount_msat
        if sum_msat >= found.total_msat:
            found.whole, found.since_ms = True, now_ms
        return None

    # Letting them out ------------------------------------------------------------------------------

    def settle(self, order_id: str, preimage: bytes) -> None:
        """Take the payment."""
        if (found := self._take(order_id)) is not None:
            self._host.settle([call.id_raw for call in found.each_call()], preimage)

    def give_back(self, order_id: str, height: int, failure: str | None = None) -> None:
        """Fail what is held of this order; without a `failure` there is nothing to be paid here."""
        if (found := self._take(order_id)) is not None:
            for call in found.each_call():
                self._host.fail(call.id_raw, failure or details_failure(call.amount_msat, height))

    def let_go(self, order_id: str) -> None:
        """Leave the payment to lightningd and its invoice."""
        if (found := self._take(order_id)) is not None:
            for call in found.each_call():
                self._host.let_go(call.id_raw)

    def _take(self, order_id: str) -> PartSet | None:
        found = self._sets.pop(order_id, None)
        if found is not None:
            self._parts -= len(found.calls)
            self.held_msat -= found.sum_msat
        return found

    # What ends them --------------------------------------------------------------------------------

    def orders(self) -> list[str]:
        """Return the orders for which parts are held."""
        return list(self._sets)

    def overdue(self, now_ms: int) -> list[str]:
        """Return the orders whose first part has waited too long for the others."""
        sets = self._sets.items()
        return [each for each, found in sets if not found.whole and now_ms - found.since_ms >= self._collect_ms]

    def blocks_left(self, order_id: str, height: int) -> int | None:
        """Return how many blocks are left before something that is held for this order runs out; None: nothing is."""
        found = self._sets.get(order_id)
        return None if found is None else found.expiry - height

    def brought_by(self, channel_id: str, names: tuple[int, ...]) -> list[str]:
        """Return the orders for which this channel has brought parts that are held."""
        ways = {channel_id, *names}
        return [order_id for order_id, found in self._sets.items() if any(key[0] in ways for key in found.calls)]
