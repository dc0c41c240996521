"""Channel types that clients and the LSP agree on, and what an open asked for."""

from __future__ import annotations

from harness.service import Stage

PLAIN, ANCHORS = [12, 46, 50], [12, 22, 46, 50]
THIRTY_PARTS_MSAT = 340_500_000  # thirty parts that are not dust at any fee rate used here
TIGHT = {"lsps2-channel-headroom-sat": 0}


def asked_for(stage: Stage) -> list[list[int]]:
    """Types of the channels proposed, in order."""
    return [call["channel_type"] for call in stage.calls("fundchannel_start")]
