"""Guards of what all draw from together, taken away: coins, held parts, wake-up calls; see `mutants.py`."""

from __future__ import annotations

from typing import Any

from lsps2fast_plugin.service.coins import RESERVE_BLOCKS, Coins
from lsps2fast_plugin.service.held_shares import giving_way
from lsps2fast_plugin.service.held_together import HeldKinds
from lsps2fast_plugin.service.wake import sleepers
from lsps2fast_plugin.service.wake.caller import Caller
from lsps2fast_plugin.service.wake.sleepers import Sleepers

from .mutant import Mutant

MEETING = {"orders": "on", "people": 120.0, "batch": "off"}
SLEEPING = {"people": 60.0}
_build, _orders = Coins._build, HeldKinds.orders


def _orders_twice(self: HeldKinds, parts: Any) -> None:
    _orders(self, parts)
    self.all.add(parts)


def _nothing(*_: Any, **__: Any) -> None:
    """Left undone."""


async def _reserve(self: Any, jit_scid: int, funding: Any, late: Any) -> None:
    params = {"psbt": funding.psbt, "exclusive": False, "reserve": RESERVE_BLOCKS}
    await self._rpc.call("reserveinputs", params, late=late)


async def _build_all(self: Any, inputs: Any, need: Any, reserved: bool = False) -> str:
    return await _build(self, inputs, need, reserved=True)


def _first_come(held: Any, new: Any, most: int, most_msat: int) -> Any:
    return [] if giving_way(held, new, most, most_msat) == [] else None


def _last_come(held: Any, new: Any, most: int, most_msat: int) -> Any:
    if giving_way(held, new, most, most_msat) == []:
        return []
    return sorted(held, key=lambda each: each.amount_msat)[: len(held) + 1 - most]


POTS: dict[str, Mutant] = {
    "orders-count-twice": Mutant(
        "rule:24",
        "the word that the parts of orders have been counted among those that are held",
        ("both-ways",),
        ((HeldKinds, "orders", _orders_twice),),
        MEETING,
    ),
    "one-coin-for-two": Mutant(
        "rule:9",
        "the promise of coins to one opening, and lightningd's own look at who has reserved them",
        ("both-ways",),
        ((Coins, "_promise", _nothing), (Coins, "_reserve", _reserve), (Coins, "_build", _build_all)),
        MEETING,
    ),
    "first-come": Mutant(
        "rule:24",
        "the way in which a channel that holds most for a sleeping client gives way to one that holds less",
        ("fills-the-pot",),
        ((sleepers, "giving_way", _first_come),),
        SLEEPING,
    ),
    "last-come": Mutant(
        "rule:24",
        "the question who holds most for a sleeping client: each part that comes takes the place of the smallest",
        ("fills-the-pot", "back-late"),
        ((sleepers, "giving_way", _last_come),),
        SLEEPING,
    ),
    "sleeps-on": Mutant(
        "rule:5",
        "the end of what is held for a client that does not come back",
        ("back-late",),
        ((Sleepers, "look", _nothing),),
        SLEEPING,
    ),
    "called-without-end": Mutant(
        "rule:24",
        "the allowance of calls, which coming and going does not renew",
        ("comes-and-goes",),
        ((Caller, "_is_allowed", lambda *_: True),),
        SLEEPING,
    ),
}
