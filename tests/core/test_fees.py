"""The opening fee and how it is laid on the parts: every row of the vectors end to end, then a big-int oracle."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness.scene import HASH, LIMITS, SCID, U64_MAX, UPSTREAM, VARIABLE, Machine, Scene, both_modes, failed, kinds
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.actions import TEMPORARY, UNKNOWN_NEXT_PEER
from lsps2fast.table import Input, State

Play = partial[Scene]
Row = dict[str, Any]
WIRE = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text("utf-8"))
WIDE = replace(LIMITS, spendable_msat=U64_MAX, max_in_flight_msat=U64_MAX)


def _rows(key: str, **wanted: Any) -> list[Any]:
    """Rows of one table of the vectors whose fields are as wanted, named as there."""
    chosen = [row for row in WIRE[key] if all(row.get(name) == value for name, value in wanted.items())]
    return [pytest.param(row, id=row.get("name")) for row in chosen]


def _ints(texts: list[str | None]) -> list[int]:
    return [int(text or 0) for text in texts]


def _oracle_shares(values: list[int], floor: int, fee: int) -> list[int]:
    """H-04 in unbounded integers: in proportion, rounded down; the rest to the first ones with room."""
    shares = [min(fee * value // sum(values), value - floor) for value in values]
    for number, value in enumerate(values):
        shares[number] += min(fee - sum(shares), value - floor - shares[number])
    return shares


# The opening fee --------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", _rows("opening_fee"))
def test_the_opening_fee_is_that_of_the_vectors(machine: Machine, row: Row) -> None:
    """F-01, F-02, F-03, Z-01, trap:18: all 28 rows, by the code samples, not the prose; None where 64 bits are left."""
    fee_of = machine.parts.opening_fee_msat
    fee = fee_of(int(row["payment_size_msat"]), int(row["min_fee_msat"]), int(row["proportional"]))
    assert fee == {"overflow": None}.get(row["result"], int(row.get("opening_fee_msat", 0)))


SOLD = [
    row for row in _rows("opening_fee", result="ok") if "u64 max is" not in row.id and "zero everything" not in row.id
]


@pytest.mark.parametrize("row", SOLD)
def test_a_payment_is_charged_the_fee_of_its_size(scene: Play, row: Row) -> None:
    """F-04, trap:17: whatever is paid on top; here all that 64 bits can hold."""
    play = scene(
        payment_size_msat=int(row["payment_size_msat"]),
        min_fee_msat=int(row["min_fee_msat"]),
        proportional=int(row["proportional"]),
        limits={"overpay_ppm": U64_MAX},
    )
    fee, most = int(row["opening_fee_msat"]), play.buy.most_msat
    assert most >= int(row["payment_size_msat"])
    assert play.part(most) == (order.ReserveCoins(SCID, HASH, most - fee, 1),)
    assert play.session.fee_msat == fee


@pytest.mark.parametrize("row", _rows("opening_fee", result="overflow"))
def test_a_fee_beyond_64_bits_fails_the_payment_at_once(scene: Play, row: Row) -> None:
    """F-03: permanent, and never a wrapped number."""
    size = int(row["payment_size_msat"])
    play = scene(payment_size_msat=size, min_fee_msat=int(row["min_fee_msat"]), proportional=int(row["proportional"]))
    assert play.part(size) == (failed([0], UNKNOWN_NEXT_PEER),)


# Laid on the parts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", _rows("fee_allocation", result="ok"))
def test_the_fee_is_laid_on_the_parts_as_in_the_vectors(machine: Machine, row: Row) -> None:
    """H-02 to H-07, rule:4: inputs and sums are the vectors', each share that of the oracle."""
    values, fee = _ints(row["parts_msat"]), int(row["opening_fee_msat"])
    floor = int(row["htlc_minimum_msat"])
    taken = machine.parts.allocate(values, floor, fee)
    assert taken == _oracle_shares(values, max(1, floor), fee)
    assert sum(taken) == int(row["sum_extra_fee_msat"])
    assert sum(values) - sum(taken) == int(row["sum_forward_msat"])


FAILING = ["fee_not_deductible", "part_below_floor", "sum_overflow"]


@pytest.mark.parametrize("row", [row for reason in FAILING for row in _rows("fee_allocation", reason=reason)])
def test_a_fee_that_cannot_be_laid_is_not_laid(machine: Machine, row: Row) -> None:
    """H-03, H-05, H-07."""
    values, floor = _ints(row["parts_msat"]), int(row["htlc_minimum_msat"])
    assert machine.parts.allocate(values, floor, int(row["opening_fee_msat"])) is None


def _pay(scene: Play, row: Row, **terms: Any) -> Scene:
    """Live through a row of fee_allocation until the client's minimum is known."""
    play = scene(
        **{
            "payment_size_msat": int(row["payment_size_msat"]),
            "min_fee_msat": int(row["opening_fee_msat"]),
            "proportional": 0,
            "limits": {"overpay_ppm": U64_MAX},
        }
        | terms
    )
    for value in _ints(row["parts_msat"]):
        play.part(value)
    return play


@pytest.mark.parametrize("terms", both_modes())
@pytest.mark.parametrize("row", _rows("fee_allocation", result="ok"))
def test_a_payment_goes_out_as_in_the_vectors(scene: Play, row: Row, terms: dict[str, Any]) -> None:
    """H-04 to H-09, H-21: amounts and extra fees of every part, which say what was taken; not one msat lost or made."""
    play = _pay(scene, row, **terms)
    play.serve(replace(WIDE, htlc_minimum_msat=int(row["htlc_minimum_msat"])))
    (forwards,) = play.of(order.ForwardParts)
    values, fee = _ints(row["parts_msat"]), int(row["opening_fee_msat"])
    taken = _oracle_shares(values, max(1, int(row["htlc_minimum_msat"])), fee)
    assert [part.extra_fee_msat for part in forwards.parts] == taken
    assert [part.out_msat + part.extra_fee_msat for part in forwards.parts] == values
    assert sum(part.extra_fee_msat for part in forwards.parts) == int(row["sum_extra_fee_msat"])
    assert sum(part.out_msat for part in forwards.parts) == int(row["sum_forward_msat"])


@pytest.mark.parametrize("row", _rows("fee_allocation", reason="fee_not_deductible"))
def test_a_payment_that_cannot_carry_its_fee_opens_nothing(scene: Play, row: Row) -> None:
    """H-05, C-10: with the minimum known before; all parts fail, for now."""
    play = scene(payment_size_msat=int(row["payment_size_msat"]), min_fee_msat=int(row["opening_fee_msat"]))
    play.buy.floor_msat = int(row["htlc_minimum_msat"])
    values = _ints(row["parts_msat"])
    for value in values[:-1]:
        assert play.part(value) == ()
    assert play.part(values[-1]) == (failed(list(range(len(values)))),)


@pytest.mark.parametrize("row", _rows("fee_allocation", reason="part_below_floor"))
def test_a_part_below_the_floor_fails_alone_and_the_rest_goes_on(scene: Play, row: Row) -> None:
    """H-03, C-04, row 16."""
    play = scene(payment_size_msat=int(row["payment_size_msat"]), min_fee_msat=int(row["opening_fee_msat"]))
    play.buy.floor_msat = int(row["htlc_minimum_msat"])
    assert play.part(500) == (failed([0], "100b00000000000001f40000"),)
    assert kinds(play.part(100_000)) == ["ReserveCoins"]


@pytest.mark.parametrize("row", _rows("fee_allocation", reason="sum_overflow"))
def test_a_part_that_takes_a_sum_beyond_64_bits_fails_alone(scene: Play, row: Row) -> None:
    """H-07, rule:18: while it collects; the others stay."""
    play = scene(payment_size_msat=U64_MAX, min_fee_msat=int(row["opening_fee_msat"]))
    first, second = _ints(row["parts_msat"])
    assert play.part(first) == ()
    assert play.part(second) == (failed([1]),)
    assert kinds(play.part(U64_MAX - first)) == ["ReserveCoins"]


@pytest.mark.parametrize("row", _rows("fee_allocation", reason="sum_overflow"))
def test_a_part_that_takes_a_complete_payment_beyond_64_bits_fails_alone(scene: Play, row: Row) -> None:
    """H-07, trap:26: it is not allowed to end what is complete without it."""
    play = _pay(scene, row)
    assert play.orders[-1] == failed([1])
    assert play.state is State.OPENING


@pytest.mark.parametrize("row", _rows("fee_allocation", result="wait"))
def test_a_payment_that_is_not_complete_waits(scene: Play, row: Row) -> None:
    """C-08: one msat short is short."""
    play = _pay(scene, row)
    assert play.orders == []
    assert play.state is State.COLLECTING


# Without a size -----------------------------------------------------------------------------------------


def _variable(scene: Play, row: Row) -> Scene:
    play = scene(
        **VARIABLE,
        min_fee_msat=int(row["min_fee_msat"]),
        proportional=int(row["proportional"]),
        min_payment_size_msat=int(row["min_payment_size_msat"]),
        max_payment_size_msat=int(row["max_payment_size_msat"]),
    )
    play.buy.floor_msat = int(row["htlc_minimum_msat"])
    play.part(int(row["htlc_value_msat"]))
    return play


@pytest.mark.parametrize("row", _rows("variable_mode", result="fund"))
def test_a_payment_without_size_is_funded_as_in_the_vectors(scene: Play, row: Row) -> None:
    """C-20 to C-23, H-19, F-04."""
    play = _variable(scene, row)
    play.walk("reserved stored funded")
    play.tell(Input.READY, replace(WIDE, htlc_minimum_msat=int(row["htlc_minimum_msat"])))
    (forwards,) = play.walk("stored")
    part = order.Forward(UPSTREAM, 0, int(row["forward_msat"]), int(row["opening_fee_msat"]))
    assert forwards.parts == (part,)


def test_a_payment_without_size_may_be_all_that_64_bits_hold(scene: Play) -> None:
    """C-22, F-02: fee and floor together are exactly its value."""
    play = scene(**VARIABLE, min_fee_msat=U64_MAX - 1)
    assert play.part(U64_MAX) == (order.ReserveCoins(SCID, HASH, 1, 1),)


@pytest.mark.parametrize("row", _rows("variable_mode", result="fail"))
def test_a_payment_without_size_is_refused_as_in_the_vectors(scene: Play, row: Row) -> None:
    """C-21 to C-24: at once, for good, and the offer stays."""
    play = _variable(scene, row)
    assert play.orders == [failed([0], row["failure"])]
    assert list(play.core.buys) == [SCID]


# On arrival -----------------------------------------------------------------------------------------------


def _arrive(machine: Machine, row: Row, floor_msat: int = 1, **terms: Any) -> tuple[order.Action, ...]:
    play = Scene(machine, payment_size_msat=U64_MAX, limits={"min_final_expiry_blocks": 1}, **terms)
    play.buy.floor_msat = floor_msat
    play.core.block(row.get("block_height", 0))
    return play.part(
        int(row["forward_msat"]),
        amount_msat=int(row["htlc_amount_msat"]),
        cltv=row.get("htlc_cltv_expiry", 800_400),
        outgoing=row.get("outgoing_cltv_value", 800_200),
    )


@pytest.mark.parametrize("row", _rows("part_arrival"))
def test_a_part_is_judged_on_arrival_as_in_the_vectors(machine: Machine, row: Row) -> None:
    """C-04: it would fail only after the channel was paid for; the answer is that part's alone."""
    actions = _arrive(machine, row, cltv_expiry_delta_blocks=row["lsp_cltv_expiry_delta"])
    assert actions == {"hold": ()}.get(row["result"], (failed([0], row.get("failure", "")),))


@pytest.mark.parametrize("row", _rows("part_arrival_floor"))
def test_a_part_below_the_minimum_is_judged_first_of_all(machine: Machine, row: Row) -> None:
    """C-04, H-03: the first matching code in numeric order."""
    actions = _arrive(machine, row, floor_msat=int(row["floor_msat"]))
    assert actions == {"hold": ()}.get(row["result"], (failed([0], row.get("failure", "")),))


ARRIVALS = [  # cltv, outgoing, answer at height 800000 with a delta of 144
    (144, 0, "100d000000900000"),  # not above the delta at all
    (0, 0, "100d000000000000"),
    (800_006, 799_862, "100e0000"),  # outgoing passed
    (802_160, 802_016, None),
    (802_161, 802_016, None),  # a generous payer
    (U64_MAX, 802_016, None),
    (U64_MAX, U64_MAX - 144, "0015"),
    (U64_MAX, U64_MAX, "100dffffffff0000"),
]


@pytest.mark.parametrize(("cltv", "outgoing", "failure"), ARRIVALS)
def test_expiries_at_the_edges_are_judged(scene: Play, cltv: int, outgoing: int, failure: str | None) -> None:
    """C-04, K-06: no subtraction wraps."""
    play = scene(payment_size_msat=U64_MAX)
    actions = play.part(1_000, cltv=cltv, outgoing=outgoing)
    assert actions == {None: ()}.get(failure, (failed([0], str(failure)),))


@pytest.mark.parametrize(("cltv", "failure"), [(800_006, "100e0000"), (800_007, None)])
def test_a_part_within_the_safety_margin_is_not_held(scene: Play, cltv: int, failure: str | None) -> None:
    """K-06, C-04, rule:5: with a delta small enough to let it through (regtest: 6)."""
    play = scene(payment_size_msat=U64_MAX, cltv_expiry_delta_blocks=5, limits={"min_final_expiry_blocks": 1})
    actions = play.part(1_000, cltv=cltv, outgoing=800_001)
    assert actions == {None: ()}.get(failure, (failed([0], str(failure)),))


@pytest.mark.parametrize("row", _rows("held_htlc_deadline"))
def test_held_parts_fail_in_time_as_in_the_vectors(machine: Machine, row: Row) -> None:
    """K-06, trap:28, rule:5."""
    core = machine.sessions.Sessions()
    core.block(50)
    scene = Scene(machine, cltv_expiry_delta_blocks=10)
    core.add_buy(SCID, "02" * 33, scene.terms)
    assert row["safety_buffer"] == machine.fsm.CLTV_MARGIN_BLOCKS
    assert (
        core.part(machine.htlc(SCID, HASH, (UPSTREAM, 0), 1_000, row["min_cltv_expiry"], outgoing=90), 0, scene.wall_ms)
        == ()
    )
    assert core.block(row["block_height"]) == {False: ()}.get(row["fail_now"], (failed([0], TEMPORARY),))


# A big-int oracle -----------------------------------------------------------------------------------------

EDGES = [0, 1, 999_999, 10**6, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**63 + 1, U64_MAX - 999_999, U64_MAX - 1, U64_MAX]
U64 = st.one_of(st.sampled_from(EDGES), st.integers(0, U64_MAX), st.integers(0, 10**7))
QUICK = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _oracle_fee(size: int, min_fee: int, proportional: int) -> int | None:
    product = size * proportional
    fits = product <= U64_MAX and product + 999_999 <= U64_MAX
    return max(-(-product // 1_000_000), min_fee) if fits else None


@QUICK
@given(size=U64, min_fee=U64, proportional=U64)
@example(size=2**63, min_fee=0, proportional=2)
@example(size=U64_MAX // 10**7, min_fee=0, proportional=10**7)  # the product just fits, the rounding too
@example(size=U64_MAX, min_fee=U64_MAX, proportional=0)
def test_the_opening_fee_never_wraps(machine: Machine, size: int, min_fee: int, proportional: int) -> None:
    """trap:18, F-02, F-03: against unbounded integers, at every edge."""
    assert machine.parts.opening_fee_msat(size, min_fee, proportional) == _oracle_fee(size, min_fee, proportional)


@QUICK
@given(values=st.lists(U64, max_size=31), floor=U64, fee=U64)
@example(values=[2**63, 2**63 - 1], floor=1, fee=U64_MAX - 2)
@example(values=[2**63, 2**63], floor=1, fee=1)
def test_a_fee_is_laid_whole_or_not_at_all(machine: Machine, values: list[int], floor: int, fee: int) -> None:
    """trap:18, H-04 to H-07, rule:4: whole exactly when the parts above the floor carry it, first parts first."""
    lowest = max(1, floor)
    room = [value - lowest for value in values]
    possible = all(free >= 0 for free in room) and sum(values) <= U64_MAX and sum(room) >= fee
    assert machine.parts.allocate(values, floor, fee) == (_oracle_shares(values, lowest, fee) if possible else None)


@QUICK
@given(
    values=st.lists(st.one_of(st.integers(1, 5_000), st.integers(1, 2**59)), min_size=1, max_size=12),
    fee=st.one_of(st.integers(0, 5_000), st.integers(0, 2**60)),
    floor=st.integers(0, 2_000),
    taken=st.sets(st.integers(0, 11)),
)
@example(values=[1_001, 999_000], fee=10_000, floor=1, taken={1})  # people:S3: fee + 1 msat and the rest
def test_every_subset_of_the_parts_pays_its_share(
    machine: Machine, values: list[int], fee: int, floor: int, taken: set[int]
) -> None:
    """rule:20, people:S3, H-04, H-06: whichever parts a client takes, it pays for them, to the msat each rounds off."""
    shares = machine.parts.allocate(values, floor, fee)
    if shares is None:
        return
    assert sum(shares) == fee
    lowest = max(1, floor)
    bound = [
        number for number in range(len(values)) if shares[number] == values[number] - lowest
    ]  # nothing more to take
    chosen = [number for number in taken if number < len(values)]
    for number in chosen:
        assert number in bound or shares[number] >= fee * values[number] // sum(values)
    if not set(chosen) & set(bound):
        due = fee * sum(values[number] for number in chosen) // sum(values)
        assert sum(shares[number] for number in chosen) >= due - len(chosen)


@QUICK
@given(
    values=st.lists(st.one_of(st.integers(1, 5_000), st.integers(1, 2**59)), min_size=1, max_size=30),
    short=st.integers(0, 4_999),
    min_fee=st.one_of(st.integers(0, 5_000), st.integers(0, 2**59)),
    proportional=st.integers(0, 1_100_000),
    floor=st.integers(0, 3_000),
    over=st.integers(-1, 2),
)
def test_no_msat_is_lost_or_made_between_payer_client_and_us(
    scene: Play, values: list[int], short: int, min_fee: int, proportional: int, floor: int, over: int
) -> None:
    """H-06, H-14, F-05, rule:4: for every split nothing goes out or everything, less the opening fee to the msat.

    Never more than came in: a part that brings less than its onion names fails.
    """
    size = max(1, sum(values) - short)
    play = scene(payment_size_msat=size, min_fee_msat=min_fee, proportional=proportional)
    for value in values:
        play.part(value, amount_msat=max(value + over, 0))
    play.serve(replace(WIDE, htlc_minimum_msat=floor))
    out = {part.htlc_id: part for forwards in play.of(order.ForwardParts) for part in forwards.parts}
    back = [htlc_id for refused in play.of(order.FailParts) for _, htlc_id in refused.parts]
    held = [htlc_id for (_, htlc_id), part in play.core.index.items() if part.status == 0]
    assert sorted([*out, *back, *held]) == list(range(len(values)))
    assert {number: part.out_msat + part.extra_fee_msat for number, part in out.items()} == {
        number: values[number] for number in out
    }
    assert all(part.out_msat >= max(1, floor) for part in out.values())
    assert all(part.out_msat <= values[number] + over for number, part in out.items())
    assert not out or sum(part.extra_fee_msat for part in out.values()) == _oracle_fee(size, min_fee, proportional)
