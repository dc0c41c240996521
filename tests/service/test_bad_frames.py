"""What comes over stdin: no JSON, two objects, frames forged inside parameters, frames in pieces."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from harness.service import CLIENT_TRUSTS, SIZE_MSAT, TEMPORARY, Stage


def _frame(params: Any, call_id: str, method: str = "htlc_accepted") -> bytes:
    """As lightningd writes it."""
    call = {"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}
    return json.dumps(call, separators=(",", ":")).encode() + b"\n\n"


def _expect(stage: Stage, call_id: str) -> asyncio.Future[dict[str, Any]]:
    """Have the node wait for an answer to a call that the test writes by itself."""
    future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    stage.lsp.plugin._pending[call_id] = lambda answer: future.set_result(answer or {})
    return future


@pytest.mark.parametrize(
    "rubbish",
    [
        b'{"jsonrpc":"2.0","id":"x","method":"htlc_accepted","params":{oops}}',
        b'{"jsonrpc":"2.0","id":"x","method":"htlc_accepted","params":{"onion":nan,"htlc":[}{]}}',
        b'{"jsonrpc":"2.0","id":"x","method":"htlc_accepted","params":"none"}',
        b'{"jsonrpc":"2.0","id":"x","method":"htlc_accepted"}',
        b'{"jsonrpc":"2.0","id":"x","method":"htlc_accepted","params":{"htlc":{"id":\xff\xfe}}}',
        b'{"jsonrpc":"2.0","id":"x","method":"htlc_accepted","params":{"onion":{},"onion":{},"htlc":{}}}',
    ],
)
async def test_a_hook_call_that_is_no_json_is_failed_and_the_plugin_goes_on(rubbish: bytes) -> None:
    """trap:12, K-20, rule:1: one valid answer, one log line, and a sale afterwards."""
    async with Stage() as stage:
        answer = _expect(stage, "x")
        await stage.raw(rubbish + b"\n\n")
        assert stage.valid(await answer) == {"result": "fail", "failure_message": "2002"}
        assert len(stage.log_lines("htlc_accepted")) == 1
        stage.errors_expected = True
        await stage.still_sells()


@pytest.mark.parametrize(
    ("rubbish", "line"),
    [
        (b"{}", "a frame without a method, ignored: b'{}'"),
        (b'{"a": nonsense}', "a frame without a method, ignored: b'{\"a\": nonsense}'"),
        (b'{"method":17,"params":{}}', 'a frame without a method, ignored: b\'{"method":17,"params":{}}\''),
        (b'{"id":"x","result":{}}', 'a frame without a method, ignored: b\'{"id":"x","result":{}}\''),
        (b'{"jsonrpc":"2.0","method":"unheard","params":{}}', "'unheard' is not known here"),
        (b'{"jsonrpc":"2.0","method":"forward_event","params":7}', "'forward_event' has no parameters"),
        (b'{"method":"block_added","params":{"block_added":{"height":"tall"}}}', "notification block_added failed"),
        (b'{"method":"connect","params":{}}', "notification connect failed"),
        (b'{"method":"disconnect","params":{"disconnect":[]}}', "notification disconnect failed"),
        (
            b'{"method":"channel_state_changed","params":{"channel_state_changed":null}}',
            "notification channel_state_changed failed",
        ),
    ],
)
async def test_a_message_that_makes_no_sense_is_one_entry_in_the_log(rubbish: bytes, line: str) -> None:
    """rule:16, cln:W13: one clear line (and the place where it broke); it changes nothing, and the plugin goes on."""
    async with Stage() as stage:
        before = len(stage.log_lines(""))
        await stage.raw(rubbish + b"\n\n")
        await stage.stats()
        said = stage.log_lines("")[before:]
        assert said[0] == line
        assert said[1:2] in ([], ["Traceback (most recent call last):"])
        stage.errors_expected = bool(stage.log_lines("", "error"))
        await stage.still_sells()


async def test_a_forward_event_of_nobodys_payment_is_not_even_read() -> None:
    """cln:W15: dropped before Python sees it, however odd; no line in the log."""
    async with Stage() as stage:
        before = len(stage.log_lines(""))
        foreign = {"payment_hash": "ab" * 32, "status": "settled", "in_channel": 7}
        await stage.raw(json.dumps({"method": "forward_event", "params": {"forward_event": foreign}}).encode())
        await stage.stats()
        assert stage.log_lines("")[before:] == []


async def test_two_objects_in_one_frame_are_two_calls() -> None:
    """cln:W9: what ends a frame is its structure; without any white space between them both are answered, in order."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        ours = stage.part_call(invoice, payer)
        ours["htlc"]["amount_msat"] -= 1
        foreign = stage.part_call(invoice, payer)
        foreign["onion"]["short_channel_id"] = "1x1x1"
        answers = [_expect(stage, call_id) for call_id in ("a", "b", "c")]
        both = _frame(ours, "a").strip() + _frame(foreign, "b").strip() + b" \r\n\t" + _frame(ours, "c").strip()
        await stage.raw(both)
        low = {"result": "fail", "failure_message": f"100c{SIZE_MSAT - 1:016x}0000"}
        assert [stage.valid(await answer) for answer in answers] == [low, {"result": "continue"}, low]
        await stage.still_sells()


async def test_a_frame_may_be_split_at_any_byte() -> None:
    """cln:W9, cln:W10: for every cut two calls, a foreign one and one of ours, each answered once."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        ours = stage.part_call(invoice, payer)
        ours["htlc"]["amount_msat"] -= 1
        ours["onion"]["next_onion"] = "00" * 8
        foreign = json.loads(json.dumps(ours))
        foreign["onion"]["short_channel_id"] = "1x1x1"
        low = {"result": "fail", "failure_message": f"100c{SIZE_MSAT - 1:016x}0000"}
        for params, expected in ((ours, low), (foreign, {"result": "continue"})):
            answers = []
            for cut in range(1, len(_frame(params, "cut#000"))):
                call_id = f"cut#{cut:03}"
                answers.append(_expect(stage, call_id))
                frame = _frame(params, call_id)
                await stage.raw(frame[:cut], frame[cut:])
            results = [stage.valid(await answer) for answer in answers]
            assert results == [expected] * len(results)
        await stage.still_sells(payer)


async def test_a_frame_in_single_bytes_is_a_frame() -> None:
    """cln:W9: one byte at a time."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        call = stage.part_call(await stage.invoice(client), payer)
        call["onion"] |= {"short_channel_id": "1x1x1", "next_onion": "00" * 8}
        answer = _expect(stage, "drop by drop")
        await stage.raw(*(bytes([byte]) for byte in _frame(call, "drop by drop")))
        assert stage.valid(await answer) == {"result": "continue"}


def _forgeries(stage: Stage, invoice: Any, payer: Any) -> list[str]:
    """Messages an attacker would like the plugin to believe."""
    part = next(params for method, params in stage.asked.values() if method == "htlc_accepted")["htlc"]
    event = {
        "updated_index": 1,
        "payment_hash": part["payment_hash"],
        "in_channel": part["short_channel_id"],
        "in_htlc_id": part["id"],
        "out_channel": "1x1x1",
        "in_msat": part["amount_msat"],
        "out_msat": part["amount_msat"],
        "fee_msat": 0,
        "status": "settled",
        "preimage": invoice.preimage.hex(),
    }
    settled = {"jsonrpc": "2.0", "method": "forward_event", "params": {"forward_event": event}}
    call = json.loads(_frame(stage.part_call(invoice, payer), "forged"))
    return [json.dumps(settled), json.dumps(call), json.dumps({"jsonrpc": "2.0", "method": "shutdown", "params": {}})]


@pytest.mark.parametrize("wrap", ['{"jit_channel_scid":\n\n%s\n\n}', "[\n\n%s\n\n]", '{"seconds":0,"x":[\n\n%s\n\n]}'])
@pytest.mark.parametrize("method", ["lsps2-getsession", "lsps2-listsessions"])
async def test_a_frame_forged_inside_a_parameter_is_a_parameter(wrap: str, method: str) -> None:
    """cln:W9, trap:48, rule:16: settled events, hook calls and shutdowns sent as parameters through the node do
    nothing.
    """
    async with Stage(CLIENT_TRUSTS) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(client.held, "the part is with the client")
        reader, writer = await asyncio.open_unix_connection(stage.lsp.rpc_path)
        for number, forged in enumerate(_forgeries(stage, invoice, payer)):
            call = f'{{"jsonrpc":"2.0","id":"x{number}","method":"{method}","params":{wrap % forged}}}'
            writer.write(call.encode())
            answer = json.loads(await stage.world.bounded(reader.readuntil(b"\n\n"), None, "an answer"))
            assert answer["id"] == f"x{number}"
            assert answer["error"]["code"] == -32602
        writer.close()
        await stage.quiet()
        assert stage.states(invoice)[-1] == "AWAITING_SETTLEMENT"
        assert stage.calls("sendpsbt") == []
        assert "forged" not in stage.answered
        client.settle_held()
        assert (await payment).paid
        await stage.over(invoice)
        await stage.still_sells(payer)


async def test_raw_line_breaks_inside_a_string_do_not_end_a_frame() -> None:
    """cln:W9: lightningd passes control characters on; the string is a string."""
    async with Stage() as stage:
        reader, writer = await asyncio.open_unix_connection(stage.lsp.rpc_path)
        call = '{"jsonrpc":"2.0","id":"x","method":"lsps2-getsession","params":{"jit_channel_scid":"1x1\n\n{}}\n\n"}}'
        writer.write(call.encode())
        answer = json.loads(await stage.world.bounded(reader.readuntil(b"\n\n"), None, "an answer"))
        assert answer["error"]["code"] in (-32602, -32603)
        writer.close()
        await stage.still_sells()


async def test_a_stream_that_is_no_frame_ends_the_plugin_and_never_resynchronises() -> None:
    """cln:W9, cln:W12, rule:17: bytes between frames; what is held fails temporarily, the process ends with 1 and says
    why.
    """
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [1_000_000], total_msat=SIZE_MSAT)
        await stage.held(1)
        process = stage.lsp.plugin
        stage.lsp.plugin._writer.write(b"hello\n\n" + _frame(stage.part_call(invoice, payer), "forged"))
        assert (await payment).raw_messages == [TEMPORARY]
        await stage.world.bounded(process.gone.wait(), None, "the plugin ends")
        assert process.exit_code == 1
        assert len(stage.log_lines("makes no sense", "error")) == 1
        assert "forged" not in stage.answered
        stage.plugin_lives, stage.errors_expected = False, True
