"""The benchmarks of docs/explanation/scale.md: they measure, draw, and fill the page between its marks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness.fleet import FleetServer

ROOT = Path(__file__).parents[3]
BENCHMARK = ROOT / "benchmarks" / "fleet.py"
LOAD = ROOT / "benchmarks" / "load.py"
LOAD_DAY = ROOT / "benchmarks" / "load_day.py"
STEADY_S = 3.0  # of buys at a steady rate
PAGE = ROOT / "docs" / "explanation" / "scale.md"


def filled(mark: str, program: Path, directory: Path, *options: str) -> list[list[str]]:
    """Run a benchmark over a copy of the page; the cells that it wrote, heads among them. All else stays."""
    page = directory / "scale.md"
    before = PAGE.read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    command = [sys.executable, str(program), *options, "--page", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    after, (begin, end) = page.read_text(encoding="utf-8"), (f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->")
    assert after.partition(begin)[0] == before.partition(begin)[0]
    assert after.partition(end)[2] == before.partition(end)[2]
    measured = after.partition(begin)[2].partition(end)[0]
    assert "Measured: commit" in measured
    assert "load" in measured
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in measured.splitlines() if line[:2] == "| "]


@pytest.mark.slow
def test_the_pages_figures_are_made_by_one_command(server: FleetServer, tmp_path: Path) -> None:
    """Whole nodes of one fleet sell, each wait and CPU has its cell; what is outside the marks stays."""
    plot, quick = tmp_path / "growth.svg", ["--quick", "--rounds", "1", "--seconds", str(STEADY_S / 3)]
    rows = filled("fleet", BENCHMARK, tmp_path, *quick, "--plot", str(plot))
    assert len(rows) == 1 + 2 + 1 + 2 + 1 + 4 + 1 + 3
    for nodes, (crowd, steady) in enumerate(zip(rows[1:3], rows[4:6], strict=True), 1):
        assert (crowd[0], steady[0]) == (str(nodes), str(nodes))
        assert (crowd[-1], steady[-1]) == ("0", "0")  # refused
        assert float(crowd[1].partition(" ")[0]) > 0
        assert steady[1] == str(nodes * round(STEADY_S * 5))
        assert all(float(cpu_ms) > 0 for cpu_ms in (*crowd[4:7], *steady[4:6]))
    assert plot.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_load_on_one_node_in_short(tmp_path: Path) -> None:
    """P18, rule:24: buys, wallets and sessions at once, and memory that is not more once the sessions are over."""
    few = ["--buys", "500", "--wallets", "50", "--sessions", "20", "--seconds", "0.5", "--hold", "20"]
    lines = filled("load", LOAD, tmp_path, *few)
    memory_mb = [float(cells[1]) for cells in lines if "stored buys" in cells[0] or "given up" in cells[0]]
    assert len(memory_mb) == 2
    assert memory_mb[1] < memory_mb[0] + 10
    (sales,) = [cells for cells in lines if cells[0] == "20"]
    assert float(sales[5]) == 5.0  # commits of a sale, its buy among them


@pytest.mark.slow
def test_a_day_of_business_in_short(tmp_path: Path) -> None:
    """An idle hour has no commit; of the HTLCs that are not ours the lane in C leaves none to the loop."""
    lines = filled("days", LOAD_DAY, tmp_path, "--people", "6")
    one_day, two_days = (lines[n + 1 : n + 3] for n, cells in enumerate(lines) if cells[0] == "simulated days")
    for town, lane in zip(one_day, two_days, strict=True):
        assert float(town[3]) >= 5.0
        assert float(town[4]) == 0.0  # commits of an idle hour
        assert int(town[5]) > 0
        foreign, in_c, in_python, by_loop = (int(lane[n].replace(",", "")) for n in (1, 2, 3, 6))
        assert foreign == in_c  # none waits for the loop
        assert foreign == in_python + by_loop


def test_the_page_names_the_verb_that_makes_it() -> None:
    """What stands on the page is what `make scale` runs."""
    assert "make scale" in PAGE.read_text(encoding="utf-8")
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nscale:")[2].partition("\n\n")[0]
    assert (
        f"benchmarks/{BENCHMARK.name} --plot docs/pictures/fleet-growth.svg --page docs/explanation/scale.md" in recipe
    )
    for program in (LOAD, LOAD_DAY):
        assert f"benchmarks/{program.name} --page docs/explanation/scale.md" in recipe
        assert program.exists()
    assert BENCHMARK.exists()
