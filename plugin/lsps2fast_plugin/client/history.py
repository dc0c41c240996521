"""What became of each purchase: a durable record, and a notification for each step (wallet:W13).

The records under ["lsps2fast","client","purchase",<payment hash>] stay when a purchase is over. No money depends on
them: what does is in `store`. A write that fails is tried again with growing pauses, and made good at the next step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple

from lsps2fast.errors import StoreError
from lsps2fast.lsps.lsps2 import format_datetime, format_scid
from lsps2fast_plugin.client.records import VERSION, Approval, JitChannel
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.retry import retry

log = logging.getLogger(__name__)

Json = dict[str, Any]
FOLDER: Final = ("lsps2fast", "client", "purchase")
STEPS: Final = {
    "bought": "a channel was bought and its invoice made",
    "channel_opened": "the LSP opened the channel",
    "parts_held": "the first part of the payment is held",
    "claimed": "the payment is complete and was claimed",
    "funding_seen": "the funding transaction was seen",
    "funding_confirmed": "the funding transaction is as deep in the chain as `lsps2-funding-depth` says",
    "funding_missing": "the funding transaction that was paid for did not come, or not as agreed",
    "ended": "nothing more can come of it: paid, expired, cancelled or never made",
}
STATES: Final = ("awaited", "receiving", "claimed", "paid", "expired", "cancelled", "never_made")
OVER: Final = STATES[3:]
NOTHING_YET: Final[Json] = {  # every field of a record; one that an older version did not write reads as this
    "version": VERSION,
    "payment_hash": None,
    "label": None,
    "lsp_id": None,
    "jit_channel_scid": None,
    "client_trusts_lsp": None,
    "payment_size_msat": None,
    "smallest_payment_msat": None,
    "largest_payment_msat": None,
    "opening_fee_msat": None,
    "opening_fee_params": None,
    "created_ms": 0,
    "state": "awaited",
    "reason": None,
    "fee_taken_msat": None,
    "received_msat": None,
    "channel_id": None,
    "funding_txid": None,
    "funding_outnum": None,
    "capacity_msat": None,
    "funding": "none",
    "confirmed_height": None,
    "times": {},
}


class Closed(NamedTuple):
    """A channel that was paid for and is being closed, `depth` blocks deep; it was to stay for `lifetime`."""

    lsp_id: str
    depth: int
    lifetime: int


def topic_of(step: str) -> str:
    """Return the name of the notification for a step."""
    return f"lsps2_purchase_{step}"


class History:
    """All purchases that were ever made, oldest first."""

    def __init__(
        self,
        records: DatastoreRecords,
        clock: Clock,
        notify: Callable[[str, Json], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """`notify(topic, fields)` tells lightningd's subscribers; `spawn` runs a coroutine by itself."""
        self._records = records
        self._clock = clock
        self._notify = notify
        self._spawn = spawn
        self._writing: set[str] = set()
        self.purchases: dict[str, Json] = {}

    async def load(self) -> None:
        """Read all records; one that cannot be read is left alone. Raises StoreError."""
        found = [record for _, value in await self._records.read(FOLDER) if (record := _read(value)) is not None]
        for record in sorted(found, key=lambda each: (each["created_ms"], each["payment_hash"])):
            self.purchases[record["payment_hash"]] = record

    # ---- what happens

    def bought(self, approval: Approval) -> None:
        """Begin the history of a purchase."""
        buy, payment_hash = approval.buy, approval.payment_hash.hex()
        self.purchases[payment_hash] = NOTHING_YET | {
            "payment_hash": payment_hash,
            "label": approval.label,
            "lsp_id": buy.lsp_id,
            "jit_channel_scid": format_scid(buy.jit_scid),
            "client_trusts_lsp": buy.client_trusts_lsp,
            "payment_size_msat": buy.payment_size_msat,
            "smallest_payment_msat": buy.smallest_payment_msat,
            "largest_payment_msat": buy.largest_payment_msat,
            "opening_fee_msat": buy.opening_fee_msat,
            "opening_fee_params": buy.params.to_json(),
            "created_ms": self._clock.wall_ms(),
            "times": {},
        }
        self._step(payment_hash, "bought")
        self._keep(payment_hash)

    def opened(self, channel: JitChannel) -> None:
        """Note the channel of a purchase; a later one takes its place."""
        facts = {
            "channel_id": channel.channel_id,
            "funding_txid": channel.funding_txid,
            "funding_outnum": channel.funding_outnum,
            "capacity_msat": channel.capacity_msat,
            "funding": "opened",
        }
        if channel.payment_hash is not None:
            self._note(channel.payment_hash.hex(), "channel_opened", facts)

    def funding(self, step: str, channel: JitChannel, height: int) -> None:
        """Record a step of a channel's funding: "seen", "confirmed" by the block of this height, or "missing"."""
        record = self.of_channel(channel.channel_id)
        if record is not None:
            facts = {"funding": step} | ({"confirmed_height": height} if step == "confirmed" else {})
            self._note(record["payment_hash"], f"funding_{step}", facts)

    def held(self, payment_hash: bytes, *, keep: bool = True) -> None:
        """Note that a part of the payment is held; not `keep`: the next note, or `keep`, writes it down."""
        if self.purchases.get(payment_hash.hex(), {}).get("state") == "awaited":
            self._note(payment_hash.hex(), "parts_held", {"state": "receiving"}, keep=keep)

    def keep(self, payment_hash: bytes) -> None:
        """Write down what was noted of a purchase."""
        if payment_hash.hex() in self.purchases:
            self._keep(payment_hash.hex())

    def given_back(self, payment_hash: bytes, why: str) -> None:
        """Note that no part is held any more; the payer may try again."""
        record = self.purchases.get(payment_hash.hex())
        if record is not None and record["state"] in ("receiving", "claimed"):
            self._note(payment_hash.hex(), None, {"state": "awaited", "reason": why})

    def claimed(self, payment_hash: bytes, received_msat: int, fee_msat: int) -> None:
        """Note that the payment was released to lightningd."""
        facts = {"state": "claimed", "received_msat": received_msat, "fee_taken_msat": fee_msat, "reason": None}
        self._note(payment_hash.hex(), "claimed", facts)

    def ended(self, payment_hash: bytes, state: str, why: str | None = None) -> None:
        """Note the end of a purchase."""
        record = self.purchases.get(payment_hash.hex())
        if record is not None and record["state"] not in OVER:
            self._note(payment_hash.hex(), "ended", {"state": state, "reason": why or record["reason"]})

    def closed(self, channel_id: str, height: int) -> Closed | None:
        """Note that a channel which was paid for is being closed; None when that is known, or was not paid for."""
        record = self.of_channel(channel_id)
        if record is None or record["state"] != "paid" or record["funding"] == "closed":
            return None
        confirmed = record["confirmed_height"]
        self._note(record["payment_hash"], None, {"funding": "closed"})
        lifetime = (record["opening_fee_params"] or {}).get("min_lifetime", 0)
        return Closed(record["lsp_id"], 0 if confirmed is None else height - confirmed + 1, lifetime)

    # ---- asking

    def of_channel(self, channel_id: str) -> Json | None:
        """Return the purchase that a channel was opened for, the latest."""
        of_it = (each for each in reversed(self.purchases.values()) if each["channel_id"] == channel_id)
        return next(of_it, None)

    def find(self, state: str | None = None, label: str | None = None, payment_hash: str | None = None) -> list[Json]:
        """Return those that match, oldest first."""
        return [
            each
            for each in self.purchases.values()
            if state in (None, each["state"])
            and label in (None, each["label"])
            and payment_hash in (None, each["payment_hash"])
        ]

    # ---- keeping

    def _note(self, payment_hash: str, step: str | None, facts: Json, *, keep: bool = True) -> None:
        record = self.purchases.get(payment_hash)
        if record is None:
            return
        record.update(facts)
        if step is not None:
            self._step(payment_hash, step)
        if keep:
            self._keep(payment_hash)

    def _step(self, payment_hash: str, step: str) -> None:
        record = self.purchases[payment_hash]
        record["times"][step] = self._clock.wall_ms()
        self._notify(topic_of(step), {topic_of(step): shown(record) | {"step": step}})

    def _keep(self, payment_hash: str) -> None:
        if payment_hash not in self._writing:
            self._writing.add(payment_hash)
            self._spawn(self._write(payment_hash))

    async def _write(self, payment_hash: str) -> None:
        """Write a record as it is by then; until it is written."""

        async def write() -> None:
            self._writing.discard(payment_hash)
            try:
                await self._records.write((*FOLDER, payment_hash), lambda: _stored(self.purchases[payment_hash]))
            except StoreError:
                self._writing.add(payment_hash)
                raise

        await retry(f"writing the record of purchase {payment_hash}", write, self._clock, errors=StoreError)


def _read(value: Any) -> Json | None:
    """Return a record with all its fields and with amounts as numbers; None for one that is none of ours (K-08)."""
    if not isinstance(value, dict) or value.get("version") != VERSION or value.get("state") not in STATES:
        return None
    record = NOTHING_YET | {"times": {}} | value
    menu, times = record["opening_fee_params"], record["times"]
    if not isinstance(record["payment_hash"], str) or type(record["created_ms"]) is not int:
        return None
    if not isinstance(menu, dict | None) or not isinstance(times, dict):
        return None
    try:
        amounts = {key: int(each) for key, each in record.items() if key.endswith("_msat") and each is not None}
        return record | amounts | {"times": {str(step): int(at_ms) for step, at_ms in times.items()}}
    except (TypeError, ValueError):
        return None


def _stored(record: Json) -> Json:
    """Return the fields with amounts as decimal strings (K-24)."""
    return {key: str(each) if key.endswith("_msat") and each is not None else each for key, each in record.items()}


def shown(record: Json) -> Json:
    """Return a record as methods and notifications show it."""
    times = {step: format_datetime(at_ms) for step, at_ms in record["times"].items()}
    hidden = ("version", "created_ms", "confirmed_height", "times")
    created = {"created_at": format_datetime(record["created_ms"])}
    return {key: value for key, value in record.items() if key not in hidden} | created | {"times": times}


def page(purchases: Iterable[Json], start: int, limit: int) -> Json:
    """One page of a list: entries from `start` on, and where the next page begins (None: there is none)."""
    rows = list(purchases)
    part = rows[start : start + limit]
    after = start + len(part)
    return {
        "purchases": [shown(each) for each in part],
        "total": len(rows),
        "next": after if after < len(rows) else None,
    }
