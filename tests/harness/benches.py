"""The two benches of `scenarios`."""

from __future__ import annotations

import itertools
import sys
from typing import Any

from harness.scenarios import Scenario
from harness.service import Stage
from harness.trace import Trace, trace
from lsps2fast_plugin.tools.regtest import Bill, Lightningd, Town

from .evidence import tidy

COLLECT_S = 90
OPTIONAL_ANCHORS = 23
ALL_COINS = {"satoshi": "all", "feerate": "normal", "startweight": 1000}
HASHES = itertools.count(1)
NAMES = itertools.count(1)
REFUSER = f"""#!{sys.executable}
from pyln.client import Plugin
plugin = Plugin()
@plugin.hook("openchannel")
def on_open(openchannel, plugin, **kwargs):
    return {{"result": "reject", "error_message": "not today"}}
plugin.run()
"""


class Real:
    """On a town; each bench has a wallet of its own."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.wallet: Lightningd = town.wallet(f"b{next(NAMES)}")
        self.begin = len(town.entries())
        self._psbt = ""

    async def bill(self, size_msat: int | None) -> Bill:
        return self.town.bill(self.wallet, size_msat)

    async def pay(
        self, bill: Bill, amounts_msat: list[int], total_msat: int | None = None, probe: bool = False
    ) -> list[str]:
        payment_hash = f"{next(HASHES):064x}" if probe else None
        return self.town.pay(bill, amounts_msat, total_msat=total_msat, payment_hash=payment_hash).failures

    async def late(self, bill: Bill, amounts_msat: list[int], total_msat: int) -> list[str]:
        sent = self.town.send_parts(bill, amounts_msat, total_msat=total_msat)
        self.town.held(len(amounts_msat))
        self.town.advance(self.town.lsp, COLLECT_S)
        return self.town.result(bill, sent, amounts_msat).failures

    async def over(self, bill: Bill) -> None:
        self.town.over(bill)

    async def refuse(self, yes: bool) -> None:
        path = self.wallet.directory / "refuser"
        path.write_text(REFUSER)
        path.chmod(0o700)
        self.wallet.call("plugin", {"subcommand": "start" if yes else "stop", "plugin": str(path)})

    async def starve(self, yes: bool) -> None:
        if yes:
            self._psbt = self.town.lsp.call("fundpsbt", ALL_COINS)["psbt"]
        else:
            self.town.lsp.call("unreserveinputs", {"psbt": self._psbt})

    async def plain(self) -> None:
        self.wallet.stop()
        self.wallet.options["dev-force-features"] = f"-{OPTIONAL_ANCHORS}"
        self.wallet.start()
        self.town.connect(self.wallet, self.town.lsp)
        self.begin = len(self.town.entries())

    async def undone(self) -> None:
        if not self._psbt:
            tidy(self.town)

    def entries(self) -> list[Any]:
        """What was recorded since this bench was made."""
        self.town.stats()  # a fence: what came before it is written down
        entries = self.town.entries()[self.begin :]
        self.town.mine()
        tidy(self.town)
        return entries


class Embedded:
    """On a stage of the service's tests."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.client = stage.client("wallet")
        self.payer = stage.payer("payer", channels=2)
        self.begin = len(stage.world.transcript.entries)
        self._psbt = ""

    async def bill(self, size_msat: int | None) -> Any:
        return await self.stage.invoice(self.client, size_msat)

    async def pay(
        self, bill: Any, amounts_msat: list[int], total_msat: int | None = None, probe: bool = False
    ) -> list[str]:
        if probe:
            bill = self.client.invoice(bill.amount_msat, bill.scid, cltv_delta=144)
            del self.client.invoices[bill.payment_hash]
        result = await self.payer.pay(bill, amounts_msat, total_msat=total_msat)
        return result.raw_messages

    async def late(self, bill: Any, amounts_msat: list[int], total_msat: int) -> list[str]:
        payment = self.payer.pay(bill, amounts_msat, total_msat=total_msat)
        await self.stage.held(len(amounts_msat))
        await self.stage.world.advance(COLLECT_S)
        return (await payment).raw_messages

    async def over(self, bill: Any) -> None:
        await self.stage.over(bill)

    async def refuse(self, yes: bool) -> None:
        self.client.behaviour.reject_open = "not today" if yes else None

    async def starve(self, yes: bool) -> None:
        if yes:
            self._psbt = (await self.stage.lsp.call("fundpsbt", ALL_COINS))["psbt"]
        else:
            await self.stage.lsp.call("unreserveinputs", {"psbt": self._psbt})

    async def plain(self) -> None:
        self.client.disconnect()
        self.client.lacks.add(OPTIONAL_ANCHORS)
        self.client.connect()
        await self.stage.quiet()
        self.begin = len(self.stage.world.transcript.entries)

    async def undone(self) -> None:
        await self.stage.quiet()

    def entries(self) -> list[Any]:
        """What went over pipes and socket since this bench was made."""
        return [
            entry
            for entry in list(self.stage.world.transcript.entries)[self.begin :]
            if entry["peer"].startswith("lsp/plugin")
        ]


async def embedded_run(scenario: Scenario, mode: str) -> tuple[list[list[str]], Trace]:
    """Ends and trace on the embedded node."""
    async with Stage(mode, fee_base_msat=1) as stage:
        stage.leaves = ("",)
        bench = Embedded(stage)
        ends = await scenario(bench)
        await stage.quiet()
        return ends, trace(bench.entries())
