"""Sales that wait until a channel may be opened for them: the same rules as while one is being opened.

In the world of the crash machine, where time stands still unless it is turned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lsps2fast_plugin.service.open_queue import HANGS_MS, PATIENCE_MS
from lsps2fast_plugin.simnode.faults import Fault
from lsps2fast_plugin.simnode.payer import Payment

from .case import MODES
from .inside import once
from .stage import SIZE_MSAT, VALIDITY_S, Sale, Stage

TEMPORARY, UNKNOWN = "10070000", "400a"
PLUGIN = "lsp/plugin-rpc"
HANGS_S = HANGS_MS / 1000
Play = Callable[[Stage], Awaitable[None]]


def tell(mode: str, play: Play, **options: Any) -> None:
    """Play a story in which one channel is opened at a time."""
    options = {"lsps2-opens-at-once": 1} | {name.replace("_", "-"): value for name, value in options.items()}

    async def story() -> None:
        async with Stage(None, mode, 1, options=options) as stage:
            await play(stage)

    once(f"queue {mode} {options}", story)


def calls(stage: Stage, method: str) -> int:
    """How often the plugin has made this call."""
    return len([entry for entry in stage.world.transcript.select("rpc>host", method=method) if entry["peer"] == PLUGIN])


async def one_hangs(stage: Stage) -> tuple[Payment, Fault]:
    """A payment whose open takes the only place, for lightningd does not come to the end of it."""
    sale = await stage.sale(stage.client("first"))
    hanging = stage.lsp.faults.late("addpsbtoutput")
    payment = await stage.send(stage.payer("payer 1"), sale, [SIZE_MSAT])
    await stage.quiet()
    assert hanging.reached.is_set()
    return payment, hanging


async def one_waits(stage: Stage, parts: int = 1, **how: Any) -> tuple[Sale, Payment]:
    """A payment behind it."""
    sale = await stage.sale(stage.client("second"))
    payment = await stage.send(stage.payer("payer 2"), sale, [SIZE_MSAT // parts] * parts, **how)
    await stage.quiet()
    assert not payment.done
    return sale, payment


async def outcome(stage: Stage, payment: Payment) -> list[str]:
    """What its payer heard."""
    await stage.quiet()
    assert payment.done
    heard: list[str] = (await payment).raw_messages
    return heard


@pytest.mark.parametrize("mode", MODES)
def test_they_wait_with_nothing_written_and_nothing_reserved(mode: str) -> None:
    """P24, rule:2: no call is made for a sale whose turn has not come; then it is as any other."""

    async def play(stage: Stage) -> None:
        first, hanging = await one_hangs(stage)
        _, payment = await one_waits(stage, parts=2)
        assert [calls(stage, method) for method in ("utxopsbt", "reserveinputs", "fundchannel_start")] == [1, 1, 1]
        assert calls(stage, "datastore") == 3  # two buys and one intent
        hanging.release()
        assert await outcome(stage, first) == [""]
        assert await outcome(stage, payment) == ["", ""]
        assert calls(stage, "fundchannel_complete") == 2

    tell(mode, play)


@pytest.mark.parametrize("mode", MODES)
def test_one_that_hangs_keeps_the_others_for_two_seconds(mode: str) -> None:
    """P19: then the next begins, and the one that hangs is finished when it goes on."""

    async def play(stage: Stage) -> None:
        first, hanging = await one_hangs(stage)
        _, payment = await one_waits(stage)
        await stage.turn(HANGS_S)
        assert await outcome(stage, payment) == [""]
        assert not first.done
        hanging.release()
        assert await outcome(stage, first) == [""]

    tell(mode, play)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("step", ["fundchannel_start", "fundchannel_complete", "ready"])
def test_a_client_that_takes_its_time_keeps_the_others_for_a_moment(mode: str, step: str) -> None:
    """P19, people:S13: lightningd waits for it, and works for the others meanwhile."""

    async def play(stage: Stage) -> None:
        slow = stage.client("first", send_ready=step != "ready")
        awaited = None if step == "ready" else stage.lsp.faults.late(step)
        first = await stage.send(stage.payer("payer 1"), await stage.sale(slow), [SIZE_MSAT])
        await stage.quiet()
        assert awaited is None or awaited.reached.is_set()
        _, payment = await one_waits(stage)
        await stage.turn(PATIENCE_MS / 1000)
        assert await outcome(stage, payment) == [""]
        assert not first.done
        if awaited is not None:
            awaited.release()
        slow.behaviour.send_ready = True
        slow.release_ready()
        assert await outcome(stage, first) == [""]

    tell(mode, play)


@pytest.mark.parametrize("mode", MODES)
def test_an_offer_that_ends_while_its_payment_waits_opens_nothing(mode: str) -> None:
    """C-07: the payer has its money back, and hears that the offer is over when it tries again."""

    async def play(stage: Stage) -> None:
        _, hanging = await one_hangs(stage)
        sale, payment = await one_waits(stage)
        await stage.turn(VALIDITY_S)
        assert await outcome(stage, payment) == [TEMPORARY]
        assert await outcome(stage, await stage.send(stage.payers[1], sale, [SIZE_MSAT])) == [UNKNOWN]
        assert calls(stage, "fundchannel_start") == 1
        hanging.release()
        await stage.quiet()

    tell(mode, play)


@pytest.mark.parametrize("mode", MODES)
def test_a_part_near_its_expiry_waits_no_longer(mode: str) -> None:
    """K-06, rule:5, rule:6: it fails in time, nothing is opened for it when its turn comes, and the offer is good."""

    async def play(stage: Stage) -> None:
        first, hanging = await one_hangs(stage)
        sale, payment = await one_waits(stage, final_delta=20)
        for _ in range(20):
            stage.world.mine()
            await stage.quiet()
        assert await outcome(stage, payment) == [TEMPORARY]
        hanging.release()
        assert await outcome(stage, first) == [""]
        assert calls(stage, "fundchannel_start") == 1
        assert await outcome(stage, await stage.send(stage.payers[1], sale, [SIZE_MSAT])) == [""]

    tell(mode, play, lsps2_cltv_delta=6)


def test_a_budget_is_judged_when_the_turn_comes() -> None:
    """rule:18, rule:19: what the one before has taken is not there for the next."""

    async def play(stage: Stage) -> None:
        sale = await stage.sale(stage.client("second"))  # while there is room
        first, hanging = await one_hangs(stage)
        payment = await stage.send(stage.payer("payer 2"), sale, [SIZE_MSAT])
        await stage.quiet()
        assert not payment.done
        await stage.turn(HANGS_S)
        assert await outcome(stage, payment) == [TEMPORARY]
        assert calls(stage, "fundchannel_start") == 1
        hanging.release()
        assert await outcome(stage, first) == [""]
        assert await outcome(stage, await stage.send(stage.payers[1], sale, [SIZE_MSAT])) == [""]

    tell("client-trusts-lsp", play, lsps2_withheld_budget_sat=150_000)


@pytest.mark.parametrize("mode", MODES)
def test_the_end_of_the_plugin_answers_what_waits(mode: str) -> None:
    """rule:17, rule:6: the offer is good after the next start."""

    async def play(stage: Stage) -> None:
        _, hanging = await one_hangs(stage)
        sale, payment = await one_waits(stage)
        await stage.lsp.stop_plugin()
        assert (await payment).raw_messages == [TEMPORARY]
        hanging.release()
        await stage.lsp.start_plugin(*stage.world.lsp.plugin_plans[0])
        for client in stage.clients:
            client.connect()
        assert await outcome(stage, await stage.send(stage.payers[1], sale, [SIZE_MSAT])) == [""]

    tell(mode, play)
