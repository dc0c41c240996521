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
from operator import itemgetter
from typing import Final, NamedTuple

from lsps2fast.actions import Funding
from lsps2fast.errors import Lsps2Error, NodeError, NodeUnreachable
from lsps2fast_plugin.cln.answers import text
from lsps2fast_plugin.cln.late_replies import Late
from lsps2fast_plugin.cln.models import WalletOutput, get_info, list_outputs
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.coin_table import Coin, sort_rows, sum_sat

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


def select(coins: Sequence[Coin], need: Need) -> tuple[Coin, ...] | None:
    """Coins that pay the need, their own inputs included; None when all together do not reach.

    The rule: as few as possible; the largest ones, but for the last the smallest that suffices. Fees are rounded down
    over the whole transaction, as lightningd does.
    """
    # In thousandths of a sat, so that nothing is rounded before the end; sums over 0 pay for themselves.
    worth = [(coin.amount_sat * 1000 - need.feerate_perkw * coin.weight, coin) for coin in coins]
    worth = sorted((entry for entry in worth if entry[0] > 0), key=itemgetter(0), reverse=True)
    missing = need.amount_sat * 1000 + need.feerate_perkw * need.weight - 999
    for place, (value, _) in enumerate(worth):
        if value >= missing:
            last = next(coin for each, coin in reversed(worth[place:]) if each >= missing)
            return (*(coin for _, coin in worth[:place]), last)
        missing -= value
    return None


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

    rows: list[WalletOutput]
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
        self._table = sort_rows([], 0)  # of the last listing that was sorted
        self._survey: Survey | None = None  # of that table and what is promised now
        self._changes = 0  # by our own doing, that a listing under way may have missed
        self.low_water = low_water
        self._promised: dict[str, int] = {}  # coin: jit scid
        self._shared: dict[str, set[int]] = {}  # coin: all jit scids, where it is promised to several (a batch)
        self._standing: dict[int, Funding] = {}  # reservations by jit scid, from reserve() on
        self._lost: dict[int, int] = {}  # jit scid: how often another program took what was promised to it

    async def rows(self) -> list[WalletOutput]:
        """Return the wallet's outputs, as lightningd tells them now. Raises NodeError."""
        now_ms, height, changes = self._now_ms(), self._height(), self._changes
        rows = await list_outputs(self._rpc)
        if changes == self._changes:
            self._listed = _Listing(rows, now_ms, height)
        return rows

    async def known(self, fresh_ms: int = FRESH_MS) -> list[WalletOutput]:
        """Return them as told of late, since the last block and our own last doing; one listing does for a crowd.

        Raises NodeError. What others have done since lightningd says when it refuses a coin (`choose`).
        """
        async with self._asking:
            listed = self._listed
            if listed is None or listed.height != self._height() or self._now_ms() - listed.asked_ms >= fresh_ms:
                return await self.rows()
            return listed.rows

    async def survey(self) -> Survey:
        """Ask lightningd. Raises NodeError."""
        return self._sort(await self.rows())

    async def free_sat(self, fresh_ms: int) -> int:
        """Return what is free by a listing of late (`known`), less what is promised now. Raises NodeError."""
        self._sort(await self.known(fresh_ms))
        return self.low_water.free_sat or 0

    def _sort(self, rows: list[WalletOutput]) -> Survey:
        table, height, promised = self._table, self._height(), self._promised
        if table.rows is not rows or table.height != height:
            table = self._table = sort_rows(rows, height)
        elif self._survey is not None:
            return self._survey
        free = tuple(coin for coin in table.coins if coin.point not in promised)
        free_sat = sum_sat(free)
        found = Survey(free, free_sat, table.coins_sat - free_sat, table.unconfirmed, table.reserved_sat)
        self.low_water(free_sat)
        self._survey = found
        return found

    async def choose(
        self, jit_scid: int, need: Need, rows: list[WalletOutput] | None = None, batch: tuple[int, ...] = ()
    ) -> Funding:
        """Choose coins and promise them to this scid; lightningd reserves nothing yet. NotEnoughCoins or NodeError.

        `rows`: what it has just told of its coins. One that was taken since is refused by it, and then it is asked.
        `batch`: promise them to all of these, this scid among them, until the last of them gives them up.
        """
        for left in reversed(range(TRIES)):
            inputs = tuple(coin.point for coin in await self._select(need, rows))
            rows = None
            # No other task of ours runs between the choice and the promise, and so chooses these meanwhile.
            self._promised.update(dict.fromkeys(inputs, jit_scid))
            self._share(inputs, batch)
            self._survey = None
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
        assert all(set(batch) <= self._shared.get(point, {self._promised.get(point)}) for point in inputs)
        return await self._build(inputs, need, reserved=True)

    def _share(self, inputs: Iterable[str], batch: Iterable[int]) -> None:
        """Promise these coins to all of a batch."""
        holders = set(batch)
        if len(holders) > 1:
            self._shared.update((point, self._shared.get(point, set()) | holders) for point in inputs)

    def _holders(self, jit_scid: int, funding: Funding) -> list[int]:
        """Return this scid and those of its batch to whom these coins are promised still."""
        held = set().union(*(self._shared.get(point, set()) for point in funding.inputs))
        return [jit_scid, *(each for each in funding.batch if each in held and each != jit_scid)]

    def _take_off(self, jit_scid: int, inputs: Iterable[str], batch: tuple[int, ...]) -> None:
        """Promise these coins no longer: another program has them. A batch may have members that left for others."""
        if not batch:
            self._break_promises(jit_scid)
            return
        for point in inputs:
            self._promised.pop(point, None)
            self._shared.pop(point, None)
        self._changes += 1
        self._survey = None

    def _others(self, jit_scid: int, inputs: Iterable[str]) -> bool:
        """Return whether any of these coins is promised to another."""
        return any(
            self._promised.get(point, jit_scid) != jit_scid or self._shared.get(point, set()) - {jit_scid}
            for point in inputs
        )

    async def _select(self, need: Need, rows: list[WalletOutput] | None) -> tuple[Coin, ...]:
        found = self._sort(await self.rows() if rows is None else rows)
        if (chosen := select(found.free, need)) is not None:
            return chosen
        syncing = await self.is_syncing()
        if not syncing:  # it may have been, a question ago: look once more before the payment fails for it
            found = await self.survey()
            chosen = select(found.free, need)
        if chosen is None:
            raise NotEnoughCoins(_lack(found, need), syncing)
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
        for each in self._holders(jit_scid, funding):
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
        return any(point in self._promised for point in funding.inputs)

    async def _are_ours(self, funding: Funding) -> bool:
        """Return whether these coins are reserved, and by us: `reserveinputs` takes all or none."""
        least = funding.reserved_to_block - HEIGHT_SLACK_BLOCKS
        until = {row.point: row.reserved_to_block for row in await self.rows() if row.reserved}
        return bool(funding.inputs) and all(until.get(point, 0) >= least for point in funding.inputs)

    def promise(self, jit_scid: int, inputs: Iterable[str], shared: bool = False) -> None:
        """Promise coins that stand in this scid's record, after a start. The first record keeps them.

        `shared`: with all others that name them.
        """
        for point in inputs:
            owner = self._promised.setdefault(point, jit_scid)
            if shared:
                self._share([point], (owner, jit_scid))
        self._survey = None

    def has_promises(self, jit_scid: int) -> bool:
        """Return whether any coin is promised to this scid."""
        return jit_scid in self._promised.values()

    def forget(self, jit_scid: int) -> None:
        """Promise the coins of this scid no longer: they are given back, or what has become of them is not known."""
        self._ask_anew()
        self._break_promises(jit_scid)
        self._lost.pop(jit_scid, None)

    def part(self, jit_scid: int, funding: Funding) -> None:
        """Promise coins of a batch to this scid no longer, where they are promised to others."""
        left = [self._leave(point, jit_scid) for point in funding.inputs]
        if any(left) and self._standing.get(jit_scid, funding).inputs == funding.inputs:
            self._standing.pop(jit_scid, None)

    def _leave(self, point: str, jit_scid: int) -> bool:
        """Leave a coin to the others to whom it is promised; return whether this one was among them."""
        holders = self._shared.get(point, set())
        if jit_scid not in holders:
            return False
        holders = holders - {jit_scid}
        self._promised[point] = min(holders)
        self._shared[point] = holders
        if len(holders) == 1:
            del self._shared[point]
        return True

    def spent(self, jit_scid: int) -> None:
        """Take note that the coins promised to this scid are spent."""
        if self._listed is not None:
            mine = {point for point, owner in self._promised.items() if owner == jit_scid}
            mine |= {point for point, holders in self._shared.items() if jit_scid in holders}
            txids = {point.partition(":")[0] for point in mine}
            gone = [row for row in self._listed.rows if row.txid in txids and row.point in mine]
            rows = [row for row in self._listed.rows if row.txid not in txids or row.point not in mine]
            if self._table.rows is self._listed.rows:
                self._table = self._table.without(gone, rows)
            self._listed = self._listed._replace(rows=rows)
        self._break_promises(jit_scid)
        self._lost.pop(jit_scid, None)

    def _ask_anew(self) -> None:
        self._listed = None
        self._changes += 1

    def _break_promises(self, jit_scid: int) -> None:
        self._changes += 1
        self._survey = None
        self._standing.pop(jit_scid, None)
        for point in list(self._shared):
            self._leave(point, jit_scid)
        self._promised = {point: owner for point, owner in self._promised.items() if owner != jit_scid}


def _is_taken(error: BaseException) -> bool:
    return isinstance(error, NodeError) and error.code == INVALID_PARAMS


def _lack(found: Survey, need: Need) -> str:
    return (
        f"{need.amount_sat} sat and a fee at {need.feerate_perkw} perkw cannot be paid with {found.free_sat} sat in "
        f"{len(found.free)} free coins; {found.promised_sat} sat are promised to other openings, {found.reserved_sat} "
        f"sat reserved, {found.unconfirmed_sat} sat wait for a block"
    )
