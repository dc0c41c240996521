"""The choice of coins, and what is promised, reserved and given back, against a wallet that a test can spoil."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.actions import Funding
from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast_plugin.cln.models import WalletOutput
from lsps2fast_plugin.service.coin_table import TAPROOT_WEIGHT, Coin, CoinTable, Need
from lsps2fast_plugin.service.coins import (
    FRESH_MS,
    INVALID_PARAMS,
    RESERVE_BLOCKS,
    Coins,
    CoinTaken,
    LowWater,
    NotEnoughCoins,
    NotReserved,
)

Json = dict[str, Any]
ONE, TWO = 1, 2  # jit scids
HEIGHT, FEERATE, WEIGHT = 100, 253, 214
DEFAULT_BLOCKS = 72  # what others reserve for
SCRIPTS = {"taproot": "5120" + "00" * 32, "segwit": "0014" + "00" * 20, "wrapped": "a914" + "00" * 20 + "87"}
WEIGHTS = {"taproot": 230, "segwit": 271, "wrapped": 363}


def excess_sat(coins: tuple[Coin, ...], amount_sat: int, weight: int, feerate_perkw: int) -> int:
    """What lightningd calls excess: its fee is rounded down once, over the whole weight."""
    fee_sat = (weight + sum(coin.weight for coin in coins)) * feerate_perkw // 1000
    return sum(coin.amount_sat for coin in coins) - amount_sat - fee_sat


def row(point: str, amount_sat: int, kind: str = "taproot", status: str = "confirmed", reserved: bool = False) -> Any:
    """One entry of listfunds."""
    txid, _, vout = point.partition(":")
    return WalletOutput(txid, int(vout), amount_sat * 1000, SCRIPTS[kind], status, reserved)


def select(wallet: list[Coin], need: Need) -> tuple[Coin, ...] | None:
    """Choose among these coins."""
    kinds = {weight: kind for kind, weight in WEIGHTS.items()}
    return CoinTable([row(coin.point, coin.amount_sat, kinds[coin.weight]) for coin in wallet], HEIGHT, ()).select(need)


# The choice ------------------------------------------------------------------------------------------

WALLETS = st.lists(st.tuples(st.integers(1, 5_000), st.sampled_from(sorted(WEIGHTS.values()))), max_size=6).map(
    lambda coins: [Coin(f"{place:064x}:0", amount, weight) for place, (amount, weight) in enumerate(coins)]
)


@given(WALLETS, st.integers(1, 12_000), st.integers(0, 2_000), st.integers(253, 5_000))
def test_no_choice_takes_more_coins_than_needed(wallet: list[Coin], amount: int, weight: int, feerate: int) -> None:
    """O-03: what is chosen pays amount and fee to the sat; fewer coins of any kind would not; None only if all."""
    chosen = select(wallet, Need(amount, weight, feerate))
    enough = [
        len(some)
        for count in range(1, len(wallet) + 1)
        for some in combinations(wallet, count)
        if excess_sat(some, amount, weight, feerate) >= 0
    ]
    assert (0 if chosen is None else len(chosen)) == min(enough, default=0)
    assert chosen is None or excess_sat(chosen, amount, weight, feerate) >= 0
    assert chosen is None or len(set(chosen)) == len(chosen)


STATES = st.sampled_from(("confirmed", "unconfirmed", "reserved"))
DEEDS = st.lists(st.tuples(st.sampled_from(("take", "give", "drop", "select")), st.integers(0, 5)), max_size=12)


@given(st.lists(st.tuples(st.integers(1, 5_000), st.sampled_from(sorted(WEIGHTS)), STATES), max_size=6), DEEDS)
def test_a_table_that_was_kept_is_that_of_a_new_listing(
    coins: list[tuple[int, str, str]], deeds: list[tuple[str, int]]
) -> None:
    """P24: what we promise, free and spend ourselves needs no new look at the whole wallet."""
    rows = {}
    for place, (sat, kind, state) in enumerate(coins):
        point = f"{place:064x}:{place}"
        status = "unconfirmed" if state == "unconfirmed" else "confirmed"
        rows[point] = row(point, sat, kind, status, state == "reserved")
    table, promised, need = CoinTable(list(rows.values()), HEIGHT, ()), set(), Need(1_000, WEIGHT, FEERATE)
    for deed, place in deeds:
        point = f"{place:064x}:{place}"
        if deed == "select":
            need = need._replace(amount_sat=1_000 * (place + 1), feerate_perkw=FEERATE * (1 + place % 2))
            table.select(need)
            continue
        getattr(table, deed)([point])
        (promised.add if deed == "take" else promised.discard)(point)
        if deed == "drop":
            rows.pop(point, None)
    new = CoinTable(list(rows.values()), HEIGHT, promised)
    kept, fresh = table.survey(), new.survey()
    assert kept._replace(free=()) == fresh._replace(free=())
    assert sorted(kept.free) == sorted(fresh.free)
    assert table.select(need) == new.select(need)


@given(WALLETS, st.integers(1, 12_000))
def test_the_last_coin_is_the_smallest_that_suffices(wallet: list[Coin], amount: int) -> None:
    """Large coins are kept for large channels: no smaller one left over could stand in the last one's place."""
    chosen = select(wallet, Need(amount, WEIGHT, FEERATE)) or ()
    worth = {coin: coin.amount_sat * 1000 - FEERATE * coin.weight for coin in wallet}
    for coin in set(wallet) - set(chosen):
        if chosen and worth[coin] < worth[chosen[-1]]:
            assert excess_sat((*chosen[:-1], coin), amount, WEIGHT, FEERATE) < 0


def test_a_coin_that_does_not_pay_for_itself_is_left() -> None:
    """At this rate its input costs more than it brings."""
    dust = Coin(f"{0:064x}:0", 1_000, TAPROOT_WEIGHT)
    assert select([dust], Need(1, 0, 10_000)) is None


def test_a_coin_that_pays_to_the_sat_suffices() -> None:
    """lightningd rounds the fee down: 444 weight at 253 are 112 sat."""
    coin = Coin(f"{0:064x}:0", 10_112, TAPROOT_WEIGHT)
    assert select([coin], Need(10_000, WEIGHT, FEERATE)) == (coin,)
    assert select([coin._replace(amount_sat=10_111)], Need(10_000, WEIGHT, FEERATE)) is None


# A wallet --------------------------------------------------------------------------------------------


class Wallet:
    """lightningd's side: coins, their reservations, and what a test puts in the way of a call."""

    def __init__(self, *amounts_sat: int) -> None:
        self.amounts = {f"{place:064x}:{place}": amount for place, amount in enumerate(amounts_sat)}
        self.reserved: dict[str, int] = {}
        self.facts: dict[str, Json] = {}
        self.calls: list[str] = []
        self.before: dict[str, list[Callable[[], None]]] = {}  # by method: each runs before one call
        self.after: dict[str, list[Callable[[], None]]] = {}
        self.syncing = False
        self.height, self.now_ms = HEIGHT, 0

    @property
    def points(self) -> list[str]:
        """Names of the coins."""
        return list(self.amounts)

    async def call(
        self, method: str, params: Json | None = None, timeout_s: float | None = 60.0, late: Any = None
    ) -> Json:
        """The result, or NodeError."""
        self.calls.append(method)
        if self.before.get(method):
            self.before[method].pop(0)()
        await asyncio.sleep(0)  # others go on meanwhile, as with a real socket
        result: Json = getattr(self, f"_{method}")(params or {})
        if self.after.get(method):
            self.after[method].pop(0)()
        return result

    def _getinfo(self, params: Json) -> Json:
        return {"blockheight": HEIGHT} | ({"warning_lightningd_sync": "loading"} if self.syncing else {})

    def _listfunds(self, params: Json) -> Json:
        return {"outputs": [self._row(point, amount) for point, amount in self.amounts.items()]}

    def _row(self, point: str, amount_sat: int) -> Json:
        txid, _, vout = point.partition(":")
        until = self.reserved.get(point, 0)
        row: Json = {"txid": txid, "output": int(vout), "amount_msat": amount_sat * 1000, "status": "confirmed"}
        row |= {"scriptpubkey": SCRIPTS["taproot"], "reserved": until > HEIGHT, "reserved_to_block": until}
        return row | self.facts.get(point, {})

    def _utxopsbt(self, params: Json) -> Json:
        assert params["reserve"] == 0
        for point in params["utxos"]:
            if self.reserved.get(point, 0) > HEIGHT:
                raise NodeError("utxopsbt", INVALID_PARAMS, f"UTXO {point} already reserved")
        return {"psbt": " ".join(params["utxos"])}

    def _reserveinputs(self, params: Json) -> Json:
        assert params["exclusive"] is True
        points = params["psbt"].split()
        if any(self.reserved.get(point, 0) > HEIGHT for point in points):
            raise NodeError("reserveinputs", INVALID_PARAMS, "already reserved")
        self.reserved.update(dict.fromkeys(points, HEIGHT + params["reserve"]))
        return {}

    def _unreserveinputs(self, params: Json) -> Json:
        for point in params["psbt"].split():
            self.reserved.pop(point, None)
        return {}

    def taken(self, *points: str) -> None:
        """Another program reserves these, as `fundpsbt` does."""
        self.reserved.update(dict.fromkeys(points, HEIGHT + DEFAULT_BLOCKS))


def lost() -> None:
    """The answer does not come."""
    raise NodeUnreachable("a call", "the connection broke")


def make(*amounts_sat: int, mark_sat: int = 0) -> tuple[Wallet, Coins, list[str]]:
    """A wallet, our view of it, and the alarms."""
    wallet, alarms = Wallet(*amounts_sat), []
    coins: Any = Coins
    return (
        wallet,
        coins(wallet, lambda: wallet.height, lambda: wallet.now_ms, LowWater(mark_sat, alarms.append)),
        alarms,
    )


async def choose(coins: Coins, jit_scid: int, amount_sat: int) -> Funding:
    """For one channel."""
    return await coins.choose(jit_scid, Need(amount_sat, WEIGHT, FEERATE))


# Promises and reservations ------------------------------------------------------------------------------


async def _nothing_is_reserved_by_a_choice() -> None:
    wallet, coins, _ = make(50_000, 90_000)
    funding = await choose(coins, ONE, 40_000)
    assert funding == Funding(wallet.points[0], (wallet.points[0],), HEIGHT + RESERVE_BLOCKS, 40_000)
    assert wallet.reserved == {}
    await coins.reserve(ONE, funding)
    assert wallet.reserved == {wallet.points[0]: HEIGHT + RESERVE_BLOCKS}


def test_nothing_is_reserved_by_a_choice() -> None:
    """K-02: a crash before the intent leaves nothing behind; the reservation is exclusive."""
    asyncio.run(_nothing_is_reserved_by_a_choice())


async def _choices_at_once_share_no_coin() -> None:
    wallet, coins, _ = make(*[50_000] * 5)
    results = await asyncio.gather(*(choose(coins, scid, 40_000) for scid in range(6)), return_exceptions=True)
    fundings = [result for result in results if isinstance(result, Funding)]
    assert sorted(point for funding in fundings for point in funding.inputs) == sorted(wallet.points)
    (short,) = [result for result in results if isinstance(result, NotEnoughCoins)]
    assert "250000 sat are promised to other openings" in str(short)


def test_choices_at_once_share_no_coin() -> None:
    """rule:2, K-02: also while the reservations are under way; who comes last is told what is missing."""
    asyncio.run(_choices_at_once_share_no_coin())


async def _a_coin_taken_during_the_choice() -> None:
    wallet, coins, _ = make(50_000, 90_000)
    wallet.before["utxopsbt"] = [lambda: wallet.taken(wallet.points[0])]
    assert (await choose(coins, ONE, 40_000)).inputs == (wallet.points[1],)


def test_a_coin_that_somebody_takes_during_the_choice_is_not_insisted_on() -> None:
    """cln:O1: `utxopsbt` refuses it; the next one is taken."""
    asyncio.run(_a_coin_taken_during_the_choice())


async def _a_coin_taken_before_the_reservation() -> None:
    wallet, coins, _ = make(50_000, 90_000)
    funding = await choose(coins, ONE, 40_000)
    wallet.taken(wallet.points[0])
    with pytest.raises(CoinTaken):
        await coins.reserve(ONE, funding)
    again = await choose(coins, ONE, 40_000)
    assert again.inputs == (wallet.points[1],)
    await coins.release(ONE, funding)  # the one of the first intent
    assert wallet.reserved == {wallet.points[0]: HEIGHT + DEFAULT_BLOCKS}


def test_a_coin_that_somebody_took_is_never_given_back_by_us() -> None:
    """K-13, rule:9: reservations have no owner; ours are known by how long they last."""
    asyncio.run(_a_coin_taken_before_the_reservation())


async def _losing_again_and_again() -> None:
    wallet, coins, _ = make(*[50_000] * 9)
    funding = await choose(coins, ONE, 40_000)
    for _ in range(3):
        wallet.taken(*funding.inputs)
        with pytest.raises(CoinTaken):
            await coins.reserve(ONE, funding)
        funding = await choose(coins, ONE, 40_000)
    wallet.taken(*funding.inputs)
    with pytest.raises(NotReserved, match="already reserved"):
        await coins.reserve(ONE, funding)


def test_who_always_loses_gives_up() -> None:
    """P16, rule:14: each choice costs a commit, so there is a last one."""
    asyncio.run(_losing_again_and_again())


async def _lost_answer(hooks: str) -> None:
    wallet, coins, _ = make(50_000)
    funding = await choose(coins, ONE, 40_000)
    getattr(wallet, hooks)["reserveinputs"] = [lost]
    await coins.reserve(ONE, funding)
    assert wallet.reserved == {wallet.points[0]: HEIGHT + RESERVE_BLOCKS}
    await coins.release(ONE, funding)
    assert wallet.reserved == {}


@pytest.mark.parametrize("hooks", ["before", "after"])
def test_a_reservation_whose_answer_is_lost_is_asked_for_again(hooks: str) -> None:
    """K-13, rule:10: carried out or not, the coins are ours once, and free afterwards."""
    asyncio.run(_lost_answer(hooks))


async def _release_of_anothers_promise() -> None:
    wallet, coins, _ = make(50_000)
    old = await choose(coins, ONE, 40_000)
    coins.forget(ONE)
    new = await choose(coins, TWO, 40_000)
    assert new.inputs == old.inputs
    await coins.reserve(TWO, new)
    await coins.release(ONE, old)
    assert list(wallet.reserved) == wallet.points


def test_an_old_record_does_not_free_the_coin_of_a_newer_channel() -> None:
    """K-09: two records may name one coin after a crash; whose promise it is keeps it."""
    asyncio.run(_release_of_anothers_promise())


async def _records_after_a_start() -> None:
    wallet, coins, _ = make(50_000, 60_000)
    coins.promise(ONE, [wallet.points[0]])
    coins.promise(TWO, wallet.points)
    assert (await coins.survey()).promised_sat == 110_000
    coins.forget(TWO)
    found = await coins.survey()
    assert [coin.point for coin in found.free] == [wallet.points[1]]


def test_coins_that_records_name_are_promised_after_a_start() -> None:
    """rule:7: a reservation may have run out while we were away; who comes first keeps the coin."""
    asyncio.run(_records_after_a_start())


# What counts as free ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "unconfirmed"},
        {"status": "immature"},
        {"status": "spent"},
        {"spendable_at": HEIGHT + 1},
        {"reserved": True, "reserved_to_block": HEIGHT + 1},
    ],
)
def test_only_what_can_be_spent_now_is_chosen(facts: Json) -> None:
    """The stated rule: confirmed coins; change of our own fundings only with its block."""
    wallet, coins, _ = make(500_000, 50_000)
    wallet.facts[wallet.points[0]] = facts
    assert asyncio.run(choose(coins, ONE, 40_000)).inputs == (wallet.points[1],)


@pytest.mark.parametrize("kind", SCRIPTS)
def test_each_kind_of_coin_has_its_weight(kind: str) -> None:
    """As lightningd's utxo_spend_weight reckons it."""
    wallet, coins, _ = make(50_000)
    wallet.facts[wallet.points[0]] = {"scriptpubkey": SCRIPTS[kind]}
    assert asyncio.run(coins.survey()).free[0].weight == WEIGHTS[kind]


@pytest.mark.parametrize("syncing", [True, False])
def test_want_of_coins_says_whether_it_is_worth_waiting(syncing: bool) -> None:
    """cln:R5, O-09: and what is where."""
    wallet, coins, _ = make(50_000, 7_000, 8_000)
    wallet.taken(wallet.points[1])
    wallet.facts[wallet.points[2]] = {"status": "unconfirmed"}
    wallet.syncing = syncing
    with pytest.raises(NotEnoughCoins) as short:
        asyncio.run(choose(coins, ONE, 60_000))
    assert short.value.syncing is syncing
    words = "50000 sat in 1 free coins; 0 sat are promised to other openings, 7000 sat reserved, 8000 sat wait"
    assert words in str(short.value)


def test_an_error_leaves_nothing_promised() -> None:
    """rule:9."""
    wallet, coins, _ = make(50_000)
    wallet.before["utxopsbt"] = [lost]
    with pytest.raises(NodeUnreachable):
        asyncio.run(choose(coins, ONE, 40_000))
    assert asyncio.run(coins.survey()).promised_sat == 0


def test_low_water_is_told_once_for_each_fall() -> None:
    """A further look at the same level says nothing."""
    alarms: list[str] = []
    water = LowWater(1_000, alarms.append)
    for free_sat in (5_000, 999, 500, 0, 1_000, 2_000, 999):
        water(free_sat)
    assert len(alarms) == 2
    assert "999 sat" in alarms[0]
    assert water.free_sat == 999


def test_without_a_mark_nothing_is_told() -> None:
    """0 turns it off."""
    alarms: list[str] = []
    LowWater(0, alarms.append)(0)
    assert alarms == []


# A listing that is there ---------------------------------------------------------------------------------


async def choose_known(coins: Coins, jit_scid: int, amount_sat: int) -> Funding:
    """For one channel, from what is known."""
    await coins.known()
    return await coins.choose(jit_scid, Need(amount_sat, WEIGHT, FEERATE))


async def _one_listing_for_a_crowd() -> None:
    wallet, coins, _ = make(*[50_000] * 9)
    fundings = await asyncio.gather(*(choose_known(coins, scid, 40_000) for scid in range(9)))
    assert len({point for funding in fundings for point in funding.inputs}) == 9
    assert wallet.calls.count("listfunds") == 1


def test_one_listing_does_for_a_crowd() -> None:
    """P17, P24: and no coin is chosen twice."""
    asyncio.run(_one_listing_for_a_crowd())


async def _what_makes_a_listing_old() -> None:
    wallet, coins, _ = make(50_000, 60_000)
    funding = await choose_known(coins, ONE, 40_000)
    await coins.reserve(ONE, funding)
    wallet.now_ms = FRESH_MS - 1
    await coins.known()
    assert wallet.calls.count("listfunds") == 1
    wallet.now_ms = FRESH_MS
    await coins.known()
    assert wallet.calls.count("listfunds") == 2
    wallet.height += 1
    await coins.known()
    assert wallet.calls.count("listfunds") == 3
    await coins.release(ONE, funding)
    asked = wallet.calls.count("listfunds")
    assert not (await coins.known()).reserved
    assert wallet.calls.count("listfunds") == asked + 1


def test_a_listing_is_old_after_a_while_a_block_or_a_release() -> None:
    """P17: what we did ourselves is never missed."""
    asyncio.run(_what_makes_a_listing_old())


async def _spent_since() -> None:
    wallet, coins, _ = make(50_000, 60_000)
    first = await choose_known(coins, ONE, 40_000)
    coins.spent(ONE)
    second = await choose_known(coins, TWO, 40_000)
    assert first.inputs != second.inputs
    assert wallet.calls.count("listfunds") == 1
    assert wallet.calls.count("utxopsbt") == 2


def test_a_coin_that_we_have_spent_is_not_offered_again() -> None:
    """rule:2: the listing of before shows it free."""
    asyncio.run(_spent_since())


async def _spent_while_listing() -> None:
    wallet, coins, _ = make(50_000, 60_000)
    await choose_known(coins, ONE, 40_000)
    wallet.now_ms = FRESH_MS
    wallet.after["listfunds"] = [lambda: coins.spent(ONE)]
    await coins.known()
    await coins.known()
    assert wallet.calls.count("listfunds") == 3


def test_a_listing_that_was_under_way_when_coins_were_spent_does_for_no_other() -> None:
    """rule:2: which of the two came first is not known."""
    asyncio.run(_spent_while_listing())


async def _taken_since() -> None:
    wallet, coins, _ = make(50_000, 60_000)
    await coins.known()
    wallet.taken(wallet.points[0])
    funding = await choose_known(coins, ONE, 40_000)
    assert funding.inputs == (wallet.points[1],)
    assert wallet.calls == ["listfunds", "utxopsbt", "listfunds", "utxopsbt"]


def test_what_others_took_since_lightningd_refuses_and_then_it_is_asked_once() -> None:
    """K-13, P17: a listing is a guess; the call that spends decides."""
    asyncio.run(_taken_since())


async def _come_since() -> None:
    wallet, coins, _ = make(10_000)
    await coins.known()
    wallet.amounts[f"{9:064x}:9"] = 50_000
    assert (await choose_known(coins, ONE, 40_000)).inputs == (f"{9:064x}:9",)


def test_before_a_payment_fails_for_coins_lightningd_is_asked() -> None:
    """O-09: a coin that came since pays."""
    asyncio.run(_come_since())


# Promised to several: a batch ---------------------------------------------------------------------------

BOTH = (ONE, TWO)


async def _shared(*amounts_sat: int) -> tuple[Wallet, Coins, Funding]:
    wallet, coins, _ = make(*amounts_sat)
    funding = await coins.choose(ONE, Need(40_000, WEIGHT, FEERATE), batch=BOTH)
    await coins.reserve(ONE, funding)
    return wallet, coins, funding


async def _the_last_one_frees_them() -> None:
    wallet, coins, funding = await _shared(50_000)
    (point,) = funding.inputs
    coins.part(ONE, funding)
    await coins.release(ONE, funding)
    assert wallet.reserved == {point: HEIGHT + RESERVE_BLOCKS}
    assert list(coins.standing(funding)) == [TWO]
    await coins.release(TWO, funding)
    coins.forget(TWO)
    assert wallet.reserved == {}
    assert coins.standing(funding) == {}


def test_coins_of_a_batch_are_free_when_the_last_lets_go() -> None:
    """trap:60: who leaves takes nothing from the others."""
    asyncio.run(_the_last_one_frees_them())


async def _freed_with_a_sister() -> None:
    wallet, coins, funding = await _shared(50_000)
    wallet.reserved.clear()  # as lightningd does with a withheld channel that it deletes
    coins.part(ONE, funding)
    await coins.keep(funding)
    assert wallet.reserved == dict.fromkeys(funding.inputs, HEIGHT + RESERVE_BLOCKS)
    await coins.keep(funding)  # they are: that is fine
    assert wallet.calls.count("unreserveinputs") == 0


def test_what_lightningd_frees_with_one_channel_is_reserved_again_for_the_others() -> None:
    """trap:60, cln:N4."""
    asyncio.run(_freed_with_a_sister())


async def _let_go_meanwhile() -> None:
    wallet, coins, funding = await _shared(50_000)
    wallet.reserved.clear()
    coins.part(ONE, funding)
    wallet.after["reserveinputs"] = [lambda: coins.forget(TWO)]  # the last one, while the call is under way
    await coins.keep(funding)
    assert wallet.reserved == {}
    await coins.keep(funding)
    assert wallet.calls.count("reserveinputs") == 2


def test_coins_are_not_kept_for_nobody() -> None:
    """trap:60, K-02: the last lets go while they are reserved again, so they are given back."""
    asyncio.run(_let_go_meanwhile())
