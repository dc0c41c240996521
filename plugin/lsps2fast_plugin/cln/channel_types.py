"""Which types of channel a client is offered, and what the commitments of each type will cost (O-02, O-03).

Anchors first where both nodes have them: such a channel can be closed at any time whatever its commitment fee, and an
HTLC costs the commitment no second transaction's fee. Then static_remotekey alone, for a client that refuses anchors (a
wallet without coins of its own could not pay for closing), and for one of which nothing is known: most have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from lsps2fast_plugin.cln.answers import PerKw
from lsps2fast_plugin.cln.models import Configs, NodeInfo

STATIC_REMOTEKEY: Final = 12
DUAL_FUND: Final = 28
LARGE_CHANNELS: Final = 18
LARGEST_PLAIN_SAT: Final = 16_777_215  # with a peer that does not offer large channels (BOLT 2)
ANCHORS: Final = 22  # with HTLC transactions that pay no fee of their own
SCID_ALIAS: Final = 46
ZERO_CONF: Final = 50
VARIANTS: Final = {SCID_ALIAS, ZERO_CONF}  # they change nothing about the commitment
PLAIN: Final = (STATIC_REMOTEKEY, SCID_ALIAS, ZERO_CONF)
WITH_ANCHORS: Final = (STATIC_REMOTEKEY, ANCHORS, SCID_ALIAS, ZERO_CONF)
NEWER: Final = {  # types by feature bit that lightningd cannot open; a peer may soon want nothing else
    40: "zero-fee commitments",
    80: "taproot",
    180: "taproot (before its specification)",
}
FEERATE_OFFSET_PERKW: Final = 5  # lightningd's default of commit-feerate-offset
LEAST_PERKW: Final = 253  # lightningd keeps its spike buffer for this rate, however low fees are


def offers(features_hex: str, bit: int) -> bool:
    """Return whether this even bit or its odd neighbour is set. Raises ValueError for text that is not hex."""
    return bool(int(features_hex or "0", 16) >> bit & 3)


def newer_types(features_hex: str) -> list[str]:
    """Return the names of types among these features that lightningd cannot open."""
    return [name for bit, name in NEWER.items() if offers(features_hex, bit)]


def opened_instead(started: object, asked: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the type that `fundchannel_start` says it opens where that is not the one asked for.

    lightningd may add what makes a variant of the same type; an answer that names no type opens what was asked for.
    """
    found = started.get("channel_type") if isinstance(started, dict) else None
    bits = found.get("bits") if isinstance(found, dict) else None
    if not isinstance(bits, list) or not all(type(bit) is int for bit in bits):
        return None
    return tuple(bits) if set(bits) - VARIANTS != set(asked) - VARIANTS else None


def named(channel_type: tuple[int, ...]) -> str:
    """Return what people call this type."""
    return "a channel with anchors" if ANCHORS in channel_type else "a channel without anchors"


@dataclass
class OurNode:
    """What our lightningd can do about channels; `learn` fills it in at the start."""

    id: str = ""
    network: str = ""
    anchors: bool = False
    dual_funds: bool = False  # then lightningd opens no channel of one funder to a peer that does so too
    feerate_offset_perkw: int = FEERATE_OFFSET_PERKW

    def learn(self, info: NodeInfo, configs: Configs) -> None:
        """Take what lightningd says of itself."""
        self.id, self.network = info.id, info.network
        self.anchors = offers(info.our_features.init, ANCHORS)
        self.dual_funds = offers(info.our_features.init, DUAL_FUND)
        self.feerate_offset_perkw = configs.number("commit-feerate-offset", FEERATE_OFFSET_PERKW)

    def channel_types(self, their_features: str | None) -> list[tuple[int, ...]]:
        """Return the types to ask a peer for, as bits, the best first.

        `their_features` of its `init` as hex, None when they are not known. option_scid_alias is no question: bLIP-52
        demands it. Zero-conf works without its bit (O-02).
        """
        if their_features is None:
            return [PLAIN]
        wanted = [WITH_ANCHORS, PLAIN] if self.anchors and offers(their_features, ANCHORS) else [PLAIN]
        return [tuple(bit for bit in bits if bit != ZERO_CONF or offers(their_features, ZERO_CONF)) for bits in wanted]

    def commitment_rates(self, perkw: PerKw) -> CommitmentRates:
        """Return what a new channel's commitments pay.

        Without anchors lightningd proposes a channel at the `opening` rate and raises it at once (host fact cln:O11);
        what it raises to, with and without anchors, is its rate for closing and a little on top.
        """
        plain_perkw = self._raised(perkw.opening, perkw.unilateral_close, perkw.min_acceptable)
        if not self.anchors:
            return CommitmentRates(plain_perkw, None)
        return CommitmentRates(plain_perkw, self._raised(perkw.unilateral_anchor_close or plain_perkw))

    def _raised(self, *perkw: int | None) -> int:
        return max(LEAST_PERKW, *(each or 0 for each in perkw)) + self.feerate_offset_perkw


class CommitmentRates(NamedTuple):
    """Sat per 1000 weight of the commitments of a new channel; no `anchors_perkw`: we make no channels with anchors."""

    plain_perkw: int
    anchors_perkw: int | None

    def of(self, channel_type: tuple[int, ...]) -> int:
        """Return the rate of a channel of this type."""
        if ANCHORS in channel_type and self.anchors_perkw is not None:
            return self.anchors_perkw
        return self.plain_perkw
