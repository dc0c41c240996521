"""LSPS0: what is read, what is refused, what is answered, and what a client makes of it. Section (a) of the digest."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import MalformedFrame, PeerError, ProtocolBug
from lsps2fast.lsps import lsps0, lsps2

WIRE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text("utf-8"))
RPC = WIRE["json_rpc"]

METHODS: dict[str, Callable[[object], object]] = {
    lsps0.LIST_PROTOCOLS: lsps0.parse_list_protocols,
    lsps2.GET_INFO: lsps2.parse_get_info,
    lsps2.BUY: lsps2.parse_buy,
}
SKELETON = b'{"jsonrpc":"2.0","id":"a1","method":"lsps0.list_protocols","params":%s}'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
near_requests = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "id": st.text() | json_values,
        "method": st.sampled_from(sorted(METHODS)) | st.text() | json_values,
        "params": st.dictionaries(st.sampled_from(["token", "payment_size_msat", "x"]), json_values) | json_values,
        "result": json_values,
        "error": json_values,
    },
).map(lambda message: json.dumps(message).encode())


def payload_of(vector: dict[str, Any]) -> bytes:
    frame = bytes.fromhex(vector["frame_hex"])
    assert frame[:2] == bytes.fromhex(lsps0.MESSAGE_TYPE_HEX)
    return frame[2:]


def named(vectors: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", vectors, ids=[vector["name"] for vector in vectors])


def serve(payload: bytes) -> bytes | None:
    """A service in a few lines: the reference for how the pieces of `lsps0` go together."""
    try:
        request = lsps0.decode_request(payload)
    except PeerError as error:
        return lsps0.encode_error(None, error)
    if request is None:
        return None
    try:
        read = METHODS.get(request.method)
        if read is None:
            raise lsps0.method_not_found()
        read(request.params)
    except PeerError as error:
        return lsps0.encode_error(request.id, error)
    return lsps0.encode_result(request.id, lsps0.protocols_result())


def check_answer(payload: bytes) -> dict[str, Any]:
    """The schema of T-10, T-15, T-20 and T-30; returns the answer."""
    assert len(payload) <= 65533
    answer: dict[str, Any] = json.loads(payload.decode("utf-8"))
    kind = (answer.keys() - {"jsonrpc", "id"}).pop()
    assert answer.keys() == {"jsonrpc", "id", kind}
    assert answer["jsonrpc"] == "2.0"
    assert kind in {"result", "error"}
    assert type(answer[kind]) is dict
    error = answer.get("error", {"code": 0, "message": ""})
    assert error.keys() - {"data"} == {"code", "message"}
    assert type(error["code"]) is int
    assert type(error["message"]) is str
    assert type(error.get("data", {})) is dict
    assert (error["code"] == -32602) == ("unrecognized" in error.get("data", {}))
    assert type(answer["id"]) is str or (answer["id"] is None and error["code"] == -32700)
    return answer


# --- Reading ----------------------------------------------------------------------------------------------------------


@named(RPC["examples"])
def test_every_example_is_read_as_the_object_it_is(vector: dict[str, Any]) -> None:
    """T-01, T-02, T-25: V:json_rpc.examples."""
    assert lsps0.parse_json(payload_of(vector)) == vector["json"]


def test_a_message_of_brackets_is_refused_by_their_number() -> None:
    """T-02: before it is read, for what Python reads differs from version to version; a menu has a few dozen."""
    most = lsps0.MOST_CONTAINERS - 1
    assert len(lsps0.parse_json(b'{"a":[' + b",".join([b"{}"] * (most - 1)) + b"]}")["a"]) == most - 1
    with pytest.raises(MalformedFrame, match="too many arrays and objects"):
        lsps0.parse_json(b'{"a":[' + b",".join([b"{}"] * most) + b"]}")


@pytest.mark.parametrize(
    ("payload", "offset"),
    [
        (b"", 0),
        (b'{"a":\x00"1"}', 5),
        (b'{"a":"\xff"}', 6),
        (b'{"a":"\xed\xa0\x80"}', 6),
        (b'{"a":"\xc0\xaf"}', 6),
        (b"{'a':1}", 1),
        ('{"é":1,2}'.encode(), 8),
        (b'\xef\xbb\xbf{"a":1}', 0),
        (b'{"a":1}{"a":1}', 7),
        (b'{"a":"\t"}', 6),
        (b'{"a":01}', 6),
        (b'{"a":"\\x41"}', 6),
    ],
)
def test_bad_json_is_refused_with_the_byte_where_it_went_wrong(payload: bytes, offset: int) -> None:
    """T-02, T-03, T-04, trap:33."""
    with pytest.raises(MalformedFrame) as caught:
        lsps0.parse_json(payload)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    "payload",
    [
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":' + b"9" * 60_000 + b"}",
        b'{"a":' + b"[" * 60_000 + b"}",
        b'{"a":' + b'{"a":' * 12_000 + b"}",
        b'{"a":1,"a":1}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[{"b":1,"b":2}]}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":"\\ud800"}',
        b'{"a":"\\uDC00\\uD800"}',
        b'{"\\ud800":1}',
        b'{"a":["x",{"b":"\\udfff"}]}',
        b"[]",
        b"null",
        b"1",
        b'"{}"',
        b"\x0b{}",
        b'{"a":"' + b"x" * 65_530 + b'"}',
    ],
    ids=lambda payload: payload[:24].decode(),
)
def test_json_that_python_would_let_pass_is_refused(payload: bytes) -> None:
    """T-02, T-04, trap:33: constants, bombs, duplicates, half surrogates, scalars, more than a peer message."""
    with pytest.raises(MalformedFrame):
        lsps0.parse_json(payload)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":"\\ud83d\\ude00"}', {"a": "😀"}),
        ('{"a":"\\u0000"}', {"a": "\0"}),
        ('{"a":"\\/"}', {"a": "/"}),
        ('{"a":"\\\\ud800"}', {"a": "\\ud800"}),
        (' \t\r\n{"a":18446744073709551616}\n', {"a": 2**64}),
        ('{"a":"\x7f"}', {"a": "\x7f"}),
        ("{}", {}),
    ],
)
def test_any_legal_escape_and_blank_is_read(text: str, value: dict[str, Any]) -> None:
    """T-02, T-03 (an escaped zero is no zero byte), T-31."""
    assert lsps0.parse_json(text.encode()) == value


@given(st.binary(max_size=200) | near_requests)
def test_any_bytes_are_an_object_or_malformed(payload: bytes) -> None:
    """T-02, trap:33: nothing but MalformedFrame leaves the reader."""
    with contextlib.suppress(MalformedFrame):
        assert type(lsps0.parse_json(payload)) is dict


@given(st.dictionaries(st.text(), json_values))
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    """T-02, T-31: the strict reader accepts all that a conforming writer says, and nothing it could not say again."""
    assert lsps0.parse_json(json.dumps(value).encode()) == value
    assert lsps0.parse_json(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value


# --- Requests ---------------------------------------------------------------------------------------------------------


@named(RPC["lsp_input"])
def test_the_service_answers_each_input_as_the_vectors_say(vector: dict[str, Any]) -> None:
    """T-11 … T-17, T-31: V:json_rpc.lsp_input; silence for responses (T-12)."""
    answer = json.loads(serve(payload_of(vector)) or b"{}")
    shape = {"result": {"jsonrpc", "id", "result"}, "error": {"jsonrpc", "id", "error"}, "no_reply": set()}
    assert answer.keys() == shape[vector["expect"]]
    assert answer.get("id") == vector.get("reply_id")
    error = answer.get("error", {})
    assert error.get("code") == vector.get("code")
    assert error.get("data") == vector.get("data")


@given(st.binary(max_size=200) | near_requests)
def test_any_message_gets_silence_or_one_valid_answer(payload: bytes) -> None:
    """T-10, T-11, T-12, T-20, trap:33: silence, PeerError or Request, and nothing else."""
    got = serve(payload)
    assert got is None or check_answer(got)


@given(near_requests)
def test_two_services_never_answer_each_other(payload: bytes) -> None:
    """T-12: whatever a service says, another service is silent about it."""
    got = serve(payload)
    assert got is None or serve(got) is None


@pytest.mark.parametrize(
    ("params", "code", "data"),
    [
        (b"{}", None, None),
        (b'{"b":1,"a":null}', -32602, {"unrecognized": ["a", "b"]}),
        (b"[]", -32602, {"unrecognized": []}),
        (b"null", -32602, {"unrecognized": []}),
        (b'"x"', -32602, {"unrecognized": []}),
    ],
)
def test_list_protocols_knows_no_parameters(params: bytes, code: int | None, data: object) -> None:
    """T-14, T-15."""
    answer = check_answer(serve(SKELETON % params) or b"")
    error = answer.get("error", {})
    assert (error.get("code"), error.get("data")) == (code, data)


def test_list_protocols_answers_exactly_protocol_two() -> None:
    """T-34: V:json_rpc.examples; never 0."""
    text = next(v for v in RPC["examples"] if v["name"].startswith("list_protocols response of an LSP"))["text"]
    assert lsps0.encode_result("3cad6a54d302edba4c9ade2f7ffac098", lsps0.protocols_result()) == text.encode()


def test_a_request_that_also_has_a_result_is_a_request() -> None:
    """T-16, T-39: what has a method belongs to the service, unknown members are ignored."""
    payload = b'{"jsonrpc":"2.0","id":"a1","method":"lsps0.list_protocols","result":{}}'
    assert lsps0.decode_request(payload) == lsps0.Request("a1", "lsps0.list_protocols", {})


# --- Answers ----------------------------------------------------------------------------------------------------------

EXAMPLE_ID = "3cad6a54d302edba4c9ade2f7ffac098"


@pytest.mark.parametrize(
    ("name", "request_id", "error"),
    [
        ("client rejected", EXAMPLE_ID, lsps0.client_rejected()),
        ("parse error", None, lsps0.parse_error()),
        ("method not found", EXAMPLE_ID, lsps0.method_not_found()),
        ("unrecognized parameter", "42", lsps0.invalid_params(["future_feature1_param"])),
        ("bad parameter value (no unknown names)", EXAMPLE_ID, lsps0.invalid_params()),
        ("get_info error: token", EXAMPLE_ID, lsps2.stale_token()),
        ("buy error 201", EXAMPLE_ID, lsps2.invalid_fee_params()),
        ("buy error 202", EXAMPLE_ID, lsps2.too_small()),
        ("buy error 203", EXAMPLE_ID, lsps2.too_large()),
    ],
)
def test_errors_are_written_as_in_the_examples(name: str, request_id: str | None, error: PeerError) -> None:
    """T-13 … T-15, T-20 (no "data":null), S-10, G-03, B-06: V:json_rpc.examples."""
    vector = next(v for v in RPC["examples"] if v["name"] == name)
    payload = lsps0.encode_error(request_id, error)
    assert json.loads(payload) == vector["json"]
    assert len(payload) == len(vector["text"].encode())
    check_answer(payload)


def test_an_internal_error_tells_nothing() -> None:
    """T-18."""
    assert lsps0.encode_error("a1", lsps0.internal_error()) == (
        b'{"jsonrpc":"2.0","id":"a1","error":{"code":-32603,"message":"Internal error"}}'
    )


def test_unknown_names_are_listed_once_each() -> None:
    """T-14."""
    assert lsps0.invalid_params(["b", "a", "b"]).data == {"unrecognized": ["a", "b"]}


def test_no_character_is_escaped_without_need() -> None:
    """T-31: only quote, backslash and control characters are; the id comes back unchanged (T-10)."""
    text = "é/😀\x7f<\u2028"
    assert text.encode() in lsps0.encode_result(text, {})
    assert json.loads(lsps0.encode_result('"\\\x01\n', {}))["id"] == '"\\\x01\n'


@pytest.mark.parametrize(("bytes_over", "code"), [(0, None), (1, -32603)])
def test_a_result_never_exceeds_a_peer_message(bytes_over: int, code: int | None) -> None:
    """T-30: the last byte that fits and the first that does not."""
    room = 65533 - len(lsps0.encode_result("a1", {"x": ""}))
    answer = check_answer(lsps0.encode_result("a1", {"x": "y" * (room + bytes_over)}))
    assert answer["id"] == "a1"
    assert answer.get("error", {}).get("code") == code


@pytest.mark.parametrize(("bytes_over", "id_kept", "code"), [(0, True, -32603), (1, False, -32700)])
def test_an_id_that_leaves_no_room_for_an_error_is_not_echoed(bytes_over: int, id_kept: bool, code: int) -> None:
    """T-30, T-11."""
    room = 65533 - len(lsps0.encode_error("", lsps0.internal_error()))
    request_id = "i" * (room + bytes_over)
    answer = check_answer(lsps0.encode_error(request_id, lsps0.invalid_params(["x" * 50])))
    assert (answer["id"] == request_id, answer["error"]["code"]) == (id_kept, code)


def test_an_error_too_large_for_a_peer_message_becomes_an_internal_error() -> None:
    """T-30: 65 kB of unknown parameter names."""
    answer = check_answer(lsps0.encode_error("a1", lsps0.invalid_params(["x" * 65_500])))
    assert answer["error"]["code"] == -32603
    assert answer["id"] == "a1"


def test_what_json_cannot_say_is_a_bug_of_ours() -> None:
    """T-10: half a surrogate pair cannot come from a peer; it never leaves as broken UTF-8."""
    with pytest.raises(ProtocolBug):
        lsps0.encode_result("a1", {"x": "\ud800"})


# --- The client's side ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "request_id", "method", "params"),
    [
        ("get_info request without token", EXAMPLE_ID, lsps2.GET_INFO, lsps2.get_info_params()),
        ("get_info request with token", EXAMPLE_ID, lsps2.GET_INFO, lsps2.get_info_params("SECRETDISCOUNTCOUPON100")),
    ],
)
def test_requests_are_written_as_in_the_examples(
    name: str, request_id: str, method: str, params: dict[str, Any]
) -> None:
    """T-05, G-02: V:json_rpc.examples."""
    vector = next(v for v in RPC["examples"] if v["name"] == name)
    assert lsps0.encode_request(request_id, method, params) == vector["text"].encode()


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()))
def test_the_client_writes_requests_only(request_id: str, method: str, params: dict[str, str]) -> None:
    """T-05, T-06: four members, id and method strings, params an object: never a notification, batch or array."""
    payload = lsps0.encode_request(request_id, method, params)
    assert lsps0.parse_json(payload) == {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    assert lsps0.decode_request(payload) == lsps0.Request(request_id, method, params)


def test_a_request_too_large_for_a_peer_message_is_a_bug_of_ours() -> None:
    """T-30."""
    with pytest.raises(ProtocolBug, match="does not fit"):
        lsps0.encode_request("a1", lsps2.GET_INFO, {"token": "x" * 65_500})


CLIENT_OUTCOMES = {
    "deliver result to request a1": ("Reply", False, 0),
    "deliver error to request a1": ("Reply", False, 0),
    "ignore": ("Dropped", False, 1),
    "ignore (ids are matched together with the peer)": ("Dropped", False, 1),
    "ignore and log": ("Dropped", False, 1),
    "log; belongs to no request": ("Dropped", False, 1),
    "bad message: ignore, log, send nothing more to this peer until it reconnects": ("Dropped", True, 1),
}


@named(RPC["client_input"])
def test_the_client_treats_each_input_as_the_vectors_say(vector: dict[str, Any]) -> None:
    """T-08, T-23 … T-27: V:json_rpc.client_input, with one request a1 open at the LSP."""
    kind, muted, still_open = CLIENT_OUTCOMES[vector["expect"]]
    sender = {"same id from another peer": "other"}.get(vector["name"], "lsp")
    requests = lsps0.OpenRequests()
    requests.open("lsp", "a1", 0)
    got = requests.receive(sender, payload_of(vector))
    assert type(got).__name__ == kind
    assert requests.is_muted(sender) == muted
    assert len(requests) == still_open


def test_a_muted_peer_is_left_alone_until_it_reconnects() -> None:
    """T-24."""
    requests = lsps0.OpenRequests()
    assert requests.receive("lsp", b"xx") == lsps0.Dropped("Expecting value at byte 0", True)
    with pytest.raises(ProtocolBug, match="muted"):
        requests.open("lsp", "a1", 0)
    requests.open("other", "a1", 0)
    requests.unmute("lsp")
    requests.open("lsp", "a1", 0)
    assert len(requests) == 2


def test_answers_may_come_in_any_order_and_count_once() -> None:
    """T-08, T-29."""
    requests = lsps0.OpenRequests()
    requests.open("lsp", "a", 0)
    requests.open("lsp", "b", 0)
    second, first = lsps0.encode_result("b", {"n": 2}), lsps0.encode_result("a", {"n": 1})
    assert requests.receive("lsp", second) == lsps0.Reply("b", {"n": 2}, None)
    assert requests.receive("lsp", first) == lsps0.Reply("a", {"n": 1}, None)
    assert isinstance(requests.receive("lsp", first), lsps0.Dropped)


def test_a_request_is_given_up_in_time_and_a_late_answer_ignored() -> None:
    """T-09: at 60 s, not before."""
    requests = lsps0.OpenRequests()
    requests.open("lsp", "a", 1000)
    requests.open("lsp", "b", 1001)
    assert requests.expired(60_999) == []
    assert requests.expired(61_000) == [("lsp", "a")]
    assert isinstance(requests.receive("lsp", lsps0.encode_result("a", {})), lsps0.Dropped)
    assert (requests.close("lsp", "b"), requests.close("lsp", "b")) == (True, False)


def test_an_id_is_used_once_at_a_time() -> None:
    """T-07: a repeated id is our own bug."""
    requests = lsps0.OpenRequests()
    requests.open("lsp", "a", 0)
    with pytest.raises(ProtocolBug, match="fresh"):
        requests.open("lsp", "a", 0)


@pytest.mark.parametrize("payload", [SKELETON % b"{}", b'{"jsonrpc":"2.0","id":1,"method":"x"}'])
def test_requests_are_not_the_clients_business(payload: bytes) -> None:
    """T-39: they concern the service of the same node; the peer is not muted for them."""
    requests = lsps0.OpenRequests()
    assert requests.receive("peer", payload) is None
    assert not requests.is_muted("peer")


@pytest.mark.parametrize(
    "payload",
    [
        b'{"jsonrpc":"2.0","method":5}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":"a","result":[]}',
        b'{"jsonrpc":"2.0","id":"a","result":null}',
        b'{"jsonrpc":"2.0","id":"a","error":null}',
        b'{"jsonrpc":"2.0","id":"a","error":{"code":true,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":"a","error":{"code":1.0,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":"a","error":{"code":1}}',
        b'{"jsonrpc":"2.0","id":"a","error":{"message":"x"}}',
        b'{"jsonrpc":"2.0","id":"a","result":{},"error":null}',
        b'{"jsonrpc":2.0,"id":"a","result":{}}',
    ],
)
def test_what_is_neither_response_nor_notification_is_malformed(payload: bytes) -> None:
    """T-10, T-20, T-24."""
    with pytest.raises(MalformedFrame):
        lsps0.decode_response(payload)


@given(st.binary(max_size=200) | near_requests)
def test_nothing_a_peer_sends_makes_the_client_raise(payload: bytes) -> None:
    """T-24, trap:33."""
    requests = lsps0.OpenRequests()
    requests.open("lsp", "a1", 0)
    assert isinstance(requests.receive("lsp", payload), lsps0.Reply | lsps0.Dropped | None)


@pytest.mark.parametrize(
    ("code", "data", "name"),
    [
        (-32700, None, "parse_error"),
        (-32600, None, "invalid_request"),
        (-32601, None, "method_not_found"),
        (-32602, {"unrecognized": []}, "invalid_params"),
        (-32602, None, "unrecognized"),
        (-32602, {"unrecognized": "x"}, "unrecognized"),
        (-32603, None, "internal_error"),
        (-32099, None, "internal_error"),
        (-32000, None, "internal_error"),
        (-32100, None, "unrecognized"),
        (-31999, None, "unrecognized"),
        (1, {"message": "no"}, "client_rejected"),
        (1, {}, "unrecognized"),
        (1, None, "unrecognized"),
        (200, None, "unrecognized_or_stale_token"),
        (201, None, "invalid_opening_fee_params"),
        (202, None, "payment_size_too_small"),
        (203, None, "payment_size_too_large"),
        (5, None, "unrecognized"),
        (299, None, "unrecognized"),
        (12345, None, "unrecognized"),
    ],
)
def test_error_codes_have_one_meaning(code: int, data: object, name: str) -> None:
    """T-19, T-22, T-23: as the client hears it, code and data kept."""
    body = {"code": code, "message": "text", "data": data}
    payload = json.dumps({"jsonrpc": "2.0", "id": "a", "error": body}).encode()
    reply = lsps0.decode_response(payload)
    assert reply == lsps0.Reply("a", None, lsps0.RemoteError(code, name, "text", data))  # type: ignore[arg-type]


@given(st.text(max_size=2000))
def test_an_lsps_text_is_cleaned_before_anybody_sees_it(text: str) -> None:
    """T-21: no NUL, no `<`, no line ends, no control characters, at most 512 characters."""
    cleaned = lsps0.clean_message(text)
    assert len(cleaned) <= 512
    assert re.search("[\x00-\x1f\x7f-\x9f<\u2028\u2029]", cleaned) is None


def test_cleaning_keeps_the_rest_of_the_text() -> None:
    """T-21."""
    noise = "".join(map(chr, [*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029])) + "<"
    assert lsps0.clean_message(f"fee {noise}is 5 € {noise}too low") == "fee is 5 € too low"
    assert lsps0.clean_message("y" * 600) == "y" * 512


@pytest.mark.parametrize("protocols", [[], [1], [2], [2, 300, 65000], [2**70]])
def test_any_positive_protocol_number_is_read(protocols: list[int]) -> None:
    """T-35, T-25: other keys of the result are ignored."""
    assert lsps0.parse_protocols({"protocols": protocols, "x": 1}) == tuple(protocols)


@pytest.mark.parametrize(
    "result", [[], {}, {"protocols": 2}, {"protocols": [0]}, {"protocols": [True]}, {"protocols": [2.0]}]
)
def test_a_bad_protocol_list_is_refused(result: object) -> None:
    """T-34, T-35: by the name of the field."""
    with pytest.raises(lsps0.MalformedField, match=r"^protocols: not an array of positive integers$"):
        lsps0.parse_protocols(result)


def test_the_feature_bit_is_729() -> None:
    """T-33: V:feature_bits."""
    assert WIRE["feature_bits"]["option_supports_lsps_729"] == lsps0.FEATURE_BITS_HEX
    assert int(lsps0.FEATURE_BITS_HEX, 16) == 1 << lsps0.FEATURE_BIT


def test_the_numbers_of_the_transport_are_those_of_the_vectors() -> None:
    """T-01, T-30: V:json_rpc."""
    assert RPC["message_type"] == lsps0.MESSAGE_TYPE == int(lsps0.MESSAGE_TYPE_HEX, 16)
    assert RPC["max_payload_bytes"] == lsps0.MAX_PAYLOAD
