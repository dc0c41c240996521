"""A staged wallet: the real plugin object on a pretended lightningd and LSP, without pipes and without time passing.

Everything a test wants to look at is recorded: calls to lightningd, answers to hooks, log lines. Nothing waits for real
time; `calm()` lets all tasks run until they wait for something that only the test can bring.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

from coincurve import PrivateKey

from harness.logs import Log
from harness.rows import CHANNEL as CHANNEL_ROW
from lsps2fast import _hook as hook
from lsps2fast import _tlv as tlv
from lsps2fast import bolt11
from lsps2fast.errors import Lsps2Error, NodeError
from lsps2fast.lsps.lsps2 import format_datetime, format_scid
from lsps2fast_plugin.client.app import Client
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.cln.clock import Clock

NOW_MS = 1_800_000_000_000
HEIGHT = 800
FEE = 1_000_000  # what the LSP takes of 20 000 000 msat
JIT_SCID = "29451x4815x1"
CHANNEL = "ab" * 32
CHANNEL_SCID = "15238656x9654426x58025"
TXID = "cd" * 32
P2WSH = "0020" + "5a" * 32
SETTINGS = Settings(
    max_fee_msat=100_000_000,
    max_fee_ppm=500_000,
    funding_depth=1,
    hold_ms=90_000,
    funding_timeout_ms=600_000,
    zero_reserve=False,
    trusted=frozenset(),
)
Json = dict[str, Any]


def key(number: int) -> PrivateKey:
    return PrivateKey(bytes([number] * 32))


def node_id(number: int) -> str:
    public: str = key(number).public_key.format().hex()
    return public


LSP, OTHER_LSP, STRANGER, WALLET = node_id(1), node_id(2), node_id(3), node_id(9)


class StillClock(Clock):
    """Time that passes only when it is turned."""

    def __init__(self) -> None:
        super().__init__()
        self.wall_jump_ms = 0

    def now_ms(self) -> int:
        return 1_000_000 + self._offset_ms

    def wall_ms(self) -> int:
        return NOW_MS + self._offset_ms + self.wall_jump_ms


class Lsp:
    """An LSP. A test replaces `answer` or changes the fields to make it lie."""

    def __init__(self, lsp_id: str, **fields: Any) -> None:
        self.id = lsp_id
        self.entries = [entry(**fields)]
        self.trust = False
        self.scid = JIT_SCID
        self.delta = 144
        self.asked: list[Json] = []
        self.errors: dict[str, list[Json]] = {}
        self.silent = False
        self.webhooks: dict[str, str] = {}
        self.mutate: Callable[[Json], Json] = lambda reply: reply

    def menu(self) -> Json:
        return {"opening_fee_params_menu": self.entries}

    def result(self, request: Json) -> Json:
        if request["method"] == "lsps0.list_protocols":
            return {"protocols": [2]}
        if request["method"] == "lsps2.get_info":
            return self.menu()
        if request["method"].startswith("lsps5."):
            return self._webhook(request["method"], request["params"])
        return {
            "jit_channel_scid": self.scid,
            "lsp_cltv_expiry_delta": self.delta,
            "client_trusts_lsp": self.trust,
        }

    def _webhook(self, method: str, params: Json) -> Json:
        if method == "lsps5.list_webhooks":
            return {"app_names": list(self.webhooks), "max_webhooks": 3}
        if method == "lsps5.remove_webhook":
            del self.webhooks[params["app_name"]]
            return {}
        same = self.webhooks.get(params["app_name"]) == params["webhook"]
        self.webhooks[params["app_name"]] = params["webhook"]
        return {"num_webhooks": len(self.webhooks), "max_webhooks": 3, "no_change": same}

    def answer(self, request: Json) -> list[bytes]:
        """The messages it sends back."""
        self.asked.append(request)
        if self.silent:
            return []
        reply: Json = {"jsonrpc": "2.0", "id": request["id"]}
        waiting = self.errors.get(request["method"])
        if waiting:
            reply["error"] = waiting.pop(0)
        else:
            reply["result"] = self.result(request)
        return [json.dumps(self.mutate(reply)).encode()]


def entry(**fields: Any) -> Json:
    """One entry of a menu: 1 %, at least 1 000 sat, good for an hour."""
    return {
        "min_fee_msat": "1000000",
        "proportional": 10_000,
        "valid_until": format_datetime(NOW_MS + 3_600_000),
        "min_lifetime": 1008,
        "max_client_to_self_delay": 2016,
        "min_payment_size_msat": "1500000",
        "max_payment_size_msat": "4000000000",
        "promise": "p" * 64,
    } | fields


def channel_row(**fields: Any) -> Json:
    """An entry of listpeerchannels: an unconfirmed JIT channel of 200 000 sat."""
    return (
        CHANNEL_ROW
        | {
            "peer_id": LSP,
            "peer_connected": True,
            "reestablished": True,
            "state": "CHANNELD_NORMAL",
            "channel_id": CHANNEL,
            "funding_txid": TXID,
            "funding_outnum": 1,
            "private": True,
            "opener": "remote",
            "alias": {"local": CHANNEL_SCID, "remote": "4529781x3648663x14848"},
            "total_msat": 200_000_000,
            "to_us_msat": 0,
            "max_to_us_msat": 0,
        }
        | fields
    )


class Lightningd:
    """lightningd's RPC methods, as far as the wallet uses them; stands in for `rpc.Rpc`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.calls: list[tuple[str, Json]] = []
        self.datastore: dict[tuple[str, ...], bytes] = {}
        self.invoices: dict[str, Json] = {}
        self.channels: list[Json] = []
        self.closed: list[Json] = []
        self.utxos: dict[tuple[str, int], Json] = {}
        self.peers: dict[str, Json] = {LSP: {"netaddr": ["127.0.0.1:9735"], "features": ""}}
        self.reachable: set[str] = set()
        self.configs: Json = {"cltv-final": {"value_int": 10}, "watchtime-blocks": {"value_int": 144}}
        self.faults: dict[str, list[NodeError]] = {}
        self.developer = False
        self.deleted = 0
        self.deletion = asyncio.Event()

    def named(self, method: str) -> list[Json]:
        return [params for name, params in self.calls if name == method]

    async def call(
        self, method: str, params: Json | None = None, timeout_s: float | None = 60.0, late: Any = None
    ) -> Json:
        params = params or {}
        self.calls.append((method, params))
        await asyncio.sleep(0)
        if self.faults.get(method):
            raise self.faults[method].pop(0)
        if method == "wait":
            return await self.wait(params["nextvalue"])
        answer: Json = getattr(self, "do_" + method.replace("-", "_"))(params)
        return answer

    async def wait(self, number: int) -> Json:
        """`wait invoices deleted`."""
        while self.deleted < number:
            await self.deletion.wait()
        return {"subsystem": "invoices", "deleted": self.deleted}

    async def close(self) -> None:
        """Nothing is open."""

    def do_getinfo(self, params: Json) -> Json:
        return {"id": WALLET, "blockheight": self.stage.height, "network": "regtest"}

    def do_listconfigs(self, params: Json) -> Json:
        return {"configs": self.configs}

    def do_listpeers(self, params: Json) -> Json:
        wanted = params.get("id")
        return {
            "peers": [
                {"id": peer_id, "connected": True, **row}
                for peer_id, row in self.peers.items()
                if wanted in (None, peer_id)
            ]
        }

    def do_connect(self, params: Json) -> Json:
        if params["id"] not in self.reachable:
            raise NodeError("connect", 400, "Unable to connect, no address known for peer")
        self.stage.connect(params["id"].partition("@")[0])
        return {"id": params["id"]}

    def do_sendcustommsg(self, params: Json) -> Json:
        peer_id, payload = params["node_id"], bytes.fromhex(params["msg"])
        if peer_id not in self.peers:
            raise NodeError("sendcustommsg", -32600, f"No such peer: {peer_id}")
        assert payload[:2] == b"\x94\x19"
        lsp = self.stage.lsps.get(peer_id)
        if lsp is not None:
            for reply in lsp.answer(json.loads(payload[2:])):
                self.stage.message(peer_id, reply)
        return {"status": "Message sent to connectd for delivery"}

    def do_datastore(self, params: Json) -> Json:
        self.datastore[tuple(params["key"])] = bytes.fromhex(params["hex"])
        return {"key": params["key"], "generation": 0, "hex": params["hex"]}

    def do_deldatastore(self, params: Json) -> Json:
        if self.datastore.pop(tuple(params["key"]), None) is None:
            raise NodeError("deldatastore", 1200, "Key does not exist")
        return {"key": params["key"]}

    def do_listdatastore(self, params: Json) -> Json:
        prefix = tuple(params["key"])
        rows = [
            {"key": list(name), "hex": value.hex()}
            for name, value in self.datastore.items()
            if name[:-1] == prefix or name == prefix
        ]
        return {"datastore": rows}

    def do_listinvoices(self, params: Json) -> Json:
        rows = [
            row
            for row in self.invoices.values()
            if params.get("label") in (None, row["label"]) and params.get("payment_hash") in (None, row["payment_hash"])
        ]
        return {"invoices": rows}

    def do_createinvoice(self, params: Json) -> Json:
        meant = bolt11.decode(params["invstring"], signed=False)
        preimage = bytes.fromhex(params["preimage"])
        assert hashlib.sha256(preimage).digest() == meant.payment_hash
        assert bolt11.payment_secret_for(preimage) == meant.payment_secret
        row: Json = {
            "label": params["label"],
            "bolt11": bolt11.encode(meant, lambda digest: key(9).sign_recoverable(digest, hasher=None)),
            "payment_hash": meant.payment_hash.hex(),
            "status": "unpaid",
            "description": meant.description,
            "expires_at": meant.timestamp_s + meant.expiry_s,
            "created_index": len(self.invoices) + 1,
        }
        if meant.amount_msat is not None:
            row["amount_msat"] = meant.amount_msat
        self.invoices[params["label"]] = row
        self.stage.preimages[meant.payment_hash] = preimage
        return row

    def do_signinvoice(self, params: Json) -> Json:
        meant = bolt11.decode(params["invstring"], signed=False)
        return {"bolt11": bolt11.encode(meant, lambda digest: key(9).sign_recoverable(digest, hasher=None))}

    def own(self, payment_hash: str) -> None:
        """Make an invoice of the owner's, whose words do not matter."""
        row = {"label": payment_hash, "payment_hash": payment_hash, "status": "unpaid", "expires_at": NOW_MS // 500}
        self.invoices[payment_hash] = row

    def do_makesecret(self, params: Json) -> Json:
        return {"secret": hashlib.sha256(b"hsm" + params["string"].encode()).hexdigest()}

    def do_delinvoice(self, params: Json) -> Json:
        row = self.invoices.get(params["label"])
        if row is None or row["status"] != params["status"]:
            raise NodeError("delinvoice", 905, "Unknown invoice")
        self.deleted += 1
        self.deletion.set()
        self.deletion = asyncio.Event()
        return self.invoices.pop(params["label"])

    def do_listpeerchannels(self, params: Json) -> Json:
        wanted = params.get("id")
        return {"channels": [dict(row) for row in self.channels if wanted in (None, row["peer_id"])]}

    def do_listclosedchannels(self, params: Json) -> Json:
        return {"closedchannels": self.closed}

    def do_getutxout(self, params: Json) -> Json:
        return self.utxos.get((params["txid"], params["vout"]), {"amount": None, "script": None})

    def do_close(self, params: Json) -> Json:
        return {"type": "unilateral", "txids": []}

    def do_dev_forget_channel(self, params: Json) -> Json:
        if not self.developer:
            raise NodeError("dev-forget-channel", -32601, "Unknown command 'dev-forget-channel'")
        self.channels = [row for row in self.channels if row["channel_id"] != params["channel_id"]]
        return {"forced": False}


class FakeHost:
    """Records answers; runs tasks."""

    def __init__(self) -> None:
        self.asked: set[bytes] = set()
        self.answers: dict[bytes, Json] = {}
        self.order: list[bytes] = []
        self.logs = Log()
        self.tasks: set[asyncio.Task[None]] = set()
        self.sent: list[tuple[str, Json]] = []
        self.loaded = False

    def _answer(self, id_raw: bytes, **answer: Any) -> None:
        assert id_raw not in self.answers, f"a second answer to {id_raw!r}: {answer} after {self.answers[id_raw]}"
        self.answers[id_raw] = answer
        self.order.append(id_raw)

    def final(self, id_raw: bytes, payload_hex: str, invoice_msat: int | None = None) -> None:
        hook.answer_final(id_raw, payload_hex, invoice_msat)
        self._answer(id_raw, result="continue", payload=payload_hex, invoice_msat=invoice_msat)

    def fail(self, id_raw: bytes, failure_hex: str) -> None:
        hook.answer_fail(id_raw, failure_hex)
        self._answer(id_raw, result="fail", failure=failure_hex)

    def let_go(self, id_raw: bytes) -> None:
        self._answer(id_raw, result="continue")

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task

    def send(self, method: str, params: Json) -> None:
        self.sent.append((method, params))

    def interest_loaded(self) -> None:
        self.loaded = True

    def said(self, level: str) -> str:
        return self.logs.text(level)


class FakeRequest:
    """A hook call or method call answered later."""

    def __init__(self) -> None:
        self.result: Json | None = None

    def set_result(self, result: Json) -> None:
        assert self.result is None, "a second answer"
        self.result = result


class Stage:
    """The wallet and the world around it."""

    def __init__(self, settings: Settings = SETTINGS, **fields: Any) -> None:
        self.settings = settings._replace(**fields)
        self.height = HEIGHT
        self.preimages: dict[bytes, bytes] = {}
        self.lsps = {LSP: Lsp(LSP)}
        self.node = Lightningd(self)
        self._count = 0
        self._born()

    def _born(self) -> None:
        """A new process: nothing is left but what lightningd keeps."""
        self.client = Client()
        self.host = FakeHost()
        self.clock = getattr(self, "clock", None) or StillClock()
        self.client.clock = self.client.reports._clock = self.clock
        self.client.host = self.host  # type: ignore[assignment]
        self.client.settings = self.settings
        self.client._build(self.settings, self.node, "bcrt")  # type: ignore[arg-type]

    @property
    def lsp(self) -> Lsp:
        return self.lsps[LSP]

    async def start(self) -> None:
        self.host.spawn(self.client._start())
        await self.calm()

    async def stop(self) -> None:
        """End all tasks; what they raised comes out."""
        done = [task for task in self.host.tasks if task.done() and not task.cancelled()]
        for task in self.host.tasks:
            task.cancel()
        await asyncio.gather(*self.host.tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def restart(self) -> None:
        """lightningd and the plugin stop and start again."""
        await self.stop()
        self._born()
        await self.start()

    async def calm(self, turns: int = 60) -> None:
        """Let everything run that can."""
        for _ in range(turns):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.calm()

    async def block(self, count: int = 1) -> None:
        for _ in range(count):
            self.height += 1
            self.client.hear("block_added", block_added={"hash": "00", "height": self.height})
            await self.calm()

    # peers

    def message(self, peer_id: str, payload: bytes) -> None:
        """A message of type 37913 arrives."""
        answer = self.client._on_custommsg(peer_id, "9419" + payload.hex())
        assert answer == {"result": "continue"}

    def connect(self, peer_id: str) -> None:
        self.node.peers[peer_id] = {"netaddr": ["127.0.0.1:9735"], "features": ""}
        self.client.hear("connect", connect={"id": peer_id})

    def disconnect(self, peer_id: str) -> None:
        self.node.peers.pop(peer_id, None)
        self.client.hear("disconnect", disconnect={"id": peer_id})

    # buying

    async def invoice(self, amount_msat: Any = 20_000_000, **more: Any) -> Json:
        """`lsps-lsps2-invoice`; the label is new each time."""
        self._count += 1
        given = {"lsp_id": LSP, "description": "a channel", "label": f"label {self._count}"} | more
        result: Json = await self.client.methods.invoice(amount_msat=amount_msat, **given)
        return result

    # channels

    def open_request(self, **fields: Any) -> Json:
        """The hook's openchannel as recorded (b3_mpp5_invoice_msat)."""
        return {
            "id": LSP,
            "funding_msat": 200_000_000,
            "push_msat": 0,
            "dust_limit_msat": 546_000,
            "max_htlc_value_in_flight_msat": 18_446_744_073_709_551_615,
            "channel_reserve_msat": 2_000_000,
            "htlc_minimum_msat": 0,
            "feerate_per_kw": 2500,
            "to_self_delay": 6,
            "max_accepted_htlcs": 483,
            "channel_flags": 0,
            "channel_type": {"bits": [12, 46, 50], "names": []},
        } | fields

    async def opening(self, **fields: Any) -> Json:
        """The answer to an openchannel hook."""
        request = FakeRequest()
        self.client._on_openchannel(request, self.open_request(**fields))  # type: ignore[arg-type]
        await self.calm()
        while request.result is None:
            await self.pass_time(1)
        return request.result

    async def channel(self, **fields: Any) -> Json:
        """An accepted channel comes into normal operation; its row."""
        row = channel_row(**fields)
        asked = {"funding_msat": row["total_msat"], "channel_reserve_msat": row["total_msat"] // 100}
        assert (await self.opening(id=row["peer_id"], **asked)).get("mindepth") == 0
        self.node.channels.append(row)
        await self.state(row["channel_id"], "CHANNELD_AWAITING_LOCKIN", None, row["peer_id"])
        await self.state(row["channel_id"], "CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN", row["peer_id"])
        return row

    async def state(
        self,
        channel_id: str,
        new: str,
        old: str | None = "CHANNELD_NORMAL",
        peer_id: str = LSP,
        *,
        cause: str = "remote",
    ) -> None:
        """channel_state_changed; the row follows."""
        for row in self.node.channels:
            if row["channel_id"] == channel_id:
                row["state"] = new
        event = {"peer_id": peer_id, "channel_id": channel_id, "new_state": new, "cause": cause}
        self.client.hear(
            "channel_state_changed", channel_state_changed=event if old is None else event | {"old_state": old}
        )
        await self.calm()

    def fund(self, sat: int = 200_000, script: str = P2WSH, txid: str = TXID, vout: int = 1) -> None:
        """The funding transaction comes into sight of our backend."""
        self.node.utxos[txid, vout] = {"amount": f"{sat}sat", "script": script}

    def confirm(self, channel_id: str = CHANNEL, height: int | None = None) -> None:
        """lightningd gives the channel its real scid."""
        for row in self.node.channels:
            if row["channel_id"] == channel_id:
                row["short_channel_id"] = f"{height or self.height}x1x1"

    # HTLCs

    def part(self, invoice: Json, amount_msat: int, extra_fee_msat: int | None = None, **fields: Any) -> bytes:
        """An HTLC of `amount_msat` as the payer sent it, less the LSP's fee, reaches the hook; the id of the call."""
        self._count += 1
        id_raw = b'"cln:htlc_accepted#%d"' % self._count
        self.host.asked.add(id_raw)
        self.client._on_htlc(self.scan(invoice, amount_msat, extra_fee_msat, id_raw=id_raw, **fields))
        return id_raw

    def scan(
        self,
        invoice: Json,
        onion_msat: int,
        extra_fee_msat: int | None = None,
        *,
        htlc_msat: int | None = None,
        total_msat: int | None = None,
        payload_hex: str | None = None,
        **fields: Any,
    ) -> Any:
        secret = bytes.fromhex(fields.pop("secret", invoice["payment_secret"]))
        decoded = bolt11.decode(invoice["bolt11"])
        total = total_msat if total_msat is not None else decoded.amount_msat or onion_msat
        tlvs = tlv.extra_fee_tlvs(extra_fee_msat) if extra_fee_msat else None
        cltv_expiry = fields.pop("cltv_expiry", self.height + decoded.min_final_cltv_blocks)
        return hook.Scan(
            **{
                "id_raw": b'"x"',
                "next_scid": -1,
                "forward_to": None,
                "payment_hash": bytes.fromhex(invoice["payment_hash"]),
                "in_scid": tlv.scid_from_str(CHANNEL_SCID),
                "htlc_id": self._count,
                "amount_msat": onion_msat - (extra_fee_msat or 0) if htlc_msat is None else htlc_msat,
                "cltv_expiry": cltv_expiry,
                "forward_msat": onion_msat,
                "outgoing_cltv_value": cltv_expiry,
                "payload_hex": payload(onion_msat, cltv_expiry, secret, total) if payload_hex is None else payload_hex,
                "total_msat": total,
                "payment_secret": secret.hex(),
                "extra_tlvs": tlvs,
                "peer_id": LSP,
                **fields,
            }
        )

    def answer(self, id_raw: bytes) -> Json | None:
        return self.host.answers.get(id_raw)

    async def paid(self, invoice: Json) -> None:
        """lightningd settles the invoice."""
        preimage = self.preimages[bytes.fromhex(invoice["payment_hash"])]
        for row in self.node.invoices.values():
            if row["payment_hash"] == invoice["payment_hash"]:
                row["status"] = "paid"
        self.client.hear("invoice_payment", invoice_payment={"msat": 1, "preimage": preimage.hex(), "label": "x"})
        await self.calm()

    # looking

    @property
    def working(self) -> dict[tuple[str, ...], bytes]:
        """What lies in the datastore, but for the history, which stays."""
        kept = ("purchase", "reports")
        return {
            name: value for name, value in self.node.datastore.items() if name[2:3] not in [(each,) for each in kept]
        }

    @property
    def keys(self) -> set[str]:
        """The same by the last part of its key."""
        return {name[-1] for name in self.working}

    def reports(self) -> str:
        return "\n".join(each["report"] for each in self.client.reports.kept)


async def failure_of(work: Coroutine[Any, Any, Any]) -> Lsps2Error | None:
    """What it raised of ours, None when it worked."""
    try:
        await work
    except Lsps2Error as error:
        return error
    return None


def payload(onion_msat: int, cltv_expiry: int, secret: bytes, total_msat: int) -> str:
    """A final hop's payload as the hook shows it, length first (cln:H1)."""
    records = [
        (2, tlv.encode_tu(onion_msat)),
        (4, tlv.encode_tu(cltv_expiry, 4)),
        (8, secret + tlv.encode_tu(total_msat)),
    ]
    stream: bytes = tlv.write_stream(records)
    return (tlv.encode_bigsize(len(stream)) + stream).hex()


def details(amount_msat: int, stage: Stage) -> Json:
    """incorrect_or_unknown_payment_details (I-26)."""
    return {"result": "fail", "failure": f"400f{amount_msat:016x}{stage.height:08x}"}


def claimed(answer: Json | None) -> tuple[int | None, int | None, int | None]:
    """(amount, total, invoice_msat) of an answer that claims."""
    assert answer is not None
    assert answer["result"] == "continue"
    read = tlv.read_payload(answer["payload"], prefixed=False)
    return read.amt_to_forward_msat, read.total_msat, answer["invoice_msat"]


async def ready(stage: Stage, amount_msat: Any = 20_000_000, **more: Any) -> Json:
    """An invoice in client-trusts-LSP mode, and its channel."""
    stage.lsp.trust = True
    invoice = await stage.invoice(amount_msat, client_trusts_lsp=True, **more)
    await stage.channel()
    return invoice


__all__ = [
    "CHANNEL",
    "CHANNEL_SCID",
    "FEE",
    "JIT_SCID",
    "LSP",
    "NOW_MS",
    "OTHER_LSP",
    "STRANGER",
    "TXID",
    "WALLET",
    "FakeRequest",
    "Lsp",
    "Stage",
    "channel_row",
    "claimed",
    "details",
    "entry",
    "failure_of",
    "format_scid",
    "node_id",
    "payload",
    "ready",
]


STORY_LIMIT_S = 120.0
Staging = Callable[..., AbstractAsyncContextManager[Stage]]
