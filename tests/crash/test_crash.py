"""A short selection of `make crash`, and the proof that the machine notices when the plugin is broken on purpose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from crash.__main__ import seed_of_version
from crash.case import CLIENT_TRUSTS, LSP_TRUSTS, MODES, Case, Misdeed, Trouble
from crash.machine import Outcome, play, run
from crash.nursery import Nursery
from crash.plan import chains, dry_cases, misdeeds
from crash.points import PLUGIN, POWER, Death
from crash.scenarios import SCENARIOS

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


def _run(cases: Iterable[Case]) -> list[Outcome]:
    return [play(case) for case in cases]


async def _run_processes(cases: Iterable[Case]) -> list[Outcome]:
    async with Nursery() as nursery:
        return [await run(nursery, case) for case in cases]


def _bad(outcomes: list[Outcome]) -> dict[str, tuple[str, ...]]:
    return {str(outcome.case): outcome.violations for outcome in outcomes if outcome.violations}


def test_every_scenario_ends_well_undisturbed() -> None:
    """The books balance when nothing dies: else a violation would say nothing."""
    assert _bad(_run(dry_cases(SCENARIOS, MODES, seed=1))) == {}


@pytest.mark.parametrize("kind", [PLUGIN, POWER])
@pytest.mark.parametrize("mode", MODES)
async def test_a_sale_survives_a_death_at_each_of_these_points(mode: str, kind: str) -> None:
    """K-02, K-07, K-09, rule:2, rule:8, rule:9, 11."""
    cases = [Case("mpp", mode, (Death(kind, point),)) for point in POINTS]
    outcomes = await _run_processes(cases)
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


def test_these_troubles_are_over() -> None:
    """K-13, rule:9, rule:10, rule:13, A-03."""
    outcomes = _run([Case.parse(name, 1) for name in TROUBLES])
    assert _bad(outcomes) == {}
    assert all(outcome.hit for outcome in outcomes)


@pytest.mark.parametrize("mode", MODES)
def test_a_client_may_do_anything_at_each_message(mode: str) -> None:
    """people:S0, people:S7, people:S13, rule:23: no sat into nothing, no coin reserved, every part answered."""
    cases = [Case("single", mode, misdeed=deed) for deed in misdeeds() if deed.deed in ("error", "close", "silent")]
    outcomes = _run(cases)
    assert _bad(outcomes) == {}
    assert [
        str(outcome.case) for outcome in outcomes if not outcome.hit and "update_fail" not in str(outcome.case)
    ] == []


# The deed, and a death one or two messages later: what was found must be found again, what is gone stays gone.
MISDEEDS = (
    "single client-trusts-lsp client@update_fulfill_htlc/error plugin@deed/+1",
    "single client-trusts-lsp client@update_fulfill_htlc/error power@deed/+2",
    "mpp client-trusts-lsp client@update_add_htlc/error power@deed/+1",
    "mpp lsp-trusts-client client@funding_signed/error plugin@deed/+1",
    "mpp lsp-trusts-client client@funding_signed/error power@deed/+3",
    "two-clients lsp-trusts-client client@update_add_htlc/close plugin@deed/+2",
    "late-part client-trusts-lsp client@funding_created/silent plugin@deed/+1",
    "failed-part lsp-trusts-client client@update_fail_htlc/disconnect power@deed/+1",
    # deleted between the start's first look and the end of the start: its entry among the withheld stayed (rule:14)
    *3 * ("two-buys-of-one-client client-trusts-lsp client@normal/error power@deed/+1",),
)


def test_a_client_misbehaves_and_then_the_plugin_dies() -> None:
    """people:S20, rule:23, K-07."""
    outcomes = _run([Case.parse(name, 1) for name in MISDEEDS])
    assert _bad(outcomes) == {}
    assert all(outcome.hit for outcome in outcomes)


def test_a_story_survives_several_harms_in_a_row() -> None:
    """K-07, K-09: five deaths, a client, a call without an answer: drawn, but the same for one seed."""
    outcomes = _run(chains(_run(dry_cases(("single", "mpp", "two-clients"), MODES, seed=1)), 12, seed=1))
    assert _bad(outcomes) == {}
    assert sum(outcome.recoveries for outcome in outcomes) > 20


# What is broken, where, and the story that must notice.
NOTICED = {
    "intent-unwritten": Case("single", CLIENT_TRUSTS, (Death(PLUGIN, "1/reply fundchannel_complete#1"),)),
    "channel-unwritten": Case("single", LSP_TRUSTS, (Death(PLUGIN, "1/reply sendpsbt#1"),)),
    "forwards-unwritten": Case("settle-while-down", CLIENT_TRUSTS, (Death(PLUGIN, "1/note forward_event#3"),)),
    "flag-proves": Case.parse("single client-trusts-lsp fail@1/sendpsbt#1", 1),
    "blind-close": Case("stranger", CLIENT_TRUSTS, (Death(PLUGIN, "1/note forward_event#1"),)),
    "unrenewed": Case("coins-about-to-lapse", CLIENT_TRUSTS, (Death(PLUGIN, "1/note block_added#1"),)),
    "unseen": Case.parse("single client-trusts-lsp client@update_fulfill_htlc/error", 1),
    "cancels-blindly": Case("another-tool", CLIENT_TRUSTS),
    "never-hangs-up": Case("silent-inside-the-open", LSP_TRUSTS),
}


@pytest.mark.parametrize("mutant", NOTICED)
async def test_a_plugin_without_one_safeguard_is_noticed(mutant: str) -> None:
    """Mutation check: the same case is clean with the safeguard, and a violation without it."""
    case = NOTICED[mutant]
    sound, broken = await _run_processes([case, replace(case, mutant=mutant)])
    assert sound.violations == ()
    assert broken.violations != ()


def test_what_is_said_to_a_dead_process_belongs_to_no_life() -> None:
    """A second death at such a message would find nothing to kill, and the story would stand still."""
    cases = [Case("mpp", mode, (Death(PLUGIN, "1/note forward_event#1"),)) for mode in MODES]
    for outcome in _run(cases):
        assert [point for point in outcome.points if point[:2] == "2/"][:1] == ["2/hook getmanifest#1"]


@pytest.mark.parametrize("name", ["failed-part lsp-trusts-client power@1/reply datastore#2", *TROUBLES[:3]])
def test_a_case_plays_again_to_the_letter(name: str) -> None:
    """T-07: no jit scid, key, order or time of a case comes from anywhere but its seed; another seed has others."""
    case = Case.parse(name, 7)
    first, second, other = (_told(each) for each in (case, case, replace(case, seed=8)))
    assert first == second
    assert first != other


def _told(case: Case) -> list[str]:
    """Every message of a case, in order, without the time on the wall."""
    return [line[11:] for line in play(case, 1_000_000).tail.splitlines()]


def test_a_case_is_found_by_its_name() -> None:
    """A failing point can be replayed."""
    case = Case("mpp", LSP_TRUSTS, (Death(PLUGIN, "1/reply datastore#3"), Death(POWER, "2/rpc listforwards#1")), seed=4)
    assert Case.parse(str(case), 4) == case
    case = replace(case, misdeed=Misdeed("update_add_htlc#2", "error"), trouble=Trouble("late", "sendpsbt", 1, 2))
    assert Case.parse(str(case), 4) == case


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mpp neither", "the second word is client-trusts-lsp or lsp-trusts-client"),
        ("mpp lsp-trusts-client client@funding_signed/sing", "DEED one of error, close"),
        ("mpp lsp-trusts-client client@hello/error", "give client@MESSAGE/DEED"),
        ("mpp lsp-trusts-client loud@1/sendpsbt#1", "KIND one of fail, lost"),
    ],
)
def test_a_name_that_is_none_says_what_to_write(text: str, says: str) -> None:
    """A mistyped case is no case that passes."""
    with pytest.raises(ValueError, match=says):
        Case.parse(text, 1)


def test_the_seed_follows_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each release tries other samples by default."""
    before = seed_of_version()
    monkeypatch.setattr("lsps2fast.__version__", "9.9.9")
    assert seed_of_version() != before
