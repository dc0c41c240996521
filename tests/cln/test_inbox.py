"""What waits between lane and loop, by kind: nothing that peers send stops the lane, and each call has one answer."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from harness.host import CONTINUE, FORWARD, JIT, JIT_SCID, SHUTDOWN, TEMPORARY, WAIT_S, Desk, htlc
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast_plugin.cln import inbox
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
from lsps2fast_plugin.cln.inbox import Ended, Shed, ShedBook
from lsps2fast_plugin.cln.reader import HookReader, make_lane, make_output

PEERS = [f"02{number:064x}" for number in range(1, 4)]
KNOWN = PEERS[2]
BOTH = pytest.mark.parametrize("compiled", [True, False], ids=["in C", "in Python"])
HALF, QUIET = inbox.MOST_MESSAGES // 2, inbox.MOST_MESSAGES // 4 * 3


def raw(message: dict[str, Any]) -> bytes:
    """As lightningd writes it."""
    return json.dumps(message, separators=(",", ":")).encode()


def message(call_id: str, peer_id: str, size: int = 20) -> dict[str, Any]:
    """A peer's message, `size` its bytes."""
    params = {"peer_id": peer_id, "payload": "9419" + "7b" * size}
    return {"jsonrpc": "2.0", "id": call_id, "method": "custommsg", "params": params}


class Feed:
    """A lane on pipes, fed step by step: each step returns once its frames are in the inbox."""

    def __init__(self, compiled: bool, *, loaded: bool = True) -> None:
        fd, self._feed = os.pipe()
        self._answers, out = os.pipe()
        self._fds = (fd, self._answers)
        self._out = out
        self.interest = HtlcFilter(compiled=compiled)
        self.interest.scids.add(JIT_SCID)
        self.interest.known.add(KNOWN)
        self.interest.loaded, self.interest.channels_loaded = loaded, True
        self.lane: HookReader = make_lane(fd, self.interest, make_output(self.interest, out, print), lambda: None)
        self.lane.start()
        self.answered: list[str] = []
        self._ids: set[Any] = set()
        self._news = threading.Condition()
        self._marks = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, frames: list[bytes]) -> None:
        """The lane answers in the order of its blocks, so the second mark's answer shows that the first block is in."""
        self._write(b"\n\n".join(frames))
        for _ in range(2):
            self._marks += 1
            mark = f"mark {self._marks}"
            self._write(raw(htlc(mark, FORWARD)))
            with self._news:
                assert self._news.wait_for(lambda mark=mark: mark in self._ids, WAIT_S)  # type: ignore[misc]

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._feed, rest) :]

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._answers, 1 << 16):
            *whole, rest = (rest + data).split(b"\n\n")
            for answer in map(json.loads, whole):
                assert answer["result"] == CONTINUE
                with self._news:
                    self.answered.append(answer["id"])
                    self._ids.add(answer["id"])
                    self._news.notify_all()

    def shed(self) -> list[str]:
        """The calls that the lane answered itself, marks aside."""
        return [call_id for call_id in self.answered if not str(call_id).startswith("mark")]

    def close(self) -> None:
        """End the lane."""
        os.close(self._feed)
        assert self.lane.join(WAIT_S)
        self.lane.stop()
        os.close(self._out)
        self._reader.join(WAIT_S)
        for fd in self._fds:
            os.close(fd)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.integers(0, 2), st.integers(30, 90)),
        st.tuples(st.just("call"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("event"), st.integers(1, 3), st.just(0)),
        st.tuples(st.just("take"), st.integers(1, 80), st.just(0)),
    ),
    min_size=1,
    max_size=12,
)


def played(compiled: bool, loaded: bool, steps: list[tuple[str, int, int]]) -> tuple[Any, ...]:
    """What a lane made of it: every take, what it answered itself, what it counted."""
    feed = Feed(compiled, loaded=loaded)
    taken: list[list[bytes | Ended]] = []
    for number, (kind, what, count) in enumerate(steps):
        if kind == "take":
            taken.append(feed.lane.take(what))
        elif kind == "message":
            feed.send([raw(message(f"{number}.{n}", PEERS[what], 32_000)) for n in range(count)])
        elif kind == "call":
            feed.send([raw(htlc(f"{number}.{n}", JIT)) for n in range(what)])
        else:
            lost = {"jsonrpc": "2.0", "method": "onionmessage_forward_fail", "params": {"n": number}}
            feed.send([raw(lost)] * what)
    taken.append(feed.lane.take(10_000))
    feed.close()
    return taken, feed.shed(), feed.lane.shed_count, feed.lane.take_shed(), feed.lane.take(1)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS, loaded=st.booleans())
def test_both_lanes_keep_and_shed_alike(steps: list[tuple[str, int, int]], loaded: bool) -> None:
    """rule:1, rule:24: messages of 64 kB fill a share soon; each call is answered or handed on, once, calls first."""
    in_c, in_python = played(True, loaded, steps), played(False, loaded, steps)
    assert in_c == in_python
    taken, shed, shed_count, counts, end = in_c
    calls = Counter(json.loads(frame)["id"] for some in taken for frame in some if b'"id":"' in frame[:60])
    sent = [(kind, f"{n}.{m}") for n, (kind, what, count) in enumerate(steps) for m in range(count or what)]
    assert calls + Counter(shed) == Counter(name for kind, name in sent if kind in ("message", "call"))
    assert not {name for kind, name in sent if kind == "call"} & set(shed)
    assert shed_count == len(shed) == counts.messages == sum(counts.by_peer.values())
    assert end == [Ended(None)]


@BOTH
def test_a_flood_of_one_peer_leaves_room_for_the_quiet_and_the_known(compiled: bool) -> None:
    """rule:24: one peer fills half of the share; who has nothing waiting and who is known still come through, first."""
    flooder, quiet, _ = PEERS
    feed = Feed(compiled)
    feed.send([raw(message(f"f{n}", flooder)) for n in range(inbox.MOST_MESSAGES + 100)])
    feed.send([raw(message("q1", quiet)), raw(message("q2", quiet))])
    feed.send([raw(message(f"k{n}", KNOWN)) for n in range(inbox.KNOWN_WAITING + 1)])
    feed.send([raw(htlc("jit", JIT))])
    assert set(feed.shed()) == {*(f"f{n}" for n in range(HALF, inbox.MOST_MESSAGES + 100)), "q2", "k2"}
    sequence = [json.loads(frame)["id"] for frame in feed.lane.take(10_000) if isinstance(frame, bytes)]
    assert sequence[:4] == ["jit", "f0", "q1", "k0"]  # the first of each peer, before any second
    assert sorted(sequence[4:]) == sorted([*(f"f{n}" for n in range(1, HALF)), "k1"])
    assert feed.lane.take_shed() == Shed(2150, 0, {flooder: 2148, quiet: 1, KNOWN: 1})
    assert feed.lane.take_shed() == Shed(2150, 0, {})
    feed.send([raw(message(f"again{n}", flooder)) for n in range(HALF + 1)])  # all was taken: as at the start
    feed.send([raw(message("q3", quiet))])  # nothing of it waits any more
    assert feed.shed()[-1] == f"again{HALF}"
    feed.close()


@BOTH
def test_a_flood_of_thousands_of_peers_leaves_room_for_the_known(compiled: bool) -> None:
    """rule:24: peers of whom nothing waits fill three quarters; only so many are counted by name."""
    feed = Feed(compiled)
    feed.send([raw(message(f"p{n}", f"03{n:064x}")) for n in range(QUIET + 2000)])
    feed.send([raw(message("known", KNOWN)), raw(message("quiet", PEERS[0]))])
    kept = [json.loads(frame)["id"] for frame in feed.lane.take(10_000) if isinstance(frame, bytes)]
    assert len(kept) == QUIET + 1
    assert "known" in kept
    assert feed.shed()[-1] == "quiet"
    shed = feed.lane.take_shed()
    assert shed.messages == QUIET + 2002 - len(kept)
    assert len(shed.by_peer) == inbox.MOST_PEERS + 1
    assert shed.by_peer[""] == shed.messages - inbox.MOST_PEERS
    feed.close()


@BOTH
def test_long_messages_have_a_share_in_bytes(compiled: bool) -> None:
    """rule:14: half of 8 MiB for one peer, however few messages that is."""
    feed = Feed(compiled)
    frames = [raw(message(f"long{n:02}", PEERS[0], 32_000)) for n in range(70)]
    room = inbox.MOST_MESSAGE_BYTES // 2 // len(frames[0])
    feed.send(frames)
    assert feed.shed() == [f"long{n:02}" for n in range(room, 70)]
    feed.close()


@BOTH
def test_events_of_others_have_a_share_until_it_is_known_whose_they_are(compiled: bool) -> None:
    """rule:14, cln:W15: before the journal is read a forward_event may be ours; lightningd's tables have it, too."""
    event = {"jsonrpc": "2.0", "method": "forward_event", "params": {"forward_event": {"payment_hash": "ab" * 32}}}
    feed = Feed(compiled, loaded=False)
    feed.send([raw(event)] * (inbox.MOST_EVENTS + 7))
    feed.interest.payment_hashes.add(b"\xab" * 32)
    feed.send([raw(event)])
    assert (feed.lane.shed_count, feed.lane.take_shed()) == (7, Shed(0, 7, {}))
    assert len(feed.lane.take(10_000)) == inbox.MOST_EVENTS + 1
    feed.close()


@BOTH
@pytest.mark.parametrize(
    ("call", "is_shed"),
    [
        ({}, True),
        ({"added": {"tomorrow": [1]}}, True),
        ({"id": 17}, True),
        ({"id": "\u00e9"}, False),
        ({"id": None}, False),
        ({"method": "custommsg2"}, False),
        ({"params": 1}, False),
    ],
    ids=str,
)
def test_only_what_can_be_answered_unread_is_shed(compiled: bool, call: dict[str, Any], is_shed: bool) -> None:
    """rule:1, cln:N9: ids echoed as they came, members of tomorrow; no answer is longer than its call."""
    feed = Feed(compiled)
    feed.send([raw(message(f"f{n}", PEERS[0])) for n in range(HALF)])
    feed.send([raw({"id": "of no peer", "method": "custommsg", "params": {"payload": "9419"}})])
    odd = {"id": "odd", "method": "custommsg", "params": {"peer_id": PEERS[0], "payload": "9419"}} | call
    feed.send([json.dumps(odd, ensure_ascii=False).encode()])
    assert feed.shed() == [odd["id"]] * is_shed
    assert len(feed.lane.take(10_000)) == HALF + 1 + (not is_shed)
    feed.close()


def hear(desk: Desk, log: list[str]) -> None:
    """The owner's hook for messages."""
    desk.host.hook("custommsg", lambda peer_id, **_: log.append(peer_id) or CONTINUE)


def block(desk: Desk) -> threading.Event:
    """Keep the loop from running until the event is set; nothing is sent before it stands still."""
    go, stands = threading.Event(), threading.Event()
    assert desk.loop is not None
    desk.loop.call_soon_threadsafe(stands.set)
    desk.loop.call_soon_threadsafe(go.wait, WAIT_S)
    assert stands.wait(WAIT_S)
    return go


def test_foreign_htlcs_pass_while_the_loop_is_blocked_and_peers_flood(
    open_desk: Callable[..., Desk],
) -> None:
    """P25, rule:1: the lane never waits for the loop; each call has one answer, and the JIT part reaches its owner."""
    heard: list[str] = []
    parts: list[bytes] = []

    def own(desk: Desk, part: Any) -> None:
        parts.append(part.id_raw)
        desk.host.let_go(part.id_raw)

    desk = open_desk(prepare=lambda desk: hear(desk, heard), on_htlc=own)
    desk.load()
    go = block(desk)
    flood = [message(f"m{n}", PEERS[0]) for n in range(3 * inbox.MOST_MESSAGES)]
    sender = threading.Thread(target=desk.send, args=(*flood, htlc("jit", JIT), htlc("foreign", FORWARD)))
    sender.start()
    assert desk.result("foreign") == CONTINUE  # with the loop blocked
    sender.join(WAIT_S)
    for n in range(HALF, 3 * inbox.MOST_MESSAGES):
        assert desk.result(f"m{n}") == CONTINUE
    assert "jit" not in desk.answered()
    go.set()
    assert desk.result("jit") == CONTINUE
    assert parts == [b'"jit"']
    for call in flood:
        assert desk.result(call["id"]) == CONTINUE
    assert len(heard) == HALF
    line = desk.log_with("let go unread")
    assert line.startswith(f"{3 * inbox.MOST_MESSAGES - HALF} messages")
    assert f"lightning-cli disconnect {PEERS[0]} true" in line
    assert desk.host.shed().by_peer == {PEERS[0]: 3 * inbox.MOST_MESSAGES - HALF}


def test_a_full_inbox_at_the_end_is_answered(open_desk: Callable[..., Desk]) -> None:
    """rule:1, rule:17: shut down with everything waiting: messages are let go, the part is failed, each once."""
    heard: list[str] = []
    desk = open_desk(prepare=lambda desk: hear(desk, heard))
    desk.load()
    go = block(desk)
    flood = [message(f"m{n}", PEERS[n % 3]) for n in range(inbox.MOST_MESSAGES + 1)]
    sender = threading.Thread(target=desk.send, args=(*flood, htlc("foreign", FORWARD), SHUTDOWN, htlc("jit", JIT)))
    sender.start()
    assert desk.result("foreign") == CONTINUE
    sender.join(WAIT_S)
    go.set()
    assert desk.rest() == 0
    assert desk.result("jit") == TEMPORARY
    assert desk.answered() >= {call["id"] for call in flood}


def test_the_book_says_now_and_then_what_was_shed_and_what_to_do() -> None:
    """operator: a line at once, then at most one a minute, with all that came meanwhile."""
    now = [0.0]
    book = ShedBook(lambda: now[0])
    assert not book.is_due(0)
    assert book.is_due(5)
    book.look(Shed(3, 2, {"": 1, PEERS[0]: 2}))
    assert book.line().startswith("5 messages of peers and events")
    assert not book.is_due(900)
    now[0] = 60.0
    assert not book.is_due(5)
    assert book.is_due(900)
    book.look(Shed(898, 2, {PEERS[1]: 895}))
    line = book.line()
    assert line.startswith("895 messages")
    assert f"Most were from {PEERS[1]} (895 in all)" in line
    book.look(Shed(10_000, 2, {f"{n:066x}": 1 for n in range(5000)}))
    assert len(book.by_peer) == inbox.MOST_PEERS
    assert book.by_peer.most_common(1) == [(PEERS[1], 895)]
