"""What lightningd will enforce when it forwards the parts of a payment, asked before a channel is made for them.

lightningd checks a forward against its own configuration only when the channel is there: by then a client that is not
trusted has it on chain, and the parts fail all the same (people:S14, people:S15, people:S19). Each answer is a sentence
for the operator; the payer is told that it is temporary, for it is our own trouble (O-09).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from lsps2fast_plugin.cln.channel_types import ANCHORS
from lsps2fast_plugin.cln.models import Configs

U64_MAX: Final = 2**64 - 1
MOST_HTLCS: Final = 483  # BOLT 2
DUST_LIMIT_SAT: Final = 546  # the highest that a node may ask for, so that it holds for both commitments
HTLC_SUCCESS_WEIGHT: Final = 703  # of the heavier second transaction, without anchors (BOLT 3)
DUST_BUFFER_PERKW: Final = 2_530  # added to a fee rate, or a quarter of it, before dust is counted (BOLT 2)
LITTLE_DUST_MSAT: Final = 20_000_000  # of a client that refuses anchors: LDK closes such a channel by force for more
DEFAULT_CLTV_DELTA, DEFAULT_DUST_EXPOSURE_MSAT = 34, 50_000_000  # lightningd's own


class Room(NamedTuple):
    """A channel that parts go out into: its type, the fee rate of its commitments, whether its client fears dust."""

    channel_type: tuple[int, ...]
    feerate_perkw: int
    little_dust: bool = False


@dataclass
class ForwardLimits:
    """lightningd's limits on forwards; `learn` fills them in at the start."""

    htlc_maximum_msat: int = U64_MAX
    cltv_delta_blocks: int = DEFAULT_CLTV_DELTA
    max_htlcs: int = MOST_HTLCS
    max_dust_exposure_msat: int = DEFAULT_DUST_EXPOSURE_MSAT

    def learn(self, configs: Configs) -> None:
        """Take them from the answer to `listconfigs`."""
        self.htlc_maximum_msat = configs.msat("htlc-maximum-msat", U64_MAX)
        self.cltv_delta_blocks = configs.number("cltv-delta", DEFAULT_CLTV_DELTA)
        self.max_htlcs = configs.number("max-concurrent-htlcs", MOST_HTLCS)
        self.max_dust_exposure_msat = configs.msat("max-dust-htlc-exposure-msat", DEFAULT_DUST_EXPOSURE_MSAT)

    def part_refusal(self, cltv_expiry: int, outgoing_cltv_value: int) -> str | None:
        """Say why this part could be forwarded over no channel of ours, or return None."""
        if cltv_expiry - outgoing_cltv_value < self.cltv_delta_blocks:
            return f"it leaves {cltv_expiry - outgoing_cltv_value} blocks and cltv-delta is {self.cltv_delta_blocks}"
        return None

    def most_payment_msat(self, max_parts: int) -> int:
        """Return the largest payment that could be forwarded in so many parts."""
        return min(max_parts, self.max_htlcs) * self.htlc_maximum_msat

    def set_refusal(
        self, out_msats: Sequence[int], channel_type: tuple[int, ...], feerate_perkw: int, *, little_dust: bool = False
    ) -> str | None:
        """Say why these parts could not all be out in one channel of this type at once, or return None.

        `little_dust`: its client has refused anchors, and would close the channel for dust that our node still allows.
        """
        if max(out_msats, default=0) > self.htlc_maximum_msat:
            return f"a part of it is {max(out_msats)} msat and htlc-maximum-msat is {self.htlc_maximum_msat}"
        if len(out_msats) > self.max_htlcs:
            return f"it has {len(out_msats)} parts and max-concurrent-htlcs is {self.max_htlcs}"
        exposure_msat = dust_exposure_msat(out_msats, channel_type, feerate_perkw)
        if exposure_msat > self.max_dust_exposure_msat:
            limit_msat = self.max_dust_exposure_msat
            return f"{exposure_msat} msat of it are in dust and max-dust-htlc-exposure-msat is {limit_msat}"
        if little_dust and exposure_msat > LITTLE_DUST_MSAT:
            return f"{exposure_msat} msat of it are in dust, and a client that refuses anchors may close for that"
        return None


def dust_exposure_msat(out_msats: Sequence[int], channel_type: tuple[int, ...], feerate_perkw: int) -> int:
    """Return the sum of those parts that have no output in a commitment at the fee rate lightningd counts with."""
    weight = 0 if ANCHORS in channel_type else HTLC_SUCCESS_WEIGHT
    perkw = max(feerate_perkw * 5 // 4, feerate_perkw + DUST_BUFFER_PERKW)
    least_msat = (DUST_LIMIT_SAT + weight * perkw // 1000) * 1000
    return sum(out_msat for out_msat in out_msats if out_msat < least_msat)
