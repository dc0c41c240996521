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
from typing import NamedTuple

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.simnode import PaymentResult
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.tools.demo.cheats import ENDS, FEE_MSAT, PARTS, SIZE_MSAT, Cheat
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
from lsps2fast_plugin.tools.demo.transcript_report import ClaimRow, Refusal, Sale, collect, collect_claims


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
