"""Notes in bookkeeper: the right rows, tried again while it has not heard, never more than beside everything else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.logs import Log

from lsps2fast.actions import Channel
from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.bookkeeper import MOST_WAITING, PAUSES_MS, UNKNOWN_COMMAND, BookkeeperNotes, outpoint_of
from lsps2fast_plugin.service.sales_ledger.facts import AttemptFact

TXID = "af356d4a1022bbacbfc698735a2339cb3deddeb5ba5d81ddad83167047bdfb07"  # of a real node
CHANNEL_ID = "07fbbd47701683addd815dbab5deed3dcb39235a7398c6bfacbb22104a6d35ae"
PEER = "02" + "ab" * 32


class Bookkeeper:
    """Answers in turn; then that it has updated a row."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    async def call(
        self, method: str, params: dict[str, Any] | None = None, timeout_s: float | None = 60.0
    ) -> dict[str, Any]:
        self.asked.append((method, params))
        answer = self.answers.pop(0) if self.answers else {"updated": [{}]}
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, Any] = answer
        return found


def notes(bookkeeper: Bookkeeper, clock: Clock | None = None) -> tuple[BookkeeperNotes, list[asyncio.Task[None]]]:
    tasks: list[asyncio.Task[None]] = []
    found = BookkeeperNotes(
        bookkeeper, lambda work: tasks.append(asyncio.create_task(work)), clock or Clock(), wanted=True
    )
    return found, tasks


def sale(number: int = 1, fee_msat: int = 1_000_500) -> AttemptFact:
    who: dict[str, Any] = {"jit_scid": f"{number}x1x1", "payment_hash": f"{number:064x}", "peer_id": PEER}
    return AttemptFact(began_ms=1, fee_taken_msat=fee_msat, **who)


@pytest.mark.parametrize(("ending", "number"), [("35af", 0), ("35ae", 1), ("35ad", 2), ("cacf", 65_376)])
def test_the_output_follows_from_the_channel_id(ending: str, number: int) -> None:
    """BOLT 2: the channel id is the txid, its last two bytes altered by the number of the output."""
    channel = Channel(channel_id=CHANNEL_ID[:-4] + ending, signed_psbt="", funding_txid=TXID)
    assert outpoint_of(channel) == f"{TXID}:{number}"


async def test_a_sale_is_noted_at_its_payment_and_its_funding() -> None:
    """operator:O11: once each, with what a bookkeeper asks for: fee, scid, client."""
    bookkeeper = Bookkeeper()
    books, tasks = notes(bookkeeper)
    books.funding_sent(PEER, Channel(channel_id=CHANNEL_ID, signed_psbt="", funding_txid=TXID))
    books.ended(sale())
    books.ended(sale(2, fee_msat=0))  # no fee came: it is no row of ours
    await asyncio.gather(*tasks)
    text = f"LSPS2 opening fee 1,000.500 sat, jit scid 1x1x1, client {PEER}"
    assert bookkeeper.asked == [
        (
            "bkpr-editdescriptionbyoutpoint",
            {"outpoint": f"{TXID}:1", "description": f"LSPS2 JIT channel, client {PEER}"},
        ),
        ("bkpr-editdescriptionbypaymentid", {"payment_id": f"{1:064x}", "description": text}),
    ]
    assert len(tasks) == 1


def test_unless_it_is_asked_for_bookkeeper_is_left_alone() -> None:
    """cln:N12: any call of ours may end bookkeeper, and lightningd with it."""
    bookkeeper, tasks = Bookkeeper(), []  # type: ignore[var-annotated]
    books = BookkeeperNotes(bookkeeper, tasks.append, Clock(), wanted=False)
    books.funding_sent("02" * 33, Channel("ab" * 32, "psbt", "ab" * 32))
    assert (tasks, bookkeeper.asked) == ([], [])


async def test_a_node_without_bookkeeper_is_asked_once() -> None:
    """operator:O11: then never again in this life of the plugin."""
    bookkeeper = Bookkeeper(NodeError("bkpr", UNKNOWN_COMMAND, "Unknown command"))
    books, tasks = notes(bookkeeper)
    for number in range(9):
        books.ended(sale(number))
    await asyncio.gather(*tasks)
    books.ended(sale(10))
    assert books.is_absent
    assert len(bookkeeper.asked) == len(tasks) == 1


@pytest.mark.parametrize("answer", [{"updated": []}, {}, NodeError("bkpr", -1, "busy")])
async def test_a_row_that_comes_later_is_waited_for_and_in_the_end_left_out(answer: Any) -> None:
    """operator:O11: with growing pauses; one line of the log, no alarm."""
    log, clock, bookkeeper = Log(), Clock(), Bookkeeper(*[answer] * (len(PAUSES_MS) + 1))
    books, tasks = notes(bookkeeper, clock)
    books.ended(sale(1))
    books.ended(sale(2))
    for number, pause_ms in enumerate(PAUSES_MS, 1):
        while len(bookkeeper.asked) < number:  # noqa: ASYNC110  (the other task runs on this loop)
            await asyncio.sleep(0)
        clock.advance(pause_ms / 1000)
    await asyncio.gather(*tasks)
    assert [params["payment_id"] for _, params in bookkeeper.asked] == [f"{1:064x}"] * 4 + [f"{2:064x}"]
    assert f"row of {1:064x} was not annotated" in log.text("info")
    assert f"{2:064x}" not in log.text("info")


async def test_more_sales_than_bookkeeper_can_take() -> None:
    """rule:14: what waits is bounded, and the newest are kept."""
    books, tasks = notes(Bookkeeper())
    for number in range(MOST_WAITING + 10):
        books.ended(sale(number))
    assert len(books._waiting) == MOST_WAITING
    await asyncio.gather(*tasks)
