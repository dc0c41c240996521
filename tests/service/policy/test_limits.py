"""Limits: what a crowd can cost us, and that it cannot lock others out."""

from __future__ import annotations

import pytest

from lsps2fast_plugin.service.policy.limits import (
    LARGE_BYTES,
    LIMIT_OPTIONS,
    Admit,
    Gate,
    GateLimits,
    Refusal,
    Refusals,
)

HONEST = "honest"


def gate(**changes: int) -> tuple[Gate, Refusals]:
    """A gate and its counters."""
    refusals = Refusals()
    return Gate(GateLimits()._replace(**changes), refusals), refusals


def test_every_limit_is_an_option_with_the_same_default() -> None:
    """Each limit an option with a sane default."""
    assert [default for default, *_ in LIMIT_OPTIONS.values()] == list(GateLimits())
    assert all(least <= default <= most and meaning for default, least, most, meaning in LIMIT_OPTIONS.values())


def test_every_refusal_has_a_counter_from_the_start() -> None:
    """Each refusal counted, under names that no peer can add to."""
    refusals = Refusals()
    refusals.count(Refusal.RATE_PEER, 3)
    assert refusals.as_dict() == {name.value: 3 * (name is Refusal.RATE_PEER) for name in Refusal}
    assert refusals[Refusal.RATE_PEER] == 3


def test_an_ordinary_client_never_notices_the_gate() -> None:
    """A wallet asks for the menu, buys, asks again next minute."""
    made, refusals = gate()
    answers = [made.request(HONEST, is_buy, minute * 60_000) for minute in range(60) for is_buy in (False, True, False)]
    assert set(answers) == {Admit.YES}
    assert sum(refusals.as_dict().values()) == 0


@pytest.mark.parametrize(("is_buy", "allowed"), [(False, (60, 120)), (True, (12, 24))])
def test_one_peer_gets_its_rate_and_few_answers_beyond(is_buy: bool, allowed: tuple[int, int]) -> None:
    """T-12 in spirit: a refusal costs an RPC call, so most refusals are silent."""
    made, refusals = gate()
    answers = [made.request("flood", is_buy, now_ms) for now_ms in range(0, 60_000, 10)]
    assert allowed[0] <= answers.count(Admit.YES) <= allowed[1]
    assert answers.count(Admit.REFUSE) <= 12
    assert refusals[Refusal.RATE_PEER] == len(answers) - answers.count(Admit.YES)


@pytest.mark.parametrize(("is_buy", "visit"), [(False, 3), (True, 1)])
@pytest.mark.slow
def test_a_crowd_does_not_lock_an_honest_peer_out(is_buy: bool, visit: int) -> None:
    """10,000 requests a second from 1,000 peers for 10 s; work is bounded, a visitor is served.

    A visit of a wallet: the protocols, the menu and perhaps once more, then one buy.
    """
    limits = GateLimits()
    made, refusals = gate()
    worked_on = told = 0
    for now_ms in range(10_000):
        for number in range(10):
            admitted = made.request(f"bot {(10 * now_ms + number) % 1_000}", is_buy, now_ms)
            worked_on += admitted is Admit.YES
            told += admitted is Admit.REFUSE
    total = limits.buys_total if is_buy else limits.info_total
    assert worked_on <= total / 60 * 4 / 3 * 11.2
    assert told <= 20 * 11
    assert worked_on + sum(refusals.as_dict().values()) == 100_000
    assert [made.request(HONEST, is_buy, 10_000) for _ in range(visit)] == [Admit.YES] * visit


def test_large_messages_are_read_seldom_and_small_ones_always() -> None:
    """T-36, rule:14: ten at once, ten a minute from one peer, twenty a second from all; an honest request is small."""
    made, refusals = gate()
    read = [made.message("flood", LARGE_BYTES + 1, now_ms) for now_ms in range(0, 60_000, 10)]
    assert read[:11] == [True] * 10 + [False]
    assert read.count(True) <= 20
    assert refusals[Refusal.LARGE_MESSAGE] == read.count(False)
    assert all(made.message("flood", LARGE_BYTES, 60_000) for _ in range(1_000))
    crowd = [made.message(f"bot {number}", 65_533, 60_000) for number in range(1_000)]
    assert crowd.count(True) == 100


@pytest.mark.parametrize(
    ("held_parts", "held_msat", "amount_msat", "allowed", "counted"),
    [
        (0, 0, 5_000, True, set()),
        (9, 0, 5_000, True, set()),
        (10, 0, 1, False, {"held_parts"}),
        (9, 3_000, 2_000, True, set()),
        (9, 3_001, 2_000, False, {"held_sats"}),
    ],
)
def test_held_parts_and_their_sum_are_bounded(
    held_parts: int, held_msat: int, amount_msat: int, allowed: bool, counted: set[str]
) -> None:
    """Held parts and sats at risk."""
    made, refusals = gate(held_parts=10, held_sat=5)
    assert made.part(held_parts, held_msat, amount_msat) is allowed
    assert {name for name, count in refusals.as_dict().items() if count} == counted
