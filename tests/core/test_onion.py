"""BOLT 4 onions against the published vectors, and round trips.

Of the published files only parameters and SHA-256 sums are kept here: bolt04/onion-test.json and
bolt04/onion-error-test.json of lightning/bolts at commit a377265.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast import onion
from lsps2fast.errors import MalformedOnion, MalformedTlv

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text(encoding="utf-8"))

SESSION_KEY = b"\x41" * 32
PAYMENT_HASH = b"\x42" * 32
NODE_KEYS = [bytes([0x41 + i]) * 32 for i in range(5)]
NODE_IDS = [PrivateKey(key).public_key.format() for key in NODE_KEYS]
PAYLOADS = [bytes.fromhex(row["hex_with_length_prefix"]) for row in VECTORS["onion_payloads"]["published"]]
HOPS = list(zip(NODE_IDS, PAYLOADS, strict=True))
SECRETS = [
    "53eb63ea8a3fec3b3cd433b85cd62a4b145e1dda09391b348c4e1cd36a03ea66",
    "a6519e98832a0b179f62123b3567c106db99ee37bef036e783263602f3488fae",
    "3a6b412548762f0dbccce5c7ae7bb8147d1caf9b5471c34120b30bc9c04891cc",
    "21e13c2d7cfe7e18836df50872466117a295783ab8aab0e7ecc8c725503ad02d",
    "b5756b9b542727dbafc6765a49488b023a725d631af688fc031217e90770c328",
]
ONION_SHA256 = "92e0742510440ed2368e1c03aed09d49a2e4cb4409c88ee0ad02a35c4a4b495a"
FAILURE_SHA256 = "3ba4a39c222872dbe9d2a583aedb40d6baf29fc46c4379152997939d5144115c"

PACKET, SHARED = onion.build(SESSION_KEY, HOPS, PAYMENT_HASH)


def failure_from(index: int, failure: bytes, secrets: list[bytes]) -> bytes:
    """What the payer receives when hop `index` of a route fails."""
    blob = onion.wrap_failure(secrets[index], failure)
    for secret in reversed(secrets[:index]):
        blob = onion.relay_failure(secret, blob)
    return blob


def spoiled(packet: bytes, at: int) -> bytes:
    """`packet` with one bit of byte `at` turned over."""
    return packet[:at] + bytes([packet[at] ^ 1]) + packet[at + 1 :]


# ----------------------------------------------------------------------------------- published vectors


def test_packet_is_the_published_one() -> None:
    """BOLT 4 onion-test.json: five hops, the last payload of 275 bytes."""
    assert [secret.hex() for secret in SHARED] == SECRETS
    assert len(PACKET) == onion.PACKET_LENGTH
    assert sha256(PACKET).hexdigest() == ONION_SHA256


def test_each_hop_of_the_published_packet_finds_its_payload() -> None:
    """BOLT 4 onion-test.json: decoding with the keys 41..41 to 45..45."""
    packet: Any = PACKET
    for key, payload, secret in zip(NODE_KEYS, PAYLOADS, SECRETS, strict=True):
        peeled = onion.peel(key, packet, PAYMENT_HASH)
        assert (peeled.payload, peeled.shared_secret.hex()) == (payload, secret)
        packet = peeled.next_packet
    assert packet is None


def test_failure_is_the_published_one() -> None:
    """BOLT 4 onion-error-test.json: 2002 from the fifth hop."""
    blob = failure_from(4, bytes.fromhex("2002"), SHARED)
    assert len(blob) == 292
    assert sha256(blob).hexdigest() == FAILURE_SHA256
    assert onion.unwrap_failure(SHARED, blob) == (4, bytes.fromhex("2002"))


# --------------------------------------------------------------------------------------- hop payloads


@pytest.mark.parametrize(
    ("index", "arguments"),
    [
        (0, (15000, 1500, 1)),
        (2, (12500, 1250, 3)),
        (3, (10000, 1000, 4)),
    ],
)
def test_hop_payload_is_the_published_one(index: int, arguments: tuple[int, int, int]) -> None:
    """H-13, BOLT 4 onion-test.json: payloads of forwarding hops."""
    assert onion.hop_payload(*arguments) == PAYLOADS[index]


@pytest.mark.parametrize(("row", "total"), [(2, 1_000_000), (2, None), (4, 1_000_000)])
def test_final_payload_is_the_computed_one(row: int, total: int | None) -> None:
    """V:onion_payloads.computed: the client's hop; the total is the amount when left out."""
    wanted = VECTORS["onion_payloads"]["computed"][row]
    amount = int(wanted["decoded"]["amt_to_forward"])
    payload = onion.hop_payload(amount, 800_000, payment_secret=b"\x42" * 32, total_msat=total)
    assert payload.hex() == wanted["hex_with_length_prefix"]


@pytest.mark.parametrize(("amount", "cltv"), [(2**64, 1), (-1, 1), (1, 2**32)])
def test_hop_payload_with_a_number_too_large_is_refused(amount: int, cltv: int) -> None:
    """H-07."""
    with pytest.raises(MalformedTlv):
        onion.hop_payload(amount, cltv)


# ------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("packet", "offset"),
    [
        (b"", 0),
        (PACKET[:-1], 1365),
        (PACKET + b"\x00", 1366),
        (b"\x01" + PACKET[1:], 0),
        (PACKET[:1] + b"\x04" + PACKET[2:], 1),
        (PACKET[:1] + b"\x02" + b"\xff" * 32 + PACKET[34:], 1),
        (spoiled(PACKET, 1), 1334),
        (spoiled(PACKET, 34), 1334),
        (spoiled(PACKET, 1333), 1334),
        (spoiled(PACKET, 1365), 1334),
    ],
    ids=["empty", "short", "long", "version", "point form", "no point", "point", "first", "last", "hmac"],
)
def test_spoiled_packet_is_refused(packet: bytes, offset: int) -> None:
    """BOLT 4 reader: length, version, point, HMAC, each named by where it stands."""
    with pytest.raises(MalformedOnion) as caught:
        onion.peel(NODE_KEYS[0], packet, PAYMENT_HASH)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("key", "payment_hash"), [(NODE_KEYS[1], PAYMENT_HASH), (NODE_KEYS[0], b"\x43" * 32)], ids=["key", "hash"]
)
def test_packet_for_another_node_or_payment_is_refused(key: bytes, payment_hash: bytes) -> None:
    """BOLT 4: the HMAC binds the packet to node and payment hash."""
    with pytest.raises(MalformedOnion):
        onion.peel(key, PACKET, payment_hash)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00", b"\x01\x00", b"\x03\x02\x00", b"\x02\x02\x00\x00", b"\xfd\x00\x02\x02\x00", b"\xfd\x01"],
    ids=["nothing", "length 0", "length 1", "too short", "too long", "not minimal", "cut short"],
)
def test_payload_with_a_bad_prefix_is_not_built(payload: bytes) -> None:
    """BOLT 4: lengths 0 and 1 are reserved."""
    with pytest.raises(MalformedOnion):
        onion.build(SESSION_KEY, [(NODE_IDS[0], payload)], PAYMENT_HASH)


@pytest.mark.parametrize("hops", [[], [(b"\x05" + NODE_IDS[0][1:], PAYLOADS[0])], [(b"", PAYLOADS[0])]])
def test_route_without_hops_or_with_a_bad_key_is_not_built(hops: list[tuple[bytes, bytes]]) -> None:
    """BOLT 4."""
    with pytest.raises(MalformedOnion):
        onion.build(SESSION_KEY, hops, PAYMENT_HASH)


def payload_of(size: int) -> bytes:
    """A payload of `size` bytes in all, at least 256, prefix of three bytes included."""
    return b"\xfd" + (size - 3).to_bytes(2, "big") + b"\x2a" * (size - 3)


def test_payloads_fill_a_packet_to_the_last_byte_and_no_further() -> None:
    """BOLT 4: 1300 bytes hold the payloads and an HMAC for each."""
    packet, _ = onion.build(SESSION_KEY, [(NODE_IDS[0], payload_of(1300 - 32))], PAYMENT_HASH)
    assert onion.peel(NODE_KEYS[0], packet, PAYMENT_HASH).payload == payload_of(1300 - 32)
    with pytest.raises(MalformedOnion):
        onion.build(SESSION_KEY, [(NODE_IDS[0], payload_of(1300 - 31))], PAYMENT_HASH)


@pytest.mark.parametrize("start", [b"\x00", b"\x01", b"\xfd\x00\x10", b"\xfd\x04\xf3", b"\xfd\x05\x14", b"\xff" * 9])
def test_authentic_packet_with_a_payload_out_of_bounds_is_refused(start: bytes) -> None:
    """BOLT 4 reader: reserved, not minimal, no room for the HMAC, longer than the packet."""
    point, (secret,) = onion._agree(SESSION_KEY, NODE_IDS[:1])
    payloads = onion._mask(b"rho", secret, start.ljust(1300, b"\x2a"))
    packet = b"\x00" + point + payloads + onion._mac(b"mu", secret, payloads + PAYMENT_HASH)
    with pytest.raises(MalformedOnion) as caught:
        onion.peel(NODE_KEYS[0], packet, PAYMENT_HASH)
    assert caught.value.offset == 34


# ------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize("blob", [b"", bytes(31), bytes(32), bytes(292)])
def test_failure_from_nobody_is_refused(blob: bytes) -> None:
    """BOLT 4: no HMAC of the route fits."""
    with pytest.raises(MalformedOnion):
        onion.unwrap_failure(SHARED, blob)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\x03ab"])
def test_authentic_failure_cut_short_is_refused(body: bytes) -> None:
    """BOLT 4: a hop on the route may still write nonsense."""
    blob = onion.relay_failure(SHARED[0], onion._mac(b"um", SHARED[0], body) + body)
    with pytest.raises(MalformedOnion):
        onion.unwrap_failure(SHARED, blob)


def test_failure_longer_than_its_length_field_is_not_built() -> None:
    """BOLT 4: u16 length."""
    with pytest.raises(MalformedOnion):
        onion.wrap_failure(SHARED[0], bytes(0x10000))


@pytest.mark.parametrize("row", VECTORS["failure_messages"]["vectors"], ids=lambda row: row["name"])
def test_every_failure_message_comes_back_from_every_hop(row: dict[str, Any]) -> None:
    """trap:23, V:failure_messages: index and bytes."""
    failure = bytes.fromhex(row["hex"])
    for index in range(5):
        assert onion.unwrap_failure(SHARED, failure_from(index, failure, SHARED)) == (index, failure)


# ----------------------------------------------------------------------------------------- properties

KEYS = st.integers(1, 2**250).map(lambda number: number.to_bytes(32, "big"))
BODIES = st.binary(min_size=2, max_size=120).map(lambda body: bytes([len(body)]) + body)


@settings(max_examples=40)
@given(session_key=KEYS, route=st.lists(st.tuples(KEYS, BODIES), min_size=1, max_size=8), payment_hash=KEYS)
def test_every_route_is_peeled_to_its_end(
    session_key: bytes, route: list[tuple[bytes, bytes]], payment_hash: bytes
) -> None:
    """Each hop gets its own payload and the payer's secret; the last one sees that it is the last."""
    hops = [(PrivateKey(key).public_key.format(), payload) for key, payload in route]
    packet: Any
    packet, secrets = onion.build(session_key, hops, payment_hash)
    for (key, payload), secret in zip(route, secrets, strict=True):
        peeled = onion.peel(key, packet, payment_hash)
        assert (peeled.payload, peeled.shared_secret) == (payload, secret)
        packet = peeled.next_packet
    assert packet is None


@settings(max_examples=40)
@given(packet=st.binary(min_size=1365, max_size=1365).map(lambda rest: b"\x00" + rest))
def test_arbitrary_packet_is_refused_and_nothing_else(packet: bytes) -> None:
    """trap:12: MalformedOnion is the only exception."""
    with pytest.raises(MalformedOnion):
        onion.peel(NODE_KEYS[0], packet, PAYMENT_HASH)


@settings(max_examples=40)
@given(
    secrets=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=8, unique=True),
    failure=st.binary(max_size=600),
    data=st.data(),
)
def test_every_failure_finds_its_way_back(secrets: list[bytes], failure: bytes, data: st.DataObject) -> None:
    """The payer learns which hop failed and what it said."""
    index = data.draw(st.integers(0, len(secrets) - 1))
    assert onion.unwrap_failure(secrets, failure_from(index, failure, secrets)) == (index, failure)
