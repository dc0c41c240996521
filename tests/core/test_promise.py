"""Promises: only the LSP makes one, only its client uses one, and not one bit of the terms can change. Section (e),
trap:29.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lsps2fast.errors import ConfigError, ProtocolBug
from lsps2fast.lsps import promise
from lsps2fast.lsps.lsps2 import FeeParams, parse_datetime

WIRE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text("utf-8"))
CASES = WIRE["promise"]["cases"]
KEY = b"\x42" * 32
OTHER_KEY = b"\x43" * 32
PEER = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
TERMS: dict[str, Any] = {
    "min_fee_msat": 546000,
    "proportional": 1200,
    "valid_until_ms": parse_datetime("2023-02-23T08:47:30.511Z"),
    "min_lifetime_blocks": 1008,
    "max_client_to_self_delay_blocks": 2016,
    "min_payment_size_msat": 1000,
    "max_payment_size_msat": 1000000,
}
CHANGED = {
    "min_fee_msat + 1": "min_fee_msat",
    "proportional + 1": "proportional",
    "valid_until + 1 ms": "valid_until_ms",
    "min_lifetime + 1": "min_lifetime_blocks",
    "max_client_to_self_delay + 1": "max_client_to_self_delay_blocks",
    "min_payment_size + 1": "min_payment_size_msat",
    "max_payment_size + 1": "max_payment_size_msat",
}
TOKEN = promise.token_hash("SECRETDISCOUNTCOUPON100")
LAST_MS = parse_datetime("9999-12-31T23:59:59.999Z")
LAYOUT = struct.Struct(">B33sQQQIIQQ")

terms = st.fixed_dictionaries(
    {
        "min_fee_msat": st.integers(0, 2**64 - 1),
        "proportional": st.integers(0, 2**32 - 1),
        "valid_until_ms": st.integers(0, LAST_MS),
        "min_lifetime_blocks": st.integers(0, 2**32 - 1),
        "max_client_to_self_delay_blocks": st.integers(0, 2**32 - 1),
        "min_payment_size_msat": st.integers(0, 2**64 - 1),
        "max_payment_size_msat": st.integers(0, 2**64 - 1),
    }
)
tokens = st.none() | st.binary(min_size=32, max_size=32)


def params_of(**changes: int) -> FeeParams:
    return FeeParams.build(**{**TERMS, **changes})


def params_of_message(message: bytes) -> tuple[bytes, FeeParams]:
    """Read a vector's canonical form back: (node id, terms)."""
    _, peer_id, *values = LAYOUT.unpack(message)
    return peer_id, FeeParams.build(**dict(zip(TERMS, values, strict=True)))


def promised(token: bytes | None = None, **changes: int) -> FeeParams:
    params = params_of(**changes)
    return params.with_promise(promise.sign(KEY, PEER, params, token))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_promises_are_those_of_the_vectors(case: dict[str, str]) -> None:
    """P-03: V:promise; the case named "other key" is made with 32 x 0x43."""
    key = {"other key": OTHER_KEY}.get(case["name"], KEY)
    peer_id, params = params_of_message(bytes.fromhex(case["message_hex"]))
    assert promise.canonical(peer_id, params).hex() == case["message_hex"]
    assert promise.sign(key, peer_id, params) == case["promise"]
    assert promise.verify([key], peer_id, params.with_promise(case["promise"]))


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("name", sorted(CHANGED.values()))
@pytest.mark.parametrize("step", [1, -1])
def test_one_step_in_one_field_is_refused(token: bytes | None, name: str, step: int) -> None:
    """P-01, trap:29: each of the seven terms."""
    good = promised(token)
    bad = params_of(**{name: TERMS[name] + step}).with_promise(good.promise)
    assert promise.verify([KEY], PEER, good)
    assert not promise.verify([KEY], PEER, bad)


@pytest.mark.parametrize(("case", "name"), [(c, CHANGED[c["name"]]) for c in CASES if c["name"] in CHANGED])
def test_the_vectors_change_the_field_they_name(case: dict[str, str], name: str) -> None:
    """P-01: V:promise, from our own terms."""
    assert promise.sign(KEY, PEER, params_of(**{name: TERMS[name] + 1})) == case["promise"]


@given(terms, tokens, st.data())
def test_one_bit_in_any_term_is_refused(values: dict[str, Any], token: bytes | None, data: st.DataObject) -> None:
    """P-01, trap:29."""
    name = data.draw(st.sampled_from(sorted(values)))
    bit = data.draw(st.integers(0, 31))
    assume(name != "valid_until_ms" or values[name] ^ 1 << bit <= LAST_MS)  # no datetime has a year of five digits
    good = FeeParams.build(**values)
    text = promise.sign(KEY, PEER, good, token)
    bad = FeeParams.build(**{**values, name: values[name] ^ 1 << bit})
    assert promise.verify([KEY], PEER, good.with_promise(text))
    assert not promise.verify([KEY], PEER, bad.with_promise(text))


@pytest.mark.parametrize("token", [None, TOKEN])
def test_one_bit_in_the_promise_is_refused(token: bytes | None) -> None:
    """P-01, trap:29: every bit of every character, the token's part included."""
    good = promised(token)
    spoilt = [
        good.promise[:at] + chr(ord(good.promise[at]) ^ 1 << bit) + good.promise[at + 1 :]
        for at in range(len(good.promise))
        for bit in range(7)
    ]
    assert not any(promise.verify([KEY], PEER, good.with_promise(text)) for text in spoilt)


@pytest.mark.parametrize("bit", range(33 * 8))
def test_one_bit_in_the_node_id_is_refused(bit: int) -> None:
    """P-03, trap:29: another client cannot use the offer."""
    other = (int.from_bytes(PEER, "big") ^ 1 << bit).to_bytes(33, "big")
    assert not promise.verify([KEY], other, promised())


@given(st.text(max_size=200) | st.text("0123456789abcdef", min_size=64, max_size=64))
def test_no_text_is_a_promise_by_chance(text: str) -> None:
    """P-01, trap:33: any text, non-ASCII included, is refused without an error."""
    assert not promise.verify([KEY], PEER, params_of().with_promise(text))


@pytest.mark.parametrize(
    "text",
    [
        promised().promise.upper(),
        promised().promise + "\n",
        " " + promised().promise,
        promised().promise[:-1],
        promised().promise + "00" * 32,
        promised(TOKEN).promise[:64],
        promised().promise + TOKEN.hex(),
        "",
    ],
)
def test_a_promise_has_one_spelling(text: str) -> None:
    """P-01, P-04: upper case, blanks, a token cut off or put on."""
    assert not promise.verify([KEY], PEER, params_of().with_promise(text))


@given(terms, tokens)
def test_a_promise_is_short_and_needs_no_escape(values: dict[str, Any], token: bytes | None) -> None:
    """P-02."""
    text = promise.sign(KEY, PEER, FeeParams.build(**values), token)
    assert re.fullmatch(r"[ !#-\[\]-~]{1,512}", text)


@given(terms, terms, tokens, tokens)
def test_no_two_offers_share_a_canonical_form(
    first: dict[str, Any], second: dict[str, Any], first_token: bytes | None, second_token: bytes | None
) -> None:
    """P-03: fixed width, so equal bytes mean equal offers; a version byte keeps both forms apart."""
    one = promise.canonical(PEER, FeeParams.build(**first), first_token)
    two = promise.canonical(PEER, FeeParams.build(**second), second_token)
    assert (one == two) == ((first, first_token) == (second, second_token))


def test_a_token_is_bound_to_the_offer() -> None:
    """trap:29, P-06: the buy does not name the token, the promise does."""
    other = promise.token_hash("OTHER")
    good = promised(TOKEN)
    swapped = good.with_promise(good.promise[:64] + other.hex())
    assert promise.promised_token(good) == TOKEN
    assert promise.promised_token(promised()) is None
    assert promise.promised_token(params_of(min_fee_msat=1)) is None
    assert not promise.verify([KEY], PEER, swapped)


def test_a_token_leaves_version_one_alone() -> None:
    """P-03: the second form differs in its first byte, and adds 32 bytes at the end."""
    plain, bound = promise.canonical(PEER, params_of()), promise.canonical(PEER, params_of(), TOKEN)
    assert (plain[0], bound[0]) == (1, 2)
    assert bound[1:] == plain[1:] + TOKEN


def test_two_texts_of_one_instant_are_one_promise() -> None:
    """S-07: a client that writes .000Z as Z still matches."""
    params = params_of(valid_until_ms=1_677_142_050_000)
    text = promise.sign(KEY, PEER, params)
    rewritten = FeeParams.from_json({**params.to_json(), "valid_until": "2023-02-23T08:47:30Z", "promise": text})
    assert promise.verify([KEY], PEER, rewritten)


def test_terms_without_a_form_are_refused_not_fatal() -> None:
    """trap:33: a client sends the year 1969."""
    early = FeeParams.from_json({**promised().to_json(), "valid_until": "1969-12-31T23:59:59.999Z"})
    assert not promise.verify([KEY], PEER, early)
    with pytest.raises(ProtocolBug, match="canonical form"):
        promise.sign(KEY, PEER, early)


@pytest.mark.parametrize(
    ("key", "peer_id", "token"),
    [(KEY[1:], PEER, None), (KEY, PEER[1:], None), (KEY, PEER, TOKEN[1:]), (KEY, PEER, b"")],
)
def test_wrong_lengths_are_bugs_of_ours(key: bytes, peer_id: bytes, token: bytes | None) -> None:
    """P-03: a variable length would make the form ambiguous."""
    with pytest.raises(ProtocolBug):
        promise.sign(key, peer_id, params_of(), token)


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_any_of_several_keys_verifies() -> None:
    """P-05: rotation."""
    assert promise.verify([OTHER_KEY, KEY], PEER, promised())
    assert promise.verify([KEY, OTHER_KEY], PEER, promised())
    assert not promise.verify([OTHER_KEY], PEER, promised())
    assert not promise.verify([], PEER, promised())


def test_rotation_keeps_old_offers_and_stops_new_ones_under_the_old_key() -> None:
    """P-05, trap:29: a retired key is good up to the last valid_until it issued, not a millisecond more."""
    last_ms = TERMS["valid_until_ms"]
    ring = promise.Keyring(OTHER_KEY, [(KEY, last_ms)])
    assert ring.verify(PEER, promised())
    assert not ring.verify(PEER, promised(valid_until_ms=last_ms + 1))
    assert not promise.Keyring(OTHER_KEY).verify(PEER, promised())


def test_a_keyring_signs_with_its_current_key() -> None:
    """P-05, P-07: it keeps nothing of what it signed."""
    ring = promise.Keyring(OTHER_KEY, [(KEY, TERMS["valid_until_ms"])])
    signed = ring.sign(PEER, params_of(), TOKEN)
    assert ring.verify(PEER, signed)
    assert promise.verify([OTHER_KEY], PEER, signed)
    assert not promise.verify([KEY], PEER, signed)
    assert promise.Keyring.__slots__ == ("_current", "_retired")


def test_keys_are_not_printed() -> None:
    """P-05, K-28: neither by a keyring nor by a complaint about a malformed one."""
    shown = repr(promise.Keyring(KEY, [(OTHER_KEY, 0)]))
    assert KEY.hex() not in shown
    assert str(KEY) not in shown
    with pytest.raises(ConfigError) as caught:
        promise.key_from_hex("deadbeef" * 7 + "secret")
    assert "deadbeef" not in str(caught.value)
    assert "secret " in str(caught.value)


@pytest.mark.parametrize("text", ["", "42" * 31, "42" * 33, "4z" * 32, "42" * 32 + "\n", "0x" + "42" * 31])
def test_a_key_has_64_hex_digits(text: str) -> None:
    """P-05."""
    assert promise.key_from_hex("42" * 32) == KEY
    with pytest.raises(ConfigError):
        promise.key_from_hex(text)


@pytest.mark.parametrize("retired", [[], [(KEY[1:], 0)]])
def test_a_keyring_has_keys_of_32_bytes(retired: list[tuple[bytes, int]]) -> None:
    """P-05."""
    with pytest.raises(ConfigError):
        promise.Keyring({0: KEY[1:], 1: KEY}[len(retired)], retired)


def test_all_keys_are_tried_and_texts_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """P-04: hmac.compare_digest, once for each key, whichever matches."""
    seen: list[bool] = []
    compare = hmac.compare_digest

    def watched(one: bytes, two: bytes) -> bool:
        seen.append(compare(one, two))
        return seen[-1]

    monkeypatch.setattr(hmac, "compare_digest", watched)
    assert promise.verify([KEY, OTHER_KEY, KEY], PEER, promised())
    assert seen == [True, False, True]
