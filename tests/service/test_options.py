"""Options with bad values: the plugin disables itself and says what to do; good ones do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.service import COMMAND, LSP_TRUSTS, SIZE_MSAT, TEMPORARY, Stage

from lsps2fast_plugin.simnode import LspsError, PluginFailed, RpcError

SECRET = "5e" * 32


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"experimental-lsps2-promise-secret": "abc"}, "promise-secret must be 64 hex digits"),
        ({"experimental-lsps2-promise-secret": ""}, "promise-secret must be 64 hex digits"),
        ({"experimental-lsps2-promise-secret": SECRET + "00"}, "promise-secret must be 64 hex digits"),
        ({"experimental-lsps2-promise-secret": "zz" * 32}, "promise-secret must be 64 hex digits"),
        ({"lsps2-trust-mode": "neither"}, "lsps2-trust-mode='neither' is unknown; give "),
        ({"lsps2-trust-mode": ""}, "lsps2-trust-mode='' is unknown; give "),
        ({"dev-lsps2-collect-timeout": 0}, "dev-lsps2-collect-timeout=0 is out of range; give a number from 1 to"),
        ({"dev-lsps2-collect-timeout": -90}, "dev-lsps2-collect-timeout=-90 is out of range"),
        ({"dev-lsps2-collect-timeout": 10**30}, "is out of range; give a number from"),
        ({"lsps2-max-parts": 0}, "lsps2-max-parts=0 is out of range; give a number from 1 to 483"),
        ({"lsps2-max-parts": 484}, "lsps2-max-parts=484 is out of range; give a number from 1 to 483"),
        ({"lsps2-cltv-delta": 5}, "lsps2-cltv-delta=5 is out of range"),
        ({"lsps2-cltv-delta": 2017}, "lsps2-cltv-delta=2017 is out of range"),
        ({"lsps2-max-buys-per-peer": 0}, "lsps2-max-buys-per-peer=0 is out of range"),
        ({"lsps2-max-buys": 0}, "lsps2-max-buys=0 is out of range"),
        ({"lsps2-offer-validity": 599}, "lsps2-offer-validity=599 is out of range; give a number from 600 to"),
        ({"lsps2-min-payment-msat": 5_000_000, "lsps2-max-payment-msat": 4_000_000}, "lsps2-min-payment-msat"),
        ({"lsps2-min-fee-msat": 10**12}, "lsps2-min-fee-msat"),
    ],
)
async def test_a_bad_value_disables_the_plugin_with_a_reason(options: dict[str, Any], reason: str) -> None:
    """cln:M5: lightningd shows "disabled itself at init:" and a sentence that names the option and what it may be."""
    stage = Stage(options=options, ready=False)
    with pytest.raises(PluginFailed) as failed:
        async with stage:
            raise AssertionError("the plugin started")
    assert str(failed.value).startswith("disabled itself at init: ")
    assert reason in str(failed.value)
    assert "Traceback" not in str(failed.value)
    assert [line for line in stage.plugin_stderr() if "Traceback" in line] == []
    assert len([line for line in stage.log_lines("not started: ") if reason in line]) == 1


@pytest.mark.parametrize("secret", ["abc", "zz" * 32, SECRET + "ff"])
async def test_a_bad_secret_is_not_shown_to_anybody(secret: str) -> None:
    """P-05, K-28: not in the reason, the log or on stderr."""
    stage = Stage(options={"experimental-lsps2-promise-secret": secret}, ready=False)
    with pytest.raises(PluginFailed) as failed:
        async with stage:
            raise AssertionError("the plugin started")
    assert secret not in str(failed.value)
    assert [line for line in stage.plugin_stderr() if secret in line] == []
    assert stage.log_lines(secret) == []


async def test_a_plugin_that_disabled_itself_leaves_the_node_alone() -> None:
    """cln:M5, cln:W11: `plugin start` fails with -3 and the reason; parts for a jit scid then are lightningd's
    business.
    """
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        await stage.stop()
        with pytest.raises(RpcError, match=r"disabled itself at init: .*lsps2-max-parts=0 is out of range") as refused:
            await stage.lsp.start_plugin(COMMAND, {"lsps2-max-parts": 0})
        assert refused.value.code == -3
        await stage.start()
        await stage.paid(payer, invoice)
        await stage.over(invoice)


async def test_what_clns_plugin_was_started_with_starts_ours() -> None:
    """Drop-in: its four options, as flags and texts."""
    options = {
        "experimental-lsps2-service": True,
        "experimental-lsps2-promise-secret": SECRET,
        "dev-lsps2-collect-timeout": 90,
        "experimental-lsps2-zero-reserve": True,
    }
    async with Stage(options=options) as stage:
        await stage.sale(stage.client(), stage.payer())


@pytest.mark.parametrize(("options", "reserve"), [({}, None), ({"experimental-lsps2-zero-reserve": True}, 0)])
async def test_a_channel_without_reserve_is_the_operators_wish(options: dict[str, Any], reserve: int | None) -> None:
    """O-18: lightningd's own reserve unless he opts in; the channel that has to hold it is larger."""
    async with Stage(options={"lsps2-channel-headroom-sat": 0} | options) as stage:
        await stage.sale(stage.client(), stage.payer())
        (start,) = stage.calls("fundchannel_start")
        assert start.get("reserve") == reserve
        assert (start["amount"] < 25_000) == (reserve == 0)  # 546 sat between them


async def test_a_channel_without_reserve_is_for_the_peers_that_the_policy_names(tmp_path: Path) -> None:
    """O-18: also while the service runs; the buy counts on it (O-03), and others have their reserve."""
    file = tmp_path / "policy.toml"
    line = "[[fee_line]]\nmin_fee_msat = 1_000_000\nproportional_ppm = 10_000\n[floor]\nfactor_percent = 0\n"
    line += "[capacity]\nheadroom_sat = 0\nmin_sat = 0\n"
    file.write_text(line)
    async with Stage(options={"lsps2-policy-file": str(file)}) as stage:
        alice, bob, payer = stage.client("alice"), stage.client("bob"), stage.payer()
        file.write_text(f"{line}[peers]\nzero_reserve = ['{alice.node_id}']\n")
        await stage.world.advance(5)
        await stage.until(lambda: stage.log_lines("policy reloaded"), "the new policy")
        for client in (alice, bob):
            await stage.sale(client, payer)
        starts = stage.calls("fundchannel_start")
        assert [start.get("reserve") for start in starts] == [0, None]
        assert starts[1]["amount"] - starts[0]["amount"] == 546


async def test_a_promise_secret_outlives_the_process_and_a_new_one_voids_its_offers() -> None:
    """P-03, P-05, trap:29: an offer made before a restart is good after it; under another secret it is not."""
    async with Stage(options={"experimental-lsps2-promise-secret": SECRET}) as stage:
        client = stage.client()
        offer = await stage.offer(client)
        await stage.stop()
        await stage.start()
        await client.request("lsps2.buy", {"opening_fee_params": offer})
        await stage.stop()
        argv, options, env = stage.lsp.plugin_plans[0]
        stage.lsp.plugin_plans[0] = (argv, options | {"experimental-lsps2-promise-secret": "a1" * 32}, env)
        await stage.start()
        with pytest.raises(LspsError) as refused:
            await client.request("lsps2.buy", {"opening_fee_params": offer})
        assert refused.value.code == 201


async def test_the_limit_of_parts_is_the_operators() -> None:
    """C-10: two parts pass, the third fails the set."""
    async with Stage(options={"lsps2-max-parts": 2}) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        assert (await payer.pay(invoice, [3_000_000] * 3, total_msat=SIZE_MSAT)).raw_messages == [TEMPORARY] * 3
        await stage.paid(payer, invoice, [SIZE_MSAT // 2] * 2)
        await stage.over(invoice)


async def test_the_collect_timeout_is_the_operators() -> None:
    """C-05: a developer may shorten it."""
    async with Stage(options={"dev-lsps2-collect-timeout": 3}) as stage:
        client, payer = stage.client(), stage.payer()
        payment = payer.pay(await stage.invoice(client), [1_000_000], total_msat=SIZE_MSAT)
        await stage.held(1)
        await stage.world.advance(2.9)
        await stage.held(1)
        await stage.world.advance(0.1)
        assert (await payment).raw_messages == [TEMPORARY]


@pytest.mark.parametrize(("ours", "nodes", "promised"), [(144, 6, 144), (20, 200, 200), (40, 40, 40)])
async def test_the_promised_delta_is_never_below_the_nodes(ours: int, nodes: int, promised: int) -> None:
    """B-12: lightningd enforces its own when forwarding."""
    stage = Stage(LSP_TRUSTS, options={"lsps2-cltv-delta": ours}, fresh=True)
    stage.lsp.cltv_delta = nodes
    async with stage:
        client, payer = stage.client(), stage.payer()
        assert (await stage.buy(client))["lsp_cltv_expiry_delta"] == promised
        await stage.sale(client, payer)
