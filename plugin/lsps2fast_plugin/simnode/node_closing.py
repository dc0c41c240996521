"""End a node's channels (cln:A1 to cln:A5, cln:N1, cln:N2): by `close`, by a peer's error; withheld ones vanish."""

from __future__ import annotations

import asyncio
from typing import Any

from . import onchain
from .channels import End
from .closing import CLOSED_STATES, USER_CLOSE, agree, closed_row
from .errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from .node_base import NodeBase
from .psbt import decode

CHANNEL_ID_DIGITS = 64
CANCELLED = "Cancel channel by our RPC command before funding transaction broadcast."


def find_end(node: NodeBase, text: str) -> End:
    """Return a channel by channel_id, scid, alias, or the id of a peer with one channel; raises as lightningd."""
    by_name = node.end_by_scid if len(text) < CHANNEL_ID_DIGITS else node.end_by_id
    known = by_name(text)
    if known is not None:
        return known
    of_peer = node.ends_to(text)
    if len(of_peer) > 1:
        raise RpcError(LIGHTNINGD, "Peer has multiple channels: use channel_id or short_channel_id")
    if not of_peer:
        raise RpcError(LIGHTNINGD, f"Could not find any active channels with peer {text}")
    return of_peer[0]


async def close(node: NodeBase, text: str, unilateral_timeout_s: float) -> dict[str, Any]:
    """Close by agreement when the peer is there and no HTLC is open, else alone after the time-out.

    The time-out is simulated time: the node itself turns the clock by it. Zero waits for the peer, for ever.
    """
    end = find_end(node, text)
    if end.state in CLOSED_STATES:
        raise RpcError(LIGHTNINGD, f"Channel is in state {end.state}")
    channel = end.channel
    if unilateral_timeout_s == 0:
        channel.shutdown_by = end  # also after a restart
    node.change_state(end, "CHANNELD_SHUTTING_DOWN", "user", USER_CLOSE)
    await asyncio.sleep(0)
    connected = channel.reestablished and end.peer.node_id in node.links and not end.peer.mute
    if connected:
        end.peer.change_state(end.other, "CHANNELD_SHUTTING_DOWN", "remote", "Peer closes channel")
    busy = any(onchain.open_htlcs(end))
    if connected and not busy:
        return _mutual(node, end)
    if unilateral_timeout_s == 0:
        await channel.over.wait()
        return _done(end)
    await node.clock.pass_time(unilateral_timeout_s)
    if end.state != "CHANNELD_SHUTTING_DOWN":  # the peer ended it meanwhile
        return {"txs": [], "txids": [], "type": "unilateral"}
    return _unilateral(node, end)


def _mutual(node: NodeBase, end: End) -> dict[str, Any]:
    end.channel.shutdown_by = None
    agree(end.other, end)
    return _done(end)


def _done(end: End) -> dict[str, Any]:
    on_chain = end.channel.on_chain
    if on_chain is None:
        return {"txs": [], "txids": [], "type": "mutual"}
    return {"txs": [on_chain.tx.serialize().hex()], "txids": [on_chain.tx.txid], "type": "mutual"}


def _unilateral(node: NodeBase, end: End) -> dict[str, Any]:
    if end.channel.withheld and end.opener:
        node.warn(
            f"chan#{node.ends.index(end) + 1}",
            "Peer permanent failure in CHANNELD_SHUTTING_DOWN: Forcibly closed by `close` command timeout"
            " (reason=user)",
        )
        node.withheld_closed(end, "local", "user")
        return {"txs": [], "txids": [], "type": "unilateral"}
    end.closer = "local"
    node.change_state(end, "AWAITING_UNILATERAL", "user", "Forcibly closed by `close` command timeout")
    tx = onchain.commit(end)
    return {"txs": [tx.serialize().hex()], "txids": [tx.txid], "type": "unilateral"}


def forget_withheld(node: NodeBase, end: End, closer: str = "local", cause: str = "user") -> None:
    """Forget a channel that never was on chain: gone at once, its inputs are free (cln:A1, cln:A2).

    The peer does not learn (cln:A4).
    """
    channel = end.channel
    if channel.funding_psbt is not None:
        node.wallet.release(decode(channel.funding_psbt))
    _forget(node, end, closer, cause)


def _forget(node: NodeBase, end: End, closer: str, cause: str) -> None:
    end.closer = closer
    node.change_state(end, "CLOSED", "unknown", None)
    end.forgotten = True
    end.channel.dead = True
    end.channel.over.set()
    node.closed.append(closed_row(end, closer, cause))


def forget_cancelled(node: NodeBase, end: End) -> None:
    """Forget a channel that awaits lock-in, cancelled: its coins stay reserved, the peer hears of it (cln:N1)."""
    _forget(node, end, "", "user")
    if end.channel.reestablished and end.peer.node_id in node.links:
        end.peer.error_arrived(node, end.other, CANCELLED)


def peer_error(node: NodeBase, end: End, text: str) -> None:
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


def forget_channel(node: NodeBase, peer_id: str, channel_id: str | None) -> dict[str, Any]:
    """dev-forget-channel."""
    for end in node.ends:
        if end.peer.node_id == peer_id and not end.forgotten and channel_id in (None, end.channel.channel_id):
            end.forgotten = True
            end.channel.dead = True
            return {"forced": False, "funding_unspent": True, "funding_txid": end.channel.funding_txid}
    raise RpcError(INVALID_PARAMS, f"Unknown peer '{peer_id}'")
