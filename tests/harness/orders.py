"""A service that takes orders (bLIP-51), on the embedded node."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.client import LspsError
from lsps2fast_plugin.simnode.payer import Payment

from .service import CLIENT_TRUSTS, FAILURES, Stage

ORDER: dict[str, Any] = {
    "lsp_balance_sat": "200000",
    "client_balance_sat": "0",
    "required_channel_confirmations": 0,
    "funding_confirms_within_blocks": 12,
    "channel_expiry_blocks": 4_320,
    "announce_channel": False,
}
ROOT = ("lsps", "lsps1", "orders")
FAR = 150  # blocks to the expiry of a payment
ON = {"lsps2-lsps1": "on"}


class Shop(Stage):
    """A service that takes orders."""

    allowed = re.compile(f"{FAILURES.pattern}|0017")

    def __init__(self, mode: str = CLIENT_TRUSTS, *, env: dict[str, str] | None = None, **options: Any) -> None:
        given = ON | {name.replace("_", "-"): value for name, value in options.items()}
        super().__init__(mode, options=given, **({} if env is None else {"env": env}))

    async def order(self, client: Client, **changes: Any) -> dict[str, Any]:
        """The answer to `lsps1.create_order`."""
        told: dict[str, Any] = await client.request("lsps1.create_order", ORDER | changes)
        return told

    async def told(self, client: Client, order: dict[str, Any]) -> tuple[str, str]:
        """How far the order is and how its payment."""
        now = await client.request("lsps1.get_order", {"order_id": order["order_id"]})
        return now["order_state"], now["payment"]["bolt11"]["state"]

    def pay(self, payer: Payer, order: dict[str, Any], **how: Any) -> Payment:
        """The whole invoice, in one part."""
        return payer.pay(order["payment"]["bolt11"]["invoice"], **{"final_delta": FAR, **how})

    def record(self, order: dict[str, Any]) -> dict[str, Any]:
        """What is stored."""
        found: dict[str, Any] = json.loads(self.lsp.datastore.rows[(*ROOT, order["order_id"])][0])
        return found

    async def reaches(self, order: dict[str, Any], state: str) -> None:
        """The order is stored as being in this state."""
        await self.until(lambda: self.record(order)["state"] == state, f"order {state}")
        await self.quiet()

    def channels(self, client: Client) -> list[Any]:
        """Those that the LSP opened to a client and put on chain."""
        ours = [end.channel for end in client.ends if end.channel.opener.owner is self.lsp]
        return [channel for channel in ours if not channel.withheld]

    async def over(self, order: dict[str, Any]) -> None:
        """Blocks until the order needs no more care."""
        for _ in range(7):
            self.world.mine()
            await self.quiet()
        await self.reaches(order, "done")


async def refusal(work: Any) -> LspsError:
    """The error that a request is answered with."""
    with pytest.raises(LspsError) as refused:
        await work
    return refused.value


async def turn(shop: Stage, seconds: float) -> None:
    """Turn the clocks of the world and of the plugin."""
    shop.world.clock.advance(seconds)
    await shop.lsp.call("lsps2-dev-advance", {"seconds": seconds})
    await shop.quiet()
