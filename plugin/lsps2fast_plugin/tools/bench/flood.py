"""A crowd at the counter: 1,000 peers send LSPS2 requests as fast as asked, while a few wallets just want a channel.

The crowd asks for menus and buys, half and half; every fifth buy names an offer made to another peer. One wallet after
another comes in, asks which protocols there are, asks for a menu, and buys. Between them pass forwards that are not
ours. All of it goes to the real plugin process; its RPC calls are answered by an embedded node.
"""

from __future__ import annotations

import json
import queue
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from lsps2fast.lsps import lsps0
from lsps2fast.lsps.lsps0 import LIST_PROTOCOLS, MESSAGE_TYPE_HEX
from lsps2fast.lsps.lsps2 import BUY, GET_INFO
from lsps2fast_plugin.tools.bench.calls import hook_frame
from lsps2fast_plugin.tools.bench.figures import needed
from lsps2fast_plugin.tools.bench.harness import WAIT_S, Child, Late, percentiles
from lsps2fast_plugin.tools.bench.sales import COMMITS, ServiceUnderLoad

Json = dict[str, Any]
PEERS = 1_000
WALLETS = 10
SIZE_MSAT = 10_000_000
MENUS_PER_S = 400  # before the flood: the crowd gets its offers without being refused
STRANGERS = 5  # one in so many buys names the offer of another peer
AT_ONCE = 64  # frames written in one go
PATIENCE_S = 1.0  # a wallet that is refused or hears nothing tries again
AFTERWARDS_S = 15.0  # how long a wallet that came late may still try
FORWARD_EVERY_S = 0.05
SAMPLE_EVERY_S = 0.1
SWITCH_S = 0.0005  # our thread and the node's take turns: lightningd would not wait for a load generator


class Flood(NamedTuple):
    """Results. `written_per_s`: messages that the plugin's pipe took; CPU is that of the plugin, per message."""

    peers: int
    seconds: float
    asked_per_s: float
    written_per_s: float
    cpu_us: float
    rss_before_kb: int
    rss_most_kb: int
    rss_after_kb: int
    replies: int
    sold: int
    commits: int
    rpc_calls: dict[str, int]
    refusals: dict[str, int]
    wallets: int
    wallets_served: int
    wallet_requests: int
    wallet_us: Late
    forward_us: Late


class Heard(NamedTuple):
    """A reply that left the service: to whom, when, and what."""

    peer_id: str
    at_s: float
    reply: Json


def custommsg_frame(peer_id: str, request: bytes, number: int) -> bytes:
    """lightningd's call for a peer's message."""
    params = {"peer_id": peer_id, "payload": MESSAGE_TYPE_HEX + request.hex()}
    call = {"jsonrpc": "2.0", "id": f"cln:custommsg#{number}", "method": "custommsg", "params": params}
    return json.dumps(call, separators=(",", ":")).encode() + b"\n\n"


def _buy(offer: Json, request_id: str = "flood") -> bytes:
    return lsps0.encode_request(request_id, BUY, {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)})


def crowd_frames(offers: dict[str, Json], seed: int) -> list[bytes]:
    """Return a menu and a buy of every peer, in any order."""
    peers = list(offers)
    frames = []
    for number, peer_id in enumerate(peers):
        owner = peers[number - 1] if number % STRANGERS == 0 else peer_id
        frames.append(custommsg_frame(peer_id, lsps0.encode_request("flood", GET_INFO, {}), 2 * number))
        frames.append(custommsg_frame(peer_id, _buy(offers[owner]), 2 * number + 1))
    random.Random(seed).shuffle(frames)
    return frames


class Wallet:
    """A wallet that wants one channel: three requests, each sent again when nothing good comes of it."""

    def __init__(self, peer_id: str, enters_s: float) -> None:
        self.peer_id = peer_id
        self.late_us: list[float] = []  # of the answers that were no refusal
        self.requests = 0
        self.served = False
        self._asks_at_s = enters_s
        self._sent_s = 0.0
        self._step = 0
        self._offer: Json = {}

    def frame(self, now_s: float) -> bytes | None:
        """Return what it sends now, if anything."""
        if self.served or now_s < self._asks_at_s:
            return None
        self.requests += 1
        self._sent_s, self._asks_at_s = now_s, now_s + PATIENCE_S
        request = (
            lambda: lsps0.encode_request(str(self._step), LIST_PROTOCOLS, {}),
            lambda: lsps0.encode_request(str(self._step), GET_INFO, {}),
            lambda: _buy(self._offer, str(self._step)),
        )[self._step]()
        return custommsg_frame(self.peer_id, request, 10**6 + self.requests)

    def take(self, heard: Heard) -> None:
        """Take an answer; after a refusal, or an answer to an older question, the wallet waits for its next try."""
        if "result" not in heard.reply or heard.reply["id"] != str(self._step):
            return
        self.late_us.append((heard.at_s - self._sent_s) * 1e6)
        self._offer = heard.reply["result"].get("opening_fee_params_menu", [self._offer])[0]
        self._step += 1
        self._asks_at_s = heard.at_s
        self.served = self._step == 3


class Ear:
    """Listens at the embedded node, on its thread: calls by method, replies as they leave."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.replies: queue.SimpleQueue[Heard] = queue.SimpleQueue()

    def __call__(self, entry: Json) -> None:
        """One entry of the transcript."""
        if entry["dir"] != "rpc>host":
            return
        self.calls[entry["msg"]["method"]] += 1
        if entry["msg"]["method"] == "sendcustommsg":
            params = entry["msg"]["params"]
            reply = json.loads(bytes.fromhex(params["msg"])[2:])
            self.replies.put(Heard(params["node_id"], time.perf_counter(), reply))

    def heard(self) -> list[Heard]:
        """Return the replies since the last call."""
        found = []
        while not self.replies.empty():
            found.append(self.replies.get())
        return found


class Pace:
    """The pipe: the crowd at its rate, the wallets' messages and the forwards before it, answers counted."""

    def __init__(
        self, child: Child, wallets: list[Wallet], ear: Ear, seed: int, forward_every_s: float = FORWARD_EVERY_S
    ) -> None:
        self._child = child
        self._forward_every_s = forward_every_s
        self._wallets = {wallet.peer_id: wallet for wallet in wallets}
        self._ear = ear
        self._rest = b""
        self._dice = random.Random(seed)
        self._forwards: dict[bytes, float] = {}  # id: when it was due
        self.forward_us: list[float] = []
        self.own_us: list[float] = []  # of these, what passed before we wrote the forward though the pipe had room
        self._is_full, self._room_s = False, 0.0  # the pipe; since when it is not
        self.written = self.answered = self.replies = self.sold = 0
        self.rss_kb = self._child.rss_kb()

    def run(self, frames: list[bytes], per_s: float, seconds: float) -> None:
        """Run the whole flood, and then until everything is answered and every wallet has had its time."""
        begin = time.perf_counter()
        next_forward_s = next_sample_s = begin
        while (now := time.perf_counter()) < begin + seconds or self._is_waiting(now - begin - seconds):
            if now >= next_sample_s:
                self.rss_kb = max(self.rss_kb, self._child.rss_kb())
                next_sample_s = now + SAMPLE_EVERY_S
            if not self._rest:
                batch = self._guests(now)
                if now >= next_forward_s:
                    self.own_us.append((now - max(next_forward_s, self._room_s)) * 1e6)
                    batch.append(self._forward(next_forward_s))
                    next_forward_s += self._forward_every_s
                if now < begin + seconds:
                    due = min(int((now - begin) * per_s) - self.written, AT_ONCE)
                    batch += [frames[(self.written + turn) % len(frames)] for turn in range(due)]
                    self.written += max(due, 0)
                self._rest = b"".join(batch)
            self._turn()

    def _is_waiting(self, over_s: float) -> bool:
        """Return whether an answer is still to come, or a wallet that has not waited long enough."""
        if self._rest or self.answered < self.written:
            if over_s > WAIT_S:
                raise TimeoutError(f"{self.answered} of {self.written} messages were answered")
            return True
        return over_s < AFTERWARDS_S and not all(wallet.served for wallet in self._wallets.values())

    def _guests(self, now: float) -> list[bytes]:
        frames = [frame for wallet in self._wallets.values() if (frame := wallet.frame(now)) is not None]
        self.answered -= len(frames)
        return frames

    def _forward(self, due_s: float) -> bytes:
        number = len(self.forward_us) + len(self._forwards)
        self._forwards[b"cln:htlc_accepted#%d" % number] = due_s
        return hook_frame(self._dice, number)

    def _turn(self) -> None:
        """Write and read what is possible, for 1 ms at most."""
        if self._rest:
            self._rest = self._child.try_send(self._rest)
            was_full, self._is_full = self._is_full, bool(self._rest)
            if was_full and not self._is_full:
                self._room_s = time.perf_counter()
        for frame in self._child.frames(0.001, or_writable=bool(self._rest)):
            self._take(frame)
        for heard in self._ear.heard():
            self.replies += 1
            self.sold += "jit_channel_scid" in heard.reply.get("result", {})
            if wallet := self._wallets.get(heard.peer_id):
                wallet.take(heard)

    def _take(self, frame: bytes) -> None:
        key = frame[:80].partition(b'"id":')[2].split(b'"', 2)[1:2]
        if key and key[0].startswith(b"cln:custommsg#"):
            self.answered += 1
        elif key and (due_s := self._forwards.pop(key[0], None)) is not None:
            self.forward_us.append((time.perf_counter() - due_s) * 1e6)


def offers_of(service: ServiceUnderLoad, ear: Ear, peers: list[str]) -> dict[str, Json]:
    """Return the menu of every peer of the crowd, asked for slowly enough to be given. Raises TimeoutError."""
    offers: dict[str, Json] = {}
    begin = time.perf_counter()
    for number, peer_id in enumerate(peers):
        time.sleep(max(begin + number / MENUS_PER_S - time.perf_counter(), 0.0))
        service.child.send(custommsg_frame(peer_id, lsps0.encode_request("menu", GET_INFO, {}), number))
        service.child.frames(0.0)
    while len(offers) < len(peers):
        if time.perf_counter() > begin + len(peers) / MENUS_PER_S + WAIT_S:
            raise TimeoutError(f"{len(offers)} of {len(peers)} peers got a menu")
        service.child.frames(0.05)
        for heard in ear.heard():
            offers[heard.peer_id] = heard.reply["result"]["opening_fee_params_menu"][0]
    return offers


def run_flood(seed: int, per_s: float, seconds: float, say: Callable[[str], None], peers: int = PEERS) -> Flood:
    """Flood the real service for so many seconds. Raises TimeoutError when it stops answering."""
    names = [f"peer{number}" for number in range(peers)] + [f"wallet{number}" for number in range(WALLETS)]
    ear = Ear()
    service = ServiceUnderLoad(seed, names, (10**9,) * 3)
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        service.listen(ear)
        say(f"{peers:,} peers ask for their first menu")
        frames = crowd_frames(offers_of(service, ear, service.ids[:peers]), seed)
        say(f"{per_s:,.0f} messages a second for {seconds:g} s")
        calls, before_kb, cpu_s = ear.calls.copy(), service.child.rss_kb(), service.child.cpu_s()
        now = time.perf_counter()
        wallets = [
            Wallet(peer_id, now + seconds * (number + 0.5) / WALLETS)
            for number, peer_id in enumerate(service.ids[peers:])
        ]
        pace = Pace(service.child, wallets, ear, seed)
        pace.run(frames, per_s, seconds)
        cpu_s = service.child.cpu_s() - cpu_s
        stats = service.child.ask("lsps2-stats", {})
        made = ear.calls - calls
        return Flood(
            peers=peers,
            seconds=seconds,
            asked_per_s=per_s,
            written_per_s=round(pace.written / seconds),
            cpu_us=round(cpu_s / max(pace.written, 1) * 1e6, 1),
            rss_before_kb=before_kb,
            rss_most_kb=pace.rss_kb,
            rss_after_kb=service.child.rss_kb(),
            replies=pace.replies,
            sold=pace.sold,
            commits=sum(made[method] for method in COMMITS),
            rpc_calls=dict(sorted(made.items())),
            refusals={name: count for name, count in stats["refusals"].items() if count},
            wallets=len(wallets),
            wallets_served=sum(wallet.served for wallet in wallets),
            wallet_requests=sum(wallet.requests for wallet in wallets),
            wallet_us=percentiles([late for wallet in wallets for late in wallet.late_us]),
            forward_us=percentiles(pace.forward_us),
        )
    finally:
        sys.setswitchinterval(interval_s)
        service.close()


def as_json(flood: Flood) -> str:
    """For programs."""
    return json.dumps(flood._asdict(), indent=2) + "\n"


def text(flood: Flood) -> str:
    """For people."""
    refused = ", ".join(f"{count:,} {name}" for name, count in flood.refusals.items())
    lines = [
        f"{flood.peers:,} peers, {flood.asked_per_s:,.0f} messages a second asked for over {flood.seconds:g} s",
        f"written     {flood.written_per_s:,.0f} a second, {flood.cpu_us:g} µs of CPU each; every hook call answered",
        f"memory      {flood.rss_before_kb:,} kB before, {flood.rss_most_kb:,} at most, {flood.rss_after_kb:,} after",
        f"answers     {flood.replies:,} replies to peers, {flood.sold:,} buys sold, {flood.commits:,} commits",
        f"RPC calls   {', '.join(f'{count:,} {method}' for method, count in flood.rpc_calls.items())}",
        f"refused     {refused or 'nothing'}",
        f"wallets     {flood.wallets_served} of {flood.wallets} served, {flood.wallet_requests} requests for"
        f" {3 * flood.wallets} answers; {_shown(flood.wallet_us)}",
        f"forwards    {_shown(flood.forward_us)}",
    ]
    return "\n".join(lines) + "\n"


def _shown(late: Late) -> str:
    words = []
    for name, key, share in (("p50", "p50_us", 0.5), ("p99", "p99_us", 0.99)):
        us = late[key]
        words.append(f"{name} too few, {needed(share)} needed" if us is None else f"{name} {us / 1000:.1f} ms")
    return ", ".join(words)
