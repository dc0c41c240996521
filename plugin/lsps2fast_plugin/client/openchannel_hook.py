"""The openchannel hook's one answer: at once, or as soon as it is known what has become of the channel before.

An LSP that gave a channel up opens the next one at once, sooner than lightningd tells us of the first: after a restart
of ours it learns from the LSP's "Channel is closed and forgotten", 25 ms behind the connection on a quiet machine. To
refuse then would end the payment for good, because an LSP must call our refusal permanent (O-08).
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from lsps2fast.errors import Lsps2Error, NodeError, StoreError
from lsps2fast.lsps.lsps2 import format_datetime
from lsps2fast_plugin.client import channel_terms
from lsps2fast_plugin.client.bindings import ChannelBindings
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.pyln_client import Request

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
MOST_TOLERATED: Final = 100
TEMPORARY: Final = "the wallet's node is busy, try again"
DOUBT_MS: Final = 5_000  # an LSP waits about a minute for our answer (K-22)

Json = dict[str, Any]


def _reject(why: str) -> Json:
    return {"result": "reject", "error_message": why}


class OpenChannelHook:
    """Lets channels in that were bought."""

    def __init__(
        self,
        *,
        book: WalletRecords,
        bindings: ChannelBindings,
        chain: Chain,
        watch: Watch,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        report: Callable[[str, str], None],
        end_deleted: Callable[[str], Awaitable[None]],
    ) -> None:
        """`report(lsp_id, sentence)` tells the owner why something was refused; `spawn` runs a coroutine by itself.
        `end_deleted(lsp_id)` ends purchases whose invoice the owner has deleted.
        """
        self._end_deleted = end_deleted
        self._book = book
        self._bindings = bindings
        self._chain = chain
        self._watch = watch
        self._clock = clock
        self._spawn = spawn
        self._report = report
        self._asked: dict[str, Request] = {}  # by LSP; lightningd lets it open one channel at a time
        self._tolerated: set[tuple[str, str]] = set()

    def knock(self, request: Request, openchannel: Json) -> None:
        """Answer the hook, now or within five seconds."""
        try:
            lsp_id = openchannel["id"]
            if any(each.ends_ms > self._clock.wall_ms() for each in self._book.of_lsp(lsp_id)):
                self._asked[lsp_id] = request
                self._spawn(self._answer(request, openchannel))
                return
            if channel_terms.is_zero_conf(openchannel):
                self._note_late(lsp_id, openchannel["funding_msat"])
            answer = channel_terms.CONTINUE
        except Exception:  # any other answer would end lightningd, none would leave the LSP hanging (K-20)
            answer = self._bug()
        request.set_result(answer)

    def disconnected(self, lsp_id: str) -> None:
        """Forget the opening of an LSP that is gone, whatever we would have answered."""
        self._asked.pop(lsp_id, None)

    async def _answer(self, request: Request, openchannel: Json) -> None:
        try:
            answer = await self._settled(request, openchannel)
        except Exception:  # as above
            answer = self._bug()
        if self._asked.get(openchannel["id"]) is not request:
            answer = channel_terms.CONTINUE  # of an opening that is gone: it has no terms, and nothing to refuse
        request.set_result(answer)

    async def _settled(self, request: Request, openchannel: Json) -> Json:
        """Look until it is known that the purchase has no channel in use, for a while."""
        lsp_id, until_ms = openchannel["id"], self._clock.now_ms() + DOUBT_MS
        while self._asked.get(lsp_id) is request:
            why: str | None = None
            try:
                rows = await self._chain.rows(id=lsp_id)
                await self._end_deleted(lsp_id)
                async with self._bindings.settled:
                    decision, approval = self._bindings.decide(openchannel, rows)
                    is_ours = approval is not None and await self._bindings.accept(approval, openchannel, rows)
                why = decision.why
                if is_ours:
                    self._watch.guard()
                    self._note_tolerated(lsp_id, decision.tolerated)
                    return decision.answer
                if approval is None and why != channel_terms.TAKEN:
                    self._note_refused(openchannel, why)
                    return decision.answer
                answer = decision.answer
            except (NodeError, StoreError) as error:
                why = f"it cannot be noted what it is for: {error}"
                answer = _reject(f"no JIT channel now: {TEMPORARY}")
            if self._clock.now_ms() >= until_ms:
                self._note_refused(openchannel, why)
                return answer
            await self._watch_again(lsp_id)
        return channel_terms.CONTINUE

    async def _watch_again(self, lsp_id: str) -> None:
        """Until lightningd knows that the channel of before is gone."""
        await self._clock.turned(LOOK_S)
        try:
            await self._watch.look_at(lsp_id)
        except Lsps2Error as error:
            log.warning(f"put off: {error}")

    def _note_refused(self, openchannel: Json, why: str | None) -> None:
        if why is not None:
            self._report(openchannel["id"], f"refused a channel of {openchannel['funding_msat']} msat: {why}")

    def _note_tolerated(self, lsp_id: str, tolerated: tuple[str, ...]) -> None:
        """Log once how the LSP's software differs from the protocol (wallet:W16)."""
        for what in tolerated:
            if (lsp_id, what) not in self._tolerated and len(self._tolerated) < MOST_TOLERATED:
                self._tolerated.add((lsp_id, what))
                log.info(f"a channel of LSP {lsp_id} was accepted although {what}")

    def _note_late(self, lsp_id: str, funding_msat: int) -> None:
        """Without an approval lightningd refuses a zero-conf channel; the owner hears what it was for (I-11)."""
        ended_ms = [each.ends_ms for each in self._book.of_lsp(lsp_id)]
        if not ended_ms and lsp_id in self._book.lapsed:
            ended_ms = [self._book.lapsed[lsp_id].ended_ms]
        if ended_ms:
            self._report(
                lsp_id,
                f"did not accept a zero-conf channel of {funding_msat} msat: what it was bought for ended"
                f" {format_datetime(max(ended_ms))}; a new invoice is needed",
            )

    def _bug(self) -> Json:
        log.error(f"openchannel failed\n{traceback.format_exc()}")
        return _reject("internal error of the plugin")
