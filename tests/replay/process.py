"""The plugin process and its pipes, as lightningd holds them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from replay.played import Json

LIMIT = 1 << 24
ENVIRONMENT = {"LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": "v26.06.6", "LSPS2FAST_TEST_CLOCK": "1"}


class PluginProcess:
    """One run of the plugin. `on_message` gets every JSON object it writes, `on_junk` what is not JSON."""

    def __init__(self, on_message: Callable[[Json], None], on_junk: Callable[[bytes], None]) -> None:
        self.subscriptions: set[str] = set()
        self.methods: set[str] = set()
        self.complaints: deque[str] = deque(maxlen=40)  # last lines on stderr
        self._filters: dict[str, list[Any] | None] = {}
        self._on_message = on_message
        self._on_junk = on_junk
        self._child: asyncio.subprocess.Process | None = None

    @contextlib.asynccontextmanager
    async def running(self, command: Sequence[str], home: Path) -> AsyncIterator[None]:
        """Start it; on the way out it is gone for certain."""
        pipe = asyncio.subprocess.PIPE
        environment = os.environ | ENVIRONMENT
        pipes = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
        child = await asyncio.create_subprocess_exec(*command, **pipes, cwd=home, env=environment, limit=LIMIT)
        assert child.stdin is not None
        self._child = child
        readers = [asyncio.create_task(self._read_messages()), asyncio.create_task(self._read_complaints())]
        try:
            yield
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()
            await asyncio.gather(*readers)
            child.stdin.close()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await child.stdin.wait_closed()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._running.returncode

    def introduce(self, manifest: Json) -> None:
        """Remember what it asked for in its manifest."""
        self.subscriptions = set(manifest["subscriptions"])
        self.methods = {method["name"] for method in manifest["rpcmethods"]}
        self._filters = {hook["name"]: hook.get("filters") for hook in manifest["hooks"]}

    def wants_hook(self, name: str, message_type: int | None) -> bool:
        """Whether lightningd would call this hook, for custommsg with this message type (cln:M3)."""
        if name not in self._filters:
            return False
        wanted = self._filters[name]
        return wanted is None or message_type in {int(kind) for kind in wanted}

    def write(self, message: Json) -> None:
        """One frame (cln:W1)."""
        stdin = self._running.stdin
        assert stdin is not None
        stdin.write(json.dumps(message).encode() + b"\n\n")

    async def drain(self) -> None:
        """Wait until the pipe takes more. Raises ConnectionError when it is not read any more."""
        stdin = self._running.stdin
        assert stdin is not None
        await stdin.drain()

    def hang_up(self) -> None:
        """What the plugin sees when lightningd is killed: the end of its input."""
        stdin = self._running.stdin
        assert stdin is not None
        stdin.close()

    async def end(self, patience_s: float) -> int | None:
        """Wait for it to end by itself; its exit code, or None when it does not."""
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self._running.wait(), patience_s)
        return None

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._child is not None
        return self._child

    async def _read_messages(self) -> None:
        stdout = self._running.stdout
        assert stdout is not None
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                self._take(await stdout.readuntil(b"\n\n"))

    def _take(self, frame: bytes) -> None:
        try:
            message = json.loads(frame)
        except ValueError:
            self._on_junk(frame)
        else:
            self._on_message(message)

    async def _read_complaints(self) -> None:
        stderr = self._running.stderr
        assert stderr is not None
        async for line in stderr:
            self.complaints.append(line.decode(errors="replace").rstrip())


def init_options(manifest: Json, wanted: Json) -> Json:
    """`options` of init: defaults as lightningd types them (cln:M7), then what is configured and exists."""
    convert: dict[str, Callable[[Any], Any]] = {"int": int, "bool": lambda value: str(value).lower() == "true"}
    defaults = {
        option["name"]: convert.get(option["type"], lambda value: value)(option["default"])
        for option in manifest["options"]
        if option.get("default") is not None
    }
    unknown = wanted.keys() - {option["name"] for option in manifest["options"]}
    if unknown:
        raise AssertionError(f"the plugin has no options {sorted(unknown)}")
    return {**defaults, **wanted}
