"""A client that comes back from another port is the same client: its link is new, its node id is not."""

from __future__ import annotations

import pytest
from harness.service import SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import Client

HALF_MSAT = SIZE_MSAT // 2


def moves(client: Client, times: int = 3) -> None:
    """Hang up and call again, each time from another port."""
    for _ in range(times):
        client.disconnect()
        client.connect()


def ports(stage: Stage, client: Client) -> set[int]:
    """Ports that lightningd named for this client."""
    said = [entry["msg"]["params"]["connect"] for entry in stage.world.transcript.entries if _is_connect(entry)]
    return {each["address"]["port"] for each in said if each["id"] == client.node_id}


def _is_connect(entry: dict[str, object]) -> bool:
    message = entry["msg"]
    return entry["dir"] == "host>plugin" and isinstance(message, dict) and message.get("method") == "connect"


@pytest.mark.parametrize("moment", ["before it buys", "after it bought", "half is there"])
async def test_a_client_that_moves_is_sold_one_channel(mode: str, moment: str) -> None:
    """C-13, O-07: links that end and begin in the same moment leave the sale alone."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer(channels=2)
        if moment == "before it buys":
            moves(client)
        invoice = await stage.invoice(client)
        if moment == "after it bought":
            moves(client)
        payment = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        await stage.held(1)
        if moment == "half is there":
            moves(client)
        rest = payer.pay(invoice, [HALF_MSAT], total_msat=SIZE_MSAT)
        assert [(await each).raw_messages for each in (payment, rest)] == [[""], [""]]
        await stage.over(invoice)
        assert len(ports(stage, client)) == 4
        assert len(stage.calls("fundchannel_start")) == 1
        stage.world.mine()


async def test_a_complete_payment_waits_for_a_client_that_moves_slowly() -> None:
    """C-13, rule:6: away when the sum is there, back, and gone at the wrong moment: it fails for now, the retry is
    paid.
    """
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        client.go_offline()
        payment = payer.pay(invoice, [HALF_MSAT] * 2)
        await stage.held(2)
        await stage.world.advance(300)
        client.behaviour.script = {"open_channel": "flap"}
        client.connect()
        assert (await payment).raw_messages == [TEMPORARY] * 2
        await stage.ended(invoice)
        await stage.paid(payer, invoice, [HALF_MSAT] * 2)
        await stage.over(invoice)
        assert len([end for end in stage.lsp.ends if end.opener]) == 1
        stage.world.mine()


async def test_answers_go_to_the_link_of_now() -> None:
    """T-37: asked over one link, answered over the next; a buy that was stored is not lost with the link."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        for _ in range(3):
            moves(client, 1)
            menu = await client.request("lsps2.get_info")
            assert menu["opening_fee_params_menu"]
        assert (await stage.stats())["live_buys"] == 1
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        stage.world.mine()
