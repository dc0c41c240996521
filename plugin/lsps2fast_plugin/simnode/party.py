"""The base of every participant: a key, a wallet, links to others, its ends of channels."""

from __future__ import annotations

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from coincurve import PrivateKey

from . import closing, onchain
from .chain import Chain
from .channel_types import BASIC_TYPES, VARIANTS
from .channels import U64_MAX, Channel, End, Ends, Htlc, Owner
from .clock import Clock
from .errors import WaitTimeout
from .process import Plugin, StartProcess
from .psbt import Tx
from .rpcserver import RpcServer
from .transcript import Transcript
from .wallet import Wallet

T = TypeVar("T")
INIT_FEATURES = 0x800898880A8A59A1


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The opener's side of `open_channel`, as the fundee's openchannel hook sees it (cln:C1)."""

    funding_sat: int
    push_msat: int
    channel_type: tuple[int, ...]
    announce: bool
    mindepth: int | None
    reserve_sat: int  # what the opener demands that the fundee keeps
    feerate_per_kw: int
    dust_limit_sat: int = 546
    htlc_minimum_msat: int = 0
    to_self_delay: int = 6
    max_accepted_htlcs: int = 483
    max_in_flight_msat: int = U64_MAX


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """The fundee's side: `error` refuses, everything else is `accept_channel`."""

    error: str | None = None
    mindepth: int = 1
    htlc_minimum_msat: int = 0
    to_self_delay: int = 6
    max_accepted_htlcs: int = 483
    max_in_flight_msat: int = U64_MAX
    reserve_sat: int | None = None  # what the fundee demands that the opener keeps; None: 1 %
    channel_type: tuple[int, ...] | None = None  # None: the one that was asked for


class Surroundings(ABC):
    """The world as a party knows it: seed, chance, clock, chain, who else is there. `World` makes it."""

    plugin_kind: type[Plugin] = Plugin
    server_kind: type[RpcServer] = RpcServer
    seed: int
    rng: Random
    clock: Clock
    chain: Chain
    transcript: Transcript
    sphinx: bool
    timeout_s: float
    exit_grace_s: float
    start_process: StartProcess
    driver_calls: int
    lsp: Party

    def __init__(self) -> None:
        self.problems: list[BaseException] = []
        self.channels: list[Channel] = []
        self.address_book: dict[str, Party] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @abstractmethod
    def state(self) -> str:
        """Return a line per node, for error messages."""

    # waiting

    async def bounded(self, work: Awaitable[T], timeout_s: float | None, what: str) -> T:
        """`await work` within the limit; raises WaitTimeout that shows the last lines of the transcript."""
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        try:
            return await asyncio.wait_for(work, limit_s)
        except TimeoutError:
            raise WaitTimeout(f"no {what} within {limit_s} s\n{self.state()}\n{self.transcript.tail()}") from None

    async def until(
        self, condition: Callable[[], object], what: str = "condition", timeout_s: float | None = None
    ) -> None:
        """Wait until `condition()` is true; raises WaitTimeout."""

        async def poll() -> None:
            await asyncio.sleep(0)  # whatever is due has its turn; `wait_for` gives one before Python 3.12 only
            while not condition():  # noqa: ASYNC110  (any plain condition; there is no event to wait for)
                await asyncio.sleep(0.001)

        await self.bounded(poll(), timeout_s, what)

    def background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Return a task that ends with the world."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Party:
    """Base of nodes and of light peers. `links` holds who is connected now."""

    def __init__(self, world: Surroundings, name: str) -> None:
        self.world = world
        self.name = name
        self.clock = world.clock
        self.chain = world.chain
        self.rng = world.rng
        self.transcript = world.transcript
        seed = b"%d key of %s" % (world.seed, name.encode())
        self.private_key = hashlib.sha256(seed).digest()
        self.public_key = PrivateKey(self.private_key).public_key.format()
        self.node_id = self.public_key.hex()
        self.wallet = Wallet(world.chain, self.private_key)
        self.links: dict[str, Party] = {}
        self.ends = Ends()
        self.online = True
        self.mute = False  # connected, and never says a word
        self.lacks: set[int] = set()  # feature bits that a stock node has and we have not
        self.extra: set[int] = set()  # and those that only we have
        self.force_closed: list[End] = []  # channels we had to close by force

    # links: overridden where a party wants to know

    def peer_connected(self, peer: Party, direction: str) -> None:
        """Learn of a link; `direction` as lightningd names it: `in` when the other side dialled."""

    def peer_disconnected(self, peer: Party) -> None:
        """Learn that the link is gone; channels to that peer are no longer reestablished."""

    def custommsg_arrived(self, peer: Party, data: bytes) -> None:
        """Take a custom message, type included."""

    def onion_message_arrived(self, message: bytes) -> None:
        """Take an onion message; no one hears whether it came."""

    async def open_requested(self, opener: Party, request: OpenRequest) -> OpenAnswer:
        """Answer a peer that wants to open a channel to us."""
        return OpenAnswer(error="no channels wanted here")

    async def funding_refused(self, opener: Party, tx: Tx) -> str | None:
        """Return why `funding_created` is refused; None signs."""
        return None

    def open_accepted(self, opener: Party) -> None:
        """Learn that our `accept_channel` is with the opener."""

    def open_cancelled(self, opener: Party) -> None:
        """Learn that the open was called off before `funding_created`."""

    def error_arrived(self, peer: Owner, end: End | None, text: str) -> None:
        """Take `error` from a peer: about our `end` of a channel, or (None) about an open under way."""

    def channel_created(self, end: End) -> None:
        """Take our end of a new channel, in state CHANNELD_AWAITING_LOCKIN."""
        self.ends.append(end)
        self.send_ready(end)

    def channel_changed(self, end: End, old_state: str | None, cause: str, message: str | None) -> None:
        """Learn that the state of our end changed."""

    def block_mined(self, height: int, block_hash: str) -> None:
        """Look at a new block."""
        closing.see_block(self, height)

    def channel_closed(self, end: End) -> None:
        """Note that a channel's end is deep enough in the chain to be forgotten."""

    def withheld_closed(self, end: End, closer: str, cause: str) -> None:
        """Forget a channel that we opened and never sent: closed by agreement."""
        end.forgotten = True
        end.channel.dead = True

    def shutdown_goes_on(self, channel: Channel) -> None:
        """Go on with a shutdown: a HTLC is gone from the channel."""
        closing.finish_shutdown(channel.ends)

    def close_feerate(self) -> int:
        """Return what we propose for a closing transaction."""
        return 253

    # HTLCs

    def htlc_committed(self, htlc: Htlc) -> None:
        """Note that our own HTLC is on the other side now."""

    def htlc_arrived(self, htlc: Htlc) -> None:
        """Take a HTLC of the other side, irrevocably committed to us."""

    def htlc_resolved(self, htlc: Htlc) -> None:
        """Take the other side's answer to our own HTLC: `preimage` or `failure`."""

    def htlc_removed(self, htlc: Htlc) -> None:
        """Drop a HTLC we had received: the other side took note of our answer."""

    def init_features(self) -> str:
        """Feature bits of our `init` message, hex: those of a stock lightningd but what we `lack`."""
        lacks, extra = (sum(1 << bit for bit in bits) for bits in (self.lacks, self.extra))
        return f"{INIT_FEATURES & ~lacks | extra:016x}"

    def offers(self, bit: int) -> bool:
        """Return whether this even feature bit or its odd neighbour is among our features."""
        return bool(int(self.init_features(), 16) >> bit & 3)

    def type_accepted(self, bits: tuple[int, ...]) -> bool:
        """Return whether we make channels of this type: a known one, of features that we offer."""
        known = set(bits) - VARIANTS in BASIC_TYPES
        return known and all(self.offers(bit) for bit in bits)

    def redials(self, other: Party) -> bool:
        """Return whether we connect again by ourselves after the other side restarted (cln:R6)."""
        return bool(self.ends_to(other.node_id))

    # doing

    def ends_to(self, node_id: str) -> list[End]:
        return [end for end in self.ends.of(node_id) if not end.forgotten]

    def change_state(self, end: End, state: str, cause: str, message: str | None) -> None:
        """Move our end to `state`, keep it in `state_changes`, tell ourselves."""
        old, end.state = end.state, state
        change = {"timestamp": self.clock.iso(), "old_state": old, "new_state": state, "cause": cause}
        end.state_changes.append({**change, "message": message} if message is not None else change)
        self.channel_changed(end, old, cause, message)

    def send_ready(self, end: End) -> None:
        """channel_ready; the channel is usable when both sides have sent and received it."""
        if end.ready_sent:
            return
        end.ready_sent = True
        channel = end.channel

        def deliver() -> None:
            for side in reversed(channel.ends):
                if all(each.ready_sent for each in channel.ends) and side.state == "CHANNELD_AWAITING_LOCKIN":
                    cause = "user" if side.opener else "remote"
                    side.owner.change_state(side, "CHANNELD_NORMAL", cause, "Lockin complete")

        channel.post(end.other.owner, deliver)

    def books_msat(self) -> int:
        """Return everything this party owns: wallet, and its side of channels.

        A channel whose funding is not on chain counts as what it adds to the wallet that still holds the inputs: the
        opener's claim less the capacity. A withheld channel that its opener gave up is worth nothing.
        """
        return self.wallet.balance_sat() * 1000 + sum(map(self._end_worth_msat, self.ends))

    @staticmethod
    def _end_worth_msat(end: End) -> int:
        channel = end.channel
        if channel.settled_on_chain and channel.on_chain is not None:
            return onchain.worth_msat(channel.on_chain, end)
        if channel.withheld and channel.opener.forgotten:
            return 0
        if channel.opener is end and not end.owner.chain.knows(channel.funding_txid):
            return end.to_us_msat - channel.capacity_sat * 1000
        return end.to_us_msat


def connect(dialler: Party, listener: Party) -> None:
    """Link two parties; both learn of it, then their channels are reestablished."""
    if not (dialler.online and listener.online) or listener.node_id in dialler.links:
        return
    dialler.links[listener.node_id] = listener
    listener.links[dialler.node_id] = dialler
    listener.peer_connected(dialler, "in")
    dialler.peer_connected(listener, "out")
    for end in dialler.ends_to(listener.node_id):
        if not end.other.forgotten:
            asyncio.get_running_loop().call_soon(_reestablish, end.channel, dialler, listener)
    for end in (*dialler.ends_to(listener.node_id), *listener.ends_to(dialler.node_id)):
        if end.other.forgotten and end.state == "CHANNELD_NORMAL":
            asyncio.get_running_loop().call_soon(_learn, end)


def _reestablish(channel: Channel, first: Party, second: Party) -> None:
    if second.node_id in first.links:
        channel.set_reestablished(True)
        closing.finish_shutdown(channel.ends)


def _learn(end: End) -> None:
    """Learn that the other side gave the channel up while we were away. Seen on v26.06; the recordings lack it."""
    text = f"channeld: received ERROR channel {end.channel.channel_id}: Channel is closed and forgotten"
    if end.peer.node_id in end.owner.links and end.state == "CHANNELD_NORMAL":
        end.owner.change_state(end, "AWAITING_UNILATERAL", "protocol", text)


def disconnect(first: Party, second: Party) -> None:
    """Cut the link between two parties."""
    if first.links.pop(second.node_id, None) is None:
        return
    second.links.pop(first.node_id, None)
    for end in first.ends_to(second.node_id):
        end.channel.set_reestablished(False)
    second.peer_disconnected(first)
    first.peer_disconnected(second)
