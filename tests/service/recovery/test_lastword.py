"""A call that was given up and is carried out late does not have the last word (K-13)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from lsps2fast.errors import AnswerPending, NodeError
from lsps2fast_plugin.cln.late_replies import Late, LateReplyGuard


class Desk:
    """One value at a node that answers as the test wants."""

    def __init__(self) -> None:
        self.value = ""
        self.insisted: list[str] = []
        self.held: list[Late] = []
        self.last = LateReplyGuard(self.insist)
        self._tasks: list[asyncio.Future[Any]] = []

    def insist(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """As `ActionExecutor.insist`, without trying again."""
        self.insisted.append(what)
        self._tasks.append(asyncio.ensure_future(work()))

    def set(self, value: str) -> Coroutine[Any, Any, Any]:
        """A call that is answered."""

        async def work(late: Late) -> str:
            self.value = value
            return value

        return self.last.ask("key", f"setting {value}", work)

    async def give_up(self, value: str) -> None:
        """A call that gets no answer in time."""

        async def work(late: Late) -> None:
            self.held.append(late)
            raise AnswerPending("set", "no answer within 60 s")

        with pytest.raises(AnswerPending):
            await self.last.ask("key", f"setting {value}", work)

    async def carry_out_late(self, value: str) -> None:
        """What was given up happens after all."""
        self.value = value
        self.held.pop(0)()
        await asyncio.gather(*self._tasks)


def run(story: Callable[[Desk], Coroutine[Any, Any, None]]) -> Desk:
    """Play it on a desk; the desk."""
    desk = Desk()
    asyncio.run(story(desk))
    return desk


def test_the_newest_call_is_made_again_after_an_older_one_came_late() -> None:
    """A journal record that was deleted, fees that were given back: the old write does not return."""

    async def story(desk: Desk) -> None:
        await desk.give_up("old")
        assert await desk.set("new") == "new"
        await desk.carry_out_late("old")

    desk = run(story)
    assert (desk.value, len(desk.insisted), len(desk.last)) == ("new", 1, 0)


def test_each_of_several_late_calls_is_outdone() -> None:
    """However many there are, in whatever order they come."""

    async def story(desk: Desk) -> None:
        await desk.give_up("first")
        await desk.give_up("second")
        await desk.set("new")
        desk.held.reverse()
        await desk.carry_out_late("second")
        assert desk.value == "new"
        await desk.carry_out_late("first")

    desk = run(story)
    assert (desk.value, len(desk.last)) == ("new", 0)


def test_a_late_call_that_is_still_the_newest_is_left_alone() -> None:
    """Nothing to repeat, nothing kept."""

    async def story(desk: Desk) -> None:
        await desk.give_up("only")
        await desk.carry_out_late("only")

    desk = run(story)
    assert (desk.value, desk.insisted, len(desk.last)) == ("only", [], 0)


def test_what_is_answered_is_forgotten() -> None:
    """rule:14: calls that get their answer leave nothing in memory, refused ones neither."""

    async def refuse(late: Late) -> None:
        raise NodeError("set", -1, "no")

    async def story(desk: Desk) -> None:
        await desk.set("new")
        with pytest.raises(NodeError):
            await desk.last.ask("key", "setting nothing", refuse)

    assert len(run(story).last) == 0


def test_a_cancelled_call_may_still_be_carried_out() -> None:
    """An effect that ends with its session has perhaps sent its call."""

    async def story(desk: Desk) -> None:
        async def work(late: Late) -> None:
            desk.held.append(late)
            await asyncio.Event().wait()

        call = asyncio.ensure_future(desk.last.ask("key", "setting old", work))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        await desk.set("new")
        await desk.carry_out_late("old")

    desk = run(story)
    assert (desk.value, len(desk.last)) == ("new", 0)


def test_a_newer_call_waits_for_the_answer_of_the_older() -> None:
    """K-13: lightningd may carry out what is under way in any order, and both callers would take it for well."""

    async def story(desk: Desk) -> None:
        answered = asyncio.Event()

        async def slow(late: Late) -> None:
            await answered.wait()
            desk.value = "old"

        asked = (desk.last.ask("key", "setting old", slow), desk.set("new"), desk.last.ask("other", "setting", slow))
        calls = [asyncio.ensure_future(call) for call in asked]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert desk.value == ""
        answered.set()
        await asyncio.gather(*calls)

    desk = run(story)
    assert (desk.value, desk.insisted, len(desk.last)) == ("new", [], 0)


def test_a_repetition_undoes_no_call_that_came_meanwhile() -> None:
    """K-13: it is made in the background, and tried until it works; what is newest then stays."""

    async def story(desk: Desk) -> None:
        work: list[Callable[[], Awaitable[Any]]] = []
        desk.last._insist = lambda what, again: work.append(again)
        refused = NodeError("set", -1, "no")

        async def set_new(late: Late) -> None:
            if refusing:
                raise refused
            desk.value = "new"

        refusing = False
        await desk.give_up("old")
        await desk.last.ask("key", "setting new", set_new)
        await desk.carry_out_late("old")
        refusing = True
        with pytest.raises(NodeError):
            await work[0]()
        refusing = False
        await desk.set("newest")
        await work[0]()
        assert desk.value == "newest"

    assert len(run(story).last) == 0


def test_a_repetition_that_failed_is_made_again() -> None:
    """rule:10: one error is not an outcome."""

    async def story(desk: Desk) -> None:
        work: list[Callable[[], Awaitable[Any]]] = []
        desk.last._insist = lambda what, again: work.append(again)
        answers = [NodeError("set", -1, "busy"), None]

        async def set_new(late: Late) -> None:
            if desk.value and (answer := answers.pop(0)):
                raise answer
            desk.value = "new"

        await desk.give_up("old")
        await desk.last.ask("key", "setting new", set_new)
        await desk.carry_out_late("old")
        with pytest.raises(NodeError):
            await work[0]()
        assert desk.value == "old"
        await work[0]()

    desk = run(story)
    assert (desk.value, len(desk.last)) == ("new", 0)
