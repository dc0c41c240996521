"""A wallet that has a channel with room is paid over it, where the operator says so: nothing is opened."""

from __future__ import annotations

from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import ClientInvoice

FREE = {"lsps2-reuse": "free"}
GUARD_BLOCKS = 12 + 144 - 6  # from the payment to K-06
FEE = {"lsps2-reuse": "fee", "lsps2-reuse-fee-percent": 20}
SPARE_MSAT = 50_000_000  # into the 100,000 sat that the first channel has to spare
LARGE_MSAT = 300_000_000


def fundings(stage: Stage) -> int:
    """How many channels the plugin has opened."""
    return len(stage.calls("fundchannel_start"))


async def reused(stage: Stage, invoice: ClientInvoice) -> None:
    """The payment is over, the buy stands, and nothing was opened for it."""
    await stage.state(invoice, "SUCCEEDED")
    await stage.at_rest()
    assert stage.records("active")[str(invoice.scid)]["lsps2fast"]["stage"] == "buy"
    assert stage.records("finalized")[str(invoice.scid)]["outcome"] == "Reused"


async def first_sale(stage: Stage) -> tuple[Client, Payer]:
    """A wallet that has bought a channel."""
    client, payer = stage.client(), stage.payer()
    await stage.sale(client, payer)
    return client, payer


async def test_fifty_thousand_into_a_hundred_thousand_spare_makes_no_transaction(mode: str) -> None:
    """rule:2, rule:13: over the channel that is there, without a fee; then its routing fees are as before."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        before = len(stage.world.chain.transactions)
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT // 2] * 2)
        await reused(stage, invoice)
        assert invoice.fee_taken_msat == 0
        assert len(client.ends) == 1
        assert len(stage.world.chain.transactions) == before
        sales = (await stage.lsp.call("lsps2-listsales", {"outcome": "Reused"}))["sales"]
        assert [(sale["mining_msat"], sale["capacity_sat"]) for sale in sales] == [
            (0, client.ends[0].channel.capacity_sat)
        ]
        assert fundings(stage) == 1


async def test_three_hundred_thousand_gets_one_channel(mode: str) -> None:
    """rule:18: what the spare room cannot carry opens a channel, for the whole fee."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, LARGE_MSAT)
        await stage.paid(payer, invoice, [LARGE_MSAT // 3] * 3)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == LARGE_MSAT // 100
        assert len(client.ends) == 2
        assert fundings(stage) == 2


async def test_by_default_every_payment_gets_a_channel_of_its_own(mode: str) -> None:
    """C-14: the policy says nothing of reuse."""
    async with Stage(mode) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await stage.over(invoice)
        assert len(client.ends) == 2


async def test_a_part_of_the_fee_is_taken_where_the_policy_says_so(mode: str) -> None:
    """rule:4: a fifth of the opening fee, to the msat, laid on all parts."""
    async with Stage(mode, options=FEE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT // 2] * 2)
        await reused(stage, invoice)
        assert invoice.fee_taken_msat == FEE_MSAT // 5
        assert len(client.ends) == 1


async def test_a_payment_of_any_size_goes_over_it_too(mode: str) -> None:
    """C-20: variable mode, one part."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, None)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await reused(stage, invoice)
        assert len(client.ends) == 1


async def test_the_buy_stays_good_for_a_channel(mode: str) -> None:
    """A-03, C-28: what went over the spare room has used nothing up; the next payment on the scid opens one."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        first = await stage.invoice(client, 90_000_000)
        await stage.paid(payer, first, [90_000_000])
        await reused(stage, first)
        second = client.invoice(90_000_000, first.scid, opening_fee_msat=FEE_MSAT, cltv_delta=first.cltv_delta)
        await stage.paid(payer, second, [90_000_000])
        await stage.over(second)
        assert second.fee_taken_msat == FEE_MSAT
        assert len(client.ends) == 2


async def test_two_racing_payments_never_both_fail(mode: str) -> None:
    """rule:18: each fits alone, both do not; room is promised to the first, and the second gets a channel."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        size_msat = 70_000_000
        invoices = [await stage.invoice(client, size_msat) for _ in range(2)]
        payments = [payer.pay(invoice, [size_msat // 2] * 2) for invoice in invoices]
        assert [(await payment).codes for payment in payments] == [[0, 0]] * 2
        for invoice in invoices:
            await stage.state(invoice, "SUCCEEDED")
        assert sorted(invoice.fee_taken_msat for invoice in invoices) == [0, FEE_MSAT]
        assert len(client.ends) == 2


async def test_two_payments_that_fit_share_the_room(mode: str) -> None:
    """rule:13: the first one's end does not give the channel its fees back while the other is under way."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        client.behaviour.on_part = "hold"
        invoices = [await stage.invoice(client, 40_000_000) for _ in range(2)]
        payments = [payer.pay(invoice, [20_000_000] * 2) for invoice in invoices]
        await stage.until(lambda: len(client.held()) == 4, "all parts are with the client")
        client.settle_held()
        assert [(await payment).codes for payment in payments] == [[0, 0]] * 2
        for invoice in invoices:
            await reused(stage, invoice)
        assert len(client.ends) == 1


async def test_a_probe_frees_its_share_and_the_next_payment_opens(mode: str) -> None:
    """rule:22, C-26: a refused payment leaves the room to others; the same buy then opens a channel."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        probed, other = await stage.invoice(client, 70_000_000), await stage.invoice(client, 70_000_000)
        client.behaviour.on_part = "fail"
        assert (await payer.pay(probed, [70_000_000])).codes != [0]
        await stage.at_rest()
        client.behaviour.on_part = "settle"
        await stage.paid(payer, other, [70_000_000])
        await reused(stage, other)
        await stage.paid(payer, probed, [70_000_000])
        await stage.over(probed)
        assert probed.fee_taken_msat == FEE_MSAT
        stats = await stage.stats()
        assert stats["payments"]["reused"] == 1
        assert (await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id}))["trust"]["probes"] == 0


async def test_room_that_goes_before_the_parts_are_out_opens_a_channel(mode: str) -> None:
    """rule:18, rule:11: looked at once more when all is written; nothing fails."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, 70_000_000)
        written = stage.lsp.faults.hang("datastore")
        payment = payer.pay(invoice, [35_000_000] * 2)
        await written.reached.wait()
        end = client.ends[0].other
        end.htlc_maximum_msat = 1_000  # as where it was spent
        written.release()
        assert (await payment).codes == [0, 0]
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        assert len(client.ends) == 2


async def test_a_channel_that_closes_before_the_parts_are_out_opens_another(mode: str) -> None:
    """K-13, rule:23: lightningd says that it is gone."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, SPARE_MSAT)
        written = stage.lsp.faults.hang("datastore")
        payment = payer.pay(invoice, [SPARE_MSAT])
        await written.reached.wait()
        await stage.lsp.call(
            "close", {"id": client.ends[0].channel.channel_id, "unilateraltimeout": 1, "force_lease_closed": True}
        )
        written.release()
        assert (await payment).codes == [0]
        await stage.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT


async def test_the_operators_own_fees_of_a_channel_come_back(mode: str) -> None:
    """rule:13: what `setchannel` had set, not what the configuration says."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        end = client.ends[0].other
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 77, "feeppm": 7})
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await reused(stage, invoice)
        assert (end.fee_base_msat, end.fee_ppm) == (77, 7)
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "enforcedelay": 0})


async def test_fees_that_are_set_while_a_payment_is_under_way_stay(mode: str) -> None:
    """rule:13: the last word is its operator's, or that of a plugin that adjusts fees, not what was charged before."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        end = client.ends[0].other
        client.behaviour.on_part = "hold"
        invoice = await stage.invoice(client, SPARE_MSAT)
        payment = payer.pay(invoice, [SPARE_MSAT])
        await stage.until(lambda: len(client.held()) == 1, "the part is with the client")
        assert end.fee_base_msat == end.fee_ppm == 0
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 77, "feeppm": 7})
        client.settle_held()
        assert (await payment).codes == [0]
        await reused(stage, invoice)
        assert (end.fee_base_msat, end.fee_ppm) == (77, 7)
        second = await stage.invoice(client, 20_000_000)
        client.behaviour.on_part = "settle"
        await stage.paid(payer, second, [20_000_000])
        await reused(stage, second)
        assert (end.fee_base_msat, end.fee_ppm) == (77, 7)
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "enforcedelay": 0})


async def test_fees_that_are_set_between_two_payments_under_way_stay(mode: str) -> None:
    """rule:13: the second one finds what was set since the first began, and that comes back after both."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        end = client.ends[0].other
        client.behaviour.on_part = "hold"
        invoices = [await stage.invoice(client, 20_000_000) for _ in range(2)]
        payments = [payer.pay(invoices[0], [20_000_000])]
        await stage.until(lambda: len(client.held()) == 1, "the first part is with the client")
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 77, "feeppm": 7})
        payments.append(payer.pay(invoices[1], [20_000_000]))
        await stage.until(lambda: len(client.held()) == 2, "the second part is with the client")
        assert end.fee_base_msat == end.fee_ppm == 0
        client.settle_held()
        assert [(await payment).codes for payment in payments] == [[0], [0]]
        for invoice in invoices:
            await reused(stage, invoice)
        assert (end.fee_base_msat, end.fee_ppm) == (77, 7)
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "enforcedelay": 0})


async def test_the_alias_of_a_paid_channel_stays_free_afterwards(mode: str) -> None:
    """A-03: the jit scid of the channel was promised at no fee until valid_until."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = stage.client(), stage.payer()
        first = await stage.sale(client, payer)
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await reused(stage, invoice)
        alias = client.invoice(1_000_000, first.scid, cltv_delta=first.cltv_delta)
        assert (await payer.pay(alias, [1_000_000])).codes == [0]


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("when", ["held", "out"])
async def test_a_restart_goes_on_over_the_same_channel(mode: str, when: str, power: bool) -> None:
    """K-07, K-09, H-16: nothing is opened, nothing is sent, the fees come back, the room is free again."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        client.behaviour.on_part = "hold"
        invoice = await stage.invoice(client, SPARE_MSAT)
        reached = stage.lsp.faults.hang("setchannel") if when == "held" else None
        payment = payer.pay(invoice, [SPARE_MSAT // 2] * 2)
        if reached is not None:
            await reached.reached.wait()
        else:
            await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        if power:
            client.go_offline()
        await stage.restart(power=power)
        stage.lsp.faults.clear()
        if power:  # the alias of the first sale gets its fees before the client is back
            await stage.quiet()
        client.connect()
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        client.settle_held()
        assert (await payment).codes == [0, 0]
        await stage.at_rest()
        assert len(client.ends) == 1
        assert fundings(stage) == 1
        assert stage.records("finalized")[str(invoice.scid)]["outcome"] == "Reused"


async def test_a_channel_that_gets_another_name_meanwhile_is_still_the_same(mode: str) -> None:
    """rule:25: promises go by channel id; the funding of the first channel is mined while parts are out."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = stage.client(), stage.payer()
        first = await stage.invoice(client)
        await stage.paid(payer, first, [SIZE_MSAT])
        await stage.over(first)
        client.behaviour.on_part = "hold"
        one, two = await stage.invoice(client, 70_000_000), await stage.invoice(client, 70_000_000)
        slow = payer.pay(one, [70_000_000])
        await stage.until(lambda: len(client.held()) == 1, "one part is with the client")
        stage.world.mine(2)
        await stage.quiet()
        fast = payer.pay(two, [70_000_000])
        await stage.until(lambda: len(client.held()) == 2, "both are")
        client.settle_held()
        assert (await slow).codes == (await fast).codes == [0]
        await stage.at_rest()
        assert sorted(each.fee_taken_msat for each in (one, two)) == [0, FEE_MSAT]


async def test_an_unpaid_channel_carries_no_other_payment() -> None:
    """rule:21: nothing goes over a channel whose own fee has not come."""
    async with Stage(LSP_TRUSTS, options=FREE | {"lsps2-mining-budget-sat": 10**6}) as stage:
        client, payer = stage.client(on_part="fail"), stage.payer()
        unpaid = await stage.invoice(client, 150_000_000)
        assert (await payer.pay(unpaid, [150_000_000])).codes != [0]
        await stage.at_rest()
        client.behaviour.on_part = "settle"
        invoice = await stage.invoice(client, SPARE_MSAT)
        await payer.pay(invoice, [SPARE_MSAT])
        await stage.at_rest()
        assert (await stage.stats())["payments"]["reused"] == 0
        assert len(client.ends) == 2
        await stage.paid(payer, unpaid, [150_000_000])
        await stage.over(unpaid)


async def test_a_record_that_cannot_be_written_lets_nothing_out(mode: str) -> None:
    """rule:11: the parts fail for now, the room is free again, the buy stands."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, SPARE_MSAT)
        stage.lsp.faults.fail("datastore", times=4)
        payment = payer.pay(invoice, [SPARE_MSAT])
        for _ in range(6):
            await stage.quiet()
            await stage.world.advance(5)
        assert (await payment).raw_messages == [TEMPORARY]
        assert client.received == [part for part in client.received if part.htlc.amount_msat < SPARE_MSAT]
        stage.lsp.faults.clear()
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await reused(stage, invoice)


async def test_an_offer_that_lapses_meanwhile_ends_as_reused() -> None:
    """K-16: the payment goes on; the final record says what came of the buy."""
    async with Stage(CLIENT_TRUSTS, options=FREE) as stage:
        client, payer = await first_sale(stage)
        client.behaviour.on_part = "hold"
        invoice = await stage.invoice(client, SPARE_MSAT)
        payment = payer.pay(invoice, [SPARE_MSAT])
        await stage.until(lambda: len(client.held()) == 1, "the part is with the client")
        await stage.quiet()
        await stage.world.advance(3_700)
        client.settle_held()
        assert (await payment).codes == [0]
        await stage.until(lambda: stage.outcome(invoice.scid) == "Reused", "the final record")


async def test_an_offer_that_lapses_before_the_fees_are_back_keeps_its_record() -> None:
    """K-15, K-16, rule:13: until then only the active record tells of them, and no final one says Timeout."""
    async with Stage(CLIENT_TRUSTS, options=FREE) as stage:
        client, payer = await first_sale(stage)
        client.behaviour.on_part = "hold"
        invoice = await stage.invoice(client, SPARE_MSAT)
        payment = payer.pay(invoice, [SPARE_MSAT])
        await stage.until(lambda: len(client.held()) == 1, "the part is with the client")
        await stage.quiet()
        slow = stage.lsp.faults.late("setchannel")  # the fees come back, and the answer does not
        client.settle_held()
        assert (await payment).codes == [0]
        await slow.reached.wait()
        await stage.lsp.call("lsps2-dev-advance", {"seconds": 3_700})
        await stage.fence()
        assert str(invoice.scid) in stage.records("active")
        slow.release()
        await stage.until(lambda: stage.outcome(invoice.scid) == "Reused", "the final record")


async def test_menu_and_quote_say_what_goes_over_it(mode: str) -> None:
    """G-04, people:L8: the client hears it beside the menu, the operator in a quote."""
    async with Stage(mode, options=FEE) as stage:
        client, _ = await first_sale(stage)
        menu = await client.request("lsps2.get_info")
        said: dict[str, Any] = menu["existing_channel"]
        assert said["opening_fee_percent"] == 20
        most_msat = int(said["max_payment_size_msat"])
        assert 90_000_000 < most_msat < 110_000_000
        asked = {"peer_id": client.node_id, "payment_size_msat": most_msat}
        quote = (await stage.lsp.call("lsps2-quote", asked))["existing_channel"]
        assert quote == {"reuse": "fee", **said, "carries_it": True}
        other = (await stage.lsp.call("lsps2-quote", asked | {"payment_size_msat": most_msat + 1}))["existing_channel"]
        assert not other["carries_it"]


async def test_a_client_without_a_channel_hears_nothing_of_it() -> None:
    """G-05: the menu alone."""
    async with Stage(CLIENT_TRUSTS, options=FREE) as stage:
        client = stage.client()
        assert set(await client.request("lsps2.get_info")) == {"opening_fee_params_menu"}


async def room_msat(stage: Stage, client: Client) -> int:
    """What the operator is told would go over a channel of this client."""
    quote = await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id})
    return int(quote["existing_channel"]["max_payment_size_msat"])


@pytest.mark.parametrize("method", ["setchannel", "listpeerchannels"])
async def test_what_is_found_for_a_payment_that_was_given_up_is_no_news_for_the_next(mode: str, method: str) -> None:
    """K-04, K-06, rule:18: the last look takes until the parts near their expiry; nothing stays promised, and no fee at
    zero, when its answer comes at last."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        before_msat = await room_msat(stage, client)
        invoice = await stage.invoice(client, 70_000_000)
        written = stage.lsp.faults.hang("datastore", after=True)
        payment = payer.pay(invoice, [70_000_000])
        await written.reached.wait()
        slow = stage.lsp.faults.hang(method)
        written.release()
        await slow.reached.wait()
        stage.world.mine(GUARD_BLOCKS)
        assert (await payment).raw_messages == [TEMPORARY]
        again = payer.pay(invoice, [70_000_000])
        slow.release()
        assert (await again).codes == [0]
        await stage.at_rest()
        assert len(client.ends) == 1
        assert 20_000_000 < await room_msat(stage, client) <= before_msat - 70_000_000


async def test_where_nothing_is_charged_no_routing_fee_is_set() -> None:
    """rule:13, P17: lightningd would write it down, twice a payment."""
    async with Stage(CLIENT_TRUSTS, options=FREE, fee_base_msat=0, fee_ppm=0) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await reused(stage, invoice)
        assert stage.calls("setchannel") == []
        assert len(client.ends) == 1


async def test_a_fee_that_is_set_between_two_looks_stays_as_it_was_set() -> None:
    """rule:13: the channel took nothing when it was chosen; a channel is opened, and the operator's word holds."""
    async with Stage(CLIENT_TRUSTS, options=FREE, fee_base_msat=0, fee_ppm=0) as stage:
        client, payer = await first_sale(stage)
        end = client.ends[0].other
        invoice = await stage.invoice(client, SPARE_MSAT)
        written = stage.lsp.faults.hang("datastore")
        payment = payer.pay(invoice, [SPARE_MSAT])
        await written.reached.wait()
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 77, "feeppm": 7})
        written.release()
        assert (await payment).codes == [0]
        await stage.over(invoice)
        assert (end.fee_base_msat, end.fee_ppm) == (77, 7)
        assert len(client.ends) == 2
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 0, "feeppm": 0})


async def test_a_public_channel_is_not_used() -> None:
    """rule:13, A-02: all the network would hear that it takes no routing fee."""
    async with Stage(CLIENT_TRUSTS, options=FREE) as stage:
        client, payer = await first_sale(stage)
        client.ends[0].channel.private = False
        assert await room_msat(stage, client) == 0
        invoice = await stage.invoice(client, SPARE_MSAT)
        await stage.paid(payer, invoice, [SPARE_MSAT])
        await stage.over(invoice)
        assert len(client.ends) == 2


async def test_a_client_that_has_just_come_back_is_paid_over_its_channel(mode: str) -> None:
    """C-13: as one that was woken. Its channel is reestablished a moment after it has connected."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, SPARE_MSAT)
        client.go_offline()
        payment = payer.pay(invoice, [SPARE_MSAT // 2] * 2)
        await stage.held(2)
        channel = client.ends[0].channel
        takes_long, channel.set_reestablished = channel.set_reestablished, lambda yes: None  # type: ignore[method-assign]
        looks = len(stage.calls("listpeerchannels"))
        client.connect()
        await stage.until(lambda: len(stage.calls("listpeerchannels")) > looks, "a first look")
        await stage.quiet()
        channel.set_reestablished = takes_long  # type: ignore[method-assign]
        channel.set_reestablished(True)
        await stage.world.advance(1)
        assert (await payment).codes == [0, 0]
        await reused(stage, invoice)
        assert len(client.ends) == 1


async def test_a_client_whose_channel_does_not_come_back_gets_another(mode: str) -> None:
    """C-13, trap:4: a wait for it has an end."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = await first_sale(stage)
        invoice = await stage.invoice(client, SPARE_MSAT)
        client.ends[0].channel.set_reestablished(False)
        payment = payer.pay(invoice, [SPARE_MSAT])
        for _ in range(10):
            await stage.quiet()
            await stage.world.advance(0.5)
        assert (await payment).codes == [0]
        await stage.over(invoice)
        assert len(client.ends) == 2
        client.ends[0].channel.set_reestablished(True)


async def test_blinded_parts_go_over_it_too(mode: str) -> None:
    """C-25: a part is a part."""
    async with Stage(mode, options={**FREE, "lsps2-blinded-paths": True}) as stage:
        client, payer = await first_sale(stage)
        invoice = client.blind(await stage.invoice(client, SPARE_MSAT))
        await stage.paid(payer, invoice, [SPARE_MSAT // 2] * 2)
        await reused(stage, invoice)
        assert len(client.ends) == 1


async def test_off_asks_and_says_nothing() -> None:
    """C-14, G-05: no look at the client's channels, no word in menu and quote, no record that an older version
    could not read."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = await first_sale(stage)
        assert set(await client.request("lsps2.get_info")) == {"opening_fee_params_menu"}
        assert "existing_channel" not in await stage.lsp.call("lsps2-quote", {"peer_id": client.node_id})
        asked = [params for params in stage.calls("listpeerchannels") if params == {"id": client.node_id}]
        invoice = await stage.invoice(client, SPARE_MSAT)
        written = stage.lsp.faults.hang("utxopsbt")
        payment = payer.pay(invoice, [SPARE_MSAT])
        await written.reached.wait()
        assert [params for params in stage.calls("listpeerchannels") if params == {"id": client.node_id}] == asked
        written.release()
        assert (await payment).codes == [0]
        await stage.over(invoice)
        assert len(client.ends) == 2


async def test_what_goes_out_over_an_alias_during_the_last_look_is_counted(mode: str) -> None:
    """A-03, rule:18: it is promised nothing and takes its room when it goes; then the other payment opens a channel."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = stage.client(), stage.payer()
        first = await stage.sale(client, payer)
        invoice = await stage.invoice(client, 70_000_000)
        written = stage.lsp.faults.hang("datastore", after=True)
        payment = payer.pay(invoice, [35_000_000] * 2)
        await written.reached.wait()
        slow = stage.lsp.faults.late("listpeerchannels")
        written.release()
        await slow.reached.wait()
        alias = client.invoice(60_000_000, first.scid, cltv_delta=first.cltv_delta)
        assert (await payer.pay(alias, [60_000_000])).codes == [0]
        slow.release()
        assert (await payment).codes == [0, 0]
        await stage.over(invoice)
        assert len(client.ends) == 2
        assert invoice.fee_taken_msat == FEE_MSAT


async def test_an_alias_payment_that_takes_promised_room_fails_no_payment(mode: str) -> None:
    """A-03, rule:18: it goes at once; the one that was promised the room finds it gone, and opens a channel."""
    async with Stage(mode, options=FREE) as stage:
        client, payer = stage.client(), stage.payer()
        first = await stage.sale(client, payer)
        invoice = await stage.invoice(client, 70_000_000)
        written = stage.lsp.faults.hang("datastore", after=True)
        payment = payer.pay(invoice, [35_000_000] * 2)
        await written.reached.wait()
        alias = client.invoice(60_000_000, first.scid, cltv_delta=first.cltv_delta)
        assert (await payer.pay(alias, [60_000_000])).codes == [0]
        written.release()
        assert (await payment).codes == [0, 0]
        await stage.over(invoice)
        assert len(client.ends) == 2
