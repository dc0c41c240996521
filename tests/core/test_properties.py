"""Random stories over a small world (`world.py`), in both runs at once: what must hold, holds after every fact."""

from __future__ import annotations

from typing import Any

import pytest
from harness.random_world import BUYS, PREIMAGES, Offer, World
from harness.scene import HEIGHT, LIMITS, SIZE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from lsps2fast import actions as order

ANY = st.integers(0, 2**16)
VALUES = st.sampled_from([1, 999, 1_000, 9_999, 10_001, SIZE // 3, SIZE // 2, SIZE - 1, SIZE, 2 * SIZE])
CLTVS = st.sampled_from([HEIGHT + 152, HEIGHT + 160, HEIGHT + 300, HEIGHT + 1_000])
LIMIT_SETS = st.sampled_from(
    [
        LIMITS,
        LIMITS,
        replace(LIMITS, htlc_minimum_msat=1_000),
        replace(LIMITS, htlc_minimum_msat=SIZE // 2),
        replace(LIMITS, spendable_msat=SIZE),
        replace(LIMITS, to_self_delay_blocks=9_999),
    ]
)
MOSTLY = st.sampled_from([True] * 5 + [False])
RARELY = st.sampled_from([False] * 5 + [True])
CLIENTS = sorted({peer_id for peer_id, _ in BUYS.values()})
PAIRS = [(11, 12), (11, 13), (12, 14), (11,), (12,), (13, 14)]


class Stories(RuleBasedStateMachine):
    """Facts in any order that a node could bring them in."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.scids: tuple[int, ...] = (11,)

    @initialize(scids=st.sampled_from(PAIRS), online=MOSTLY)
    def the_day_begins(self, scids: tuple[int, ...], online: bool) -> None:
        self.scids = scids
        for peer_id in CLIENTS[: len(CLIENTS) * online]:
            self.a_client_comes_or_goes(peer_id, True)

    def _held(self) -> list[Any]:
        return [key for key, htlc in self.world.htlcs.items() if htlc.status == "held"]

    def _out(self) -> list[Any]:
        """Forwarded parts that an event can still come for: not those in a withheld channel that was closed
        (cln:A3).
        """
        offers = self.world.offers
        return [
            key
            for key, htlc in self.world.htlcs.items()
            if htlc.status == "out" and self._open(offers[htlc.scid], htlc.channel_id)
        ]

    @staticmethod
    def _open(offer: Offer, channel_id: str) -> bool:
        return offer.channels[channel_id] == "sent" or channel_id not in offer.closed | offer.undoing

    @rule(which=ANY, payment_hash=st.sampled_from(list(PREIMAGES)), value=VALUES, cltv=CLTVS)
    def a_part_comes(self, which: int, payment_hash: bytes, value: int, cltv: int) -> None:
        self.world.part(self.scids[which % len(self.scids)], payment_hash, value, cltv)

    @rule(which=ANY, payment_hash=st.sampled_from(list(PREIMAGES)), parts=st.integers(1, 4), far=MOSTLY)
    def a_whole_payment_comes(self, which: int, payment_hash: bytes, parts: int, far: bool) -> None:
        for _ in range(parts):
            cltv = self.world.height + 152 + 800 * far
            self.world.part(self.scids[which % len(self.scids)], payment_hash, -(-SIZE // parts), cltv)

    @rule(which=ANY, parts=st.integers(1, 2))
    def a_payment_comes_while_another_waits(self, which: int, parts: int) -> None:
        first, second = PREIMAGES
        self.world.part(self.scids[which % len(self.scids)], first, SIZE // 3, self.world.height + 900)
        self.a_whole_payment_comes(which, second, parts, True)
        self.the_node_is_quick(12)

    @precondition(lambda self: self.world.pending)
    @rule(which=ANY, well=MOSTLY, limits=LIMIT_SETS, by_client=st.booleans())
    def the_node_answers(self, which: int, well: bool, limits: order.ChannelLimits, by_client: bool) -> None:
        pending = self.world.pending
        self.world.answer(pending[which % len(pending)], well, limits, by_client)

    @precondition(lambda self: self.world.pending)
    @rule(steps=st.integers(1, 12))
    def the_node_is_quick(self, steps: int) -> None:
        for _ in range(steps):
            for action in self.world.pending[:1]:
                self.world.answer(action, True, LIMITS)

    @precondition(lambda self: self._out())
    @rule(which=ANY, paid=st.booleans())
    def the_client_resolves_a_part(self, which: int, paid: bool) -> None:
        out = self._out()
        self.world.resolve(out[which % len(out)], paid)

    @precondition(lambda self: self._cut_off())
    @rule(which=ANY)
    def a_preimage_comes_from_a_closed_channel(self, which: int) -> None:
        cut_off = self._cut_off()
        self.world.resolve(cut_off[which % len(cut_off)], True)

    def _cut_off(self) -> list[Any]:
        """Parts in a withheld channel that is closed, not yet undone."""
        offers = self.world.offers
        return [
            key
            for key, htlc in self.world.htlcs.items()
            if htlc.status == "out" and offers[htlc.scid].channels[htlc.channel_id] == "withheld"
            if not self._open(offers[htlc.scid], htlc.channel_id)
        ]

    @precondition(lambda self: self._held())
    @rule(which=ANY)
    def a_held_part_is_delivered_again(self, which: int) -> None:
        held = self._held()
        self.world.deliver(held[which % len(held)])

    @precondition(lambda self: self._held())
    @rule(which=ANY)
    def a_payers_channel_leaves(self, which: int) -> None:
        held = self._held()
        self.world.leave(held[which % len(held)][0])

    @rule(peer_id=st.sampled_from(CLIENTS), online=MOSTLY)
    def a_client_comes_or_goes(self, peer_id: str, online: bool) -> None:
        (self.world.online.add if online else self.world.online.discard)(peer_id)
        self.world.tell("peer", peer_id, online, self.world.wall_ms)

    @rule(blocks=st.sampled_from([-3, 1, 1, 2, 10, 60, 141, 950]))
    def blocks_come(self, blocks: int) -> None:
        self.world.height = max(self.world.height, self.world.height + blocks)
        self.world.tell("block", self.world.height + min(blocks, 0))

    @rule(seconds=st.sampled_from([0, 1, 1, 1, 1, 30, 90, 90, 3_600]), fed=MOSTLY)
    def time_passes(self, seconds: int, fed: bool) -> None:
        self.world.now_ms += seconds * 1000
        self.world.wall_ms += seconds * 1000
        for _ in range(fed):
            self.world.tell("tick", self.world.now_ms, self.world.wall_ms)

    @precondition(lambda self: self._channels())
    @rule(which=ANY, really=RARELY)
    def a_channel_closes(self, which: int, really: bool) -> None:
        channels = self._channels()
        for channel in channels[which % len(channels) :][:really]:
            self.world.close(*channel)

    @rule(which=ANY)
    def a_block_has_a_close(self, which: int) -> None:
        """It is told once, whatever is under way (people:S17)."""
        closed = [
            (offer, channel_id)
            for offer in self.world.offers.values()
            for channel_id in sorted(offer.closed - offer.back)
            if not offer.gone
        ]
        for offer, channel_id in closed[which % (len(closed) or 1) :][:1]:
            offer.back.add(channel_id)
            self.world.tell("money_back", channel_id)

    def _channels(self) -> list[tuple[int, str]]:
        return [
            (scid, channel_id)
            for scid, offer in self.world.offers.items()
            for channel_id, state in offer.channels.items()
            if state != "undone" and channel_id not in offer.closed and not offer.gone
        ]

    @rule(written=st.booleans(), really=RARELY, politely=st.booleans())
    def the_process_dies_and_starts_again(self, written: bool, really: bool, politely: bool) -> None:
        for _ in range(really and politely):
            self.world.tell("shutdown")
            assert [key for key in self._held() if self.world.knows(key)] == []
        for _ in range(really):
            self.world.crash(written)
            for key in self.world.lost_calls():
                self.world.deliver(key)

    @invariant()
    def what_must_hold_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        """However it went: once the node has done all and the offers have ended, nothing is left, nothing waits."""
        world = self.world
        for _ in range(200):
            for action in world.pending[:1]:
                world.answer(action, True, LIMITS)
        assert world.pending == []
        for key in self._out():
            world.resolve(key, False)
        for _ in range(50):
            for action in world.pending[:1]:
                world.answer(action, True, LIMITS)
        world.now_ms += 10_000_000
        world.wall_ms += 10_000_000
        world.tell("tick", world.now_ms, world.wall_ms)
        for _ in range(50):
            for action in world.pending[:1]:
                world.answer(action, True, LIMITS)
        for scid, channel_id in self._channels():  # unpaid ones stay until their money is back (people:S17)
            world.close(scid, channel_id)
        for offer in world.offers.values():
            for channel_id in offer.channels.keys() - offer.back:
                world.tell("money_back", channel_id)
        assert self._held() == []
        core = world.twin.core
        assert (list(core.index), core.by_hash, core.live, core.buys) == ([], {}, 0, {})
        assert all(offer.gone for offer in world.offers.values())
        for offer in world.offers.values():
            assert set(offer.channels.values()) <= {"undone", "sent"}


Stories.TestCase.settings = settings(
    deadline=None,
    max_examples=100,
    stateful_step_count=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
TestStories = pytest.mark.slow(Stories.TestCase)
