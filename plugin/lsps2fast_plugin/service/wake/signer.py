"""Signatures of the node for notifications (N-11).

lightningd's `signmessage` signs the text as it stands in the call, with the backslashes that JSON puts before quotes
(cln:N14), and every notification has quotes. So at the start one text is signed and looked at. Where lightningd signs
what was meant, it signs; else a program does that the operator names, with a key that this process never holds.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Final, Protocol

from lsps2fast.errors import ConfigError, Lsps2Error, NodeError
from lsps2fast.lsps.lsps5 import (
    PAYMENT_INCOMING,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    BadNotification,
    encode_notification,
    signed_text,
    verify_notification,
)
from lsps2fast_plugin.cln.models import Caller

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0
MOST_ANSWER: Final = 1_000
TIMESTAMP: Final = "2020-01-01T00:00:00.000Z"  # of the text that is signed to see: too old for any receiver


class NotSigned(Lsps2Error):
    """No signature came, or one that no receiver would believe."""


class Signer(Protocol):
    """What signs for the node."""

    async def sign(self, text: str) -> str:
        """Return the signature as zbase32. Raises NotSigned."""

    async def close(self) -> None:
        """End what it runs."""


class NodeSigner:
    """Signs with lightningd's `signmessage`."""

    def __init__(self, rpc: Caller) -> None:
        self._rpc = rpc

    async def sign(self, text: str) -> str:
        """Return the signature as zbase32. Raises NotSigned."""
        try:
            answer = await self._rpc.call("signmessage", {"message": text})
        except NodeError as error:
            raise NotSigned(str(error)) from error
        return str(answer.get("zbase"))

    async def close(self) -> None:
        """Nothing runs."""


class ProgramSigner:
    """Signs with a program that reads texts and writes signatures, a JSON string a line.

    It is started when it is first needed, and again when it has ended.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def sign(self, text: str) -> str:
        """Return the signature as zbase32. Raises NotSigned."""
        async with self._turn:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await self._ask_again(text)
            except (OSError, TimeoutError, ValueError, EOFError) as error:
                await self._end()
                raise NotSigned(f"{self._command[0]}: {type(error).__name__}: {error}") from error

    async def _ask_again(self, text: str) -> str:
        """Ask a fresh program where an old one turns out to have ended."""
        old = self._process is not None
        try:
            return await self._ask(text)
        except (EOFError, ConnectionError):
            if not old:
                raise
        await self._end()
        return await self._ask(text)

    async def _ask(self, text: str) -> str:
        if self._closed:
            raise EOFError("the plugin ends")
        if self._process is None or self._process.returncode is not None:
            await self._end()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MOST_ANSWER
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(text).encode() + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
        if not line:
            raise EOFError("it ended")
        answer: Any = json.loads(line)
        if not isinstance(answer, str):
            raise ValueError(f"it answered {line[:80]!r}")
        return answer

    async def close(self) -> None:
        """End the program, also while it is to sign: its answer is of no use now."""
        self._closed = True
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        async with self._turn:
            await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def is_sound(signer: Signer, node_id: str) -> bool:
    """Return whether a receiver would believe what this one signs. Raises NotSigned."""
    body = encode_notification(PAYMENT_INCOMING)
    signature = await signer.sign(signed_text(TIMESTAMP, body))
    try:
        verify_notification(node_id, {TIMESTAMP_HEADER: TIMESTAMP, SIGNATURE_HEADER: signature}, body.encode())
    except BadNotification:
        return False
    return True


async def choose(rpc: Caller, command: tuple[str, ...] | None, node_id: str) -> Signer:
    """Return what signs. Raises NotSigned where it gives no answer now, ConfigError with what the operator can do."""
    node = NodeSigner(rpc)
    if await is_sound(node, node_id):
        return node
    if command is None:
        raise ConfigError(
            "this lightningd's signmessage cannot sign webhook notifications (cln:N14): name a program in "
            "lsps2-webhook-signer, or leave lsps2-webhooks out"
        )
    program = ProgramSigner(command)
    try:
        if await is_sound(program, node_id):
            return program
    except NotSigned as error:
        raise NotSigned(f"lsps2-webhook-signer does not work: {error}") from error
    await program.close()
    raise ConfigError("lsps2-webhook-signer signs with another key than this node's")
