"""The ledger as the service sees it: told of what happens, asked by the operator, never waited for.

Every call from the service is a few microseconds: a fact goes into the writer's queue. With `lsps2-ledger=off` nothing
is written, and payments are still followed for the log and the counters.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import sqlite3
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Final, ParamSpec, TypeVar

from lsps2fast.actions import Action, Channel, Finalize, ForgetBuy
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast.table import Input
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.cln.notifications import ForwardEvent
from lsps2fast_plugin.service.rpc_errors import NO_LEDGER, refusal
from lsps2fast_plugin.service.sales_ledger.catch_up import TermsOf, buy_fact, facts_of
from lsps2fast_plugin.service.sales_ledger.evidence import CANCELLED, Blame, of_forward, of_input
from lsps2fast_plugin.service.sales_ledger.facts import BuyEndFact, ChannelFact, CloseFact, LiveFact
from lsps2fast_plugin.service.sales_ledger.schema import uri_of
from lsps2fast_plugin.service.sales_ledger.tracker import AttemptTracker, Change, Ended
from lsps2fast_plugin.service.sales_ledger.writer import Item, LedgerWriter, LoopWriter, Many, advice
from lsps2fast_plugin.service.session_record import StoredSession

log = logging.getLogger(__name__)

OFF: Final = "off"
SETTLE_S: Final = 2.0  # a question waits so long for what has just happened to be written
Answer = TypeVar("Answer")
Given = ParamSpec("Given")


def harmless(tell: Callable[Given, None]) -> Callable[Given, None]:
    """Keep a bug in the book-keeping from the payment it is about; log it."""

    @functools.wraps(tell)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> None:
        try:
            tell(*args, **kwargs)
        except Exception:
            log.error(f"the sales ledger missed something\n{traceback.format_exc()}")

    return call


def path_of(option: str, lightning_dir: str) -> str | None:
    """Return where the ledger lies; None: there is none."""
    return None if option == OFF else os.path.join(lightning_dir, option)


@contextlib.contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """Open a ledger for reading only, also where its folder may not be written to. Raises sqlite3.Error."""
    db = sqlite3.connect(uri_of(path, "mode=ro"), uri=True)
    try:
        try:
            db.execute("SELECT 1 FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:  # no service writes it, and we may not make the files that sharing needs
            db.close()
            db = sqlite3.connect(uri_of(path, "immutable=1"), uri=True)
        yield db
    finally:
        db.close()


class SalesLedger:
    """One service's ledger."""

    def __init__(
        self,
        *,
        path: str | None,
        tracker: AttemptTracker,
        terms_of: TermsOf,
        clock: Clock,
        alarm: Callable[[str], None],
        catch_up: Callable[[], None],
        ended: Callable[[Ended], None],
        threadless: Callable[[Coroutine[Any, Any, None]], object] | None = None,
        ships: bool = False,
    ) -> None:
        """`catch_up()`: facts were lost while nothing could be written, `load` the journal again.

        `ended(payment)` hears of each payment that is over. `threadless`: write in tasks that it spawns, on no thread.
        `ships`: keep an outbox for a fleet.
        """
        self.path = path
        self.tracker = tracker
        self._terms_of = terms_of
        self._clock = clock
        self._ended = ended
        self._reading = asyncio.Lock()
        self._writer: LedgerWriter | None = None
        self._threadless = threadless is not None
        if path is not None and threadless is not None:
            self._writer = LoopWriter(path, threadless, alarm=alarm, on_caught_up=catch_up)
        elif path is not None:
            loop = asyncio.get_running_loop()

            def on_loop(call: Callable[[], None]) -> None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the plugin has ended
                    loop.call_soon_threadsafe(call)

            self._writer = LedgerWriter(
                path,
                alarm=lambda text: on_loop(lambda: alarm(text)),
                on_caught_up=lambda: on_loop(catch_up),
                ships=ships,
            )
        if self._writer is not None:
            self._writer.start()

    # What is told ---------------------------------------------------------------------------------

    def _put(self, fact: Item) -> None:
        if self._writer is not None:
            self._writer.put(fact)

    @harmless
    def bought(self, buy: Buy) -> None:
        """Record a buy."""
        if self._writer is not None:
            self._put(buy_fact(buy, self._terms_of))

    @harmless
    def bought_all(self, buys: Iterable[Buy]) -> None:
        """Record these buys, which may be many."""
        self._put(Many(buy_fact(buy, self._terms_of) for buy in tuple(buys)))

    @harmless
    def take(self, changes: Iterable[Change], actions: Iterable[Action]) -> None:
        """Sessions have changed, and these orders are about to be carried out."""
        for news in self.tracker.take(changes):
            if isinstance(news, Ended):
                self._ended(news)
            else:
                self._put(news)
        for action in actions:
            if isinstance(action, Finalize | ForgetBuy):
                scid, now_ms = format_scid(action.jit_scid), self._clock.wall_ms()
                self._put(BuyEndFact(jit_scid=scid, outcome=action.outcome, ended_ms=now_ms))

    @harmless
    def failed(self, jit_scid: int, payment_hash: bytes, kind: Input, fact: object) -> None:
        """Record the result of an action, right before a session learns it."""
        blame = of_input(kind, fact)
        if blame is not None:
            self.tracker.blame(jit_scid, payment_hash, blame)

    @harmless
    def blame(self, jit_scid: int, payment_hash: bytes, blame: Blame) -> None:
        """Record that a payment is about to fail for this reason."""
        self.tracker.blame(jit_scid, payment_hash, blame)

    @harmless
    def forward_failed(self, payment_hash: bytes, event: ForwardEvent) -> None:
        """Record a part that came back."""
        blame = of_forward(event)
        if blame is not None:
            self.tracker.blame_all(blame, payment_hash=payment_hash)

    @harmless
    def blame_holder(self, jit_scid: int, blame: Blame) -> None:
        """No channel is made for the payment under way on this scid."""
        self.tracker.blame_holder(jit_scid, blame)

    @harmless
    def cancelled(self, jit_scid: int) -> None:
        """Record that the operator takes this offer back."""
        self.tracker.blame_all(CANCELLED, jit_scid=jit_scid)

    @harmless
    def funding_sent(self, channel: Channel) -> None:
        """Bitcoind has this funding."""
        psbt, now_ms = channel.signed_psbt or None, self._clock.wall_ms()
        share_sat = channel.mining_sat
        self._put(ChannelFact(channel_id=channel.channel_id, signed_psbt=psbt, mining_sat=share_sat, sent_ms=now_ms))

    @harmless
    def channel_back(self, channel_id: str) -> None:
        """Nothing of ours is in this channel any more."""
        self._put(ChannelFact(channel_id=channel_id, released_ms=self._clock.wall_ms()))

    @harmless
    def closing_costs(self, channel: PeerChannel) -> None:
        """Record the transaction that closes this channel, as it is now."""
        if channel.is_ours and channel.last_tx_fee_msat is not None:
            self._put(ChannelFact(channel_id=channel.channel_id, close_mining_msat=channel.last_tx_fee_msat))

    @harmless
    def closed_by_rule(self, close: CloseFact) -> None:
        """Record by which rule a channel is closed; may be repeated."""
        self._put(close)

    @contextlib.contextmanager
    def reviving(self) -> Iterator[None]:
        """Within it sessions of an earlier run are restored: they are no new payments."""
        self.tracker.reviving = True
        try:
            yield
        finally:
            self.tracker.reviving = False

    @harmless
    def load(
        self, stored: Iterable[StoredSession], channels: Iterable[PeerChannel], asked_ms: int | None = None
    ) -> None:
        """Take from the journal and from lightningd whatever was missed; all sessions that go on are live.

        `asked_ms`: when lightningd was asked for its channels; one that was made since is not missed.
        """
        if self._writer is None:
            return
        wall_ms = self._clock.wall_ms() if asked_ms is None else asked_ms
        self._put(Many(facts_of(stored, tuple(channels), self._terms_of, wall_ms)))
        self._put(LiveFact(live=self.tracker.live(), at_ms=wall_ms))

    # What is asked --------------------------------------------------------------------------------

    @property
    def is_behind(self) -> bool:
        """Whether the ledger lacks something that the journal still has."""
        return self._writer is not None and (self._writer.trouble is not None or bool(self._writer.dropped))

    def state(self) -> dict[str, object]:
        """Return how the ledger is, for `lsps2-stats`."""
        writer = self._writer
        return {
            "is_kept": writer is not None,
            "written": 0 if writer is None else writer.written,
            "waiting": 0 if writer is None else len(writer),
            "trouble": None if writer is None else writer.trouble,
            "left_out": self.tracker.left_out,
            "mining_paid_msat": 0 if writer is None else writer.mining_msat,
        }

    async def settled(self) -> None:
        """Return once all that was told before is written, or cannot be written now."""
        writer = self._writer
        if writer is None or writer.trouble is not None:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def written() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)

        writer.put(written)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), SETTLE_S)

    async def ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Return the answer to a question, asked on a thread of its own. Raises MethodError with what to do."""
        path = self.path
        if path is None:
            raise refusal(NO_LEDGER, "no sales ledger is kept: lsps2-ledger is off")
        await self.settled()

        def work() -> Answer:
            with reading(path) as db:
                return question(db)

        async with self._reading:
            try:
                return work() if self._threadless else await asyncio.to_thread(work)
            except sqlite3.Error as error:
                raise refusal(NO_LEDGER, f"the sales ledger {path} cannot be read: {advice(error)}") from error

    async def close(self) -> None:
        """Write what waits and close the file."""
        if self._writer is not None and self._threadless:
            self._writer.stop()
        elif self._writer is not None:
            await asyncio.to_thread(self._writer.stop)
