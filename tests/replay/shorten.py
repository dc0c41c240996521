"""Cut the recordings of the host study to what a replay of the LSP's plugin needs.

    python tests/replay/shorten.py DIRECTORY_WITH_TRANSCRIPTS

writes `tests/data/recordings/NAME.jsonl`. Lines are kept byte for byte, so each can be found again in its original;
nothing is added. Kept: the stdio of `l2/plugin`, the RPC calls of `l2/plugin-rpc`, and of the driver's calls those
that moved money or show tables. Dropped: other nodes, lightningd's log and coin movements, copies of peer messages
that came as notification, and the chain of blocks mined before the network was ready (its last block stays). In i4
and i6 a second plugin has the same name: its start is dropped, and of two calls for one HTLC the later, as hooks are
called in order of registration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parents[1] / "data" / "recordings"
NAMES = (
    "a_single_var",
    "b_mpp5",
    "b2_mpp5_fast",
    "b3_mpp5_invoice_msat",
    "c_two_upstream",
    "d_ordinary_forward",
    "e_fail_codes",
    "f_unknown_next_peer",
    "g_open_rejected",
    "h_no_funds",
    "i_restart",
    "i2_restart_clean_stop",
    "i3_plugin_stop",
    "i4_plugin_deferred_hook",
    "i5_hook_dead_after_fail",
    "i6_deferred_then_continue",
    "i7_restart_while_forwarded",
    "i8_restart_settled_while_plugin_down",
    "j_client_fails",
    "k_abandon",
    "k2_close_with_htlcs",
    "l_lsp_trusts_client",
    "m_lsps0",
    "n_wait",
    "o1_reserve_expiry",
    "p_zero_fee_part_and_lsp_fees",
    "p2_setchannel_zero_fee",
    "r_client_without_developer",
    "s_xpay_and_pay",
    "t_block_deadline",
)
OURS = {"l2/plugin", "l2/plugin-rpc"}
NOISE = {"plugin_started", "log", "coin_movement", "warning", "channel_opened", "invoice_payment"}
# What the driver did in the prototype's place, and the tables it looked at.
DRIVER = {
    "addpsbtoutput",
    "close",
    "fundchannel_complete",
    "fundchannel_start",
    "fundpsbt",
    "listforwards",
    "listpeerchannels",
    "sendpsbt",
    "setchannel",
    "signpsbt",
}


def shorten(lines: Iterable[str]) -> list[str]:
    """The lines worth keeping, in their order."""
    rows = [(line, json.loads(line)) for line in lines]
    calls = _calls(row for _, row in rows)
    ready = next(n for n, (_, row) in enumerate(rows) if row["msg"].get("event") == "network ready")
    old_blocks = [n for n, (_, row) in enumerate(rows[:ready]) if _is_block(row)][:-1]
    channel_tables = [call for call in calls.values() if call[:2] == ("l2/driver-rpc", "listpeerchannels")]
    old_tables = {n for n, call in calls.items() if call in channel_tables and call != channel_tables[-1]}
    dropped = {*old_blocks, *old_tables, *_guest(row for _, row in rows)}
    return [line for n, (line, row) in enumerate(rows) if n not in dropped and _is_wanted(row, calls.get(n))]


def _calls(rows: Iterable[dict[str, Any]]) -> dict[int, tuple[str, str, str]]:
    """(peer, method, id) of each RPC line; an answer gets that of the request it belongs to."""
    asked: dict[tuple[str, str], str] = {}
    calls: dict[int, tuple[str, str, str]] = {}
    for number, row in enumerate(rows):
        if "rpc" not in row["dir"] or "id" not in row["msg"]:
            continue
        peer, call_id = row["peer"], row["msg"]["id"]
        asked[peer, call_id] = row["msg"].get("method") or asked[peer, call_id]
        calls[number] = (peer, asked[peer, call_id], call_id)
    return calls


def _guest(rows: Iterable[dict[str, Any]]) -> set[int]:
    """Lines of a plugin that started while the LSP's was running."""
    lives, starting = 0, False
    seen: set[tuple[str, int]] = set()
    found: set[int] = set()
    for number, row in enumerate(rows):
        message = row["msg"]
        if row["peer"] != "l2/plugin":
            continue
        event, method = message.get("event"), message.get("method")
        lives += (event == "plugin process start") - (event == "plugin process exit")
        starting = lives == 2 and (starting or event == "plugin process start")
        part = _part(message) if method == "htlc_accepted" else None
        if starting or (lives == 2 and part in seen):
            found.add(number)
        if part is not None:
            seen.add(part)
        starting = starting and method != "init"
    return found


def _part(message: dict[str, Any]) -> tuple[str, int]:
    htlc = message["params"]["htlc"]
    return htlc["short_channel_id"], htlc["id"]


def _is_block(row: dict[str, Any]) -> bool:
    return row["peer"] == "l2/plugin" and row["msg"].get("method") == "block_added"


def _is_wanted(row: dict[str, Any], call: tuple[str, str, str] | None) -> bool:
    message = row["msg"]
    if row["dir"] == "mark":
        return row["peer"] in {"driver", "l2/plugin"}
    if row["peer"] == "l2/driver-rpc":
        return call is not None and call[1] in DRIVER
    if row["peer"] not in OURS or message.get("method") in NOISE:
        return False
    return not (message.get("method") == "custommsg" and "id" not in message)


def main(source: Path) -> None:
    """Write every recording; print sizes."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        lines = (source / f"{name}.jsonl").read_text().splitlines(keepends=True)
        short = shorten(lines)
        (OUTPUT / f"{name}.jsonl").write_text("".join(short))
        print(f"{name}: {len(lines)} -> {len(short)} lines, {sum(map(len, short)) // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
