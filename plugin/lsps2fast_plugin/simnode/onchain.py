"""Channels that end on chain: the spending transaction, HTLCs in it, and the states until it is forgotten (BOLT 5).

The model knows one commitment a channel, that of the moment. Each side acts on it as it sees blocks: who took a HTLC
and has its preimage claims it, who offered it takes it back after its expiry, and learns what happened downstream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from .chain import Chain
from .channels import Channel, End, Htlc, OnChain
from .errors import ChainReject
from .psbt import Outpoint, Output, Tx

REASONABLE_DEPTH = 3  # of what must not come undone before upstream hears of it
FORGET_DEPTH = 100
DUST_SAT = 330
CLOSE_WEIGHT, SWEEP_WEIGHT = 724, 700
CLOSE_LEAST_SAT = 200
SPENT_STATES = ("FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED")


def worth_msat(on_chain: OnChain, end: End) -> int:
    """Return the HTLCs that `end` offered and that are not swept yet."""
    chain = end.owner.chain
    spots = [spot for htlc, spot in on_chain.outputs.items() if htlc.offerer is end and spot in chain.unspent]
    return sum(chain.unspent[spot].amount_sat * 1000 for spot in spots if spot is not None)


def _publish(chain: Chain, tx: Tx) -> bool:
    """Return whether the chain knows it, after another attempt if need be."""
    if not chain.knows(tx.txid):
        try:
            chain.submit(tx)
        except ChainReject:
            return False
    return True


def close_by_agreement(end: End, feerate_perkw: int) -> Tx:
    """Return a closing transaction that pays both sides their balance; the opener pays the fee."""
    fee_sat = max(CLOSE_LEAST_SAT, CLOSE_WEIGHT * feerate_perkw // 1000)
    tx = _spend(end.channel, _shares(end.channel, fee_sat))
    return _settle(end.channel, tx, {})


def commit(end: End) -> Tx:
    """Return the commitment: balances, and one output for each HTLC that is more than dust."""
    channel = end.channel
    pending = [htlc for side in channel.ends for htlc in side.live.values()]
    large = [htlc for htlc in pending if htlc.has_output]
    outputs = _shares(channel, channel.commitment_fee_sat())
    first = len(outputs)
    outputs += [Output(htlc.amount_msat // 1000, _script(htlc)) for htlc in large]
    tx = _spend(channel, outputs)
    places: dict[Htlc, Outpoint | None] = {htlc: (tx.txid, first + place) for place, htlc in enumerate(large)}
    return _settle(channel, tx, {htlc: places.get(htlc) for htlc in pending})


def _shares(channel: Channel, fee_sat: int) -> list[Output]:
    """Return each side's own money; who cannot pay the fee pays what there is."""
    outputs = []
    for side in channel.ends:
        share_sat = (side.to_us_msat - side.pending_msat) // 1000 - (fee_sat if side.opener else 0)
        if share_sat >= DUST_SAT:
            outputs.append(Output(share_sat, side.owner.wallet.new_script()))
    return outputs


def _script(htlc: Htlc) -> bytes:
    name = f"{htlc.channel.channel_id} {htlc.offerer.opener} {htlc.id}".encode()
    return b"\0\x20" + hashlib.sha256(name).digest()


def _spend(channel: Channel, outputs: list[Output]) -> Tx:
    spliced = channel.splice
    funding = (channel.funding_txid, channel.funding_outnum) if spliced is None else (spliced.txid, 0)
    spent = Output(channel.capacity_sat, b"\0\x20" + bytes(32))
    return Tx((funding,), tuple(outputs), (spent,), channel.opener.owner.chain.height).sign(b"closing")


def _settle(channel: Channel, tx: Tx, htlcs: dict[Htlc, Outpoint | None]) -> Tx:
    channel.dead = True
    channel.over.set()
    channel.on_chain = OnChain(channel, tx, htlcs)
    channel.settled_on_chain = _publish(channel.opener.owner.chain, tx)
    return tx


# what each side does as blocks come


def see_block(end: End, height: int) -> bool:
    """One block, seen by the owner of `end`. True when the channel has been deep in the chain for long enough."""
    on_chain, owner = end.channel.on_chain, end.owner
    if on_chain is None or end.forgotten:
        return False
    end.channel.settled_on_chain = _publish(owner.chain, on_chain.tx)
    mined = owner.chain.confirmed.get(on_chain.tx.txid)
    if mined is None or mined[0] > height:
        return False
    if end.state not in SPENT_STATES:
        owner.change_state(end, "FUNDING_SPEND_SEEN", "onchain", "Onchain funding spend")
        owner.change_state(end, "ONCHAIN", "unknown", "Onchain init reply")
    for htlc in list(end.other.live.values()):
        _claim(on_chain, htlc)
    for htlc in list(end.live.values()):
        if _is_over(on_chain, htlc, height, height - mined[0] + 1):
            _resolve(end, htlc)
    return height - mined[0] + 1 >= FORGET_DEPTH and not end.live


def _claim(on_chain: OnChain, htlc: Htlc) -> None:
    """Give the money to the taker, which knows the preimage, if the offerer has not taken it back."""
    if htlc.preimage is not None and htlc not in on_chain.sweeps:
        _sweep(on_chain, htlc, htlc.taker)


def _is_over(on_chain: OnChain, htlc: Htlc, height: int, depth: int) -> bool:
    """Return whether a HTLC we offered has an end that stays; one that has expired is taken back first."""
    if on_chain.outputs.get(htlc) is None:
        return depth >= REASONABLE_DEPTH
    sweep = on_chain.sweeps.get(htlc)
    if sweep is None:
        if height >= htlc.cltv_expiry:
            _sweep(on_chain, htlc, htlc.offerer)
        return False
    mined = htlc.offerer.owner.chain.confirmed.get(sweep.txid)
    if mined is None or mined[0] > height:
        return False
    claimed = htlc.preimage is not None and sweep.locktime == 0
    return claimed or height - mined[0] + 1 >= REASONABLE_DEPTH


def _sweep(on_chain: OnChain, htlc: Htlc, winner: End) -> None:
    """Publish a transaction that takes a HTLC's output; the lock time tells a return from a claim."""
    spot = on_chain.outputs.get(htlc)
    if spot is None:
        return
    owner = winner.owner
    spent = Output(htlc.amount_msat // 1000, _script(htlc))
    fee_sat = min(spent.amount_sat, SWEEP_WEIGHT * htlc.channel.feerate_perkw // 1000)
    left_sat = spent.amount_sat - fee_sat
    outputs = (Output(left_sat, owner.wallet.new_script()),) if left_sat >= DUST_SAT else ()
    tx = Tx((spot,), outputs, (spent,), htlc.cltv_expiry if winner is htlc.offerer else 0).sign(b"sweep")
    if _publish(owner.chain, tx):
        on_chain.sweeps[htlc] = tx


def _resolve(end: End, htlc: Htlc) -> None:
    on_chain = end.channel.on_chain
    assert on_chain is not None
    sweep = on_chain.sweeps.get(htlc)
    if sweep is None or sweep.locktime:
        htlc.preimage = None  # its knowledge came too late
        htlc.lost_on_chain = True
    htlc.removing = htlc.removed = True
    del end.live[htlc.id]
    end.pending_msat -= htlc.amount_msat
    end.channel.untrimmed -= htlc.has_output
    end.owner.htlc_resolved(htlc)
    htlc.taker.owner.htlc_removed(htlc)


def open_htlcs(end: End) -> Iterator[Htlc]:
    """HTLCs of either side that have no end yet."""
    for side in end.channel.ends:
        yield from side.live.values()
