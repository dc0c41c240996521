"""RPC methods about the node itself: peers, messages, datastore, configuration, waiting, help."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from dataclasses import asdict
from typing import Any

from coincurve import PrivateKey

from . import listings
from .errors import INVALID_PARAMS, INVALID_REQUEST, RpcError
from .feerates import FEERATE_OFFSET_PERKW
from .lightningd import Node
from .methods import TABLE, hex_bytes, method, node_id, number, truth
from .party import connect as link
from .party import disconnect as unlink
from .waiters import Waiter

Json = dict[str, Any]
SUBSYSTEMS = ("invoices", "forwards", "sendpays", "htlcs", "chainmoves", "channelmoves", "networkevents")
ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"
MESSAGE_LIMIT = 65_535
INTERNAL = {
    16: "WIRE_INIT",
    17: "WIRE_ERROR",
    18: "WIRE_PING",
    19: "WIRE_PONG",
    1: "WIRE_WARNING",
    32: "WIRE_OPEN_CHANNEL",
    33: "WIRE_ACCEPT_CHANNEL",
    128: "WIRE_UPDATE_ADD_HTLC",
}


@method("getinfo")
def getinfo(node: Node) -> Json:
    ends = [end for end in node.ends if not end.forgotten]
    warning = {"warning_lightningd_sync": "Still loading latest blocks from bitcoind."} if node.syncing else {}
    return {
        **warning,
        "id": node.node_id,
        "alias": node.name,
        "color": node.node_id[:6],
        "num_peers": len(node.links),
        "num_pending_channels": sum(end.state == "CHANNELD_AWAITING_LOCKIN" for end in ends),
        "num_active_channels": sum(end.state == "CHANNELD_NORMAL" for end in ends),
        "num_inactive_channels": 0,
        "address": [],
        "binding": [{"type": "ipv4", "address": "127.0.0.1", "port": 9735}],
        "version": node.version,
        "blockheight": node.height,
        "network": "regtest",
        "fees_collected_msat": sum(
            forward.part.htlc.amount_msat - (forward.out_msat or 0)
            for forward in node.htlcs.forwards
            if forward.status == "settled"
        ),
        "lightning-dir": node.lightning_dir,
        "our_features": {name: node.feature_set()[name] for name in ("init", "node", "channel", "invoice")},
    }


@method("feerates", "style")
def feerates(node: Node, style: Any) -> Json:
    factor = 1 if style == "perkw" else 4
    rate = 253 * factor
    names = ("penalty", "splice")
    estimates = [{"blockcount": count, "feerate": rate, "smoothed_feerate": rate} for count in (2, 6, 12, 100)]
    table = {"min_acceptable": rate, "max_acceptable": 4_294_967_295, "floor": rate, "estimates": estimates}
    channels = {name: perkw * factor for name, perkw in asdict(node.feerates).items()}
    return {style: {**channels, **dict.fromkeys(names, rate), **table}}


@method("listpeers", "[id] [level]")
def listpeers(node: Node, id: Any = None, level: Any = None) -> Json:
    if id is None:
        known = list(dict.fromkeys([*node.links, *(end.peer.node_id for end in node.ends if not end.forgotten)]))
    else:
        known = [id] if id in node.links or node.ends_to(str(id)) else []
    return {"peers": [listings.peer_row(node, each) for each in known]}


@method("listpeerchannels", "[id] [short_channel_id] [channel_id]")
def listpeerchannels(node: Node, id: Any = None, short_channel_id: Any = None, channel_id: Any = None) -> Json:
    ends = [end for end in (node.ends if id is None else node.ends_to(str(id))) if not end.forgotten]
    if short_channel_id is not None:
        ends = [end for end in ends if end.is_named(str(short_channel_id))]
    if channel_id is not None:
        ends = [end for end in ends if end.channel.channel_id == channel_id]
    rows = [listings.channel_row(end) for end in ends]
    if short_channel_id is None and channel_id is None:
        rows += [
            listings.opening_row(peer, node.openings.asked_sat[peer.node_id])
            for peer in node.openings.under_way()
            if id in (None, peer.node_id)
        ]
    return {"channels": rows}


@method("listclosedchannels", "[id]")
def listclosedchannels(node: Node, id: Any = None) -> Json:
    return {"closedchannels": [row for row in node.closed if id in (None, row["peer_id"])]}


@method("connect", "id [host] [port]")
def connect(node: Node, id: Any, host: Any = None, port: Any = None) -> Json:
    peer_id = node_id(str(id).partition("@")[0], "id")
    if peer_id not in node.links:
        peer = node.world.address_book.get(peer_id)
        if peer is None:
            raise RpcError(400, "Unable to connect, no address known for peer")
        if not peer.online:
            raise RpcError(401, "All addresses failed: 127.0.0.1:9735: Connection establishment: Connection refused. ")
        link(node, peer)
    peer = node.links[peer_id]
    address = {"type": "ipv4", "address": "127.0.0.1", "port": 9735}
    return {"id": peer_id, "features": peer.init_features(), "direction": "out", "address": address}


@method("disconnect", "id [force]")
def disconnect(node: Node, id: Any, force: Any = False) -> Json:
    peer = node.links.get(node_id(id, "id"))
    if peer is None:
        raise RpcError(-1, "Peer not connected")
    if node.ends_to(peer.node_id) and not truth(force, "force"):
        raise RpcError(-1, "Peer has (at least one) channel in state CHANNELD_NORMAL")
    unlink(node, peer)
    return {}


@method("ping", "id [len] [pongbytes]")
def ping(node: Node, id: Any, **more: Any) -> Json:
    if node_id(id, "id") not in node.links:
        raise RpcError(-1, "Peer not connected")
    return {"totlen": 132}


@method("sendcustommsg", "node_id msg")
def sendcustommsg(node: Node, node_id: Any, msg: Any) -> Json:
    """cln:L1 to cln:L4; the message arrives one loop turn later."""
    data = hex_bytes(msg, "msg")
    kind = int.from_bytes(data[:2], "big")
    if kind in INTERNAL:
        text = (
            f"Cannot send messages of type {kind} ({INTERNAL[kind]}). It is not possible to send messages that have a"
            " type managed internally since that might cause issues with the internal state tracking."
        )
        raise RpcError(INVALID_REQUEST, text)
    peer = node.links.get(str(node_id))
    if peer is None:
        raise RpcError(INVALID_REQUEST, f"No such peer: {node_id}")
    if len(data) > MESSAGE_LIMIT:
        node.crash("connectd died: message too long")  # cln:L4: lightningd exits (1)
        raise RpcError(-1, "lightningd is gone")
    asyncio.get_running_loop().call_soon(_deliver, node, peer.node_id, data)
    return {"status": "Message sent to connectd for delivery"}


def _deliver(node: Node, peer_id: str, data: bytes) -> None:
    peer = node.links.get(peer_id)
    if peer is not None:
        peer.custommsg_arrived(node, data)


# datastore


def _key(key: Any) -> tuple[str, ...]:
    parts = key if isinstance(key, list) else [key]
    if not parts:
        raise RpcError(INVALID_PARAMS, "key: should not be empty: invalid token '[]'")
    return tuple(str(part) for part in parts)


@method("datastore", "key [string] [hex] [mode] [generation]")
def datastore(
    node: Node, key: Any, string: Any = None, hex: Any = None, mode: Any = "must-create", generation: Any = None
) -> Json:
    if string is not None and hex is not None:
        raise RpcError(INVALID_PARAMS, "Cannot have both hex and string")
    if string is None and hex is None:
        raise RpcError(INVALID_PARAMS, "Must have either hex or string")
    value = hex_bytes(hex, "hex") if string is None else str(string).encode()
    number_ = None if generation is None else number(generation, "generation")
    return node.datastore.put(_key(key), value, str(mode), number_)


@method("listdatastore", "[key]")
def listdatastore(node: Node, key: Any = None) -> Json:
    return {"datastore": node.datastore.under(() if key is None or key == [] else _key(key))}


@method("deldatastore", "key [generation]")
def deldatastore(node: Node, key: Any, generation: Any = None) -> Json:
    return node.datastore.delete(_key(key), None if generation is None else number(generation, "generation"))


@method("datastoreusage", "[key]")
def datastoreusage(node: Node, key: Any = None) -> Json:
    prefix = () if key is None else _key(key)
    size = sum(
        len(value) + sum(len(part) + 1 for part in each)
        for each, (value, _) in node.datastore.rows.items()
        if each[: len(prefix)] == prefix
    )
    return {"datastoreusage": {"key": f"[{','.join(prefix)}]", "total_bytes": size}}


# secrets, configuration


@method("makesecret", "[hex] [string]")
def makesecret(node: Node, hex: Any = None, string: Any = None) -> Json:
    if (hex is None) == (string is None):
        raise RpcError(INVALID_PARAMS, "Must have either hex or string")
    info = hex_bytes(hex, "hex") if string is None else str(string).encode()
    return {"secret": hmac.new(node.private_key, info, hashlib.sha256).hexdigest()}


@method("signmessage", "message")
def signmessage(node: Node, message: Any) -> Json:
    """Sign the text as it stands in the call, escapes and all (cln:N14), unless this lightningd is mended."""
    text = str(message) if node.signs_what_is_meant else json.dumps(message)[1:-1]
    inner = hashlib.sha256(b"Lightning Signed Message:" + text.encode()).digest()
    signature = PrivateKey(node.private_key).sign_recoverable(hashlib.sha256(inner).digest(), hasher=None)
    number = int.from_bytes(bytes([31 + signature[64]]) + signature[:64], "big")
    letters = "".join(ZBASE32[number >> shift & 31] for shift in range(515, -1, -5))
    return {"signature": signature[:64].hex(), "recid": f"{signature[64]:02x}", "zbase": letters}


@method("injectonionmessage", "path_key message")
def injectonionmessage(node: Node, path_key: Any, message: Any) -> Json:
    """Take an onion message as if a peer had sent it (cln:N15)."""
    hex_bytes(path_key, "path_key")
    node.onion_messages.inject(hex_bytes(message, "message"))
    return {}


def _config_row(node: Node, option: Any, plugin: Any) -> Json:
    row: Json = {}
    if option.kind == "int":
        row["value_int"] = option.value
    elif option.kind == "bool":
        row["value_bool"] = option.value
    elif option.kind == "flag":
        row["set"] = bool(option.value)
    else:
        row["value_str"] = "..." if option.kind == "string-conceal" else option.value
    row |= {"source": option.source, "plugin": plugin.path}
    if option.dynamic:
        row["dynamic"] = True
    return row


@method("listconfigs", "[config]")
def listconfigs(node: Node, config: Any = None) -> Json:
    configs: Json = {
        "developer": {"set": True, "source": "cmdline"},
        "lightning-dir": {"value_str": node.lightning_dir, "source": "cmdline"},
        "network": {"value_str": "regtest", "source": "cmdline"},
        "rpc-file": {"value_str": "lightning-rpc", "source": "default"},
        "allow-deprecated-apis": {"value_bool": False, "source": "cmdline"},
        "alias": {"value_str": node.name, "source": "default"},
        "fee-base": {"value_int": node.fee_base_msat, "source": "default"},
        "fee-per-satoshi": {"value_int": node.fee_ppm, "source": "default"},
        "cltv-delta": {"value_int": node.cltv_delta, "source": "default"},
        "cltv-final": {"value_int": node.cltv_final, "source": "default"},
        "watchtime-blocks": {"value_int": node.to_self_delay, "source": "default"},
        "max-concurrent-htlcs": {"value_int": node.max_concurrent_htlcs, "source": "default"},
        "commit-feerate-offset": {"value_int": FEERATE_OFFSET_PERKW, "source": "default"},
        "htlc-minimum-msat": {"value_msat": node.htlc_minimum_msat, "source": "default"},
        "htlc-maximum-msat": {"value_msat": node.htlc_maximum_msat, "source": "default"},
        "max-dust-htlc-exposure-msat": {"value_msat": node.max_dust_exposure_msat, "source": "default"},
        "min-emergency-msat": {"value_msat": node.emergency_sat * 1000, "source": "default"},
    }
    for plugin in node.plugins:
        for option in plugin.manifest.options.values():
            if config in (None, option.name) and (option.value is not None or option.kind == "flag"):
                configs[option.name] = _config_row(node, option, plugin)
    if config is not None:
        if config not in configs:
            raise RpcError(INVALID_PARAMS, f"Unknown config option '{config}'")
        configs = {str(config): configs[config]}
    return {"configs": configs}


@method("setconfig", "config [val] [transient]")
async def setconfig(node: Node, config: Any, val: Any = None, transient: Any = False) -> Json:
    """cln:M7: the plugin gets `val` as a string; an answer with an error refuses."""
    for plugin in node.plugins:
        option = plugin.manifest.options.get(str(config))
        if option is None:
            continue
        if not option.dynamic:
            raise RpcError(INVALID_PARAMS, f"Option '{config}' is not dynamic")
        try:
            value = option.typed(val)
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, f"{config}: {error}") from None
        future: asyncio.Future[Json | None] = asyncio.get_running_loop().create_future()
        text = str(val).lower() if isinstance(val, bool) else str(val)
        plugin.request("setconfig", {"config": config, "val": text}, future.set_result)
        answer = await future
        if answer is None or "error" in answer:
            why = "plugin gone" if answer is None else answer["error"].get("message", "")
            raise RpcError(INVALID_PARAMS, f"{why}")
        option.value = value
        option.source = "setconfig transient" if truth(transient, "transient") else "config.setconfig"
        if not truth(transient, "transient"):
            node.saved_config[option.name] = value
        row = {"config": config, **_config_row(node, option, plugin)}
        row["source"] = option.source
        return {"config": row}
    raise RpcError(INVALID_PARAMS, f"Unknown config option '{config}'")


@method("plugin", "subcommand [plugin] [options]")
async def plugin(node: Node, subcommand: Any, plugin: Any = None, options: Any = None) -> Json:
    if subcommand == "stop":
        for each in node.plugins:
            if str(plugin) in (each.name, each.path):
                await node.stop_plugin(each)
                return {"command": "stop", "result": f"Successfully stopped {each.name}."}
        raise RpcError(INVALID_PARAMS, f"Could not find plugin {plugin}")
    if subcommand == "start":
        await node.start_plugin([str(plugin)], options or {})
    rows = [{"name": each.path, "active": each.ready, "dynamic": each.manifest.dynamic} for each in node.plugins]
    return {"command": subcommand, "plugins": rows}


# waiting, help, ending


@method("wait", "subsystem indexname nextvalue")
async def wait(node: Node, subsystem: Any, indexname: Any, nextvalue: Any) -> Json:
    """Real indices for `forwards` and for deleted invoices; the others only know their present value 0."""
    if subsystem not in SUBSYSTEMS:
        raise RpcError(INVALID_PARAMS, f"subsystem: unknown subsystem: invalid token '\"{subsystem}\"'")
    if indexname not in ("created", "updated", "deleted"):
        raise RpcError(INVALID_PARAMS, f"indexname: unknown index: invalid token '\"{indexname}\"'")
    present = 0
    if subsystem == "forwards":
        present = {"created": node.htlcs.created_count, "updated": node.htlcs.updated_count, "deleted": 0}[indexname]
    elif (subsystem, indexname) == ("invoices", "deleted"):
        present = node.invoices.deleted
    value = number(nextvalue, "nextvalue")
    if value <= present:
        return {"subsystem": subsystem, indexname: present}
    future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
    node.waiters.append(Waiter(subsystem, indexname, value, future))
    return await future


@method("waitblockheight", "blockheight [timeout]")
async def waitblockheight(node: Node, blockheight: Any, **more: Any) -> Json:
    wanted = number(blockheight, "blockheight")
    await node.world.until(lambda: node.height >= wanted, f"height {wanted}")
    return {"blockheight": node.height}


@method("help", "[command]")
def help_(node: Node, command: Any = None) -> Json:
    rows = [{"command": f"{entry.name} {entry.usage}".strip()} for entry in TABLE.values()]
    for each in node.plugins:
        rows += [{"command": f"{name} {row.get('usage', '')}".strip()} for name, row in each.manifest.methods.items()]
    if command is not None:
        rows = [row for row in rows if row["command"].split()[0] == command]
        if not rows:
            raise RpcError(-32601, f"Unknown command '{command}'")
    return {"help": rows}


@method("graceful", "[timeout]")
async def graceful(node: Node, **more: Any) -> Json:
    """List what is pending after the time-out; plugins are not told (cln:N8). Without a time-out it waits for good."""
    done: asyncio.Future[Json] = asyncio.get_running_loop().create_future()

    def report() -> None:
        heights = sorted(
            htlc.cltv_expiry for end in node.ends for side in (end, end.other) for htlc in side.live.values()
        )
        row: Json = {"pending_htlc_expiries": heights} if heights else {}
        done.set_result(row | ({"pending_peers": list(node.links)} if node.links else {}))

    if "timeout" in more:
        node.clock.call_later(number(more["timeout"], "timeout"), report)
    return await done


@method("check", "command_to_check")
def check(node: Node, command_to_check: Any) -> Json:
    return {"command_to_check": command_to_check}


@method("stop")
async def stop(node: Node) -> str:
    asyncio.get_running_loop().call_later(0, lambda: node.world.background(node.stop()))
    return "Shutdown complete"
