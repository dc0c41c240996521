"""Parts that come inside a blinded path (BOLT 4 route blinding, which BOLT 12 pays over), made into parts like others.

Their payload says nothing that we can read: amount, expiry and next hop are in data which lightningd decrypts for the
hook (cln:N7). As introduction node it takes a plain payload in its place and keeps the path key for the next hop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lsps2fast import _tlv as tlv
from lsps2fast.errors import MalformedTlv

INVALID_ONION_BLINDING = "c018" + "00" * 32  # all that may be said (BOLT 4); the hook does not show the packet to hash
ENCRYPTED_RECIPIENT_DATA = 10
CURRENT_PATH_KEY = 12
SWITCHED_OFF = "the option lsps2-blinded-paths would let it in"
FURTHER_IN = "the path begins before us, so no fee can be taken"
UNKNOWN_AMOUNTS = "its amount or its expiry cannot be known"


class BlindedPart(NamedTuple):
    """A hook call as the rest of the service sees it; `payload_hex` is the plain payload, with its length prefix."""

    id_raw: bytes
    next_scid: int
    payment_hash: bytes
    in_scid: int
    htlc_id: int
    amount_msat: int
    cltv_expiry: int
    forward_msat: int
    outgoing_cltv_value: int
    payload_hex: str


def why_not(call: Any, payload: tlv.HopPayload) -> str | None:
    """Return why a part inside a blinded path cannot be sold, None if it can."""
    if CURRENT_PATH_KEY not in dict(payload.records):  # it came with the HTLC, and lightningd takes no plain payload
        return FURTHER_IN
    if call.forward_msat < 0 or not 0 <= call.outgoing_cltv_value <= 0xFFFF_FFFF:
        return UNKNOWN_AMOUNTS
    return None


def unblinded(call: Any) -> BlindedPart:
    """Return the call with the plain payload that says the same."""
    stream = tlv.write_stream(
        (
            (2, tlv.encode_tu(call.forward_msat)),
            (4, tlv.encode_tu(call.outgoing_cltv_value, 4)),
            (6, call.next_scid.to_bytes(8, "big")),
        )
    )
    return BlindedPart(
        id_raw=call.id_raw,
        next_scid=call.next_scid,
        payment_hash=call.payment_hash,
        in_scid=call.in_scid,
        htlc_id=call.htlc_id,
        amount_msat=call.amount_msat,
        cltv_expiry=call.cltv_expiry,
        forward_msat=call.forward_msat,
        outgoing_cltv_value=call.outgoing_cltv_value,
        payload_hex=(tlv.encode_bigsize(len(stream)) + stream).hex(),
    )


def is_blinded(call: Any) -> bool:
    """Return whether a part came inside a blinded path; a payload that cannot be read says no."""
    if isinstance(call, BlindedPart):
        return True
    try:
        return bool(tlv.read_payload(call.payload_hex).blinded)
    except MalformedTlv:
        return False


def failure_for(call: Any, failure_hex: str) -> str:
    """Return what the payer is told: inside a blinded path there is one failure for all (BOLT 4)."""
    return INVALID_ONION_BLINDING if is_blinded(call) else failure_hex
