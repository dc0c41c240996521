"""What is held of one approved payment: its parts, and their hook calls, which each get one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from lsps2fast.lsps.receiving import Key, PaymentSet
from lsps2fast_plugin.client.funding_status import FundingStatus
from lsps2fast_plugin.client.records import Approval


class Call(NamedTuple):
    """One hook call that waits for its answer."""

    id_raw: bytes
    payload_hex: str
    amount_msat: int


class Ground(NamedTuple):
    """Whether a payment may be released: `why` not, and over which channels (None: over any)."""

    why: str | None
    channels: frozenset[str] | None = None


class HeldPayment:
    """What is held of one approved payment."""

    def __init__(self, approval: Approval, collect_ms: int) -> None:
        self.approval = approval
        self.collected = PaymentSet(approval.terms, collect_ms)
        self.calls: dict[Key, list[Call]] = {}
        self.lock = asyncio.Lock()  # parts are taken one after the other
        self.releasing = False
        self.storing: set[Key] = set()  # parts whose fee is in no record yet: a death now would lose it (I-32)
        self.awaits: FundingStatus | None = None  # while the release waits: how far the funding has come ...
        self.awaits_height = 0  # ... as of this block

    def __str__(self) -> str:
        return f"payment {self.approval.payment_hash.hex()}"

    @property
    def channels(self) -> frozenset[str]:
        """The channels its parts came through."""
        return frozenset(channel_id for channel_id, _ in self.collected.parts)

    @property
    def stored(self) -> int:
        """How many of its parts would survive a death of this plugin."""
        return len(self.collected.parts.keys() - self.storing)

    def stands_on(self, ground: Ground) -> bool:
        """Return whether this was found out about all channels that its parts now lie in."""
        return ground.channels is None or self.channels <= ground.channels

    def take_calls(self, keys: Iterable[Key]) -> list[Call]:
        """Return the calls of these parts, which the caller now answers."""
        return [call for key in keys for call in self.calls.pop(key, ())]

    def discard(self, id_raw: bytes) -> None:
        """Drop a call that has been answered for a reason of its own: its part no longer counts."""
        for key, calls in list(self.calls.items()):
            if any(call.id_raw == id_raw for call in calls):
                self.calls[key] = [call for call in calls if call.id_raw != id_raw]
                self.collected.drop([key])
