"""`lsps2fast simulate --seeds`: many seeds on all cores, each as if it were played alone, and their sums."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lsps2fast_plugin.tools.cli import main
from lsps2fast_plugin.tools.simulate.campaign import Campaign
from lsps2fast_plugin.tools.simulate.market import simulate
from lsps2fast_plugin.tools.simulate.plan import Plan
from lsps2fast_plugin.tools.simulate.sums import as_text, plain, sums

COMMAND = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "simulate", "--json"]
SHORT = ("--people", "40", "--mode", "lsp-trusts-client", "--no-weather", "--days", "0.3")
BROKEN = (*SHORT, "--only", "free-channel", "--mutant", "open-doors")  # most seeds find it


def test_seeds_are_summed_and_each_is_played_as_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Issue: one command prints days, sales, steps, frames, faults by kind and the worst of each pot."""
    assert main(["simulate", "--seed", "11", "--seeds", "3", "--days", "0.2", "--json"]) == 0
    said = capsys.readouterr()
    found: dict[str, Any] = json.loads(said.out)
    runs = found["runs"]
    assert [run["plan"]["seed"] for run in runs] == [11, 12, 13]
    assert (found["seeds"], found["first_seed"], found["last_seed"]) == (3, 11, 13)
    for name in ("days", "steps", "frames"):
        assert found[name] == sum(run[name] for run in runs) > 0
    assert found["sales"] == sum(run["totals"].get("sales", 0) for run in runs)
    assert found["faults"] == sum(found["storms"].values())
    assert found["worst"]["capital"] == max(run["worst"]["capital"] for run in runs)
    assert runs[1]["digest"] == simulate(Plan(12, days=0.2, people=24)).digest
    assert "3 seeds of 0.2 days" in said.err
    assert all(f"seed {seed}: " in said.err for seed in (11, 12, 13))


def test_a_violation_ends_its_own_seed_only(capsys: pytest.CaptureFixture[str]) -> None:
    """The seeds behind it are played, each violation is told with what plays it again, and the code is 1."""
    assert main(["simulate", "--seed", "2", "--seeds", "3", *BROKEN]) == 1
    said = capsys.readouterr()
    assert "(3 of 3)" in said.err
    assert said.out.count("VIOLATION of rule:21") == said.out.count("again: lsps2fast simulate --seed ") >= 1
    assert "every promise held" not in said.out


def test_no_seed_begins_after_the_time_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    """`make simulate` takes its ten minutes on any machine."""
    begun_s = time.monotonic()
    assert main(["simulate", "--seeds", "9999", "--days", "0.05", "--minutes", "0.01", "--json"]) == 0
    assert 1 <= json.loads(capsys.readouterr().out)["seeds"] < 200
    assert time.monotonic() - begun_s < 200


def test_a_seed_without_a_result_is_told_and_the_others_are_played(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bug of the town, or the kernel that wants memory back: no seed counts as held."""
    breaks = tmp_path / "breaks.py"
    breaks.write_text("import sys; sys.stderr.write('no memory is left'); sys.exit(7)")
    monkeypatch.setattr("lsps2fast_plugin.tools.simulate.campaign.COMMAND", (sys.executable, str(breaks)))
    assert main(["simulate", "--seed", "5", "--seeds", "2"]) == 1
    said = capsys.readouterr().err
    assert "seed 5 BROKE, with code 7" in said
    assert "seed 6 BROKE" in said
    assert "no memory is left" in said


def test_what_broke_is_no_good_end() -> None:
    """The sums of a campaign with a seed that broke do not say that all promises held."""
    run = plain(simulate(Plan(1, days=0.02)))
    assert "every promise held" in as_text([run], 1.0)
    assert "no result of seeds 9" in as_text([run], 1.0, [9])
    assert "every promise held" not in as_text([run], 1.0, [9])
    assert sums([run], 1.0, [9])["broken"] == [9]


@pytest.mark.parametrize("option", [["--tell"], ["--plot", "money.svg"]])
def test_what_is_of_one_seed_is_refused_with_several(
    capsys: pytest.CaptureFixture[str], option: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """operator:O10: a sentence, before anything is played or written."""
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "--seeds", "2", *option]) == 2
    assert "are for one seed: leave out --seeds" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("finished", [0, 1], ids=["first-seeds", "later"])
def test_ctrl_c_ends_a_campaign_with_the_books_so_far(number: int, finished: int) -> None:
    """The seeds under way are in the sums, no process is left, and the code is a shell's for SIGINT."""
    days = "3000" if finished == 0 else "0.05"
    with subprocess.Popen(
        [*COMMAND, "--seeds", "9999", "--days", days],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as running:
        overdue = threading.Timer(240, running.kill)
        overdue.start()
        try:
            assert running.stderr is not None
            lines = [running.stderr.readline() for _ in range(1 + finished)]
            if finished == 0:
                wait_for_children(running.pid)
            children = children_of(running.pid)
            running.send_signal(number)
            out, said = running.communicate()
        finally:
            overdue.cancel()
            running.kill()
    assert running.returncode == 130, (lines, said)
    if finished:
        found = json.loads(out)
        assert found["seeds"] >= 1
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def children_of(pid: int) -> list[int]:
    """Return the processes that this one has started and that are there."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_children(pid: int) -> None:
    """Wait until there is one that can take a signal."""
    while not children_of(pid):
        time.sleep(0.02)


def test_a_campaign_that_is_over_begins_nothing() -> None:
    """After an interrupt no further process starts."""
    it = Campaign([Plan(1), Plan(2)], str, minutes=None, shrinks=False)
    assert it._has_time()
    it.is_over = True
    assert not it._has_time()
    assert not Campaign([Plan(1)], str, minutes=0.0, shrinks=False)._has_time()
