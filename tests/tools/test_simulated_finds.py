"""What `lsps2fast simulate` found, each as the shortest story, on simulated time."""

from __future__ import annotations

import asyncio
from typing import Any

from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.simnode.client import Client
from lsps2fast_plugin.simnode.payer import Payer, Payment
from lsps2fast_plugin.tools.simulate.town import Town, play

SIZE_MSAT = 50_000_000


def town(mode: str) -> Town:
    """An LSP with coins."""
    return Town(1, plugin=["lsps2fast-service"], options={"lsps2-trust-mode": mode}, wallet_sat=(1_000_000,) * 4)


async def sold(wallet: Client, payer: Payer, parts_msat: list[int]) -> Payment:
    """A buy of this wallet, and the parts on their way."""
    menu = await wallet.request("lsps2.get_info")
    offer = menu["opening_fee_params_menu"][0]
    bought = await wallet.request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)})
    fee_msat = FeeParams.from_json(offer).fee_msat(SIZE_MSAT) or 0
    delta, scid = bought["lsp_cltv_expiry_delta"], bought["jit_channel_scid"]
    invoice = wallet.invoice(SIZE_MSAT, scid, opening_fee_msat=fee_msat, cltv_delta=delta)
    payment = payer.pay(invoice, parts_msat)
    await asyncio.sleep(10)
    return payment


async def restarted(world: Town) -> dict[str, Any]:
    """What `lsps2-stats` says after the plugin was killed and came back."""
    argv, options, env = world.lsp.plugin_plans[0]
    await world.lsp.kill_plugin()
    await world.lsp.start_plugin(argv, options, env)
    await asyncio.sleep(10)
    stats: dict[str, Any] = await world.lsp.call("lsps2-stats")
    return stats


def test_a_start_counts_a_withheld_channel_that_shuts_down_while_its_part_is_held() -> None:
    """rule:18, people:S11: its coins are bound until the part has ended, so a restart still counts them, in each
    figure of the operator's.
    """

    async def story() -> tuple[int, int, list[int]]:
        async with town("client-trusts-lsp") as world:
            payer = world.payer("payer", 1, 100_000_000)
            wallet = world.client("alice", on_part="hold")
            await asyncio.sleep(1)
            payment = await sold(wallet, payer, [SIZE_MSAT])
            wallet.send_shutdown()
            await asyncio.sleep(10)
            capacity_sat = wallet.ends[0].channel.capacity_sat
            stats = await restarted(world)
            at_risk_msat: int = stats["at_risk_msat"]
            withheld = [stats["withheld_channels"]]
            for part in wallet.held():
                wallet.fail(part)
            await payment
            await asyncio.sleep(3_600)
            withheld.append((await world.lsp.call("lsps2-stats"))["withheld_channels"])
            return at_risk_msat, capacity_sat * 1000, withheld

    at_risk_msat, capacity_msat, withheld = play(story)
    assert at_risk_msat == capacity_msat
    assert withheld == [1, 0]


def test_an_undo_that_waits_for_a_held_part_asks_seldom_and_is_no_alarm() -> None:
    """people:S11: a client that shuts its channel down and holds a part for a day: no question a minute, no flood in
    the log.
    """

    async def story() -> tuple[int, list[str], bool]:
        async with town("client-trusts-lsp") as world:
            payer = world.payer("payer", 1, 100_000_000)
            wallet = world.client("alice", on_part="hold")
            await asyncio.sleep(1)
            payment = await sold(wallet, payer, [SIZE_MSAT])
            said: list[str] = []
            asked = 0

            def listen(entry: dict[str, Any]) -> None:
                nonlocal asked
                message = entry["msg"]
                asked += message.get("method") == "listpeerchannels"
                if message.get("method") == "log" and message["params"]["level"] == "warn":
                    said.append(message["params"]["message"])

            wallet.send_shutdown()
            await asyncio.sleep(3_600)
            world.transcript.listeners.append(listen)
            await asyncio.sleep(86_400)
            for part in wallet.held():
                wallet.fail(part)
            await payment
            await asyncio.sleep(3_600)
            stats = await world.lsp.call("lsps2-stats")
            return asked, said, stats["at_risk_msat"] == 0

    asked, said, is_free = play(story)
    assert is_free
    assert asked <= 24 * 6 + 12
    assert len(said) <= 10
    assert not [text for text in said if "ALARM: undoing" in text]


def test_a_withheld_channel_whose_part_is_overdue_is_gone_and_the_payer_is_told() -> None:
    """rule:5, cln:A1: nothing of it can go on chain; the payer's part fails before it would have to close by force."""

    async def story() -> tuple[list[int], int]:
        async with town("client-trusts-lsp") as world:
            payer = world.payer("payer", 1, 100_000_000)
            wallet = world.client("alice", on_part="hold")
            await asyncio.sleep(1)
            payment = await sold(wallet, payer, [SIZE_MSAT])
            for _ in range(20):
                world.mine()
                await asyncio.sleep(60)
            result = await payment
            return result.codes, len(payer.force_closed)

    assert play(story) == ([204], 0)
