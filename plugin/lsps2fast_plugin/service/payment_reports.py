"""One line of the log for each payment that is over, won or lost, and what there is to count of it (operator:O1).

The line says to whom, how much, which fee came, in which stage it ended, who failed it and why, and what happens next.
Nothing that failed for a customer is silent. Attempts that cost nothing and come in a flood are counted, and told at
debug level.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

from lsps2fast.lsps.buys import Buy
from lsps2fast.table import State
from lsps2fast_plugin.service.recent import Recent
from lsps2fast_plugin.service.sales_ledger.facts import ALIAS, REUSED, SUCCEEDED, UNDERPAID, AttemptFact
from lsps2fast_plugin.service.sales_ledger.periods import text_of
from lsps2fast_plugin.service.sales_ledger.story import sat
from lsps2fast_plugin.service.sales_ledger.tracker import Ended

log = logging.getLogger(__name__)

# From one moment of a payment to the next: what lies between them.
STEPS: Final = {
    "began_ms": "collecting",
    "opening_ms": "opening",
    "channel_ms": "awaiting_channel_ready",
    "forwarded_ms": "awaiting_settlement",
    "claimed_ms": "broadcasting",
}
BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0)
UNKNOWN: Final = "unknown"
_WHO: Final = {"payer": "the payer", "client": "the client", "lsp": "this node", "operator": "the operator"}


class Durations:
    """A histogram of one step: how many took at most so long, and the sum."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


class PaymentReports:
    """Hears of each payment that is over."""

    def __init__(self, buy_of: Callable[[str], Buy | None], wall_ms: Callable[[], int]) -> None:
        """`buy_of(jit_scid)`: the offer, as long as it lives."""
        self._buy_of = buy_of
        self._wall_ms = wall_ms
        self.fees_msat = 0  # opening fees that came
        self.failed_by = dict.fromkeys((*_WHO, UNKNOWN), 0)
        self.failures: Counter[tuple[str, str, str]] = Counter()  # stage, who, code: all from fixed sets
        self.recent = Recent()
        self.durations = {step: Durations() for step in STEPS.values()}

    def ended(self, payment: Ended) -> None:
        """Count it and tell it."""
        attempt = payment.attempt
        self.fees_msat += attempt.fee_taken_msat
        self._measure(attempt)
        won = attempt.outcome in (SUCCEEDED, ALIAS, REUSED)
        if not won:
            who = attempt.failed_by or UNKNOWN
            self.failed_by[who] += 1
            self.failures[payment.stage.name.lower(), who, attempt.code or UNKNOWN] += 1
        self.recent.tell(_row(attempt, payment.stage))
        text = _won(attempt) if won else _lost(attempt, payment.stage)
        log.log(logging.INFO if payment.is_told else logging.DEBUG, f"{text}. {self._next(attempt, won)}")

    def _measure(self, attempt: AttemptFact) -> None:
        if attempt.revived:
            return  # its times are those of another run
        moments = [(name, getattr(attempt, name)) for name in (*STEPS, "ended_ms")]
        for (name, begin_ms), (_, end_ms) in pairwise([each for each in moments if each[1] is not None]):
            self.durations[STEPS[name]].add((end_ms - begin_ms) / 1000)

    def _next(self, attempt: AttemptFact, won: bool) -> str:
        buy = self._buy_of(attempt.jit_scid)
        lives = buy is not None and buy.params.valid_until_ms > self._wall_ms()
        until = text_of(buy.params.valid_until_ms) if buy is not None else ""
        if attempt.outcome == REUSED:
            return f"The offer of a channel stands until {until}" if lives else "The offer is over"
        if won:
            return f"Its scid forwards to the channel until {until}" if lives else "Its scid is over"
        if attempt.outcome == UNDERPAID:
            return f"The next payment over this scid brings the {sat(attempt.fee_owed_msat)} that are owed"
        if not lives:
            return "The offer is over: a new one must be bought"
        return f"The offer stands until {until}: the payer may try again"


def _row(attempt: AttemptFact, stage: State) -> dict[str, Any]:
    names = ("jit_scid", "payment_hash", "peer_id", "outcome", "failed_by", "code", "reason", "amount_msat")
    row = {name: getattr(attempt, name) for name in (*names, "fee_taken_msat", "ended_ms")}
    return row | {"stage": stage.name}


def _what(attempt: AttemptFact) -> str:
    amount = "a payment" if attempt.amount_msat is None else sat(attempt.amount_msat)
    return f"{amount} to {attempt.peer_id} over {attempt.jit_scid} (payment {attempt.payment_hash})"


def _won(attempt: AttemptFact) -> str:
    if attempt.outcome == ALIAS:
        return f"forwarded: {_what(attempt)}; another payment had paid for the channel"
    if attempt.outcome == REUSED:
        over = f"went over channel {attempt.channel_id}, which the client had; nothing was opened"
        return f"forwarded: {_what(attempt)} {over}; {sat(attempt.fee_taken_msat)} of fee"
    return f"sold: {_what(attempt)}; opening fee {sat(attempt.fee_taken_msat)}; channel {attempt.channel_id}"


def _lost(attempt: AttemptFact, stage: State) -> str:
    who = f" by {_WHO[attempt.failed_by]}" if attempt.failed_by else ""
    fee = f"{sat(attempt.fee_taken_msat)} of {sat(attempt.fee_agreed_msat)} opening fee came; "
    fee = fee if attempt.fee_taken_msat else ""
    word = "not sold" if attempt.outcome != UNDERPAID else "sold in part"
    return f"{word}: {_what(attempt)}; {fee}failed{who} in {stage.name} ({attempt.code}): {attempt.reason}"
