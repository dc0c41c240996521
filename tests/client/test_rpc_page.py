"""docs/reference/wallet-rpc.md says what the methods do: every parameter and field, and examples that run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.client import Json, Stage, Staging
from harness.wallet_words import FIELDS as PURCHASE
from harness.wallet_words import is_part

from lsps2fast_plugin.client.app import METHODS, PURCHASE_METHODS
from lsps2fast_plugin.tools.wallet_rpc_page import EXAMPLES, FIELDS, PARAMETERS, methods, parameters, reference

PAGE = Path(__file__).parents[2] / "docs/reference/wallet-rpc.md"
FREE = {"opening_fee_params", "opening_fee_params_menu", "times", "refused"}  # their members are not ours to name
DETAILED = {"buys", "approvals", "channels", "given_up", "lsps", "held_parts", "open_requests", "reports"}


def test_the_page_is_up_to_date() -> None:
    """`python -m lsps2fast_plugin.tools.wallet_rpc_page > docs/reference/wallet-rpc.md` writes it."""
    assert PAGE.read_text() == reference()


def test_every_method_and_parameter_is_there() -> None:
    """None is missing, none is of yesterday."""
    assert set(methods()) == {*METHODS, *PURCHASE_METHODS, "lsps2-status"}
    assert {name for method in methods().values() for name in parameters(method)} == set(PARAMETERS)
    assert set(FIELDS) >= PURCHASE


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
    owner = client.methods if name in METHODS else client.purchase_methods
    result: Json = await getattr(owner, {**METHODS, **PURCHASE_METHODS}[name])(**given)
    return result


async def test_the_examples_run_and_every_field_is_explained(staged: Staging) -> None:
    """One after the other, as they stand on the page."""
    async with staged() as stage:
        for name, example in EXAMPLES.items():
            real = json.loads(json.dumps(await run(stage, name, example.given)))
            assert is_part(example.shown, real), (name, real)
            if name != "lsps2-status":
                assert set(names(real)) <= set(FIELDS), name
            else:
                assert set(real) == DETAILED
