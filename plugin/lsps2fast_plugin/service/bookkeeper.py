"""Notes in the books of lightningd's own bookkeeper: which of its rows are opening fees, which are JIT channels.

To bookkeeper an opening fee is a routed row like any other (operator:O11). Where it runs, the rows of a sale get a
description, after the payment is over and beside everything else. Nothing depends on it: a note that cannot be made is
left out, and a node without bookkeeper is asked once.

Off unless asked for (`lsps2-bookkeeper-notes`): at each such call bookkeeper (v26.06-258) reads lightningd's moves of
coins on chain, then those in channels, and ends itself where a channel was opened and used between the two; lightningd
takes it for important and ends with it. Seen with fifty sales at once (cln:N12).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from lsps2fast.actions import Channel
from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import Caller
from lsps2fast_plugin.service.sales_ledger.facts import AttemptFact
from lsps2fast_plugin.service.sales_ledger.story import sat

log = logging.getLogger(__name__)

MOST_WAITING: Final = 1_000
PAUSES_MS: Final = (1_000, 10_000, 60_000)  # bookkeeper hears of a movement by itself, a moment after us
UNKNOWN_COMMAND: Final = -32601


class Note(NamedTuple):
    """What to write to which rows."""

    method: str
    params: dict[str, str]


def outpoint_of(channel: Channel) -> str:
    """Return the funding's output: its number is what the channel id differs in from the transaction's (BOLT 2)."""
    ending = int.from_bytes(bytes.fromhex(channel.channel_id)[-2:], "big")
    number = ending ^ int.from_bytes(bytes.fromhex(channel.funding_txid)[::-1][-2:], "big")
    return f"{channel.funding_txid}:{number}"


class BookkeeperNotes:
    """Writes one note after the other."""

    def __init__(
        self,
        rpc: Caller,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        clock: Clock,
        wanted: bool,
    ) -> None:
        """`wanted`: the operator has asked for notes."""
        self._rpc = rpc
        self._spawn = spawn
        self._clock = clock
        self._waiting: deque[Note] = deque(maxlen=MOST_WAITING)
        self._is_writing = False
        self.is_absent = not wanted  # or lightningd knows no bookkeeper

    def ended(self, attempt: AttemptFact) -> None:
        """Note the rows of a payment that is over, if it brought a fee."""
        if attempt.fee_taken_msat:
            token = "" if attempt.token is None else f", token {attempt.token}"
            fee = f"opening fee {sat(attempt.fee_taken_msat)}"
            text = f"LSPS2 {fee}, jit scid {attempt.jit_scid}, client {attempt.peer_id}{token}"
            params = {"payment_id": attempt.payment_hash, "description": text}
            self._note(Note("bkpr-editdescriptionbypaymentid", params))

    def funding_sent(self, peer_id: str, channel: Channel) -> None:
        """Note the row of a funding that bitcoind has."""
        params = {"outpoint": outpoint_of(channel), "description": f"LSPS2 JIT channel, client {peer_id}"}
        self._note(Note("bkpr-editdescriptionbyoutpoint", params))

    def _note(self, note: Note) -> None:
        if self.is_absent or note in self._waiting:
            return
        self._waiting.append(note)
        if not self._is_writing:
            self._is_writing = True
            self._spawn(self._write())

    async def _write(self) -> None:
        try:
            while self._waiting and not self.is_absent:
                await self._try(self._waiting.popleft())
        finally:
            self._is_writing = False

    async def _try(self, note: Note) -> None:
        for pause_ms in (*PAUSES_MS, None):
            try:
                if (await self._rpc.call(note.method, dict(note.params))).get("updated"):
                    return
                why = "it has no such row"
            except NodeError as error:
                if error.code == UNKNOWN_COMMAND:
                    self.is_absent = True
                    self._waiting.clear()
                    log.debug("bookkeeper does not run: its rows are not annotated")
                    return
                why = str(error)
            if pause_ms is not None:
                await self._clock.sleep_until(self._clock.now_ms() + pause_ms)
        log.info(f"bookkeeper's row of {next(iter(note.params.values()))} was not annotated: {why}")
