"""Splices as far as others see them: a new funding, a new scid once it is locked, the old one hidden (cln:N3)."""

from __future__ import annotations

from .channels import Channel, End
from .errors import LIGHTNINGD, RpcError
from .onchain import DUST_SAT
from .psbt import Outpoint, Output, Tx
from .wallet import Wallet

LOCK_DEPTH = 6
FEE_SAT = 300


def begin(end: End, add_sat: int) -> Tx:
    """Add so much from the wallet of the owner of `end`; it pays the fee. Raises as lightningd's `splicein`."""
    channel, owner = end.channel, end.owner
    if channel.splice is not None or end.state != "CHANNELD_NORMAL":
        raise RpcError(LIGHTNINGD, f"Channel is in state {end.state}")
    paid_sat = add_sat + FEE_SAT
    spot, coin = _coin(owner.wallet, paid_sat)
    change = Output(coin.amount_sat - paid_sat, owner.wallet.new_script())
    funding = Output(channel.capacity_sat + add_sat, b"\0\x20" + bytes(31) + b"\1")
    old = Output(channel.capacity_sat, b"\0\x20" + bytes(32))
    inputs = ((channel.funding_txid, channel.funding_outnum), spot)
    channel.splice = Tx(inputs, (funding, change), (old, coin), owner.chain.height).sign(b"splice")
    owner.chain.submit(channel.splice)
    channel.capacity_sat += add_sat  # for the books; lightningd lets it be used once it is locked
    end.to_us_msat += add_sat * 1000
    end.splicing_msat = add_sat * 1000
    for side in channel.ends:
        cause = "user" if side is end else "remote"
        side.owner.change_state(side, "CHANNELD_AWAITING_SPLICE", cause, "Splice signatures sent")
    return channel.splice


def _coin(wallet: Wallet, paid_sat: int) -> tuple[Outpoint, Output]:
    for spot, coin in wallet.outputs().items():
        if not wallet.is_reserved(spot) and wallet.chain.depth(spot[0]) and coin.amount_sat >= paid_sat + DUST_SAT:
            return spot, coin
    raise RpcError(301, f"Could not afford {paid_sat}sat using all available UTXOs")


def see_block(channel: Channel, height: int) -> None:
    """Deep enough: both sides call the channel by its new name."""
    tx = channel.splice
    mined = None if tx is None else channel.opener.owner.chain.confirmed.get(tx.txid)
    if tx is None or mined is None or height - mined[0] + 1 < LOCK_DEPTH or channel.dead:
        return
    channel.splice = None
    channel.funding_txid, channel.funding_outnum = tx.txid, 0
    for side in channel.ends:
        side.rename(f"{mined[0]}x{mined[1]}x0")
        side.splicing_msat = 0
        if side.state == "CHANNELD_AWAITING_SPLICE":
            side.owner.change_state(side, "CHANNELD_NORMAL", "remote", "Splice locked")
