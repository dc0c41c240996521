"""Whether the preimage of a complete payment may be given away: is each channel it came over as safe as was asked?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.funding_status import Chain, FundingStatus
from lsps2fast_plugin.client.held_payment import Ground, HeldPayment
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.client.records import Approval
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.cln.clock import Clock

log = logging.getLogger(__name__)

POLL_S: Final = 5.0  # beside the notifications, while a funding is awaited


class ReleaseGround:
    """Looks at the channels of payments, again and again where waiting helps."""

    def __init__(self, book: WalletRecords, chain: Chain, watch: Watch, clock: Clock, settings: Settings) -> None:
        self._book = book
        self._chain = chain
        self._watch = watch
        self._clock = clock
        self.settings = settings
        self._news = asyncio.Event()

    def look(self) -> None:
        """Look again at once: a channel may have changed."""
        self._news.set()
        self._news = asyncio.Event()

    def allow(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        self.settings = settings

    async def of(self, payment: HeldPayment, waits: Callable[[], Awaitable[None]]) -> Ground:
        """Return whether the preimage may be given away; waits for a funding where that helps (I-29, I-30).

        Calls `waits()` before it does; raises what that raises.
        """
        buy = payment.approval.buy
        distrust = self._book.distrusted.get(buy.lsp_id)
        if buy.client_trusts_lsp and distrust is not None:
            return Ground(f"this LSP wants to be trusted and broke its word before: {distrust.why}")
        if buy.client_trusts_lsp and not buy.consent:
            return Ground("this LSP wants to be trusted, which its owner did not allow")
        on_trust = buy.client_trusts_lsp or (distrust is None and self.settings.trusts(buy.lsp_id))
        while channels := payment.channels:
            height = self._chain.height
            missing = await self._lacking(payment.approval, channels, on_trust)
            payment.awaits, payment.awaits_height = missing, height
            if missing is None:
                return Ground(None, channels)
            if missing is FundingStatus.WRONG:
                return Ground(f"the funding transaction is {missing.value}")
            await waits()
            await self._wait()
        return Ground(None, frozenset())

    async def _lacking(self, approval: Approval, channels: frozenset[str], on_trust: bool) -> FundingStatus | None:
        """Return what is still missing of these fundings; an error of the node is no answer (K-13).

        Trust for this purchase is trust in its own channel; any other that parts came over must be sound.
        """
        for channel_id in channels:
            lacking: FundingStatus | None = None
            try:
                if channel_id != approval.channel_id:
                    unsafe = await self._watch.unsafe(channel_id)
                    lacking = None if unsafe is None else FundingStatus.NOWHERE
                elif not on_trust:
                    lacking = await self._watch.lacking(channel_id)
            except (NodeError, KeyError) as error:
                log.warning(f"the funding of channel {channel_id} cannot be looked at: {error!r}")
                return FundingStatus.NOWHERE
            if lacking is not None:
                return lacking
        return None

    async def _wait(self) -> None:
        """Wait for news, or a while."""
        news = asyncio.ensure_future(self._news.wait())
        turned = asyncio.ensure_future(self._clock.turned(POLL_S))
        await asyncio.wait((news, turned), return_when=asyncio.FIRST_COMPLETED)
        news.cancel()
        turned.cancel()
