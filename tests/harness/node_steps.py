"""Steps that several stories share: the RPC sequence of a JIT open, and the hook answer that forwards with a fee."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lsps2fast_plugin.simnode import Client, Node, tlv


@dataclass(frozen=True)
class Opened:
    """A channel that was just funded."""

    channel_id: str
    psbt: str


async def fund(node: Node, peer: Any, sat: int = 200_000, **more: Any) -> tuple[dict[str, Any], str]:
    """fundchannel_start, fundpsbt, addpsbtoutput: the start's answer and the PSBT with the channel in it."""
    start: dict[str, Any] = {"id": peer.node_id, "amount": sat, "mindepth": 0, "channel_type": [12, 46, 50]}
    started = await node.call("fundchannel_start", {**start, "announce": False, **more})
    ask = {"satoshi": sat, "feerate": "normal", "startweight": 1000, "excess_as_change": True}
    funded = await node.call("fundpsbt", ask)
    output = {"satoshi": sat, "initialpsbt": funded["psbt"], "destination": started["funding_address"]}
    added = await node.call("addpsbtoutput", output)
    return started, added["psbt"]


async def open_channel(node: Node, peer: Any, sat: int = 200_000, withhold: bool = True, **more: Any) -> Opened:
    """The whole open; the channel is CHANNELD_NORMAL afterwards."""
    _, psbt = await fund(node, peer, sat, **more)
    done = await node.call("fundchannel_complete", {"id": peer.node_id, "psbt": psbt, "withhold": withhold})
    end = node.end_by_id(done["channel_id"])
    assert end is not None
    await node.world.until(lambda: end.state == "CHANNELD_NORMAL", "the channel is ready")
    return Opened(done["channel_id"], psbt)


async def broadcast(node: Node, psbt: str) -> dict[str, Any]:
    """signpsbt and sendpsbt."""
    signed = await node.call("signpsbt", {"psbt": psbt})
    sent: dict[str, Any] = await node.call("sendpsbt", {"psbt": signed["signed_psbt"]})
    return sent


async def row_of(node: Node, channel_id: str) -> dict[str, Any]:
    """The channel's entry in listpeerchannels."""
    rows = await node.call("listpeerchannels", {"channel_id": channel_id})
    row: dict[str, Any] = rows["channels"][0]
    return row


def forward(call: dict[str, Any], channel_id: str, fee_msat: int = 0) -> dict[str, Any]:
    """The result that forwards a held part with `fee_msat` taken from it (cln:H5)."""
    records = tlv.read_records(tlv.unprefixed(bytes.fromhex(call["params"]["onion"]["payload"])))
    records[2] = tlv.tu(tlv.read_tu(records[2]) - fee_msat)
    extra = {tlv.EXTRA_FEE: fee_msat.to_bytes(8, "big")} if fee_msat else {}
    return {
        "result": "continue",
        "payload": tlv.write_records(records).hex(),
        "forward_to": channel_id,
        "extra_tlvs": tlv.write_records(extra).hex(),
    }


def part_of(call: dict[str, Any]) -> tuple[str, int]:
    """What names a part (cln:H3)."""
    htlc = call["params"]["htlc"]
    return htlc["short_channel_id"], htlc["id"]


def invoice_with_fee(client: Client, amount_msat: int = 20_000_000, fee_msat: int = 1_000_000) -> Any:
    """An invoice over the jit scid 1x1x1."""
    return client.invoice(amount_msat, scid="1x1x1", opening_fee_msat=fee_msat)
