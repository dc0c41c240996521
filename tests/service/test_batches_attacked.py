"""Clients that fail in a batch on purpose, and nodes that die in the worst moment of one (trap:60)."""

from __future__ import annotations

from typing import Any

import pytest
from harness.batches import Crowd, batching, give_up, lost_at
from harness.service import SIZE_MSAT, Stage

from lsps2fast_plugin.simnode import Client, psbt
from lsps2fast_plugin.simnode.errors import RpcError
from lsps2fast_plugin.simnode.faults import Fault

SOON_S = 5.0  # far less than a client may keep silent
GUARD_BLOCKS = 12 + 144 - 6  # from the payment to K-06


async def test_a_second_payment_of_a_client_keeps_no_batch_waiting() -> None:
    """trap:60, rule:24: one client has two payments at once and says nothing to the one that stands alone."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come("alice", "bertha", "mallory")
        mallory = crowd.clients[2]
        crowd.invoices.append(await stage.invoice(mallory))
        mallory.behaviour.script = {"open_channel": "silent"}
        for invoice in crowd.invoices:
            crowd.payments.append(crowd.payer.pay(invoice, [SIZE_MSAT // 2] * 2))
        for invoice in crowd.invoices:
            await stage.state(invoice, "OPENING")
        await stage.until(lambda: len(stage.calls("fundchannel_start")) == 1, "the one that stands alone")
        await stage.world.advance(2)
        done = lambda: all(payment.done for payment in crowd.payments[:2])  # noqa: E731
        await stage.world.until(done, "the others are paid", SOON_S)
        assert [(await payment).paid for payment in crowd.payments[:2]] == [True, True]
        mallory.disconnect()


async def test_clients_that_all_have_another_open_under_way_leave_a_batch_empty() -> None:
    """trap:60, O-19: each waits for the end of its first open; a batch without members is no fault of the program."""
    async with batching(wallet_sat=(2_000_000,) * 5) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come("mallory", "malvina")
        for client in crowd.clients:
            crowd.invoices.append(await stage.invoice(client))
            client.behaviour.script = {"open_channel": "silent"}
        for invoice in crowd.invoices:
            crowd.payments.append(crowd.payer.pay(invoice, [SIZE_MSAT // 2] * 2))
        for invoice in crowd.invoices:
            await stage.state(invoice, "OPENING")
        await stage.until(lambda: len(stage.calls("fundchannel_start")) == 2, "those that stand alone")
        await stage.world.advance(2)
        intents = lambda: len(stage.calls("datastore")) == 8  # noqa: E731  # four buys, two alone, two together
        await stage.until(intents, "the batch has its coins")
        for _ in range(4):
            await stage.fence()
        for client in crowd.clients:
            client.disconnect()
        assert await crowd.results(30) == [False] * 4
        assert not stage.log_lines("broke")
        await stage.at_rest()


def gives_up_once_signed(stage: Stage, client: Client) -> None:
    """lightningd loses every channel of this client as the record of a channel is written."""

    def hear(entry: dict[str, Any]) -> None:
        ours = entry["dir"] == "rpc>host" and entry["peer"] == "lsp/plugin-rpc"
        if ours and entry["msg"]["method"] == "datastore" and client.ends:
            give_up(stage, client.ends[-1].other)

    stage.world.transcript.listeners.append(hear)


async def test_a_client_that_gives_up_what_it_has_signed_spoils_one_batch_only() -> None:
    """trap:60: it is remembered as one that failed, and opens alone; for an hour."""
    async with batching(wallet_sat=(2_000_000,) * 7) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come("alice", "mallory", "carol")
        mallory = crowd.clients[1]
        gives_up_once_signed(stage, mallory)
        await crowd.pay()
        assert await crowd.results() == [True, False, True]
        assert (await stage.stats())["batches_spoilt"] == 1
        crowd.clients, crowd.invoices, crowd.payments = [], [], []
        await crowd.come("dora", "emma")
        crowd.clients.append(mallory)
        crowd.invoices.append(await stage.invoice(mallory))
        await crowd.pay()
        assert await crowd.results() == [True, True, False]
        assert (await stage.stats())["batches_spoilt"] == 1
        await stage.world.advance(3_600)
        crowd.clients, crowd.invoices, crowd.payments = [], [], []
        await crowd.come("frida", "greta")
        crowd.clients.append(mallory)
        crowd.invoices.append(await stage.invoice(mallory))
        await crowd.pay()
        assert await crowd.results() == [True, True, False]
        assert (await stage.stats())["batches_spoilt"] == 2


async def test_what_is_taken_back_after_a_crash_leaves_no_channel_usable() -> None:
    """rule:23, trap:60: killed as the funding of a batch went out, one channel of which had just gone."""
    async with batching(wallet_sat=(2_000_000,) * 5) as stage:
        crowd = Crowd(stage)
        await crowd.come("alice", "bertha", "carol", "dora", "emma", "flora")
        lost_at(stage, crowd.clients[1], "sendpsbt")
        fault = stage.lsp.faults.late("sendpsbt")
        await crowd.pay()
        await stage.world.advance(2)
        await stage.until(lambda: fault.hits > 0, "the call that is not answered")
        stage.lsp.faults.clear()
        await stage.kill()
        await stage.start()
        await stage.quiet()
        await stage.world.advance(30)
        await stage.at_rest()
        assert not stage.world.orphaned_sat()
        lost = [
            client.name
            for client in crowd.clients
            for end in client.ends
            if not end.other.forgotten and not stage.world.chain.knows(end.channel.funding_txid)
            and (await stage.lsp.call("listpeerchannels", {"id": client.node_id}))["channels"][0]["state"]
            == "CHANNELD_NORMAL"
        ]  # fmt: skip
        taken = stage.log_lines("takes its coins back|cannot be taken back")
        assert (lost, len(taken)) == ([], 1), taken
        assert len(stage.log_lines("one of 6 that it pays had just been given up.*takes its coins back")) == 1
        assert not stage.log_lines("cannot be taken back")


async def unwritten(stage: Stage) -> tuple[Crowd, Fault]:
    """Three payments that share a funding; the journal does not answer for the channel of one."""
    stage.plugin_lives = False
    crowd = Crowd(stage)
    await crowd.come()
    fault = stage.lsp.faults.hang("datastore", nth=5)  # three intents, then the channels
    await crowd.pay()
    await stage.world.advance(2)
    await stage.until(lambda: fault.hits > 0, "the write that is not answered")
    return crowd, fault


async def test_a_record_that_is_not_written_keeps_no_other_waiting_for_good() -> None:
    """rule:10, rule:11, trap:60: the journal does not answer for one of three; the others are paid without it."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd, fault = await unwritten(stage)
        await stage.world.advance(11)
        await stage.until(lambda: [payment.done for payment in crowd.payments] == [True, False, True], "two are paid")
        assert [(await crowd.payments[place]).paid for place in (0, 2)] == [True, True]
        fault.release()
        await stage.at_rest()
        assert not stage.world.orphaned_sat()


async def test_a_funding_that_is_taken_back_burns_what_it_has_cost() -> None:
    """rule:18: not a whole opening and close for each client of the batch: one deed would use up the day's budget."""
    async with batching(wallet_sat=(2_000_000,) * 5) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come()
        lost_at(stage, crowd.clients[1], "sendpsbt")
        await crowd.pay()
        assert await crowd.results() == [True, False, True]
        await stage.quiet()
        lost = crowd.clients[1].ends[0].channel.funding_txid
        sent = [psbt.decode(call["psbt"]) for call in stage.calls("sendpsbt")]
        (fee_msat,) = {tx.fee_sat * 1000 for tx in sent if tx.txid == lost}
        burnt_msat = (await stage.stats())["limits"]["mining_budget"]["used_msat"]
        assert burnt_msat == 2 * fee_msat  # the funding and what replaced it; the channels that came after are paid for
        assert burnt_msat < 2 * 4_500_000  # what two channels that stand alone count for, their closes included


async def test_a_record_that_is_written_as_the_others_are_closed_sends_nothing() -> None:
    """rule:23, trap:60: its sisters are there for a moment yet; the transaction would be paid for nothing."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        fault = stage.lsp.faults.hang("datastore", nth=5)  # three intents, then the channels
        closing = stage.lsp.faults.hang("close", times=10)
        await crowd.pay()
        await stage.world.advance(2)
        await stage.until(lambda: fault.hits > 0, "the write that is not answered")
        await stage.until(lambda: len(stage.calls("datastore")) >= 6, "the other writes")
        await stage.fence()
        await stage.world.advance(10)
        await stage.until(lambda: closing.hits > 0, "the close of the sisters")
        fault.release()
        await stage.until(lambda: crowd.payments[1].done, "the end of the payment whose record came late")
        assert not crowd.fundings()
        (given_up,) = {end.channel.funding_txid for client in crowd.clients for end in client.ends}
        closing.release()
        await stage.until(lambda: all(payment.done for payment in crowd.payments), "the end of all")
        assert [(await payment).paid for payment in crowd.payments] == [True, False, True]
        await stage.at_rest()
        assert not stage.log_lines("gave its channel up")  # it is we who close them
        assert stage.log_lines("is not funded, for it shares that")
        assert not stage.world.chain.knows(given_up)
        assert not stage.world.orphaned_sat()


async def test_coins_that_do_not_carry_a_second_try_leave_each_to_its_own() -> None:
    """rule:10, trap:60: the feerate has risen meanwhile; other coins are there, and the others are paid."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        crowd.clients[1].behaviour.script = {"funding_created": "error"}
        await crowd.pay()
        dear = stage.lsp.faults.fail("utxopsbt", nth=2, code=301, message="Could not afford 300000sat using all 1")
        assert await crowd.results() == [True, False, True]
        assert dear.hits == 1
        assert len(crowd.fundings()) == 2
        await stage.at_rest()


async def test_a_payment_given_up_meanwhile_is_not_called_the_deed_of_its_client() -> None:
    """trap:60, rule:22: its parts run out while the record of a sister is not written; it is closed once, by us."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd, fault = await unwritten(stage)
        await stage.until(lambda: len(stage.calls("datastore")) >= 6, "the other writes")
        await stage.fence()
        stage.world.mine(GUARD_BLOCKS)
        await stage.until(lambda: all(payment.done for payment in crowd.payments), "the parts run out")
        await stage.world.advance(10)
        await stage.until(lambda: stage.log_lines("batch 1 is not sent"), "the end of the batch")
        ids = [client.ends[0].channel.channel_id for client in crowd.clients]
        fault.release()
        await stage.at_rest()
        assert sorted(call["id"] for call in stage.calls("close")) == sorted(ids)
        assert not stage.log_lines("gave its channel up|was given up before|failed \\(NodeError")
        assert not crowd.fundings()


@pytest.mark.parametrize(("times", "paid"), [(1, True), (2, True), (1_000, False)])
async def test_a_node_that_does_not_sign_at_once_fails_no_payment_for_it(times: int, paid: bool) -> None:
    """rule:10, rule:9, O-09: asked once more; then each opens alone, with coins of its own, and that is all."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        crowd = Crowd(stage)
        await crowd.come()
        stage.lsp.faults.fail("signpsbt", times=times)
        await crowd.pay()
        assert await crowd.results() == [paid] * 3
        await stage.at_rest()
        assert len(crowd.fundings()) == {1: 1, 2: 3}.get(times, 0)
        assert len(stage.calls("signpsbt")) == {1: 2, 2: 5}.get(times, 5)
        assert len(stage.calls("close")) == {1: 0, 2: 3}.get(times, 6)
        assert not stage.world.orphaned_sat()
        assert (await stage.stats())["withheld_channels"] == 0
        assert [row for row in stage.lsp.wallet.rows() if row["reserved"]] == []


async def test_parts_that_run_out_while_the_node_signs_again_are_not_opened_for() -> None:
    """rule:5, K-06, rule:9: the second signature comes too late for all; nothing is sent, and nothing stays."""
    async with batching(wallet_sat=(2_000_000,) * 4) as stage:
        stage.plugin_lives = False
        crowd = Crowd(stage)
        await crowd.come()
        stage.lsp.faults.fail("signpsbt")
        again = stage.lsp.faults.hang("signpsbt")
        await crowd.pay()
        await stage.world.advance(2)
        await stage.until(lambda: again.hits > 0, "the second signature")
        stage.world.mine(GUARD_BLOCKS)
        await stage.until(lambda: all(payment.done for payment in crowd.payments), "the parts run out")
        again.error = RpcError(-1, "not signed")
        again.release()
        await stage.at_rest()
        assert not any([(await payment).paid for payment in crowd.payments])
        assert not crowd.fundings()
        assert not [end for client in crowd.clients for end in client.ends if not end.other.forgotten]
        assert [row for row in stage.lsp.wallet.rows() if row["reserved"]] == []
