"""What the owner of a wallet reads: the README's commands with what they print, and sentences that say what to do."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness.client import LSP, STRANGER, Json, Stage, Staging, failure_of
from harness.wallet_words import is_part

from lsps2fast_plugin.client.app import METHODS

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.split("## As a wallet")[1].split("\n## ")[0]
SHOWN = re.findall(r"^\$ lightning-cli (lsps\S+)(.*)\n(\{.*\})$", SECTION, re.M)


def names(command: str) -> Json:
    """The parameters of a command, with the LSP of the stage."""
    given = dict(word.split("=", 1) for word in shlex.split(command))
    return given | {key: here for key, here in (("lsp_id", LSP), ("lsp_ids", [LSP])) if key in given}


async def test_the_readmes_commands_print_what_it_shows(staged: Staging) -> None:
    """One after the other on a stage."""
    assert [method for method, _, _ in SHOWN] == ["lsps2-compare", "lsps-lsps2-invoice", "lsps2-status"]
    async with staged() as stage:
        stage.node.peers[LSP]["features"] = "02" + "00" * 91
        for method, command, shown in SHOWN:
            run = stage.client._status if method == "lsps2-status" else getattr(stage.client.methods, METHODS[method])
            real = await run(**names(command))
            assert is_part(json.loads(shown), json.loads(json.dumps(real))), method


def buy_of(stage: Stage, entry: Any) -> Coroutine[Any, Any, Json]:
    return stage.client.methods.buy(LSP, None, entry)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda stage: stage.client.methods.get_info("me"), "lsp_id: not a compressed point of 66 hex digits"),
        (lambda stage: stage.client.methods.trust("x"), "lsp_id: not a compressed point of 66 hex digits"),
        (lambda stage: stage.client.methods.approve(LSP, "1x1", "00" * 32), "jit_channel_scid: not BLOCKxTXxOUT"),
        (lambda stage: stage.client.methods.approve(LSP, "1x1x1", "00"), "payment_hash must be 64 hex digits"),
        (lambda stage: stage.client.methods.approve(LSP, "1x1x1", "00" * 32), "give the opening_fee_params"),
        (lambda stage: stage.client.methods.compare("x"), "amount_msat='x' is no amount; give msat as a number"),
        (lambda stage: stage.client.methods.compare(5, 5), "lsp_ids must be a list of node ids"),
        (lambda stage: buy_of(stage, {"min_fee_msat": 1}), "min_fee_msat: not a u64 as a decimal string"),
        (lambda stage: stage.invoice(0), "amount_msat must be positive, or 'any'"),
        (lambda stage: stage.invoice(1_000), "1000 msat is outside 1500000 … 4000000000 msat"),
        (lambda stage: stage.invoice(max_fee_msat=1), "the fee of 1000000 msat for 20000000 msat is above the limit"),
        (lambda stage: stage.invoice(client_trusts_lsp="yes"), "client_trusts_lsp='yes' must be true or false"),
        (lambda stage: stage.invoice(expiry=5), "expiry must be at least 60 seconds"),
        (lambda stage: stage.invoice(expiry="１２０"), "expiry must be a whole number of seconds"),
        (lambda stage: stage.invoice(expiry=10**15), "ends too soon, at 2"),
        (lambda stage: stage.invoice("9" * 5000), f"amount_msat='{'9' * 59}… is no amount; give msat"),
        (lambda stage: stage.invoice(max_fee_ppm="9" * 5000), "… is out of range; give a number from 0 to 1000000"),
        (lambda stage: stage.invoice(token="t" * 60_001), "token must be a text of at most 60000 bytes"),
        (lambda stage: stage.invoice(token="\ud800"), "token must be a text"),
        (lambda stage: stage.invoice(description="\ud800"), "description must be a text of at most 639 bytes"),
        (lambda stage: stage.invoice(label="\udfff"), "label must be a text or a number"),
        (lambda stage: buy_of(stage, 5), "opening_fee_params must be an entry of the LSP's menu"),
        (
            lambda stage: stage.client.methods.compare(5),
            "no connected peer announces that it sells channels; name some",
        ),
        (lambda stage: stage.invoice(lsp_id=STRANGER), "no address known for peer; connect to it first"),
    ],
)
async def test_a_wrong_parameter_is_named_and_the_right_one_described(
    staged: Staging, call: Any, sentence: str
) -> None:
    """Nothing was asked of the LSP, or nothing came of it."""
    async with staged() as stage:
        error = await failure_of(call(stage))
        assert sentence in str(error)
        assert "lsps2.buy" not in {asked["method"] for asked in stage.lsp.asked}
        assert not stage.node.datastore


async def test_an_lsp_without_offers_is_said_to_have_none(staged: Staging) -> None:
    """G-04 as its client reads it."""
    async with staged() as stage:
        stage.lsp.entries = []
        assert str(await failure_of(stage.invoice())) == "the LSP sells no channels now: its menu is empty"


async def test_an_lsp_that_wants_trust_is_answered_with_how_to_give_it(staged: Staging) -> None:
    """B-16: and one that broke its word with why it gets none."""
    async with staged() as stage:
        stage.lsp.trust = True
        assert "allow it with client_trusts_lsp=true" in str(await failure_of(stage.invoice()))
