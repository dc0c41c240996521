"""Who is in the simulated town: a strategy for each row of the catalogue of attacks, and each is seen to act."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lsps2fast_plugin.tools.simulate import both_ways, cast, honest, order_tricks, strategies
from lsps2fast_plugin.tools.simulate.market import simulate
from lsps2fast_plugin.tools.simulate.plan import Plan

TRAPS = Path(__file__).parents[2] / "docs" / "explanation" / "traps.md"
IN_ANOTHER = {  # rows that are no person's deed alone, and what plays them
    "people:L6": "Plan.least_channel_sat: in one seed of five the operator's smallest channel is larger",
    "wallet:W8": "reuses: its second payment may carry no fee",
    "wallet:W9": "restarted-wallet: its disk may be full",
}
GROUPS = {  # towns with some strategists each
    "open": "signs-and-errs overpays variable-refusers many-buys falls-silent chaos",
    "pay": "evades free-channel fulfils-and-errs fiddles late-expiry dusty",
    "wait": "holds-long waits-for-fees lapses splices-upstream many-identities crumbs-out",
    "others": "stranger-pays dust-set too-many-parts crowd asks-on alias-flood refuses-oddly wants-large outgrows",
    "webhooks": "trap-webhooks flaps",
    "asleep": "woken back-late comes-and-goes fills-the-pot",
    "rooms": "races-for-room",
    "batches": "spoils-batches",
    "operator": "other-tool few-coins smaller-htlcs longer-delay stopped-meanwhile",
    "no funding": "sells-well withholds drains fakes-funding replaces",
    "terms": "reuses skims odd-terms any-to-wallet opens-as-ldk",
    "orders paid": "parts-too-many pays-twice pays-late runs-out withdraws withdraws-at-a-start",
    "orders left": "leaves-the-open orders-many closes-meanwhile switches-off",
    "both ways": "both-ways",
    "together": "paid-together",
    "words": "names-codes sells-dearer looks-back floods goes-silent restarted-wallet",
}


FIRST = {"wait": 2, "others": 10}  # seeds in which each does its deed; the others begin with 1
TRUSTING = ("pay", "wait", "others", "batches", "together")  # whose deeds need an LSP that sends its funding at once
MOST_TOWNS = 8


def plans_for(group: str) -> Iterator[Plan]:
    """Return plans of a day in which each of a group comes."""
    names = GROUPS[group].split()
    ways = {
        "mode": "lsp-trusts-client" if group in TRUSTING else "",
        "batch": "on" if group in ("batches", "together") else "",
        "reuse": "free" if group == "together" else "",
        "orders": "on" if {*order_tricks.ORDER_TRICKS, *both_ways.KINDS} & {*names} else "",
    }
    for seed in itertools.count(FIRST.get(group, 1)):
        plan = Plan(seed, days=1, people=60, only=tuple(names), weather=False, **ways)
        if {*names} <= {each.name for each in cast.coming(plan)}:
            yield plan


def row_of(kind: type) -> str:
    """Return the ID of the row that a strategy plays."""
    row: str = kind.row  # type: ignore[attr-defined]
    return f"{'wallet' if row.startswith('W') else 'people'}:{row}"


def test_each_row_of_the_catalogue_has_a_strategy() -> None:
    """people:S0 to people:L10, wallet:W0 to wallet:W17: none is only written about."""
    rows = set(re.findall(r"\b(?:people:[SL]|wallet:W)\d+\b", TRAPS.read_text(encoding="utf-8")))
    assert len(rows) > 40
    assert rows == {row_of(kind) for kind in strategies.KINDS.values() if kind.row not in ("all", "W")} | set(
        IN_ANOTHER
    )


def test_each_strategy_is_played_by_a_test() -> None:
    """And the honest people come in each."""
    played = [name for names in GROUPS.values() for name in names.split()]
    assert sorted(played) == sorted(cast.STRATEGISTS)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_a_strategy_does_its_deed_and_every_promise_holds(group: str) -> None:
    """rule:18 to rule:27, wallet:W10, wallet:W11, wallet:W13, wallet:W16: it comes and does what it is for.

    `me.did()` stands in a strategy behind its deed, where that could be done: an offer was bought, a part was held.
    """
    names = set(GROUPS[group].split())
    deeds: Counter[str] = Counter()
    for plan in itertools.islice(plans_for(group), MOST_TOWNS):
        result = simulate(plan)
        assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), plan.command()])
        assert set(result.visits) & set(honest.KINDS)
        deeds += result.deeds
        if names <= set(deeds):
            break
    assert names <= set(deeds), sorted(names - set(deeds))
