"""Channels that carry nothing but their payment: the sets of the reader, and what comes in from such a peer."""

from __future__ import annotations

import pytest
from harness.negotiator import ALICE, BOB
from harness.rows import peer_channel

from lsps2fast.errors import NodeError
from lsps2fast.lsps.lsps2 import parse_scid
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.shut_channels import ShutChannels

ONE, TWO = "aa" * 32, "bb" * 32
ROWS = [
    peer_channel(peer_id=ALICE, channel_id=ONE, short_channel_id="103x1x0", alias={"local": "7x7x7"}),
    peer_channel(peer_id=ALICE, channel_id=TWO, alias={"local": "8x8x8", "remote": "7x7x8"}),
]


class Doors:
    """A guard, with what it is told."""

    def __init__(self) -> None:
        self.interest = HtlcFilter(compiled=False)
        self.unpaid: set[str] = set()
        self.broken = False
        self.shut = ShutChannels(self.interest, self.unpaid.__contains__, self.rows)

    async def rows(self, peer_id: str) -> list[PeerChannel]:
        """What lightningd lists of this peer."""
        if self.broken:
            raise NodeError("listpeerchannels", -1, "away")
        return [row for row in ROWS if row.peer_id == peer_id]

    def sets(self) -> tuple[set[str], set[str]]:
        """The reader's sets: channels and peers."""
        return set(self.interest.channel_ids), set(self.interest.peers)


def test_a_channel_is_shut_while_it_is_withheld_or_unpaid() -> None:
    """rule:7, rule:21, people:S5: from one to the other without a gap; its peer is watched for as long."""
    doors = Doors()
    doors.shut.withhold(ONE, True, ALICE)
    assert doors.sets() == ({ONE}, {ALICE})
    doors.unpaid.add(ONE)
    doors.shut.withhold(ONE, False, ALICE)
    assert doors.sets() == ({ONE}, {ALICE})
    doors.unpaid.add(TWO)
    doors.shut.look(TWO, ALICE)
    doors.unpaid.discard(ONE)
    doors.shut.look(ONE, ALICE)
    assert doors.sets() == ({TWO}, {ALICE})
    doors.unpaid.discard(TWO)
    doors.shut.look(TWO, ALICE)
    assert doors.sets() == (set(), set())


def test_after_a_start_what_may_be_unpaid_waits_for_the_journal() -> None:
    """people:S5: no forward slips through before it is known which channels are paid for."""
    doors = Doors()
    for channel_id, peer_id in ((ONE, ALICE), (TWO, BOB)):
        doors.shut.wait_for(channel_id, peer_id)
    assert doors.sets() == ({ONE, TWO}, {ALICE, BOB})
    doors.unpaid.add(ONE)
    doors.shut.known()
    assert doors.sets() == ({ONE}, {ALICE})


@pytest.mark.parametrize(
    ("name", "broken", "passes"),
    [
        ("103x1x0", False, False),
        ("7x7x7", False, False),
        ("8x8x8", False, True),
        ("7x7x8", False, False),  # the peer's alias is no name of ours
        ("9x9x9", False, False),
        ("8x8x8", True, False),
    ],
)
async def test_what_comes_in_is_looked_up_by_every_name(name: str, broken: bool, passes: bool) -> None:
    """people:S5, rule:25: what cannot be looked up does not come in, and says why."""
    doors = Doors()
    doors.unpaid.add(ONE)
    doors.shut.look(ONE, ALICE)
    doors.broken = broken
    why = await doors.shut.why_not_in(ALICE, parse_scid(name))
    assert (why is None) is passes
    assert why is None or name in why or ONE in why
