"""The openchannel hook's one answer: at once, or as soon as it is known what has become of the channel before.

An LSP that gave a channel up opens the next one at once, sooner than lightningd tells us of the first: after a restart
of ours it learns from the LSP's "Channel is closed and forgotten", 25 ms behind the connection on a quiet machine. To
refuse then would end the payment for good, because an LSP must call our refusal permanent (O-08).
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pyln.client.plugin import Request

from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps2 import format_datetime
from lsps2fast_plugin.client import channel_terms
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock

log = logging.getLogger(__name__)

LOOK_S: Final = 0.25
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
        watch: Watch,
        clock: Clock,
        limits: channel_terms.Limits,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        report: Callable[[str, str], None],
    ) -> None:
        """`report(lsp_id, sentence)` tells the owner why something was refused; `spawn` runs a coroutine by itself."""
        self._book = book
        self._watch = watch
        self._clock = clock
        self._limits = limits
        self._spawn = spawn
        self._report = report
        self._doubted: dict[str, Request] = {}  # by LSP; lightningd lets it open one channel at a time

    def knock(self, request: Request, openchannel: Json) -> None:
        """Answer the hook, now or within five seconds."""
        try:
            answer, why = self._judge(openchannel)
            if why == channel_terms.TAKEN:
                self._doubted[openchannel["id"]] = request
                self._spawn(self._look_again(request, openchannel))
                return
            self._note(openchannel, answer, why)
        except Exception:  # any other answer would end lightningd, none would leave the LSP hanging (K-20)
            answer = self._bug()
        request.set_result(answer)

    def disconnected(self, lsp_id: str) -> None:
        """Its opening is over, whatever we would have answered."""
        self._doubted.pop(lsp_id, None)

    def _judge(self, openchannel: Json) -> tuple[Json, str | None]:
        lsp_id, wall_ms = openchannel["id"], self._clock.wall_ms()
        wanted = [
            channel_terms.Wanted(each.buy.least_receive_msat(), each.buy.params.max_client_to_self_delay_blocks)
            for each in self._book.of_lsp(lsp_id)
            if each.ends_ms > wall_ms
        ]
        if not wanted and channel_terms.is_zero_conf(openchannel):
            self._note_late(lsp_id, openchannel["funding_msat"])
        return channel_terms.answer(openchannel, wanted, self._watch.in_use_msat(lsp_id), self._limits)

    async def _look_again(self, request: Request, openchannel: Json) -> None:
        """Until lightningd knows that the channel of before is gone, for a while."""
        try:
            answer = await self._settled(request, openchannel)
        except Exception:  # as above
            answer = self._bug()
        request.set_result(answer)

    async def _settled(self, request: Request, openchannel: Json) -> Json:
        lsp_id, until_ms = openchannel["id"], self._clock.now_ms() + DOUBT_MS
        while self._doubted.get(lsp_id) is request:
            await self._look(lsp_id)
            answer, why = self._judge(openchannel)
            if why != channel_terms.TAKEN or self._clock.now_ms() >= until_ms:
                del self._doubted[lsp_id]
                self._note(openchannel, answer, why)
                return answer
            await self._clock.turned(LOOK_S)
        return _reject("the connection was lost")

    async def _look(self, lsp_id: str) -> None:
        try:
            await self._watch.look_at(lsp_id)
        except Lsps2Error as error:
            log.warning(f"put off: {error}")

    def _note(self, openchannel: Json, answer: Json, why: str | None) -> None:
        lsp_id, funding_msat = openchannel["id"], openchannel["funding_msat"]
        if why is not None:
            self._report(lsp_id, f"refused a channel of {funding_msat} msat: {why}")
        elif "mindepth" in answer:
            self._watch.expect(lsp_id, funding_msat)

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
