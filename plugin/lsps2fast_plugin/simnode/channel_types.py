"""Types of channels: sets of feature bits, by the names that lightningd shows."""

from __future__ import annotations

import functools
from typing import Any

NAMES = {
    12: "static_remotekey/even",
    22: "anchors/even",
    46: "scid_alias/even",
    50: "zeroconf/even",
}
FEATURES = {12: "option_static_remotekey", 22: "option_anchors", 46: "option_scid_alias", 50: "option_zeroconf"}
BASIC_TYPES = ({12}, {12, 22})
VARIANTS = {46, 50}


@functools.lru_cache(maxsize=256)
def feature_names(bits: tuple[int, ...]) -> tuple[str, ...]:
    """`features` of a channel row."""
    return tuple(FEATURES[bit] for bit in (12, 22, 50, 46) if bit in bits)


def type_json(bits: tuple[int, ...]) -> dict[str, Any]:
    """Return a channel type as lightningd shows it."""
    return {"bits": list(bits), "names": [NAMES[bit] for bit in bits]}
