"""A plugin as a child process: started, spoken to and ended exactly as lightningd does it (cln:W1 to cln:W6, cln:W11,
cln:M2).

It runs the real executable with its own pipes. Requests may be in flight by the hundred; each answer goes to the
callback given with the request. It kills a plugin for whatever lightningd kills it for: broken JSON, an answer to
a request that is not open.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from . import frames
from .errors import PluginFailed, RpcError
from .manifest import Manifest, read_manifest, set_options
from .transcript import Transcript

Reply = Callable[[dict[str, Any] | None], None]  # the whole answer; None when the plugin is gone


class Child(Protocol):
    """A running process, as `asyncio.subprocess.Process` is one."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def stderr(self) -> asyncio.StreamReader | None:
        """Output of the plugin."""

    async def wait(self) -> int:
        """Wait for its end; the exit code."""

    def send_signal(self, signal: int) -> None:
        """Signal it."""


StartProcess = Callable[[list[str], int, int, str, dict[str, str]], Awaitable[Child]]


async def start_process(argv: list[str], stdin: int, stdout: int, cwd: str, env: dict[str, str]) -> Child:
    """Start a program in a session of its own, on these file descriptors. OSError when it cannot be started."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *argv, stdin=stdin, stdout=stdout, stderr=pipe, cwd=cwd, env=env, start_new_session=True
    )


class PluginHost(Protocol):
    """What a plugin's process asks and tells the node it belongs to."""

    name: str
    version: str
    lightning_dir: str
    plugin_patience_s: float
    transcript: Transcript
    processes: list[Plugin]
    logs: deque[tuple[str, str, str]]

    @property
    def start_process(self) -> StartProcess:
        """How programs come to life."""

    def next_id(self, method: str, caller_id: str = "") -> str:
        """Return the id of a request to a plugin."""

    def feature_set(self) -> dict[str, str]:
        """Return the features for `init`."""

    def said(self, body: Any) -> Any:
        """Return what the node says in place of `body`."""

    def check_methods(self, plugin: Plugin) -> None:
        """Refuse a method that exists already. Raises PluginFailed."""

    def plugin_registered(self, plugin: Plugin) -> None:
        """Note that its methods, hooks and subscriptions are live."""

    def plugin_ready(self, plugin: Plugin) -> None:
        """Note that it has answered `init`."""

    def plugin_gone(self, plugin: Plugin) -> None:
        """Note that its pipe ended."""

    def forward_custom_notification(self, sender: Plugin, name: str, params: dict[str, Any]) -> None:
        """Tell the other plugins."""

    def warn(self, source: str, text: str, level: str = "warn") -> None:
        """Log and notify."""

    def note(self, text: str) -> None:
        """Log a line of lightningd's own."""


class Plugin(asyncio.Protocol):
    """One plugin of one node. `alive` until its pipe ends; `ready` once `init` was answered."""

    def __init__(self, node: PluginHost, argv: list[str], options: dict[str, Any], env: dict[str, str]) -> None:
        self.node = node
        self.argv = argv
        self.options = dict(options)
        self.env = env
        self.path = argv[-1]  # "python script" counts as the script
        self.name = Path(self.path).name
        self.peer = f"{node.name}/plugin"
        self.manifest = Manifest()
        self.registered = False
        self.ready = False
        self.alive = False
        self.started_at_daemon_start = True
        self.stderr: deque[str] = deque(maxlen=200)
        self.exit_code: int | None = None
        self.gone = asyncio.Event()
        self._splitter = frames.Splitter()
        self._pending: dict[str, Reply] = {}
        self._outbox: list[bytes] = []
        self._condemned = False
        self._process: Child
        self._writer: asyncio.WriteTransport | None = None
        self._reader: asyncio.ReadTransport | None = None

    # life

    async def launch(self) -> None:
        """Start the process with real pipes, the environment of lightningd and its directory as cwd."""
        loop = asyncio.get_running_loop()
        child_in, host_out = os.pipe()
        host_in, child_out = os.pipe()
        environment = {**os.environ, **self.env, "LIGHTNINGD_PLUGIN": "1", "LIGHTNINGD_VERSION": self.node.version}
        try:
            self._process = await self.node.start_process(
                self.argv, child_in, child_out, self.node.lightning_dir, environment
            )
        except OSError as error:
            os.close(host_out)
            os.close(host_in)
            raise PluginFailed(f"{self.path}: {error}") from None
        finally:
            os.close(child_in)
            os.close(child_out)
        self._watch = asyncio.gather(self._read_stderr(), self._wait_for_exit())
        self.node.processes.append(self)
        self._writer, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(host_out, "wb", 0))
        self.alive = True
        self.node.transcript.mark(self.peer, "plugin process start", plugin=self.name)
        # Last: from here on its end is noticed, and a process may have ended already.
        await loop.connect_read_pipe(lambda: self, os.fdopen(host_in, "rb", 0))

    async def handshake(self, startup: bool) -> None:
        """`getmanifest`, then `init`; hooks are live from the manifest on, so they may come before `init` (cln:W11)."""
        self.started_at_daemon_start = startup
        answer = await self.ask("getmanifest", {"allow-deprecated-apis": False})
        self.manifest = read_manifest(answer, starting_dynamically=not startup)
        set_options(self.manifest, self.options, "cmdline")
        self.node.check_methods(self)
        self.registered = True
        self.node.plugin_registered(self)
        configuration = {
            "lightning-dir": self.node.lightning_dir,
            "rpc-file": "lightning-rpc",
            "startup": startup,
            "network": "regtest",
            "feature_set": self.node.feature_set(),
        }
        result = await self.ask("init", {"options": self.manifest.init_options(), "configuration": configuration})
        if isinstance(result, dict) and "disable" in result:
            raise PluginFailed(f"disabled itself at init: {result['disable']}")
        self.ready = True
        self.node.plugin_ready(self)

    async def ask(self, method: str, params: Any) -> Any:
        """Send and wait, bounded by the host's patience (cln:W6); raises PluginFailed."""
        future: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()

        def done(answer: dict[str, Any] | None) -> None:
            if not future.done():
                future.set_result(answer)

        self.request(method, params, done)
        try:
            answer = await asyncio.wait_for(future, self.node.plugin_patience_s)
        except TimeoutError:
            raise PluginFailed(f"timed out before replying to {method}") from None
        if answer is None:
            raise PluginFailed(f"exited before completing handshake.{self.last_words()}")
        if "error" in answer:
            raise PluginFailed(f"{method}: {answer['error']}")
        return answer.get("result")

    def watches(self, command: str) -> bool:
        """Return whether its `rpc_command` hook is to be asked about this command."""
        wanted = self.manifest.hooks["rpc_command"]
        return wanted is None or command in wanted

    def last_words(self) -> str:
        """Return the end of its stderr, for error messages."""
        return "\n" + "\n".join(self.stderr) if self.stderr else ""

    def close_pipes(self) -> None:
        """Close the pipes as a dying lightningd does: EOF on the plugin's stdin; its further output is not read."""
        if self._writer is not None:
            self._flush()
            self._writer.close()
        if self._reader is not None:
            self._reader.close()
        self.alive = self.registered = self.ready = False
        pending, self._pending = self._pending, {}
        for reply in pending.values():
            reply(None)

    def listen(self, on: bool) -> None:
        """`listen(False)`: lightningd does not read, the plugin's pipe fills up (cln:W10)."""
        assert self._reader is not None
        (self._reader.resume_reading if on else self._reader.pause_reading)()

    def kill(self, sign: int = signal.SIGKILL) -> None:
        """Send a signal to the process (only to this one, by its pid)."""
        if self.exit_code is None:
            self._process.send_signal(sign)

    async def end(self, grace_s: float) -> None:
        """Wait for the process to end by itself, then SIGKILL; always leaves no process behind."""
        try:
            await asyncio.wait_for(self.gone.wait(), grace_s)
        except TimeoutError:
            self.node.note(f"plugin {self.name}: failed to self-terminate in time, killing")
            self.kill()
            await self.gone.wait()
        await self._watch

    @property
    def pid(self) -> int:
        return self._process.pid

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            text = line.decode("utf-8", "replace").rstrip("\n")
            self.stderr.append(text)
            self.node.logs.append(("debug", f"plugin-{self.name}", text))

    async def _wait_for_exit(self) -> None:
        self.exit_code = await self._process.wait()
        self.node.transcript.mark(self.peer, "plugin process exit", rc=self.exit_code)
        self.gone.set()

    # pipes

    def request(self, method: str, params: Any, reply: Reply, caller_id: str = "") -> None:
        """`params`: an object, or raw JSON bytes passed on verbatim (cln:W9). A plugin that is gone replies None."""
        if not self.alive:  # nothing will ever come to answer it
            asyncio.get_running_loop().call_soon(reply, None)
            return
        request_id = self.node.next_id(method, caller_id)
        self._pending[request_id] = reply
        if isinstance(params, bytes):
            head = frames.encode({"jsonrpc": "2.0", "id": request_id, "method": method})[:-3]
            self._send(head + b',"params":' + params + b"}\n\n")
            shown = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params.decode("utf-8", "replace")}
            self.node.transcript.add("host>plugin", self.peer, shown)
            return
        params = self.node.said(params) if method in self.manifest.hooks else params
        message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
        self.node.transcript.add("host>plugin", self.peer, message)
        self._send(frames.encode(message))

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification; its payload sits under its own name (cln:W3)."""
        message = {"jsonrpc": "2.0", "method": method, "params": {method: params}}
        self.node.transcript.add("host>plugin", self.peer, message)
        self._send(frames.encode(message))

    def _send(self, frame: bytes) -> None:
        if not self.alive:
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(frame)

    def _flush(self) -> None:
        if self._outbox and self._writer is not None and not self._writer.is_closing():
            self._writer.write(b"".join(self._outbox))
        self._outbox.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.ReadTransport)
        self._reader = transport

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._splitter.feed(data):
                self._take(frames.parse(frame))
                if self._condemned or not self.alive:
                    return
        except frames.BadFrame as error:
            self._condemn(f"Failed to parse JSON: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.alive:
            return
        self.alive = self.registered = self.ready = False
        self.node.transcript.mark(self.peer, "eof plugin>host")
        if self._writer is not None:
            self._writer.close()
        pending, self._pending = self._pending, {}
        for reply in pending.values():
            reply(None)
        self.node.plugin_gone(self)

    def _condemn(self, reason: str) -> None:
        self._condemned = True
        self.node.note(f"Killing plugin {self.name}: {reason}")
        self.kill()
        if self._reader is not None:
            self._reader.close()

    def _take(self, message: dict[str, Any]) -> None:
        self.node.transcript.add("plugin>host", self.peer, message)
        if "method" in message:
            self._notified(message["method"], message.get("params") or {})
            return
        reply = self._pending.pop(str(message.get("id")), None)
        if reply is None:
            self._condemn(f"Received a JSON-RPC response for non-existent request {message.get('id')!r}")
            return
        reply(message)

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        if method == "log":
            level, text = params.get("level", "info"), str(params.get("message", ""))
            self.node.logs.append((level, f"plugin-{self.name}", text))
            if level in ("warn", "error"):
                self.node.warn(f"plugin-{self.name}", text, level)
        elif method in self.manifest.notifications:
            self.node.forward_custom_notification(self, method, params)
        else:
            self.node.note(f"plugin {self.name} sent unregistered notification {method}")


def rpc_outcome(answer: dict[str, Any] | None, name: str) -> tuple[Any, RpcError | None]:
    """Return a plugin's answer to a method call as the caller of the method gets it."""
    if answer is None:
        return None, RpcError(-4, f"Plugin terminated before replying to RPC call {name}.")
    if "error" in answer:
        error = answer["error"]
        return None, RpcError(int(error.get("code", -1)), str(error.get("message", "")), error.get("data"))
    return answer.get("result"), None
