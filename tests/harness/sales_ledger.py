"""Facts for tests: whole ones, so that a test names only what it is about."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from lsps2fast_plugin.service.sales_ledger import schema
from lsps2fast_plugin.service.sales_ledger.facts import AttemptFact, BuyFact, ChannelFact, Fact, RecordFact
from lsps2fast_plugin.service.sales_ledger.writer import LedgerWriter
from lsps2fast_plugin.service.sales_ledger.writes import write

PEER = "02" + "11" * 32
HASH = "aa" * 32
SCID = "10000001x2x3"
CHANNEL = "cc" * 32
T0 = 1_790_000_000_000  # some day in 2026
FEE_MSAT = 1_000_000


def a_buy(**facts: Any) -> BuyFact:
    """An offer that was bought."""
    usual = {"jit_scid": SCID, "peer_id": PEER, "created_ms": T0, "valid_until_ms": T0 + 86_400_000}
    terms = {"min_fee_msat": FEE_MSAT, "proportional_ppm": 10_000, "min_lifetime_blocks": 1_008}
    more = {"capacity_sat": 200_000, "client_trusts_lsp": False, "band": "fee_line 1"}
    return BuyFact(**(usual | terms | more | facts))


def an_attempt(**facts: Any) -> AttemptFact:
    """A payment that has begun."""
    usual: dict[str, Any] = {"jit_scid": SCID, "payment_hash": HASH, "began_ms": T0 + 1_000, "peer_id": PEER}
    return AttemptFact(**(usual | {"fee_agreed_msat": FEE_MSAT, "amount_msat": 10_000_000, "parts": 2} | facts))


def a_sale(**facts: Any) -> AttemptFact:
    """A payment that went through."""
    ended = {"outcome": "Succeeded", "fee_taken_msat": FEE_MSAT, "ended_ms": T0 + 5_000, "channel_id": CHANNEL}
    return an_attempt(**(ended | facts))


def a_channel(**facts: Any) -> ChannelFact:
    """A channel whose funding was sent."""
    usual: dict[str, Any] = {"channel_id": CHANNEL, "jit_scid": SCID, "peer_id": PEER, "capacity_sat": 200_000}
    return ChannelFact(**(usual | {"locked_ms": T0 + 2_000, "sent_ms": T0 + 3_000} | facts))


def a_record(**facts: Any) -> RecordFact:
    """The journal's word that a sale succeeded."""
    usual: dict[str, Any] = {"jit_scid": SCID, "peer_id": PEER, "outcome": "Succeeded", "payment_hash": HASH}
    return RecordFact(
        **(usual | {"fee_agreed_msat": FEE_MSAT, "fee_paid_msat": FEE_MSAT, "ended_ms": T0 + 6_000} | facts)
    )


class Closing(sqlite3.Connection):
    """Closed when it is let go: Python 3.13 warns of one that is not."""

    def __del__(self) -> None:
        self.close()


def memory(*facts: Fact) -> sqlite3.Connection:
    """A ledger in memory that was told these facts."""
    # The garbage collector runs on any thread, also on that of a writer that is being tried.
    db = sqlite3.connect(":memory:", isolation_level=None, factory=Closing, check_same_thread=False)
    schema.migrate(db)
    for fact in facts:
        write(db, fact)
    return db


def table(db: sqlite3.Connection, columns: str = "outcome, fee_taken_msat", name: str = "attempts") -> list[Any]:
    """Rows of a table."""
    return db.execute(f"SELECT {columns} FROM {name} ORDER BY 1").fetchall()


class Desk:
    """A writer on a file, and what it says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.alarms: list[str] = []
        self.caught_up = 0
        self.writer = LedgerWriter(
            str(path), alarm=self.alarms.append, on_caught_up=self._caught_up, first_pause_s=0.01
        )
        self.writer.start()

    def _caught_up(self) -> None:
        self.caught_up += 1

    def written(self, patience_s: float = 10.0) -> bool:
        """Whether all that was put in is written within this time."""
        done = threading.Event()
        self.writer.put(done.set)
        return done.wait(patience_s)

    def told(self, condition: Any, patience_s: float = 10.0) -> bool:
        """Wait on the writer's thread for something."""
        deadline = threading.Event()
        for _ in range(round(patience_s / 0.01)):
            if condition():
                return True
            deadline.wait(0.01)
        return False

    def rows(self, columns: str = "outcome, fee_taken_msat", name: str = "attempts") -> list[Any]:
        """Rows of a table, read from the file."""
        db = sqlite3.connect(self.path)
        try:
            return table(db, columns, name)
        finally:
            db.close()
