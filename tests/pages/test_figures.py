"""The tables of docs/performance.md that `make figures` measures and fills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from lsps2fast_plugin.tools import performance_page
from lsps2fast_plugin.tools.bench.crowd import as_json as crowd_json
from lsps2fast_plugin.tools.bench.figures import figure
from lsps2fast_plugin.tools.bench.market import BUILT_IN, OURS
from lsps2fast_plugin.tools.bench.real_sales import ORDINARY, Case, Crowds, Rush, Sales, as_json
from lsps2fast_plugin.tools.bench.sweep import Blocked, Step, Sweep
from lsps2fast_plugin.tools.bench.sweep import as_json as sweep_json
from lsps2fast_plugin.tools.performance_page import PAGE, TABLES, Measured, block, fill, filled, marks

ROOT = Path(__file__).parents[2]
MACHINE: dict[str, Any] = {"cpu": "a CPU", "cores": 2, "load": 0.5, "python": "3.11", "lsps2fast": "1", "at": "today"}
TEN = [float(each) for each in range(100, 110)]


def sales() -> str:
    cases = [Case(name, parts, TEN) for name in (OURS, BUILT_IN, ORDINARY) for parts in (1, 5)]
    return as_json(Sales(MACHINE, "v26", cases, [0.5]))


def crowds() -> str:
    rushes = [Rush(name, 10, 3.5, figure(TEN), 9.5, 2.25, ["no"]) for name in (OURS, BUILT_IN)]
    return as_json(Crowds(MACHINE, "v26", rushes, [0.5]))


def embedded() -> str:
    crowd = {"sessions": 10, "seconds": 3.5, "waits_s": TEN, "cpu_ms": 2.25, "rpc_calls": 200, "commits": 50, "load": 1}
    return crowd_json({"machine": MACHINE, "crowds": [crowd]})


def floods() -> str:
    many = TEN * 30
    step = Step(100.0, 500, 5.0, forward_us=many, wallet_us=many)
    return sweep_json(Sweep(MACHINE, 1000, [step], [Blocked("C", many, many, 500.0)], [0.5]))


FOUND = {"sale": sales, "crowd-50": crowds, "crowd-200": crowds, "crowd-embedded": embedded, "flood": floods}
WORD = {
    "sale": "P23 ≤ 1.6",
    "crowd-50": "P24 ≤ 0.8",
    "crowd-200": "P24 ≤ 0.8",
    "crowd-embedded": "2.25",
    "flood": "P25",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_made_of_its_command_s_json(name: str) -> None:
    """Its figures, its command and its commit."""
    text = block(
        name, Measured("abc1234", f"lsps2fast bench {TABLES[name].command}", msgspec.Raw(FOUND[name]().encode()))
    )
    assert WORD[name] in text
    assert f"`lsps2fast bench {TABLES[name].command}`, abc1234:" in text
    assert "a CPU" in text


def test_the_page_has_a_place_for_each_table_and_for_no_other() -> None:
    """In their order, each closed before the next begins."""
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    inside = None
    places = []
    for line in page.splitlines(keepends=True):
        if line.startswith("<!-- figures: "):
            assert inside is None
            inside = line
            places.append(line.removeprefix("<!-- figures: ").removesuffix(" -->\n"))
        elif line == marks("")[1]:
            assert inside is not None
            inside = None
    assert inside is None
    assert sorted(places) == sorted(TABLES)


def test_only_what_was_measured_is_laid_into_the_page(tmp_path: Path) -> None:
    """Twice is as once."""
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    kept.mkdir()
    begins = [f"{marks(name)[0]}\nof {name} before\n\n{marks(name)[1]}" for name in TABLES]
    page.write_text("\n".join(begins), encoding="utf-8")
    measured = Measured("abc1234", "lsps2fast bench --real --sales", msgspec.Raw(sales().encode()))
    (kept / "sale.json").write_bytes(msgspec.json.encode(measured))
    assert fill(page, kept) == ["sale"]
    once = page.read_text(encoding="utf-8")
    assert "of sale before" not in once
    assert once.count("before\n") == len(TABLES) - 1
    fill(page, kept)
    assert page.read_text(encoding="utf-8") == once


def test_a_page_without_a_place_is_not_written() -> None:
    """It says which."""
    with pytest.raises(ValueError, match="no place for sale"):
        filled("# A page\n", {"sale": "text"})


def test_what_was_measured_is_kept_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of a command that failed."""
    ran: list[list[str]] = []

    class Done:
        def __init__(self, out: Any) -> None:
            self.stdout = out

    def run(words: list[str], **_: Any) -> Done:
        ran.append(words)
        if words[0] == "git":
            return Done("abc1234" if "rev-parse" in words else "")
        return Done(sales().encode())

    monkeypatch.setattr(performance_page.subprocess, "run", run)
    path = performance_page.measure("sale", tmp_path)
    kept = msgspec.json.decode(path.read_bytes(), type=Measured)
    assert (kept.commit, kept.command) == ("abc1234", "lsps2fast bench --real --sales")
    assert ran[0][-4:] == ["bench", "--real", "--sales", "--json"]
    assert "P23" in block("sale", kept)
