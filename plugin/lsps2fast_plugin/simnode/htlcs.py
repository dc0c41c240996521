"""Incoming HTLCs of a node: the hook, what follows from its answer, forwarding, and the table of forwards.

An incoming HTLC that is neither forwarded nor answered is held by the hook call alone; it is taken up again
after a restart (cln:R1) or let through when the plugin is gone (cln:H12).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from . import blinding, failures, tlv
from .answers import CONTINUE, Decision, Fatal, read_answer
from .channels import NORMAL, U64_MAX, End, Htlc
from .invoices import Invoices
from .node_base import NodeBase
from .parts import Forward, HeldParts, Part
from .process import Plugin

MAX_BLOCKS_AHEAD = 2016


class Htlcs:
    """The HTLC side of one node. `held` are parts whose hook call is open; they are what a restart replays."""

    def __init__(self, node: NodeBase, parts: HeldParts, invoices: Invoices) -> None:
        self.node = node
        self.parts = parts
        self.held = parts.held
        self.invoices = invoices
        self.forwards: list[Forward] = []
        self.by_out: dict[Htlc, Forward] = {}
        self.created_count = self.updated_count = 0

    # in

    def arrived(self, htlc: Htlc) -> None:
        """Take a new HTLC."""
        self.node.htlc_log.append((htlc, "in"))
        htlc.received_s = self.node.clock.tick()
        self.take_up(htlc)

    def take_up(self, htlc: Htlc) -> None:
        """Ask the hook about an HTLC, new or replayed at start."""
        part = self.read(htlc)
        if part.scid is not None and part.forward_to is None:
            self.node.warn(f"chan#{self.node.ends.index(part.end) + 1}", f"No peer channel with scid={part.scid}")
        self.held[htlc] = part
        self.ask(part, self.node.hook_chain("htlc_accepted"))

    def read(self, htlc: Htlc) -> Part:
        """Peel the onion and choose the outgoing channel."""
        path_key = tlv.read_records(htlc.extra_tlvs).get(blinding.PATH_KEY) if htlc.extra_tlvs else None
        peeled = htlc.onion.peel(blinding.onion_key(self.node.private_key, path_key), htlc.payment_hash)
        part = Part(htlc, peeled.payload, peeled.rest, peeled.next_packet, peeled.shared_secret, htlc.received_s)
        part.extra_tlvs, part.path_key = htlc.extra_tlvs, path_key
        self.parse(part, peeled.payload)
        part.forward_to = self.best_channel(part)
        return part

    def parse(self, part: Part, payload: bytes) -> None:
        """Fill the fields from a payload with prefix; `part.bad` tells what is wrong with it."""
        part.payload, part.bad, part.is_blinded = payload, None, False
        try:
            records = tlv.read_records(tlv.unprefixed(payload))
            if part.path_key or not records.keys().isdisjoint((blinding.ENCRYPTED_DATA, blinding.CURRENT_PATH_KEY)):
                self._parse_blinded(part, records)
                return
            part.forward_msat = tlv.read_tu(records[2])
            part.outgoing_cltv = tlv.read_tu(records[4])
            part.scid = tlv.scid_to_str(int.from_bytes(records[6], "big")) if 6 in records else None
            part.payment_secret = records[8][:32] if 8 in records else None
            part.total_msat = tlv.read_tu(records[8][32:]) if 8 in records else None
        except tlv.BadTlv as bad:
            part.bad = bad
        except KeyError as missing:
            part.bad = tlv.BadTlv(missing.args[0], 1)
        except ValueError:
            part.bad = tlv.BadTlv(2, 1)

    def _parse_blinded(self, part: Part, records: dict[int, bytes]) -> None:
        """Fill the fields from the data that is meant for this node; only forwards are known here (cln:N7)."""
        part.scid = part.forward_msat = part.outgoing_cltv = None
        key = part.path_key or records.get(blinding.CURRENT_PATH_KEY)
        encrypted = records.get(blinding.ENCRYPTED_DATA)
        if key is None or encrypted is None or (part.path_key and blinding.CURRENT_PATH_KEY in records):
            raise tlv.BadTlv(blinding.ENCRYPTED_DATA if encrypted is None else blinding.CURRENT_PATH_KEY, 0)
        try:
            opened = blinding.unblind(self.node.private_key, key, encrypted)
            relay = blinding.Relay.decode(opened.records[blinding.PAYMENT_RELAY])
            part.scid = tlv.scid_to_str(int.from_bytes(opened.records[blinding.SCID], "big"))
        except (ValueError, KeyError):
            raise tlv.BadTlv(blinding.ENCRYPTED_DATA, 0) from None
        part.forward_msat = relay.forward_msat(part.htlc.amount_msat)
        part.outgoing_cltv = relay.outgoing_cltv(part.htlc.cltv_expiry)
        part.next_path_key, part.is_blinded = opened.next_path_key, True

    def best_channel(self, part: Part) -> End | None:
        """cln:H15: the channel named, or one of that peer with equal fees and more spendable, withheld or not."""
        if part.onion_rest is None or part.scid is None:
            return None
        named = self.node.end_by_scid(part.scid)
        if named is None:
            return None
        best, best_msat = named, named.spendable_msat()
        for end in self.node.ends_to(named.peer.node_id):
            same_fees = (end.fee_base_msat, end.fee_ppm) == (named.fee_base_msat, named.fee_ppm)
            if end is named or not same_fees or not end.can_add():
                continue
            spendable_msat = end.spendable_msat()
            if spendable_msat >= (part.forward_msat or 0) and spendable_msat > best_msat:
                best, best_msat = end, spendable_msat
        return best

    # the hook

    def ask(self, part: Part, chain: list[Plugin]) -> None:
        """Ask the next plugin of the chain, or act when none is left."""
        while chain and not chain[0].alive:
            chain = chain[1:]
        if not chain:
            self.act(part, CONTINUE)
            return
        generation = self.node.generation

        def answered(answer: dict[str, Any] | None) -> None:
            if self.node.generation != generation or part.htlc not in self.held:
                return
            self.decide(part, CONTINUE if answer is None else self.checked(answer), chain[1:])

        chain[0].request("htlc_accepted", self.request(part), answered)

    def checked(self, answer: dict[str, Any]) -> Decision | None:
        """Return the decision in an answer; None when the node died of it."""
        try:
            return read_answer(answer)
        except Fatal as fatal:
            self.node.crash(str(fatal))
            return None

    def request(self, part: Part) -> dict[str, Any]:
        """Params of the hook call, key by key in lightningd's order."""
        htlc = part.htlc
        onion: dict[str, Any] = {"payload": part.payload.hex(), "type": "tlv"}
        if part.scid is not None:
            onion["short_channel_id"] = part.scid
        if part.forward_msat is not None:
            onion["forward_msat"] = part.forward_msat
        if part.outgoing_cltv is not None:
            onion["outgoing_cltv_value"] = part.outgoing_cltv
        if part.payment_secret is not None:
            onion["total_msat"] = part.total_msat
            onion["payment_secret"] = part.payment_secret.hex()
        onion["next_onion"] = part.next_packet.hex()
        onion["shared_secret"] = part.shared_secret.hex()
        body: dict[str, Any] = {"peer_id": part.end.peer.node_id, "onion": onion}
        if part.forward_to is not None:
            body["forward_to"] = part.forward_to.channel.channel_id
        incoming: dict[str, Any] = {
            "short_channel_id": part.end.scid_now(),
            "id": htlc.id,
            "amount_msat": htlc.amount_msat,
            "cltv_expiry": htlc.cltv_expiry,
            "cltv_expiry_relative": htlc.cltv_expiry - self.node.height,
            "payment_hash": htlc.payment_hash.hex(),
        }
        if htlc.extra_tlvs:
            incoming["extra_tlvs"] = htlc.extra_tlvs.hex()
        body["htlc"] = incoming
        return body

    def decide(self, part: Part, decision: Decision | None, chain: list[Plugin]) -> None:
        if decision is None:
            return
        if decision.result != "continue":
            self.act(part, decision)
            return
        if decision.payload is not None:
            self.parse(part, tlv.prefixed(decision.payload))
        if decision.forward_to is not None:
            part.forward_to = self.node.end_by_id(decision.forward_to)
        if decision.extra_tlvs is not None:
            part.extra_tlvs = decision.extra_tlvs
        part.invoice_msat = decision.invoice_msat
        self.ask(part, chain)

    def act(self, part: Part, decision: Decision) -> None:
        """Carry out the last word on a part."""
        part.is_final_word = decision.result == "continue"
        if decision.result == "fail":
            self.fail_as_told(part, decision)
        elif decision.result == "resolve":
            key = decision.payment_key or b""
            if hashlib.sha256(key).digest() == part.htlc.payment_hash:
                self.parts.fulfill(part, key)
            else:
                self.parts.fail(part, bytes.fromhex("400f"))
        elif part.bad is not None:
            self.parts.fail(part, failures.invalid_payload(part.bad.record, part.bad.offset))
        elif part.onion_rest is None:
            self.invoices.final_hop(part)
        else:
            self.forward(part)

    # resolving incoming HTLCs

    def fail_as_told(self, part: Part, decision: Decision) -> None:
        if decision.failure_onion is not None:
            self.parts.fail_blob(part, part.htlc.onion.relay(part.shared_secret, decision.failure_onion))
        else:
            self.parts.fail(part, decision.failure_message or b"")

    # forwarding

    def forward(self, part: Part) -> None:
        """Make lightningd's checks after the hook (cln:H6, cln:H10), then update_add_htlc."""
        end = part.forward_to
        if end is None:
            self.local_fail(part, failures.UNKNOWN_NEXT_PEER)
            return
        refusal = self.refusal(part, end)
        if refusal is not None:
            self.local_fail(part, refusal)
            return
        assert part.forward_msat is not None
        assert part.outgoing_cltv is not None
        assert part.onion_rest is not None
        del self.held[part.htlc]
        out = end.channel.offer(
            end,
            part.forward_msat,
            part.outgoing_cltv,
            part.htlc.payment_hash,
            part.onion_rest,
            self._tlvs_out(part),
        )
        row = Forward(
            self._next_index(),
            part,
            part.end.scid_now(),
            end.scid_now(),
            out,
            part.forward_msat,
            "offered",
            part.received_s,
        )
        self.forwards.append(row)
        self.by_out[out] = row
        self.node.htlc_log.append((out, "out"))

    @staticmethod
    def _tlvs_out(part: Part) -> bytes:
        """Return what update_add_htlc carries: the hook's records, and the next path key inside a blinded path."""
        if part.next_path_key is None:
            return part.extra_tlvs
        return tlv.write_records({blinding.PATH_KEY: part.next_path_key} | tlv.read_records(part.extra_tlvs))

    def refusal(self, part: Part, end: End) -> bytes | None:
        """Return the failure with which lightningd turns the forward down, or None."""
        htlc = part.htlc
        amount_msat, cltv = part.forward_msat or 0, part.outgoing_cltv or 0
        if end.state not in NORMAL or end.forgotten:
            return failures.UNKNOWN_NEXT_PEER
        if not end.can_add():
            return failures.TEMPORARY_CHANNEL_FAILURE
        end.channel.update_fee()
        fee_msat = htlc.amount_msat - amount_msat
        if fee_msat < 0 or not end.accepts_fee(fee_msat, amount_msat, self.node.clock.time()):
            return failures.fee_insufficient(htlc.amount_msat)
        if amount_msat < max(end.htlc_minimum_msat, end.other.own_minimum_msat, 1):
            return failures.amount_below_minimum(amount_msat)
        if amount_msat > min(end.htlc_maximum_msat, U64_MAX):
            return failures.TEMPORARY_CHANNEL_FAILURE
        if htlc.cltv_expiry - cltv < self.node.cltv_delta:
            return failures.incorrect_cltv_expiry(htlc.cltv_expiry)
        if cltv <= self.node.height:
            return failures.EXPIRY_TOO_SOON
        if cltv > self.node.height + MAX_BLOCKS_AHEAD:
            return failures.EXPIRY_TOO_FAR
        in_flight_msat = end.pending_msat + amount_msat
        if end.channel.dust_exposure_msat(end, amount_msat) > self.node.max_dust_exposure_msat:
            return failures.TEMPORARY_CHANNEL_FAILURE
        crowded = len(end.live) >= end.other.max_accepted_htlcs or in_flight_msat > end.other.max_in_flight_msat
        if crowded or amount_msat > end.spendable_msat():
            return failures.TEMPORARY_CHANNEL_FAILURE
        return None

    def local_fail(self, part: Part, message: bytes) -> None:
        """Fail a forward that never left: a row and an event `local_failed` (cln:F1), and a failure upstream."""
        end = part.forward_to
        out_channel = end.scid_now() if end is not None else part.scid or "0x0x0"
        row = Forward(
            self._next_index(),
            part,
            part.end.scid_now(),
            out_channel,
            None,
            None,
            "local_failed",
            part.received_s,
            failcode=failures.code_of(message),
            failure_reason=self._reason(failures.code_of(message)),
        )
        self.forwards.append(row)
        self.node.forward_event(row)
        self.parts.fail(part, message)

    def _reason(self, failcode: int) -> str | None:
        """Return a later lightningd's word for this failure of its own; it has none for others' (cln:N9)."""
        return failures.REASONS.get(failcode) if self.node.says_failure_reason else None

    # outgoing HTLCs

    def committed(self, htlc: Htlc) -> None:
        row = self.by_out.get(htlc)
        if row is not None:
            self.node.forward_event(row)

    def out_resolved(self, htlc: Htlc) -> None:
        """Take the downstream answer: the event comes first, then the upstream HTLC is resolved (cln:F3)."""
        row = self.by_out.pop(htlc, None)
        if row is None or row.part.htlc.removing:
            return
        row = self.row_now(row)
        row.resolved_s = self.node.clock.tick()
        row.status = "settled" if htlc.preimage is not None else "local_failed" if htlc.lost_on_chain else "failed"
        if row.status == "local_failed":
            row.failcode = failures.code_of(failures.PERMANENT_CHANNEL_FAILURE)
            row.failure_reason = self._reason(row.failcode)
        self.node.forward_event(row)
        if htlc.preimage is not None:
            self.parts.fulfill(row.part, htlc.preimage)
            return
        if htlc.lost_on_chain:
            self.parts.fail(row.part, failures.PERMANENT_CHANNEL_FAILURE)
            return
        blob = htlc.failure or b""
        self.parts.fail_blob(row.part, row.part.htlc.onion.relay(row.part.shared_secret, blob))

    def _next_index(self) -> int:
        self.created_count += 1
        return self.created_count

    def row_now(self, row: Forward) -> Forward:
        """Return the row that says how a part ended: the old one, or a new one when its channel is called otherwise
        (cln:N3).

        lightningd's UPDATE goes by the scid of the moment; where it finds no row, one is inserted.
        """
        now = row.part.end.scid_now()
        if row.in_channel != now:
            row = replace(row, created_index=self._next_index(), in_channel=now)
            self.forwards.append(row)
            return row
        self.updated_count += 1
        row.updated_index = self.updated_count
        return row

    def abandon(self, end: End) -> None:
        """Give up HTLCs on a withheld channel that is closed: upstream fails with 4008, no event, rows stay offered
        (cln:A3).
        """
        for htlc in list(end.live.values()):
            row = self.by_out.pop(htlc, None)
            if row is not None:
                self.parts.fail(row.part, failures.PERMANENT_CHANNEL_FAILURE)

    # restart

    def unanswered(self) -> list[Htlc]:
        """Incoming HTLCs that were neither forwarded nor resolved: what a start replays (cln:R1, cln:R3)."""
        forwarded = {row.part.htlc for row in self.by_out.values()}
        return [
            htlc
            for end in self.node.ends
            for htlc in end.other.live.values()
            if htlc.delivered and not htlc.removing and htlc not in forwarded
        ]
