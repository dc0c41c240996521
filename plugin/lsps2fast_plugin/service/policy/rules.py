"""The operator's rules as plain values: what is sold, to whom, who trusts whom, how large a channel is.

Wherever they come from (options, policy file), they are checked before they become one of these; nothing here reads
files, keeps state or knows the time. Amounts are msat or sat as the name says, feerates sat per 1000 weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from lsps2fast.lsps.buys import Lack
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.service.policy.closing import Closing

MIN_VALIDITY_S: Final = 600  # G-06
MAX_VALIDITY_S: Final = 10**8
MAX_ENTRIES: Final = 50  # of one menu: an entry takes up to 500 bytes of a message that holds 65,533 (T-30)
MODES: Final = ("lsp-trusts-client", "client-trusts-lsp")
REUSES: Final = ("off", "free", "fee")


class FeeLine(NamedTuple):
    """One entry of the menu before it is dated and promised."""

    min_fee_msat: int
    proportional: int
    validity_s: int
    min_lifetime_blocks: int
    max_client_to_self_delay_blocks: int
    min_payment_size_msat: int
    max_payment_size_msat: int

    @classmethod
    def of(cls, params: FeeParams, wall_ms: int) -> FeeLine:
        """Return the line that makes such an offer now."""
        return cls(
            min_fee_msat=params.min_fee_msat,
            proportional=params.proportional,
            validity_s=(params.valid_until_ms - wall_ms) // 1000,
            min_lifetime_blocks=params.min_lifetime_blocks,
            max_client_to_self_delay_blocks=params.max_client_to_self_delay_blocks,
            min_payment_size_msat=params.min_payment_size_msat,
            max_payment_size_msat=params.max_payment_size_msat,
        )

    def params(self, wall_ms: int) -> FeeParams:
        """Return this line as an offer made now, not yet promised."""
        return FeeParams.build(
            min_fee_msat=self.min_fee_msat,
            proportional=self.proportional,
            valid_until_ms=wall_ms + self.validity_s * 1000,
            min_lifetime_blocks=self.min_lifetime_blocks,
            max_client_to_self_delay_blocks=self.max_client_to_self_delay_blocks,
            min_payment_size_msat=self.min_payment_size_msat,
            max_payment_size_msat=self.max_payment_size_msat,
        )


DEFAULT_LINE: Final = FeeLine(
    min_fee_msat=1_000_000,
    proportional=10_000,
    validity_s=86_400,  # as LDK: an invoice of a day is not cut short
    min_lifetime_blocks=1_008,
    max_client_to_self_delay_blocks=2_016,
    min_payment_size_msat=1_500_000,
    max_payment_size_msat=4_000_000_000,
)


class NamedLine(NamedTuple):
    """A fee line and what the operator knows it by, such as "fee_line 2, band 1"."""

    name: str
    line: FeeLine


class Floor(NamedTuple):
    """No opening fee is below what the miners are expected to take for opening and closing, times a factor.

    250 vbytes: one input, funding output and change. 200 vbytes: a mutual close to two outputs, rounded up.
    """

    open_vbytes: int = 250
    close_vbytes: int = 200
    factor_percent: int = 100
    max_loss_sat: int = 10_000  # people:S12: how far the miners' price may pass the fee when the channel is opened

    def mining_msat(self, feerate_perkw: int) -> int:
        """Return what opening and closing cost at this feerate; vbytes are 4 weight,
        so sat per 1000 weight are msat.
        """
        return 4 * (self.open_vbytes + self.close_vbytes) * feerate_perkw

    def cost_msat(self, feerate_perkw: int) -> int:
        """Return the least opening fee at this feerate, rounded up."""
        return -(-self.mining_msat(feerate_perkw) * self.factor_percent // 100)

    def least_fee_msat(self, feerate_perkw: int) -> int:
        """Return the least opening fee that is offered: the floor, and what would be opened at this feerate."""
        return max(self.cost_msat(feerate_perkw), self.mining_msat(feerate_perkw) - self.max_loss_sat * 1000)

    def loss_msat(self, feerate_perkw: int, fee_msat: int) -> int:
        """By how much mining costs more than this opening fee; 0 when it does not."""
        return max(self.mining_msat(feerate_perkw) - fee_msat, 0)


class CapacityRule(NamedTuple):
    """How large a channel is made for a payment that needs at least so much."""

    headroom_sat: int = 100_000
    factor_percent: int = 100
    min_sat: int = 50_000
    max_sat: int = 16_777_215
    keep_onchain_sat: int = 25_000  # lightningd's own reserve for emergencies has the same size

    def floor_sat(self, least_sat: int) -> int:
        """Return the smallest channel that is opened where the payment needs `least_sat`:
        what moves it later stays above.
        """
        return max(least_sat, min(self.min_sat, self.max_sat))

    def capacity_sat(self, least_sat: int) -> int | Lack:
        """Return the size for a channel that must hold `least_sat` (O-03);
        `Lack.SIZE` when that is above the largest.
        """
        if least_sat > self.max_sat:
            return Lack.SIZE
        wanted_sat = -(-least_sat * self.factor_percent // 100) + self.headroom_sat
        return min(max(wanted_sat, self.floor_sat(least_sat)), self.max_sat)


class TrustRule(NamedTuple):
    """Who trusts whom (B-15), what makes us stop trusting, and what may be put in before anything is paid (rule:18)."""

    client_trusts_lsp: bool = False
    client_trusts_above_sat: int | None = None
    capital_budget_sat: int = 10_000_000  # on chain and unpaid
    unpaid_limit: int = 1
    heal_days: int = 30
    probe_limit: int = 3
    probe_heal_hours: int = 24
    withheld_budget_sat: int | None = None  # reserved for channels that are withheld; None: as the one above
    mining_budget_sat: int = 100_000  # burnt in 24 hours on channels that were not paid for
    client_share_percent: int = 50  # of our coins, in channels of one client that are not paid for
    close_unpaid_hours: int = 0  # an unpaid channel is closed so long after its offer has ended; 0: never

    @property
    def most_on_trust_msat(self) -> int:
        """The most that may lie in channels that go on chain before they are paid for."""
        return self.capital_budget_sat * 1000

    @property
    def most_withheld_msat(self) -> int:
        """The most that may be reserved for channels that are withheld: also where nothing is done on trust."""
        own = self.withheld_budget_sat
        return 1000 * (own if own is not None else self.capital_budget_sat or TrustRule().capital_budget_sat)

    @property
    def most_mining_msat(self) -> int:
        """The most that may be burnt in a day before nothing goes on chain on trust."""
        return self.mining_budget_sat * 1000

    @property
    def most_mining_in_all_msat(self) -> int:
        """The most that may be burnt in a day before no channel is withheld either: its client may take a crumb of the
        payment, and then its funding is owed though the fee did not come.
        """
        return self.most_mining_msat + 1000 * (self.mining_budget_sat or TrustRule().mining_budget_sat)


class Reuse(NamedTuple):
    """Whether a payment goes over a channel that its client has, where that has room, and what is taken for it."""

    mode: str = "off"  # one of REUSES
    fee_percent: int = 25  # of the opening fee, with `fee`

    def fee_msat(self, opening_fee_msat: int) -> int | None:
        """Return what is taken instead of this opening fee; None: every payment gets a channel of its own."""
        if self.mode == "off":
            return None
        return opening_fee_msat * self.fee_percent // 100 if self.mode == "fee" else 0

    def explain(self, most_msat: int) -> dict[str, Any]:
        """Return what a client with so much room is told, for a menu or a quote."""
        return {
            "max_payment_size_msat": str(most_msat),
            "opening_fee_percent": self.fee_percent if self.mode == "fee" else 0,
        }


NO_REUSE: Final = Reuse()


class Token(NamedTuple):
    """The terms for the holder of a token. The token itself is not kept, only its `promise.token_hash` (K-28)."""

    hash: bytes
    label: str
    lines: tuple[NamedLine, ...] | None = None  # None: the common lines
    discount_percent: int = 0
    max_uses: int | None = None
    expires_ms: int | None = None
    revoked: bool = False
    client_trusts_lsp: bool | None = None  # None: as for all clients


class Rules(NamedTuple):
    """One complete policy. `source` names where it came from."""

    source: str
    lines: tuple[NamedLine, ...]
    floor: Floor = Floor()
    capacity: CapacityRule = CapacityRule()
    trust: TrustRule = TrustRule()
    tokens: Mapping[bytes, Token] = MappingProxyType({})
    allow: frozenset[str] | None = None  # None: all clients
    deny: frozenset[str] = frozenset()
    zero_reserve: frozenset[str] = frozenset()  # O-18: peers whose channels we hold no reserve in
    closing: Closing = Closing()  # channels that may be closed once nothing binds them
    reuse: Reuse = NO_REUSE


def rules_from_options(
    menu: tuple[FeeLine, ...], *, floor: Floor, capacity: CapacityRule, trust: TrustRule, reuse: Reuse = NO_REUSE
) -> Rules:
    """Return the policy of an operator who gave options and no file."""
    lines = tuple(NamedLine(f"fee_line {number}", line) for number, line in enumerate(menu, 1))
    return Rules(source="options", lines=lines, floor=floor, capacity=capacity, trust=trust, reuse=reuse)
