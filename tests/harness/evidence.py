"""What went over a plugin's pipes and socket on a real node, and the rules that hold for every run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lsps2fast_plugin.tools.regtest import Town, until

Json = dict[str, Any]
REDACTED = "00"


class Evidence:
    """Entries of the LSP's transcript from a place on."""

    def __init__(self, town: Town, begin: int | None = None) -> None:
        self.town = town
        self.begin = len(town.entries()) if begin is None else begin

    @property
    def entries(self) -> list[Json]:
        """Everything since."""
        return self.town.entries()[self.begin :]

    def hooks(self, payment_hash: str | None = None) -> dict[str, tuple[Json, list[Json]]]:
        """Every htlc_accepted call with its answers, by id."""
        found: dict[str, tuple[Json, list[Json]]] = {}
        for entry in self.entries:
            message = entry["msg"]
            if entry["dir"] == "host>plugin" and message.get("method") == "htlc_accepted":
                found[message["id"]] = (message["params"], [])
            elif entry["dir"] == "plugin>host" and message.get("id") in found and "method" not in message:
                found[message["id"]][1].append(message["result"])
        return {
            call_id: (params, answers)
            for call_id, (params, answers) in found.items()
            if payment_hash in (None, params["htlc"]["payment_hash"])
        }

    def answers(self, payment_hash: str) -> list[Json]:
        """All answers to the parts of one payment."""
        return [answer for _, answers in self.hooks(payment_hash).values() for answer in answers]

    def fees_msat(self, payment_hash: str) -> int:
        """Sum of extra_fee over the forwarded parts of one payment."""
        forwarded = [each for each in self.answers(payment_hash) if "forward_to" in each]
        return sum(int(each["extra_tlvs"][-16:], 16) for each in forwarded if each.get("extra_tlvs"))

    def calls(self, method: str) -> list[Any]:
        """Params of the plugin's RPC calls."""
        rows = self.entries
        return [e["msg"]["params"] for e in rows if e["dir"] == "rpc>host" and e["msg"].get("method") == method]

    def order(self, *methods: str) -> list[str]:
        """RPC calls of the plugin and its answers to parts, in order: method names, `forward` and `fail`."""
        parts = self.hooks()
        seen = []
        for entry in self.entries:
            message = entry["msg"]
            if entry["dir"] == "rpc>host":
                seen.append(message["method"])
            elif entry["dir"] == "plugin>host" and message.get("id") in parts and "method" not in message:
                result = message["result"]
                seen.append("forward" if "forward_to" in result else result["result"])
        return [name for name in seen if name in methods] if methods else seen

    def states(self, payment_hash: str) -> list[str]:
        """States the session of a payment went through."""
        rows = [e["msg"]["params"]["lsps2_session"] for e in self.entries if e["msg"].get("method") == "lsps2_session"]
        return [row["new_state"] for row in rows if row["payment_hash"] == payment_hash]

    def ends(self, status: str) -> list[Json]:
        """forward_events of this status."""
        rows = [e["msg"]["params"]["forward_event"] for e in self.entries if e["msg"].get("method") == "forward_event"]
        return [row for row in rows if row["status"] == status]

    def unanswered(self) -> list[str]:
        """Hook calls with any other number of answers than one."""
        return [call_id for call_id, (_, answers) in self.hooks().items() if len(answers) != 1]


def loose_ends(town: Town) -> list[str]:
    """What must not be left when nothing is under way: held parts, withheld channels, reserved coins, half records."""
    rows = town.lsp.call("listpeerchannels")["channels"]
    withheld = [row["channel_id"] for row in rows if row.get("funding", {}).get("withheld")]
    fees = [row["channel_id"] for row in rows if row["state"] == "CHANNELD_NORMAL" and _lost_fees(town, row)]
    reserved = [row["txid"] for row in town.lsp.call("listfunds")["outputs"] if row["reserved"]]
    stats = town.stats()
    ends = [f"withheld channel {each}" for each in withheld] + [f"reserved coin {each}" for each in reserved]
    ends += [f"channel without the operator's fees {each}" for each in fees]
    ends += [f"{stats[name]} {name}" for name in ("held_parts", "withheld_channels", "live_sessions") if stats[name]]
    stages = Counter(record["lsps2fast"]["stage"] for record in town.records("active").values())
    return ends + [f"{count} records in stage {stage}" for stage, count in stages.items() if stage != "buy"]


def _lost_fees(town: Town, channel: Json) -> bool:
    """Stock nodes charge 1 msat + 10 ppm on regtest."""
    return bool(channel["fee_base_msat"] == 0)


def tidy(town: Town, *but: str) -> None:
    """Wait until nothing is left `but` what begins like this."""

    def left() -> list[str]:
        return [end for end in loose_ends(town) if not end.startswith(but)]

    until(lambda: not left(), "tidy node", say=lambda: "\n".join([*left(), town.lsp.tail("log")]))
