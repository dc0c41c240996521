"""`lsps2fast demo`: what it shows, and that it cannot be made to say "well" when something is not."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import lsps2fast_plugin
from lsps2fast_plugin.service import app, wiring
from lsps2fast_plugin.tools import cli
from lsps2fast_plugin.tools.demo import evil, evil_lsp, sales, screen, wake

pytestmark = pytest.mark.slow

MODES = (sales.CLIENT_TRUSTS, sales.LSP_TRUSTS)
BY_CHANCE = ("seconds", "jit_channel_scid", "payment_hash", "sentence")  # drawn by the plugins themselves
CHEATS = [
    (vice, mode)
    for vice in evil.VICES
    for mode in MODES
    if not evil.VICES[vice].is_paid
    if vice not in evil.WITHHOLDING or mode != MODES[0]
]
Json = dict[str, Any]
FEE_MSAT = 4_500_000  # the floor at the recorded fee rate: opening and closing are paid for


def play(*arguments: str) -> tuple[int, Json]:
    """Exit code and report of `lsps2fast demo --json …`."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        code = cli.main(["demo", "--json", *arguments])
    told: Json = json.loads(written.getvalue())
    return code, told


played = functools.cache(play)  # for tests that look at one run from several sides


def figures(report: Any) -> Any:
    """A report without what may differ between two runs of one seed."""
    if isinstance(report, dict):
        return {name: figures(value) for name, value in report.items() if name not in BY_CHANCE}
    return [figures(each) for each in report] if isinstance(report, list | tuple) else report


def wrong(report: Json) -> set[str]:
    """The checks that do not hold."""
    found = [*report.get("sales", []), *([report["refusal"]] if "refusal" in report else [])]
    return {text for each in found for text, holds in each["checks"].items() if not holds}


# The sales


@pytest.mark.parametrize("mode", MODES)
def test_three_sales_between_two_plugins(mode: str) -> None:
    """operator:O6: every figure, from both plugins' pipes; the LSP gains on each sale."""
    code, report = played("--mode", mode)
    assert (code, report["ok"], report["mode"], wrong(report)) == (0, True, mode, set())
    assert list(report) == ["ok", "seed", "mode", "sales", "gains_msat", "checks"]
    assert all(report["checks"].values())
    gains = report["gains_msat"]
    assert gains["lsp"] == gains["opening_fees"] - gains["miners"] == 3 * FEE_MSAT - gains["miners"] > 0
    assert -gains["payer"] == gains["wallets"] + gains["opening_fees"]
    assert [sale["opening_fee_msat"] for sale in report["sales"]] == [FEE_MSAT] * 3
    assert [len(sale["parts"]) for sale in report["sales"]] == [5, 1, 6]
    assert [len(sale["claims"]) for sale in report["sales"]] == [5, 1, 4]
    assert {part["outcome"] for part in report["sales"][2]["parts"]} == {"failed 1007", "forwarded"}
    for sale, wallet, got_msat in zip(
        report["sales"], ("alice", "bertha", "carol"), (95_500_000, 72_043_210, 195_500_000), strict=True
    ):
        assert sale["books_msat"][wallet] == sum(claim["amount_msat"] for claim in sale["claims"]) == got_msat
        assert sale["states"][-1] == "SUCCEEDED"
        assert len(sale["checks"]) >= 16


@pytest.mark.parametrize("mode", MODES)
def test_a_wallet_that_sleeps_is_woken(mode: str) -> None:
    """N-09, N-11, N-18, N-19: the real service calls, its request alone is shown in place of being made."""
    code, report = played("--wake", "--mode", mode)
    assert (code, report["ok"], wrong(report)) == (0, True, set())
    (sale,) = report["sales"]
    assert sale["books_msat"]["alice"] == 100_000_000 - FEE_MSAT
    assert [text for text in sale["checks"] if "called twice" in text or "that slept" in text] == [
        "the app's server was called twice, and believed the signature of both calls",
        "5 parts were held for the wallet that slept",
    ]


def test_what_the_demo_plays_itself_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """operator:O6: no server of an app is called, and a line says so; the page has the story under one title."""
    page = tmp_path / "story.html"
    assert cli.main(["demo", "--wake", "--html", str(page)]) == 0
    assert page.read_text().count("<h2>") == 2
    text = capsys.readouterr().out
    for step in (
        r"demo +plays .* no HTTPS request leaves this machine",
        r"client +asks lsps5\.set_webhook",
        r"wallet +falls asleep",
        r"service +calls the webhook at push\.example\n.*app +verifies the LSP's signature: lsps5\.payment_incoming",
        r"wallet +is woken by the push, and connects",
    ):
        assert re.search(step, text), step


def test_a_call_that_no_app_believes_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """N-12: whatever the service says of it."""
    told = wake.WakeStage._called

    def spoilt(stage: wake.WakeStage, call: Json) -> None:
        told(stage, call | {"body": call["body"].replace("payment", "Payment")})

    monkeypatch.setattr(wake.WakeStage, "_called", spoilt)
    monkeypatch.setattr(wake, "PATIENCE_S", 1.0)
    code, report = play("--wake")
    assert (code, report["ok"]) == (1, False)
    assert wrong(report)


@pytest.mark.parametrize("mode", MODES)
def test_a_wallet_that_has_a_channel_is_paid_over_it(mode: str) -> None:
    """operator:O6: a sale, a payment without a transaction and without a fee, and a channel for what does not fit."""
    code, report = played("--reuse", "--mode", mode)
    assert (code, report["ok"], wrong(report)) == (0, True, set())
    first, again, large = report["sales"]
    assert all(report["checks"].values())
    assert first["books_msat"]["alice"] == 100_000_000 - FEE_MSAT
    assert again["books_msat"] == {"payer": -50_000_000, "alice": 50_000_000}
    assert {part["outcome"] for part in again["parts"]} == {"forwarded"}
    assert again["funding_txid"] == ""
    assert large["funding_txid"] not in ("", first["funding_txid"])
    assert large["books_msat"]["alice"] == 300_000_000 - FEE_MSAT


def test_three_wallets_have_their_channels_in_one_transaction() -> None:
    """operator:O6, trap:60: the ledger splits what miners got to the sat, and all sums are proved."""
    code, report = played("--batch")
    assert (code, report["ok"], report["mode"], wrong(report)) == (0, True, sales.LSP_TRUSTS, set())
    assert all(report["checks"].values())
    assert len({sale["funding_txid"] for sale in report["sales"]}) == 1
    assert len({sale["channel_id"] for sale in report["sales"]}) == 3
    assert [sale["books_msat"] for sale in report["sales"]] == [
        {name: 100_000_000 - FEE_MSAT} for name in ("alice", "bertha", "carol")
    ]
    gains = report["gains_msat"]
    assert gains["lsp"] == 3 * FEE_MSAT - gains["miners"] > 0
    assert -gains["payer"] == gains["wallets"] + gains["opening_fees"]


def test_a_batch_is_no_story_of_clients_that_trust_the_lsp(capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O6: their fundings wait for their own payments, so no two are sent together."""
    assert cli.main(["demo", "--batch", "--mode", sales.CLIENT_TRUSTS]) == 2
    assert "no such story" in capsys.readouterr().err


def test_a_seed_makes_a_run_again() -> None:
    """Figures, states and transactions."""
    arguments = ("--mode", sales.CLIENT_TRUSTS)
    assert figures(play(*arguments)) == figures(played(*arguments))


def test_the_story_tells_service_and_client_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a step, who did it in front; plain where there is no terminal."""
    assert cli.main(["demo"]) == 0
    text = capsys.readouterr().out
    for step in (
        r"owner +wants an invoice over 100,000,000 msat",
        r"client +asks lsps2\.buy",
        r"service +sells jit channel \d+x\d+x\d+",
        r"client +composes the invoice",
        r"service +proposes a zero-conf channel of [\d,]+ sat",
        r"client +accepts the zero-conf channel of [\d,]+ sat",
        r"service +forwards part 103x1x0/0, [\d,]+ msat taken",
        r"client +accepts htlc 0: [\d,]+ msat \+ [\d,]+ msat opening fee, of 20,000,000 msat sent",
        r"clock +90 s pass",
        r"All \d+ checks hold\.",
    ):
        assert re.search(step, text), step
    assert "WRONG" not in text


# The LSP that cheats


@pytest.mark.parametrize(("vice", "mode"), CHEATS)
def test_the_client_refuses_and_nobody_pays(vice: str, mode: str) -> None:
    """trap:37, trap:46, I-11, I-14, I-23, I-30: money back, no preimage, and a sentence that says why."""
    code, report = played("--evil-lsp", vice, "--mode", mode)
    assert (code, report["ok"], report["evil_lsp"], wrong(report)) == (0, True, vice, set())
    refusal = report["refusal"]
    assert evil.VICES[vice].reason in refusal["sentence"]
    assert len(refusal["payer_failures"]) == 5
    if vice == "vanish":
        assert [claim["outcome"] for claim in refusal["claims"]] == ["failed 0017"]
    assert len(refusal["parts"]) == 5 + (vice == "drain")  # one more: the forward through the wallet
    assert "a preimage" not in refusal["payer_failures"]
    assert not {"payer", "alice"} & set(refusal["books_msat"])
    assert {claim["outcome"] for claim in refusal["claims"]} <= {"failed 400f", "failed 0017", "failed 2002"}
    assert len(refusal["checks"]) >= 9


@pytest.mark.parametrize("mode", MODES)
def test_a_second_channel_is_refused_and_the_sale_goes_on(mode: str) -> None:
    """I-16, wallet:W6: the wallet has its payment less the agreed fee, once."""
    code, report = played("--evil-lsp", "second-channel", "--mode", mode)
    assert (code, report["ok"], wrong(report)) == (0, True, set())
    refusal = report["refusal"]
    assert "every purchase it would fit has its channel already" in refusal["sentence"]
    assert refusal["books_msat"]["alice"] == 9_000_000
    assert {claim["outcome"] for claim in refusal["claims"]} == {"taken"}


@pytest.mark.parametrize("vice", evil.VICES)
def test_a_cheat_of_one_seed_happens_again(vice: str) -> None:
    """Each vice has a mode of its own when none is given."""
    assert figures(play("--evil-lsp", vice)) == figures(played("--evil-lsp", vice, "--mode", evil.VICES[vice].mode))


def test_withholding_is_no_vice_where_it_was_agreed(capsys: pytest.CaptureFixture[str]) -> None:
    """B-16: in client-trusts-LSP mode the owner has consented to it."""
    assert cli.main(["demo", "--evil-lsp", "withhold", "--mode", sales.CLIENT_TRUSTS]) == 2
    assert "leave out --mode" in capsys.readouterr().err


def test_only_known_vices_are_played(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", "--evil-lsp", "greed"])
    assert ended.value.code == 2
    assert "greed" in capsys.readouterr().err


def test_a_cheat_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words with rich: tables, and the client's sentence."""
    drawn = io.StringIO()
    monkeypatch.setattr(
        screen, "_rich_console", lambda: Console(file=drawn, force_terminal=True, width=160, color_system=None)
    )
    assert cli.main(["demo", "--evil-lsp", "skim"]) == 0
    text = drawn.getvalue()
    assert "sum of forwarded" in text
    assert "client   says: payment" in text
    assert re.search(r"All \d+ checks hold\.", text)


# What is off is said


@pytest.mark.parametrize(
    ("vice", "mode", "said"),
    [
        ("skim", sales.CLIENT_TRUSTS, "the payment is made, not failed with 400f"),
        ("resize", sales.LSP_TRUSTS, "the payment is made, not failed with 400a"),
        ("withhold", sales.CLIENT_TRUSTS, "its funding is in a block"),
        ("withhold", sales.LSP_TRUSTS, "the client kept the preimage until the funding was in a block"),
    ],
)
def test_a_sale_by_a_cheat_is_no_success(monkeypatch: pytest.MonkeyPatch, vice: str, mode: str, said: str) -> None:
    """Exit code 1 if anything is off, and the check that does not hold."""
    monkeypatch.setattr(sales, "SERVICE", evil.service_with(vice))
    code, report = play("--mode", mode)
    assert (code, report["ok"], len(report["sales"])) == (1, False, 1)
    assert any(said in text for text in wrong(report))


@pytest.mark.parametrize("vice", evil.VICES)
def test_an_honest_lsp_is_not_taken_for_a_cheat(monkeypatch: pytest.MonkeyPatch, vice: str) -> None:
    """The proofs of a refusal prove something: with nothing to refuse they fail."""
    monkeypatch.setattr(evil, "service_with", lambda _: sales.SERVICE)
    code, report = play("--evil-lsp", vice)
    assert (code, report["ok"], report["refusal"]["sentence"]) == (1, False, "")
    told = {"the client says why it refused"}
    if not evil.VICES[vice].is_paid:
        told.add("the preimage never left the wallet's node")
    assert told <= wrong(report)
    assert any("the LSP did" in text for text in wrong(report))


CARELESS = """
from lsps2fast_plugin.client import app, channel_terms
channel_terms.refusal = lambda *_: None
app.main()
"""


def test_a_careless_client_is_found_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the client: one that takes any channel; in plain text."""
    monkeypatch.setattr(sales, "CLIENT", [sys.executable, "-c", CARELESS])
    assert cli.main(["demo", "--evil-lsp", "resize"]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^WRONG +the client accepted no channel$", text, re.M)
    assert "Something is off" in text


# The vices stay where they are


def test_the_service_does_not_know_its_vices() -> None:
    """Nothing but the demo starts them, and no part of the service names them."""
    root = Path(lsps2fast_plugin.__file__).parent
    named = {path for path in root.rglob("*.py") if re.search(r"\bevil(_lsp)?\b(?!-)", path.read_text())}
    assert {path.relative_to(root).parts[0] for path in named} == {"tools"}
    assert "evil" not in (Path(__file__).parents[2] / "pyproject.toml").read_text()


@pytest.mark.parametrize("vice", evil_lsp.VICES)
def test_a_vice_is_parts_of_the_service_replaced(monkeypatch: pytest.MonkeyPatch, vice: str) -> None:
    """Each corrupts classes that the service uses under their names, and nothing else."""
    before = {
        name: getattr(wiring, name) for name in ("ActionExecutor", "Broadcaster", "HeldHtlcs", "Opener", "ShutChannels")
    }
    for name, honest in before.items():
        monkeypatch.setattr(wiring, name, honest)  # so that it is put back
    monkeypatch.setattr(app, "main", lambda: 0)
    assert evil_lsp.main([vice]) == 0
    changed = {name for name, honest in before.items() if getattr(wiring, name) is not honest}
    assert len(changed) == len(evil_lsp.VICES[vice])
    assert all(issubclass(getattr(wiring, name), before[name]) for name in changed)
