"""Rows of lightningd's list commands, member by member as in the recordings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .address import script_to_address
from .channel_types import feature_names, type_json
from .channels import End, Htlc
from .frames import Kept
from .node_base import NodeBase
from .party import Party

COUNTERS = (
    "in_payments_offered",
    "in_offered_msat",
    "in_payments_fulfilled",
    "in_fulfilled_msat",
    "out_payments_offered",
    "out_offered_msat",
    "out_payments_fulfilled",
    "out_fulfilled_msat",
)

NOTHING_YET = dict.fromkeys(COUNTERS, 0)


def _kept(end: End, table: str, make: Callable[[End], dict[str, Any]]) -> dict[str, Any]:
    """Return the row from before, if there were no assignments to the channel and its ends and the link is as it was.

    What is changed in place, counters and changes of state, is so in one go with assignments.
    """
    connected = end.other.owner.node_id in end.owner.links
    made_of: tuple[Any, ...] = (end.changes, end.other.changes, end.channel.changes, connected, len(end.state_changes))
    made_of += tuple(_live(end)) if end.live or end.other.live else ()
    known = end.rows.get(table)
    if known is None or known[0] != made_of:
        known = end.rows[table] = (made_of, Kept(make(end)))
    return known[1]


def _update(end: End) -> dict[str, Any]:
    return {
        "htlc_minimum_msat": end.htlc_minimum_msat,
        "htlc_maximum_msat": end.htlc_maximum_msat,
        "cltv_expiry_delta": end.cltv_delta,
        "fee_base_msat": end.fee_base_msat,
        "fee_proportional_millionths": end.fee_ppm,
    }


def _live(end: End) -> list[tuple[int, bool, str]]:
    """Return what can change of the HTLCs in a channel while it is the same ones that are there."""
    rows = [(htlc.id, htlc.delivered, htlc.out_state) for htlc in end.live.values()]
    return rows + [(htlc.id, htlc.delivered, htlc.in_state) for htlc in end.other.live.values()]


def channel_row(end: End) -> dict[str, Any]:
    """One entry of listpeerchannels."""
    return _kept(end, "listpeerchannels", _channel_row)


def _channel_row(end: End) -> dict[str, Any]:
    channel, other = end.channel, end.other
    connected = end.peer.node_id in end.owner.links
    row: dict[str, Any] = {"peer_id": end.peer.node_id, "peer_connected": connected}
    if connected:
        row["reestablished"] = channel.reestablished
    updates = {"local": _update(end)}
    # the remote channel_update of a private channel comes with the first traffic (a_single_var)
    if channel.reestablished and (end.next_htlc_id or other.next_htlc_id or end.scid):
        updates["remote"] = _update(other)
    row |= {
        "channel_type": type_json(channel.channel_type),
        "ignore_fee_limits": True,
        "updates": updates,
        "state": end.state,
        "scratch_txid": channel.channel_id[::-1],
        "last_tx_fee_msat": channel.last_tx_fee_sat() * 1000,
        "lost_state": False,
        "feerate": {"perkw": channel.feerate_perkw, "perkb": channel.feerate_perkw * 4},
    }
    if connected:
        row["owner"] = "channeld"
    if end.scid is not None:
        row["short_channel_id"] = end.scid
    close_to = b"\x51\x20" + bytes.fromhex(channel.channel_id)
    row |= {
        "direction": 0 if end.owner.node_id < end.peer.node_id else 1,
        "channel_id": channel.channel_id,
        "funding_txid": channel.funding_txid,
        "funding_outnum": channel.funding_outnum,
        "close_to_addr": script_to_address(close_to),
        "close_to": close_to.hex(),
        "private": channel.private,
        "opener": "local" if end.opener else "remote",
        "alias": {"local": end.alias, "remote": other.alias},
        "features": list(feature_names(channel.channel_type)),
        "funding": _funding(end),
    }
    if end.closer:
        row["closer"] = end.closer
    return row | _money(end) | _traffic(end)


def opening_row(peer: Party, asked_sat: int) -> dict[str, Any]:
    """Return the entry of listpeerchannels for an open under way, which has no channel_id yet."""
    amount_msat = asked_sat * 1000
    row: dict[str, Any] = {"peer_id": peer.node_id, "peer_connected": True, "state": "OPENINGD"}
    row |= {"owner": "lightning_openingd", "opener": "local"}
    return row | {"to_us_msat": amount_msat, "total_msat": amount_msat, "features": []}


def _funding(end: End) -> dict[str, Any]:
    channel = end.channel
    total_msat = channel.capacity_sat * 1000
    funding: dict[str, Any] = {
        "local_funds_msat": total_msat if end.opener else 0,
        "remote_funds_msat": 0 if end.opener else total_msat,
        "pushed_msat": 0,
    }
    if channel.funding_psbt is not None and end.opener:
        funding["psbt"] = channel.funding_psbt
    funding["withheld"] = channel.withheld and end.opener
    return funding


def _money(end: End) -> dict[str, Any]:
    channel, other = end.channel, end.other
    return {
        "to_us_msat": end.to_us_msat,
        "min_to_us_msat": end.min_to_us_msat,
        "max_to_us_msat": end.max_to_us_msat,
        "total_msat": channel.capacity_sat * 1000,
        "fee_base_msat": end.fee_base_msat,
        "fee_proportional_millionths": end.fee_ppm,
        "dust_limit_msat": 546_000,
        "their_max_htlc_value_in_flight_msat": other.max_in_flight_msat,
        "our_max_htlc_value_in_flight_msat": end.max_in_flight_msat,
        "their_reserve_msat": other.reserve_sat * 1000,
        "our_reserve_msat": end.reserve_sat * 1000,
        "spendable_msat": end.spendable_msat() if end.state.startswith("CHANNELD") else 0,
        "receivable_msat": other.spendable_msat() if end.state.startswith("CHANNELD") else 0,
        "minimum_htlc_in_msat": end.own_minimum_msat,
        "minimum_htlc_out_msat": max(end.htlc_minimum_msat, other.own_minimum_msat),
        "maximum_htlc_out_msat": end.htlc_maximum_msat,
        "their_to_self_delay": end.to_self_delay,
        "our_to_self_delay": other.to_self_delay,
        "max_accepted_htlcs": end.max_accepted_htlcs,
    }


def _traffic(end: End) -> dict[str, Any]:
    text = "Channel ready for use." if end.state == "CHANNELD_NORMAL" else "Waiting."
    status = [f"{end.state}:{text}"] if end.channel.reestablished else []
    row: dict[str, Any] = {"state_changes": list(end.state_changes), "status": status}
    row |= NOTHING_YET | end.lifetime
    row["htlcs"] = [_channel_htlc(htlc, "in") for htlc in end.other.live.values() if htlc.delivered]
    row["htlcs"] += [_channel_htlc(htlc, "out") for htlc in end.live.values()]
    return row


def _channel_htlc(htlc: Htlc, direction: str) -> dict[str, Any]:
    return {
        "direction": direction,
        "id": htlc.id,
        "amount_msat": htlc.amount_msat,
        "expiry": htlc.cltv_expiry,
        "payment_hash": htlc.payment_hash.hex(),
        "state": htlc.in_state if direction == "in" else htlc.out_state,
    }


def htlc_rows(node: NodeBase) -> list[dict[str, Any]]:
    """listhtlcs: live channels, finished HTLCs included (cln:F5)."""
    rows = []
    for index, (htlc, direction) in enumerate(node.htlc_log, start=1):
        end = htlc.taker if direction == "in" else htlc.offerer
        if end.forgotten:
            continue
        row: dict[str, Any] = {"created_index": index, "updated_index": index, "short_channel_id": end.scid_now()}
        row |= {"id": htlc.id, "expiry": htlc.cltv_expiry, "direction": direction}
        row |= {"amount_msat": htlc.amount_msat, "payment_hash": htlc.payment_hash.hex()}
        row["state"] = htlc.in_state if direction == "in" else htlc.out_state
        rows.append(row)
    return rows


def funds_channel(end: End) -> dict[str, Any]:
    """One entry of `channels` in listfunds."""
    return _kept(end, "listfunds", _funds_channel)


def _funds_channel(end: End) -> dict[str, Any]:
    row: dict[str, Any] = {
        "peer_id": end.peer.node_id,
        "connected": end.peer.node_id in end.owner.links,
        "state": end.state,
        "channel_id": end.channel.channel_id,
    }
    if end.scid is not None:
        row["short_channel_id"] = end.scid
    row |= {"our_amount_msat": end.to_us_msat, "amount_msat": end.channel.capacity_sat * 1000}
    return row | {"funding_txid": end.channel.funding_txid, "funding_output": end.channel.funding_outnum}


def peer_row(node: Party, node_id: str) -> dict[str, Any]:
    """One entry of listpeers."""
    connected = node_id in node.links
    row: dict[str, Any] = {"id": node_id, "connected": connected, "num_channels": len(node.ends_to(node_id))}
    if connected:
        row |= {"netaddr": ["127.0.0.1:48957"], "features": node.links[node_id].init_features()}
    return row
