"""Many at once: sessions interleaved, one of them hanging, ordinary traffic of the node between them."""

from __future__ import annotations

import asyncio

from harness.service import FEE_MSAT, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode.client import ClientInvoice

HALF_MSAT = SIZE_MSAT // 2
SESSIONS, PARTS = 20, 10


async def test_twenty_sessions_at_once_with_one_open_hanging(mode: str) -> None:
    """P19 in small, cln:H15, K-22: part k of every payment before part k+1 of any; none waits for the one that
    hangs.
    """
    async with Stage(mode, wallet_sat=(200_000,) * (SESSIONS + 2), seed=19) as stage:
        payer = stage.payer(channels=4, capacity_sat=100_000_000)
        clients = [stage.client(f"client {number}") for number in range(SESSIONS)]
        invoices = [await stage.invoice(client) for client in clients]
        stuck_client = stage.client("stuck")
        stuck = await stage.invoice(stuck_client)
        stage.world.open_books()
        hanging = stage.lsp.faults.late("fundchannel_complete")
        stuck_payment = payer.pay(stuck, [HALF_MSAT] * 2)
        await hanging.reached.wait()
        amount = SIZE_MSAT // PARTS
        payments = [payer.pay(invoice, [amount], total_msat=SIZE_MSAT) for _ in range(PARTS) for invoice in invoices]
        results = await asyncio.gather(*(payment.wait() for payment in payments))
        assert [result.raw_messages for result in results] == [[""]] * (SESSIONS * PARTS)
        assert not stuck_payment.done
        for invoice in invoices:
            await stage.over(invoice)
        hanging.release()
        assert (await stuck_payment).paid
        await stage.over(stuck)
        books = stage.world.books()
        assert [books[client.name] for client in [*clients, stuck_client]] == [SIZE_MSAT - FEE_MSAT] * (SESSIONS + 1)
        assert books[payer.name] == -(SESSIONS + 1) * SIZE_MSAT
        assert len(stage.calls("datastore")) == (SESSIONS + 1) * 4  # P16; the fifth is the deletion


async def test_ordinary_traffic_is_untouched_while_sessions_run(mode: str) -> None:
    """C-01, P6: forwards both ways, own invoices and failures pass between the parts, each as without the plugin."""
    async with Stage(mode, seed=5) as stage:
        payer, shop = stage.payer(channels=3), stage.client("shop")
        stage.world.add_channel(stage.lsp, shop, 1_000_000)
        client = stage.client(on_part="hold")
        invoice, waiting = await stage.invoice(client), await stage.invoice(client)
        held = payer.pay(waiting, [1_000_000], total_msat=SIZE_MSAT)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        traffic = []
        for number in range(10):
            own = await stage.lsp.call("invoice", {"amount_msat": 10_000 + number, "label": number, "description": "x"})
            traffic.append(payer.pay(own["bolt11"]))
            traffic.append(payer.pay(shop.invoice(20_000 + number), overpay_msat=1_010))
        dear = payer.pay(shop.invoice(50_000))  # no fee for the node: lightningd itself says so
        assert [(await each).paid for each in traffic] == [True] * 20
        assert [part.failcode for part in (await dear).parts] == [0x100C]
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        await stage.world.advance(90)
        assert (await held).raw_messages == [TEMPORARY]


async def test_many_attempts_on_one_scid_leave_one_channel() -> None:
    """rule:2, C-14: three payments complete on one scid in the same moment; one opens, all are paid in the end."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer(channels=3)
        invoice = await stage.invoice(client)
        rivals = [client.invoice(SIZE_MSAT, invoice.scid, opening_fee_msat=FEE_MSAT, cltv_delta=144) for _ in range(2)]
        left: list[ClientInvoice] = [invoice, *rivals]
        for _ in range(3):
            results = await asyncio.gather(*(payer.pay(each, [HALF_MSAT] * 2).wait() for each in left))
            left = [each for each, result in zip(left, results, strict=True) if not result.paid]
            await stage.quiet()
        assert left == []
        assert sum(each.fee_taken_msat for each in (invoice, *rivals)) == FEE_MSAT
        assert len(stage.calls("fundchannel_complete")) == 1
