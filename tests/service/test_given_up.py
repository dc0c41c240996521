"""A client that gives its channel up before the funding is on chain: nothing is sent, the coins stay ours (rule:23)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.client import ClientInvoice


def give_up(stage: Stage, end: End) -> None:
    """What lightningd does when the peer of a withheld channel sends `error` (cln:N2)."""
    if not end.forgotten and end.channel.withheld:
        stage.lsp.withheld_closed(end, "local", "user")


def begin_to_close(stage: Stage, end: End) -> None:
    """The client sends `shutdown` and then nothing more."""
    if not end.forgotten and end.state == "CHANNELD_NORMAL":
        stage.lsp.change_state(end, "CHANNELD_SHUTTING_DOWN", "remote", "Peer closes channel")


class Trap:
    """Does something with the client's channel at the nth RPC call of one kind that follows `arm`."""

    def __init__(self, stage: Stage, method: str, nth: int, act: Callable[[Stage, End], None]) -> None:
        self.stage, self.method, self.left, self.act = stage, method, nth, act
        self.ends: list[End] = []
        self.armed = False
        self.sprung = False
        stage.world.transcript.listeners.append(self._hear)

    def _hear(self, entry: dict[str, Any]) -> None:
        ours = entry["dir"] == "rpc>host" and entry["peer"] == "lsp/plugin-rpc"
        if self.armed and ours and entry["msg"]["method"] == self.method:
            self.left -= 1
            if not self.left:
                self.sprung = True
                self.act(self.stage, self.ends[-1])


def _trap(stage: Stage, client: Any, method: str, nth: int, act: Callable[[Stage, End], None] = give_up) -> Trap:
    """A trap that is armed when both have signed."""
    trap, created = Trap(stage, method, nth, act), client.channel_created

    def created_too(end: End) -> None:
        created(end)
        trap.ends.append(end.other)
        trap.armed = True

    client.channel_created = created_too
    return trap


def on_chain(stage: Stage, end: End) -> bool:
    """Whether bitcoind has the funding of this channel."""
    return stage.world.chain.knows(end.channel.funding_txid)


async def nothing_was_sent(stage: Stage, end: End) -> None:
    """The funding is nowhere, all coins are free, the operator was told; also after blocks, hours and a restart."""
    await stage.at_rest()
    assert stage.log_lines("ALARM.*none of our coins go into it")
    for change in (lambda: stage.world.mine(7), None):
        if change is not None:
            change()
            await stage.world.advance(7_200)
        else:
            await stage.restart()
        await stage.at_rest()
        assert not on_chain(stage, end)
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())


# Not paid yet --------------------------------------------------------------------------------

STEPS = [("listpeerchannels", 1), ("datastore", 1), ("setchannel", 1), ("listpeerchannels", 2), ("sendpsbt", 1)]


@pytest.mark.parametrize(("method", "nth"), [*STEPS, ("listpeerchannels", 3)])
async def test_signed_then_error_before_the_funding_is_sent(method: str, nth: int) -> None:
    """people:S0, trap:52, rule:23: at each step after the client has signed; the parts fail temporarily."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        trap = _trap(stage, client, method, nth)
        result = await payer.pay(invoice, [SIZE_MSAT])
        assert trap.sprung
        assert result.raw_messages == [TEMPORARY]
        await nothing_was_sent(stage, trap.ends[0])
        await stage.still_sells()


async def test_signed_then_error_in_the_same_breath() -> None:
    """people:S0: the channel is gone before `fundchannel_complete` has answered us."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        ends: list[End] = []

        def created(end: End) -> None:
            type(client).channel_created(client, end)
            ends.append(end.other)
            give_up(stage, end.other) if end.other in stage.lsp.ends else None

        client.channel_created = created  # type: ignore[method-assign]
        result = await payer.pay(invoice, [SIZE_MSAT])
        assert result.raw_messages == [TEMPORARY]
        await nothing_was_sent(stage, ends[0])
        await stage.still_sells()


@pytest.mark.parametrize("method", ["datastore", "sendpsbt"])
async def test_signed_then_error_while_everything_dies(method: str) -> None:
    """people:S0, people:S20: and we are killed at that moment; the next start sends nothing either."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(send_ready=False), stage.payer()
        invoice = await stage.invoice(client)
        stuck = stage.lsp.faults.hang(method, nth=2 if method == "datastore" else 1, after=method == "datastore")
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stuck.reached.wait()
        end = client.ends[0].other
        give_up(stage, end)
        await stage.kill()  # `sendpsbt` is carried out after all, for a channel that is no more (cln:O1)
        stage.lsp.faults.clear()
        await payment
        await stage.start()
        await stage.at_rest()
        assert not on_chain(stage, end)
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        await stage.still_sells()


async def test_the_client_begins_to_close_before_the_funding_is_sent() -> None:
    """trap:52: `shutdown` instead of `error`, and then silence: the channel is dropped, not funded."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        away = stage.lsp.faults.fail("sendpsbt", times=1, message="bitcoind is away")
        payment = payer.pay(invoice, [SIZE_MSAT])
        await away.reached.wait()
        end = client.ends[0].other
        await stage.until(lambda: end.state == "CHANNELD_NORMAL", "the channel is usable")
        end.channel.withheld = True  # lightningd was not asked yet, as far as it can tell
        begin_to_close(stage, end)
        await stage.world.advance(2)
        assert (await payment).raw_messages == [TEMPORARY]
        await stage.until(lambda: end.forgotten, "the channel is dropped")
        await nothing_was_sent(stage, end)


# The client was paid, and has thrown its channel away --------------------------------------------------


async def _at_the_client(stage: Stage) -> tuple[ClientInvoice, Any, End]:
    client, payer = stage.client(on_part="hold"), stage.payer()
    invoice = await stage.invoice(client)
    payment = payer.pay(invoice, [SIZE_MSAT])
    await stage.until(lambda: len(client.held()) == 1, "the part is at the client")
    await stage.quiet()
    return invoice, payment, client.ends[0].other


@pytest.mark.parametrize(("method", "nth"), [("listpeerchannels", 1), ("sendpsbt", 1)])
async def test_fulfilled_then_error_before_the_funding_is_sent(method: str, nth: int) -> None:
    """people:S7, cln:N2, rule:23: nothing is sent into an output that no channel owns; Forfeited, not Succeeded."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        invoice, payment, end = await _at_the_client(stage)
        trap = Trap(stage, method, nth, give_up)
        trap.ends.append(end)
        trap.armed = True
        invoice.payee.settle_held()
        assert (await payment).paid
        await stage.until(lambda: stage.outcome(invoice.scid) is not None, "the final record")
        assert trap.sprung
        assert stage.outcome(invoice.scid) == "Forfeited"
        await nothing_was_sent(stage, end)
        await stage.still_sells()


async def test_fulfilled_then_error_while_bitcoind_is_away() -> None:
    """people:S7: the funding was owed and could not be sent; before each retry the channel is looked up again."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        invoice, payment, end = await _at_the_client(stage)
        away = stage.lsp.faults.fail("sendpsbt", times=1_000, message="bitcoind is away")
        invoice.payee.settle_held()
        assert (await payment).paid
        await away.reached.wait()
        give_up(stage, end)
        stage.lsp.faults.clear()
        await stage.world.advance(120)
        await stage.until(lambda: stage.outcome(invoice.scid) is not None, "the final record")
        assert stage.outcome(invoice.scid) == "Forfeited"
        await nothing_was_sent(stage, end)


@pytest.mark.parametrize("leave", [Stage.stop, Stage.kill, "power"])
async def test_fulfilled_then_error_while_we_are_away(leave: Any) -> None:
    """people:S20, rule:23: `plugin stop`, the client claims and errors, `plugin start`;
    the same after kill -9 and power cut.
    """
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        invoice, payment, end = await _at_the_client(stage)
        if leave == "power":
            settle = stage.lsp.faults.hang("listpeerchannels")
            invoice.payee.settle_held()
            assert (await payment).paid
            await settle.reached.wait()
            give_up(stage, end)
            await stage.restart(power=True)
        else:
            await leave(stage)
            invoice.payee.settle_held()
            assert (await payment).paid
            give_up(stage, end)
            await stage.start()
        await stage.until(lambda: stage.outcome(invoice.scid) is not None, "the final record")
        assert stage.outcome(invoice.scid) == "Forfeited"
        await nothing_was_sent(stage, end)
        await stage.still_sells()


async def test_a_living_channel_is_funded_long_after_our_reservation() -> None:
    """trap:8, people:S7, rule:23, cln:O1: `sendpsbt` asks for none; the channel is looked up before and after."""
    async with Stage(CLIENT_TRUSTS, fresh=True) as stage:
        invoice, payment, end = await _at_the_client(stage)
        stage.lsp.wallet.reserved.clear()  # as when its blocks were over
        invoice.payee.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        assert on_chain(stage, end)
        order = stage.order("reserveinputs", "listpeerchannels", "sendpsbt")
        assert "reserveinputs" not in order[order.index("sendpsbt") - 1 :]
        assert order[order.index("sendpsbt") - 1] == order[order.index("sendpsbt") + 1] == "listpeerchannels"
        stage.world.mine()
