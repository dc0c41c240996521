"""Transcripts of an LSP and a wallet, turned into lines that a person can follow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from lsps2fast.actions import FAILURE_NAMES

Entry = dict[str, Any]
Say = Callable[[float, str, str], None]

_IDS = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{24,}\b")  # hashes, node ids, channel ids
RPC_WORDS = {
    "utxopsbt": "chooses coins for {satoshi:,} sat",
    "reserveinputs": "reserves them, now that the journal names them",
    "fundchannel_start": "proposes a zero-conf channel of {amount:,} sat",
    "fundchannel_complete": "completes it, funding withheld",
    "signpsbt": "signs the funding, so that nothing local can fail later",
    "sendpsbt": "puts the funding on chain",
    "fundchannel_cancel": "cancels the open",
    "unreserveinputs": "releases the coins",
}


def msat(amount: int) -> str:
    """Return an amount as people read it."""
    return f"{amount:,} msat"


def shortened(text: str) -> str:
    """Long ids cut to what tells them apart on one screen."""
    return _IDS.sub(r"\1…", text)


def extra_fee_msat(extra_tlvs: str | None) -> int:
    """Return the amount in record 65537, which ends the stream (0 when there is none)."""
    return int(extra_tlvs[-16:], 16) if extra_tlvs else 0


class Timeline:
    """The LSP's side of a transcript; `say(seconds, who, what)` gets one line for each step worth telling."""

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
        why = f": {event['failreason']}" if "failreason" in event else ""
        return "client", f"{name} failed{why}"

    def _answer(self, message: dict[str, Any]) -> tuple[str, str] | None:
        name, result = self._parts.get(str(message.get("id"))), message["result"]
        if name is None or not isinstance(result, dict):
            return None
        if result["result"] == "fail":
            code = result["failure_message"][:4]
            return "service", f"fails {name}: {FAILURE_NAMES.get(code, code)}"
        if "forward_to" not in result:
            return "service", f"lets {name} go on"
        fee = extra_fee_msat(result.get("extra_tlvs"))
        return "service", f"forwards {name}" + (f", {msat(fee)} taken" if fee else "")

    def _notice(self, method: str | None, params: Any) -> tuple[str, str] | None:
        if method == "lsps2_session":
            change = params["lsps2_session"]
            return "session", f"{change['old_state'] or 'new'} -> {change['new_state']}"
        if method == "log" and params["level"] in ("warn", "error", "unusual", "broken"):
            return "service", shortened(params["message"])
        return None

    def _call(self, method: str, params: Any) -> tuple[str, str] | None:
        if method == "sendcustommsg":
            reply = json.loads(bytes.fromhex(params["msg"][4:]))
            scid = reply.get("result", {}).get("jit_channel_scid")
            return ("service", f"sells jit channel {scid}") if scid else ("service", "answers")
        if method in ("datastore", "deldatastore"):
            return (
                "journal",
                f"service {'writes' if method == 'datastore' else 'deletes'} {params['key'][-2]} "
                + shortened(params["key"][-1]),
            )
        if method == "setchannel":
            return (
                "service",
                "routing fees as configured again" if params.get("feebase") else "routing fee 0 on the channel",
            )
        words = RPC_WORDS.get(method)
        return None if words is None else ("service", words.format(**params))


class WalletTimeline:
    """The wallet's side, in the same way. Its requests to the LSP are told by the LSP's `Timeline`."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._asked: dict[str, dict[str, Any]] = {}  # open hook calls by id

    def take(self, entry: Entry) -> None:
        """One entry of the transcript."""
        message = entry["msg"]
        told = self._tell(entry["dir"], entry["peer"], message)
        if told is not None:
            self._say(entry["t"], *told)

    def _tell(self, direction: str, peer: str, message: dict[str, Any]) -> tuple[str, str] | None:
        method, params = message.get("method"), message.get("params", {})
        if direction == "host>plugin" and method in ("openchannel", "htlc_accepted"):
            self._asked[str(message["id"])] = params
        elif direction == "plugin>host" and method == "log":
            bad = params["level"] in ("warn", "error", "unusual", "broken")
            return ("client", shortened(params["message"])) if bad else None
        elif direction == "plugin>host" and "result" in message:
            asked = self._asked.pop(str(message.get("id")), None)
            return None if asked is None else self._answer(asked, message["result"])
        elif direction == "rpc>host":
            return self._call(str(method), params)
        return None

    def _answer(self, asked: dict[str, Any], result: dict[str, Any]) -> tuple[str, str]:
        if "openchannel" in asked:
            return "client", self._opening(asked["openchannel"]["funding_msat"] // 1000, result)
        htlc = asked["htlc"]
        what = f"htlc {htlc['id']}"
        if result["result"] == "fail":
            code = result["failure_message"][:4]
            return "client", f"refuses {what} of {msat(htlc['amount_msat'])}: {FAILURE_NAMES.get(code, code)}"
        fee = extra_fee_msat(htlc.get("extra_tlvs"))
        plus = f" + {msat(fee)} opening fee" if fee else ""
        sent = msat(asked["onion"]["forward_msat"])
        return "client", f"accepts {what}: {msat(htlc['amount_msat'])}{plus}, of {sent} sent"

    @staticmethod
    def _opening(capacity_sat: int, result: dict[str, Any]) -> str:
        if result["result"] == "reject":
            return f"refuses a channel of {capacity_sat:,} sat: {result['error_message']}"
        if "mindepth" in result:
            return f"accepts the zero-conf channel of {capacity_sat:,} sat"
        return f"knows of no purchase for the channel of {capacity_sat:,} sat"

    @staticmethod
    def _call(method: str, params: Any) -> tuple[str, str] | None:
        if method == "lsps-lsps2-invoice":
            amount = params["amount_msat"]
            return "owner", "wants an invoice " + ("without an amount" if amount == "any" else f"over {msat(amount)}")
        if method == "createinvoice":
            return "client", "composes the invoice and has its node sign it"
        if method == "getutxout":
            return "client", "looks for the funding"
        if method in ("datastore", "deldatastore"):
            verb = "writes" if method == "datastore" else "deletes"
            return "journal", f"client {verb} {params['key'][-2]} {shortened(params['key'][-1])}"
        return None
