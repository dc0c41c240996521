"""Whatever a peer sends: silence, or one answer that keeps the rules of LSPS0. And never a trace."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness.negotiator import ALICE, BOB, Json, Shop
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast.errors import MalformedFrame
from lsps2fast.lsps import lsps0
from lsps2fast.lsps.lsps0 import MAX_PAYLOAD
from lsps2fast.lsps.lsps2 import BUY, GET_INFO, parse_datetime

METHODS = (lsps0.LIST_PROTOCOLS, GET_INFO, BUY)
CODES = {-32700, -32601, -32602, -32603, 1, 200, 201, 202, 203}
WITH_DATA = {1, -32602}

U64_EDGES = st.sampled_from([0, 1, 999, 2**53, 2**63, 2**64 - 1, 2**64, 10**30])
AMOUNTS = U64_EDGES.map(str) | st.integers(0, 10**12).map(str) | st.sampled_from(["", "+5", "05", "1e3", "٣", "5 "])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DATES = st.sampled_from(
    [
        "2030-03-17T18:46:40.000Z",
        "1969-12-31T23:59:59.999Z",
        "2030-02-30T00:00:00.000Z",
        "2030-03-17T18:46:40+00:00",
        "",
    ]
)
TERMS = {
    "min_fee_msat": AMOUNTS,
    "proportional": st.integers(-1, 2**65) | st.floats(allow_nan=False) | st.booleans(),
    "valid_until": DATES,
    "min_lifetime": st.integers(-1, 2**33),
    "max_client_to_self_delay": st.integers(-1, 2**33),
    "min_payment_size_msat": AMOUNTS,
    "max_payment_size_msat": AMOUNTS,
    "promise": st.text(max_size=600),
}
SIZES = st.none() | AMOUNTS | JSON


@st.composite
def offers(draw: st.DrawFn) -> Json | str:
    """Terms that look right in some keys; "real": an offer of ours, perhaps with one thing changed."""
    kind = draw(st.sampled_from(["real", "spoilt", "made up"]))
    if kind == "real":
        return "real"
    terms = draw(st.fixed_dictionaries({}, optional=TERMS) if kind == "made up" else st.fixed_dictionaries({}))
    if kind == "spoilt":
        key = draw(st.sampled_from([*TERMS, "extra"]))
        terms = {"real": True, key: draw(TERMS.get(key, JSON) | JSON)}
    return terms


@st.composite
def requests(draw: st.DrawFn) -> Json:
    """Requests that get as far as a method, and beyond."""
    method = draw(st.sampled_from(METHODS))
    params: Any = {}
    if method == BUY:
        params = {"opening_fee_params": draw(offers()), "payment_size_msat": draw(SIZES)}
    elif method == GET_INFO:
        params = draw(st.fixed_dictionaries({}, optional={"token": JSON, "more": JSON}))
    message = {"jsonrpc": "2.0", "id": draw(st.text(max_size=30)), "method": method, "params": params}
    for key in draw(st.sets(st.sampled_from([*message, "result", "error"]), max_size=1)):
        message[key] = draw(JSON)
    return message


BYTES = st.one_of(
    st.binary(max_size=200),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.builds(
        lambda head, depth: head * depth, st.sampled_from([b"[", b'{"a":', b'"\\u']), st.integers(0, 60_000 // 6)
    ),
    st.just(b"\xff" * MAX_PAYLOAD),
)


def filled(message: Json, real: Json) -> Json:
    """The message with our own offer where it says so."""
    params = message.get("params")
    terms = params.get("opening_fee_params") if isinstance(params, dict) else None
    if terms == "real":
        message["params"]["opening_fee_params"] = real
    elif isinstance(terms, dict) and terms.pop("real", False):
        message["params"]["opening_fee_params"] = real | terms
    return message


def message_in(payload: bytes) -> Json:
    """The object in a payload, empty when it is none."""
    try:
        return lsps0.parse_json(payload)
    except MalformedFrame:
        return {}


def check_answer(reply: bytes, request_id: object) -> Json:
    """One whole LSPS0 answer: T-10, T-11, T-15, T-20, T-30, T-31."""
    assert len(reply) <= MAX_PAYLOAD
    assert b"\0" not in reply
    answer = lsps0.parse_json(reply)
    assert answer["jsonrpc"] == "2.0"
    assert answer["id"] is None or answer["id"] == request_id
    assert set(answer) in ({"jsonrpc", "id", "result"}, {"jsonrpc", "id", "error"})
    if "result" in answer:
        assert isinstance(answer["result"], dict)
        return answer
    error = answer["error"]
    assert set(error) == {"code", "message"} | ({"data"} & set(error))
    assert (type(error["code"]), type(error["message"])) == (int, str)
    assert error["code"] in CODES
    assert ("data" in error) == (error["code"] in WITH_DATA)
    assert (answer["id"] is None) == (error["code"] == -32700)
    return answer


@given(st.lists(BYTES, min_size=1, max_size=8))
@settings(max_examples=150)
def test_any_bytes_get_silence_or_one_answer(messages: list[bytes]) -> None:
    """T-02, T-03, T-04, T-11, trap:33: nothing raises, nothing is sold, nothing is remembered."""

    async def story() -> None:
        shop = Shop()
        for payload in messages:
            reply = await shop.send(ALICE, payload)
            if reply is not None:
                check_answer(reply, None)
        assert (shop.sold, len(shop.offers), shop.datastore.commits) == ([], 0, 0)
        assert "result" in await shop.ask(BOB, GET_INFO)

    asyncio.run(story())


@given(st.lists(requests(), min_size=1, max_size=6))
@settings(max_examples=250)
def test_any_request_gets_one_answer_and_only_true_offers_are_sold(messages: list[Json]) -> None:
    """T-10, T-14, T-15, T-17, T-19, T-20, P-01, B-06: a schema of every answer; what is sold is what was promised."""

    async def story() -> None:
        shop = Shop()
        real = (await shop.menu())[0]
        for message in messages:
            before = len(shop.sold)
            reply = await shop.send(ALICE, json.dumps(filled(message, real)).encode())
            is_response = "method" not in message and bool({"result", "error"} & set(message))
            assert (reply is None) == is_response
            answer = {} if reply is None else check_answer(reply, message.get("id"))
            assert len(shop.sold) - before == ("result" in answer and message["method"] == BUY)
        assert len(shop.sold) == len(shop.offers)
        for buy in shop.sold:
            assert buy.params.raw["promise"] == real["promise"]
            assert buy.params.fee_msat(buy.payment_size_msat or 0) is not None
        assert {level for _, level in shop.log} <= {"warn"}

    asyncio.run(story())


@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3), st.integers(0, 3)), min_size=1, max_size=4))
@settings(max_examples=300)
def test_a_true_buy_spoilt_by_a_few_bytes_is_sold_as_promised_or_not_at_all(cuts: list[tuple[int, bytes, int]]) -> None:
    """T-02, T-04, T-14, T-17, P-01: bytes put in, taken out and replaced anywhere in a request that was good."""

    async def story() -> None:
        shop = Shop()
        real = (await shop.menu())[0]
        payload = lsps0.encode_request("id", BUY, {"opening_fee_params": real, "payment_size_msat": "50000000"})
        for place, new, gone in cuts:
            at = place % (len(payload) + 1)
            payload = payload[:at] + new + payload[at + gone :]
        reply = await shop.send(ALICE, payload)
        if reply is not None:
            request = message_in(payload)
            answer = check_answer(reply, request.get("id"))
            assert ("result" in answer) == bool(shop.sold) or request.get("method") != BUY
        for buy in shop.sold:
            assert buy.params.to_json() | {"valid_until": ""} == real | {"valid_until": ""}
            assert buy.params.valid_until_ms == parse_datetime(real["valid_until"])

    asyncio.run(story())


@pytest.mark.parametrize("length", [MAX_PAYLOAD, MAX_PAYLOAD + 1, 2 * MAX_PAYLOAD])
def test_a_message_of_any_length_is_read_in_bounded_time(length: int) -> None:
    """T-30, T-02: more than a peer message holds is rubbish at once."""

    async def story() -> None:
        shop = Shop()
        head = b'{"jsonrpc":"2.0","id":"x","method":"lsps0.list_protocols","params":{},"p":"'
        payload = head + b"a" * (length - len(head) - 2) + b'"}'
        answer = json.loads(await shop.send(ALICE, payload) or b"")
        assert ("result" in answer) == (length <= MAX_PAYLOAD)

    asyncio.run(story())
