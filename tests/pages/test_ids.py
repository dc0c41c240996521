"""Every ID that code, tests or docs cite can be looked up: it has its row in a page."""

from __future__ import annotations

import functools

import pytest

from pages.ids import PAGES, bare, cited, faults, prose, rows

KNOWN = {source: rows(source) for source in PAGES}


@functools.cache
def everything() -> list[tuple[str, str]]:
    """Read the repository once for all tests here."""
    return list(prose())


UNTESTED = {
    "trap:40": "needs the other implementations' nodes; the kinds met so far are trap:57, wallet:W16 and trap:59",
}


def test_every_cited_id_has_its_row_in_a_page() -> None:
    """Comments and docstrings of all code, and all pages. The page to add a row to is in the sentence."""
    assert faults(everything(), KNOWN) == []


@pytest.mark.parametrize("source", PAGES.keys() - {"speed"})
def test_no_id_has_two_rows(source: str) -> None:
    assert len(KNOWN[source]) > 10
    assert len(set(KNOWN[source])) == len(KNOWN[source])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(cln:%s99, rule:1)", "x: cln:%s99 has no row in docs/reference/lightningd-contract.md"),
        ("rule:9%s", "x: rule:9%s has no row in docs/explanation/architecture.md"),
        ("see C%s-99", None),
        ("C-9%s", "x: specification:C-9%s has no row in docs/conformance.md"),
        ("P9%s", "x: speed:P9%s has no row in docs/performance.md"),
        ("as %s9 says", "x: %s9 does not say whose it is"),
    ],
)
def test_a_planted_id_is_found(text: str, said: str | None) -> None:
    """Written in two pieces, so that this file cites none of them."""
    piece = "9" if "9%s" in text else "H"
    assert faults([("x", text % piece)], KNOWN) == ([] if said is None else [said % piece])


@pytest.mark.parametrize("text", ["P2WSH", "SHA256", "BOLT 11", "v26.06", "noqa: B010", "U64", "T-01", "`W9`", "x86"])
def test_what_is_no_id_is_left_alone(text: str) -> None:
    assert bare(text) == []


def test_each_rule_and_each_trap_has_a_test_or_a_reason() -> None:
    """The docstring of a test names it."""
    cited_by_tests = {
        f"{found.source}:{found.id}"
        for place, text in everything()
        if place.startswith("tests/") and not place.startswith("tests/pages/test_ids")
        for found in cited(place, text)
    }
    every = {f"{source}:{id_}" for source in ("rule", "trap", "people", "wallet", "operator") for id_ in KNOWN[source]}
    assert every - cited_by_tests - UNTESTED.keys() == set()
    assert sorted(UNTESTED.keys() & cited_by_tests) == [], "a test names it now: strike its reason out"
    assert sorted(UNTESTED.keys() - every) == [], "no page has this row: strike its reason out"
