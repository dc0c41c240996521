"""All records of the wallet: the authority in memory, and a copy of each in lightningd's datastore.

Buys lie under ["lsps","client",<LSP/jit scid>] and approvals under ["lsps","invoice",<payment hash>], where CLN's
built-in client keeps its own; they go when they are done. Channels that are still owed their funding, LSPs that broke
their word and the end of the last unpaid purchase lie under ["lsps2fast","client",…]. A write either happened or
raises StoreError.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec

from lsps2fast.errors import Lsps2Error, StoreError
from lsps2fast_plugin.client.built_in_records import APPROVALS, BUYS, is_built_in
from lsps2fast_plugin.client.records import Approval, Distrust, JitChannel, Json, Lapse, Purchase
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import KeyWriter, as_hex, list_datastore
from lsps2fast_plugin.cln.htlc_filter import Keys
from lsps2fast_plugin.cln.late_replies import Insist
from lsps2fast_plugin.cln.retry import retry
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger(__name__)

CHANNELS = ("lsps2fast", "client", "channel")
DISTRUSTED = ("lsps2fast", "client", "distrust")
LAPSED = ("lsps2fast", "client", "lapsed")
SAVE_TRIES = 3  # a payment waits for it

Record = TypeVar("Record")
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, Lsps2Error)


class _Turn:
    """Those who write one record, one after the other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.asked = self.written = 0  # so many writes; the last of them that is in the record


class WalletRecords:
    """Buys by name, approvals by payment hash, channels by channel id, distrusted LSPs and lapses by node id."""

    def __init__(
        self, rpc: Rpc, insist: Insist, clock: Clock, hashes: Keys[bytes], changed: Callable[[], None]
    ) -> None:
        """`hashes` is kept equal to the payment hashes of all approvals: what the host must hand over. `changed()`:
        there are other channels than before, or other LSPs that broke their word. `insist` as in `LateReplyGuard`.
        """
        self._rpc = rpc
        self._writer = KeyWriter(rpc, insist)
        self._clock = clock
        self._hashes = hashes
        self._changed = changed
        self._turns: WeakValueDictionary[tuple[str, ...], _Turn] = WeakValueDictionary()  # while held or waited for
        self.buys: dict[str, Purchase] = {}
        self.approvals: dict[bytes, Approval] = {}
        self.channels: dict[str, JitChannel] = {}
        self.distrusted: dict[str, Distrust] = {}
        self.lapsed: dict[str, Lapse] = {}

    async def load(self) -> None:
        """Read everything. What cannot be read is reported, kept and left alone (K-08). Raises StoreError."""
        for buy in await self._all(BUYS, lambda _, record: Purchase.from_json(record)):
            self.buys[buy.name] = buy
        for approval in await self._all(APPROVALS, lambda name, record: Approval.from_json(_hash(name), record)):
            self.approvals[approval.payment_hash] = approval
            self._hashes.add(approval.payment_hash)
        for channel in await self._all(CHANNELS, JitChannel.from_json):
            self.channels[channel.channel_id] = channel
        for distrust in await self._all(DISTRUSTED, Distrust.from_json):
            self.distrusted[distrust.lsp_id] = distrust
        for lapse in await self._all(LAPSED, Lapse.from_json):
            self.lapsed[lapse.lsp_id] = lapse
        self._changed()

    async def _all(self, folder: tuple[str, ...], read: Callable[[str, Json], Record]) -> list[Record]:
        """Return every readable record right under this folder."""
        found = []
        for row in await list_datastore(self._rpc, folder):
            if row.hex is None or len(row.key) != len(folder) + 1:
                continue  # a folder (cln:D4)
            raw = bytes.fromhex(row.hex)
            if is_built_in(row.key, raw):
                continue
            try:
                record = msgspec.json.decode(raw)
                if "version" not in record:
                    raise ValueError("made by CLN's built-in client, which notes no fee; make a new invoice")
                found.append(read(row.key[-1], record))
            except _UNREADABLE as error:
                log.warning(f"record {list(row.key)} is not used: {type(error).__name__}: {error}; it is left alone")
        return found

    # ---- asking

    def of_lsp(self, lsp_id: str) -> Iterator[Approval]:
        """Return the approvals with this LSP that are not paid yet."""
        return (each for each in self.approvals.values() if each.buy.lsp_id == lsp_id and not each.served)

    def is_open(self, approval: Approval) -> bool:
        """Return whether it still may be paid."""
        return not approval.served and self.approvals.get(approval.payment_hash) is approval

    def lsps(self) -> set[str]:
        """Return the LSPs of which a channel is awaited."""
        return {each.buy.lsp_id for each in self.approvals.values() if not each.served}

    # ---- writing

    async def add_buy(self, buy: Purchase) -> None:
        """Keep a buy until it is approved or ends."""
        await self._write((*BUYS, buy.name), buy.to_json)
        self.buys[buy.name] = buy

    async def drop_buy(self, buy: Purchase) -> None:
        """Drop a buy that is approved, or over."""
        if self.buys.pop(buy.name, None) is not None:
            await self._delete((*BUYS, buy.name))

    async def approve(self, approval: Approval) -> None:
        """Make a payment payable; durable before anything else knows of it (I-01)."""
        if self.lapsed.pop(approval.buy.lsp_id, None) is not None:
            await self._delete((*LAPSED, approval.buy.lsp_id))
        await self._write(_approval_key(approval), approval.to_json)
        self.approvals[approval.payment_hash] = approval
        self._hashes.add(approval.payment_hash)

    async def save(self, approval: Approval) -> None:
        """Write what has changed in an approval; tries a few times, because a payment waits for it.

        Raises StoreError.
        """
        if approval.served or self.approvals.get(approval.payment_hash) is not approval:
            return  # over in the meantime: its record must not come back
        write = partial(self._write, _approval_key(approval), approval.to_json)
        await retry("writing an approval", write, self._clock, errors=StoreError, tries=SAVE_TRIES)

    async def settle(self, approval: Approval) -> None:
        """Delete the record of a payment that is made; in memory it stays, so that late parts are known (I-22)."""
        approval.served = True
        await self._delete(_approval_key(approval))

    async def drop(self, approval: Approval) -> None:
        """Drop an approval that nothing more can come of (I-33). Raises StoreError: then it is still there."""
        self._hashes.discard(approval.payment_hash)
        if self.approvals.pop(approval.payment_hash, None) is None or approval.served:
            return
        try:
            await self._delete(_approval_key(approval))
        except StoreError:
            self.approvals[approval.payment_hash] = approval
            self._hashes.add(approval.payment_hash)
            raise

    async def lapse(self, lapse: Lapse) -> None:
        """Remember that a purchase ended unpaid; one an LSP, until the next purchase there."""
        await self._write((*LAPSED, lapse.lsp_id), lapse.to_json)
        self.lapsed[lapse.lsp_id] = lapse

    async def put_channel(self, channel: JitChannel) -> None:
        """Keep or update a channel. One not bought is found again after a restart: peers cannot make us write."""
        self.channels[channel.channel_id] = channel
        self._changed()
        if channel.payment_hash is None and channel.paid_ms is None:
            return
        await self._write((*CHANNELS, channel.channel_id), channel.to_json)

    async def save_channel(self, channel: JitChannel) -> None:
        """Write what has changed in a channel, unless it was dropped meanwhile: its record must not come back."""
        if self.channels.get(channel.channel_id) is channel:
            await self.put_channel(channel)

    async def drop_channel(self, channel_id: str) -> None:
        """Drop a channel that needs no watching any more."""
        if self.channels.pop(channel_id, None) is not None:
            self._changed()
            await self._delete((*CHANNELS, channel_id))

    def distrust(self, distrust: Distrust) -> Coroutine[Any, Any, None]:
        """Remember from now on that an LSP broke its word; what is returned writes it down, until that is done."""
        self.distrusted[distrust.lsp_id] = distrust
        self._changed()
        return self._write_distrust(distrust)

    async def _write_distrust(self, distrust: Distrust) -> None:
        async def write() -> None:
            if self.distrusted.get(distrust.lsp_id) is distrust:  # not forgiven meanwhile
                await self._write((*DISTRUSTED, distrust.lsp_id), distrust.to_json)

        await retry("writing that an LSP broke its word", write, self._clock, errors=StoreError)

    async def forgive(self, lsp_id: str) -> bool:
        """Trust an LSP again, as far as the options say; whether it was distrusted.

        Raises StoreError: then it is not trusted.
        """
        distrust = self.distrusted.get(lsp_id)
        if distrust is None:
            return False
        await self._delete((*DISTRUSTED, lsp_id))
        if self.distrusted.get(lsp_id) is distrust:  # it broke no other word meanwhile
            del self.distrusted[lsp_id]
        self._changed()
        return True

    async def _write(self, key: tuple[str, ...], record: Callable[[], Json]) -> None:
        """Write a record as it is when its turn comes; those who wait for one turn share one write."""
        turn = self._turns.setdefault(key, _Turn())
        turn.asked += 1
        mine = turn.asked
        async with turn.lock:
            if turn.written >= mine:
                return
            written = turn.asked
            await self._writer.put(key, lambda: as_hex(record()))
            turn.written = written

    async def _delete(self, key: tuple[str, ...]) -> None:
        turn = self._turns.setdefault(key, _Turn())
        async with turn.lock:
            turn.written = 0
            await self._writer.put(key, lambda: None)


def _approval_key(approval: Approval) -> tuple[str, ...]:
    return (*APPROVALS, approval.payment_hash.hex())


def _hash(text: str) -> bytes:
    payment_hash = bytes.fromhex(text)
    if len(payment_hash) != 32:
        raise ValueError("its key is no payment hash")
    return payment_hash
