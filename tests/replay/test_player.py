"""The replay itself: it must see a plugin that harms its host, and tell the truth about a recording."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from replay import hookcheck, player, recording, tlv
from replay.datastore import Datastore, RpcError
from replay.played import Played, ReplayStuck, Script

TINY = Path(__file__).with_name("tiny_plugin.py")
LET_GO = {"result": "continue"}


def play_tiny(name: str, results: list[dict], directory: Path, patience_s: float = 20.0) -> Played:
    return player.play(
        Script(recording=name, options={}, patience_s=patience_s),
        [sys.executable, str(TINY), json.dumps(results)],
        directory,
    )


@pytest.mark.slow
def test_a_polite_plugin_has_no_faults(tmp_path: Path) -> None:
    """One answer a hook, exit code 0 after `shutdown` (cln:W5)."""
    played = play_tiny("d_ordinary_forward", [LET_GO], tmp_path)
    assert played.faults == []
    assert played.exit_codes == [0]
    assert played.unanswered == [[]]
    assert played.names("answer") == ["cln:htlc_accepted#141", "cln:htlc_accepted#148", "cln:htlc_accepted#158"]


@pytest.mark.slow
def test_the_node_answers_calls_and_refuses_unknown_ones(tmp_path: Path) -> None:
    """The journal record of a recorded buy is there before the plugin starts (architecture §5)."""
    played = play_tiny("f_unknown_next_peer", [LET_GO], tmp_path)
    info, journal, nonsense = (json.loads(text) for _, text in played.logs)
    assert info["result"]["id"] == played.recording.node_id
    assert [row["key"][-1] for row in journal["result"]["datastore"]] == ["7x7x8", "7x7x9"]
    assert nonsense["error"]["code"] == -32601


@pytest.mark.slow
@pytest.mark.parametrize(
    ("results", "fault"),
    [
        pytest.param([{"result": "fail"}], "KeyError('failure_message')", id="fail without a message"),
        pytest.param([LET_GO, LET_GO], "the second one", id="two answers"),
    ],
)
def test_an_answer_that_would_harm_lightningd_is_a_fault(results: list[dict], fault: str, tmp_path: Path) -> None:
    """cln:H9: lightningd aborts on a malformed answer; rule:1: exactly one answer."""
    played = play_tiny("t_block_deadline", results, tmp_path)
    assert len(played.faults) == 1
    assert all(fault in text for text in played.faults)


@pytest.mark.slow
def test_a_hook_without_an_answer_stops_the_replay(tmp_path: Path) -> None:
    """cln:W2: a hook may stay open for ever, so the replay itself must give up and say what it waited for."""
    with pytest.raises(ReplayStuck, match=r"waited 0\.5 s for answers to every hook"):
        play_tiny("t_block_deadline", [], tmp_path, patience_s=0.5)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"result": "resolve"},
        {"result": "fail", "failure_message": "1007f"},
        {"result": "continue", "forward_to": "ab"},
        {"result": "continue", "payload": "0g"},
        {"result": "continue", "extra_tlvs": "0200"},
        {"result": "continue", "extra_tlvs": "05000300"},
        {"result": "continue", "extra_tlvs": "fd000100"},
    ],
)
def test_what_kills_lightningd_is_recognised(result: dict) -> None:
    """cln:H9: each of these ended in an abort, or has the shape of one that did."""
    assert hookcheck.fatal({"id": "x", "result": result}) is not None


@pytest.mark.parametrize(
    "result",
    [
        LET_GO,
        {"result": "fail", "failure_message": "10070000"},
        {"result": "fail", "failure_message": ""},
        {"result": "continue", "payload": "0201ff", "forward_to": "ab" * 32, "extra_tlvs": tlv.extra_fee(1)},
    ],
)
def test_what_lightningd_survives_is_let_through(result: dict) -> None:
    """cln:H5, cln:H7, cln:H9: an empty failure_message is odd, but no crash."""
    assert hookcheck.fatal({"id": "x", "result": result}) is None


def test_a_recording_gives_purchase_channel_and_cause() -> None:
    """The settled event of the first recording belongs to its only channel; the last block came after `sendpsbt`."""
    heard = recording.load("a_single_var")
    assert heard.purchases["1x1x1"].fee_msat == 1_000_000
    assert heard.purchases["1x1x1"].size_msat is None
    assert [channel_id[:8] for channel_id in heard.jit_channel_ids] == ["daae486a"]
    assert [step.after["sendpsbt"] for step in heard.lives[0].steps[-2:]] == [0, 1]


def test_a_cut_string_is_restored_to_its_length() -> None:
    """`m_lsps0`: 65,000 blanks behind the message type."""
    payloads = [step.params["payload"] for step in recording.load("m_lsps0").lives[0].steps if step.call_id]
    longest = max(payloads, key=len)
    assert (len(longest), longest[:8], set(longest[4:])) == (130_004, "94192020", {"2", "0"})


def test_only_the_amount_of_a_payload_changes() -> None:
    """H-13: other records byte-identical, amount without leading zeros; cln:H1: no prefix in the answer."""
    recorded = "12020398968004017906080000010000010001"
    assert tlv.with_amount(recorded, 9_000_000) == "0203895440" + "040179" + "06080000010000010001"
    assert tlv.with_amount(recorded, 1) == "020101" + "040179" + "06080000010000010001"


def test_the_datastore_refuses_what_lightningd_refuses() -> None:
    """cln:D2: must-create on an existing key, must-replace and delete on a missing one, a stale generation."""
    store = Datastore()
    store.put(("a", "b"), {})
    calls = [
        (store.write, {"key": ["a", "b"], "string": "x"}),
        (store.write, {"key": ["a", "c"], "string": "x", "mode": "must-replace"}),
        (store.write, {"key": ["a"], "string": "x"}),
        (store.write, {"key": ["a", "b"], "string": "x", "mode": "must-replace", "generation": 7}),
        (store.delete, {"key": ["a", "c"]}),
    ]
    codes = []
    for call, params in calls:
        with pytest.raises(RpcError) as refused:
            call(params)
        codes.append(refused.value.code)
    assert codes == [1202, 1203, 1205, 1204, 1200]
    assert store.list({"key": ["a"]})["datastore"] == [
        {"key": ["a", "b"], "generation": 0, "hex": "7b7d", "string": "{}"}
    ]
