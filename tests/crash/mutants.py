"""Faults put into the plugin on purpose, to see whether the crash machine notices.

Each takes away one thing that keeps money safe. They live in the forked plugin only, chosen by an environment variable
that nothing but these tests sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VARIABLE = "LSPS2FAST_TEST_MUTANT"


def _unwritten(stage: str) -> Callable[[], None]:
    """The machine is told that a record of this stage is stored, and it is not."""

    def install() -> None:
        from lsps2fast.table import Input
        from lsps2fast_plugin.service.executor import ActionExecutor

        write = ActionExecutor._persist

        async def persist(self: Any, action: Any) -> None:
            if action.journal.stage == stage:
                self._feed(action.jit_scid, action.payment_hash, Input.STORED, None)
            else:
                await write(self, action)

        ActionExecutor._HANDLERS[_order("Persist")] = persist

    return install


def _order(name: str) -> type:
    from lsps2fast import actions

    kind: type = getattr(actions, name)
    return kind


def _flag_proves() -> None:
    """A failed sendpsbt counts as done, as if `withheld: false` proved anything, and its block is not looked for."""
    from lsps2fast_plugin.service.funding import Funder
    from lsps2fast_plugin.service.missed_events import MissedEventPoller

    async def is_confirmed(self: Any, peer_id: str, channel_id: str) -> bool:
        return True

    setattr(Funder, "_is_confirmed", is_confirmed)  # noqa: B010  (mypy knows that it is a method)
    setattr(MissedEventPoller, "funding", lambda self, peer_id, channel: None)  # noqa: B010


def _blind_close() -> None:
    """Whatever is in it, a channel that the machine gave up is closed (against K-11)."""
    from lsps2fast_plugin.service import funding

    setattr(funding, "holds_money_of_client", lambda channel: False)  # noqa: B010


def _unrenewed() -> None:
    """Reservations are never made anew (against O-04)."""
    from lsps2fast_plugin.service.executor import ActionExecutor

    async def renew(self: Any, action: Any) -> None:
        """Nothing."""

    ActionExecutor._HANDLERS[_order("RenewInputs")] = renew


MUTANTS: dict[str, Callable[[], None]] = {
    "intent-unwritten": _unwritten("intent"),
    "channel-unwritten": _unwritten("channel"),
    "forwards-unwritten": _unwritten("forwards"),
    "flag-proves": _flag_proves,
    "blind-close": _blind_close,
    "unrenewed": _unrenewed,
}


def apply(name: str) -> None:
    """Change the loaded plugin; "" changes nothing. KeyError for a name that is none."""
    if name:
        MUTANTS[name]()
