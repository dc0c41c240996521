"""Faults put into the plugin on purpose, to see whether the crash machine notices.

Each takes away one thing that keeps money safe. They live in the forked plugin only, chosen by an environment variable
that nothing but these tests sets.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

VARIABLE = "LSPS2FAST_TEST_MUTANT"


def _unwritten(stage: str) -> Callable[[], None]:
    """The machine is told that a record of this stage is stored, and it is not."""

    def install() -> None:
        from lsps2fast.table import Input
        from lsps2fast_plugin.service.record_orders import RecordOrders

        write = RecordOrders.persist

        async def persist(self: Any, action: Any) -> None:
            if action.record.stage == stage:
                self._tasks.feed(action.jit_scid, action.payment_hash, Input.STORED, None)
            else:
                await write(self, action)

        setattr(RecordOrders, "persist", persist)  # noqa: B010

    return install


def _flag_proves() -> None:
    """Any error of sendpsbt counts as bitcoind's word that it has the funding, and its block is not looked for."""
    from lsps2fast_plugin.service import broadcast
    from lsps2fast_plugin.service.missed_events import MissedEventPoller

    setattr(broadcast, "KNOWN_TO_BITCOIND", ("",))  # noqa: B010  (mypy knows that it is final)
    setattr(MissedEventPoller, "funding", lambda self, peer_id, channel: None)  # noqa: B010


def _unseen() -> None:
    """A funding is sent without a look whether its channel lives (against rule:23)."""
    from lsps2fast_plugin.service import broadcast

    async def look(self: Any, peer_id: str, channel_id: str) -> broadcast.ProofOfLife:
        return broadcast.ProofOfLife(broadcast._SEAL, channel_id, False)

    setattr(broadcast.Broadcaster, "look", look)  # noqa: B010


def _cancels_blindly() -> None:
    """An open that failed is cancelled without a look at what that would take (against rule:26)."""
    from lsps2fast.errors import NodeError
    from lsps2fast_plugin.service.opening import Opener, RefusedByClient

    negotiate = Opener._negotiate

    async def cancel(self: Any, peer_id: str, funding: Any, late: Any) -> Any:
        try:
            return await negotiate(self, peer_id, funding, late)
        except (RefusedByClient, NodeError):
            with contextlib.suppress(NodeError):
                await self._rpc.call("fundchannel_cancel", {"id": peer_id}, 10.0)
            raise

    setattr(Opener, "_negotiate", cancel)  # noqa: B010


def _never_hangs_up() -> None:
    """An open with a silent client is cancelled, which waits for that client, and not cut off (against people:S13)."""
    from lsps2fast_plugin.service.opening import Opener

    async def hang_up(self: Any, peer_id: str) -> None:
        await self._rpc.call("fundchannel_cancel", {"id": peer_id}, 10.0)

    setattr(Opener, "hang_up", hang_up)  # noqa: B010


def _blind_close() -> None:
    """Whatever is in it, a channel that the machine gave up is closed (against K-11)."""
    rooms = [room for name, room in sys.modules.items() if name.startswith("lsps2fast_plugin.service.")]
    for room in rooms:
        if hasattr(room, "holds_money_of_client"):
            setattr(room, "holds_money_of_client", lambda channel: False)  # noqa: B010


def _unrenewed() -> None:
    """Reservations are never made anew (against O-04)."""
    from lsps2fast_plugin.service.reservations import Reservations

    async def renew(self: Any, action: Any, peer_id: str, channel_id: Any) -> None:
        """Nothing."""

    setattr(Reservations, "_renew", renew)  # noqa: B010


MUTANTS: dict[str, Callable[[], None]] = {
    "intent-unwritten": _unwritten("intent"),
    "channel-unwritten": _unwritten("channel"),
    "forwards-unwritten": _unwritten("forwards"),
    "flag-proves": _flag_proves,
    "unseen": _unseen,
    "cancels-blindly": _cancels_blindly,
    "never-hangs-up": _never_hangs_up,
    "blind-close": _blind_close,
    "unrenewed": _unrenewed,
}


def apply(name: str) -> None:
    """Change the loaded plugin; "" changes nothing. KeyError for a name that is none."""
    if name:
        MUTANTS[name]()
