"""`lsps2fast demo --wake`: a wallet that sleeps when its first payment comes is called, comes back, and is paid."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, ClassVar

from lsps2fast.lsps import lsps5
from lsps2fast_plugin.simnode import Node, World
from lsps2fast_plugin.simnode.party import connect, disconnect
from lsps2fast_plugin.tools.demo.sales import Bill, Stage, new_world
from lsps2fast_plugin.tools.demo.screen import Screen
from lsps2fast_plugin.tools.demo.timeline import Entry
from lsps2fast_plugin.tools.demo.wake_service import CALLED

SERVICE = [sys.executable, "-m", "lsps2fast_plugin.tools.demo.wake_service"]
HOST = "push.example"
PATIENCE_S = 30.0  # for a call
PARTS_MSAT = [20_000_000] * 5


class WakeStage(Stage):
    """One sale, to a wallet that is away."""

    options: ClassVar[dict[str, Any]] = {"lsps2-webhooks": 2}
    told = "a wallet that sleeps"

    def __init__(self, world: World, screen: Screen, mode: str) -> None:
        super().__init__(world, screen, mode)
        self._calls: list[str] = []  # what the app's server was told, and believes

    @classmethod
    def world_of(cls, seed: int, mode: str) -> World:
        """Return a world whose lightningd signs what is meant: today's needs `lsps2fast sign-webhooks` (cln:N14)."""
        world = new_world(seed, mode, SERVICE, **cls.options)
        world.lsp.signs_what_is_meant = True
        return world

    async def play(self) -> None:
        """Sell to a wallet that sleeps."""
        await self.sale("A wallet is asleep when its first payment comes", "alice", sum(PARTS_MSAT), True, self._asleep)

    def _tell(self, entry: Entry) -> None:
        super()._tell(entry)
        message = entry["msg"]
        if (entry["peer"], entry["dir"], message.get("method")) == ("lsp/plugin", "plugin>host", "log"):
            _, is_call, said = message["params"]["message"].partition(CALLED)
            if is_call:
                self._called(json.loads(said))

    def _called(self, call: dict[str, Any]) -> None:
        """Do what an app's server does: it knows the LSP's node id, and believes what this node signed."""
        self.say("service", f"calls the webhook at {call['host']}")
        try:
            found = lsps5.verify_notification(self.world.lsp.node_id, call["headers"], call["body"].encode())
        except lsps5.BadNotification as error:
            self.say("app", f"believes nothing of it: {error}")
            return
        self.say("app", f"verifies the LSP's signature: {found.method}")
        self._calls.append(found.method)

    async def _asleep(self, wallet: Node, bill: Bill) -> None:
        lsp, calls = self.world.lsp, self._calls
        self.say("demo", f"plays {HOST}, too: no HTTPS request leaves this machine")
        ask = {"lsp_id": lsp.node_id, "app_name": "phone", "webhook": f"https://{HOST}/wake?who=alice"}
        await wallet.call("lsps-lsps5-setwebhook", ask)
        await self.world.until(lambda: calls == [lsps5.WEBHOOK_REGISTERED], "word to the webhook that it is one")
        self.say("wallet", "falls asleep: its phone cuts the connection")
        disconnect(wallet, lsp)
        mark = len(self.world.transcript.entries)
        held: list[int] = []
        waking = asyncio.ensure_future(self._wake(wallet, mark, bill["payment_hash"], held))
        try:
            await self._pay(wallet, bill, PARTS_MSAT)
        finally:
            await waking
        believed = [lsps5.WEBHOOK_REGISTERED, lsps5.PAYMENT_INCOMING]
        self.sales[-1].checks |= {
            "the app's server was called twice, and believed the signature of both calls": calls == believed,
            f"{len(PARTS_MSAT)} parts were held for the wallet that slept": held == [len(PARTS_MSAT)],
        }

    async def _wake(self, wallet: Node, mark: int, payment_hash: str, held: list[int]) -> None:
        """Connect again once the app's server was called and all parts are there; if it was not, the story is over."""
        try:
            await self.world.until(lambda: lsps5.PAYMENT_INCOMING in self._calls, "call for the payment", PATIENCE_S)
            await self.world.until(lambda: self._held(payment_hash) == len(PARTS_MSAT), "all parts at the LSP")
            answered = [each["msg"].get("id") for each in self.seen("lsp", mark) if "result" in each["msg"]]
            held.append(sum(call_id not in answered for call_id in self._parts_asked(mark)))
            self.say("wallet", "is woken by the push, and connects")
        finally:
            connect(wallet, self.world.lsp)

    def _parts_asked(self, mark: int) -> list[Any]:
        seen = self.seen("lsp", mark)
        return [each["msg"]["id"] for each in seen if each["msg"].get("method") == "htlc_accepted"]
