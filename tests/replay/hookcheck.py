"""What lightningd aborts on in an answer to `htlc_accepted` (cln:H9)."""

from __future__ import annotations

from typing import Any

from replay import tlv

KNOWN_EVEN = {0}  # the only even type lightningd knows in an update_add_htlc stream


def fatal(message: dict[str, Any]) -> str | None:
    """Why lightningd would die of this answer, or None. `message` is the whole JSON-RPC response."""
    try:
        _check(message)
    except (ValueError, TypeError, KeyError) as why:
        return f"{why!r} in {message}"
    return None


def _check(message: dict[str, Any]) -> None:
    result = message["result"]  # a JSON-RPC error is fatal too
    if result["result"] == "fail":
        bytes.fromhex(result["failure_message"])
    elif result["result"] == "continue":
        _check_continue(result)
    else:
        raise ValueError(f"result is {result['result']!r}")


def _check_continue(result: dict[str, Any]) -> None:
    if "forward_to" in result and len(bytes.fromhex(result["forward_to"])) != 32:
        raise ValueError("forward_to is not a channel id")
    bytes.fromhex(result.get("payload", ""))
    for kind, _ in tlv.read(bytes.fromhex(result.get("extra_tlvs", ""))):
        if kind % 2 == 0 and kind not in KNOWN_EVEN:
            raise ValueError(f"extra_tlvs has the unknown even type {kind}")
