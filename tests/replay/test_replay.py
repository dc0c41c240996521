"""Recordings of a real lightningd, replayed to the service process: what it answers and calls against the rules.

The recordings were made with a prototype whose choices do not count here. Tables below say what the requirements ask
for the same hooks. `T` names the part table: (incoming scid, HTLC id, forwarded msat, fee msat) in order of arrival.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replay.checks import (
    ABANDONED,
    AT_ONCE,
    UNSEEN_SETTLE,
    Sale,
    assert_forwarded,
    assert_opened_as_asked,
    assert_order,
    assert_polite,
    assert_sold,
    calls,
    milestones,
)
from replay.played import ACTIVE, FINALIZED, Played, Script
from replay.player import play

pytestmark = pytest.mark.slow

SERVICE = (sys.executable, "-m", "lsps2fast_plugin.service.app")
L3, L4 = "103x1x0", "110x1x0"  # incoming channels of both payers
LET_GO = {"result": "continue"}
TEMPORARY = {"result": "fail", "failure_message": "10070000"}
UNKNOWN = {"result": "fail", "failure_message": "400a"}
LOOKS = {
    "getinfo",
    "listconfigs",
    "listdatastore",
    "listpeerchannels",
    "listpeers",
    "listfunds",
    "makesecret",
    "feerates",
}
COLLECT = (80, 15)  # seconds: still inside the 90 s of C-05, then past them
AWAY = (590, 15)  # seconds: inside what a complete set waits for its client (C-13), then past it
Replay = Callable[[Script], Played]


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    """Plays a script against the service, started as lightningd starts it."""
    return lambda script: play(script, SERVICE, tmp_path)


def answered_after(played: Played, call_id: str) -> list[str]:
    """Clock jumps and blocks that came before this hook was answered."""
    names = [(event.kind, event.name) for event in played.timeline]
    before = played.timeline[: names.index(("answer", call_id))]
    jumps = [event.name for event in before if event.kind == "advance" and event.name != "0"]
    return jumps + [str(event.detail["height"]) for event in before if event.name == "block_added"]


def replies(played: Played) -> list[dict[str, Any]]:
    """LSPS0 messages that left for a peer, in order."""
    return [json.loads(bytes.fromhex(params["msg"].removeprefix("9419"))) for params in played.node.messages]


def test_one_part_of_any_amount_is_sold_a_channel(replay: Replay) -> None:
    """Recording a. Variable mode: C-20, H-19; order O-01, O-11, O-17, O-21, K-02, H-16, K-15; H-08, H-12, H-13."""
    played = replay(Script(recording="a_single_var", finalized=("1x1x1",)))
    assert_sold(played, Sale(jit_scid="1x1x1", channel="daae486a", parts=((L3, 0, 9_000_000, 1_000_000),)))


def test_five_parts_pay_one_fee(replay: Replay) -> None:
    """Recording b. Fixed mode, H-04: each part pays its share, what remains falls to the first."""
    parts = (
        (L3, 1, 7_600_000, 2_400_000),
        (L3, 4, 7_600_000, 2_400_000),
        (L3, 3, 7_600_000, 2_400_000),
        (L3, 0, 7_600_000, 2_400_000),
        (L3, 2, 7_600_000, 2_400_000),
    )
    played = replay(Script(recording="b_mpp5", finalized=("1x2x3",)))
    assert_sold(played, Sale(jit_scid="1x2x3", channel="af34d6c7", parts=parts))


def test_five_parts_in_quick_succession(replay: Replay) -> None:
    """Recording b2. As b, nothing between the steps; H-09: parts without fee carry no extra_fee."""
    parts = (
        (L3, 1, 7_600_000, 2_400_000),
        (L3, 3, 7_600_000, 2_400_000),
        (L3, 4, 7_600_000, 2_400_000),
        (L3, 0, 7_600_000, 2_400_000),
        (L3, 2, 7_600_000, 2_400_000),
    )
    played = replay(Script(recording="b2_mpp5_fast", finalized=("1x2x3",)))
    assert_sold(played, Sale(jit_scid="1x2x3", channel="4832ff21", parts=parts))


def test_five_parts_whatever_the_client_answers_with(replay: Replay) -> None:
    """Recording b3. The client's invoice_msat (cln:C2) makes no difference for the LSP: H-04, H-06."""
    parts = (
        (L3, 1, 7_600_000, 2_400_000),
        (L3, 4, 7_600_000, 2_400_000),
        (L3, 2, 7_600_000, 2_400_000),
        (L3, 0, 7_600_000, 2_400_000),
        (L3, 3, 7_600_000, 2_400_000),
    )
    played = replay(Script(recording="b3_mpp5_invoice_msat", finalized=("1x2x3",)))
    assert_sold(played, Sale(jit_scid="1x2x3", channel="10c643e9", parts=parts))


def test_parts_of_two_channels_with_the_same_htlc_id(replay: Replay) -> None:
    """Recording c. C-03, cln:H3, rule:3: both parts are HTLC 0 of their channel."""
    parts = ((L3, 0, 4_000_000, 1_000_000), (L4, 0, 4_000_000, 1_000_000))
    played = replay(Script(recording="c_two_upstream", finalized=("9x9x9",)))
    assert_sold(played, Sale(jit_scid="9x9x9", channel="d2661551", parts=parts))


def test_ordinary_forwards_are_let_go(replay: Replay) -> None:
    """Recording d. C-01: forwards to real channels and a payment to the node itself get a bare continue."""
    played = replay(Script(recording="d_ordinary_forward"))
    assert_polite(played)
    assert played.answers == {(L3, 0): LET_GO, (L3, 1): LET_GO, (L3, 2): LET_GO}
    assert calls(played, "datastore") + calls(played, "utxopsbt") == []


# Recording e: one part of 10,000,000 msat on each of 16 jit scids (1,000,000 on the first), and what was bought there.
FIXED = {"expected_payment_size": "30000000"}
BOUGHT: dict[str, dict[str, Any] | None] = {
    "5x5x5": {},  # 1,000,000 of 10,000,000
    "6x1x1": {"opening_fee_params": {"min_fee_msat": "10000000"}},
    "6x2x1": {"opening_fee_params": {"min_fee_msat": "10000001"}},
    "6x3x1": {"opening_fee_params": {"proportional": 4_294_967_295}},
    "6x4x1": {"opening_fee_params": {"min_payment_size_msat": "10000001"}},
    "6x5x1": {"opening_fee_params": {"max_payment_size_msat": "9999999"}},
    "6x6x1": {"expected_payment_size": "10000001"},
    "6x7x1": {"expected_payment_size": "20000000"},
    "6x8x1": {"opening_fee_params": {"min_fee_msat": "9999999"}},
    "6x9x1": {},
    "6x10x1": None,
    **dict.fromkeys(("6x11x1", "6x12x1", "6x13x1", "6x14x1", "6x15x1"), FIXED),
}
# By HTLC id: 1 to 5 cannot pay the fee or are outside the offer; 8 and 9 can, but the wallet is empty (O-09).
REFUSED = {0: TEMPORARY, **dict.fromkeys(range(1, 6), UNKNOWN), **dict.fromkeys(range(6, 16), TEMPORARY), 10: LET_GO}
AT_ONCE_CALLS = ("110", "115", "120", "126", "131", "156")
TIMED_OUT_CALLS = ("101", "136", "141", "161", "167", "172", "177", "182")


def test_each_refusal_has_its_code(replay: Replay) -> None:
    """Recording e. C-05, C-06, C-19, C-21 to C-23, C-27, O-09: permanent only where bLIP-52 asks for it."""
    played = replay(Script(recording="e_fail_codes", records=BOUGHT, advance_s=COLLECT))
    assert_polite(played)
    assert {htlc_id: answer for (_, htlc_id), answer in played.answers.items()} == REFUSED
    at_once = {call: answered_after(played, f"cln:htlc_accepted#{call}") for call in AT_ONCE_CALLS}
    assert at_once == {call: ["109"] for call in AT_ONCE_CALLS}
    timed_out = {call: answered_after(played, f"cln:htlc_accepted#{call}") for call in TIMED_OUT_CALLS}
    assert timed_out == {call: ["80", "15", "109"] for call in TIMED_OUT_CALLS}
    still_sold = {row["key"][-1] for row in played.node.datastore.list({"key": list(ACTIVE)})["datastore"]}
    assert still_sold == BOUGHT.keys() - {"6x10x1"}


def test_an_unknown_scid_is_left_to_lightningd(replay: Replay) -> None:
    """Recording f. C-01, cln:H10: not a jit scid of ours, so a bare continue, whatever lightningd then does."""
    played = replay(Script(recording="f_unknown_next_peer", records={"7x7x8": None, "7x7x9": None}))
    assert_polite(played)
    assert played.answers == {(L3, 0): LET_GO, (L3, 1): LET_GO, (L3, 2): LET_GO}


def test_a_client_that_rejects_and_one_that_is_away(replay: Replay) -> None:
    """Recording g. O-08: an `error` from the client is 400a; C-13: an absent client is waited for, then 10070000."""
    rejected = frozenset({"cln:htlc_accepted#99"})
    played = replay(Script(recording="g_open_rejected", first=rejected, advance_s=AWAY, reopened=("8x1x1", "8x9x9")))
    assert_polite(played)
    assert played.answers == {(L3, 0): UNKNOWN, (L3, 1): TEMPORARY}
    assert len(calls(played, "fundchannel_start")) == 1
    assert played.node.reserved == {}


def test_an_empty_wallet_fails_temporarily(replay: Replay) -> None:
    """Recording h. O-09, O-20, rule:6: our own trouble is retryable, nothing stays reserved, the offer stands."""
    played = replay(Script(recording="h_no_funds", reopened=("8x1x1",)))
    assert_polite(played)
    assert played.answers == {(L3, 0): TEMPORARY}
    assert played.node.reserved == {}
    assert calls(played, "fundchannel_complete") == []


def test_parts_held_at_a_crash_are_replayed_and_paid(replay: Replay) -> None:
    """Recording i. K-07, cln:R1, cln:R2, cln:R5, trap:14: three held parts come again after the restart, a fourth
    completes them.
    """
    parts = (
        (L3, 1, 4_500_000, 500_000),
        (L4, 0, 4_500_000, 500_000),
        (L3, 0, 4_500_000, 500_000),
        (L3, 2, 4_500_000, 500_000),
    )
    played = replay(Script(recording="i_restart", finalized=("4x4x4",)))
    assert_sold(played, Sale(jit_scid="4x4x4", channel="989eee18", parts=parts))


def test_parts_held_at_a_stop_are_replayed_and_paid(replay: Replay) -> None:
    """Recording i2. cln:W12, rule:17: failed temporarily on the way out; cln:R5: replayed. C-13: opened once the client
    is there, which is kept away in the first life as the prototype's `hold` did."""
    parts = ((L3, 1, 9_500_000, 500_000), (L3, 0, 9_500_000, 500_000))
    played = replay(Script(recording="i2_restart_clean_stop", away=frozenset({0}), finalized=("4x4x5",)))
    sale = Sale(jit_scid="4x4x5", channel="04189fdc", parts=parts)
    assert_sold(played, sale)
    assert milestones(played, sale)[:2] == ["fail", "fail"]


def test_a_stopped_plugin_fails_what_it_holds(replay: Replay) -> None:
    """Recording i3. cln:W12, rule:17, trap:50: 10070000 before it ends, on `plugin stop` and at the end of its
    input.
    """
    played = replay(Script(recording="i3_plugin_stop", held_at_end=True))
    assert_polite(played)
    assert played.answers == {(L3, 0): TEMPORARY, (L3, 1): TEMPORARY}
    assert played.node.datastore.get(*ACTIVE, "4x4x6")["expected_payment_size"] == "20000000"


def test_other_peoples_payments_go_on_while_a_part_is_held(replay: Replay) -> None:
    """Recording i4. cln:H13, C-05, P6: another plugin comes to the hook, lightningd defers it; payments of the node are
    let go before the held part has its answer, which is the time-out's."""
    played = replay(Script(recording="i4_plugin_deferred_hook", advance_s=COLLECT, reopened=("4x4x7",)))
    assert_polite(played)
    assert played.answers == {(L3, 0): TEMPORARY, (L3, 1): LET_GO, (L3, 2): LET_GO}
    assert played.names("answer")[-1] == "cln:htlc_accepted#100"
    assert answered_after(played, "cln:htlc_accepted#100") == ["80", "15", "109"]


def test_a_part_that_nobody_bought_keeps_no_plugin_waiting(replay: Replay) -> None:
    """Recording i6, of a scid that was not sold. X-16, cln:H13: let go at once, so lightningd has nothing to defer for
    the other plugin; what becomes of it is nothing of ours."""
    played = replay(Script(recording="i6_deferred_then_continue", records={"4x4x9": None}))
    assert_polite(played)
    assert played.answers == {(L3, 0): LET_GO, (L3, 1): LET_GO, (L3, 2): LET_GO}
    assert {event.name for event in played.timeline if event.kind == "call"} <= LOOKS


def test_a_part_that_cannot_pay_the_fee_is_refused_in_every_life(replay: Replay) -> None:
    """Recording i5. C-22, X-16, cln:W11: over two starts of the plugin and one of lightningd the hook is called as
    before; the offer stands and its journal is not written."""
    answered = frozenset(f"cln:htlc_accepted#{number}" for number in (99, 105, 109, 84))
    played = replay(Script(recording="i5_hook_dead_after_fail", first=answered, reopened=("4x4x8",)))
    assert_polite(played)
    assert len(played.exit_codes) == 4
    assert played.answers == {(L3, number): UNKNOWN for number in range(4)}
    assert calls(played, "datastore") + calls(played, "deldatastore") == []


def test_a_settle_after_a_crash_is_broadcast(replay: Replay) -> None:
    """Recording i7. K-09, K-12, cln:R3: forwarded before the crash, settled after it."""
    parts = ((L3, 0, 9_500_000, 500_000), (L3, 1, 9_500_000, 500_000))
    played = replay(Script(recording="i7_restart_while_forwarded", finalized=("4x5x5",)))
    assert_sold(played, Sale(jit_scid="4x5x5", channel="3c9039fd", parts=parts))


def test_a_settle_nobody_told_us_of_is_broadcast(replay: Replay) -> None:
    """Recording i8. cln:F4, K-09: both forwards settled while the plugin was stopped; only the tables show it."""
    parts = ((L3, 0, 9_500_000, 500_000), (L3, 1, 9_500_000, 500_000))
    played = replay(Script(recording="i8_restart_settled_while_plugin_down", finalized=("4x5x6",)))
    assert_sold(played, Sale(jit_scid="4x5x6", channel="85aaffa3", parts=parts), UNSEEN_SETTLE)


def test_a_channel_whose_parts_all_failed_is_given_back(replay: Replay) -> None:
    """Recording j. K-10, K-14, C-28, rule:9: closed, coins free, never broadcast; rule:6: the offer stands."""
    parts = ((L3, 1, 9_000_000, 1_000_000), (L3, 0, 9_000_000, 1_000_000))
    script = Script(recording="j_client_fails", stop_before="cln:htlc_accepted#112", reopened=("3x3x3",))
    played = replay(script)
    sale = Sale(jit_scid="3x3x3", channel="f849fe02", parts=parts)
    assert_polite(played)
    assert_forwarded(played, sale)
    assert_order(played, sale, ABANDONED)
    assert calls(played, "sendpsbt") == []
    assert played.node.reserved == {}


@pytest.mark.parametrize("recording", ["k_abandon", "o1_reserve_expiry"])
def test_withheld_channels_that_the_operator_made_by_hand_are_left_alone(replay: Replay, recording: str) -> None:
    """Recordings k and o1. K-11, cln:A1, cln:O1, rule:9: opened, cancelled, closed, 73 blocks over their reservation:
    none of it is ours to undo, to renew or to send."""
    played = replay(Script(recording=recording))
    assert_polite(played)
    assert {event.name for event in played.timeline if event.kind == "call"} <= LOOKS


def test_a_channel_closed_with_parts_in_flight_is_not_paid_for(replay: Replay) -> None:
    """Recording k2. cln:A3, K-13, K-14: the operator closed it, lightningd failed the parts without a notification."""
    parts = ((L3, 0, 9_500_000, 500_000), (L3, 1, 9_500_000, 500_000))
    played = replay(Script(recording="k2_close_with_htlcs", reopened=("2x2x3",)))
    sale = Sale(jit_scid="2x2x3", channel="feed8cb4", parts=parts)
    assert_polite(played)
    assert_forwarded(played, sale)
    assert calls(played, "sendpsbt") + calls(played, "close") == []
    assert played.node.reserved == {}


def test_a_client_that_need_not_trust_sees_the_funding_first(replay: Replay) -> None:
    """Recording l. O-10, O-12: broadcast before the first answer; cln:O7: the settled event names the
    confirmed scid."""
    sold = {"lsps2fast": {"version": 1, "client_trusts_lsp": False}}
    parts = ((L3, 0, 9_000_000, 1_000_000),)
    played = replay(Script(recording="l_lsp_trusts_client", records={"1x9x9": sold}, finalized=("1x9x9",)))
    assert_sold(played, Sale(jit_scid="1x9x9", channel="7ee9574e", parts=parts), AT_ONCE)


def test_messages_of_a_peer_are_answered_one_by_one(replay: Replay) -> None:
    """Recording m. T-02, T-10, T-11, T-13, T-34, T-37: a list, an unknown method, two bad messages, 100 lists."""
    options = {"lsps2-cltv-delta": 48, "lsps2-max-info-per-peer": 600}
    played = replay(Script(recording="m_lsps0", messages_before_disconnect=104, options=options))
    bad = {"jsonrpc": "2.0", "id": None, "code": -32700}
    sent = [reply | {"code": reply.pop("error")["code"]} if "error" in reply else reply for reply in replies(played)]
    lists = [
        {"jsonrpc": "2.0", "id": name, "result": {"protocols": [2]}} for name in ("a1", *(f"b{n}" for n in range(100)))
    ]
    assert_polite(played)
    assert all(event.detail == LET_GO for event in played.timeline if event.kind == "answer")
    assert sorted(sent, key=str) == sorted([*lists, {"jsonrpc": "2.0", "id": "a2", "code": -32601}, bad, bad], key=str)
    asker = {event.detail["peer_id"] for event in played.timeline if event.kind == "hook"}
    assert {params["node_id"] for params in played.node.messages} == asker


def test_two_parts_of_a_payment_that_was_watched(replay: Replay) -> None:
    """Recording n. As b with two parts; cln:F6: the rows of both forwards keep the alias."""
    parts = ((L3, 1, 9_500_000, 500_000), (L3, 0, 9_500_000, 500_000))
    played = replay(Script(recording="n_wait", finalized=("1x3x5",)))
    assert_sold(played, Sale(jit_scid="1x3x5", channel="457f4c1b", parts=parts))


def test_one_part_lost_at_once_and_one_later(replay: Replay) -> None:
    """Recording p. The LSP charges 1000 msat + 10 ppm: fees are put to 0 first (cln:H6, O-17, rule:13). Both parts fail
    all the same, one locally: K-10, not over before the second; then given back (rule:9), the offer stands."""
    parts = ((L3, 1, 9_500_000, 500_000), (L3, 0, 9_500_000, 500_000))
    played = replay(Script(recording="p_zero_fee_part_and_lsp_fees", fees=(1000, 10), reopened=("1x4x4",)))
    sale = Sale(jit_scid="1x4x4", channel="534472eb", parts=parts)
    assert_polite(played)
    assert_forwarded(played, sale)
    assert_order(played, sale, ABANDONED.replace("failed", "local_failed failed"))
    assert_opened_as_asked(played, sale)
    assert calls(played, "sendpsbt") == []


def test_an_lsp_that_charges_for_routing_sells_too(replay: Replay) -> None:
    """Recording p2. cln:H6, O-17, A-02, rule:13: 0/0 before the answers, the operator's 1000 + 10 ppm after the
    settle.
    """
    parts = ((L3, 1, 9_500_000, 500_000), (L3, 0, 9_500_000, 500_000))
    script = Script(recording="p2_setchannel_zero_fee", fees=(1000, 10), finalized=("1x4x5",), called={"setchannel": 2})
    played = replay(script)
    sale = Sale(jit_scid="1x4x5", channel="e4e251d0", parts=parts)
    assert_sold(played, sale)
    assert_order(played, sale, "complete no-fees forward settled fees")
    (channel,) = played.node.answer("listpeerchannels", {"id": played.recording.purchases["1x4x5"].peer_id})["channels"]
    assert (channel["fee_base_msat"], channel["fee_proportional_millionths"]) == (1000, 10)


def test_a_client_without_developer_mode(replay: Replay) -> None:
    """Recording r. How the client made its invoice (cln:C6) is nothing to the LSP: as n."""
    parts = ((L3, 1, 9_500_000, 500_000), (L3, 0, 9_500_000, 500_000))
    played = replay(Script(recording="r_client_without_developer", finalized=("1x8x8",)))
    assert_sold(played, Sale(jit_scid="1x8x8", channel="a12f0648", parts=parts))


def test_two_sales_to_one_client_one_after_the_other(replay: Replay) -> None:
    """Recording s. xpay and pay as payers; B-13, rule:2: two jit scids, two channels, each funded once."""
    first = Sale(jit_scid="1x7x0", channel="c8cdbb0e", parts=((L3, 0, 19_000_000, 1_000_000),))
    second = Sale(jit_scid="1x7x1", channel="e7cf83a7", parts=((L3, 1, 19_000_000, 1_000_000),), number=1)
    played = replay(Script(recording="s_xpay_and_pay", finalized=("1x7x0", "1x7x1")))
    assert_sold(played, first)
    assert_sold(played, second)


def test_a_channel_that_gets_ready_while_we_look_is_noticed(replay: Replay) -> None:
    """Recording a, H-15, K-17: the notification overtakes the answer to `listpeerchannels`, as in recording s; the
    parts go out at once and not at the next slow poll."""
    played = replay(Script(recording="a_single_var", finalized=("1x1x1",), ready_while_looking=True, patience_s=4.0))
    assert_sold(played, Sale(jit_scid="1x1x1", channel="daae486a", parts=((L3, 0, 9_000_000, 1_000_000),)))


def test_a_part_near_its_expiry_is_failed_in_time(replay: Replay) -> None:
    """Recording t. K-06, C-27, cln:H14, trap:28: expires at 169, so at height 163 and not before."""
    played = replay(Script(recording="t_block_deadline", patient_at_block=163, reopened=("4x6x6",)))
    assert_polite(played)
    assert played.answers == {(L3, 0): TEMPORARY}
    assert answered_after(played, "cln:htlc_accepted#100")[-1] == "163"
    assert played.node.datastore.get(*FINALIZED, "4x6x6")["outcome"] == "Failed"
