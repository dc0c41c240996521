"""A recording as facts: what lightningd told the LSP's plugin, what it answered to RPC calls, and what was bought.

The prototype that ran then is not judged here. Its `proto-buy` calls are read as purchases, its other `proto-*` calls
are left out, and its answers only serve to tell what lightningd did after which answer.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parents[1] / "data" / "recordings"
LSP = "l2/plugin"
CUT = re.compile(r"(?P<head>.*)<\.\.\. cut, (?P<length>\d+) characters in all>", re.DOTALL)
# Calls after which lightningd's own behaviour changed; a step waits until ours made as many as the prototype had.
CAUSES = ("sendpsbt", "sendcustommsg")


@dataclass(frozen=True, slots=True)
class Purchase:
    """What the prototype was told by `proto-buy`. `size_msat` None: variable mode (B-02). Amounts in msat."""

    jit_scid: str
    peer_id: str
    fee_msat: int
    size_msat: int | None
    capacity_sat: int
    withhold: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """lightningd's answer to one RPC call: a result object, or an error object when `ok` is False."""

    ok: bool
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One message from lightningd. Hooks have an id; `after` counts successful CAUSES calls that came before it."""

    method: str
    params: dict[str, Any]
    call_id: str | None
    after: Counter[str]


@dataclass(slots=True)
class Life:
    """One run of the plugin process: how it was configured, what it was sent, how it ended (True: politely)."""

    configuration: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    polite_end: bool = False
    forwards: list[dict[str, Any]] | None = None  # first `listforwards` seen in this life


@dataclass(slots=True)
class Recording:
    """A whole recording, in the order of its lines."""

    name: str
    node_id: str
    lives: list[Life]
    purchases: dict[str, Purchase]
    answers: dict[str, list[Answer]]
    channels: dict[str, list[dict[str, Any]]]  # every description of each channel, by channel_id

    @property
    def jit_channel_ids(self) -> list[str]:
        """Ids of the channels opened in this recording, in order; without a purchase they are the operator's own."""
        if not self.purchases:
            return []
        return [answer.body["channel_id"] for answer in self.answers["fundchannel_complete"] if answer.ok]


def load(name: str) -> Recording:
    """Read `tests/data/recordings/NAME.jsonl`."""
    with (DIRECTORY / f"{name}.jsonl").open() as lines:
        return _Reader(name).read(json.loads(line) for line in lines)


def uncut(text: str) -> str:
    """A shortened string in full: the study cut only runs of one repeated byte (65,000 blanks in `m_lsps0`)."""
    match = CUT.fullmatch(text)
    if match is None:
        return text
    head, length = match["head"], int(match["length"])
    return head + head[-2:] * ((length - len(head)) // 2)


class _Reader:
    def __init__(self, name: str) -> None:
        self._lives: list[Life] = []
        self._purchases: dict[str, Purchase] = {}
        self._asked: dict[tuple[str, str], str] = {}
        self._answers: dict[str, dict[str, list[Answer]]] = defaultdict(lambda: defaultdict(list))
        self._channels: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._done: Counter[str] = Counter()
        self._recording = Recording(name, "", self._lives, self._purchases, {}, self._channels)

    def read(self, rows: Iterable[dict[str, Any]]) -> Recording:
        take = {"mark": self._mark, "host>plugin": self._told, "rpc>host": self._call, "host>rpc": self._reply}
        for row in rows:
            if row["dir"] in take:
                take[row["dir"]](row["peer"], row["msg"])
        self._recording.answers = defaultdict(list, {m: self._whose(by) for m, by in self._answers.items()})
        return self._recording

    @staticmethod
    def _whose(by_caller: dict[str, list[Answer]]) -> list[Answer]:
        """The plugin's own answers; where it made no such call, those of the driver that acted in its place."""
        return by_caller.get("l2/plugin-rpc") or by_caller["l2/driver-rpc"]

    def _mark(self, peer: str, message: dict[str, Any]) -> None:
        if peer == LSP and message["event"] == "plugin process start":
            self._lives.append(Life())
        if message["event"] == "network ready":
            self._recording.node_id = message["nodes"]["l2"]

    def _told(self, peer: str, message: dict[str, Any]) -> None:
        life, method, params = self._lives[-1], message["method"], message["params"]
        if method == "init":
            life.configuration = params["configuration"]
        elif method == "shutdown":
            life.polite_end = True
        elif method != "getmanifest" and not method.startswith("proto-"):
            params = {key: uncut(value) if isinstance(value, str) else value for key, value in params.items()}
            life.steps.append(Step(method, params, message.get("id"), Counter(self._done)))

    def _call(self, peer: str, message: dict[str, Any]) -> None:
        self._asked[peer, message["id"]] = message["method"]
        params = message["params"]
        if message["method"] == "datastore" and params["key"][:2] == ["proto", "lsp"]:
            self._bought(json.loads(params["string"]))

    def _bought(self, told: dict[str, Any]) -> None:
        """The prototype stored each buy with all defaults filled in; its first record is the buy itself."""
        capacity_sat, withhold = told["capacity_sat"], told["withhold"]
        buy = Purchase(told["scid"], told["peer_id"], told["fee_msat"], told["size_msat"], capacity_sat, withhold)
        self._purchases.setdefault(buy.jit_scid, buy)

    def _reply(self, peer: str, message: dict[str, Any]) -> None:
        if "_closed" in message:
            return
        method = self._asked[peer, message["id"]]
        answer = Answer("result" in message, message.get("result", message.get("error")))
        self._answers[method][peer].append(answer)
        if method in CAUSES and answer.ok:
            self._done[method] += 1
        if method == "listpeerchannels" and answer.ok:
            for channel in answer.body["channels"]:
                self._channels[channel["channel_id"]].append(channel)
        if method == "listforwards" and self._lives[-1].forwards is None:
            self._lives[-1].forwards = answer.body["forwards"]
