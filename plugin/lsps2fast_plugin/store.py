"""The journal in lightningd's datastore: what was promised, and how far each payment has come.

One record a jit scid, under ["lsps","lsps2","sessions","active"|"finalized",<jit scid>], as CLN's built-in plugin keeps
them; our own facts stand beside its fields under "lsps2fast", which it ignores, so an operator can switch either way.
A write either happened or raises StoreError. What cannot be read is kept, reported and left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from lsps2fast.actions import Channel, Forward, Funding, Journal
from lsps2fast.errors import Lsps2Error, NodeError, StoreError
from lsps2fast.lsps2 import FeeParams, format_datetime, format_scid, parse_datetime, parse_msat, parse_scid
from lsps2fast.offers import Buy
from lsps2fast_plugin.channel_types import PLAIN
from lsps2fast_plugin.lastword import Insist, LastWord, Late
from lsps2fast_plugin.rpc import Rpc

ROOT = ("lsps", "lsps2", "sessions")
OLD_ROOT = ("lsps", "lsps2")  # the built-in plugin of v26.06 keeps a buy right here, until it is paid
VERSION = 1
AT_ONCE = 500  # records read in one go
NO_SUCH_KEY = 1200  # deldatastore, contract D2
FRESH = Journal("buy", None, 0, 0, None, None, (), None)
# What a record of the built-in plugin leaves unsaid: it always withholds.
BUILT_IN = {"client_trusts_lsp": True}


class Stored(NamedTuple):
    """One record that could be read: the buy, how far it came, and for a finished one how it ended."""

    buy: Buy
    journal: Journal
    outcome: str | None
    finalized_ms: int | None = None  # UTC


class Unread(NamedTuple):
    """A record that is not understood. It may be of a newer version: what it names is not ours to touch."""

    jit_scid: int | None
    raw: bytes


def record_of(buy: Buy, journal: Journal) -> dict[str, Any]:
    """The whole JSON value of one jit scid; amounts are decimal strings (K-24)."""
    funding, channel = journal.funding, journal.channel
    record: dict[str, Any] = {
        "peer_id": buy.peer_id,
        "opening_fee_params": buy.params.to_json(),
        "channel_capacity_msat": str(buy.capacity_sat * 1000),
        "created_at": format_datetime(buy.created_at_ms),
    }
    if buy.payment_size_msat is not None:
        record["expected_payment_size"] = str(buy.payment_size_msat)
    if journal.payment_hash is not None:
        record["payment_hash"] = journal.payment_hash.hex()
    if channel is not None:
        record["channel_id"] = channel.channel_id
        record["funding_psbt"] = channel.signed_psbt
        record["funding_txid"] = channel.funding_txid
    if journal.preimage is not None:
        record["preimage"] = journal.preimage.hex()
    record["lsps2fast"] = {
        "version": VERSION,
        "stage": journal.stage,
        "attempts": journal.attempts,
        "cltv_expiry_delta": buy.cltv_expiry_delta_blocks,
        "client_trusts_lsp": buy.client_trusts_lsp,
        "opening_fee_msat": str(journal.opening_fee_msat),
        "funding": None
        if funding is None
        else {
            "psbt": funding.psbt,
            "inputs": list(funding.inputs),
            "reserved_to_block": funding.reserved_to_block,
            "capacity_sat": str(funding.capacity_sat),
            "channel_type": list(funding.channel_type),
        },
        "forwards": [
            [format_scid(part.in_scid), part.htlc_id, str(part.forward_msat), str(part.extra_fee_msat)]
            for part in journal.forwards
        ],
    }
    return record


def _read(jit_scid: int, record: dict[str, Any], default_delta_blocks: int) -> Stored:
    """The opposite of `record_of`; raises KeyError, TypeError, ValueError or Lsps2Error for what it cannot be."""
    ours = record.get("lsps2fast") or {}
    if ours.get("version", VERSION) != VERSION:
        raise ValueError(f"version {ours['version']} is newer than this program")
    size = record.get("expected_payment_size")
    created = record.get("created_at", 0)  # v26.06 does not say
    buy = Buy(
        jit_scid=jit_scid,
        peer_id=record["peer_id"],
        params=FeeParams.from_json(record["opening_fee_params"]),
        payment_size_msat=None if size is None else parse_msat(str(size)),
        cltv_expiry_delta_blocks=ours.get("cltv_expiry_delta", default_delta_blocks),
        client_trusts_lsp=ours.get("client_trusts_lsp", BUILT_IN["client_trusts_lsp"]),
        created_at_ms=parse_datetime(created) if isinstance(created, str) else int(created) * 1000,
        capacity_sat=parse_msat(str(record.get("channel_capacity_msat", "0"))) // 1000,
    )
    return Stored(buy, _read_journal(record, ours), record.get("outcome"), _read_end(record.get("finalized_at")))


def _read_end(value: Any) -> int | None:
    """When a record was finalized: our own text, or the seconds of the built-in plugin."""
    if value is None:
        return None
    return parse_datetime(value) if isinstance(value, str) else int(value) * 1000


def _unread(name: str, value_hex: str) -> Unread:
    try:
        raw = bytes.fromhex(value_hex)
    except ValueError:
        raw = b""
    try:
        return Unread(parse_scid(name), raw)
    except Lsps2Error:
        return Unread(None, raw)


def _read_journal(record: dict[str, Any], ours: dict[str, Any]) -> Journal:
    payment_hash, preimage = record.get("payment_hash"), record.get("preimage")
    channel_id, funding = record.get("channel_id"), ours.get("funding")
    channel = None
    if channel_id is not None:
        channel = Channel(channel_id, record.get("funding_psbt") or "", record.get("funding_txid") or "")
    return Journal(
        stage=ours.get("stage", "buy" if channel is None else "forwards"),
        payment_hash=None if payment_hash is None else bytes.fromhex(payment_hash),
        attempts=ours.get("attempts", 0),
        opening_fee_msat=parse_msat(ours.get("opening_fee_msat", "0")),
        funding=None
        if funding is None
        else Funding(
            funding["psbt"],
            tuple(funding["inputs"]),
            funding["reserved_to_block"],
            parse_msat(funding["capacity_sat"]),
            tuple(funding.get("channel_type", PLAIN)),
        ),
        channel=channel,
        forwards=tuple(
            Forward(parse_scid(scid), htlc_id, parse_msat(forward), parse_msat(fee))
            for scid, htlc_id, forward, fee in ours.get("forwards", ())
        ),
        preimage=None if preimage is None else bytes.fromhex(preimage),
    )


class Store:
    """Reads all records once, then writes whole ones; writes for one jit scid keep their order."""

    def __init__(self, rpc: Rpc, report: Callable[[str], None], insist: Insist) -> None:
        """`report` gets one sentence for each record that cannot be read; `insist` as in `LastWord`."""
        self._rpc = rpc
        self._report = report
        self._insist = insist
        self._last = LastWord(insist)
        self._buys: dict[int, Buy] = {}
        self._old: set[int] = set()  # buys that also have a record of the built-in plugin of v26.06
        self._locks: dict[int, asyncio.Lock] = {}
        self.unread: list[Unread] = []
        self.commits = 0

    async def load(self, default_delta_blocks: int) -> list[Stored]:
        """All records, active and finalized. What is not understood is reported, put in `unread`, left alone (K-08)."""
        found: list[Stored] = []
        self.unread = []
        for folder in ("active", "finalized"):
            answer = await self._call("listdatastore", {"key": [*ROOT, folder]})
            for number, entry in enumerate(answer["datastore"], 1):
                if number % AT_ONCE == 0:
                    await asyncio.sleep(0)  # a long journal must not keep lightningd's other questions waiting
                stored = self._decode(entry, default_delta_blocks)
                if stored is None:
                    continue
                if (stored.outcome is None) != (folder == "active"):
                    self._report(f"journal record {entry['key']} lies in the wrong folder; left alone")
                    self.unread.append(_unread(entry["key"][-1], entry["hex"]))
                    continue
                found.append(stored)
                if folder == "active":
                    self._buys[stored.buy.jit_scid] = stored.buy
        return found + await self._load_old(default_delta_blocks)

    async def _load_old(self, default_delta_blocks: int) -> list[Stored]:
        """Buys that the built-in plugin of v26.06 sold. They stay where they are until they are paid or over."""
        found: list[Stored] = []
        for entry in (await self._call("listdatastore", {"key": [*OLD_ROOT]}))["datastore"]:
            stored = self._decode(entry, default_delta_blocks)
            if stored is None:
                continue
            self._old.add(stored.buy.jit_scid)
            if stored.buy.jit_scid not in self._buys:
                self._buys[stored.buy.jit_scid] = stored.buy
                found.append(stored)
        return found

    async def finished(self, default_delta_blocks: int) -> list[Stored]:
        """All final records. Raises StoreError."""
        answer = await self._call("listdatastore", {"key": [*ROOT, "finalized"]})
        found = [self._decode(entry, default_delta_blocks) for entry in answer["datastore"]]
        return [stored for stored in found if stored is not None and stored.outcome is not None]

    async def drop_final(self, jit_scid: int) -> None:
        """Delete a final record that binds nobody any more (A-09). Raises StoreError."""
        await self._delete("finalized", jit_scid)

    def _decode(self, entry: dict[str, Any], default_delta_blocks: int) -> Stored | None:
        key = entry["key"]
        if "hex" not in entry:
            return None  # a folder (contract D4)
        try:
            record = msgspec.json.decode(bytes.fromhex(entry["hex"]))
            return _read(parse_scid(key[-1]), record, default_delta_blocks)
        except (KeyError, TypeError, ValueError, AttributeError, Lsps2Error) as error:
            self._report(f"journal record {key} cannot be read ({type(error).__name__}: {error}); kept, not used")
            self.unread.append(_unread(key[-1], entry["hex"]))
            return None

    def unread_names(self, hex_id: str) -> bool:
        """Whether a record that is not understood speaks of this channel or peer."""
        return any(hex_id.encode() in record.raw for record in self.unread)

    async def add(self, buy: Buy) -> None:
        """Journal a new buy: one commit (B-10). Raises StoreError; the buy is then not sold, and leaves no record."""
        self._buys[buy.jit_scid] = buy
        try:
            await self._write("active", buy, record_of(buy, FRESH))
        except StoreError:
            # A write may have happened whatever was answered (K-13); nobody was told of this buy.
            self._insist(f"deleting unsold buy {format_scid(buy.jit_scid)}", lambda: self.forget(buy.jit_scid))
            raise

    async def put(self, jit_scid: int, journal: Journal) -> None:
        """Journal how far the payment on this scid has come: one commit. Raises StoreError."""
        buy = self._buys[jit_scid]
        await self._write("active", buy, record_of(buy, journal))

    async def finalize(self, jit_scid: int, journal: Journal, outcome: str, wall_ms: int) -> None:
        """Write the final record: one commit, repeatable; `forget` then ends the active one (K-15). Or StoreError."""
        buy = self._buys[jit_scid]
        record = record_of(buy, journal) | {"outcome": outcome, "finalized_at": format_datetime(wall_ms)}
        await self._write("finalized", buy, record)

    async def forget(self, jit_scid: int) -> None:
        """Delete the active record: one commit, repeatable. Raises StoreError."""
        await self._delete("active", jit_scid)
        self._buys.pop(jit_scid, None)

    def knows(self, jit_scid: int) -> bool:
        """Whether an active record exists."""
        return jit_scid in self._buys

    async def _write(self, folder: str, buy: Buy, record: dict[str, Any]) -> None:
        # hex, not string: lightningd refuses strings with \u escapes (contract D3)
        value = msgspec.json.encode(record).hex()
        key = [*ROOT, folder, format_scid(buy.jit_scid)]
        params = {"key": key, "hex": value, "mode": "create-or-replace"}
        async with self._lock(buy.jit_scid):
            await self._set(key, "datastore", params)
        self.commits += 1

    async def _delete(self, folder: str, jit_scid: int) -> None:
        lock = self._lock(jit_scid)
        async with lock:
            await self._remove([*ROOT, folder, format_scid(jit_scid)])
            if jit_scid in self._old:
                await self._remove([*OLD_ROOT, format_scid(jit_scid)])
                self._old.discard(jit_scid)
        if not lock.locked():
            self._locks.pop(jit_scid, None)

    async def _remove(self, key: list[str]) -> None:
        """Delete one record; none there is fine."""
        try:
            await self._set(key, "deldatastore", {"key": key})
        except StoreError as error:
            if not isinstance(error.__cause__, NodeError) or error.__cause__.code != NO_SUCH_KEY:
                raise
        self.commits += 1

    async def _set(self, key: list[str], method: str, params: dict[str, Any]) -> None:
        """Write or delete one key; an older write that comes late does not undo it. Raises StoreError."""

        async def call(late: Late) -> None:
            await self._rpc.call(method, params, late=late)

        try:
            await self._last.ask(tuple(key), f"{method} of {key[-1]}", call)
        except NodeError as error:
            raise StoreError(str(error)) from error

    def _lock(self, jit_scid: int) -> asyncio.Lock:
        return self._locks.setdefault(jit_scid, asyncio.Lock())

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._rpc.call(method, params)
        except NodeError as error:
            raise StoreError(str(error)) from error
