"""Payments that wait for clients which sleep: what is promised of the pot of parts that are held for them (rule:24).

An ordinary payment over a channel whose client is away is held in the hook for a while. Here each such hook call is
seen as it is asked and answered: how many there are for a client, how long each lasts, and who gives way to whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from lsps2fast_plugin.simnode.channels import Channel
from lsps2fast_plugin.simnode.parts import Part

from .common import Common
from .story import Violation
from .town import LOOKS_S

MOST_OF_CLIENT = 30  # HTLCs that are held for one client
MOST_SAT_OF_CLIENT, MOST_SAT = 250_000_000, 1_000_000_000  # what the options say
WAIT_S = 120.0  # likewise
SLACK_S = 120.0  # for a client that comes back, and whose channels take their time
BLOCKS = 7  # to its expiry: what is nearer is not held
TURN_S = 0.001  # within which one part takes the place of another


class Asleep:
    """Hook calls that wait for their answer, as the node sees them."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._town = common.town
        self._lsp = common.town.lsp
        self._asked: dict[tuple[str, Any], tuple[Part, float]] = {}  # by plugin and call
        self._lives = common.lives

    def hear(self, entry: dict[str, Any]) -> None:
        """Take note of a call, or of its answer; end the run for an answer that breaks a promise."""
        message, peer = entry["msg"], entry["peer"]
        if not peer.startswith(f"{self._lsp.name}/"):
            return
        if entry["dir"] == "host>plugin" and message.get("method") == "htlc_accepted":
            part = self._part(message["params"]["htlc"])
            if part is not None and part.forward_to is not None:
                self._asked[peer, message["id"]] = part, self._town.loop.time()
        elif entry["dir"] == "plugin>host" and "result" in message:
            part, since_s = self._asked.pop((peer, message.get("id")), (None, 0.0))
            if part is not None and message["result"].get("result") == "continue" and not self._is_there(part):
                self._let_go(part, since_s)

    def _part(self, told: dict[str, Any]) -> Part | None:
        """Return the HTLC of a hook call, mostly the newest."""
        parts = reversed(self._lsp.htlcs.held.values())
        found = (each for each in parts if each.htlc.id == told["id"])
        return next((each for each in found if each.end.scid_now() == told["short_channel_id"]), None)

    def _held(self) -> Iterator[tuple[Part, float]]:
        """Return what waits, with the time of its call."""
        if self._lives != self._common.lives:
            self._lives = self._common.lives
            waiting = self._lsp.htlcs.held
            self._asked = {key: each for key, each in self._asked.items() if waiting.get(each[0].htlc) is each[0]}
        return iter(self._asked.values())

    def _is_there(self, part: Part) -> bool:
        return self._client(part) in self._lsp.links

    @staticmethod
    def _client(part: Part) -> str:
        assert part.forward_to is not None
        return part.forward_to.peer.node_id

    # after every step

    def step(self) -> None:
        """rule:24, rule:5: for no client more than its share is held, and nothing without an end."""
        now_s = self._town.loop.time()
        counts: Counter[str] = Counter()
        sums_msat: Counter[str] = Counter()
        for part, since_s in self._held():
            client, waited_s = self._client(part), now_s - since_s
            if waited_s < TURN_S or self._is_there(part):
                continue
            counts[client] += 1
            sums_msat[client] += part.htlc.amount_msat
            if waited_s > WAIT_S + LOOKS_S + SLACK_S and not self._common.harm:
                raise Violation("rule:5", f"{_short(part)} is held for {waited_s:.0f} s, and its client is away")
        worst = max(counts.values(), default=0)
        self._common.story.counts["most held for a sleeper"] = max(
            worst, self._common.story.counts["most held for a sleeper"]
        )
        if worst > MOST_OF_CLIENT:
            raise Violation("rule:24", f"{worst} HTLCs are held for a client that sleeps")
        if max(sums_msat.values(), default=0) > MOST_SAT_OF_CLIENT * 1000 or sums_msat.total() > MOST_SAT * 1000:
            raise Violation("rule:24", f"{sums_msat.total()} msat are held for clients that sleep")

    # who gives way

    def _let_go(self, part: Part, since_s: float) -> None:
        """Look at a part that goes on though its client is away: one in its place has more right to be held."""
        now_s = self._town.loop.time()
        others = [each for each in self._held() if not self._is_there(each[0])]
        if now_s - since_s < TURN_S:
            self._turned_away(part, [each for each, asked_s in others if now_s - asked_s >= TURN_S])
        elif now_s - since_s < WAIT_S - 1 and self._has_time(part):
            for new in (each for each, asked_s in others if now_s - asked_s < TURN_S):
                self._gave_way(part, new, [each for each, _ in others])

    def _has_time(self, part: Part) -> bool:
        return part.htlc.cltv_expiry > self._town.chain.height + BLOCKS

    def _gave_way(self, part: Part, new: Part, held: list[Part]) -> None:
        """See that a part which goes is of a channel that held more than that of the one which comes, or smaller."""
        if part.end.channel is new.end.channel:
            is_right = part.htlc.amount_msat < new.htlc.amount_msat
        else:
            of_client = [each for each in held if self._client(each) == self._client(part)]
            is_right = any(_more(part, new, [*each, part]) for each in (of_client, held))
        self._common.story.counts["gave way to another"] += 1
        if not is_right:
            sentence = f"{_short(part)} gave way to {_short(new)}, whose channel holds no less"
            self._common.fail(Violation("rule:24", sentence))

    def _turned_away(self, new: Part, held: list[Part]) -> None:
        """See, where a part finds no room, that no channel holds more for this client than its own would."""
        mine = [each for each in held if each.forward_to is new.forward_to]
        if len(mine) != MOST_OF_CLIENT or not self._has_time(new):
            return
        counts = Counter(each.end.channel for each in mine)
        self._common.story.counts["found no room"] += 1
        if max(counts.values()) > counts[new.end.channel] + 1:
            sentence = f"{_short(new)} is not held, and another channel holds {max(counts.values())} parts"
            self._common.fail(Violation("rule:24", sentence))


def _more(part: Part, new: Part, held: list[Part]) -> bool:
    """Return whether the channel of the one holds more than that of the other, the new one counted."""
    counts: Counter[Channel] = Counter()
    sums_msat: Counter[Channel] = Counter()
    for each in held:
        counts[each.end.channel] += 1
        sums_msat[each.end.channel] += each.htlc.amount_msat
    one, other = part.end.channel, new.end.channel
    return counts[one] > counts[other] or sums_msat[one] > sums_msat[other]


def _short(part: Part) -> str:
    assert part.forward_to is not None
    return f"{part.htlc.amount_msat} msat of {part.end.peer.name} for {part.forward_to.peer.name}"
