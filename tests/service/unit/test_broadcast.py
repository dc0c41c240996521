"""The one way a funding goes on chain: reserve, then look, then send (rule:23)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, cast

import pytest
from harness.rows import CHANNEL as CHANNEL_ROW
from msgspec.structs import replace

import lsps2fast_plugin.service
from lsps2fast.actions import Channel, Funding
from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service import broadcast
from lsps2fast_plugin.service.broadcast import AHEAD_MS, Broadcaster, ProofOfLife, SisterGone
from lsps2fast_plugin.service.coins import Coins
from lsps2fast_plugin.service.funding import ChannelGone, FundingTakenBack
from lsps2fast_plugin.service.stray_fundings import TRIES
from lsps2fast_plugin.simnode.psbt import Output, Tx, encode

PEER, ID, TXID = "02" + "aa" * 32, "cc" * 32, "dd" * 32
COIN = "ee" * 32
PAID_SAT = 3_000
SIGNED = encode(
    Tx(((COIN, 0),), (Output(100_000, b"\0\x20" + bytes(32)),), (Output(100_000 + PAID_SAT, b"\x51\x20" + bytes(32)),))
)
CHANNEL = Channel(ID, SIGNED, TXID)
OUTNUM = int(ID[-4:], 16) ^ int.from_bytes(bytes.fromhex(TXID)[1::-1], "big")
FUNDING = Funding("psbt", (f"{COIN}:0",), 200, 100_000)
ALIVE: dict[str, Any] = CHANNEL_ROW | {
    "channel_id": ID,
    "state": "CHANNELD_NORMAL",
    "funding": {"withheld": True},
    "total_msat": 10,
    "to_us_msat": 10,
}
HTLC = {"direction": "out", "id": 0, "state": "SENT_ADD_HTLC", "amount_msat": 1, "expiry": 9, "payment_hash": "0" * 64}
UNRESERVED = "Aborting PSBT signing. UTXO x:0 is not reserved"


class Node:
    """lightningd, as far as a funding is concerned: one channel, its coins, what happens before the nth call."""

    def __init__(self, row: dict[str, Any] | None = None, closed: dict[str, Any] | None = None) -> None:
        self.row, self.closed = dict(ALIVE) if row is None else row, closed
        self.reserved, self.signed = True, True
        self.sent = self.taken_back = False
        self.refusals = 0  # of a replacement
        self.feerates: list[int] = []
        self.alarms: list[str] = []
        self.before: dict[str, Any] = {}  # method -> what happens right before it is carried out, once
        self.calls: list[str] = []
        self.renewed = self.now_ms = 0
        self.broadcaster = Broadcaster(cast(Rpc, self), cast(Coins, self), self.alarms.append, lambda: self.now_ms)

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
                if not self.reserved:
                    raise NodeError(method, -1, UNRESERVED)
                self.signed = True
                return {"signed_psbt": params["psbt"]}
            case "getutxout":
                assert params == {"txid": TXID, "vout": OUTNUM}
                return {"amount": "100000sat" if self.sent and not self.taken_back else None, "script": None}
            case "listfunds":
                change = {"txid": TXID, "output": 1, "amount_msat": 1, "scriptpubkey": "", "reserved": False}
                return {"outputs": [change | {"status": "unconfirmed"}] if self.sent and not self.taken_back else []}
            case "utxopsbt":
                assert (params["satoshi"], params["utxos"], params["reservedok"]) == ("all", [f"{COIN}:0"], True)
                self.feerates.append(int(params["feerate"].removesuffix("perkw")))
                self.reserved = True
                return {"psbt": "replacement", "excess_msat": 99_000_999}
            case "addpsbtoutput":
                assert params == {"satoshi": "99000sat", "initialpsbt": "replacement"}
                return {"psbt": "replacement"}
            case "sendpsbt" if params["psbt"] == "replacement":
                if self.refusals:
                    self.refusals -= 1
                    raise NodeError(method, -1, "Error broadcasting transaction: insufficient fee")
                self.taken_back = True
                self.reserved = False
                return {"txid": "ff" * 32}
            case "sendpsbt":  # it does not ask for reservations (cln:O1)
                if not self.signed:
                    raise NodeError(method, -1, "PSBT not finalizeable x")
                self.sent = True
                if self.row:
                    self.row["funding"] = {"withheld": False}
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
    """rule:23: one look, one sending, one look."""
    node = Node()
    assert node.send() == TXID
    assert node.calls == ["listpeerchannels", "sendpsbt", "listpeerchannels"]


@pytest.mark.parametrize(("age_ms", "looks"), [(AHEAD_MS - 1, 1), (AHEAD_MS, 2)])
def test_the_look_of_a_moment_ago_does_and_an_older_one_does_not(age_ms: int, looks: int) -> None:
    """P17, rule:23: asked for beside the record that is written first."""
    node = Node()

    async def send() -> None:
        node.broadcaster.look_ahead(PEER, ID)
        node.now_ms += age_ms
        await node.broadcaster.send(PEER, CHANNEL)

    asyncio.run(send())
    assert node.calls.index("sendpsbt") == looks
    assert node.calls.count("listpeerchannels") == looks + 1


def test_a_channel_that_is_gone_at_the_look_ahead_is_not_funded() -> None:
    """rule:23."""
    node = Node({})

    async def send() -> None:
        node.broadcaster.look_ahead(PEER, ID)
        await node.broadcaster.send(PEER, CHANNEL)

    with pytest.raises(ChannelGone):
        asyncio.run(send())
    assert "sendpsbt" not in node.calls


def test_a_look_that_came_before_the_sending_began_is_none_after_it() -> None:
    """rule:23, cln:N2: the channel is listed withheld and goes then: what went out is taken back."""
    node = Node()
    ask, looks = node.call, 0

    async def call(method: str, params: dict[str, Any], *rest: Any, **more: Any) -> dict[str, Any]:
        nonlocal looks
        looks += method == "listpeerchannels"
        if method != "sendpsbt" or node.sent:
            return await ask(method, params, *rest, **more)
        while looks < 2:  # noqa: ASYNC110, lightningd takes the look first
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        node.give_up()
        return await ask(method, params, *rest, **more)

    node.call = call  # type: ignore[method-assign]
    with pytest.raises(FundingTakenBack):
        node.send()
    assert node.taken_back


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
    """people:S0, people:S7, rule:23, cln:O1: nothing is sent, or it is taken back."""
    node = Node()
    node.reserved, node.signed = reserved, signed
    node.before[before] = node.give_up
    outcome: type[ChannelGone] | None = None
    try:
        node.send()
    except ChannelGone as gone:
        outcome = type(gone)
    if outcome is None:
        assert before not in node.calls
    else:
        assert node.sent == node.taken_back == (outcome is FundingTakenBack) == bool(node.alarms)
        assert not node.reserved


def test_what_went_out_too_late_is_replaced_for_more() -> None:
    """people:S0, rule:23, cln:O1: at a rate that pays more than the funding did, higher where bitcoind wants more."""
    node = Node()
    node.before["sendpsbt"] = node.give_up
    node.refusals = TRIES - 1
    with pytest.raises(FundingTakenBack):
        node.send()
    assert node.taken_back
    weight = 214 + 272
    assert node.feerates[0] * weight // 1000 > PAID_SAT
    assert node.feerates == [node.feerates[0] * 2**n for n in range(TRIES)]
    assert "takes its coins back" in node.alarms[0]


def test_what_cannot_be_taken_back_is_told() -> None:
    """rule:23: a block has it, or bitcoind refuses for good."""
    node = Node()
    node.before["sendpsbt"] = node.give_up
    node.refusals = TRIES
    with pytest.raises(ChannelGone):
        node.send()
    assert "cannot be taken back" in node.alarms[0]
    assert node.reserved  # no sale may take coins that another transaction spends


@pytest.mark.parametrize("source_of_blocks_knows", [True, False])
def test_what_went_out_before_a_crash_is_taken_back_after_it(source_of_blocks_knows: bool) -> None:
    """rule:23: bitcoind has its output, or else the wallet its change."""
    node = Node()
    node.sent = True
    node.give_up()

    def unknown() -> None:
        raise NodeError("getutxout", -32601, "Unknown command 'getutxout'")

    if not source_of_blocks_knows:
        node.before["getutxout"] = unknown
    with pytest.raises(FundingTakenBack):
        node.send()
    assert node.taken_back
    assert ("listfunds" in node.calls) is not source_of_blocks_knows
    with pytest.raises(ChannelGone) as gone:  # once is enough
        node.send()
    assert not isinstance(gone.value, FundingTakenBack)


def test_no_answer_while_coins_are_taken_back_is_tried_again() -> None:
    """K-13, rule:23: the next try knows that the funding was sent."""
    node = Node()
    node.before["sendpsbt"] = node.give_up

    def silence() -> None:
        raise NodeUnreachable("utxopsbt", "no answer")

    node.before["utxopsbt"] = silence
    with pytest.raises(NodeUnreachable):
        node.send()
    with pytest.raises(FundingTakenBack):
        node.send()
    assert node.taken_back


@pytest.mark.parametrize("signed", [True, False])
def test_coins_whose_time_was_over_are_reserved_again_for_a_channel_that_lives(signed: bool) -> None:
    """trap:8, rule:23: to be signed; between the last reservation and the sending there is a look."""
    node = Node()
    node.reserved, node.signed = False, signed
    assert node.send() == TXID
    assert node.calls[-3:] == ["listpeerchannels", "sendpsbt", "listpeerchannels"]
    assert ("reserveinputs" in node.calls) is not signed


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
    """rule:23: a reservation for no channel would also open the way for its funding."""
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
    assert node.sent == node.taken_back
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
    [
        ("sendpsbt", {"broadcast.py": 1, "stray_fundings.py": 1}),
        ("fundchannel_cancel", {"opening.py": 1}),
        ("disconnect", {"opening.py": 1}),
    ],
)
def test_calls_that_can_cost_money_are_made_in_one_place(method: str, places: dict[str, int]) -> None:
    """rule:23, rule:26: think of this page before you add another."""
    found: dict[str, int] = {}
    for path in Path(lsps2fast_plugin.service.__file__).parent.rglob("*.py"):
        count = len(re.findall(rf'call\(\s*"{method}"', path.read_text()))
        if count:
            found[path.name] = count
    assert found == places


def test_a_funding_that_was_given_up_is_sent_for_none() -> None:
    """trap:60, rule:23: its channels are about to be closed, and all of them are listed yet."""
    node = Node()
    node.broadcaster.give_up(TXID)
    with pytest.raises(SisterGone, match="given up"):
        asyncio.run(node.broadcaster.send(PEER, replace(CHANNEL, sisters=((PEER, ID),))))
    assert "sendpsbt" not in node.calls


@pytest.mark.parametrize(("change", "back"), [({}, True), ({"to_us_msat": 9}, False), ({"htlcs": [HTLC]}, False)])
def test_a_funding_is_taken_back_only_while_its_own_channel_is_empty_too(change: dict[str, Any], back: bool) -> None:
    """rule:23: a sister was given up; what this channel's client was paid, or may be yet, is not taken."""
    node = Node(ALIVE | {"funding": {"withheld": False}, **change})
    node.sent = True
    node.broadcaster.give_up(TXID)
    channel = replace(CHANNEL, sisters=((PEER, "ab" * 32),))
    assert asyncio.run(node.broadcaster.take_back(PEER, channel)) is back
    assert node.taken_back is back
