"""Ends without an announcement are looked for: fundings without a block, parts that ended unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import pytest
from harness.session_records import ALIAS, CHANNEL, CLIENT, ID, JIT, PARTS, channel, record, row, snapshot

from lsps2fast.actions import Channel
from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.funding import Funder
from lsps2fast_plugin.service.missed_events import (
    ALARM_AFTER_BLOCKS,
    BURIED_BLOCKS,
    FUNDING_EVERY_BLOCKS,
    MOST_BLOCKS,
    MissedEventPoller,
    SessionKey,
)
from lsps2fast_plugin.service.reconcile import Snapshot
from lsps2fast_plugin.service.session_record import StoredSession

KEY: SessionKey = (JIT, b"\x07" * 32)
UNCONFIRMED = channel(funding={"withheld": False})
CONFIRMED = channel(funding={"withheld": False}, short_channel_id="7x1x0")


class Waiting:
    """What waits, and what it was told."""

    def __init__(self) -> None:
        self.alarms: list[str] = []
        self.ends: list[tuple[tuple[int, int], bool]] = []
        self.closed: list[str] = []  # channel ids
        self.money: list[str] = []  # channel ids
        self.back: list[str] = []  # channel ids
        self.parts: dict[SessionKey, StoredSession] = {}
        self.owed: dict[str, str] = {}

    def waiting(self) -> dict[SessionKey, StoredSession]:
        """As `SessionDriver.waiting`, and so on."""
        return self.parts

    def unpaid(self) -> dict[str, str]:
        """Channels whose money is waited for."""
        return self.owed

    def told(self, part: tuple[int, int], settled: bool) -> None:
        """A part has ended."""
        self.ends.append((part, settled))

    def channel_closed(self, channel_id: str) -> None:
        """A channel is closing or gone."""
        self.closed.append(channel_id)

    def money_seen(self, channel_id: str) -> None:
        """The client holds money in it."""
        self.money.append(channel_id)

    def never_funded(self, channel_id: str) -> None:
        """Our money is back."""
        self.back.append(channel_id)

    def alarm(self, text: str) -> None:
        """The operator is told."""
        self.alarms.append(text)


class Node:
    """What the lookout asks and tells."""

    def __init__(self) -> None:
        self.found: PeerChannel | None = UNCONFIRMED
        self.error: NodeError | None = None
        self.said = snapshot(channel())
        self.sent: list[int] = []  # heights at which the funding was sent again
        self.asked: list[int] = []  # heights at which the tables were read
        self.asked_for: list[int] = []  # heights at which bitcoind was asked for the funding
        self.lost = False  # bitcoind has the funding no more
        self.sessions = Waiting()
        self.height = 100
        self.lookout = MissedEventPoller(
            funder=cast(Funder, self),
            broadcaster=cast(Broadcaster, self),
            tables=self,
            sessions=self.sessions,
        )
        self.lookout.load([], [], self.height)

    async def find(self, peer_id: str, channel_id: str) -> PeerChannel | None:
        """As `Funder.find`."""
        return self.found

    async def send(self, peer_id: str, channel: Channel) -> str:
        """As `Funder.send`."""
        self.sent.append(self.height)
        if self.error is not None:
            raise self.error
        return channel.funding_txid

    async def send_if_lost(self, peer_id: str, channel: Channel) -> bool:
        """As `Broadcaster.send_if_lost`."""
        self.asked_for.append(self.height)
        if self.lost:
            await self.send(peer_id, channel)
            self.lost = False
            return True
        return False

    async def snapshot(self, records: Iterable[StoredSession]) -> Snapshot:
        """As `Reconciler.snapshot`."""
        self.asked.append(self.height)
        if self.error is not None:
            raise self.error
        return self.said

    def mine(self, blocks: int) -> None:
        """Blocks come, one after the other."""

        async def each() -> None:
            for _ in range(blocks):
                self.height += 1
                await self.lookout.block(self.height)

        asyncio.run(each())


def test_a_funding_is_sent_again_until_a_block_has_it() -> None:
    """rule:8: bitcoind may have forgotten it; then it is out of mind."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.mine(FUNDING_EVERY_BLOCKS + 1)
    assert node.sent == [101, 101 + FUNDING_EVERY_BLOCKS]
    node.found = CONFIRMED
    node.mine(2 * FUNDING_EVERY_BLOCKS)
    assert (len(node.sent), len(node.lookout)) == (2, 0)


def in_a_block(height: int, **more: object) -> PeerChannel:
    """The channel, its funding in this block, as far as lightningd knows."""
    facts: dict[str, object] = {"funding": {"withheld": False}, "short_channel_id": f"{height}x1x0"}
    return channel(**(facts | more))


def test_a_funding_is_looked_at_until_it_is_buried() -> None:
    """rule:8: one question at six confirmations, none in between; then it is out of mind."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.found = in_a_block(101)
    node.mine(BURIED_BLOCKS - 1)
    assert (node.asked_for, len(node.lookout)) == ([], 1)
    node.mine(1)
    assert (node.asked_for, node.sent, len(node.lookout)) == ([106], [], 0)


@pytest.mark.parametrize("back", [0, 1, 3])
def test_a_funding_that_a_reorg_loses_is_sent_again_and_watched_anew(back: int) -> None:
    """rule:8: lightningd goes on naming the block it had; a height that came before tells of the reorg."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.found = in_a_block(101)
    node.mine(4)
    node.lost = True
    node.height -= back + 1
    node.mine(back + 1)
    assert node.sent == node.asked_for == []
    node.mine(1)
    assert (len(node.sent), len(node.asked_for)) == (1, 1)
    node.mine(BURIED_BLOCKS - 1)
    assert len(node.lookout) == 1
    node.lost = True  # found at the last look, too
    node.mine(2)
    assert len(node.sent) == 2
    node.mine(BURIED_BLOCKS + 1)
    assert (len(node.sent), len(node.lookout)) == (2, 0)


def test_a_reorg_that_loses_nothing_sends_nothing() -> None:
    """rule:8: bitcoind has put it back into its mempool."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.found = in_a_block(101)
    node.mine(2)
    node.height -= 1
    node.mine(BURIED_BLOCKS + 2)
    assert (node.sent, len(node.lookout)) == ([], 0)


def test_a_lost_funding_that_cannot_be_sent_is_tried_with_each_block() -> None:
    """rule:8, rule:10."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.found = in_a_block(101)
    node.mine(2)
    node.lost, node.error = True, NodeError("sendpsbt", -1, "bitcoind is away")
    node.height -= 1
    node.mine(4)
    assert len(node.sent) == 3  # the first of these heights came before
    node.error = None
    node.mine(1)
    assert (len(node.sent), node.lost) == (4, False)


@pytest.mark.parametrize(
    "found", [in_a_block(101, state="ONCHAIN"), in_a_block(101, funding_txid="ab" * 32)], ids=["closed", "spliced"]
)
def test_a_funding_that_was_spent_is_not_sent(found: PeerChannel) -> None:
    """rule:23: by a close, or by a splice."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.found = found
    node.lost = True
    node.height -= 1
    node.mine(2)
    assert (node.sent, len(node.lookout)) == ([], 0)


def test_a_funding_without_a_block_alarms_once_and_is_given_up_in_the_end() -> None:
    """rule:8, rule:14: the operator hears of it; what bitcoind itself would drop is not looked at for ever."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.mine(ALARM_AFTER_BLOCKS - FUNDING_EVERY_BLOCKS)
    assert node.sessions.alarms == []
    node.mine(MOST_BLOCKS)
    assert len(node.sessions.alarms) == 1
    assert len(node.lookout) == 0


def test_an_error_ends_no_watch() -> None:
    """rule:10."""
    node = Node()
    node.lookout.funding(CLIENT, CHANNEL)
    node.error = NodeError("sendpsbt", -1, "bitcoind is away")
    node.mine(FUNDING_EVERY_BLOCKS + 1)
    assert (len(node.sent), len(node.lookout)) == (2, 1)


@pytest.mark.parametrize(
    ("found", "closed", "back"),
    [
        (None, [], [ID]),
        (channel(state="ONCHAIN"), [], [ID]),
        (channel(state="CLOSINGD_COMPLETE"), [ID], []),
        (CONFIRMED, [], []),
    ],
    ids=["forgotten", "its close in a block", "closing", "open"],
)
def test_an_unpaid_channel_that_went_without_a_word_is_found(
    found: PeerChannel | None, closed: list[str], back: list[str]
) -> None:
    """people:S17, rule:9: its record waits for money that is back, or never comes."""
    node = Node()
    node.sessions.owed = {ID: CLIENT}
    node.found = found
    node.mine(2)
    assert (node.sessions.closed, node.sessions.back) == (closed, back)


@pytest.mark.parametrize(("to_us_msat", "withheld", "seen"), [(0, True, True), (None, True, False), (0, False, False)])
def test_a_withheld_channel_that_holds_money_of_the_client_is_seen(
    to_us_msat: int | None, withheld: bool, seen: bool
) -> None:
    """people:S9, rule:25: its parts are in no table that we know them in; the balance is enough."""
    node = Node()
    ours_msat = 100_000_000 if to_us_msat is None else to_us_msat
    node.said = snapshot(channel(funding={"withheld": withheld}, total_msat=100_000_000, to_us_msat=ours_msat))
    node.sessions.parts = {KEY: record("forwards", channel=CHANNEL, forwards=PARTS)}
    node.mine(2)
    assert node.sessions.money == ([ID] if seen else [])


def test_an_unpaid_channel_is_looked_at_with_growing_pauses() -> None:
    """people:S17, rule:10: a month is some ten questions, and an error ends none."""
    node = Node()
    node.sessions.owed = {ID: CLIENT}
    node.found = CONFIRMED
    node.mine(4_000)
    node.found = None
    node.mine(4_000)
    assert len(node.sessions.back) == 1


def test_a_channel_that_is_gone_needs_no_funding() -> None:
    """lightningd has forgotten it."""
    node = Node()
    node.found = None
    node.lookout.funding(CLIENT, CHANNEL)
    node.mine(1)
    assert (node.sent, len(node.lookout)) == ([], 0)


@pytest.mark.parametrize(
    ("found", "outcome", "watched"),
    [(UNCONFIRMED, "Succeeded", 1), (CONFIRMED, "Succeeded", 0), (channel(), "Failed", 0), (UNCONFIRMED, None, 0)],
    ids=["no block yet", "confirmed", "withheld", "not over: its session sends it"],
)
def test_a_start_finds_the_fundings_of_finished_sales(found: PeerChannel, outcome: str | None, watched: int) -> None:
    """rule:8: over restarts."""
    node = Node()
    stored = record("paid", CHANNEL)._replace(outcome=outcome)
    node.lookout.load([stored], [found], 100)
    assert len(node.lookout) == watched


def test_parts_are_looked_at_ever_more_rarely() -> None:
    """Bounded: after 1, 2, 4, 8 blocks more; nothing is asked when nothing waits; old heights are no news (cln:R2)."""
    node = Node()
    node.mine(3)
    assert node.asked == []
    node.sessions.parts = {KEY: record("forwards", CHANNEL, PARTS)}
    node.mine(40)
    first = node.asked[0]
    assert [height - first for height in node.asked] == [0, 2, 6, 14, 30]
    node.height = 50
    node.mine(20)
    assert len(node.asked) == 5


def test_what_was_paid_is_told_before_what_was_lost() -> None:
    """cln:F4, K-11, rule:12: by incoming channel and id."""
    node = Node()
    node.sessions.parts = {KEY: record("forwards", CHANNEL, PARTS)}
    node.said = snapshot(channel(), rows=(row(0, "failed"), row(1, "settled")))
    node.mine(2)
    assert node.sessions.ends == [((ALIAS, 1), True), ((ALIAS, 0), False)]
    assert node.sessions.closed == []


def test_parts_that_are_still_out_are_left_alone() -> None:
    """rule:10: a row that says offered, or none yet."""
    node = Node()
    node.sessions.parts = {KEY: record("forwards", CHANNEL, PARTS)}
    node.said = snapshot(channel(), rows=(row(0, "offered"),))
    node.mine(2)
    assert (node.sessions.ends, node.sessions.closed) == ([], [])


def test_a_channel_that_closed_unheard_is_told() -> None:
    """cln:A3: what its parts come to is the machine's to say."""
    node = Node()
    node.sessions.parts = {KEY: record("forwards", CHANNEL, PARTS)}
    node.said = snapshot(channel(ID, state="ONCHAIN"))
    node.mine(2)
    assert node.sessions.closed == [ID]


def test_a_node_that_does_not_answer_is_asked_again() -> None:
    """rule:10."""
    node = Node()
    node.sessions.parts = {KEY: record("forwards", CHANNEL, PARTS)}
    node.error = NodeError("listforwards", -1, "busy")
    node.mine(5)
    assert (len(node.asked), node.sessions.ends) == (2, [])
