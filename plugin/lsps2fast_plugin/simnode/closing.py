"""`close` and what ends a channel (cln:A1 to cln:A5): mutual, unilateral, and withheld channels that just vanish."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .channels import End
from .errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from .openings import type_json
from .party import Party
from .psbt import Output, Tx, decode

if TYPE_CHECKING:
    from .lightningd import Node

USER_CLOSE = "User or plugin invoked close command"
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
    connected = channel.reestablished and end.peer.node_id in node.links
    if connected:
        end.peer.change_state(end.other, "CHANNELD_SHUTTING_DOWN", "remote", "Peer closes channel")
    busy = any(side.live for side in channel.ends)
    if connected and not busy:
        return _mutual(node, end)
    node.clock.advance(unilateral_timeout_s)
    await asyncio.sleep(0)
    return _unilateral(node, end)


def _mutual(node: Node, end: End) -> dict[str, Any]:
    sides = ((end.peer, end.other, "remote"), (node, end, "user"))
    for state, text in (("CLOSINGD_SIGEXCHANGE", "Start closingd"), ("CLOSINGD_COMPLETE", "Closing complete")):
        for party, side, cause in sides:
            party.change_state(side, state, cause, text)
    if end.channel.withheld:
        forget_withheld(node, end)
        return {"txs": [], "txids": [], "type": "mutual"}
    return {**_settle(end), "type": "mutual"}


def _unilateral(node: Node, end: End) -> dict[str, Any]:
    if end.channel.withheld:
        node.warn(
            f"chan#{node.ends.index(end) + 1}",
            "Peer permanent failure in CHANNELD_SHUTTING_DOWN: Forcibly closed by `close` command timeout"
            " (reason=user)",
        )
        node.htlcs.abandon(end)
        forget_withheld(node, end)
        return {"txs": [], "txids": [], "type": "unilateral"}
    if any(side.live for side in end.channel.ends):
        # on-chain resolution of HTLCs is outside this model; a test that gets here has lost already
        raise RpcError(LIGHTNINGD, "embedded node: force-closing a public channel with HTLCs is not modelled")
    node.change_state(end, "AWAITING_UNILATERAL", "user", "Forcibly closed by `close` command timeout")
    return {**_settle(end), "type": "unilateral"}


def forget_withheld(node: Node, end: End) -> None:
    """A channel that never was on chain is gone at once; its inputs are free (cln:A1, cln:A2). The peer does not learn
    (cln:A4).
    """
    channel = end.channel
    end.closer = "local"
    node.change_state(end, "CLOSED", "unknown", None)
    end.forgotten = True
    channel.dead = True
    if channel.funding_psbt is not None:
        node.wallet.release(decode(channel.funding_psbt))
    node.closed.append(closed_row(end, "local", "user"))


def _settle(end: End) -> dict[str, Any]:
    """Return a closing transaction that pays both sides their balance; the opener pays the fee."""
    channel = end.channel
    channel.dead = channel.settled_on_chain = True
    fee_sat = 200
    shares = {side: side.to_us_msat // 1000 - (fee_sat if side.opener else 0) for side in channel.ends}
    outputs = tuple(
        Output(share_sat, side.owner.wallet.new_script()) for side, share_sat in shares.items() if share_sat >= 330
    )
    funding = (channel.funding_txid, channel.funding_outnum)
    spent = end.owner.chain.transactions[channel.funding_txid].outputs[channel.funding_outnum]
    tx = Tx((funding,), outputs, (spent,), end.owner.chain.height).sign(b"closing")
    end.owner.chain.submit(tx)
    return {"txs": [tx.serialize().hex()], "txids": [tx.txid]}


def close_late(party: Party, height: int) -> None:
    """cln:H14: one block after the expiry of a HTLC we offered and that is still open we close by force."""
    for end in party.ends:
        late = [htlc for htlc in end.live.values() if height > htlc.cltv_expiry]
        if late and not end.channel.dead:
            party.force_closed.append(end)
            force_close(end, f"Offered HTLC {late[0].id} cltv {late[0].cltv_expiry} hit deadline")


def force_close(end: End, reason: str) -> None:
    """Close the channel by force, as a peer does whose HTLC was not resolved in time (cln:H14)."""
    for side in (end, end.other):
        cause = "local" if side is end else "onchain"
        side.owner.change_state(side, "AWAITING_UNILATERAL", cause, reason)
        side.closer = "local" if side is end else "remote"
    end.channel.dead = True


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
    if channel.funding_psbt is not None and end.opener:
        row |= {"funding_psbt": channel.funding_psbt, "funding_withheld": channel.withheld}
    row |= {
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
