"""After the storm: what the simulated town promises once nothing bad has happened for an hour."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lsps2fast.lsps import lsps0
from lsps2fast_plugin.service.negotiation import Negotiator
from lsps2fast_plugin.service.policy.budgets import Budgets, No
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.tools.simulate.common import Common
from lsps2fast_plugin.tools.simulate.market import Result, simulate
from lsps2fast_plugin.tools.simulate.plan import NONE, Plan

STORMY = Plan(3, days=1, people=6)


def broken_later(monkeypatch: pytest.MonkeyPatch, plan: Plan, owner: Any, name: str, value: Any) -> Result:
    """Play a plan in which the service loses something at the first disturbance."""
    disturb = Common.disturb

    def breaks(common: Common) -> None:
        disturb(common)
        monkeypatch.setattr(owner, name, value)

    monkeypatch.setattr(Common, "disturb", breaks)
    return simulate(plan)


def test_after_each_storm_an_honest_wallet_is_served() -> None:
    """rule:6, rule:24: it comes an hour after the last harm, buys and is paid."""
    result = simulate(STORMY)
    assert result.violation is None, result.violation
    assert result.counts["sales after a storm"] >= 2
    assert result.counts["quiet hours without a leftover"] > 100


def test_without_a_storm_none_comes() -> None:
    """Where nothing bad ever happens there is nothing to wait for the end of."""
    result = simulate(Plan(3, days=0.5, people=6, only=(NONE,), weather=False))
    assert result.violation is None
    assert result.counts["sales after a storm"] == 0


@pytest.mark.slow
def test_a_service_that_falls_silent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:24: no answer after a quiet hour breaks the promise."""
    result = broken_later(monkeypatch, STORMY, Negotiator, "admit", lambda *_: None)
    assert result.violation is not None
    assert result.violation.rule == "rule:24"
    assert "after a quiet hour an honest wallet is refused" in result.violation.sentence


@pytest.mark.slow
def test_a_service_that_refuses_for_good_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:24: so does an error as the answer to a buy."""

    async def refuses(*_: Any) -> None:
        raise lsps0.try_later("not ever")

    result = broken_later(monkeypatch, STORMY, Negotiator, "_sell", refuses)
    assert result.violation is not None
    assert result.violation.rule == "rule:24"
    assert "not ever" in result.violation.sentence


@pytest.mark.slow
def test_a_service_that_sells_and_never_opens_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:6: an offer that no payment of an hour can use is none."""
    full = No(Refusal.CAPITAL_BUDGET, "the pot stays full")
    result = broken_later(monkeypatch, STORMY, Budgets, "why_not_open", lambda *_: full)
    assert result.violation is not None
    assert result.violation.rule == "rule:6"
    assert re.search("after a quiet hour an honest sale over [0-9x]+ failed 5 times", result.violation.sentence)
