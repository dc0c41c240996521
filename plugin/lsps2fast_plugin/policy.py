"""What the operator sells: the default fee menu."""

from __future__ import annotations

from typing import NamedTuple

from lsps2fast.lsps2 import FeeParams


class FeeLine(NamedTuple):
    """One entry of the menu before it is dated and promised."""

    min_fee_msat: int
    proportional: int
    validity_s: int
    min_lifetime_blocks: int
    max_client_to_self_delay_blocks: int
    min_payment_size_msat: int
    max_payment_size_msat: int

    def params(self, wall_ms: int) -> FeeParams:
        """This line as an offer made now, not yet promised."""
        return FeeParams.build(
            min_fee_msat=self.min_fee_msat,
            proportional=self.proportional,
            valid_until_ms=wall_ms + self.validity_s * 1000,
            min_lifetime_blocks=self.min_lifetime_blocks,
            max_client_to_self_delay_blocks=self.max_client_to_self_delay_blocks,
            min_payment_size_msat=self.min_payment_size_msat,
            max_payment_size_msat=self.max_payment_size_msat,
        )


DEFAULT_LINE = FeeLine(
    min_fee_msat=1_000_000,
    proportional=10_000,
    validity_s=3_600,
    min_lifetime_blocks=1_008,
    max_client_to_self_delay_blocks=2_016,
    min_payment_size_msat=1_500_000,
    max_payment_size_msat=4_000_000_000,
)
