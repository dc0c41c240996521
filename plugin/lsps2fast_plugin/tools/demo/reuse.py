"""`lsps2fast demo --reuse`: a wallet that has bought a channel is paid again, over the room that is left in it."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, ClassVar

from lsps2fast_plugin.simnode import Node
from lsps2fast_plugin.tools.demo.sales import Bill, Broken, Stage, balanced, failing, failures, owed
from lsps2fast_plugin.tools.demo.timeline import Entry
from lsps2fast_plugin.tools.demo.transcript_report import Sale, collect, collect_claims, count

SIZE_MSAT, SPARE_MSAT, LARGE_MSAT = 100_000_000, 50_000_000, 300_000_000


class ReuseStage(Stage):
    """A sale, a payment that needs none, and one that does not fit."""

    options: ClassVar[dict[str, Any]] = {"lsps2-reuse": "free"}
    told = "a sale, a payment that needs none, and one that does not fit"

    async def play(self) -> None:
        """Sell a channel, then pay the same wallet over it, then more than it has room for."""
        await self.sale("A fixed invoice, paid in 5 parts over 2 channels", "alice", SIZE_MSAT, True, self._five)
        if all(self.sales[-1].checks.values()):
            await self._again("The same wallet buys once more, and is paid over the channel it has")
        if all(self.sales[-1].checks.values()):
            large = f"{LARGE_MSAT // 1000:,} sat have no room there, so a channel is opened in the same payment"
            await self.sale(large, "alice", LARGE_MSAT, True, self._large)

    async def wallet(self, name: str) -> Node:
        """Return the node of this name, a new one if there is none."""
        found = next((node for node in self.world.nodes if node.name == name), None)
        return found or await super().wallet(name)

    async def _large(self, wallet: Node, bill: Bill) -> None:
        await self._pay(wallet, bill, [LARGE_MSAT // 5] * 5)

    async def _again(self, title: str) -> None:
        self.screen.chapter(title)
        wallet = self._alice()
        self.world.open_books()
        fees, transactions = self._routing_fees(wallet), len(self.world.chain.transactions)
        begin, mark = time.monotonic(), len(self.world.transcript.entries)
        bill = await self.bill(wallet, SPARE_MSAT)
        sale = Sale(title, bill["jit_channel_scid"], bill["payment_hash"], 0)
        self.sales.append(sale)
        with failing(sale.checks):
            payment = self.send(bill, [SPARE_MSAT // 2] * 2)
            result = await payment
            if not result.paid:
                raise Broken(f"the payment is made, not failed with {failures(result)}")
            sale.seconds = round(time.monotonic() - begin, 3)
            await self.world.until(lambda: self._outcome(sale) == "Reused", "the record of a payment without a sale")
            await self.world.until(lambda: self._routing_fees(wallet) == fees, "the routing fees of before")
        collect(sale, self.seen("lsp", mark))
        sale.claims = collect_claims(self.seen("alice", mark), sale.payment_hash)
        sale.books_msat = {who: change for who, change in self.world.books().items() if change}
        sale.checks |= self._prove_again(sale, wallet, self.seen("lsp", mark), transactions)

    def _alice(self) -> Node:
        return next(node for node in self.world.nodes if node.name == "alice")

    def _routing_fees(self, wallet: Node) -> list[tuple[int, int]]:
        """Return what the LSP charges for forwards into this wallet's channels."""
        return [(end.fee_base_msat, end.fee_ppm) for end in self.world.lsp.ends if end.peer is wallet]

    def _outcome(self, sale: Sale) -> str:
        rows = self.world.lsp.datastore.rows
        key = ("lsps", "lsps2", "sessions", "finalized", sale.jit_channel_scid)
        return "Reused" if key in rows and '"outcome":"Reused"' in str(rows[key][0]) else ""

    def _prove_again(self, sale: Sale, wallet: Node, evidence: list[Entry], transactions: int) -> dict[str, bool]:
        """Hold the evidence against what reuse promises; each check is one sentence."""
        arrived = sum(row.amount_msat for row in sale.parts)
        return {
            "every hook call of the service got exactly one answer": all(row.answers == 1 for row in sale.parts),
            f"the payer lost {arrived:,} msat, and the wallet owns as much more: no fee was taken": (
                sale.books_msat == {"payer": -SPARE_MSAT, wallet.name: SPARE_MSAT}
            ),
            "what all own adds up (nothing made, nothing lost)": balanced(self.world),
            "no channel was opened": count(evidence, "rpc>host", "fundchannel_start") == 0,
            "no transaction was made": len(self.world.chain.transactions) == transactions,
            "no coin was looked at": count(evidence, "rpc>host", "reserveinputs") == 0,
            "the channel charges what it charged before": len(self._routing_fees(wallet)) == 1,
        }

    async def account(self) -> None:
        """Add up who paid and got what, and hold the LSP's ledger against it."""
        changes: Counter[str] = Counter()
        for sale in self.sales:
            for name, change_msat in sale.books_msat.items():
                changes[name if name in ("payer", "lsp") else "wallets"] += change_msat
        fees_msat = sum(sale.opening_fee_msat for sale in self.sales)
        self.gains = {**changes, "miners": self.world.chain.fees_sat * 1000, "opening_fees": fees_msat}
        total = (await self.world.lsp.call("lsps2-report"))["total"]
        stats = await self.world.lsp.call("lsps2-stats")
        self.checks = {
            "the sales ledger has two sales, and nothing that failed": (total["sales"], total["failed"]) == (2, 0),
            f"it says that {fees_msat:,} msat were earned": total["earned_msat"] == fees_msat,
            "lsps2-stats counts one payment over a channel that was there": stats["payments"]["reused"] == 1,
            "the wallet's records are cleared: nothing is owed to it": not owed(self._alice()),
        }
