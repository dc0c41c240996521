"""Wake-up calls (bLIP-55) with the plugin's process: webhooks kept, clients called, payments held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.service import SIZE_MSAT, TEMPORARY, Stage
from harness.webhook_server import WebhookServer, webhook_server

from lsps2fast_plugin.simnode.client import LspsError

from .sleeping import APP, registered, sleeps_with_a_channel, speaks, wakes

DUST_MSAT = 330_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebhookServer]:
    """The app developer's server."""
    with webhook_server(tmp_path) as found:
        yield found


async def test_off_by_default() -> None:
    """N-01: nothing of it is there; the protocol is not named."""
    async with Stage() as stage:
        client = stage.client()
        assert await client.request("lsps0.list_protocols") == {"protocols": [2]}
        with pytest.raises(LspsError) as refused:
            await client.request("lsps5.list_webhooks")
        assert refused.value.code == -32601
        assert (await stage.stats())["wake_up"] is None


async def test_webhooks_are_set_listed_replaced_and_removed(server: WebhookServer) -> None:
    """N-01, N-04, N-06, N-07, N-18: and each new URL hears that it is one, with a signature that is sound."""
    async with wakes(server) as stage:
        client = stage.client()
        await registered(stage, server, client)
        assert await client.request("lsps0.list_protocols") == {"protocols": [2, 5]}
        assert server.kinds(stage.lsp.node_id) == ["webhook_registered"]
        assert server.requests[0].target == "/push?secret=word"
        same = await client.request("lsps5.set_webhook", {**APP, "webhook": server.url()})
        assert same == {"num_webhooks": 1, "max_webhooks": 2, "no_change": True}
        for name, target in (("app", "/other"), ("second", "/second")):
            await client.request("lsps5.set_webhook", {"app_name": name, "webhook": server.url(target)})
        listed = {"app_names": ["app", "second"], "max_webhooks": 2}
        assert await client.request("lsps5.list_webhooks") == listed
        with pytest.raises(LspsError) as full:
            await client.request("lsps5.set_webhook", {"app_name": "third", "webhook": server.url("/third")})
        assert (full.value.code, full.value.data) == (503, {"max_webhooks": 2})
        assert await client.request("lsps5.remove_webhook", {"app_name": "second"}) == {}
        with pytest.raises(LspsError) as unknown:
            await client.request("lsps5.remove_webhook", {"app_name": "second"})
        assert unknown.value.code == 1010
        await stage.until(lambda: len(server.requests) == 3, "each was told")
        assert server.kinds(stage.lsp.node_id) == ["webhook_registered"] * 3
        assert (await stage.client("bob").request("lsps5.list_webhooks"))["app_names"] == []


async def test_a_sleeping_wallet_is_woken_for_its_first_payment(server: WebhookServer) -> None:
    """N-09, N-19, C-13: away when the parts come; one call; back within the time, it gets its channel and is paid."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await registered(stage, server, client)
        invoice = await stage.invoice(client)
        client.go_offline()
        payment = payer.pay(invoice, [SIZE_MSAT // 5] * 5)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        await stage.held(5)
        assert server.kinds(stage.lsp.node_id)[1:] == ["payment_incoming"]
        client.connect()
        assert (await payment).raw_messages == [""] * 5
        await stage.over(invoice)
        assert len(server.requests) == 2
        stage.world.mine()


async def wake_held(stage: Stage, count: int) -> None:
    """So many payments wait for clients that sleep."""
    while (await stage.stats())["wake_held"] != count:
        await stage.fence()


async def test_a_payment_over_an_open_channel_waits_for_the_wallet(server: WebhookServer) -> None:
    """N-09, N-19: an ordinary forward is held, the wallet called, and the payment goes in when it is back."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        ordinary = client.invoice(1_000_000, client.ends[0].other.scid_now())
        payment = payer.pay(ordinary, [1_000_000], overpay_msat=10_000)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        assert (await stage.stats())["wake_held"] == 1
        client.connect()
        assert (await payment).paid
        stats = await stage.stats()
        assert (stats["wake_held"], stats["wake_up"]["woken"], stats["wake_up"]["in_vain"]) == (0, 1, 0)
        again = client.invoice(1_000_000, client.ends[0].other.scid_now())
        assert (await payer.pay(again, [1_000_000], overpay_msat=10_000)).paid
        assert len(server.requests) == 2


async def test_a_wallet_that_does_not_wake_costs_its_payment_alone(server: WebhookServer) -> None:
    """N-19: after `lsps2-wake-wait` lightningd has its way; nothing is left behind."""
    async with wakes(server, lsps2_wake_wait=60) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        ordinary = client.invoice(1_000_000, client.ends[0].other.scid_now())
        payment = payer.pay(ordinary, [1_000_000], overpay_msat=10_000)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        await stage.lsp.call("lsps2-dev-advance", {"seconds": 70})
        assert (await payment).raw_messages == [TEMPORARY]
        assert (await stage.stats())["wake_up"]["in_vain"] == 1
        client.connect()


async def test_a_part_over_the_alias_of_a_paid_channel_waits_too(server: WebhookServer) -> None:
    """N-19, people:S16: the invoice of the sale, paid once more while its wallet sleeps."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await registered(stage, server, client)
        invoice = await stage.sale(client, payer)
        await stage.at_rest()
        client.go_offline()
        await stage.quiet()
        later = client.invoice(1_000_000, invoice.scid, cltv_delta=invoice.cltv_delta)
        payment = payer.pay(later, [1_000_000], overpay_msat=10_000)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        client.connect()
        await stage.lsp.call("lsps2-dev-advance", {"seconds": 6})
        assert (await payment).paid


async def test_what_a_dying_channel_brought_is_not_let_out_to_who_wakes(server: WebhookServer) -> None:
    """rule:19: crumbs too small for the chain would never be ours, and the wallet, a friend of the payer, has them."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        await sleeps_with_a_channel(stage, server, client, payer)
        crumbs = client.invoice(29 * DUST_MSAT, client.ends[0].other.scid_now())
        payer.pay(crumbs, [DUST_MSAT] * 29, channels=[0] * 29, overpay_msat=10_000)
        await wake_held(stage, 29)
        stage.lsp.error_arrived(payer, payer.channels[0].other, "bye")
        await wake_held(stage, 0)
        assert len(stage.log_lines("29 payments for clients that sleep fail")) == 1
        params = stage.part_call(crumbs, payer)
        params["forward_to"] = client.ends[0].channel.channel_id
        answer = await stage.hook_call(params)
        assert answer["result"] == {"result": "fail", "failure_message": TEMPORARY}
        client.connect()
        await stage.quiet()
        assert not crumbs.paid_msat
        stage.world.mine(200)
        await stage.quiet()


async def test_a_strangers_channel_keeps_no_payment_from_a_wallet_that_sleeps(server: WebhookServer) -> None:
    """rule:24, trap:47: thirty crumbs of one channel are all that is held for a client; a payment takes their place."""
    async with wakes(server) as stage:
        client, payer, stranger = stage.client(), stage.payer(), stage.payer("stranger")
        await sleeps_with_a_channel(stage, server, client, payer)
        scid = client.ends[0].other.scid_now()
        crumbs = client.invoice(30 * DUST_MSAT, scid)
        dust = stranger.pay(crumbs, [DUST_MSAT] * 30, overpay_msat=10_000)
        await wake_held(stage, 30)
        payment = payer.pay(client.invoice(3_000_000, scid), [1_000_000] * 3, overpay_msat=10_000)
        await stage.until(lambda: sum(part.result.done() for part in dust.parts) == 3, "three give way")
        assert (await stage.stats())["wake_up"]["gave_way"] == 3
        client.connect()
        assert (await payment).paid
        await stage.world.advance(100)  # the client has less than the whole
        assert (await dust).raw_messages.count(TEMPORARY) == 3
        stage.world.mine()


async def test_nor_over_the_alias_of_a_paid_channel(server: WebhookServer) -> None:
    """rule:24, people:S16: what waits over one jit scid has shares, too."""
    limits = {"lsps2-max-held-parts-per-buy": 10, "lsps2-max-parts": 10}
    async with wakes(server, **limits) as stage:
        client, payer, stranger = stage.client(), stage.payer(), stage.payer("stranger")
        await registered(stage, server, client)
        scid = (await stage.sale(client, payer)).scid
        await stage.at_rest()
        client.go_offline()
        await stage.quiet()
        crumbs = client.invoice(10 * DUST_MSAT, scid, cltv_delta=144)
        dust = stranger.pay(crumbs, [DUST_MSAT] * 10, overpay_msat=10_000)
        await stage.held(10)
        later = client.invoice(3_000_000, scid, cltv_delta=144)
        payment = payer.pay(later, [1_000_000] * 3, overpay_msat=10_000)
        await stage.until(lambda: sum(part.result.done() for part in dust.parts) == 3, "three give way")
        client.connect()
        await stage.lsp.call("lsps2-dev-advance", {"seconds": 6})
        assert (await payment).paid
        await stage.world.advance(100)
        assert (await dust).raw_messages.count(TEMPORARY) == 3
        stage.world.mine()


async def test_a_payment_that_expires_soon_waits_for_nobody(server: WebhookServer) -> None:
    """rule:5, cln:H14: a stranger's onion must not have a good peer close its channel with us; nor while it is held."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        scid = client.ends[0].other.scid_now()
        soon = payer.pay(client.invoice(1_000_000, scid, cltv_delta=6), final_delta=0, overpay_msat=10_000)
        assert (await soon).raw_messages == [TEMPORARY]
        later = payer.pay(client.invoice(1_000_000, scid, cltv_delta=10), final_delta=0, overpay_msat=10_000)
        await wake_held(stage, 1)
        assert (await stage.stats())["held_blocks_left"] == 10
        stage.world.mine(4)
        assert (await later).raw_messages == [TEMPORARY]
        client.connect()


async def test_a_wallet_is_called_before_its_channel_must_be_closed(server: WebhookServer) -> None:
    """N-14: an HTLC that we offered nears its expiry, block by block; who is there, or has none, is not called."""
    async with wakes(server) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        await registered(stage, server, client)
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(client.held, "the part is at the client")
        expiry = client.held()[0].htlc.cltv_expiry
        stage.world.mine(expiry - 23 - stage.world.chain.height)
        await stage.quiet()
        client.go_offline()
        await stage.fence()
        assert len(server.requests) == 1
        stage.world.mine()
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        notification = server.requests[1].notification(stage.lsp.node_id)
        assert (notification.method, notification.timeout_block) == ("lsps5.expiry_soon", expiry + 1)
        client.connect()
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)


async def test_a_client_that_asks_at_once_hears_the_truth(server: WebhookServer) -> None:
    """N-01: while a signature is awaited neither `list_protocols` nor `set_webhook` says that there is no LSPS5."""
    async with wakes(server) as stage:
        await stage.stop()
        slow = stage.lsp.faults.hang("signmessage")
        await stage.start()
        client = stage.client()
        asked = asyncio.ensure_future(client.request("lsps0.list_protocols"))
        set_now = asyncio.ensure_future(client.request("lsps5.set_webhook", {**APP, "webhook": server.url()}))
        await stage.fence()
        assert not asked.done()
        slow.release()
        assert await asked == {"protocols": [2, 5]}
        assert (await set_now)["num_webhooks"] == 1


async def test_a_signer_that_gives_no_answer_is_asked_again(server: WebhookServer) -> None:
    """N-11, rule:10: a busy minute at the start does not end wake-up calls for good; until then nothing is held."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        await stage.stop()
        stage.lsp.faults.fail("signmessage", times=9)
        await stage.start()
        bob = stage.client("bob")
        assert await bob.request("lsps0.list_protocols") == {"protocols": [2]}
        scid = client.ends[0].other.scid_now()
        soon = payer.pay(client.invoice(1_000_000, scid), overpay_msat=10_000)
        assert (await soon).raw_messages == [TEMPORARY]
        for _ in range(9):
            await stage.lsp.call("lsps2-dev-advance", {"seconds": 60})
            await stage.quiet()
        assert stage.log_lines("no wake-up calls: signing a notification has failed 3 times")
        assert await bob.request("lsps0.list_protocols") == {"protocols": [2, 5]}
        later = payer.pay(client.invoice(1_000_000, scid), overpay_msat=10_000)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        client.connect()
        assert (await later).paid


async def test_a_wallet_that_leaves_while_a_signature_is_awaited_is_woken(server: WebhookServer) -> None:
    """N-09, N-19: it went to sleep in the plugin's first second."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        client.connect()
        await stage.stop()
        slow = stage.lsp.faults.hang("signmessage")
        await stage.start()
        client.go_offline()
        await stage.fence()
        slow.release()
        await speaks(stage)
        payment = payer.pay(client.invoice(1_000_000, client.ends[0].other.scid_now()), overpay_msat=10_000)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        client.connect()
        assert (await payment).paid


async def test_onion_messages_wait_for_a_wallet_that_sleeps(server: WebhookServer) -> None:
    """N-14: what lightningd could not forward is given to it once more when the client is back, and no other."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        lost = {"source": payer.node_id, "incoming": "0002", "path_key": payer.node_id, "outgoing": "0001"}
        scid = client.ends[0].other.scid_now()
        for incoming, to in (
            ("00a1", {"next_node_id": client.node_id}),
            ("00a2", {"next_short_channel_id_dir": f"{scid}/1"}),
            ("00a3", {"next_node_id": payer.node_id}),
            ("00a4", {"next_short_channel_id_dir": "1x1x1/0"}),
            ("00a5", {"next_short_channel_id_dir": "none"}),
            ("00a6", {}),
        ):
            stage.lsp.notify("onionmessage_forward_fail", {**lost, "incoming": incoming, **to})
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        assert server.kinds(stage.lsp.node_id)[1:] == ["onion_message_incoming"]
        assert (await stage.stats())["wake_up"]["onion_messages"] == {"kept": 2, "given": 0, "again": 0, "dropped": 0}
        client.connect()
        await stage.until(lambda: len(stage.lsp.onion_messages.injected) == 2, "lightningd has them")
        assert stage.lsp.onion_messages.injected == [bytes.fromhex("00a1"), bytes.fromhex("00a2")]


async def test_an_onion_message_outlives_a_connection_that_is_replaced(server: WebhookServer) -> None:
    """N-14, cln:N15: the wallet's first connection is dead on its side; what lightningd sent there is given again."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        stage.lsp.onion_messages.arrived(payer, b"\1", client)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        client.connect()
        client.deaf = True
        await stage.until(lambda: stage.lsp.onion_messages.injected, "lightningd has it")
        assert client.onions.messages == []
        client.disconnect()
        client.connect()
        for _ in range(10):
            await stage.world.advance(6)
            await stage.quiet()
        assert client.onions.messages == [b"\1"] * 2  # of three; that it has it no one can know
        assert stage.lsp.onion_messages.injected == [b"\1"] * 3
        assert (await stage.stats())["wake_up"]["onion_messages"] == {"kept": 0, "given": 1, "again": 2, "dropped": 0}


async def test_a_wallet_gets_no_more_onion_messages_at_once_than_it_takes(server: WebhookServer) -> None:
    """cln:N15: its lightningd drops what is above four in a second."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await sleeps_with_a_channel(stage, server, client, payer)
        messages = [bytes([number]) for number in range(8)]
        for message in messages:
            stage.lsp.onion_messages.arrived(payer, message, client)
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        client.connect()
        await stage.until(lambda: len(stage.lsp.onion_messages.injected) == 8, "lightningd has them")
        assert client.onions.messages == messages


async def test_webhooks_outlive_the_plugin_and_the_node(server: WebhookServer) -> None:
    """N-08, N-15: stored before the answer; after kill -9 and a start the same client is called."""
    async with wakes(server) as stage:
        client, payer = stage.client(), stage.payer()
        await registered(stage, server, client)
        invoice = await stage.invoice(client)
        await stage.kill()
        client.go_offline()
        await stage.start()
        await speaks(stage)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: len(server.requests) == 2, "the client is called")
        assert server.kinds(stage.lsp.node_id) == ["webhook_registered", "payment_incoming"]
        await stage.restart(power=True)
        await speaks(stage)
        client.connect()
        assert (await payment).paid
        await stage.over(invoice)
        stage.world.mine()


async def test_a_lightningd_that_signs_backslashes_has_no_wake_up_calls(server: WebhookServer) -> None:
    """N-11, cln:N14: as lightningd is today, without a program that signs; it is said, and all else works."""
    async with wakes(server, mended=False) as stage:
        client = stage.client()
        await stage.until(lambda: stage.log_lines("there are no wake-up calls"), "it is said")
        assert await client.request("lsps0.list_protocols") == {"protocols": [2]}
        assert (await stage.stats())["wake_up"]["signing"] is False
        await stage.still_sells()


async def test_an_operator_can_call_a_client(server: WebhookServer) -> None:
    """N-14: `liquidity_management_request` is sent by hand; once, until the client has been there."""
    async with wakes(server) as stage:
        client = stage.client()
        await registered(stage, server, client)
        ask = {"peer_id": client.node_id, "notification": "liquidity_management_request"}
        not_called = {"peer_id": client.node_id, "webhooks": 1, "called": False}
        assert await stage.lsp.call("lsps2-wake", ask) == {**not_called, "reason": "it is connected"}
        client.go_offline()
        await stage.fence()
        assert await stage.lsp.call("lsps2-wake", ask) == {"peer_id": client.node_id, "webhooks": 1, "called": True}
        assert len(server.requests) == 2
        again = await stage.lsp.call("lsps2-wake", ask)
        assert again == {**not_called, "reason": again["reason"]}
        assert "called for that of late" in again["reason"]
        assert server.kinds(stage.lsp.node_id)[1:] == ["liquidity_management_request"]
