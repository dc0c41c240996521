"""What a replay is told to do and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from replay.node import Node
from replay.recording import Purchase, Recording

ACTIVE = ("lsps", "lsps2", "sessions", "active")
FINALIZED = ("lsps", "lsps2", "sessions", "finalized")
Json = dict[str, Any]
Part = tuple[str, int]  # incoming scid, HTLC id


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """How one recording is played, where it is not taken as it is."""

    recording: str
    options: Json = field(default_factory=lambda: {"lsps2-cltv-delta": 48})  # what the recorded invoices promised
    records: dict[str, Json | None] = field(default_factory=dict)  # changes to journal records; None: not a buy of ours
    fees: tuple[int, int] = (1000, 10)  # the node's own routing fees: base in msat, ppm
    away: frozenset[int] = frozenset()  # lives (0, 1) in which the client's `connect` is left out
    stop_before: str | None = None  # hook call at which the replay ends
    first: frozenset[str] = frozenset()  # hook calls that must be answered before anything else is sent
    patient_at_block: int | None = None  # after this block every hook must be answered before the next one
    ready_while_looking: bool = False  # the channel gets usable while the answer to our look at it is on its way
    messages_before_disconnect: int = 0  # peer messages that must have left before a peer goes away
    advance_s: tuple[int, ...] = ()  # clock jumps after the last step
    patience_s: float = 20.0  # how long anything may take before the replay gives up
    held_at_end: bool = False  # parts are still held when the plugin is told to end
    finalized: tuple[str, ...] = ()  # jit scids whose final record must be there, and the active one gone, at the end
    called: dict[str, int] = field(default_factory=dict)  # successful calls by method there must have been at the end
    reopened: tuple[str, ...] = ()  # jit scids whose active record must be a plain buy again at the end


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: `kind` is hook, answer, note, call, reply, refusal, advance or life."""

    kind: str
    name: str
    detail: Any


@dataclass(slots=True)
class Played:
    """The outcome: everything in order, and what was left behind."""

    node: Node
    recording: Recording
    script: Script
    timeline: list[Event] = field(default_factory=list)
    answers: dict[Part, Json] = field(default_factory=dict)  # the last answer to each part
    hooks: dict[Part, Json] = field(default_factory=dict)  # its request
    faults: list[str] = field(default_factory=list)  # would have harmed lightningd, or broke the one-answer rule
    unanswered: list[list[str]] = field(default_factory=list)  # hook calls left open, per life
    exit_codes: list[int | None] = field(default_factory=list)  # per life; None: had to be killed
    logs: list[tuple[str, str]] = field(default_factory=list)  # (level, text)

    def names(self, kind: str) -> list[str]:
        """Names of all events of a kind, in order."""
        return [event.name for event in self.timeline if event.kind == kind]


class ReplayStuck(AssertionError):
    """The plugin did not do what the rest of the recording depends on."""


def journal_record(buy: Purchase, changes: Json) -> Json:
    """The active record of a buy as CLN's built-in plugin writes it; `opening_fee_params` in `changes` is merged."""
    fee_params = {
        "min_fee_msat": str(buy.fee_msat),
        "proportional": 0,
        "valid_until": "2099-01-01T00:00:00Z",
        "min_lifetime": 144,
        "max_client_to_self_delay": 2016,
        "min_payment_size_msat": "1000",
        "max_payment_size_msat": "100000000000",
        "promise": "5a" * 32,
    } | changes.get("opening_fee_params", {})
    size = {} if buy.size_msat is None else {"expected_payment_size": str(buy.size_msat)}
    sold = {"channel_capacity_msat": str(buy.capacity_sat * 1000), "created_at": "2026-11-22T11:12:00.123456789Z"}
    return {"peer_id": buy.peer_id, **size, **sold, **changes, "opening_fee_params": fee_params}
