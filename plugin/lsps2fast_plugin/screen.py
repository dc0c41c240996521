"""How the demo looks: rich on a terminal, plain lines elsewhere or where rich is not installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsps2fast_plugin.demo import Sale

COLOURS = {
    "payer": "cyan",
    "client": "green",
    "plugin": "yellow",
    "session": "bold magenta",
    "journal": "dim",
    "node": "blue",
    "clock": "red",
}
PART_COLUMNS = ("channel", "htlc", "arrived msat", "fee msat", "forwarded msat", "answer")


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
        """The first line."""
        self._print(f"{name}: {what}", f"[bold]{name}[/bold]: {what}")

    def chapter(self, text: str) -> None:
        """A sale begins."""
        self._print(f"\n== {text}", f"\n[bold reverse] {text} [/bold reverse]")

    def line(self, seconds: float, who: str, what: str) -> None:
        """One line of the timeline."""
        colour = COLOURS.get(who, "white")
        safe = what.replace("[", "\\[")
        self._print(
            f"{seconds:8.3f}  {who:<8} {what}", f"[dim]{seconds:8.3f}[/dim]  [{colour}]{who:<8}[/{colour}] {safe}"
        )

    def sale(self, sale: Sale) -> None:
        """The table of one sale and what was proved about it."""
        self._print(f"\n== {sale.title}", f"\n[bold]{sale.title}[/bold]")
        rows = [
            (p.channel, str(p.htlc_id), f"{p.amount_msat:,}", f"{p.fee_msat:,}", f"{p.forward_msat:,}", p.outcome)
            for p in sale.parts
        ]
        paid = [part for part in sale.parts if part.outcome == "forwarded"]
        sums = [sum(getattr(p, name) for p in paid) for name in ("amount_msat", "fee_msat", "forward_msat")]
        total = ("sum of paid parts", "", *(f"{value:,}" for value in sums), "")
        self._table(rows, total)
        self._print(f"states   {' > '.join(sale.states)}")
        self._print(f"channel  {sale.channel_id} of {sale.capacity_sat:,} sat for jit scid {sale.jit_channel_scid}")
        self._print(f"funding  {sale.funding_txid}")
        self._print(f"books    {', '.join(f'{name} {change:+,} msat' for name, change in sale.books_msat.items())}")
        for text, holds in sale.checks.items():
            mark, colour = ("ok", "green") if holds else ("WRONG", "bold red")
            self._print(f"{mark:<8} {text}", f"[{colour}]{mark:<8}[/{colour}] {text}")

    def _table(self, rows: Sequence[tuple[str, ...]], total: tuple[str, ...]) -> None:
        if self._console is not None:
            self._rich_table(rows, total)
            return
        widths = [max(len(row[n]) for row in (PART_COLUMNS, total, *rows)) for n in range(len(PART_COLUMNS))]
        for row in (PART_COLUMNS, *rows, total):
            cells = [
                cell.rjust(width) if 0 < n < 5 else cell.ljust(width)
                for n, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self._print("  ".join(cells).rstrip())

    def _rich_table(self, rows: Sequence[tuple[str, ...]], total: tuple[str, ...]) -> None:
        from rich.table import Table

        table = Table(show_footer=True)
        for n, (name, foot) in enumerate(zip(PART_COLUMNS, total, strict=True)):
            table.add_column(name, foot, justify="right" if 0 < n < 5 else "left")
        for row in rows:
            table.add_row(*row)
        if self._console is not None:
            self._console.print(table)

    def verdict(self, well: bool, checks: int) -> None:
        """The last line."""
        if well:
            self._print(f"\nAll {checks} checks hold.", f"\n[bold green]All {checks} checks hold.[/bold green]")
        else:
            self._print(
                "\nSomething is off: see WRONG above.", "\n[bold red]Something is off: see WRONG above.[/bold red]"
            )
