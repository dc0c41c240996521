"""What a paid channel was promised, and how the service announces itself: the process at its node."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from harness.service import COMMAND, Stage

from lsps2fast.lsps.lsps0 import FEATURE_BIT
from lsps2fast_plugin.simnode import RpcError, World

ANNOUNCED = [
    sys.executable,
    "-c",
    "import sys; from lsps2fast_plugin.service.app import main_announced as m; sys.exit(m())",
]
LIFETIME = 3


async def _close(stage: Stage, **more: Any) -> Any:
    (end,) = [end for end in stage.lsp.ends if end.peer is stage.world.parties["alice"]]
    return await stage.lsp.call("close", {"id": end.channel.channel_id, **more})


@pytest.mark.parametrize("again", [False, True])
async def test_a_paid_channel_is_not_closed_before_its_time(mode: str, again: bool) -> None:
    """A-05, A-06, G-09: neither by us nor by the operator, also after a restart; at min_lifetime it is his again."""
    async with Stage(mode, options={"lsps2-min-lifetime": LIFETIME}) as stage:
        await stage.sale(stage.client("alice"), stage.payer())
        stage.world.mine(LIFETIME - 2)  # the sale has mined one
        if again:
            await stage.stop()
            await stage.start()
        with pytest.raises(RpcError, match=rf"open for {LIFETIME} confirmations and has {LIFETIME - 1}"):
            await _close(stage)
        assert stage.calls("close") == []
        stage.world.mine()
        assert (await _close(stage))["type"] == "mutual"


async def test_an_operator_who_means_it_closes_early(mode: str) -> None:
    """A-06: with an override, and a line in the log."""
    async with Stage(mode, options={"lsps2-min-lifetime": LIFETIME}) as stage:
        await stage.sale(stage.client("alice"), stage.payer())
        await _close(stage, force_lease_closed=True)
        assert len(stage.log_lines("closing early: channel", "warn")) == 1


@pytest.mark.parametrize(("argv", "announced"), [(COMMAND, False), (ANNOUNCED, True)])
async def test_the_feature_bit_is_set_when_the_node_starts_the_announced_service(
    argv: list[str], announced: bool
) -> None:
    """T-33, cln:M6: in init and node_announcement; the plain service, which can be restarted, sets none."""
    async with World(seed=3, plugin=argv) as world:
        features = (await world.lsp.call("getinfo"))["our_features"]
        assert [bool(int(features[where], 16) >> FEATURE_BIT & 1) for where in ("init", "node")] == [announced] * 2
