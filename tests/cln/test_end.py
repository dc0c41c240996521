"""The polite end (cln:W12) and the impolite one."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.host import (
    CHANNEL,
    CONTINUE,
    FORWARD,
    INIT,
    MANIFEST,
    PAYLOAD,
    SHUTDOWN,
    TEMPORARY,
    WAIT_S,
    Desk,
    htlc,
    ping,
)

ENDS: dict[str, Callable[[Desk], int]] = {
    "shutdown": lambda desk: desk.send(SHUTDOWN) or desk.rest(),  # type: ignore[func-returns-value]
    "end of stdin": lambda desk: desk.hang_up(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_held_parts_are_failed_temporarily_at_the_end(desk: Desk, end: Callable[[Desk], int]) -> None:
    """cln:W12, trap:50, rule:17: fifty parts, all with the code that lets the payer try again."""
    ids = [f"part {n}" for n in range(50)]
    desk.send(*(htlc(call_id, id=n) for n, call_id in enumerate(ids)))
    for _ in ids:
        desk.htlc()
    assert end(desk) == 0
    assert [desk.result(call_id) for call_id in ids] == [TEMPORARY] * 50


def test_parts_that_wait_for_the_scids_are_failed_at_the_end(open_desk: Callable[..., Desk]) -> None:
    """cln:W11, cln:W12."""
    desk = open_desk()
    desk.send(htlc("a"), SHUTDOWN)
    assert desk.rest() == 0
    assert desk.result("a") == TEMPORARY


def test_the_owner_may_answer_while_saying_goodbye(open_desk: Callable[..., Desk]) -> None:
    """cln:W12: callbacks run before; one that raises or hangs does not keep the rest from its end."""

    def prepare(desk: Desk) -> None:
        async def last_words() -> None:
            desk.host.forward(b'"a"', PAYLOAD, CHANNEL, "")

        async def broken() -> None:
            raise OSError("no journal")

        desk.host.on_shutdown(broken)
        desk.host.on_shutdown(last_words)

    desk = open_desk(prepare=prepare)
    desk.load()
    desk.send(htlc("a"), htlc("b"))
    desk.htlc(), desk.htlc()
    desk.send(SHUTDOWN)
    assert desk.rest() == 0
    assert desk.result("a")["forward_to"] == CHANNEL
    assert desk.result("b") == TEMPORARY
    desk.log_with("OSError: no journal")


def test_a_late_line_of_log_does_not_go_to_stderr(open_desk: Callable[..., Desk]) -> None:
    """trap:50: the handler stays until tasks are cancelled; without it logging's last resort is stderr."""

    def prepare(desk: Desk) -> None:
        async def stubborn() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                logging.getLogger("lsps2fast_plugin.cln.rpc").warning("an answer that came too late")

        async def begin() -> None:
            desk.host.spawn(stubborn())
            await asyncio.sleep(0)

        desk.host.on_shutdown(begin)

    desk = open_desk(prepare=prepare)
    desk.load()
    desk.send(SHUTDOWN)
    assert desk.rest() == 0
    desk.log_with("an answer that came too late")


def test_a_goodbye_that_hangs_is_left_behind(open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """cln:W5: lightningd waits 30 s for us, not for ever."""
    monkeypatch.setattr("lsps2fast_plugin.cln.host.SHUTDOWN_S", 0.01)

    def prepare(desk: Desk) -> None:
        async def hang() -> None:
            await asyncio.Event().wait()

        desk.host.on_shutdown(hang)

    desk = open_desk(prepare=prepare)
    desk.load()
    desk.send(htlc("a"))
    desk.htlc()
    desk.send(SHUTDOWN)
    assert desk.rest() == 0
    assert desk.result("a") == TEMPORARY


def test_parts_that_come_while_ending_are_failed_at_once(open_desk: Callable[..., Desk]) -> None:
    """cln:W12: they are not read any more."""
    go = threading.Event()

    def prepare(desk: Desk) -> None:
        async def slowly() -> None:
            await asyncio.to_thread(go.wait, WAIT_S)

        desk.host.on_shutdown(slowly)

    desk = open_desk(prepare=prepare)
    desk.load()
    desk.send(SHUTDOWN, htlc("late"), htlc("foreign", FORWARD))
    assert desk.result("late") == TEMPORARY
    assert desk.result("foreign") == CONTINUE
    go.set()
    assert desk.rest() == 0


@pytest.mark.parametrize("nonsense", [b"not JSON at all\n\n", b"\x00", b"}", b"[1]\n\n"])
def test_a_stream_without_sense_ends_the_plugin(desk: Desk, nonsense: bytes) -> None:
    """cln:W9, rule:16: no resynchronising; held parts are failed, what came whole before is answered, exit code 1."""
    desk.send(htlc("a"))
    desk.htlc()
    desk.send(htlc("whole", FORWARD), nonsense, htlc("behind", FORWARD))
    assert desk.rest() == 1
    assert desk.result("a") == TEMPORARY
    assert desk.result("whole") == CONTINUE
    assert "behind" not in desk.answered()
    desk.log_with("makes no sense")


def test_tasks_and_methods_under_way_end_with_the_plugin(open_desk: Callable[..., Desk]) -> None:
    """A caller of a slow method hears of the end."""
    begun = threading.Event()

    def prepare(desk: Desk) -> None:
        async def slow() -> dict[str, Any]:
            begun.set()
            await asyncio.Event().wait()
            return {}

        desk.host.method("slow", slow)

    desk = open_desk(prepare=prepare)
    desk.send({"jsonrpc": "2.0", "id": "s", "method": "slow", "params": []})
    assert begun.wait(WAIT_S)
    desk.send(SHUTDOWN)
    assert desk.rest() == 0
    assert "stopping" in desk.answer("s")["error"]["message"]


PROGRAM = """
import asyncio, os, subprocess, sys
from pyln.client import Plugin
from lsps2fast_plugin.cln.host import Host, HtlcFilter

plugin = Plugin(autopatch=False)
interest = HtlcFilter()
host = Host(plugin, interest, lambda scan: host.log("held"))

async def noise():
    "Print by every way there is."
    print("stray print", flush=True)
    os.write(1, b"stray write")
    subprocess.run(["sh", "-c", "echo stray child; cat"], check=True)
    return {}

host.method("noise", noise)

@plugin.init()
def init(**_):
    interest.scids.add((1 << 40) + (2 << 16) + 3)
    host.interest_loaded()

sys.exit(asyncio.run(host.run()))
"""


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A plugin as lightningd starts it."""
    monkeypatch.setenv("LIGHTNINGD_PLUGIN", "1")
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        yield child
        child.kill()


def tell(child: subprocess.Popen[bytes], *messages: dict[str, Any]) -> None:
    """Write to its stdin."""
    assert child.stdin is not None
    child.stdin.write(b"".join(json.dumps(message).encode() + b"\n\n" for message in messages))
    child.stdin.flush()


def hear(child: subprocess.Popen[bytes], done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Read its stdout, which must be frames and nothing else, up to the one that is wanted."""
    assert child.stdout is not None
    while not done(frame := json.loads(child.stdout.readline() or b"{}")):
        assert frame, "its stdout ended"
        assert child.stdout.readline() == b"\n"
    assert child.stdout.readline() == b"\n"
    return frame


@pytest.mark.slow
def test_sigterm_fails_held_parts(process: subprocess.Popen[bytes]) -> None:
    """cln:W12, trap:13: plugin stop and systemd alike."""
    tell(process, MANIFEST, INIT, htlc("a"), htlc("b"))
    hear(process, lambda frame: frame.get("params", {}).get("message") == "held")
    hear(process, lambda frame: frame.get("params", {}).get("message") == "held")
    process.send_signal(signal.SIGTERM)
    assert hear(process, lambda frame: frame.get("id") == "a")["result"] == TEMPORARY
    assert hear(process, lambda frame: frame.get("id") == "b")["result"] == TEMPORARY
    assert process.wait(WAIT_S) == 0


@pytest.mark.slow
def test_stray_prints_and_children_do_not_reach_lightningd(process: subprocess.Popen[bytes]) -> None:
    """cln:W10: stdout holds frames and nothing else; a child cannot eat lightningd's messages either."""
    tell(process, MANIFEST, INIT, {"jsonrpc": "2.0", "id": "n", "method": "noise", "params": {}}, htlc("a", FORWARD))
    assert hear(process, lambda frame: frame.get("id") == "n")["result"] == {}
    tell(process, ping("gone"))
    hear(process, lambda frame: frame.get("id") == "gone")
    out, err = process.communicate(timeout=WAIT_S)
    assert b"stray" not in out
    assert [err.count(word) for word in (b"stray print", b"stray write", b"stray child")] == [1, 1, 1]


@pytest.mark.slow
def test_outside_lightningd_it_says_how_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """cln:W13: a person who starts the file by hand reads the options and methods."""
    monkeypatch.delenv("LIGHTNINGD_PLUGIN", raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert "lightning-cli plugin start" in done.stdout
    assert "noise" in done.stdout
