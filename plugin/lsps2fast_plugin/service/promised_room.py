"""What is promised of the channels that clients have: room for payments that go over them in place of a new channel.

A promise lasts from the choice of a channel to the end of its payment, by channel id: scids change (rule:25). What of
it is an HTLC in the channel already, lightningd has taken from what it calls spendable, so only the rest is taken from
that once more. Such an HTLC is known by payment hash and amount: a stranger may send another with the same hash. A
listing may be older than the end of a promise, and then does not show what it has spent: promises
that ended since a listing was asked for still count against it.

What is held for a client that sleeps was promised nothing, and goes into its channel the moment that is back, in which
other payments look for room. So it counts, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from lsps2fast_plugin.cln.models import PeerChannel

HTLC_WEIGHT: Final = 172  # of one HTLC in a commitment (BOLT 3)
FEE_SPIKE: Final = 2  # lightningd keeps twice the fee ready where we pay for the commitment (BOLT 2)
Key = tuple[int, bytes]  # jit scid, payment hash
Rates = tuple[int, int]  # routing fee: base in msat, ppm


class Promise(NamedTuple):
    """Room for one payment. `sent_msat`: the amount of each part, once these may be in the channel."""

    key: Key
    out_msat: int
    parts: int
    sent_msat: tuple[int, ...] = ()

    @property
    def payment_hash(self) -> str:
        """Return it as lightningd lists HTLCs."""
        return self.key[1].hex()


class Free(NamedTuple):
    """What a channel can still carry of one payment, beside all that is promised of it."""

    spendable_msat: int
    in_flight_msat: int
    htlcs: int


class Listing:
    """One question for channels; open until its answer has been used."""

    def __init__(self, asked: int) -> None:
        self.asked = asked


class PromisedRoom:
    """Every promise, by channel id."""

    def __init__(self) -> None:
        self._promises: dict[str, dict[Key, Promise]] = {}
        self._rates: dict[str, Rates | None] = {}  # routing fees to restore, until they are
        self._held: dict[str, dict[bytes, Promise]] = {}  # for clients that sleep: by channel, and by hook call
        self._ended: list[tuple[int, str, Promise]] = []  # while a listing is in use that was asked for before
        self._listings: list[Listing] = []
        self._moment = 0

    def __len__(self) -> int:
        return sum(len(promises) for promises in self._promises.values())

    @contextmanager
    def listing(self) -> Iterator[Listing]:
        """Ask lightningd, and use its answer, inside of this."""
        listing = Listing(self._moment)
        self._listings.append(listing)
        try:
            yield listing
        finally:
            self._listings.remove(listing)
            oldest = min((each.asked for each in self._listings), default=self._moment)
            self._ended = [each for each in self._ended if each[0] > oldest]

    def of(self, channel_id: str, key: Key) -> Promise | None:
        """Return what this payment was promised of this channel."""
        return self._promises.get(channel_id, {}).get(key)

    def in_use(self, channel_id: str) -> bool:
        """Return whether a payment is under way over this channel."""
        return channel_id in self._promises

    def free(self, channel: PeerChannel, key: Key, parts: int, most_htlcs: int, listing: Listing) -> Free:
        """Return what this channel can carry of a payment of so many parts. `channel` is of `listing`."""
        others = [each for each in self._promises.get(channel.channel_id, {}).values() if each.key != key]
        others += self._held.get(channel.channel_id, {}).values()
        others += [each for at, id_, each in self._ended if id_ == channel.channel_id and at > listing.asked]
        out = [htlc for htlc in channel.htlcs if htlc.direction == "out"]
        owed_msat, owed_parts = _not_listed(others, [(htlc.payment_hash, htlc.amount_msat) for htlc in out])
        more = max(owed_parts + parts - 1, 0)  # lightningd reckons with one HTLC more
        fee_msat = FEE_SPIKE * more * HTLC_WEIGHT * channel.feerate.perkw if channel.is_ours else 0
        in_flight_msat = channel.their_max_htlc_value_in_flight_msat - sum(htlc.amount_msat for htlc in out)
        return Free(
            max(channel.spendable_msat - owed_msat - fee_msat, 0),
            max(in_flight_msat - owed_msat, 0),
            max(most_htlcs - len(out) - owed_parts, 0),
        )

    def promise(self, channel_id: str, promise: Promise) -> None:
        """Promise this room, or another amount to the same payment."""
        self._promises.setdefault(channel_id, {})[promise.key] = promise

    def goes_out(self, channel_id: str, key: Key, sent_msat: tuple[int, ...]) -> bool:
        """Take note that parts of these amounts go into the channel; False: nothing was promised to this payment.

        After a start they go out one by one, and all of them are known.
        """
        promise = self.of(channel_id, key)
        if promise is not None and not promise.sent_msat:
            self._promises[channel_id][key] = promise._replace(sent_msat=sent_msat)
        return promise is not None

    def leave(self, channel_id: str, key: Key) -> bool:
        """End a promise. Return whether it was the last one of its channel."""
        promises = self._promises.get(channel_id, {})
        promise = promises.pop(key, None)
        if promise is None:
            return False
        self.spent(channel_id, promise)
        if promises:
            return False
        del self._promises[channel_id]
        return True

    def hold(self, channel_id: str, name: bytes, payment_hash: bytes, out_msat: int) -> None:
        """Count a part that is held until this channel can be used: it goes in then, whatever was promised."""
        self._held.setdefault(channel_id, {})[name] = Promise((0, payment_hash), out_msat, 1)

    def let_go(self, channel_id: str, name: bytes) -> bool:
        """Take note that such a part is held no longer, if it was; it may be in the channel in a moment."""
        held = self._held.get(channel_id, {})
        promise = held.pop(name, None)
        if not held:
            self._held.pop(channel_id, None)
        if promise is not None:
            self.spent(channel_id, promise._replace(sent_msat=(promise.out_msat,)))
        return promise is not None

    def spent(self, channel_id: str, promise: Promise) -> None:
        """Count this as gone for listings that are in use: a promise that ended, or a payment that never had one."""
        self._moment += 1
        if self._listings:
            self._ended.append((self._moment, channel_id, promise))

    # Routing fees ----------------------------------------------------------------------------------

    def remember(self, channel_id: str, rates: Rates | None) -> Rates | None:
        """Remember what this channel charged before the first of its payments, or what was set since; return that."""
        if rates is not None and rates != (0, 0):
            self._rates[channel_id] = rates
        return self._rates.setdefault(channel_id, rates)

    def rates(self, channel_id: str, before: Rates | None) -> Rates | None:
        """Return what is to be restored; `before`: what one of its payments has found."""
        return self._rates.get(channel_id, before)

    def restored(self, channel_id: str) -> None:
        """Forget it: the channel charges that again."""
        if channel_id not in self._promises:
            self._rates.pop(channel_id, None)


def _not_listed(promises: Iterable[Promise], listed: Iterable[tuple[str, int]]) -> tuple[int, int]:
    """Return how much, and how many parts, of these promises are no HTLCs in the channel yet."""
    left = Counter(listed)
    owed_msat = owed_parts = 0
    for promise in promises:
        found = Counter((promise.payment_hash, amount_msat) for amount_msat in promise.sent_msat) & left
        left -= found
        owed_msat += promise.out_msat - sum(amount_msat for _, amount_msat in found.elements())
        owed_parts += promise.parts - found.total()
    return owed_msat, owed_parts
