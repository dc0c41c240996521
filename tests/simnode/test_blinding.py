"""Blinded paths against BOLT 4's published vectors, and what lightningd makes of them.

Of the published file only parameters and SHA-256 sums are kept: bolt04/route-blinding-test.json of lightning/bolts at
commit 3b814f0.
"""

from __future__ import annotations

from hashlib import sha256

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast_plugin.simnode import blinding, tlv
from lsps2fast_plugin.simnode.blinding import Relay

BOB, CAROL, DAVE, EVE = (bytes([0x42 + place]) * 32 for place in range(4))
U64_MAX = 2**64 - 1


def _id(private_key: bytes) -> bytes:
    return PrivateKey(private_key).public_key.format()


BOB_DATA = tlv.write_records(
    {1: bytes(26), 2: (1729).to_bytes(8, "big"), 10: Relay(36, 150, 10_000).encode(), 12: b"\0\x0b\x69\xe5\x05\xdc"}
    | {14: b"", 561: bytes.fromhex("123456")}
)
FIRST = blinding.make(b"\x02" * 32, [(_id(BOB), BOB_DATA), (_id(CAROL), b"")])
DAVE_DATA = tlv.write_records(
    {1: bytes(35), 2: (561).to_bytes(8, "big"), 10: Relay(144, 250).encode(), 12: b"\0\x0b\x69\x91\x05\xdc", 14: b""}
)
EVE_DATA = tlv.write_records(
    {1: bytes(26), 6: bytes.fromhex("deadbeef"), 12: b"\0\x0b\x69\x01\x05\xdc", 14: b"\2" + bytes(14)}
    | {65535: b"\x06\xc1"}
)
SECOND = blinding.make(b"\x01" * 32, [(_id(DAVE), DAVE_DATA), (_id(EVE), EVE_DATA)])


def test_the_paths_are_the_published_ones() -> None:
    """BOLT 4 route-blinding-test.json: Bob to Carol with session key 02..02, Dave to Eve with 01..01."""
    assert FIRST.path_key.hex() == "024d4b6cd1361032ca9bd2aeb9d900aa4d45d9ead80ac9423374c451a7254d0766"
    assert SECOND.path_key.hex() == "031b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17f5e9d5dd078f"
    ids = b"".join(hop.node_id for hop in (*FIRST.hops, *SECOND.hops))
    data = b"".join(hop.encrypted for hop in (FIRST.hops[0], *SECOND.hops))
    assert sha256(ids).hexdigest() == "144601c86872ce5c01170200ad337f7876a743422f52ccc24119d9307c78f969"
    assert sha256(data).hexdigest() == "423dd36794f9244ec39b8b2bf03b4cd4514976a54a94e7bafc58c825e8c8829c"


def test_each_hop_opens_its_own_data_and_finds_the_next_key() -> None:
    """BOLT 4 route-blinding-test.json, `unblind`: Bob, then Dave and Eve."""
    bob = blinding.unblind(BOB, FIRST.path_key, FIRST.hops[0].encrypted)
    assert bob.records == tlv.read_records(BOB_DATA)
    assert bob.next_path_key.hex() == "034e09f450a80c3d252b258aba0a61215bf60dda3b0dc78ffb0736ea1259dfd8a0"
    dave = blinding.unblind(DAVE, SECOND.path_key, SECOND.hops[0].encrypted)
    assert dave.next_path_key.hex() == "03e09038ee76e50f444b19abf0a555e8697e035f62937168b80adf0931b31ce52a"
    eve = blinding.unblind(EVE, dave.next_path_key, SECOND.hops[1].encrypted)
    assert eve.records == tlv.read_records(EVE_DATA)
    own = blinding.onion_key(EVE, dave.next_path_key)
    assert own.hex() == "ff4e07da8d92838bedd019ce532eb990ed73b574e54a67862a1df81b40c0d2af"
    assert _id(own) == SECOND.hops[1].node_id
    assert blinding.onion_key(EVE, None) == EVE


def test_no_node_opens_what_is_for_another() -> None:
    """The wrong node, the wrong key, one bit turned over: ValueError."""
    encrypted = FIRST.hops[0].encrypted
    for key, path_key, data in (
        (CAROL, FIRST.path_key, encrypted),
        (BOB, SECOND.path_key, encrypted),
        (BOB, FIRST.path_key, bytes([encrypted[0] ^ 1]) + encrypted[1:]),
    ):
        with pytest.raises(ValueError, match="does not decrypt"):
            blinding.unblind(key, path_key, data)


def test_the_onion_carries_what_the_published_one_carries() -> None:
    """BOLT 4 blinded-payment-onion-test.json: types 10 and 12 for the first hop, 2, 4, 10 and 18 for the last."""
    final = {2: tlv.tu(100_000), 4: tlv.tu(749_000), blinding.TOTAL_AMOUNT: tlv.tu(150_000)}
    (first_id, first), (last_id, last) = blinding.onion_hops(SECOND, final)
    assert (first_id, last_id) == (_id(DAVE), SECOND.hops[1].node_id)
    assert tlv.read_records(first) == {10: SECOND.hops[0].encrypted, 12: SECOND.path_key}
    data = SECOND.hops[1].encrypted
    assert last.hex() == f"02030186a004030b6dc80a{len(data):02x}{data.hex()}12030249f0"


def test_amounts_of_the_published_route() -> None:
    """BOLT 4 blinded-payment-onion-test.json: Bob gets 110,125 msat and passes on what his relay leaves."""
    assert Relay(50, 0, 10_000).forward_msat(110_125) == 100_125
    assert Relay(75, 150, 100).forward_msat(100_125) == 100_010
    assert Relay(25, 100).forward_msat(100_010) == 100_000
    assert Relay(50, 0, 10_000).outgoing_cltv(749_150) == 749_100


@given(st.integers(0, U64_MAX), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_relays_read_as_they_were_written_and_stay_in_their_bits(msat: int, delta: int, ppm: int, base: int) -> None:
    """cln:N7: what a path makes up may overflow, as in lightningd; it is a u64 and a u32 all the same."""
    relay = Relay(delta, ppm, base)
    assert Relay.decode(relay.encode()) == relay
    assert 0 <= relay.forward_msat(msat) <= U64_MAX
    assert 0 <= relay.outgoing_cltv(delta // 2) < 2**32
