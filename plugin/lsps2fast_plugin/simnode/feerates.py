"""Fee rates of a node and of its commitments."""

from __future__ import annotations

from dataclasses import dataclass

FEERATE_OFFSET_PERKW = 5  # lightningd adds it as the opener, commit-feerate-offset


@dataclass
class Feerates:
    """Fee rates as a node estimates them, in sat per 1000 weight, as far as its channels depend on them."""

    opening: int = 2500
    unilateral_close: int = 2500
    unilateral_anchor_close: int = 2500  # lightningd never says less than 1250
    mutual_close: int = 253


def marginal_feerate(feerate_perkw: int) -> int:
    """lightningd's spike buffer: twice the rate at 253 perkw, falling on a line to 1.1 times at 45000.

    Fits all spendable_msat values of the recordings (2500 -> 4887, 2505 -> 4896).
    """
    if feerate_perkw > 45_000:
        return feerate_perkw * 11 // 10
    numerator = 2 * 10 * 44_747 - 9 * (feerate_perkw - 253)
    return feerate_perkw * numerator // (10 * 44_747)
