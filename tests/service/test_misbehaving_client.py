"""A client that sends an error, closes, leaves or falls silent at any message of an open: we lose no coin."""

from __future__ import annotations

import time
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, PATIENCE_S, SIZE_MSAT, Stage

from lsps2fast_plugin.service.opening import SILENCE_S
from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.client import SET_TIMEOUT_S
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.simnode.script import DEEDS, MESSAGES

PATIENCE_TURNS = 20


def lost_sat(stage: Stage) -> int:
    """What was paid into outputs that no channel owns: fundings on chain that lightningd believes it kept back."""
    ends = [end for end in stage.lsp.ends if end.opener and end.channel.withheld]
    return sum(end.channel.capacity_sat for end in ends if stage.world.chain.knows(end.channel.funding_txid))


async def time_passes(stage: Stage, payment: Payment) -> None:
    """Turn the clock, for RPC calls too, until the payment is over and nothing is under way."""
    turns_out, deadline = 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:  # however many turns: the plugin's own work takes its time
        await stage.fence()
        if payment.done and not (await stage.lsp.call("lsps2-listsessions"))["sessions"][0]["payments"]:
            return
        turns_out = turns_out + 1 if parts_are_out(stage) else 0
        if turns_out == PATIENCE_TURNS:
            return
        await stage.lsp.call("lsps2-dev-advance", {"seconds": SILENCE_S / 2, "calls": True})
        stage.lsp.clock.advance(SILENCE_S / 2)


def parts_are_out(stage: Stage) -> bool:
    """Return whether parts are in a channel of the client."""
    return any(end.live for end in stage.lsp.ends if end.opener)


async def be_good(client: Client) -> None:
    """The client comes to its senses."""
    client.behaviour.script = {}
    client.speak()
    client.connect()


async def all_is_well(stage: Stage, client: Client, payment: Payment) -> None:
    """Nothing is lost, now or with the next blocks; the payer has an answer; the next client is served."""
    await be_good(client)
    await stage.at_rest()
    await payment
    await stage.at_rest()
    assert lost_sat(stage) == 0
    await stage.still_sells()
    stage.world.mine()
    await stage.at_rest()
    assert lost_sat(stage) == 0


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("message", MESSAGES[:6])
async def test_misbehaving_at_a_message_of_the_open(mode: str, message: str, deed: str) -> None:
    """people:S0, people:S8, people:S13, trap:52, O-07, O-20, rule:9, rule:23: each message, each deed, both modes."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        client.behaviour.script = {message: deed}
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        await time_passes(stage, payment)
        assert payment.done or parts_are_out(stage)  # they may be, and it has until they expire to answer
        await all_is_well(stage, client, payment)


@pytest.mark.parametrize("leave", [Stage.stop, Stage.kill])
@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("message", ["funding_created", "funding_signed", "channel_ready"])
async def test_misbehaving_at_a_message_of_the_open_and_a_restart(
    mode: str, message: str, deed: str, leave: Any
) -> None:
    """people:S0, people:S20, rule:23: the plugin ends right after the deed and finds what is left at its next start."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        client.behaviour.script = {message: deed}
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        await stage.until(lambda: client.script.done, "the deed")
        await leave(stage)
        await stage.until(lambda: payment.done, "its parts are back")
        await stage.start()
        await all_is_well(stage, client, payment)


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("message", MESSAGES[6:])
async def test_misbehaving_when_the_parts_have_come(message: str, deed: str) -> None:
    """people:S7, rule:8, rule:23, K-11: it may throw away its own money, never ours."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(on_part="fail" if message == "update_fail_htlc" else "settle"), stage.payer()
        client.behaviour.script = {message: deed}
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        await stage.until(lambda: client.script.done, "the deed")
        await stage.quiet()
        await be_good(client)
        for _ in range(PATIENCE_TURNS):  # a set that is not whole is given up, then its channel can be dropped
            listed = (await stage.lsp.call("lsps2-listsessions"))["sessions"]
            if payment.done and not any(buy["payments"] for buy in listed):
                break
            await stage.world.advance(SET_TIMEOUT_S)
            await stage.quiet()
        await all_is_well(stage, client, payment)
