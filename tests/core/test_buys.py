"""Buys: validation in the order of B-06, scids that cannot be guessed, expiry, limits, and request rates."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lsps2fast.errors import ConfigError, PeerError, ProtocolBug
from lsps2fast.lsps import buys
from lsps2fast.lsps.buys import (
    Buy,
    BuyQuota,
    BuyRegistry,
    InFlight,
    Lack,
    PeerBuckets,
    TokenBucket,
    check_liquidity,
    check_supply,
    check_terms,
    new_scid,
)
from lsps2fast.lsps.lsps0 import INTERNAL_ERROR
from lsps2fast.lsps.lsps2 import U64_MAX, BuyAsk, FeeParams

WIRE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text("utf-8"))
NOW_MS = 1_000_000
VALID_UNTIL_MS = 2_000_000
LATER = INTERNAL_ERROR  # what passes by itself is not code 1


def terms(**changes: int) -> FeeParams:
    base: dict[str, Any] = {
        "min_fee_msat": 2000,
        "proportional": 10000,
        "valid_until_ms": VALID_UNTIL_MS,
        "min_lifetime_blocks": 1008,
        "max_client_to_self_delay_blocks": 2016,
        "min_payment_size_msat": 1_000_000,
        "max_payment_size_msat": 100_000_000,
    }
    return FeeParams.build(**{**base, **changes})


def buy(jit_scid: int, peer_id: str = "alice", valid_until_ms: int = VALID_UNTIL_MS, created_at_ms: int = 0) -> Buy:
    return Buy(
        jit_scid=jit_scid,
        peer_id=peer_id,
        params=terms(valid_until_ms=valid_until_ms),
        payment_size_msat=None,
        cltv_expiry_delta_blocks=144,
        client_trusts_lsp=False,
        created_at_ms=created_at_ms,
        capacity_sat=100_000,
    )


def code_of(step: Callable[[], object]) -> int | None:
    """The code of the refusal, None for none."""
    try:
        step()
    except PeerError as error:
        return error.code
    return None


# --- Validation (B-06) ------------------------------------------------------------------------------------------------


def ask_of(params: FeeParams, size_msat: int | None = 50_000_000) -> BuyAsk:
    return BuyAsk(params, size_msat)


def check(
    ask: BuyAsk,
    *,
    now_ms: int = NOW_MS,
    proves: Callable[[FeeParams], bool] = lambda _: True,
    floor_msat: int = 1,
    incoming_liquidity_msat: int | None = None,
    provided: int | Lack = 100_000,
) -> int:
    """Return the capacity of a buy for which every fact speaks, in the order in which a negotiation asks."""
    check_terms(ask, now_ms, proves, floor_msat)
    check_liquidity(ask, incoming_liquidity_msat)
    return check_supply(ask, provided)


def number(text: str | None) -> int | None:
    return None if text is None else int(text)


@pytest.mark.parametrize("row", WIRE["buy_validation"], ids=lambda row: row["name"])
def test_a_buy_is_judged_as_in_the_vectors(row: dict[str, Any]) -> None:
    """B-06, B-07, B-08: V:buy_validation."""
    params = terms(**{name: int(value) for name, value in row["params"].items()})
    ask = ask_of(params, number(row["payment_size_msat"]))
    code = code_of(
        lambda: check(
            ask,
            now_ms={True: VALID_UNTIL_MS, False: VALID_UNTIL_MS - 1}[row["valid_until_passed"]],
            proves=lambda _: row["promise_valid"],
            floor_msat=int(row["htlc_floor_msat"]),
            incoming_liquidity_msat=number(row["incoming_liquidity_msat"]),
        )
    )
    assert code == row["code"]


# From the last step to the first, each fault on top of all later ones: the code must be that of the earliest.
FAULTS: list[tuple[str, dict[str, Any], int]] = [
    ("11 no channel", {"provided": Lack.FUNDS}, LATER),
    ("10 no inbound liquidity", {"incoming_liquidity_msat": 49_999_999}, 203),
    ("9 nothing above the floor", {"floor_msat": 49_500_001}, 202),
    ("4 expired", {"now_ms": VALID_UNTIL_MS}, 201),
    ("3 not our promise", {"proves": lambda _: False}, 201),
]


@pytest.mark.parametrize("count", range(1, len(FAULTS) + 1), ids=lambda count: FAULTS[count - 1][0])
def test_the_first_fault_in_the_order_of_the_table_decides(count: int) -> None:
    """B-06: the order, for a size inside the limits."""
    facts: dict[str, Any] = {}
    for _, fault, _ in FAULTS[:count]:
        facts |= fault
    assert code_of(lambda: check(ask_of(terms()), **facts)) == FAULTS[count - 1][2]


@pytest.mark.parametrize(
    ("changes", "size_msat", "code"),
    [
        ({"min_payment_size_msat": 11, "min_fee_msat": 11}, 10, 202),
        ({"min_payment_size_msat": 0, "max_payment_size_msat": 9, "min_fee_msat": 11}, 10, 203),
        ({"proportional": 2**32 - 1, "max_payment_size_msat": U64_MAX, "min_fee_msat": U64_MAX}, U64_MAX, 203),
        ({"min_fee_msat": 1_000_000, "proportional": 0}, 1_000_000, 202),
        ({"min_fee_msat": 999_999, "proportional": 0}, 1_000_000, None),
    ],
)
def test_sizes_are_judged_in_the_order_of_the_table(changes: dict[str, int], size_msat: int, code: int | None) -> None:
    """B-06 steps 5 to 8: each also breaks a later step."""
    assert code_of(lambda: check(ask_of(terms(**changes), size_msat))) == code


@pytest.mark.parametrize(
    ("lack", "size_msat", "code"),
    [
        (Lack.SIZE, 50_000_000, 203),
        (Lack.FUNDS, 50_000_000, LATER),
        (Lack.SIZE, None, LATER),
        (Lack.FUNDS, None, LATER),
    ],
)
def test_a_missing_channel_is_the_sizes_fault_only_when_there_is_one(
    lack: Lack, size_msat: int | None, code: int
) -> None:
    """B-06 step 11."""
    assert code_of(lambda: check(ask_of(terms(), size_msat), provided=lack)) == code


def test_a_variable_buy_is_not_judged_by_any_size() -> None:
    """B-07: steps 5 to 10 wait for the first HTLC."""
    ask = ask_of(terms(min_fee_msat=2**63), None)
    assert check(ask, floor_msat=2**63, incoming_liquidity_msat=0) == 100_000


# --- Limits (B-14) ----------------------------------------------------------------------------------------------------


def test_a_peer_has_so_many_open_buys_and_no_more() -> None:
    """B-06 step 2, B-14: ten by default; a used, expired or removed one makes room."""
    book = BuyRegistry()
    for scid in range(10):
        book.add(buy(scid, valid_until_ms=VALID_UNTIL_MS + scid))
    assert code_of(lambda: book.add(buy(10))) == LATER
    assert code_of(lambda: book.check_room("alice")) == LATER
    assert code_of(lambda: book.add(buy(11, "bob"))) is None
    book.mark_used(0)
    book.mark_used(0)
    assert book.open_count("alice") == 9
    book.add(buy(10))
    assert code_of(lambda: book.check_room("alice")) == LATER
    for scid in (0, 10, 5):
        book.remove(scid)
    assert book.open_count("alice") == 8
    assert book.open_count() == 9


def test_a_crowd_cannot_lock_out_who_holds_nothing() -> None:
    """B-14, trap:31, rule:14: the last fifth of all places goes to peers without an open buy."""
    book = BuyRegistry(BuyQuota(buys_per_peer=10, buys_total=100))
    for scid in range(80):
        book.add(buy(scid, f"crowd{scid // 10}"))
    assert code_of(lambda: book.check_room("crowd0")) == LATER
    book.remove(79)
    book.add(buy(79, "crowd7"))
    for scid in range(80, 100):
        book.add(buy(scid, f"honest{scid}"))
        assert code_of(partial(book.check_room, f"honest{scid}")) == LATER
    assert code_of(lambda: book.check_room("late")) == LATER
    assert len(book) == 100


def test_a_sold_buy_is_restored_whatever_the_limits() -> None:
    """B-10, B-14: after a restart with smaller limits nothing that was promised is lost."""
    book = BuyRegistry(BuyQuota(buys_per_peer=1, buys_total=1))
    for scid in range(5):
        book.restore(buy(scid))
    assert len(book) == 5
    assert code_of(lambda: book.add(buy(5))) == LATER


@pytest.mark.parametrize("enter", [BuyRegistry.add, BuyRegistry.restore])
def test_a_scid_is_never_taken_over(enter: Callable[[BuyRegistry, Buy], None]) -> None:
    """B-11, C-02, rule:2."""
    book = BuyRegistry()
    enter(book, buy(7))
    with pytest.raises(ProtocolBug):
        enter(book, buy(7, "mallory"))
    assert book.get(7) == buy(7)
    assert book.of_peer("mallory") == []


def test_buys_are_found_by_scid_and_by_peer() -> None:
    """B-05, B-13: identical parameters make separate buys, each with its own peer."""
    book = BuyRegistry()
    book.add(buy(3, created_at_ms=1))
    book.add(buy(2, created_at_ms=2))
    book.add(buy(1, "bob"))
    assert [entry.jit_scid for entry in book.of_peer("alice")] == [3, 2]
    assert (1 in book, 4 in book) == (True, False)
    assert {entry.jit_scid for entry in book} == {1, 2, 3}
    assert book.get(4) is None
    assert book.remove(4) is None
    assert book.remove(3) == buy(3, created_at_ms=1)
    assert book.of_peer("alice") == [buy(2, created_at_ms=2)]


# --- The end of a buy -------------------------------------------------------------------------------------------------


def test_a_used_buy_keeps_its_scid_and_frees_its_place() -> None:
    """B-14, A-03: the alias lives on until it is taken out."""
    book = BuyRegistry(BuyQuota(buys_per_peer=1))
    book.add(buy(1))
    book.mark_used(1)
    book.add(buy(2))
    assert 1 in book
    assert book.open_count("alice") == 1
    book.remove(1)
    assert 1 not in book
    assert book.open_count("alice") == 1


def test_nothing_remains_of_what_is_gone() -> None:
    """B-14, trap:31: bounded memory under buys that come and go."""
    book = BuyRegistry()
    for scid in range(5000):
        book.add(buy(scid, f"peer{scid % 7}"))
        book.mark_used(scid - 1)
        book.remove(scid)
        book.mark_used(scid)
    assert (len(book), book.open_count(), book.of_peer("peer1"), book._open, book._by_peer) == (0, 0, [], {}, {})


class Book(RuleBasedStateMachine):
    """The book against a plain dict of (buy, used)."""

    def __init__(self) -> None:
        super().__init__()
        self.book = BuyRegistry(BuyQuota(buys_per_peer=3, buys_total=8))
        self.model: dict[int, tuple[Buy, bool]] = {}
        self.next_scid = 0

    def unused(self, peer_id: str | None = None) -> int:
        return sum(not used and peer_id in (None, entry.peer_id) for entry, used in self.model.values())

    @rule(peer_id=st.sampled_from("abcd"))
    def sell(self, peer_id: str) -> None:
        entry = buy(self.next_scid, peer_id)
        mine, total = self.unused(peer_id), self.unused()
        room = mine < 3 and total < 8 and (total < 6 or mine == 0)
        refused = code_of(lambda: self.book.add(entry)) == LATER
        assert refused != room
        self.model |= {False: {self.next_scid: (entry, False)}, True: {}}[refused]
        self.next_scid += 1

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        scid = data.draw(st.sampled_from(sorted(self.model)))
        self.book.mark_used(scid)
        self.model[scid] = (self.model[scid][0], True)

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def take_out(self, data: st.DataObject) -> None:
        scid = data.draw(st.sampled_from(sorted(self.model)))
        assert self.book.remove(scid) == self.model.pop(scid)[0]

    @invariant()
    def same(self) -> None:
        """All counts agree."""
        assert {entry.jit_scid for entry in self.book} == set(self.model)
        assert self.book.open_count() == self.unused()
        for peer_id in "abcd":
            mine = {scid for scid, (entry, _) in self.model.items() if entry.peer_id == peer_id}
            assert {entry.jit_scid for entry in self.book.of_peer(peer_id)} == mine
            assert self.book.open_count(peer_id) == self.unused(peer_id)


TestBookAgainstModel: Any = Book.TestCase
TestBookAgainstModel.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


# --- Scids (B-11) -----------------------------------------------------------------------------------------------------


def draws(*numbers: int) -> Callable[[], int]:
    source: Iterator[int] = iter(numbers)
    return lambda: next(source)


FIRST = buys.SCID_FIRST_BLOCK << 40
END = buys.SCID_END_BLOCK << 40


@pytest.mark.parametrize("unfit", [0, 930_000 << 40, FIRST - 1, END, 2**64 - 1, 2**64, -1])
def test_a_scid_is_never_at_a_height_that_can_exist(unfit: int) -> None:
    """B-11: nor 0, nor among lnd's aliases; both ends of the range are used."""
    assert new_scid(draws(unfit, FIRST), lambda _: False) == FIRST
    assert new_scid(draws(unfit, END - 1), lambda _: False) == END - 1


def test_a_clash_is_drawn_again() -> None:
    """B-11, trap:30: with a live scid, an alias or another offer."""
    book = BuyRegistry()
    book.add(buy(FIRST))
    taken = {FIRST + 1}
    assert new_scid(draws(FIRST, FIRST + 1, FIRST + 2), lambda scid: scid in book or scid in taken) == FIRST + 2


def test_a_broken_generator_is_noticed() -> None:
    """B-11: the loop ends."""
    with pytest.raises(ProtocolBug, match="repeat"):
        new_scid(lambda: FIRST, lambda _: True)


def test_scids_have_more_than_60_bits() -> None:
    """trap:30, B-11, B-13: as a count, and as a distribution over every bit and the height."""
    assert math.log2(END - FIRST) > 62
    source = random.Random(7)
    found = [new_scid(lambda: source.getrandbits(64), lambda _: False) for _ in range(2000)]
    assert len(set(found)) == 2000
    assert all(0.4 < sum(scid >> bit & 1 for scid in found) / 2000 < 0.6 for bit in range(40))
    heights = Counter((scid >> 40) // 1_000_000 for scid in found)
    assert set(heights) == {10, 11, 12, 13, 14, 15}
    assert all(250 < count < 420 for count in heights.values())


# --- Rates ------------------------------------------------------------------------------------------------------------


def test_a_bucket_allows_its_burst_then_its_rate() -> None:
    """2 per second, 3 at once."""
    bucket = TokenBucket(2, 3)
    assert [bucket.take(10_000) for _ in range(5)] == [True, True, True, False, False]
    assert [bucket.take(now_ms) for now_ms in (10_499, 10_500, 10_500, 11_000)] == [False, True, False, True]
    assert [bucket.take(60_000) for _ in range(4)] == [True, True, True, False]


@given(
    st.floats(0.01, 1000),
    st.integers(1, 20),
    st.lists(st.integers(0, 300), min_size=1, max_size=60),
)
def test_no_sequence_gets_more_than_burst_plus_rate(rate_per_s: float, burst: int, steps_ms: list[int]) -> None:
    """In every window, whatever the timing."""
    bucket = TokenBucket(rate_per_s, burst)
    now_ms, taken = 5, []
    for step_ms in steps_ms:
        now_ms += step_ms
        taken += [now_ms] * bucket.take(now_ms)
    windows = [(end - start, count) for at, start in enumerate(taken) for count, end in enumerate(taken[at:], 1)]
    assert all(count <= burst + window_ms * rate_per_s / 1000 * 1.001 + 1e-6 for window_ms, count in windows)


@given(st.floats(0.01, 1000), st.integers(1, 20))
def test_a_patient_peer_is_never_refused(rate_per_s: float, burst: int) -> None:
    """At its rate, from the first request on."""
    bucket = TokenBucket(rate_per_s, burst)
    step_ms = math.ceil(1000 / rate_per_s)
    assert all(bucket.take(n * step_ms) for n in range(50))


@pytest.mark.parametrize(("rate_per_s", "burst"), [(0, 1), (-1, 1), (1, 0), (math.inf, 1), (math.nan, 1), (2e6, 1)])
def test_a_rate_that_cannot_work_is_refused(rate_per_s: float, burst: int) -> None:
    """At the start, not at the first request."""
    with pytest.raises(ConfigError):
        TokenBucket(rate_per_s, burst)
    with pytest.raises(ConfigError):
        PeerBuckets(rate_per_s, burst)


def test_at_least_one_peer_is_remembered() -> None:
    """A memory of none is refused; of one, the older peer makes way."""
    with pytest.raises(ConfigError):
        PeerBuckets(1, 1, max_peers=0)
    only_one = PeerBuckets(1, 1, max_peers=1)
    assert [only_one.take(peer_id, 0) for peer_id in ("a", "a", "b", "a")] == [True, False, True, True]


def test_peers_do_not_share_a_bucket() -> None:
    """T-29, trap:31: one noisy peer costs another nothing."""
    buckets = PeerBuckets(1, 2)
    assert [buckets.take("noisy", 0) for _ in range(4)] == [True, True, False, False]
    assert [buckets.take("honest", 0) for _ in range(2)] == [True, True]


def test_idle_peers_are_forgotten() -> None:
    """trap:31: memory is that of the peers of the last moments."""
    buckets = PeerBuckets(1, 2)
    for number in range(1000):
        buckets.take(f"peer{number}", number * 100)
    before = len(buckets)
    assert 3 < before <= 25
    buckets.take("later", 200_000)
    buckets.take("later", 200_000)
    assert len(buckets) == before + 1 - 4
    assert not buckets.take("later", 200_000)


def test_memory_stays_bounded_when_nobody_is_idle() -> None:
    """trap:31: the peer unused for longest goes first; the one that hammers is not forgotten."""
    buckets = PeerBuckets(0.001, 1, max_peers=100)
    assert buckets.take("hammer", 0)
    outcomes = [(buckets.take(f"peer{number}", 0), buckets.take("hammer", 0)) for number in range(1000)]
    assert set(outcomes) == {(True, False)}
    assert len(buckets) == 100


def test_rubbish_is_answered_ten_times_a_minute() -> None:
    """T-12."""
    buckets = buys.parse_error_buckets()
    assert sum(buckets.take("peer", 0) for _ in range(100)) == 10
    assert sum(buckets.take("peer", 60_000) for _ in range(100)) == 10
    assert sum(buckets.take("peer", 65_999) for _ in range(100)) == 0
    assert sum(buckets.take("peer", 66_000) for _ in range(100)) == 1


def test_work_in_progress_is_bounded() -> None:
    """T-36: eleven from one peer, and a total."""
    assert sum(full.enter(f"peer{number // 10}") for full in [InFlight()] for number in range(2000)) == 1000
    work = InFlight()
    assert [work.enter("a") for _ in range(11)] == [True] * 10 + [False]
    work.leave("a")
    assert (work.enter("a"), work.enter("a"), len(work)) == (True, False, 10)
    crowded = InFlight(per_peer=10, total=3)
    assert [crowded.enter(peer_id) for peer_id in "abcd"] == [True, True, True, False]
    crowded.leave("b")
    assert crowded.enter("d")


@pytest.mark.parametrize("peer_id", ["a", "b"])
def test_leaving_without_entering_is_a_bug_of_ours(peer_id: str) -> None:
    """T-36."""
    work = InFlight()
    work.enter("a")
    work.leave("a")
    with pytest.raises(ProtocolBug):
        work.leave(peer_id)
    assert len(work) == 0
    assert work._counts == {}


@pytest.mark.slow
def test_a_flood_from_a_thousand_peers_leaves_room_for_an_honest_one() -> None:
    """trap:31: 10,000 buys a second for 10 s from 1,000 peers: memory and commits are bounded, a newcomer is served."""
    rates, overall, book = PeerBuckets(1, 5), TokenBucket(900, 900), BuyRegistry()

    def commits(peer_id: str, now_ms: int) -> int:
        allowed = rates.take(peer_id, now_ms) and overall.take(now_ms)
        if not allowed or code_of(lambda: book.check_room(peer_id)) == LATER:
            return 0
        book.add(buy(len(book) + 1, peer_id, valid_until_ms=600_000))
        return 1

    for second in range(10):
        times_ms = range(second * 1000, second * 1000 + 1000, 100)
        assert sum(commits(f"flood{number}", now_ms) for now_ms in times_ms for number in range(1000)) <= 1800
    assert len(book) == BuyQuota().buys_total * 4 // 5
    assert commits("honest", 10_000) == 1
    assert len(rates) <= 1001
