"""One list of scenarios for the embedded node and the real one; `Bench` is what a scenario may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

SIZE_MSAT = 10_000_000
HALVES = [SIZE_MSAT // 2] * 2


class Bench(Protocol):
    """An LSP with our service, a wallet without channels and a payer, embedded or real."""

    async def bill(self, size_msat: int | None) -> Any:
        """Buy and invoice."""

    async def pay(
        self, bill: Any, amounts_msat: list[int], total_msat: int | None = None, probe: bool = False
    ) -> list[str]:
        """Send parts and wait for all ends: raw failure messages, "" for paid."""

    async def late(self, bill: Any, amounts_msat: list[int], total_msat: int) -> list[str]:
        """Send too few parts, turn the clock by the collect time-out, and wait for the ends."""

    async def over(self, bill: Any) -> None:
        """Wait for the final record."""

    async def refuse(self, yes: bool) -> None:
        """The wallet refuses channels from now on, or no longer."""

    async def starve(self, yes: bool) -> None:
        """All coins of the LSP are reserved by another program, or free again."""

    async def plain(self) -> None:
        """From now on the wallet's node has no anchors."""

    async def undone(self) -> None:
        """Wait until nothing is left of an attempt."""


Scenario = Callable[[Bench], Awaitable[list[list[str]]]]


async def fixed_in_parts(bench: Bench) -> list[list[str]]:
    """Five parts."""
    bill = await bench.bill(SIZE_MSAT)
    ends = await bench.pay(bill, [SIZE_MSAT // 5] * 5)
    await bench.over(bill)
    return [ends]


async def variable(bench: Bench) -> list[list[str]]:
    """No amount on the invoice."""
    bill = await bench.bill(None)
    ends = await bench.pay(bill, [7_654_321])
    await bench.over(bill)
    return [ends]


async def without_anchors(bench: Bench) -> list[list[str]]:
    """A channel of the other type."""
    await bench.plain()
    bill = await bench.bill(SIZE_MSAT)
    ends = await bench.pay(bill, HALVES)
    await bench.over(bill)
    return [ends]


async def late_then_paid(bench: Bench) -> list[list[str]]:
    """The rest stays away for 90 s; then everything comes."""
    bill = await bench.bill(SIZE_MSAT)
    late = await bench.late(bill, [SIZE_MSAT // 2], SIZE_MSAT)
    ends = await bench.pay(bill, HALVES)
    await bench.over(bill)
    return [late, ends]


async def refused_then_paid(bench: Bench) -> list[list[str]]:
    """The wallet says no, then yes."""
    bill = await bench.bill(SIZE_MSAT)
    await bench.refuse(True)
    refused = await bench.pay(bill, HALVES)
    await bench.undone()
    await bench.refuse(False)
    ends = await bench.pay(bill, HALVES)
    await bench.over(bill)
    return [refused, ends]


async def no_coins_then_paid(bench: Bench) -> list[list[str]]:
    """Nothing to fund with, then something."""
    bill = await bench.bill(SIZE_MSAT)
    await bench.starve(True)
    broke = await bench.pay(bill, HALVES)
    await bench.undone()
    await bench.starve(False)
    ends = await bench.pay(bill, HALVES)
    await bench.over(bill)
    return [broke, ends]


async def probed(bench: Bench) -> list[list[str]]:
    """A hash that the wallet does not know."""
    bill = await bench.bill(SIZE_MSAT)
    await bench.pay(bill, [SIZE_MSAT], probe=True)
    await bench.undone()
    return []


SCENARIOS: tuple[Scenario, ...] = (
    fixed_in_parts,
    variable,
    without_anchors,
    late_then_paid,
    refused_then_paid,
    no_coins_then_paid,
    probed,
)
