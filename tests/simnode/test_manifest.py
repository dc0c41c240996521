"""getmanifest, options, init (facts cln:M)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from harness.puppet import PUPPET, Strings, recording

from lsps2fast_plugin.simnode import PluginFailed, RpcError, World

MakeWorld = Callable[..., World]
OPTIONS = [
    {"name": "my-int", "type": "int", "default": 7, "description": "", "dynamic": True},
    {"name": "my-flag", "type": "flag", "default": False, "description": ""},
    {"name": "my-bool", "type": "bool", "default": False, "description": ""},
    {"name": "my-text", "type": "string", "description": ""},
    {"name": "my-secret", "type": "string-conceal", "default": "hush", "description": ""},
]


def env(**plan: Any) -> dict[str, str]:
    return {"PUPPET": json.dumps(plan)}


def recorded_refusals() -> list[str]:
    """Texts of `plugin start` errors in u_manifest, without the path."""
    answers = [entry["msg"] for entry in recording("u_manifest") if entry["dir"] == "host>rpc"]
    return [answer["error"]["message"].partition(": ")[2] for answer in answers if "error" in answer]


HTLC = {"name": "htlc_accepted"}
FEATURES = {"node": "02" + "00" * 91, "init": "02" + "00" * 91}
REFUSED = [
    ({"hooks": [HTLC | {"filters": []}]}, {}, None),
    ({"hooks": [{"name": "openchannel", "filters": [1]}]}, {}, None),
    ({"hooks": [{"name": "no_such_hook"}]}, {}, None),
    ({"hooks": [HTLC, HTLC]}, {}, None),
    ({"featurebits": FEATURES}, {}, None),
    ({}, {}, {"disable": "no secret configured"}),
    ({"disable": "not today"}, {}, None),
    ({"dynamic": False}, {}, None),
    ({"options": [{"name": "my-int2", "type": "int", "description": ""}]}, {"my-int2": "abc"}, None),
]


@pytest.mark.parametrize(("manifest", "options", "init"), REFUSED)
async def test_what_lightningd_refuses_to_start(
    make_world: MakeWorld, manifest: dict[str, Any], options: dict[str, Any], init: Any
) -> None:
    """cln:M3, cln:M5, cln:M6: code -3 and one of the recorded texts; the child is gone, the node lives."""
    async with make_world() as world:
        await world.lsp.stop_plugin()
        with pytest.raises(RpcError) as refused:
            await world.lsp.start_plugin(PUPPET, options, env(manifest=manifest, init=init))
        assert refused.value.code == -3
        assert refused.value.message.partition(": ")[2] in recorded_refusals()
        assert (world.lsp.plugins, world.lsp.state) == ([], "running")


async def test_options_are_typed_in_init(make_world: MakeWorld) -> None:
    """cln:M7: int, bool and concealed text are there in clear, an ungiven flag and a value-less text are not."""
    async with make_world({"manifest": {"options": OPTIONS}}, options={"my-int": "9"}) as world:
        (init,) = await Strings(world.lsp).seen("init")
        assert init["options"] == {"my-int": 9, "my-bool": False, "my-secret": "hush"}


async def test_a_given_flag_is_true(make_world: MakeWorld) -> None:
    """cln:M7."""
    async with make_world({"manifest": {"options": OPTIONS}}, options={"my-flag": True, "my-text": "x"}) as world:
        (init,) = await Strings(world.lsp).seen("init")
        assert (init["options"]["my-flag"], init["options"]["my-text"]) == (True, "x")


async def test_an_unknown_option_stops_the_start(make_world: MakeWorld) -> None:
    """cln:M7: lightningd would not come up."""
    world = make_world(options={"no-such-option": 1})
    with pytest.raises(PluginFailed, match="no-such-option"):
        await world.__aenter__()
    assert world.lsp.state == "stopped"


async def test_setconfig_sends_text_and_outlives_a_restart(make_world: MakeWorld) -> None:
    """cln:M7: val is a string; without transient the value is there at the next start."""
    async with make_world({"manifest": {"options": OPTIONS}}) as world:
        answer = await world.lsp.call("setconfig", {"config": "my-int", "val": 11})
        assert answer["config"]["value_int"] == 11
        strings = Strings(world.lsp)
        assert await strings.seen("setconfig") == [{"config": "my-int", "val": "11"}]
        assert (await world.lsp.call("listconfigs", {"config": "my-secret"}))["configs"]["my-secret"][
            "value_str"
        ] == "..."
        await world.lsp.stop()
        await world.lsp.start()
        (init,) = await strings.seen("init")
        assert init["options"]["my-int"] == 11


async def test_setconfig_refuses_what_is_not_dynamic(make_world: MakeWorld) -> None:
    """cln:M7."""
    async with make_world({"manifest": {"options": OPTIONS}}) as world:
        with pytest.raises(RpcError, match="not dynamic"):
            await world.lsp.call("setconfig", {"config": "my-text", "val": "y"})


@pytest.mark.parametrize(("filters", "heard"), [([37913], 1), (["37913"], 1), ([], 0), ([37915], 0), (None, 1)])
async def test_custommsg_filters(make_world: MakeWorld, filters: Any, heard: int) -> None:
    """cln:M3: a filter of numbers or number texts; empty means never; none means all."""
    hook = {"name": "custommsg"} | ({} if filters is None else {"filters": filters})
    plan = {"manifest": {"hooks": [hook]}, "hooks": {"custommsg": {"result": "continue"}}}
    async with make_world(plan) as world:
        client = world.client()
        client.send_raw(b"{}")
        client.send_raw(b"{}", 37917)
        await world.lsp.call("puppet-echo")
        got = [params["payload"] for params in await Strings(world.lsp).seen("custommsg")]
        assert got[:1] == ["94197b7d"] * heard


async def test_a_subscription_to_custommsg_hears_everything(make_world: MakeWorld) -> None:
    """cln:M4: the filter of the hook does not hold for the notification of the same name."""
    plan = {"manifest": {"subscriptions": ["custommsg"], "hooks": []}}
    async with make_world(plan) as world:
        world.client().send_raw(b"\x01", 7)
        (event,) = await Strings(world.lsp).events("custommsg", 1)
        assert event["payload"] == "000701"


async def test_feature_bits_of_a_static_plugin_are_shown_to_peers(make_world: MakeWorld) -> None:
    """cln:M6: bit 729."""
    plan = {"manifest": {"dynamic": False, "featurebits": FEATURES}}
    async with make_world(plan) as world:
        assert int(world.lsp.init_features(), 16) >> 729 & 1
        with pytest.raises(RpcError):
            await world.lsp.stop_plugin()


async def test_an_even_message_needs_leave(make_world: MakeWorld) -> None:
    """cln:M8, cln:L3: an even type drops the connection unless the manifest allows it."""
    async with make_world({"manifest": {"custommessages": [37914]}}) as world:
        alice, bob = world.client("alice"), world.client("bob")
        alice.send_raw(b"", 37914)
        bob.send_raw(b"", 37916)
        await world.until(lambda: not bob.links)
        assert alice.links


async def test_one_method_name_has_one_owner(make_world: MakeWorld) -> None:
    """Two plugins may not offer the same method."""
    async with make_world() as world:
        with pytest.raises(RpcError, match="already registered"):
            await world.lsp.start_plugin(PUPPET)
