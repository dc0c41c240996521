"""Two machines of one LSP at once: what happens by mistake, and how the first is kept from writing before it can."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from harness.takeover import FEE_MSAT, HALVES, SIZE_MSAT, reconnected

from lsps2fast_plugin.tools.regtest import Bill, Lightningd, until
from lsps2fast_plugin.tools.regtest.machines import Machines

NAMES = itertools.count(1)
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "high-availability.md"
PAGE_SQL = re.findall(r"```sql\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)  # a login, its end, a promotion


def type_sql(town: Machines, text: str, role: str) -> None:
    """Run statements of the how-to for a role, one after the other."""
    text = text.replace("lsp_a", role).replace("'PASSWORD'", f"'{town.database.password}'")
    for statement in text.split(";"):
        if statement.strip():
            town.database.query(statement)


def test_a_second_machine_beside_a_living_one_ends_the_first(machines: Machines) -> None:
    """cln:N6, rule:2: lightningd finds that another has written, and aborts; the sale is made once, by the second."""
    town, other = machines, machines.machine()
    first = town.lsp
    bill = town.bill(town.wallet(f"f{next(NAMES)}"), SIZE_MSAT)
    sent = town.send_parts(bill, HALVES[:1], total_msat=SIZE_MSAT)
    town.held(1)
    town.take_over(other)
    ended_by_the_first_write(town, first)
    finish(town, bill, sent)


def test_a_fenced_machine_writes_nothing_more(machines: Machines) -> None:
    """cln:N6: each machine logs in under a name of its own; the name is taken away before the next one starts."""
    town = machines
    first, second = f"machine{next(NAMES)}", f"machine{next(NAMES)}"
    login, fence, _promotion = PAGE_SQL  # the third is typed in tests/tools/test_database_check.py
    for role in (first, second):
        type_sql(town, login, role)
    town.lsp.stop()
    town.take_over(town.machine(town.database.url_of(first)))
    fenced, other = town.lsp, town.machine(town.database.url_of(second))
    town.rejoin(town.payer)
    bill = town.bill(town.wallet(f"f{next(NAMES)}"), SIZE_MSAT)
    sent = town.send_parts(bill, HALVES[:1], total_msat=SIZE_MSAT)
    town.held(1)
    type_sql(town, fence, first)
    ended_by_the_first_write(town, fenced)
    town.take_over(other)
    finish(town, bill, sent)


def ended_by_the_first_write(town: Machines, first: Lightningd) -> None:
    """The next block makes it write: it ends, and not because it was asked to."""
    town.bitcoind.mine()
    until(lambda: not first.runs, f"end of {first.name}", say=lambda: first.tail("log"))
    assert first.gone() != 0


def finish(town: Machines, bill: Bill, sent: tuple[int, range]) -> None:
    """The second part completes the payment at the machine that serves."""
    reconnected(town, bill)
    second = town.send_parts(bill, HALVES[1:], total_msat=SIZE_MSAT, first_part=2, group=sent[0])
    assert town.result(bill, sent, HALVES[:1]).paid
    assert town.result(bill, second, HALVES[1:]).paid
    town.over(bill)
    town.mine()
    assert town.wealth_msat(bill.wallet) == SIZE_MSAT - FEE_MSAT
