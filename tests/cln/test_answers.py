"""Exactly one good answer, whatever comes in and whatever our own code does (rule:1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness.host import (
    CHANNEL,
    CONTINUE,
    FINAL,
    FORWARD,
    JIT,
    JIT_SCID,
    NODE_FAILURE,
    PAYLOAD,
    TEMPORARY,
    Desk,
    htlc,
    ping,
)


def test_a_second_answer_is_refused(desk: Desk) -> None:
    """rule:1."""
    desk.send(htlc("a"))
    desk.htlc()
    desk.on_loop(desk.host.let_go, b'"a"')
    desk.on_loop(desk.host.fail, b'"a"', "2002")
    desk.on_loop(desk.host.forward, b'"never"', PAYLOAD, CHANNEL, "")
    desk.log_with('"never"\' has no open htlc_accepted call')
    assert desk.result("a") == CONTINUE
    assert desk.hang_up() == 0


BAD_ANSWERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "failure not hex": ("fail", ("zz",)),
    "failure missing": ("fail", (None,)),
    "payload not hex": ("forward", ("zz" * 5, CHANNEL, "")),
    "channel missing": ("forward", (PAYLOAD, None, "")),
    "extra even": ("forward", (PAYLOAD, CHANNEL, "0201aa")),
    "amount negative": ("final", (PAYLOAD, -1)),
}


@pytest.mark.parametrize(("how", "parts"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_answer_that_would_abort_lightningd_becomes_a_failure(desk: Desk, how: str, parts: tuple[Any, ...]) -> None:
    """cln:H9, trap:12, rule:1: checked before it is written, and the HTLC is answered all the same."""
    desk.send(htlc("a"))
    desk.htlc()
    desk.on_loop(getattr(desk.host, how), b'"a"', *parts)
    assert desk.result("a") == NODE_FAILURE
    desk.log_with("answered with a temporary failure instead")


def test_a_handler_that_raises_fails_the_htlc(open_desk: Callable[..., Desk]) -> None:
    """trap:12: with the traceback in the log."""

    def broken(desk: Desk, scan: Any) -> None:
        raise KeyError("our bug")

    desk = open_desk(on_htlc=broken)
    desk.load()
    desk.send(htlc("a"), htlc("b", FORWARD))
    assert desk.result("a") == NODE_FAILURE
    assert desk.result("b") == CONTINUE
    desk.log_with("KeyError: 'our bug'")


BLINDED = "740a4f" + "5a" * 79 + "0c21" + "02" * 33  # types and lengths as in BOLT 4's vector
HIDDEN = {"result": "fail", "failure_message": "c018" + "00" * 32}


def inside(call_id: str, payload: str = BLINDED, call: Any = JIT) -> dict[str, Any]:
    """A call for an HTLC with this payload."""
    found = htlc(call_id, call)
    found["params"]["onion"] = {**found["params"]["onion"], "payload": payload}
    return found


@pytest.mark.parametrize("way", ["bad answer", "raises", "end", "end before the scids"])
def test_inside_a_blinded_path_no_failure_says_whose_it_is(open_desk: Callable[..., Desk], way: str) -> None:
    """C-25: BOLT 4 has one for all; also where our code fails, and at the end of the plugin."""

    def take(desk: Desk, scan: Any) -> None:
        if way == "raises":
            raise KeyError("our bug")
        if way == "bad answer":
            desk.host.fail(scan.id_raw, "zz")

    desk = open_desk(on_htlc=take)
    if way != "end before the scids":
        desk.load()
    desk.send(htlc("plain"), inside("blinded"), inside("broken", "740a4f"), ping("p"))
    desk.answer("p")
    assert desk.hang_up() == 0
    plain = TEMPORARY if way.startswith("end") else NODE_FAILURE
    assert [desk.result(call_id) for call_id in ("plain", "blinded", "broken")] == [plain, HIDDEN, plain]


def test_inside_a_blinded_path_the_owner_need_not_know(open_desk: Callable[..., Desk]) -> None:
    """C-25, cln:N7: what it says becomes the one failure; for a payment that ends here lightningd does that itself."""
    desk = open_desk(final_hops=True)
    desk.on_loop(desk.interest.payment_hashes.add, bytes.fromhex(FINAL["params"]["htlc"]["payment_hash"]))
    desk.load()
    desk.send(inside("a"), inside("b", "03020105"), inside("c", call=FINAL))
    assert [desk.htlc().id_raw for _ in "abc"] == [b'"a"', b'"b"', b'"c"']
    for call_id in "abc":
        desk.on_loop(desk.host.fail, f'"{call_id}"'.encode(), "400a")
    plain = {"result": "fail", "failure_message": "400a"}
    assert [desk.result(call_id) for call_id in "abc"] == [HIDDEN, plain, plain]


def test_a_handler_that_raises_behind_its_answer_answers_once(open_desk: Callable[..., Desk]) -> None:
    """rule:1."""

    def broken(desk: Desk, scan: Any) -> None:
        desk.host.let_go(scan.id_raw)
        raise KeyError("our bug")

    desk = open_desk(on_htlc=broken)
    desk.load()
    desk.send(htlc("a"), ping("p"))
    desk.answer("p")
    assert desk.result("a") == CONTINUE


def test_a_bug_in_the_host_stops_neither_the_answer_nor_the_next_frame(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trap:12: our own code is the last thing to trust."""

    def broken(call: Any) -> Any:
        raise TypeError("our bug")

    monkeypatch.setattr("lsps2fast_plugin.cln.lenient_json.hop_of", broken)
    desk.send(UNDERSTOOD["an escape in a key"], ping("p"), htlc("next"))
    assert desk.result("a") == NODE_FAILURE
    assert desk.result("p") == {"pong": True}
    assert desk.htlc().id_raw == b'"next"'
    desk.log_with("TypeError: our bug")


def test_a_call_that_comes_twice_gets_one_answer(desk: Desk) -> None:
    """rule:1: an id stands for one call."""
    desk.send(htlc("a"), htlc("a"))
    desk.htlc()
    desk.log_with("came twice")
    desk.on_loop(desk.host.let_go, b'"a"')
    assert desk.result("a") == CONTINUE
    assert desk.hang_up() == 0
    assert desk.htlcs.empty()


def altered(old: str, new: str) -> bytes:
    """The JIT call with one piece of its text replaced."""
    return json.dumps(htlc("a")).replace(old, new, 1).encode()


UNDERSTOOD = {
    "an escape in a key": altered('"onion"', '"oni\\u006fn"'),
    "an escape in a value": altered('"1x2x3"', '"1x2\\u00783"'),
    "amounts with a unit": altered('"amount_msat": 10000000', '"amount_msat": "10000000msat"'),
    "hash in capitals": altered(JIT["params"]["htlc"]["payment_hash"], JIT["params"]["htlc"]["payment_hash"].upper()),
    "control characters": altered('"type": "tlv"', '"type": "\\n\n\n\t"'),
}


@pytest.mark.parametrize("odd", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_an_odd_call_is_read_leniently(desk: Desk, odd: bytes) -> None:
    """trap:12: what any reader of JSON would understand is understood."""
    desk.send(odd)
    scan = desk.htlc()
    assert (scan.next_scid, scan.amount_msat, scan.id_raw) == (JIT_SCID, 10_000_000, b'"a"')
    assert scan.payment_hash.hex() == JIT["params"]["htlc"]["payment_hash"]
    desk.on_loop(desk.host.fail, scan.id_raw, "10070000")
    assert desk.result("a") == TEMPORARY


ODD = {
    "no amount, ours": (altered('"amount_msat"', '"amount"'), NODE_FAILURE),
    "no amount, not ours": (altered('"amount_msat"', '"amount"').replace(b'"1x2x3"', b'"1x2x4"'), CONTINUE),
    "scid no scid": (altered('"1x2x3"', '"1x2"'), NODE_FAILURE),
    "scid a number": (altered('"1x2x3"', "7"), NODE_FAILURE),
    "scid twice": (altered('"short_channel_id"', '"short_channel_id": "9x9x9", "short_channel_id"'), NODE_FAILURE),
    "onion a text": (altered('"onion": {', '"onion": "x", "onions": {'), NODE_FAILURE),
    "params a list": (b'{"id":"a","method":"htlc_accepted","params":[]}', NODE_FAILURE),
    "params missing": (b'{"id":"a","method":"htlc_accepted"}', NODE_FAILURE),
    "a word for a number": (altered('"amount_msat": ', '"amount_msat": x'), NODE_FAILURE),
    "no payment hash": (altered('"payment_hash"', '"hash"'), NODE_FAILURE),
    "nesting without end": (altered('"type": "tlv"', '"type": ' + "[" * 100_000 + "]" * 100_000), NODE_FAILURE),
}


@pytest.mark.parametrize(("odd", "result"), ODD.values(), ids=ODD)
def test_a_call_that_cannot_be_understood_gets_one_safe_answer(desk: Desk, odd: bytes, result: Any) -> None:
    """trap:12: let go when it is surely not ours, else failed temporarily; one line in the log."""
    desk.send(odd, htlc("next", FORWARD))
    assert desk.result("a") == result
    assert desk.result("next") == CONTINUE
    desk.until(lambda: [line for line in desk.logs if 'htlc_accepted "a"' in line])
    assert desk.htlcs.empty()


def test_an_id_that_cannot_be_echoed_is_not_answered(desk: Desk) -> None:
    """cln:W9: lightningd makes none; a caller's must not spoil the stream."""
    desk.send(altered('"a"', '"a\\"b"'), htlc("next", FORWARD))
    assert desk.result("next") == CONTINUE
    desk.log_with("cannot be answered")
    assert desk.hang_up() == 0
