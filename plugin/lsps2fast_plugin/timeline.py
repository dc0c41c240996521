"""What happens at an LSP, as sentences: turns the embedded node's transcript into lines a person can follow."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Entry = dict[str, Any]
Say = Callable[[float, str, str], None]

FAILURES = {"1007": "temporary_channel_failure", "400a": "unknown_next_peer", "2002": "temporary_node_failure"}
RPC_WORDS = {
    "fundpsbt": "reserves coins for {satoshi:,} sat",
    "fundchannel_start": "proposes a zero-conf channel of {amount:,} sat",
    "fundchannel_complete": "completes it, funding withheld",
    "signpsbt": "signs the funding, so that nothing local can fail later",
    "sendpsbt": "puts the funding on chain",
    "fundchannel_cancel": "cancels the open",
    "unreserveinputs": "releases the coins",
}


def msat(amount: int) -> str:
    """An amount as people read it."""
    return f"{amount:,} msat"


class Timeline:
    """Listens to a transcript; `say(seconds, who, what)` gets one line for each step worth telling."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._parts: dict[str, str] = {}  # hook id -> what the part is called
        self._of_htlc: dict[tuple[str, int], str] = {}

    def take(self, entry: Entry) -> None:
        """One entry of the transcript."""
        message = entry["msg"]
        told = self._tell(entry["dir"], message)
        if told is not None:
            self._say(entry["t"], *told)

    def _tell(self, direction: str, message: dict[str, Any]) -> tuple[str, str] | None:
        method, params = message.get("method"), message.get("params", {})
        if direction == "host>plugin":
            return self._from_node(method, message, params)
        if direction == "plugin>host":
            return self._answer(message) if "result" in message else self._notice(method, params)
        if direction == "rpc>host":
            return self._call(str(method), params)
        return None

    def _from_node(self, method: str | None, message: dict[str, Any], params: Any) -> tuple[str, str] | None:
        if method == "htlc_accepted":
            htlc = params["htlc"]
            name = f"part {htlc['short_channel_id']}/{htlc['id']}"
            self._parts[str(message["id"])] = name
            self._of_htlc[htlc["short_channel_id"], htlc["id"]] = name
            return "payer", f"{name} of {msat(htlc['amount_msat'])} arrives"
        if method == "custommsg" and "id" in message and params["payload"].startswith("9419"):
            request = json.loads(bytes.fromhex(params["payload"][4:]))
            return "client", f"asks {request.get('method')}"
        if method == "forward_event":
            return self._forwarded(params["forward_event"])
        if method == "channel_state_changed":
            change = params["channel_state_changed"]
            if change.get("old_state") and change["new_state"] == "CHANNELD_NORMAL":
                return "node", "the channel is usable"
        return None

    def _forwarded(self, event: dict[str, Any]) -> tuple[str, str] | None:
        name = self._of_htlc.get((event["in_channel"], event["in_htlc_id"]))
        if name is None or event["status"] == "offered":
            return None
        if event["status"] == "settled":
            return "client", f"claims {name}: {msat(event['out_msat'])}"
        return "client", f"{name} failed: {event.get('failreason', event['status'])}"

    def _answer(self, message: dict[str, Any]) -> tuple[str, str] | None:
        name, result = self._parts.get(str(message.get("id"))), message["result"]
        if name is None or not isinstance(result, dict):
            return None
        if result["result"] == "fail":
            code = result["failure_message"][:4]
            return "plugin", f"fails {name}: {FAILURES.get(code, code)}"
        if "forward_to" not in result:
            return "plugin", f"lets {name} go on"
        fee = int(result["extra_tlvs"][-16:], 16) if result.get("extra_tlvs") else 0
        return "plugin", f"forwards {name}" + (f", {msat(fee)} taken" if fee else "")

    def _notice(self, method: str | None, params: Any) -> tuple[str, str] | None:
        if method == "lsps2_session":
            change = params["lsps2_session"]
            return "session", f"{change['old_state'] or 'new'} -> {change['new_state']}"
        if method == "log" and params["level"] in ("warn", "error", "unusual", "broken"):
            return "plugin", params["message"]
        return None

    def _call(self, method: str, params: Any) -> tuple[str, str] | None:
        if method == "sendcustommsg":
            reply = json.loads(bytes.fromhex(params["msg"][4:]))
            scid = reply.get("result", {}).get("jit_channel_scid")
            return ("plugin", f"sells jit channel {scid}") if scid else ("plugin", "answers")
        if method in ("datastore", "deldatastore"):
            return (
                "journal",
                f"{'writes' if method == 'datastore' else 'deletes'} {params['key'][-2]} {params['key'][-1]}",
            )
        if method == "setchannel":
            return (
                "plugin",
                "routing fees as configured again" if params.get("feebase") else "routing fee 0 on the channel",
            )
        words = RPC_WORDS.get(method)
        return None if words is None else ("plugin", words.format(**params))
