"""What docs/explanation/what-we-promise.md says was tried comes from a campaign's own figures."""

from __future__ import annotations

from typing import Any

import pytest

from .tried import BEGIN, END, PAGE, passage, written

FOUND: dict[str, Any] = {
    "commit": "0123abc",
    "seeds": 3,
    "first_seed": 7001,
    "last_seed": 7003,
    "days_a_seed": 30.0,
    "people_a_day": 6.0,
    "days": 90.0,
    "sales": 1_234,
    "steps": 5_678,
    "frames": 91_011,
    "faults": 12,
    "cpu_s": 60.0,
    "wall_s": 31.0,
    "sales_a_minute_of_cpu": 1_234.0,
    "worst": dict.fromkeys(
        (
            *("capital", "withheld", "mining", "all mining"),
            *("parts", "parts of a client", "parts of a buy", "unpaid of a client"),
        ),
        4_321,
    ),
    "counts": {"sales compared with ledger and record": 1_000, "metrics pages compared": 99},
    "storms": {"reorgs": 7, "lines cut": 3, "power cut": 2},
    "violations": [],
    "broken": [],
    "interrupted": False,
}


def test_a_campaign_is_told_with_commit_seeds_faults_and_pots() -> None:
    """Issue: promises in words with numbers, and how to repeat them."""
    said = passage(FOUND)
    for words in ("3 seeds of 30 days (7001 to 7003)", "(0123abc)", "90 simulated days", "1,234 sales", "12 faults"):
        assert words in said
    assert "no promise broken" in said
    assert "| lines cut | 3 | power cut | 2 |\n| reorgs | 7 | | |\n" in said


def test_what_did_not_hold_is_told() -> None:
    """A seed that stopped is no seed that held."""
    stopped = {"seed": 7002, "step": 45, "rule": "rule:18", "sentence": "capital", "command": "lsps2fast simulate"}
    said = passage(FOUND | {"violations": [stopped]})
    assert "promises broken: seed 7002 at step 45 (rule:18)" in said
    assert "no promise broken" not in said


@pytest.mark.parametrize(
    "wrong", [{"commit": None}, {"commit": "0123abc-dirty"}, {"broken": [7]}, {"interrupted": True}]
)
def test_figures_of_no_commit_are_refused(wrong: dict[str, Any]) -> None:
    """A figure is of a commit that can be checked out, and of a campaign that came to its end."""
    with pytest.raises(ValueError, match=r"of no commit|was interrupted"):
        passage(FOUND | wrong)


def test_the_page_has_a_place_for_it() -> None:
    """Nothing but the passage between the marks is written, and twice is as once."""
    page = PAGE.read_text(encoding="utf-8")
    once = written(page, FOUND)
    assert "(0123abc)" in once
    assert once.partition(BEGIN)[0] == page.partition(BEGIN)[0]
    assert once.partition(END)[2] == page.partition(END)[2]
    assert written(once, FOUND) == once
