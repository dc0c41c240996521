"""The host between two pipes: a real pyln Plugin inside, the test in lightningd's place outside."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyln.client import Plugin, RpcException

from lsps2fast._hook_py import FrameReader
from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.host import Host, Interest

RECORDED = (Path(__file__).parent / "data" / "hook-frames.jsonl").read_bytes().splitlines()
JIT, _, FORWARD, _, FINAL, *_ = (json.loads(frame) for frame in RECORDED)
EVENT = json.loads(RECORDED[8])
JIT_SCID = 1 << 40 | 2 << 16 | 3
WAIT_S = 10.0
PAYLOAD = "0203989680"
CHANNEL = "ab" * 32
TEMPORARY = {"result": "fail", "failure_message": "10070000"}
NODE_FAILURE = {"result": "fail", "failure_message": "2002"}
CONTINUE = {"result": "continue"}
INIT = {
    "jsonrpc": "2.0",
    "id": "cln:init#2",
    "method": "init",
    "params": {"options": {}, "configuration": {"lightning-dir": "/l", "rpc-file": "rpc", "startup": True}},
}
MANIFEST = {"jsonrpc": "2.0", "id": "cln:getmanifest#1", "method": "getmanifest", "params": {}}
SHUTDOWN = {"jsonrpc": "2.0", "method": "shutdown", "params": {"shutdown": {}}}


def htlc(call_id: str, call: Any = JIT, **changes: Any) -> dict[str, Any]:
    """A recorded htlc_accepted call under another id, with members of `htlc` changed."""
    params = call["params"]
    return {**call, "id": call_id, "params": {**params, "htlc": {**params["htlc"], **changes}}}


def ping(call_id: str) -> dict[str, Any]:
    """A call whose answer shows that everything before it went through the loop."""
    return {"jsonrpc": "2.0", "id": call_id, "method": "ping", "params": {}}


class Desk:
    """lightningd's end of a Host, which runs in a thread of its own."""

    def __init__(self, *, final_hops: bool = False, prepare: Callable[[Desk], None] | None = None) -> None:
        host_in, self.stdin = os.pipe()
        self.stdout, host_out = os.pipe()
        self._host_fds = (host_in, host_out)
        self.interest = Interest(final_hops=final_hops)
        self.htlcs: queue.Queue[Any] = queue.Queue()
        self.plugin = Plugin(autopatch=False)
        self.host = Host(self.plugin, self.interest, self.htlcs.put, fd_in=host_in, fd_out=host_out)
        self.host.method("ping", self._ping)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.exit_code: int | None = None
        self.logs: list[str] = []
        self.others: list[dict[str, Any]] = []
        self._answers: dict[Any, dict[str, Any]] = {}
        self._reader = FrameReader()
        if prepare is not None:
            prepare(self)
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._running.wait(WAIT_S)
        self.send(MANIFEST)

    async def _ping(self) -> dict[str, Any]:
        """Answer at once."""
        return {"pong": True}

    def _run(self) -> None:
        async def main() -> int:
            self.loop = asyncio.get_running_loop()
            self._running.set()
            return await self.host.run()

        self.exit_code = asyncio.run(main())
        os.close(self._host_fds[1])

    def send(self, *messages: dict[str, Any] | bytes) -> None:
        """Write messages in one go."""
        raw = (m if isinstance(m, bytes) else json.dumps(m, separators=(",", ":")).encode() + b"\n\n" for m in messages)
        data = memoryview(b"".join(raw))
        while data:
            data = data[os.write(self.stdin, data) :]

    def _take(self, frame: dict[str, Any]) -> None:
        if "method" not in frame:
            assert frame["id"] not in self._answers, f"two answers: {frame}"
            self._answers[frame["id"]] = frame
        elif frame["method"] == "log":
            self.logs.append(frame["params"]["message"])
        else:
            self.others.append(frame)

    def read_some(self) -> bool:
        """Read what there is, waiting for it; False at the end of the stream."""
        assert select.select([self.stdout], [], [], WAIT_S)[0], f"nothing came; the log says {self.logs[-5:]}"
        data = os.read(self.stdout, 65536)
        for frame in self._reader.feed(data) if data else []:
            self._take(json.loads(frame))
        return bool(data)

    def until(self, done: Callable[[], Any]) -> Any:
        """Read until `done()` is true; its value."""
        while not (value := done()):
            assert self.read_some(), f"the stream ended; the log says {self.logs[-5:]}"
        return value

    def answer(self, call_id: Any) -> dict[str, Any]:
        """The answer to one call."""
        return self.until(lambda: self._answers.get(call_id))

    def result(self, call_id: Any) -> Any:
        """The result in the answer to one call."""
        return self.answer(call_id)["result"]

    def answered(self) -> set[Any]:
        """The ids answered so far."""
        return set(self._answers)

    def log_with(self, text: str) -> str:
        """The first log line with this text."""
        return self.until(lambda: next((line for line in self.logs if text in line), None))

    def htlc(self) -> Any:
        """The next HTLC handed to the owner."""
        return self.htlcs.get(timeout=WAIT_S)

    def on_loop(self, work: Callable[..., Any], *args: Any) -> Any:
        """Do something on the host's loop and wait for it."""

        async def call() -> Any:
            return work(*args)

        assert self.loop is not None
        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(WAIT_S)

    def load(self) -> None:
        """The owner knows its scids."""
        self.send(ping("before load"))
        self.answer("before load")
        self.interest.scids.add(JIT_SCID)
        self.on_loop(self.host.interest_loaded)

    def rest(self) -> int:
        """Read to the end; the exit code."""
        while self.read_some():
            pass
        self._thread.join(WAIT_S)
        assert self.exit_code is not None, "run() did not return"
        return self.exit_code

    def hang_up(self) -> int:
        """lightningd is gone; the exit code."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1
        return self.rest()

    def clean(self) -> None:
        """Free what a failed test left."""
        if self._thread.is_alive():
            self.hang_up()
        for fd in {self.stdin, self.stdout, self._host_fds[0]} - {-1}:
            os.close(fd)


@pytest.fixture
def open_desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    """Makes desks, and takes them and pyln's log handlers away afterwards."""
    monkeypatch.setenv("LIGHTNINGD_PLUGIN", "1")
    handlers = list(logging.getLogger().handlers)
    desks: list[Desk] = []

    def make(**options: Any) -> Desk:
        desks.append(Desk(**options))
        return desks[-1]

    yield make
    for desk in desks:
        desk.clean()
    logging.getLogger().handlers[:] = handlers


@pytest.fixture
def desk(open_desk: Callable[..., Desk]) -> Desk:
    """A running host of a service whose scids are known."""
    opened = open_desk()
    opened.load()
    return opened


# ---- the ordinary life


def test_manifest_and_init_are_pyln_s_own(open_desk: Callable[..., Desk]) -> None:
    """M1, W13: options, methods with usage and help, hooks and subscriptions."""

    async def quote(amount_msat: int, note: str = "", *, fast: bool = False) -> dict[str, Any]:
        """What it costs."""
        return {"note": note, "amount_msat": amount_msat, "fast": fast}

    started: list[Any] = []

    def prepare(desk: Desk) -> None:
        desk.plugin.add_option("lsps2-x", "7", "a number", "int")
        desk.plugin.init()(lambda options, configuration, plugin, **_: started.append(plugin.get_option("lsps2-x")))
        desk.host.method("quote", quote)
        desk.host.hook("custommsg", lambda **_: CONTINUE, filters=[37913])
        desk.host.subscribe("block_added", lambda **_: None)

    desk = open_desk(prepare=prepare)
    manifest = desk.result("cln:getmanifest#1")
    assert [option["name"] for option in manifest["options"]] == ["lsps2-x"]
    assert {m["name"]: (m["usage"].splitlines()[0].strip(), m["description"]) for m in manifest["rpcmethods"]} == {
        "ping": ("", "Answer at once."),
        "quote": ("amount_msat [note]", "What it costs."),
    }
    assert {(hook["name"], tuple(hook.get("filters", ()))) for hook in manifest["hooks"]} == {
        ("htlc_accepted", ()),
        ("custommsg", (37913,)),
    }
    assert set(manifest["subscriptions"]) == {"shutdown", "block_added"}
    desk.send({**INIT, "params": {**INIT["params"], "options": {"lsps2-x": 9}}})
    assert "error" not in desk.answer("cln:init#2")
    assert started == [9]
    assert desk.hang_up() == 0


def test_a_foreign_htlc_goes_its_way(desk: Desk) -> None:
    """Money rule 1, H2: a forward to a known channel, an unknown scid and a payment that ends here."""
    other = json.loads(json.dumps(JIT).replace('"1x2x3"', '"1x2x4"'))
    desk.send(htlc("a", FORWARD), htlc("b", FINAL), htlc("c", other))
    assert [desk.result(call_id) for call_id in "abc"] == [CONTINUE] * 3
    assert desk.htlcs.empty()


def test_a_jit_part_is_held_until_its_owner_answers(desk: Desk) -> None:
    """W2, H5, H7: any order, any time."""
    desk.send(*(htlc(call_id) for call_id in "abcd"), htlc("foreign", FORWARD), ping("p"))
    scans = [desk.htlc() for _ in "abcd"]
    assert [scan.id_raw for scan in scans] == [b'"a"', b'"b"', b'"c"', b'"d"']
    assert desk.result("foreign") == CONTINUE
    desk.answer("p")
    assert not desk.answered() & set("abcd")
    desk.on_loop(desk.host.let_go, b'"d"')
    desk.on_loop(desk.host.fail, b'"b"', "400a")
    desk.on_loop(desk.host.forward, b'"a"', PAYLOAD, CHANNEL, "")
    desk.on_loop(desk.host.final, b'"c"', PAYLOAD, 7)
    assert desk.result("d") == CONTINUE
    assert desk.result("b") == {"result": "fail", "failure_message": "400a"}
    assert desk.result("a") == {**CONTINUE, "payload": PAYLOAD, "forward_to": CHANNEL, "extra_tlvs": ""}
    assert desk.result("c") == {**CONTINUE, "payload": PAYLOAD, "invoice_msat": 7}


def test_the_owner_sees_what_the_call_says(desk: Desk) -> None:
    """H2, H3."""
    desk.send(htlc("a", id=5))
    scan = desk.htlc()
    assert (scan.next_scid, scan.htlc_id, scan.amount_msat) == (JIT_SCID, 5, 10_000_000)
    assert scan.payload_hex == JIT["params"]["onion"]["payload"]
    assert scan.payment_hash.hex() == JIT["params"]["htlc"]["payment_hash"]


def test_a_forward_into_a_withheld_channel_is_handed_over(desk: Desk) -> None:
    """Money rule 7, H15."""
    desk.on_loop(desk.interest.channel_ids.add, FORWARD["params"]["forward_to"])
    desk.send(htlc("a", FORWARD))
    assert desk.htlc().forward_to == FORWARD["params"]["forward_to"]


def test_a_client_sees_the_final_hops_it_expects(open_desk: Callable[..., Desk]) -> None:
    """C2: by payment hash; every other one goes its way."""
    desk = open_desk(final_hops=True)
    desk.on_loop(desk.interest.payment_hashes.add, bytes.fromhex(FINAL["params"]["htlc"]["payment_hash"]))
    desk.load()
    desk.send(htlc("a", FINAL, payment_hash="ab" * 32), htlc("b", FINAL))
    assert desk.result("a") == CONTINUE
    assert desk.htlc().id_raw == b'"b"'


# ---- before the scids are known


def test_what_may_be_ours_waits_in_order_until_the_scids_are_known(open_desk: Callable[..., Desk]) -> None:
    """W11, T49, rule 15: parts come before init is answered."""
    desk = open_desk()
    foreign = json.loads(json.dumps(JIT).replace('"1x2x3"', '"1x2x4"'))
    desk.send(htlc("a"), htlc("x", foreign), htlc("b"), htlc("end", FINAL), htlc("f", FORWARD), INIT)
    assert desk.result("end") == CONTINUE
    desk.answer("cln:init#2")
    desk.send(htlc("c"), ping("p"))
    desk.answer("p")
    assert not desk.answered() & {"a", "x", "b", "c", "f"}
    desk.on_loop(desk.host.channels_loaded)
    assert desk.result("f") == CONTINUE
    assert desk.htlcs.empty()
    desk.load()
    assert [desk.htlc().id_raw for _ in "abc"] == [b'"a"', b'"b"', b'"c"']
    assert desk.result("x") == CONTINUE


def test_a_forward_waits_until_the_withheld_channels_are_known(open_desk: Callable[..., Desk]) -> None:
    """Money rule 7: before that nobody can tell whether the channel may be entered."""
    desk = open_desk()
    desk.send(htlc("a", FORWARD), ping("p"))
    desk.answer("p")
    assert "a" not in desk.answered()
    desk.interest.channel_ids.add(FORWARD["params"]["forward_to"])
    desk.on_loop(desk.host.channels_loaded)
    desk.send(htlc("b", FORWARD), ping("q"))
    desk.answer("q")
    assert not desk.answered() & {"a", "b"}
    desk.load()
    assert [desk.htlc().id_raw for _ in "ab"] == [b'"a"', b'"b"']


def test_a_client_s_final_hop_waits_for_its_payment_hashes(open_desk: Callable[..., Desk]) -> None:
    """W11."""
    desk = open_desk(final_hops=True)
    desk.send(htlc("a", FINAL), ping("p"))
    desk.answer("p")
    assert "a" not in desk.answered()
    desk.load()
    assert desk.result("a") == CONTINUE


# ---- exactly one good answer


def test_a_second_answer_is_refused(desk: Desk) -> None:
    """Money rule 1."""
    desk.send(htlc("a"))
    desk.htlc()
    desk.on_loop(desk.host.let_go, b'"a"')
    desk.on_loop(desk.host.fail, b'"a"', "2002")
    desk.on_loop(desk.host.forward, b'"never"', PAYLOAD, CHANNEL, "")
    desk.log_with('"never"\' has no open htlc_accepted call')
    assert desk.result("a") == CONTINUE
    assert desk.hang_up() == 0


BAD_ANSWERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "failure not hex": ("fail", ("zz",)),
    "failure missing": ("fail", (None,)),
    "payload not hex": ("forward", ("zz" * 5, CHANNEL, "")),
    "channel missing": ("forward", (PAYLOAD, None, "")),
    "extra even": ("forward", (PAYLOAD, CHANNEL, "0201aa")),
    "amount negative": ("final", (PAYLOAD, -1)),
}


@pytest.mark.parametrize(("how", "parts"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_an_answer_that_would_abort_lightningd_becomes_a_failure(desk: Desk, how: str, parts: tuple[Any, ...]) -> None:
    """H9, T12, money rule 1: checked before it is written, and the HTLC is answered all the same."""
    desk.send(htlc("a"))
    desk.htlc()
    desk.on_loop(getattr(desk.host, how), b'"a"', *parts)
    assert desk.result("a") == NODE_FAILURE
    desk.log_with("answered with a temporary failure instead")


def test_a_handler_that_raises_fails_the_htlc(open_desk: Callable[..., Desk]) -> None:
    """T12: with the traceback in the log."""

    def prepare(desk: Desk) -> None:
        def broken(scan: Any) -> None:
            raise KeyError("our bug")

        desk.host._on_htlc = broken

    desk = open_desk(prepare=prepare)
    desk.load()
    desk.send(htlc("a"), htlc("b", FORWARD))
    assert desk.result("a") == NODE_FAILURE
    assert desk.result("b") == CONTINUE
    desk.log_with("KeyError: 'our bug'")


def test_a_handler_that_raises_behind_its_answer_answers_once(open_desk: Callable[..., Desk]) -> None:
    """Money rule 1."""

    def prepare(desk: Desk) -> None:
        def broken(scan: Any) -> None:
            desk.host.let_go(scan.id_raw)
            raise KeyError("our bug")

        desk.host._on_htlc = broken

    desk = open_desk(prepare=prepare)
    desk.load()
    desk.send(htlc("a"), ping("p"))
    desk.answer("p")
    assert desk.result("a") == CONTINUE


def test_a_call_that_comes_twice_gets_one_answer(desk: Desk) -> None:
    """Money rule 1: an id stands for one call."""
    desk.send(htlc("a"), htlc("a"))
    desk.htlc()
    desk.log_with("came twice")
    desk.on_loop(desk.host.let_go, b'"a"')
    assert desk.result("a") == CONTINUE
    assert desk.hang_up() == 0
    assert desk.htlcs.empty()


def altered(old: str, new: str) -> bytes:
    """The JIT call with one piece of its text replaced."""
    return json.dumps(htlc("a")).replace(old, new, 1).encode()


UNDERSTOOD = {
    "an escape in a key": altered('"onion"', '"oni\\u006fn"'),
    "an escape in a value": altered('"1x2x3"', '"1x2\\u00783"'),
    "amounts with a unit": altered('"amount_msat": 10000000', '"amount_msat": "10000000msat"'),
    "hash in capitals": altered(JIT["params"]["htlc"]["payment_hash"], JIT["params"]["htlc"]["payment_hash"].upper()),
    "control characters": altered('"type": "tlv"', '"type": "\\n\n\n\t"'),
}


@pytest.mark.parametrize("odd", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_an_odd_call_is_read_leniently(desk: Desk, odd: bytes) -> None:
    """T12: what any reader of JSON would understand is understood."""
    desk.send(odd)
    scan = desk.htlc()
    assert (scan.next_scid, scan.amount_msat, scan.id_raw) == (JIT_SCID, 10_000_000, b'"a"')
    assert scan.payment_hash.hex() == JIT["params"]["htlc"]["payment_hash"]
    desk.on_loop(desk.host.fail, scan.id_raw, "10070000")
    assert desk.result("a") == TEMPORARY


ODD = {
    "no amount, ours": (altered('"amount_msat"', '"amount"'), NODE_FAILURE),
    "no amount, not ours": (altered('"amount_msat"', '"amount"').replace(b'"1x2x3"', b'"1x2x4"'), CONTINUE),
    "scid no scid": (altered('"1x2x3"', '"1x2"'), NODE_FAILURE),
    "scid a number": (altered('"1x2x3"', "7"), NODE_FAILURE),
    "scid twice": (altered('"short_channel_id"', '"short_channel_id": "9x9x9", "short_channel_id"'), NODE_FAILURE),
    "onion a text": (altered('"onion": {', '"onion": "x", "onions": {'), NODE_FAILURE),
    "params a list": (b'{"id":"a","method":"htlc_accepted","params":[]}', NODE_FAILURE),
    "params missing": (b'{"id":"a","method":"htlc_accepted"}', NODE_FAILURE),
    "a word for a number": (altered('"amount_msat": ', '"amount_msat": x'), NODE_FAILURE),
    "no payment hash": (altered('"payment_hash"', '"hash"'), NODE_FAILURE),
    "nesting without end": (altered('"type": "tlv"', '"type": ' + "[" * 100_000 + "]" * 100_000), NODE_FAILURE),
}


@pytest.mark.parametrize(("odd", "result"), ODD.values(), ids=ODD)
def test_a_call_that_cannot_be_understood_gets_one_safe_answer(desk: Desk, odd: bytes, result: Any) -> None:
    """T12: let go when it is surely not ours, else failed temporarily; one line in the log."""
    desk.send(odd, htlc("next", FORWARD))
    assert desk.result("a") == result
    assert desk.result("next") == CONTINUE
    desk.until(lambda: [line for line in desk.logs if 'htlc_accepted "a"' in line])
    assert desk.htlcs.empty()


def test_an_id_that_cannot_be_echoed_is_not_answered(desk: Desk) -> None:
    """W9: lightningd makes none; somebody else's must not spoil the stream."""
    desk.send(altered('"a"', '"a\\"b"'), htlc("next", FORWARD))
    assert desk.result("next") == CONTINUE
    desk.log_with("cannot be answered")
    assert desk.hang_up() == 0


# ---- the end


ENDS: dict[str, Callable[[Desk], int]] = {
    "shutdown": lambda desk: desk.send(SHUTDOWN) or desk.rest(),  # type: ignore[func-returns-value]
    "end of stdin": lambda desk: desk.hang_up(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_held_parts_are_failed_temporarily_at_the_end(desk: Desk, end: Callable[[Desk], int]) -> None:
    """W12, T50, rule 17: fifty parts, all with the code that lets the payer try again."""
    ids = [f"part {n}" for n in range(50)]
    desk.send(*(htlc(call_id, id=n) for n, call_id in enumerate(ids)))
    for _ in ids:
        desk.htlc()
    assert end(desk) == 0
    assert [desk.result(call_id) for call_id in ids] == [TEMPORARY] * 50


def test_parts_that_wait_for_the_scids_are_failed_at_the_end(open_desk: Callable[..., Desk]) -> None:
    """W11, W12."""
    desk = open_desk()
    desk.send(htlc("a"), SHUTDOWN)
    assert desk.rest() == 0
    assert desk.result("a") == TEMPORARY


def test_the_owner_may_answer_while_saying_goodbye(open_desk: Callable[..., Desk]) -> None:
    """W12: callbacks run before; one that raises or hangs does not keep the rest from its end."""

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


def test_a_goodbye_that_hangs_is_left_behind(open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """W5: lightningd waits 30 s for us, not for ever."""
    monkeypatch.setattr("lsps2fast_plugin.host.SHUTDOWN_S", 0.01)

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
    """W12: nobody will look at them any more."""
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
    """W9, rule 16: no resynchronising; held parts are failed, what came whole before is answered, exit code 1."""
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


# ---- everything rare


def test_methods_answer_with_results_and_clear_errors(open_desk: Callable[..., Desk]) -> None:
    """RpcException keeps its code; ours have theirs; the unexpected says what it was."""
    failures: dict[str, Exception] = {
        "rpc": RpcException("no such offer", 901),
        "config": ConfigError("lsps2-x must be a number"),
        "node": NodeError("getinfo", -1, "no"),
        "bug": KeyError("our bug"),
    }

    async def fail(how: str) -> dict[str, Any]:
        raise failures[how]

    async def odd() -> Any:
        return {"set": {1}}

    def prepare(desk: Desk) -> None:
        desk.host.method("fail", fail)
        desk.host.method("odd", odd)

    desk = open_desk(prepare=prepare)
    for how in failures:
        desk.send({"jsonrpc": "2.0", "id": how, "method": "fail", "params": {"how": how}})
    desk.send({"jsonrpc": "2.0", "id": "odd", "method": "odd", "params": []})
    desk.send({"jsonrpc": "2.0", "id": "missing", "method": "fail", "params": {}})
    desk.send({"jsonrpc": "2.0", "id": "too many", "method": "fail", "params": ["rpc", 1]})
    errors = {key: desk.answer(key)["error"] for key in [*failures, "odd", "missing", "too many"]}
    assert (errors["rpc"]["code"], errors["rpc"]["message"]) == (901, "no such offer")
    assert (errors["config"]["code"], errors["config"]["message"]) == (-32602, "lsps2-x must be a number")
    assert (errors["node"]["code"], errors["node"]["message"]) == (-1, "getinfo: no (code -1)")
    assert errors["bug"]["code"] == -32603
    assert "our bug" in errors["bug"]["message"]
    assert errors["odd"]["code"] == -32603
    assert (errors["missing"]["code"], errors["too many"]["code"]) == (-32602, -32602)
    assert "'how'" in errors["missing"]["message"]


def test_a_method_called_by_position_may_leave_out_what_is_optional(open_desk: Callable[..., Desk]) -> None:
    """lightning-cli passes lists: pyln-client alone would put its request into the gap."""

    async def quote(amount_msat: int, note: str = "none", unit: str = "msat") -> dict[str, Any]:
        return {"amount_msat": amount_msat, "note": note, "unit": unit}

    desk = open_desk(prepare=lambda desk: desk.host.method("quote", quote))
    desk.send({"jsonrpc": "2.0", "id": 1, "method": "quote", "params": [5]})
    desk.send({"jsonrpc": "2.0", "id": 2, "method": "quote", "params": [5, "a"]})
    desk.send({"jsonrpc": "2.0", "id": 3, "method": "quote", "params": {"unit": "sat", "amount_msat": 6}})
    assert desk.result(1) == {"amount_msat": 5, "note": "none", "unit": "msat"}
    assert desk.result(2) == {"amount_msat": 5, "note": "a", "unit": "msat"}
    assert desk.result(3) == {"amount_msat": 6, "note": "none", "unit": "sat"}


def test_unknown_methods_and_notifications_stop_nothing(desk: Desk) -> None:
    """W13: stock pyln-client dies of them."""
    desk.send({"jsonrpc": "2.0", "id": "u", "method": "unknown", "params": {}})
    desk.send({"jsonrpc": "2.0", "method": "unknown", "params": {}})
    desk.send({"jsonrpc": "2.0", "id": "n", "method": "ping"}, {"jsonrpc": "2.0", "id": "m"}, b"{}", ping("p"))
    assert desk.answer("u")["error"]["code"] == -32601
    assert desk.answer("n")["error"]["code"] == -32602
    assert desk.result("p") == {"pong": True}


HOOK_FAILURES: dict[str, Callable[..., Any]] = {
    "raises": lambda **_: 1 / 0,
    "returns nothing": lambda **_: None,
    "returns a text": lambda **_: "continue",
    "returns no result": lambda **_: {},
    "returns no JSON": lambda **_: {"result": "continue", "x": {1}},
}


@pytest.mark.parametrize("broken", HOOK_FAILURES.values(), ids=HOOK_FAILURES)
def test_a_hook_that_breaks_is_answered_harmlessly(open_desk: Callable[..., Desk], broken: Callable[..., Any]) -> None:
    """W8, H9: an error or null as answer aborts lightningd; also where pyln-client has no fallback."""

    def prepare(desk: Desk) -> None:
        for name in ("custommsg", "openchannel", "onion_message_recv"):
            desk.host.hook(name, broken)

    desk = open_desk(prepare=prepare)
    for name in ("custommsg", "openchannel", "onion_message_recv"):
        desk.send({"jsonrpc": "2.0", "id": name, "method": name, "params": {"payload": "aa"}})
    assert desk.result("custommsg") == CONTINUE
    assert desk.result("openchannel")["result"] == "reject"
    assert desk.result("onion_message_recv") == CONTINUE


def test_a_hook_that_cannot_be_read_is_answered_harmlessly(open_desk: Callable[..., Desk]) -> None:
    """H9: words that are no JSON come from lightningd only by somebody else's doing."""
    desk = open_desk(prepare=lambda desk: desk.host.hook("custommsg", lambda **_: CONTINUE))
    desk.send(b'{"jsonrpc":"2.0","id":"c","method":"custommsg","params":{"x":nonsense}}', ping("p"))
    assert desk.result("c") == CONTINUE
    desk.send(b'{"jsonrpc":"2.0","id":"m","method":"ping","params":{"x":nonsense}}')
    assert desk.answer("m")["error"]["code"] == -32602


def test_notifications_reach_their_subscribers(open_desk: Callable[..., Desk]) -> None:
    """W3: under their own name; one that raises does not stop the next."""
    seen: queue.Queue[Any] = queue.Queue()

    def block(block_added: Any, **_: Any) -> None:
        seen.put(block_added["height"])
        raise ValueError("our bug")

    desk = open_desk(prepare=lambda desk: desk.host.subscribe("block_added", block))
    for height in (7, 8):
        desk.send({"jsonrpc": "2.0", "method": "block_added", "params": {"block_added": {"height": height}}})
    assert [seen.get(timeout=WAIT_S) for _ in range(2)] == [7, 8]
    desk.log_with("ValueError: our bug")


def test_only_forward_events_somebody_waits_for_come_through(open_desk: Callable[..., Desk]) -> None:
    """W15: the others are dropped unseen; before the payments are known none is."""
    seen: queue.Queue[Any] = queue.Queue()

    def settled(forward_event: Any, **_: Any) -> None:
        seen.put(forward_event["payment_hash"])

    def event(payment_hash: str) -> dict[str, Any]:
        body = {**EVENT["params"]["forward_event"], "payment_hash": payment_hash}
        return {"jsonrpc": "2.0", "method": "forward_event", "params": {"forward_event": body}}

    desk = open_desk(prepare=lambda desk: desk.host.subscribe("forward_event", settled))
    desk.send(event("01" * 32))
    desk.load()
    desk.on_loop(desk.interest.payment_hashes.add, b"\x02" * 32)
    desk.send(event("03" * 32), event("02" * 32), event("04" * 32), ping("p"))
    desk.answer("p")
    assert [seen.get(timeout=WAIT_S) for _ in range(2)] == ["01" * 32, "02" * 32]
    assert seen.empty()


FORGED = json.dumps(EVENT) + "\n\n" + json.dumps(htlc("forged")) + "\n\n"


def test_parameters_cannot_forge_frames(open_desk: Callable[..., Desk]) -> None:
    """W9, T48, rule 16: raw line feeds in a parameter of a method; the plugin goes on, the text arrives as it was."""
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
    """W9: the answer carries the id as it came, or lightningd takes the plugin for broken."""
    desk.send(b'{"jsonrpc":"2.0","id":-0,"method":"ping","params":{}}')
    desk.send('{"jsonrpc":"2.0","id":"käse","method":"ping","params":{}}'.encode())
    desk.send(b'{"jsonrpc":"2.0","id":"a\\u0062","method":"ping","params":{}}', ping("p"))
    assert desk.result("käse") == {"pong": True}
    assert desk.answer(0)["error"]["code"] == -32602
    desk.answer("p")
    desk.log_with("cannot even be refused")


def test_frames_in_one_write_and_frames_in_pieces(desk: Desk) -> None:
    """W9: the pipe keeps no message boundaries."""
    desk.send(htlc("a", FORWARD), htlc("b", FORWARD))
    whole = json.dumps(htlc("c", FORWARD)).encode() + b"\n\n"
    desk.send(whole[:1])
    desk.send(whole[1:1700])
    desk.send(whole[1700:-1])
    desk.send(whole[-1:])
    assert [desk.result(call_id) for call_id in "abc"] == [CONTINUE] * 3


def test_notifications_of_ours_and_logs_are_whole_frames(desk: Desk) -> None:
    """W10: from any thread, between answers."""
    desk.on_loop(desk.host.send, "lsps2_event", {"a": "käse\n\n"})
    desk.host.log("two\nlines", "debug")
    desk.log_with("lines")
    assert desk.logs[-2:] == ["two", "lines"]
    assert desk.until(lambda: desk.others)[0]["params"]["lsps2_event"]["a"] == "käse\n\n"


def test_a_flood_of_log_lines_is_cut_and_said(open_desk: Callable[..., Desk]) -> None:
    """A stranger's nonsense must not fill the operator's log."""
    now = [0.0]

    def prepare(desk: Desk) -> None:
        desk.host._limit._now = lambda: now[0]
        desk.host._limit._at = 0.0

    desk = open_desk(prepare=prepare)
    desk.load()
    for n in range(300):
        desk.host.log(f"line {n}")
    now[0] = 1.0
    desk.host.log("later")
    desk.log_with("later")
    assert desk.logs == [*(f"line {n}" for n in range(200)), "100 log lines dropped", "later"]


def test_a_task_that_fails_is_logged(desk: Desk) -> None:
    """Nothing of ours dies in silence."""

    async def broken() -> None:
        raise KeyError("our bug")

    desk.on_loop(lambda: desk.host.spawn(broken()) and None)
    desk.log_with("KeyError: 'our bug'")


def test_the_lane_waits_while_the_loop_is_behind(
    open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 14: frames between lane and loop are bounded; the loop gets all of them, in order."""
    monkeypatch.setattr("lsps2fast_plugin.host.MOST_WAITING", 50)
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
    sender = threading.Thread(target=desk.send, args=blocks)
    sender.start()
    go.set()
    assert [heights.get(timeout=WAIT_S) for _ in blocks] == list(range(2000))
    sender.join(WAIT_S)
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
    """W10: lightningd stands still until neither side can write; then everything comes, whole."""
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


LOG_LINE = json.dumps({"jsonrpc": "2.0", "method": "log", "params": {"message": "x" * 200}}).encode() + b"\n\n"


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


# ---- as a process of its own

PROGRAM = """
import asyncio, os, subprocess, sys
from pyln.client import Plugin
from lsps2fast_plugin.host import Host, Interest

plugin = Plugin(autopatch=False)
interest = Interest()
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
    """W12, T13: plugin stop and systemd alike."""
    tell(process, MANIFEST, INIT, htlc("a"), htlc("b"))
    hear(process, lambda frame: frame.get("params", {}).get("message") == "held")
    hear(process, lambda frame: frame.get("params", {}).get("message") == "held")
    process.send_signal(signal.SIGTERM)
    assert hear(process, lambda frame: frame.get("id") == "a")["result"] == TEMPORARY
    assert hear(process, lambda frame: frame.get("id") == "b")["result"] == TEMPORARY
    assert process.wait(WAIT_S) == 0


@pytest.mark.slow
def test_stray_prints_and_children_do_not_reach_lightningd(process: subprocess.Popen[bytes]) -> None:
    """W10: stdout holds frames and nothing else; a child cannot eat lightningd's messages either."""
    tell(process, MANIFEST, INIT, {"jsonrpc": "2.0", "id": "n", "method": "noise", "params": {}}, htlc("a", FORWARD))
    assert hear(process, lambda frame: frame.get("id") == "n")["result"] == {}
    tell(process, ping("gone"))
    hear(process, lambda frame: frame.get("id") == "gone")
    out, err = process.communicate(timeout=WAIT_S)
    assert b"stray" not in out
    assert [err.count(word) for word in (b"stray print", b"stray write", b"stray child")] == [1, 1, 1]


@pytest.mark.slow
def test_outside_lightningd_it_says_how_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """W13: a person who starts the file by hand reads the options and methods."""
    monkeypatch.delenv("LIGHTNINGD_PLUGIN", raising=False)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert "lightning-cli plugin start" in done.stdout
    assert "noise" in done.stdout
