"""One kept connection to lightningd's RPC socket, many calls in flight.

lightningd takes any number of requests before it answers the first and answers each when it is done, so a slow call
holds up no other (cln:P1). A connection is one `_Link`: a task reads for as long as it lives, whatever is
being written, because both sides stand still when neither reads. When a link dies, its open calls end with
NodeUnreachable (whether they took effect is unknown) and the next call makes a new one. What the calls mean belongs
to the callers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable
from typing import Any, Final

import msgspec

from lsps2fast import _hook as hook
from lsps2fast.errors import AnswerPending, MalformedFrame, NodeError, NodeUnreachable
from lsps2fast_plugin.cln.rows import decode, table_in

log = logging.getLogger(__name__)
_BLOCK = 64 * 1024  # bytes a read
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


class _Link:
    """One connection and the calls that wait on it, by id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[str, tuple[str, asyncio.Future[dict[str, Any]]]] = {}
        self._given_up: dict[str, Callable[[], None]] = {}  # who wants to hear of an answer all the same
        self._unsent: list[bytes] | None = None  # behind a call of the same turn of the loop
        self.alive = True
        self.task = asyncio.get_running_loop().create_task(self._read())

    async def call(self, call_id: str, method: str, request: bytes, late: Callable[[], None] | None) -> dict[str, Any]:
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[call_id] = (method, future)
        try:
            self._send(request)
            await self._writer.drain()
            return await future
        except ConnectionError as error:
            raise NodeUnreachable(method, f"the connection broke: {error}") from error
        finally:
            self._waiting.pop(call_id, None)
            if future.done() and not future.cancelled():
                future.exception()  # taken note of, also when drain() ended the call before its answer
            elif late is not None and self.alive:
                self._given_up[call_id] = late
            elif late is not None:
                late()

    def _send(self, request: bytes) -> None:
        """Write a call at once, and all that follow in the same turn of the loop together: a crowd's (P24)."""
        if self._unsent is None:
            self._writer.write(request)  # whole frames only: no other call can come between
            self._unsent = []
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._unsent.append(request)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent and self.alive:
            self._writer.write(b"".join(unsent))

    async def close(self) -> None:
        """Hang up; open calls end with NodeUnreachable. Safe to call twice."""
        self._given_up.clear()
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _read(self) -> None:
        why = "the connection was closed"
        frames = hook.FrameReader(_MOST)
        try:
            while data := await self._reader.read(_BLOCK):
                for frame in frames.feed(data):
                    self._take(frame)
        except (MalformedFrame, OSError) as error:
            why = f"the connection broke: {error}"
            log.warning(why)
        except Exception as error:  # a fault of ours: its trace says where, and the next call connects again
            why = f"the connection was given up: {error!r}"
            log.exception(why)
        finally:
            self._end(why)

    def _end(self, why: str) -> None:
        self.alive = False
        self._writer.close()
        for method, future in self._waiting.values():
            if not future.done():
                future.set_exception(NodeUnreachable(method, why))
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
        method, future = waiting
        outcome = _outcome(method, answer)
        if future.done():
            return log.warning(f"a second answer to {call_id}, ignored: {frame[:200]!r}")
        if isinstance(outcome, NodeError):
            return future.set_exception(outcome)
        return future.set_result(outcome)


class Rpc:
    """Calls lightningd at the unix socket `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._numbers = itertools.count(1)
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._limits: dict[asyncio.Timeout, None] = {}  # in the order of their calls

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
        link = None
        try:
            async with asyncio.timeout(timeout_s) as limit:
                self._limits[limit] = None
                try:
                    link = await self._connected(method)
                    return await link.call(call_id, method, request + b"\n\n", late)
                finally:
                    self._limits.pop(limit, None)
        except TimeoutError as error:
            raise AnswerPending(method, f"no answer within {timeout_s} s") from error
        finally:
            if link is None and late is not None:
                late()

    def turned(self, seconds: float) -> None:
        """Let calls under way have waited so much longer. For tests only."""
        for limit in self._limits:
            if not limit.expired() and (when := limit.when()) is not None:
                limit.reschedule(when - seconds)

    async def close(self) -> None:
        """Hang up; open calls end with NodeUnreachable. A later call connects again."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _connected(self, method: str) -> _Link:
        if self._link is not None and self._link.alive:  # nearly always; a crowd would queue for the lock (P24)
            return self._link
        async with self._connecting:
            if self._link is None or not self._link.alive:
                try:
                    reader, writer = await asyncio.open_unix_connection(socket_address(self.path))
                except OSError as error:
                    raise NodeUnreachable(method, f"cannot connect to {self.path}: {error}") from error
                self._link = _Link(reader, writer)
            return self._link
