"""Payments over a blinded path (BOLT 12) that begins at this node: sold like others, or turned away without a word."""

from __future__ import annotations

import random
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, FEE_MSAT, HIDDEN, LSP_TRUSTS, SIZE_MSAT, UNKNOWN, Stage

from lsps2fast_plugin.simnode import Client, tlv
from lsps2fast_plugin.simnode.blinding import PATH_KEY, Relay
from lsps2fast_plugin.simnode.client import ClientInvoice

ON = {"lsps2-blinded-paths": True}
HALF_MSAT = SIZE_MSAT // 2
U64_MAX = 2**64 - 1


async def _invoice(stage: Stage, client: Client, size_msat: int | None = SIZE_MSAT, **how: Any) -> ClientInvoice:
    return client.blind(await stage.invoice(client, size_msat), **how)


@pytest.mark.parametrize("mode", [CLIENT_TRUSTS, LSP_TRUSTS])
@pytest.mark.parametrize(
    ("size_msat", "amounts_msat"),
    [(SIZE_MSAT, [SIZE_MSAT]), (SIZE_MSAT, [3_000_000, 3_000_000, 4_000_000]), (None, [SIZE_MSAT])],
    ids=["one part", "three parts", "variable"],
)
async def test_a_payment_over_a_blinded_path_is_sold_like_any_other(
    mode: str, size_msat: int | None, amounts_msat: list[int]
) -> None:
    """C-25, H-03, H-08, cln:N7: the next hop gets a plain payload of types 2, 4 and 6, extra_fee, and its key."""
    async with Stage(mode, options=ON) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        invoice = await _invoice(stage, client, size_msat)
        stage.world.open_books()
        await stage.paid(payer, invoice, amounts_msat)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        books = stage.world.books()
        assert (books[payer.name], books[client.name]) == (-SIZE_MSAT, SIZE_MSAT - FEE_MSAT)
        answers = stage.htlc_results(invoice.payment_hash)
        payloads = [tlv.read_records(bytes.fromhex(answer["payload"])) for answer in answers]
        assert [set(payload) for payload in payloads] == [{2, 4, 6}] * len(amounts_msat)
        assert {tlv.scid_to_str(int.from_bytes(payload[6], "big")) for payload in payloads} == {invoice.scid}
        assert sum(tlv.read_tu(payload[2]) for payload in payloads) == SIZE_MSAT - FEE_MSAT
        assert all(PATH_KEY in tlv.read_records(part.htlc.extra_tlvs) for part in client.received)


async def test_routing_fee_and_expiry_are_those_of_the_path() -> None:
    """C-25, C-04: what `payment_relay` leaves us is kept, beside the opening fee."""
    async with Stage(options=ON) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await _invoice(stage, client, relay=Relay(150, fee_ppm=100, fee_base_msat=2_000))
        await stage.paid(payer, invoice, [SIZE_MSAT], overpay_msat=3_000, cltv_delta=150)
        await stage.over(invoice)
        (row,) = [row for row in stage.lsp.htlcs.forwards if row.part.htlc.payment_hash == invoice.payment_hash]
        assert (row.out_msat, row.part.htlc.amount_msat) == (SIZE_MSAT - FEE_MSAT, SIZE_MSAT + 3_000)
        assert row.part.outgoing_cltv == row.part.htlc.cltv_expiry - 150


async def test_by_default_it_fails_as_bolt_4_wants_it_and_opens_nothing() -> None:
    """C-25, rule:6: the payer learns nothing, the log says which option; the same offer is paid without a path."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await _invoice(stage, client)
        assert (await payer.pay(invoice, [HALF_MSAT] * 2)).raw_messages == [HIDDEN] * 2
        assert len(stage.log_lines("inside a blinded path: the option lsps2-blinded-paths", "warn")) == 2
        assert stage.calls("utxopsbt") == []
        invoice.path = None
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


async def test_a_path_that_begins_before_us_cannot_be_sold() -> None:
    """C-25, cln:N7: with a path key in its message lightningd takes no plain payload; it fails, and opens nothing."""
    async with Stage(options=ON) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await _invoice(stage, client, via=payer)
        assert (await payer.pay(invoice)).raw_messages == [HIDDEN]
        assert len(stage.log_lines("blinded path: the path begins before us", "warn")) == 1
        assert stage.calls("utxopsbt") == []
        client.blind(invoice)
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


async def test_no_failure_says_more_than_that_it_failed() -> None:
    """C-25, C-04, C-06: too little, too soon, never complete: one message for all of them (BOLT 4)."""
    async with Stage(options=ON) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await _invoice(stage, client)
        assert (await payer.pay(invoice, [0], overpay_msat=999)).raw_messages == [HIDDEN]
        assert (await payer.pay(invoice, [SIZE_MSAT], final_delta=0)).raw_messages == [HIDDEN]
        client.blind(invoice, Relay(100))
        assert (await payer.pay(invoice, [SIZE_MSAT])).raw_messages == [HIDDEN]
        client.blind(invoice, Relay(invoice.cltv_delta, fee_base_msat=SIZE_MSAT + 1))  # 64 bits overflow
        assert (await payer.pay(invoice, [SIZE_MSAT])).raw_messages == [HIDDEN]
        client.blind(invoice)
        half = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.world.advance(90)
        assert (await half).raw_messages == [HIDDEN]
        assert stage.calls("utxopsbt") == []
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)


async def test_blinded_and_plain_parts_make_one_payment() -> None:
    """C-10, C-25, H-05: a part is a part; the fee is laid over all of them."""
    async with Stage(options=ON) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        plain = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        client.blind(invoice)
        hidden = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        assert ((await plain).paid, (await hidden).paid) == (True, True)
        await stage.over(invoice)
        assert [part.extra_fee_msat for part in client.received] == [FEE_MSAT // 2] * 2


async def test_the_scid_goes_on_forwarding_once_it_is_paid() -> None:
    """A-03, C-25: without a fee, and without a channel more."""
    async with Stage(options=ON) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await _invoice(stage, client)
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        stage.world.mine()
        again = client.blind(client.invoice(3_000_000, invoice.scid, cltv_delta=144))
        await stage.paid(payer, again, [1_000_000, 2_000_000])
        assert again.fee_taken_msat == 0
        assert len(stage.calls("fundchannel_complete")) == 1


async def test_a_withheld_channel_takes_no_blinded_part_of_strangers() -> None:
    """rule:7, C-25: nor does the payer learn of it."""
    async with Stage(CLIENT_TRUSTS, options=ON) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await _invoice(stage, client)
        first = payer.pay(invoice, [SIZE_MSAT])
        await stage.state(invoice, "AWAITING_SETTLEMENT")
        other = client.blind(client.invoice(1_000_000, stage.lsp.ends_to(client.node_id)[0].alias, cltv_delta=144))
        assert (await payer.pay(other)).raw_messages == [HIDDEN]
        client.settle_held()
        assert (await first).paid
        await stage.over(invoice)


async def test_what_was_held_goes_on_when_the_option_is_taken_away() -> None:
    """C-25, cln:R1, rule:2: what the journal says goes out does go out; a new part is not taken."""
    async with Stage(options=ON) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await _invoice(stage, client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.state(invoice, "AWAITING_CHANNEL_READY")
        await stage.quiet()
        written = stage.lsp.faults.hang("datastore", after=True)
        client.release_ready()
        await stage.until(written.reached.is_set, "the journal says that the parts go out")
        del stage.lsp.plugin_plans[0][1]["lsps2-blinded-paths"]
        await stage.restart(power=True)
        client.connect()
        assert (await payment).paid
        await stage.over(invoice)
        again = client.blind(client.invoice(3_000_000, invoice.scid, cltv_delta=144))
        assert (await payer.pay(again)).raw_messages == [HIDDEN]


async def test_numbers_of_all_sizes_get_one_valid_answer() -> None:
    """C-25, trap:12: 300 calls with amounts and expiries that a path may make up, or that are missing."""
    rng = random.Random(12)
    edges = [0, 1, 999, 1_000, SIZE_MSAT, 2**32 - 1, 2**32, 2**63, U64_MAX, None]
    async with Stage(options=ON) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await _invoice(stage, client)
        assert invoice.path is not None
        blinded = tlv.prefixed(tlv.write_records({10: invoice.path.hops[0].encrypted, 12: invoice.path.path_key})).hex()
        for number in range(300):
            params = stage.part_call(invoice, payer, htlc_id=9_000 + number)
            params["onion"]["payload"] = blinded
            for name in ("forward_msat", "outgoing_cltv_value"):
                params["onion"][name] = rng.choice([*edges, rng.randrange(2 ** rng.randint(1, 64))])
            params["onion"] = {key: value for key, value in params["onion"].items() if value is not None}
            params["htlc"]["amount_msat"] = rng.choice([1, 999, SIZE_MSAT - 1])
            answer = stage.valid(await stage.world.bounded(stage.hook_call(params), None, "an answer"))
            assert answer == {"result": "fail", "failure_message": HIDDEN}
        assert stage.calls("utxopsbt") == []
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


async def test_a_payload_that_lightningd_cannot_open_is_its_own_business() -> None:
    """C-01, C-25, cln:H10: no next hop is shown, so the plugin lets it go."""
    async with Stage(options=ON) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await _invoice(stage, client)
        assert invoice.path is not None
        client.blind(invoice)
        hops = invoice.path.hops
        spoilt = bytes(len(hops[0].encrypted))
        invoice.path = type(invoice.path)(
            invoice.path.first_node_id, invoice.path.path_key, (hops[0]._replace(encrypted=spoilt), *hops[1:])
        )
        (message,) = (await payer.pay(invoice)).raw_messages
        assert message.startswith("4016")
        assert UNKNOWN not in stage.failures()
