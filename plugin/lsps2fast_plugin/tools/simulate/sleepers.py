"""What clients do with webhooks: trap:47 in a town. What their servers do is in `webhooks.py`."""

from __future__ import annotations

import contextlib

from lsps2fast_plugin.simnode import Client, LspsError
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.errors import NodeProblem

from .books import Sale
from .honest import Honest
from .scene import Scene, Visitor

TRAPS = ("hangs", "redirects", "inside", "fails")
MOST_AN_HOUR = 26  # calls of one webhook in one life of the plugin, whatever its client does


async def set_webhook(me: Scene, wallet: Client, host: str) -> bool:
    """Register a webhook; whether the LSP took it."""
    with contextlib.suppress(LspsError, NodeProblem):
        ask = {"app_name": host.partition(".")[0], "webhook": f"https://{host}/push"}
        await wallet.request("lsps5.set_webhook", ask, timeout_s=120)
        me.say(f"{wallet.name} has a webhook at {host}")
        return True
    return False


class TrapWebhooks(Visitor):
    """Webhooks that hang, redirect, lead inside or fail, of a wallet that sleeps and is paid again and again."""

    name = "trap-webhooks"
    row = "L10"

    async def play(self, me: Scene) -> None:
        wallet = me.wallet()
        hosts = [f"{kind}.v{me.number}.example" for kind in me.dice.sample(TRAPS, 2)]
        taken = [await set_webhook(me, wallet, host) for host in hosts]
        sale = await me.buy(wallet, me.sat(5_000, 400_000))
        if sale is None:
            return
        invoice = me.bill(sale)
        for _ in range(me.some(2, 6)):
            wallet.go_offline()
            payment = me.pay(sale, invoice, me.split(sale.size_msat or 0, me.some(1, 4)))
            await me.rest(1, 900)
            wallet.connect()
            await me.end(payment)
        if any(taken) and any(me.town.apps.calls[host] for host in hosts):
            me.did()
        await me.leave()


class Flaps(Honest):
    """A wallet that comes and goes while strangers try to pay it: no more calls for that, and it is paid."""

    name = "flaps"
    row = "L10"

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        host = f"app.v{me.number}.example"
        taken = await set_webhook(me, wallet, host)
        for _ in range(me.some(10, 60)):
            wallet.go_offline()
            me.stranger_pays(sale, invoice, [me.some(1_000, 3_000)], total_msat=invoice.amount_msat or 0)
            await me.rest(0.5, 30)
            wallet.connect()
            await me.rest(0.1, 5)
        if taken and me.town.apps.calls[host] > 1:
            me.did()
        await me.rest(100, 200)


SLEEPERS: tuple[type[Visitor], ...] = (TrapWebhooks, Flaps)
