"""The RPC connection against a unix socket the test serves."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from harness.logs import Log
from harness.rows import CHANNEL

from lsps2fast._hook_py import FrameReader
from lsps2fast.errors import AnswerPending, NodeError, NodeUnreachable, StoreError
from lsps2fast_plugin.cln.datastore import DatastoreRow, list_datastore
from lsps2fast_plugin.cln.models import PeerChannel, PeerRow, list_peers
from lsps2fast_plugin.cln.rows import read_all, rows_of, table_in
from lsps2fast_plugin.cln.rpc import Rpc

WAIT_S = 10.0


class Caller:
    """One connection as lightningd sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self._waiting: list[bytes] = []

    async def request(self) -> dict[str, Any]:
        """The next request."""
        while not self._waiting:
            data = await asyncio.wait_for(self._reader.read(65536), WAIT_S)
            assert data, "the caller hung up"
            self._waiting += self._frames.feed(data)
        request: dict[str, Any] = json.loads(self._waiting.pop(0))
        return request

    async def ended(self) -> bool:
        """Whether the caller hung up, behind what it sent."""
        while await asyncio.wait_for(self._reader.read(65536), WAIT_S):
            pass
        return True

    async def raw(self, data: bytes) -> None:
        """Write any bytes."""
        self._writer.write(data)
        await self._writer.drain()

    async def result(self, request: dict[str, Any], result: Any) -> None:
        """Answer a request."""
        await self.raw(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode() + b"\n\n")

    async def error(self, request: dict[str, Any], error: Any) -> None:
        """Refuse a request."""
        await self.raw(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode() + b"\n\n")

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Node:
    """Serves a socket and counts its connections."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.callers: asyncio.Queue[Caller] = asyncio.Queue()
        self.said = Log()
        self.rpc = Rpc(str(path))
        self._server: asyncio.Server | None = None
        self._open: list[Caller] = []

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._connected, str(self.path))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caller = Caller(reader, writer)
        self._open.append(caller)
        await self.callers.put(caller)

    async def caller(self) -> Caller:
        """The next connection."""
        return await asyncio.wait_for(self.callers.get(), WAIT_S)

    async def stop(self) -> None:
        """Hang up on all clients and listen no more."""
        await self.rpc.close()
        for caller in self._open:
            await caller.close()
        assert self._server is not None
        self._server.close()
        self.path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Node]:
    """A node that listens."""
    node = Node(path)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Node], Coroutine[Any, Any, None]]], None]:
    """Runs a story with a node of its own."""

    def run(story: Callable[[Node], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with serving(tmp_path / "rpc") as node:
                await asyncio.wait_for(story(node), 3 * WAIT_S)

        asyncio.run(main())

    return run


Play = Callable[[Callable[[Node], Awaitable[None]]], None]
GivenUp = tuple[NodeError, Caller, dict[str, Any]]


async def failure(call: Awaitable[Any]) -> NodeError:
    """The error a call ends with."""
    with pytest.raises(NodeError) as caught:
        await call
    return caught.value


async def given_up(node: Node, method: str, params: dict[str, Any], late: Callable[[], None] | None = None) -> GivenUp:
    """A call whose 30 s have passed once its request was there: the error, its connection and the request."""
    call = asyncio.create_task(node.rpc.call(method, params, 30.0, late))
    caller = await node.caller()
    request = await caller.request()
    node.rpc.turned(31)
    return await failure(call), caller, request


def test_a_call_is_one_json_rpc_request_with_its_result(play: Play) -> None:
    """cln:W1, cln:D3: text goes out as UTF-8, without \\u escapes."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("datastore", {"string": "käse"}))
        caller = await node.caller()
        request = await caller.request()
        assert request == {
            "jsonrpc": "2.0",
            "id": "lsps2fast:datastore#1",
            "method": "datastore",
            "params": {"string": "käse"},
        }
        await caller.result(request, {"generation": 0})
        assert await call == {"generation": 0}

    play(story)


def test_text_goes_out_without_escapes(play: Play) -> None:
    """cln:D3: lightningd refuses \\u in a string."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("datastore", {"string": "käse €"}))
        caller = await node.caller()
        raw = await asyncio.wait_for(caller._reader.readuntil(b"\n\n"), WAIT_S)
        assert "käse €".encode() in raw
        await caller.result({"id": "lsps2fast:datastore#1"}, {})
        await call

    play(story)


def test_many_calls_are_in_flight_and_answered_in_any_order(play: Play) -> None:
    """cln:P1: one connection, each answer to its caller."""

    async def story(node: Node) -> None:
        calls = [asyncio.create_task(node.rpc.call("getinfo", {"n": n})) for n in range(50)]
        caller = await node.caller()
        requests = [await caller.request() for _ in calls]
        for request in reversed(requests):
            await caller.result(request, {"n": request["params"]["n"]})
        assert [(await call)["n"] for call in calls] == list(range(50))
        assert node.callers.empty()
        assert len({request["id"] for request in requests}) == 50

    play(story)


def test_both_sides_may_write_at_once(play: Play) -> None:
    """cln:P1: 500 × 1.5 kB from each side while lightningd only writes: neither side stands still."""

    async def story(node: Node) -> None:
        text = "x" * 1500
        calls = [asyncio.create_task(node.rpc.call("echo", {"n": n, "text": text})) for n in range(500)]
        caller = await node.caller()
        notice = json.dumps({"jsonrpc": "2.0", "method": "message", "params": {"text": text}}).encode() + b"\n\n"
        await asyncio.wait_for(caller.raw(notice * 500), WAIT_S)
        for _ in calls:
            request = await caller.request()
            await caller.result(request, request["params"])
        assert [(await call)["n"] for call in calls] == list(range(500))
        assert len(node.said) == 500

    play(story)


def test_who_gave_a_call_up_hears_of_its_answer(play: Play) -> None:
    """K-13: it may be carried out after a newer call that undid it; told once, and of nothing else."""

    async def story(node: Node) -> None:
        told: list[str] = []
        error, caller, old = await given_up(node, "datastore", {}, lambda: told.append("late"))
        assert isinstance(error, AnswerPending)
        quick = asyncio.create_task(node.rpc.call("getinfo", {}, None, lambda: told.append("quick")))
        await caller.result(await caller.request(), {})
        await quick
        assert told == []
        await caller.result(old, {})
        await caller.result(old, {})
        last = asyncio.create_task(node.rpc.call("getinfo", {}, None))
        await caller.result(await caller.request(), {})
        await last
        assert told == ["late"]
        assert len(node.said) == 1

    play(story)


@pytest.mark.parametrize("answer", [{"result": {}}, {"error": {"code": -1, "message": "no"}}])
def test_who_gave_a_call_up_hears_of_an_answer_that_came_in_the_same_turn(play: Play, answer: dict[str, Any]) -> None:
    """K-13: the time is over and the answer there before the caller goes on."""

    async def story(node: Node) -> None:
        told: list[str] = []
        call = asyncio.create_task(node.rpc.call("datastore", {}, 30.0, lambda: told.append("late")))
        request = await (await node.caller()).request()
        link = node.rpc._link
        assert link is not None
        node.rpc.turned(31)
        link._end_overdue()
        link.data_received(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}).encode())
        assert isinstance(await failure(call), AnswerPending)
        assert told == ["late"]

    play(story)


def test_who_is_cancelled_in_the_turn_of_the_answer_hears_of_it(play: Play) -> None:
    """K-13: no one else will: what the call has made is cleared away, or made as it was."""

    async def story(node: Node) -> None:
        told: list[str] = []
        call = asyncio.create_task(node.rpc.call("datastore", {}, 30.0, lambda: told.append("late")))
        request = await (await node.caller()).request()
        link = node.rpc._link
        assert link is not None
        link.data_received(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {}}).encode())
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert told == ["late"]

    play(story)


def test_a_connection_that_ends_as_it_is_made_keeps_no_caller_waiting(play: Play) -> None:
    """K-13: also not one that would wait for ever."""

    async def story(node: Node) -> None:
        connected = node.rpc._connected

        async def ended(method: str) -> Any:
            link = await connected(method)
            lost = asyncio.Event()
            close = link.close
            link.close = lambda why: (close(why), lost.set())  # type: ignore[assignment, method-assign]
            await (await node.caller()).close()
            await lost.wait()
            return link

        node.rpc._connected = ended  # type: ignore[method-assign]
        error = await asyncio.wait_for(failure(node.rpc.call("getinfo", {}, None)), WAIT_S)
        assert isinstance(error, NodeUnreachable)

    play(story)


def test_who_gave_a_call_up_hears_when_no_answer_can_come(play: Play) -> None:
    """The connection ends: whatever was to be carried out has been, or never will."""

    async def story(node: Node) -> None:
        told = asyncio.Event()
        _, caller, _ = await given_up(node, "datastore", {}, told.set)
        assert not told.is_set()
        await caller.close()
        await asyncio.wait_for(told.wait(), WAIT_S)

    play(story)


def test_a_large_request_and_a_large_answer_pass(play: Play) -> None:
    """cln:D4: a value of a megabyte, and what listdatastore says of many; more than a hook call may have."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("datastore", {"hex": "00" * 1_000_000}))
        caller = await node.caller()
        request = await caller.request()
        assert len(request["params"]["hex"]) == 2_000_000
        await caller.result(request, {"rows": ["y" * 1000] * 17_000})
        assert len((await call)["rows"]) == 17_000

    play(story)


def test_the_rows_of_a_long_journal_are_read_when_their_turn_comes(play: Play) -> None:
    """P27: decoded one at a time, so that the loop need not stand still; one that is no JSON is told there."""

    async def story(node: Node) -> None:
        reading = asyncio.create_task(list_datastore(node.rpc, ("a",)))
        caller = await node.caller()
        row = {"key": ["a", "b"], "hex": "00" * 500, "string": '}],[{\\"'}
        await caller.result(await caller.request(), {"datastore": [row] * 2_000})
        rows = await reading
        assert next(rows) == DatastoreRow(("a", "b"), "00" * 500)
        assert len(list(rows)) == 1_999
        reading = asyncio.create_task(list_datastore(node.rpc, ("a",)))
        call_id = (await caller.request())["id"]
        text = b'{"jsonrpc":"2.0","id":"%s","result":{"datastore":[{"key":["a"],"hex":"00"},{"key":[%s]}]}}\n\n'
        await caller.raw(text % (call_id.encode(), b"nonsense, " * 200_000))
        rows = await reading
        assert next(rows).key == ("a",)
        with pytest.raises(StoreError, match="an answer we cannot read: DatastoreRow"):
            next(rows)

    play(story)


async def test_a_long_table_lets_the_loop_go_on() -> None:
    """P27: 10,000 channels are read in slices; what else is due comes between them."""
    rows = [json.dumps(CHANNEL | {"channel_id": f"{number:064x}"}) for number in range(2_000)]
    frame = f'{{"jsonrpc":"2.0","id":"a","result":{{"channels":[{",".join(rows)}]}}}}'
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    answer = table_in(frame.encode())
    assert answer is not None
    channels = await read_all(PeerChannel, rows_of(answer["result"], "listpeerchannels", "channels"), "")
    counting.cancel()
    assert [int(channel.channel_id, 16) for channel in channels] == list(range(2_000))
    assert turns == 8


BROKEN_ROWS = {
    "a member is missing": (b'{"id":"02aa","connected":true},{"id":"02bb"}', "PeerRow 02bb: .*`connected`"),
    "no object": (b'{"id":"02aa","connected":true},7', "cannot read"),
    "no JSON": (b'{"id":"02aa","connected":true},{nonsense}', "cannot read: PeerRow"),
    "nesting without end": (b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "cannot read: PeerRow"),
}


@pytest.mark.parametrize(("rows", "sentence"), BROKEN_ROWS.values(), ids=BROKEN_ROWS)
def test_a_broken_row_is_no_outcome(play: Play, rows: bytes, sentence: str) -> None:
    """rule:10, trap:12: a table is read when its turn comes, and names what is wrong."""

    async def story(node: Node) -> None:
        asking = asyncio.create_task(list_peers(node.rpc))
        caller = await node.caller()
        call_id = (await caller.request())["id"].encode()
        await caller.raw(b'{"jsonrpc":"2.0","id":"%s","result":{"peers":[%s]}}\n\n' % (call_id, rows))
        with pytest.raises(NodeUnreachable, match=sentence):
            await asking

    play(story)


def test_a_control_character_in_a_row_is_read(play: Play) -> None:
    """cln:W9: what a peer or a plugin wrote into a string spoils no table."""

    async def story(node: Node) -> None:
        asking = asyncio.create_task(list_peers(node.rpc))
        caller = await node.caller()
        call_id = (await caller.request())["id"].encode()
        row = b'{"id":"02aa","connected":true,"netaddr":["a\nb"],"log":[]}'
        await caller.raw(b'{"jsonrpc":"2.0","id":"%s","result":{"peers":[%s],"more":{}}}\n\n' % (call_id, row))
        assert await asking == [PeerRow("02aa", True, None, ("a\nb",))]

    play(story)


ERRORS: dict[str, tuple[Any, tuple[int, str, Any]]] = {
    "code and message": ({"code": 301, "message": "Could not afford"}, (301, "Could not afford", None)),
    "with data": ({"code": -1, "message": "no", "data": {"a": 1}}, (-1, "no", {"a": 1})),
    "no message": ({"code": 5}, (5, "", None)),
}


@pytest.mark.parametrize(("error", "expected"), ERRORS.values(), ids=ERRORS)
def test_an_error_carries_code_message_and_data(play: Play, error: Any, expected: tuple[int, str, Any]) -> None:
    """cln:O9, cln:D2: the codes decide what the caller does."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("fundpsbt"))
        caller = await node.caller()
        await caller.error(await caller.request(), error)
        raised = await failure(call)
        assert (raised.code, raised.message, raised.data) == expected
        assert raised.method == "fundpsbt"
        assert not isinstance(raised, NodeUnreachable)

    play(story)


BROKEN = {
    "an error without code": b'"error":{"message":"no"}',
    "an error that is a text": b'"error":"no"',
    "a code that is a text": b'"error":{"code":"7","message":"no"}',
    "no result": b'"other":1',
    "a result that is a list": b'"result":[]',
    "a result that is null": b'"result":null',
}


@pytest.mark.parametrize("part", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_no_outcome(play: Play, part: bytes) -> None:
    """rule:10: whether the call took effect is unknown."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("sendpsbt"))
        caller = await node.caller()
        request = await caller.request()
        await caller.raw(b'{"jsonrpc":"2.0","id":"' + request["id"].encode() + b'",' + part + b"}\n\n")
        assert isinstance(await failure(call), NodeUnreachable)
        again = asyncio.create_task(node.rpc.call("getinfo"))
        await caller.result(await caller.request(), {"id": "02"})
        assert await again == {"id": "02"}

    play(story)


GARBAGE = {
    "another id": b'{"jsonrpc":"2.0","id":"lsps2fast:getinfo#99","result":{}}',
    "an id that is no text": b'{"jsonrpc":"2.0","id":[1],"result":{}}',
    "a notification": b'{"jsonrpc":"2.0","method":"message","params":{}}',
    "no JSON": b'{"jsonrpc":nonsense}',
    "nesting without end": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_between_answers_is_said_and_ignored(play: Play, garbage: bytes) -> None:
    """trap:12: the calls in flight are not touched."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("getinfo"))
        caller = await node.caller()
        request = await caller.request()
        await caller.raw(garbage + b"\n\n")
        await caller.result(request, {"id": "02"})
        assert await call == {"id": "02"}
        assert len(node.said) == 1
        assert "ignored" in node.said.text()

    play(story)


def test_raw_control_characters_in_a_result_are_read(play: Play) -> None:
    """cln:W9: another plugin's result comes through as that plugin wrote it; its line feeds end no frame."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("theirs"))
        caller = await node.caller()
        request = await caller.request()
        forged = b'\n\n{\\"id\\":\\"lsps2fast:theirs#1\\",\\"result\\":{}}\n\n'
        await caller.raw(b'{"id":"' + request["id"].encode() + b'","result":{"text":"' + forged + b'"}}')
        assert (await call)["text"].startswith("\n\n{")
        assert node.said == []

    play(story)


def test_a_call_that_takes_too_long_has_an_unknown_outcome(play: Play) -> None:
    """rule:10, K-13; its late answer does no harm."""

    async def story(node: Node) -> None:
        late, caller, request = await given_up(node, "fundchannel_start", {})
        assert isinstance(late, NodeUnreachable)
        assert "30.0 s" in late.message
        await caller.result(request, {"late": True})
        call = asyncio.create_task(node.rpc.call("getinfo"))
        await caller.result(await caller.request(), {"id": "02"})
        assert await call == {"id": "02"}
        assert "an unexpected answer" in node.said.text("info")  # nothing to act on, and no line on stderr at the end

    play(story)


def test_a_slow_call_holds_up_no_other(play: Play) -> None:
    """cln:P1: `wait` may take days."""

    async def story(node: Node) -> None:
        slow = asyncio.create_task(node.rpc.call("wait", timeout_s=None))
        caller = await node.caller()
        waiting = await caller.request()
        quick = asyncio.create_task(node.rpc.call("getinfo"))
        await caller.result(await caller.request(), {"id": "02"})
        assert await quick == {"id": "02"}
        await caller.result(waiting, {"created": 1})
        assert await slow == {"created": 1}

    play(story)


@pytest.mark.parametrize("half", [b"", b'{"jsonrpc":"2.0","id":"lsps2fast:sendpsbt#1","resu'])
def test_calls_in_flight_when_the_socket_dies_have_an_unknown_outcome(play: Play, half: bytes) -> None:
    """rule:10, K-13: also in the middle of an answer; the next call connects again."""

    async def story(node: Node) -> None:
        calls = [asyncio.create_task(node.rpc.call("sendpsbt")) for _ in range(3)]
        caller = await node.caller()
        for _ in calls:
            await caller.request()
        await caller.raw(half)
        await caller.close()
        assert [isinstance(await failure(call), NodeUnreachable) for call in calls] == [True] * 3
        again = asyncio.create_task(node.rpc.call("getinfo"))
        caller = await node.caller()
        await caller.result(await caller.request(), {"id": "02"})
        assert await again == {"id": "02"}

    play(story)


def test_a_stream_without_sense_ends_the_connection(play: Play) -> None:
    """cln:W9: never resynchronised; the next call has a new one."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("getinfo"))
        caller = await node.caller()
        await caller.request()
        await caller.raw(b"HTTP/1.1 400\r\n")
        assert isinstance(await failure(call), NodeUnreachable)
        assert await caller.ended()
        again = asyncio.create_task(node.rpc.call("getinfo"))
        caller = await node.caller()
        await caller.result(await caller.request(), {"id": "02"})
        assert await again == {"id": "02"}

    play(story)


def test_a_fault_of_ours_ends_the_connection_with_its_trace(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """trap:12: it does not pass for lightningd hanging up; the next call has a new connection."""

    def broken(_method: str, _answer: dict[str, Any]) -> dict[str, Any]:
        raise AttributeError("no member 'rows'")

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("getinfo"))
        caller = await node.caller()
        with monkeypatch.context() as patch:
            patch.setattr("lsps2fast_plugin.cln.rpc._outcome", broken)
            await caller.result(await caller.request(), {"id": "02"})
            assert "no member 'rows'" in str(await failure(call))
        assert "the connection was given up" in node.said.text()
        assert "Traceback" in node.said.text()
        again = asyncio.create_task(node.rpc.call("getinfo"))
        caller = await node.caller()
        await caller.result(await caller.request(), {"id": "02"})
        assert await again == {"id": "02"}

    play(story)


def test_no_socket_is_unreachable_until_there_is_one(tmp_path: Path) -> None:
    """rule:10."""

    async def main() -> None:
        node = Node(tmp_path / "rpc")
        assert isinstance(await failure(node.rpc.call("getinfo")), NodeUnreachable)
        await node.start()
        call = asyncio.create_task(node.rpc.call("getinfo"))
        caller = await node.caller()
        await caller.result(await caller.request(), {"id": "02"})
        assert await call == {"id": "02"}
        await node.stop()

    asyncio.run(main())


def test_close_ends_what_is_in_flight(play: Play) -> None:
    """rule:17: and hangs up."""

    async def story(node: Node) -> None:
        call = asyncio.create_task(node.rpc.call("wait"))
        caller = await node.caller()
        await caller.request()
        await node.rpc.close()
        assert isinstance(await failure(call), NodeUnreachable)
        assert await caller.ended()
        await node.rpc.close()

    play(story)


def test_a_call_that_is_given_up_leaves_nothing_behind(play: Play) -> None:
    """rule:14: and the connection goes on."""

    async def story(node: Node) -> None:
        given_up = asyncio.create_task(node.rpc.call("wait"))
        caller = await node.caller()
        await caller.request()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert node.rpc._link is not None
        assert node.rpc._link._waiting == {}
        call = asyncio.create_task(node.rpc.call("getinfo"))
        await caller.result(await caller.request(), {"id": "02"})
        assert await call == {"id": "02"}

    play(story)


def test_what_json_cannot_hold_is_not_sent(play: Play) -> None:
    """A bug of the caller stays with the caller."""

    async def story(node: Node) -> None:
        with pytest.raises(TypeError):
            await node.rpc.call("datastore", {"string": object()})
        assert node.callers.empty()

    play(story)


async def test_a_node_in_a_deep_directory_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cln:W1: the path of the socket is longer than an address; lightningd starts plugins beside it."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    async with serving(Path("lightning-rpc")) as node:
        rpc = Rpc(str(deep / "lightning-rpc"))
        call = asyncio.create_task(rpc.call("getinfo"))
        caller = await node.caller()
        await caller.result(await caller.request(), {"id": "02"})
        assert await call == {"id": "02"}
        await rpc.close()
