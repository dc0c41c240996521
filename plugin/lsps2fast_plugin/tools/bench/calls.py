"""Made-up calls and notifications, in lightningd's own wording; the same seed makes the same ones."""

from __future__ import annotations

import json
import random

ONION_BYTES = 1366


def hook_frame(dice: random.Random, number: int, scid: str | None = None) -> bytes:
    """Return an htlc_accepted call for a forward, in lightningd's wording, about 3.4 kB."""
    next_scid = scid or f"{dice.randrange(700_000, 900_000)}x{dice.randrange(3000)}x{dice.randrange(4)}"
    amount = dice.randrange(1_000_000, 100_000_000)
    params = {
        "peer_id": "02" + dice.randbytes(32).hex(),
        "onion": {
            "payload": "12020398968004017906080000010000020003",
            "type": "tlv",
            "short_channel_id": next_scid,
            "forward_msat": amount,
            "outgoing_cltv_value": 800_000,
            "next_onion": dice.randbytes(ONION_BYTES).hex(),
            "shared_secret": dice.randbytes(32).hex(),
        },
        **({} if scid else {"forward_to": dice.randbytes(32).hex()}),
        "htlc": {
            "short_channel_id": f"{dice.randrange(700_000, 900_000)}x{dice.randrange(3000)}x0",
            "id": number,
            "amount_msat": amount + 1000,
            "cltv_expiry": 800_040,
            "cltv_expiry_relative": 80,
            "payment_hash": dice.randbytes(32).hex(),
        },
    }
    call = {"jsonrpc": "2.0", "id": f"cln:htlc_accepted#{number}", "method": "htlc_accepted", "params": params}
    return json.dumps(call, separators=(",", ":")).encode() + b"\n\n"


def event_frame(dice: random.Random, number: int) -> bytes:
    """Return a forward_event of another payment (cln:F1)."""
    event = {
        "created_index": number,
        "payment_hash": dice.randbytes(32).hex(),
        "in_channel": "700000x1x0",
        "in_htlc_id": number,
        "out_channel": "700001x2x1",
        "in_msat": 1_001_000,
        "out_msat": 1_000_000,
        "fee_msat": 1000,
        "status": "offered",
        "style": "tlv",
        "received_time": 1_790_000_000.123,
    }
    call = {"jsonrpc": "2.0", "method": "forward_event", "params": {"forward_event": event}}
    return json.dumps(call, separators=(",", ":")).encode() + b"\n\n"
