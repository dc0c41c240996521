"""A short selection of `make crash`, and the proof that the machine notices when the plugin is broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from crash.__main__ import parse_case
from crash.machine import Case, Outcome, run
from crash.nursery import Nursery
from crash.plan import dry_cases
from crash.points import PLUGIN, POWER, Death
from crash.scenarios import SCENARIOS
from crash.stage import CLIENT_TRUSTS, LSP_TRUSTS, MODES

pytestmark = [pytest.mark.slow, pytest.mark.within(300)]  # many cases in a row

# After these something must be found again: an intent, a channel that is in no record, forwards, a settlement.
POINTS = (
    "1/reply datastore#1",
    "1/reply fundchannel_complete#1",
    "1/rpc setchannel#1",
    "1/reply datastore#2",
    "1/answer htlc_accepted#1",
    "1/note forward_event#2",
    "1/reply sendpsbt#1",
    "1/rpc deldatastore#1",
)


async def _run(cases: list[Case]) -> list[Outcome]:
    async with Nursery() as nursery:
        return [await run(nursery, case) for case in cases]


def _bad(outcomes: list[Outcome]) -> dict[str, tuple[str, ...]]:
    return {str(outcome.case): outcome.violations for outcome in outcomes if outcome.violations}


async def test_every_scenario_ends_well_undisturbed() -> None:
    """The books balance when nothing dies: else a violation would say nothing."""
    assert _bad(await _run(dry_cases(SCENARIOS, MODES, seed=1))) == {}


@pytest.mark.parametrize("kind", [PLUGIN, POWER])
@pytest.mark.parametrize("mode", MODES)
async def test_a_sale_survives_a_death_at_each_of_these_points(mode: str, kind: str) -> None:
    """K-02, K-07, K-09, rule:2, rule:8, rule:9, 11."""
    cases = [Case("mpp", mode, (Death(kind, point),)) for point in POINTS]
    outcomes = await _run(cases)
    assert _bad(outcomes) == {}
    assert all(outcome.hit for outcome in outcomes)


# Each was a violation once: calls carried out after they were given up, fees given back twice or too late.
TROUBLES = (
    "single client-trusts-lsp lost@1/datastore#1",
    "single lsp-trusts-client hang@1/datastore#1",
    "refused-open client-trusts-lsp hang@1/datastore#3",
    "stranger client-trusts-lsp hang@1/fundchannel_start#1",
    "mpp lsp-trusts-client hang@1/setchannel#1",
    "never-ready client-trusts-lsp hang@1/setchannel#1",
    "two-hashes lsp-trusts-client lost@1/setchannel#2",
    "two-hashes client-trusts-lsp plugin@1/rpc setchannel#2",
    "refused-open lsp-trusts-client stop@1/answer htlc_accepted#2",
    "failed-part client-trusts-lsp power@1/reply datastore#1 hang@2/listpeerchannels#4",
)


async def test_these_troubles_are_over() -> None:
    """K-13, rule:9, rule:10, rule:13, A-03."""
    outcomes = await _run([parse_case(name, 1) for name in TROUBLES])
    assert _bad(outcomes) == {}
    assert all(outcome.hit for outcome in outcomes)


# What is broken, where, and the story that must notice.
NOTICED = {
    "intent-unwritten": Case("single", CLIENT_TRUSTS, (Death(PLUGIN, "1/reply fundchannel_complete#1"),)),
    "channel-unwritten": Case("single", LSP_TRUSTS, (Death(PLUGIN, "1/reply sendpsbt#1"),)),
    "forwards-unwritten": Case("settle-while-down", CLIENT_TRUSTS, (Death(PLUGIN, "1/note forward_event#3"),)),
    "flag-proves": parse_case("single client-trusts-lsp fail@1/sendpsbt#1", 1),
    "blind-close": Case("stranger", CLIENT_TRUSTS, (Death(PLUGIN, "1/note forward_event#1"),)),
    "unrenewed": Case("coins-about-to-lapse", CLIENT_TRUSTS, (Death(PLUGIN, "1/note block_added#1"),)),
}


@pytest.mark.parametrize("mutant", NOTICED)
async def test_a_plugin_without_one_safeguard_is_noticed(mutant: str) -> None:
    """Mutation check: the same case is clean with the safeguard, and a violation without it."""
    case = NOTICED[mutant]
    sound, broken = await _run([case, replace(case, mutant=mutant)])
    assert sound.violations == ()
    assert broken.violations != ()


async def test_what_is_said_to_a_dead_process_belongs_to_no_life() -> None:
    """A second death at such a message would find nothing to kill, and the story would stand still."""
    cases = [Case("mpp", mode, (Death(PLUGIN, "1/note forward_event#1"),)) for mode in MODES]
    for outcome in await _run(cases):
        assert [point for point in outcome.points if point[:2] == "2/"][:1] == ["2/hook getmanifest#1"]


def test_a_case_is_found_by_its_name() -> None:
    """A failing point can be replayed."""
    case = Case("mpp", LSP_TRUSTS, (Death(PLUGIN, "1/reply datastore#3"), Death(POWER, "2/rpc listforwards#1")), seed=4)
    assert parse_case(str(case), 4) == case
