"""The plain payload that takes the place of a blinded one, byte for byte, and what the payer is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast import _hook
from lsps2fast import _tlv as tlv
from lsps2fast_plugin.service import blinded_parts

# BOLT 4 blinded-payment-onion-test.json (lightning/bolts at 3b814f0): types and lengths of Bob's payload, other bytes.
BOB = "740a4f" + "5a" * 79 + "0c21" + "02" * 33
CAROL = "510a4f" + "5a" * 79
U64_MAX = 2**64 - 1
SCID = 1 << 40 | 2 << 16 | 3


def _call(**said: Any) -> _hook.Scan:
    fields = {
        "id_raw": b'"cln:htlc_accepted#1"',
        "next_scid": SCID,
        "forward_to": None,
        "payment_hash": bytes(32),
        "in_scid": 1,
        "htlc_id": 7,
        "amount_msat": 10_000_000,
        "cltv_expiry": 290,
        "forward_msat": 10_000_000,
        "outgoing_cltv_value": 146,
        "payload_hex": BOB,
        "total_msat": -1,
        "payment_secret": None,
        "extra_tlvs": None,
        "peer_id": None,
    }
    return _hook.Scan(**fields | said)


def test_the_plain_payload_is_this_one() -> None:
    """C-25, H-10, cln:N7: types 2, 4 and 6 with a length in front; going out without it, the fee taken off."""
    plain = blinded_parts.unblinded(_call())
    assert plain.payload_hex == "12" + "0203989680" + "040192" + "06080000010000020003"
    assert tlv.forward_payload(plain.payload_hex, 9_000_000) == "0203895440" + "040192" + "06080000010000020003"
    assert (plain.id_raw, plain.htlc_id, plain.amount_msat, plain.cltv_expiry) == (_call().id_raw, 7, 10_000_000, 290)


@given(st.integers(0, U64_MAX), st.integers(0, 2**32 - 1), st.integers(0, U64_MAX), st.integers(0, U64_MAX))
def test_it_says_what_lightningd_decoded(msat: int, cltv: int, scid: int, out_msat: int) -> None:
    """C-25, H-12: for all numbers there are."""
    plain = blinded_parts.unblinded(_call(forward_msat=msat, outgoing_cltv_value=cltv, next_scid=scid))
    read = tlv.read_payload(plain.payload_hex)
    assert (read.amt_to_forward_msat, read.outgoing_cltv_value, read.short_channel_id) == (msat, cltv, scid)
    assert not read.blinded
    out = tlv.read_payload(tlv.forward_payload(plain.payload_hex, out_msat), False)
    assert (out.amt_to_forward_msat, out.outgoing_cltv_value, out.short_channel_id) == (out_msat, cltv, scid)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, None),
        ({"payload_hex": CAROL}, blinded_parts.FURTHER_IN),
        ({"forward_msat": -1}, blinded_parts.UNKNOWN_AMOUNTS),
        ({"outgoing_cltv_value": -1}, blinded_parts.UNKNOWN_AMOUNTS),
        ({"outgoing_cltv_value": 2**32}, blinded_parts.UNKNOWN_AMOUNTS),
        ({"outgoing_cltv_value": 2**32 - 1}, None),
    ],
)
def test_only_the_first_hop_with_known_numbers_can_be_sold(said: dict[str, Any], why: str | None) -> None:
    """C-25: the path key is in the onion of the first hop alone."""
    call = _call(**said)
    assert blinded_parts.why_not(call, tlv.read_payload(call.payload_hex)) == why
