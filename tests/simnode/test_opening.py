"""The RPC sequence of a JIT open, its errors, the wallet behind it (facts cln:O)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from harness.node_steps import broadcast, fund, open_channel, row_of
from harness.puppet import Strings, Wire, hearing, recorded_calls, recording, shape

from lsps2fast_plugin.simnode import RpcError, World, psbt
from lsps2fast_plugin.simnode.address import address_to_script

MakeWorld = Callable[..., World]


def answers_of(name: str, method: str, peer: str = "l2/plugin-rpc") -> list[dict[str, Any]]:
    return [answer for request, answer in recorded_calls(name, peer) if request["method"] == method]


async def code_and_text(work: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as refused:
        await work
    return refused.value.code, refused.value.message


async def test_the_sequence_answers_as_recorded(make_world: MakeWorld) -> None:
    """O, cln:A5: shapes of every answer in a_single_var; numbers of fundpsbt to the satoshi."""
    async with make_world() as world:
        client = world.client()
        lsp = world.lsp
        started, text = await fund(lsp, client)
        assert shape(started) == shape(answers_of("a_single_var", "fundchannel_start")[0]["result"])
        assert address_to_script(started["funding_address"]).hex() == started["scriptpubkey"]
        calls = {entry["msg"]["id"]: entry["msg"] for entry in world.transcript.select("host>rpc", "lsp/driver-rpc")}
        funded = next(message["result"] for key, message in calls.items() if "fundpsbt" in key)
        real = answers_of("a_single_var", "fundpsbt")[0]["result"]
        same = ("feerate_per_kw", "estimated_final_weight", "excess_msat", "change_outnum")
        assert [funded[key] for key in same] == [real[key] for key in same]
        assert shape(funded) == shape(real)
        assert funded["reservations"][0]["reserved_to_block"] == 181
        tx = psbt.decode(text)
        assert [output.amount_sat for output in tx.outputs] == [799_646, 200_000]
        done = await lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": text, "withhold": True})
        assert shape(done) == shape(answers_of("a_single_var", "fundchannel_complete")[0]["result"])
        sent = await broadcast(lsp, text)
        assert shape(sent) == shape(answers_of("a_single_var", "sendpsbt")[0]["result"])
        assert sent["txid"] == tx.txid == lsp.ends[-1].channel.funding_txid


async def test_the_client_learns_first_and_the_answer_precedes_our_notification(make_world: MakeWorld) -> None:
    """cln:O4, cln:A5: order of a_single_var at 3.467 to 3.482; no channel_opened on the funder."""
    real = [
        entry["msg"]["params"]["channel_state_changed"]
        for entry in recording("a_single_var")
        if entry["msg"].get("method") == "channel_state_changed" and entry["peer"] == "l2/plugin"
    ][-2:]
    async with make_world(hearing("channel_state_changed", "channel_opened", "connect")) as world:
        client, strings = world.client(), Strings(world.lsp)
        _, text = await fund(world.lsp, client)
        async with Wire(world.lsp) as wire:
            wire.ask("done", "fundchannel_complete", {"id": client.node_id, "psbt": text, "withhold": True})
            channel_id = (await wire.next())["result"]["channel_id"]
        events = await strings.events("channel_state_changed", 2)
        assert [shape(event) for event in events] == [shape(event) for event in real]
        same = ("new_state", "cause", "message")
        assert [[event[key] for key in same] for event in events] == [[event[key] for key in same] for event in real]
        assert {event["channel_id"] for event in events} == {channel_id}
        assert await strings.seen("channel_opened") == []
        assert [list(event) for event in await strings.events("connect")] == [["id", "direction", "address"]]
        said = [entry["msg"].get("method", entry["msg"].get("id")) for entry in world.transcript.entries]
        answer = len(said) - 1 - said[::-1].index("done")
        assert answer < said.index("channel_state_changed")
        assert client.ends[0].state == "CHANNELD_NORMAL"


async def test_a_withheld_channel_keeps_its_psbt(make_world: MakeWorld) -> None:
    """cln:O2: withheld and psbt (version 2) until sendpsbt; rows as recorded before, after, confirmed."""
    real = [answer["result"]["channels"][0] for answer in answers_of("a_single_var", "listpeerchannels")]
    async with make_world() as world:
        opened = await open_channel(world.lsp, world.client())
        row = await row_of(world.lsp, opened.channel_id)
        assert shape(row) == shape(real[0])
        assert row["funding"]["withheld"] is True
        assert psbt.decode(row["funding"]["psbt"]).txid == row["funding_txid"]
        assert "short_channel_id" not in row
        await broadcast(world.lsp, opened.psbt)
        row = await row_of(world.lsp, opened.channel_id)
        assert row["funding"]["withheld"] is False
        assert psbt.decode(row["funding"]["psbt"]).signed
        world.mine()
        row = await row_of(world.lsp, opened.channel_id)
        assert row["short_channel_id"] == "110x1x1"


async def test_reservations_end_after_72_blocks(make_world: MakeWorld) -> None:
    """cln:O1: then signpsbt refuses, fundpsbt hands the input out again, reserveinputs mends it (o1_reserve_expiry)."""
    (real,) = [answer["result"] for answer in answers_of("o1_reserve_expiry", "reserveinputs", "l2/driver-rpc")]
    async with make_world(wallet_sat=(1_000_000,)) as world:
        lsp = world.lsp
        opened = await open_channel(lsp, world.client())
        world.mine(71)
        assert (await lsp.call("listfunds"))["outputs"][0]["reserved"] is True
        world.mine()
        assert (await lsp.call("listfunds"))["outputs"][0]["reserved"] is False
        point = "{}:{}".format(*psbt.decode(opened.psbt).inputs[0])
        refusal = await code_and_text(lsp.call("signpsbt", {"psbt": opened.psbt}))
        assert refusal == (-1, f"Aborting PSBT signing. UTXO {point} is not reserved")
        mended = await lsp.call("reserveinputs", {"psbt": opened.psbt, "exclusive": False})
        assert shape(mended) == shape(real)
        assert mended["reservations"][0]["reserved_to_block"] == world.chain.height + 72
        await broadcast(lsp, opened.psbt)


async def test_extended_reservations_add_up(make_world: MakeWorld) -> None:
    """O-04: reserveinputs on top of a reservation adds 72; unreserveinputs takes 72 off."""
    async with make_world() as world:
        _, text = await fund(world.lsp, world.client())
        more = await world.lsp.call("reserveinputs", {"psbt": text, "exclusive": False})
        assert more["reservations"][0] | {"txid": ""} == {
            "txid": "",
            "vout": 0,
            "was_reserved": True,
            "reserved": True,
            "reserved_to_block": 109 + 144,
        }
        less = await world.lsp.call("unreserveinputs", {"psbt": text})
        assert less["reservations"][0]["reserved"] is True
        least = await world.lsp.call("unreserveinputs", {"psbt": text, "reserve": 144})
        assert shape(least) == shape(answers_of("h_no_funds", "unreserveinputs", "l2/driver-rpc")[0]["result"])
        assert await world.lsp.call("unreserveinputs", {"psbt": text}) == {"reservations": []}


@pytest.mark.parametrize(
    ("outputs", "ask"),
    [((), 200_000), ((150_000,), 200_000), ((250_000, 150_000), 900_000)],
)
async def test_want_of_money_is_301_to_the_satoshi(make_world: MakeWorld, outputs: tuple[int, ...], ask: int) -> None:
    """cln:O9: the recorded texts of h_no_funds."""
    texts = [
        answer["error"]["message"]
        for request, answer in recorded_calls("h_no_funds")
        if request["method"] == "fundpsbt" and "error" in answer
    ]
    async with make_world(wallet_sat=outputs) as world:
        params = {"satoshi": ask, "feerate": "normal", "startweight": 1000}
        code, text = await code_and_text(world.lsp.call("fundpsbt", params))
        assert code == 301
        assert text in texts


async def test_unconfirmed_and_reserved_outputs_are_not_seen(make_world: MakeWorld) -> None:
    """cln:O9: not even with minconf=0."""
    async with make_world(wallet_sat=(300_000,)) as world:
        lsp = world.lsp
        world.chain.grant(300_000, lsp.wallet.new_script(), confirmed=False)
        ask = {"satoshi": 200_000, "feerate": "normal", "startweight": 1000, "minconf": 0}
        await lsp.call("fundpsbt", ask)
        code, text = await code_and_text(lsp.call("fundpsbt", ask))
        assert (code, "all 0 available" in text) == (301, True)
        world.mine()
        await lsp.call("fundpsbt", ask)


async def test_a_second_broadcast(make_world: MakeWorld) -> None:
    """cln:O6: harmless in the mempool, -1 with bitcoind's words after confirmation."""
    async with make_world() as world:
        opened = await open_channel(world.lsp, world.client())
        signed = (await world.lsp.call("signpsbt", {"psbt": opened.psbt}))["signed_psbt"]
        first = await world.lsp.call("sendpsbt", {"psbt": signed})
        assert await world.lsp.call("sendpsbt", {"psbt": signed}) == first
        world.mine()
        code, text = await code_and_text(world.lsp.call("sendpsbt", {"psbt": signed}))
        assert (code, "Transaction outputs already in utxo set" in text) == (-1, True)


@pytest.mark.parametrize(
    ("given", "bits"),
    [([12], [12, 46, 50]), ([12, 46, 50], [12, 46, 50]), ([50, 22, 12, 46], [12, 22, 46, 50])],
)
async def test_channel_types(make_world: MakeWorld, given: list[int], bits: list[int]) -> None:
    """cln:O8: announce=false with mindepth=0 brings 46 and 50; anchors in any order."""
    async with make_world() as world:
        started, _ = await fund(world.lsp, world.client(), channel_type=given)
        assert started["channel_type"]["bits"] == bits


async def test_errors_of_an_open(make_world: MakeWorld) -> None:
    """cln:O9, cln:O10: the table, with the texts of g_open_rejected."""
    texts = {answer["error"]["message"] for _, answer in recorded_calls("g_open_rejected") if "error" in answer}
    async with make_world() as world:
        lsp, client = world.lsp, world.client()
        start = {
            "id": client.node_id,
            "amount": 200_000,
            "mindepth": 0,
            "channel_type": [12, 46, 50],
            "announce": False,
        }
        cancel = {"id": client.node_id}

        async def refused(method: str, params: dict[str, Any]) -> int:
            code, text = await code_and_text(lsp.call(method, params))
            known = text.replace(client.node_id, "ID") in {each.replace(_node_of(each), "ID") for each in texts}
            assert known, text
            return code

        assert await refused("fundchannel_start", start | {"amount": 100}) == -1
        assert await refused("fundchannel_start", start | {"mindepth": 3}) == -32602
        assert await refused("fundchannel_cancel", cancel) == 307
        _, text = await fund(lsp, client)
        assert await refused("fundchannel_start", start) == -1
        assert await lsp.call("fundchannel_cancel", cancel) == {"cancelled": "Channel open canceled by RPC"}
        await lsp.call("fundchannel_start", start)
        assert await refused("fundchannel_complete", cancel | {"psbt": text}) == 309
        client.go_offline()
        assert await refused("fundchannel_start", start) == 306
        assert await refused("fundchannel_complete", cancel | {"psbt": text}) == 306
        assert await refused("fundchannel_cancel", cancel) == 306
        assert await refused("connect", cancel) == 400


def _node_of(text: str) -> str:
    last = text.rsplit(" ", 1)[-1]
    return last if len(last) == 66 else "no node id"


async def test_the_output_must_be_of_the_size_announced(make_world: MakeWorld) -> None:
    """cln:O9: 309 with both sums."""
    async with make_world() as world:
        client = world.client()
        started, text = await fund(world.lsp, client)
        tx = psbt.decode(text)
        wrong = psbt.Tx(tx.inputs, (psbt.Output(199_999, bytes.fromhex(started["scriptpubkey"])),), tx.spent)
        params = {"id": client.node_id, "psbt": psbt.encode(wrong)}
        refusal = await code_and_text(world.lsp.call("fundchannel_complete", params))
        assert refusal == (309, "Output to open channel is 199999sat, should be 200000sat")


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ({"reject_open": "no open was approved"}, "You gave bad parameters: no open was approved"),
        ({"zeroconf": False}, "You gave bad parameters: You required zeroconf, but you're not on our allowlist"),
    ],
)
async def test_a_client_that_refuses(make_world: MakeWorld, behaviour: dict[str, Any], text: str) -> None:
    """cln:O9: -1 `They sent ERROR channel …`; nothing stays behind, a second start works."""
    async with make_world() as world:
        client = world.client(**behaviour)
        code, said = await code_and_text(fund(world.lsp, client))
        assert code == -1
        assert said.startswith("They sent ERROR channel ")
        assert said.endswith(text)
        client.behaviour.reject_open, client.behaviour.zeroconf = None, True
        await fund(world.lsp, client)


@pytest.mark.parametrize("step", ["open", "funding"])
async def test_a_client_that_vanishes_while_opening(make_world: MakeWorld, step: str) -> None:
    """O-07: neither answer begins with `They sent`."""
    async with make_world() as world:
        client = world.client(vanish_at=step)
        code, text = await code_and_text(open_channel(world.lsp, client))
        assert (code, text) == (-1, "Disconnected")
        assert world.lsp.ends == []


async def test_channel_ready_held_back(make_world: MakeWorld) -> None:
    """O-13: CHANNELD_AWAITING_LOCKIN until the client sends channel_ready."""
    async with make_world() as world:
        client = world.client(send_ready=False)
        _, text = await fund(world.lsp, client)
        await world.lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": text, "withhold": True})
        await asyncio.sleep(0)
        end = world.lsp.ends[-1]
        assert end.state == "CHANNELD_AWAITING_LOCKIN"
        client.release_ready()
        await world.until(lambda: end.state == "CHANNELD_NORMAL")


async def test_a_zero_reserve_frees_the_reserve(make_world: MakeWorld) -> None:
    """cln:O8, cln:O3: reserve:0 is what the client must keep; the client's own wish is what we must keep."""
    async with make_world() as world:
        client = world.client(reserve_sat=0)
        opened = await open_channel(world.lsp, client, reserve=0)
        row = await row_of(world.lsp, opened.channel_id)
        assert (row["our_reserve_msat"], row["their_reserve_msat"]) == (0, 0)
        assert row["spendable_msat"] == 200_000_000 - 5_219_000


async def test_the_clients_terms_are_shown(make_world: MakeWorld) -> None:
    """O-05, O-06: to_self_delay, htlc minimum, value in flight."""
    async with make_world() as world:
        client = world.client(to_self_delay=3000, htlc_minimum_msat=7, max_in_flight_msat=10**9)
        opened = await open_channel(world.lsp, client)
        row = await row_of(world.lsp, opened.channel_id)
        assert row["our_to_self_delay"] == 3000
        assert row["minimum_htlc_out_msat"] == 7
        assert row["their_max_htlc_value_in_flight_msat"] == 10**9


async def test_faults_lie_where_they_are_laid(make_world: MakeWorld) -> None:
    """K-12, K-13: the nth call fails, hangs, comes late or twice; others are untouched."""
    async with make_world() as world, Wire(world.lsp) as wire:
        faults = world.lsp.faults
        faults.fail("getinfo", nth=2, message="bitcoind is away")
        for number in range(3):
            wire.ask(number, "getinfo", {})
        got = {answer["id"]: answer for answer in [await wire.next() for _ in range(3)]}
        assert [number for number in range(3) if "error" in got[number]] == [1]
        late = faults.late("datastore")
        wire.ask("late", "datastore", {"key": ["k"], "string": "v"})
        wire.ask("next", "getinfo", {})
        assert (await wire.next())["id"] == "next"
        assert world.lsp.datastore.rows == {("k",): (b"v", 0)}
        late.release()
        assert (await wire.next())["id"] == "late"
        hang = faults.hang("deldatastore")
        wire.ask("hang", "deldatastore", {"key": ["k"]})
        await asyncio.wait_for(hang.reached.wait(), 60)
        assert ("k",) in world.lsp.datastore.rows
        hang.release()
        assert (await wire.next())["id"] == "hang"
        faults.twice("listpeers")
        wire.ask("twice", "listpeers", {})
        assert [(await wire.next())["id"] for _ in range(2)] == ["twice", "twice"]
        faults.fail("datastore", after=True)
        wire.ask("lost", "datastore", {"key": ["l"], "string": "v"})
        assert (await wire.next())["error"]["message"] == "injected failure"
        assert ("l",) in world.lsp.datastore.rows
