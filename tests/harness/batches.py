"""A crowd of clients that buy and are paid at one time, and one of them that is lost in the middle (trap:60)."""

from __future__ import annotations

from typing import Any

from lsps2fast_plugin.simnode import Client, Payer
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.client import ClientInvoice

from .service import LSP_TRUSTS, SIZE_MSAT, Stage

WINDOW = {"lsps2-batch-window-ms": 2_000}
NAMES = ("alice", "bertha", "carol")
ONE_COIN = (2_000_000,)


def batching(**more: Any) -> Stage:
    """A service that batches, with one coin."""
    options = WINDOW | more.pop("options", {})
    return Stage(LSP_TRUSTS, options=options, **({"wallet_sat": ONE_COIN} | more))


class Crowd:
    """Clients that are paid at one time."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.payer: Payer = stage.payer(channels=2)
        self.clients: list[Client] = []
        self.invoices: list[ClientInvoice] = []
        self.payments: list[Any] = []

    async def come(self, *names: str) -> None:
        """These buy."""
        for name in names or NAMES:
            client = self.stage.client(name)
            self.clients.append(client)
            self.invoices.append(await self.stage.invoice(client))

    async def pay(self) -> None:
        """All are paid, until the window has them all."""
        for invoice in self.invoices:
            self.payments.append(self.payer.pay(invoice, [SIZE_MSAT // 2] * 2))
        for invoice in self.invoices:
            await self.stage.state(invoice, "OPENING")
        await self.stage.quiet()

    async def results(self, seconds: float = 2) -> list[bool]:
        """The window ends; who was paid."""
        await self.stage.world.advance(seconds)
        return [(await payment).paid for payment in self.payments]

    async def forgive(self, place: int) -> None:
        """One that failed is an honest client from now on, and its payment comes to an end, whichever."""
        client, payment = self.clients[place], self.payments[place]
        client.behaviour.script = {}
        for _ in range(20):
            client.connect()
            if payment.done:
                break
            await self.stage.fence()
            await self.stage.world.advance(11)
        await payment

    def fundings(self) -> set[str]:
        """Transactions that fund channels and were sent."""
        chain = self.stage.world.chain
        return {end.channel.funding_txid for client in self.clients for end in client.ends
                if chain.knows(end.channel.funding_txid)}  # fmt: skip


def give_up(stage: Stage, end: End) -> None:
    """What lightningd does when the peer of a withheld channel sends `error` (cln:N2)."""
    if not end.forgotten and end.channel.withheld:
        stage.lsp.withheld_closed(end, "local", "user")


def lost_at(stage: Stage, client: Client, method: str) -> None:
    """lightningd loses this client's channel, withheld, when it is asked for this method the next time."""

    def hear(entry: dict[str, Any]) -> None:
        ours = entry["dir"] == "rpc>host" and entry["peer"] == "lsp/plugin-rpc"
        if ours and entry["msg"]["method"] == method and client.ends:
            give_up(stage, client.ends[0].other)

    stage.world.transcript.listeners.append(hear)
