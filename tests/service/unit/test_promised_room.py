"""Room promised of channels that clients have: never more in all than the channel can send, whatever comes when."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from functools import partial

import pytest
from harness.rows import peer_channel
from msgspec.structs import replace

from lsps2fast_plugin.cln.models import ChannelHtlc, CommitmentFee, PeerChannel
from lsps2fast_plugin.service.promised_room import FEE_SPIKE, HTLC_WEIGHT, Listing, Promise, PromisedRoom

PERKW = 2_500
FEE_MSAT = FEE_SPIKE * HTLC_WEIGHT * PERKW  # of one HTLC more
ROOM_MSAT = 100_000_000
MOST_HTLCS = 12
ROW = replace(peer_channel(), feerate=CommitmentFee(PERKW))
CHANNEL = ROW.channel_id


def row(spendable_msat: int = ROOM_MSAT, *htlcs: tuple[str, int]) -> PeerChannel:
    """A channel as lightningd lists it, with HTLCs of ours on their way: payment hash, amount."""
    sent = partial(ChannelHtlc, "out", state="SENT_ADD_ACK")
    ours = tuple(sent(id=number, payment_hash=hash_, amount_msat=msat) for number, (hash_, msat) in enumerate(htlcs))
    return replace(ROW, spendable_msat=spendable_msat, htlcs=ours, their_max_htlc_value_in_flight_msat=ROOM_MSAT)


def key(number: int) -> tuple[int, bytes]:
    """The key of a payment."""
    return number, number.to_bytes(32, "big")


def free_msat(book: PromisedRoom, channel: PeerChannel, number: int = 9, parts: int = 1) -> int:
    """What is free for a payment by a listing that is asked for now."""
    with book.listing() as listing:
        return book.free(channel, key(number), parts, MOST_HTLCS, listing).spendable_msat


def test_what_is_promised_is_free_for_no_other_payment() -> None:
    """rule:18: less the fee of the HTLCs that are still to come."""
    book = PromisedRoom()
    assert free_msat(book, row()) == ROOM_MSAT
    book.promise(CHANNEL, Promise(key(1), 60_000_000, 2))
    assert free_msat(book, row()) == ROOM_MSAT - 60_000_000 - 2 * FEE_MSAT
    assert free_msat(book, row(), 1, 2) == ROOM_MSAT - FEE_MSAT


def test_what_is_in_the_channel_already_is_not_taken_twice() -> None:
    """rule:25: by payment hash, whatever the channel is called; a probe that failed leaves the room again."""
    book, hash_ = PromisedRoom(), key(1)[1].hex()
    book.promise(CHANNEL, Promise(key(1), 60_000_000, 2))
    assert book.goes_out(CHANNEL, key(1), (30_000_000, 30_000_000))
    half = row(ROOM_MSAT - 30_000_000, (hash_, 30_000_000))
    assert free_msat(book, half) == ROOM_MSAT - 60_000_000 - FEE_MSAT
    assert book.leave(CHANNEL, key(1))
    assert free_msat(book, row()) == ROOM_MSAT
    assert len(book) == 0


@pytest.mark.parametrize("sent_msat", [(), (29_999_999, 30_000_001)])
def test_an_htlc_of_a_stranger_with_the_same_hash_is_no_part_of_it(sent_msat: tuple[int, ...]) -> None:
    """rule:3, rule:18: the payer forwards one over the channel's own scid; what is promised is still to come."""
    book, hash_ = PromisedRoom(), key(1)[1].hex()
    book.promise(CHANNEL, Promise(key(1), 60_000_000, 2))
    book.goes_out(CHANNEL, key(1), sent_msat)
    foreign = row(ROOM_MSAT - 30_000_000, (hash_, 30_000_000))
    assert free_msat(book, foreign) == ROOM_MSAT - 90_000_000 - 2 * FEE_MSAT


def test_two_payments_of_one_hash_share_no_htlc() -> None:
    """rule:3: they are on two jit scids, and one part of 30,000 sat is in the channel: it is of one of them."""
    book, hash_ = PromisedRoom(), key(1)[1]
    for scid in (1, 2):
        book.promise(CHANNEL, Promise((scid, hash_), 30_000_000, 1, (30_000_000,)))
    one = row(ROOM_MSAT - 30_000_000, (hash_.hex(), 30_000_000))
    assert free_msat(book, one) == ROOM_MSAT - 60_000_000 - FEE_MSAT


def test_a_listing_asked_before_the_end_of_a_promise_counts_it_still() -> None:
    """rule:18: it does not show what the payment has spent meanwhile."""
    book = PromisedRoom()
    book.promise(CHANNEL, Promise(key(1), 60_000_000, 1))
    with book.listing() as before:
        book.leave(CHANNEL, key(1))
        with book.listing() as after:
            assert book.free(row(), key(2), 1, MOST_HTLCS, after).spendable_msat == ROOM_MSAT
        assert book.free(row(), key(2), 1, MOST_HTLCS, before).spendable_msat == ROOM_MSAT - 60_000_000 - FEE_MSAT
    assert free_msat(book, row()) == ROOM_MSAT
    assert book._ended == []


def test_a_channel_that_the_peer_pays_for_needs_no_fee_of_ours() -> None:
    """cln:O3: the commitment is its opener's."""
    book = PromisedRoom()
    book.promise(CHANNEL, Promise(key(1), 60_000_000, 2))
    assert free_msat(book, replace(row(), opener="remote")) == ROOM_MSAT - 60_000_000


def test_htlcs_and_value_in_flight_are_shared_too() -> None:
    """rule:24: what the client's side takes at one time."""
    book = PromisedRoom()
    book.promise(CHANNEL, Promise(key(1), 60_000_000, 3))
    with book.listing() as listing:
        found = book.free(row(ROOM_MSAT, ("ab" * 32, 1_000_000)), key(2), 1, MOST_HTLCS, listing)
    assert found.in_flight_msat == ROOM_MSAT - 61_000_000
    assert found.htlcs == MOST_HTLCS - 4


def test_routing_fees_are_remembered_until_the_last_has_left() -> None:
    """rule:13: the second payment finds the channel at zero, and that is not what it charged."""
    book = PromisedRoom()
    assert book.remember(CHANNEL, (77, 7)) == (77, 7)
    book.promise(CHANNEL, Promise(key(1), 1, 1))
    assert book.remember(CHANNEL, (0, 0)) == (77, 7)
    book.promise(CHANNEL, Promise(key(2), 1, 1))
    assert not book.leave(CHANNEL, key(1))
    book.restored(CHANNEL)
    assert book.remember(CHANNEL, (0, 0)) == (77, 7)
    assert book.leave(CHANNEL, key(2))
    book.restored(CHANNEL)
    assert book.remember(CHANNEL, (5, 5)) == (5, 5)


# Any sequence ------------------------------------------------------------------------------------------


@dataclass
class Payment:
    """One payment, from its promise on: parts that are to go out, that are in the channel, that were taken."""

    number: int
    waiting: list[int]
    live: list[int] = field(default_factory=list)
    told_over: bool = False


class Node:
    """A channel as it is. What lightningd says of it is heard later, and may be old by then."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.book = PromisedRoom()
        self.ours_msat = ROOM_MSAT
        self.payments: dict[int, Payment] = {}
        self.asked: list[tuple[contextlib.ExitStack, Listing, PeerChannel]] = []
        self.count = self.promised = 0

    def spendable_msat(self) -> int:
        """What the next HTLC may be worth: the fee of one HTLC more is deducted already."""
        live = [msat for payment in self.payments.values() for msat in payment.live]
        return max(self.ours_msat - sum(live) - FEE_MSAT * len(live), 0)

    def ask(self) -> None:
        """lightningd makes up its answer; it is used some steps later."""
        stack = contextlib.ExitStack()
        listing = stack.enter_context(self.book.listing())
        live = [(key(each.number)[1].hex(), msat) for each in self.payments.values() for msat in each.live]
        self.asked.append((stack, listing, row(self.spendable_msat(), *live)))

    def use(self) -> None:
        """An answer arrives: a payment is promised its room, if there is any."""
        if not self.asked:
            return
        stack, listing, channel = self.asked.pop(self.dice.randrange(len(self.asked)))
        parts = [self.dice.randrange(1, 45_000_000) for _ in range(self.dice.randrange(1, 4))]
        self.count += 1
        free = self.book.free(channel, key(self.count), len(parts), MOST_HTLCS, listing)
        if sum(parts) <= min(free.spendable_msat, free.in_flight_msat) and len(parts) <= free.htlcs:
            self.book.promise(CHANNEL, Promise(key(self.count), sum(parts), len(parts)))
            self.payments[self.count] = Payment(self.count, parts)
            self.promised += 1
            self.check()
        stack.close()

    def check(self) -> None:
        """All that is promised could go out now."""
        waiting = [msat for payment in self.payments.values() for msat in payment.waiting]
        fees_msat = FEE_MSAT * max(len(waiting) - 1, 0)
        assert sum(waiting) + fees_msat <= self.spendable_msat()

    def part_goes_out(self) -> None:
        """lightningd takes an HTLC."""
        payment = self.any([each for each in self.payments.values() if each.waiting])
        if payment is not None:
            self.book.goes_out(CHANNEL, key(payment.number), tuple(payment.waiting))
            msat = payment.waiting.pop()
            assert msat <= self.spendable_msat(), "lightningd would fail it"
            payment.live.append(msat)

    def part_ends(self) -> None:
        """The client takes a part or fails it; we hear of that later."""
        payment = self.any([each for each in self.payments.values() if each.live])
        if payment is not None:
            msat = payment.live.pop()
            self.ours_msat -= msat if self.dice.random() < 0.6 else 0

    def payment_ends(self) -> None:
        """We hear that all has ended; or a payment is given up before its parts went out."""
        ended = [each for each in self.payments.values() if not each.live]
        payment = self.any([each for each in ended if not each.waiting or self.dice.random() < 0.2])
        if payment is not None:
            del self.payments[payment.number]
            self.book.leave(CHANNEL, key(payment.number))

    def money_comes_back(self) -> None:
        """The client pays over its channel."""
        self.ours_msat = min(ROOM_MSAT, self.ours_msat + self.dice.randrange(40_000_000))

    def any(self, found: list[Payment]) -> Payment | None:
        """One of these."""
        return self.dice.choice(found) if found else None


def live(seed: int) -> int:
    """Live through one random sequence; return how many promises were made."""
    dice = random.Random(seed)
    node = Node(dice)
    steps = (node.ask, node.ask, node.use, node.use, node.part_goes_out, node.part_goes_out, node.part_ends,
             node.payment_ends, node.money_comes_back)  # fmt: skip
    for _ in range(30):
        dice.choice(steps)()
        node.check()
    return node.promised


def test_no_sequence_promises_more_than_the_channel_can_send() -> None:
    """rule:18: 2,000 of them, and promises are made in most."""
    assert sum(live(seed) > 1 for seed in range(2_000)) > 1_000


@pytest.mark.slow
def test_nor_does_any_of_a_hundred_thousand() -> None:
    """rule:18: 10^5 random sequences of asking, promising, sending, taking, failing and ending."""
    promised = sum(live(seed) for seed in range(100_000))
    assert promised > 100_000


def test_what_is_held_for_a_client_that_sleeps_has_room_too() -> None:
    """rule:18: from the moment it is held until it is in the channel, once; it is no promise that lasts."""
    book, name, hash_ = PromisedRoom(), b"call", key(1)[1]
    book.hold(CHANNEL, name, hash_, 60_000_000)
    assert free_msat(book, row()) == ROOM_MSAT - 60_000_000 - FEE_MSAT
    assert free_msat(book, replace(row(), channel_id="00" * 32)) == ROOM_MSAT
    assert not book.in_use(CHANNEL)
    with book.listing() as listing:  # asked for before it was let go, and so without it
        book.let_go(CHANNEL, name)
        book.let_go(CHANNEL, name)
        assert book.free(row(), key(2), 1, MOST_HTLCS, listing).spendable_msat == ROOM_MSAT - 60_000_000 - FEE_MSAT
    assert free_msat(book, row(ROOM_MSAT - 60_000_000, (hash_.hex(), 60_000_000))) == ROOM_MSAT - 60_000_000
