"""What a plugin saw and did, reduced to what must be the same on the embedded node and on a real one.

Both write transcripts in one format. A trace keeps, in order, the plugin's RPC calls with the outcome of each and its
answers to HTLCs; and, apart from the order, the shape of all that lightningd sent: which members, of which JSON types.
Left out is what depends on when a machine is quick: blocks, polls, log lines, the order in which parts arrive. The
record of a payment that failed while its buy lives on is written beside whatever comes next: only their number is kept.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

Json = dict[str, Any]
Shape = dict[str, set[str]]  # "listpeerchannels/channels/[]/state": {"str"}

ACTS = frozenset(
    {
        "addpsbtoutput",
        "close",
        "datastore",
        "deldatastore",
        "fundchannel_complete",
        "fundchannel_start",
        "reserveinputs",
        "sendpsbt",
        "setchannel",
        "signpsbt",
        "unreserveinputs",
        "utxopsbt",
    }
)
TOLD = ("htlc_accepted", "custommsg", "forward_event", "channel_state_changed", "connect", "disconnect")
JOURNAL = ["lsps", "lsps2", "sessions"]
WORD = "word of a payment that failed"
NO_MORE = "fundchannel_cancel"  # older recordings have it where an open was refused, which rule:26 forbids
OPTIONAL = ("lsps2-policy-", "bkpr-")  # methods of plugins that a node may lack: not part of a scenario's order
OF_CONFIRMED = "listpeerchannels/channels/[]/short_channel_id"
OURS = ("msg", "payload", "hex", "string")  # texts of ours that lightningd only carries


class Trace(NamedTuple):
    """One run."""

    order: list[str]
    shape: Shape


def trace(entries: list[Json]) -> Trace:
    """Reduce a transcript of the service plugin."""
    order: list[str] = []
    shape: Shape = {}
    calls: dict[str, str] = {}
    hooks: dict[str, str] = {}
    words = _words(entries)
    for entry in entries:
        message, direction = entry["msg"], entry["dir"]
        method, call_id = message.get("method"), str(message.get("id"))
        if direction == "rpc>host":
            calls[call_id] = "beside" if call_id in words or _is_bookkeeping(message) else method
        elif direction == "host>rpc":
            _result(calls.pop(call_id, "?"), message, order, shape)
        elif direction == "host>plugin" and method in TOLD:
            _walk(method, message["params"], shape)
            hooks[call_id] = method
        elif direction == "plugin>host" and hooks.pop(call_id, None) == "htlc_accepted" and "result" in message:
            order.append(_answer(message["result"]))
    return Trace(_grouped(order) + [WORD] * len(words), shape)


def _words(entries: list[Json]) -> set[str]:
    """Return the calls that wrote a final record which did not end its buy: no `deldatastore` of the buy came next."""
    last: dict[str, str] = {}  # by jit scid: the call that wrote its final record
    words: set[str] = set()
    for entry in entries:
        message, method = entry["msg"], entry["msg"].get("method")
        if entry["dir"] != "rpc>host" or method not in ("datastore", "deldatastore") or _is_bookkeeping(message):
            continue
        folder, jit_scid = message["params"]["key"][len(JOURNAL) :]
        if (method, folder) == ("datastore", "finalized"):
            last[jit_scid] = call_id = str(message["id"])
            words.add(call_id)
        elif (method, folder) == ("deldatastore", "active"):
            words.discard(last.pop(jit_scid, ""))
    return words


def _is_bookkeeping(message: Json) -> bool:
    """Whether a write goes elsewhere than to the journal of sessions, such as to what is remembered of a client."""
    key = (message.get("params") or {}).get("key", JOURNAL)
    return message["method"] in ("datastore", "deldatastore") and key[: len(JOURNAL)] != JOURNAL


def _result(method: str, message: Json, order: list[str], shape: Shape) -> None:
    if method.startswith(OPTIONAL) or method == NO_MORE:
        return
    if "error" in message:
        order.append(f"{method}: error {message['error']['code']}")
        return
    if method in ACTS:
        order.append(method)
    _walk(method, message["result"], shape)


def _answer(result: Json) -> str:
    if result["result"] == "fail":
        return f"part failed {result['failure_message']}"
    return "part forwarded" if "forward_to" in result else "part let go"


def _grouped(order: list[str]) -> list[str]:
    """Answers that follow each other come in any order; their number stays."""
    grouped: list[str] = []
    for answers, group in itertools.groupby(order, lambda name: name.startswith("part ")):
        names = list(group)
        grouped += sorted(names) if answers else names
    return grouped


def _walk(path: str, value: Any, shape: Shape) -> None:
    shape.setdefault(path, set()).add(_type(value))
    if isinstance(value, dict):
        for name, member in value.items():
            if name not in OURS and name != "configs":
                _walk(f"{path}/{name}", member, shape)
    elif isinstance(value, list):
        for member in value:
            _walk(f"{path}/[]", member, shape)


def _type(value: Any) -> str:
    if isinstance(value, dict):
        return "object"
    return {bool: "bool", int: "int", float: "float", str: "str", list: "list"}.get(type(value), "null")


def differences(real: Trace, embedded: Trace) -> list[str]:
    """Sentences; none when the embedded node tells the truth. It may leave members out, it must not make any up.

    Of a list that was always empty on the real node nothing is known: when it is asked for depends on the machine. So
    does whether the payer's confirmed channel is listed: all channels are looked at every five seconds at most.
    """
    found = [] if real.order == embedded.order else [_first_difference(real.order, embedded.order)]
    for path, types in sorted(embedded.shape.items()):
        if path not in real.shape:
            parent, _, member = path.rpartition("/")
            if parent in real.shape and member != "[]" and path != OF_CONFIRMED:
                found.append(f"{path} is made up: the real node never sent it")
        elif not types <= real.shape[path]:
            found.append(f"{path} is {sorted(types)}, on the real node {sorted(real.shape[path])}")
    return found


def _first_difference(real: list[str], embedded: list[str]) -> str:
    for place, (one, other) in enumerate(itertools.zip_longest(real, embedded)):
        if one != other:
            return f"step {place + 1}: {one!r} on the real node, {other!r} on the embedded one\n{real}\n{embedded}"
    return ""


def lacking(real: Trace, embedded: Trace) -> list[str]:
    """Members of a real node that the embedded one leaves out: for the report, not an error."""
    missing = [path for path in sorted(real.shape) if path not in embedded.shape]
    return [path for path in missing if path.rpartition("/")[0] in embedded.shape]
