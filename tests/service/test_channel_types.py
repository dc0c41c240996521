"""The type of the channel that is sold, and its size: with anchors and without, at fee rates that rise right away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from harness.channel_types import ANCHORS, PLAIN, TIGHT, asked_for
from harness.channel_types import THIRTY_PARTS_MSAT as SIZE_MSAT
from harness.service import FEE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.cln.answers import PerKw
from lsps2fast_plugin.cln.channel_types import OurNode, newer_types, offers
from lsps2fast_plugin.cln.models import Configs, ConfigValue, NodeFeatures, NodeInfo
from lsps2fast_plugin.service.refused_types import RefusedTypes
from lsps2fast_plugin.simnode.feerates import Feerates
from lsps2fast_plugin.simnode.party import INIT_FEATURES

STOCK = f"{INIT_FEATURES:x}"
FLOOR = Feerates(opening=253, unilateral_close=253, unilateral_anchor_close=253)
STEEP = Feerates(opening=253, unilateral_close=12_000, unilateral_anchor_close=1_250)


def without(*bits: int) -> str:
    """Features of a stock node but these."""
    return f"{INIT_FEATURES & ~sum(1 << bit for bit in bits):x}"


@pytest.mark.parametrize(
    ("ours", "theirs", "asked"),
    [
        (STOCK, STOCK, [ANCHORS, PLAIN]),
        (STOCK, without(23), [PLAIN]),
        (without(23), STOCK, [PLAIN]),
        (STOCK, without(51), [[12, 22, 46], [12, 46]]),
        (STOCK, without(23, 51), [[12, 46]]),
        (STOCK, f"{INIT_FEATURES & ~(1 << 23) | 1 << 22:x}", [ANCHORS, PLAIN]),
        (STOCK, f"{INIT_FEATURES | 1 << 40 | 1 << 81:x}", [ANCHORS, PLAIN]),
        (STOCK, "", [[12, 46]]),
        (STOCK, None, [PLAIN]),
    ],
)
def test_the_types_follow_what_both_nodes_offer(ours: str, theirs: str | None, asked: list[list[int]]) -> None:
    """O-02: anchors only where both have them; for an unknown peer the type that all have."""
    node = OurNode()
    node.learn(NodeInfo(0, our_features=NodeFeatures(ours)), Configs())
    assert [list(bits) for bits in node.channel_types(theirs)] == asked


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        ((), []),
        ((41,), ["zero-fee commitments"]),
        ((40, 81), ["zero-fee commitments", "taproot"]),
        ((181,), ["taproot (before its specification)"]),
    ],
)
def test_types_of_tomorrow_have_their_names(bits: tuple[int, ...], names: list[str]) -> None:
    """An operator reads why a peer that wants nothing else gets no channel."""
    assert newer_types(f"{INIT_FEATURES | sum(1 << bit for bit in bits):x}") == names


def test_what_a_client_has_refused_is_remembered_for_so_many() -> None:
    """By client; the oldest gives way; who has refused everything begins anew."""
    refused, types = RefusedTypes(clients=2), [(12, 22), (12,)]
    refused.add("a", (12, 22))
    assert (refused.left("a", types), refused.left("b", types)) == ((12,), (12, 22))
    refused.add("b", (12,))
    refused.add("a", (12,))
    assert refused.left("a", types) is None
    refused.add("c", (12,))
    assert (refused.left("b", types), refused.left("a", types)) == ((12, 22), None)
    refused.forget("a")
    assert refused.left("a", types) == (12, 22)


def test_a_feature_is_offered_by_either_of_its_bits() -> None:
    """BOLT 9: even is required, odd is optional; both are offered."""
    assert [offers(features, 22) for features in ("400000", "800000", "200000", "1000000", "")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("perkw", "configs", "plain", "anchors"),
    [
        ({"opening": 253, "unilateral_close": 253, "unilateral_anchor_close": 1250}, {}, 258, 1255),
        ({"opening": 100, "unilateral_close": 110, "unilateral_anchor_close": 120, "min_acceptable": 90}, {}, 258, 258),
        ({"opening": 9_000, "unilateral_close": 4_000, "unilateral_anchor_close": 2_000}, {}, 9_005, 2_005),
        ({"unilateral_close": 4_000}, {"commit-feerate-offset": 100}, 4_100, 4_200),
    ],
)
def test_commitments_cost_what_lightningd_raises_them_to(
    perkw: dict[str, Any], configs: dict[str, int], plain: int, anchors: int
) -> None:
    """O-03, cln:O11: the higher of the opening and the closing rate, commit-feerate-offset on top, never below 253."""
    node = OurNode()
    node.learn(
        NodeInfo(0, our_features=NodeFeatures(STOCK)), Configs({name: ConfigValue(n) for name, n in configs.items()})
    )
    assert tuple(node.commitment_rates(PerKw(**{"min_acceptable": 253} | perkw))) == (plain, anchors)


async def lacking(stage: Stage, bits: Iterable[int]) -> Any:
    """A wallet whose node has not these features."""
    client = stage.client(connected=False)
    client.lacks = set(bits)
    client.connect()
    return client


@pytest.mark.parametrize(
    ("lacks", "asked", "becomes"),
    [((), ANCHORS, ANCHORS), ((23,), PLAIN, PLAIN), ((51,), [12, 22, 46], [12, 22, 46])],
)
async def test_a_sale_over_the_best_channel_both_can_have(
    mode: str, lacks: tuple[int, ...], asked: list[int], becomes: list[int]
) -> None:
    """O-02: type asked for, type of the channel, type in the journal; private, zero-conf, over its alias."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = await lacking(stage, lacks), stage.payer()
        client.behaviour.on_part = "hold"
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [5_000_000] * 2)
        await stage.until(lambda: len(client.received) == 2, "both parts at the wallet")
        (record,) = stage.records("active").values()
        assert record["lsps2fast"]["funding"]["channel_type"] == asked
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        (start,) = stage.calls("fundchannel_start")
        assert (start["channel_type"], start["announce"], start["mindepth"]) == (asked, False, 0)
        (row,) = (await stage.lsp.call("listpeerchannels", {"id": client.node_id}))["channels"]
        assert row["channel_type"]["bits"] == becomes
        assert row["private"]
        stage.world.mine()


@pytest.mark.parametrize("lacks", [(), (23,)])
@pytest.mark.parametrize("feerates", [Feerates(), FLOOR, STEEP], ids=["steady", "floor", "steep"])
async def test_the_smallest_channel_carries_thirty_parts(lacks: tuple[int, ...], feerates: Feerates) -> None:
    """O-03, cln:O11: no room beyond the payment, no part is dust, and the fee rate rises before the first one goes
    out.
    """
    async with Stage(options=TIGHT, wallet_sat=(2_000_000,) * 2) as stage:
        stage.lsp.feerates = feerates
        client, payer = await lacking(stage, lacks), stage.payer()
        invoice = await stage.invoice(client, SIZE_MSAT)
        await stage.paid(payer, invoice, [SIZE_MSAT // 30] * 30)
        await stage.over(invoice)
        assert invoice.fee_taken_msat == max(FEE_MSAT, SIZE_MSAT // 100)
        (channel,) = [channel for channel in stage.world.channels if channel.private]
        assert channel.feerate_perkw == channel.raised_perkw
        stage.world.mine()


async def test_a_peer_that_changed_its_mind_refuses_and_the_retry_is_paid() -> None:
    """O-08: between reserving and opening the wallet came back with other features: a no of the client, no loss."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        start = stage.lsp.faults.hang("fundchannel_start")
        payment = payer.pay(invoice)
        await start.reached.wait()
        client.lacks.add(23)
        start.release()
        assert (await payment).paid
        await stage.over(invoice)
        assert [call["channel_type"] for call in stage.calls("fundchannel_start")] == [ANCHORS, PLAIN]


# A client that refuses a type ------------------------------------------------------------------------


@pytest.mark.parametrize("feerates", [Feerates(), STEEP], ids=["steady", "steep"])
async def test_a_wallet_that_refuses_anchors_is_paid_by_the_same_payment(mode: str, feerates: Feerates) -> None:
    """O-08: an ldk-node without coins; its size is worked out anew, and thirty parts fit.

    The next sale asks at once for what it took.
    """
    async with Stage(mode, options=TIGHT, wallet_sat=(2_000_000,) * 4, fresh=True) as stage:
        stage.lsp.feerates = feerates
        client, payer = stage.client(reject_types=frozenset({22})), stage.payer()
        invoice = await stage.invoice(client, SIZE_MSAT)
        await stage.paid(payer, invoice, [SIZE_MSAT // 30] * 30)
        await stage.over(invoice)
        assert asked_for(stage) == [ANCHORS, PLAIN]
        (record,) = stage.records("finalized").values()
        assert record["lsps2fast"]["attempts"] == 1
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
        await stage.sale(client, payer)
        assert asked_for(stage) == [ANCHORS, PLAIN, PLAIN]
        stage.world.mine()


async def test_one_coin_does_for_a_wallet_that_refuses_anchors(mode: str) -> None:
    """O-08, rule:9: the coins of the channel that it did not want pay for the other."""
    async with Stage(mode, wallet_sat=(2_000_000,)) as stage:
        client, payer = stage.client(reject_types=frozenset({22})), stage.payer()
        invoice = await stage.invoice(client)
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert asked_for(stage) == [ANCHORS, PLAIN]
        stage.world.mine()


async def test_only_a_client_that_refuses_every_type_fails_the_payment() -> None:
    """O-08: `unknown_next_peer` once, after both; the next payment begins with the best again."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(reject_types=frozenset({12})), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice)).raw_messages == ["400a"]
        await stage.ended(invoice)
        client.behaviour.reject_types = frozenset()
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert asked_for(stage) == [ANCHORS, PLAIN, ANCHORS]


async def test_a_client_of_tomorrow_is_named_in_the_log() -> None:
    """It offers types that lightningd cannot open, and refuses the others."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(connected=False, reject_types=frozenset({12})), stage.payer()
        client.extra = {41, 81}
        client.connect()
        invoice = await stage.invoice(client)
        await payer.pay(invoice)
        await stage.ended(invoice)
        words = "no other type is left; it also offers zero-fee commitments and taproot, which lightningd cannot open"
        assert len(stage.log_lines(words)) == 1


async def test_a_node_that_stumbles_over_the_second_type_fails_temporarily() -> None:
    """O-09: our trouble is not the client's no; nothing stays reserved, and the retry is paid."""
    async with Stage(fresh=True) as stage:
        client, payer = stage.client(reject_types=frozenset({22})), stage.payer()
        invoice = await stage.invoice(client)
        stage.lsp.faults.fail("unreserveinputs", code=-1, message="busy")
        assert (await payer.pay(invoice)).raw_messages == [TEMPORARY]
        await stage.ended(invoice)
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        assert not any(row["reserved"] for row in stage.lsp.wallet.rows())
