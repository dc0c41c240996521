"""The policy in force: the one place that is asked for menus, clients and terms.

The rules come from options or a file and may be replaced at any time (`replace`); what happened before, uses of tokens
and the record of peers, stays. Synchronous and without a clock: wall time, feerate and facts come in as arguments.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from lsps2fast.errors import PeerError
from lsps2fast.lsps.lsps0 import client_rejected
from lsps2fast.lsps.lsps2 import BuyAsk, FeeParams, invalid_fee_params, opening_fee_msat, stale_token
from lsps2fast.lsps.promise import token_hash
from lsps2fast_plugin.service.policy.budgets import Budgets
from lsps2fast_plugin.service.policy.external import GET_POLICY
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals
from lsps2fast_plugin.service.policy.menu import Entry, LeftOut, Menu, build_menu, capped
from lsps2fast_plugin.service.policy.preflight import Facts, largest_payment_msat, least_capacity_sat, provide
from lsps2fast_plugin.service.policy.rules import (
    DEFAULT_LINE,
    MIN_VALIDITY_S,
    MODES,
    FeeLine,
    NamedLine,
    Rules,
    Token,
    rules_from_options,
)
from lsps2fast_plugin.service.policy.shared import Pots
from lsps2fast_plugin.service.policy.tokens import TokenUses
from lsps2fast_plugin.service.policy.trust import TrustLedger

log = logging.getLogger(__name__)

__all__ = ["DEFAULT_LINE", "FeeLine", "NamedLine", "Policy", "Rules", "Token", "rules_from_options"]

_MOST_TOLD = 1_000  # sentences about left out lines that are remembered as told

_TOKEN_WHY = {
    Refusal.TOKEN_UNKNOWN: "no such token is configured",
    Refusal.TOKEN_REVOKED: "the token is revoked",
    Refusal.TOKEN_EXPIRED: f"the token has expired, or does so in less than {MIN_VALIDITY_S} s",
    Refusal.TOKEN_USED_UP: "the token is used up",
}
_PEER_WHY = {
    Refusal.PEER_DENIED: "the peer is on the deny list",
    Refusal.PEER_NOT_ALLOWED: "the peer is not on the allow list",
}


class Policy:
    """The rules in force, with the memory they need."""

    def __init__(
        self,
        rules: Rules,
        *,
        refusals: Refusals | None = None,
        uses: TokenUses | None = None,
        ledger: TrustLedger | None = None,
        pots: Pots | None = None,
    ) -> None:
        """Load `uses` and `ledger` from the journal before the first client. `pots` are shared with other nodes."""
        self.rules = rules
        self.refusals = Refusals() if refusals is None else refusals
        self.uses = TokenUses(pots) if uses is None else uses
        self.ledger = TrustLedger(rules.trust) if ledger is None else ledger
        self.budgets = Budgets(rules, self.ledger, pots)
        self._told: set[tuple[str, str]] = set()

    def replace(self, rules: Rules) -> None:
        """Put new rules in force. Offers made under the old ones stay good, unless their token is gone."""
        self.rules = self.budgets.rules = rules
        self.ledger.rule = rules.trust
        self._told.clear()

    # Who ------------------------------------------------------------------------------------------------

    def is_served(self, peer_id: str) -> bool:
        """Return whether this peer is served at all (B-06 step 2); a refusal is counted.

        Answer it with code 1 (S-10).
        """
        why = self._why_not_served(peer_id)
        if why is not None:
            self.refusals.count(why)
        return why is None

    def _why_not_served(self, peer_id: str) -> Refusal | None:
        if peer_id in self.rules.deny:
            return Refusal.PEER_DENIED
        if self.rules.allow is not None and peer_id not in self.rules.allow:
            return Refusal.PEER_NOT_ALLOWED
        return None

    # Tokens ---------------------------------------------------------------------------------------------

    def token(self, text: str, wall_ms: int) -> Token:
        """Return what a token that a client presents is good for.

        Raises PeerError 200 (G-03), counted by its reason.
        """
        token, why = self._find_token(token_hash(text), wall_ms + MIN_VALIDITY_S * 1000)
        if token is None or why is not None:
            self.refusals.count(why or Refusal.TOKEN_UNKNOWN)
            raise stale_token()
        return token

    def token_of(self, promised: bytes, wall_ms: int) -> Token:
        """Return the token under which an offer was promised (`promise.promised_token`, after `verify`).

        Raises PeerError 201 when it was revoked, used up or removed since: the offer ends with it. One that expired
        is fine, because no offer outlives its token.
        """
        token, why = self._find_token(promised, None)
        if token is None or why is not None:
            self.refusals.count(why or Refusal.TOKEN_UNKNOWN)
            raise invalid_fee_params()
        return token

    def _find_token(self, hash_: bytes, needed_ms: int | None) -> tuple[Token | None, Refusal | None]:
        token = self.rules.tokens.get(hash_)
        if token is None:
            return None, Refusal.TOKEN_UNKNOWN
        if token.revoked:
            return token, Refusal.TOKEN_REVOKED
        if needed_ms is not None and token.expires_ms is not None and token.expires_ms < needed_ms:
            return token, Refusal.TOKEN_EXPIRED
        if self.uses.left(token) == 0:
            return token, Refusal.TOKEN_USED_UP
        return token, None

    # What -----------------------------------------------------------------------------------------------

    def menu(self, peer_id: str, token: Token | None, wall_ms: int, facts: Facts) -> list[FeeLine]:
        """Return what this client is offered now, in the order of G-07; empty means nothing for now (G-04).

        Raises PeerError 1 for a peer that is not served. Lines that cannot be offered are left out, counted, and told
        to the log once.
        """
        if not self.is_served(peer_id):
            raise client_rejected("this node does not serve you")
        menu = self._menu(peer_id, token, wall_ms, facts)
        self._tell(menu.left_out)
        if not menu.entries:
            self.refusals.count(Refusal.MENU_EMPTY)
        return [entry.line for entry in menu.entries]

    def cap(self, theirs: Sequence[FeeParams], peer_id: str, wall_ms: int, facts: Facts) -> list[FeeParams]:
        """Return the menu of a policy plugin, no offer above what can be opened now (people:L8)."""
        menu = self._capped(_menu_of(theirs, wall_ms), peer_id, None, wall_ms, facts)
        self._tell(menu.left_out)
        kept = {entry.name: entry.line for entry in menu.entries}
        named = ((f"entry {number}", params) for number, params in enumerate(theirs, 1))
        return [_with_largest(params, kept[name].max_payment_size_msat) for name, params in named if name in kept]

    def _tell(self, left_out: Sequence[LeftOut]) -> None:
        for name, rule, why in left_out:
            self.refusals.count(Refusal.LINE_LEFT_OUT)
            if (name, rule) not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add((name, rule))
                log.warning(f"{name} of {self.rules.source} is left out of menus: {why}")

    def _menu(self, peer_id: str, token: Token | None, wall_ms: int, facts: Facts) -> Menu:
        floor_msat = self.rules.floor.least_fee_msat(facts.feerate_perkw)
        if token is None:
            menu = build_menu(self.rules.lines, floor_msat=floor_msat)
        else:
            menu = build_menu(
                self.rules.lines if token.lines is None else token.lines,
                floor_msat=floor_msat,
                discount_percent=token.discount_percent,
                left_s=None if token.expires_ms is None else max((token.expires_ms - wall_ms) // 1000, 0),
            )
        return self._capped(menu, peer_id, token, wall_ms, facts)

    def _capped(self, menu: Menu, peer_id: str, token: Token | None, wall_ms: int, facts: Facts) -> Menu:
        facts = self.within_budgets(facts, peer_id, token, wall_ms)

        def largest(line: FeeLine) -> tuple[int | None, str]:
            return largest_payment_msat(line.params(wall_ms), facts, self.rules.capacity)

        fitted = [capped(entry, largest) for entry in menu.entries]
        gone = tuple(entry for entry in fitted if isinstance(entry, LeftOut))
        return Menu(tuple(entry for entry in fitted if isinstance(entry, Entry)), (*menu.left_out, *gone))

    # Trust ----------------------------------------------------------------------------------------------

    def trust_mode(self, peer_id: str, token: Token | None, amount_msat: int, mining_msat: int, wall_ms: int) -> bool:
        """`client_trusts_lsp` for a new buy of this peer (B-15). True is the safe mode: funding is withheld.

        `amount_msat` is the largest channel it may become, `mining_msat` what that costs if it is not paid for.
        """
        mode, why = self._trust(peer_id, token, amount_msat, mining_msat, wall_ms)
        if mode and why.startswith("payments for"):
            self.refusals.count(Refusal.PEER_PROBED)
        return mode

    def _trust(
        self, peer_id: str, token: Token | None, amount_msat: int, mining_msat: int, wall_ms: int
    ) -> tuple[bool, str]:
        """Return the mode and why.

        Rules that protect the LSP come first, then those agreed with the holder of a token.
        """
        rule = self.rules.trust
        if (why := self.ledger.why_not_trusted(peer_id, wall_ms)) is not None:
            return True, why
        if amount_msat > self.budgets.on_trust_room_msat():
            return True, f"capital_budget_sat {rule.capital_budget_sat} would be exceeded"
        if mining_msat > self.budgets.mining_room_msat(wall_ms):
            return True, f"mining_budget_sat {rule.mining_budget_sat} would be exceeded"
        if token is not None and token.client_trusts_lsp is not None:
            return token.client_trusts_lsp, f"trust of {token.label}"
        if rule.client_trusts_above_sat is not None and amount_msat > rule.client_trusts_above_sat * 1000:
            return True, f"larger than client_trusts_above_sat {rule.client_trusts_above_sat}"
        return rule.client_trusts_lsp, "default"

    def within_budgets(self, facts: Facts, peer_id: str, token: Token | None, wall_ms: int) -> Facts:
        """Return the facts with the largest channel that the budgets allow to this client,
        in whichever mode it is sold.
        """
        mining_msat = self.rules.floor.mining_msat(facts.feerate_perkw)
        safe_only, _ = self._trust(peer_id, token, 0, mining_msat, wall_ms)
        room_msat = self.budgets.room_msat(peer_id, facts.confirmed_sat, safe_only, mining_msat, wall_ms)
        return facts._replace(budget_sat=room_msat // 1000)

    def trust_of(
        self, ask: BuyAsk, peer_id: str, token: Token | None, capacity_sat: int, facts: Facts, wall_ms: int
    ) -> bool:
        """`trust_mode` of a buy, judged by the largest channel that its payment may ask for."""
        most_sat = self.most_capacity_sat(ask, capacity_sat, facts)
        mining_msat = self.rules.floor.mining_msat(facts.feerate_perkw)
        return self.trust_mode(peer_id, token, most_sat * 1000, mining_msat, wall_ms)

    def most_capacity_sat(self, ask: BuyAsk, capacity_sat: int, facts: Facts) -> int:
        """Return the largest channel that a buy may become: one for a payment above what was bought, and in variable
        mode for the largest of the offer.
        """
        size_msat, most_msat = ask.payment_size_msat, ask.params.max_payment_size_msat
        if size_msat is not None:
            most_msat = min(size_msat + size_msat * facts.overpay_ppm // 1_000_000, most_msat)
        largest = BuyAsk(ask.params, most_msat)
        return max(capacity_sat, min(least_capacity_sat(largest, facts), self.rules.capacity.max_sat))

    # For the operator -----------------------------------------------------------------------------------

    def explain(
        self,
        peer_id: str,
        token_text: str | None,
        wall_ms: int,
        facts: Facts,
        payment_size_msat: int | None = None,
        theirs: Sequence[FeeParams] | PeerError | None = None,
    ) -> dict[str, Any]:
        """Return what this client would be offered and why, for `lsps2-quote`. Counts and changes nothing, raises
        nothing.

        `theirs`: what a policy plugin answered; lines, floor and tokens of ours then do not matter.
        """
        token, token_why = (None, None)
        if token_text is not None and theirs is None:
            token, token_why = self._find_token(token_hash(token_text), wall_ms + MIN_VALIDITY_S * 1000)
        peer_why = self._why_not_served(peer_id)
        answer: dict[str, Any] = {
            "policy": self.rules.source if theirs is None else GET_POLICY,
            "peer_id": peer_id,
            "served": peer_why is None,
            "feerate_perkw": facts.feerate_perkw,
            "mining_cost_msat": self.rules.floor.cost_msat(facts.feerate_perkw),
            "trust": self._explain_trust(peer_id, token, payment_size_msat, facts, wall_ms),
            "menu": [],
            "left_out": [],
        }
        if token is not None:
            answer["token"] = {"label": token.label, "uses_left": self.uses.left(token)}
        if peer_why is not None:
            return answer | _refusal(client_rejected(), _PEER_WHY[peer_why])
        if token_why is not None:
            return answer | _refusal(stale_token(), _TOKEN_WHY[token_why])
        if isinstance(theirs, PeerError):
            return answer | _refusal(theirs, f"{GET_POLICY} says so, or did not answer well: see the log")
        if theirs is None:
            menu = self._menu(peer_id, token, wall_ms, facts)
        else:
            menu = self._capped(_menu_of(theirs, wall_ms), peer_id, None, wall_ms, facts)
        facts = self.within_budgets(facts, peer_id, token, wall_ms)
        answer["menu"] = [self._describe(entry, payment_size_msat, facts, wall_ms) for entry in menu.entries]
        answer["left_out"] = [{"name": gone.name, "why": gone.why} for gone in menu.left_out]
        return answer

    def _describe(self, entry: Entry, payment_size_msat: int | None, facts: Facts, wall_ms: int) -> dict[str, Any]:
        """One entry; with the fee of a payment, and whether a buy for it would be sold now."""
        line = entry.line
        described: dict[str, Any] = {"name": entry.name, **line._asdict(), "rules": list(entry.rules)}
        if payment_size_msat is None:
            return described
        in_range = line.min_payment_size_msat <= payment_size_msat <= line.max_payment_size_msat
        fee_msat = opening_fee_msat(payment_size_msat, line.min_fee_msat, line.proportional)
        fits = in_range and fee_msat is not None and fee_msat < payment_size_msat
        capacity, why = provide(BuyAsk(line.params(wall_ms), payment_size_msat), facts, self.rules.capacity)
        described["fits"] = fits and isinstance(capacity, int)
        described["opening_fee_msat"] = fee_msat
        if fits and isinstance(capacity, int):
            described["channel_capacity_sat"] = capacity
        elif fits and why is not None:
            described["why_not"] = why.value
        return described

    def _explain_trust(
        self, peer_id: str, token: Token | None, payment_size_msat: int | None, facts: Facts, wall_ms: int
    ) -> dict[str, Any]:
        stakes, mining_msat = self.ledger.stakes, self.rules.floor.mining_msat(facts.feerate_perkw)
        capacity = self.rules.capacity.capacity_sat(-(-(payment_size_msat or 0) // 1000))
        amount_msat = 1000 * (capacity if isinstance(capacity, int) else self.rules.capacity.max_sat)
        mode, why = self._trust(peer_id, token, amount_msat, mining_msat, wall_ms)
        return {
            "mode": MODES[mode],
            "why": why,
            "unpaid_channels": self.ledger.unpaid(peer_id, wall_ms),
            "probes": self.ledger.probes(peer_id, wall_ms),
            "reasons": self.ledger.reasons(peer_id),
            "at_risk_of_peer_msat": stakes.of_peer_msat(peer_id),
            "capital_at_risk_msat": stakes.msat(on_trust=True) + stakes.msat(on_trust=False),
        }


def _refusal(error: PeerError, why: str) -> dict[str, Any]:
    return {"refused": {"code": error.code, "message": error.message, "why": why}}


def _menu_of(theirs: Sequence[FeeParams], wall_ms: int) -> Menu:
    lines = [FeeLine.of(params, wall_ms) for params in theirs]
    return Menu(tuple(Entry(f"entry {number}", line) for number, line in enumerate(lines, 1)), ())


def _with_largest(params: FeeParams, most_msat: int) -> FeeParams:
    """Return the same terms with another largest payment, not yet promised."""
    if most_msat == params.max_payment_size_msat:
        return params
    return FeeParams.from_json({**params.raw, "max_payment_size_msat": str(most_msat)})
