"""An LSP that does whatever its strategy says, for the real wallet plugin of a town; payer and LSP are one.

It sells, opens channels with or without a funding behind them, and sends parts whose fee it sets itself.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from lsps2fast.lsps.lsps2 import format_datetime
from lsps2fast_plugin.simnode import Client, Node, Payer, tlv
from lsps2fast_plugin.simnode.channels import Channel, End, Htlc
from lsps2fast_plugin.simnode.client import LSPS0
from lsps2fast_plugin.simnode.closing import close_from_afar
from lsps2fast_plugin.simnode.openings import make_end
from lsps2fast_plugin.simnode.party import OpenRequest, Party
from lsps2fast_plugin.simnode.payer import Payment, target_of
from lsps2fast_plugin.simnode.psbt import Output, Tx

Json = dict[str, Any]
BITS = (12, 22, 46, 50)
FUNDING_FEE_SAT = 2_000
CLTV_DELTA = 144


class Victim(Protocol):
    """The wallet that is cheated, as far as the cheat knows it."""

    bob: Client

    def came(self, lsp: EvilLsp, htlc: Htlc) -> None:
        """Take note that the wallet gave a preimage for this part."""


class EvilLsp(Payer):
    """What it says and does is in `menu`, `reply`, `open` and `send`."""

    def __init__(self, world: Any, name: str, purse: Victim) -> None:
        super().__init__(world, name)
        self.purse = purse
        self.trust = False
        self.silent = False
        self.errors: list[Json] = []  # that its next answers are
        self.fees_msat: list[int] = [1_000_000]  # its menus', one after the other; the last one stays
        self.bought: list[Json] = []
        self.fundings: dict[Channel, Tx] = {}
        self.agreed: dict[bytes, tuple[int, int]] = {}  # by payment hash: fee, and amount
        self.fees_of: dict[Htlc, int] = {}
        self.claimed: dict[bytes, int] = {}  # fees that were claimed with it

    # words

    def custommsg_arrived(self, peer: Party, data: bytes) -> None:
        if int.from_bytes(data[:2], "big") != LSPS0 or self.silent:
            return
        request = json.loads(data[2:])
        reply: Json = {"jsonrpc": "2.0", "id": request.get("id")}
        if self.errors:
            reply["error"] = self.errors.pop(0)
        else:
            reply["result"] = self.result(request)
        self.say(peer, json.dumps(reply).encode())

    def say(self, peer: Party, payload: bytes) -> None:
        """Send a message of LSPS0."""
        asyncio.get_running_loop().call_soon(peer.custommsg_arrived, self, LSPS0.to_bytes(2, "big") + payload)

    def result(self, request: Json) -> Json:
        """Answer a request."""
        if request["method"] == "lsps0.list_protocols":
            return {"protocols": [2]}
        if request["method"] == "lsps2.get_info":
            fee_msat = self.fees_msat.pop(0) if len(self.fees_msat) > 1 else self.fees_msat[0]
            return {"opening_fee_params_menu": [self.entry(fee_msat)]}
        self.bought.append(request["params"])
        scid = f"{self.rng.randrange(10**7)}x{self.rng.randrange(1 << 24)}x1"
        return {"jit_channel_scid": scid, "lsp_cltv_expiry_delta": CLTV_DELTA, "client_trusts_lsp": self.trust}

    def entry(self, fee_msat: int) -> Json:
        """Return an offer for a day."""
        return {
            "min_fee_msat": str(fee_msat),
            "proportional": 1_000,
            "valid_until": format_datetime(round(self.clock.time() * 1000) + 86_400_000),
            "min_lifetime": 1_008,
            "max_client_to_self_delay": 2_016,
            "min_payment_size_msat": "1000000",
            "max_payment_size_msat": "4000000000",
            "promise": "p" * 64,
        }

    # channels

    async def open(self, wallet: Node, capacity_sat: int, bits: tuple[int, ...] = BITS, **terms: Any) -> End | None:
        """Open a channel whose funding is ready and not sent; None when it is refused."""
        request = OpenRequest(capacity_sat, 0, bits, False, 0, max(capacity_sat // 100, 546), 1_250, **terms)
        answer = await wallet.open_requested(self, request)
        if answer.error is not None or wallet.state != "running":
            return None
        point = self.chain.grant(capacity_sat + FUNDING_FEE_SAT, self.wallet.new_script())
        script = b"\0\x20" + self.rng.randbytes(32)
        spent = self.chain.unspent[point]
        tx = Tx((point,), (Output(capacity_sat, script),), (spent,), self.chain.height).sign(b"evil")
        channel = Channel(capacity_sat, bits, (tx.txid, 0), True)
        channel.zero_conf = answer.mindepth == 0
        channel.feerate_perkw, channel.raised_perkw = 1_250, 1_255
        ours, theirs = make_end(channel, self, capacity_sat * 1000), make_end(channel, wallet, 0)
        theirs.reserve_sat, ours.reserve_sat = request.reserve_sat, 546
        channel.join(ours, theirs)
        for end in channel.ends:
            end.htlc_maximum_msat = capacity_sat * 1000
        channel.withheld = channel.withheld_ever = True
        self.fundings[channel] = tx
        self.world.channels.append(channel)
        channel.set_reestablished(wallet.node_id in self.links)
        self.ends.append(ours)
        wallet.channel_created(theirs)
        self.send_ready(ours)
        return ours

    def broadcast(self, end: End) -> None:
        """Send the funding."""
        self.chain.submit(self.fundings[end.channel])
        end.channel.withheld = False

    def close_by_agreement(self, end: End) -> None:
        """Send `shutdown`."""
        end.channel.post(end.peer, lambda: close_from_afar(end.other))

    def forget(self, end: End) -> None:
        """Let a channel without a funding be as if it had never been, on both sides (cln:N2)."""
        end.channel.dead = True
        for side in end.channel.ends:
            side.forgotten = True
            side.owner.ends.remove(side)
        self.world.channels.remove(end.channel)

    # money

    def send(
        self, end: End, invoice: str, parts: list[tuple[int, int]], far: int = 40, total_msat: int | None = None
    ) -> Payment:
        """Forward parts (what the onion says, and the fee that is kept of it) into a channel."""
        target = target_of(invoice)
        total = sum(onion_msat for onion_msat, _ in parts) if total_msat is None else total_msat
        payment = Payment(self, target.payment_hash)
        cltv = self.chain.height + far
        wallet = bytes.fromhex(end.peer.node_id)
        for onion_msat, fee_msat in parts:
            last = tlv.hop_payload(onion_msat, cltv, payment_secret=target.payment_secret, total_msat=total)
            extra = tlv.write_records({tlv.EXTRA_FEE: fee_msat.to_bytes(8, "big")}) if fee_msat else b""
            part = self._send(payment, end, onion_msat - fee_msat, cltv, [(wallet, last)], extra)
            self.fees_of[part.htlc] = fee_msat
            payment.parts.append(part)
        return payment

    def through(self, end: End, out: End, target: Party, payment_hash: bytes, amount_msat: int) -> Payment:
        """Route a payment through the wallet: in over our channel, out over another of its own."""
        invoice, height = self.purse.bob.invoices[payment_hash], self.chain.height
        last = tlv.hop_payload(amount_msat, height + 20, payment_secret=invoice.payment_secret, total_msat=amount_msat)
        hops = [
            (bytes.fromhex(end.peer.node_id), tlv.hop_payload(amount_msat, height + 20, out.scid_now())),
            (bytes.fromhex(target.node_id), last),
        ]
        payment = Payment(self, payment_hash)
        payment.parts.append(self._send(payment, end, amount_msat + 2_000, height + 60, hops, b""))
        return payment

    def htlc_resolved(self, htlc: Htlc) -> None:
        if htlc.preimage is not None:
            fee_msat = self.fees_of.get(htlc, 0)
            self.claimed[htlc.payment_hash] = self.claimed.get(htlc.payment_hash, 0) + fee_msat
            self.purse.came(self, htlc)
        super().htlc_resolved(htlc)
