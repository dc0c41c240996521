"""A run: people come to a town, the weather changes, and after each step the promises are looked at."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import cast, weather
from .closes import ClosePromise, write_policy
from .common import Common
from .mutants import applied
from .page import PLACE, can_be_served
from .plan import DAY_S, Happening, Plan
from .promises import Bounds, Promises
from .quiet import QuietHours
from .scene import CALM_S, PAYERS, Scene
from .story import Violation
from .town import Town, play
from .weather import Sky

COINS = (1_000_000,) * 30 + (250_000,) * 20 + (20_000_000,)
PAYER_CHANNELS, PAYER_SAT, PAYER_COINS = 2, 20_000_000_000, 10
MOST_POINTS = 300  # of the money of each group
FINISH_S = 3 * DAY_S  # after the last day, for what is under way
Progress = Callable[["Market"], None]
Hear = Callable[[str], None]


@dataclass
class Result:
    """What came of a run."""

    plan: Plan
    days: float = 0.0
    steps: int = 0
    frames: int = 0
    digest: str = ""
    cpu_s: float = 0.0
    totals: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    worst: Counter[str] = field(default_factory=Counter)
    visits: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    storms: Counter[str] = field(default_factory=Counter)
    profit_msat: int = 0
    opening_fees_msat: int = 0
    violation: Violation | None = None
    last_lines: list[str] = field(default_factory=list)
    money: list[dict[str, int]] = field(default_factory=list)  # msat of each group, by day
    interrupted: bool = False


class Market:
    """One run of a plan."""

    def __init__(self, plan: Plan, progress: Progress | None = None) -> None:
        self.plan = plan
        options = plan.options | ({"lsps2-metrics-listen": PLACE} if can_be_served() else {})
        self.town = Town(plan.seed, plugin=["lsps2fast-service"], options=options, wallet_sat=COINS, height=200_000)
        if plan.closes:
            write_policy(plan, self.town.directory)
        self.common = Common(self.town)
        self.common.sells_ahead = plan.sells_ahead
        self.story, self.books = self.common.story, self.common.books
        self.visits: Counter[str] = Counter()
        self._miners_before_sat = 0
        self.money: list[dict[str, int]] = []
        self.sky = Sky(self.common, self._after_block)
        bounds = Bounds(least_channel_sat=plan.least_channel_sat)
        self.promises = Promises(self.common, bounds, ClosePromise(self.common, plan))
        orders = self.promises.orders
        self.quiet = QuietHours(self.common, orders, bounds.capital_sat, bounds.mining_sat)
        self._progress = progress
        self._visiting: set[asyncio.Task[None]] = set()

    async def run(self) -> Result:
        """Play the whole plan. Never raises for what the plugins do."""
        begun_s = time.process_time()
        result = Result(self.plan)
        try:
            async with self.town:
                try:
                    result.interrupted = await self._play()
                finally:
                    self._sum_up(result)
        except Violation as violation:
            result.violation = violation
        except asyncio.CancelledError:  # as it began or ended
            result.interrupted = True
        if self.common.failed.done():
            result.violation = self.common.failed.result()
        result.last_lines = list(self.story.lines)
        result.cpu_s = time.process_time() - begun_s
        return result

    async def _play(self) -> bool:
        """Whether it was interrupted."""
        self.story.look = self._look
        self.common.payers = [self.town.payer(f"payer{place}", PAYER_CHANNELS, PAYER_SAT) for place in range(PAYERS)]
        for payer in self.common.payers:
            for _ in range(PAYER_COINS):
                self.town.chain.grant(1_000_000, payer.wallet.new_script())
        await asyncio.sleep(60)
        self.town.open_books()
        self._miners_before_sat = self.town.chain.fees_sat
        works = [self._guard(work) for work in (self.sky.run(), self._come(), self.quiet.run())]
        end = asyncio.ensure_future(asyncio.sleep(self.plan.days * DAY_S + FINISH_S))
        interrupted = False
        try:
            either: list[asyncio.Future[Any]] = [end, self.common.failed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            interrupted = True
        self.common.over = self.town.over = True
        for task in (*works, *self._visiting, end):
            task.cancel()
        if not self.common.failed.done() and not interrupted:
            self.promises.end()
        return interrupted

    def _look(self) -> None:
        if self.plan.stop_at_step and self.story.step >= self.plan.stop_at_step:
            self.common.fail(Violation("stop", "this is the step that was asked for"))
        self.promises.step()

    def _guard(self, work: Any) -> asyncio.Task[None]:
        """Run it. A Violation in it ends the run; so does a bug of the town's own, which is raised at its end."""

        async def guarded() -> None:
            try:
                await work
            except Violation as violation:
                self.common.fail(violation)
            except Exception as error:
                if not self.common.over:
                    self.town.problems.append(error)
                    self.common.fail(Violation("town", f"the town itself broke: {error!r}"))

        return self.town.background(guarded())

    async def _come(self) -> None:
        """Everything of the plan, at its time."""
        for happening in cast.coming(self.plan):
            await asyncio.sleep(max(0.0, happening.at_s - self.town.loop.time()))
            task = self._guard(self._harm(happening) if happening.is_weather else self._visit(happening))
            self._visiting.add(task)
            task.add_done_callback(self._visiting.discard)

    async def _visit(self, happening: Happening) -> None:
        visitor = cast.KINDS[happening.name]()
        me = Scene(self.common, happening.number, happening.name)
        me.honest, me.disturbs = visitor.honest, bool(visitor.row)
        self.visits[happening.name] += 1
        try:
            await visitor.play(me)
        finally:
            self.common.present.difference_update(me.wallets)

    async def _harm(self, happening: Happening) -> None:
        harmful = happening.name in weather.HARM
        self.common.harm += harmful
        self.common.disturb()
        try:
            await weather.EVENTS[happening.name](self.sky, self.town.chance.once(f"weather {happening.number}"))
            self.common.disturb()
            if harmful:
                await asyncio.sleep(CALM_S)
        finally:
            self.common.harm -= harmful

    async def _after_block(self, is_time: bool) -> None:
        self.promises.block()
        await self.promises.told()
        if is_time:
            self._day_over()

    def _day_over(self) -> None:
        """Half a day or so has passed: note who owns what, and say how far we are."""
        self.money.append(
            {
                "hours": round(self.town.loop.time() / 3600),
                "lsp": self.books.profit_msat(),
                "fees": self.books.opening_fees_msat,
                "miners": (self.town.chain.fees_sat - self._miners_before_sat) * 1000,
                "strategists": -self.books.strategists_paid_msat,
            }
        )
        if len(self.money) > MOST_POINTS:
            del self.money[1::2]  # a picture shows no more of a year than of some months
        self._bring_coins()
        if self._progress is not None:
            self._progress(self)

    def _bring_coins(self) -> None:
        """Swap what came in over channels for coins, as an operator does when there are few left."""
        lsp = self.town.lsp
        if lsp.wallet.balance_sat() < sum(COINS) // 2:
            for amount_sat in COINS:
                self.town.chain.grant(amount_sat, lsp.wallet.new_script())
            self.books.brought_msat += sum(COINS) * 1000

    def _sum_up(self, result: Result) -> None:
        result.days = min(self.town.day, self.plan.days)
        result.steps = self.story.step
        result.frames = self.town.tape.frames
        result.digest = self.town.tape.digest()
        result.totals, result.counts, result.visits = self.books.totals, self.story.counts, self.visits
        result.worst, result.storms, result.deeds = self.promises.worst, self.common.storms, self.common.deeds
        result.profit_msat = self.books.profit_msat()
        result.opening_fees_msat = self.books.opening_fees_msat
        result.money = self.money


def simulate(plan: Plan, progress: Progress | None = None, hear: Hear | None = None) -> Result:
    """Play a plan from beginning to end; `hear(line)` is told each step."""

    async def work() -> Result:
        market = Market(plan, progress)
        if hear is not None:
            market.story.hear = hear
        return await market.run()

    with applied(plan.mutant):
        return play(work)
