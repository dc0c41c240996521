"""`lsps2fast demo --evil-lsp VICE`: an LSP that cheats, a client that refuses, and the proof that no money was lost.

The LSP is the real service with one vice (`evil_lsp`), the client the real one without any help.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.client.funding_status import FundingStatus
from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE
from lsps2fast_plugin.simnode import Node, PaymentResult, tlv
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.party import connect
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.simnode.psbt import Output
from lsps2fast_plugin.tools.demo.evil_lsp import WAITING
from lsps2fast_plugin.tools.demo.sales import (
    CLIENT_TRUSTS,
    LSP_TRUSTS,
    Stage,
    balanced,
    failing,
    named,
    new_world,
    quiet,
)
from lsps2fast_plugin.tools.demo.screen import Screen
from lsps2fast_plugin.tools.demo.timeline import Entry
from lsps2fast_plugin.tools.demo.transcript_report import (
    ClaimRow,
    Refusal,
    Sale,
    accepted,
    collect,
    collect_claims,
    count,
)

SIZE_MSAT, FEE_MSAT, PARTS = 10_000_000, 1_000_000, 5
OFFER_S = DEFAULT_LINE.validity_s
MOST_BLOCKS = 12
DRAINABLE_SAT, DRAINED_MSAT, ROUTING_FEE_MSAT = 1_000_000, 50_000_000, 2_000
HOLD_S = 91
ENDS = ("FAILED", "ABANDONED", "SUCCEEDED")


class Cheat:
    """One payment to a wallet whose LSP cheats."""

    def __init__(self, stage: Stage, wallet: Node) -> None:
        self.stage = stage
        self.world = stage.world
        self.wallet = wallet
        self.real: End | None = None
        self.bob: Node
        self.drained: PaymentResult | None = None
        self.forged = False
        self.mark = len(self.world.transcript.entries)
        self.lapsed_at = -1  # place in the transcript where the client had given the approval up

    async def status(self) -> dict[str, Any]:
        """Return the client's `lsps2-status`."""
        told: dict[str, Any] = await self.wallet.call("lsps2-status")
        return told

    async def until(self, condition: Callable[[dict[str, Any]], object], what: str) -> None:
        """Ask the client until the condition holds of what it tells. Raises WaitTimeout."""

        async def poll() -> None:
            while not condition(await self.status()):
                continue

        await self.world.bounded(poll(), None, what)

    def seen_by_wallet(self) -> list[Entry]:
        """Return what went over the wallet's pipes since the invoice was made."""
        return self.stage.seen(self.wallet.name, self.mark)

    def calls(self, name: str, direction: str, method: str) -> list[Entry]:
        """Return the calls of one method on this node's pipes or socket."""
        seen = self.stage.seen(name, self.mark)
        return [e for e in seen if e["dir"] == direction and e["msg"].get("method") == method]

    # While the payment is under way

    async def wait(self, payment: Payment) -> None:
        """Nothing: the client answers by itself."""

    async def mine(self, payment: Payment) -> None:
        """Blocks come; the client holds the parts as long as it can and the funding is not among the transactions."""
        for _ in range(MOST_BLOCKS):
            await self.until(lambda told: self.awaits(told) or payment.done, "the client looking for the funding")
            if payment.done:
                return
            self.stage.say("clock", f"a block is mined, without the funding; the client holds {PARTS} parts")
            self.world.mine()

    def awaits(self, told: dict[str, Any]) -> str | None:
        """Return how far the funding has come, as of this block, that the client holds every part for."""
        now = told["held_parts"] == PARTS and told["approvals"][0]["awaits_height"] == self.world.chain.height
        sight: str | None = told["approvals"][0]["awaits"] if now else None
        return sight

    async def lapse(self, payment: Payment) -> None:
        """Let the offer end, for the client first: an LSP's clock that is late is the LSP's affair."""
        await self.world.until(lambda: payment.done or self._is_waiting(), "the service waiting for its offer to end")
        if payment.done:
            return
        self.stage.say("clock", f"{OFFER_S} s pass, and with them the offer")
        self.world.clock.advance(OFFER_S)
        await self.wallet.call("lsps2-dev-advance", {"seconds": OFFER_S})
        await self.until(lambda told: not told["approvals"], "the client's approval being over")
        self.lapsed_at = len(self.world.transcript.entries)
        await self.world.lsp.call("lsps2-dev-advance", {"seconds": OFFER_S + 60})

    def _is_waiting(self) -> bool:
        return any(each["msg"]["params"]["message"] == WAITING for each in self.calls("lsp", "plugin>host", "log"))

    async def drain(self, payment: Payment) -> None:
        """Route through the wallet while it holds the parts; then mine blocks that do not hold the funding."""
        await self.until(lambda told: told["held_parts"] == PARTS or payment.done, "the client holding every part")
        if not payment.done:
            self.drained = await self._route()
        await self.mine(payment)

    async def _route(self) -> PaymentResult:
        height, real = self.world.chain.height, self.real
        jit = next(end for end in self.wallet.ends if end is not real)
        assert real is not None
        target = await self.bob.call("invoice", {"amount_msat": DRAINED_MSAT, "label": "drain", "description": "drain"})
        secret, sent_msat = bytes.fromhex(target["payment_secret"]), DRAINED_MSAT + ROUTING_FEE_MSAT
        last = tlv.hop_payload(DRAINED_MSAT, height + 12, payment_secret=secret, total_msat=DRAINED_MSAT)
        hops = [
            (bytes.fromhex(self.world.lsp.node_id), tlv.hop_payload(sent_msat, height + 32, jit.other.scid_now())),
            (bytes.fromhex(self.wallet.node_id), tlv.hop_payload(DRAINED_MSAT, height + 12, real.scid_now())),
            (bytes.fromhex(self.bob.node_id), last),
        ]
        payment_hash = bytes.fromhex(target["payment_hash"])
        return await self.stage.payer.send_along(payment_hash, hops, sent_msat + ROUTING_FEE_MSAT, height + 176)

    async def forge(self, payment: Payment) -> None:
        """Show an output of the right amount that is no funding: its script is the LSP's own. Then blocks come."""
        await self.until(lambda told: told["held_parts"] == PARTS or payment.done, "the client holding every part")
        channel = self.wallet.ends[0].channel
        point = (channel.funding_txid, channel.funding_outnum)
        self.world.chain.unspent[point] = Output(channel.capacity_sat, b"\x00\x20" + b"\x5a" * 32)
        self.world.mine()
        seen = FundingStatus.MEMPOOL.value
        await self.until(lambda told: self.awaits(told) == seen or payment.done, "the client seeing the output")
        await self.mine(payment)
        self.forged = (await self.wallet.call("getutxout", {"txid": point[0], "vout": point[1]}))["amount"] is not None
        del self.world.chain.unspent[point]

    async def confirm(self, payment: Payment) -> None:
        """Mine the funding where the client waits for it."""
        await self.until(lambda told: told["held_parts"] == PARTS or payment.done, "the client holding every part")
        if not payment.done:
            self.world.mine()

    async def miss(self, payment: Payment) -> None:
        """Let time pass until the client gives back the part it holds."""
        await self.until(lambda told: told["held_parts"] == 1 or payment.done, "the client holding a part")
        await self.world.until(lambda: not self._serves(), "the end of the LSP's service")
        self.stage.say("clock", f"{HOLD_S} s pass, and no other part comes")
        await self.wallet.call("lsps2-dev-advance", {"seconds": HOLD_S})
        await self.until(lambda told: not told["held_parts"], "the client giving it back")

    async def give_up(self, payment: Payment) -> None:
        """Let time pass until the parts without a fee, which wait for the refused one, have gone back."""

        async def end() -> None:
            while not payment.done:
                told = await self.status()
                if told["held_parts"] == PARTS:
                    self.world.mine()  # an honest LSP's parts wait for a block
                    return
                if told["held_parts"] and any(lsp["broke_its_word"] for lsp in told["lsps"]):
                    self.world.clock.advance(HOLD_S)
                    await self.wallet.call("lsps2-dev-advance", {"seconds": HOLD_S})

        await self.world.bounded(end(), None, "the end of the payment")

    # Before the payment

    async def befriend(self) -> None:
        """Give the wallet a real channel with Bob, all of it on its own side."""
        self.bob = self.world.add_node("bob")
        await self.bob.start()
        connect(self.wallet, self.bob)
        self.real = self.world.add_channel(self.wallet, self.bob, DRAINABLE_SAT)

    async def sell_once(self) -> None:
        """Sell a channel as it should be."""
        bill = await self.stage.bill(self.wallet, SIZE_MSAT)
        payment = self.stage.send(bill, [SIZE_MSAT])
        await self.until(lambda told: told["held_parts"] == 1 or payment.done, "the client holding the part")
        self.world.mine()
        await self.until(lambda told: told["approvals"][0]["state"] == "paid", "the first payment known")
        await self.world.until(lambda: self.stage.sessions(bill["payment_hash"])[-1] in ENDS, "its end at the LSP")

    # Proof that the LSP misbehaved as its vice says

    def drained_nothing(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that a forward came in over the channel without funding, and went no further."""
        tried = [part.code for part in self.drained.parts] if self.drained is not None else []
        return {
            "the LSP did route through the wallet, which forwarded nothing": bool(tried) and 0 not in tried,
            "the wallet's real channel has every msat it had": self.real is not None
            and self.real.to_us_msat == DRAINABLE_SAT * 1000,
            **self.withheld(claims),
        }

    def reused(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that the fee of a second sale came, and no second channel."""
        fees_msat = sum(row.fee_msat for row in claims)
        return {
            f"the LSP did take a fee of {fees_msat:,} msat again, over the channel of its first sale": fees_msat > 0
            and len(self.wallet.ends) == 1,
        }

    def fooled_nobody(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that the chain did show an output of the right amount."""
        return {"the chain did show an output of the channel's amount that is no funding": self.forged} | self.withheld(
            claims
        )

    def vanished(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that one part came and the rest did not."""
        return {"the LSP did open the channel, send one part of five and go": len(claims) == 1 and not self._serves()}

    def _serves(self) -> bool:
        return any(plugin.alive for plugin in self.world.lsp.plugins)

    def opened_once(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that a second channel was asked for, and that there is one."""
        return {
            "the LSP did ask for a second channel for the same sale": len(self._openings()) > 1,
            "there is one channel, and its fee was taken once": len(self.wallet.ends) == 1
            and sum(row.fee_msat for row in claims) == FEE_MSAT,
        }

    def skimmed(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return whether each part came with less than its fee accounts for."""
        short = bool(claims) and all(row.amount_msat + row.fee_msat == row.sent_msat - 1 for row in claims)
        return {"the LSP did send every part 1 msat short of its word": short}

    def withheld(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return everything but the transaction."""
        ours = [end.channel.funding_txid for end in self.wallet.ends if end is not self.real]
        unseen = bool(ours) and not any(txid in self.world.chain.transactions for txid in ours)
        calls = self.calls(self.wallet.name, "host>plugin", "htlc_accepted")
        left = [call["msg"]["params"]["htlc"]["cltv_expiry"] - self.world.chain.height for call in calls]
        return {
            "the LSP did forward all parts and keep the funding to itself": unseen and len(claims) == PARTS,
            f"the parts were failed {min(left, default=0)} blocks before they would have expired": min(left, default=0)
            > 0,
        }

    def resized(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return a channel that the payment does not fit into."""
        asked = [call["msg"]["params"]["openchannel"]["funding_msat"] for call in self._openings()]
        return {
            f"the LSP did offer a channel of {max(asked, default=0):,} msat for {SIZE_MSAT - FEE_MSAT:,} msat": bool(
                asked
            )
            and max(asked) < SIZE_MSAT - FEE_MSAT,
            "the client accepted no channel": accepted(self.seen_by_wallet()) == 0,
        }

    def came_late(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return whether the open was asked for when the client's approval was over, and not before."""
        entries = self.stage.seen(self.wallet.name, self.lapsed_at) if self.lapsed_at >= 0 else []
        after = count(entries, "host>plugin", "openchannel")  # once for each type of channel that it tries
        return {
            "the LSP did ask for the channel after the approval had lapsed": 0 < after == len(self._openings()),
            "the client accepted no channel": accepted(self.seen_by_wallet()) == 0,
        }

    def _openings(self) -> list[Entry]:
        return self.calls(self.wallet.name, "host>plugin", "openchannel")


class Vice(NamedTuple):
    """A way to cheat. `reason` are words the client's sentence must hold."""

    what: str
    reason: str
    mode: str
    meanwhile: Callable[[Cheat, Payment], Awaitable[None]]
    proof: Callable[[Cheat, list[ClaimRow]], dict[str, bool]]
    before: Callable[[Cheat], Awaitable[None]] | None = None
    is_paid: bool = False  # the sale itself goes well
    ends: bool = True  # the LSP lives to see the end of it


VICES = {
    "skim": Vice(
        "forwards 1 msat less than it says",
        "amount and extra_fee together are not what the payer sent",
        CLIENT_TRUSTS,
        Cheat.wait,
        Cheat.skimmed,
    ),
    "withhold": Vice(
        "promises the funding before the payment and never sends it",
        "the funding transaction is not seen",
        LSP_TRUSTS,
        Cheat.mine,
        Cheat.withheld,
    ),
    "resize": Vice(
        "opens a channel smaller than agreed", "too small to receive", CLIENT_TRUSTS, Cheat.wait, Cheat.resized
    ),
    "late": Vice(
        "opens the channel when its offer is over",
        "what it was bought for ended",
        CLIENT_TRUSTS,
        Cheat.lapse,
        Cheat.came_late,
    ),
    "drain": Vice(
        "routes through the wallet, in over a channel it never funds and out over a real one",
        "to be forwarded over channel",
        LSP_TRUSTS,
        Cheat.drain,
        Cheat.drained_nothing,
        Cheat.befriend,
    ),
    "reuse": Vice(
        "takes the fee of a second sale over the channel of the first",
        "did not come over the channel that was opened for it",
        LSP_TRUSTS,
        Cheat.give_up,
        Cheat.reused,
        Cheat.sell_once,
    ),
    "fake-funding": Vice(
        "shows an output of the right amount that is no funding of the channel",
        "the funding transaction is in the mempool, and its HTLCs would soon expire",
        LSP_TRUSTS,
        Cheat.forge,
        Cheat.fooled_nobody,
    ),
    "second-channel": Vice(
        "opens a second channel for the same sale",
        "has its channel already",
        CLIENT_TRUSTS,
        Cheat.confirm,
        Cheat.opened_once,
        is_paid=True,
    ),
    "vanish": Vice(
        "opens the channel, sends one part and is not heard of again",
        "the rest of the payment did not come in time",
        CLIENT_TRUSTS,
        Cheat.miss,
        Cheat.vanished,
        ends=False,
    ),
}


async def play(stage: Stage, name: str) -> Refusal:
    """Make one payment and count the money of all parties afterwards."""
    vice, world = VICES[name], stage.world
    stage.screen.chapter(f"An LSP that {vice.what}")
    wallet = await stage.wallet("alice")
    cheat = Cheat(stage, wallet)
    if vice.before is not None:
        await vice.before(cheat)
    world.open_books()
    begin, mark = time.monotonic(), len(world.transcript.entries)
    bill = await stage.bill(wallet, SIZE_MSAT)
    cheat.mark = len(world.transcript.entries)
    refusal = Refusal(name, vice.what, bill["payment_hash"])
    result = PaymentResult(())
    with failing(refusal.checks):
        payment = stage.send(bill, [SIZE_MSAT // PARTS] * PARTS)
        await vice.meanwhile(cheat, payment)
        result = await payment
        if vice.ends:
            await world.until(lambda: stage.sessions(bill["payment_hash"])[-1] in ENDS, "end of the session")
    reports = [each["report"] for each in (await cheat.status())["reports"]]
    refusal.sentence = next((report for report in reports if vice.reason in report), "")
    refusal.payer_failures = [message or "a preimage" for message in result.raw_messages]
    refusal.seconds = round(time.monotonic() - begin, 3)
    _collect(refusal, stage, mark)
    refusal.checks |= vice.proof(cheat, refusal.claims)
    refusal.checks |= (_prove_paid if vice.is_paid else _prove)(refusal, cheat, result)
    return refusal


def _collect(refusal: Refusal, stage: Stage, mark: int) -> None:
    sale = Sale(refusal.what, "", refusal.payment_hash, FEE_MSAT)
    collect(sale, stage.seen("lsp", mark))
    refusal.parts, refusal.states = sale.parts, sale.states
    refusal.claims = collect_claims(stage.seen("alice", mark), refusal.payment_hash)
    refusal.books_msat = {who: change for who, change in stage.world.books().items() if change}


def _prove_paid(refusal: Refusal, cheat: Cheat, result: PaymentResult) -> dict[str, bool]:
    """Return what must hold of a sale that went well beside the cheat."""
    return {
        "the client says why it refused": bool(refusal.sentence),
        "the payer's parts arrived": result.codes == [0] * PARTS,
        "the wallet has the payment less the fee it agreed to": refusal.books_msat.get("alice") == SIZE_MSAT - FEE_MSAT,
        "every hook call of both plugins got exactly one answer": bool(refusal.parts)
        and {row.answers for row in refusal.parts} | {row.answers for row in refusal.claims} == {1},
        "what all own adds up (nothing made, nothing lost)": balanced(cheat.world),
    }


def _prove(refusal: Refusal, cheat: Cheat, result: PaymentResult) -> dict[str, bool]:
    """Return what must hold whatever the LSP did."""
    invoice = cheat.wallet.invoices.by_hash[bytes.fromhex(refusal.payment_hash)]
    told = json.dumps(cheat.stage.seen("lsp", 0))
    books = refusal.books_msat
    return {
        "the client says why it refused": bool(refusal.sentence),
        f"all {PARTS} parts came back to the payer, who lost nothing": len(result.parts) == PARTS
        and not any(part.code == 0 for part in result.parts)
        and "payer" not in books,
        "the wallet lost nothing": "alice" not in books,
        "the LSP gained nothing": books.get("lsp", 0) <= 0,
        "the invoice is not paid, no part of it was claimed": invoice.status == "unpaid"
        and not any(row.outcome == "taken" for row in refusal.claims),
        "the preimage never left the wallet's node": result.preimage is None and invoice.preimage.hex() not in told,
        "every hook call of both plugins got exactly one answer": bool(refusal.parts)
        and {row.answers for row in refusal.parts} | {row.answers for row in refusal.claims} == {1},
        "what all own adds up (nothing made, nothing lost)": balanced(cheat.world),
    }


async def _run(seed: int, screen: Screen, name: str, mode: str, service: list[str]) -> Refusal:
    async with new_world(seed, mode, service, **{"lsps2-fee-floor": 0}) as world:  # FEE_MSAT, whatever blocks cost
        with quiet(world):
            return await play(Stage(world, screen, mode), name)


def run(*, seed: int, as_json: bool, mode: str | None, vice: str, html: Path | None = None) -> int:
    """Let the LSP cheat and show what came of it; 0 when every check held, 1 otherwise, 2 for an impossible wish."""
    try:
        mode = checked_mode(vice, mode)
    except ConfigError as error:
        sys.stderr.write(f"lsps2fast demo: {error}\n")
        return 2
    screen = Screen(silent=as_json)
    screen.title("lsps2fast demo", f"embedded node, seed {seed}, {mode}, an LSP that {VICES[vice].what}")
    try:
        refusal = asyncio.run(_run(seed, screen, vice, mode, service_with(vice)))
    except KeyboardInterrupt:
        return 130
    well = all(refusal.checks.values())
    if as_json:
        report = {"ok": well, "seed": seed, "mode": mode, "evil_lsp": vice, "refusal": asdict(refusal)}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        screen.refusal(refusal)
        screen.verdict(well, len(refusal.checks))
    if html is not None:
        for chapter in screen.story[-1:]:
            chapter.title = f"The LSP {refusal.what}; the wallet says: {refusal.sentence or 'nothing'}"
            chapter.gains_msat, chapter.checks = named(refusal.books_msat), refusal.checks
        screen.write_page(html, f"lsps2fast demo: an LSP that {VICES[vice].what}", screen.story)
    return 0 if well else 1


WITHHOLDING = ("withhold", "drain", "fake-funding")


def service_with(vice: str) -> list[str]:
    """Return the command of an LSP with this vice."""
    return [sys.executable, "-m", "lsps2fast_plugin.tools.demo.evil_lsp", vice]


def checked_mode(vice: str, mode: str | None) -> str:
    """Return the trust mode to play in. Raises ConfigError where the vice would break no promise."""
    if vice in WITHHOLDING and mode == CLIENT_TRUSTS:
        raise ConfigError(
            f"{vice} breaks a promise that is made only in {LSP_TRUSTS} mode; in {CLIENT_TRUSTS} mode the wallet's"
            " owner has agreed to be paid before the funding is sent: leave out --mode"
        )
    return mode or VICES[vice].mode
