"""How full each share of the held HTLCs is (rule:24), for the operator: as numbers, and once in the log when one fills.

The core keeps the shares; nothing is refused here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from lsps2fast._payment import JitChannel
from lsps2fast._sessions import Sessions
from lsps2fast_plugin.service.held_together import Held

log = logging.getLogger(__name__)

FULL: Final = ("no room", "gave way")  # keys of `Sessions.refused` that grow only while a share is full
ROOM_PERCENT: Final = 90  # a share has room below this; a large part is refused by one that is nearly full


class Share(NamedTuple):
    """What is used of one share, in msat or in HTLCs."""

    used: int
    limit: int
    unit: str


class HeldLimits:
    """Watches the shares of one service."""

    def __init__(self, sessions: Sessions, beside: Held) -> None:
        """`beside`: what is held for others than sales."""
        self._sessions = sessions
        self._beside = beside
        self._refused = 0
        self._full: set[str] = set()

    def shares(self, buys: Iterable[JitChannel] | None = None) -> dict[str, Share]:
        """Return each share with its use: of all, of the client that has most, of the offer that has most.

        Of these buys only, where some are given: what is looked at for each part may not grow with what is sold.
        """
        core = self._sessions
        held = [buy for buy in (core.buys.values() if buys is None else buys) if buy.held_parts]
        parts = max((buy.client.held_parts for buy in held), default=0)
        msat = max((buy.client.held_msat for buy in held), default=0)
        return {
            "held_parts": Share(core.held_parts + len(self._beside), core.max_held_parts, "parts"),
            "held_parts_of_a_client": Share(parts, core.max_held_parts_per_peer, "parts"),
            "held_parts_of_an_offer": Share(
                max((buy.held_parts for buy in held), default=0), core.max_held_parts_per_buy, "parts"
            ),
            "held_sat": Share(core.held_msat + self._beside.held_msat, core.max_held_msat, "msat"),
            "held_sat_of_a_client": Share(msat, core.max_held_msat_per_peer, "msat"),
        }

    def limits(self) -> dict[str, dict[str, Any]]:
        """Return what `lsps2-stats` shows of them."""
        return {
            name: {f"used_{share.unit}": share.used, f"limit_{share.unit}": share.limit, "binds": name in self._full}
            for name, share in self.shares().items()
        }

    def part_came(self, buy: JitChannel | None) -> None:
        """Tell once that a share is full: one has refused a part of this buy, or made others give way to it."""
        refused = sum(self._sessions.refused[why] for why in FULL)
        if refused == self._refused or buy is None:
            return
        self._refused = refused
        for name, share in self.shares([buy]).items():
            if share.used * 100 >= share.limit * ROOM_PERCENT and name not in self._full:
                self._full.add(name)
                log.warning(f"{name} binds from now on: of {share.limit} {share.unit} {share.used} are used up")

    def look(self) -> None:
        """Every few seconds: tell that a share has room again."""
        if not self._full:
            return
        for name, share in self.shares().items():
            if name in self._full and share.used * 100 < share.limit * ROOM_PERCENT:
                self._full.discard(name)
                log.info(f"{name} has room again")
