"""Capital in channels that are unpaid: counted from when it is promised to the chain, journalled if owed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from logs import Log

from lsps2fast.actions import Channel, Journal
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast.table import State
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.options import DEFAULT_LINE
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.session_store import StoredSession

from .desk import ALICE, BOB, WALL_MS, Datastore, StillClock, settings

PARAMS: FeeParams = DEFAULT_LINE.params(WALL_MS)
CAPACITY_SAT = 100_000
TRUST = ("lsps", "lsps2", "trust")


def buy(jit_scid: int = 1, peer_id: str = ALICE, client_trusts_lsp: bool = False) -> Buy:
    """A buy of a channel of 100,000 sat."""
    return Buy(jit_scid, peer_id, PARAMS, 10**7, 144, client_trusts_lsp, WALL_MS, CAPACITY_SAT)


def channel_of(jit_scid: int) -> str:
    """The id of its channel."""
    return f"{jit_scid:064x}"


class Books:
    """An exposure with a policy and a datastore of its own; writes are over when `settle` returns."""

    def __init__(self, datastore: Datastore | None = None, budget_sat: int = 250_000) -> None:
        self.datastore = datastore or Datastore()
        self.clock = StillClock()
        self.log = Log()
        self.work: list[asyncio.Task[None]] = []
        rules = settings(lsps2_capital_budget_sat=budget_sat).rules
        self.policy = Policy(rules)
        self.ledger = self.policy.ledger
        self.exposure = CapitalAtRisk(self.policy, DatastoreRecords(self.datastore), self.clock, self.begin)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry out a write in the background."""
        self.work.append(asyncio.ensure_future(work))

    async def settle(self) -> None:
        """Everything that was to be written is."""
        work, self.work = self.work, []
        await asyncio.gather(*work)

    def open(self, *buys: Buy) -> None:
        """Channels of these buys are on chain."""
        for each in buys:
            assert self.exposure.may_open(each)
            self.exposure.session_changed(each, State.COLLECTING, State.OPENING)
            self.exposure.sent(each, channel_of(each.jit_scid))

    def fail(self, each: Buy, old: State = State.AWAITING_SETTLEMENT, new: State = State.FAILED) -> None:
        """The payment on this buy ends unpaid."""
        self.exposure.session_changed(each, old, new)

    def records(self) -> dict[str, Any]:
        """What is on disk, by peer."""
        return {key[-1]: json.loads(bytes.fromhex(value)) for key, value in self.datastore.rows.items()}

    async def restarted(self, stored: list[StoredSession], channels: set[str]) -> Books:
        """The next run on the same datastore."""
        again = Books(self.datastore)
        await again.exposure.load()
        again.exposure.reconcile(stored, channels)
        return again


def record(each: Buy, outcome: str | None = None) -> StoredSession:
    """What the journal says of this buy."""
    journal = Journal("channel", None, 1, 0, None, Channel(channel_of(each.jit_scid), "", ""), (), None)
    return StoredSession(each, journal, outcome)


async def test_a_budget_is_kept_between_the_answer_and_the_chain() -> None:
    """No gap: what may be opened counts at once, also before it is on chain."""
    books = Books()
    assert [books.exposure.may_open(buy(scid)) for scid in (1, 2, 3)] == [True, True, False]
    assert books.exposure.at_risk_msat() == 200_000_000
    assert books.policy.refusals["capital_budget"] == 1  # type: ignore[index]
    assert books.exposure.may_open(buy(2))
    books.exposure.session_changed(buy(1), State.OPENING, State.ABORTING)
    books.exposure.session_changed(buy(1), State.ABORTING, State.FAILED)
    assert books.exposure.may_open(buy(3))


async def test_a_set_that_never_opened_frees_nothing_of_another() -> None:
    """C-14: several payments may collect on one scid; only the one that opens has capital."""
    books = Books()
    assert books.exposure.may_open(buy(1))
    books.exposure.session_changed(buy(1), State.COLLECTING, State.FAILED)
    assert books.exposure.at_risk_msat() == 100_000_000


async def test_a_client_that_trusts_us_is_no_risk() -> None:
    """O-11: its funding is kept back until it has paid."""
    books = Books(budget_sat=0)
    safe = buy(client_trusts_lsp=True)
    books.open(safe)
    assert books.exposure.at_risk_msat() == 0
    books.exposure.session_changed(safe, State.BROADCASTING, State.SUCCEEDED)
    await books.settle()
    assert books.records() == {}


async def test_an_honest_sale_costs_no_commit() -> None:
    """P16: the session's own record tells of its channel; only debts and probes are written."""
    books = Books()
    books.open(buy())
    assert books.exposure.at_risk_msat() == 100_000_000
    books.exposure.session_changed(buy(), State.AWAITING_SETTLEMENT, State.SUCCEEDED)
    await books.settle()
    assert books.exposure.at_risk_msat() == 0
    assert books.datastore.commits == 0


async def test_a_debt_is_journalled_and_forgiven_when_it_is_paid() -> None:
    """O-13: the fee stays owed by the next payment on the scid."""
    books = Books()
    books.open(buy())
    books.fail(buy(), State.AWAITING_CHANNEL_READY)
    await books.settle()
    assert books.records()[ALICE]["unpaid"][0] == 1
    assert books.ledger.is_suspect(ALICE, WALL_MS)
    books.exposure.sent(buy(), channel_of(1))
    assert books.exposure.at_risk_msat() == 100_000_000
    books.exposure.session_changed(buy(), State.AWAITING_SETTLEMENT, State.SUCCEEDED)
    await books.settle()
    assert not books.ledger.is_suspect(ALICE, WALL_MS)
    assert books.exposure.at_risk_msat() == 0
    assert books.records() == {}


@pytest.mark.parametrize(
    ("old", "new", "probes"),
    [
        (State.AWAITING_SETTLEMENT, State.ABORTING, 1),
        (State.AWAITING_SETTLEMENT, State.FAILED, 1),
        (State.AWAITING_SETTLEMENT, State.BROADCASTING, 0),
        (State.COLLECTING, State.FAILED, 0),
        (State.OPENING, State.ABORTING, 0),
        (State.AWAITING_CHANNEL_READY, State.FAILED, 0),
        (State.ABORTING, State.ABANDONED, 0),
    ],
)
async def test_a_probe_is_a_payment_that_the_client_let_fail(old: State, new: State, probes: int) -> None:
    """C-26: after a channel was made for it, in either mode; nothing else is one."""
    for trusts in (True, False):
        books = Books()
        books.exposure.session_changed(buy(client_trusts_lsp=trusts), old, new)
        assert books.ledger.probes(ALICE, WALL_MS) == probes


async def test_a_closed_channel_frees_its_capital_and_keeps_the_deed() -> None:
    """A-07: an unpaid channel may be closed any time."""
    books = Books()
    books.open(buy())
    books.fail(buy())
    books.exposure.channel_closed(channel_of(1))
    books.exposure.channel_closed(channel_of(1))
    books.exposure.channel_closed(channel_of(9))
    assert books.exposure.at_risk_msat() == 0
    assert books.ledger.is_suspect(ALICE, WALL_MS)


async def test_a_restart_finds_the_debts_and_the_channels_they_lie_in() -> None:
    """K-24, K-09: an exposure stands while its channel does, whether its buy is live or ended."""
    books = Books()
    books.open(buy(1), buy(2, BOB))
    books.fail(buy(1))
    books.fail(buy(2, BOB))
    await books.settle()
    again = await books.restarted([record(buy(1)), record(buy(2, BOB), "Failed")], {channel_of(1), channel_of(2)})
    assert again.exposure.at_risk_msat() == 200_000_000
    again.exposure.channel_closed(channel_of(2))
    assert again.exposure.at_risk_msat() == 100_000_000
    await again.settle()
    later = await again.restarted([record(buy(1))], set())
    assert later.exposure.at_risk_msat() == 0
    assert later.ledger.is_suspect(ALICE, WALL_MS)


async def test_a_record_that_cannot_be_written_is_written_later() -> None:
    """rule:11: told to the operator, tried again with the next look."""
    books = Books()
    books.fail(buy())
    books.datastore.broken = True
    await books.settle()
    assert "will be tried again" in books.log.text()
    books.datastore.broken = False
    books.exposure.save()
    await books.settle()
    assert books.records()[ALICE]["probes"][0] == 1


async def test_a_healed_peer_leaves_the_disk() -> None:
    """rule:14: the datastore does not grow for ever."""
    books = Books()
    books.fail(buy())
    await books.settle()
    books.clock.pass_ms(3 * 86_400_000)
    books.fail(buy(2, BOB))
    await books.settle()
    assert set(books.records()) == {BOB}
