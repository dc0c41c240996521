"""Answers to hooks: whole frames, and none that lightningd would end over; compiled and twin."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from harness.backends import load_compiled, load_pure
from hypothesis import given
from hypothesis import strategies as st

RUNS = (load_compiled("_hook"), load_pure("_hook"))
CHANNEL = "ab" * 32
PAYLOAD = "0203989680"
FEE = "fe00010001080000000000000001"


def test_answers_are_whole_frames_with_the_id_as_it_came(hook: ModuleType) -> None:
    """cln:H5, cln:H7, cln:C2, cln:W1."""
    answers = {
        hook.answer_continue(b'"x#1"'): {"result": "continue"},
        hook.answer_fail(b'"x#1"', "10070000"): {"result": "fail", "failure_message": "10070000"},
        hook.answer_forward(b'"x#1"', PAYLOAD, CHANNEL, FEE): {
            "result": "continue", "payload": PAYLOAD, "forward_to": CHANNEL, "extra_tlvs": FEE,
        },
        hook.answer_forward(b'"x#1"', PAYLOAD, CHANNEL, ""): {
            "result": "continue", "payload": PAYLOAD, "forward_to": CHANNEL, "extra_tlvs": "",
        },
        hook.answer_final(b'"x#1"', PAYLOAD, 9): {"result": "continue", "payload": PAYLOAD, "invoice_msat": 9},
        hook.answer_resolve(b'"x#1"', b"\7" * 32): {"result": "resolve", "payment_key": "07" * 32},
        hook.answer_final(b'"x#1"', PAYLOAD, None): {"result": "continue", "payload": PAYLOAD},
        hook.answer(b'"x#1"', b'{"result":"reject"}'): {"result": "reject"},
    }  # fmt: skip
    for frame, result in answers.items():
        assert json.loads(frame) == {"jsonrpc": "2.0", "id": "x#1", "result": result}
        assert frame.endswith(b"}\n\n")
        assert frame.count(b"\n") == 2


@pytest.mark.parametrize("token", [b'"cln:htlc_accepted#1"', b'""', b"0", b"-5", b'"\xc3\xa9"', b'"a/b:c#9 {}[],"'])
def test_an_id_is_echoed_as_raw_bytes(hook: ModuleType, token: bytes) -> None:
    """cln:W1, cln:W9."""
    assert hook.answer_continue(token).startswith(b'{"jsonrpc":"2.0","id":' + token + b',"result":')
    assert hook.answer_fail(token, "2002").startswith(b'{"jsonrpc":"2.0","id":' + token + b',"result":')


BAD_IDS = [b"", b"x", b'"', b'"a', b'a"', b'"a"b"', b'"a\\"b"', b'"\n"', b'"\x7f"', b"01", b"1.5", b"null", b"{}"]


@pytest.mark.parametrize("token", [*BAD_IDS, b'"a" ', b'"\xff"', b'"a"\n\n{"id":"b"'])
def test_an_id_that_could_spoil_the_frame_is_refused(hook: ModuleType, token: bytes) -> None:
    """cln:W9: refuse ids with a backslash."""
    for build in (hook.answer_continue, lambda raw: hook.answer_fail(raw, "2002"), lambda raw: hook.answer(raw, b"{}")):
        with pytest.raises(ValueError, match=r"id|utf-8"):
            build(token)


BAD_ANSWERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "failure not hex": ("answer_fail", ("xyz1",)),
    "failure empty": ("answer_fail", ("",)),
    "failure of one byte": ("answer_fail", ("10",)),
    "failure of half a byte": ("answer_fail", ("10070",)),
    "failure in capitals": ("answer_fail", ("400A",)),
    "failure beyond 256 bytes": ("answer_fail", ("00" * 257,)),
    "failure with a quote": ("answer_fail", ('2002"',)),
    "failure with a space": ("answer_fail", ("20 2",)),
    "failure missing": ("answer_fail", (None,)),
    "failure as bytes": ("answer_fail", (b"2002",)),
    "preimage too short": ("answer_resolve", (b"\7" * 31,)),
    "preimage as text": ("answer_resolve", ("07" * 32,)),
    "payload empty": ("answer_forward", ("", CHANNEL, FEE)),
    "payload not hex": ("answer_forward", ("zz" * 9, CHANNEL, FEE)),
    "payload odd": ("answer_forward", (PAYLOAD + "0", CHANNEL, FEE)),
    "channel too short": ("answer_forward", (PAYLOAD, "ab" * 31, FEE)),
    "channel too long": ("answer_forward", (PAYLOAD, "ab" * 33, FEE)),
    "channel not hex": ("answer_forward", (PAYLOAD, "zz" * 32, FEE)),
    "channel missing": ("answer_forward", (PAYLOAD, None, FEE)),
    "extra not hex": ("answer_forward", (PAYLOAD, CHANNEL, "zz")),
    "extra missing": ("answer_forward", (PAYLOAD, CHANNEL, None)),
    "extra with an even type": ("answer_forward", (PAYLOAD, CHANNEL, "0201aa")),
    "extra out of order": ("answer_forward", (PAYLOAD, CHANNEL, "0501aa0301aa")),
    "extra cut short": ("answer_forward", (PAYLOAD, CHANNEL, "0305aa")),
    "final payload empty": ("answer_final", ("", 1)),
    "final amount zero": ("answer_final", (PAYLOAD, 0)),
    "final amount negative": ("answer_final", (PAYLOAD, -1)),
    "final amount of 65 bits": ("answer_final", (PAYLOAD, 2**64)),
    "final amount true": ("answer_final", (PAYLOAD, True)),
    "final amount a float": ("answer_final", (PAYLOAD, 1.0)),
    "final amount as text": ("answer_final", (PAYLOAD, "1")),
    "result null": ("answer", (b"null",)),
    "result a text": ("answer", (b'"continue"',)),
    "result cut short": ("answer", (b'{"result":',)),
    "result of two values": ("answer", (b"{}{}",)),
    "result over two lines": ("answer", (b"{\n}",)),
    "result no UTF-8": ("answer", (b'{"a":"\xff"}',)),
}


@pytest.mark.parametrize(("build", "parts"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_answer_that_could_abort_lightningd_is_never_built(
    hook: ModuleType, build: str, parts: tuple[Any, ...]
) -> None:
    """cln:H9, trap:12, rule:1."""
    with pytest.raises(ValueError, match=r".+"):
        getattr(hook, build)(b'"x"', *parts)


def test_a_blinded_path_in_the_extra_records_is_known_to_lightningd(hook: ModuleType) -> None:
    """cln:H9: the only even type lightningd takes is 0."""
    assert b"0021" in hook.answer_forward(b'"x"', PAYLOAD, CHANNEL, "0021" + "02" * 33)


hexish = st.text('0123456789abcdefABxyz "\\\n', max_size=80)


@given(hexish, st.one_of(st.just(CHANNEL), hexish), st.one_of(st.just(FEE), hexish))
def test_any_parts_give_a_well_formed_frame_or_an_error(payload: str, channel: str, extra: str) -> None:
    """trap:12: both runs."""

    def attempt(run: ModuleType) -> bytes | None:
        try:
            return bytes(run.answer_forward(b'"x"', payload, channel, extra))
        except ValueError:
            return None

    compiled, pure = map(attempt, RUNS)
    expected = {"result": "continue", "payload": payload, "forward_to": channel, "extra_tlvs": extra}
    assert compiled == pure
    assert compiled is None or json.loads(compiled)["result"] == expected
