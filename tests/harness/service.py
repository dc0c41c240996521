"""A world with the real plugin process in it, steps that many stories share, and what every story must leave behind."""

from __future__ import annotations

import array
import asyncio
import fcntl
import json
import re
import sys
import termios
from collections import Counter
from types import TracebackType
from typing import Any

from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.simnode import Client, Node, Payer, PaymentResult, World, tlv
from lsps2fast_plugin.simnode.answers import read_answer
from lsps2fast_plugin.simnode.client import ClientInvoice

from .world_pool import HOUSES, WEALTH_SAT

COMMAND = [sys.executable, "-m", "lsps2fast_plugin.service.app"]
LSP_TRUSTS = "lsp-trusts-client"
CLIENT_TRUSTS = "client-trusts-lsp"
SESSIONS = ("lsps", "lsps2", "sessions")
MEMORY = (  # what the policy remembers of clients, and what clients left
    *(("lsps", "lsps2", name) for name in ("trust", "tokens", "selling", "fleet", "closes")),
    ("lsps", "lsps5", "webhooks"),
    ("lsps", "lsps1", "orders"),
)
FEE_NOTES = ("lsps", "lsps2", "fees")
TEMPORARY = "10070000"
OFFER_S = 3_600  # shorter than by default
UNKNOWN = "400a"
NODE_FAILURE = "2002"
HIDDEN = "c018" + "00" * 32  # the only failure inside a blinded path
FEE_MSAT = 1_000_000  # of the default menu for every size used here
SIZE_MSAT = 10_000_000
PATIENCE_S = 60.0
FAILURES = re.compile(  # C-19, C-25
    r"10070000|400a|400f[0-9a-f]{24}|100[bc][0-9a-f]{16}0000|100d[0-9a-f]{8}0000|100e0000|0015|2002|c018(00){32}"
)
ENDS = (["SUCCEEDED"], ["FAILED"], ["ABANDONED"])
ANSWERED_HOOKS = ("htlc_accepted", "custommsg")
Entry = dict[str, Any]


def _unread(pipe: Any) -> int:
    """Bytes in a pipe."""
    return array.array("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


class Stage:
    """`async with Stage(...) as stage`: the plugin runs, has read its journal and sells.

    At the end, if the story itself went well, `loose_ends()` must become empty. A story that breaks the plugin or the
    node on purpose says so in `plugin_lives`, or names what it leaves in `leaves` (beginnings of loose ends).
    """

    allowed = FAILURES

    def __init__(
        self,
        mode: str = CLIENT_TRUSTS,
        *,
        options: dict[str, Any] | None = None,
        ready: bool = True,
        fresh: bool = False,
        **world: Any,
    ) -> None:
        """`fresh`, other options, another world: then it is never one that another story has used."""
        self._died = False
        self._plain = not (options or world or fresh) and ready
        world = {"seed": 7, "fee_base_msat": 1000, "fee_ppm": 10, "wallet_sat": WEALTH_SAT} | world
        self.mode = mode
        plain = {"lsps2-trust-mode": mode, "lsps2-fee-floor": 0, "lsps2-offer-validity": OFFER_S}
        options = plain | (options or {})
        found = HOUSES.take(mode) if self._plain else None
        self._moved_in = found is not None
        self.world = found or World(plugin=COMMAND, options=options, **world)
        self._story = HOUSES.story(self.world)
        self.lsp: Node = self.world.lsp
        self.plugin_lives = True
        self.leaves: tuple[str, ...] = ()
        self.errors_expected = False
        self._ready = ready
        self.changes: dict[str, list[str]] = {}  # payment hash: states it went through
        self.asked: dict[str, tuple[str, Any]] = {}  # id of a hook call: method, params
        self.answered: Counter[str] = Counter()
        self.results: dict[str, Any] = {}
        self._rpc_asked = 0
        self._rpc_open: set[Any] = set()

    # Life ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Stage:
        self.world.transcript.listeners.append(self._take)
        if self._moved_in:
            return self
        await self.world.__aenter__()
        if self._ready:
            await self.selling()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept = False
        try:
            if error is None:
                await self.tidy()
                kept = self._plain and self.plugin_lives and await HOUSES.keep(self.mode, self.world)
        finally:
            self.world.transcript.listeners.remove(self._take)
            if not kept:
                await self.world.__aexit__(kind, error, trace)

    def _take(self, entry: Entry) -> None:
        message, direction = entry["msg"], entry["dir"]
        if entry["peer"] == "lsp/driver-rpc":
            return
        if direction == "rpc>host":
            self._rpc_asked += 1
            self._rpc_open.add(message["id"])
        elif direction == "host>rpc":
            self._rpc_open.discard(message["id"])
        elif direction == "host>plugin" and message["method"] in ANSWERED_HOOKS and "id" in message:
            self.asked[message["id"]] = (message["method"], message["params"])
        elif direction == "plugin>host" and "method" not in message:
            self.answered[str(message.get("id"))] += 1
            self.results[str(message.get("id"))] = message.get("result")
        elif direction == "plugin>host" and message["method"] == "lsps2_session":
            change = message["params"]["lsps2_session"]
            self.changes.setdefault(change["payment_hash"], []).append(change["new_state"])

    async def selling(self, starts: int = 1) -> None:
        """The plugin has read its journal (it says so, once a start)."""
        await self.until(lambda: len(self.log_lines("sells JIT channels")) == starts, "the plugin sells")

    async def stop(self) -> None:
        """`plugin stop`."""
        await self.lsp.stop_plugin()
        self._forget_process()

    async def kill(self) -> None:
        """kill -9 of the plugin; what it had not answered needs no answer of it any more."""
        await self.lsp.kill_plugin()
        for call_id in self.asked.keys() - self.answered.keys():
            del self.asked[call_id]
        self._forget_process()

    def _forget_process(self) -> None:
        """Its RPC calls are not waited for any more."""
        self.plugin_lives = self._plain = False
        self._died = True
        self.forget_calls()

    async def start(self, *, ready: bool = True) -> None:
        """`plugin start`, with the options of the beginning."""
        starts = len(self.log_lines("sells JIT channels"))
        argv, options, env = self.lsp.plugin_plans[0]
        await self.lsp.start_plugin(argv, options, env)
        self.plugin_lives = True
        if ready:
            await self.selling(starts + 1)

    async def restart(self, *, power: bool = False) -> None:
        """`stop` of the whole node, or (`power`) kill -9, and its next start."""
        starts = len(self.log_lines("sells JIT channels"))
        if power:
            self.lsp.sigkill()
        else:
            await self.lsp.stop()
        self._forget_process()
        for calls in (self.asked, self.answered, self.results):
            calls.clear()  # a node counts its calls from the same number again
        await self.lsp.start()
        self.plugin_lives = True
        await self.selling(starts + 1)

    async def until(self, condition: Any, what: str) -> None:
        """Bounded wait."""
        await self.world.until(condition, what, PATIENCE_S)

    # What the plugin said --------------------------------------------------------------------------

    def log_lines(self, pattern: str, *levels: str) -> list[str]:
        """Log lines of the plugin that match."""
        wanted = re.compile(pattern)
        said = [entry["msg"]["params"] for entry in self.world.transcript.select("plugin>host", method="log")]
        return [
            line["message"]
            for line in said
            if (not levels or line["level"] in levels) and wanted.search(line["message"])
        ]

    def calls(self, method: str) -> list[Any]:
        """Params of every RPC call the plugin made with this method."""
        made = self.world.transcript.select("rpc>host", "lsp/plugin-rpc", method)
        return [entry["msg"]["params"] for entry in made]

    def order(self, *methods: str) -> list[str]:
        """RPC calls and hook answers of the plugin, in order: method names; answers as `forward` and `fail`."""
        seen = []
        for entry in self.world.transcript.entries:
            message = entry["msg"]
            if entry["dir"] == "rpc>host" and entry["peer"] == "lsp/plugin-rpc":
                seen.append(message["method"])
            elif entry["dir"] == "plugin>host" and isinstance(message.get("result"), dict):
                result = message["result"]
                seen.append("forward" if "forward_to" in result else str(result.get("result")))
        return [name for name in seen if name in methods] if methods else seen

    def htlc_results(self, payment_hash: bytes) -> list[Any]:
        """Results of the hook calls of one payment, in the order of the calls; None where none was given yet."""
        return [
            self.results.get(call_id)
            for call_id, (method, params) in self.asked.items()
            if method == "htlc_accepted" and params["htlc"]["payment_hash"] == payment_hash.hex()
        ]

    def failures(self) -> list[str]:
        """Every failure message the plugin has ever given."""
        results = [result for result in self.results.values() if isinstance(result, dict)]
        return [result["failure_message"] for result in results if result.get("result") == "fail"]

    def answer_counts(self, payment_hash: bytes) -> list[int]:
        """How often each hook call of one payment was answered."""
        return [
            self.answered[call_id]
            for call_id, (method, params) in self.asked.items()
            if method == "htlc_accepted" and params["htlc"]["payment_hash"] == payment_hash.hex()
        ]

    def states(self, invoice: ClientInvoice) -> list[str]:
        """States its sessions went through."""
        return self.changes.get(invoice.payment_hash.hex(), [])

    async def fence(self) -> None:
        """What was sent to the plugin before has been dealt with when this returns."""
        await self.lsp.call("lsps2-dev-advance", {"seconds": 0})

    async def stats(self) -> dict[str, Any]:
        """`lsps2-stats`; a fence, too."""
        stats: dict[str, Any] = await self.lsp.call("lsps2-stats")
        return stats

    async def held(self, count: int) -> None:
        """Wait until so many hook calls are open at the node and the plugin has seen them all."""
        await self.until(lambda: len(self.lsp.htlcs.held) == count, f"{count} held parts")
        assert (await self.stats())["held_parts"] == count
        for _ in range(4):  # a part over a channel not heard of yet counts while lightningd is asked for its name
            await self.fence()

    async def state(self, invoice: ClientInvoice, state: str) -> None:
        """Wait until a session of this payment has reached a state."""
        await self.until(lambda: state in self.states(invoice), f"state {state}")

    async def ended(self, invoice: ClientInvoice) -> str:
        """Wait until the latest session of this payment is over; how it ended."""
        await self.until(lambda: self.states(invoice)[-1:] in ENDS, "the end of the session")
        return self.states(invoice)[-1]

    async def quiet(self) -> None:
        """Wait until the plugin asks nothing more of lightningd.

        An answer may still be on its way through the plugin's loop when the fence comes back, hence several rounds.
        """
        rounds, seen, deadline = 0, -1, asyncio.get_running_loop().time() + PATIENCE_S
        while rounds < 8:
            assert asyncio.get_running_loop().time() < deadline, f"never quiet: {self._rpc_open}\n{self.story()}"
            rounds = rounds + 1 if self._rpc_asked == seen and not self._rpc_open else 0
            seen = self._rpc_asked
            await self.fence()

    async def at_rest(self) -> None:
        """Wait until no payment is under way and the plugin asks nothing more of lightningd."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        await self.quiet()
        while any(buy["payments"] for buy in (await self.lsp.call("lsps2-listsessions"))["sessions"]):
            assert asyncio.get_running_loop().time() < deadline, f"a payment never ends\n{self.story()}"
            await self.quiet()

    # Buying and paying -----------------------------------------------------------------------------

    def client(self, name: str = "alice", **behaviour: Any) -> Client:
        """A wallet connected to the LSP."""
        return self.world.client(self._own(name), **behaviour)

    def payer(self, name: str = "payer", channels: int = 1, capacity_sat: int = 10_000_000) -> Payer:
        """The payer."""
        return self.world.payer(self._own(name), channels, capacity_sat)

    def _own(self, name: str) -> str:
        """Keys follow from names: each story has its own people."""
        return f"{name} {self._story}" if self._story else name

    async def offer(self, client: Client) -> dict[str, Any]:
        """The first entry of the menu this client gets."""
        menu = await client.request("lsps2.get_info")
        entry: dict[str, Any] = menu["opening_fee_params_menu"][0]
        return entry

    async def buy(self, client: Client, size_msat: int | None = SIZE_MSAT) -> dict[str, Any]:
        """The result of `lsps2.buy`, with the terms under `terms`."""
        offer = await self.offer(client)
        ask: dict[str, Any] = {"opening_fee_params": offer}
        if size_msat is not None:
            ask["payment_size_msat"] = str(size_msat)
        bought = await client.request("lsps2.buy", ask)
        return {**bought, "terms": FeeParams.from_json(offer)}

    async def invoice(
        self, client: Client, size_msat: int | None = SIZE_MSAT, preimage: bytes | None = None
    ) -> ClientInvoice:
        """Buy, then an invoice over the new jit scid; `size_msat` None: variable mode."""
        bought = await self.buy(client, size_msat)
        terms = bought["terms"]
        return client.invoice(
            size_msat,
            bought["jit_channel_scid"],
            opening_fee_msat=lambda size: terms.fee_msat(size) or 0,
            cltv_delta=bought["lsp_cltv_expiry_delta"],
            preimage=preimage,
        )

    async def paid(
        self, payer: Payer, invoice: ClientInvoice, amounts: list[int] | None = None, **how: Any
    ) -> PaymentResult:
        """Pay in these parts (default: five of 2,000,000); everything must arrive and the session end well."""
        amounts = amounts or [SIZE_MSAT // 5] * 5
        before, refused = invoice.payee.received_msat(), len(invoice.payee.refused)
        result = await payer.pay(invoice, amounts, **how)
        assert result.raw_messages == [""] * len(amounts), result
        assert invoice.payee.received_msat() - before == sum(amounts) - invoice.fee_taken_msat
        assert invoice.payee.refused[refused:] == []
        return result

    async def sale(self, client: Client, payer: Payer, size_msat: int = SIZE_MSAT, parts: int = 5) -> ClientInvoice:
        """A whole sale in fixed mode, fee and books checked to the msat, the channel's funding mined."""
        self.world.open_books()
        invoice = await self.invoice(client, size_msat)
        await self.paid(payer, invoice, [size_msat // parts] * parts)
        await self.over(invoice)
        assert invoice.fee_taken_msat == FEE_MSAT
        books = self.world.books()
        assert books[payer.name] == -size_msat
        assert books[client.name] == size_msat - FEE_MSAT
        self.world.mine()
        return invoice

    async def still_sells(self, payer: Payer | None = None, name: str = "zoe") -> ClientInvoice:
        """Prove that the plugin goes on: a new wallet buys and is paid."""
        return await self.sale(self.client(name), payer or self.payer(f"payer of {name}"), parts=2)

    async def over(self, invoice: ClientInvoice) -> None:
        """Wait until the sale is over and its final record written."""
        await self.state(invoice, "SUCCEEDED")
        await self.until(lambda: self.outcome(invoice.scid) == "Succeeded", "the final record")

    async def underpaid(self, invoice: ClientInvoice) -> None:
        """Wait until the client has taken parts that carried less than the fee, and the record says what is owed."""
        await self.state(invoice, "UNDERPAID")
        await self.quiet()
        facts = self.records("active")[invoice.scid]["lsps2fast"]
        assert facts["stage"] == "channel"
        assert int(facts["fee_paid_msat"]) + int(facts["opening_fee_msat"]) == FEE_MSAT
        assert int(facts["opening_fee_msat"]) > 0

    def repeat(self, invoice: ClientInvoice, place: int = 0) -> asyncio.Future[dict[str, Any]]:
        """Deliver one hook call of this payment again, under a new id; a future with its answer."""
        calls = [
            params
            for method, params in self.asked.values()
            if method == "htlc_accepted" and params["htlc"]["payment_hash"] == invoice.payment_hash.hex()
        ]
        return self.hook_call(calls[place])

    def part_call(self, invoice: ClientInvoice, payer: Payer, value_msat: int = SIZE_MSAT, htlc_id: int = 9000) -> Any:
        """Params of a hook call for a whole payment of this invoice, to be spoilt; the node has no such HTLC."""
        height = self.lsp.height
        payload = tlv.prefixed(tlv.hop_payload(value_msat, height + 12, invoice.scid))
        return {
            "peer_id": payer.node_id,
            "onion": {
                "payload": payload.hex(),
                "type": "tlv",
                "short_channel_id": invoice.scid,
                "forward_msat": value_msat,
                "outgoing_cltv_value": height + 12,
                "next_onion": "00" * 1366,
                "shared_secret": "11" * 32,
            },
            "htlc": {
                "short_channel_id": payer.channels[0].other.scid_now(),
                "id": htlc_id,
                "amount_msat": value_msat,
                "cltv_expiry": height + 12 + invoice.cltv_delta,
                "cltv_expiry_relative": 12 + invoice.cltv_delta,
                "payment_hash": invoice.payment_hash.hex(),
            },
        }

    def hook_call(self, params: Any) -> asyncio.Future[dict[str, Any]]:
        """Ask the plugin about an HTLC that the node does not have; a future with the whole answer."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.lsp.plugin.request("htlc_accepted", params, lambda answer: future.set_result(answer or {}))
        return future

    def valid(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The result of a hook answer, once it is certain that lightningd would not die of it (cln:H9)."""
        read_answer(answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def raw(self, *pieces: bytes) -> None:
        """Bytes on the plugin's stdin, each piece read before the next is written."""
        plugin = self.lsp.plugin
        pipe = plugin._writer.get_extra_info("pipe")

        async def read_by_the_plugin() -> None:
            while _unread(pipe):  # noqa: ASYNC110  (a pipe does not tell that it is empty)
                await asyncio.sleep(0)

        plugin._flush()
        for piece in pieces:
            plugin._writer.write(piece)
            await self.world.bounded(read_by_the_plugin(), PATIENCE_S, "the plugin has read everything")

    def hang_up(self) -> None:
        """Break the plugin's RPC connection, whatever is on its way; new connections are accepted."""
        for connection in list(self.lsp.server.connections):
            connection.transport.abort()
        self.forget_calls()

    def forget_calls(self) -> None:
        """RPC calls that are open now will get no answer."""
        self._rpc_open.clear()

    # The journal -----------------------------------------------------------------------------------

    def records(self, folder: str) -> dict[str, dict[str, Any]]:
        """Records by jit scid."""
        rows = self.lsp.datastore.rows.items()
        prefix = (*SESSIONS, folder)
        return {key[-1]: json.loads(value) for key, (value, _) in rows if key[:-1] == prefix}

    def outcome(self, scid: str | None) -> str | None:
        """How the buy ended according to the journal; None while its active record is there."""
        if str(scid) in self.records("active"):
            return None
        return self.records("finalized").get(str(scid), {}).get("outcome")

    # What a story leaves behind ----------------------------------------------------------------------

    async def tidy(self) -> None:
        """Whatever the story was about: the house is in order afterwards."""
        assert self.lsp.state == "running", self.lsp.crash_log
        listed: list[dict[str, Any]] = []

        async def settled() -> list[str]:
            if self.plugin_lives:
                await self.quiet()
                listed[:] = (await self.lsp.call("lsps2-listsessions"))["sessions"]
            return [end for end in self._loose_ends(listed) if not end.startswith(self.leaves)]

        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while (left := await settled()) and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        assert self.world.problems == []
        assert left == [], f"{left}\n{self.story()}"
        self.world.check_books()
        assert [party.name for party in self.world.parties.values() if party.force_closed] == []
        assert [message for message in self.failures() if not self.allowed.fullmatch(message)] == []
        assert not self.errors_expected or self.log_lines("", "error"), "an error was announced, none was logged"
        assert self.errors_expected or self.log_lines("", "error") == []
        assert [line for line in self.plugin_stderr() if "Traceback" in line or "Error" in line] == []

    def story(self) -> str:
        """The transcript without our own questions: for error messages."""
        lines = [json.dumps([entry["dir"], entry["msg"]])[:300] for entry in self.world.transcript.entries]
        return "\n".join(line for line in lines if "driver:lsps2-" not in line)[-12_000:]

    def plugin_stderr(self) -> list[str]:
        """What the plugin processes wrote to stderr."""
        return [line for process in self.lsp.processes for line in process.stderr]

    def _loose_ends(self, listed: list[dict[str, Any]]) -> list[str]:
        """What is not in order, a word each."""
        return [*self._unanswered(), *self._coins_and_channels(), *self._journal(listed)]

    def _unanswered(self) -> list[str]:
        ends = [f"{len(self.lsp.htlcs.held)} parts held"] if self.lsp.htlcs.held else []
        for call_id, (method, _) in self.asked.items():
            if self.answered[call_id] > 1 or (self.plugin_lives and self.answered[call_id] == 0):
                ends.append(f"{method} {call_id} answered {self.answered[call_id]} times")
        return ends

    def _coins_and_channels(self) -> list[str]:
        ends = [f"coin {row['txid']} reserved" for row in self.lsp.wallet.rows() if row["reserved"]]
        for end in self.lsp.ends:
            if end.forgotten or not end.opener or (end.channel.dead and not end.channel.withheld):
                continue
            if end.channel.withheld:
                ends.append(f"channel {end.channel.channel_id} withheld")
            elif (end.fee_base_msat, end.fee_ppm) != (self.lsp.fee_base_msat, self.lsp.fee_ppm):
                ends.append(f"channel {end.channel.channel_id} keeps fees of {end.fee_base_msat} + {end.fee_ppm} ppm")
        return ends

    def _journal(self, listed: list[dict[str, Any]]) -> list[str]:
        """Active records are exactly those of unpaid live buys, and tell of no payment under way."""
        active, finalized = self.records("active"), self.records("finalized")
        # notes of routing fees outlive a payment for some blocks after a start, and never else
        memory = (*MEMORY, FEE_NOTES) if self._died else MEMORY
        rows = [key for key in self.lsp.datastore.rows if key[:3] not in memory]
        ends = [f"strange key {key}" for key in rows if key[:3] != SESSIONS or len(key) != 5]
        for scid, record in active.items():
            if record["lsps2fast"]["stage"] not in ("buy", "channel"):
                ends.append(f"record {scid} at stage {record['lsps2fast']['stage']}")
        if not self.plugin_lives:
            return ends
        owed = {buy["jit_channel_scid"] for buy in listed if not buy["paid"]}
        ends += [f"active record {scid} for nothing" for scid in active.keys() - owed]
        ends += [f"no active record for {scid}" for scid in owed - active.keys()]
        sold = {buy["jit_channel_scid"] for buy in listed if buy["paid"]}
        ends += [f"no final record for {scid}" for scid in sold - finalized.keys()]
        return ends + [f"payment {pay} under way" for buy in listed for pay in buy["payments"]]


COINS = (1_000_000,) * 8
CHANNEL_SAT = 130_000  # about what a payment of 10,000 sat gets, headroom included


async def refused(stage: Stage) -> dict[str, int]:
    """What was refused so far."""
    return {name: count for name, count in (await stage.stats())["refusals"].items() if count}
