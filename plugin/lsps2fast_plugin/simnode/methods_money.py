"""RPC methods that move money or channels: wallet, PSBTs, openings, close, forwards."""

from __future__ import annotations

from typing import Any

from . import closing, listings, node_closing, psbt, splices
from .address import address_to_script
from .errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from .invoices import checked_msat
from .lightningd import Node
from .methods import method, node_id, number, truth
from .openings import read_psbt
from .psbt import Output
from .wallet import FEERATE_PERKW, OUTPUT_WEIGHT, RESERVE_BLOCKS, Need

Json = dict[str, Any]
SPLIT_WEIGHT = 42  # a transaction without inputs and outputs
NAMED_FEERATES = ("opening", "normal", "slow", "urgent", "minimum", "mutual_close", "unilateral_close")


def _sat(value: Any, name: str) -> int:
    text = str(value)
    if text.isdigit():
        return int(text)
    amount_msat = checked_msat(value, name)
    if amount_msat % 1000:
        raise RpcError(INVALID_PARAMS, f"{name}: should be a satoshi amount: invalid token '{value}'")
    return amount_msat // 1000


def _feerate(value: Any) -> int:
    text = str(value)
    if text in NAMED_FEERATES or text.endswith("blocks"):
        return FEERATE_PERKW
    for unit, divisor in (("perkw", 1), ("perkb", 4)):
        if text.endswith(unit) and text[: -len(unit)].isdigit():
            return max(FEERATE_PERKW, int(text[: -len(unit)]) // divisor)
    if text.isdigit():
        return max(FEERATE_PERKW, int(text) // 4)
    raise RpcError(INVALID_PARAMS, f"feerate: Unknown feerate '{text}'")


# wallet


@method("newaddr", "[addresstype]")
def newaddr(node: Node, addresstype: str = "p2tr") -> Json:
    from .address import script_to_address

    return {"p2tr": script_to_address(node.wallet.new_script())}


@method(
    "fundpsbt",
    "satoshi feerate startweight [minconf] [reserve] [locktime] [min_witness_weight] [excess_as_change] [nonwrapped]"
    " [opening_anchor_channel]",
)
def fundpsbt(node: Node, satoshi: Any, feerate: Any, startweight: Any, **more: Any) -> Json:
    return node.wallet.fund(_need(node, satoshi, feerate, startweight, more))


def _need(node: Node, satoshi: Any, feerate: Any, startweight: Any, more: Json) -> Need:
    reserve = more.get("reserve", RESERVE_BLOCKS)
    return Need(
        None if satoshi == "all" else _sat(satoshi, "satoshi"),
        number(startweight, "startweight"),
        _feerate(feerate),
        number(more.get("minconf", 1), "minconf"),
        0 if reserve is False else RESERVE_BLOCKS if reserve is True else number(reserve, "reserve"),
        truth(more.get("excess_as_change", False), "excess_as_change"),
        node.emergency_sat if truth(more.get("opening_anchor_channel", False), "") or node.has_anchors() else 0,
    )


@method(
    "utxopsbt",
    "satoshi feerate startweight utxos [reserve] [reservedok] [locktime] [min_witness_weight] [excess_as_change]"
    " [opening_anchor_channel]",
)
def utxopsbt(node: Node, satoshi: Any, feerate: Any, startweight: Any, utxos: Any, **more: Any) -> Json:
    need = _need(node, satoshi, feerate, startweight, more)
    reserved_ok = truth(more.get("reservedok", False), "reservedok")
    return node.wallet.fund_from([_outpoint(text) for text in utxos], need, reserved_ok)


def _outpoint(text: Any) -> tuple[str, int]:
    txid, colon, vout = str(text).partition(":")
    if not colon or not vout.isdigit():
        words = "The utxos should be specified as 'txid:output_index'."
        raise RpcError(INVALID_PARAMS, f'Could not decode the outpoint from "{text}" {words}')
    return txid, int(vout)


@method("addpsbtoutput", "satoshi [initialpsbt] [locktime] [destination] [add_initiator_serial_ids]")
def addpsbtoutput(node: Node, satoshi: Any, initialpsbt: Any = None, destination: Any = None, **more: Any) -> Json:
    tx = read_psbt(initialpsbt, "initialpsbt") if initialpsbt is not None else psbt.Tx((), ())
    try:
        script = node.wallet.new_script() if destination is None else address_to_script(str(destination))
    except ValueError:
        text = f"destination: Could not parse destination address: invalid token '\"{destination}\"'"
        raise RpcError(INVALID_PARAMS, text) from None
    tx = tx.with_output(Output(_sat(satoshi, "satoshi"), script))
    return {
        "psbt": psbt.encode(tx),
        "estimated_added_weight": OUTPUT_WEIGHT,
        "outnum": len(tx.outputs) - 1,
    }


@method("reserveinputs", "psbt [exclusive] [reserve]")
def reserveinputs(node: Node, psbt: Any, exclusive: Any = True, reserve: Any = RESERVE_BLOCKS) -> Json:
    blocks = number(reserve, "reserve")
    return {"reservations": node.wallet.reserve(read_psbt(psbt, "psbt"), blocks, truth(exclusive, "exclusive"))}


@method("unreserveinputs", "psbt [reserve]")
def unreserveinputs(node: Node, psbt: Any, reserve: Any = RESERVE_BLOCKS) -> Json:
    return {"reservations": node.wallet.unreserve(read_psbt(psbt, "psbt"), number(reserve, "reserve"))}


@method("signpsbt", "psbt [signonly]")
def signpsbt(node: Node, psbt: Any, signonly: Any = None) -> Json:
    from .psbt import encode

    return {"signed_psbt": encode(node.wallet.sign(read_psbt(psbt, "psbt")))}


@method("sendpsbt", "psbt [reserve]")
def sendpsbt(node: Node, psbt: Any, reserve: Any = None) -> Json:
    tx = read_psbt(psbt, "psbt")
    if not tx.signed:
        raise RpcError(LIGHTNINGD, "PSBT not finalizeable")
    node.openings.broadcast(tx)  # before bitcoind is asked, and whatever it says; reserved or not (cln:O1)
    blocks = RESERVE_BLOCKS if reserve is None else number(reserve, "reserve")
    node.wallet.reserve(tx, blocks, exclusive=False)
    try:
        return node.wallet.send(tx)
    except RpcError:
        node.wallet.unreserve(tx, blocks)
        raise


@method("multiwithdraw", "outputs [feerate] [minconf] [utxos]")
def multiwithdraw(node: Node, outputs: Any, feerate: Any = "opening", utxos: Any = None, minconf: Any = 1) -> Json:
    """Pay in the steps of the plugin txprepare; what it reserved it gives back when one fails."""
    wanted = [pair for each in outputs for pair in each.items()]
    added = [Output(_sat(amount, "outputs"), address_to_script(address)) for address, amount in wanted]
    more = {"excess_as_change": True, "minconf": minconf, "reserve": RESERVE_BLOCKS}
    need = _need(node, sum(out.amount_sat for out in added), feerate, SPLIT_WEIGHT + OUTPUT_WEIGHT * len(added), more)
    points = None if utxos is None else [_outpoint(text) for text in utxos]
    funded = node.wallet.fund(need) if points is None else node.wallet.fund_from(points, need, reserved_ok=False)
    tx = read_psbt(funded["psbt"], "psbt")
    tx = psbt.Tx(tx.inputs, (*added, *tx.outputs), tx.spent, tx.locktime)
    try:
        return node.wallet.send(node.wallet.sign(tx))
    except RpcError:
        node.wallet.unreserve(tx, RESERVE_BLOCKS)
        raise


@method("listfunds", "[spent]")
def listfunds(node: Node, spent: Any = False) -> Json:
    channels = [listings.funds_channel(end) for end in node.ends if not end.forgotten]
    return {"outputs": node.wallet.rows(node.syncing), "channels": channels}


# opening and closing


@method(
    "fundchannel_start",
    "id amount [feerate] [announce] [close_to] [push_msat] [mindepth] [reserve] [channel_type]",
)
async def fundchannel_start(node: Node, id: Any, amount: Any, **more: Any) -> Json:
    raw_type = more.get("channel_type")
    return await node.openings.start(
        node_id(id, "id"),
        _sat(amount, "amount"),
        number(more["mindepth"], "mindepth") if "mindepth" in more else None,
        tuple(number(bit, "channel_type") for bit in raw_type) if raw_type is not None else None,
        truth(more.get("announce", True), "announce"),
        checked_msat(more.get("push_msat", 0), "push_msat"),
        _sat(more["reserve"], "reserve") if "reserve" in more else None,
    )


@method("fundchannel_complete", "id psbt [withhold]")
async def fundchannel_complete(node: Node, id: Any, psbt: Any, withhold: Any = False) -> Json:
    return await node.openings.complete(node_id(id, "id"), str(psbt), truth(withhold, "withhold"))


@method("fundchannel_cancel", "id")
async def fundchannel_cancel(node: Node, id: Any) -> Json:
    return await node.openings.cancel(node_id(id, "id"))


@method(
    "close",
    "id [unilateraltimeout] [destination] [fee_negotiation_step] [wrong_funding] [force_lease_closed] [feerange]",
)
async def close(node: Node, id: Any, unilateraltimeout: Any = 172_800, **more: Any) -> Json:
    for feerate in more.get("feerange", ()):
        _feerate(feerate)
    return await node_closing.close(node, str(id), number(unilateraltimeout, "unilateraltimeout"))


@method("splicein", "channel amount")
def splicein(node: Node, channel: Any, amount: Any) -> Json:
    """cln:N3: on a channel that has no block yet it ends in a force-close, as on a real node."""
    end = node_closing.find_end(node, str(channel))
    if node.chain.depth(end.channel.funding_txid) == 0:
        closing.force_close(end, "Splicing an unconfirmed channel")
        raise RpcError(LIGHTNINGD, "Channel failed, peer said: error")
    return {"txid": splices.begin(end, _sat(amount, "amount")).txid}


@method("dev-forget-channel", "id [short_channel_id] [channel_id] [force]")
def dev_forget_channel(node: Node, id: Any, channel_id: Any = None, **more: Any) -> Json:
    return node_closing.forget_channel(node, node_id(id, "id"), channel_id)


@method("setchannel", "id [feebase] [feeppm] [htlcmin] [htlcmax] [enforcedelay] [ignorefeelimits]")
def setchannel(node: Node, id: Any, enforcedelay: Any = 600, **more: Any) -> Json:
    ends = [end for end in node.ends if not end.forgotten] if id == "all" else [node_closing.find_end(node, str(id))]
    rows = []
    for end in ends:
        until_s = node.clock.time() + number(enforcedelay, "enforcedelay")
        end.old_fees = (end.fee_base_msat, end.fee_ppm, until_s)
        end.fee_base_msat = checked_msat(more.get("feebase", node.fee_base_msat), "feebase")
        end.fee_ppm = number(more.get("feeppm", node.fee_ppm), "feeppm")
        if "htlcmin" in more:
            end.htlc_minimum_msat = checked_msat(more["htlcmin"], "htlcmin")
        if "htlcmax" in more:
            end.htlc_maximum_msat = checked_msat(more["htlcmax"], "htlcmax")
        rows.append(_setchannel_row(end))
    return {"channels": rows}


def _setchannel_row(end: Any) -> Json:
    row: Json = {"peer_id": end.peer.node_id, "channel_id": end.channel.channel_id}
    if end.scid is not None:
        row["short_channel_id"] = end.scid
    return row | {
        "fee_base_msat": end.fee_base_msat,
        "fee_proportional_millionths": end.fee_ppm,
        "minimum_htlc_out_msat": max(end.htlc_minimum_msat, end.other.own_minimum_msat),
        "maximum_htlc_out_msat": end.htlc_maximum_msat,
        "ignore_fee_limits": True,
    }


# HTLCs and forwards


def _page(rows: list[Json], index: Any, start: Any, limit: Any) -> list[Json]:
    """`index`, `start`, `limit` of the list commands."""
    if index is not None:
        key = f"{index}_index"
        rows = sorted((row for row in rows if row.get(key, 0) >= number(start or 0, "start")), key=lambda row: row[key])
    return rows if limit is None else rows[: number(limit, "limit")]


@method("listforwards", "[status] [in_channel] [out_channel] [index] [start] [limit]")
def listforwards(
    node: Node,
    status: Any = None,
    in_channel: Any = None,
    out_channel: Any = None,
    index: Any = None,
    start: Any = None,
    limit: Any = None,
) -> Json:
    rows = [
        forward.row()
        for forward in node.htlcs.forwards
        if (status is None or forward.status == status)
        and (in_channel is None or forward.in_channel == in_channel)
        and (out_channel is None or forward.out_channel == out_channel)
    ]
    return {"forwards": _page(rows, index, start, limit)}


@method("listhtlcs", "[id] [index] [start] [limit]")
def listhtlcs(node: Node, id: Any = None, index: Any = None, start: Any = None, limit: Any = None) -> Json:
    rows = listings.htlc_rows(node)
    if id is not None:
        end = node_closing.find_end(node, str(id))
        rows = [row for row in rows if row["short_channel_id"] == end.scid_now()]
    return {"htlcs": _page(rows, index, start, limit)}


@method("getutxout", "txid vout")
def getutxout(node: Node, txid: Any, vout: Any) -> Json:
    """bcli's look at an unspent output, mempool included; nulls when there is none."""
    output = node.chain.unspent.get((str(txid), number(vout, "vout")))
    if output is None:
        return {"amount": None, "script": None}
    return {"amount": output.amount_sat, "script": output.script.hex()}
