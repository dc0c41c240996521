"""Parts of payments: from lightningd's hook to the session machine, and what lightningd says of how they ended."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from lsps2fast import _tlv as tlv
from lsps2fast._parts import IncomingHtlc
from lsps2fast._payment import Payment
from lsps2fast.actions import TEMPORARY, FailParts, PartKey
from lsps2fast.errors import MalformedTlv
from lsps2fast.lsps.lsps2 import format_scid, parse_scid
from lsps2fast.table import State
from lsps2fast_plugin.cln.models import list_peer_channels
from lsps2fast_plugin.cln.notifications import ForwardEvent
from lsps2fast_plugin.cln.retry import until_answered
from lsps2fast_plugin.service import blinded_parts
from lsps2fast_plugin.service.held_shares import Claim
from lsps2fast_plugin.service.outgoing_room import WOULD_NOT_BE_FORWARDED
from lsps2fast_plugin.service.parts import ServiceParts
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.sales_ledger.evidence import CHANNEL_LEFT

if TYPE_CHECKING:
    from lsps2fast_plugin.service.lsps1.orders import Orders
    from lsps2fast_plugin.service.wake.waker import Waker

log = logging.getLogger(__name__)

EXPIRY_TOO_FAR = "0015"
LEAVES = "its channel leaves"  # key of `Sessions.refused`
NODE_FAILURE = "2002"


class HtlcIntake:
    """Takes each HTLC that concerns us."""

    def __init__(self, parts: ServiceParts) -> None:
        self.names = parts.names
        self._incoming = parts.incoming
        self._host = parts.host
        self._held = parts.held
        self._held_limits = parts.held_limits
        self._kinds = parts.held_kinds
        self._beside = parts.held_kinds.beside_sales
        self._driver = parts.driver
        self._desk = parts.desk
        self._capital = parts.exposure
        self._sales = parts.sales
        self._clock = parts.clock
        self._rpc = parts.rpc
        self._shut = parts.shut
        self._forward_limits = parts.forward_limits
        self._waker = parts.waker
        self._parts = parts
        self._max_hold_blocks = parts.settings.max_hold_blocks
        self._sells_blinded = parts.settings.blinded_paths

    def on_htlc(self, call: Any) -> None:
        """Take a part for a jit scid, or a forward that lightningd would push into a withheld channel."""
        if self._shut.watches(call.peer_id):
            self._host.spawn(self._look_up(call))
        else:
            self._take(call)

    async def _look_up(self, call: Any) -> None:
        """Something comes from a peer that has a channel which carries nothing but its payment (rule:21)."""
        why = await self._shut.why_not_in(call.peer_id, call.in_scid)
        if why is not None:
            log.info(f"{call.amount_msat} msat refused {why}")
            self._fail(call, TEMPORARY)
            return
        try:
            self._take(call)
        except Exception:  # as where the call would have been taken at once: it must be answered (K-20)
            log.error(f"an HTLC is failed because of a bug\n{traceback.format_exc()}")
            self._fail(call, NODE_FAILURE)

    def _fail(self, call: Any, failure: str) -> None:
        """Answer a call that is not held."""
        self._host.fail(call.id_raw, failure)

    def _take(self, call: Any) -> None:
        if call.next_scid in self._driver.set_aside:
            self._fail(call, TEMPORARY)
            return
        if call.next_scid not in self._driver.interest.scids:
            self._take_foreign(call)
            return
        try:
            payload = tlv.read_payload(call.payload_hex)
            is_blinded = payload.blinded
            if is_blinded:  # C-25
                why = blinded_parts.why_not(call, payload)
                if why is not None:
                    self._turn_away_blinded(call, why)
                    return
                call = blinded_parts.unblinded(call)
                payload = tlv.read_payload(call.payload_hex)
        except MalformedTlv as error:
            log.warning(f"part {format_scid(call.in_scid)}/{call.htlc_id} has a broken payload: {error}")
            self._fail(call, TEMPORARY)
            return
        amt_to_forward_msat, outgoing_cltv_value = payload.amt_to_forward_msat, payload.outgoing_cltv_value
        if amt_to_forward_msat is None or outgoing_cltv_value is None:
            name = f"{format_scid(call.in_scid)}/{call.htlc_id}"
            log.warning(f"part {name} names no amount or no expiry: no fee can be taken from it")
            self._fail(call, TEMPORARY)
            return
        part = partial(self._take_part, call, amt_to_forward_msat, outgoing_cltv_value, is_blinded)
        self._incoming.once_known(self._rpc, call, part)

    def _take_foreign(self, call: Any) -> None:
        """Decide on what is for no jit scid: it enters no shut channel (rule:7), and waits for a client that sleeps."""
        shut = call.forward_to is not None and self._shut.lets_nothing_out(call.forward_to)
        if shut:
            self._fail(call, TEMPORARY)
        elif (orders := self._parts.orders) is not None and (order_id := orders.parts.order_of(call)) is not None:
            self._incoming.once_known(self._rpc, call, partial(self._take_for_order, orders, order_id, call))
        elif self._waker is not None and self._waker.sleepers.client_of(call.forward_to) is not None:
            self._incoming.once_known(self._rpc, call, partial(self._take_for_sleeper, self._waker, call))
        else:
            self._host.let_go(call.id_raw)

    def _take_for_order(self, orders: Orders, order_id: str, call: Any) -> None:
        """Hold what pays an order, unless the channel that brought it goes to the chain (rule:19)."""
        key = self.names.key(call.in_scid, call.htlc_id, orders.known(order_id))
        if self._incoming.has_left(self.names.channel_id(call.in_scid)) and key not in orders.known(order_id):
            self._fail(call, TEMPORARY)
        else:
            orders.on_part(order_id, call, key)

    def _take_for_sleeper(self, waker: Waker, call: Any) -> None:
        """Hold what is for a client that is away, unless the channel that brought it goes to the chain (rule:19)."""
        in_channel = self.names.channel_id(call.in_scid)
        if self._incoming.has_left(in_channel):
            self._fail(call, TEMPORARY)
        elif not waker.takes(call, in_channel or call.in_scid):
            self._host.let_go(call.id_raw)

    def _turn_away_blinded(self, call: Any, why: str) -> None:
        log.warning(f"part {format_scid(call.in_scid)}/{call.htlc_id} is inside a blinded path: {why}")
        self._fail(call, TEMPORARY)

    def _take_part(self, call: Any, amt_to_forward_msat: int, outgoing_cltv_value: int, is_blinded: bool) -> None:
        """Let a part in, known by the id of its channel where that is known (rule:25)."""
        sessions = self._driver.sessions
        channel, htlc_id = self.names.key(call.in_scid, call.htlc_id, sessions.index)
        htlc = IncomingHtlc(
            jit_scid=call.next_scid,
            payment_hash=call.payment_hash,
            in_scid=channel if isinstance(channel, int) else call.in_scid,
            htlc_id=htlc_id,
            amount_msat=call.amount_msat,
            amt_to_forward_msat=amt_to_forward_msat,
            cltv_expiry=call.cltv_expiry,
            outgoing_cltv_value=outgoing_cltv_value,
            in_channel=channel if isinstance(channel, str) else "",
        )
        too_few = self._forward_limits.part_refusal(call.cltv_expiry, outgoing_cltv_value)
        jit = sessions.buys.get(call.next_scid)
        agreed = jit is not None and call.cltv_expiry >= outgoing_cltv_value + jit.terms.cltv_expiry_delta_blocks
        why = too_few if agreed and htlc.key not in sessions.index else None  # else the core says so (C-04)
        joins = self._driver.judge_joiner(htlc)
        why = why or joins.why
        if why is not None:
            log.warning(f"part {format_scid(call.in_scid)}/{call.htlc_id} is not taken: {why}")
            self._desk.refusals.count(Refusal.NOT_FORWARDABLE)
            self._fail(call, TEMPORARY)
            return
        if not self._sells_blinded and is_blinded and htlc.key not in sessions.index:
            self._turn_away_blinded(call, blinded_parts.SWITCHED_OFF)
            return
        if self._incoming.has_left(htlc.in_channel) and htlc.key not in sessions.index:
            self._fail(call, TEMPORARY)
            return
        refusal = self._refusal(call, htlc.key, outgoing_cltv_value)
        if refusal is not None:
            self._held.hold(htlc.key, call)
            self._driver.carry_out((FailParts((htlc.key,), refusal),))
            return
        sessions.held_beside(len(self._beside), self._beside.held_msat)
        actions = sessions.part(htlc, self._clock.now_ms(), self._clock.wall_ms())
        self._held_limits.part_came(jit)
        self._held.hold(htlc.key, call)
        self._driver.carry_out(actions)
        if htlc.key in sessions.index:  # beside it the payment is whole without these
            self._driver.drop(joins.drop, WOULD_NOT_BE_FORWARDED)
        if self._incoming.has_left(htlc.in_channel):
            self._drop_waiting(htlc.in_channel)
        if self._waker is not None and jit is not None and self._held.has(htlc.key):
            self._waker.part_came(jit.peer_id)

    def _refusal(self, call: Any, key: PartKey, outgoing_cltv_value: int) -> str | None:
        """Return why this part may not be held. What is held for a payment the core bounds itself (rule:24)."""
        jit = self._driver.sessions.buys.get(call.next_scid)
        if jit is None or key in self._driver.sessions.index:
            return None
        if jit.paid:  # people:S16: over the alias a part waits only while its channel is not back
            waits = jit.channel is not None and self._driver.effects.waits(jit.channel.channel_id, call.next_scid)
            return TEMPORARY if waits and not self._may_wait(call, key) else None
        if outgoing_cltv_value - self._driver.sessions.height > self._max_hold_blocks:
            self._desk.refusals.count(Refusal.HOLD_TOO_LONG)
            return EXPIRY_TOO_FAR  # rule:18: so long the client could bind our coins
        return None

    def _may_wait(self, call: Any, key: PartKey) -> bool:
        """Return whether there is room for one more HTLC, beside all that are held."""
        if self._waker is None:
            return self._kinds.has_room(self._kinds.returning, call.amount_msat, self._desk.gate)
        return self._waker.sleepers.make_room(Claim(key[0], call.amount_msat, call.id_raw))

    def channel_left(self, channel_id: str) -> None:
        """Fail what a channel brought and is still held, as it goes to the chain, before anything is let out (rule:19).

        Too small for the chain, or claimed too late, it would never be ours, and the client would have it all the same.
        """
        self._incoming.leaves(channel_id)
        held = self._driver.sessions.held_over(channel_id, self.names.names_of(channel_id))
        if held:
            log.warning(f"{len(held)} parts of payments fail: channel {channel_id}, which brought them, is closing")
            self._blame_payers(held)
            self._driver.drop(held, LEAVES)
        self._drop_waiting(channel_id)
        if self._parts.orders is not None:
            self._parts.orders.channel_left(channel_id, self.names.names_of(channel_id))
        lost = () if self._waker is None else self._waker.channel_left(self.names.names_of(channel_id))
        if lost:
            log.warning(
                f"{len(lost)} payments for clients that sleep fail: channel {channel_id}, their own, is closing"
            )
        for call in lost:
            self._fail(call, TEMPORARY)

    def _drop_waiting(self, in_channel: str) -> None:
        """Fail what came over this channel, is let out, and waits for its client since our start."""
        sessions = self._driver.sessions
        lost = self._driver.effects.drop_waiting(in_channel, self.names.names_of(in_channel))
        if lost:
            log.warning(f"{len(lost)} parts that wait for a client fail: channel {in_channel}, their own, is closing")
        for key, payment_hash in lost:
            sessions.refused[LEAVES] += 1
            self._driver.carry_out(sessions.resolved(key, payment_hash))

    def _blame_payers(self, keys: list[PartKey]) -> None:
        """Take note why payments fail that are being served and not whole without these parts."""
        gone_msat: Counter[Payment] = Counter()
        for key in keys:
            part = self._driver.sessions.index[key]
            session = self._driver.sessions.buys[part.jit_scid].sets[part.payment_hash]
            if session.state != State.COLLECTING:
                gone_msat[session] += part.amt_to_forward_msat
        for payment, msat in gone_msat.items():
            if payment.sum_msat - msat < max(payment.buy.size_msat, payment.fee_msat + 1):
                self._driver.because(payment.buy.jit_scid, payment.payment_hash, CHANNEL_LEFT)

    def on_forward_event(self, event: ForwardEvent) -> None:
        """Take note that a forward ended, ours or another one."""
        preimage = event.preimage
        if event.status == "offered" or (event.status == "settled") != (preimage is not None):
            return  # a settlement without its preimage proves nothing (rule:16)
        in_scid, htlc_id = parse_scid(event.in_channel), event.in_htlc_id
        payment_hash = bytes.fromhex(event.payment_hash)
        end = payment_hash, None if preimage is None else bytes.fromhex(preimage)
        if payment_hash in self._driver.sessions.by_hash:
            self._sales.forward_failed(payment_hash, event)
        key = self.names.key(in_scid, htlc_id, self._driver.sessions.index)
        if key in self._driver.sessions.index or payment_hash not in self._driver.sessions.by_hash:
            self._part_ended(key, event, *end)
        else:
            self._host.spawn(self._resolve_renamed(in_scid, htlc_id, event, *end))

    def _part_ended(self, key: PartKey, event: ForwardEvent, payment_hash: bytes, preimage: bytes | None) -> None:
        """Tell whose part it is, if it is one of ours: others may have its payment hash, too (rule:12)."""
        part = self._driver.sessions.index.get(key)
        if part is not None and part.payment_hash == payment_hash:
            self._capital.part_failed(part.jit_scid, payment_hash, event)
        self._driver.carry_out(self._driver.sessions.resolved(key, payment_hash, preimage))

    async def _resolve_renamed(
        self, in_scid: int, htlc_id: int, event: ForwardEvent, payment_hash: bytes, preimage: bytes | None
    ) -> None:
        """Look up a part of ours under a name we do not know: its channel may have been confirmed since (cln:H3)."""
        which = {"short_channel_id": format_scid(in_scid)}
        ask = partial(list_peer_channels, self._rpc, **which)
        for channel in await until_answered("listpeerchannels", ask, self._clock):
            self.names.learn(channel.channel_id, channel.scids)
        key = self.names.key(in_scid, htlc_id, self._driver.sessions.index)
        self._part_ended(key, event, payment_hash, preimage)
