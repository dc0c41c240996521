"""Every recording with a wallet in it, from its first event to its last, told to ours in the recorded order.

`data/events.json` is what `cut.py` makes of the recordings of the host study; hook calls are those of test_replay.py,
which holds their answers against the recorded ones. Here it is the whole that counts: connections, blocks, channels
that come and go, payments that are made, messages, with nothing left open at the end.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness.client import LSP, FakeRequest, Json, Lsp, Stage, Staging, channel_row, tlv
from harness.recorded_wallet import DATA, HOOKS, MORE, approve_payment, scan

from lsps2fast.errors import PeerError
from lsps2fast_plugin.client.channel_terms import is_zero_conf

DAYS: dict[str, list[tuple[str, Any]]] = json.loads((DATA / "events.json").read_text())
WITHOUT_A_WALLET = {"o_datastore", "u_manifest"}
NOT_OURS = "d_ordinary_forward"  # paid over an ordinary, announced channel


def calls_of(name: str) -> dict[str, Json]:
    """The hook calls of a recording by their id."""
    return {each["call"]["id"]: each["call"]["params"] for each in {**HOOKS, **MORE}.get(name, [])}


class Day:
    """One recording, with a purchase for everything that the recorded wallet was paid or opened a channel for."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.calls = calls_of(name)
        self.openings: list[Json | None] = []
        self.messages: list[Json] = []
        self.asked: set[bytes] = set()
        self._size_msat = 0
        self._zero_conf = True
        self._names = list(dict.fromkeys(part["htlc"]["short_channel_id"] for part in self.parts))

    @property
    def parts(self) -> list[Json]:
        return [call for call in self.calls.values() if "htlc" in call]

    async def buy(self) -> None:
        """What the prototype was told by its driver; without a payment, a purchase that any channel fits."""
        for part in self.parts:
            same = [each for each in self.parts if each["htlc"]["payment_hash"] == part["htlc"]["payment_hash"]]
            fees_msat = [tlv.read_extra_fee(each["htlc"].get("extra_tlvs")) or 0 for each in same]
            await approve_payment(self.stage, part, part["onion"]["total_msat"], sum(fees_msat))
        for call in [call for call in self.calls.values() if "openchannel" in call and not self.parts]:
            part = {"peer_id": call["openchannel"]["id"], "onion": {"payment_secret": "00" * 32}}
            part["htlc"] = {"payment_hash": "11" * 32, "short_channel_id": "1x1x1"}
            await approve_payment(self.stage, part, None, 1)
        self.stage.node.channels.clear()

    async def tell(self, method: str, told: Any) -> None:
        """One event."""
        await getattr(self, method)(self.calls[told] if isinstance(told, str) else told)
        await self.stage.calm()

    async def connect(self, told: Json) -> None:
        self.stage.client.hear("connect", **told)

    async def disconnect(self, told: Json) -> None:
        self.stage.client.hear("disconnect", **told)

    async def block_added(self, told: Json) -> None:
        self.stage.client.hear("block_added", **told)

    async def custommsg(self, told: Json) -> None:
        self.messages.append(self.stage.client._on_custommsg(**told))

    async def openchannel(self, told: Json) -> None:
        self._size_msat = told["openchannel"]["funding_msat"]
        self._zero_conf = is_zero_conf(told["openchannel"])
        request = FakeRequest()
        self.stage.client._on_openchannel(request, **told)  # type: ignore[arg-type]
        await self.stage.pass_time(6)
        self.openings.append(request.result)

    async def channel_state_changed(self, told: Json) -> None:
        change, rows = told["channel_state_changed"], self.stage.node.channels
        known = {row["channel_id"]: row for row in rows}
        alias = {"local": self._names[len(rows)] if len(rows) < len(self._names) else f"1x1x{len(rows)}"}
        new = channel_row(channel_id=change["channel_id"], peer_id=change["peer_id"], total_msat=self._size_msat)
        row = known.get(change["channel_id"]) or {**new, "alias": alias}
        row["state"] = change["new_state"]
        if not self._zero_conf and row["state"] == "CHANNELD_NORMAL":
            row["short_channel_id"] = alias["local"]  # an ordinary channel is used when it is confirmed
        rows[:] = [*(each for each in rows if each is not row), row]
        self.stage.client.hear("channel_state_changed", **told)

    async def htlc_accepted(self, told: Json) -> None:
        read = scan({"jsonrpc": "2.0", "id": f"cln:{len(self.asked)}", "method": "htlc_accepted", "params": told})
        self.asked.add(read.id_raw)
        self.stage.client._on_htlc(read)

    async def invoice_payment(self, told: Json) -> None:
        for row in self.stage.node.invoices.values():
            row["status"] = "paid"
        self.stage.client.hear("invoice_payment", **told)


async def whole_day(stage: Stage, name: str) -> Day:
    """Tell a recording, then let every time-out pass."""
    day = Day(stage, name)
    await day.buy()
    for method, told in DAYS[name]:
        await day.tell(method, told)
    await stage.pass_time(91)
    return day


def test_every_recording_with_a_wallet_is_here() -> None:
    """36 recordings, two of them of a node without one."""
    assert len(DAYS) == 34
    assert not WITHOUT_A_WALLET & DAYS.keys()
    assert {**HOOKS, **MORE}.keys() <= DAYS.keys()


@pytest.mark.parametrize("name", sorted(DAYS.keys() - {NOT_OURS}))
async def test_a_recorded_day_leaves_nothing_open(staged: Staging, name: str) -> None:
    """K-20, T-37, I-33: each call one answer, no error of ours, no record of a payment that was made, no parts held."""
    async with staged() as stage:
        day = await whole_day(stage, name)
        assert stage.host.said("error") == ""
        assert stage.host.answers.keys() == day.asked
        assert None not in day.openings
        assert set(map(str, day.messages)) <= {"{'result': 'continue'}"}
        assert stage.client.incoming.held_parts() == 0
        made = [told for method, told in DAYS[name] if method == "invoice_payment"]
        assert not made or not [key for key in stage.node.datastore if key[:2] == ("lsps", "invoice")]


async def test_the_recorded_day_without_a_purchase_is_let_go(staged: Staging) -> None:
    """I-11, I-20: d_ordinary_forward without a purchase: nothing of it is ours."""
    async with staged() as stage:
        day = Day(stage, NOT_OURS)
        for method, told in DAYS[NOT_OURS]:
            await day.tell(method, told)
        assert day.openings == [{"result": "continue"}]
        assert list(stage.host.answers.values()) == [{"result": "continue"}]
        assert stage.reports() == ""
        assert stage.working == {}


async def test_the_recorded_channels_that_were_given_up_are_cleaned_up_after(staged: Staging) -> None:
    """cln:A4, O-16: k_abandon opens three for one purchase and gives each up; every one is let in, none is kept."""
    async with staged() as stage:
        stage.node.developer = True
        day = await whole_day(stage, "k_abandon")
        assert day.openings == [{"result": "continue", "mindepth": 0}] * 3
        forgotten = {params["channel_id"] for params in stage.node.named("dev-forget-channel")}
        given_up = {
            told["channel_state_changed"]["channel_id"]
            for method, told in DAYS["k_abandon"]
            if method == "channel_state_changed" and told["channel_state_changed"]["new_state"] == "CLOSINGD_COMPLETE"
        }
        assert forgotten == given_up
        assert len(given_up) == 2  # the third was given up while this wallet was stopped
        assert len(stage.client.book.channels) == 1


async def test_the_recorded_answers_of_an_lsp_reach_whoever_asked(staged: Staging) -> None:
    """m_lsps0; T-08, T-22, T-29, T-37: an answer, an error, then a hundred back to back; said twice they count once."""
    messages = [told for method, told in DAYS["m_lsps0"] if method == "custommsg"]
    ids = iter([json.loads(bytes.fromhex(told["payload"])[2:])["id"] for told in messages])
    peer_id = messages[0]["peer_id"]
    async with staged() as stage:
        stage.lsps[peer_id] = Lsp(peer_id)
        stage.lsps[peer_id].silent = True
        stage.node.peers[peer_id] = stage.node.peers[LSP]
        stage.client.talk._token = lambda: next(ids)
        asked = [asyncio.ensure_future(stage.client.talk.call(peer_id, "lsps0.list_protocols", {})) for _ in messages]
        await stage.calm()
        assert len(stage.client.talk) == len(messages) == 102
        for told in [*messages, *messages]:
            assert stage.client._on_custommsg(**told) == {"result": "continue"}
        got = await asyncio.gather(*asked, return_exceptions=True)
        assert got.count({"protocols": [2]}) == 101
        assert [error.code for error in got if isinstance(error, PeerError)] == [-32601]
        assert not stage.client.talk.muted(peer_id)
        assert len(stage.client.talk) == 0
