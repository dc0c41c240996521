"""The wallet over real pipes and a real socket: manifest, hooks, methods, start, end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness.client import CHANNEL, CHANNEL_SCID, JIT_SCID, LSP, STRANGER, Json, channel_row, entry, payload, tlv
from harness.client_process import Process, World, running

from lsps2fast import bolt11
from lsps2fast.errors import NodeError
from lsps2fast_plugin.client.rpc_errors import REFUSED

pytestmark = pytest.mark.slow
FEE = 1_000_000
CONTINUE = {"result": "continue"}


def htlc(process: Process, invoice: Json | None, onion_msat: int, fee_msat: int = 0, **fields: Any) -> Json:
    """The params of an htlc_accepted call, as recorded (b3_mpp5_invoice_msat)."""
    decoded = None if invoice is None else bolt11.decode(invoice["bolt11"])
    secret = b"\x05" * 32 if decoded is None else decoded.payment_secret
    payment_hash = "aa" * 32 if invoice is None else invoice["payment_hash"]
    total_msat = onion_msat if decoded is None or decoded.amount_msat is None else decoded.amount_msat
    expiry = process.world.height + 13
    onion: Json = {
        "payload": payload(onion_msat, expiry, secret, total_msat),
        "type": "tlv",
        "forward_msat": onion_msat,
        "outgoing_cltv_value": expiry,
        "total_msat": total_msat,
        "payment_secret": secret.hex(),
        "next_onion": "00" * 1366,
        "shared_secret": "11" * 32,
    }
    body: Json = {
        "short_channel_id": CHANNEL_SCID,
        "id": 0,
        "amount_msat": onion_msat - fee_msat,
        "cltv_expiry": expiry,
        "cltv_expiry_relative": 13,
        "payment_hash": payment_hash,
    }
    if fee_msat:
        body["extra_tlvs"] = tlv.extra_fee_tlvs(fee_msat)
    return {"peer_id": LSP, "onion": onion, "htlc": body | fields}


async def bought(process: Process, **more: Any) -> Json:
    """An invoice, its channel open and normal."""
    process.world.lsps[LSP].trust = True
    given = {"lsp_id": LSP, "amount_msat": 20_000_000, "description": "d", "label": "l", "client_trusts_lsp": True}
    invoice: Json = await process.ask("lsps-lsps2-invoice", given | more)
    opening = {
        "id": LSP,
        "funding_msat": 200_000_000,
        "push_msat": 0,
        "dust_limit_msat": 546_000,
        "channel_reserve_msat": 2_000_000,
        "to_self_delay": 6,
        "channel_flags": 0,
        "channel_type": {"bits": [12, 46, 50], "names": []},
    }
    assert await process.ask("openchannel", {"openchannel": opening}) == {"result": "continue", "mindepth": 0}
    process.world.node.channels.append(channel_row())
    change = {"peer_id": LSP, "channel_id": CHANNEL, "new_state": "CHANNELD_AWAITING_LOCKIN", "cause": "remote"}
    process.notify("channel_state_changed", change)
    change |= {"old_state": "CHANNELD_AWAITING_LOCKIN", "new_state": "CHANNELD_NORMAL"}
    process.notify("channel_state_changed", change)
    return invoice


async def test_the_manifest_is_what_lightningd_takes() -> None:
    """cln:M1, cln:M3, cln:M6, T-33: hooks with the filters they may have, dynamic, no feature bit; CLN's method
    names.
    """
    async with running(begin=False) as process:
        manifest = await process.begin()
        methods = {method["name"]: method["usage"] for method in manifest["rpcmethods"]}
        assert methods["lsps-lsps2-invoice"].startswith("lsp_id [token] [amount_msat] [description] [label]")
        assert methods["lsps-lsps2-approve"].startswith("lsp_id jit_channel_scid payment_hash [client_trusts_lsp]")
        assert methods["lsps-lsps2-buy"].startswith("lsp_id [payment_size_msat] [opening_fee_params]")
        assert methods["lsps-lsps2-getinfo"].startswith("lsp_id [token]")
        assert methods["lsps-listprotocols"].startswith("lsp_id")
        assert {"lsps2-compare", "lsps2-status", "lsps2-trust"} <= set(methods)
        hooks = {each["name"]: each.get("filters") for each in manifest["hooks"]}
        assert hooks == {
            "htlc_accepted": None,
            "openchannel": None,
            "custommsg": [37913],
            "rpc_command": ["invoice"],
        }
        assert manifest["dynamic"] is True
        assert not any(manifest["featurebits"].values())
        assert {option["name"] for option in manifest["options"]} >= {
            "experimental-lsps-client",
            "experimental-lsps-client-zero-reserve",
            "lsps2-max-fee-msat",
            "lsps2-max-fee-ppm",
            "lsps2-trusted-lsp",
        }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lsps2-max-fee-ppm": 1_000_001}, "lsps2-max-fee-ppm=1000001 is out of range"),
        ({"lsps2-hold-timeout": 59}, "lsps2-hold-timeout=59 is out of range"),
        ({"lsps2-trusted-lsp": ["me"]}, "lsps2-trusted-lsp='me'"),
    ],
    ids=str,
)
async def test_a_wrong_option_disables_the_plugin_with_a_sentence(options: Json, why: str) -> None:
    """cln:M5: lightningd shows it to the operator."""
    async with running(begin=False) as process:
        await process.ask("getmanifest", {})
        answer = await process.ask("init", process.init_params(True, options))
        assert why in answer["disable"]


async def test_options_of_every_kind_are_taken() -> None:
    """cln:M7: typed values as lightningd gives them."""
    options = {"lsps2-max-fee-msat": 5, "lsps2-trusted-lsp": [LSP, "any"], "experimental-lsps-client": True}
    async with running(**options) as process:
        with pytest.raises(NodeError, match="limit of 5 msat"):
            await bought(process)


async def test_foreign_htlcs_are_answered_without_asking_anybody() -> None:
    """cln:W2: forwards and payments to others, by the lane, while a method of ours waits for an LSP."""
    async with running() as process:
        process.world.lsps[LSP].silent = True
        slow = process.request("lsps-lsps2-getinfo", {"lsp_id": LSP})
        before = len(process.world.node.calls)
        onward = htlc(process, None, 5_000)
        onward["onion"]["short_channel_id"] = "1x1x1"
        calls = [process.request("htlc_accepted", htlc(process, None, 5_000, id=number)) for number in range(200)]
        calls += [process.request("htlc_accepted", onward) for _ in range(200)]
        answers = [(await process.reply(call))["result"] for call in calls]
        assert answers == [CONTINUE] * 400
        asked = [name for name, _ in process.world.node.calls[before:]]
        assert len(asked) < 10
        assert asked.count("listpeerchannels") <= 1
        assert set(asked) <= {
            "listpeers",
            "listpeerchannels",
            "sendcustommsg",
            "listdatastore",
            "wait",
        }  # the last of the start, not of HTLCs
        assert not process.answers[slow].done()


async def test_a_payment_from_the_menu_to_the_preimage() -> None:
    """The whole flow over the pipe; the frames are those of b3_mpp5_invoice_msat."""
    async with running() as process:
        invoice = await bought(process)
        first = process.request("htlc_accepted", htlc(process, invoice, 10_000_000, FEE, id=0))
        second = process.request("htlc_accepted", htlc(process, invoice, 10_000_000, id=1))
        answers = [(await process.reply(call))["result"] for call in (first, second)]
        assert [answer["invoice_msat"] for answer in answers] == [19_000_000] * 2
        amounts = [tlv.read_payload(answer["payload"], False).amt_to_forward_msat for answer in answers]
        assert amounts == [9_000_000, 10_000_000]
        preimage = process.world.preimages[bytes.fromhex(invoice["payment_hash"])]
        process.notify("invoice_payment", {"msat": 19_000_000, "preimage": preimage.hex(), "label": "l"})
        await process.until(lambda status: status["approvals"][0]["state"] == "paid")
        assert ("lsps", "invoice", invoice["payment_hash"]) not in process.world.node.datastore


async def test_a_skimming_lsp_gets_nothing_over_the_pipe() -> None:
    """trap:37, and the sentence a demo shows."""
    async with running() as process:
        invoice = await bought(process)
        call = process.request("htlc_accepted", htlc(process, invoice, 20_000_000, FEE + 1))
        answer = (await process.reply(call))["result"]
        assert answer == {"result": "fail", "failure_message": f"400f{18_999_999:016x}{process.world.height:08x}"}
        (report,) = (await process.ask("lsps2-status", {}))["reports"]
        assert "the extra fees together exceed the agreed opening fee" in report["report"]
        assert report["report"] in process.log


async def test_hooks_that_come_before_init_is_answered_wait() -> None:
    """cln:W11: a dynamic start; the HTLC of an approved payment is not let go."""
    world = World()
    async with running(world) as process:
        invoice = await bought(process)
    async with running(world, begin=False) as process:
        await process.ask("getmanifest", {})
        early = process.request("htlc_accepted", htlc(process, invoice, 20_000_000, FEE))
        foreign = htlc(process, None, 5_000, short_channel_id="7x7x7") | {"peer_id": STRANGER}
        foreign = process.request("htlc_accepted", foreign)
        await process.ask("init", process.init_params(False, {}))
        assert (await process.reply(early))["result"]["invoice_msat"] == 19_000_000
        assert (await process.reply(foreign))["result"] == CONTINUE


@pytest.mark.parametrize("polite", [True, False])
async def test_held_parts_survive_the_process(polite: bool) -> None:
    """I-32, K-07, cln:W12: stop and kill -9; what the plugin answers last is ignored, the replay has no TLV."""
    world = World()
    async with running(world) as process:
        invoice = await bought(process)
        process.request("htlc_accepted", htlc(process, invoice, 10_000_000, FEE, id=0))
        await process.until(lambda status: status["held_parts"])
        {True: process.child.terminate, False: process.child.kill}[polite]()
        await process.exit_code()
    async with running(world) as process:
        again = htlc(process, invoice, 10_000_000, FEE, id=0)
        del again["htlc"]["extra_tlvs"]
        calls = [process.request("htlc_accepted", again)]
        calls.append(process.request("htlc_accepted", htlc(process, invoice, 10_000_000, id=1)))
        answers = [(await process.reply(call))["result"] for call in calls]
        assert [answer["invoice_msat"] for answer in answers] == [19_000_000] * 2


@pytest.mark.parametrize("how", ["shutdown", "terminate", "eof"])
async def test_the_end_is_polite(how: str) -> None:
    """cln:W5, cln:W12, rule:17: held parts are failed for now, exit code 0."""
    async with running() as process:
        invoice = await bought(process)
        call = process.request("htlc_accepted", htlc(process, invoice, 10_000_000, FEE))
        await process.until(lambda status: status["held_parts"])
        assert process.child.stdin is not None
        ways = {
            "shutdown": lambda: process.notify("shutdown", {}),
            "terminate": process.child.terminate,
            "eof": process.child.stdin.close,
        }
        ways[how]()
        assert (await process.reply(call))["result"] == {"result": "fail", "failure_message": "2002"}
        assert await process.exit_code() == 0


async def test_time_is_turned_by_tests_only() -> None:
    """interfaces: lsps2-dev-advance; a set times out without a call that waits for it."""
    async with running() as process:
        invoice = await bought(process)
        call = process.request("htlc_accepted", htlc(process, invoice, 10_000_000, FEE))
        await process.until(lambda status: status["held_parts"])
        await process.ask("lsps2-dev-advance", {"seconds": 91})
        assert (await process.reply(call))["result"] == {"result": "fail", "failure_message": "0017"}
    async with running(begin=False, test_clock=False) as process:
        manifest = await process.begin()
        assert "lsps2-dev-advance" not in {method["name"] for method in manifest["rpcmethods"]}


async def test_errors_carry_the_lsps_code() -> None:
    """T-22, wallet:W10: a failed command, not a result that looks like an error; the LSP's code is data."""
    async with running() as process:
        process.world.lsps[LSP].errors["lsps2.get_info"] = [{"code": 200, "message": "x"}]
        with pytest.raises(NodeError, match="unrecognized_or_stale_token") as failed:
            await process.ask("lsps-lsps2-getinfo", [LSP, "coupon"])
        assert (failed.value.code, failed.value.data) == (REFUSED.number, {"lsp_code": 200, "lsp_error": NAME_200})


NAME_200 = "unrecognized_or_stale_token"
WRONG: list[tuple[str, Any]] = [
    ("lsps-lsps2-invoice", {}),
    ("lsps-lsps2-invoice", {"lsp_id": LSP}),
    ("lsps-lsps2-invoice", {"lsp_id": LSP, "nonsense": 1}),
    ("lsps-lsps2-getinfo", []),
    ("lsps-lsps2-getinfo", ["02ff"]),
    ("lsps-lsps2-approve", [LSP, "1x2", "00"]),
    ("lsps-lsps2-approve", [LSP, JIT_SCID, "00"]),
    ("lsps-lsps2-buy", [LSP, None, {"promise": 1}]),
    ("lsps2-compare", ["any", []]),
    ("lsps2-trust", [LSP[:-1]]),
]


async def test_wrong_parameters_get_an_error_and_the_plugin_lives() -> None:
    """-32602, by name and by position."""
    async with running() as process:
        for method, params in WRONG:
            with pytest.raises(NodeError) as failed:
                await process.ask(method, params)
            assert failed.value.code == -32602, (method, params)
        assert await process.ask("lsps-listprotocols", [LSP]) == {"protocols": [2]}


async def test_clns_parameters_work_by_position() -> None:
    """Drop-in: lsp_id, token, amount_msat, description, label; and buy, approve in CLN's order."""
    async with running() as process:
        invoice = await process.ask("lsps-lsps2-invoice", [LSP, None, "20000sat", "d", "l"])
        assert bolt11.decode(invoice["bolt11"]).amount_msat == 20_000_000
        menu = (await process.ask("lsps-lsps2-getinfo", [LSP]))["opening_fee_params_menu"]
        buy = await process.ask("lsps-lsps2-buy", [LSP, "20000000", menu[0]])
        process.world.node.own("22" * 32)
        assert await process.ask("lsps-lsps2-approve", [LSP, buy["jit_channel_scid"], "22" * 32, False]) == {}


async def test_check_takes_parameters_as_lightningd_hands_them_on() -> None:
    """By position and by name; what cannot be asked about gets a sentence."""
    async with running() as process:
        told = {"command_to_check": "lsps-lsps2-invoice"}
        assert await process.ask("check", ["lsps-lsps2-invoice", LSP, None, "1sat", "d", "l"]) == told
        for given, why in (
            (["lsps-lsps2-invoice", LSP, None, "1", "d", "l", *[None] * 30], "too many positional arguments"),
            (["lsps-lsps2-invoice", "02", None, "1sat", "d", "l"], "lsp_id"),
            (["no-such"], "not known here"),
            ([], "command_to_check is missing"),
            ({}, "command_to_check is missing"),
        ):
            with pytest.raises(NodeError, match=why):
                await process.ask("check", given)
        assert not process.world.lsps[LSP].asked


async def test_odd_hook_calls_get_the_harmless_answer() -> None:
    """K-20, cln:H9: whatever lightningd might send one day."""
    async with running() as process:
        assert await process.ask("rpc_command", {"rpc_command": {"method": "invoice", "params": {}}}) == CONTINUE
        await bought(process)
        assert (await process.ask("openchannel", {"openchannel": {"id": LSP}}))["result"] == "reject"
        assert (await process.ask("openchannel", {}))["result"] == "reject"
        assert await process.ask("custommsg", {"peer_id": LSP, "payload": "941"}) == CONTINUE


async def test_the_executable_is_two_lines() -> None:
    """Architecture: lightningd starts plugin/lsps2fast-client."""
    path = Path(__file__).parents[2] / "plugin" / "lsps2fast-client"
    assert path.stat().st_mode & 0o111
    assert "from lsps2fast_plugin.client.app import main" in path.read_text()


async def test_an_lsp_cannot_make_us_write_frames_into_lightningd() -> None:
    """cln:W9 for the wallet: newlines in what an LSP sends stay inside strings."""
    async with running() as process:
        evil = "x\n\n" + json.dumps({"jsonrpc": "2.0", "id": "cln:getmanifest#19", "result": {}})
        process.world.lsps[LSP].entries = [entry(promise=evil)]
        menu = await process.ask("lsps-lsps2-getinfo", {"lsp_id": LSP})
        assert menu["opening_fee_params_menu"][0]["promise"] == evil
        process.world.lsps[LSP].errors["lsps2.get_info"] = [{"code": 1, "message": evil, "data": {"message": evil}}]
        with pytest.raises(NodeError, match="does not want to serve"):
            await process.ask("lsps-lsps2-getinfo", {"lsp_id": LSP})
