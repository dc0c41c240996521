"""A node's plugins: started and stopped, what they registered, what they are told, what they log."""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import Coroutine
from typing import Any

from .errors import PLUGIN_ERROR, NodeDown, PluginFailed, RpcError
from .methods import TABLE
from .party import INIT_FEATURES, Party, Surroundings
from .process import Plugin, StartProcess

FIRST_ID = 18  # requests count from 19, as recorded
UNKNOWN_MEMBERS = {"added_later": {"nested": [1, None, "x"]}, "also_added_later": 18_446_744_073_709_551_615}


class PluginOwner(Party):
    """The part of a node that has to do with its plugins. `logs` are (level, source, text)."""

    version = "v26.06.6"
    plugin_patience_s = 60.0  # real time; lightningd waits 120 s (cln:W6)
    shutdown_grace_s = 30.0  # real time (cln:W5)
    lightning_dir: str

    def __init__(self, world: Surroundings, name: str) -> None:
        super().__init__(world, name)
        self.state = "new"
        self.crash_log = ""
        self.plugins: list[Plugin] = []
        self.processes: list[Plugin] = []  # every child ever started, for the end of the world
        self.plugin_plans: list[tuple[list[str], dict[str, Any], dict[str, str]]] = []
        self.saved_config: dict[str, Any] = {}  # config.setconfig (cln:M7)
        self.logs: deque[tuple[str, str, str]] = deque(maxlen=5000)
        self.unknown_members = False  # every object it says has one more, as after an upgrade
        self._id = FIRST_ID
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order of their beginning

    @property
    def start_process(self) -> StartProcess:
        """Return the world's way."""
        return self.world.start_process

    def plan_plugin(
        self, argv: list[str], options: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> None:
        """Add a plugin that comes with every start, as `plugin=` in the config."""
        self.plugin_plans.append((argv, options or {}, env or {}))

    def _running(self) -> None:
        if self.state != "running":
            raise NodeDown(f"{self.name} is {self.state} {self.crash_log}")

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "work") -> asyncio.Task[Any]:
        """Return a task that ends with the node."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.world.problems.append(error)

    def next_id(self, method: str, caller_id: str = "") -> str:
        """cln:W1: a request on behalf of a call carries the caller's id in front."""
        self._id += 1
        own = f"cln:{method}#{self._id}"
        return f"{caller_id}/{own}" if caller_id else own

    async def start_plugin(
        self, argv: list[str], options: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> Plugin:
        """`plugin start`: dynamic, so hooks may come before `init` is answered (cln:W11); raises RpcError -3
        (cln:M5).
        """
        self._running()
        plugin = self.world.plugin_kind(self, argv, options or {}, env or {})
        self.plugins.append(plugin)
        try:
            await plugin.launch()
            await plugin.handshake(startup=False)
        except PluginFailed as failed:
            await self._drop_plugin(plugin)
            raise RpcError(PLUGIN_ERROR, f"{plugin.path}: {failed}") from None
        return plugin

    async def _drop_plugin(self, plugin: Plugin) -> None:
        if plugin in self.processes:
            plugin.kill()
            await plugin.end(self.world.exit_grace_s)
        if plugin in self.plugins:
            self.plugins.remove(plugin)

    async def stop_plugin(self, plugin: Plugin | None = None) -> None:
        """`plugin stop`: shutdown if subscribed and up to 30 s, else SIGKILL; what it still answers counts
        (cln:W12).
        """
        self._running()
        plugin = plugin or self.plugin
        if not plugin.manifest.dynamic:
            raise RpcError(-32602, f"{plugin.name} cannot be managed when lightningd is up")
        if "shutdown" in plugin.manifest.subscriptions:
            plugin.notify("shutdown", {})
        else:
            plugin.kill()
        await plugin.end(self.shutdown_grace_s)
        await self.world.until(lambda: plugin not in self.plugins, "the plugin's pipe ends")

    async def kill_plugin(self, plugin: Plugin | None = None, sign: int = signal.SIGKILL) -> None:
        """Send the plugin a signal, by default kill -9; wait for its end. lightningd lives on (cln:H12)."""
        plugin = plugin or self.plugin
        plugin.kill(sign)
        await self.world.until(lambda: plugin not in self.plugins, "the plugin's pipe ends")

    @property
    def plugin(self) -> Plugin:
        """The first plugin; raises NodeDown when there is none."""
        if not self.plugins:
            raise NodeDown(f"{self.name} has no plugin")
        return self.plugins[0]

    def plugin_registered(self, plugin: Plugin) -> None:
        """Its methods, hooks and subscriptions are live."""

    def plugin_ready(self, plugin: Plugin) -> None:
        body = {"plugin_name": plugin.name, "plugin_path": plugin.path, "methods": list(plugin.manifest.methods)}
        self.notify("plugin_started", body)

    def plugin_gone(self, plugin: Plugin) -> None:
        """Its pipe ended; open hook calls have been answered as `continue` already."""
        if plugin in self.plugins:
            self.plugins.remove(plugin)
        body = {"plugin_name": plugin.name, "plugin_path": plugin.path, "methods": list(plugin.manifest.methods)}
        self.notify("plugin_stopped", body)

    def check_methods(self, plugin: Plugin) -> None:
        """Refuse a plugin with a method of a name that exists already. Raises PluginFailed."""
        for name in plugin.manifest.methods:
            taken = any(name in other.manifest.methods for other in self.plugins if other is not plugin)
            if name in TABLE or taken:
                raise PluginFailed(f"could not register method '{name}', a method with that name is already registered")

    def hook_chain(self, hook: str) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.registered and hook in plugin.manifest.hooks]

    def feature_set(self) -> dict[str, str]:
        """Return the features as recorded; bits of non-dynamic plugins are added to `init` and `node` (cln:M6)."""
        ours, more = ~sum(1 << bit for bit in self.lacks), sum(1 << bit for bit in self.extra)
        init, node = INIT_FEATURES & ours | more, 0x808898880A8A59A1 & ours | more
        for plugin in self.plugins:
            init |= int(plugin.manifest.featurebits.get("init") or "0", 16)
            node |= int(plugin.manifest.featurebits.get("node") or "0", 16)
        return {
            "init": _even_hex(init),
            "node": _even_hex(node),
            "channel": "",
            "invoice": "02000002024100",
            "bolt12_offer": "",
            "bolt12_invreq": "",
            "bolt12_invoice": "020000",
            "channel_type": "08800000800000",
        }

    def said(self, body: Any) -> Any:
        """Return its text, with unknown members if it is of that kind."""
        if not self.unknown_members:
            return body
        if isinstance(body, list):
            return [self.said(each) for each in body]
        if isinstance(body, dict):
            return {**{name: self.said(each) for name, each in body.items()}, **UNKNOWN_MEMBERS}
        return body

    def notify(self, name: str, body: dict[str, Any]) -> None:
        if self.state != "running":
            return
        body = self.said(body)
        for plugin in self.plugins:
            if plugin.registered and (name in plugin.manifest.subscriptions or "*" in plugin.manifest.subscriptions):
                plugin.notify(name, body)

    def forward_custom_notification(self, sender: Plugin, name: str, params: dict[str, Any]) -> None:
        self.notify(name, {"origin": sender.name, "payload": params})

    def warn(self, source: str, text: str, level: str = "warn") -> None:
        self.logs.append((level, source, text))
        stamp = self.clock.time()
        body = {"level": level, "time": f"{stamp:.9f}", "timestamp": self.clock.iso(), "source": source, "log": text}
        self.notify("warning", body)

    def note(self, text: str) -> None:
        """Log a line of lightningd's own."""
        self.logs.append(("info", "lightningd", text))
        self.transcript.mark(self.name, text)


def _even_hex(value: int) -> str:
    text = f"{value:x}"
    return text if len(text) % 2 == 0 else "0" + text
