"""Wake-up calls on real nodes, signed by `lsps2fast sign-webhooks`: a wallet that sleeps and comes back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from harness.deaf_link import deaf_link
from harness.town import retire
from harness.wallets import Hold, arrived
from harness.webhook_server import WebhookServer, webhook_server

from lsps2fast.errors import NodeError
from lsps2fast.lsps import lsps5
from lsps2fast.lsps.lsps5 import WebhookNotification
from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, until

SIZE_MSAT = 10_000_000
SIGNER = f"{sys.executable} -m lsps2fast_plugin.tools.cli sign-webhooks hsm_secret"  # plugins run in lightning-dir
OPTIONS = {"lsps2-webhooks": 2, "lsps2-webhook-loopback": True, "lsps2-webhook-signer": SIGNER}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookServer]:
    """The app developer's server, whose certificate the plugin takes."""
    with webhook_server(tmp_path_factory.mktemp("server")) as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(found.ca_file))
        yield found


@pytest.fixture(scope="module")
def calling_town(open_town: Callable[..., Town], server: WebhookServer) -> Town:
    """An LSP that calls sleeping wallets."""
    town = open_town(service_options=OPTIONS)
    until(lambda: town.stats()["wake_up"]["signing"], "the signer works")
    return town


@pytest.fixture
def town(calling_town: Town) -> Iterator[Town]:
    """The same for each test, whose wallets end with it."""
    before = list(calling_town.children)
    yield calling_town
    retire(calling_town, before)


def with_webhook(town: Town, name: str, server: WebhookServer) -> Lightningd:
    """Return a fresh wallet whose server has heard of its webhook."""
    wallet = town.wallet(name)
    ask = {"lsp_id": town.lsp.node_id, "app_name": "app", "webhook": server.url(f"/{name}")}
    assert wallet.call("lsps-lsps5-setwebhook", ask) == {"num_webhooks": 1, "max_webhooks": 2, "no_change": False}
    called(town, server, wallet, lsps5.WEBHOOK_REGISTERED)
    return wallet


def told(town: Town, server: WebhookServer, wallet: Lightningd) -> list[WebhookNotification]:
    """Return what the server of this wallet was sent, each verified."""
    return [each.notification(town.lsp.node_id) for each in server.requests if each.target == f"/{wallet.name}"]


def called(town: Town, server: WebhookServer, wallet: Lightningd, method: str, times: int = 1) -> WebhookNotification:
    """Wait until the server of this wallet was sent this so often; the last one."""

    def found() -> list[WebhookNotification]:
        return [each for each in told(town, server, wallet) if each.method == method]

    until(lambda: len(found()) == times, f"{method} for {wallet.name}")
    return found()[-1]


def sleep(town: Town, wallet: Lightningd) -> None:
    """End the wallet's node; the LSP knows it."""
    wallet.stop()
    until(lambda: not town.connected(town.lsp, wallet), f"{wallet.name} is away")


def wake(town: Town, wallet: Lightningd) -> None:
    """Start it again."""
    wallet.start()
    town.connect(wallet, town.lsp)


def lightningd_signs_backslashes(town: Town) -> bool:
    """What `signmessage` of this lightningd does with a quote and a backslash (cln:N14)."""
    signed = [town.lsp.call("signmessage", {"message": text})["zbase"] for text in ('a"b', "a\\b")]
    signers = [
        lsps5._signer(b"Lightning Signed Message:" + raw, zbase)
        for raw, zbase in zip((rb"a\"b", rb"a\\b"), signed, strict=True)
    ]
    return signers == [bytes.fromhex(town.lsp.node_id)] * 2


def ordinary_bill(town: Town, bill: Bill) -> Bill:
    """Return an invoice over the wallet's channel by its alias, for no routing fee."""
    (channel,) = [row for row in town.channels(town.lsp, bill.wallet) if row["state"] == "CHANNELD_NORMAL"]
    town.lsp.call("setchannel", {"id": channel["channel_id"], "feebase": 0, "feeppm": 0, "enforcedelay": 0})
    return replace(town.further_bill(bill, 1_000_000), jit_scid=channel["alias"]["local"])


def bought(town: Town, wallet: Lightningd) -> Bill:
    """Sell the wallet its channel."""
    bill = town.bill(wallet, SIZE_MSAT)
    assert town.pay(bill, [SIZE_MSAT]).paid
    town.over(bill)
    town.mine(6)
    return bill


def paid_asleep(town: Town, bill: Bill, amounts_msat: list[int], server: WebhookServer, times: int) -> None:
    """The wallet's node ends, the payment comes, the call goes out, the node starts again and is paid."""
    sleep(town, bill.wallet)
    group = town.send_parts(bill, amounts_msat)
    called(town, server, bill.wallet, lsps5.PAYMENT_INCOMING, times)
    wake(town, bill.wallet)
    assert town.result(bill, group, amounts_msat).paid


def test_a_sleeping_wallet_is_woken(town: Town, server: WebhookServer) -> None:
    """N-09, N-11, N-16, N-18, N-19, cln:N14: for the payment that buys its channel, for one over its jit scid, and for
    an ordinary one.
    """
    assert lightningd_signs_backslashes(town)
    before = town.stats()
    wallet = with_webhook(town, "sleeper", server)
    bill = town.bill(wallet, SIZE_MSAT)
    paid_asleep(town, bill, [SIZE_MSAT // 2] * 2, server, 1)
    town.over(bill)
    town.mine(6)
    paid_asleep(town, town.further_bill(bill, 1_000_000), [1_000_000], server, 2)
    paid_asleep(town, ordinary_bill(town, bill), [1_000_000], server, 3)
    first = next(each for each in server.requests if each.target == "/sleeper")
    given = {"timestamp": first.headers["x-lsps5-timestamp"], "signature": first.headers["x-lsps5-signature"]}
    verdict = wallet.call("lsps-lsps5-verify", {"lsp_id": town.lsp.node_id, "body": first.body.decode(), **given})
    assert (verdict["verified"], verdict["method"]) == (True, lsps5.WEBHOOK_REGISTERED)
    methods = [each.method for each in told(town, server, wallet)]
    assert methods == [lsps5.WEBHOOK_REGISTERED, *[lsps5.PAYMENT_INCOMING] * 3]
    stats = town.stats()
    assert stats["wake_calls"]["answered"] == before["wake_calls"]["answered"] + 4
    assert (stats["wake_held"], stats["wake_up"]["woken"] - before["wake_up"]["woken"]) == (0, 1)
    assert stats["wake_up"]["in_vain"] == before["wake_up"]["in_vain"]


def test_a_wallet_is_called_before_its_channel_must_be_closed(town: Town, server: WebhookServer) -> None:
    """N-14: 24 blocks ahead, with the height at which lightningd closes it; it comes, takes its money, and keeps it."""
    wallet = with_webhook(town, "late", server)
    bill = ordinary_bill(town, bought(town, wallet))
    hold = Hold(wallet)
    group = town.send_parts(bill, [1_000_000], spare_blocks=12)
    arrived(town, bill)
    (htlc,) = [htlc for row in town.channels(town.lsp, wallet) for htlc in row["htlcs"]]
    sleep(town, wallet)
    town.mine(htlc["expiry"] - 24 - town.bitcoind.height)
    assert [each.method for each in told(town, server, wallet)] == [lsps5.WEBHOOK_REGISTERED]
    town.mine()
    assert called(town, server, wallet, lsps5.EXPIRY_SOON).timeout_block == htlc["expiry"] + 1
    hold.release()
    wake(town, wallet)
    assert town.result(bill, group, [1_000_000]).paid


def test_a_wallet_is_called_for_a_close_that_needs_it(town: Town, server: WebhookServer) -> None:
    """N-14: `lsps2-wake` by hand, then the channel is closed by both."""
    wallet = with_webhook(town, "closed", server)
    bought(town, wallet)
    sleep(town, wallet)
    ask = {"peer_id": wallet.node_id, "notification": "liquidity_management_request"}
    assert town.lsp.call("lsps2-wake", ask) == {"peer_id": wallet.node_id, "webhooks": 1, "called": True}
    assert called(town, server, wallet, lsps5.LIQUIDITY_MANAGEMENT_REQUEST).params == {}
    wake(town, wallet)
    town.rejoin(wallet)
    (channel,) = town.channels(town.lsp, wallet)
    ask = {"id": channel["channel_id"], "unilateraltimeout": 60, "force_lease_closed": True}
    assert town.lsp.call("close", ask)["type"] == "mutual"


def test_a_wallet_is_called_to_answer_for_its_offer(town: Town, server: WebhookServer) -> None:
    """N-14, cln:N15: a request for a BOLT 12 invoice is kept while it sleeps, and answered once it is back."""
    wallet = with_webhook(town, "offers", server)
    bought(town, wallet)
    offer = wallet.call("offer", {"amount": "1000sat", "description": "asleep"})["bolt12"]
    sleep(town, wallet)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(town.payer.call, "fetchinvoice", {"offer": offer, "timeout": 110}, 120)
        called(town, server, wallet, lsps5.ONION_MESSAGE_INCOMING)
        assert town.stats()["wake_up"]["onion_messages"]["kept"] >= 1
        wake(town, wallet)
        assert asked.result()["invoice"].startswith("lni1")


def test_nor_is_a_request_lost_with_a_connection_that_is_replaced(town: Town, server: WebhookServer) -> None:
    """N-14, cln:N15: lightningd has it for the wallet's first connection, which is dead, and once more for the next."""
    wallet = with_webhook(town, "roams", server)
    bought(town, wallet)
    offer = wallet.call("offer", {"amount": "1000sat", "description": "asleep"})["bolt12"]
    sleep(town, wallet)
    given = town.stats()["wake_up"]["onion_messages"]["given"]
    wallet.options["offline"] = True  # it dials when it is told to
    with ThreadPoolExecutor(2) as pool, deaf_link(town.lsp.port) as link:
        asked = pool.submit(town.payer.call, "fetchinvoice", {"offer": offer, "timeout": 110}, 120)
        called(town, server, wallet, lsps5.ONION_MESSAGE_INCOMING)
        wallet.start()
        dialled = pool.submit(wallet.call, "connect", {"id": town.lsp.node_id, "host": "127.0.0.1", "port": link.port})
        until(lambda: town.stats()["wake_up"]["onion_messages"]["given"] > given, "the request is given")
        link.drop()
        with pytest.raises(NodeError):
            dialled.result()
        town.connect(wallet, town.lsp)
        assert asked.result()["invoice"].startswith("lni1")
