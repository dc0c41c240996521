"""Which coins of the wallet pay for which channel, so that no two openings share one and none is ever lost.

lightningd's own choice (`fundpsbt`) reserves before it is written down what for: a crash right then leaves coins
reserved that no record names. So the order here is: choose among what `listfunds` shows, promise the coins to one jit
scid in memory, journal them with the intent, and only then reserve them in lightningd, exclusively (K-02, rule:2).

A reservation has no owner in lightningd. Ours lasts longer than what other programs ask for by default, and the journal
says until when: what ends earlier was reserved by another program and is not ours to give back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from lsps2fast.actions import Funding
from lsps2fast.errors import Lsps2Error, NodeError, NodeUnreachable
from lsps2fast_plugin.cln.answers import text
from lsps2fast_plugin.cln.late_replies import Late
from lsps2fast_plugin.cln.models import get_info, list_outputs
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.coin_promises import CoinPromises
from lsps2fast_plugin.service.coin_table import Coin, CoinTable, Need, Survey

RESERVE_BLOCKS: Final = 144  # twice lightningd's default (cln:O1), to tell ours apart
HEIGHT_SLACK_BLOCKS: Final = 24  # lightningd's height runs backwards after its start (cln:R2)
ALREADY_SPENT: Final = "already spent"  # of reserveinputs
RELEASE_BLOCKS: Final = 1_000_000  # O-04: cover every extension of the reservation
FRESH_MS: Final = 90_000  # for a listing that coins are chosen from: what has changed since, lightningd refuses
TRIES: Final = 4  # for another program may take a coin between our choice and our reservation
INVALID_PARAMS: Final = -32602  # of utxopsbt: reserved, spent, unknown; of reserveinputs: reserved, spent (cln:O1)
# To whom coins are promised that are no jit scid's: the split of `coinpool`, and records that cannot be read.
POOL: Final = -1
UNREAD: Final = -2


class NotEnoughCoins(Lsps2Error):
    """What is free does not pay for this channel; `syncing`: lightningd may not know all its coins yet (cln:R5)."""

    def __init__(self, text: str, syncing: bool) -> None:
        super().__init__(text)
        self.syncing = syncing


class CoinTaken(Lsps2Error):
    """Another program has reserved or spent a coin that we had chosen."""


class NotReserved(Lsps2Error):
    """lightningd does not reserve coins that we had chosen, for a reason that others would meet, too."""


class LowWater:
    """Tells the operator once that free coins run out, and again only after there were enough meanwhile."""

    def __init__(self, mark_sat: int, alarm: Callable[[str], None]) -> None:
        """`mark_sat` 0: never."""
        self._mark_sat = mark_sat
        self._alarm = alarm
        self._is_low = False
        self.free_sat: int | None = None  # at the last look

    def __call__(self, free_sat: int) -> None:
        """Take note of how much is free now."""
        was_low, self._is_low, self.free_sat = self._is_low, free_sat < self._mark_sat, free_sat
        if self._is_low and not was_low:
            self._alarm(f"free coins for JIT channels run out: {free_sat} sat, less than {self._mark_sat} sat")


class _Listing(NamedTuple):
    """What lightningd told of the wallet, and when it was asked."""

    table: CoinTable
    asked_ms: int
    height: int


class Coins:
    """The wallet's coins, as far as channels are paid with them.

    Only confirmed coins are used: a funding that spends unconfirmed change becomes worthless when its parent is
    replaced, and a client may have been paid over it already. Change of our own fundings counts again with its block.
    """

    def __init__(self, rpc: Rpc, height: Callable[[], int], now_ms: Callable[[], int], low_water: LowWater) -> None:
        """`height()`: the highest block known. `low_water` hears of what is free at every look."""
        self._rpc = rpc
        self._height = height
        self._now_ms = now_ms
        self._asking = asyncio.Lock()
        self._listed: _Listing | None = None
        self._changes = 0  # by our own doing, that a listing under way may have missed
        self.low_water = low_water
        self._promises = CoinPromises()
        self._standing: dict[int, Funding] = {}  # reservations by jit scid, from reserve() on
        self._lost: dict[int, int] = {}  # jit scid: how often another program took what was promised to it

    async def _ask(self) -> CoinTable:
        """Return the wallet's coins, as lightningd tells them now. Raises NodeError."""
        now_ms, height, changes = self._now_ms(), self._height(), self._changes
        rows = await list_outputs(self._rpc)
        table = CoinTable(rows, height, self._promises)
        if changes == self._changes:
            self._listed = _Listing(table, now_ms, height)
        self.low_water(table.free_sat)
        return table

    async def known(self, fresh_ms: int = FRESH_MS) -> CoinTable:
        """Return them as told of late, since the last block and our own last doing; one listing does for a crowd.

        Raises NodeError. What others have done since lightningd says when it refuses a coin (`choose`).
        """
        async with self._asking:
            listed = self._listed
            if listed is None or listed.height != self._height() or self._now_ms() - listed.asked_ms >= fresh_ms:
                return await self._ask()
            self.low_water(listed.table.free_sat)
            return listed.table

    async def survey(self) -> Survey:
        """Ask lightningd. Raises NodeError."""
        return (await self._ask()).survey()

    async def free_sat(self, fresh_ms: int | None = None) -> int:
        """Return what is free and not promised, asked now or told of late (`known`). Raises NodeError."""
        return (await (self._ask() if fresh_ms is None else self.known(fresh_ms))).free_sat

    async def choose(self, jit_scid: int, need: Need, batch: tuple[int, ...] = ()) -> Funding:
        """Choose coins and promise them to this scid; lightningd reserves nothing yet. NotEnoughCoins or NodeError.

        Out of what is known: one that was taken since lightningd refuses, and then it is asked.
        `batch`: promise them to all of these, this scid among them, until the last of them gives them up.
        """
        for left in reversed(range(TRIES)):
            inputs = tuple(coin.point for coin in await self._select(need))
            # No other task of ours runs between the choice and the promise, and so chooses these meanwhile.
            self._promise(inputs, batch or (jit_scid,))
            try:
                psbt = await self._build(inputs, need)
            except BaseException as error:
                self._ask_anew()
                self._take_off(jit_scid, inputs, batch)
                if not _is_taken(error) or not left:
                    raise
            else:
                return Funding(psbt, inputs, self._height() + RESERVE_BLOCKS, need.amount_sat, batch=batch)
        raise AssertionError("the last try raises")

    async def again(self, batch: tuple[int, ...], inputs: tuple[str, ...], need: Need) -> str:
        """Return another PSBT that spends coins which are promised to all of these; reserved or not. NodeError."""
        assert all(set(batch) <= self._promises.holders([point]) for point in inputs)
        return await self._build(inputs, need, reserved=True)

    def _promise(self, inputs: Iterable[str], jit_scids: Iterable[int]) -> None:
        for point in inputs:
            self._promises.add(point, jit_scids)
        if self._listed is not None:
            self._listed.table.take(inputs)

    def _take_off(self, jit_scid: int, inputs: Iterable[str], batch: tuple[int, ...]) -> None:
        """Promise these coins no longer: another program has them. A batch may have members that left for others."""
        if not batch:
            self._break_promises(jit_scid)
            return
        for holder in self._promises.holders(inputs):
            self._leave(holder, inputs)

    def _leave(self, jit_scid: int, points: Iterable[str]) -> None:
        """Promise these coins to this scid no longer."""
        self._changes += 1
        free = self._promises.leave(jit_scid, points)
        if self._listed is not None:
            self._listed.table.give(free)

    async def _select(self, need: Need) -> tuple[Coin, ...]:
        table = await self.known()
        if (chosen := table.select(need)) is not None:
            return chosen
        syncing = await self.is_syncing()
        if not syncing:  # it may have been, a question ago: look once more before the payment fails for it
            table = await self._ask()
            chosen = table.select(need)
        if chosen is None:
            raise NotEnoughCoins(_lack(table.survey(), need), syncing)
        return chosen

    async def _build(self, inputs: Sequence[str], need: Need, reserved: bool = False) -> str:
        """Return the PSBT that spends these coins, its change added; the channel's output is added later.

        `reserved`: they may be.
        """
        answer = await self._rpc.call(
            "utxopsbt",
            {
                "satoshi": need.amount_sat,
                "feerate": f"{need.feerate_perkw}perkw",
                "startweight": need.weight,
                "utxos": list(inputs),
                "reserve": 0,
                "excess_as_change": True,
                "opening_anchor_channel": need.anchors,
            }
            | ({"reservedok": True} if reserved else {}),
        )
        return text(answer, "utxopsbt", "psbt")

    async def is_syncing(self) -> bool:
        """Return whether lightningd has not seen all blocks yet, as right after its start."""
        return (await get_info(self._rpc)).is_syncing

    async def reserve(self, jit_scid: int, funding: Funding, late: Late | None = None) -> None:
        """Reserve the coins of a journalled intent.

        Raises CoinTaken, the coins no longer promised, when another program was quicker; NotReserved after `TRIES`
        times, or where lightningd says something else. `late` is called when a call that was given up has been carried
        out after all (see `Rpc.call`).
        """
        try:
            await self._reserve(jit_scid, funding, late)
        except NodeError as error:
            raise NotReserved(str(error)) from error
        holders = self._promises.holders(funding.inputs)
        for each in (jit_scid, *(scid for scid in funding.batch if scid in holders)):
            self._standing[each] = funding

    async def _reserve(self, jit_scid: int, funding: Funding, late: Late | None) -> None:
        params = {"psbt": funding.psbt, "exclusive": True, "reserve": RESERVE_BLOCKS}
        try:
            try:
                await self._rpc.call("reserveinputs", params, late=late)
            except NodeUnreachable:
                await self._rpc.call("reserveinputs", params, late=late)
        except NodeError as error:
            if not _is_taken(error):
                raise
            if not await self._are_ours(funding):  # else by our own call, whose answer was lost (K-13)
                self._ask_anew()
                self._take_off(jit_scid, funding.inputs, funding.batch)
                lost = self._lost[jit_scid] = self._lost.get(jit_scid, 0) + 1
                if lost >= TRIES:
                    raise
                raise CoinTaken(error.message) from error

    async def renew(self, jit_scid: int, funding: Funding, late: Late | None = None) -> None:
        """Reserve the coins for longer, known as ours; spent ones need it no more. Raises NodeError."""
        self._standing[jit_scid] = funding
        params = {"psbt": funding.psbt, "exclusive": False, "reserve": RESERVE_BLOCKS}
        try:
            await self._rpc.call("reserveinputs", params, late=late)
        except NodeError as error:
            if ALREADY_SPENT not in error.message:
                raise

    def _others(self, jit_scid: int, inputs: Iterable[str]) -> bool:
        """Return whether any of these coins is promised to another."""
        return bool(self._promises.holders(inputs) - {jit_scid})

    async def release(self, jit_scid: int, funding: Funding, late: Late | None = None) -> None:
        """Give back what was reserved for this scid; what was not, or is another's, stays as it is (cln:A2)."""
        self._standing.pop(jit_scid, None)
        if not self._others(jit_scid, funding.inputs) and await self._are_ours(funding):
            params = {"psbt": funding.psbt, "reserve": RELEASE_BLOCKS}
            try:
                await self._rpc.call("unreserveinputs", params, late=late)
            finally:
                self._ask_anew()

    async def keep(self, funding: Funding) -> None:
        """Reserve coins of a batch again that lightningd freed with one of its channels, if others stand on them.

        Those may let go meanwhile: then the coins are free. Raises NodeError.
        """
        if not self.standing(funding):
            return
        params = {"psbt": funding.psbt, "exclusive": True, "reserve": RESERVE_BLOCKS}
        try:
            await self._rpc.call("reserveinputs", params)
        except NodeError as error:
            if not _is_taken(error):
                raise
            return  # they are still reserved, or spent
        if not self.standing(funding) and await self._are_ours(funding):
            await self._rpc.call("unreserveinputs", {"psbt": funding.psbt, "reserve": RELEASE_BLOCKS})
            self._ask_anew()

    def standing(self, funding: Funding) -> dict[int, Funding]:
        """Return the reservations that stand now on any of these coins, by jit scid."""
        coins = set(funding.inputs)
        return {scid: other for scid, other in self._standing.items() if coins.intersection(other.inputs)}

    def reserved_by(self, jit_scid: int) -> list[Funding]:
        """Return the reservation that stands for this scid, if there is one."""
        return [self._standing[jit_scid]] if jit_scid in self._standing else []

    def is_promised(self, funding: Funding) -> bool:
        """Return whether any of these coins is promised."""
        return any(point in self._promises for point in funding.inputs)

    async def _are_ours(self, funding: Funding) -> bool:
        """Return whether these coins are reserved, and by us: `reserveinputs` takes all or none."""
        least = funding.reserved_to_block - HEIGHT_SLACK_BLOCKS
        reserved = (await self._ask()).reserved
        rows = [reserved.get(point) for point in funding.inputs]
        return bool(rows) and all(row is not None and row.reserved_to_block >= least for row in rows)

    def promise(self, jit_scid: int, inputs: Iterable[str], shared: bool = False) -> None:
        """Promise coins that stand in this scid's record, after a start. The first record keeps them.

        `shared`: with all others that name them.
        """
        for point in inputs:
            if shared or point not in self._promises:
                self._promise([point], [jit_scid])

    def has_promises(self, jit_scid: int) -> bool:
        """Return whether any coin is promised to this scid."""
        return bool(self._promises.coins(jit_scid))

    def forget(self, jit_scid: int) -> None:
        """Promise the coins of this scid no longer: they are given back, or what has become of them is not known."""
        self._ask_anew()
        self._break_promises(jit_scid)
        self._lost.pop(jit_scid, None)

    def part(self, jit_scid: int, funding: Funding) -> None:
        """Promise coins of a batch to this scid no longer, where they are promised to others."""
        shared = [point for point in funding.inputs if self._promises.holders([point]) > {jit_scid}]
        self._promises.leave(jit_scid, shared)
        if shared and self._standing.get(jit_scid, funding).inputs == funding.inputs:
            self._standing.pop(jit_scid, None)

    def spent(self, jit_scid: int) -> None:
        """Take note that the coins promised to this scid are spent."""
        if self._listed is not None:
            self._listed.table.drop(self._promises.coins(jit_scid))
        self._break_promises(jit_scid)
        self._lost.pop(jit_scid, None)

    def _ask_anew(self) -> None:
        self._listed = None
        self._changes += 1

    def _break_promises(self, jit_scid: int) -> None:
        self._standing.pop(jit_scid, None)
        self._leave(jit_scid, self._promises.coins(jit_scid))


def _is_taken(error: BaseException) -> bool:
    return isinstance(error, NodeError) and error.code == INVALID_PARAMS


def _lack(found: Survey, need: Need) -> str:
    return (
        f"{need.amount_sat} sat and a fee at {need.feerate_perkw} perkw cannot be paid with {found.free_sat} sat in "
        f"{len(found.free)} free coins; {found.promised_sat} sat are promised to other openings, {found.reserved_sat} "
        f"sat reserved, {found.unconfirmed_sat} sat wait for a block"
    )
