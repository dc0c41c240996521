"""The registry of lightningd's RPC methods, and how a call finds its parameters. methods_* fill it."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from . import frames
from .errors import INVALID_PARAMS, Outcome, RpcError

Handler = Callable[..., Any]
HEX = frozenset("0123456789abcdefABCDEF")


class Spawner(Protocol):
    """What a method that takes time asks of its node."""

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "work") -> asyncio.Task[Any]:
        """Return a task that ends with the node."""


@dataclass(frozen=True, slots=True)
class Method:
    """`names` in positional order; those in `required` must be given."""

    name: str
    handler: Handler
    names: tuple[str, ...]
    required: frozenset[str]

    @property
    def usage(self) -> str:
        return " ".join(name if name in self.required else f"[{name}]" for name in self.names)


TABLE: dict[str, Method] = {}


def method(name: str, usage: str = "") -> Callable[[Handler], Handler]:
    """Register a handler `f(node, **params)`; usage lists parameters, optional ones in brackets."""

    def register(handler: Handler) -> Handler:
        words = usage.split()
        names = tuple(word.strip("[]") for word in words)
        required = frozenset(word for word in words if not word.startswith("["))
        TABLE[name] = Method(name, handler, names, required)
        return handler

    return register


def arguments(entry: Method, params: Any) -> dict[str, Any]:
    """Positional or named parameters as keyword arguments; raises -32602 as lightningd words it."""
    if isinstance(params, list):
        if len(params) > len(entry.names):
            raise RpcError(INVALID_PARAMS, f"too many parameters: got {len(params)}, expected {len(entry.names)}")
        named = dict(zip(entry.names, params, strict=False))
    elif isinstance(params, dict):
        named = params
    else:
        raise RpcError(INVALID_PARAMS, "Expected array or object for params")
    for name in named:
        if name not in entry.names:
            text = "this may be caused by a failure to autodetect key=value-formatted parameters"
            raise RpcError(INVALID_PARAMS, f"unknown parameter: {name}, {text}")
    for name in entry.names:
        if name in entry.required and named.get(name) is None:
            raise RpcError(INVALID_PARAMS, f"missing required parameter: {name}")
    return {name.replace("-", "_"): value for name, value in named.items() if value is not None}


def check(entry: Method, params: dict[str, Any]) -> Outcome:
    """Return whether a call would have the right parameters."""
    try:
        arguments(entry, {name: value for name, value in params.items() if name != "command_to_check"})
    except RpcError as error:
        return None, error
    return {"command_to_check": entry.name}, None


def run(node: Spawner, entry: Method, params: Any) -> Outcome | asyncio.Future[Outcome]:
    """Carry out one of lightningd's own methods."""
    try:
        result = entry.handler(node, **arguments(entry, params))
    except RpcError as error:
        return None, error
    if inspect.isawaitable(result):
        task = node.spawn(_finish(result), name=f"rpc {entry.name}")
        if inspect.iscoroutine(result):
            task.add_done_callback(lambda _: result.close())  # a world may end before the task has begun
        return task
    return result, None


async def _finish(result: Awaitable[Any]) -> Outcome:
    try:
        return await result, None
    except RpcError as error:
        return None, error


def raw_params(frame: bytes, params: Any) -> bytes:
    """Return the params of a call as they came: they go to the plugin verbatim (cln:W9)."""
    raw = frames.raw_member(frame, "params") if frame else None
    return raw if raw is not None else json.dumps(params).encode()


def refuse_escapes(name: str, frame: bytes) -> Outcome | None:
    """cln:D3: datastore takes no `string` with a \\u escape; only the raw bytes can tell."""
    if name != "datastore" or b"\\u" not in frame:
        return None
    token = frames.raw_member(frames.raw_member(frame, "params") or b"", "string") or b""
    if b"\\u" not in token:
        return None
    text = f"string: should be a string (without \\u): invalid token '{token.decode('utf-8', 'replace')}'"
    return None, RpcError(INVALID_PARAMS, text)


# checked parameters


def number(value: Any, name: str, minimum: int = 0) -> int:
    """Return an integer, or digits in a text."""
    if isinstance(value, bool) or not str(value).lstrip("-").isdigit() or int(value) < minimum:
        raise RpcError(INVALID_PARAMS, f"{name}: should be an integer: invalid token '{json.dumps(value)}'")
    return int(value)


def truth(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise RpcError(INVALID_PARAMS, f"{name}: should be 'true' or 'false': invalid token '{json.dumps(value)}'")


def node_id(value: Any, name: str) -> str:
    text = str(value)
    if len(text) != 66 or not text.startswith(("02", "03")) or not _is_hex(text):
        raise RpcError(INVALID_PARAMS, f"{name}: should be a node id: invalid token '{json.dumps(value)}'")
    return text


def hex_bytes(value: Any, name: str) -> bytes:
    if not isinstance(value, str) or len(value) % 2 or not _is_hex(value):
        raise RpcError(INVALID_PARAMS, f"{name}: should be a hex value: invalid token '{json.dumps(value)}'")
    return bytes.fromhex(value)


def _is_hex(text: str) -> bool:
    return HEX.issuperset(text)
