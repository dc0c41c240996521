"""One kept connection to lightningd's RPC socket, many calls in flight.

lightningd takes any number of requests before it answers the first and answers each when it is done, so a slow call
holds up no other (cln:P1). A connection is one `_Link`, which reads whatever is being written, because both sides stand
still when neither reads. When a link dies, its open calls end with NodeUnreachable (whether they took effect is
unknown) and the next call makes a new one. What the calls mean belongs to the callers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import math
import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from lsps2fast import _hook as hook
from lsps2fast.errors import AnswerPending, MalformedFrame, NodeError, NodeUnreachable
from lsps2fast_plugin.cln.rows import decode, table_in

log = logging.getLogger(__name__)
_MOST = 1 << 30  # bytes of one answer: a listdatastore of a large node is far above what a hook call may be
_ADDRESS_BYTES: Final = 107  # room for the name of a unix socket


def socket_address(path: str) -> str:
    """Return a name of this socket that fits into an address: a node's directory may lie deep.

    lightningd starts plugins in the directory of its socket, so from there the name is short.
    """
    if len(os.fsencode(path)) <= _ADDRESS_BYTES:
        return path
    return min(path, os.path.relpath(path), key=len)


def _outcome(method: str, answer: dict[str, Any]) -> dict[str, Any] | NodeError:
    """Return the result in an answer, or the error it stands for."""
    error = answer.get("error")
    if error is not None:
        if not isinstance(error, dict) or not isinstance(error.get("code"), int):
            return NodeUnreachable(method, f"an error without a code: {error!r:.200}")
        return NodeError(method, error["code"], str(error.get("message", "")), error.get("data"))
    result = answer.get("result")
    if not isinstance(result, dict):
        return NodeUnreachable(method, f"an answer without a result: {answer!r:.200}")
    return result


def _is_answered(future: asyncio.Future[dict[str, Any]]) -> bool:
    return future.done() and not future.cancelled() and not isinstance(future.exception(), AnswerPending)


@dataclasses.dataclass(slots=True)
class _Call:
    """One that waits for its answer, until `deadline_s` by the clock of the loop."""

    method: str
    future: asyncio.Future[dict[str, Any]]
    timeout_s: float | None
    deadline_s: float
    came_late: bool = False  # in the turn of the loop in which it was given up


class _Link(asyncio.Protocol):
    """One connection and the calls that wait on it, by id. One timer for all of them: most are answered long before."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames = hook.FrameReader(_MOST)
        self._waiting: dict[str, _Call] = {}
        self._given_up: dict[str, Callable[[], None]] = {}  # who wants to hear of an answer all the same
        self._unsent: list[bytes] | None = None  # behind a call of the same turn of the loop
        self._timer: asyncio.TimerHandle | None = None
        self.alive = True

    async def call(
        self, call_id: str, method: str, request: bytes, timeout_s: float | None, late: Callable[[], None] | None
    ) -> dict[str, Any]:
        if not self.alive:  # it ended as soon as it was made
            raise NodeUnreachable(method, "the connection was closed")
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        deadline_s = math.inf if timeout_s is None else self._loop.time() + timeout_s
        self._waiting[call_id] = call = _Call(method, future, timeout_s, deadline_s)
        self._end_by(deadline_s)
        try:
            self._send(request)
            return await future
        except (AnswerPending, asyncio.CancelledError):
            if late is not None:
                if call.came_late or not self.alive or _is_answered(future):
                    late()
                else:
                    self._given_up[call_id] = late
            raise
        finally:
            self._waiting.pop(call_id, None)
            if not future.cancelled() and future.done():
                future.exception()  # taken note of, also when the caller was cancelled meanwhile

    def _send(self, request: bytes) -> None:
        """Write a call at once, and all that follow in the same turn of the loop together: a crowd's (P24)."""
        if self._unsent is None:
            self._transport.write(request)  # whole frames only: no other call can come between
            self._unsent = []
            self._loop.call_soon(self._flush)
        else:
            self._unsent.append(request)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent and self.alive:
            self._transport.write(b"".join(unsent))

    # Time ------------------------------------------------------------------------------------------

    def _end_by(self, deadline_s: float) -> None:
        """Look at this time, if not before, which calls have waited too long."""
        if deadline_s < (math.inf if self._timer is None else self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline_s, self._end_overdue)

    def _end_overdue(self) -> None:
        self._timer, now_s = None, self._loop.time()
        for call in self._waiting.values():
            if call.deadline_s <= now_s and not call.future.done():
                call.future.set_exception(AnswerPending(call.method, f"no answer within {call.timeout_s} s"))
        open_calls = (call.deadline_s for call in self._waiting.values() if not call.future.done())
        self._end_by(min(open_calls, default=math.inf))

    def turned(self, seconds: float) -> None:
        """Let calls under way have waited so much longer."""
        for call in self._waiting.values():
            call.deadline_s -= seconds
            self._end_by(call.deadline_s)

    # The connection --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Give each answer to its caller."""
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except MalformedFrame as error:
            log.warning(f"the connection broke: {error}")
            self.close(f"the connection broke: {error}")
        except Exception as error:  # a fault of ours: its trace says where, and the next call connects again
            log.exception(f"the connection was given up: {error!r}")
            self.close(f"the connection was given up: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if exc is not None:
            log.warning(f"the connection broke: {exc}")
        self.close("the connection was closed" if exc is None else f"the connection broke: {exc}")

    def hang_up(self) -> None:
        """End, and tell no one of answers that come late."""
        self._given_up.clear()
        self.close("the connection was closed")

    def close(self, why: str) -> None:
        """End every call with NodeUnreachable. Safe to call twice."""
        self.alive = False
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        for call in self._waiting.values():
            if not call.future.done():
                call.future.set_exception(NodeUnreachable(call.method, why))
        self._tell_late()

    def _tell_late(self) -> None:
        given_up, self._given_up = self._given_up, {}
        for late in given_up.values():
            late()

    def _take(self, frame: bytes | bytearray) -> None:
        try:
            answer = table_in(frame) or decode(frame)
        except (ValueError, RecursionError) as error:
            return log.warning(f"no JSON from lightningd, ignored: {error}: {frame[:200]!r}")
        call_id = answer.get("id")
        if not isinstance(call_id, str):
            return log.warning(f"an answer to no question, ignored: {frame[:200]!r}")
        if late := self._given_up.pop(call_id, None):
            return late()
        waiting = self._waiting.get(call_id)
        if waiting is None:
            return log.info(f"an unexpected answer, ignored: {frame[:200]!r}")  # mostly of a call that was given up
        outcome = _outcome(waiting.method, answer)
        if waiting.future.done():
            waiting.came_late = True
            return log.warning(f"a second answer to {call_id}, ignored: {frame[:200]!r}")
        if isinstance(outcome, NodeError):
            return waiting.future.set_exception(outcome)
        return waiting.future.set_result(outcome)


class Rpc:
    """Calls lightningd at the unix socket `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._numbers = itertools.count(1)
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()

    async def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        timeout_s: float | None = 60.0,
        late: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Return the result of one call; `timeout_s` None waits for ever.

        Raises NodeError when lightningd says no, NodeUnreachable when no answer came: the caller must then find out
        whether the call took effect. AnswerPending: it may still come. Then, and when the caller was cancelled, `late`
        is called once it has come, or cannot come any more because the connection has ended.
        """
        call_id = f"lsps2fast:{method}#{next(self._numbers)}"
        # msgspec writes text as UTF-8: lightningd refuses \\u escapes in some parameters (cln:D3).
        request = msgspec.json.encode({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params or {}})
        link = self._link
        if link is None or not link.alive:
            link = None
            try:
                async with asyncio.timeout(timeout_s):
                    link = await self._connected(method)
            except TimeoutError as error:
                raise AnswerPending(method, f"no connection within {timeout_s} s") from error
            finally:
                if link is None and late is not None:
                    late()
        return await link.call(call_id, method, request + b"\n\n", timeout_s, late)

    def turned(self, seconds: float) -> None:
        """Let calls under way have waited so much longer. For tests only."""
        if self._link is not None:
            self._link.turned(seconds)

    async def close(self) -> None:
        """Hang up; open calls end with NodeUnreachable. A later call connects again."""
        link, self._link = self._link, None
        if link is not None:
            link.hang_up()

    async def _connected(self, method: str) -> _Link:
        async with self._connecting:
            if self._link is None or not self._link.alive:
                try:
                    path = socket_address(self.path)
                    _, self._link = await asyncio.get_running_loop().create_unix_connection(_Link, path)
                except OSError as error:
                    raise NodeUnreachable(method, f"cannot connect to {self.path}: {error}") from error
            return self._link
