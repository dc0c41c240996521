"""A full node in the wallet's place: openchannel, final hops, invoices (facts cln:C)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness.node_steps import forward, open_channel
from harness.puppet import PUPPET, Strings, shape

from lsps2fast_plugin.simnode import Node, RpcError, World, bolt11, tlv
from lsps2fast_plugin.simnode.party import connect

MakeWorld = Callable[..., World]
HOOKS = [{"name": name} for name in ("htlc_accepted", "openchannel", "invoice_payment")]
ZEROCONF = {"openchannel": {"result": "continue", "mindepth": 0}, "invoice_payment": {"result": "continue"}}


@asynccontextmanager
async def two_nodes(make_world: MakeWorld, hooks: dict[str, Any]) -> AsyncIterator[tuple[World, Node]]:
    """LSP and wallet, a puppet on each; `hooks` are the wallet's ready answers."""
    async with make_world() as world:
        wallet = world.add_node("wallet", wallet_sat=())
        plan = {"manifest": {"hooks": HOOKS}, "hooks": hooks}
        wallet.plan_plugin(PUPPET, env={"PUPPET": json.dumps(plan)})
        await wallet.start()
        connect(wallet, world.lsp)
        yield world, wallet


def route(world: World) -> list[list[dict[str, Any]]]:
    hop = {"id": world.lsp.node_id, "short_channel_id": "1x1x1", "fee_base_msat": 0}
    return [[hop | {"fee_proportional_millionths": 0, "cltv_expiry_delta": 48}]]


async def invoice(world: World, wallet: Node, amount_msat: Any, **more: Any) -> dict[str, Any]:
    ask = {"amount_msat": amount_msat, "label": "jit", "description": "d", "dev-routes": route(world)}
    made: dict[str, Any] = await wallet.call("invoice", ask | more)
    return made


def rewritten(call: dict[str, Any], total_msat: int) -> dict[str, Any]:
    """cln:C2: type 2 is what came, type 8 the secret and the new total."""
    records = tlv.read_records(tlv.unprefixed(bytes.fromhex(call["params"]["onion"]["payload"])))
    records[2] = tlv.tu(call["params"]["htlc"]["amount_msat"])
    records[8] = records[8][:32] + tlv.tu(total_msat)
    return {"result": "continue", "payload": tlv.write_records(records).hex()}


async def forwarded(world: World, text: str, amounts: list[int], fee_msat: int, wallet: Node) -> Any:
    """Pay `text`; the LSP opens a channel and forwards with the fee on the first part."""
    strings = Strings(world.lsp)
    payment = world.payer().pay(text, amounts)
    calls = await strings.opened(len(amounts))
    opened = await open_channel(world.lsp, wallet)
    for number, call in enumerate(calls):
        await strings.answer(call, result=forward(call, opened.channel_id, 0 if number else fee_msat))
    return payment


async def test_openchannel_is_asked_as_recorded(make_world: MakeWorld) -> None:
    """cln:C1: names, order, values of a_single_var."""
    real = {
        "push_msat": 0,
        "dust_limit_msat": 546_000,
        "max_htlc_value_in_flight_msat": 2**64 - 1,
        "channel_reserve_msat": 2_000_000,
        "htlc_minimum_msat": 0,
        "feerate_per_kw": 2500,
        "to_self_delay": 6,
        "max_accepted_htlcs": 483,
        "channel_flags": 0,
    }
    async with two_nodes(make_world, ZEROCONF) as (world, wallet):
        await open_channel(world.lsp, wallet)
        (asked,) = await Strings(wallet).seen("openchannel")
        body = asked["openchannel"]
        assert list(body) == ["id", "funding_msat", *real, "channel_type"]
        assert {key: body[key] for key in real} == real
        assert body["channel_type"]["bits"] == [12, 46, 50]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"result": "reject", "error_message": "no"}, "You gave bad parameters: no"),
        ({"result": "continue"}, "not on our allowlist"),
    ],
)
async def test_openchannel_may_refuse(make_world: MakeWorld, answer: dict[str, str], text: str) -> None:
    """cln:C1, cln:O9: reject, and continue without mindepth 0."""
    async with two_nodes(make_world, {"openchannel": answer}) as (world, wallet):
        with pytest.raises(RpcError, match=text):
            await open_channel(world.lsp, wallet)


@pytest.mark.parametrize("way", ["reduced invoice", "invoice_msat"])
async def test_both_ways_to_make_the_invoice_match(make_world: MakeWorld, way: str) -> None:
    """cln:C2, cln:C5: two parts, fee of 1000000 on the first, both settled; invoice_payment once, with the sum
    received.
    """
    async with two_nodes(make_world, ZEROCONF) as (world, wallet):
        full = await invoice(world, wallet, 20_000_000)
        extra: dict[str, dict[str, Any]] = {"reduced invoice": {}, "invoice_msat": {"invoice_msat": 19_000_000}}
        payment = await forwarded(world, full["bolt11"], [10_000_000, 10_000_000], 1_000_000, wallet)
        if way == "reduced invoice":
            preimage = wallet.invoices.by_hash[bytes.fromhex(full["payment_hash"])].preimage
            await wallet.call("delinvoice", {"label": "jit", "status": "unpaid"})
            reduced = await invoice(world, wallet, 19_000_000, preimage=preimage.hex())
            assert reduced["payment_secret"] == full["payment_secret"]
        strings = Strings(wallet)
        for call in await strings.opened(2):
            await strings.answer(call, result=rewritten(call, 19_000_000) | extra[way])
        assert (await payment).paid
        (asked,) = await strings.seen("invoice_payment", 1)
        assert list(asked["payment"]) == ["label", "preimage", "msat", "extratlvs"]
        assert asked["payment"]["msat"] == 19_000_000
        (row,) = (await wallet.call("listinvoices", {"label": "jit"}))["invoices"]
        assert (row["status"], row["amount_received_msat"]) == ("paid", 19_000_000)
        world.check_books()


async def test_the_wallets_hook_is_asked_as_recorded(make_world: MakeWorld) -> None:
    """cln:C2, cln:H2: the final hop with extra_tlvs, the alias as channel (a_single_var, l1)."""
    async with two_nodes(make_world, ZEROCONF) as (world, wallet):
        made = await invoice(world, wallet, "any")
        await forwarded(world, made["bolt11"], [10_000_000], 1_000_000, wallet)
        (call,) = await Strings(wallet).opened(1)
        assert list(call["params"]) == ["peer_id", "onion", "htlc"]
        assert list(call["params"]["onion"]) == [
            "payload",
            "type",
            "forward_msat",
            "outgoing_cltv_value",
            "total_msat",
            "payment_secret",
            "next_onion",
            "shared_secret",
        ]
        htlc = call["params"]["htlc"]
        assert htlc["extra_tlvs"] == "fe000100010800000000000f4240"
        assert (htlc["short_channel_id"], htlc["amount_msat"]) == (wallet.ends[0].alias, 9_000_000)


async def test_parts_not_rewritten_fail_and_the_rest_waits_70_seconds(make_world: MakeWorld) -> None:
    """cln:C3, cln:C4: final_incorrect_htlc_amount at once, mpp_timeout after 70 s (j_client_fails, group 2)."""
    async with two_nodes(make_world, {**ZEROCONF, "htlc_accepted": {"result": "continue"}}) as (world, wallet):
        made = await invoice(world, wallet, 20_000_000)
        payment = await forwarded(world, made["bolt11"], [10_000_000, 10_000_000], 2_000_000, wallet)
        await world.until(lambda: wallet.invoices.sets)
        await world.advance(69)
        assert not payment.done
        await world.advance(1)
        result = await payment
        assert result.raw_messages == ["001300000000007a1200", "0017"]
        assert result.codes == [204, 204]


async def test_invoice_payment_may_reject(make_world: MakeWorld) -> None:
    """cln:C5: all parts fail with unknown details; 203, from the payee."""
    hooks = {**ZEROCONF, "htlc_accepted": {"result": "continue"}, "invoice_payment": {"result": "reject"}}
    async with two_nodes(make_world, hooks) as (world, wallet):
        made = await invoice(world, wallet, 2_000_000)
        result = await (await forwarded(world, made["bolt11"], [1_000_000, 1_000_000], 0, wallet))
        assert result.codes == [203, 203]
        assert {raw[:4] for raw in result.raw_messages} == {"400f"}


async def test_invoices_with_hints(make_world: MakeWorld) -> None:
    """cln:C6: dev-routes needs a developer; exposeprivatechannels finds nothing; createinvoice signs what it is
    given.
    """
    async with two_nodes(make_world, ZEROCONF) as (world, wallet):
        wallet.developer = False
        with pytest.raises(RpcError, match="dev-routes requires --developer"):
            await invoice(world, wallet, 1_000)
        ask = {"amount_msat": 1_000, "label": "x", "description": "d", "exposeprivatechannels": ["1x1x1"]}
        with pytest.raises(RpcError, match="None of those hints"):
            await wallet.call("invoice", ask)
        plain = await wallet.call("invoice", {"amount_msat": 1_000, "label": "y", "description": "d"})
        preimage = wallet.invoices.by_hash[bytes.fromhex(plain["payment_hash"])].preimage
        await wallet.call("delinvoice", {"label": "y", "status": "unpaid"})
        text = bolt11.decode(plain["bolt11"])
        text.routes = [[bolt11.Hop(world.lsp.node_id, "1x1x1", 0, 0, 48)]]
        unsigned = text.sign(b"\1" * 32)  # another key's signature: lightningd signs anew
        made = await wallet.call("createinvoice", [unsigned, "y", preimage.hex()])
        decoded = await wallet.call("decode", [made["bolt11"]])
        assert decoded["payee"] == wallet.node_id
        assert decoded["routes"][0][0]["short_channel_id"] == "1x1x1"
        assert decoded["payment_hash"] == plain["payment_hash"]


# of a_single_var, l1
REAL = (
    "lnbcrt1p4s9n3csp5mcymq0ehs5jyahn900rttwpdneh5985a6dhmlnqf0v2zc2yff3tspp58sq3tfexfcfra39jfsla0ls4qyu3"
    "zlm9ltewt4u0s4l4r2pvklxqdq9df5hgxqyjw5qcqp2rzjqvlahfdg5rvnf0u7cq5t56m73kw09yh200m9qahetvqstyly9fu96q"
    "qqqyqqqqgqqyqqqqqqqqqqqqqqxq9qxpqysgqcf7uyeshgfsy4vfqwxy0zakrpe3gprk6jukdsdv4zr6teuej5pw85gn9wzrf705"
    "ywd0cgckky08ftx3nmeh9hq2yjpkagpxmp5yhk0qqygc3pu"
)


def test_a_recorded_invoice_is_read() -> None:
    """bolt11: a real one; payee from the signature, hint over the jit scid."""
    read = bolt11.decode(REAL)
    assert read.payee == "02e43703be23bcbf159e8c771fb32a7cbc09cf8ae671d461a58d0a6feba9dff58f"
    assert read.payment_hash.hex() == "3c0115a7264e123ec4b24c3fd7fe150139117f65faf2e5d78f857f51a82cb7cc"
    assert read.payment_secret.hex() == "de09b03f3785244ede657bc6b5b82d9e6f429e9dd36fbfcc097b142c28894c57"
    assert (read.amount_msat, read.description, read.min_final_cltv) == (None, "jit", 10)
    ((hop,),) = read.routes
    assert (hop.scid, hop.fee_base_msat, hop.fee_ppm, hop.cltv_delta) == ("1x1x1", 0, 0, 48)


@pytest.mark.parametrize("amount_msat", [None, 1, 10, 999, 100_000, 123_456_789, 2_000_000_000_000])
def test_bolt11_round_trip(amount_msat: int | None) -> None:
    """What is written is read, to the msat."""
    hop = bolt11.Hop("02" + "11" * 32, "539268x845x1", 1, 2, 144)
    made = bolt11.Bolt11(b"\1" * 32, b"\2" * 32, amount_msat, "coffee ☕", 1_700_000_000, routes=[[hop, hop]])
    read = bolt11.decode(made.sign(b"\3" * 32))
    assert (read.amount_msat, read.routes, read.description) == (amount_msat, made.routes, made.description)
    assert shape(read.payee) == "str"
