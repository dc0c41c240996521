"""One simulated lightningd: its life, its plugins, its notifications. Its stores outlive its process.

States: `new`, `running`, `stopped` (stop), `killed` (SIGKILL), `crashed` (abort, cln:H9). `start()` leads back to
`running` from any of them and replays what a real node replays (cln:R1).
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from . import closing, methods, node_closing
from .channels import End, Htlc, Owner
from .errors import METHOD_NOT_FOUND, NodeDown, Outcome, PluginFailed, RpcError
from .htlcs import Htlcs
from .invoices import Invoices
from .node_base import NodeBase
from .onion_messages import OnionMessages
from .openings import Openings
from .parts import HeldParts
from .party import OpenAnswer, OpenRequest, Party, Surroundings, connect, disconnect
from .plugins import FIRST_ID
from .process import Plugin, rpc_outcome

ROLLBACK_BLOCKS = 30  # cln:R2: the tip a starting node thinks it has


class Node(NodeBase):
    """See the package docstring for how a test uses it."""

    def __init__(self, world: Surroundings, name: str, directory: Path, *, fee_base_msat: int, fee_ppm: int) -> None:
        super().__init__(world, name, directory, fee_base_msat=fee_base_msat, fee_ppm=fee_ppm)
        held = HeldParts()
        self.invoices = Invoices(self, held)
        self.htlcs = Htlcs(self, held, self.invoices)
        self.openings = Openings(self)
        self.onion_messages = OnionMessages(self)
        self.server = world.server_kind(self)
        self.reconnect: list[Party] = []

    # life

    async def start(self) -> None:
        """Start or restart: plugins, `init`, replays in one burst, old blocks, peers (cln:R1, cln:R2)."""
        if self.state == "running":
            raise NodeDown(f"{self.name} runs already")
        self.generation += 1
        self._id = FIRST_ID
        former = self.generation > 1
        self.state, self.online, self.crash_log = "running", True, ""
        await self.server.start(self.rpc_path)
        if former:
            self.height = max(0, self.height - ROLLBACK_BLOCKS)
        for end in self.ends:
            end.old_fees = None  # kept in memory only (cln:A7)
        self.plugins = [self.world.plugin_kind(self, argv, options, env) for argv, options, env in self.plugin_plans]
        if self.plugins:
            self.plugins[0].options |= self.saved_config
        try:
            for plugin in self.plugins:
                await plugin.launch()
            await asyncio.gather(*(plugin.handshake(startup=True) for plugin in self.plugins))
        except PluginFailed:
            if self.state == "running":
                self._die("stopped", "")
            raise
        self._running()
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
            if self.state == "running":  # it may die over any of them
                self.htlcs.take_up(htlc)

    def _catch_up(self) -> None:
        for height in range(self.height + 1, self.chain.height + 1):
            self.block_mined(height, self.chain.hash_of(height))

    async def stop(self) -> None:
        """`lightning-cli stop`: answers no longer count, parts stay held, the plugin gets shutdown (cln:W12,
        cln:R5).
        """
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
        """SIGKILL of lightningd: the plugin sees EOF, everything stored stays as it is (cln:R5)."""
        self._running()
        self.transcript.mark("driver", f"SIGKILL of {self.name} lightningd")
        self._die("killed", "")

    def crash(self, reason: str) -> None:
        """lightningd aborts (cln:H9); `crash_log` says why."""
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
        await self.server.stopped()
        shutil.rmtree(self.directory.parent, ignore_errors=True)

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
            disconnect(self, peer)  # cln:L3
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

    def error_arrived(self, peer: Owner, end: End | None, text: str) -> None:
        if end is None:
            self.openings.peer_error(peer, text)
        else:
            node_closing.peer_error(self, end, text)

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
        closing.see_block(self, height)

    def channel_closed(self, end: End) -> None:
        self.closed.append(closing.closed_row(end, end.closer, "user" if end.closer == "local" else "remote"))

    def withheld_closed(self, end: End, closer: str, cause: str) -> None:
        self.htlcs.abandon(end)
        node_closing.forget_withheld(self, end, closer, cause)

    def close_feerate(self) -> int:
        return self.feerates.mutual_close

    def htlc_removed(self, htlc: Htlc) -> None:
        self.htlcs.held.pop(htlc, None)

    def htlc_committed(self, htlc: Htlc) -> None:
        self.htlcs.committed(htlc)

    def htlc_arrived(self, htlc: Htlc) -> None:
        self.htlcs.arrived(htlc)

    def htlc_resolved(self, htlc: Htlc) -> None:
        self.htlcs.out_resolved(htlc)

    # RPC

    def run_method(self, name: str, params: Any, frame: bytes, caller_id: str) -> Outcome | asyncio.Future[Outcome]:
        """Carry out a call: at once, or a future when it takes time. Plugins that watch this command come first."""
        watchers = [plugin for plugin in self.hook_chain("rpc_command") if plugin.watches(name)]
        if watchers:
            return self.spawn(self._hooked_method(watchers, name, params, frame, caller_id), name=f"hooked {name}")
        return self._run_method(name, params, frame, caller_id)

    async def _hooked_method(
        self, watchers: list[Plugin], name: str, params: Any, frame: bytes, caller_id: str
    ) -> Outcome:
        """Return the `rpc_command` hook: each watcher lets the call go on or answers it; a dead one lets it go on."""
        command = {"rpc_command": {"id": caller_id, "method": name, "params": params}}
        for plugin in watchers:
            answer = await self._ask_hook(plugin, "rpc_command", command, caller_id)
            verdict: dict[str, Any] = {"result": "continue"} if answer is None else answer.get("result") or {}
            if verdict.get("result") == "continue":
                continue
            if "return" not in verdict:
                return None, RpcError(-1, f"Bad response to 'rpc_command' hook: {answer}")
            return rpc_outcome(verdict["return"], name)
        outcome = self._run_method(name, params, frame, caller_id)
        return await outcome if isinstance(outcome, asyncio.Future) else outcome

    async def _ask_hook(self, plugin: Plugin, hook: str, params: Any, caller_id: str) -> dict[str, Any] | None:
        """Return the whole answer; None when the plugin is gone."""
        future: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()

        def done(answer: dict[str, Any] | None) -> None:
            if not future.done():
                future.set_result(answer)

        plugin.request(hook, params, done, caller_id)
        return await future

    def _run_method(self, name: str, params: Any, frame: bytes, caller_id: str) -> Outcome | asyncio.Future[Outcome]:
        if name == "check" and isinstance(params, dict):
            return self._check(params, frame, caller_id)
        entry = methods.TABLE.get(name)
        if entry is not None:
            return methods.refuse_escapes(name, frame) or methods.run(self, entry, params)
        for plugin in self.plugins:
            if plugin.registered and name in plugin.manifest.methods:
                return self._ask_plugin(plugin, name, methods.raw_params(frame, params), caller_id)
        return None, RpcError(METHOD_NOT_FOUND, f"Unknown command '{name}'")

    def _check(self, params: dict[str, Any], frame: bytes, caller_id: str) -> Outcome | asyncio.Future[Outcome]:
        """`check`: parameters of our own methods, or the plugin's word if it can check (cln:N8)."""
        name = str(params.get("command_to_check"))
        entry = methods.TABLE.get(name)
        if entry is not None:
            return methods.check(entry, params)
        for plugin in self.plugins:
            if plugin.registered and name in plugin.manifest.methods:
                if plugin.manifest.can_check:
                    return self._ask_plugin(plugin, "check", methods.raw_params(frame, params), caller_id)
                self.note(f"Plugin does not support check command for {name} (id {caller_id})")
                return {"command_to_check": name}, None
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

    async def call(self, name: str, params: Any = None, timeout_s: float = 60.0) -> Any:
        """Return a call by the user (lightning-cli): lightningd's methods and the plugins'. Raises RpcError."""
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
