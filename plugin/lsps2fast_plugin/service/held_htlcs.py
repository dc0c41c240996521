"""Held hook calls of JIT parts: from what the hook said to what the core needs, and from its orders to answers.

A part is (incoming channel, htlc id); lightningd may ask about one more than once (K-07), and each of its calls gets
exactly one answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Protocol

from lsps2fast import _tlv as tlv
from lsps2fast import actions as order
from lsps2fast.errors import MalformedTlv

log = logging.getLogger(__name__)

TEMPORARY_NODE_FAILURE = "2002"


class Call(Protocol):
    """What is used of a scanned hook call (`_hook.Scan`)."""

    @property
    def id_raw(self) -> bytes: ...
    @property
    def payload_hex(self) -> str: ...
    @property
    def amount_msat(self) -> int: ...
    @property
    def cltv_expiry(self) -> int: ...


class Host(Protocol):
    """What is used of the host."""

    def forward(self, id_raw: bytes, payload_hex: str, channel_id: str, extra_tlvs_hex: str) -> None:
        """Answer `continue` into a channel."""

    def fail(self, id_raw: bytes, failure_hex: str) -> None:
        """Answer `fail`."""


class HeldHtlcs:
    """Hook calls that wait for the session machine."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._calls: dict[order.PartKey, list[Call]] = {}
        self.held_msat = 0  # of all parts that wait

    def __len__(self) -> int:
        return len(self._calls)

    def has(self, key: order.PartKey) -> bool:
        """Return whether this part waits."""
        return key in self._calls

    def keys(self) -> list[order.PartKey]:
        """Return the parts that wait."""
        return list(self._calls)

    def hold(self, key: order.PartKey, call: Call) -> None:
        """Keep this call until its part, which the machine knows under this key, is forwarded or failed."""
        calls = self._calls.setdefault(key, [])
        if not calls:
            self.held_msat += call.amount_msat
        calls.append(call)

    def nearest_expiry(self) -> int | None:
        """Return the height at which the first of them expires."""
        return min((calls[0].cltv_expiry for calls in self._calls.values() if calls), default=None)

    def _take(self, key: order.PartKey) -> list[Call]:
        calls = self._calls.pop(key, [])
        if calls:
            self.held_msat -= calls[0].amount_msat
        return calls

    def forward(self, parts: Iterable[order.Forward], channel_id: str) -> None:
        """Answer every call of these parts with `continue`, amount and extra_fee as ordered (H-08 to H-13)."""
        for part in parts:
            for call in self._take(part.key):
                self._forward_one(call, part, channel_id)

    def _forward_one(self, call: Call, part: order.Forward, channel_id: str) -> None:
        try:
            payload = tlv.forward_payload(call.payload_hex, part.out_msat)
        except MalformedTlv as error:  # it was read on arrival, so only a bug of ours leads here
            log.error(f"payload of part {part.in_scid}/{part.htlc_id}: {error}; failed back")
            self._host.fail(call.id_raw, TEMPORARY_NODE_FAILURE)
            return
        self._host.forward(call.id_raw, payload, channel_id, tlv.extra_fee_tlvs(part.extra_fee_msat))

    def fail(self, keys: Iterable[order.PartKey], failure: str) -> None:
        """Answer every call of these parts with this failure."""
        for key in keys:
            for call in self._take(key):
                self._host.fail(call.id_raw, failure)
