"""The wallet's outputs sorted: which coins pay for channels, which wait for a block, what is reserved."""

from __future__ import annotations

from collections.abc import Iterable
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


class CoinTable(NamedTuple):
    """A listing sorted at one height: what of it may be promised, and what not."""

    rows: list[WalletOutput]
    height: int
    coins: list[Coin]  # confirmed and not reserved
    coins_sat: int  # their sum
    unconfirmed: tuple[Coin, ...]
    reserved_sat: int

    def without(self, gone: Iterable[WalletOutput], rows: list[WalletOutput]) -> CoinTable:
        """Return it less what is spent; `rows` are those that are left."""
        points = {row.point for row in gone}
        coins = [coin for coin in self.coins if coin.point not in points]
        unconfirmed = tuple(coin for coin in self.unconfirmed if coin.point not in points)
        reserved_sat = self.reserved_sat - sum(row.amount_sat for row in gone if row.reserved)
        coins_sat = self.coins_sat - sum_sat(coin for coin in self.coins if coin.point in points)
        return CoinTable(rows, self.height, coins, coins_sat, unconfirmed, reserved_sat)


def sort_rows(rows: list[WalletOutput], height: int) -> CoinTable:
    """Sort a listing as it is to be seen at this height."""
    coins: list[Coin] = []
    unconfirmed: list[Coin] = []
    reserved_sat = 0
    for row in rows:
        if row.reserved:
            reserved_sat += row.amount_sat
            continue
        coin = Coin(row.point, row.amount_sat, _weight(row.scriptpubkey))
        (coins if row.is_spendable(height) else unconfirmed).append(coin)
    return CoinTable(rows, height, coins, sum_sat(coins), tuple(unconfirmed), reserved_sat)


def sum_sat(coins: Iterable[Coin]) -> int:
    """Return what these coins hold."""
    return sum(coin.amount_sat for coin in coins)


def _weight(script: str) -> int:
    if script.startswith(TAPROOT_PREFIX):
        return TAPROOT_WEIGHT
    return SEGWIT_WEIGHT if len(script) == 2 * SEGWIT_SCRIPT else WRAPPED_WEIGHT
