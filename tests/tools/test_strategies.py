"""Who is in the simulated town: a strategy for each row of the catalogue of attacks, and each is seen to act."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from pathlib import Path

import pytest

from lsps2fast_plugin.tools.simulate import honest, strategies
from lsps2fast_plugin.tools.simulate.market import simulate
from lsps2fast_plugin.tools.simulate.plan import Plan, happenings
from lsps2fast_plugin.tools.simulate.scene import Scene

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
    "others": "stranger-pays dust-set too-many-parts crowd alias-flood refuses-oddly wants-large outgrows",
    "operator": "other-tool few-coins smaller-htlcs longer-delay stopped-meanwhile",
    "no funding": "sells-well withholds drains fakes-funding replaces",
    "terms": "reuses skims odd-terms any-to-wallet opens-as-ldk",
    "words": "names-codes sells-dearer looks-back floods goes-silent restarted-wallet",
}
SEEN = {  # what a strategy of these says when it does what it is for; others must do more than come, buy and pay
    "names-codes": "is told as",
    "sells-dearer": "the wallet compares fees",
    "looks-back": "the wallet remembers a purchase",
    "opens-as-ldk": "opens a channel: taken",
}
VAIN = ("is refused", "the wallet does not buy", "another tool makes no channel")


def plan_for(names: list[str]) -> Plan:
    """Return the first plan of a day in which each of these comes."""
    plans = (Plan(seed, days=1, people=60, only=tuple(names), weather=False) for seed in itertools.count(1))
    return next(
        plan for plan in plans if {*names} <= {each.name for each in happenings(plan, list(honest.KINDS), names, [])}
    )


def row_of(kind: type) -> str:
    """Return the ID of the row that a strategy plays."""
    row: str = kind.row  # type: ignore[attr-defined]
    return f"{'wallet' if row.startswith('W') else 'people'}:{row}"


def test_each_row_of_the_catalogue_has_a_strategy() -> None:
    """people:S0 to people:L9, wallet:W0 to wallet:W17: none is only written about."""
    rows = set(re.findall(r"\b(?:people:[SL]|wallet:W)\d+\b", TRAPS.read_text(encoding="utf-8")))
    assert len(rows) > 40
    assert rows == {row_of(kind) for kind in strategies.KINDS.values() if kind.row not in ("all", "W")} | set(
        IN_ANOTHER
    )


def test_each_strategy_is_played_by_a_test() -> None:
    """And the honest people come in each."""
    played = [name for names in GROUPS.values() for name in names.split()]
    assert sorted(played) == sorted(strategies.KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_a_strategy_acts_and_every_promise_holds(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:18 to rule:27, wallet:W10, wallet:W11, wallet:W13, wallet:W16: by name, as `--only` has it."""
    names = GROUPS[group].split()
    said: defaultdict[str, list[str]] = defaultdict(list)
    say = Scene.say

    def heard(me: Scene, what: str) -> None:
        said[me.name.rsplit("-", 1)[0]].append(what)
        say(me, what)

    monkeypatch.setattr(Scene, "say", heard)
    result = simulate(plan_for(names))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert set(result.visits) & set(honest.KINDS)
    for name in names:
        acts = [what for what in said[name] if not what.startswith(VAIN)]
        assert len(acts) > 1, (name, said[name])
        assert any(SEEN.get(name, "") in what for what in acts), (name, acts)
