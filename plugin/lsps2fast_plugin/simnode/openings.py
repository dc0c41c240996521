"""Opening channels: fundchannel_*, the openchannel hook, confirmation (cln:O, cln:N1)."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from . import node_closing, psbt
from .address import script_to_address
from .channel_types import type_json
from .channels import Channel, End, Owner
from .errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from .feerates import FEERATE_OFFSET_PERKW
from .node_base import NodeBase
from .party import OpenAnswer, OpenRequest, Party
from .psbt import Tx

WARNING = (
    "The funding transaction MUST NOT be broadcast until after channel establishment has been successfully"
    " completed by running `fundchannel_complete`"
)
MOST_SAT, MAX_EXCEEDED = 16_777_215, 300  # of a channel with a peer that does not offer large ones
UNKNOWN_PEER, NOTHING_TO_CANCEL, CANCEL_NOT_SAFE = 306, 307, 308
T = TypeVar("T")


@dataclass(eq=False)
class Pending:
    """A `fundchannel_start` that has succeeded and waits for `fundchannel_complete`."""

    peer: Party
    request: OpenRequest
    answer: OpenAnswer
    script: bytes
    completing: bool = False
    cancels: list[asyncio.Future[dict[str, Any]]] = field(default_factory=list)


class Openings:
    """Openings of one node, as opener and as fundee."""

    def __init__(self, node: NodeBase) -> None:
        self.node = node
        self.starting: set[str] = set()
        self.asked_sat: dict[str, int] = {}  # of the open under way with each peer
        self.pending: dict[str, Pending] = {}
        self._ends: dict[str, asyncio.Future[RpcError]] = {}  # of opens that wait for the peer
        self._made = 0
        self._lost: Counter[str] = Counter()  # connections that ended, by peer

    # opener

    async def start(
        self,
        peer_id: str,
        amount_sat: int,
        mindepth: int | None,
        channel_type: tuple[int, ...] | None,
        announce: bool,
        push_msat: int,
        reserve_sat: int | None,
    ) -> dict[str, Any]:
        """fundchannel_start; errors as cln:O9."""
        bits = (12, 22) if channel_type is None else channel_type
        if not self.node.type_accepted(bits):
            raise RpcError(INVALID_PARAMS, "channel_type not supported")
        if 50 in bits and mindepth:
            raise RpcError(INVALID_PARAMS, "Cannot set non-zero mindepth for zero-conf channel_type")
        peer = self._peer(peer_id)
        if amount_sat > MOST_SAT and not peer.offers(18):
            raise RpcError(MAX_EXCEEDED, f"Amount exceeded {MOST_SAT}sat")
        if peer_id in self.pending or peer_id in self.starting:
            raise RpcError(LIGHTNINGD, "Already funding channel")
        if not announce and peer.offers(46):
            bits = tuple(sorted({*bits, 46}))
        if amount_sat < 2 * 546:
            text = "if they used the same setting as us channel_reserve_satoshis 546sat and 546sat too large"
            raise RpcError(LIGHTNINGD, f"Not opening because {text} for funding {amount_sat}sat")
        reserve = max(amount_sat // 100, 546) if reserve_sat is None else reserve_sat
        rates = self.node.feerates
        proposed_perkw = rates.unilateral_anchor_close if 22 in bits else rates.opening
        request = OpenRequest(
            amount_sat,
            push_msat,
            bits,
            announce,
            mindepth,
            reserve,
            proposed_perkw,
            to_self_delay=self.node.to_self_delay,
        )
        self.starting.add(peer_id)
        self.asked_sat[peer_id] = amount_sat
        try:
            answer = await self._unless_ended(peer_id, self._ask(peer, request))
            if answer.error is not None and self.node.falls_back & set(bits):
                bits = tuple(bit for bit in bits if bit not in self.node.falls_back)
                request = replace(request, channel_type=bits, feerate_per_kw=rates.opening)
                answer = await self._unless_ended(peer_id, self._ask(peer, request))
        finally:
            self.starting.discard(peer_id)
        if answer.error is None and answer.channel_type not in (None, bits):
            shown = ",".join(str(bit) for bit in answer.channel_type or ())
            raise RpcError(LIGHTNINGD, f"Return unoffered channel_type: {shown}")
        if answer.error is None and 50 in bits and answer.mindepth != 0:
            answer = OpenAnswer(error="You required zeroconf, but you're not on our allowlist")
        self._made += 1
        if answer.error is not None:
            raise self._refused(answer.error)
        if answer.mindepth == 0 and peer.offers(50):
            bits = tuple(sorted({*bits, 50}))
            request = replace(request, channel_type=bits)
        digest = hashlib.sha256(self.node.private_key + b"funding %d" % self._made).digest()
        script = b"\0\x20" + digest
        self.pending[peer_id] = Pending(peer, request, answer, script)
        asyncio.get_running_loop().call_later(0, peer.open_accepted, self.node)
        return {
            "funding_address": script_to_address(script),
            "scriptpubkey": script.hex(),
            "channel_type": type_json(bits),
            "warning_usage": WARNING,
        }

    async def _ask(self, peer: Party, request: OpenRequest) -> OpenAnswer:
        if not peer.type_accepted(request.channel_type):
            shown = ",".join(str(bit) for bit in request.channel_type)
            return OpenAnswer(error=f"Did not support channel_type [{shown}]")
        return await peer.open_requested(self.node, request)

    async def _unless_ended(self, peer_id: str, work: Coroutine[Any, Any, T]) -> T:
        """Return what the peer answers; raises when the open ends first, however long the peer says nothing."""
        over: asyncio.Future[RpcError] = asyncio.get_running_loop().create_future()
        self._ends[peer_id] = over
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, over}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                raise over.result()
            return task.result()
        finally:
            task.cancel()
            if self._ends.get(peer_id) is over:
                del self._ends[peer_id]

    def _refused(self, text: str) -> RpcError:
        return RpcError(LIGHTNINGD, f"They sent ERROR channel {self._temporary_id()}: You gave bad parameters: {text}")

    def _temporary_id(self) -> str:
        return hashlib.sha256(b"temporary %d" % self._made + self.node.private_key).hexdigest()

    def _end(self, peer_id: str, error: RpcError) -> None:
        """End the open: a call that waits gets the error, and so do the cancels behind it (as an answer)."""
        plan = self.pending.pop(peer_id, None)
        for cancel in plan.cancels if plan is not None else ():
            if not cancel.done():
                cancel.set_result({"cancelled": error.message})
        over = self._ends.pop(peer_id, None)
        if over is not None and not over.done():
            over.set_result(error)

    def peer_error(self, peer: Owner, text: str) -> bool:
        """`error` from a peer while we open a channel to it; False if we do not."""
        if peer.node_id not in self._ends and peer.node_id not in self.pending:
            return False
        self._end(peer.node_id, RpcError(LIGHTNINGD, f"They sent ERROR channel {self._temporary_id()}: {text}"))
        return True

    def _peer(self, peer_id: str) -> Party:
        peer = self.node.links.get(peer_id)
        if peer is None:
            raise RpcError(UNKNOWN_PEER, "Unknown peer")
        return peer

    async def complete(self, peer_id: str, text: str, withhold: bool) -> dict[str, Any]:
        """fundchannel_complete: the channel exists, on the other side first (a_single_var)."""
        if self.node.links.get(peer_id) is None:
            raise RpcError(UNKNOWN_PEER, "Unknown peer")
        plan = self.pending.get(peer_id)
        if plan is None:
            raise RpcError(LIGHTNINGD, "No channel funding in progress.")
        if plan.completing:
            raise RpcError(LIGHTNINGD, "Channel funding in progress.")
        tx = read_psbt(text, "psbt")
        outnum = next((place for place, out in enumerate(tx.outputs) if out.script == plan.script), None)
        if outnum is None:
            raise RpcError(309, "No output to open channel")
        found_sat, wanted_sat = tx.outputs[outnum].amount_sat, plan.request.funding_sat
        if found_sat != wanted_sat:
            raise RpcError(309, f"Output to open channel is {found_sat}sat, should be {wanted_sat}sat")
        plan.completing = True
        refusal = await self._unless_ended(peer_id, plan.peer.funding_refused(self.node, tx))
        if refusal is not None:
            error = self._refused(refusal)
            self._end(peer_id, error)
            raise error
        del self.pending[peer_id]
        ours = self._build(plan, tx, outnum, withhold)
        plan.peer.channel_created(ours.other)
        # the answer to this call goes out before our own notification (a_single_var, 3.473 and 3.474)
        asyncio.get_running_loop().call_later(0, self._opened, ours)
        for cancel in plan.cancels:  # asked for while we waited: now they take the channel
            asyncio.get_running_loop().call_later(0, self._cancel_late, peer_id, cancel)
        return {"channel_id": ours.channel.channel_id, "commitments_secured": True}

    def _build(self, plan: Pending, tx: Tx, outnum: int, withhold: bool) -> End:
        request, answer, node = plan.request, plan.answer, self.node
        channel = Channel(request.funding_sat, request.channel_type, (tx.txid, outnum), not request.announce)
        channel.zero_conf = answer.mindepth == 0
        channel.feerate_perkw = request.feerate_per_kw
        rates = node.feerates
        raised_perkw = rates.unilateral_anchor_close if channel.anchors else rates.unilateral_close
        channel.raised_perkw = raised_perkw + FEERATE_OFFSET_PERKW
        default_reserve = max(request.funding_sat // 100, 546)
        ours = make_end(channel, node, request.funding_sat * 1000 - request.push_msat)
        theirs = make_end(channel, plan.peer, request.push_msat)
        ours.reserve_sat = default_reserve if answer.reserve_sat is None else answer.reserve_sat
        theirs.reserve_sat = request.reserve_sat
        ours.to_self_delay, theirs.to_self_delay = request.to_self_delay, answer.to_self_delay
        ours.own_minimum_msat, theirs.own_minimum_msat = request.htlc_minimum_msat, answer.htlc_minimum_msat
        ours.max_accepted_htlcs, theirs.max_accepted_htlcs = request.max_accepted_htlcs, answer.max_accepted_htlcs
        theirs.max_in_flight_msat = answer.max_in_flight_msat
        channel.join(ours, theirs)
        for end in channel.ends:
            end.htlc_maximum_msat = (request.funding_sat - end.reserve_sat) * 1000
        node.end_defaults(ours)
        channel.withheld = channel.withheld_ever = withhold
        channel.funding_psbt = psbt.encode_v2(tx) if withhold else psbt.encode(tx)
        node.world.channels.append(channel)
        node.ends.append(ours)
        return ours

    def _opened(self, end: End) -> None:
        node = self.node
        if node.state != "running" or end.forgotten:
            return
        node.channel_changed(end, None, "user", "new channel opened")
        node.warn(f"chan#{node.ends.index(end) + 1}", "Ignoring fee limits!")
        if end.channel.zero_conf:
            node.send_ready(end)

    async def cancel(self, peer_id: str) -> dict[str, Any]:
        """Cancel the open under way (cln:O9, cln:O10), else the peer's first channel that awaits lock-in (cln:N1)."""
        if self.node.links.get(peer_id) is None and not self.node.ends_to(peer_id):
            raise RpcError(UNKNOWN_PEER, "Unknown peer")
        if peer_id in self.starting:
            raise RpcError(NOTHING_TO_CANCEL, "No channel funding in progress.")
        plan = self.pending.get(peer_id)
        if plan is None:
            return self._cancel_channel(peer_id)
        if plan.completing:  # openingd listens to the peer alone
            waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            plan.cancels.append(waiting)
            return await waiting
        del self.pending[peer_id]
        plan.peer.open_cancelled(self.node)
        return {"cancelled": "Channel open canceled by RPC"}

    def _cancel_late(self, peer_id: str, cancel: asyncio.Future[dict[str, Any]]) -> None:
        if cancel.done():
            return
        try:
            cancel.set_result(self._cancel_channel(peer_id))
        except RpcError as error:
            cancel.set_exception(error)

    def _cancel_channel(self, peer_id: str) -> dict[str, Any]:
        """Cancel the first channel of the peer, no matter who asked for it, as lightningd does (cln:N1)."""
        waiting = [end for end in self.node.ends_to(peer_id) if end.state == "CHANNELD_AWAITING_LOCKIN"]
        if not waiting:
            text = f"No channels being opened or awaiting lock-in for peer_id {peer_id}"
            raise RpcError(NOTHING_TO_CANCEL, text)
        end = waiting[0]
        if not end.opener:
            raise RpcError(CANCEL_NOT_SAFE, "Cannot cancel channel that was initiated by peer")
        if self.node.chain.knows(end.channel.funding_txid):
            why = "Has the funding transaction been broadcast? Please use `close` or `dev-fail` instead."
            raise RpcError(CANCEL_NOT_SAFE, why)
        node_closing.forget_cancelled(self.node, end)
        return {"cancelled": "Channel open canceled by RPC(after fundchannel_complete)"}

    def under_way(self) -> list[Party]:
        """Peers with which an open of ours is under way."""
        if not (self.starting or self.pending):
            return []
        return [
            peer for peer_id, peer in self.node.links.items() if peer_id in self.starting or peer_id in self.pending
        ]

    def peer_lost(self, peer: Party) -> None:
        """End the opens with a peer that is gone; a cancel that waits is never answered, as in lightningd."""
        self._lost[peer.node_id] += 1
        plan = self.pending.get(peer.node_id)
        if plan is not None:
            plan.cancels.clear()
        self._end(peer.node_id, RpcError(LIGHTNINGD, "Disconnected"))

    def forget(self) -> None:
        """Forget all openings, as a restart does."""
        self.pending.clear()
        self.starting.clear()
        self._ends.clear()

    # fundee

    async def requested(self, opener: Party, request: OpenRequest) -> OpenAnswer:
        """Return the openchannel hook of our plugins (cln:C1); without one, lightningd's default: not zero-conf."""
        mindepth, reserve_sat = 1, None
        connection = self._lost[opener.node_id]
        body = {
            "id": opener.node_id,
            "funding_msat": request.funding_sat * 1000,
            "push_msat": request.push_msat,
            "dust_limit_msat": request.dust_limit_sat * 1000,
            "max_htlc_value_in_flight_msat": request.max_in_flight_msat,
            "channel_reserve_msat": request.reserve_sat * 1000,
            "htlc_minimum_msat": request.htlc_minimum_msat,
            "feerate_per_kw": request.feerate_per_kw,
            "to_self_delay": request.to_self_delay,
            "max_accepted_htlcs": request.max_accepted_htlcs,
            "channel_flags": 1 if request.announce else 0,
            "channel_type": type_json(request.channel_type),
        }
        for plugin in self.node.hook_chain("openchannel"):
            future: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
            plugin.request("openchannel", {"openchannel": body}, future.set_result)
            answer = (await future or {}).get("result") or {"result": "continue"}
            if self._lost[opener.node_id] != connection and answer != {"result": "continue"}:
                self.node.crash(f"terms for an opening that is gone: {answer}")
                return OpenAnswer(error="node down")
            if answer.get("result") == "reject":
                return OpenAnswer(error=str(answer.get("error_message", "Refused by plugin")))
            if answer.get("result") != "continue":
                self.node.crash(f"Plugin returned an invalid response to the openchannel hook: {answer}")
                return OpenAnswer(error="node down")
            mindepth = int(answer.get("mindepth", mindepth))
            reserve_sat = int(answer["reserve"]) if "reserve" in answer else reserve_sat
        return OpenAnswer(None, mindepth, self.node.htlc_minimum_msat, self.node.to_self_delay, reserve_sat=reserve_sat)

    def created(self, end: End) -> None:
        """Our end as fundee."""
        node = self.node
        node.ends.append(end)
        node.end_defaults(end)
        node.channel_changed(end, None, "remote", "new channel opened")
        body = {
            "id": end.peer.node_id,
            "funding_msat": end.channel.capacity_sat * 1000,
            "funding_txid": end.channel.funding_txid,
            "channel_ready": False,
        }
        node.notify("channel_opened", body)
        if end.channel.zero_conf:
            node.send_ready(end)

    # confirmation

    def confirm(self, height: int) -> None:
        """Channels whose funding is in a block get their real scid (cln:O5); deep enough ones become usable."""
        chain = self.node.chain
        for end in self.node.ends:
            if end.ready_sent and end.scid is not None and not end.channel.moved:
                continue  # it has its name, and is usable
            mined = chain.confirmed.get(end.channel.funding_txid)
            if mined is None or mined[0] > height or end.forgotten:
                continue
            if end.scid is None or end.channel.moved:
                end.rename(f"{mined[0]}x{mined[1]}x{end.channel.funding_outnum}")
            self.node.send_ready(end)

    def broadcast(self, tx: Tx) -> None:
        """Note that a funding transaction is out: its channel is no longer withheld (cln:O2)."""
        for end in self.node.ends:
            if end.channel.funding_txid == tx.txid and end.opener and not end.forgotten:
                end.channel.withheld = False
                end.channel.funding_psbt = psbt.encode(tx)


def make_end(channel: Channel, owner: Party, to_us_msat: int) -> End:
    """Return an end with an alias of its own, as lightningd draws it."""
    rng = owner.rng
    alias = f"{rng.randrange(1_000_000, 16_000_000)}x{rng.randrange(1, 1 << 24)}x{rng.randrange(1, 1 << 16)}"
    return End(channel, owner, to_us_msat, alias)


def read_psbt(text: Any, name: str) -> Tx:
    try:
        return psbt.decode(str(text))
    except ValueError:
        shown = str(text)[:60]
        raise RpcError(INVALID_PARAMS, f"{name}: Expected a PSBT: invalid token '\"{shown}\"'") from None
