"""What an operator must know at once: each alarm has a kind, which is a section of docs/how-to/runbook.md.

An alarm is one line of the log, one notification, and one more in the counter of its kind. Its kind follows from its
words, so that the machine and whatever else raises one needs to know no kinds; a test holds that every alarm in the
sources has one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from lsps2fast_plugin.service.recent import Recent

log = logging.getLogger(__name__)

TOPIC: Final = "lsps2_alarm"


class Kind(NamedTuple):
    """A kind of alarm: its name, the words it is known by, what it means in a sentence."""

    name: str
    words: str
    meaning: str


OTHER: Final = "other"
KINDS: Final = (
    Kind("fleet", r"^fleet:", "The fleet's database is away; this node sells alone, or its ledger is another's."),
    Kind("ledger", r"sales ledger", "The sales ledger cannot be written; selling goes on."),
    Kind("wake-up", r"no wake-up calls", "Clients that are away cannot be called; selling goes on."),
    Kind("coins", r"no coins|free coins|pool of coins", "Payments fail because no confirmed coins are free."),
    Kind("bug", r" broke\b|^session .*:", "A fault of this program; the payment it was about is ended safely."),
    Kind("unknown-channel", r"is in no record", "One of our withheld channels is in no record."),
    Kind("paid-twice", r"was paid twice", "An ordered channel was paid for twice: one payment has to go back by hand."),
    Kind(
        "perhaps-paid",
        r"no bookkeeper has a record",
        "The invoice of an order was deleted, and no record says whether it had been paid.",
    ),
    Kind(
        "journal", r"writing the journal|record", "lightningd's datastore cannot be written, or a record not be read."
    ),
    Kind("paid-late", r"was paid after its channel|no part is known as paid", "A client was paid after we gave up."),
    Kind("false-preimage", r"does not fit", "A settlement was reported with a preimage that is none of it."),
    Kind(
        "given-up",
        r"gave its channel up|given up before|was closed; whether|may not be dropped|is not sent again",
        "A client gave its channel up, or ended it early, before its funding was sent.",
    ),
    Kind(
        "stray-funding",
        r"had just (given it|been given) up|also pays a channel that is gone|^channel \S+ is closed:",
        "A funding went out for a channel that had gone.",
    ),
    Kind("unpaid-channel", r"stays on chain", "An offer has ended, and its channel is on chain and not paid for."),
    Kind("funding-late", r"is in no block|sending the funding", "A funding is owed to the chain and is not there."),
    Kind("stuck", r"has failed", "A step that must be done in the end keeps failing."),
)
_PATTERNS: Final = tuple((kind.name, re.compile(kind.words)) for kind in KINDS)


def kind_of(text: str) -> str:
    """Return the kind of an alarm by its words."""
    return next((name for name, words in _PATTERNS if words.search(text)), OTHER)


class Alarms:
    """Tells the operator."""

    def __init__(self, send: Callable[[str, dict[str, Any]], None], wall_ms: Callable[[], int]) -> None:
        """`send(topic, params)` notifies lightningd's subscribers."""
        self._send = send
        self._wall_ms = wall_ms
        self.recent = Recent()
        self.by_kind = dict.fromkeys((*(kind.name for kind in KINDS), OTHER), 0)

    def __len__(self) -> int:
        """How often the operator was alarmed since the start."""
        return sum(self.by_kind.values())

    def tell(self, text: str) -> None:
        """Log, notify and count one alarm."""
        kind = kind_of(text)
        self.by_kind[kind] += 1
        log.warning(f"ALARM: {text}")
        line = text.partition("\n")[0]
        self.recent.tell({"at_ms": self._wall_ms(), "kind": kind, "text": line})
        self._send(TOPIC, {TOPIC: {"kind": kind, "text": line, "runbook": f"runbook.md#{kind}"}})
