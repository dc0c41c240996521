"""The one way a funding goes on chain: reserve, then look, then send (rule:23)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, cast

import pytest
from harness.rows import CHANNEL as CHANNEL_ROW

import lsps2fast_plugin.service
from lsps2fast.actions import Channel, Funding
from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service import broadcast
from lsps2fast_plugin.service.broadcast import Broadcaster, ProofOfLife
from lsps2fast_plugin.service.coins import Coins
from lsps2fast_plugin.service.funding import ChannelGone

PEER, ID, TXID = "02" + "aa" * 32, "cc" * 32, "dd" * 32
CHANNEL = Channel(ID, "signed", TXID)
FUNDING = Funding("psbt", ("ee" * 32 + ":0",), 200, 100_000)
ALIVE: dict[str, Any] = CHANNEL_ROW | {
    "channel_id": ID,
    "state": "CHANNELD_NORMAL",
    "funding": {"withheld": True},
    "total_msat": 10,
    "to_us_msat": 10,
}
UNRESERVED = "Aborting PSBT signing. UTXO x:0 is not reserved"


class Node:
    """lightningd, as far as a funding is concerned: one channel, its coins, what happens before the nth call."""

    def __init__(self, row: dict[str, Any] | None = None, closed: dict[str, Any] | None = None) -> None:
        self.row, self.closed = dict(ALIVE) if row is None else row, closed
        self.reserved, self.signed, self.sent = True, True, False
        self.before: dict[str, Any] = {}  # method -> what happens right before it is carried out, once
        self.calls: list[str] = []
        self.renewed = 0
        self.broadcaster = Broadcaster(cast(Rpc, self), cast(Coins, self))

    async def call(self, method: str, params: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.calls.append(method)
        if act := self.before.pop(method, None):
            act()
        match method:
            case "listpeerchannels":
                return {"channels": [self.row] if self.row else []}
            case "listclosedchannels":
                return {"closedchannels": [self.closed] if self.closed else []}
            case "reserveinputs":
                self.reserved = True
            case "unreserveinputs":
                self.reserved = False
            case "signpsbt":
                self.signed = True
                return {"signed_psbt": "signed"}
            case "sendpsbt":
                if not self.reserved:
                    raise NodeError(method, -1, UNRESERVED)
                if not self.signed:
                    raise NodeError(method, -1, "PSBT not finalizeable x")
                self.sent = True
                return {"txid": TXID}
        return {}

    async def renew(self, jit_scid: int, funding: Funding, late: Any = None) -> None:
        """As `Coins.renew`."""
        self.renewed += 1
        self.reserved = True

    def give_up(self) -> None:
        """What lightningd does when the peer sends `error` (cln:N2)."""
        if self.row:
            self.row, self.closed, self.reserved = None, {"channel_id": ID, "funding_withheld": True}, False  # type: ignore[assignment]

    def send(self) -> str:
        return asyncio.run(self.broadcaster.send(PEER, CHANNEL))


def test_a_living_channel_is_looked_up_and_funded() -> None:
    """rule:23: one look, one sending."""
    node = Node()
    assert node.send() == TXID
    assert node.calls == ["listpeerchannels", "sendpsbt"]


@pytest.mark.parametrize("closed", [None, {"channel_id": ID, "funding_withheld": True}, {"channel_id": ID}])
def test_a_channel_that_is_gone_is_not_funded(closed: dict[str, Any] | None) -> None:
    """people:S0, people:S20, cln:N2: deleted, or not known at all."""
    node = Node({}, closed)
    with pytest.raises(ChannelGone):
        node.send()
    assert not node.sent
    assert "sendpsbt" not in node.calls


@pytest.mark.parametrize("before", ["listpeerchannels", "sendpsbt", "reserveinputs", "signpsbt"])
@pytest.mark.parametrize(("reserved", "signed"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_channel_that_goes_at_any_step_is_not_funded(before: str, reserved: bool, signed: bool) -> None:
    """people:S0, people:S7, rule:23: its coins are not reserved after the look, so lightningd refuses."""
    node = Node()
    node.reserved, node.signed = reserved, signed
    node.before[before] = node.give_up
    try:
        node.send()
    except ChannelGone:
        assert not node.sent
        assert not node.reserved
    else:
        assert before not in node.calls


@pytest.mark.parametrize("signed", [True, False])
def test_coins_whose_time_was_over_are_reserved_again_for_a_channel_that_lives(signed: bool) -> None:
    """trap:8, rule:23: between the last reservation and the sending there is a look."""
    node = Node()
    node.reserved, node.signed = False, signed
    assert node.send() == TXID
    last = len(node.calls) - 1 - node.calls[::-1].index("reserveinputs")
    assert "listpeerchannels" in node.calls[last:]
    assert node.calls[-1] == "sendpsbt"


@pytest.mark.parametrize("words", broadcast.KNOWN_TO_BITCOIND)
def test_known_to_bitcoind_is_sent(words: str) -> None:
    """cln:O6."""
    node = Node()

    def refuse() -> None:
        raise NodeError("sendpsbt", -1, f"Error broadcasting transaction: {words}")

    node.before["sendpsbt"] = refuse
    assert node.send() == TXID


@pytest.mark.parametrize("state", ["CHANNELD_SHUTTING_DOWN", "CLOSINGD_SIGEXCHANGE", "CLOSINGD_COMPLETE"])
@pytest.mark.parametrize("paid", [True, False])
def test_a_withheld_channel_that_closes_is_funded_only_for_money_of_the_client(state: str, paid: bool) -> None:
    """trap:52, K-12: else its close gives our coins back by itself."""
    node = Node(ALIVE | {"state": state, "to_us_msat": 9 if paid else 10})
    if paid:
        assert node.send() == TXID
    else:
        with pytest.raises(ChannelGone):
            node.send()
    assert node.sent is paid


def test_a_public_channel_that_closes_before_a_block_has_it_is_sent_again() -> None:
    """rule:8: its close keeps our claim, and needs the funding."""
    node = Node(ALIVE | {"state": "AWAITING_UNILATERAL", "funding": {"withheld": False}})
    assert node.send() == TXID
    assert node.sent


@pytest.mark.parametrize(
    ("row", "closed"),
    [
        (ALIVE | {"funding": {"withheld": False}, "short_channel_id": "1x1x1"}, None),
        ({}, {"channel_id": ID, "funding_withheld": False}),
        ({}, {"channel_id": ID, "short_channel_id": "1x1x1"}),
    ],
)
def test_what_is_on_chain_is_not_sent_again(row: dict[str, Any], closed: dict[str, Any] | None) -> None:
    """cln:O6: a block has it, or it was closed after that."""
    node = Node(row, closed)
    assert node.send() == TXID
    assert not node.sent


def test_no_answer_is_no_proof() -> None:
    """K-13: lightningd says nothing: nothing is sent, and the caller tries again."""
    node = Node()

    def silence() -> None:
        raise NodeUnreachable("listpeerchannels", "no answer")

    node.before["listpeerchannels"] = silence
    with pytest.raises(NodeUnreachable):
        node.send()
    assert not node.sent


def test_coins_of_a_channel_that_is_gone_are_not_renewed() -> None:
    """rule:23: a reservation for nobody would also open the way for its funding."""
    node = Node()
    asyncio.run(node.broadcaster.renew(1, FUNDING, PEER, ID))
    asyncio.run(node.broadcaster.renew(1, FUNDING, PEER, None))
    assert node.renewed == 2
    node.give_up()
    with pytest.raises(ChannelGone):
        asyncio.run(node.broadcaster.renew(1, FUNDING, PEER, ID))
    assert node.renewed == 2


def test_nothing_is_renewed_between_the_look_and_the_sending() -> None:
    """rule:23: a renewal that looked before the channel went must not reserve after the look of a sending."""

    async def both(node: Node) -> None:
        node.before["sendpsbt"] = node.give_up
        results = await asyncio.gather(
            node.broadcaster.send(PEER, CHANNEL),
            node.broadcaster.renew(1, FUNDING, PEER, ID),
            return_exceptions=True,
        )
        assert all(isinstance(result, ChannelGone) for result in results)

    node = Node()
    asyncio.run(both(node))
    assert not node.sent
    assert not node.reserved


# By construction ------------------------------------------------------------------------------------


def test_a_proof_of_life_cannot_be_made_elsewhere() -> None:
    """rule:23."""
    with pytest.raises(TypeError, match="Broadcaster"):
        ProofOfLife(object(), ID, False)


def test_nothing_is_sent_without_a_proof() -> None:
    """rule:23."""
    node = Node()
    with pytest.raises(TypeError, match="proof"):
        asyncio.run(node.broadcaster._put_on_chain(cast(ProofOfLife, None), "signed"))
    assert node.calls == []


@pytest.mark.parametrize(
    ("method", "places"),
    [("sendpsbt", {"broadcast.py": 1}), ("fundchannel_cancel", {"opening.py": 1}), ("disconnect", {"opening.py": 1})],
)
def test_calls_that_can_cost_money_are_made_in_one_place(method: str, places: dict[str, int]) -> None:
    """rule:23, rule:26: whoever adds another has to think of this page first."""
    found: dict[str, int] = {}
    for path in Path(lsps2fast_plugin.service.__file__).parent.rglob("*.py"):
        count = len(re.findall(rf'call\(\s*"{method}"', path.read_text()))
        if count:
            found[path.name] = count
    assert found == places
