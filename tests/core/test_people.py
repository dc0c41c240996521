"""Deliberate acts of payers, clients and strangers, one sale each: rule:18 to rule:26 in the core, in both runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from harness.scene import (
    CHANNEL,
    CLIENT,
    CLTV,
    DELTA,
    FEE,
    FUNDING,
    HASH,
    HEIGHT,
    LIMITS,
    OTHER_HASH,
    PREIMAGE,
    PUBLIC,
    RUNS,
    SCID,
    SECOND_CHANNEL,
    SIZE,
    TERMS,
    UPSTREAM,
    VARIABLE,
    WALL_MS,
    Machine,
    Scene,
    both_modes,
    failed,
    kinds,
)
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from lsps2fast import actions as order
from lsps2fast.actions import TEMPORARY, UNKNOWN_NEXT_PEER
from lsps2fast.table import Input, State

Play = partial[Scene]
STRANGER = 800_000  # incoming channels from here on are a stranger's
MACHINES = [Machine.load(name) for name in RUNS]

# The fee (rule:20) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", both_modes())
def test_a_client_that_takes_only_the_part_without_the_fee_has_not_paid(scene: Play, terms: dict[str, Any]) -> None:
    """people:S3, rule:20: fee + 1 msat and the rest; the first is failed, the second taken: its share came, no more."""
    play = scene(**terms)
    play.forward(FEE + 1, SIZE - FEE - 1)
    play.resolved(0)
    play.resolved(1, PREIMAGE)
    play.walk("sent") if terms == {} else None
    share = FEE * (SIZE - FEE - 1) // SIZE
    reset = play.of(order.Reset)[-1]
    assert play.state is State.UNDERPAID
    assert (reset.outcome, reset.record.stage, reset.record.channel) == ("Underpaid", "channel", CHANNEL)
    assert reset.record.fee_paid_msat in (share, share + 1)
    assert reset.record.opening_fee_msat == FEE - reset.record.fee_paid_msat
    assert play.of(order.Finalize) == []
    assert [fees.zero_until_ms for fees in play.of(order.RestoreFees)] == [0]  # no alias at a fee of zero
    assert not play.buy.paid


def test_what_is_owed_is_taken_from_the_next_payment(scene: Play) -> None:
    """rule:20, O-13: over the same channel; then the promises hold, and the final record says what came in all."""
    play = scene()
    play.forward(SIZE // 4, SIZE * 3 // 4)
    play.walk("lost settled2 sent")
    assert play.buy.owed_msat == FEE // 4
    play.part()
    play.walk("sent ready")
    (forwards,) = play.walk("stored")
    assert [part.extra_fee_msat for part in forwards.parts] == [FEE // 4]
    final, fees = play.resolved(2, PREIMAGE)
    assert (final.outcome, final.record.fee_paid_msat, play.buy.owed_msat) == ("Succeeded", FEE, 0)
    assert fees.zero_until_ms == TERMS.valid_until_ms


def test_what_is_owed_is_known_after_a_start(scene: Play) -> None:
    """rule:20, K-09: the record of a buy that was paid in part."""
    play = scene()
    play.forward(SIZE // 4, SIZE * 3 // 4)
    play.walk("lost settled2 sent")
    again = scene()
    assert again.core.restore(SCID, play.of(order.Reset)[-1].record, True) is None
    assert (again.buy.owed_msat, again.buy.fee_paid_msat) == (FEE // 4, FEE * 3 // 4)


CRUMB = SIZE // 20


def _crumbed(scene: Play, terms: dict[str, Any]) -> Scene:
    """A whole payment, and a stranger's part that its client refuses; the parts are at the client."""
    play = scene(**terms)
    play.part(CRUMB, in_scid=STRANGER, htlc_id=7)
    play.part()
    play.walk(
        "reserved stored funded ready stored" if terms == {} else "reserved stored funded stored sent ready stored"
    )
    play.resolved(7, in_scid=STRANGER)
    return play


def test_what_is_owed_is_still_known_after_a_start_in_the_middle_of_the_next_payment(scene: Play) -> None:
    """rule:20, F-05, K-09: that payment comes to nothing; the one after it pays the rest, not the whole fee again."""
    play = scene(**PUBLIC)
    play.forward(SIZE // 4, SIZE * 3 // 4)
    play.walk("lost settled2")
    play.part()
    play.walk("sent ready stored")
    again = scene(**PUBLIC)
    again.core.restore(SCID, play.of(order.Persist)[-1].record, True)
    again.note(again.core.resolve_from_tables((UPSTREAM, 2), False))
    assert again.of(order.Reset)[-1].record.opening_fee_msat == FEE // 4
    assert (again.buy.owed_msat, again.buy.fee_paid_msat) == (FEE // 4, FEE * 3 // 4)


@pytest.mark.parametrize("terms", both_modes())
def test_promises_hold_where_the_client_took_all_that_was_bought(scene: Play, terms: dict[str, Any]) -> None:
    """rule:22, rule:20: a stranger's crumb failed, a rest of the fee is missing: written, and the alias stays."""
    play = _crumbed(scene, terms)
    play.resolved(0, PREIMAGE)
    play.walk("sent") if terms == {} else None
    missing = FEE - FEE * SIZE // (SIZE + CRUMB)
    assert (play.state, play.buy.took_whole, play.buy.paid, play.buy.owed_msat) == (
        State.UNDERPAID,
        True,
        True,
        missing,
    )
    (final,), (fees,) = play.of(order.Finalize), play.of(order.RestoreFees)
    assert (final.outcome, final.record.stage) == ("Underpaid", "paid")
    assert (final.record.opening_fee_msat, final.record.fee_paid_msat) == (FEE, FEE - missing)
    assert fees.zero_until_ms == TERMS.valid_until_ms
    assert play.of(order.Reset) == []
    (forwards,) = play.part(5_000)
    assert forwards.parts == (order.Forward(UPSTREAM, 1, 5_000, 0),)
    assert play.core.take_changes()[-1][3:] == (State.UNDERPAID, FEE, FEE - missing, False)


def test_a_set_that_waits_is_let_go_with_such_a_payment(scene: Play) -> None:
    """rule:22, A-03: as when the whole fee came."""
    play = scene()
    play.part(SIZE // 2, payment_hash=OTHER_HASH)
    play.part(CRUMB, in_scid=STRANGER, htlc_id=7)
    play.part()
    play.walk("reserved stored funded ready stored")
    play.resolved(7, in_scid=STRANGER)
    play.resolved(1, PREIMAGE)
    *_, forwards = play.walk("sent")
    assert forwards.payment_hash == OTHER_HASH


def test_a_client_that_took_less_than_it_bought_has_no_promises(scene: Play) -> None:
    """rule:20, people:S3: one msat less than the size is no whole payment."""
    play = scene()
    play.forward(CRUMB + 1, SIZE - 1)
    play.walk("lost settled2 sent")
    assert (play.state, play.buy.took_whole, play.buy.paid) == (State.UNDERPAID, False, False)


def test_a_client_whose_floor_lays_the_fee_on_one_part_evades_it_itself(scene: Play) -> None:
    """people:S3, rule:22: twenty parts at its smallest HTLC carry nothing; taking them is no whole payment."""
    play = scene()
    floor = SIZE // 20
    play.forward(2 * floor, *[floor] * 20, limits=replace(LIMITS, htlc_minimum_msat=floor))
    play.resolved(0)
    for number in range(1, 21):
        play.resolved(number, PREIMAGE)
    play.walk("sent")
    assert play.session.fee_paid_msat == 0
    assert (play.state, play.buy.took_whole, play.buy.paid) == (State.UNDERPAID, False, False)


@pytest.mark.parametrize("run", RUNS)
@given(
    st.lists(st.integers(1, SIZE), min_size=2, max_size=12),
    st.integers(1, SIZE // 4),
    st.sets(st.integers(0, 11)),
    st.integers(0, FEE * 20),
)
def test_promises_never_cost_more_of_the_fee_than_the_tolerance(
    run: str, values: list[int], floor: int, refused: set[int], fee: int
) -> None:
    """people:S3, rule:20, rule:22: whatever the split, the floor and what is refused: fee * size / most comes."""
    play = Scene(Machine.load(run), min_fee_msat=fee, limits={"overpay_ppm": 100_000})
    for value in values:
        play.part(value)
    if not play.of(order.ReserveCoins):
        return
    play.serve(replace(LIMITS, htlc_minimum_msat=floor))
    out = [part.htlc_id for sent in play.of(order.ForwardParts) for part in sent.parts]
    for number in out:
        play.resolved(number, None if number in refused else PREIMAGE)
    play.serve()
    if play.buy.paid and play.state is State.UNDERPAID:
        taken = len([number for number in out if number not in refused])
        assert (play.buy.fee_paid_msat + taken) * 11 >= fee * 10


def test_a_part_that_is_paid_after_it_was_lost_does_not_make_the_next_one_negative(scene: Play) -> None:
    """people:S10, H-06: the fee was taken once more by a late part; then nothing more is taken, nothing wraps."""
    play = scene()
    play.forward(500_000, 500_000)
    play.resolved(0)
    play.part(300_000)
    play.walk("stored")
    play.resolved(0, PREIMAGE)
    play.part(300_000)
    (late,) = play.walk("stored")
    assert late.parts == (order.Forward(UPSTREAM, 3, 300_000, 0),)


# Limits on what is put in (rule:18) ----------------------------------------------------------------------------


def test_a_payment_far_above_what_was_bought_opens_nothing(scene: Play) -> None:
    """people:S1, rule:18, H-06: twice the size is the most, exactly; one msat more fails alone, for now."""
    play = scene()
    assert play.part(2 * SIZE + 1) == (failed([0]),)
    assert play.core.live == 0
    assert play.part(2 * SIZE) == (order.ReserveCoins(SCID, HASH, 2 * SIZE - FEE, 1),)


def test_a_sum_never_passes_the_largest_payment_of_the_offer(scene: Play) -> None:
    """people:S1, rule:18: however it comes, while it collects, while the channel is made, and after."""
    play = scene(max_payment_size_msat=SIZE + 50_000)
    play.part(SIZE - 1)
    assert play.part(50_002) == (failed([1]),)
    assert kinds(play.part(50_001)) == ["ReserveCoins"]
    assert play.part(1) == (failed([3]),)
    play.walk("reserved stored funded ready stored")
    assert play.part(1) == (failed([4]),)


def test_without_a_size_the_largest_payment_is_the_most(scene: Play) -> None:
    """people:S2, C-23, rule:18."""
    play = scene(**VARIABLE, max_payment_size_msat=SIZE)
    assert play.part(SIZE + 1) == (failed([0], UNKNOWN_NEXT_PEER),)
    assert kinds(play.part(SIZE)) == ["ReserveCoins"]


def test_a_crumb_does_not_push_a_real_part_out_of_a_full_sum(scene: Play) -> None:
    """people:L3, rule:18, rule:24: where nothing may be paid on top, the stranger's msat gives way."""
    play = scene(max_payment_size_msat=SIZE)
    assert play.part(1, in_scid=STRANGER, htlc_id=0) == ()
    gives_way, reserve = play.part(SIZE)
    assert gives_way == order.FailParts(((STRANGER, 0),), TEMPORARY)
    assert reserve == order.ReserveCoins(SCID, HASH, SIZE - FEE, 1)


def test_a_large_part_of_a_stranger_pushes_no_real_part_out(scene: Play) -> None:
    """people:L3, rule:18, rule:24: only crumbs give way for the sum; what would lift it further fails alone."""
    play = scene(max_payment_size_msat=SIZE + 10)
    for _ in range(4):
        play.part(SIZE // 5)
    assert play.part(SIZE - 1, in_scid=STRANGER, htlc_id=0) == (failed([0], in_scid=STRANGER),)
    assert kinds(play.part(SIZE // 5)) == ["ReserveCoins"]


@pytest.mark.parametrize(("ahead", "failure"), [(6, "100e0000"), (7, None), (1_000, None), (1_001, "0015")])
def test_an_expiry_too_near_or_too_far_is_refused_before_anything_is_opened(
    scene: Play, ahead: int, failure: str | None
) -> None:
    """people:S18, people:S11, C-04: nearer than a client takes it, or longer than our coins may be bound."""
    play = scene(limits={"max_hold_blocks": 1_000})
    actions = play.part(cltv=HEIGHT + ahead + DELTA, outgoing=HEIGHT + ahead)
    assert (actions == (failed([0], failure),)) if failure else (kinds(actions) == ["ReserveCoins"])


@pytest.mark.parametrize(
    "road", ["", "part reserved stored funded ready stored", "part reserved stored funded ready stored settled sent"]
)
def test_an_onion_that_asks_for_more_than_was_delivered_is_refused(scene: Play, road: str) -> None:
    """trap:51: on a first part, a late part and over the alias."""
    play = scene()
    play.walk(road)
    play.count = 50
    assert play.part(SIZE, amount_msat=SIZE - 1) == (failed([50], f"100c{SIZE - 1:016x}0000"),)


# Shares of the pot (rule:24) -------------------------------------------------------------------------------------


def test_thirty_crumbs_do_not_keep_the_real_part_out(scene: Play) -> None:
    """people:L3, rule:24: with the invoice's own hash; the smallest gives way."""
    play = scene()
    for number in range(30):
        assert play.part(1, in_scid=STRANGER + number) == ()
    gives_way, reserve = play.part()
    assert gives_way == order.FailParts(((STRANGER, 0),), TEMPORARY)
    assert isinstance(reserve, order.ReserveCoins)


def test_a_crumb_too_many_fails_alone_beside_a_real_part(scene: Play) -> None:
    """people:L3, rule:24: it does not end a payment of which a real part is there."""
    play = scene()
    play.part(SIZE // 2)
    for _ in range(29):
        play.part(1)
    assert play.part(1) == (failed([30]),)
    assert kinds(play.part(SIZE // 2)) == ["FailParts", "ReserveCoins"]


def test_what_is_left_of_a_payment_with_too_many_parts_fails_with_it(scene: Play) -> None:
    """people:L7, C-10: sixty at once: none starts a set that would spoil the next try, which has larger parts."""
    play = scene()
    for _ in range(30):
        assert play.part(SIZE // 60) == ()
    assert play.part(SIZE // 60) == (failed(list(range(31))),)
    for number in range(31, 60):
        assert play.part(SIZE // 60) == (failed([number]),)
    assert play.core.live == 0
    assert len(play.forward(SIZE // 2, SIZE // 2).parts) == 2


def test_stragglers_are_welcome_again_after_the_collect_time_out(scene: Play) -> None:
    """people:L7, C-06: the memory ends with the time that the set would have had."""
    play = scene()
    for _ in range(31):
        play.part(SIZE // 60)
    play.wait(90_000)
    assert play.part(SIZE // 60) == ()


def _node(machine: Machine, **limits: int) -> Any:
    core = machine.sessions.Sessions(**limits)
    core.block(HEIGHT)
    return core


def _sell(core: Any, scid: int, peer_id: str) -> None:
    core.add_buy(scid, peer_id, TERMS)
    core.peer(peer_id, True)


def _send(machine: Machine, core: Any, scid: int, payment_hash: bytes, key: tuple[int, int], value: int) -> Any:
    return core.part(machine.htlc(scid, payment_hash, key, value, CLTV), 0, WALL_MS)


def test_crumbs_on_a_hundred_scids_keep_no_real_payment_from_its_sale(machine: Machine) -> None:
    """people:L4, rule:24: a hundred buys of as many identities, all they may hold; each honest sale goes through."""
    core = _node(machine, max_held_parts=500)
    sent = 0
    for scid in range(100):
        _sell(core, scid, f"{scid:066x}")
        for number in range(90):
            payment_hash = bytes([scid, number // 30]) * 16
            _send(machine, core, scid, payment_hash, (STRANGER + number, sent), 1)
            sent += 1
    assert core.held_parts == 500
    for scid in range(1_000, 1_020):
        _sell(core, scid, f"{scid:066x}")
        for number in range(10):
            actions = _send(machine, core, scid, HASH, (UPSTREAM + scid, number), SIZE // 10)
            assert all(key[0] >= STRANGER for action in actions[:-1] for key in action.parts)
        assert isinstance(actions[-1], order.ReserveCoins)
    assert core.held_parts <= 500


@pytest.mark.parametrize(
    ("limits", "honest"),
    [
        ({"max_held_parts_per_buy": 30}, SCID),
        ({"max_held_parts_per_peer": 30}, SCID + 1),
        ({"max_held_parts": 30}, SCID + 2),
    ],
)
def test_in_each_pot_the_smallest_gives_way_and_an_equal_one_does_not(
    machine: Machine, limits: dict[str, int], honest: int
) -> None:
    """rule:24: of a buy, a client, the node; a set that is left empty ends."""
    core = _node(machine, **limits)
    _sell(core, SCID, CLIENT)
    _sell(core, SCID + 1, CLIENT)
    _sell(core, SCID + 2, "02" + "33" * 32)
    for number in range(30):
        assert _send(machine, core, SCID, HASH if number else OTHER_HASH, (UPSTREAM, number), 10 + number) == ()
    assert _send(machine, core, honest, b"\x09" * 32, (UPSTREAM, 50), 10) == (failed([50]),)
    assert _send(machine, core, honest, b"\x09" * 32, (UPSTREAM, 51), 11) == (failed([0]),)
    assert OTHER_HASH not in core.buys[SCID].sets
    assert (core.held_parts, (UPSTREAM, 51) in core.index, (UPSTREAM, 0) in core.index) == (30, True, False)


def test_a_pot_of_msat_has_shares_too(machine: Machine) -> None:
    """rule:24: small parts give way until a larger one fits; one that could not fit anyway moves nothing."""
    core = _node(machine, max_held_msat=SIZE)
    _sell(core, SCID, CLIENT)
    _sell(core, SCID + 1, "02" + "33" * 32)
    for number in range(10):
        assert _send(machine, core, SCID, HASH, (UPSTREAM, number), SIZE // 20) == ()
    assert _send(machine, core, SCID + 1, HASH, (UPSTREAM, 20), SIZE + 1) == (failed([20]),)
    assert core.held_msat == SIZE // 2
    actions = _send(machine, core, SCID + 1, HASH, (UPSTREAM, 21), SIZE * 3 // 5)
    assert [key[1] for action in actions for key in action.parts] == [0, 1]
    assert core.held_msat == SIZE


def test_what_is_held_beside_sales_is_in_the_pot_of_all(machine: Machine) -> None:
    """rule:24: parts and sats; what gives way is a sale's, and sales have the pot again once the others are gone."""
    core = _node(machine, max_held_parts=30, max_held_msat=SIZE)
    _sell(core, SCID, CLIENT)
    _sell(core, SCID + 1, "02" + "33" * 32)
    core.held_beside(28, SIZE // 2)
    assert (core.beside_parts, core.beside_msat) == (28, SIZE // 2)
    for number in range(2):
        assert _send(machine, core, SCID, HASH, (UPSTREAM, number), 10 + number) == ()
    assert _send(machine, core, SCID + 1, HASH, (UPSTREAM, 20), 9) == (failed([20]),)
    assert _send(machine, core, SCID + 1, HASH, (UPSTREAM, 21), SIZE // 2 + 1) == (failed([21]),)
    assert _send(machine, core, SCID + 1, HASH, (UPSTREAM, 22), SIZE // 3) == (failed([0]),)
    core.held_beside(0, 0)
    assert _send(machine, core, SCID + 1, HASH, (UPSTREAM, 23), SIZE // 2) == ()


def test_a_set_of_crumbs_gives_way_to_a_real_payment(scene: Play) -> None:
    """rule:24, C-10: three hashes of a stranger do not keep the fourth, the invoice's, away."""
    play = scene()
    for number in range(3):
        assert play.part(1, payment_hash=bytes([number]) * 32, in_scid=STRANGER + number) == ()
    gives_way, reserve = play.part()
    assert gives_way == order.FailParts(((STRANGER, 0),), TEMPORARY)
    assert isinstance(reserve, order.ReserveCoins)


# Never fund what is not ours (rule:23) ---------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [None, LIMITS])
def test_a_channel_that_is_gone_before_its_funding_was_sent_is_not_funded(scene: Play, limits: Any) -> None:
    """people:S0, rule:23: the executor looks and sends nothing; parts fail for now, coins come back, the buy stays."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored")
    play.tell(Input.FUNDED, order.Opened(CHANNEL, limits))
    assert kinds(play.walk("stored")) == ["Broadcast"]
    refused, alarm, undo = play.walk("vanished")
    assert (refused, undo) == (failed([0]), order.Undo(SCID, HASH, CHANNEL, FUNDING))
    assert "none of our coins go into it" in alarm.text
    (reset,) = play.walk("undone")
    assert (play.state, reset.outcome, play.buy.channel) == (State.ABANDONED, "Abandoned", None)
    assert kinds(play.part()) == ["ReserveCoins"]


def test_whether_it_was_sent_is_the_executors_to_say(scene: Play) -> None:
    """people:S0, rule:23: lightningd tells of the close first; until it is known nothing is undone or opened."""
    for answer, end in (("vanished undone", State.ABANDONED), ("sent", State.FAILED)):
        play = scene(**PUBLIC)
        play.walk("part reserved stored funded stored")
        assert kinds(play.walk("closed")) == ["FailParts", "Alarm"]
        assert play.state is State.ABORTING
        assert play.part() == (failed([1]),)
        play.walk(answer)
        assert play.state is end


@pytest.mark.parametrize("road", ["", "reserved", "reserved stored"])
def test_a_close_counts_while_the_channel_is_being_opened(scene: Play, road: str) -> None:
    """people:S0, rule:23, K-19: what the step under way makes is undone."""
    play = scene(**PUBLIC)
    play.walk("part " + road)
    assert kinds(play.walk("closed")) == ["FailParts", "Alarm"]
    assert play.state is State.ABORTING
    play.walk({"": "reserved", "reserved": "stored", "reserved stored": "funded"}[road])
    assert kinds((play.orders[-1],)) == ["Undo"]


def test_a_client_that_was_paid_and_gave_its_channel_up_gets_no_funding(scene: Play) -> None:
    """people:S7, people:S20, rule:23, K-12: claimed and errored in one burst: nothing is sent, the record says so."""
    play = scene()
    play.walk("part reserved stored funded ready stored")
    assert kinds(play.walk("settled")) == ["Broadcast"]
    alarm, undo = play.walk("vanished")
    assert ("none of our coins go into it" in alarm.text, kinds((undo,))) == (True, ["Undo"])
    final, forget = play.walk("undone")
    assert (final.outcome, final.record.preimage, forget.outcome) == ("Forfeited", PREIMAGE, "Forfeited")
    assert play.state is not State.SUCCEEDED
    assert play.core.buys == {}


def test_a_channel_that_holds_the_clients_money_is_put_on_chain_whatever_the_tables_say(scene: Play) -> None:
    """people:S9, rule:25: no event named the part, its scid has changed; the balance of the channel is enough."""
    play = scene()
    play.walk("part reserved stored funded ready stored")
    alarm, broadcast = play.walk("money")
    assert (kinds((alarm,)), broadcast) == (["Alarm"], order.Broadcast(SCID, HASH, CHANNEL))
    play.walk("sent")
    assert play.state is State.BROADCASTING
    final, _ = play.core.resolve_from_tables((UPSTREAM, 0), True)
    assert final.outcome == "Succeeded"


def test_a_part_is_the_same_under_every_name_of_its_channel(scene: Play) -> None:
    """people:S9, rule:25: known by the channel's id from its arrival on; a record without it knows its scid."""
    play = scene()
    play.part(SIZE // 2, in_channel="ab" * 32, in_scid=1, htlc_id=5)
    assert play.part(SIZE // 2, in_channel="ab" * 32, in_scid=2, htlc_id=5) == ()  # once more, its scid has changed
    assert play.session.sum_msat == SIZE // 2
    play.part(SIZE // 2)
    play.walk("reserved stored funded ready")
    record = play.of(order.Persist)[-1].record
    assert [(part.key, part.in_scid) for part in record.forwards] == [(("ab" * 32, 5), 1), ((UPSTREAM, 0), UPSTREAM)]
    old = replace(record, forwards=tuple(replace(part, in_channel="") for part in record.forwards))
    again = scene()
    again.core.restore(SCID, old, False)
    (answer,) = again.part(SIZE // 2, in_channel="ab" * 32, in_scid=1, htlc_id=5)
    assert answer.parts[0].key == ("ab" * 32, 5)
    assert again.core.index[1, 5].status == 1


def test_a_channel_that_cannot_carry_its_payment_is_closed_and_followed_by_another(scene: Play) -> None:
    """people:L9, A-07: unpaid and too small: temporary, closed, then another one is opened, one at a time."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent unready part sent")
    actions = play.tell(Input.READY, replace(LIMITS, spendable_msat=SIZE // 2))
    assert actions[0] == failed([1])
    assert order.CloseChannel(SCID, CHANNEL.channel_id) in actions
    play.note(play.core.channel_closed(CHANNEL.channel_id))
    assert kinds(play.part()) == ["ReserveCoins"]
    play.walk("reserved stored")
    play.tell(Input.FUNDED, order.Opened(SECOND_CHANNEL))
    assert list(play.buy.closing) == [CHANNEL.channel_id]


def test_the_alias_of_a_paid_channel_ends_with_it(scene: Play) -> None:
    """people:L9, A-03: 400a, never 1007 for ever."""
    play = scene()
    play.walk("part reserved stored funded ready stored settled sent")
    assert kinds(play.part(5_000, payment_hash=OTHER_HASH)) == ["ForwardParts"]
    play.core.channel_closed(CHANNEL.channel_id)
    assert play.part(5_000, payment_hash=OTHER_HASH) == (failed([2], UNKNOWN_NEXT_PEER),)


# What a stranger must tie up (rule:24) ---------------------------------------------------------------------------


def _stranger_and_payer(scene: Play, stranger: list[int], payer: list[int]) -> tuple[Scene, list[int]]:
    """The stranger's parts come first, then the payer's, before anything is answered; which of the payer's are in."""
    play = scene(limits={"overpay_ppm": 100_000})
    for number, value in enumerate(stranger):
        play.part(value, in_scid=STRANGER, htlc_id=number)
    for number, value in enumerate(payer):
        play.part(value, htlc_id=number)
    held = [part.key[1] for part in play.session.parts if part.key[0] == UPSTREAM and part.status == 0]
    return play, held


@given(
    stranger=st.lists(st.integers(1, SIZE // 10), max_size=29).filter(lambda parts: sum(parts) <= SIZE // 10),
    payer=st.integers(1, 10),
)
def test_parts_within_the_tolerance_keep_no_payment_away(stranger: list[int], payer: int) -> None:
    """people:L3, rule:24: however they are split, also where both together have more parts than may be held."""
    play, held = _stranger_and_payer(partial(Scene, MACHINES[0]), stranger, [-(-SIZE // payer)] * payer)
    assert held == list(range(payer))
    assert play.state is State.OPENING


@given(st.lists(st.integers(1, SIZE - 1), max_size=29).filter(lambda parts: sum(parts) < SIZE))
def test_nothing_keeps_a_payment_in_one_part_away(stranger: list[int]) -> None:
    """people:L3, rule:24: all that is in its way is smaller, and it is whole without."""
    play, held = _stranger_and_payer(partial(Scene, MACHINES[0]), stranger, [SIZE])
    assert held == [0]
    assert play.state is State.OPENING


@pytest.mark.parametrize(
    ("stranger", "payer", "let_in"),
    [
        ([SIZE // 10], [SIZE // 10] * 10, 10),
        ([SIZE // 10 + 1], [SIZE // 10] * 10, 9),
        ([SIZE * 3 // 5], [SIZE // 2] * 2, 1),
        ([SIZE * 3 // 5 + 1], [SIZE // 2] * 2, 0),
        ([SIZE // 2 - 1], [SIZE // 2] * 2, 2),
        ([SIZE * 11 // 40] * 2, [SIZE // 2] * 2, 2),
        ([SIZE * 2 // 5] * 2, [SIZE // 2] * 2, 0),
        ([SIZE - 1], [SIZE], 1),
    ],
)
def test_a_stranger_must_tie_up_more_than_the_tolerance(
    scene: Play, stranger: list[int], payer: list[int], let_in: int
) -> None:
    """people:L3, rule:24: the bound on the page, from both sides; and it is for one try: the offer stays."""
    play, held = _stranger_and_payer(scene, stranger, payer)
    assert len(held) == let_in
    assert sum(stranger) > SIZE // 10 or let_in == len(payer)
    assert SCID in play.core.buys


@pytest.mark.parametrize("restart", [False, True])
def test_payments_that_a_stranger_can_make_fail_use_no_offer_up(scene: Play, restart: bool) -> None:
    """people:L1, rule:22, C-16: with hashes of his own, again and again; the offer opens a channel for the payer's."""
    play = scene()
    for number in range(9):
        play.part(htlc_id=number)
        play.walk("reserved stored funded ready stored")
        if restart:
            record = play.of(order.Persist)[-1].record
            play = scene()
            play.core.restore(SCID, record, False)
            play.session = play.buy.holder
        play.resolved(number)
        play.tell(Input.UNDONE)
        assert play.of(order.Reset)[-1].record.attempts == play.buy.attempts == 0
    assert kinds(play.part(htlc_id=99)) == ["ReserveCoins"]


def test_a_payer_whose_channel_dies_uses_no_offer_up(scene: Play) -> None:
    """people:L1, rule:22, rule:19, C-16: before the coins are chosen nothing counts; later it is taken back."""
    for road in ("", "reserved stored funded"):
        play = scene()
        for number in range(6):
            play.part(htlc_id=number)
            play.walk(road)
            play.note(play.core.drop([(UPSTREAM, number)], "its channel leaves"))
            play.walk("undone" if road else "refused")
        assert (play.buy.attempts, kinds(play.part(htlc_id=99))) == (0, ["ReserveCoins"])


def test_a_part_that_brings_far_more_than_it_pays_is_not_held(scene: Play) -> None:
    """rule:24, people:L4: at most twice what it pays, and 1,000 sat, to the msat."""
    play = scene()
    assert play.part(5_000, amount_msat=1_010_001) == (failed([0]),)
    assert play.part(5_000, amount_msat=1_010_000) == ()
    assert play.core.refused["brings far more than it pays"] == 1


def test_a_buy_that_lapses_while_its_channel_closes_waits_for_the_money(scene: Play) -> None:
    """people:S17, rule:9: `Unpaid`, once a block has the close; not forgotten before."""
    play = scene(**PUBLIC)
    play.walk("part reserved stored funded stored sent unready")
    play.note(play.core.channel_closed(CHANNEL.channel_id))
    assert play.walk("expired") == ()
    assert list(play.core.buys) == [SCID]
    final, forget = play.core.money_back(CHANNEL.channel_id)
    assert (final.outcome, forget.outcome, play.core.buys) == ("Unpaid", "Unpaid", {})
