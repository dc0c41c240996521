"""rule:27, wallet:W0: an LSP routes through the wallet, in over a channel it never funds and out over a real one."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from harness import two_processes as sale
from harness.two_processes import CLIENT_TRUSTS, LSP_TRUSTS, Opening, Pair

from lsps2fast_plugin.simnode import Node, tlv
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.party import connect

pytestmark = pytest.mark.slow
DRAINED_MSAT = 50_000_000
EVIL = [sys.executable, "-m", "lsps2fast_plugin.tools.demo.evil_lsp", "drain"]


@pytest.fixture(autouse=True)
def evil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sale, "SERVICE", EVIL)


class Drain:
    """Payer → LSP → the channel in question → wallet → the wallet's real channel → Bob."""

    def __init__(self, pair: Pair, bob: Node, real: End) -> None:
        self.pair, self.bob, self.real = pair, bob, real
        self.others: list[End] = []  # the LSP's channels that are not for sale
        self.before_msat = real.to_us_msat

    @property
    def jit(self) -> End:
        return next(end for end in self.pair.wallet.ends if end is not self.real and end not in self.others)

    async def route(self, label: str = "x", over: End | None = None) -> list[str | None]:
        """Try it, over the JIT channel or another one; how the parts failed, None for one that arrived."""
        way = (over or self.jit).other.scid_now()
        pair, height = self.pair, self.pair.world.chain.height
        target = await self.bob.call("invoice", {"amount_msat": DRAINED_MSAT, "label": label, "description": "x"})
        secret = bytes.fromhex(target["payment_secret"])
        sent_msat = DRAINED_MSAT + 1 + DRAINED_MSAT * 10 // 1_000_000 + 10
        out = tlv.hop_payload(DRAINED_MSAT, height + 12, self.real.scid_now())
        last = tlv.hop_payload(DRAINED_MSAT, height + 12, payment_secret=secret, total_msat=DRAINED_MSAT)
        hops = [
            (bytes.fromhex(pair.world.lsp.node_id), tlv.hop_payload(sent_msat, height + 32, way)),
            (bytes.fromhex(pair.wallet.node_id), out),
            (bytes.fromhex(self.bob.node_id), last),
        ]
        payment_hash = bytes.fromhex(target["payment_hash"])
        result = await pair.payer.send_along(payment_hash, hops, sent_msat + 2_000, height + 176)
        return [part.failcodename if part.code else None for part in result.parts]


@asynccontextmanager
async def town(opened: Opening, mode: str, **options: Any) -> AsyncIterator[Drain]:
    """Both plugins, and Bob, to whom the wallet has 1,000,000 sat of its own."""
    async with opened(mode, **options) as pair:
        bob = pair.world.add_node("bob")
        await bob.start()
        connect(pair.wallet, bob)
        yield Drain(pair, bob, pair.world.add_channel(pair.wallet, bob, 1_000_000))


async def test_w0_nothing_is_forwarded_in_over_a_channel_without_funding(opened: Opening) -> None:
    """wallet:W0, rule:27: default settings, while the purchase's own parts are held; the owner hears why."""
    async with town(opened, LSP_TRUSTS) as drain:
        invoice = await drain.pair.invoice()
        payment = drain.pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        await drain.pair.until(lambda status: status["held_parts"] == 2, "both parts held")
        assert await drain.route() == ["WIRE_TEMPORARY_NODE_FAILURE"]
        assert drain.real.to_us_msat == drain.before_msat
        reports = [each["report"] for each in (await drain.pair.status())["reports"]]
        assert any("to be forwarded over channel" in each and "not seen" in each for each in reports)
        assert not payment.done


async def test_w0_nor_after_the_alarm(opened: Opening) -> None:
    """wallet:W0: the purchase was paid on trust, nothing was funded, the LSP is distrusted; over restarts, too."""
    async with town(opened, CLIENT_TRUSTS) as drain:
        invoice = await drain.pair.invoice(client_trusts_lsp=True)
        assert (await drain.pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)).codes == [0, 0]
        await drain.pair.until(lambda status: status["approvals"][0]["state"] == "paid", "the payment known")
        assert await drain.route("owed") == ["WIRE_TEMPORARY_NODE_FAILURE"]
        await drain.pair.wallet.call("lsps2-dev-advance", {"seconds": 700})
        await drain.pair.until(lambda status: status["lsps"][0]["broke_its_word"], "the alarm")
        assert await drain.route("missing") == ["WIRE_TEMPORARY_NODE_FAILURE"]
        drain.pair.wallet.sigkill()
        await drain.pair.wallet.start()
        await drain.pair.until(lambda status: status["lsps"][0]["broke_its_word"], "the wallet back")
        assert await drain.route("after a restart") in (
            ["WIRE_TEMPORARY_NODE_FAILURE"],
            ["WIRE_TEMPORARY_CHANNEL_FAILURE"],
        )
        assert drain.real.to_us_msat == drain.before_msat


async def test_w0_over_a_real_channel_forwards_go_on(opened: Opening) -> None:
    """wallet:W0: also over another channel of the very LSP, while the one it sells has no funding."""
    async with town(opened, LSP_TRUSTS) as drain:
        good = drain.pair.world.add_channel(drain.pair.world.lsp, drain.pair.wallet, 1_000_000).other
        drain.others.append(good)
        invoice = await drain.pair.invoice()
        drain.pair.payer.pay(invoice["bolt11"], [12_000_000, 8_000_000], final_delta=13)
        await drain.pair.until(lambda status: status["held_parts"] == 2, "both parts held")
        assert await drain.route("jit") == ["WIRE_TEMPORARY_NODE_FAILURE"]
        assert await drain.route("good", good) == [None]
        assert drain.real.to_us_msat == drain.before_msat - DRAINED_MSAT
