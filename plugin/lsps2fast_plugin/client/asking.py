"""What an invoice was asked for, kept with its approval: the same call gives the same invoice (idempotent by label).

Only digests are kept: tokens and preimages stay secret (K-28).
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

DIGEST_DIGITS = 32


def digests(parameters: dict[str, Any]) -> dict[str, str]:
    """Return a digest of each parameter that was given."""
    return {
        name: hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:DIGEST_DIGITS]
        for name, value in parameters.items()
        if value is not None
    }


def differing(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the names of parameters that are not what they were."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
