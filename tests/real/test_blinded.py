"""Payments over blinded paths (BOLT 12) on real nodes: onions of our own making, unmodified lightningd on the way."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from harness.evidence import Evidence

from lsps2fast.errors import NodeError
from lsps2fast_plugin.simnode import blinding, tlv
from lsps2fast_plugin.tools.regtest import Bill, Town
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS

FEE_MSAT = 1_000_000
SIZE_MSAT = 10_000_000
FINAL_BLOCKS = 20
NAMES = itertools.count(1)
TAKES_ALL = """
from pyln.client import Plugin
plugin = Plugin()
keys, seen = {}, []
@plugin.method("take")
def take(plugin, payment_hash, preimage):
    keys[payment_hash] = preimage
@plugin.method("taken")
def taken(plugin):
    return {"htlcs": seen}
@plugin.hook("htlc_accepted", before=["lsps2fast-client"])
def on_htlc(onion, htlc, plugin, **kwargs):
    if htlc["payment_hash"] not in keys:
        return {"result": "continue"}
    seen.append({"onion": onion, "htlc": htlc})
    return {"result": "resolve", "payment_key": keys[htlc["payment_hash"]]}
plugin.run()
"""


@pytest.fixture(scope="module")
def blinded_town(open_town: Any) -> Iterator[Town]:
    """An LSP that sells parts inside blinded paths."""
    town: Town = open_town(CLIENT_TRUSTS, service_options={"lsps2-blinded-paths": True})
    yield town
    town.close()


class Payment:
    """A payment to a wallet that gives its preimage for whatever comes: the fee is taken from a part that it cannot
    compare with an invoice of its own.
    """

    def __init__(self, town: Town, *before: str) -> None:
        """`before`: nodes of the path before the LSP."""
        self.town = town
        wallet = town.wallet(f"b{next(NAMES)}")
        script = wallet.directory / "takes-all.py"
        script.write_text(f"#!{sys.executable}\n{TAKES_ALL}")
        script.chmod(0o700)
        wallet.call("plugin", {"subcommand": "start", "plugin": str(script)})
        self.bill: Bill = town.bill(wallet, SIZE_MSAT)
        preimage = os.urandom(32)
        self.payment_hash = sha256(preimage).hexdigest()
        wallet.call("take", {"payment_hash": self.payment_hash, "preimage": preimage.hex()})
        self._path = blinding.make(os.urandom(32), self._clear(before))
        self._parts = itertools.count(1)

    def _clear(self, before: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
        scid = tlv.scid_to_int(self.bill.jit_scid).to_bytes(8, "big")
        relay = blinding.Relay(self.bill.delta_blocks).encode()
        hops = [(self.town.lsp.node_id, {blinding.SCID: scid, blinding.PAYMENT_RELAY: relay})]
        hops.append((self.bill.wallet.node_id, {blinding.PATH_ID: bytes(32)}))
        for node_id in before:
            (way, *_) = self.town.scids(self.town.payer, self.town.lsp)
            records = {blinding.SCID: tlv.scid_to_int(way).to_bytes(8, "big")}
            hops.insert(0, (node_id, records | {blinding.PAYMENT_RELAY: blinding.Relay(6).encode()}))
        return [(bytes.fromhex(node_id), tlv.write_records(records)) for node_id, records in hops]

    def onion(self, amount_msat: int, total_msat: int) -> dict[str, Any]:
        """One part's onion, and the secrets to read its failure with."""
        final_cltv = self.town.bitcoind.height + FINAL_BLOCKS
        final = {2: tlv.tu(amount_msat), 4: tlv.tu(final_cltv), blinding.TOTAL_AMOUNT: tlv.tu(total_msat)}
        hops = [
            {"pubkey": node_id.hex(), "payload": tlv.prefixed(payload).hex()}
            for node_id, payload in blinding.onion_hops(self._path, final)
        ]
        made: dict[str, Any] = self.town.payer.call("createonion", {"hops": hops, "assocdata": self.payment_hash})
        return made

    def send(self, amount_msat: int, total_msat: int = SIZE_MSAT) -> int:
        """Send one part; its number."""
        made, part = self.onion(amount_msat, total_msat), next(self._parts)
        delay = FINAL_BLOCKS + self.bill.delta_blocks
        first = {"id": self.town.lsp.node_id, "amount_msat": amount_msat, "delay": delay}
        ask = {"onion": made["onion"], "first_hop": first, "payment_hash": self.payment_hash, "partid": part}
        self.town.payer.call("sendonion", {**ask, "groupid": 1, "shared_secrets": made["shared_secrets"]})
        return part

    def ended(self, part: int) -> str:
        """The raw failure of a part, "" when it was settled."""
        ask = {"payment_hash": self.payment_hash, "partid": part, "groupid": 1, "timeout": 120}
        try:
            self.town.payer.call("waitsendpay", ask, 130)
        except NodeError as error:
            return str((error.data or {}).get("raw_message", error))
        return ""


@pytest.mark.parametrize("amounts_msat", [[SIZE_MSAT], [3_000_000, 3_000_000, 4_000_000]], ids=["1 part", "3 parts"])
def test_parts_inside_a_blinded_path_open_a_channel_and_pay_its_fee(
    blinded_town: Town, amounts_msat: list[int]
) -> None:
    """C-25, cln:N7, H-08: lightningd takes the plain payload; the wallet gets its path key and our extra_fee."""
    evidence, payment = Evidence(blinded_town), Payment(blinded_town)
    parts = [payment.send(amount_msat) for amount_msat in amounts_msat]
    assert [payment.ended(part) for part in parts] == [""] * len(parts)
    blinded_town.over(payment.bill)
    assert evidence.fees_msat(payment.payment_hash) == FEE_MSAT
    assert len(evidence.calls("fundchannel_complete")) == 1
    taken = payment.bill.wallet.call("taken")["htlcs"]
    beside = [tlv.read_records(bytes.fromhex(each["htlc"]["extra_tlvs"])) for each in taken]
    assert [set(records) for records in beside] == [{blinding.PATH_KEY, tlv.EXTRA_FEE}] * len(parts)
    assert sum(int.from_bytes(records[tlv.EXTRA_FEE], "big") for records in beside) == FEE_MSAT
    assert sum(each["htlc"]["amount_msat"] for each in taken) == SIZE_MSAT - FEE_MSAT
    for params, _ in evidence.hooks(payment.payment_hash).values():
        onion = params["onion"]
        assert (onion["short_channel_id"], "current" in json.dumps(onion)) == (payment.bill.jit_scid, False)
        assert onion["forward_msat"] == params["htlc"]["amount_msat"]
        assert onion["outgoing_cltv_value"] == params["htlc"]["cltv_expiry"] - payment.bill.delta_blocks


def test_what_is_turned_away_reaches_the_payer_as_bolt_4_wants_it(blinded_town: Town) -> None:
    """C-25, cln:N7: a failure of the hook is not converted by lightningd, so it must be the right one from us."""
    payment = Payment(blinded_town)
    assert payment.ended(payment.send(1)) == "c018" + "00" * 32


def test_a_path_that_begins_before_us_fails_cleanly(blinded_town: Town) -> None:
    """C-25, cln:N7: the hook is asked with all fields; lightningd itself hides why the part fails."""
    town = blinded_town
    evidence, payment = Evidence(town), Payment(town, town.payer.node_id)
    ask = {"payment_hash": payment.payment_hash, "amount_msat": SIZE_MSAT, "partid": 1, "groupid": 1}
    delay = FINAL_BLOCKS + payment.bill.delta_blocks + 6
    ask |= {"onion": payment.onion(SIZE_MSAT, SIZE_MSAT)["onion"], "cltv_expiry": town.bitcoind.height + delay}
    with pytest.raises(NodeError) as caught:
        town.payer.call("injectpaymentonion", ask, 130)
    assert caught.value.data is not None
    ((params, answers),) = evidence.hooks(payment.payment_hash).values()
    assert params["onion"]["short_channel_id"] == payment.bill.jit_scid
    assert answers == [{"result": "fail", "failure_message": "c018" + "00" * 32}]
    assert evidence.calls("fundchannel_start") == []
    town.lsp.wait_log("blinded path: the path begins before us")
