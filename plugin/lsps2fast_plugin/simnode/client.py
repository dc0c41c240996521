"""A light wallet: talks LSPS0, takes channels, checks and settles parts as bLIP-52 asks a client (I-20 to I-27).

Its conduct is set in `behaviour`, which a test may change at any time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import blinding, failures, tlv
from .channels import End, Htlc
from .clock import Timer
from .closing import CLOSED_STATES, close_from_afar
from .errors import NodeProblem
from .onion_messages import OnionInbox
from .onions import Peeled
from .party import OpenAnswer, OpenRequest, Party, Surroundings, connect, disconnect
from .psbt import Tx
from .script import TEXT, Behaviour, Script, send_error

LSPS0 = 37913
SET_TIMEOUT_S = 70.0  # cln:C4


class LspsError(NodeProblem):
    """The LSP answered an LSPS request with an error."""

    def __init__(self, code: int, message: str, data: Any) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.data = data


@dataclass(eq=False)
class ClientInvoice:
    """An invoice as the payer needs it; the client approved that `opening_fee_msat` is taken from it once."""

    payee: Party
    payment_hash: bytes
    payment_secret: bytes
    preimage: bytes
    amount_msat: int | None
    scid: str | None
    cltv_delta: int
    opening_fee_msat: int | Callable[[int], int] = 0
    expires_at: float = math.inf  # of the world's clock
    paid_msat: int | None = None
    fee_taken_msat: int = 0
    path: blinding.BlindedPath | None = None  # in place of a route hint (BOLT 12)

    def allowed_fee_msat(self, size_msat: int) -> int:
        return self.opening_fee_msat(size_msat) if callable(self.opening_fee_msat) else self.opening_fee_msat


@dataclass(eq=False)
class Received:
    """One part in the client's hands."""

    htlc: Htlc
    peeled: Peeled
    onion_msat: int
    total_msat: int
    extra_fee_msat: int


@dataclass(eq=False)
class Gathering:
    """The parts of one payment."""

    parts: list[Received] = field(default_factory=list)
    timer: Timer | None = None


class Client(Party):
    """A wallet connected to `world.lsp`. `messages` are all custom messages it got; `received` all parts.

    `deaf`: its connection is dead on its side, and the LSP does not know; the next one is sound.
    """

    def __init__(self, world: Surroundings, name: str, **behaviour: Any) -> None:
        super().__init__(world, name)
        self.behaviour = Behaviour(**behaviour)
        self.lsp = world.lsp
        self.messages: list[bytes] = []
        self.onions = OnionInbox(self.clock)
        self.deaf = False
        self.received: list[Received] = []
        self.refused: list[str] = []
        self.invoices: dict[bytes, ClientInvoice] = {}
        self.opens: list[OpenRequest] = []
        self._gathering: dict[bytes, Gathering] = {}
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._requests = 0
        self.script = Script(self)

    # link

    def connect(self) -> None:
        """Come online and dial the LSP."""
        self.online = True
        connect(self, self.lsp)

    def disconnect(self) -> None:
        disconnect(self, self.lsp)

    def go_offline(self) -> None:
        """Disconnect and refuse connections until `connect()`."""
        self.disconnect()
        self.online = False

    def speak(self) -> None:
        """End a silence of the script."""
        self.script.speak()

    def send_error(self, text: str = TEXT, end: End | None = None) -> None:
        """`error` to the LSP: about a channel (default: the last one), or about the open under way."""
        if end is None and self.ends and self.ends[-1].state not in CLOSED_STATES:
            end = self.ends[-1]
        send_error(self, end, text)

    def send_shutdown(self, end: End | None = None) -> None:
        """Ask to close a channel (default: the last one) by agreement."""
        end = end or (self.ends[-1] if self.ends else None)
        if end is not None:
            theirs = end.other
            end.channel.post(theirs.owner, lambda: close_from_afar(theirs))

    def onion_message_arrived(self, message: bytes) -> None:
        if not self.deaf:
            self.onions.take(message)

    def peer_disconnected(self, peer: Party) -> None:
        self.deaf = False
        for future in self._replies.values():
            if not future.done():
                future.set_exception(NodeProblem(f"{self.name}: link to {peer.name} is gone"))
        self._replies.clear()

    # LSPS0

    def send_raw(self, payload: bytes, message_type: int = LSPS0) -> None:
        """Send a custom message as it is, without its two bytes of type."""
        data = message_type.to_bytes(2, "big") + payload
        asyncio.get_running_loop().call_soon(self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        lsp = self.links.get(self.lsp.node_id)
        if lsp is not None:
            lsp.custommsg_arrived(self, data)

    async def request(self, method: str, params: Any = None, timeout_s: float | None = None) -> Any:
        """One LSPS0 call; returns `result`, raises LspsError for `error`."""
        self._requests += 1
        request_id = f"{self.name}-{self._requests}"
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {} if params is None else params}
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._replies[request_id] = future
        self.send_raw(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())
        reply = await self.world.bounded(future, timeout_s, f"answer to {method} of {self.name}")
        if "error" in reply:
            error = reply["error"]
            raise LspsError(error.get("code", 0), error.get("message", ""), error.get("data"))
        return reply["result"]

    def custommsg_arrived(self, peer: Party, data: bytes) -> None:
        self.messages.append(data)
        if int.from_bytes(data[:2], "big") != LSPS0:
            return
        try:
            reply = json.loads(data[2:])
        except ValueError:
            return
        future = self._replies.pop(str(reply.get("id")), None) if isinstance(reply, dict) else None
        if future is not None and not future.done():
            future.set_result(reply)

    # channels

    async def open_requested(self, opener: Party, request: OpenRequest) -> OpenAnswer:
        self.opens.append(request)
        await asyncio.sleep(0)
        if self.script.at("open_channel") == "error":
            return OpenAnswer(error=TEXT)
        await self.script.wait()
        how = self.behaviour
        if how.vanish_at == "open":
            self.go_offline()
            return OpenAnswer(error="gone")
        unwanted = "Channel request rejected" if how.reject_types & set(request.channel_type) else None
        if request.funding_sat < how.least_funding_sat:
            unwanted = f"chan size of {request.funding_sat} sat is below the least, {how.least_funding_sat} sat"
        return OpenAnswer(
            how.reject_open or unwanted,
            0 if how.zeroconf else 1,
            how.htlc_minimum_msat,
            how.to_self_delay,
            how.max_accepted_htlcs,
            how.max_in_flight_msat,
            how.reserve_sat,
            how.accepts_as,
        )

    def open_accepted(self, opener: Party) -> None:
        self.script.at("accept_channel")

    async def funding_refused(self, opener: Party, tx: Tx) -> str | None:
        if self.script.at("funding_created") == "error":
            return TEXT
        await self.script.wait()
        if self.behaviour.vanish_at == "funding":
            self.go_offline()
        return self.behaviour.refuse_funding

    def channel_created(self, end: End) -> None:
        self.ends.append(end)
        deed = self.script.at("funding_signed", end)
        if self.behaviour.vanish_at == "ready":
            self.go_offline()
        elif self.behaviour.send_ready and deed not in ("error", "disconnect"):
            self.send_ready(end)
            self.script.at("channel_ready", end)

    def channel_changed(self, end: End, old_state: str | None, cause: str, message: str | None) -> None:
        if end.state == "CHANNELD_NORMAL":
            self.script.at("normal", end)

    def release_ready(self) -> None:
        """Send the channel_ready held back by `send_ready=False`."""
        for end in self.ends:
            if not end.channel.dead:
                self.send_ready(end)

    # payments

    def invoice(
        self,
        amount_msat: int | None,
        scid: str | None = None,
        *,
        opening_fee_msat: int | Callable[[int], int] = 0,
        cltv_delta: int = 48,
        preimage: bytes | None = None,
        expiry_s: float = math.inf,
    ) -> ClientInvoice:
        """Return an invoice with a route hint over `scid` (None: over our first channel); approves the fee for it."""
        preimage = preimage or self.rng.randbytes(32)
        payment_hash = hashlib.sha256(preimage).digest()
        secret = hashlib.sha256(self.private_key + preimage).digest()
        made = ClientInvoice(self, payment_hash, secret, preimage, amount_msat, scid, cltv_delta, opening_fee_msat)
        made.expires_at = self.clock.time() + expiry_s
        self.invoices[payment_hash] = made
        return made

    def blind(
        self, invoice: ClientInvoice, relay: blinding.Relay | None = None, via: Party | None = None
    ) -> ClientInvoice:
        """Hide the last hop of an invoice in a blinded path that begins at the LSP, or one node earlier (`via`)."""
        assert invoice.scid is not None
        relay = relay or blinding.Relay(invoice.cltv_delta)
        ours = {blinding.SCID: tlv.scid_to_int(invoice.scid).to_bytes(8, "big"), blinding.PAYMENT_RELAY: relay.encode()}
        last = {blinding.PATH_ID: invoice.payment_secret}
        hops = [(self.lsp.public_key, ours), (self.public_key, last)]
        if via is not None:
            hops.insert(0, (via.public_key, {blinding.PAYMENT_RELAY: blinding.Relay(0).encode()}))
        clear = [(node_id, tlv.write_records(records)) for node_id, records in hops]
        invoice.path = blinding.make(self.rng.randbytes(32), clear)
        return invoice

    def received_msat(self) -> int:
        return sum(invoice.paid_msat or 0 for invoice in self.invoices.values())

    def htlc_arrived(self, htlc: Htlc) -> None:
        beside = tlv.read_records(htlc.extra_tlvs)
        path_key, extra = beside.get(blinding.PATH_KEY), beside.get(tlv.EXTRA_FEE)
        peeled = htlc.onion.peel(blinding.onion_key(self.private_key, path_key), htlc.payment_hash)
        records = tlv.read_records(tlv.unprefixed(peeled.payload))
        if path_key is not None:
            opened = blinding.unblind(self.private_key, path_key, records[blinding.ENCRYPTED_DATA])
            records[8] = opened.records[blinding.PATH_ID] + records[blinding.TOTAL_AMOUNT]
        part = Received(
            htlc,
            peeled,
            tlv.read_tu(records[2]),
            tlv.read_tu(records[8][32:]) if 8 in records else 0,
            int.from_bytes(extra, "big") if extra is not None else 0,
        )
        self.received.append(part)
        if self.script.at("update_add_htlc", htlc.taker) == "error":
            return
        action = self.behaviour.on_part(htlc) if callable(self.behaviour.on_part) else self.behaviour.on_part
        if action == "vanish":
            self.go_offline()
        elif action == "fail":
            self.fail(part)
        elif action == "settle":
            self._settle(part, records.get(8, b"")[:32], extra)

    def _settle(self, part: Received, secret: bytes, extra: bytes | None) -> None:
        invoice = self.invoices.get(part.htlc.payment_hash)
        why = self._objection(part, invoice, secret, extra)
        if why is not None or invoice is None:
            self.refused.append(why or "no such invoice")
            self.fail(part)
            return
        group = self._gathering.setdefault(part.htlc.payment_hash, Gathering())
        if group.timer is None:
            key = part.htlc.payment_hash
            group.timer = self.clock.call_later(SET_TIMEOUT_S, lambda: self._time_out(key))
        group.parts = [each for each in group.parts if not each.htlc.channel.dead]  # of a channel that failed meanwhile
        group.parts.append(part)
        self._complete(group, invoice)

    def _objection(
        self, part: Received, invoice: ClientInvoice | None, secret: bytes, extra: bytes | None
    ) -> str | None:
        """I-20 to I-22: what is wrong with this part, in words; None when nothing is."""
        if invoice is None:
            return "no such invoice"
        if invoice.paid_msat is not None:
            return "already paid"
        if self.clock.time() > invoice.expires_at:
            return "invoice is over"
        if secret != invoice.payment_secret:
            return "wrong payment_secret"
        if not self.behaviour.check_fees:
            return None
        if extra is not None and (len(extra) != 8 or part.extra_fee_msat == 0):
            return f"malformed extra_fee {extra.hex()}"
        if extra is not None and part.htlc.offerer.owner is not self.lsp:
            return "extra_fee from another peer"
        if part.htlc.amount_msat + part.extra_fee_msat != part.onion_msat:
            return f"{part.htlc.amount_msat} + {part.extra_fee_msat} is not {part.onion_msat}"
        return None

    def _complete(self, group: Gathering, invoice: ClientInvoice) -> None:
        """I-23, I-24: enough has come, and no more than the opening fee was taken."""
        onion_msat = sum(part.onion_msat for part in group.parts)
        if onion_msat < max(part.total_msat for part in group.parts):
            return
        received_msat = sum(part.htlc.amount_msat for part in group.parts)
        fee_msat = sum(part.extra_fee_msat for part in group.parts)
        size_msat = invoice.amount_msat if invoice.amount_msat is not None else onion_msat
        allowed_msat = invoice.allowed_fee_msat(size_msat)
        if group.timer is not None:
            group.timer.cancel()
        del self._gathering[invoice.payment_hash]
        if self.behaviour.check_fees and (fee_msat > allowed_msat or received_msat < size_msat - allowed_msat):
            self.refused.append(f"fee {fee_msat} of {allowed_msat}, received {received_msat} of {size_msat}")
            for part in group.parts:
                self.fail(part)
            return
        invoice.paid_msat, invoice.fee_taken_msat = received_msat, fee_msat
        for part in group.parts:
            self.fulfill(part, invoice.preimage)

    def _time_out(self, payment_hash: bytes) -> None:
        group = self._gathering.pop(payment_hash, None)
        for part in group.parts if group is not None else ():
            self.fail(part, failures.MPP_TIMEOUT)

    def held(self) -> list[Received]:
        """Parts that are neither settled nor failed."""
        return [part for part in self.received if not part.htlc.removing]

    def fulfill(self, part: Received, preimage: bytes) -> None:
        if not part.htlc.removing:
            part.htlc.channel.fulfill(part.htlc, preimage)
            self.script.at("update_fulfill_htlc", part.htlc.taker)

    def fail(self, part: Received, message: bytes | None = None) -> None:
        """Fail one part; without a message with incorrect_or_unknown_payment_details (I-26)."""
        if part.htlc.removing:
            return
        text = message or failures.unknown_details(part.htlc.amount_msat, self.chain.height)
        if blinding.PATH_KEY in tlv.read_records(part.htlc.extra_tlvs):
            text = failures.INVALID_ONION_BLINDING
        part.htlc.channel.fail(part.htlc, part.htlc.onion.originate(part.peeled.shared_secret, text))
        self.script.at("update_fail_htlc", part.htlc.taker)

    def settle_held(self) -> None:
        """Settle everything held, whatever it amounts to."""
        for part in self.held():
            invoice = self.invoices[part.htlc.payment_hash]
            invoice.paid_msat = (invoice.paid_msat or 0) + part.htlc.amount_msat
            invoice.fee_taken_msat += part.extra_fee_msat
            self.fulfill(part, invoice.preimage)
