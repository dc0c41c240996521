"""The page of conformance is true: every rule has a test or a reason, every ID in a docstring exists."""

from __future__ import annotations

import pytest

from pages.conformance import (
    PAGE,
    OpenPoint,
    Place,
    Requirements,
    Rule,
    faults,
    ids_in,
    page,
    read_places,
    read_reasons,
    read_requirements,
    untested,
)

RULES = Requirements(
    {"a": "Talk"},
    [Rule("T-01", "MUST", "B", "a", "one"), Rule("T-02", "MAY", "L", "a", "two")],
    [OpenPoint("X-01", "what?", "that")],
)


def test_every_rule_has_a_test_or_a_reason_and_every_id_exists() -> None:
    """Of all sections and roles; also no reason for what has a test."""
    assert faults(read_requirements(), read_places(), read_reasons()) == []


def test_the_page_is_up_to_date() -> None:
    """`make conformance` writes it."""
    assert PAGE.read_text(encoding="utf-8") == page(read_requirements(), read_places(), read_reasons())


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("{}-06, {}-07 and rule 3", ["C-06", "C-07"]),
        ("{}-20 to {}-23: at once", ["C-20", "C-21", "C-22", "C-23"]),
        ("{}-09 … {}-11, {}-05.", ["C-09", "C-10", "C-11", "C-05"]),
        ("P2WSH, SHA256, BOLT 11, cln:W9, v26.06, 65,533", []),
    ],
)
def test_ids_are_found_in_lists_and_ranges(text: str, ids: list[str]) -> None:
    assert ids_in(text.replace("{}", "C")) == ids


@pytest.mark.parametrize(
    ("ids", "is_test", "reasons", "said"),
    [
        (("T-01", "X-01"), True, {"T-02": "why"}, []),
        (("T-01", "T-03"), True, {"T-02": "why"}, ["tests/test_x.py, f: T-03 does not exist"]),
        (("T-01",), False, {"T-02": "why"}, ["T-01 has neither a test nor a reason for LC"]),
        (("T-01", "T-02"), True, {"T-02": "why"}, ["T-02 has its tests, the reason is stale"]),
        (("T-01", "T-02"), True, {"T-09": "why"}, ["T-09 has a reason and does not exist"]),
    ],
)
def test_what_is_wrong_is_said(ids: tuple[str, ...], is_test: bool, reasons: dict[str, str], said: list[str]) -> None:
    assert faults(RULES, [Place("tests/test_x.py", "f", ids, is_test)], reasons) == said


@pytest.mark.parametrize(
    ("paths", "missing"),
    [
        ([], "LC"),
        (["tests/client/test_x.py"], "L"),
        (["tests/service/test_x.py", "tests/simnode/test_x.py"], "C"),
        (["tests/service/test_x.py", "tests/client/test_x.py"], ""),
        (["tests/test_x.py"], ""),
    ],
)
def test_a_rule_for_both_ends_needs_tests_of_both(paths: list[str], missing: str) -> None:
    """Tests of the embedded node show nothing about the plugins."""
    assert untested(RULES.rules[0], paths) == missing
