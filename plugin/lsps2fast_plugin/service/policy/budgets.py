"""How much may be put in before anything is paid (rule:18), asked again right before a channel is opened (rule:19).

Every limit counts what is really put in: the channel that is opened, not the one that was promised. A refusal here is
our own trouble: temporary for the payer, and the offer stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.policy.rules import Rules
from lsps2fast_plugin.service.policy.shared import CAPITAL, MINING, MINING_IN_ALL, WITHHELD, Alone, Pots
from lsps2fast_plugin.service.policy.trust import TrustLedger

Of = Callable[[str, int], int]

ON_TRUST_AT_ONCE: Final = 2  # channels of one client on chain that are not paid for yet, while nothing is proved


class Opening(NamedTuple):
    """One channel that is about to be opened, as it will really be."""

    peer_id: str
    on_trust: bool  # on chain before it is paid for
    capacity_sat: int
    fee_msat: int
    feerate_perkw: int
    free_sat: int  # coins of ours that are free, those for this channel among them


class No(NamedTuple):
    """Why it is not opened now: the name to count it under, a sentence, and the room that would be needed."""

    reason: Refusal
    why: str
    needed_msat: int = 0


class Use(NamedTuple):
    """How much of one limit is used."""

    used: int
    limit: int


class Budgets:
    """The limits in force, and what the ledger says of their use."""

    def __init__(self, rules: Rules, ledger: TrustLedger, pots: Pots | None = None) -> None:
        """`pots`: what other nodes of the operator leave of each limit."""
        self.rules = rules  # a reload of the policy replaces them
        self._pots = pots or Alone()
        self._ledger = ledger
        self._stakes = ledger.stakes

    # Room -----------------------------------------------------------------------------------------

    def on_trust_room_msat(self, of: Of | None = None) -> int:
        """Return what more may lie in channels that go on chain before they are paid for.

        `of(pot, most)`: how much of a limit counts; by default what this node may use without asking others.
        """
        most_msat = (of or self._pots.limit)(CAPITAL, self.rules.trust.most_on_trust_msat)
        return most_msat - self._stakes.msat(on_trust=True)

    def withheld_room_msat(self, of: Of | None = None) -> int:
        """Return what more may be reserved for channels that are withheld.

        One whose client takes a crumb goes on chain unpaid, unasked; what fills the other pot so leaves less room here.
        """
        rule, withheld_msat = self.rules.trust, self._stakes.msat(on_trust=False)
        over_msat = self._stakes.msat(on_trust=True) - rule.most_on_trust_msat
        return (of or self._pots.limit)(WITHHELD, rule.most_withheld_msat) - withheld_msat - max(over_msat, 0)

    def mining_room_msat(self, wall_ms: int, *, on_trust: bool = True, of: Of | None = None) -> int:
        """Return what more may be spent on mining today without being paid for, or be risked on a withheld channel."""
        rule, of = self.rules.trust, of or self._pots.limit
        if on_trust:
            return of(MINING, rule.most_mining_msat) - self._stakes.mining_msat(wall_ms)
        return of(MINING_IN_ALL, rule.most_mining_in_all_msat) - self._stakes.mining_msat(wall_ms)

    def share_msat(self, free_sat: int) -> int:
        """Return the most that one client may hold in channels that are not paid for."""
        coins_msat = free_sat * 1000 + self._stakes.msat(on_trust=True) + self._stakes.msat(on_trust=False)
        return coins_msat * self.rules.trust.client_share_percent // 100

    def room_msat(self, peer_id: str, free_sat: int, safe_only: bool, mining_msat: int, wall_ms: int) -> int:
        """Return the largest channel of this client that they all allow now, once other nodes were asked. Its first
        one is free of the share.

        `mining_msat` is what a channel costs.
        """
        of = self._pots.reach
        if mining_msat > self.mining_room_msat(wall_ms, on_trust=False, of=of):
            return 0
        room_msat = self.withheld_room_msat(of)
        if not safe_only:
            room_msat = max(room_msat, self.on_trust_room_msat(of))
        if held_msat := self._ledger.held_msat(peer_id):
            room_msat = min(room_msat, self.share_msat(free_sat) - held_msat)
        return room_msat

    # Right before a channel is opened -------------------------------------------------------------

    def why_not_on_trust(self, peer_id: str, wall_ms: int) -> No | None:
        """Return why this peer gets no channel on trust now, whatever it was sold before.

        Its own deeds count from `unpaid_limit` on. One payment that failed behind us may be a stranger's doing, and
        keeps no other sale waiting (people:L1); two are one too many (people:S4).
        """
        unpaid = self._ledger.unpaid(peer_id, wall_ms)
        unsettled = self._ledger.unsettled(peer_id, wall_ms)
        if unpaid >= self.rules.trust.unpaid_limit or unsettled >= self._most_unsettled:
            return No(Refusal.PEER_UNPAID, f"{max(unpaid, unsettled)} channels of {peer_id} are not paid for")
        return None

    def has_turn(self, peer_id: str, under_way: int, wall_ms: int) -> bool:
        """Return whether one more payment may put a channel of this peer on chain while so many are under way."""
        unsettled = self._ledger.unsettled(peer_id, wall_ms)
        return under_way < ON_TRUST_AT_ONCE and under_way + unsettled < self._most_unsettled

    @property
    def _most_unsettled(self) -> int:
        return max(ON_TRUST_AT_ONCE, self.rules.trust.unpaid_limit)

    def why_not_open(self, opening: Opening, wall_ms: int) -> No | None:
        """Return why this channel is not opened now."""
        return self._size(opening) or self._loss(opening) or self._share(opening) or self._pot(opening, wall_ms)

    def _size(self, opening: Opening) -> No | None:
        most_sat = self.rules.capacity.max_sat
        if opening.capacity_sat <= most_sat:
            return None
        text = f"a channel of {opening.capacity_sat} sat is larger than the largest, {most_sat} sat"
        return No(Refusal.CHANNEL_TOO_LARGE, text)

    def _loss(self, opening: Opening) -> No | None:
        """people:S12: an offer is no option on the miners' price."""
        loss_msat = self.rules.floor.loss_msat(opening.feerate_perkw, opening.fee_msat)
        most_sat = self.rules.floor.max_loss_sat
        if loss_msat <= most_sat * 1000:
            return None
        text = f"mining would cost {loss_msat // 1000} sat more than the opening fee brings, {most_sat} sat are allowed"
        return No(Refusal.SOLD_AT_A_LOSS, text, loss_msat)

    def _share(self, opening: Opening) -> No | None:
        held_msat = self._ledger.held_msat(opening.peer_id)
        needed_msat = held_msat + opening.capacity_sat * 1000
        if not held_msat or needed_msat <= self.share_msat(opening.free_sat):
            return None
        percent = self.rules.trust.client_share_percent
        return No(Refusal.CLIENT_SHARE, f"{opening.peer_id} would hold more than {percent} % of our coins", needed_msat)

    def _pot(self, opening: Opening, wall_ms: int) -> No | None:
        rule, amount_msat = self.rules.trust, opening.capacity_sat * 1000
        if opening.on_trust and amount_msat > self.on_trust_room_msat():
            text = f"the {rule.capital_budget_sat} sat for channels that are not paid for are used up"
            return No(Refusal.CAPITAL_BUDGET, text, amount_msat)
        if not opening.on_trust and amount_msat > self.withheld_room_msat():
            text = f"the {rule.most_withheld_msat // 1000} sat for channels that are withheld are used up"
            return No(Refusal.WITHHELD_BUDGET, text, amount_msat)
        mining_msat = self.rules.floor.mining_msat(opening.feerate_perkw)
        if mining_msat > self.mining_room_msat(wall_ms, on_trust=opening.on_trust):
            most_msat = rule.most_mining_msat if opening.on_trust else rule.most_mining_in_all_msat
            text = f"the {most_msat // 1000} sat that may be burnt on mining in a day are used up"
            return No(Refusal.MINING_BUDGET, text, mining_msat)
        return self.why_not_on_trust(opening.peer_id, wall_ms) if opening.on_trust else None

    # For the operator -----------------------------------------------------------------------------

    def uses(self, free_sat: int, wall_ms: int) -> dict[Refusal, Use]:
        """Return each limit, as far as it is this node's to use, with what is used of it, in msat."""
        rule, stakes, limit = self.rules.trust, self._stakes, self._pots.limit
        return {
            Refusal.CAPITAL_BUDGET: Use(stakes.msat(on_trust=True), limit(CAPITAL, rule.most_on_trust_msat)),
            Refusal.WITHHELD_BUDGET: Use(stakes.msat(on_trust=False), limit(WITHHELD, rule.most_withheld_msat)),
            Refusal.MINING_BUDGET: Use(stakes.mining_msat(wall_ms), limit(MINING, rule.most_mining_msat)),
            Refusal.CLIENT_SHARE: Use(stakes.largest_of_a_peer_msat(), self.share_msat(free_sat)),
        }
