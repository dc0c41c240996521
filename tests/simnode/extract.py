"""Cut the recordings of the host study to the lines these tests compare with, and that tests/data/recordings lacks.

    python tests/simnode/extract.py DIRECTORY_WITH_TRANSCRIPTS

Lines are kept as they are; a call is kept together with its answer, calls with texts above 6000 characters are dropped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "data"
WANTED = {
    "o_datastore": ("datastore", "listdatastore", "deldatastore"),
    "o1_reserve_expiry": ("fundpsbt", "signpsbt", "reserveinputs", "listfunds"),
    "k_abandon": ("close", "listclosedchannels", "unreserveinputs", "fundchannel_cancel", "listpeerchannels"),
    "h_no_funds": ("fundpsbt", "unreserveinputs"),
    "q_fatal": (),
    "u_manifest": ("plugin", "setconfig"),
    "g_open_rejected": ("fundchannel_start", "fundchannel_complete", "fundchannel_cancel", "connect"),
    "n_wait": ("wait", "listforwards", "listhtlcs"),
    "i9_continue_before_client_back": ("listpeerchannels", "listforwards", "listfunds"),
}
LIMIT = 6000
TOPICS = ("channel_state_changed", "forward_event")
ONCE = ("block_added", "plugin_started", "connect", "disconnect", "shutdown", "warning")


def wanted(entry: dict[str, Any], methods: tuple[str, ...], open_calls: set[tuple[str, str]]) -> bool:
    """Calls of `methods` with their answers, marks, and what a plugin sees of channels and forwards."""
    message, direction = entry["msg"], entry["dir"]
    if direction == "rpc>host":
        take = message["method"] in methods
        if take:
            open_calls.add((entry["peer"], message["id"]))
        return take
    if direction == "host>rpc":
        return (entry["peer"], message.get("id")) in open_calls
    if direction == "mark":
        return message["event"] in ("result",) or message["event"].startswith("hook answer")
    topic = message.get("method")
    if entry["peer"] != "l2/plugin" or topic not in TOPICS + ONCE:
        return False
    first = ("topic", topic) not in open_calls
    open_calls.add(("topic", topic))
    return first or topic in TOPICS


def key_of(line: str) -> tuple[str, str]:
    """What names a call and its answer."""
    entry = json.loads(line)
    return entry["peer"], str(entry["msg"].get("id", line))


def main(source: Path) -> None:
    OUTPUT.mkdir(exist_ok=True)
    for name, methods in WANTED.items():
        lines = (source / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        long_calls = {key_of(line) for line in lines if len(line) >= LIMIT}
        open_calls: set[tuple[str, str]] = set()
        kept = [line for line in lines if wanted(json.loads(line), methods, open_calls)]
        kept = [line for line in kept if key_of(line) not in long_calls]
        (OUTPUT / f"{name}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
