"""Plays the host in a recording to a plugin process, and writes down what the plugin does.

Replayed is what happened, not when: hooks and notifications go out in recorded order, but one that lightningd sent
because of something the prototype had done waits until our plugin has done the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from replay import hookcheck, tlv
from replay.node import Node
from replay.played import ACTIVE, FINALIZED, Event, Json, Part, Played, ReplayStuck, Script, journal_record
from replay.process import PluginProcess, init_options
from replay.recording import Life, Step, load
from replay.rpcsocket import RpcSocket

ADVANCE = "lsps2-dev-advance"
STATS = "lsps2-stats"
SHOWN = 25  # events and log lines in the text of a ReplayStuck


def play(script: Script, command: Sequence[str], directory: Path) -> Played:
    """Run the whole recording against `command`. Raises ReplayStuck; every process is ended on the way out."""
    return asyncio.run(_Player(script, command, directory / "regtest").run())


class _Player:
    def __init__(self, script: Script, command: Sequence[str], home: Path) -> None:
        self._script = script
        self._command = command
        self._home = home
        self._recording = load(script.recording)
        self._node = Node(self._recording, self._tell, script.fees)
        self._played = Played(self._node, self._recording, script)
        self._plugin = PluginProcess(self._from_plugin, self._junk)
        self._news = asyncio.Event()
        self._open: dict[str, Step] = {}
        self._asked: dict[str, Json | None] = {}
        self._requests = 0
        self._looking = asyncio.Event()  # our plugin looked at a channel that was not ready; its answer is held
        self._looked = asyncio.Event()

    async def run(self) -> Played:
        self._home.mkdir(parents=True)
        for scid, buy in self._recording.purchases.items():
            changes = self._script.records.get(scid, {})
            if changes is not None:
                self._node.datastore.put((*ACTIVE, scid), journal_record(buy, changes))
        async with RpcSocket(self._node, self._record, self._hold_answer).listening(self._home / "lightning-rpc"):
            for number, life in enumerate(self._recording.lives):
                await self._live(number, life)
        return self._played

    async def _live(self, number: int, life: Life) -> None:
        self._record("life", str(number), None)
        if life.configuration["startup"]:
            blocks = [step.params["block_added"]["height"] for step in life.steps if step.method == "block_added"]
            self._node.restarted(min(blocks) - 1)
        if number:
            self._take_tables(life)
        self._plugin = PluginProcess(self._from_plugin, self._junk)
        async with self._plugin.running(self._command, self._home):
            await self._introduce(life)
            if number == 0:
                await self._until_it_sells()
            for step in life.steps:
                if step.call_id == self._script.stop_before and step.call_id is not None:
                    break
                await self._play(number, step)
            if life is self._recording.lives[-1]:
                await self._wind_up()
            await self._barrier(0)
            await self._end(life.polite_end)
        self._played.unanswered.append(list(self._open))
        self._open.clear()

    async def _introduce(self, life: Life) -> None:
        manifest = await self._ask("getmanifest", {"allow-deprecated-apis": False})
        self._plugin.introduce(manifest)
        options = init_options(manifest, {"experimental-lsps2-service": True} | self._script.options)
        configuration = life.configuration | {"lightning-dir": str(self._home)}
        result = await self._ask("init", {"options": options, "configuration": configuration})
        if result and "disable" in result:
            raise self._stuck(f"the plugin disabled itself: {result['disable']}")

    async def _until_it_sells(self) -> None:
        """Recordings begin seconds after a first start. (After a restart parts come at once, cln:R1, and must wait.)"""
        wanted = len(self._node.datastore.list({"key": list(ACTIVE)})["datastore"])
        deadline = asyncio.get_running_loop().time() + self._script.patience_s
        while STATS in self._plugin.methods and await self._live_buys() < wanted:
            if asyncio.get_running_loop().time() > deadline:
                raise self._stuck(f"{wanted} buys in the journal are not live after {self._script.patience_s} s")

    async def _live_buys(self) -> int:
        """How many buys the service knows; -1 while it is still reading its journal."""
        answer = await self._request(STATS, {})
        return int(answer["result"]["live_buys"]) if "result" in answer else -1

    def _take_tables(self, life: Life) -> None:
        """What happened while the plugin was away shows in the first table taken afterwards (cln:F4)."""
        for row in life.forwards or ():
            part = row["in_channel"], row["in_htlc_id"]
            self._node.forwards[part] = _as_forwarded(row, self._played.answers[part])

    async def _wind_up(self) -> None:
        for seconds in (0, 0, 0, 0, *self._script.advance_s):  # a part waits while lightningd is asked for its channel
            await self._barrier(seconds)
        if not self._script.held_at_end:
            await self._until(lambda: not self._open, "answers to every hook")
        await self._until(lambda: Counter(self._script.called) <= self._node.done, f"{self._script.called} calls")
        await self._until(self._journal_is_done, f"{self._script.finalized} or {self._script.reopened} in the journal")

    def _journal_is_done(self) -> bool:
        read = self._node.datastore.get
        over = all(read(*FINALIZED, scid) and not read(*ACTIVE, scid) for scid in self._script.finalized)
        return over and all("channel_id" not in read(*ACTIVE, scid) for scid in self._script.reopened)

    async def _barrier(self, seconds: int) -> None:
        """Turn the plugin's clock; when it answers it has taken in everything sent before."""
        if ADVANCE in self._plugin.methods:
            self._record("advance", str(seconds), None)
            await self._ask(ADVANCE, {"seconds": seconds})
        elif seconds:
            raise self._stuck(f"the plugin has no {ADVANCE}")

    async def _end(self, polite: bool) -> None:
        if polite and "shutdown" in self._plugin.subscriptions:
            await self._send({"jsonrpc": "2.0", "method": "shutdown", "params": {"shutdown": {}}})
        else:
            self._plugin.hang_up()
        self._played.exit_codes.append(await self._plugin.end(self._script.patience_s))

    # The recorded steps.

    async def _play(self, number: int, step: Step) -> None:
        await self._until(lambda: step.after <= self._node.done, f"{dict(step.after)} before {step.method}")
        if step.call_id is not None:
            await self._call_hook(step, step.call_id)
        else:
            await self._notify(number, step.method, step.params[step.method])

    async def _call_hook(self, step: Step, call_id: str) -> None:
        payload = step.params.get("payload")
        if not self._plugin.wants_hook(step.method, None if payload is None else int(payload[:4], 16)):
            return
        self._open[call_id] = step
        if step.method == "htlc_accepted":
            self._played.hooks[_part(step)] = self._node.parts[_part(step)] = step.params
        self._record("hook", call_id, step.params)
        await self._send({"jsonrpc": "2.0", "id": call_id, "method": step.method, "params": step.params})
        if call_id in self._script.first:
            await self._until(lambda: call_id not in self._open, f"an answer to {call_id}")

    async def _notify(self, number: int, method: str, params: Json) -> None:
        if method == "connect":
            if number in self._script.away and params["id"] in self._clients():
                return
            self._node.connected[params["id"]] = None
        elif method == "disconnect":
            wanted, sent = self._script.messages_before_disconnect, self._node.messages
            await self._until(lambda: len(sent) >= wanted, f"{wanted} messages to peers")
            self._node.disconnected(params["id"])
        elif method == "block_added":
            self._node.new_block(params["height"])
        elif method == "channel_state_changed":
            await self._channel_changed(params)
        elif method == "forward_event":
            params = await self._forward_event(params)
        self._tell(method, {method: params})
        await self._drain()
        if "old_state" in params and self._looking.is_set() and not self._looked.is_set():
            await self._barrier(0)  # the plugin has heard of the change before it gets the old answer
            self._looked.set()
        if params.get("height", -2) + 1 == self._script.patient_at_block:
            await self._barrier(0)  # what it does about this block is seen before the next one
        if params.get("height", -1) == self._script.patient_at_block:
            await self._until(lambda: not self._open, f"answers after block {params['height']}")

    def _clients(self) -> set[str]:
        return {buy.peer_id for buy in self._recording.purchases.values()}

    async def _channel_changed(self, params: Json) -> None:
        channel_id = params["channel_id"]
        if channel_id in self._recording.jit_channel_ids:
            await self._until(lambda: channel_id in self._node.opened, f"channel {channel_id} to be opened")
            if self._script.ready_while_looking and "old_state" in params:
                await self._until(self._looking.is_set, f"a look at channel {channel_id}")
            self._node.channel_changed(channel_id, params["new_state"])

    async def _forward_event(self, event: Json) -> Json:
        """The recorded event with the amounts that our plugin forwarded."""
        part, answers = (event["in_channel"], event["in_htlc_id"]), self._played.answers
        await self._until(lambda: answers.get(part, {}).get("result") == "continue", f"{part} to be let on")
        event = _as_forwarded(event, answers[part])
        self._node.forwards[part] = self._node.forwards.get(part, {}) | event
        return event

    async def _hold_answer(self, method: str) -> None:
        if self._script.ready_while_looking and method == "listpeerchannels" and self._node.opened:
            self._looking.set()
            self._news.set()
            await self._looked.wait()

    # To and from the plugin.

    async def _ask(self, method: str, params: Json) -> Any:
        answer = await self._request(method, params)
        if "error" in answer:
            raise self._stuck(f"{method} gave {answer['error']}")
        return answer["result"]

    async def _request(self, method: str, params: Json) -> Json:
        self._requests += 1
        call_id = f"cln:{method}#replay{self._requests}"
        self._asked[call_id] = None
        await self._send({"jsonrpc": "2.0", "id": call_id, "method": method, "params": params})
        await self._until(lambda: self._asked[call_id] is not None, f"an answer to {method}")
        return self._asked.pop(call_id) or {}

    def _tell(self, method: str, params: Json) -> None:
        """A notification, if the plugin asked for such."""
        self._record("note", method, params[method])
        if method in self._plugin.subscriptions:
            self._plugin.write({"jsonrpc": "2.0", "method": method, "params": params})

    async def _send(self, message: Json) -> None:
        self._plugin.write(message)
        await self._drain()

    async def _drain(self) -> None:
        try:
            await self._plugin.drain()
        except ConnectionError as error:
            raise self._stuck("the plugin reads no more") from error

    def _junk(self, frame: bytes) -> None:
        self._played.faults.append(f"not JSON: {frame[:200]!r}")

    def _from_plugin(self, message: Json) -> None:
        if message.get("method") == "log":
            self._played.logs.append((message["params"]["level"], message["params"]["message"]))
        elif message.get("id") in self._asked:
            self._asked[message["id"]] = message
            self._news.set()
        elif "method" not in message:
            self._hook_answered(message)

    def _hook_answered(self, message: Json) -> None:
        step = self._open.pop(message.get("id", ""), None)
        if step is None:
            self._played.faults.append(f"an answer to nothing, or the second one: {message}")
            return
        if step.method == "htlc_accepted":
            fault = hookcheck.fatal(message)
            self._played.faults += [] if fault is None else [fault]
            self._played.answers[_part(step)] = message.get("result", {})
        self._record("answer", message["id"], message.get("result"))

    # Waiting.

    def _record(self, kind: str, name: str, detail: Any) -> None:
        self._played.timeline.append(Event(kind, name, detail))
        self._news.set()

    async def _until(self, reached: Callable[[], bool], what: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._script.patience_s
        while not reached():
            if self._plugin.exit_code is not None:
                raise self._stuck(f"the plugin ended with {self._plugin.exit_code}; waited for {what}")
            if loop.time() > deadline:
                raise self._stuck(f"waited {self._script.patience_s} s for {what}")
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), 0.5)

    def _stuck(self, why: str) -> ReplayStuck:
        events = [f"  {event.kind} {event.name} {str(event.detail)[:300]}" for event in self._played.timeline[-SHOWN:]]
        logs = [f"  {level}: {text}" for level, text in self._played.logs[-SHOWN:]]
        errors = [f"  {line}" for line in self._plugin.complaints]
        return ReplayStuck("\n".join([why, "last events:", *events, "log:", *logs, "stderr:", *errors]))


def _part(step: Step) -> Part:
    return step.params["htlc"]["short_channel_id"], step.params["htlc"]["id"]


def _as_forwarded(event: Json, answer: Json) -> Json:
    if "out_msat" not in event or "payload" not in answer:
        return event
    out_msat = tlv.forwarded_msat(answer["payload"])
    return event | {"out_msat": out_msat, "fee_msat": event["in_msat"] - out_msat}
