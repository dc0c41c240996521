"""End channels: by agreement, by force, and once they are deep in the chain (cln:A1, cln:A5, cln:H14)."""

from __future__ import annotations

from typing import Any

from . import onchain
from .channel_types import type_json
from .channels import End, Owner

USER_CLOSE = "User or plugin invoked close command"
CLOSED_STATES = ("CLOSINGD_COMPLETE", "AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED")


def close_from_afar(end: End) -> None:
    """Take `shutdown` of the peer of `end.owner`: the channel closes by agreement, now or when its HTLCs are gone."""
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
    agree(by.other, by)


def agree(end: End, closer: End) -> None:
    """Take both sides to CLOSINGD_COMPLETE and the transaction out; a withheld channel is only forgotten."""
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


def see_block(party: Owner, height: int) -> None:
    """Look at a block: HTLCs that are overdue, transactions that end channels, channels that are long gone."""
    close_late(party, height)
    for end in list(party.ends):
        if end.channel.on_chain is not None and onchain.see_block(end, height):
            party.change_state(end, "CLOSED", "unknown", None)
            end.forgotten = True
            party.channel_closed(end)


def close_late(party: Owner, height: int) -> None:
    """cln:H14: one block after the expiry of a HTLC we offered and that is still open we close by force."""
    for end in party.ends:
        if not end.live:
            continue
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
