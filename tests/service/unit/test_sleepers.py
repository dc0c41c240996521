"""What is held for clients that sleep over channels they have: how much, how long, and that it all is let go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from harness.negotiator import ALICE, BOB, StillClock
from harness.rows import peer_channel
from msgspec.structs import replace

from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.held_together import HeldKinds
from lsps2fast_plugin.service.policy.limits import Gate, GateLimits, Refusals
from lsps2fast_plugin.service.promised_room import PromisedRoom
from lsps2fast_plugin.service.shut_channels import ShutChannels
from lsps2fast_plugin.service.wake.sleepers import LOOK_S, LOOKS, MOST_OF_CLIENT, Sleepers

ONE, TWO = "aa" * 32, "bb" * 32
HEIGHT = 1_000
WAIT_MS = 120_000
SHARE_MSAT = 10_000
ROOM_MSAT = 1_000_000


@dataclass(frozen=True)
class Call:
    """A hook call, as much of it as is looked at."""

    id_raw: bytes
    amount_msat: int = 1
    cltv_expiry: int = HEIGHT + 100
    in_scid: int = 1
    forward_to: str = ONE
    forward_msat: int = -1
    payment_hash: bytes = bytes(32)


class Others:
    """What is held for sales."""

    def __init__(self) -> None:
        self.parts = self.held_msat = 0

    def __len__(self) -> int:
        return self.parts


class Bedroom:
    """Alice and Bob sleep, with a channel each."""

    def __init__(self, **limits: int) -> None:
        self.clock = StillClock()
        self.interest = HtlcFilter(compiled=False)
        self.gone: list[bytes] = []
        self.online: set[str] = set()
        self.is_ready = False
        self.looks = 0
        self.tasks: list[asyncio.Task[None]] = []
        self.others = Others()
        self.kinds = HeldKinds(self.others)
        self.room = PromisedRoom()
        self.ready: list[str] = []
        self.sleepers = Sleepers(
            host=self,
            shut=ShutChannels(self.interest, lambda _: False, self.rows),
            gate=Gate(GateLimits()._replace(**limits), Refusals()),
            clock=self.clock,
            spawn=lambda work: self.tasks.append(asyncio.ensure_future(work)),
            channels_of=self.rows,
            is_online=self.online.__contains__,
            kinds=self.kinds,
            room=self.room,
            ready=self.ready.append,
            most_msat_of_client=SHARE_MSAT,
            wait_ms=WAIT_MS,
        )
        self.sleepers.block(HEIGHT)
        for peer, channel in ((ALICE, ONE), (BOB, TWO)):
            self.sleepers.away(peer, [self.row(peer, channel)])
        self.clock.turned = self.turned  # type: ignore[method-assign]

    def row(self, peer: str, channel: str) -> PeerChannel:
        return peer_channel(peer_id=peer, channel_id=channel, peer_connected=True, reestablished=self.is_ready)

    async def rows(self, peer_id: str) -> list[PeerChannel]:
        self.looks += 1
        return [self.row(peer_id, ONE if peer_id == ALICE else TWO)]

    async def turned(self, seconds: float) -> None:
        self.clock.pass_ms(round(seconds * 1000))
        await asyncio.sleep(0)

    def let_go(self, id_raw: bytes) -> None:
        self.gone.append(id_raw)

    def hold(self, number: int, peer: str = ALICE, **said: Any) -> bool:
        call = Call(b"%d" % number, **said)
        return self.sleepers.hold(peer, call, call.in_scid)


def test_what_is_held_has_bounds_for_each_client_and_in_all() -> None:
    """rule:24: in number and in satoshis; one client cannot take what there is for all."""
    bedroom = Bedroom()
    assert [bedroom.hold(number) for number in range(MOST_OF_CLIENT + 1)] == [True] * MOST_OF_CLIENT + [False]
    assert not bedroom.hold(100, BOB, amount_msat=SHARE_MSAT + 1)
    assert bedroom.hold(101, BOB, amount_msat=SHARE_MSAT)
    assert not bedroom.hold(102, BOB)
    assert (len(bedroom.sleepers), bedroom.sleepers.held_msat) == (MOST_OF_CLIENT + 1, MOST_OF_CLIENT + SHARE_MSAT)


def test_what_sales_hold_counts_too() -> None:
    """rule:24: `lsps2-max-held-parts` and `lsps2-max-held-sat` bound both together."""
    bedroom = Bedroom(held_parts=3, held_sat=9)
    bedroom.others.parts, bedroom.others.held_msat = 2, 0
    assert [bedroom.hold(1), bedroom.hold(2)] == [True, False]
    bedroom.others.parts, bedroom.others.held_msat = 0, 8_000
    assert [bedroom.hold(3, amount_msat=1_001), bedroom.hold(4, amount_msat=999)] == [False, True]


def test_a_strangers_channel_fills_no_clients_room() -> None:
    """rule:24: what one channel has brought gives way to what another brings, its smallest first, down to a half."""
    bedroom = Bedroom()
    for number in range(MOST_OF_CLIENT):
        assert bedroom.hold(number, in_scid=7, amount_msat=100 - number)
    assert not bedroom.hold(50, in_scid=7, amount_msat=71)  # no larger than the smallest of its own channel
    assert bedroom.hold(51, in_scid=7, amount_msat=72)
    assert [bedroom.hold(100 + number, in_scid=8) for number in range(16)] == [True] * 15 + [False]
    assert bedroom.gone == [b"29", b"51", *(b"%d" % number for number in range(28, 14, -1))]
    assert (len(bedroom.sleepers), bedroom.sleepers.gave_way) == (MOST_OF_CLIENT, 16)
    assert bedroom.sleepers.held_msat == sum(range(86, 101)) + 15


def test_nor_does_it_with_a_fortune() -> None:
    """rule:24: likewise of the satoshis there are for one client."""
    bedroom, quarter = Bedroom(), SHARE_MSAT // 4
    assert [bedroom.hold(number, in_scid=7, amount_msat=quarter) for number in range(5)] == [True] * 4 + [False]
    assert [bedroom.hold(10 + number, in_scid=8, amount_msat=quarter) for number in range(3)] == [True, True, False]
    assert (bedroom.gone, bedroom.sleepers.held_msat) == ([b"3", b"2"], SHARE_MSAT)


@pytest.mark.parametrize("limit", [{"held_parts": 8}, {"held_sat": 8}])
def test_a_strangers_channel_fills_no_room_of_all(limit: dict[str, int]) -> None:
    """rule:24: whatever clients its HTLCs are for, and beside what is held for sales, which does not give way."""
    bedroom = Bedroom(**limit)
    bedroom.others.parts, bedroom.others.held_msat = 4, 4_000
    taken = [bedroom.hold(number, (ALICE, BOB)[number % 2], in_scid=7, amount_msat=1_000) for number in range(5)]
    assert taken == [True] * 4 + [False]
    later = [bedroom.hold(10 + number, ALICE, in_scid=8, amount_msat=1_000) for number in range(3)]
    assert later == [True] * 2 + [False]
    assert (bedroom.gone, len(bedroom.sleepers)) == ([b"3", b"1"], 4)
    bedroom.others.parts = bedroom.others.held_msat = 10_000
    assert not bedroom.hold(20, ALICE, in_scid=9, amount_msat=1)
    assert len(bedroom.sleepers) == 4


@pytest.mark.parametrize("left", [0, 1, 6])
def test_what_expires_soon_is_not_held(left: int) -> None:
    """rule:5, cln:H14: the payer's side would close its channel, with us, for a payment that a stranger made."""
    bedroom = Bedroom()
    assert not bedroom.hold(1, cltv_expiry=HEIGHT + left)
    assert bedroom.hold(2, cltv_expiry=HEIGHT + 7)
    assert bedroom.hold(3, cltv_expiry=HEIGHT + 8)
    assert bedroom.sleepers.nearest_expiry() == HEIGHT + 7
    bedroom.sleepers.block(HEIGHT + 1)
    bedroom.sleepers.block(HEIGHT - 30)  # cln:R2: old heights come again
    assert bedroom.gone == [b"2"]
    assert not bedroom.hold(4, cltv_expiry=HEIGHT + 7)
    assert len(bedroom.sleepers) == 1


def test_each_is_let_go_once() -> None:
    """rule:1: at its time, as its client is forgotten, or at the end; and nothing is held after that."""
    bedroom = Bedroom()
    bedroom.hold(1)
    bedroom.clock.pass_ms(WAIT_MS - 1)
    bedroom.hold(2)
    bedroom.hold(3, BOB)
    bedroom.sleepers.look()
    assert bedroom.gone == []
    bedroom.clock.pass_ms(1)
    bedroom.sleepers.look()
    assert bedroom.gone == [b"1"]
    bedroom.sleepers.forget(BOB)
    bedroom.sleepers.close()
    bedroom.sleepers.close()
    assert bedroom.gone == [b"1", b"3", b"2"]
    assert (len(bedroom.sleepers), bedroom.sleepers.held_msat, bedroom.sleepers.waited_for()) == (0, 0, [])
    assert bedroom.interest.channel_ids == set()
    bedroom.sleepers.away(ALICE, [bedroom.row(ALICE, ONE)])
    assert bedroom.sleepers.client_of(ONE) is None


def test_what_a_channel_brought_is_given_back_when_it_leaves() -> None:
    """rule:19: it is the caller's to fail."""
    bedroom = Bedroom()
    for number, in_scid in enumerate((7, 8, 7, 9)):
        bedroom.hold(number, BOB if number == 2 else ALICE, in_scid=in_scid)
    assert [call.id_raw for call in bedroom.sleepers.drop((7, 9))] == [b"0", b"3", b"2"]
    assert bedroom.sleepers.drop((7, 9)) == []
    assert (len(bedroom.sleepers), bedroom.sleepers.waited_for(), bedroom.gone) == (1, [ALICE], [])


async def test_a_client_that_flaps_costs_one_look_at_a_time() -> None:
    """trap:47, rule:14: a hundred comings are one task, which asks twice a second; and what is held waits on."""
    bedroom = Bedroom()
    bedroom.hold(1)
    for _ in range(100):
        bedroom.online.add(ALICE)
        bedroom.sleepers.back(ALICE)
        bedroom.online.clear()
        await asyncio.sleep(0)
        bedroom.online.add(ALICE)
        bedroom.sleepers.back(ALICE)
    await asyncio.gather(*bedroom.tasks)
    assert bedroom.looks <= 200 + LOOKS
    assert bedroom.gone == [b"1"]


async def test_who_is_back_gets_what_waited_once_its_channel_can_carry_it() -> None:
    """N-19: not before it is reestablished, and not for ever."""
    bedroom = Bedroom()
    bedroom.hold(1)
    bedroom.hold(2, BOB)
    bedroom.online.update((ALICE, BOB))
    begun_ms = bedroom.clock.now_ms()
    bedroom.sleepers.back(BOB)
    await asyncio.gather(*bedroom.tasks)
    assert (bedroom.looks, bedroom.clock.now_ms() - begun_ms) == (LOOKS, LOOKS * LOOK_S * 1000)
    bedroom.is_ready = True
    bedroom.sleepers.back(ALICE)
    await asyncio.gather(*bedroom.tasks)
    assert (bedroom.looks, bedroom.gone, bedroom.ready) == (LOOKS + 1, [b"2", b"1"], [TWO, ONE])
    assert bedroom.sleepers.woken == 2


@pytest.mark.parametrize("how", ["back", "in vain", "expires", "dropped", "gives way", "the end"])
def test_its_room_is_kept_as_long_as_it_is_held(how: str) -> None:
    """rule:18: a payment that is sold leaves it to what waits for the client, and to nothing else."""
    bedroom = Bedroom()
    assert bedroom.hold(1, amount_msat=SHARE_MSAT, forward_msat=900, in_scid=7)
    assert free_msat(bedroom) == ROOM_MSAT - 900
    match how:
        case "back":
            bedroom.sleepers.forget(ALICE)
        case "in vain":
            bedroom.clock.pass_ms(WAIT_MS)
            bedroom.sleepers.look()
        case "expires":
            bedroom.sleepers.block(HEIGHT + 99)
        case "dropped":
            assert len(bedroom.sleepers.drop([7])) == 1
        case "gives way":
            assert bedroom.hold(2, BOB, amount_msat=1, in_scid=8, forward_to=TWO)
            assert bedroom.hold(3, in_scid=8, amount_msat=2)
        case _:
            bedroom.sleepers.close()
    assert free_msat(bedroom) == ROOM_MSAT - (2 if how == "gives way" else 0)  # it names no amount that goes out


def free_msat(bedroom: Bedroom) -> int:
    """What is free of the channel of Alice."""
    row = replace(bedroom.row(ALICE, ONE), their_max_htlc_value_in_flight_msat=ROOM_MSAT)
    with bedroom.room.listing() as listing:
        return bedroom.room.free(row, (9, b""), 1, 30, listing).in_flight_msat


@pytest.mark.parametrize(("returning", "orders", "most"), [(0, 0, 6), (2, 0, 4), (6, 0, 0), (0, 4, 5), (3, 4, 2)])
@pytest.mark.parametrize("unit", ["held_parts", "held_sat"])
def test_they_leave_a_quarter_to_sales_and_one_to_orders(unit: str, returning: int, orders: int, most: int) -> None:
    """rule:24: half of all is theirs, with parts over aliases; with those of orders it is three quarters."""
    bedroom = Bedroom(**{unit: 12})
    over_aliases, of_orders = Others(), Others()
    over_aliases.parts, of_orders.parts = returning, orders
    over_aliases.held_msat, of_orders.held_msat = 1_000 * returning, 1_000 * orders
    bedroom.kinds.returning.add(over_aliases)
    bedroom.kinds.orders(of_orders)
    assert sum(bedroom.hold(number, in_scid=7, amount_msat=1_000) for number in range(12)) == most
