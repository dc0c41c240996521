"""The site of docs/ has every page, and the sums on it are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE, CapacityRule, Floor

ROOT = Path(__file__).parents[2]
ECONOMICS = (ROOT / "docs" / "explanation" / "economics.md").read_text("utf-8")


def test_every_page_is_in_the_menu_of_the_site() -> None:
    """A page that no menu names is found by luck."""
    menu = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    pages = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))
    assert sorted(menu) == [page for page in pages if not page.startswith("monitoring/")]


@pytest.mark.parametrize(
    ("sat_a_vbyte", "mining_sat", "payment_sat"), re.findall(r"^\| (\d+) \| ([\d,]+) \| ([\d,]+) \|$", ECONOMICS, re.M)
)
def test_what_miners_take(sat_a_vbyte: str, mining_sat: str, payment_sat: str) -> None:
    """people:S12: the floor's own sum, and the payment whose fee at 1 % is as much."""
    mining_msat = Floor().mining_msat(int(sat_a_vbyte) * 250)
    assert mining_msat == int(mining_sat.replace(",", "")) * 1000
    assert int(payment_sat.replace(",", "")) * 1000 * DEFAULT_LINE.proportional // 1_000_000 == mining_msat


def test_one_sale() -> None:
    """Fee, room and lifetime of the example are the defaults."""
    assert (DEFAULT_LINE.proportional, DEFAULT_LINE.min_fee_msat, DEFAULT_LINE.min_lifetime_blocks) == (
        10_000,
        1_000_000,
        1_008,
    )
    assert f"{CapacityRule().headroom_sat:,}" in ECONOMICS
    assert f"{Floor().max_loss_sat:,}" in ECONOMICS
    for words in (
        "| opening fee, taken out of the parts | 5,000 |",
        "`lsps2-min-lifetime`, a week",
        "2,750 sat: 4.6 per mille",
    ):
        assert words in ECONOMICS


def test_each_fact_about_others_has_its_source() -> None:
    """Numbers in the text and rows of sources are the same, and each row says as of when."""
    page = (ROOT / "docs" / "explanation" / "comparison.md").read_text("utf-8")
    text, _, sources = page.partition("## Sources")
    rows = dict(re.findall(r"^\| (\d+) \| .* \| ([^|]+) \|$", sources, re.M))
    cited = set(re.findall(r"\[(\d+)\]", text))
    assert cited | {"3"} == rows.keys()  # 3 is what 1 and 2 stand on
    assert all(date.strip() for date in rows.values())
