"""The stream itself: forged frames, pieces, full pipes, floods."""

from __future__ import annotations

import json
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from harness.host import (
    CONTINUE,
    EVENT,
    FORWARD,
    WAIT_S,
    Desk,
    htlc,
    ping,
)

FORGED = json.dumps(EVENT) + "\n\n" + json.dumps(htlc("forged")) + "\n\n"


LOG_LINE = json.dumps({"jsonrpc": "2.0", "method": "log", "params": {"message": "x" * 200}}).encode() + b"\n\n"


def test_parameters_cannot_forge_frames(open_desk: Callable[..., Desk]) -> None:
    """cln:W9, trap:48, rule:16: raw line feeds in a parameter of a method; the plugin goes on, the text arrives as it
    was.
    """
    seen: queue.Queue[Any] = queue.Queue()

    async def echo(text: str) -> dict[str, Any]:
        return {"text": text}

    def prepare(desk: Desk) -> None:
        desk.host.method("echo", echo)
        desk.host.subscribe("forward_event", lambda **_: seen.put("forged"))

    desk = open_desk(prepare=prepare)
    desk.load()
    desk.on_loop(desk.interest.payment_hashes.add, bytes.fromhex(EVENT["params"]["forward_event"]["payment_hash"]))
    raw = FORGED.replace('"', '\\"').encode()
    desk.send(b'{"jsonrpc":"2.0","id":"e","method":"echo","params":{"text":"' + raw + b'"}}\n\n')
    desk.send(b'{"jsonrpc":"2.0","id":"w","method":"echo","params":{"text":1" ,"b":"}}\n\n' + raw + b'"}}\n\n')
    desk.send(htlc("next", FORWARD), ping("p"))
    assert desk.result("e") == {"text": FORGED}
    assert desk.answer("w")["error"]["code"] == -32602
    assert desk.result("next") == CONTINUE
    desk.answer("p")
    assert seen.empty()
    assert desk.htlcs.empty()


def test_an_id_that_pyln_would_change_is_refused_by_us(desk: Desk) -> None:
    """cln:W9: the answer carries the id as it came, or lightningd takes the plugin for broken."""
    desk.send(b'{"jsonrpc":"2.0","id":-0,"method":"ping","params":{}}')
    desk.send('{"jsonrpc":"2.0","id":"käse","method":"ping","params":{}}'.encode())
    desk.send(b'{"jsonrpc":"2.0","id":"a\\u0062","method":"ping","params":{}}', ping("p"))
    assert desk.result("käse") == {"pong": True}
    assert desk.answer(0)["error"]["code"] == -32602
    desk.answer("p")
    desk.log_with("cannot even be refused")


def test_frames_in_one_write_and_frames_in_pieces(desk: Desk) -> None:
    """cln:W9: the pipe keeps no message boundaries."""
    desk.send(htlc("a", FORWARD), htlc("b", FORWARD))
    whole = json.dumps(htlc("c", FORWARD)).encode() + b"\n\n"
    desk.send(whole[:1])
    desk.send(whole[1:1700])
    desk.send(whole[1700:-1])
    desk.send(whole[-1:])
    assert [desk.result(call_id) for call_id in "abc"] == [CONTINUE] * 3


def test_notifications_of_ours_and_logs_are_whole_frames(desk: Desk) -> None:
    """cln:W10: from any thread, between answers."""
    desk.on_loop(desk.host.send, "lsps2_event", {"a": "käse\n\n"})
    desk.host.log("two\nlines", "debug")
    desk.log_with("lines")
    assert desk.logs[-2:] == ["two", "lines"]
    assert desk.until(lambda: desk.others)[0]["params"]["lsps2_event"]["a"] == "käse\n\n"


def test_a_flood_of_log_lines_is_cut_and_said(open_desk: Callable[..., Desk]) -> None:
    """A stranger's nonsense must not fill the operator's log."""
    now = [0.0]
    desk = open_desk(now=lambda: now[0])
    desk.load()
    for n in range(300):
        desk.host.log(f"line {n}")
    now[0] = 1.0
    desk.host.log("later")
    desk.log_with("later")
    assert desk.logs[-202:] == [*(f"line {n}" for n in range(200)), "100 log lines dropped", "later"]


def test_a_loop_that_is_behind_gets_every_notification_in_order(open_desk: Callable[..., Desk]) -> None:
    """rule:14: what is never shed waits, in the order it came."""
    go = threading.Event()
    heights: queue.Queue[int] = queue.Queue()

    def block(block_added: Any, **_: Any) -> None:
        go.wait(WAIT_S)
        heights.put(block_added["height"])

    desk = open_desk(prepare=lambda desk: desk.host.subscribe("block_added", block))
    blocks = [
        {"jsonrpc": "2.0", "method": "block_added", "params": {"block_added": {"height": height}}}
        for height in range(2000)
    ]
    desk.send(*blocks)
    go.set()
    assert [heights.get(timeout=WAIT_S) for _ in blocks] == list(range(2000))
    assert desk.hang_up() == 0


def test_foreign_htlcs_do_not_wait_for_the_loop(desk: Desk) -> None:
    """P4: a handler that blocks the loop delays no forward of the node."""
    go = threading.Event()
    assert desk.loop is not None
    desk.loop.call_soon_threadsafe(go.wait, WAIT_S)
    desk.send(htlc("a", FORWARD))
    assert desk.result("a") == CONTINUE
    go.set()


@pytest.mark.slow
def test_full_pipes_lose_and_mix_nothing(desk: Desk) -> None:
    """cln:W10: lightningd stands still until neither side can write; then everything comes, whole."""
    os.set_blocking(desk.stdin, False)
    raw = b"".join(json.dumps(htlc(f"h{n}", FORWARD)).encode() + b"\n\n" for n in range(3000))
    logger = threading.Thread(target=lambda: [desk.host.write(LOG_LINE) for _ in range(1000)])
    logger.start()
    rest = memoryview(raw)
    while select.select([], [desk.stdin], [], 0.2)[1]:
        rest = rest[os.write(desk.stdin, rest[:4096]) :]
    os.set_blocking(desk.stdin, True)
    sender = threading.Thread(target=desk.send, args=(bytes(rest),))
    sender.start()
    assert len(rest) > 0
    assert [desk.result(f"h{n}") for n in range(3000)] == [CONTINUE] * 3000
    desk.until(lambda: desk.logs.count("x" * 200) == 1000)
    sender.join(WAIT_S)
    logger.join(WAIT_S)


def test_a_thousand_foreign_htlcs_pass_quickly(desk: Desk) -> None:
    """P7, P20: generous, because the machine is shared; a figure that means something is in benchmarks/."""
    calls = [json.dumps(htlc(f"h{n}", FORWARD)).encode() for n in range(1000)]
    begin = time.perf_counter()
    sender = threading.Thread(target=desk.send, args=calls)
    sender.start()
    assert [desk.result(f"h{n}") for n in range(1000)] == [CONTINUE] * 1000
    assert time.perf_counter() - begin < 5
    sender.join(WAIT_S)
    assert desk.htlcs.empty()
