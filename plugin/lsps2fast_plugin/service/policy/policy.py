"""The policy in force: the one place that is asked for menus, clients and terms.

The rules come from options or a file and may be replaced at any time (`replace`); what happened before, uses of tokens
and the record of peers, stays. Synchronous and without a clock: wall time, feerate and facts come in as arguments.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from lsps2fast.errors import PeerError
from lsps2fast.lsps.buys import Lack
from lsps2fast.lsps.lsps0 import client_rejected
from lsps2fast.lsps.lsps2 import FeeParams, invalid_fee_params, opening_fee_msat, stale_token
from lsps2fast.lsps.promise import token_hash
from lsps2fast_plugin.service.policy.external import GET_POLICY
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals
from lsps2fast_plugin.service.policy.menu import Entry, Menu, build_menu
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
    Refusal.PEER_PROBED: "the peer let too many payments fail after a channel was opened for it",
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
    ) -> None:
        """Load `uses` and `ledger` from the journal before the first client."""
        self.rules = rules
        self.refusals = Refusals() if refusals is None else refusals
        self.uses = TokenUses() if uses is None else uses
        self.ledger = TrustLedger(rules.trust) if ledger is None else ledger
        self._told: set[tuple[str, str]] = set()

    def replace(self, rules: Rules) -> None:
        """New rules from now on. Offers made under the old ones stay good, unless their token is gone."""
        self.rules = rules
        self.ledger.rule = rules.trust
        self._told.clear()

    # Who ------------------------------------------------------------------------------------------------

    def is_served(self, peer_id: str, wall_ms: int) -> bool:
        """Return whether this peer is served at all (B-06 step 2); a refusal is counted.

        Answer it with code 1 (S-10).
        """
        why = self._why_not_served(peer_id, wall_ms)
        if why is not None:
            self.refusals.count(why)
        return why is None

    def _why_not_served(self, peer_id: str, wall_ms: int) -> Refusal | None:
        if peer_id in self.rules.deny:
            return Refusal.PEER_DENIED
        if self.rules.allow is not None and peer_id not in self.rules.allow:
            return Refusal.PEER_NOT_ALLOWED
        return Refusal.PEER_PROBED if self.ledger.is_prober(peer_id, wall_ms) else None

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

    def menu(self, peer_id: str, token: Token | None, wall_ms: int, feerate_perkw: int) -> list[FeeLine]:
        """Return what this client is offered now, in the order of G-07; empty means nothing for now (G-04).

        Raises PeerError 1 for a peer that is not served. Lines that cannot be offered are left out, counted, and told
        to the log once.
        """
        if not self.is_served(peer_id, wall_ms):
            raise client_rejected("this node does not serve you")
        menu = self._menu(token, wall_ms, feerate_perkw)
        for name, rule, why in menu.left_out:
            self.refusals.count(Refusal.LINE_LEFT_OUT)
            if (name, rule) not in self._told and len(self._told) < _MOST_TOLD:
                self._told.add((name, rule))
                log.warning(f"{name} of {self.rules.source} is left out of menus: {why}")
        if not menu.entries:
            self.refusals.count(Refusal.MENU_EMPTY)
        return [entry.line for entry in menu.entries]

    def _menu(self, token: Token | None, wall_ms: int, feerate_perkw: int) -> Menu:
        floor_msat = self.rules.floor.cost_msat(feerate_perkw)
        if token is None:
            return build_menu(self.rules.lines, floor_msat=floor_msat)
        return build_menu(
            self.rules.lines if token.lines is None else token.lines,
            floor_msat=floor_msat,
            discount_percent=token.discount_percent,
            left_s=None if token.expires_ms is None else max((token.expires_ms - wall_ms) // 1000, 0),
        )

    def capacity_sat(self, least_sat: int) -> int | Lack:
        """Return the channel's size when the payment needs `least_sat` (O-03): headroom, factor, least and largest."""
        return self.rules.capacity.capacity_sat(least_sat)

    # Trust ----------------------------------------------------------------------------------------------

    def trust_mode(
        self, peer_id: str, token: Token | None, amount_msat: int, capital_at_risk_msat: int, wall_ms: int
    ) -> bool:
        """`client_trusts_lsp` for a new buy of this peer (B-15). True is the safe mode: funding is withheld.

        `amount_msat` is the capacity of the channel to be, `capital_at_risk_msat` what lies in channels that are open
        and unpaid (`ledger.at_risk_msat`), plus what the caller wants to count with it.
        """
        return self._trust(peer_id, token, amount_msat, capital_at_risk_msat, wall_ms)[0]

    def _trust(
        self, peer_id: str, token: Token | None, amount_msat: int, capital_at_risk_msat: int, wall_ms: int
    ) -> tuple[bool, str]:
        """Return the mode and why.

        Rules that protect the LSP come first, then those agreed with the holder of a token.
        """
        rule = self.rules.trust
        if self.ledger.is_suspect(peer_id, wall_ms):
            return True, f"{self.ledger.unpaid(peer_id, wall_ms)} channels of this peer went unpaid"
        if self.ledger.awaiting(peer_id):
            return True, "an open channel of this peer is not yet paid for"
        if not self._within_budget(amount_msat, capital_at_risk_msat):
            return True, f"capital_budget_sat {rule.capital_budget_sat} would be exceeded"
        if token is not None and token.client_trusts_lsp is not None:
            return token.client_trusts_lsp, f"trust of {token.label}"
        if rule.client_trusts_above_sat is not None and amount_msat > rule.client_trusts_above_sat * 1000:
            return True, f"larger than client_trusts_above_sat {rule.client_trusts_above_sat}"
        return rule.client_trusts_lsp, "default"

    def may_open(self, client_trusts_lsp: bool, amount_msat: int, capital_at_risk_msat: int) -> bool:
        """Return whether a channel may be put on chain now; a refusal is counted, and the parts then fail temporarily.

        The mode of a buy is fixed when it is sold, so many buys sold while there was room meet the budget here.
        """
        if client_trusts_lsp or self._within_budget(amount_msat, capital_at_risk_msat):
            return True
        self.refusals.count(Refusal.CAPITAL_BUDGET)
        return False

    def _within_budget(self, amount_msat: int, capital_at_risk_msat: int) -> bool:
        return capital_at_risk_msat + amount_msat <= self.rules.trust.capital_budget_sat * 1000

    # For the operator -----------------------------------------------------------------------------------

    def explain(
        self,
        peer_id: str,
        token_text: str | None,
        wall_ms: int,
        feerate_perkw: int,
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
        peer_why = self._why_not_served(peer_id, wall_ms)
        answer: dict[str, Any] = {
            "policy": self.rules.source if theirs is None else GET_POLICY,
            "peer_id": peer_id,
            "served": peer_why is None,
            "feerate_perkw": feerate_perkw,
            "mining_cost_msat": self.rules.floor.cost_msat(feerate_perkw),
            "trust": self._explain_trust(peer_id, token, payment_size_msat, wall_ms),
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
        menu = self._menu(token, wall_ms, feerate_perkw) if theirs is None else _menu_of(theirs, wall_ms)
        answer["menu"] = [_describe(entry, payment_size_msat) for entry in menu.entries]
        answer["left_out"] = [{"name": gone.name, "why": gone.why} for gone in menu.left_out]
        return answer

    def _explain_trust(
        self, peer_id: str, token: Token | None, payment_size_msat: int | None, wall_ms: int
    ) -> dict[str, Any]:
        at_risk_msat = self.ledger.at_risk_msat()
        capacity = self.capacity_sat(-(-(payment_size_msat or 0) // 1000))
        amount_msat = 1000 * (capacity if isinstance(capacity, int) else self.rules.capacity.max_sat)
        mode, why = self._trust(peer_id, token, amount_msat, at_risk_msat, wall_ms)
        return {
            "mode": MODES[mode],
            "why": why,
            "unpaid_channels": self.ledger.unpaid(peer_id, wall_ms),
            "probes": self.ledger.probes(peer_id, wall_ms),
            "capital_at_risk_msat": at_risk_msat,
        }


def _refusal(error: PeerError, why: str) -> dict[str, Any]:
    return {"refused": {"code": error.code, "message": error.message, "why": why}}


def _menu_of(theirs: Sequence[FeeParams], wall_ms: int) -> Menu:
    lines = [FeeLine.of(params, wall_ms) for params in theirs]
    return Menu(tuple(Entry(f"entry {number}", line) for number, line in enumerate(lines, 1)), ())


def _describe(entry: Entry, payment_size_msat: int | None) -> dict[str, Any]:
    line = entry.line
    described: dict[str, Any] = {"name": entry.name, **line._asdict(), "rules": list(entry.rules)}
    if payment_size_msat is None:
        return described
    fits = line.min_payment_size_msat <= payment_size_msat <= line.max_payment_size_msat
    fee_msat = opening_fee_msat(payment_size_msat, line.min_fee_msat, line.proportional)
    described["fits"] = fits and fee_msat is not None and fee_msat < payment_size_msat
    described["opening_fee_msat"] = fee_msat
    return described
