"""A service that calls clients which sleep, and clients that do."""

from __future__ import annotations

from typing import Any

from harness.orders import Shop
from harness.service import Stage
from harness.webhook_server import WebhookServer

from lsps2fast_plugin.simnode import Client, Payer

APP = {"app_name": "app"}
WEBHOOKS: dict[str, Any] = {"lsps2_webhooks": 2, "lsps2_webhook_loopback": True}


def wakes(server: WebhookServer, mended: bool = True, **options: Any) -> Stage:
    """A service with wake-up calls, and a lightningd that signs them."""
    given = {name.replace("_", "-"): value for name, value in (WEBHOOKS | options).items()}
    stage = Stage(options=given, env={"SSL_CERT_FILE": str(server.ca_file)})
    stage.lsp.signs_what_is_meant = mended
    return stage


def wakes_and_sells_ahead(server: WebhookServer, **options: Any) -> Shop:
    """One that takes orders besides."""
    shop = Shop(env={"SSL_CERT_FILE": str(server.ca_file)}, **WEBHOOKS, **options)
    shop.lsp.signs_what_is_meant = True
    return shop


async def speaks(stage: Stage) -> None:
    """The signature at the start was sound."""
    await stage.fence()
    await stage.quiet()


async def registered(stage: Stage, server: WebhookServer, client: Client, target: str = "/push?secret=word") -> None:
    """The client has a webhook, and its server knows."""
    await speaks(stage)
    before = len(server.requests)
    result = await client.request("lsps5.set_webhook", {**APP, "webhook": server.url(target)})
    assert result["no_change"] is False
    await stage.until(lambda: len(server.requests) > before, "the webhook is told")
    key = ("lsps", "lsps5", "webhooks", client.node_id)
    await stage.until(lambda: '"told":true' in str(stage.lsp.datastore.rows[key]), "which is stored")
    await stage.quiet()


async def sleeps_with_a_channel(stage: Stage, server: WebhookServer, client: Client, payer: Payer) -> None:
    """The client has bought a channel, and is away."""
    await registered(stage, server, client)
    await stage.sale(client, payer)
    await stage.at_rest()
    client.go_offline()
    await stage.quiet()
