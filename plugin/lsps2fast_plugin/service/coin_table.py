"""The wallet's outputs as lightningd has listed them: which pay for channels, which wait for a block, what is reserved.

A table is made once for each listing. What we promise, free and spend ourselves is taken out of it and put back coin by
coin, so that a sale costs the same beside ten coins and ten thousand (P24).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from lsps2fast_plugin.cln.models import WalletOutput

# What spending a coin weighs, as lightningd reckons it, by the length of its script.
TAPROOT_WEIGHT, SEGWIT_WEIGHT, WRAPPED_WEIGHT = 230, 271, 363
WRAPPED_SCRIPT, SEGWIT_SCRIPT = 23, 22  # bytes; what is longer and no taproot cannot weigh more than WRAPPED_WEIGHT
TAPROOT_PREFIX: Final = "5120"


class Coin(NamedTuple):
    """One output of the wallet that can be spent. `point` is "txid:vout"."""

    point: str
    amount_sat: int
    weight: int  # of the input that spends it


class Need(NamedTuple):
    """What is to be paid: one output, and the fee of `weight` (that of the transaction without its inputs) with it.

    `anchors`: it is for a channel of that type, and lightningd keeps its emergency reserve beside it (cln:O18).
    """

    amount_sat: int
    weight: int
    feerate_perkw: int
    anchors: bool = False


class Survey(NamedTuple):
    """What the wallet holds at one moment, in sat."""

    free: tuple[Coin, ...]  # confirmed, not reserved, not promised
    free_sat: int  # their sum
    promised_sat: int  # to openings of ours, not reserved yet
    unconfirmed: tuple[Coin, ...]  # change and deposits without a block: not used (see `Coins`)
    reserved_sat: int

    @property
    def unconfirmed_sat(self) -> int:
        """Sum of what waits for a block."""
        return sum_sat(self.unconfirmed)


class CoinTable:
    """One listing, sorted at one height."""

    def __init__(self, rows: Sequence[WalletOutput], height: int, promised: Container[str]) -> None:
        self.reserved = {row.point: row for row in rows if row.reserved}
        self._unconfirmed: dict[str, Coin] = {}
        self._coins: dict[str, Coin] = {}  # confirmed and not reserved
        for row in rows:
            if not row.reserved:
                coin = Coin(row.point, row.amount_sat, _weight(row.scriptpubkey))
                (self._coins if row.is_spendable(height) else self._unconfirmed)[coin.point] = coin
        self._free = {point: coin for point, coin in self._coins.items() if point not in promised}
        self.free_sat = sum_sat(self._free.values())
        self._perkw = -1  # the feerate at which these are sorted:
        self._worths: list[tuple[int, Coin]] = []  # free coins that pay for themselves, the least worth first

    def survey(self) -> Survey:
        """Return what it holds."""
        return Survey(
            tuple(self._free.values()),
            self.free_sat,
            sum_sat(self._coins.values()) - self.free_sat,
            tuple(self._unconfirmed.values()),
            sum(row.amount_sat for row in self.reserved.values()),
        )

    def take(self, points: Iterable[str]) -> None:
        """Have these free no longer: they are promised."""
        for point in points:
            coin = self._free.pop(point, None)
            if coin is not None:
                self.free_sat -= coin.amount_sat
                if (worth := self._worth(coin)) > 0 and self._worths:
                    del self._worths[bisect_left(self._worths, (worth, coin))]

    def give(self, points: Iterable[str]) -> None:
        """Have these free again: they are promised to no one."""
        for point in points:
            coin = self._coins.get(point)
            if coin is not None and point not in self._free:
                self._free[point] = coin
                self.free_sat += coin.amount_sat
                if (worth := self._worth(coin)) > 0 and self._perkw >= 0:
                    insort(self._worths, (worth, coin))

    def drop(self, points: Iterable[str]) -> None:
        """Have these no longer: they are spent."""
        for point in points:
            self.take([point])
            for coins in (self._coins, self._unconfirmed, self.reserved):
                coins.pop(point, None)

    def _worth(self, coin: Coin) -> int:
        """Return what a coin is worth beside its input, in thousandths of a sat: nothing is rounded before the end."""
        return coin.amount_sat * 1000 - self._perkw * coin.weight

    def select(self, need: Need) -> tuple[Coin, ...] | None:
        """Return free coins that pay the need, their own inputs included; None when all together do not reach.

        The rule: as few as possible; the largest ones, but for the last the smallest that suffices. Fees are rounded
        down over the whole transaction, as lightningd does.
        """
        if self._perkw != need.feerate_perkw:
            self._perkw = need.feerate_perkw
            self._worths = sorted((worth, coin) for coin in self._free.values() if (worth := self._worth(coin)) > 0)
        missing = need.amount_sat * 1000 + need.feerate_perkw * need.weight - 999
        for place in reversed(range(len(self._worths))):
            worth = self._worths[place][0]
            if worth >= missing:
                last = self._worths[bisect_left(self._worths, missing, 0, place, key=itemgetter(0))][1]
                return (*(coin for _, coin in reversed(self._worths[place + 1 :])), last)
            missing -= worth
        return None


def sum_sat(coins: Iterable[Coin]) -> int:
    """Return what these coins hold."""
    return sum(coin.amount_sat for coin in coins)


def _weight(script: str) -> int:
    if script.startswith(TAPROOT_PREFIX):
        return TAPROOT_WEIGHT
    return SEGWIT_WEIGHT if len(script) == 2 * SEGWIT_SCRIPT else WRAPPED_WEIGHT
