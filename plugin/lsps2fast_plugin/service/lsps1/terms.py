"""What the operator sells to those who order, and for how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from lsps2fast.lsps.lsps1 import OrderAsk

ROOT: Final = ("lsps", "lsps1", "orders")  # of the records
LABEL: Final = "lsps2fast-order-"  # of the invoices, before the order id
LEASE_BLOCKS: Final = 4_320  # that the price in ppm is for: thirty days


class OrderTerms(NamedTuple):
    """What the operator sells, and for how much."""

    base_sat: int
    lease_ppm: int  # of what we put in, for each `LEASE_BLOCKS`
    min_sat: int
    max_sat: int
    max_blocks: int
    valid_s: int  # of an invoice
    most_per_peer: int
    most: int

    def fee_sat(self, ask: OrderAsk, mining_msat: int) -> int:
        """Return the price: a base, the lease of our sats by number and time, and what miners take; rounded up."""
        lease = -(-ask.lsp_balance_sat * self.lease_ppm * ask.channel_expiry_blocks // (10**6 * LEASE_BLOCKS))
        return self.base_sat + lease - (-mining_msat // 1000)
