"""The wallet is killed in the middle of a purchase and of a payment; `python -m crash.client` plays every message."""

from __future__ import annotations

import pytest

from crash.nursery import Nursery
from crash.points import PLUGIN, POWER, Death

from .client import CLIENT_TRUSTS, LSP_TRUSTS, Case, Outcome, run

pytestmark = pytest.mark.slow

# The approval is stored, the invoice is made, the opening stored, the channel said yes to, the channel there, what for
# is stored, the fee of a part stored, the release stored and answered, the payment known, the record of it going.
POINTS = (
    "reply datastore#1",
    "reply createinvoice#1",
    "reply datastore#2",
    "answer openchannel#1",
    "note channel_state_changed#1",
    "reply datastore#3",
    "reply datastore#5",
    "reply datastore#6",
    "answer htlc_accepted#1",
    "note invoice_payment#1",
    "rpc deldatastore#1",
)


async def play(cases: list[Case]) -> list[Outcome]:
    async with Nursery() as nursery:
        return [await run(nursery, case) for case in cases]


def bad(outcomes: list[Outcome]) -> dict[str, tuple[str, ...]]:
    return {str(each.case): each.violations for each in outcomes if each.violations or not each.died}


@pytest.mark.parametrize("point", POINTS)
async def test_no_msat_is_lost_wherever_the_wallet_dies(point: str) -> None:
    """K-07, K-21, I-01: one channel a purchase, every invoice can be paid, books to the msat."""
    assert bad(await play([Case(CLIENT_TRUSTS, Death(kind, point)) for kind in (PLUGIN, POWER)])) == {}


@pytest.mark.parametrize("kind", [PLUGIN, POWER])
async def test_no_msat_is_lost_while_the_funding_is_waited_for(kind: str) -> None:
    """K-07, K-21, I-30: dead with both parts in its hands, or with the block in between."""
    cases = [Case(LSP_TRUSTS, Death(kind, point)) for point in ("rpc getutxout#1", "note block_added#1")]
    assert bad(await play(cases)) == {}
