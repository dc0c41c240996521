"""Ending an open of ours beside other channels of the same peer: none of them is touched (rule:26)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, SIZE_MSAT, TEMPORARY, UNKNOWN, Stage

from lsps2fast_plugin.service.opening import SILENCE_S, UNDO_TIMEOUT_S
from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.channels import End

OTHER_SAT = 200_000
PATIENCE_TURNS = 40
Spoil = Callable[[Stage, Client], Any]


async def _negotiate(stage: Stage, client: Client, withhold: bool) -> tuple[End, str]:
    """Another tool of the operator makes a channel with our client and keeps its PSBT."""
    start = {"id": client.node_id, "amount": OTHER_SAT, "announce": False}
    started = await stage.lsp.call("fundchannel_start", start)
    ask = {"satoshi": OTHER_SAT, "feerate": "normal", "startweight": 1000, "excess_as_change": True}
    funded = await stage.lsp.call("fundpsbt", ask)
    output = {"satoshi": OTHER_SAT, "initialpsbt": funded["psbt"], "destination": started["funding_address"]}
    psbt = (await stage.lsp.call("addpsbtoutput", output))["psbt"]
    await stage.lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": psbt, "withhold": withhold})
    return client.ends[-1].other, psbt


async def _send(stage: Stage, psbt: str) -> None:
    signed = (await stage.lsp.call("signpsbt", {"psbt": psbt}))["signed_psbt"]
    await stage.lsp.call("sendpsbt", {"psbt": signed})


async def _not_sent_yet(stage: Stage, client: Client) -> tuple[End, str]:
    """people:S8: it awaits lock-in, and its funding comes tomorrow."""
    client.behaviour.zeroconf = False
    made = await _negotiate(stage, client, withhold=False)
    client.behaviour.zeroconf = True
    return made


async def _not_confirmed_yet(stage: Stage, client: Client) -> tuple[End, str]:
    """people:S8: it awaits lock-in, its funding is in the mempool; a cancel is answered with 308."""
    end, psbt = await _not_sent_yet(stage, client)
    await _send(stage, psbt)
    return end, ""


async def _withheld(stage: Stage, client: Client) -> tuple[End, str]:
    """It is usable and withheld, as ours are."""
    end, psbt = await _negotiate(stage, client, withhold=True)
    await stage.until(lambda: end.state == "CHANNELD_NORMAL", "it is usable")
    return end, psbt


async def _confirmed(stage: Stage, client: Client) -> tuple[End, str]:
    """An ordinary channel."""
    end, _ = await _not_confirmed_yet(stage, client)
    stage.world.mine(6)
    await stage.until(lambda: end.state == "CHANNELD_NORMAL", "it is usable")
    return end, ""


def _refuses(stage: Stage, client: Client) -> str:
    client.behaviour.reject_open = "no"
    return UNKNOWN


def _refuses_the_funding(stage: Stage, client: Client) -> str:
    client.behaviour.refuse_funding = "no"
    return UNKNOWN


def _leaves(stage: Stage, client: Client) -> str:
    client.behaviour.script = {"funding_created": "flap"}
    return TEMPORARY


def _signer_fails(stage: Stage, client: Client) -> str:
    stage.lsp.faults.fail("signpsbt", message="no")
    return TEMPORARY


def _completion_fails(stage: Stage, client: Client) -> str:
    stage.lsp.faults.fail("fundchannel_complete", message="no")
    return TEMPORARY


def _start_fails(stage: Stage, client: Client) -> str:
    stage.lsp.faults.fail("fundchannel_start", message="internal")
    return TEMPORARY


def _is_silent(stage: Stage, client: Client) -> str:
    client.behaviour.script = {"funding_created": "silent"}
    return TEMPORARY


@pytest.mark.parametrize(
    "spoil",
    [_refuses, _refuses_the_funding, _leaves, _signer_fails, _completion_fails, _start_fails, _is_silent],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("beside", [_not_sent_yet, _not_confirmed_yet, _withheld, _confirmed], ids=lambda f: f.__name__)
async def test_an_open_that_fails_beside_another_channel_of_the_peer(
    beside: Callable[[Stage, Client], Awaitable[tuple[End, str]]], spoil: Spoil
) -> None:
    """people:S8, trap:54, cln:N1, O-20: the other channel lives on and can be funded; our coins are free."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        other, psbt = await beside(stage, client)
        others = {(row["txid"], row["output"]) for row in stage.lsp.wallet.rows() if row["reserved"]}
        state = other.state
        answer = spoil(stage, client)
        payment = payer.pay(invoice, [SIZE_MSAT])
        if spoil is _is_silent:
            await stage.until(lambda: client.script.done, "the silence")
            await stage.lsp.call("lsps2-dev-advance", {"seconds": SILENCE_S + 1, "calls": True})
        assert (await payment).raw_messages == [answer]
        await stage.at_rest()
        waits = state == "CHANNELD_AWAITING_LOCKIN"
        assert len(stage.calls("fundchannel_cancel")) == (spoil is _completion_fails and not waits)
        assert not other.forgotten
        assert other.state == state
        assert {(row["txid"], row["output"]) for row in stage.lsp.wallet.rows() if row["reserved"]} == others
        client.behaviour = type(client.behaviour)()
        client.speak()
        client.connect()
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)
        if psbt:
            await _send(stage, psbt)
        stage.world.mine(6)
        await stage.until(lambda: other.state == "CHANNELD_NORMAL", "the other channel is usable")


async def test_an_open_that_fails_alone_is_cancelled_and_the_client_stays_connected() -> None:
    """O-20, rule:26: only our own open is there: `fundchannel_cancel` is safe, and kinder than hanging up."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        _completion_fails(stage, client)
        assert (await payer.pay(invoice, [SIZE_MSAT])).raw_messages == [TEMPORARY]
        await stage.at_rest()
        assert len(stage.calls("fundchannel_cancel")) == 1
        assert stage.calls("disconnect") == []
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


async def test_another_open_under_way_with_the_peer_is_left_alone() -> None:
    """rule:26: ours is refused because there is another; that one goes on."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        start = {"id": client.node_id, "amount": OTHER_SAT, "announce": False}
        started = await stage.lsp.call("fundchannel_start", start)
        assert (await payer.pay(invoice, [SIZE_MSAT])).raw_messages == [TEMPORARY]
        await stage.at_rest()
        assert stage.calls("fundchannel_cancel") == stage.calls("disconnect") == []
        ask = {"satoshi": OTHER_SAT, "feerate": "normal", "startweight": 1000, "excess_as_change": True}
        psbt = (await stage.lsp.call("fundpsbt", ask))["psbt"]
        output = {"satoshi": OTHER_SAT, "initialpsbt": psbt, "destination": started["funding_address"]}
        psbt = (await stage.lsp.call("addpsbtoutput", output))["psbt"]
        await stage.lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": psbt})
        await _send(stage, psbt)
        stage.world.mine(6)
        await stage.paid(payer, invoice, [SIZE_MSAT])
        await stage.over(invoice)


@pytest.mark.parametrize("hanging", ["disconnect", "fundchannel_cancel"])
async def test_coins_come_back_though_the_call_that_ends_the_open_hangs(hanging: str) -> None:
    """people:S13, O-20: the release waits for no peer and no call about one."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        if hanging == "disconnect":
            client.behaviour.script = {"funding_created": "silent"}
        else:
            _completion_fails(stage, client)
        stuck = stage.lsp.faults.hang(hanging)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: client.script.done or stuck.reached.is_set(), "the open hangs")
        for _ in range(PATIENCE_TURNS):
            for _ in range(3):
                await stage.fence()
            if payment.done and not any(row["reserved"] for row in stage.lsp.wallet.rows()):
                break
            await stage.lsp.call("lsps2-dev-advance", {"seconds": UNDO_TIMEOUT_S, "calls": True})
        assert stuck.reached.is_set()
        assert payment.done
        assert (await payment).raw_messages == [TEMPORARY]
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        stage.lsp.faults.clear()
        stage.forget_calls()  # lightningd never answers a cancel of an open that waits for its peer
        client.speak()
        client.behaviour = type(client.behaviour)()
        client.connect()
        await stage.still_sells()
