"""Wake-up calls on real nodes, signed by `lsps2fast sign-webhooks`: a wallet that sleeps and comes back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.webhook_server import WebhookServer, webhook_server

from lsps2fast.lsps import lsps5
from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town, until

SIZE_MSAT = 10_000_000
SIGNER = f"{sys.executable} -m lsps2fast_plugin.tools.cli sign-webhooks hsm_secret"  # plugins run in lightning-dir


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookServer]:
    """The app developer's server, whose certificate the plugin takes."""
    with webhook_server(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(found.ca_file))
        yield found


def set_webhook(town: Town, wallet: Lightningd, server: WebhookServer) -> None:
    """Register as the wallet; its server hears of it."""
    ask = {"lsp_id": town.lsp.node_id, "app_name": "app", "webhook": server.url()}
    assert wallet.call("lsps-lsps5-setwebhook", ask) == {"num_webhooks": 1, "max_webhooks": 2, "no_change": False}
    until(lambda: len(server.requests) == 1, "the webhook is told")


def lightningd_signs_backslashes(town: Town) -> bool:
    """What `signmessage` of this lightningd does with a quote and a backslash (cln:N14)."""
    signed = [town.lsp.call("signmessage", {"message": text})["zbase"] for text in ('a"b', "a\\b")]
    signers = [
        lsps5._signer(b"Lightning Signed Message:" + raw, zbase)
        for raw, zbase in zip((rb"a\"b", rb"a\\b"), signed, strict=True)
    ]
    return signers == [bytes.fromhex(town.lsp.node_id)] * 2


def paid_asleep(town: Town, bill: Bill, amounts_msat: list[int], server: WebhookServer) -> None:
    """The wallet's node ends, the payment comes, the call goes out, the node starts again and is paid."""
    calls = len(server.requests)
    bill.wallet.stop()
    until(lambda: not town.connected(town.lsp, bill.wallet), "the wallet is away")
    group = town.send_parts(bill, amounts_msat)
    until(lambda: len(server.requests) == calls + 1, "the client is called")
    bill.wallet.start()
    town.connect(bill.wallet, town.lsp)
    assert town.result(bill, group, amounts_msat).paid


def test_a_sleeping_wallet_is_woken(found_town: Callable[..., Town], server: WebhookServer) -> None:
    """N-09, N-11, N-16, N-18, N-19, cln:N14: for the payment that buys its channel, for one over its jit scid, and for
    an ordinary one.
    """
    options = {"lsps2-webhooks": 2, "lsps2-webhook-loopback": True, "lsps2-webhook-signer": SIGNER}
    town = found_town(service_options=options)
    assert lightningd_signs_backslashes(town)
    until(lambda: town.stats()["wake_up"]["signing"], "the signer works")
    wallet = town.wallet("sleeper")
    set_webhook(town, wallet, server)
    bill = town.bill(wallet, SIZE_MSAT)
    paid_asleep(town, bill, [SIZE_MSAT // 2] * 2, server)
    town.over(bill)
    town.mine(6)
    paid_asleep(town, town.further_bill(bill, 1_000_000), [1_000_000], server)
    (channel,) = [row for row in town.channels(town.lsp, wallet) if row["state"] == "CHANNELD_NORMAL"]
    town.lsp.call("setchannel", {"id": channel["channel_id"], "feebase": 0, "feeppm": 0, "enforcedelay": 0})
    ordinary = replace(town.further_bill(bill, 1_000_000), jit_scid=channel["alias"]["local"])
    paid_asleep(town, ordinary, [1_000_000], server)
    first = server.requests[0]
    given = {"timestamp": first.headers["x-lsps5-timestamp"], "signature": first.headers["x-lsps5-signature"]}
    verdict = wallet.call("lsps-lsps5-verify", {"lsp_id": town.lsp.node_id, "body": first.body.decode(), **given})
    assert (verdict["verified"], verdict["method"]) == (True, lsps5.WEBHOOK_REGISTERED)
    assert server.kinds(town.lsp.node_id) == ["webhook_registered", *["payment_incoming"] * 3]
    stats = town.stats()
    assert stats["wake_calls"]["answered"] == 4
    assert (stats["wake_held"], stats["wake_up"]["woken"], stats["wake_up"]["in_vain"]) == (0, 1, 0)
