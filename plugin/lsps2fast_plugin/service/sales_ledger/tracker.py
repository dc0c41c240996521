"""Follows each payment while it lives: when it reached which stage, what it was worth, who is to blame if it fails.

It hears of every change of a session right after the machine made it, asks no questions, and keeps one small object
a live session. What comes out are facts, and the end of each payment for the log and the counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from lsps2fast.lsps.buys import Buy, TokenBucket
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast.table import TERMINAL, State
from lsps2fast_plugin.service.sales_ledger.evidence import (
    BY_STAGE,
    CLIENT_AWAY,
    NOT_HELD,
    OFFER_EXPIRED,
    SHUTDOWN,
    Blame,
)
from lsps2fast_plugin.service.sales_ledger.facts import (
    ALIAS,
    REUSED,
    SUCCEEDED,
    UNDERPAID,
    AttemptFact,
    ChannelFact,
    Fact,
)

SLACK_MS: Final = 1_000
Key = tuple[int, bytes]  # jit scid, payment hash
Change = tuple[int, bytes, int | None, int, int, int, bool]
STAGES: Final = {
    State.OPENING: "opening_ms",
    State.AWAITING_CHANNEL_READY: "channel_ms",
    State.AWAITING_SETTLEMENT: "forwarded_ms",
    State.BROADCASTING: "claimed_ms",
}
IDLE_PER_S, IDLE_AT_ONCE = 1 / 30, 1_000  # attempts written that came to nothing before anything was made (rule:14)


class Ended(NamedTuple):
    """A payment is over."""

    attempt: AttemptFact
    stage: State  # where it stood before
    is_told: bool = True  # not one of too many that cost nothing


class _Live:
    """One payment under way."""

    __slots__ = ("began_ms", "blame", "fee_before_msat", "last", "revived", "session", "stages", "terms", "told")

    def __init__(self, began_ms: int, fee_before_msat: int, revived: bool) -> None:
        self.began_ms = began_ms
        self.fee_before_msat = fee_before_msat
        self.revived = revived
        self.session: Any = None
        self.stages: dict[str, int] = {}
        self.last = State.COLLECTING
        self.blame: Blame | None = None
        self.told = revived  # whether the ledger knows of it
        self.terms: tuple[str | None, str | None] | None = None  # label of the token, name of the fee line


class AttemptTracker:
    """Every payment under way of one service."""

    def __init__(
        self,
        *,
        wall_ms: Callable[[], int],
        now_ms: Callable[[], int],
        buy_of: Callable[[int], Buy | None],
        core_of: Callable[[int], Any],
        terms_of: Callable[[Buy], tuple[str | None, str | None]],
        is_online: Callable[[str], bool],
        collect_ms: int,
    ) -> None:
        """`core_of(jit_scid)`: the machine's buy; `terms_of(buy)`: label of its token, name of its fee line."""
        self._wall_ms = wall_ms
        self._now_ms = now_ms
        self._buy_of = buy_of
        self._core_of = core_of
        self._terms_of = terms_of
        self._is_online = is_online
        self._live: dict[Key, _Live] = {}
        self._collect_ms = collect_ms
        self._idle = TokenBucket(IDLE_PER_S, IDLE_AT_ONCE)
        self._last_ms = 0
        self.life = 0  # any number that another life of the plugin does not have
        self.reviving = False  # while sessions are restored after a start
        self.ending = False  # the plugin ends: parts fail for that
        self.left_out = 0  # attempts that cost nothing and came too often to be written

    def __len__(self) -> int:
        """Payments under way."""
        return len(self._live)

    def blame(self, jit_scid: int, payment_hash: bytes, blame: Blame) -> None:
        """Take note of evidence; the first counts, for what follows is its consequence."""
        live = self._live.get((jit_scid, payment_hash))
        if live is not None and live.blame is None:
            live.blame = blame

    def blame_holder(self, jit_scid: int, blame: Blame) -> None:
        """Do the same for the payment that makes or uses the channel of this offer."""
        core = self._core_of(jit_scid)
        if core is not None and core.holder is not None:
            self.blame(jit_scid, core.holder.payment_hash, blame)

    def blame_all(self, blame: Blame, *, jit_scid: int | None = None, payment_hash: bytes | None = None) -> None:
        """Do the same for every payment under way on an offer, or with this hash."""
        for key in self._live:
            if jit_scid in (None, key[0]) and payment_hash in (None, key[1]):
                self.blame(*key, blame)

    def by_stage(self) -> dict[str, int]:
        """Return how many payments under way stand in which stage."""
        found = {state.name.lower(): 0 for state in State if state not in TERMINAL and state != State.ABORTING}
        for live in self._live.values():
            found[live.last.name.lower()] += 1
        return found

    def lanes(self, most: int) -> dict[str, tuple[str, str, str, str, int, int, int, int]]:
        """Return payments under way by name, at most so many: scid, hash, client, state, parts, sum, fee, beginning."""
        found = {}
        for (jit_scid, payment_hash), live in islice(self._live.items(), most):
            scid, digest, session, buy = format_scid(jit_scid), payment_hash.hex(), live.session, self._buy_of(jit_scid)
            parts, sum_msat, fee_msat = (
                (0, 0, 0) if session is None else (len(session.parts), int(session.sum_msat), int(session.fee_msat))
            )
            peer_id = "" if buy is None else buy.peer_id
            lane = (scid, digest, peer_id, live.last.name, parts, sum_msat, fee_msat, live.began_ms)
            found[f"{scid} {digest}"] = lane
        return found

    def live(self) -> tuple[tuple[str, str], ...]:
        """Return every payment under way: scid and hash."""
        return tuple((format_scid(scid), payment_hash.hex()) for scid, payment_hash in self._live)

    def take(self, changes: Iterable[Change]) -> Iterator[Fact | Ended]:
        """Take these changes; yield what is to be written, and each payment that is over."""
        for jit_scid, payment_hash, old, new, *_ in changes:
            buy, core = self._buy_of(jit_scid), self._core_of(jit_scid)
            key, state = (jit_scid, payment_hash), State(new)
            live = self._live.get(key)
            if live is None:
                before_msat = 0 if core is None else int(core.fee_paid_msat)
                self._last_ms = max(self._wall_ms(), self._last_ms + 1)
                live = self._live[key] = _Live(self._last_ms, before_msat, self.reviving)
            if core is not None and live.session is None:
                live.session = core.sets.get(payment_hash)
            if state in STAGES:
                live.stages.setdefault(STAGES[state], self._wall_ms())
            if state in TERMINAL:
                del self._live[key]
                if buy is not None:
                    yield from self._end(buy, live, key, old, state)
                continue
            live.last = live.last if state == State.ABORTING else state
            if buy is not None and state in STAGES:
                yield from self._stage(buy, live, key, state)

    def _stage(self, buy: Buy, live: _Live, key: Key, state: State) -> Iterator[Fact]:
        live.told = True
        yield self._fact(buy, live, key)
        channel = None if live.session is None else live.session.channel
        if state == State.AWAITING_CHANNEL_READY and channel is not None:
            funding = live.session.funding
            yield ChannelFact(
                channel_id=channel.channel_id,
                jit_scid=format_scid(buy.jit_scid),
                peer_id=buy.peer_id,
                funding_txid=channel.funding_txid,
                capacity_sat=buy.capacity_sat if funding is None else funding.capacity_sat,
                locked_ms=live.stages.get("opening_ms", live.began_ms),
            )

    def _end(self, buy: Buy, live: _Live, key: Key, old: int | None, state: State) -> Iterator[Fact | Ended]:
        outcome = self._outcome(live, old, state)
        won = outcome in (SUCCEEDED, ALIAS, REUSED)
        blame = None if won else live.blame or self._blame(buy, live)
        if outcome == UNDERPAID and live.blame is not None:
            blame = live.blame._replace(code=BY_STAGE[State.BROADCASTING].code)
        fact = self._fact(buy, live, key, outcome, blame)
        is_told = live.told or won or self._idle.take(self._now_ms())
        if is_told:
            yield fact
        else:
            self.left_out += 1
        if state == State.ABANDONED and fact.channel_id is not None:
            yield ChannelFact(channel_id=fact.channel_id, released_ms=self._wall_ms())
        yield Ended(fact, live.last, is_told)

    def _outcome(self, live: _Live, old: int | None, state: State) -> str:
        session = live.session
        if state in (State.SUCCEEDED, State.UNDERPAID) and session is not None and session.existing is not None:
            return REUSED
        if state == State.SUCCEEDED:
            return ALIAS if old == State.COLLECTING else SUCCEEDED
        if session is not None and session.claimed and not session.sent:
            return "Forfeited"
        return state.name.capitalize()

    def _blame(self, buy: Buy, live: _Live) -> Blame:
        if live.last != State.COLLECTING:
            return BY_STAGE[live.last]
        session, now_ms = live.session, self._wall_ms()
        if self.ending:
            return SHUTDOWN
        if now_ms >= buy.params.valid_until_ms:
            return OFFER_EXPIRED
        sum_msat = 0 if session is None else session.sum_msat
        if sum_msat and sum_msat >= (buy.payment_size_msat or 1) and not self._is_online(buy.peer_id):
            return CLIENT_AWAY
        return BY_STAGE[State.COLLECTING] if now_ms >= live.began_ms + self._collect_ms - SLACK_MS else NOT_HELD

    def _fact(
        self, buy: Buy, live: _Live, key: Key, outcome: str | None = None, blame: Blame | None = None
    ) -> AttemptFact:
        session, over = live.session, outcome is not None
        agreed_msat = 0 if session is None or outcome == ALIAS else int(session.fee_msat)
        taken_msat = 0 if session is None or not over else int(session.fee_paid_msat)
        if live.terms is None:
            live.terms = self._terms_of(buy)
        token, band = live.terms
        channel = None if session is None else session.existing or session.channel
        return AttemptFact(
            jit_scid=format_scid(key[0]),
            payment_hash=key[1].hex(),
            began_ms=live.began_ms,
            life=self.life,
            peer_id=buy.peer_id,
            token=token,
            band=band,
            amount_msat=None if session is None else int(session.sum_msat) or None,
            parts=None if session is None else len(session.parts) or None,
            fee_agreed_msat=agreed_msat,
            fee_taken_msat=taken_msat,
            fee_owed_msat=max(agreed_msat - taken_msat, 0) if outcome == UNDERPAID else 0,
            fee_before_msat=live.fee_before_msat,
            channel_id=None if channel is None else channel.channel_id,
            ended_ms=self._wall_ms() if over else None,
            outcome=outcome,
            failed_by=None if blame is None else blame.failed_by,
            code=None if blame is None else blame.code,
            reason=None if blame is None else blame.reason,
            revived=live.revived,
            **live.stages,
        )
