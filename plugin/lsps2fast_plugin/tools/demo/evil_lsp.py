"""An LSP with one vice, for `lsps2fast demo --evil-lsp`: `python -m lsps2fast_plugin.tools.demo.evil_lsp VICE`.

It is the real service but for the one step it cheats in, so what the wallet meets is exactly an LSP that would know
better. No option, entry point or other module of the service leads here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any, ClassVar, Final

from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.errors import Lsps2Error
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service import app, wiring
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.executor import ActionExecutor
from lsps2fast_plugin.service.held_htlcs import HeldHtlcs
from lsps2fast_plugin.service.opening import Opener
from lsps2fast_plugin.service.shut_channels import ShutChannels

log = logging.getLogger("lsps2fast_plugin.tools.demo.evil_lsp")  # also when run as __main__

SKIMMED_MSAT = 1
SHRUNK_TO = 1 / 20  # of the channel that the payment needs
LATE_MS = 1_000
WAITING = "keeps the channel back until its offer is over"


class SkimmingParts(HeldHtlcs):
    """Forwards less than its extra_fee accounts for."""

    def forward(self, parts: Iterable[order.Forward], channel_id: str) -> None:
        skimmed = [replace(part, out_msat=part.out_msat - SKIMMED_MSAT) for part in parts]
        super().forward(skimmed, channel_id)


class WithholdingBroadcaster(Broadcaster):
    """Says that the funding is sent, and keeps it."""

    async def send(self, peer_id: str, channel: order.Channel) -> str:
        return channel.funding_txid


class ResizingOpener(Opener):
    """Opens a channel too small for the payment it was sold for."""

    async def open(self, peer_id: str, funding: order.Funding, *args: Any, **how: Any) -> order.Opened:
        shrunk = replace(funding, capacity_sat=int(funding.capacity_sat * SHRUNK_TO))
        return await super().open(peer_id, shrunk, *args, **how)


class LateEffects(ActionExecutor):
    """Opens the channel only when its own offer is over."""

    def __init__(self, *, clock: Clock, **parts: Any) -> None:
        super().__init__(clock=clock, **parts)
        self._clock = clock
        self._handlers[order.OpenChannel] = self._open_late

    async def _open_late(self, action: order.OpenChannel) -> None:
        left_ms = self._tasks.buy(action.jit_scid).params.valid_until_ms - self._clock.wall_ms()
        log.warning(WAITING)
        await self._clock.sleep_until(self._clock.now_ms() + left_ms + LATE_MS)
        await self._opening.open(action)


class OpenChannels(ShutChannels):
    """Lets any forward into a channel that has no funding, to be sent on over the wallet's real ones."""

    def look(self, channel_id: str, peer_id: str) -> None:
        """Shut nothing."""


class ReusingOpener(Opener):
    """Opens one channel a peer, and serves every later sale over it, fee and all."""

    kept: ClassVar[dict[str, order.Opened]] = {}

    async def open(self, peer_id: str, *args: Any, **how: Any) -> order.Opened:
        if peer_id not in self.kept:
            self.kept[peer_id] = await super().open(peer_id, *args, **how)
        return self.kept[peer_id]


class VanishingParts(HeldHtlcs):
    """Forwards the first part, and is not heard of again."""

    def forward(self, parts: Iterable[order.Forward], channel_id: str) -> None:
        super().forward(list(parts)[:1], channel_id)
        os.kill(os.getpid(), signal.SIGTERM)


class RepeatingOpener(Opener):
    """Opens a second channel for the same sale."""

    async def open(self, *args: Any, **how: Any) -> order.Opened:
        first = await super().open(*args, **how)
        with contextlib.suppress(Lsps2Error):
            await super().open(*args, **how | {"look": False})
        return first


VICES: Final[dict[str, tuple[type, ...]]] = {
    "skim": (SkimmingParts,),
    "withhold": (WithholdingBroadcaster,),
    "resize": (ResizingOpener,),
    "late": (LateEffects,),
    "drain": (WithholdingBroadcaster, OpenChannels),
    "reuse": (ReusingOpener,),
    "fake-funding": (WithholdingBroadcaster,),
    "second-channel": (RepeatingOpener,),
    "vanish": (VanishingParts,),
}


def main(arguments: list[str]) -> int:
    """Put the vice in the place of the parts of the service it corrupts, and run."""
    for vice in VICES[arguments[0]]:
        setattr(wiring, vice.__mro__[1].__name__, vice)
    return app.main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
