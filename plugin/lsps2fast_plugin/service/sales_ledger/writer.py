"""The one thread that writes the ledger, fed by a queue: putting a fact in is all that the loop ever does.

Whatever is wrong with the file or the disk is told once, in words that say what to do, and tried again with growing
pauses; the facts wait meanwhile, the oldest of too many are dropped. Then `on_caught_up` hears that something is
missing, once the file can be written again, and the journal is read anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple

from lsps2fast_plugin.service.sales_ledger import outbox, schema
from lsps2fast_plugin.service.sales_ledger.facts import ChannelFact, Fact
from lsps2fast_plugin.service.sales_ledger.writes import mining_of, write

log = logging.getLogger(__name__)

MOST_WAITING: Final = 20_000
BATCH: Final = 500
GATHER_S: Final = 0.1  # so long facts wait for more, and a sale under way for no thread (P17)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
BUSY_S: Final = 5.0  # for another program that reads or copies the file
SYNCHRONOUS: Final = "NORMAL"  # what a power failure takes, the journal has
CACHE_KIB: Final = 1_024
JOURNAL_BYTES: Final = 4_000_000


class Many(NamedTuple):
    """Facts that are made when their turn comes, on the writer's thread: the longest journal has room in the queue."""

    facts: Iterator[Fact]


Item = Fact | Callable[[], None] | Many


_BEGIN_ANEW: Final = "move it away, and a new one is begun with what the journal remembers"
ANOTHER_PATH: Final = "give lsps2-ledger another path"


def advice(error: Exception, another: str = ANOTHER_PATH, damaged: str = _BEGIN_ANEW) -> str:
    """Return what is wrong and what an operator can do about it; `another`: how to take another file."""
    text = str(error)
    if isinstance(error, OSError):
        text = f"unable to open it: {error.strerror}"
    for part, sentence in (
        ("is full", "the disk is full: free some space"),
        ("readonly", "it is read-only: see to the rights of the file and its folder"),
        ("unable to open", f"it cannot be opened: see to the folder and its rights, or {another}"),
        ("locked", "another program has locked it: end what has the file open"),
        ("malformed", f"it is damaged: {damaged}"),
        ("not a database", f"it is no database: {damaged}"),
        ("of another program", f"{text}; {another}"),
        ("a newer lsps2fast", f"{text}: upgrade, or {another}"),
    ):
        if part in text:
            return sentence if text in sentence else f"{sentence} ({text})"
    return text


class LedgerWriter:
    """Writes facts to one file. `put`, `when_written` and the properties are for the loop's thread."""

    def __init__(
        self,
        path: str,
        *,
        alarm: Callable[[str], None],
        on_caught_up: Callable[[], None],
        first_pause_s: float = FIRST_PAUSE_S,
        ships: bool = False,
    ) -> None:
        """`alarm(text)` and `on_caught_up()` are called on the writer's thread. `ships`: keep an outbox for a fleet."""
        self.path = path
        self._ships = ships
        self._alarm = alarm
        self._on_caught_up = on_caught_up
        self._first_pause_s = first_pause_s
        self._waiting: deque[Item] = deque()
        self._batch: list[Fact | Callable[[], None]] = []  # the next ones, until they are written
        self._news = threading.Event()
        self._again = threading.Event()  # write now, the pause is over
        self._stopping = False
        self._db: sqlite3.Connection | None = None
        self._told: str | None = None
        self._kept = 0
        self.trouble: str | None = None  # why nothing can be written now
        self.dropped = 0  # facts that the journal must be asked for
        self.written = 0
        self.mining_msat = 0  # of fundings that were sent since the start
        self._thread = threading.Thread(target=self._run, name="sales-ledger", daemon=True)

    # For the loop ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def put(self, fact: Item) -> None:
        """Have a fact or many written, in their turn; a function is called in its turn, on the writer's thread."""
        if len(self) >= MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(fact)
        if callable(fact):  # for which a question waits
            self._again.set()
        self._news.set()

    def __len__(self) -> int:
        """How many facts wait, those that are yet to be made counted as one."""
        return len(self._waiting) + len(self._batch)

    def retry(self) -> None:
        """Try at once what failed."""
        self._again.set()

    def stop(self, patience_s: float = 2.0) -> None:
        """Write what waits, as far as that goes, and close the file. Blocks; not for the loop."""
        self._stopping = True
        self._news.set()
        self._again.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    # The thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = self._first_pause_s
        try:
            while self._step():
                if self.trouble is None:
                    pause_s = self._first_pause_s
                    continue
                if self._stopping:
                    break
                self._again.wait(pause_s)
                self._again.clear()
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            self._close()

    def _step(self) -> bool:
        """Write one batch, or find out that it cannot be written; False when all is done."""
        if not len(self) and (self._db is not None or self.trouble is None):
            if self._stopping:
                return False
            if self._db is not None:
                self._news.wait()
                self._again.wait(GATHER_S)
                self._again.clear()
                self._news.clear()
        try:
            if self._db is None:
                self._db = self._open()
            self._write_batch(self._db)
        except (sqlite3.Error, OSError, schema.NotOurs) as error:
            self._failed(error)
        else:
            self._worked()
        return True

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            schema.version_of(db)  # before anything is changed in a file that may not be ours
            db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            db.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA journal_size_limit = {JOURNAL_BYTES}")
            schema.migrate(db)
            (outbox.keep if self._ships else outbox.drop)(db)
        except BaseException:
            db.close()
            raise
        return db

    def _write_batch(self, db: sqlite3.Connection) -> None:
        self._fill()
        facts = [item for item in self._batch if isinstance(item, Fact)]
        if facts:
            db.execute("BEGIN IMMEDIATE")
            try:
                for fact in facts:
                    self._write(db, fact)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        done, self._batch = self._batch, []
        self.written += len(facts)
        for item in done:
            if not isinstance(item, Fact):
                item()

    def _fill(self) -> None:
        """Take what is next out of the queue, beside what could not be written before."""
        while self._waiting and len(self._batch) < BATCH:
            match self._waiting[0]:
                case Many() as many:
                    try:
                        self._batch.append(next(many.facts))
                    except StopIteration:
                        self._waiting.popleft()
                    except Exception:  # a bug of ours: what follows goes on
                        self._waiting.popleft()
                        log.error(f"the sales ledger missed something\n{traceback.format_exc()}")
                case item:
                    self._batch.append(item)
                    self._waiting.popleft()

    def _write(self, db: sqlite3.Connection, fact: Fact) -> None:
        """One that breaks a rule of the tables is a bug of ours: it is told and left out, the others go on."""
        try:
            write(db, fact)
            if isinstance(fact, ChannelFact) and fact.jit_scid is None:  # heard of now, not read from the journal
                self.mining_msat += mining_of(fact) or 0
        except (sqlite3.OperationalError, sqlite3.InternalError):
            raise
        except Exception as error:
            if type(error) is sqlite3.DatabaseError:  # the file, not the fact
                raise
            log.error(f"the sales ledger does not take {fact!r:.300}: {error}")

    def _failed(self, error: Exception) -> None:
        self._close()
        self.trouble = advice(error)
        self._kept = len(self)
        if self.trouble != self._told:
            self._told = self.trouble
            self._alarm(
                f"the sales ledger {self.path} cannot be written: {self.trouble}. Selling goes on, and what is sold "
                "is written later"
            )

    def _worked(self) -> None:
        if self._told is not None:
            log.info(f"the sales ledger {self.path} can be written again; {self._kept} facts had waited")
        self.trouble = self._told = None
        if self.dropped:
            self.dropped = 0
            self._on_caught_up()

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()


class LoopWriter(LedgerWriter):
    """The same on the loop, a turn later: for runs without threads, on simulated time, whose kill ends its tasks."""

    def __init__(
        self,
        path: str,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        *,
        alarm: Callable[[str], None],
        on_caught_up: Callable[[], None],
    ) -> None:
        super().__init__(path, alarm=alarm, on_caught_up=on_caught_up)
        self._spawn = spawn
        self._writing = False

    def start(self) -> None:
        """There is no thread."""

    def put(self, fact: Item) -> None:
        """Have a fact written in the next turn of the loop."""
        super().put(fact)
        if not self._writing:
            self._writing = True
            self._spawn(self._soon())

    def stop(self, patience_s: float = 2.0) -> None:
        """Write what waits."""
        self._write_all()

    async def _soon(self) -> None:
        await asyncio.sleep(0)
        self._writing = False
        self._write_all()

    def _write_all(self) -> None:
        """Open, write, close: a kill of this run finds no file open."""
        try:
            self._db = self._open()
            while len(self):
                self._write_batch(self._db)
        except (sqlite3.Error, OSError, schema.NotOurs) as error:
            self._failed(error)
        else:
            self._worked()
        finally:
            self._close()
