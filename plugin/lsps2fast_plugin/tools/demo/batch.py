"""`lsps2fast demo --batch`: three wallets are paid within one window, and one transaction funds their channels."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, ClassVar

from lsps2fast_plugin.simnode import Node
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.tools.demo.sales import LSP_TRUSTS, Bill, Broken, Stage, balanced, failing, failures, owed
from lsps2fast_plugin.tools.demo.timeline import Entry
from lsps2fast_plugin.tools.demo.transcript_report import Sale, agreed_fee_msat, collect, collect_claims, count

WINDOW_S = 2
NAMES = ("alice", "bertha", "carol")
PARTS_MSAT = [50_000_000] * 2


class BatchStage(Stage):
    """Three sales at one time."""

    options: ClassVar[dict[str, Any]] = {"lsps2-batch-window-ms": WINDOW_S * 1000}
    modes: ClassVar[tuple[str, ...]] = (LSP_TRUSTS,)  # only what goes on chain before it is paid for is batched
    told = "three wallets, one transaction"

    async def play(self) -> None:
        """Sell to three wallets, pay them within one window, and put their channels on chain together."""
        self.world.open_books()
        begin, mark = time.monotonic(), len(self.world.transcript.entries)
        wallets, bills = [], []
        for name in NAMES:
            self.screen.chapter(f"{name} buys a channel for {sum(PARTS_MSAT) // 1000:,} sat")
            wallet = await self.wallet(name)
            asked = len(self.world.transcript.entries)
            bill = await self.bill(wallet, sum(PARTS_MSAT))
            fee_msat = agreed_fee_msat(self.seen("lsp", asked), sum(PARTS_MSAT))
            self.sales.append(Sale(f"{name}, one of three", bill["jit_channel_scid"], bill["payment_hash"], fee_msat))
            wallets.append(wallet)
            bills.append(bill)
        self.screen.chapter(f"All three are paid within {WINDOW_S} s, in {len(PARTS_MSAT)} parts each")
        last = self.sales[-1]
        with failing(last.checks):
            await self._pay_all(wallets, bills)
            await self._end_all(wallets)
        evidence, books = self.seen("lsp", mark), self.world.books()
        for sale, wallet in zip(self.sales, wallets, strict=True):
            sale.seconds = round(time.monotonic() - begin, 3)
            collect(sale, _of_one(evidence, sale, wallet))
            sale.claims = collect_claims(self.seen(wallet.name, mark), sale.payment_hash)
            sale.books_msat = {wallet.name: books[wallet.name]}
            sale.checks |= self._prove_one(sale, _of_one(evidence, sale, wallet))
            sale.checks |= self._prove_client(sale, wallet, self.seen(wallet.name, mark))
        self.gains = {"payer": books["payer"], "lsp": books["lsp"]}
        self.checks = self._prove_together(evidence)

    async def _pay_all(self, wallets: list[Node], bills: list[Bill]) -> None:
        payments = [self.send(bill, PARTS_MSAT) for bill in bills]
        await self.world.until(self._all_wait, "all parts held")
        self.say("clock", f"{WINDOW_S} s pass: the window ends")
        await self.world.advance(WINDOW_S)
        for wallet, payment in zip(wallets, payments, strict=True):
            await self.held_by_client(wallet, len(PARTS_MSAT), payment)
        self.say("clock", "a block is mined")
        for wallet in wallets:
            await self.mine(wallet, 1, lambda: all(payment.done for payment in payments), "the end of the payments")
        await self._all_paid(payments)

    def _all_wait(self) -> bool:
        return all("OPENING" in self.sessions(sale.payment_hash) for sale in self.sales)

    async def _all_paid(self, payments: list[Payment]) -> None:
        for payment in payments:
            result = await payment
            if not result.paid:
                raise Broken(f"the payments are made, not failed with {failures(result)}")

    async def _end_all(self, wallets: list[Node]) -> None:
        for sale, wallet in zip(self.sales, wallets, strict=True):
            await self._end(sale, wallet)

    def _prove_one(self, sale: Sale, evidence: list[Entry]) -> dict[str, bool]:
        paid = [row for row in sale.parts if row.outcome == "forwarded"]
        arrived, forwarded = sum(row.amount_msat for row in paid), sum(row.forward_msat for row in paid)
        fee = sum(row.fee_msat for row in paid)
        return {
            "every hook call of the service got exactly one answer": all(row.answers == 1 for row in sale.parts),
            f"fees taken add up to the opening fee of {sale.opening_fee_msat:,} msat": fee == sale.opening_fee_msat,
            f"{arrived:,} arrived = {forwarded:,} forwarded + {fee:,} fee": arrived == forwarded + fee,
            "one channel was opened": count(evidence, "rpc>host", "fundchannel_complete") == 1,
            "the final record is in the journal, no active one is left": self._journalled(sale.jit_channel_scid),
        }

    def _prove_together(self, evidence: list[Entry]) -> dict[str, bool]:
        """Hold what is on chain against what a batch promises."""
        txids = {sale.funding_txid for sale in self.sales}
        tx = self.world.chain.transactions.get(min(txids))
        wanted = [sale.capacity_sat for sale in self.sales]
        paid = [] if tx is None else [output.amount_sat for output in tx.outputs]
        return {
            f"one transaction funds all {len(self.sales)} channels": len(txids) == 1
            and count(evidence, "rpc>host", "sendpsbt") == 1,
            f"it has an output for each of them, and change: {len(paid)}": not Counter(wanted) - Counter(paid)
            and len(paid) == len(wanted) + 1,
            "it is in a block": self.world.chain.depth(min(txids)) > 0,
            "no coins stay reserved": not any(row["reserved"] for row in self.world.lsp.wallet.rows()),
            "what all own adds up (nothing made, nothing lost)": balanced(self.world),
        }

    async def account(self) -> None:
        """Hold the LSP's ledger against the nodes' own books: each channel has its share of the mining fee."""
        chain, lsp = self.world.chain, self.world.lsp
        fees_msat = sum(sale.opening_fee_msat for sale in self.sales)
        wallets_msat = sum(change for sale in self.sales for change in sale.books_msat.values())
        miners_msat = chain.fees_sat * 1000
        self.gains |= {"wallets": wallets_msat, "miners": miners_msat, "opening_fees": fees_msat}
        rows = (await lsp.call("lsps2-listsales"))["sales"]
        shares = sorted((row["mining_msat"] // 1000 for row in rows), reverse=True)
        stats = await lsp.call("lsps2-stats")
        total = (await lsp.call("lsps2-report"))["total"]
        self.checks |= {
            f"the sales ledger has all {len(rows)} sales, with one funding": len(rows) == len(self.sales)
            and {row["funding_txid"] for row in rows} == {sale.funding_txid for sale in self.sales},
            f"miners got {chain.fees_sat:,} sat; the ledger has {' + '.join(f'{each:,}' for each in shares)}": (
                sum(row["mining_msat"] for row in rows) == miners_msat and max(shares) - min(shares) < len(shares)
            ),
            f"it says that {fees_msat:,} msat were earned": total["earned_msat"] == fees_msat,
            f"and that its net of {self.gains['lsp']:,} msat is what the LSP is richer by": total["net_msat"]
            == self.gains["lsp"],
            "lsps2-stats counts one batch of three channels": (stats["batches"], stats["batched_channels"])
            == (1, len(self.sales)),
            "the wallets' records are cleared: nothing is owed to them": not any(
                owed(node) for node in self.world.nodes if node.name in NAMES
            ),
        }


def _of_one(evidence: list[Entry], sale: Sale, wallet: Node) -> list[Entry]:
    """Leave out what was said of the other payments, to their wallets."""

    def is_mine(entry: Entry) -> bool:
        message = entry["msg"]
        params = message.get("params") or {}
        if message.get("method") == "htlc_accepted":
            return bool(params["htlc"]["payment_hash"] == sale.payment_hash)
        if str(message.get("method")).startswith("fundchannel_"):
            return bool(params["id"] == wallet.node_id)
        return True

    return [entry for entry in evidence if is_mine(entry)]
