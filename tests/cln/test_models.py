"""lightningd's rows: what was recorded is read, what is missing is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import rows
from harness.rows import peer_channel

from lsps2fast.errors import NodeUnreachable, StoreError
from lsps2fast_plugin.cln import answers, models
from lsps2fast_plugin.cln.datastore import list_datastore
from lsps2fast_plugin.cln.rows import read

DATA = Path(__file__).parents[1] / "data"
READERS: dict[str, Callable[[Any], Any]] = {
    "listpeerchannels": models.list_peer_channels,
    "listclosedchannels": models.list_closed_channels,
    "listforwards": models.list_forwards,
    "listfunds": models.list_outputs,
    "listpeers": models.list_peers,
    "getinfo": models.get_info,
    "listconfigs": models.list_configs,
    "listinvoices": answers.list_invoices,
    "feerates": answers.feerates,
}
ROW = rows.CHANNEL
SCID, LOCAL, REMOTE = "103x1x0", "16000000x1x1", "16000000x2x2"
NUMBERS = (103 << 40 | 1 << 16, 16_000_000 << 40 | 1 << 16 | 1, 16_000_000 << 40 | 2 << 16 | 2)


class Answers:
    """A node with one answer."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def call(self, method: str, params: Any = None, timeout_s: float | None = 60.0) -> Any:
        return self.answer


def recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every answer of a real lightningd that these types read, by its method."""
    for path in sorted([*DATA.glob("recordings/*.jsonl"), *DATA.glob("real/*.jsonl")]):
        asked: dict[Any, str] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            message, key = (
                entry["msg"],
                (entry["peer"], entry["msg"].get("id") if isinstance(entry["msg"], dict) else 0),
            )
            if entry["dir"] == "rpc>host":
                asked[key] = message["method"]
            elif entry["dir"] == "host>rpc" and asked.get(key) in READERS and "result" in message:
                yield asked[key], message["result"]


def test_every_recorded_answer_is_read() -> None:
    """cln:F6, cln:A3, cln:O1: as v26.06 wrote them, with members that we do not know."""
    read = [(method, asyncio.run(READERS[method](Answers(answer)))) for method, answer in recorded()]
    assert len(read) > 100
    assert {method for method, _ in read} >= {"listpeerchannels", "listforwards", "listfunds", "listpeers"}


@pytest.mark.parametrize("member", ROW)
def test_a_missing_member_is_named(member: str) -> None:
    """rule:10: an answer that makes no sense is no answer, and says what is wrong with it."""
    row = {name: value for name, value in ROW.items() if name != member}
    if member == "funding_txid":  # not funded yet: no channel
        assert models.peer_channels({"channels": [row]}) == []
        return
    with pytest.raises(NodeUnreachable, match=f"PeerChannel .*missing required field `{member}`"):
        models.peer_channels({"channels": [row]})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({}, "without `channels`"),
        ({"channels": [ROW | {"to_us_msat": "5msat"}]}, "Expected `int`, got `str` - at `[$].to_us_msat`"),
        ({"channels": [ROW | {"funding": {"withheld": 1}}]}, "Expected `bool`, got `int`"),
    ],
)
def test_what_is_of_another_type_is_named(answer: dict[str, Any], said: str) -> None:
    with pytest.raises(NodeUnreachable, match=said):
        models.peer_channels(answer)


@pytest.mark.parametrize(
    ("ask", "answer", "said"),
    [
        (answers.feerates, {}, "PerKw"),
        (answers.feerates, {"perkw": {"opening": 253}}, "missing required field `min_acceptable`"),
        (answers.feerates, {"perkw": {"min_acceptable": "253"}}, "Expected `int`, got `str`"),
        (answers.list_invoices, {}, "without `invoices`"),
        (answers.list_invoices, {"invoices": [{"label": "a", "status": "paid", "expires_at": 1}]}, "`payment_hash`"),
        (partial(answers.derived_secret, purpose="x"), {}, "without `secret`"),
        (partial(answers.derived_secret, purpose="x"), {"secret": "no hex"}, "not hex"),
    ],
)
def test_what_is_missing_in_an_answer_is_named(ask: Callable[[Any], Any], answer: dict[str, Any], said: str) -> None:
    """rule:10: fee rates, invoices and single members, too."""
    with pytest.raises(NodeUnreachable, match=said):
        asyncio.run(ask(Answers(answer)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({}, "without `datastore`"),
        ({"datastore": [{"hex": "00"}]}, "`key`"),
        ({"datastore": [{"key": "a"}]}, "got `str`"),
    ],
)
def test_what_is_missing_in_the_datastore_is_named(answer: dict[str, Any], said: str) -> None:
    """rule:11, cln:D4: as for every record that is not understood, a StoreError; a folder has no value."""
    with pytest.raises(StoreError, match=said):
        list(asyncio.run(list_datastore(Answers(answer), ["lsps"])))
    rows = {"datastore": [{"key": ["lsps", "lsps2"], "generation": 3}]}
    assert [row.hex for row in asyncio.run(list_datastore(Answers(rows), ["lsps"]))] == [None]


def test_members_that_nobody_reads_may_be_there() -> None:
    """rule:10: a newer lightningd says more."""
    row = {"payment_hash": "00", "status": "expired", "label": "a", "expires_at": 1, "new": {"in": "v27"}}
    (invoice,) = asyncio.run(answers.list_invoices(Answers({"invoices": [row]})))
    assert (invoice.is_expired, invoice.is_paid, invoice.amount_msat) == (True, False, None)
    perkw = asyncio.run(answers.feerates(Answers({"perkw": {"min_acceptable": 253, "estimates": []}, "new": 1})))
    assert perkw.funding == 253
    with pytest.raises(NodeUnreachable, match="no bolt11"):
        _ = invoice.words


def test_a_channel_is_called_by_its_scid_and_our_alias() -> None:
    """cln:H3, cln:F6, rule:25: not by the alias the peer chose, which could be the name of another channel."""
    alias = {"local": LOCAL, "remote": REMOTE}
    assert peer_channel().scids == ()
    assert peer_channel(alias=alias).scids == NUMBERS[1:2]
    assert peer_channel(alias=alias, short_channel_id=SCID).scids == NUMBERS[:2]
    assert peer_channel(alias=alias, short_channel_id=SCID).scids_and_theirs == NUMBERS
    assert peer_channel(alias={"local": SCID}, short_channel_id=SCID).scids == NUMBERS[:1]
    with pytest.raises(NodeUnreachable, match="not a scid"):
        _ = peer_channel(alias={"local": "1x2"}).scids


def test_confirmations_count_from_the_block_of_the_scid() -> None:
    """A-05, I-30: one as soon as there is a scid, whatever height we know."""
    confirmed = peer_channel(short_channel_id=SCID)
    assert [confirmed.confirmations(height) for height in (0, 103, 104, 110)] == [1, 1, 2, 8]
    assert (peer_channel().confirmations(110), peer_channel().is_confirmed, confirmed.is_confirmed) == (0, False, True)


@pytest.mark.parametrize(
    ("state", "alive", "normal", "closing"),
    [
        ("OPENINGD", True, False, False),
        ("CHANNELD_AWAITING_LOCKIN", True, False, False),
        ("CHANNELD_NORMAL", True, True, False),
        ("CHANNELD_AWAITING_SPLICE", True, True, False),
        ("CHANNELD_SHUTTING_DOWN", False, False, True),
        ("AWAITING_UNILATERAL", False, False, True),
        ("ONCHAIN", False, False, True),
    ],
)
def test_states_mean_one_thing_everywhere(state: str, alive: bool, normal: bool, closing: bool) -> None:
    """K-13: a splice under way is no end."""
    read = peer_channel(state=state)
    assert (read.is_alive, read.is_normal, read.is_closing, read.is_ready) == (alive, normal, closing, normal)
    assert not peer_channel(state=state, peer_connected=False).is_ready
    assert not peer_channel(state=state, reestablished=False).is_ready


def test_an_htlc_that_is_being_removed_is_not_pending() -> None:
    """cln:R1: such a call does not come again."""
    htlcs = [
        {"direction": "in", "id": n, "state": state}
        for n, state in enumerate(("RCVD_ADD_ACK_REVOCATION", "SENT_REMOVE_HTLC"))
    ]
    assert [htlc.is_pending for htlc in peer_channel(htlcs=htlcs).htlcs] == [True, False]


def test_a_coinbase_is_spendable_when_it_is_old_enough() -> None:
    """O-04: coins without a block, or locked, are no coins yet."""
    row = {
        "txid": "aa",
        "output": 1,
        "amount_msat": 5999,
        "scriptpubkey": "51",
        "status": "confirmed",
        "reserved": False,
    }
    coin = read(models.WalletOutput, row | {"spendable_at": 100}, "listfunds")
    assert (coin.point, coin.amount_sat) == ("aa:1", 5)
    assert (coin.is_spendable(99), coin.is_spendable(100)) == (False, True)
    assert not read(models.WalletOutput, row | {"status": "unconfirmed"}, "listfunds").is_spendable(100)


def test_configs_have_defaults_and_syncing_is_said() -> None:
    """cln:R5, B-12."""
    configs = read(models.Configs, {"configs": {"cltv-delta": {"value_int": 34}, "alias": {}}}, "listconfigs")
    assert [configs.number(name, 6) for name in ("cltv-delta", "alias", "none")] == [34, 6, 6]
    info = {"blockheight": 5}
    assert not read(models.NodeInfo, info, "getinfo").is_syncing
    assert read(models.NodeInfo, info | {"warning_lightningd_sync": "Still loading"}, "getinfo").is_syncing
