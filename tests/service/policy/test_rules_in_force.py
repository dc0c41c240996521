"""The one place that is asked: who is served, at what price, in which mode; and the quote that explains it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
from harness.logs import Log
from harness.policy import ALICE, BOB, DAY_MS, PERKW, WALL_MS, facts, line, rules, token

from lsps2fast.errors import PeerError
from lsps2fast.lsps.buys import Lack
from lsps2fast.lsps.lsps2 import BuyAsk
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.policy.policy import DEFAULT_LINE, FeeLine, Policy, Rules, Token, rules_from_options
from lsps2fast_plugin.service.policy.rules import CapacityRule, Floor, TrustRule
from lsps2fast_plugin.service.policy.stakes import Stake
from lsps2fast_plugin.service.policy.tokens import TokenUses
from lsps2fast_plugin.service.policy.trust import TrustLedger

FREE = Floor(factor_percent=0)


def policy(made: Rules) -> Policy:
    """A policy that has seen nothing."""
    return Policy(made)


def code_of(step: Callable[[], object]) -> int | None:
    """The code of the refusal, None for none."""
    try:
        step()
    except PeerError as error:
        return error.code
    return None


def counted(made: Policy) -> set[str]:
    """The names of all refusals so far."""
    return {name for name, count in made.refusals.as_dict().items() if count}


def test_the_options_alone_make_a_policy() -> None:
    """Drop-in: no file is needed, and the floor holds all the same."""
    made = policy(
        rules_from_options(
            (DEFAULT_LINE,),
            floor=Floor(),
            capacity=CapacityRule(headroom_sat=70_000, max_sat=10_000_000),
            trust=TrustRule(client_trusts_lsp=True),
        )
    )
    assert made.menu(ALICE, None, WALL_MS, facts(253)) == [DEFAULT_LINE]
    assert made.menu(ALICE, None, WALL_MS, facts(PERKW)) == [
        DEFAULT_LINE._replace(min_fee_msat=4_500_000, min_payment_size_msat=4_500_001)
    ]
    assert made.trust_mode(ALICE, None, 1, 0, WALL_MS)
    assert made.rules.capacity.capacity_sat(30_000) == 100_000


def test_memory_that_was_loaded_is_used_also_when_it_is_empty() -> None:
    """The caller keeps the ledger to tell it facts and to journal it."""
    ledger, uses = TrustLedger(TrustRule()), TokenUses()
    made = Policy(rules(), ledger=ledger, uses=uses)
    assert made.ledger is ledger
    assert made.uses is uses


# --- Who ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "served", "why"),
    [
        ({}, {ALICE, BOB}, set()),
        ({"deny": frozenset({ALICE})}, {BOB}, {"peer_denied"}),
        ({"allow": frozenset({ALICE})}, {ALICE}, {"peer_not_allowed"}),
    ],
)
def test_peers_are_served_as_the_lists_say(changes: dict[str, frozenset[str]], served: set[str], why: set[str]) -> None:
    """G-10, S-10: allow and deny; each refusal is counted."""
    made = policy(rules()._replace(**changes))  # type: ignore[arg-type]
    assert {peer for peer in (ALICE, BOB) if made.is_served(peer)} == served
    assert counted(made) == why
    codes = {peer: code_of(partial(made.menu, peer, None, WALL_MS, facts(253))) for peer in (ALICE, BOB)}
    assert codes == {peer: None if peer in served else 1 for peer in (ALICE, BOB)}


def test_a_prober_is_served_in_the_safe_mode_until_it_healed() -> None:
    """C-26, people:L1, rule:22: what a stranger can cause is bounded in its effect and in time."""
    made = policy(rules())
    for scid in (1, 2, 3):
        made.ledger.probed(ALICE, scid, WALL_MS)
    assert made.menu(ALICE, None, WALL_MS, facts(253)) != []
    assert made.trust_mode(ALICE, None, 1, 0, WALL_MS)
    assert not made.trust_mode(BOB, None, 1, 0, WALL_MS)
    assert not made.trust_mode(ALICE, None, 1, 0, WALL_MS + DAY_MS)
    assert counted(made) == {"peer_probed"}


# --- Tokens ---------------------------------------------------------------------------------------------------------

SPRING = token(max_uses=1)


@pytest.mark.parametrize(
    ("given", "text", "why"),
    [
        (token(), "autumn", "token_unknown"),
        (token(), "", "token_unknown"),
        (token(revoked=True), "spring", "token_revoked"),
        (token(expires_ms=WALL_MS + 599_999), "spring", "token_expired"),
        (token(max_uses=0), "spring", "token_used_up"),
    ],
)
def test_a_stale_token_is_200(given: Token, text: str, why: str) -> None:
    """G-03: unknown, revoked, expired (G-06: in ten minutes) or used up."""
    made = policy(rules(tokens=(given,)))
    assert code_of(lambda: made.token(text, WALL_MS)) == 200
    assert counted(made) == {why}


def test_a_token_is_never_ignored_where_there_are_none() -> None:
    """G-03 (D), X-21."""
    assert code_of(lambda: policy(rules()).token("spring", WALL_MS)) == 200


def test_a_token_in_its_last_ten_minutes_is_good_and_cut() -> None:
    """G-03, G-06: the offer ends with the token."""
    made = policy(rules(tokens=(token(expires_ms=WALL_MS + 600_000),), floor=FREE))
    menu = made.menu(ALICE, made.token("spring", WALL_MS), WALL_MS, facts(253))
    assert [each.validity_s for each in menu] == [600]


@pytest.mark.parametrize(
    ("after", "code"),
    [
        (rules(tokens=(SPRING,)), None),
        (rules(tokens=(SPRING._replace(expires_ms=0),)), None),
        (rules(tokens=(SPRING._replace(revoked=True),)), 201),
        (rules(tokens=(SPRING._replace(max_uses=0),)), 201),
        (rules(), 201),
    ],
)
def test_an_offer_ends_with_its_token(after: Rules, code: int | None) -> None:
    """B-06 step 3: at the buy the promise names the token; expiry needs no look, because no offer outlives it."""
    made = policy(rules(tokens=(SPRING,)))
    promised = made.token("spring", WALL_MS).hash
    made.replace(after)
    assert code_of(lambda: made.token_of(promised, WALL_MS)) == code


def test_the_last_use_is_sold_once() -> None:
    """Quota."""
    made = policy(rules(tokens=(SPRING,)))
    made.uses.take(made.token("spring", WALL_MS))
    assert code_of(lambda: made.token("spring", WALL_MS)) == 200
    assert code_of(lambda: made.token_of(SPRING.hash, WALL_MS)) == 201


def test_a_token_has_lines_of_its_own_or_a_discount() -> None:
    """G-10: different menus for different tokens."""
    own = token("own", lines=rules(line(500_000, 4_000)).lines)
    half = token("half", discount_percent=50)
    made = policy(rules(line(2_000_001, 10_001), tokens=(own, half), floor=FREE))
    prices = [
        [(each.min_fee_msat, each.proportional) for each in made.menu(ALICE, given, WALL_MS, facts(253))]
        for given in (None, made.token("own", WALL_MS), made.token("half", WALL_MS))
    ]
    assert prices == [[(2_000_001, 10_001)], [(500_000, 4_000)], [(1_000_001, 5_001)]]


def test_a_discount_does_not_undercut_the_miners() -> None:
    """The fee always covers the expected mining cost."""
    made = policy(rules(tokens=(token(discount_percent=100),)))
    menu = made.menu(ALICE, made.token("spring", WALL_MS), WALL_MS, facts(PERKW))
    assert [each.min_fee_msat for each in menu] == [4_500_000]


# --- Menus ----------------------------------------------------------------------------------------------------------


def test_a_line_left_out_is_told_once_and_counted_each_time() -> None:
    """G-07: drop offenders and log; a peer that asks a thousand times does not fill the log."""
    log = Log()
    made = policy(rules(line(1_000, 20), line(2_000, 10), floor=FREE))
    menus = [made.menu(ALICE, None, WALL_MS, facts(253)) for _ in range(1_000)]
    assert [each.min_fee_msat for each in menus[-1]] == [1_000]
    assert log.levels() == ["warn"]
    assert "fee_line 2 of test is left out of menus" in log.text()
    assert made.refusals[Refusal.LINE_LEFT_OUT] == 1_000
    made.replace(made.rules)
    made.menu(ALICE, None, WALL_MS, facts(253))
    assert log.levels() == ["warn", "warn"]


def test_an_empty_menu_is_legal_and_counted() -> None:
    """G-04: no JIT channels for now, because miners ask more than any payment brings."""
    made = policy(rules(line(max_payment_size_msat=4_000_000)))
    assert made.menu(ALICE, None, WALL_MS, facts(PERKW)) == []
    assert counted(made) == {"line_left_out", "menu_empty"}


def test_new_rules_are_in_force_at_once() -> None:
    """Price, lists and trust change together; memory stays."""
    made = policy(rules())
    made.ledger.probed(ALICE, 1, WALL_MS)
    made.replace(rules(line(9_000_000), deny=frozenset({ALICE}), trust=TrustRule(client_trusts_lsp=True)))
    assert [each.min_fee_msat for each in made.menu(BOB, None, WALL_MS, facts(253))] == [9_000_000]
    assert made.trust_mode(BOB, None, 1, 0, WALL_MS)
    assert made.ledger.probes(ALICE, WALL_MS) == 1
    assert not made.is_served(ALICE)


# --- Capacity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "least_sat", "capacity"),
    [
        (CapacityRule(0, 100, 0, 1_000_000), 70_000, 70_000),
        (CapacityRule(5_000, 100, 0, 1_000_000), 70_000, 75_000),
        (CapacityRule(5_000, 150, 0, 1_000_000), 70_001, 110_002),
        (CapacityRule(0, 100, 90_000, 1_000_000), 70_000, 90_000),
        (CapacityRule(5_000, 100, 0, 72_000), 70_000, 72_000),
        (CapacityRule(5_000, 100, 0, 70_000), 70_000, 70_000),
        (CapacityRule(5_000, 100, 0, 69_999), 70_000, Lack.SIZE),
    ],
)
def test_the_channel_is_as_large_as_the_rule_says(rule: CapacityRule, least_sat: int, capacity: int | Lack) -> None:
    """O-03: policy may choose more than the least, never less; headroom shrinks before a payment is refused."""
    assert rule.capacity_sat(least_sat) == capacity


# --- Trust ----------------------------------------------------------------------------------------------------------

SAT = 1_000


def at_risk(made: Policy, peer_id: str, sat: int, *, on_trust: bool = True) -> Stake:
    """So much lies in a channel of this peer that is not paid for."""
    return made.ledger.reserved(peer_id, 1, sat * SAT, on_trust, 0, WALL_MS)


def owing(made: Policy) -> None:
    """ALICE left a channel unpaid that is closed now."""
    stake = at_risk(made, ALICE, 1)
    made.ledger.sent(ALICE, 1, "cc" * 32, 1 * SAT, WALL_MS)
    made.ledger.let_go(ALICE, 1, WALL_MS)
    made.ledger.back(stake, WALL_MS)


def waiting(made: Policy) -> None:
    """A channel of ALICE waits for its first payment."""
    at_risk(made, ALICE, 1)


def nothing(made: Policy) -> None:
    pass


TRUSTED = token(client_trusts_lsp=False)
DISTRUSTED = token(client_trusts_lsp=True)
LIMITED = TrustRule(client_trusts_above_sat=100, capital_budget_sat=1_000)


@pytest.mark.parametrize(
    ("before", "rule", "given", "amount_sat", "at_risk_sat", "mode"),
    [
        (nothing, TrustRule(), None, 100, 0, False),
        (nothing, TrustRule(client_trusts_lsp=True), None, 100, 0, True),
        (nothing, TrustRule(client_trusts_lsp=True), TRUSTED, 100, 0, False),
        (nothing, TrustRule(), DISTRUSTED, 100, 0, True),
        (nothing, TrustRule(), token(), 100, 0, False),
        (nothing, LIMITED, None, 100, 0, False),
        (nothing, LIMITED, None, 101, 0, True),
        (nothing, LIMITED, TRUSTED, 101, 0, False),
        (nothing, LIMITED, TRUSTED, 100, 900, False),
        (nothing, LIMITED, TRUSTED, 100, 901, True),
        (owing, LIMITED, TRUSTED, 1, 0, True),
        (waiting, LIMITED, TRUSTED, 1, 0, True),
    ],
)
def test_the_mode_of_a_buy(
    before: Callable[[Policy], None],
    rule: TrustRule,
    given: Token | None,
    amount_sat: int,
    at_risk_sat: int,
    mode: bool,
) -> None:
    """B-15: default, token, amount at risk; safe for debtors and above the budget, for every client."""
    made = policy(rules(trust=rule))
    before(made)
    if at_risk_sat:
        at_risk(made, BOB, at_risk_sat)
    assert made.trust_mode(ALICE, given, amount_sat * SAT, 0, WALL_MS) is mode


def test_what_mining_would_burn_decides_the_mode_too() -> None:
    """people:S6, rule:18: beyond the day's budget a buy is sold in the safe mode, token or not."""
    made = policy(rules(trust=TrustRule(mining_budget_sat=10)))
    assert made.trust_mode(ALICE, TRUSTED, 1, 10 * SAT, WALL_MS) is False
    assert made.trust_mode(ALICE, TRUSTED, 1, 10 * SAT + 1, WALL_MS) is True


def test_a_buy_without_a_size_is_judged_by_the_largest_channel_it_may_ask_for() -> None:
    """people:S2, rule:18, B-15: not by its smallest payment."""
    made = policy(rules(trust=TrustRule(client_trusts_above_sat=1_000_000)))
    params = line().params(WALL_MS)
    assert params.max_payment_size_msat > 1_000_000 * SAT
    assert made.trust_of(BuyAsk(params, 10_000 * SAT), ALICE, None, 120_000, facts(), WALL_MS) is False
    assert made.trust_of(BuyAsk(params, None), ALICE, None, 120_000, facts(), WALL_MS) is True


@pytest.mark.parametrize(("overpay_ppm", "mode"), [(0, False), (100_000, True)])
def test_a_buy_is_judged_by_what_may_be_paid_beyond_it(overpay_ppm: int, mode: bool) -> None:
    """rule:18, B-15: a payment above what was bought makes no channel on trust that the operator wants withheld."""
    made = policy(rules(trust=TrustRule(client_trusts_above_sat=1_050_000)))
    ask = BuyAsk(line().params(WALL_MS), 1_000_000 * SAT)
    assert ask.params.max_payment_size_msat > 1_200_000 * SAT
    tolerant = facts()._replace(overpay_ppm=overpay_ppm)
    assert made.trust_of(ask, ALICE, None, 1_040_000, tolerant, WALL_MS) is mode


def test_a_menu_offers_no_more_than_the_budgets_have_room_for() -> None:
    """people:L8, rule:18: every client; the one with a channel under way by its own pot."""
    made = policy(rules(trust=TrustRule(capital_budget_sat=700_000, withheld_budget_sat=300_000)))
    (offered,) = made.menu(ALICE, None, WALL_MS, facts())
    assert 600_000 * SAT < offered.max_payment_size_msat < 700_000 * SAT
    waiting(made)
    (offered,) = made.menu(ALICE, None, WALL_MS, facts())
    assert 200_000 * SAT < offered.max_payment_size_msat < 300_000 * SAT


def test_a_debtor_is_trusted_again_when_it_healed() -> None:
    """Healing over time."""
    made = policy(rules())
    owing(made)
    modes = [made.trust_mode(ALICE, None, 1, 0, WALL_MS + days * DAY_MS) for days in (0, 29, 30)]
    assert modes == [True, True, False]


# --- Quote ----------------------------------------------------------------------------------------------------------


def test_a_quote_shows_the_price_and_every_rule_that_made_it() -> None:
    """`lsps2-quote` shows what a client would be offered and why; plain JSON, nothing changed."""
    spring = token(discount_percent=50, max_uses=7)
    made = policy(rules(line(2_000_000), line(20_000_000, 20), tokens=(spring,)))
    quote = made.explain(ALICE, "spring", WALL_MS, facts(PERKW), 100_000_000)
    assert json.loads(json.dumps(quote)) == quote
    assert quote["served"] is True
    assert quote["mining_cost_msat"] == 4_500_000
    assert quote["token"] == {"label": "label of spring", "uses_left": 7}
    assert quote["trust"]["mode"] == "lsp-trusts-client"
    assert [each["name"] for each in quote["menu"]] == ["fee_line 1"]
    assert quote["menu"][0]["opening_fee_msat"] == 4_500_000
    assert quote["menu"][0]["fits"] is True
    assert quote["menu"][0]["rules"] == [
        "discount of 50 % for the token",
        "min_fee_msat 1000000 raised to the expected mining cost of 4500000 msat",
        "min_payment_size_msat 3000000 raised above the fee",
    ]
    assert "crosses fee_line 1" in quote["left_out"][0]["why"]
    assert counted(made) == set()


@pytest.mark.parametrize(("size_msat", "fits"), [(4_500_001, True), (4_500_000, False), (4_000_000_001, False)])
def test_a_quote_says_whether_the_payment_fits(size_msat: int, fits: bool) -> None:
    """B-06 steps 5 to 8, before any client asks."""
    assert policy(rules()).explain(ALICE, None, WALL_MS, facts(PERKW), size_msat)["menu"][0]["fits"] is fits


def test_a_quote_without_a_size_shows_the_lines_alone() -> None:
    """Variable mode has no size."""
    menu = policy(rules()).explain(ALICE, None, WALL_MS, facts(253))["menu"]
    assert menu == [{"name": "fee_line 1", **line()._asdict(), "rules": []}]
    assert isinstance(line(), FeeLine)


@pytest.mark.parametrize(
    ("changes", "text", "code", "why"),
    [
        ({"deny": frozenset({ALICE})}, None, 1, "on the deny list"),
        ({"allow": frozenset({BOB})}, None, 1, "not on the allow list"),
        ({}, "autumn", 200, "no such token"),
        ({}, "spring", 200, "the token is used up"),
    ],
)
def test_a_quote_tells_the_operator_why_a_client_is_refused(
    changes: dict[str, frozenset[str]], text: str | None, code: int, why: str
) -> None:
    """The client learns a code, the operator the reason; K-28: not the token."""
    made = policy(rules(tokens=(token(max_uses=0),))._replace(**changes))  # type: ignore[arg-type]
    quote = made.explain(ALICE, text, WALL_MS, facts(PERKW))
    assert quote["menu"] == []
    assert quote["refused"]["code"] == code
    assert why in quote["refused"]["why"]
    assert counted(made) == set()


def test_a_quote_explains_the_safe_mode() -> None:
    """An operator sees why a client is no longer trusted."""
    made = policy(rules())
    owing(made)
    trust = made.explain(ALICE, None, WALL_MS, facts(PERKW), 5_000_000)["trust"]
    assert trust["mode"] == "client-trusts-lsp"
    assert trust["why"] == "1 channels of this peer went unpaid"
