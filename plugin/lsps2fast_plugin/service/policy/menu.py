"""From fee lines to a menu that keeps G-06, G-07 and G-08: discount, mining cost, order, sizes, token's end.

Pure arithmetic, with a sentence for each rule that changed or removed a line: that is what `lsps2-quote` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from lsps2fast_plugin.service.policy.rules import MIN_VALIDITY_S, FeeLine, NamedLine


class Entry(NamedTuple):
    """A line that is offered, and the rules that changed it."""

    name: str
    line: FeeLine
    rules: tuple[str, ...] = ()

    def changed(self, rule: str, **values: int) -> Entry:
        """Return this entry with other numbers, and why."""
        return Entry(self.name, self.line._replace(**values), (*self.rules, rule))


class LeftOut(NamedTuple):
    """A line that is not offered, and why. `rule` is the reason without numbers, for telling it once."""

    name: str
    rule: str
    why: str


# The largest payment of a line that can be served now, None for none, and what bounds it.
Largest = Callable[[FeeLine], tuple[int | None, str]]


class Menu(NamedTuple):
    """The menu of one client, as of now."""

    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]


def build_menu(
    lines: Iterable[NamedLine],
    *,
    floor_msat: int,
    discount_percent: int = 0,
    left_s: int | None = None,
) -> Menu:
    """Return the lines as they may be sent (G-06 … G-08).

    `floor_msat` is the least opening fee; it beats any discount. `left_s`: seconds until the client's token ends;
    no offer outlives it.
    """
    priced = [_priced(Entry(*line), floor_msat, discount_percent) for line in lines]
    ordered, left_out = _ordered(priced)
    entries: list[Entry] = []
    for entry in ordered:
        fitted = _fitted(entry, left_s)
        if isinstance(fitted, Entry):
            entries.append(fitted)
        else:
            left_out.append(fitted)
    return Menu(tuple(entries), tuple(left_out))


def _priced(entry: Entry, floor_msat: int, discount_percent: int) -> Entry:
    if discount_percent:
        keep = 100 - discount_percent
        entry = entry.changed(
            f"discount of {discount_percent} % for the token",
            min_fee_msat=-(-entry.line.min_fee_msat * keep // 100),
            proportional=-(-entry.line.proportional * keep // 100),
        )
    if entry.line.min_fee_msat < floor_msat:
        before_msat = entry.line.min_fee_msat
        entry = entry.changed(
            f"min_fee_msat {before_msat} raised to the expected mining cost of {floor_msat} msat",
            min_fee_msat=floor_msat,
        )
    return entry


def _ordered(priced: list[Entry]) -> tuple[list[Entry], list[LeftOut]]:
    """Rising in price as G-07 has it.

    Lines with one price (the floor made them equal) are kept apart by a msat; a line that is cheaper in one number
    and dearer in the other than its forerunner cannot be offered beside it.
    """
    kept: list[Entry] = []
    left_out: list[LeftOut] = []
    for entry in sorted(priced, key=lambda entry: (entry.line.min_fee_msat, entry.line.proportional)):
        if not kept:
            kept.append(entry)
            continue
        last = kept[-1].line
        if entry.line.proportional < last.proportional:
            left_out.append(
                LeftOut(
                    entry.name,
                    "crosses another line",
                    f"min_fee_msat {entry.line.min_fee_msat} with {entry.line.proportional} ppm crosses {kept[-1].name}"
                    f" ({last.min_fee_msat} with {last.proportional} ppm): a menu must rise in both",
                )
            )
            continue
        least_msat = last.min_fee_msat + (entry.line.proportional == last.proportional)
        if entry.line.min_fee_msat < least_msat:
            entry = entry.changed(f"min_fee_msat {least_msat} to differ from {kept[-1].name}", min_fee_msat=least_msat)
        kept.append(entry)
    return kept, left_out


def _fitted(entry: Entry, left_s: int | None) -> Entry | LeftOut:
    line = entry.line
    if left_s is not None and line.validity_s > left_s:
        if left_s < MIN_VALIDITY_S:
            return LeftOut(entry.name, "token ends", f"the token ends in {left_s} s, below {MIN_VALIDITY_S} s")
        entry = entry.changed(f"validity cut to the token's end in {left_s} s", validity_s=left_s)
    if line.max_payment_size_msat <= line.min_fee_msat:
        return LeftOut(
            entry.name,
            "fee above payment",
            f"a fee of at least {line.min_fee_msat} msat leaves nothing of {line.max_payment_size_msat} msat,"
            " the largest payment of this line",
        )
    if line.min_payment_size_msat <= line.min_fee_msat:
        entry = entry.changed(
            f"min_payment_size_msat {line.min_payment_size_msat} raised above the fee",
            min_payment_size_msat=line.min_fee_msat + 1,
        )
    return entry


def capped(entry: Entry, largest: Largest) -> Entry | LeftOut:
    """Return the entry with no larger payment than can be served now (people:L8)."""
    line = entry.line
    most_msat, why = largest(line)
    if most_msat is None:
        return LeftOut(
            entry.name,
            f"cannot be opened now ({why})",
            f"not even its smallest payment of {line.min_payment_size_msat} msat can be served now: {why}",
        )
    if most_msat == line.max_payment_size_msat:
        return entry
    return entry.changed(
        f"max_payment_size_msat {line.max_payment_size_msat} lowered to what can be opened now: {why}",
        max_payment_size_msat=most_msat,
    )
