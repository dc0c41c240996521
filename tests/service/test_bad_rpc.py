"""The RPC socket closes in the middle of an answer, at every step; lightningd answers twice, late, or nonsense."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, LSP_TRUSTS, SESSIONS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import frames
from lsps2fast_plugin.simnode.rpcserver import Connection

HALF_MSAT = SIZE_MSAT // 2


class Cut:
    """Lays a trap: the answer to the nth call of a method from now on stops half-way, and the socket is closed."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch, method: str, nth: int = 1) -> None:
        self.done = asyncio.Event()
        whole = Connection.answer
        left = [nth]

        def answer(connection: Connection, request_id: Any, result: Any, error: Any) -> None:
            if connection.transport.is_closing():  # a call that came in the same read as the one that was cut
                stage.forget_calls()
            key = tuple((result or {}).get("key", SESSIONS))[:3]  # not what the policy notes down beside the journal
            mine = str(request_id).startswith(f"lsps2fast:{method}#") and key == SESSIONS
            left[0] -= mine
            if not mine or left[0] != 0:
                whole(connection, request_id, result, error)
                return
            frame = frames.encode({"jsonrpc": "2.0", "id": request_id, "result": result or {}})
            connection.transport.write(frame[: len(frame) // 2])
            connection.transport.close()
            stage.forget_calls()
            self.done.set()

        monkeypatch.setattr(Connection, "answer", answer)


# The next look may settle it before anything is to report.
SETTLED = {("listpeerchannels", 1), ("listpeerchannels", 2), ("sendpsbt", 1)}
STEPS = [
    (CLIENT_TRUSTS, "datastore", 1, True),  # the intent
    (CLIENT_TRUSTS, "datastore", 2, True),  # the forwards
    (LSP_TRUSTS, "datastore", 2, True),  # the channel
    (CLIENT_TRUSTS, "utxopsbt", 1, False),
    (CLIENT_TRUSTS, "fundchannel_start", 1, False),
    (CLIENT_TRUSTS, "addpsbtoutput", 1, False),
    (CLIENT_TRUSTS, "signpsbt", 1, False),
    (CLIENT_TRUSTS, "fundchannel_complete", 1, False),
    (LSP_TRUSTS, "fundchannel_complete", 1, False),
    (LSP_TRUSTS, "listpeerchannels", 1, True),  # a first look at the limits, before the channel is public
    (LSP_TRUSTS, "listpeerchannels", 2, True),
    (CLIENT_TRUSTS, "listpeerchannels", 1, True),
    (CLIENT_TRUSTS, "setchannel", 1, True),
    (CLIENT_TRUSTS, "sendpsbt", 1, True),
    (LSP_TRUSTS, "sendpsbt", 1, True),
    (CLIENT_TRUSTS, "setchannel", 2, True),  # the node's own fees again
    (CLIENT_TRUSTS, "datastore", 3, True),  # the final record
    (CLIENT_TRUSTS, "deldatastore", 1, True),
]


@pytest.mark.parametrize(("mode", "method", "nth", "paid"), STEPS)
async def test_the_socket_closes_in_the_middle_of_an_answer(
    monkeypatch: pytest.MonkeyPatch, mode: str, method: str, nth: int, paid: bool
) -> None:
    """K-13, rule:9, rule:10: one answer for each part, no orphan, no coin kept; what can go on goes on, then a sale."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        cut = Cut(stage, monkeypatch, method, nth)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await cut.done.wait()
        for _ in range(4):
            await stage.quiet()
            await stage.world.advance(5)
        assert (await payment).raw_messages == ([""] if paid else [TEMPORARY]) * 2
        await stage.ended(invoice)
        assert stage.answer_counts(invoice.payment_hash) == [1, 1]
        told = {"signpsbt": "fundchannel_complete"}.get(method, method)  # of two that end at once
        said = stage.log_lines(f"{told}: .*the connection (was closed|broke)", "info", "warn")
        assert said or (method, nth) in SETTLED
        await stage.sale(stage.client("zoe"), payer)


@pytest.mark.parametrize("method", ["listpeerchannels", "listfunds", "datastore"])
async def test_the_socket_closes_while_a_client_buys(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """T-18, B-10: the client hears -32603, nothing was sold, one line in the log; the next buy is sold."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        offer = await stage.offer(client)
        await stage.world.advance(5)  # what the menu asked for is old by now
        Cut(stage, monkeypatch, method)
        with pytest.raises(Exception, match="-32603"):
            await client.request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)})
        assert (await stage.stats())["live_buys"] == 0
        assert len(stage.log_lines(f"lsps2.buy of {client.node_id} failed: .*{method}", "error")) == 1
        stage.errors_expected = True
        assert stage.records("active") == {}
        await stage.sale(client, payer)


@pytest.mark.parametrize("method", ["getinfo", "listconfigs", "listdatastore", "listpeers", "makesecret"])
async def test_the_socket_closes_during_the_start(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """rule:15, K-08: asked again until lightningd answers; then it sells."""
    stage = Stage(ready=False)
    cut = Cut(stage, monkeypatch, method)
    async with stage:
        await cut.done.wait()
        await stage.quiet()
        await stage.world.advance(1)
        await stage.selling()
        stage.errors_expected = bool(stage.log_lines("", "error"))
        await stage.still_sells()


@pytest.mark.parametrize(
    "method", ["utxopsbt", "reserveinputs", "fundchannel_complete", "datastore", "sendpsbt", "listpeerchannels"]
)
async def test_an_answer_that_comes_twice_counts_once(mode: str, method: str) -> None:
    """cln:P1: the second is a line in the log."""
    async with Stage(mode) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.twice(method)
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)


async def test_lightningd_out_of_reach_for_a_while() -> None:
    """rule:10: the socket is gone while parts are with the client; it comes back; the funding is sent."""
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
        stage.lsp.server.stop()
        client.settle_held()
        assert (await payment).paid
        await stage.state(invoice, "BROADCASTING")
        for _ in range(3):
            await stage.quiet()
            await stage.world.advance(60)
        assert stage.states(invoice)[-1] == "BROADCASTING"
        await stage.lsp.server.start(stage.lsp.rpc_path + "2")
        (stage.lsp.directory / "lightning-rpc").unlink(missing_ok=True)
        (stage.lsp.directory / "lightning-rpc2").rename(stage.lsp.rpc_path)
        await stage.world.advance(60)
        await stage.over(invoice)
