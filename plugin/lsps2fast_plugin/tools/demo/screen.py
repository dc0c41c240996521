"""How the demo looks: rich on a terminal, plain lines elsewhere or where rich is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsps2fast.actions import FAILURE_NAMES
from lsps2fast_plugin.tools.demo.story_page import Chapter, page
from lsps2fast_plugin.tools.demo.timeline import shortened
from lsps2fast_plugin.tools.demo.transcript_report import ClaimRow, PartRow, Refusal, Sale

COLOURS = {
    "payer": "cyan",
    "client": "green",
    "service": "yellow",
    "owner": "bright_green",
    "session": "bold magenta",
    "journal": "dim",
    "node": "blue",
    "clock": "red",
}
PART_COLUMNS = ("channel", "htlc", "arrived msat", "fee msat", "forwarded msat", "service's answer")
CLAIM_COLUMNS = ("htlc", "arrived msat", "extra fee msat", "payer sent msat", "client's answer")


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _rich_console() -> Any:
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False)


class Screen:
    """Writes to stdout; nothing at all when `silent`."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self.story: list[Chapter] = []  # what was told, for a page
        self._console = None if silent else _rich_console()

    def _print(self, plain: str, styled: str | None = None) -> None:
        if self._silent:
            return
        if self._console is None:
            sys.stdout.write(plain + "\n")
            sys.stdout.flush()
        else:
            self._console.print(plain if styled is None else styled, markup=styled is not None)

    def title(self, name: str, what: str) -> None:
        """Show the first line."""
        self._print(f"{name}: {what}", f"[bold]{name}[/bold]: {what}")

    def chapter(self, text: str) -> None:
        """Show that a sale begins."""
        self.story.append(Chapter(text))
        self._print(f"\n== {text}", f"\n[bold reverse] {text} [/bold reverse]")

    def line(self, seconds: float, who: str, what: str) -> None:
        """One line of the timeline; the same again, with nothing between, is left out."""
        if not self.story:
            self.story.append(Chapter("What happened"))
        if [last[1:] for last in self.story[-1].lines[-1:]] == [(who, what)]:
            return
        self.story[-1].lines.append((seconds, who, what))
        colour = COLOURS.get(who, "white")
        safe = _escaped(what)
        self._print(
            f"{seconds:8.3f}  {who:<8} {what}", f"[dim]{seconds:8.3f}[/dim]  [{colour}]{who:<8}[/{colour}] {safe}"
        )

    def sale(self, sale: Sale) -> None:
        """Show the tables of one sale and what was proved about it."""
        self._print(f"\n== {sale.title}", f"\n[bold]{sale.title}[/bold]")
        self._parts(sale.parts)
        if sale.claims:  # where only the LSP's pipes were watched there are none
            self._claims(sale.claims)
        self._print(f"states   {' > '.join(sale.states)}")
        if sale.funding_txid:
            self._print(f"channel  {sale.channel_id} of {sale.capacity_sat:,} sat for jit scid {sale.jit_channel_scid}")
            self._print(f"funding  {sale.funding_txid}")
        else:
            self._print(f"channel  {sale.channel_id}, which the wallet had, for jit scid {sale.jit_channel_scid}")
        self._print(f"books    {', '.join(f'{name} {change:+,} msat' for name, change in sale.books_msat.items())}")
        self._checks(sale.checks)

    def refusal(self, refusal: Refusal) -> None:
        """Print what an LSP tried, how the client answered, and what was proved."""
        self._print(f"\n== The LSP {refusal.what}", f"\n[bold]The LSP {refusal.what}[/bold]")
        self._parts(refusal.parts)
        if refusal.claims:
            self._claims(refusal.claims)
        self._print(f"states   {' > '.join(refusal.states)}")
        failures = dict.fromkeys(FAILURE_NAMES.get(message[:4], message) for message in refusal.payer_failures)
        self._print(f"payer    got {', '.join(failures)} for every part")
        changes = [f"{name} {change:+,} msat" for name, change in refusal.books_msat.items()]
        self._print(f"books    {', '.join(changes) or 'no gain and no loss'}")
        said = shortened(refusal.sentence) or "nothing"
        self._print(f"client   says: {said}", f"client   says: [bold yellow]{_escaped(said)}[/bold yellow]")
        self._checks(refusal.checks)

    def _checks(self, checks: dict[str, bool]) -> None:
        for text, holds in checks.items():
            mark, colour = ("ok", "green") if holds else ("WRONG", "bold red")
            self._print(f"{mark:<8} {text}", f"[{colour}]{mark:<8}[/{colour}] {_escaped(text)}")

    def _parts(self, parts: Sequence[PartRow]) -> None:
        rows = [
            (p.channel, str(p.htlc_id), f"{p.amount_msat:,}", f"{p.fee_msat:,}", f"{p.forward_msat:,}", p.outcome)
            for p in parts
        ]
        paid = [part for part in parts if part.outcome == "forwarded"]
        sums = [sum(getattr(p, name) for p in paid) for name in ("amount_msat", "fee_msat", "forward_msat")]
        self._table(PART_COLUMNS, rows, ("sum of forwarded", "", *(f"{value:,}" for value in sums), ""))

    def _claims(self, claims: Sequence[ClaimRow]) -> None:
        rows = [
            (str(c.htlc_id), f"{c.amount_msat:,}", f"{c.fee_msat:,}", f"{c.sent_msat:,}", c.outcome) for c in claims
        ]
        sums = [sum(getattr(c, name) for c in claims) for name in ("amount_msat", "fee_msat", "sent_msat")]
        self._table(CLAIM_COLUMNS, rows, ("sum", *(f"{value:,}" for value in sums), ""))

    def _table(self, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], total: tuple[str, ...]) -> None:
        right = [name == "htlc" or name.endswith("msat") for name in columns]
        widths = [max(len(cell) for cell in cells) for cells in zip(columns, total, *rows, strict=True)]
        if self._console is not None and sum(widths) + 3 * len(widths) < self._console.width:
            self._rich_table(columns, right, rows, total)
            return  # on a narrow terminal rich would cut the amounts; plain lines are folded
        for row in (columns, *rows, total):
            cells = [
                cell.rjust(width) if number else cell.ljust(width)
                for number, cell, width in zip(right, row, widths, strict=True)
            ]
            self._print("  ".join(cells).rstrip())

    def _rich_table(
        self, columns: tuple[str, ...], right: list[bool], rows: Sequence[tuple[str, ...]], total: tuple[str, ...]
    ) -> None:
        from rich.table import Table

        table = Table(show_footer=True)
        for number, name, foot in zip(right, columns, total, strict=True):
            table.add_column(name, foot, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        if self._console is not None:
            self._console.print(table)

    def money(self, gains: dict[str, int], checks: dict[str, bool]) -> None:
        """Who paid, who got what, and what the LSP keeps."""
        self._print("\n== All sales together", "\n[bold]All sales together[/bold]")
        for who, what in (
            ("payer", "the payer paid"),
            ("wallets", "the wallets got"),
            ("opening_fees", "the LSP earned in opening fees"),
            ("miners", "and paid to miners"),
            ("lsp", "so its net is"),
        ):
            self._print(f"{what:<30}{abs(gains.get(who, 0)):>16,} msat")
        self._checks(checks)

    def write_page(self, path: Path, title: str, chapters: Sequence[Chapter]) -> None:
        """Write the story as a page."""
        path.write_text(page(title, chapters), encoding="utf-8")
        self._print(f"\nThe story is in {path}")

    def verdict(self, well: bool, checks: int) -> None:
        """Show the last line."""
        if well:
            self._print(f"\nAll {checks} checks hold.", f"\n[bold green]All {checks} checks hold.[/bold green]")
        else:
            self._print(
                "\nSomething is off: see WRONG above.", "\n[bold red]Something is off: see WRONG above.[/bold red]"
            )
