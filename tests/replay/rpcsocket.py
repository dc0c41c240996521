"""lightningd's RPC socket: requests in any number and framing, each answered at once (cln:P1)."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from replay.datastore import RpcError
from replay.node import Node
from replay.played import Json

# An odd number of backslashes before the u; an even one is a written-out backslash.
UNICODE_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u")
Record = Callable[[str, str, Any], None]


class RpcSocket:
    """Answers from a Node; `record` gets each call and how it went, then `hold` may delay the answer."""

    def __init__(self, node: Node, record: Record, hold: Callable[[str], Awaitable[None]]) -> None:
        self._node = node
        self._record = record
        self._hold = hold
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[None]:
        """Serve on a unix socket; close every connection on the way out."""
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield
        finally:
            server.close()
            for writer in list(self._writers):
                writer.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        text, decoder = "", codecs.getincrementaldecoder("utf-8")()
        try:
            while chunk := await reader.read(1 << 20):
                text = await self._answer_all(text + decoder.decode(chunk), writer)
                await writer.drain()
        except ConnectionError:
            self._record("note", "rpc connection lost", None)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer_all(self, text: str, writer: asyncio.StreamWriter) -> str:
        """Answer the complete requests in the text; return the rest."""
        text = text.lstrip()
        while text:
            try:
                request, end = json.JSONDecoder(strict=False).raw_decode(text)
            except ValueError:
                return text
            answer = {"jsonrpc": "2.0", "id": request["id"], **self._answer(request, text[:end])}
            await self._hold(request["method"])
            writer.write(json.dumps(answer).encode() + b"\n\n")
            text = text[end:].lstrip()
        return text

    def _answer(self, request: Json, raw: str) -> Json:
        method, params = request["method"], request.get("params", {})
        self._record("call", method, params)
        try:
            if method == "datastore" and "string" in params and UNICODE_ESCAPE.search(raw):
                raise RpcError(-32602, "string: should be a string (without \\u)")  # cln:D3
            result = self._node.answer(method, params)
        except RpcError as error:
            self._record("refusal", method, params | {"code": error.code})
            return {"error": {"code": error.code, "message": error.message}}
        self._record("reply", method, params)
        return {"result": result}
