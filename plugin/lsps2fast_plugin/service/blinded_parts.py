"""Parts that come inside a blinded path (BOLT 4 route blinding, which BOLT 12 pays over), made into parts like others.

Their payload says nothing that we can read: amount, expiry and next hop are in data which lightningd decrypts for the
hook (cln:N7). As introduction node it takes a plain payload in its place and keeps the path key for the next hop.
"""

from __future__ import annotations

from lsps2fast import _hook
from lsps2fast import _tlv as tlv

CURRENT_PATH_KEY = 12
SWITCHED_OFF = "the option lsps2-blinded-paths would let it in"
FURTHER_IN = "the path begins before us, so no fee can be taken"
UNKNOWN_AMOUNTS = "its amount or its expiry cannot be known"


def why_not(call: _hook.Scan, payload: tlv.HopPayload) -> str | None:
    """Return why a part inside a blinded path cannot be sold, None if it can."""
    if CURRENT_PATH_KEY not in dict(payload.records):  # it came with the HTLC, and lightningd takes no plain payload
        return FURTHER_IN
    if call.forward_msat < 0 or not 0 <= call.outgoing_cltv_value <= 0xFFFF_FFFF:
        return UNKNOWN_AMOUNTS
    return None


def unblinded(call: _hook.Scan) -> _hook.Scan:
    """Return the call with the plain payload that says the same, with its length prefix."""
    stream = tlv.write_stream(
        (
            (2, tlv.encode_tu(call.forward_msat)),
            (4, tlv.encode_tu(call.outgoing_cltv_value, 4)),
            (6, call.next_scid.to_bytes(8, "big")),
        )
    )
    return _hook.Scan(
        id_raw=call.id_raw,
        next_scid=call.next_scid,
        forward_to=call.forward_to,
        payment_hash=call.payment_hash,
        in_scid=call.in_scid,
        htlc_id=call.htlc_id,
        amount_msat=call.amount_msat,
        cltv_expiry=call.cltv_expiry,
        forward_msat=call.forward_msat,
        outgoing_cltv_value=call.outgoing_cltv_value,
        payload_hex=(tlv.encode_bigsize(len(stream)) + stream).hex(),
        total_msat=call.total_msat,
        payment_secret=call.payment_secret,
        extra_tlvs=call.extra_tlvs,
        peer_id=call.peer_id,
    )
