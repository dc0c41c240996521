"""`lsps2fast simulate`: a run depends on its seed alone, ends well, and says what it found."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lsps2fast_plugin.tools.cli import main
from lsps2fast_plugin.tools.simulate import both_ways, customers, order_tricks, slumber, together, weather
from lsps2fast_plugin.tools.simulate.books import Books
from lsps2fast_plugin.tools.simulate.cast import coming
from lsps2fast_plugin.tools.simulate.common import Common
from lsps2fast_plugin.tools.simulate.loop import SimulatedLoop
from lsps2fast_plugin.tools.simulate.market import Market, Result, simulate
from lsps2fast_plugin.tools.simulate.mutants import MUTANTS
from lsps2fast_plugin.tools.simulate.plan import NONE, Plan, happenings, numbers_of, spans
from lsps2fast_plugin.tools.simulate.town import play
from lsps2fast_plugin.tools.simulate.wallet_rows import WALLET

KEPT = {  # objects after forty days of four people, a third above what there were; most is forgotten within days
    **dict.fromkeys(("InnerPlugin", "Life"), 14),
    "EvilLsp": 22,
    "Account": 40,
    **dict.fromkeys(("Sale", "Task"), 90),
    "ClientInvoice": 420,  # a sleeper whose pot strangers fill has three hundred on one day
    **dict.fromkeys(("Channel", "Client", "Wallet"), 120),
    "Payment": 150,
    "Forward": 200,
    "Tx": 330,
    "Htlc": 600,
    "Output": 750,
}
COMMAND = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "simulate"]


def played(*arguments: str, hash_seed: str = "0") -> dict[str, Any]:
    """One run in a process of its own."""
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [*COMMAND, "--json", *arguments], env=environment, capture_output=True, check=True, timeout=600
    )
    found: dict[str, Any] = json.loads(done.stdout)["runs"][0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", ["11", "8"])  # the operator of the second has a policy file
def test_the_same_seed_plays_the_same_run_to_the_last_message(seed: str) -> None:
    """Issue: two processes with different hash seeds say the same bytes over every pipe and socket."""
    first, second = (played("--seed", seed, "--days", "2", hash_seed=each) for each in ("1", "2"))
    assert first["digest"] == second["digest"]
    assert first["frames"] == second["frames"] > 1_000
    assert first["totals"] == second["totals"]
    assert first["totals"]["sales"] > 5


def test_another_seed_plays_another_run() -> None:
    """The digest tells runs apart."""
    assert len({simulate(Plan(seed, days=0.1)).digest for seed in (1, 3)}) == 2


def test_the_operator_of_some_towns_has_rules() -> None:
    """Issue: one seed of eleven, unless the command says so; the command that plays it again says it, too."""
    assert [seed for seed in range(1, 31) if Plan(seed).closes] == [8, 19, 30]
    assert Plan(1, closing="on").closes
    assert not Plan(8, closing="off").closes
    assert Plan(1, closing="on").command().endswith("--closing on")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_promise_holds(seed: int) -> None:
    """rule:1 to rule:27: some days of both trust modes with all strategies in town."""
    result = simulate(Plan(seed, days=3, people=60))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert result.totals["sales"] > 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8])
def test_rules_that_close_idle_channels_break_no_promise(seed: int) -> None:
    """operator:O2, rule:20: only by rule, past the lifetime, without HTLCs, never by force, in the books to the sat."""
    result = simulate(Plan(seed, days=3, people=20, closing="on"))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert result.counts["closes asked for by a rule"] > 3
    assert result.counts["closes by rule compared with the ledger"] > 1


def test_those_who_order_move_no_one_else() -> None:
    """E-01: they come to one town of three, from a stream of their own: all others do what they would without them."""
    assert [seed for seed in range(1, 10) if Plan(seed).sells_ahead] == [3, 6, 9]
    with_them, without = coming(Plan(5, orders="on")), coming(Plan(5))
    orders = {*customers.HONEST, *order_tricks.ORDER_TRICKS, *both_ways.KINDS}
    assert [each for each in with_them if each.name not in orders] == without
    assert {each.name for each in with_them} - {each.name for each in without} == orders
    assert [each.name for each in coming(Plan(6, only=("overpays",))) if each.name in order_tricks.ORDER_TRICKS] == []


def test_sales_meet_where_the_lsp_batches_and_reuses() -> None:
    """people:S0, people:L10: those who are paid together come there and nowhere else, and move no one."""
    both, one = coming(Plan(10)), coming(Plan(10, reuse="off"))
    assert {each.name for each in both} - {each.name for each in one} == {*together.KINDS}
    assert [each for each in both if each.name not in together.KINDS] == one


@pytest.mark.slow
def test_a_batch_with_room_that_is_used_and_wallets_that_are_woken() -> None:
    """rule:2, rule:18, trap:60: a batch, sales over a channel of one in it, and clients that were called."""
    result = simulate(Plan(10, days=1, people=40, batch="on", reuse="free"))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert result.totals["channels in shared fundings"] > 10
    assert result.totals["parts over existing channels"] > 5
    assert result.totals["woken"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [6, 9])
def test_channels_that_are_ordered_break_no_promise(seed: int) -> None:
    """E-12, rule:2, rule:3, rule:20: each order ends as one channel for its price, or as a refund; all weather."""
    result = simulate(Plan(seed, days=2, people=45, orders="on"))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert result.totals["orders served"] > 5
    assert result.counts["orders compared"] > 100


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "ways"), [(2, {"batch": "on", "reuse": "free"}), (3, {}), (5, {"reuse": "fee"})])
def test_a_client_that_orders_and_buys_at_one_moment(seed: int, ways: dict[str, str]) -> None:
    """rule:2, rule:9, rule:18, rule:24: each by its own promise; no coin, capital or held part is counted twice."""
    result = simulate(
        Plan(seed, days=0.7, people=60, orders="on", only=tuple(both_ways.KINDS), weather=seed != 2, **ways)
    )
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert result.totals["served both ways"] > 2
    assert result.counts["pots compared amid payments"] > 0


def test_sleepers_come_to_each_town_and_move_no_one_else() -> None:
    """trap:47: from a stream of their own."""
    with_them = coming(Plan(1))
    assert {*slumber.KINDS} <= {each.name for each in with_them}
    alone = coming(Plan(1, only=tuple(slumber.KINDS)))
    sleepers = [each for each in with_them if each.name in slumber.KINDS]
    assert sleepers == [each for each in alone if each.name in slumber.KINDS]


@pytest.mark.slow
@pytest.mark.parametrize("weather", [True, False])
def test_what_is_held_for_clients_that_sleep_is_bounded_and_shared(weather: bool) -> None:
    """rule:5, rule:24, trap:47: no more than a share, each with an end, and the channel that holds most gives way."""
    result = simulate(Plan(4, days=0.7, people=80, only=tuple(slumber.KINDS), weather=weather))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert result.counts["most held for a sleeper"] == 30
    assert result.counts["gave way to another"] > 0
    assert result.totals["woken for a payment"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_a_cheating_lsp_costs_the_wallet_nothing(seed: int) -> None:
    """rule:27, wallet:W0 to wallet:W17: the real wallet plugin among LSPs that do what they like."""
    rows = tuple(kind.name for kind in WALLET)
    result = simulate(Plan(seed, days=0.5, people=50, only=rows, weather=False))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert sum(result.visits[name] for name in rows) > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most_steps"),
    [
        ("open-doors", 40),
        ("deaf-ledger", 80),
        ("coins-stay", 120),
        ("a-msat-less", 200),
        ("judged-at-the-buy", 60),
        ("strangers-blamed", 20),
        ("no-shares", 300),
        ("names-are-keys", 120),
        ("cancels-the-peer", 30),
        ("trusting-wallet", 40),
        ("coins-of-one", 700),
        ("slots-stay", 200),
        ("sleeps-through", 100),
        ("stays-withheld", 80),
        ("never-hangs-up", 200),
        ("forgets-lifetimes", 60),
        ("others-go-back", 250),
        ("a-part-too-many", 500),
        ("waits-for-the-rest", 60),
        ("a-part-comes-back", 400),
        ("orders-count-twice", 200),
        ("one-coin-for-two", 100),
        ("first-come", 120),
        ("sleeps-on", 150),
        ("called-without-end", 200),
    ],
)
def test_a_guard_that_is_taken_away_is_missed(name: str, most_steps: int) -> None:
    """rule:3, rule:5, rule:9, rule:18 to rule:22, rule:24 to rule:27: the loss is found within so many steps.

    The others: `make simulate-mutants`.
    """
    result = simulate(MUTANTS[name].plan(name))
    assert result.violation is not None
    assert result.violation.rule == MUTANTS[name].rule
    assert result.steps <= most_steps


def test_a_bug_of_the_town_is_no_good_end() -> None:
    """An exception in one of its tasks would leave a town without blocks, in which every promise holds."""

    def breaks(_: object) -> None:
        raise KeyError("of the progress")

    with pytest.raises(KeyError, match="of the progress"):
        simulate(Plan(1, days=2), breaks)


def test_what_is_left_alone_is_recounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:18: most channels are at rest and no longer looked at each step; one that is so too early is found."""
    rest = Books.rest
    sizes: list[int] = []

    def counted(books: Books) -> None:
        rest(books)
        assert books.recount() is None
        live, open_sales = books.live, books.open_sales
        sizes.append(len(live))
        if live:
            books.live = {}
            assert "is no longer at rest" in str(books.recount())
            books.live = live
        if any(books._is_open(sale) for sale in books.sales):
            books.open_sales = {}
            assert books.recount() == "a sale goes on that had ended"
            books.open_sales = open_sales

    monkeypatch.setattr(Books, "rest", counted)
    result = simulate(Plan(1, days=0.5, people=60, only=(NONE,), weather=False))
    assert result.violation is None
    assert result.totals["channels"] > 2 * max(sizes) > 0


def test_what_is_left_out_moves_nothing_else() -> None:
    """A story is made shorter by leaving happenings out: the others keep number, time and kind."""
    whole = happenings(Plan(5, days=20), ["a", "b"], ["x", "y"], ["rain"])
    some = frozenset(each.number for each in whole[::3])
    assert happenings(Plan(5, days=20, without=some), ["a", "b"], ["x", "y"], ["rain"]) == [
        each for each in whole if each.number not in some
    ]


@pytest.mark.parametrize("numbers", [[], [2], [1, 2, 3, 4], [2, 4, 6, 7, 13], [3, 5, 9]])
def test_numbers_are_read_as_they_are_written(numbers: list[int]) -> None:
    """`--without` takes what a violation prints."""
    assert numbers_of(spans(frozenset(numbers))) == frozenset(numbers)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "robs-banks"], "--only robs-banks: there are"),
        (["--without", "3-x"], "name numbers and spans"),
        (["--without", "8-2"], "name numbers and spans"),
        (["--plot", "/no/such/money.svg"], "--plot /no/such/money.svg: No such file or directory; name a file"),
    ],
)
def test_bad_arguments_get_a_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str) -> None:
    """A wrong name is answered with the right ones."""
    assert main(["simulate", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--seeds", "0"], ["--seeds", "-1"], ["--seeds", "x"], ["--days", "x"], ["--people", "nan"], ["--seed", "x"]],
)
def test_numbers_that_cannot_be_get_a_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """operator:O10: no run of nothing, no traceback, no name of a function."""
    with pytest.raises(SystemExit):
        main(["simulate", *arguments])
    assert f"argument {arguments[0]}: {arguments[1]} is not a " in capsys.readouterr().err


# what a shell without job control makes of `command &`
IN_BACKGROUND = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.slow
@pytest.mark.parametrize("before", [(), (sys.executable, "-c", IN_BACKGROUND)], ids=["in-front", "in-background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_the_books_so_far(number: int, before: tuple[str, ...]) -> None:
    """The sums of what was played are printed, and the code is a shell's for SIGINT."""
    with subprocess.Popen(
        [*before, *COMMAND, "--days", "3000", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        overdue = threading.Timer(240, running.kill)  # whatever else comes, this test does not hang
        overdue.start()
        try:
            assert running.stderr is not None
            first = running.stderr.readline()  # the first progress: it is under way
            running.send_signal(number)
            out, said = running.communicate()
        finally:
            overdue.cancel()
            running.kill()
    assert running.returncode == 130, (first, said)
    (result,) = json.loads(out)["runs"]
    assert result["interrupted"]
    assert 0 < result["days"] < 3000


@pytest.mark.parametrize("turn", [*range(2, 400, 57), 999, 2_998, 5_003, 8_009])
def test_a_signal_at_any_turn_ends_the_run(turn: int) -> None:
    """The town is not yet built, people are amid their deeds, an answer comes with the end: it ends all the same."""

    class Interrupted(SimulatedLoop):
        turns = 0

        def _run_once(self) -> None:
            self.turns += 1
            if self.turns == turn:
                signal.raise_signal(signal.SIGINT)
            assert self.turns < turn + 2_000
            super()._run_once()  # type: ignore[misc]

    async def work() -> Result:
        return await Market(Plan(turn, days=3_000)).run()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = play(work, Interrupted)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.interrupted
    assert result.days < 30


@pytest.mark.parametrize("days", [1, 193, 195, 400, 40_000])
def test_time_goes_on_however_late_it_is(days: int) -> None:
    """A run of a year stood still on day 194, when floats of seconds became coarser than asyncio's clock."""

    class Late(SimulatedLoop):
        turns = 0

        def _run_once(self) -> None:
            self.turns += 1
            assert self.turns < 1_000
            super()._run_once()  # type: ignore[misc]

    async def work() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop._jump.now_us = days * 86_400_000_000
        due = asyncio.Event()
        loop.call_at(loop.time(), due.set)
        await due.wait()
        await asyncio.sleep(0.25)
        return loop.time() - days * 86_400

    assert play(work, Late) == pytest.approx(0.25, abs=2e-6)


@pytest.mark.parametrize("hook_s", [0.0, 0.5], ids=["at-once", "slow-machine"])
def test_an_interrupt_that_is_lost_comes_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, hook_s: float
) -> None:
    """An exception can leave neither a `__del__` nor the hook that is told of it."""
    set_timer = signal.setitimer

    class Dies:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def slow_timer(*arguments: Any) -> None:
        set_timer(*arguments)
        if sys._getframe(1).f_code.co_name == "_interrupt_again":
            time.sleep(hook_s)

    def interrupted(*_: object) -> None:
        last = Dies()
        del last
        time.sleep(60)

    monkeypatch.setattr("lsps2fast_plugin.tools.simulate.arguments.add_arguments", interrupted)
    monkeypatch.setattr(signal, "setitimer", slow_timer)
    began_s = time.monotonic()
    assert main(["simulate"]) == 130
    assert time.monotonic() - began_s < 55
    assert "interrupted before" in capsys.readouterr().err


def test_a_signal_before_the_town_is_built_ends_with_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """operator:O10: Ctrl-C while arguments are read or the command is loaded: no traceback."""

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("lsps2fast_plugin.tools.simulate.arguments.add_arguments", interrupted)
    assert main(["simulate"]) == 130
    assert "interrupted before" in capsys.readouterr().err


def test_a_picture_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--plot` writes SVG with a line for each group, and the same for a town of honest people."""
    place = tmp_path / "money.svg"
    assert main(["simulate", "--days", "1", "--plot", str(place)]) == 0
    assert place.read_text().count("<polyline") == 8
    assert "every promise held" in capsys.readouterr().out


def test_a_story_is_made_short_and_its_command_plays_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Issue: a violation prints seed, step, the last events in words and a command; `--shrink` leaves out the rest."""
    words = (
        "--seed 2 --days 1 --people 40 --mode lsp-trusts-client --only free-channel --mutant open-doors --no-weather"
    )
    assert main(["simulate", *words.split(), "--shrink"]) == 1
    said = capsys.readouterr()
    (told,) = [line for line in said.out.splitlines() if line.startswith("VIOLATION of rule:21: ")]
    (again,) = [line for line in said.out.splitlines() if line.startswith("again: lsps2fast simulate ")]
    assert "1 happenings are enough" in said.err
    assert re.search(r"^step +\d+  day +\d+ \d\d:\d\d:\d\d  free-channel-\d+ tries to be paid", said.out, re.M)
    assert "--without" in again
    assert main(again.removeprefix("again: lsps2fast ").split()) == 1
    assert told in capsys.readouterr().out


@pytest.mark.slow
def test_a_town_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue: memory is flat over a year, so what is over and paid out is forgotten."""
    gc.collect()
    before = Counter(type(each).__name__ for each in gc.get_objects())  # of the tests that ran before in this process
    kept: Counter[str] = Counter()
    sweep = weather.sweep

    def counted(common: Common) -> None:
        sweep(common)
        if not kept and common.town.day > 40:
            gc.collect()
            kept.update(type(each).__name__ for each in gc.get_objects())
            kept.subtract(before)

    monkeypatch.setattr(weather, "sweep", counted)
    result = simulate(Plan(4, days=39, people=4))
    assert result.violation is None, "\n".join([*result.last_lines, str(result.violation), result.plan.command()])
    assert result.totals["channels"] > 1.2 * KEPT["Channel"]
    assert {kind: kept[kind] for kind, most in KEPT.items() if kept[kind] > most} == {}


def test_a_picture_of_a_year_has_no_more_points_than_one_of_months(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue: the simulator's own books do not grow with the days; first and last day stay."""
    whole = simulate(Plan(1, days=5, people=1)).money
    monkeypatch.setattr("lsps2fast_plugin.tools.simulate.market.MOST_POINTS", 6)
    thinned = simulate(Plan(1, days=5, people=1)).money
    assert len(thinned) <= 6 < len(whole)
    assert all(point in whole for point in thinned)
    assert thinned[0] == whole[0]
    assert thinned[-1] in whole[-2:]


def test_a_run_is_told_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/how-to/write-a-strategy.md: who writes a strategy sees what it does, without a violation."""
    words = "--only overpays --people 60 --days 0.2 --no-weather --tell"
    assert main(["simulate", *words.split()]) == 0
    assert re.search(r"^ *step +1  day +0 \d\d:\d\d:\d\d  \S+ +\S+ buys \d+ sat", capsys.readouterr().err, re.M)
