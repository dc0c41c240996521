"""One simulated lightningd: its life, its plugins, its notifications. What it stores outlives its process.

States: `new`, `running`, `stopped` (stop), `killed` (SIGKILL), `crashed` (abort, H9). `start()` leads back to
`running` from any of them and replays what a real node replays (R1).
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import methods
from .channels import End, Htlc
from .closing import close_late
from .datastore import Datastore
from .errors import METHOD_NOT_FOUND, PLUGIN_ERROR, NodeDown, PluginFailed, RpcError
from .faults import Faults
from .htlcs import Forward, Htlcs
from .invoices import Invoices
from .openings import Openings
from .party import OpenAnswer, OpenRequest, Party, connect, disconnect
from .process import Plugin, rpc_outcome
from .psbt import Tx
from .rpcserver import RpcServer

if TYPE_CHECKING:
    from .world import World

ROLLBACK_BLOCKS = 30  # R2: the tip a starting node thinks it has
Outcome = tuple[Any, RpcError | None]


class Node(Party):
    """See the package docstring for how a test uses it."""

    version = "v26.06.6"
    plugin_patience_s = 60.0  # real time; lightningd waits 120 s (W6)
    shutdown_grace_s = 30.0  # real time (W5)

    def __init__(self, world: World, name: str, directory: Path, *, fee_base_msat: int, fee_ppm: int) -> None:
        super().__init__(world, name)
        self.fee_base_msat = fee_base_msat
        self.fee_ppm = fee_ppm
        self.cltv_delta = 6
        self.cltv_final = 10
        self.htlc_minimum_msat = 0
        self.to_self_delay = 6
        self.directory = directory / "regtest"
        self.directory.mkdir(parents=True)
        self.lightning_dir = str(self.directory)
        self.rpc_path = str(self.directory / "lightning-rpc")
        self.state = "new"
        self.online = False
        self.height = self.chain.height
        self.generation = 0  # grows with every start: answers of a former life are void
        self.crash_log = ""
        self.plugins: list[Plugin] = []
        self.processes: list[Plugin] = []  # every child ever started, for the end of the world
        self.plugin_plans: list[tuple[list[str], dict[str, Any], dict[str, str]]] = []
        self.logs: deque[tuple[str, str, str]] = deque(maxlen=5000)
        self.datastore = Datastore()
        self.faults = Faults()
        self.htlcs = Htlcs(self)
        self.invoices = Invoices(self)
        self.openings = Openings(self)
        self.server = RpcServer(self)
        self.waiters: list[methods.Waiter] = []
        self.closed: list[dict[str, Any]] = []
        self.htlc_log: list[tuple[Htlc, str]] = []  # in order of creation, with direction
        self.reconnect: list[Party] = []
        self.saved_config: dict[str, Any] = {}  # config.setconfig (M7)
        self.developer = True
        self._id = 18
        self._tasks: set[asyncio.Task[Any]] = set()

    # life

    def plan_plugin(
        self, argv: list[str], options: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> None:
        """A plugin that comes with every start, as `plugin=` in the config."""
        self.plugin_plans.append((argv, options or {}, env or {}))

    async def start(self) -> None:
        """Start or restart: plugins, `init`, replays in one burst, old blocks, peers (R1, R2)."""
        if self.state == "running":
            raise NodeDown(f"{self.name} runs already")
        self.generation += 1
        self._id = 18
        former = self.generation > 1
        self.state, self.online, self.crash_log = "running", True, ""
        await self.server.start(self.rpc_path)
        if former:
            self.height = max(0, self.height - ROLLBACK_BLOCKS)
        self.plugins = [Plugin(self, argv, options, env) for argv, options, env in self.plugin_plans]
        if self.plugins:
            self.plugins[0].options |= self.saved_config
        try:
            for plugin in self.plugins:
                await plugin.launch()
            await asyncio.gather(*(plugin.handshake(startup=True) for plugin in self.plugins))
        except PluginFailed:
            self._die("stopped", "")
            raise
        if former:
            self._replay()
        self._catch_up()
        waiting, self.reconnect = self.reconnect, []
        for peer in waiting:
            connect(peer, self)

    def _replay(self) -> None:
        parts = self.htlcs.unanswered()
        self.rng.shuffle(parts)
        for htlc in parts:
            self.warn(f"chan#{self.ends.index(htlc.taker) + 1}", f"Replaying old unprocessed HTLC #{htlc.id}")
        for htlc in parts:
            self.htlcs.take_up(htlc)

    def _catch_up(self) -> None:
        for height in range(self.height + 1, self.chain.height + 1):
            self.block_mined(height, self.chain.hash_of(height))

    async def stop(self) -> None:
        """`lightning-cli stop`: answers no longer count, parts stay held, the plugin gets shutdown (W12, R5)."""
        self._running()
        plugins = [plugin for plugin in self.plugins if plugin.alive]
        self.warn("lightningd", "JSON-RPC shutdown")
        for plugin in plugins:
            if "shutdown" in plugin.manifest.subscriptions:
                plugin.notify("shutdown", {})
        self.generation += 1
        await asyncio.sleep(0)
        for plugin in plugins:
            if "shutdown" not in plugin.manifest.subscriptions:
                plugin.kill()
        await asyncio.gather(*(plugin.end(self.shutdown_grace_s) for plugin in plugins))
        self._die("stopped", "")

    def sigkill(self) -> None:
        """SIGKILL of lightningd: the plugin sees EOF, everything stored stays as it is (R5)."""
        self._running()
        self.transcript.mark("driver", f"SIGKILL of {self.name} lightningd")
        self._die("killed", "")

    def crash(self, reason: str) -> None:
        """lightningd aborts (H9); `crash_log` says why."""
        if self.state == "running":
            self.transcript.mark("driver", f"{self.name} lightningd aborts", reason=reason)
            self._die("crashed", reason)

    def _die(self, state: str, reason: str) -> None:
        self.state, self.online, self.crash_log = state, False, reason
        self.generation += 1
        self.reconnect += [peer for peer in self.links.values() if peer.redials(self)]
        for plugin in self.plugins:
            plugin.close_pipes()
        self.server.stop()
        self.htlcs.held.clear()
        self.invoices.forget_sets()
        self.openings.forget()
        self.waiters.clear()
        for end in self.ends:
            end.channel.forget_tlvs(self)
        for peer in list(self.links.values()):
            disconnect(self, peer)
        for task in list(self._tasks):
            if task.get_name().startswith("rpc"):
                task.cancel()

    def _running(self) -> None:
        if self.state != "running":
            raise NodeDown(f"{self.name} is {self.state} {self.crash_log}")

    async def dispose(self) -> None:
        """Leave nothing behind: processes, tasks, socket, directory."""
        if self.state == "running":
            self._die("stopped", "")
        for plugin in self.processes:
            plugin.close_pipes()
            await plugin.end(self.world.exit_grace_s)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self.directory.parent, ignore_errors=True)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "work") -> asyncio.Task[Any]:
        """A task that ends with the node."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.world.problems.append(error)

    # plugins

    def next_id(self, method: str, caller_id: str = "") -> str:
        """W1: a request on behalf of a call carries the caller's id in front."""
        self._id += 1
        own = f"cln:{method}#{self._id}"
        return f"{caller_id}/{own}" if caller_id else own

    async def start_plugin(
        self, argv: list[str], options: dict[str, Any] | None = None, env: dict[str, str] | None = None
    ) -> Plugin:
        """`plugin start`: dynamic, so hooks may come before `init` is answered (W11); raises RpcError -3 (M5)."""
        self._running()
        plugin = Plugin(self, argv, options or {}, env or {})
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
        """`plugin stop`: shutdown if subscribed and up to 30 s, else SIGKILL; what it still answers counts (W12)."""
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
        """A signal to the plugin, by default kill -9; waits for its end. lightningd lives on (H12)."""
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
        """A name that exists already stops the plugin's start."""
        for name in plugin.manifest.methods:
            taken = any(name in other.manifest.methods for other in self.plugins if other is not plugin)
            if name in methods.TABLE or taken:
                raise PluginFailed(f"could not register method '{name}', a method with that name is already registered")

    def hook_chain(self, hook: str) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.registered and hook in plugin.manifest.hooks]

    def feature_set(self) -> dict[str, str]:
        """As recorded; bits of non-dynamic plugins are added to `init` and `node` (M6)."""
        init, node = 0x800898880A8A59A1, 0x808898880A8A59A1
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

    # notifications and log

    def notify(self, name: str, body: dict[str, Any]) -> None:
        if self.state != "running":
            return
        for plugin in self.plugins:
            if plugin.registered and (name in plugin.manifest.subscriptions or "*" in plugin.manifest.subscriptions):
                plugin.notify(name, body)

    def forward_custom_notification(self, sender: Plugin, name: str, params: dict[str, Any]) -> None:
        self.notify(name, {"origin": sender.name, "payload": params})

    def forward_event(self, row: Forward) -> None:
        self.notify("forward_event", row.event())
        kind = "updated" if row.updated_index else "created"
        index = row.updated_index or row.created_index
        methods.wake(self, "forwards", kind, index, row)

    def warn(self, source: str, text: str, level: str = "warn") -> None:
        self.logs.append((level, source, text))
        stamp = self.clock.time()
        body = {"level": level, "time": f"{stamp:.9f}", "timestamp": self.clock.iso(), "source": source, "log": text}
        self.notify("warning", body)

    def note(self, text: str) -> None:
        """A line of lightningd's own log."""
        self.logs.append(("info", "lightningd", text))
        self.transcript.mark(self.name, text)

    # channels

    def end_by_id(self, channel_id: str) -> End | None:
        for end in self.ends:
            if end.channel.channel_id == channel_id and not end.forgotten:
                return end
        return None

    def end_by_scid(self, scid: str) -> End | None:
        for end in self.ends:
            if scid in end.names() and not end.forgotten:
                return end
        return None

    def end_defaults(self, end: End) -> None:
        """Our policy on a new end."""
        end.fee_base_msat, end.fee_ppm = self.fee_base_msat, self.fee_ppm
        end.cltv_delta = self.cltv_delta

    # Party

    def init_features(self) -> str:
        return self.feature_set()["init"]

    def peer_connected(self, peer: Party, direction: str) -> None:
        port = 30000 + self.rng.randrange(30000)
        address = {"type": "ipv4", "address": "127.0.0.1", "port": port}
        self.notify("connect", {"id": peer.node_id, "direction": direction, "address": address})
        shown = {"id": peer.node_id, "direction": direction, "addr": f"127.0.0.1:{port}"}
        for plugin in self.hook_chain("peer_connected"):
            plugin.request("peer_connected", {"peer": {**shown, "features": peer.init_features()}}, _ignore)

    def peer_disconnected(self, peer: Party) -> None:
        self.openings.peer_lost(peer)
        self.notify("disconnect", {"id": peer.node_id})

    def custommsg_arrived(self, peer: Party, data: bytes) -> None:
        if int.from_bytes(data[:2], "big") % 2 == 0 and not self._even_allowed(data):
            disconnect(self, peer)  # L3
            return
        body = {"peer_id": peer.node_id, "payload": data.hex()}
        self.notify("custommsg", body)
        hooked = {"payload": data.hex(), "peer_id": peer.node_id}
        for plugin in self.hook_chain("custommsg"):
            wanted = plugin.manifest.hooks["custommsg"]
            if wanted is None or int.from_bytes(data[:2], "big") in wanted:
                plugin.request("custommsg", hooked, self._check_custommsg)

    def _even_allowed(self, data: bytes) -> bool:
        kind = int.from_bytes(data[:2], "big")
        return any(kind in plugin.manifest.custommessages for plugin in self.plugins)

    def _check_custommsg(self, answer: dict[str, Any] | None) -> None:
        if answer is None or (answer.get("result") or {}).get("result") == "continue":
            return
        self.crash(f"Plugin returned an invalid response to the custommsg hook: {answer}")

    async def open_requested(self, opener: Party, request: OpenRequest) -> OpenAnswer:
        return await self.openings.requested(opener, request)

    def funding_refused(self, opener: Party, tx: Tx) -> str | None:
        return None

    def channel_created(self, end: End) -> None:
        self.openings.created(end)

    def channel_changed(self, end: End, old_state: str | None, cause: str, message: str | None) -> None:
        body: dict[str, Any] = {"peer_id": end.peer.node_id, "channel_id": end.channel.channel_id}
        if end.scid is not None:
            body["short_channel_id"] = end.scid
        body["timestamp"] = self.clock.iso()
        if old_state is not None:
            body["old_state"] = old_state
        body |= {"new_state": end.state, "cause": cause}
        if message is not None:
            body["message"] = message
        self.notify("channel_state_changed", body)

    def block_mined(self, height: int, block_hash: str) -> None:
        if self.state != "running":
            return
        self.height = height
        self.openings.confirm(height)
        self.notify("block_added", {"hash": block_hash, "height": height})
        close_late(self, height)

    def htlc_committed(self, htlc: Htlc) -> None:
        self.htlcs.committed(htlc)

    def htlc_arrived(self, htlc: Htlc) -> None:
        self.htlcs.arrived(htlc)

    def htlc_resolved(self, htlc: Htlc) -> None:
        self.htlcs.out_resolved(htlc)

    # RPC

    def run_method(self, name: str, params: Any, frame: bytes, caller_id: str) -> Outcome | asyncio.Future[Outcome]:
        """Carry out a call: at once, or a future when it takes time."""
        entry = methods.TABLE.get(name)
        if entry is not None:
            return methods.refuse_escapes(name, frame) or methods.run(self, entry, params)
        for plugin in self.plugins:
            if plugin.registered and name in plugin.manifest.methods:
                return self._ask_plugin(plugin, name, methods.raw_params(frame, params), caller_id)
        return None, RpcError(METHOD_NOT_FOUND, f"Unknown command '{name}'")

    def _ask_plugin(self, plugin: Plugin, name: str, params: bytes, caller_id: str) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(answer: dict[str, Any] | None) -> None:
            if not future.done():
                future.set_result(rpc_outcome(answer, name))

        plugin.request(name, params, done, caller_id)
        return future

    async def finish_method(self, name: str, params: Any, frame: bytes, caller_id: str) -> Outcome:
        outcome = self.run_method(name, params, frame, caller_id)
        return await outcome if isinstance(outcome, asyncio.Future) else outcome

    async def call(self, name: str, params: Any = None, timeout_s: float = 30.0) -> Any:
        """A call by the user (lightning-cli): lightningd's methods and the plugins'. Raises RpcError."""
        self._running()
        self.world.driver_calls += 1
        call_id = f"driver:{name}#{self.world.driver_calls}"
        params = {} if params is None else params
        peer = f"{self.name}/driver-rpc"
        self.transcript.add("rpc>host", peer, {"jsonrpc": "2.0", "id": call_id, "method": name, "params": params})
        work = self.finish_method(name, params, b"", call_id)
        result, error = await self.world.bounded(work, timeout_s, f"{name} of {self.name}")
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": call_id}
        answer |= {"error": error.to_json()} if error is not None else {"result": result}
        self.transcript.add("host>rpc", peer, answer)
        if error is not None:
            raise error
        return result


def _ignore(answer: dict[str, Any] | None) -> None:
    """For hooks whose answer changes nothing here."""


def _even_hex(value: int) -> str:
    text = f"{value:x}"
    return text if len(text) % 2 == 0 else "0" + text
