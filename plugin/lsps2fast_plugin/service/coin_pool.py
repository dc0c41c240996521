"""A stock of coins of one size, so that several channels can be paid for at once without waiting for change.

Every opening spends a whole coin and its change counts again only with a block; a wallet of one large coin sells one
channel a block. With `lsps2-coin-pool` a large coin is split ahead of time, in one transaction of the wallet to itself.

There is no half-way state of ours: `multiwithdraw` reserves, signs and sends inside lightningd, and what it has done is
seen in `listfunds`, where coins without a block count as coming. So nothing is journalled, and a start looks anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from lsps2fast.errors import AnswerPending, NodeError
from lsps2fast_plugin.cln.answers import text
from lsps2fast_plugin.cln.retry import ALARM_AFTER, is_doubled
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.coin_table import Coin, Survey
from lsps2fast_plugin.service.coins import POOL, Coins

log = logging.getLogger(__name__)

SPLIT_WEIGHT: Final = 42  # of a transaction without inputs and outputs
COIN_WEIGHT: Final = 172  # of a taproot output


class PoolSize(NamedTuple):
    """What the operator asked for: so many coins, of so many sat each."""

    coins: int
    each_sat: int


class Split(NamedTuple):
    """Make so many pieces of the pool's size out of this coin; the rest is change."""

    coin: Coin
    pieces: int


def supply(found: Survey, size: PoolSize) -> int:
    """Return how many coins stand ready or wait for a block that are large enough, the largest free one not counted."""
    enough = [coin for coin in (*found.free, *found.unconfirmed) if coin.amount_sat >= size.each_sat]
    return len(enough) - any(coin.amount_sat >= size.each_sat for coin in found.free)


def plan(found: Survey, size: PoolSize, feerate_perkw: int, keep_sat: int) -> Split | None:
    """Return the split to make now, or None: nothing is split before half the pool is used, or when it would gain no
    coin.

    The largest free coin is what is split; `keep_sat` of it stay whole, as change.
    """
    have = supply(found, size)
    if 2 * have > size.coins or not found.free:
        return None
    largest = max(found.free, key=lambda coin: coin.amount_sat)
    fixed_sat = -(-(SPLIT_WEIGHT + largest.weight + COIN_WEIGHT) * feerate_perkw // 1000)
    output_sat = size.each_sat + -(-COIN_WEIGHT * feerate_perkw // 1000)
    pieces = min(size.coins - have, (largest.amount_sat - keep_sat - fixed_sat) // output_sat)
    if pieces < 1:
        return None
    is_left = largest.amount_sat - fixed_sat - pieces * output_sat >= size.each_sat
    return Split(largest, pieces) if pieces + is_left > 1 else None


class CoinPool:
    """Sees to it that the pool is filled. One split at a time."""

    def __init__(
        self,
        *,
        rpc: Rpc,
        coins: Coins,
        size: PoolSize,
        feerate_perkw: Callable[[], Awaitable[int]],
        keep_sat: Callable[[], int],
        alarm: Callable[[str], None],
    ) -> None:
        """`feerate_perkw()`: what the split pays, or NodeError; `keep_sat()`: what is never cut up."""
        self._rpc = rpc
        self._coins = coins
        self._size = size
        self._feerate_perkw = feerate_perkw
        self._keep_sat = keep_sat
        self._alarm = alarm
        self._is_looking = self._is_asked = False
        self._txid = ""  # of the last split
        self._failures = 0
        self.splits = 0
        self.ready: int | None = None  # coins that are large enough and free, at the last look

    async def look(self) -> None:
        """At a start and with each block: split a coin if the pool is short. Errors wait for the next."""
        self._is_asked = True
        if self._is_looking:
            return
        self._is_looking = True
        try:
            while self._is_asked:  # once more for a block that came meanwhile
                self._is_asked = False
                await self._look()
        except NodeError as error:
            self._failed(str(error))
        finally:
            self._is_looking = False

    async def _look(self) -> None:
        if self._coins.has_promises(POOL):  # to a split whose answer is still to come
            return
        found = await self._survey()
        if self._short(found) is None or await self._coins.is_syncing():
            return  # lightningd may not know all its coins yet (cln:R5)
        feerate_perkw = await self._feerate_perkw()
        if (rough := plan(found, self._size, feerate_perkw, self._keep_sat())) is None:
            return
        addresses = await asyncio.gather(*(self._address() for _ in range(rough.pieces)))
        # Payments have gone on meanwhile. From this look to the promise no other task of ours runs.
        split = plan(await self._survey(), self._size, feerate_perkw, self._keep_sat())
        if split is not None:
            await self._split(split.coin, addresses[: split.pieces], feerate_perkw)

    async def _survey(self) -> Survey:
        found = await self._coins.survey()
        self.ready = sum(coin.amount_sat >= self._size.each_sat for coin in found.free)
        return found

    def _short(self, found: Survey) -> Split | None:
        """Return what would be split if it cost nothing; None while the last split waits for its block."""
        if any(coin.point.startswith(f"{self._txid}:") for coin in found.unconfirmed):
            return None
        return plan(found, self._size, 0, self._keep_sat())

    async def _address(self) -> str:
        return text(await self._rpc.call("newaddr", {"addresstype": "p2tr"}), "newaddr", "p2tr")

    async def _split(self, coin: Coin, addresses: list[str], feerate_perkw: int) -> None:
        self._coins.promise(POOL, [coin.point])
        params = {
            "outputs": [{address: f"{self._size.each_sat}sat"} for address in addresses],
            "feerate": f"{feerate_perkw}perkw",
            "utxos": [coin.point],
        }
        try:
            answer = await self._rpc.call("multiwithdraw", params, late=self._forget)
        except AnswerPending:  # it may still be carried out: the coin stays promised until that is known
            raise
        except BaseException:
            self._forget()
            raise
        self._forget()
        self._txid, self._failures = text(answer, "multiwithdraw", "txid"), 0
        self.splits += 1
        log.info(
            f"{coin.amount_sat} sat are being split into {len(addresses)} coins of {self._size.each_sat} sat for JIT "
            f"channels, in transaction {self._txid}"
        )

    def _forget(self) -> None:
        self._coins.forget(POOL)

    def _failed(self, why: str) -> None:
        self._failures += 1
        if is_doubled(self._failures, ALARM_AFTER):
            self._alarm(f"the pool of coins could not be filled {self._failures} times: {why}")
        else:
            log.warning(f"the pool of coins cannot be filled now ({why}); the next block looks again")
