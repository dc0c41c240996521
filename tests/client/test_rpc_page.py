"""docs/reference/wallet-rpc.md says what the methods do: every parameter and field, and examples that run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.client import FEE, LSP, Json, Stage, Staging, ready
from harness.wallet_words import FIELDS as OF_A_PURCHASE
from harness.wallet_words import is_part

from lsps2fast_plugin.client.app import METHODS, PURCHASE_METHODS, WEBHOOK_METHODS
from lsps2fast_plugin.client.status import given_up_channel
from lsps2fast_plugin.tools.wallet_rpc_page import (
    ANSWERS,
    EXAMPLES,
    FIELDS,
    NOTIFICATION,
    PARAMETERS,
    PURCHASE,
    STATUS,
    WARNINGS,
    methods,
    parameters,
)

PAGE = Path(__file__).parents[2] / "docs/reference/wallet-rpc.md"
FREE = {
    "params",
    "opening_fee_params",
    "opening_fee_params_menu",
    "times",
    "refused",
}  # their members are not ours to name
DETAILED = {"buys", "approvals", "channels", "given_up", "lsps", "held_parts", "open_requests", "reports"}


def test_every_method_and_parameter_is_there() -> None:
    """None is missing, none is of yesterday."""
    assert set(methods()) == {*METHODS, *PURCHASE_METHODS, *WEBHOOK_METHODS, "lsps2-status"}
    assert {name for method in methods().values() for name in parameters(method)} == set(PARAMETERS)
    assert set(FIELDS) >= set(PURCHASE) == OF_A_PURCHASE


def names(value: Any) -> Iterator[str]:
    """Every member name in an answer, but for what LSPs name themselves."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            if name not in FREE:
                yield from names(inner)
    elif isinstance(value, list):
        for each in value:
            yield from names(each)


async def run(stage: Stage, name: str, given: Json) -> Json:
    client = stage.client
    if name == "lsps2-status":
        return await client._status()
    others = client.purchase_methods if name in PURCHASE_METHODS else client.webhook_methods
    owner = client.methods if name in METHODS else others
    result: Json = await getattr(owner, {**METHODS, **PURCHASE_METHODS, **WEBHOOK_METHODS}[name])(**given)
    return result


async def test_the_examples_run_and_every_field_is_explained(staged: Staging) -> None:
    """One after the other, as they stand on the page."""
    async with staged() as stage:
        for name, example in EXAMPLES.items():
            real = json.loads(json.dumps(await run(stage, name, example.given)))
            assert is_part(example.shown, real), (name, real)
            if name != "lsps2-status":
                assert set(names(real)) <= set(FIELDS), name
                warnings = set(WARNINGS.get(name, ()))
                assert set(ANSWERS[name]) <= set(real) <= set(ANSWERS[name]) | warnings, name
            else:
                assert set(real) == DETAILED
        (sent,) = [each for topic, each in stage.host.sent if topic in NOTIFICATION]
        assert is_part(NOTIFICATION["lsps2_purchase_bought"], sent["lsps2_purchase_bought"])
        assert set(sent["lsps2_purchase_bought"]) == {*PURCHASE, "step"}


async def test_every_member_of_the_status_is_explained(staged: Staging) -> None:
    """operator:O9 for the wallet: with something in every list; none is missing, none is of yesterday."""
    async with staged() as stage:
        await stage.client.methods.buy(LSP, 20_000_000, stage.lsp.entries[0])
        paid = await ready(stage)
        stage.part(paid, 20_000_000, FEE)
        stage.part(paid, 20_000_000, FEE + 1)
        await stage.calm()
        await stage.paid(paid)
        real = json.loads(json.dumps(await stage.client._status()))
        real["given_up"] = [given_up_channel(next(iter(stage.client.book.channels.values())))]
        buy = set(real["buys"][0])
        explained = {name for name in STATUS if "[]." in name}
        found = {
            f"{name}[].{member}"
            for name, entries in real.items()
            if isinstance(entries, list)
            for member in entries[0]
            if name != "buys" and not (name == "approvals" and member in buy)
        }
        assert found == explained
        assert {name for name in STATUS if "[" not in name} == set(real) == DETAILED
