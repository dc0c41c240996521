"""Opens that take another course than asked for: lightningd's own fall-backs, answers that make no channel."""

from __future__ import annotations

from typing import Any

import pytest
from harness.channel_types import ANCHORS, PLAIN, TIGHT, asked_for
from harness.channel_types import THIRTY_PARTS_MSAT as SIZE_MSAT
from harness.service import TEMPORARY, UNKNOWN, Stage

from lsps2fast_plugin.cln.channel_types import opened_instead
from lsps2fast_plugin.service.opening import NO_SUCH_TYPE, NOT_TO_BE_TAKEN


def opened(stage: Stage) -> list[list[int]]:
    """Types of the channels that were made, the payer's two apart."""
    return [list(channel.channel_type) for channel in stage.world.channels if channel.private]


def free(stage: Stage) -> bool:
    """No coin is set aside."""
    return not any(row["reserved"] for row in stage.lsp.wallet.rows())


@pytest.mark.parametrize(
    ("answer", "other"),
    [
        ({"channel_type": {"bits": [12, 46, 50], "names": []}}, (12, 46, 50)),
        ({"channel_type": {"bits": [12]}}, (12,)),
        ({"channel_type": {"bits": [12, 40, 46]}}, (12, 40, 46)),
        ({"channel_type": {"bits": [12, 22, 46, 50]}}, None),
        ({"channel_type": {"bits": [22, 12]}}, None),
        ({}, None),
        ({"channel_type": None}, None),
        ({"channel_type": {"names": ["anchors/even"]}}, None),
        ({"channel_type": {"bits": ["12"]}}, None),
        ({"channel_type": {"bits": [True]}}, None),
        ([], None),
    ],
)
def test_what_is_opened_instead_is_read_from_the_answer(answer: object, other: tuple[int, ...] | None) -> None:
    """cln:O19: variants of the same type, in any order, are what was asked for; so is an answer that names no type."""
    assert opened_instead(answer, (12, 22, 46, 50)) == other


async def test_a_node_that_falls_back_by_itself_gets_a_channel_of_the_right_size(mode: str) -> None:
    """cln:O19, O-03: lightningd asked for no anchors when the client refused them; the channel was sized for the other.

    That open is ended, and the type that works is asked for with its own size: thirty parts fit. The next sale begins
    there.
    """
    async with Stage(mode, options=TIGHT, wallet_sat=(2_000_000,) * 4, fresh=True) as stage:
        stage.lsp.falls_back = frozenset({22})
        client, payer = stage.client(reject_types=frozenset({22})), stage.payer()
        invoice = await stage.invoice(client, SIZE_MSAT)
        await stage.paid(payer, invoice, [SIZE_MSAT // 30] * 30)
        await stage.over(invoice)
        assert asked_for(stage) == [ANCHORS, PLAIN]
        first, second = (call["amount"] for call in stage.calls("fundchannel_start"))
        assert first != second
        assert len(stage.calls("fundchannel_cancel")) == 1
        assert opened(stage) == [PLAIN]
        await stage.sale(client, payer)
        assert asked_for(stage)[2:] == [PLAIN]
        stage.world.mine()
        assert free(stage)


async def test_a_client_that_answers_with_another_type_is_asked_for_that_one(mode: str) -> None:
    """O-08: it cannot say no and names what it wants instead; lightningd ends the open, as BOLT 2 demands."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(accepts_as=tuple(PLAIN)), stage.payer()
        await stage.sale(client, payer)
        assert asked_for(stage) == [ANCHORS, PLAIN]
        assert opened(stage) == [PLAIN]
        stage.world.mine()


@pytest.mark.parametrize("words", NOT_TO_BE_TAKEN)
async def test_an_answer_of_which_no_channel_can_be_made_is_the_clients_no(words: str) -> None:
    """O-08: lightningd's objections to an `accept_channel`; after the last type the payer looks elsewhere.

    The offer lives: once the client answers well, the payment goes through.
    """
    async with Stage(fresh=True) as stage:
        stage.lsp.faults.fail("fundchannel_start", times=2, code=-1, message=f"{words} of another world")
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice)).raw_messages == [UNKNOWN]
        await stage.ended(invoice)
        assert asked_for(stage) == [ANCHORS, PLAIN]
        assert free(stage)
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        stage.world.mine()


@pytest.mark.parametrize(
    ("times", "answers"), [(1, [""]), (2, [TEMPORARY])], ids=["the other one is opened", "it opens neither"]
)
async def test_a_type_that_our_own_node_does_not_open_is_no_fault_of_the_client(times: int, answers: list[str]) -> None:
    """cln:O15, O-09: a lightningd without it; the other type is asked for, and with none left the trouble is ours."""
    async with Stage(fresh=True) as stage:
        stage.lsp.faults.fail("fundchannel_start", times=times, code=-32602, message=NO_SUCH_TYPE)
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice)).raw_messages == answers
        assert asked_for(stage) == [ANCHORS, PLAIN]
        if answers == [TEMPORARY]:
            await stage.ended(invoice)
            await stage.paid(payer, invoice)
        await stage.over(invoice)
        stage.world.mine()
        assert free(stage)


@pytest.mark.parametrize(
    "error",
    [
        {"code": -1, "message": "Already funding channel"},
        {"code": -1, "message": "Cannot estimate fees"},
        {"code": -1, "message": "Owning subdaemon openingd died (62208)"},
        {
            "code": -1,
            "message": "Not opening because if they used the same setting as us to_self_delay 6 larger than 5",
        },
        {"code": 306, "message": "Unknown peer"},
        {"code": 312, "message": "Peer negotiated `option_dual_fund`, must use `openchannel_init`"},
    ],
    ids=lambda error: error["message"][:20],
)
async def test_trouble_that_no_other_type_mends_fails_once_and_temporarily(error: dict[str, Any]) -> None:
    """O-09, rule:6: nothing about the type, so it is not asked for another; the retry is paid."""
    async with Stage(fresh=True) as stage:
        stage.lsp.faults.fail("fundchannel_start", **error)
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice)).raw_messages == [TEMPORARY]
        await stage.ended(invoice)
        assert asked_for(stage) == [ANCHORS]
        await stage.paid(payer, invoice)
        await stage.over(invoice)
        stage.world.mine()
        assert free(stage)


async def test_a_node_that_funds_from_both_sides_is_told_what_that_costs() -> None:
    """cln:O19: once at the start, with the line to remove."""
    async with Stage(fresh=True, ready=False) as stage:
        await stage.selling()
        assert stage.log_lines("experimental-dual-fund") == []
        stage.lsp.extra = {29}
        await stage.stop()
        await stage.start()
        assert len(stage.log_lines("remove that line from the configuration")) == 1


LARGE = {
    "lsps2-max-channel-sat": 40_000_000,
    "lsps2-channel-headroom-sat": 20_000_000,
    "lsps2-capital-budget-sat": 10**9,
}


@pytest.mark.parametrize(("lacks", "capacity_sat"), [((19,), 16_777_215), ((), None)])
async def test_a_client_without_large_channels_gets_the_largest_it_can_have(
    lacks: tuple[int, ...], capacity_sat: int | None
) -> None:
    """cln:O19, O-03: 2^24 - 1 sat, where room beyond the payment would make it larger."""
    async with Stage(options=LARGE, wallet_sat=(60_000_000,), fresh=True) as stage:
        client, payer = stage.client(connected=False), stage.payer()
        client.lacks = set(lacks)
        client.connect()
        await stage.sale(client, payer)
        (start,) = stage.calls("fundchannel_start")
        assert capacity_sat in (None, start["amount"])
        assert (start["amount"] > 16_777_215) is (not lacks)
        stage.world.mine()


async def test_a_payment_too_large_for_a_client_without_large_channels_fails_for_now() -> None:
    """cln:O19, rule:6: nothing is opened or reserved."""
    size_msat = 17_000_000_000
    options = LARGE | {"lsps2-max-payment-msat": 20_000_000_000}
    async with Stage(options=options, wallet_sat=(60_000_000,), fresh=True) as stage:
        client = stage.client(connected=False)
        client.lacks = {19}
        client.connect()
        payer = stage.payer(channels=2, capacity_sat=20_000_000)
        invoice = await stage.invoice(client, size_msat)
        assert set((await payer.pay(invoice, [size_msat // 2] * 2)).raw_messages) == {TEMPORARY}
        await stage.ended(invoice)
        assert stage.calls("fundchannel_start") == []
        assert free(stage)
