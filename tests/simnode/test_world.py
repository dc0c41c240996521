"""The world itself: wallets that check, books, clock, determinism, cleaning up."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.node_steps import forward, invoice_with_fee, open_channel
from harness.puppet import Strings, recorded_calls

from lsps2fast_plugin.simnode import Client, Payer, World, psbt
from lsps2fast_plugin.simnode.address import address_to_script, script_to_address
from lsps2fast_plugin.simnode.channels import Htlc
from lsps2fast_plugin.simnode.clock import Clock

MakeWorld = Callable[..., World]


async def jit(world: World, client: Client, amounts: list[int], fees: list[int], **invoice: Any) -> Any:
    """Parts forwarded with given fees; the payment."""
    payer, strings = world.payer(), Strings(world.lsp)
    payment = payer.pay(client.invoice(sum(amounts), scid="1x1x1", **invoice), amounts)
    calls = await strings.opened(len(amounts))
    opened = await open_channel(world.lsp, client)
    for call, fee in zip(calls, fees, strict=True):
        await strings.answer(call, result=forward(call, opened.channel_id, fee))
    return payment


@pytest.mark.parametrize(
    ("fees", "allowed", "objections"),
    [
        ([0, 500_000], 500_000, []),
        ([250_000, 250_000], 500_000, []),
        ([0, 500_001], 500_000, ["fee 500001 of 500000, received 1499999 of 2000000"]),
        ([1, 0], 0, ["fee 1 of 0, received 1999999 of 2000000"]),
        ([0, 0], 500_000, []),
    ],
)
async def test_the_client_bounds_the_fee(
    make_world: MakeWorld, fees: list[int], allowed: int, objections: list[str]
) -> None:
    """I-23, I-24: any distribution up to the opening fee, not a msat more."""
    async with make_world() as world:
        client = world.client()
        payment = await jit(world, client, [1_000_000, 1_000_000], fees, opening_fee_msat=allowed)
        assert (await payment).paid is not bool(objections)
        assert client.refused == objections


@pytest.mark.parametrize(
    ("extra", "objection"),
    [
        ("", "999000 + 0 is not 1000000"),
        ("fe0001000108" + "00000000000003e7", "999000 + 999 is not 1000000"),
        ("fe0001000102" + "03e8", "malformed extra_fee 03e8"),
        ("fe0001000108" + "0000000000000000", "malformed extra_fee 0000000000000000"),
    ],
)
async def test_the_client_checks_extra_fee(make_world: MakeWorld, extra: str, objection: str) -> None:
    """I-21, H-08, H-09: eight bytes, never zero, exactly what was taken; 400f otherwise."""
    async with make_world() as world:
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        payment = payer.pay(client.invoice(1_000_000, scid="1x1x1", opening_fee_msat=5_000))
        (call,) = await strings.opened(1)
        opened = await open_channel(world.lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id, 1_000) | {"extra_tlvs": extra})
        result = await payment
        assert client.refused == [objection]
        assert result.codes == [203]
        assert result.raw_messages == ["400f00000000000f3e580000006d"]


async def test_a_client_waits_for_the_whole_set(make_world: MakeWorld) -> None:
    """cln:C4, I-27: a part that waits alone ends with mpp_timeout after 70 s."""
    async with make_world() as world:
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        invoice = invoice_with_fee(client)
        payment = payer.pay(invoice, [10_000_000], total_msat=20_000_000)
        (call,) = await strings.opened(1)
        opened = await open_channel(world.lsp, client)
        await strings.answer(call, result=forward(call, opened.channel_id))
        await world.until(lambda: client.received)
        await world.advance(70)
        assert (await payment).raw_messages == ["0017"]


@pytest.mark.parametrize(("on_part", "raw"), [("fail", "400f"), ("vanish", None), ("hold", None)])
async def test_behaviours(make_world: MakeWorld, on_part: str, raw: str | None) -> None:
    """A client that fails, disappears with the part, or holds it."""
    async with make_world() as world:
        client = world.client(on_part=on_part)
        payment = await jit(world, client, [1_000_000], [0])
        await world.until(lambda: client.received)
        assert bool(client.links) is (on_part != "vanish")
        if raw is None:
            assert not payment.done
            client.connect()
            client.settle_held()
        assert [message[:4] for message in (await payment).raw_messages] == [raw or ""]


async def test_a_behaviour_may_be_a_function(make_world: MakeWorld) -> None:
    """One part of two fails."""
    async with make_world() as world:

        def second_fails(htlc: Htlc) -> str:
            return "fail" if htlc.id == 1 else "hold"

        client = world.client(on_part=second_fails)
        payment = await jit(world, client, [1_000_000, 1_000_000], [0, 0])
        await world.until(lambda: len(client.received) == 2)
        client.settle_held()
        assert (await payment).codes == [0, 203]


async def test_an_offline_client_comes_back(make_world: MakeWorld) -> None:
    """C-13: not connected, no address; then it dials."""
    async with make_world() as world:
        client = world.client(connected=False)
        known = world.client("known", connected=False, address_known=True)
        assert world.lsp.links == {}
        client.connect()
        await world.lsp.call("connect", {"id": known.node_id})
        assert set(world.lsp.links) == {client.node_id, known.node_id}


async def test_the_books_balance_whoever_loses(make_world: MakeWorld) -> None:
    """Books: a withheld channel given up after the client claimed shows as a loss, and coins are still conserved."""
    async with make_world() as world:
        client = world.client()
        world.open_books()
        payment = await jit(world, client, [10_000_000], [1_000_000], opening_fee_msat=1_000_000)
        assert (await payment).paid
        world.check_books()
        books = world.books()
        assert books["client"] == 9_000_000
        assert books["lsp"] == 1_000_000
        await world.lsp.call("close", {"id": world.lsp.ends[-1].channel.channel_id, "unilateraltimeout": 1})
        assert world.books()["client"] == 0
        world.check_books()


async def test_one_seed_one_story(make_world: MakeWorld) -> None:
    """Determinism: keys, aliases, preimages, addresses and timestamps depend on the seed alone."""
    stories = []
    for seed in (5, 5, 6):
        async with make_world(seed=seed) as world:
            client = world.client()
            payment = await jit(world, client, [2_000_000], [1_000], opening_fee_msat=1_000)
            result = await payment
            rows = await world.lsp.call("listforwards")
            channels = await world.lsp.call("listpeerchannels")
            stories.append((result, rows, channels, world.lsp.node_id))
    assert stories[0] == stories[1]
    assert stories[0] != stories[2]


def test_nothing_is_left_behind(make_world: MakeWorld) -> None:
    """Cleaning up: process, socket, directory, also when the test fails in the middle."""
    worlds: list[World] = []

    async def failing() -> None:
        worlds.append(make_world())
        async with worlds[0] as world:
            world.payer()
            raise KeyError("a test fails")

    with pytest.raises(KeyError):
        asyncio.run(failing())
    plugin = worlds[0].lsp.processes[0]
    assert plugin.exit_code is not None
    assert not Path(worlds[0].directory).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(plugin.pid, 0)
    assert len(worlds[0].lsp.rpc_path) < 100


async def test_a_failing_callback_fails_the_test(make_world: MakeWorld) -> None:
    """Problems inside the world are not swallowed."""

    async def broken() -> None:
        async with make_world() as world:
            asyncio.get_running_loop().call_soon(lambda: 1 // 0)
            await world.lsp.call("puppet-echo")

    with pytest.raises(ZeroDivisionError):
        await broken()


async def test_the_transcript_can_be_written(make_world: MakeWorld, tmp_path: Path) -> None:
    """The format of the recordings: one object per line."""
    async with make_world() as world:
        world.transcript.mark("driver", "hello", number=1)
        world.transcript.write(str(tmp_path / "t.jsonl"))
        lines = (tmp_path / "t.jsonl").read_text().splitlines()
        assert '"dir": "host>plugin"' in "".join(lines)
        assert lines[-1].endswith('"msg": {"event": "hello", "number": 1}}')


async def test_retries_use_new_ids_and_old_channels(make_world: MakeWorld) -> None:
    """A payer may try again with the same invoice."""
    async with make_world({"hooks": {"htlc_accepted": {"result": "fail", "failure_message": "2002"}}}) as world:
        client, payer = world.client(), world.payer()
        invoice = client.invoice(1_000, scid="1x1x1")
        for _ in range(3):
            assert (await payer.pay(invoice)).raw_messages == ["2002"]
        assert payer.channels[0].next_htlc_id == 3
        assert payer.channels[0].live == {}
        assert isinstance(payer, Payer)


def test_the_clock_fires_in_order() -> None:
    """Timers planned by timers fire in the same turn when due; cancelled ones never."""
    clock, fired = Clock(), []
    clock.call_later(5, lambda: fired.append("five"))
    clock.call_later(2, lambda: clock.call_later(1, lambda: fired.append("three")))
    clock.call_later(1, lambda: fired.append("one")).cancel()
    begin = clock.now_us
    clock.advance(4)
    assert (fired, clock.now_us - begin) == (["three"], 4_000_000)
    clock.advance(1)
    assert fired == ["three", "five"]
    assert clock.iso() == "2026-11-22T11:13:01.000Z"


def test_psbts_are_real_and_read_back() -> None:
    """BIP 174 and 370: both forms decode to the same transaction."""
    spent = psbt.Output(1_000_000, b"\x51\x20" + b"\7" * 32)
    tx = psbt.Tx((("ab" * 32, 1),), (psbt.Output(900_000, b"\0\x20" + b"\1" * 32),), (spent,), 109)
    assert psbt.decode(psbt.encode(tx)) == tx
    assert psbt.decode(psbt.encode_v2(tx)) == tx
    signed = tx.sign(b"key")
    assert psbt.decode(psbt.encode(signed)) == signed
    assert signed.txid == tx.txid
    with pytest.raises(ValueError, match="psbt"):
        psbt.decode("AAAA")


@pytest.mark.parametrize("script", [b"\0\x14" + b"\1" * 20, b"\0\x20" + b"\2" * 32, b"\x51\x20" + b"\3" * 32])
def test_addresses_round_trip(script: bytes) -> None:
    """BIP 173 and 350."""
    assert address_to_script(script_to_address(script)) == script


def test_a_recorded_psbt_is_read() -> None:
    """The PSBTs of a real lightningd decode, unsigned and signed, to the txid it gave."""
    answers = {request["method"]: answer["result"] for request, answer in recorded_calls("a_single_var")}
    tx = psbt.decode(answers["addpsbtoutput"]["psbt"])
    assert [output.amount_sat for output in tx.outputs] == [799_646, 200_000]
    assert tx.txid == answers["sendpsbt"]["txid"]
    assert psbt.decode(answers["signpsbt"]["signed_psbt"]).txid == tx.txid


async def test_names_are_given_once(make_world: MakeWorld) -> None:
    """Two parties of one name would share a key and a line in the books."""
    async with make_world() as world:
        world.payer("bob")
        with pytest.raises(ValueError, match="bob"):
            world.client("bob")
