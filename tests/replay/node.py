"""lightningd's RPC side in a replay: recorded answers where there are some, and tables that agree with them.

What moved money in the recording (`fundpsbt`, `fundchannel_*`, `signpsbt`, `sendpsbt`) is answered with what the real
lightningd answered, in that order. What only tells the state (`list*`, `getinfo`, the datastore) is worked out from
what happened in the replay so far, on the recorded rows, because our plugin asks at other moments than the prototype.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from replay.datastore import Datastore, RpcError
from replay.recording import Answer, Recording

FEATURE_NAMES = {12: "static_remotekey/even", 22: "anchors/even", 46: "scid_alias/even", 50: "zeroconf/even"}
CLOSING = ("CHANNELD_SHUTTING_DOWN", "CLOSINGD_SIGEXCHANGE", "CLOSINGD_COMPLETE", "CLOSED")  # cln:A1, client online
Json = dict[str, Any]


@dataclass(slots=True)
class Channel:
    """A channel opened in the replay. `row` is a recorded description of it; the rest is what changed since."""

    row: Json
    withheld: bool
    coins: list[str]
    state: str = "CHANNELD_AWAITING_LOCKIN"
    fees: Json = field(default_factory=dict)
    scid: str | None = None


class Node:
    """State of the recorded lightningd, and its answers to RPC calls. `tell` sends a notification to the plugin."""

    def __init__(self, recording: Recording, tell: Callable[[str, Json], None], fees: tuple[int, int]) -> None:
        """`fees`: base (msat) and ppm that this node is configured to charge."""
        self.datastore = Datastore()
        self.channels: dict[str, Channel] = {}
        self.opened: set[str] = set()  # ids of all channels ever opened in the replay
        self.connected: dict[str, None] = {}
        self.height = 0
        self.done: Counter[str] = Counter()  # successful calls by method
        self.messages: list[Json] = []  # what went out by sendcustommsg
        self.forwards: dict[tuple[str, int], Json] = {}
        self.parts: dict[tuple[str, int], Json] = {}  # hook parameters of every HTLC shown to the plugin
        self.reserved: dict[str, int] = {}  # "txid:vout" to block
        self._recording = recording
        self._tell = tell
        self._fees = dict(zip(("feebase", "feeppm"), fees, strict=True))
        self._recorded = {method: deque(answers) for method, answers in recording.answers.items()}
        self._opening: set[str] = set()
        self._closed: list[Json] = []
        self._inputs: dict[str, list[str]] = {}  # psbt to its inputs

    def answer(self, method: str, params: Json) -> Json:
        """Carry out one call. Raises RpcError as lightningd would."""
        handler = getattr(self, "_" + method.replace("-", "_"), None)
        if handler is None:
            raise RpcError(-32601, f"Unknown command '{method}'")
        result: Json = handler(params)
        self.done[method] += 1
        return result

    def _replay(self, method: str) -> Json:
        """The next recorded answer."""
        answers: deque[Answer] = self._recorded.get(method, deque())
        if not answers:
            raise RpcError(-1, f"the recording has no further {method}")
        answer = answers.popleft()
        if not answer.ok:
            raise RpcError(answer.body["code"], answer.body["message"])
        return answer.body

    # What moves money.

    def _utxopsbt(self, params: Json) -> Json:
        """What the recorded `fundpsbt` chose, whichever coin we named: it is the one that `listfunds` offers."""
        result = self._replay("fundpsbt")
        self._inputs[result["psbt"]] = [f"{row['txid']}:{row['vout']}" for row in result["reservations"]]
        return {key: value for key, value in result.items() if key != "reservations"}

    def _addpsbtoutput(self, params: Json) -> Json:
        result = self._replay("addpsbtoutput")
        self._inputs[result["psbt"]] = self._inputs[params["initialpsbt"]]
        return result

    def _fundchannel_start(self, params: Json) -> Json:
        if params["id"] not in self.connected:
            raise RpcError(306, "Unknown peer")
        if params["id"] in self._opening:
            raise RpcError(-1, "Already funding channel")
        result = self._replay("fundchannel_start")
        self._opening.add(params["id"])
        bits = sorted(params["channel_type"])
        return result | {"channel_type": {"bits": bits, "names": [FEATURE_NAMES[bit] for bit in bits]}}

    def _fundchannel_complete(self, params: Json) -> Json:
        if params["id"] not in self._opening:
            raise RpcError(306, "Unknown peer")
        result = self._replay("fundchannel_complete")
        self._opening.discard(params["id"])
        rows = self._recording.channels[result["channel_id"]]
        row = next(row for row in rows if row["state"] == "CHANNELD_NORMAL")
        coins = self._inputs[params["psbt"]]
        self.channels[result["channel_id"]] = Channel(row, params.get("withhold", False), coins)
        self.opened.add(result["channel_id"])
        return result

    def _fundchannel_cancel(self, params: Json) -> Json:
        if params["id"] not in self._opening:
            raise RpcError(307, f"No channels being opened or awaiting lock-in for peer_id {params['id']}")
        self._opening.discard(params["id"])
        return {"cancelled": "Channel open canceled by RPC"}

    def _signpsbt(self, params: Json) -> Json:
        if any(self.reserved.get(coin, 0) <= self.height for coin in self._inputs.get(params["psbt"], ())):
            raise RpcError(-1, "Aborting PSBT signing. UTXO is not reserved")
        signed = self._replay("signpsbt")["signed_psbt"] if self._recorded.get("signpsbt") else params["psbt"] + "=="
        self._inputs[signed] = self._inputs.get(params["psbt"], [])
        return {"signed_psbt": signed}

    def _sendpsbt(self, params: Json) -> Json:
        result = self._replay("sendpsbt") if self._recorded.get("sendpsbt") else {"tx": "", "txid": ""}
        coins = self._inputs.get(params["psbt"], [])
        for channel in self.channels.values():
            if not result["txid"] or channel.row["funding_txid"] == result["txid"]:
                channel.withheld = False
        self._release(coins)
        return result

    def _release(self, coins: Iterable[str]) -> None:
        for coin in coins:
            self.reserved.pop(coin, None)

    def _setchannel(self, params: Json) -> Json:
        channel = self.channels[params["id"]]
        channel.fees |= {key: params[key] for key in self._fees if key in params}
        return {"channels": [self._row(params["id"], channel)]}

    def _close(self, params: Json) -> Json:
        channel = self.channels.get(params["id"])
        if channel is None:
            raise RpcError(-1, f"Short channel ID not active: '{params['id']}'")
        for state in CLOSING:
            change = {"peer_id": channel.row["peer_id"], "channel_id": params["id"], "cause": "user"}
            states = {"timestamp": "2026-11-22T12:00:00.000Z", "old_state": channel.state, "new_state": state}
            self.channel_changed(params["id"], state)
            self._tell("channel_state_changed", {"channel_state_changed": change | states})
        return {"txs": [], "txids": [], "type": "mutual"}

    def channel_changed(self, channel_id: str, state: str) -> None:
        """A channel of ours is in a new state; a withheld one frees its coins when it is gone (cln:A2)."""
        channel = self.channels.get(channel_id)
        if channel is None:
            return
        channel.state = state
        if state == "CLOSED":
            del self.channels[channel_id]
            closed = {"channel_id": channel_id, "funding_withheld": channel.withheld}
            self._closed.append(channel.row | closed | {"close_cause": "user", "closer": "local"})
            self._release(channel.coins)

    def disconnected(self, peer_id: str) -> None:
        """A peer is gone, and with it a channel that was just being opened."""
        self.connected.pop(peer_id, None)
        self._opening.discard(peer_id)

    def new_block(self, height: int) -> None:
        """One more block; what was broadcast before is confirmed by it."""
        self.height = height
        for channel_id, channel in self.channels.items():
            scids = [row.get("short_channel_id") for row in self._recording.channels[channel_id]]
            channel.scid = channel.scid if channel.withheld else next(filter(None, scids), None)

    def restarted(self, height: int) -> None:
        """lightningd itself was started again: no peer is connected yet and the tip is rolled back (cln:R1, cln:R2)."""
        self.connected.clear()
        self._opening.clear()
        self.height = height

    def _reserveinputs(self, params: Json) -> Json:
        coins, blocks = self._inputs.get(params["psbt"], []), params.get("reserve", 72)
        self.reserved.update({coin: max(self.reserved.get(coin, 0), self.height) + blocks for coin in coins})
        return {"reservations": [self._reservation(coin) for coin in coins]}

    def _unreserveinputs(self, params: Json) -> Json:
        coins = [coin for coin in self._inputs.get(params["psbt"], []) if coin in self.reserved]
        for coin in coins:
            del self.reserved[coin]
        return {"reservations": [self._reservation(coin) for coin in coins]}

    def _reservation(self, coin: str) -> Json:
        txid, _, vout = coin.partition(":")
        until = self.reserved.get(coin)
        row = {"txid": txid, "vout": int(vout), "was_reserved": True, "reserved": until is not None}
        return row | ({"reserved_to_block": until} if until is not None else {})

    # What tells the state.

    def _getinfo(self, params: Json) -> Json:
        network = {"network": "regtest", "version": "v26.06.6", "blockheight": self.height}
        return {"id": self._recording.node_id, "alias": "l2", "num_peers": len(self.connected), **network}

    def _listpeers(self, params: Json) -> Json:
        wanted = [peer for peer in self.connected if params.get("id", peer) == peer]
        features = self._recording.lives[0].configuration["feature_set"]["init"]
        return {"peers": [{"id": peer, "connected": True, "features": features, "num_channels": 0} for peer in wanted]}

    def _listpeerchannels(self, params: Json) -> Json:
        rows = [self._row(channel_id, channel) for channel_id, channel in self.channels.items()]
        rows += [row for row in self._upstream() if row["channel_id"] not in self.channels]
        names = {"id": "peer_id", "channel_id": "channel_id", "short_channel_id": "short_channel_id"}
        wanted = {names[key]: value for key, value in params.items() if key in names}
        return {"channels": [row for row in rows if wanted.items() <= row.items()]}

    def _upstream(self) -> list[Json]:
        opened_here = self._recording.jit_channel_ids
        rows = [rows[-1] for channel_id, rows in self._recording.channels.items() if channel_id not in opened_here]
        return [row | {"peer_connected": row["peer_id"] in self.connected} for row in rows]

    def _row(self, channel_id: str, channel: Channel) -> Json:
        online = channel.row["peer_id"] in self.connected
        row = {key: value for key, value in channel.row.items() if key not in {"short_channel_id", "htlcs"}}
        row |= {"state": channel.state, "peer_connected": online, "reestablished": online, "htlcs": []}
        row["funding"] = channel.row["funding"] | {"withheld": channel.withheld}
        fees = self._fees | channel.fees
        row |= {"fee_base_msat": fees["feebase"], "fee_proportional_millionths": fees["feeppm"]}
        return row | ({"short_channel_id": channel.scid} if channel.scid else {})

    def _listclosedchannels(self, params: Json) -> Json:
        return {"closedchannels": self._closed}

    def _listforwards(self, params: Json) -> Json:
        wanted = {key: params[key] for key in ("status", "in_channel", "out_channel") if key in params}
        return {"forwards": [row for row in self.forwards.values() if wanted.items() <= row.items()]}

    def _listhtlcs(self, params: Json) -> Json:
        rows = [self._htlc(key, hook["htlc"]) for key, hook in self.parts.items()]
        return {"htlcs": [row for row in rows if params.get("id", row["short_channel_id"]) == row["short_channel_id"]]}

    def _htlc(self, key: tuple[str, int], htlc: Json) -> Json:
        status = self.forwards.get(key, {}).get("status")
        state = "RCVD_ADD_ACK_REVOCATION" if status in {None, "offered"} else "SENT_REMOVE_ACK_REVOCATION"
        facts = {"amount_msat": htlc["amount_msat"], "payment_hash": htlc["payment_hash"], "state": state}
        return {"short_channel_id": key[0], "id": key[1], "expiry": htlc["cltv_expiry"], "direction": "in", **facts}

    def _listfunds(self, params: Json) -> Json:
        rows = [self._reservation(coin) for coin in self.reserved]
        rows += [{**row, "reserved": False} for row in self._next_coins()]
        coin = {"amount_msat": 10**12, "status": "confirmed", "scriptpubkey": "5120" + "00" * 32}
        return {"outputs": [{"output": row.pop("vout"), **coin, **row} for row in rows], "channels": []}

    def _next_coins(self) -> list[Json]:
        """The coins that the next recorded `fundpsbt` chose; one that is worth its refusal where it was refused."""
        answers: deque[Answer] = self._recorded.get("fundpsbt", deque())
        if answers and answers[0].ok:
            return [{"txid": row["txid"], "vout": row["vout"]} for row in answers[0].body["reservations"]]
        return [{"txid": "00" * 32, "vout": 0}]

    def _listconfigs(self, params: Json) -> Json:
        """cltv-delta 6 is regtest's own."""
        values = {"cltv-delta": 6, "fee-base": self._fees["feebase"], "fee-per-satoshi": self._fees["feeppm"]}
        configs = {name: {"value_int": value, "source": "default"} for name, value in values.items()}
        wanted = params.get("config")
        return {"configs": {name: config for name, config in configs.items() if wanted in {None, name}}}

    def _feerates(self, params: Json) -> Json:
        names = ("opening", "mutual_close", "unilateral_close", "penalty", "min_acceptable", "floor")
        return {params["style"]: dict.fromkeys(names, 253) | {"max_acceptable": 4294967295, "estimates": []}}

    def _makesecret(self, params: Json) -> Json:
        seed = params.get("string") or params["hex"]
        return {"secret": hashlib.sha256(f"{self._recording.node_id}{seed}".encode()).hexdigest()}

    def _connect(self, params: Json) -> Json:
        if params["id"] in self.connected:
            return {"id": params["id"], "features": "", "direction": "in"}
        raise RpcError(400, "Unable to connect, no address known for peer")

    def _sendcustommsg(self, params: Json) -> Json:
        if params["node_id"] not in self.connected:
            raise RpcError(-32600, f"No such peer: {params['node_id']}")
        self.messages.append(params)
        return {"status": "Message sent to connectd for delivery"}

    def _plugin(self, params: Json) -> Json:
        return {"command": "list", "plugins": []}

    def _datastore(self, params: Json) -> Json:
        return self.datastore.write(params)

    def _deldatastore(self, params: Json) -> Json:
        return self.datastore.delete(params)

    def _listdatastore(self, params: Json) -> Json:
        return self.datastore.list(params)
