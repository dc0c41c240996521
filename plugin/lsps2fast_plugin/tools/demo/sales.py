"""`lsps2fast demo`: three sales on the embedded node, told as they happen, then proved.

Service and client are the real plugin processes, each on real pipes and a real socket of a node of its own; only
lightningd, the chain and the payer are simulated. Every figure in the report is read from what went over those pipes or
from the simulated nodes' own books, never from what a plugin claims.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from lsps2fast_plugin.simnode import Node, PaymentResult, WaitTimeout, World, bolt11
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.tools.demo.screen import Screen
from lsps2fast_plugin.tools.demo.story_page import Chapter
from lsps2fast_plugin.tools.demo.timeline import Entry, Timeline, WalletTimeline
from lsps2fast_plugin.tools.demo.transcript_report import (
    Sale,
    accepted,
    agreed_fee_msat,
    collect,
    collect_claims,
    count,
    first,
    is_claim,
    is_forward,
)

CLIENT_TRUSTS, LSP_TRUSTS = "client-trusts-lsp", "lsp-trusts-client"
SERVICE = [sys.executable, "-m", "lsps2fast_plugin.service.app"]
CLIENT = [sys.executable, "-m", "lsps2fast_plugin.client.app"]
COLLECT_S = 90
SESSIONS = ("lsps", "lsps2", "sessions")
HISTORY = (("lsps2fast", "client", "purchase"), ("lsps2fast", "client", "reports"))  # the wallet keeps these
Bill = dict[str, Any]  # the result of lsps-lsps2-invoice


class Broken(Exception):
    """A step of the story did not come out as it must; the text is the sentence that failed."""


class Stage:
    """One world with an LSP, wallets and a payer, and the story told of it."""

    options: ClassVar[dict[str, Any]] = {}  # of the service, beside its defaults
    modes: ClassVar[tuple[str, ...]] = (CLIENT_TRUSTS, LSP_TRUSTS)  # that it is told in; the first by default
    told = "three sales"

    def __init__(self, world: World, screen: Screen, mode: str) -> None:
        self.world = world
        self.screen = screen
        self.mode = mode
        self.payer = world.payer("payer", channels=2, capacity_sat=5_000_000)
        self.sales: list[Sale] = []
        self.gains: dict[str, int] = {}  # who paid and got how much, in msat
        self.checks: dict[str, bool] = {}  # of all sales together
        self._timelines: dict[str, Timeline | WalletTimeline] = {"lsp": Timeline(screen.line)}
        world.transcript.listeners.append(self._tell)

    @classmethod
    def world_of(cls, seed: int, mode: str) -> World:
        """Return the world that this story is played in."""
        return new_world(seed, mode, SERVICE, **cls.options)

    def _tell(self, entry: Entry) -> None:
        name = str(entry["peer"]).partition("/")[0]
        if name in self._timelines:
            self._timelines[name].take(entry)

    def say(self, who: str, what: str) -> None:
        """Add a line to the timeline that no pipe knows of."""
        entries = self.world.transcript.entries
        self.screen.line(entries[-1]["t"] if entries else 0.0, who, what)

    def seen(self, name: str, mark: int) -> list[Entry]:
        """Return what went over the pipes and sockets of this node since `mark`."""
        return [entry for entry in list(self.world.transcript.entries)[mark:] if entry["peer"].startswith(f"{name}/")]

    # Steps of every story ------------------------------------------------------------------------------

    async def wallet(self, name: str) -> Node:
        """Return a node without channels, the real client plugin on it."""
        self._timelines[name] = WalletTimeline(self.screen.line)
        return await self.world.start_node(name, CLIENT)

    async def bill(self, wallet: Node, size_msat: int | None) -> Bill:
        """Return what `lsps-lsps2-invoice` answers: a JIT channel is bought, the invoice leads to it."""
        ask = {
            "lsp_id": self.world.lsp.node_id,
            "amount_msat": "any" if size_msat is None else size_msat,
            "description": "a demonstration",
            "label": f"{wallet.name}-{len(wallet.invoices.by_hash) + 1}",
            "client_trusts_lsp": self.mode == CLIENT_TRUSTS,
        }
        bought: Bill = await wallet.call("lsps-lsps2-invoice", ask)
        return bought

    def send(self, bill: Bill, amounts_msat: list[int], total_msat: int | None = None) -> Payment:
        """Return the payer's parts, with the expiry the invoice asks for."""
        final_delta = bolt11.decode(bill["bolt11"]).min_final_cltv
        return self.payer.pay(bill["bolt11"], amounts_msat, total_msat=total_msat, final_delta=final_delta)

    async def held_by_client(self, wallet: Node, parts: int, payment: Payment) -> None:
        """Return when the client has been asked about all parts, or the payment is over."""
        payment_hash = payment.payment_hash.hex()
        await self.world.until(
            lambda: payment.done or self._asked(f"{wallet.name}/plugin", payment_hash) == parts,
            "the client being asked about every part",
        )

    def lacks_funding(self, wallet: Node, mark: int) -> bool:
        """Return whether the wallet was told, of what it asked since `mark`, that an output is not there."""
        seen = self.seen(wallet.name, mark)
        asked = {
            (each["peer"], each["msg"]["id"])
            for each in seen
            if each["dir"] == "rpc>host" and each["msg"]["method"] == "getutxout"
        }
        return any(
            each["dir"] == "host>rpc" and (each["peer"], each["msg"].get("id")) in asked and not _is_there(each["msg"])
            for each in seen
        )

    async def mine(self, wallet: Node, blocks: int, done: Callable[[], object], what: str) -> None:
        """Mine blocks, with all fundings in them, until `done()`. Raises Broken when the wallet's is not."""
        mark = len(self.world.transcript.entries)
        self.world.mine(blocks)
        await self.world.until(lambda: done() or self.lacks_funding(wallet, mark), what)
        if not done():
            raise Broken("the funding is in the block that was mined")

    def sessions(self, payment_hash: str) -> list[str]:
        """States that the service said this payment came to."""
        notes = self.world.transcript.select("plugin>host", "lsp/plugin", "lsps2_session")
        changes = [note["msg"]["params"]["lsps2_session"] for note in notes]
        return [change["new_state"] for change in changes if change["payment_hash"] == payment_hash]

    # A sale ----------------------------------------------------------------------------------------------

    async def sale(
        self,
        title: str,
        name: str,
        size_msat: int,
        fixed: bool,
        act: Callable[[Node, Bill], Awaitable[None]],
    ) -> None:
        """Run one sale and collect the evidence. A step that fails ends it with a check that does not hold."""
        self.screen.chapter(title)
        wallet = await self.wallet(name)
        self.world.open_books()
        begin, mark = time.monotonic(), len(self.world.transcript.entries)
        bill = await self.bill(wallet, size_msat if fixed else None)
        fee_msat = agreed_fee_msat(self.seen("lsp", mark), size_msat)
        sale = Sale(title, bill["jit_channel_scid"], bill["payment_hash"], fee_msat)
        self.sales.append(sale)
        with failing(sale.checks):
            await act(wallet, bill)
            await self._end(sale, wallet)
        sale.seconds = round(time.monotonic() - begin, 3)
        collect(sale, self.seen("lsp", mark))
        sale.claims = collect_claims(self.seen(name, mark), sale.payment_hash)
        sale.books_msat = {who: change for who, change in self.world.books().items() if change}
        sale.checks |= self._prove(sale, self.seen("lsp", mark))
        sale.checks |= self._prove_client(sale, wallet, self.seen(name, mark))

    async def _end(self, sale: Sale, wallet: Node) -> None:
        """Until both plugins are done with it; the funding is mined on the way."""
        world = self.world
        await world.until(lambda: "SUCCEEDED" in self.sessions(sale.payment_hash), "end of the session")
        await world.until(lambda: self._journalled(sale.jit_channel_scid), "final record in the journal")
        # so deep the wallet ceases to watch its funding
        await self.mine(wallet, 6, lambda: not owed(wallet), "the client's records to be cleared")

    def _journalled(self, scid: str) -> bool:
        rows = self.world.lsp.datastore.rows
        return (*SESSIONS, "finalized", scid) in rows and (*SESSIONS, "active", scid) not in rows

    def _prove(self, sale: Sale, evidence: list[Entry]) -> dict[str, bool]:
        """Hold the LSP's evidence against the rules; each check is one sentence."""
        paid = [row for row in sale.parts if row.outcome == "forwarded"]
        arrived, forwarded = sum(row.amount_msat for row in paid), sum(row.forward_msat for row in paid)
        fee = sum(row.fee_msat for row in paid)
        sent = first(evidence, "rpc>host", "sendpsbt")
        let_go = next((place for place, entry in enumerate(evidence) if is_forward(entry)), -1)
        order, in_order = ("after", sent > let_go) if self.mode == CLIENT_TRUSTS else ("before", -1 < sent < let_go)
        tx_is_mined = self.world.chain.depth(sale.funding_txid) > 0 if sale.funding_txid else False
        return {
            "every hook call of the service got exactly one answer": all(row.answers == 1 for row in sale.parts),
            f"fees taken add up to the opening fee of {sale.opening_fee_msat:,} msat": fee == sale.opening_fee_msat,
            f"{arrived:,} arrived = {forwarded:,} forwarded + {fee:,} fee": arrived == forwarded + fee,
            "the fee is more than the miners of the funding got": sale.books_msat.get("lsp", 0) > 0,
            f"the payer lost {arrived:,} msat": sale.books_msat.get("payer") == -arrived,
            "what all own adds up (nothing made, nothing lost)": balanced(self.world),
            "one channel was opened": count(evidence, "rpc>host", "fundchannel_complete") == 1,
            f"its funding was sent {order} the parts went out": in_order,
            "its funding is in a block": tx_is_mined,
            "the final record is in the journal, no active one is left": self._journalled(sale.jit_channel_scid),
            "no coins stay reserved": not any(row["reserved"] for row in self.world.lsp.wallet.rows()),
        }

    def _prove_client(self, sale: Sale, wallet: Node, evidence: list[Entry]) -> dict[str, bool]:
        """Return the same for the wallet's evidence."""
        forwarded = sum(row.forward_msat for row in sale.parts if row.outcome == "forwarded")
        invoice = wallet.invoices.by_hash[bytes.fromhex(sale.payment_hash)]
        checks = {
            "every hook call of the client got exactly one answer": all(row.answers == 1 for row in sale.claims),
            "what the client took + extra fee = what the payer sent, part by part": bool(sale.claims)
            and all(row.amount_msat + row.fee_msat == row.sent_msat for row in sale.claims),
            f"the wallet's invoice is paid with {forwarded:,} msat": (invoice.status, invoice.paid_msat)
            == ("paid", forwarded),
            f"the wallet owns {forwarded:,} msat more": sale.books_msat.get(wallet.name) == forwarded,
            "the client accepted one zero-conf channel by its hook": accepted(evidence) == 1,
            "the client's records are cleared: nothing is owed to it": not owed(wallet),
        }
        if self.mode == LSP_TRUSTS:
            block = first(evidence, "host>plugin", "block_added")
            taken = next((place for place, entry in enumerate(evidence) if is_claim(entry)), -1)
            checks["the client kept the preimage until the funding was in a block"] = -1 < block < taken
        return checks

    # The three sales ---------------------------------------------------------------------------------

    async def play(self) -> None:
        """Everything, in order; what does not work ends it."""
        late = f"Two of four parts stay away for {COLLECT_S} s; the payer tries again"
        for title, name, size_msat, fixed, act in (
            ("A fixed invoice, paid in 5 parts over 2 channels", "alice", 100_000_000, True, self._five),
            ("An invoice without an amount, paid at once", "bertha", 76_543_210, False, self._once),
            (late, "carol", 200_000_000, True, self._late),
        ):
            await self.sale(title, name, size_msat, fixed, act)
            if not all(self.sales[-1].checks.values()):
                return

    async def account(self) -> None:
        """Add up who paid and got what, by the nodes' own books, and hold the LSP's ledger against it."""
        changes: Counter[str] = Counter()
        for sale in self.sales:
            for name, change_msat in sale.books_msat.items():
                changes[name if name in ("payer", "lsp") else "wallets"] += change_msat
        miners_msat = self.world.chain.fees_sat * 1000
        fees_msat = sum(sale.opening_fee_msat for sale in self.sales)
        self.gains = {**changes, "miners": miners_msat, "opening_fees": fees_msat}
        total = (await self.world.lsp.call("lsps2-report"))["total"]
        self.checks = {
            f"the sales ledger has all {len(self.sales)} sales": total["sales"] == len(self.sales),
            f"it says that {fees_msat:,} msat were earned": total["earned_msat"] == fees_msat,
            f"and that miners got {miners_msat:,} msat": total["mining_msat"] == miners_msat,
            f"and that its net of {changes['lsp']:,} msat is what the LSP is richer by": total["net_msat"]
            == changes["lsp"],
        }

    async def _five(self, wallet: Node, bill: Bill) -> None:
        await self._pay(wallet, bill, [20_000_000] * 5)

    async def _once(self, wallet: Node, bill: Bill) -> None:
        await self._pay(wallet, bill, [76_543_210])

    async def _pay(self, wallet: Node, bill: Bill, amounts_msat: list[int]) -> None:
        before, payment = self._sent(), self.send(bill, amounts_msat)
        if self.mode == LSP_TRUSTS:
            await self.held_by_client(wallet, len(amounts_msat), payment)
            await self.world.until(lambda: payment.done or self._sent() > before, "funding sent")
            self.say("clock", "a block is mined")
            await self.mine(wallet, 1, lambda: payment.done, "the end of the payment")
        result = await payment
        if not result.paid:
            raise Broken(f"the payment is made, not failed with {failures(result)}")

    def _sent(self) -> int:
        """Fundings that the service knows to be sent."""
        notes = self.world.transcript.select("plugin>host", "lsp/plugin", "log")
        return sum("is on its way to the chain" in note["msg"]["params"]["message"] for note in notes)

    async def _late(self, wallet: Node, bill: Bill) -> None:
        first = self.send(bill, [50_000_000, 50_000_000], total_msat=200_000_000)
        await self.world.until(lambda: self._held(bill["payment_hash"]) == 2, "two parts held")
        self.say("clock", f"{COLLECT_S} s pass")
        await self.world.advance(COLLECT_S)
        result = await first
        if result.raw_messages != ["10070000", "10070000"]:
            raise Broken(f"the held parts are failed temporarily, not with {failures(result)}")
        await self._pay(wallet, bill, [50_000_000] * 4)

    def _held(self, payment_hash: str) -> int:
        """Return the hook calls of this payment, once the service has begun to collect it."""
        return self._asked("lsp/plugin", payment_hash) if self.sessions(payment_hash) else 0

    def _asked(self, plugin: str, payment_hash: str) -> int:
        """Return how many parts of this payment a plugin was asked about."""
        calls = self.world.transcript.select("host>plugin", plugin, "htlc_accepted")
        return sum(entry["msg"]["params"]["htlc"]["payment_hash"] == payment_hash for entry in calls)


def chapters(story: list[Chapter], stage: Stage) -> list[Chapter]:
    """Return the page's chapters: all sales together, then each with what was gained and proved."""
    for chapter, sale in zip(story, stage.sales, strict=False):
        chapter.gains_msat, chapter.checks = named(sale.books_msat), sale.checks
    fees_msat = stage.gains.get("opening_fees", 0)
    title = f"All sales together: opening fees of {fees_msat:,} msat"
    gains = {name: gain for name, gain in stage.gains.items() if name != "opening_fees"}
    return [Chapter(title, gains_msat=named(gains), checks=stage.checks), *story]


def named(gains_msat: dict[str, int]) -> dict[str, int]:
    """Return the books under the names that the page's diagram has."""
    return {"LSP" if name == "lsp" else name: gain for name, gain in gains_msat.items()}


@contextmanager
def failing(checks: dict[str, bool]) -> Iterator[None]:
    """Turn a step of the story that fails into a check that does not hold."""
    try:
        yield
    except Broken as broken:
        checks[str(broken)] = False
    except WaitTimeout as timeout:
        checks[f"the story goes on ({str(timeout).splitlines()[0]})"] = False


def _is_there(answer: Entry) -> bool:
    """Return whether `getutxout` found an output."""
    return bool(answer.get("result", {}).get("amount"))


def failures(result: PaymentResult) -> str:
    """Return what the payer got instead of a preimage, each once."""
    return ", ".join(dict.fromkeys(message or "a preimage" for message in result.raw_messages))


def owed(wallet: Node) -> list[tuple[str, ...]]:
    """Return the keys of the wallet's records of what is still awaited or owed."""
    return [key for key in wallet.datastore.rows if key[:3] not in HISTORY]


def balanced(world: World) -> bool:
    """Return whether what all own is what was issued."""
    try:
        world.check_books()
    except AssertionError:
        return False
    return True


@contextmanager
def quiet(world: World) -> Iterator[None]:
    """Afterwards nothing is told any more: how the processes end is no part of the story."""
    try:
        yield
    finally:
        world.transcript.listeners.clear()


def new_world(seed: int, mode: str, service: list[str], **further: Any) -> World:
    """Return a chain and an LSP whose service is this command; `further` options, else its defaults."""
    options = {"lsps2-trust-mode": mode, "dev-lsps2-collect-timeout": COLLECT_S, **further}
    return World(seed=seed, plugin=service, options=options, wallet_sat=(400_000,) * 8, fee_base_msat=1000, fee_ppm=10)


async def _run(seed: int, screen: Screen, mode: str, kind: type[Stage]) -> Stage:
    async with kind.world_of(seed, mode) as world:
        with quiet(world):
            stage = kind(world, screen, mode)
            await stage.play()
            await stage.account()
    return stage


def run(*, seed: int, as_json: bool, mode: str, html: Path | None = None, kind: type[Stage] = Stage) -> int:
    """Run the demo and show it, as a page in `html`, too; 0 when every check held, 1 otherwise."""
    screen = Screen(silent=as_json)
    screen.title("lsps2fast demo", f"embedded node, seed {seed}, {mode}, node charging 1,000 msat + 10 ppm for routing")
    try:
        stage = asyncio.run(_run(seed, screen, mode, kind))
    except KeyboardInterrupt:
        return 130
    sales = stage.sales
    well = all(all(checks.values()) for checks in (*(sale.checks for sale in sales), stage.checks))
    if as_json:
        report = {"ok": well, "seed": seed, "mode": mode, "sales": [asdict(sale) for sale in sales]}
        report |= {"gains_msat": stage.gains, "checks": stage.checks}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        for sale in sales:
            screen.sale(sale)
        screen.money(stage.gains, stage.checks)
        screen.verdict(well, sum(len(sale.checks) for sale in sales) + len(stage.checks))
    if html is not None:
        screen.write_page(html, f"lsps2fast demo: {kind.told}, {mode}", chapters(screen.story, stage))
    return 0 if well else 1
