"""The site of docs/ has every page, and the sums on it are those of the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE, CapacityRule, Floor

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("links", ROOT / "release" / "links.py")
assert SPEC is not None
assert SPEC.loader is not None
links = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(links)
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


@pytest.mark.parametrize("page", links.pages(), ids=lambda page: page.name)
def test_addresses_of_others_are_well_formed(page: Path) -> None:
    """By https, to a host with a name, and each once on a page; the workflow `links` asks whether they answer."""
    found = links.links(page.read_text(encoding="utf-8"))
    for address in found:
        assert re.fullmatch(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[\w.~%/+-]*)?(#[\w-]+)?", address), address
    assert len(found) == len(set(found))


def test_an_address_that_is_none_is_seen(tmp_path: Path) -> None:
    """The check above sees what it is for; code is not linked."""
    page = tmp_path / "page.md"
    for text in ("[a](http://a.example)", "[a](https://a)", "[a](https://a.b/) [b](https://a.b/)", "see https://A.b"):
        page.write_text(text)
        with pytest.raises(AssertionError):
            test_addresses_of_others_are_well_formed(page)
    page.write_text("`[a](http://a.example)` and [b](https://a.b/c#d)")
    test_addresses_of_others_are_well_formed(page)


def shallow(text: str) -> list[int]:
    """Return lines that begin a block inside a list and are not indented by fours: the site ends the list there."""
    found, fenced, after_blank = [], False, True
    for number, line in enumerate(text.splitlines(), 1):
        depth = len(line) - len(line.lstrip(" "))
        fence = line.lstrip().startswith("```")
        begins = fence or after_blank or re.match(r" *([-*]|\d+\.) ", line)
        if line.strip() and begins and not (fenced and not fence) and depth % 4:
            found.append(number)
        fenced ^= fence
        after_blank = not line.strip()
    return found


@pytest.mark.parametrize("page", links.pages(), ids=lambda page: page.name)
def test_blocks_inside_a_list_stay_in_it(page: Path) -> None:
    """GitHub takes three spaces; Python-Markdown, which makes the site, wants four."""
    assert shallow(page.read_text(encoding="utf-8")) == []


def test_a_block_that_leaves_its_list_is_seen() -> None:
    """Fences, paragraphs and lists in lists; what is inside of a fence is left alone."""
    assert shallow("1. a\n\n   ```text\n  x\n   ```\n\n   and\n  - b\n2. c\n   goes on\n") == [3, 5, 7, 8]
    assert shallow("1. a\n\n    ```text\n   x\n    ```\n\n    and\n    - b\n") == []
