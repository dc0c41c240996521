"""End channels (cln:A1 to cln:A5, cln:N1, cln:N2): by agreement, alone, by a peer's error; withheld ones vanish."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from . import onchain
from .channels import End, type_json
from .errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from .psbt import decode

if TYPE_CHECKING:
    from .lightningd import Node
    from .party import Party

USER_CLOSE = "User or plugin invoked close command"
CANCELLED = "Cancel channel by our RPC command before funding transaction broadcast."
CLOSED_STATES = ("CLOSINGD_COMPLETE", "AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED")


def find_end(node: Node, text: str) -> End:
    """Return a channel by channel_id, scid, alias, or the id of a peer with one channel; raises as lightningd."""
    ends = [end for end in node.ends if not end.forgotten]
    for end in ends:
        if text == end.channel.channel_id or text in end.names():
            return end
    of_peer = [end for end in ends if end.peer.node_id == text]
    if len(of_peer) > 1:
        raise RpcError(LIGHTNINGD, "Peer has multiple channels: use channel_id or short_channel_id")
    if not of_peer:
        raise RpcError(LIGHTNINGD, f"Could not find any active channels with peer {text}")
    return of_peer[0]


async def close(node: Node, text: str, unilateral_timeout_s: float) -> dict[str, Any]:
    """Close by agreement when the peer is there and no HTLC is open, else alone after the time-out.

    The time-out is simulated time: the node itself turns the clock by it.
    """
    end = find_end(node, text)
    if end.state in CLOSED_STATES:
        raise RpcError(LIGHTNINGD, f"Channel is in state {end.state}")
    channel = end.channel
    node.change_state(end, "CHANNELD_SHUTTING_DOWN", "user", USER_CLOSE)
    await asyncio.sleep(0)
    connected = channel.reestablished and end.peer.node_id in node.links and not end.peer.mute
    if connected:
        end.peer.change_state(end.other, "CHANNELD_SHUTTING_DOWN", "remote", "Peer closes channel")
    busy = any(onchain.open_htlcs(end))
    if connected and not busy:
        return _mutual(node, end)
    await node.clock.pass_time(unilateral_timeout_s)
    if end.state != "CHANNELD_SHUTTING_DOWN":  # the peer ended it meanwhile
        return {"txs": [], "txids": [], "type": "unilateral"}
    return _unilateral(node, end)


def close_from_afar(end: End) -> None:
    """The peer of `end.owner` sends `shutdown`: the channel closes by agreement, now or when its HTLCs are gone."""
    if end.forgotten or end.state in (*CLOSED_STATES, "CHANNELD_SHUTTING_DOWN"):
        return
    end.peer.change_state(end.other, "CHANNELD_SHUTTING_DOWN", "user", USER_CLOSE)
    end.owner.change_state(end, "CHANNELD_SHUTTING_DOWN", "remote", "Peer closes channel")
    end.channel.shutdown_by = end.other
    finish_shutdown(end.channel.ends)


def finish_shutdown(ends: tuple[End, End]) -> None:
    """Go on with a `shutdown` of the peer once no HTLC is left."""
    end = ends[0]
    by = end.channel.shutdown_by
    if by is None or end.channel.dead or any(onchain.open_htlcs(end)) or not end.channel.reestablished:
        return
    end.channel.shutdown_by = None
    _agree(by.other, by)


def _agree(end: End, closer: End) -> None:
    """Both sides go to CLOSINGD_COMPLETE, and the transaction out; a withheld channel is only forgotten."""
    for state, text in (("CLOSINGD_SIGEXCHANGE", "Start closingd"), ("CLOSINGD_COMPLETE", "Closing complete")):
        for side in (end, end.other):
            side.owner.change_state(side, state, "user" if side is closer else "remote", text)
    if end.channel.withheld:
        ours = end.channel.opener
        local = ours is closer
        ours.owner.withheld_closed(ours, *(("local", "user") if local else ("remote", "remote")))
    else:
        for side in (end, end.other):
            side.closer = "local" if side is closer else "remote"
        onchain.close_by_agreement(end, end.owner.close_feerate())


def _mutual(node: Node, end: End) -> dict[str, Any]:
    _agree(end.other, end)
    on_chain = end.channel.on_chain
    if on_chain is None:
        return {"txs": [], "txids": [], "type": "mutual"}
    return {"txs": [on_chain.tx.serialize().hex()], "txids": [on_chain.tx.txid], "type": "mutual"}


def _unilateral(node: Node, end: End) -> dict[str, Any]:
    if end.channel.withheld and end.opener:
        node.warn(
            f"chan#{node.ends.index(end) + 1}",
            "Peer permanent failure in CHANNELD_SHUTTING_DOWN: Forcibly closed by `close` command timeout"
            " (reason=user)",
        )
        node.htlcs.abandon(end)
        forget_withheld(node, end)
        return {"txs": [], "txids": [], "type": "unilateral"}
    end.closer = "local"
    node.change_state(end, "AWAITING_UNILATERAL", "user", "Forcibly closed by `close` command timeout")
    tx = onchain.commit(end)
    return {"txs": [tx.serialize().hex()], "txids": [tx.txid], "type": "unilateral"}


def forget_withheld(node: Node, end: End, closer: str = "local", cause: str = "user") -> None:
    """Forget a channel that never was on chain: gone at once, its inputs are free (cln:A1, cln:A2).

    The peer does not learn (cln:A4).
    """
    channel = end.channel
    if channel.funding_psbt is not None:
        node.wallet.release(decode(channel.funding_psbt))
    _forget(node, end, closer, cause)


def _forget(node: Node, end: End, closer: str, cause: str) -> None:
    end.closer = closer
    node.change_state(end, "CLOSED", "unknown", None)
    end.forgotten = True
    end.channel.dead = True
    node.closed.append(closed_row(end, closer, cause))


def forget_cancelled(node: Node, end: End) -> None:
    """Forget a channel that awaits lock-in, cancelled: its coins stay reserved, the peer hears of it (cln:N1)."""
    _forget(node, end, "", "user")
    if end.channel.reestablished and end.peer.node_id in node.links:
        end.peer.error_arrived(node, end.other, CANCELLED)


def peer_error(node: Node, end: End, text: str) -> None:
    """`error` about a channel: withheld, it is gone as if it had never been (cln:N2); public, it goes to chain."""
    if end.forgotten or end.state in CLOSED_STATES:
        return
    message = f"channeld: received ERROR channel {end.channel.channel_id}: {text}"
    place = f"chan#{node.ends.index(end) + 1}"
    if not end.opener and end.state == "CHANNELD_AWAITING_LOCKIN":
        node.warn(place, f"Peer permanent failure in {end.state}: {message}, forget channel")
        _forget(node, end, "remote", "remote")
        return
    node.warn(place, f"Peer permanent failure in {end.state}: {message} (reason=protocol)")
    if end.channel.withheld and end.opener:
        node.withheld_closed(end, "remote", "protocol")
        return
    end.closer = "remote"
    node.change_state(end, "AWAITING_UNILATERAL", "protocol", message)
    onchain.commit(end)


def see_block(party: Party, height: int) -> None:
    """A block: HTLCs that are overdue, transactions that end channels, channels that are long gone."""
    close_late(party, height)
    for end in list(party.ends):
        if onchain.see_block(end, height):
            party.change_state(end, "CLOSED", "unknown", None)
            end.forgotten = True
            party.channel_closed(end)


def close_late(party: Party, height: int) -> None:
    """cln:H14: one block after the expiry of a HTLC we offered and that is still open we close by force."""
    for end in party.ends:
        late = [htlc for htlc in end.live.values() if height > htlc.cltv_expiry]
        if late and not end.channel.dead:
            party.force_closed.append(end)
            force_close(end, f"Offered HTLC {late[0].id} cltv {late[0].cltv_expiry} hit deadline")


def force_close(end: End, reason: str) -> None:
    """Close the channel by force, as a peer does whose HTLC was not resolved in time (cln:H14).

    Of a withheld one nothing can go on chain: it is gone as if it had never been (cln:A1, cln:N2).
    """
    if end.channel.withheld and end.opener:
        end.owner.withheld_closed(end, "local", "protocol")
        return
    for side in (end, end.other):
        cause = "local" if side is end else "onchain"
        side.owner.change_state(side, "AWAITING_UNILATERAL", cause, reason)
        side.closer = "local" if side is end else "remote"
    onchain.commit(end)


def closed_row(end: End, closer: str, cause: str) -> dict[str, Any]:
    """One entry of listclosedchannels."""
    channel = end.channel
    row: dict[str, Any] = {"peer_id": end.peer.node_id, "channel_id": channel.channel_id}
    if end.scid is not None:
        row["short_channel_id"] = end.scid
    row |= {
        "alias": {"local": end.alias, "remote": end.other.alias},
        "opener": "local" if end.opener else "remote",
        "closer": closer,
        "private": channel.private,
        "channel_type": type_json(channel.channel_type),
        "total_local_commitments": 1,
        "total_remote_commitments": 1,
        "total_htlcs_sent": end.next_htlc_id,
        "funding_txid": channel.funding_txid,
        "funding_outnum": channel.funding_outnum,
        "leased": False,
    }
    if not closer:
        del row["closer"]
    if channel.funding_psbt is not None and end.opener:
        row["funding_psbt"] = channel.funding_psbt
    row |= {
        "funding_withheld": channel.withheld and end.opener,
        "total_msat": channel.capacity_sat * 1000,
        "final_to_us_msat": end.to_us_msat,
        "min_to_us_msat": end.min_to_us_msat,
        "max_to_us_msat": end.max_to_us_msat,
        "last_commitment_txid": channel.channel_id[::-1],
        "last_commitment_fee_msat": channel.commitment_fee_sat() * 1000,
        "close_cause": cause,
    }
    return row


def forget_channel(node: Node, peer_id: str, channel_id: str | None) -> dict[str, Any]:
    """dev-forget-channel."""
    for end in node.ends:
        if end.peer.node_id == peer_id and not end.forgotten and channel_id in (None, end.channel.channel_id):
            end.forgotten = True
            end.channel.dead = True
            return {"forced": False, "funding_unspent": True, "funding_txid": end.channel.funding_txid}
    raise RpcError(INVALID_PARAMS, f"Unknown peer '{peer_id}'")
