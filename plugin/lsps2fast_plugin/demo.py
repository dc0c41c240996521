"""`lsps2fast demo`: three sales on the embedded node, told as they happen, then proved.

The service is the real plugin process on real pipes and a real socket; only lightningd, the payer and the wallet are
simulated. Every figure in the report is read from what went over those pipes, never from what the plugin claims.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from lsps2fast.lsps2 import FeeParams
from lsps2fast_plugin.node import Client, Payer, World
from lsps2fast_plugin.node.client import ClientInvoice
from lsps2fast_plugin.screen import Screen
from lsps2fast_plugin.timeline import Timeline

COLLECT_S = 90
SESSIONS = ("lsps", "lsps2", "sessions")
Entry = dict[str, Any]


@dataclass
class PartRow:
    """One HTLC as lightningd and the plugin spoke of it; `outcome` is the last answer."""

    channel: str
    htlc_id: int
    amount_msat: int
    fee_msat: int = 0
    forward_msat: int = 0
    outcome: str = "unanswered"
    answers: int = 0


@dataclass
class Sale:
    """What one payment came to."""

    title: str
    jit_channel_scid: str
    payment_hash: str
    opening_fee_msat: int
    parts: list[PartRow] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    channel_id: str = ""
    capacity_sat: int = 0
    funding_txid: str = ""
    seconds: float = 0.0
    books_msat: dict[str, int] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)


class Stage:
    """One world with an LSP, a wallet and a payer, and the story told of it."""

    def __init__(self, world: World, screen: Screen, mode: str) -> None:
        self.world = world
        self.screen = screen
        self.mode = mode
        self.sales: list[Sale] = []

    async def buy(self, client: Client, size_msat: int | None) -> tuple[str, int, FeeParams]:
        """The wallet's side of the talk: (jit scid, cltv delta, terms)."""
        menu = await client.request("lsps2.get_info")
        offer = menu["opening_fee_params_menu"][0]
        ask: dict[str, Any] = {"opening_fee_params": offer}
        if size_msat is not None:
            ask["payment_size_msat"] = str(size_msat)
        bought = await client.request("lsps2.buy", ask)
        return bought["jit_channel_scid"], bought["lsp_cltv_expiry_delta"], FeeParams.from_json(offer)

    async def invoice(self, client: Client, size_msat: int, fixed: bool) -> tuple[ClientInvoice, int]:
        """An invoice over a jit channel just bought, and the opening fee the wallet agreed to."""
        scid, delta, terms = await self.buy(client, size_msat if fixed else None)
        fee_msat = terms.fee_msat(size_msat)
        assert fee_msat is not None
        amount = size_msat if fixed else None
        return client.invoice(amount, scid, opening_fee_msat=fee_msat, cltv_delta=delta), fee_msat

    async def sale(
        self, title: str, client: Client, size_msat: int, fixed: bool, act: Callable[[ClientInvoice], Awaitable[None]]
    ) -> None:
        """Run one sale and collect the evidence."""
        self.screen.chapter(title)
        world, begin, mark = self.world, time.monotonic(), len(self.world.transcript.entries)
        world.open_books()
        invoice, fee_msat = await self.invoice(client, size_msat, fixed)
        payment_hash = invoice.payment_hash.hex()
        sale = Sale(title, str(invoice.scid), payment_hash, fee_msat)
        await act(invoice)
        await world.until(lambda: self._finished(payment_hash), "end of the session")
        await world.until(lambda: self._journalled(sale.jit_channel_scid), "final record in the journal")
        world.mine()
        sale.seconds = round(time.monotonic() - begin, 3)
        evidence = list(world.transcript.entries)[mark:]
        collect(sale, evidence)
        self._prove(sale, client, invoice, evidence)
        self.sales.append(sale)

    def _finished(self, payment_hash: str) -> bool:
        changes = self.world.transcript.select("plugin>host", method="lsps2_session")
        ends = [change["msg"]["params"]["lsps2_session"] for change in changes]
        return any(end["payment_hash"] == payment_hash and end["new_state"] == "SUCCEEDED" for end in ends)

    def _journalled(self, scid: str) -> bool:
        rows = self.world.lsp.datastore.rows
        return (*SESSIONS, "finalized", scid) in rows and (*SESSIONS, "active", scid) not in rows

    def _prove(self, sale: Sale, client: Client, invoice: ClientInvoice, evidence: list[Entry]) -> None:
        """Hold the evidence against the rules; each check is one sentence."""
        paid = [row for row in sale.parts if row.outcome == "forwarded"]
        arrived, forwarded = sum(row.amount_msat for row in paid), sum(row.forward_msat for row in paid)
        fee = sum(row.fee_msat for row in paid)
        books = sale.books_msat = {name: change for name, change in self.world.books().items() if change}
        sent = _first(evidence, "rpc>host", "sendpsbt")
        let_go = next((place for place, entry in enumerate(evidence) if _is_forward(entry)), -1)
        order, in_order = ("after", sent > let_go) if self.mode == "client-trusts-lsp" else ("before", sent < let_go)
        tx_is_mined = self.world.chain.depth(sale.funding_txid) > 0 if sale.funding_txid else False
        sale.checks = {
            "every hook call got exactly one answer": all(row.answers == 1 for row in sale.parts),
            f"fees taken add up to the opening fee of {sale.opening_fee_msat:,} msat": fee == sale.opening_fee_msat,
            f"{arrived:,} arrived = {forwarded:,} forwarded + {fee:,} fee": arrived == forwarded + fee,
            f"the wallet got {forwarded:,} msat, and its own checks agree": invoice.paid_msat == forwarded
            and books.get(client.name) == forwarded
            and not client.refused,
            f"the payer lost {arrived:,} msat": books.get("payer") == -arrived,
            "what all own adds up (nothing made, nothing lost)": _balanced(self.world),
            "one channel was opened": _count(evidence, "rpc>host", "fundchannel_complete") == 1,
            f"its funding was sent {order} the parts went out": in_order,
            "its funding is in a block": tx_is_mined,
            "the final record is in the journal, no active one is left": self._journalled(sale.jit_channel_scid),
            "no coins stay reserved": not any(row["reserved"] for row in self.world.lsp.wallet.rows()),
        }

    # The three sales ---------------------------------------------------------------------------------

    async def play(self) -> None:
        """Everything, in order."""
        world = self.world
        payer = world.payer("payer", channels=2, capacity_sat=5_000_000)
        await self.sale(
            "A fixed invoice, paid in 5 parts over 2 channels",
            world.client("alice"),
            10_000_000,
            True,
            lambda invoice: self._pay(payer, invoice, [2_000_000] * 5),
        )
        await self.sale(
            "An invoice without an amount, paid at once",
            world.client("bertha"),
            7_654_321,
            False,
            lambda invoice: self._pay(payer, invoice, [7_654_321]),
        )
        await self.sale(
            f"Two of four parts stay away for {COLLECT_S} s; the payer tries again",
            world.client("carol"),
            20_000_000,
            True,
            lambda invoice: self._late(payer, invoice),
        )

    def _held(self, payment_hash: str) -> int:
        """Hook calls of this payment, once the plugin has begun to collect it."""
        entries = self.world.transcript
        begun = any(
            entry["msg"]["params"]["lsps2_session"]["payment_hash"] == payment_hash
            for entry in entries.select("plugin>host", method="lsps2_session")
        )
        calls = entries.select("host>plugin", method="htlc_accepted")
        held = sum(entry["msg"]["params"]["htlc"]["payment_hash"] == payment_hash for entry in calls)
        return held if begun else 0

    async def _pay(self, payer: Payer, invoice: ClientInvoice, amounts_msat: list[int]) -> None:
        result = await payer.pay(invoice, amounts_msat)
        if not result.paid:
            raise RuntimeError(f"the payment failed: {result.codes} {result.raw_messages}")

    async def _late(self, payer: Payer, invoice: ClientInvoice) -> None:
        first = payer.pay(invoice, [5_000_000, 5_000_000], total_msat=20_000_000)
        held = self.world.transcript
        await self.world.until(lambda: self._held(invoice.payment_hash.hex()) == 2, "two parts held")
        self.screen.line(held.entries[-1]["t"], "clock", f"{COLLECT_S} s pass")
        await self.world.advance(COLLECT_S)
        result = await first
        if result.raw_messages != ["10070000", "10070000"]:
            raise RuntimeError(f"the held parts were answered {result.raw_messages}, not with the temporary failure")
        await self._pay(payer, invoice, [5_000_000] * 4)


def _is_forward(entry: Entry) -> bool:
    result = entry["msg"].get("result")
    return entry["dir"] == "plugin>host" and isinstance(result, dict) and "forward_to" in result


def _first(evidence: list[Entry], direction: str, method: str) -> int:
    places = [n for n, e in enumerate(evidence) if e["dir"] == direction and e["msg"].get("method") == method]
    return places[0] if places else -1


def _count(evidence: list[Entry], direction: str, method: str) -> int:
    return sum(entry["dir"] == direction and entry["msg"].get("method") == method for entry in evidence)


def _balanced(world: World) -> bool:
    try:
        world.check_books()
    except AssertionError:
        return False
    return True


def collect(sale: Sale, evidence: list[Entry]) -> None:
    """Fill the sale from what went over the pipes."""
    rows: dict[str, PartRow] = {}
    for entry in evidence:
        message, direction = entry["msg"], entry["dir"]
        if direction == "host>plugin" and message.get("method") == "htlc_accepted":
            htlc = message["params"]["htlc"]
            rows[str(message["id"])] = PartRow(htlc["short_channel_id"], htlc["id"], htlc["amount_msat"])
        elif direction == "plugin>host" and str(message.get("id")) in rows:
            _note_answer(rows[str(message["id"])], sale, message["result"])
        elif direction == "plugin>host" and message.get("method") == "lsps2_session":
            change = message["params"]["lsps2_session"]
            if change["payment_hash"] == sale.payment_hash:
                sale.states.append(change["new_state"])
        elif direction == "host>rpc" and "txid" in (message.get("result") or {}):
            sale.funding_txid = message["result"]["txid"]
        elif direction == "rpc>host" and message.get("method") == "fundchannel_start":
            sale.capacity_sat = message["params"]["amount"]
    sale.parts = list(rows.values())


def _note_answer(row: PartRow, sale: Sale, result: dict[str, Any]) -> None:
    row.answers += 1
    if result["result"] == "fail":
        row.outcome = f"failed {result['failure_message'][:4]}"
        return
    row.outcome = "forwarded" if "forward_to" in result else "let go"
    row.fee_msat = int(result["extra_tlvs"][-16:], 16) if result.get("extra_tlvs") else 0
    row.forward_msat = _amount_of(result["payload"]) if "payload" in result else row.amount_msat
    sale.channel_id = result.get("forward_to", sale.channel_id)


def _amount_of(payload_hex: str) -> int:
    """Record 2 of an unprefixed hop payload, read here on its own so that the codec is not its own witness."""
    payload = bytes.fromhex(payload_hex)
    assert payload[0] == 2, "amt_to_forward is the first record"
    return int.from_bytes(payload[2 : 2 + payload[1]], "big")


async def _run(seed: int, screen: Screen, mode: str) -> list[Sale]:
    options = {"lsps2-trust-mode": mode, "dev-lsps2-collect-timeout": COLLECT_S}
    command = [sys.executable, "-m", "lsps2fast_plugin.service"]
    timeline = Timeline(screen.line)
    world = World(seed=seed, plugin=command, options=options, wallet_sat=(400_000,) * 8, fee_base_msat=1000, fee_ppm=10)
    world.transcript.listeners.append(timeline.take)
    async with world:
        stage = Stage(world, screen, mode)
        try:
            await stage.play()
        finally:
            world.transcript.listeners.clear()
        return stage.sales


def run(*, seed: int, as_json: bool, mode: str) -> int:
    """Run the demo and show it; 0 when every check held, 1 otherwise."""
    screen = Screen(silent=as_json)
    screen.title("lsps2fast demo", f"embedded node, seed {seed}, {mode}, node charging 1,000 msat + 10 ppm for routing")
    try:
        sales = asyncio.run(_run(seed, screen, mode))
    except KeyboardInterrupt:
        return 130
    well = all(all(sale.checks.values()) for sale in sales)
    if as_json:
        report = {"ok": well, "seed": seed, "mode": mode, "sales": [asdict(sale) for sale in sales]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        for sale in sales:
            screen.sale(sale)
        screen.verdict(well, sum(len(sale.checks) for sale in sales))
    return 0 if well else 1
