"""Clients that say nothing in a batch: how long the others wait, and what becomes of the silent one (trap:60)."""

from __future__ import annotations

from harness.batches import Crowd, batching
from harness.service import FEE_MSAT, SIZE_MSAT, Stage

WINDOW_S = 2.0
MESSAGE_S = 3.0  # what the others wait for one message of a client


async def _asked(stage: Stage, method: str, times: int, silent: int = 1) -> None:
    """The service has called this so often, and all but so many are answered."""
    select = stage.world.transcript.select

    def come() -> bool:
        asked = {entry["msg"]["id"] for entry in select("rpc>host", "lsp/plugin-rpc", method)}
        answered = {entry["msg"].get("id") for entry in select("host>rpc", "lsp/plugin-rpc")}
        return len(asked) >= times and len(asked - answered) == silent

    await stage.until(come, f"{times} calls of {method}")


async def _paid(stage: Stage, crowd: Crowd, *places: int) -> None:
    """These are paid with no clock turned any more."""
    await stage.until(lambda: all(crowd.payments[place].done for place in places), "the others are paid")
    assert all([(await crowd.payments[place]).paid for place in places])


async def test_one_that_does_not_accept_its_channel_goes_on_alone_and_is_paid() -> None:
    """trap:60: three seconds, then the others go on; the slow one is asked once, and needs no second connection."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        slow = crowd.clients[1]
        slow.behaviour.script = {"open_channel": "silent"}
        await crowd.pay()
        await stage.world.advance(WINDOW_S)
        await _asked(stage, "fundchannel_start", 3)
        assert not stage.calls("addpsbtoutput")
        await stage.world.advance(MESSAGE_S)
        await _paid(stage, crowd, 0, 2)
        assert len(crowd.fundings()) == 1
        slow.speak()
        await _paid(stage, crowd, 1)
        assert slow.received_msat() == SIZE_MSAT - FEE_MSAT
        assert len(stage.calls("fundchannel_start")) == 3
        assert not stage.calls("disconnect")
        assert len(crowd.fundings()) == 2
        for invoice in crowd.invoices:
            await stage.over(invoice)


async def test_one_that_never_answers_fails_alone_after_as_long_as_any_open_may_last() -> None:
    """K-22, rule:9: it went on by itself; nothing is left of it."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        crowd.clients[1].behaviour.script = {"open_channel": "silent"}
        await crowd.pay()
        await stage.world.advance(WINDOW_S)
        await _asked(stage, "fundchannel_start", 3)
        await stage.world.advance(MESSAGE_S)
        await _paid(stage, crowd, 0, 2)
        assert not crowd.payments[1].done
        await stage.world.advance(30)
        assert not (await crowd.payments[1]).paid
        await stage.at_rest()
        assert len(stage.calls("disconnect")) == 1
        stage.world.mine()


async def test_a_payment_given_up_while_its_client_is_waited_for_is_undone() -> None:
    """K-06, K-19: its parts expire meanwhile; a second payment of it begins its open from the first message."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        slow = crowd.clients[1]
        slow.behaviour.script = {"open_channel": "silent"}
        await crowd.pay()
        await stage.world.advance(WINDOW_S)
        await _asked(stage, "fundchannel_start", 3)
        await stage.world.advance(MESSAGE_S)
        await _paid(stage, crowd, 0, 2)
        stage.world.mine(crowd.payments[1].parts[0].htlc.cltv_expiry - stage.world.chain.height - 5)
        assert not (await crowd.payments[1]).paid
        slow.speak()
        slow.connect()
        slow.behaviour.script = {}
        await stage.at_rest()
        again = crowd.payer.pay(crowd.invoices[1], [SIZE_MSAT])
        assert (await again).paid
        assert len(stage.calls("fundchannel_start")) == 4


EACH_MESSAGE = ("open_channel", "funding_created", "open_channel#2", "funding_created#2")


async def test_silence_at_every_message_costs_the_others_twelve_seconds() -> None:
    """rule:24: one client is silent at each message of both joint tries; then no one waits for another."""
    async with batching(wallet_sat=(2_000_000,) * 6) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come("alice", "carol", *EACH_MESSAGE)
        for message, mallory in zip(EACH_MESSAGE, crowd.clients[2:], strict=True):
            mallory.behaviour.script = {message: "silent"}
        await crowd.pay()
        await stage.world.advance(WINDOW_S)
        for method, calls, silent in (
            ("fundchannel_start", 6, 1),
            ("fundchannel_complete", 5, 1),
            ("fundchannel_start", 6 + 4, 2),  # the first goes on alone, and says nothing yet
            ("fundchannel_complete", 5 + 3, 1),
        ):
            await _asked(stage, method, calls, silent)
            assert not crowd.payments[0].done
            await stage.world.advance(MESSAGE_S)
        await _paid(stage, crowd, 0, 1)
        assert not stage.world.orphaned_sat()
        for mallory in crowd.clients[2:]:
            mallory.disconnect()
