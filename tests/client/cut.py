"""Cut the recordings of the host study to what a replay of the wallet's plugin needs.

    python tests/client/cut.py DIRECTORY_WITH_TRANSCRIPTS

writes `tests/client/data/events.json`: for every recording with a wallet in it what lightningd told `l1/plugin`, in its
order, as [method, params]. Hook calls that `hooks.json` and `more_hooks.json` hold stand here by their id. Left out is
what our client does not subscribe to, hook calls that came as notification, too, and of blocks in a row all but one.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "data" / "events.json"
WALLET = "l1/plugin"
EVENTS = {"connect", "disconnect", "block_added", "channel_state_changed", "invoice_payment"}  # come without an id
HOOKS = {"openchannel", "htlc_accepted"}


def event(line: str) -> list[Any] | None:
    """One line of a recording as an event, None when it is none of ours."""
    entry = json.loads(line)
    message = entry["msg"]
    if entry.get("peer") != WALLET or entry["dir"] != "host>plugin":
        return None
    method, is_call = message["method"], "id" in message
    if method in HOOKS:
        return [method, message["id"]]
    wanted = method == "custommsg" if is_call else method in EVENTS
    return [method, message["params"]] if wanted else None


def events(path: Path) -> list[list[Any]]:
    """A recording's events; of blocks in a row the last."""
    found = [each for line in path.read_text().splitlines() if (each := event(line)) is not None]
    return [each for each, later in pairwise([*found, [None]]) if not each[0] == later[0] == "block_added"]


def main() -> None:
    """Cut all of a directory."""
    cut = {path.stem: found for path in sorted(Path(sys.argv[1]).glob("*.jsonl")) if (found := events(path))}
    rows = [f"{json.dumps(name)}: {json.dumps(found, separators=(',', ':'))}" for name, found in cut.items()]
    OUTPUT.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
