"""The lane in C against the lane in Python, and what only the one in C promises."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsps2fast._hook_py import FrameReader
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter, Verdict, in_c
from lsps2fast_plugin.cln.inbox import Ended
from lsps2fast_plugin.cln.reader import make_lane, make_output

RECORDED = (Path(__file__).parents[1] / "data" / "hook-frames.jsonl").read_bytes().splitlines()
CALLS = [frame for frame in RECORDED if b'"method":"htlc_accepted"' in frame]
EVENTS = [frame for frame in RECORDED if b'"method":"forward_event"' in frame]
JIT_SCID = 1 << 40 | 2 << 16 | 3
FORWARD_TO = json.loads(CALLS[2])["params"].get("forward_to")
HASHES = [bytes.fromhex(json.loads(frame)["params"]["htlc"]["payment_hash"]) for frame in CALLS]
EXTRA_FEE = "fe00010001080000000000002710"
WAIT_S = 10.0
SWITCHES = st.fixed_dictionaries(
    {
        "final_hops": st.booleans(),
        "channels_loaded": st.booleans(),
        "loaded": st.booleans(),
        "every_payment": st.sampled_from([False, False, True]),
        "scid": st.booleans(),
        "channel": st.booleans(),
        "hash": st.booleans(),
    }
)


def short(frame: bytes) -> bytes:
    """The same call with an onion of a few bytes, so that an edit seldom falls into it."""
    call = json.loads(frame)
    call["params"].get("onion", {})["next_onion"] = "0002ab"
    return json.dumps(call, separators=(",", ":")).encode()


SHORT = [short(frame) for frame in CALLS] + EVENTS


class Outcome(NamedTuple):
    """What a lane made of a stream."""

    answers: bytes
    frames: list[bytes]
    why: str | None


def interest_of(compiled: bool, switches: dict[str, bool]) -> HtlcFilter:
    """Some sets, the same for both lanes."""
    interest = HtlcFilter(final_hops=switches["final_hops"], compiled=compiled)
    if switches["scid"]:
        interest.scids.add(JIT_SCID)
    if switches["channel"]:
        interest.channel_ids.add(FORWARD_TO)
    if switches["hash"]:
        interest.payment_hashes.add(HASHES[-1])
        interest.payment_hashes.add(bytes.fromhex(json.loads(EVENTS[0])["params"]["forward_event"]["payment_hash"]))
    interest.channels_loaded = switches["channels_loaded"]
    interest.loaded = switches["loaded"]
    interest.every_payment = switches["every_payment"]
    return interest


class Reading:
    """A lane at work on one end of a pipe."""

    def __init__(self, interest: HtlcFilter, fd: int) -> None:
        self.broken: list[OSError] = []
        self.fd_out, out_in = os.pipe()
        self._out_in = out_in
        self.out = make_output(interest, out_in, self.broken.append)
        self.lane = make_lane(fd, interest, self.out, lambda: None)
        self.lane.start()

    def outcome(self) -> Outcome:
        """Wait for the end; what came."""
        assert self.lane.join(WAIT_S)
        self.lane.stop()
        os.close(self._out_in)
        answers = b"".join(iter(lambda: os.read(self.fd_out, 1 << 20), b""))
        os.close(self.fd_out)
        *frames, end = [item for _ in range(3) for item in self.lane.take(100_000)]
        assert isinstance(end, Ended)
        return Outcome(answers, [frame for frame in frames if isinstance(frame, bytes)], end.why)


def pieces(stream: bytes, seed: int) -> list[bytes]:
    """The stream in pieces, some of a byte."""
    dice = random.Random(seed)
    cuts = sorted(dice.randrange(len(stream) + 1) for _ in range(dice.randrange(6)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]


def read_all(compiled: bool, switches: dict[str, bool], stream: bytes, seed: int) -> Outcome:
    """Feed a stream in pieces, one at a time."""
    return read_with(interest_of(compiled, switches), stream, seed)


def read_with(interest: HtlcFilter, stream: bytes, seed: int) -> Outcome:
    """The same for any sets."""
    fd, feed = os.pipe()
    reading = Reading(interest, fd)
    for piece in pieces(stream, seed):
        os.write(feed, piece)
    os.close(feed)
    outcome = reading.outcome()
    os.close(fd)
    counts, sum_s = reading.lane.latencies  # operator:O12: of each HTLC that was answered here, and of nothing else
    assert sum(counts) == outcome.answers.count(b'"continue"')
    assert (sum_s > 0) == (sum(counts) > 0)
    return outcome


def edits(frames: list[bytes]) -> st.SearchStrategy[bytes]:
    """A recorded frame, or one with bytes taken out, doubled or replaced."""
    piece = st.sampled_from(
        [b"", b'"', b"\\", b"{", b"}", b"\n\n", b" ", b"0", b"-", b"\xff", b'\\"', b",", b'"id":1,']
    )

    def edit(frame: bytes, at: int, size: int, new: bytes) -> bytes:
        at %= len(frame)
        return frame[:at] + new + frame[at + size :]

    edited = st.builds(edit, st.sampled_from(frames), st.integers(0, 10_000), st.integers(0, 3), piece)
    return st.sampled_from(frames) | edited


STREAMS = st.lists(edits(SHORT + RECORDED), min_size=1, max_size=6).map(b"\n\n".join)


@settings(max_examples=250)
@given(switches=SWITCHES, stream=STREAMS, seed=st.integers(0, 1000))
def test_both_lanes_agree_to_the_byte(switches: dict[str, bool], stream: bytes, seed: int) -> None:
    """cln:W9, cln:W11, cln:W15, cln:H15: same answers, same frames to the loop, same end, whatever comes."""
    assert read_all(True, switches, stream, seed) == read_all(False, switches, stream, seed)


@settings(max_examples=150)
@given(
    switches=SWITCHES,
    scid=st.sampled_from([-1, JIT_SCID, JIT_SCID + 1]),
    forward_to=st.sampled_from([None, FORWARD_TO, "ab" * 32]),
    payment_hash=st.sampled_from([HASHES[-1], b"\x01" * 32]),
    extra_tlvs=st.sampled_from([None, "", EXTRA_FEE]),
)
def test_c_and_python_judge_alike(
    switches: dict[str, bool], scid: int, forward_to: str | None, payment_hash: bytes, extra_tlvs: str | None
) -> None:
    """cln:W11, cln:H15, I-22: the switch and set combinations that the recorded calls do not reach."""
    call = json.loads(SHORT[0])
    call["params"]["htlc"]["payment_hash"] = payment_hash.hex()
    call["params"]["onion"].pop("short_channel_id")
    if scid >= 0:
        call["params"]["onion"]["short_channel_id"] = f"{scid >> 40}x{scid >> 16 & 0xFFFFFF}x{scid & 0xFFFF}"
    if forward_to is not None:
        call["params"]["forward_to"] = forward_to
    if extra_tlvs is not None:
        call["params"]["htlc"]["extra_tlvs"] = extra_tlvs
    outcome = read_all(True, switches, json.dumps(call).encode(), 0)
    verdict = interest_of(False, switches).judge(scid, forward_to, payment_hash, extra_tlvs is not None)
    assert (outcome.answers != b"") == (verdict is Verdict.FOREIGN)
    assert len(outcome.frames) == (verdict is not Verdict.FOREIGN)


LOADED = {name: name == "loaded" for name in ("final_hops", "channels_loaded", "loaded", "every_payment")}
FOREIGN = {**LOADED, "scid": False, "channel": False, "hash": False}


PEER = "02" + "ab" * 32
ALIKE = "03" + "cd" * 28 + "ab" * 4  # ends like PEER, so only a look at all of it tells them apart


@pytest.mark.parametrize("compact", [True, False], ids=["lightningd's wording", "another wording"])
@pytest.mark.parametrize("onward", [True, False], ids=["a forward", "a payment"])
@pytest.mark.parametrize("watched", [(), (PEER,), (ALIKE,), (PEER, ALIKE)], ids=len)
@pytest.mark.parametrize("peer", [PEER, ALIKE, "02" + "11" * 32, PEER[:-1], PEER + "0", None], ids=str)
def test_all_that_a_watched_peer_sends_is_handed_on(
    peer: str | None, watched: tuple[str, ...], onward: bool, compact: bool
) -> None:
    """rule:27, wallet:W0: by its peer, whatever name its channel has by now; others are answered as before."""
    call = next(json.loads(each) for each in CALLS if (b'"forward_to"' in each) == onward)
    call["params"].pop("peer_id", None)
    call["params"]["htlc"].pop("extra_tlvs", None)
    if peer is not None:
        call["params"] = {"peer_id": peer, **call["params"]}
    frame = json.dumps(call, separators=(",", ":") if compact else None).encode()
    seen = bool(watched) and (peer not in (PEER, ALIKE, "02" + "11" * 32) or peer in watched)
    interest = interest_of(True, {**FOREIGN, "final_hops": True})
    for each in (*watched, "02" + "ee" * 32):
        interest.peers.add(each)
    interest.peers.discard("02" + "ee" * 32)
    assert set(interest.peers) == set(watched)
    outcome = read_with(interest, frame, 0)
    assert outcome.frames == [frame] * seen
    assert (outcome.answers == b"") == seen
    forward_to = call["params"].get("forward_to")
    judged = interest.judge(-1, forward_to, b"\x01" * 32, False, peer)
    assert (judged is Verdict.OURS) == seen


def test_the_interpreted_lane_hands_all_on_while_a_peer_is_watched() -> None:
    """rule:27: it does not read who sent an HTLC; the loop does."""
    interest = interest_of(False, {**FOREIGN, "final_hops": True})
    assert read_with(interest, CALLS[0], 0).frames == []
    interest.peers.add(PEER)
    assert read_with(interest, CALLS[0], 0).frames == [CALLS[0]]


@pytest.mark.parametrize("bad", ["02" + "AB" * 32, "ab" * 32, "zz" * 33, ""])
def test_only_a_node_id_can_be_watched(bad: str) -> None:
    """A key that never matches would let everything through."""
    with pytest.raises(ValueError, match=r"not|hexadecimal"):
        HtlcFilter(compiled=True).peers.add(bad)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("final_hops", [True, False])
def test_only_a_wallet_sees_final_hops_with_tlvs_of_their_own(compiled: bool, final_hops: bool) -> None:
    """I-22: an opening fee may be in them; in lightningd's own wording, another one, and without any TLV."""
    call = next(json.loads(frame) for frame in CALLS if b'"payment_secret"' in frame and b'"extra_tlvs"' not in frame)
    plain, call["params"]["htlc"]["extra_tlvs"] = json.dumps(call, separators=(",", ":")).encode(), EXTRA_FEE
    usual, other = json.dumps(call, separators=(",", ":")).encode(), json.dumps(call).encode()
    outcome = read_all(compiled, {**FOREIGN, "final_hops": final_hops}, b"\n\n".join([usual, plain, other]), 0)
    assert outcome.frames == [usual, other] * final_hops
    assert outcome.answers.count(b'"result":"continue"') == 3 - len(outcome.frames)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "stream",
    [
        b"{}]",
        b'{"a":[}',
        b'{"a":1}x',
        b'{"a":"' + b"x" * 300_000 + b'"}' + CALLS[0],
        b'{"a":"' + b"\\" * 200_001 + b'"}{"b":2}',
        b" \n\t\r" * 40_000 + CALLS[1] + b"\n\n",
        CALLS[2] * 100,
        b"{" + b'"a":{' * 20_000,
    ],
    ids=["list", "bracket", "nonsense", "long", "backslashes", "white space", "no separators", "deep"],
)
def test_odd_streams_end_alike(compiled: bool, stream: bytes) -> None:
    """cln:W9: also across many blocks, with a buffer that has to grow."""
    fd, feed = os.pipe()
    reading = Reading(interest_of(compiled, FOREIGN), fd)
    sender = pour(feed, stream)
    outcome = reading.outcome()
    os.close(fd)
    sender.join(WAIT_S)
    reader = FrameReader()
    found = reader.feed(stream)
    assert len(outcome.frames) + outcome.answers.count(b"\n\n") == len(found)
    assert (outcome.why is not None) == reader.lost


def pour(feed: int, stream: bytes) -> threading.Thread:
    """Write all of it from a thread, or as much as is read, and close."""

    def work() -> None:
        rest = memoryview(stream)
        with contextlib.suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(feed, rest) :]
        os.close(feed)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_frame_above_the_bound_ends_the_stream() -> None:
    """rule:14: 16 MiB, then no more."""
    fd, feed = os.pipe()
    reading = Reading(interest_of(True, FOREIGN), fd)
    sender = pour(feed, b'{"a":"' + b"x" * (16 << 20) + b'"}')
    assert "a frame above 16777216 bytes" in str(reading.outcome().why)
    os.close(fd)
    sender.join(WAIT_S)


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _socketpair() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("make", [_pipe, _socketpair])
def test_stdin_may_be_a_pipe_or_a_socket(compiled: bool, make: Callable[[], tuple[int, int]]) -> None:
    """The reader takes both, compiled and in Python."""
    fd, feed = make()
    reading = Reading(interest_of(compiled, FOREIGN), fd)
    os.write(feed, CALLS[2] + b"\n\n" + RECORDED[-1])
    os.close(feed)
    outcome = reading.outcome()
    os.close(fd)
    assert outcome == (read_all(False, FOREIGN, CALLS[2] + b"\n\n" + RECORDED[-1], 0))


@pytest.mark.parametrize("compiled", [True, False])
def test_stdin_may_be_a_file(compiled: bool, tmp_path: Path) -> None:
    """A recording is replayed."""
    path = tmp_path / "frames"
    path.write_bytes(b"\n\n".join(RECORDED))
    with path.open("rb") as file:
        outcome = Reading(interest_of(compiled, FOREIGN), file.fileno()).outcome()
    assert outcome == read_all(False, FOREIGN, b"\n\n".join(RECORDED), 0)


@pytest.mark.parametrize("compiled", [True, False])
def test_stop_ends_the_lane_while_stdin_is_quiet(compiled: bool) -> None:
    """cln:W12: a clean end, told once; the descriptors are left to their owner."""
    fd, feed = os.pipe()
    reading = Reading(interest_of(compiled, FOREIGN), fd)
    os.write(feed, CALLS[2])
    assert os.read(reading.fd_out, 65536).endswith(b'{"result":"continue"}}\n\n')
    reading.lane.stop()
    assert reading.outcome().why is None
    os.close(feed)
    os.close(fd)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_signal_in_the_middle_of_a_read_loses_nothing(compiled: bool) -> None:
    """EINTR is retried; SIGURG is what stop() ends a read with, and any process may send one."""
    fd, feed = os.pipe()
    reading = Reading(interest_of(compiled, FOREIGN), fd)
    half = len(CALLS[2]) // 2
    for _ in range(20):
        os.write(feed, CALLS[2][:half])
        for thread in threading.enumerate():
            if thread.name == "lane" and thread.ident is not None:
                signal.pthread_kill(thread.ident, signal.SIGURG)
        os.write(feed, CALLS[2][half:])
        assert os.read(reading.fd_out, 65536).endswith(b'{"result":"continue"}}\n\n')
    os.close(feed)
    outcome = reading.outcome()
    assert (outcome.answers, outcome.frames, outcome.why) == (b"", [], None)
    os.close(fd)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_set_update_counts_once_the_call_returns(compiled: bool) -> None:
    """The payer may pay the moment the buy is answered."""
    fd, feed = os.pipe()
    interest = interest_of(compiled, FOREIGN)
    reading = Reading(interest, fd)
    jit = next(frame for frame in CALLS if b'"short_channel_id":"1x2x3"' in frame)
    for _ in range(50):
        os.write(feed, jit)
        os.read(reading.fd_out, 65536)
        interest.scids.add(JIT_SCID)
        os.write(feed, jit + b'{"method":"x"}' + CALLS[2])
        os.read(reading.fd_out, 65536)
        interest.scids.discard(JIT_SCID)
    os.close(feed)
    assert reading.outcome().frames == [jit, b'{"method":"x"}'] * 50
    os.close(fd)


@pytest.mark.parametrize("compiled", [True, False])
def test_broken_stdout_is_told_once_and_reading_goes_on(compiled: bool) -> None:
    """cln:W10: nothing may follow half a frame; what is read still reaches the loop."""
    fd, feed = os.pipe()
    reading = Reading(interest_of(compiled, FOREIGN), fd)
    os.close(reading.fd_out)
    reading.fd_out, _ = os.pipe()
    os.close(_)
    for _ in range(3):
        os.write(feed, CALLS[2])
    os.write(feed, b'{"method":"x"}')
    os.close(feed)
    assert reading.outcome().frames == [b'{"method":"x"}']
    os.close(fd)
    assert [error.errno for error in reading.broken] == [32]


LIGHTNINGD = """
import os, sys, time
feed, answers, frame = int(sys.argv[1]), int(sys.argv[2]), sys.stdin.buffer.read()
print("ready", flush=True)
longest, begin = 0.0, time.monotonic()
while time.monotonic() - begin < 0.5:
    sent = time.monotonic()
    os.write(feed, frame)
    os.read(answers, 65536)
    longest = max(longest, time.monotonic() - sent)
print(longest)
"""


@pytest.mark.slow
@pytest.mark.process
def test_foreign_htlcs_pass_while_python_computes() -> None:
    """P4: the GIL is held for long in one go; the answers come meanwhile."""
    fd, feed = os.pipe()
    reading = Reading(interest_of(True, FOREIGN), fd)
    command = [sys.executable, "-c", LIGHTNINGD, str(feed), str(reading.fd_out)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(feed, reading.fd_out)
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(CALLS[2])
        child.stdin.close()
        assert child.stdout.readline() == b"ready\n"
        began = time.monotonic()
        sum(range(50_000_000))  # one bytecode: the GIL is not given away within
        held = time.monotonic() - began
        longest = float(child.stdout.readline())
    os.close(feed)
    reading.outcome()
    os.close(fd)
    assert longest < held / 3


@pytest.mark.parametrize("compiled", [True, False])
def test_frames_for_the_loop_are_bounded(compiled: bool) -> None:
    """rule:14: beyond 64 MiB of what is never shed the lane stops reading; the loop gets all of it later."""
    fd, feed = os.pipe()
    reading = Reading(interest_of(compiled, FOREIGN), fd)
    sent = [json.dumps({"method": "x" * (1 << 18), "n": n}).encode() for n in range(300)]
    sender = pour(feed, b"\n\n".join(sent))
    sender.join(0.5)
    assert sender.is_alive()
    frames: list[bytes | Ended] = []
    deadline = time.monotonic() + 60
    while frames[-1:] != [Ended(None)] and time.monotonic() < deadline:
        frames += reading.lane.take(7) or [b""]
        if frames[-1] == b"":
            frames.pop()
            time.sleep(0.001)
    assert frames == [*sent, Ended(None)]
    sender.join(WAIT_S)
    reading.lane.stop()
    os.close(fd)
    os.close(reading.fd_out)


# ---- the sets


KEYS = st.integers(0, 300)
KINDS: dict[str, Callable[[int], Any]] = {
    "SCID": lambda n: n << 40,
    "CHANNEL_ID": lambda n: f"{n:064x}",
    "PAYMENT_HASH": lambda n: n.to_bytes(32, "big"),
}


@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.lists(st.tuples(st.booleans(), KEYS), max_size=800))
def test_the_sets_in_c_are_sets(kind: str, steps: list[tuple[bool, int]]) -> None:
    """Open addressing with gaps that close: add, discard, in, len and iteration agree with a set."""
    assert in_c is not None
    keys, model = in_c.Keys(in_c.Sets(), getattr(in_c, kind)), set()
    for add, number in steps:
        key = KINDS[kind](number)
        (keys.add if add else keys.discard)(key)
        (model.add if add else model.discard)(key)
        assert (key in keys) == (key in model)
    assert keys == model
    assert len(keys) == len(model)
    assert all((KINDS[kind](number) in keys) == (KINDS[kind](number) in model) for number in range(301))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("SCID", -1),
        ("SCID", 1 << 64),
        ("CHANNEL_ID", "AB" * 32),
        ("CHANNEL_ID", "ab"),
        ("PAYMENT_HASH", b"x"),
        ("PAYMENT_HASH", None),
    ],
)
def test_what_cannot_be_a_key_is_refused(kind: str, wrong: Any) -> None:
    """A key that would never match must not be taken in silently."""
    assert in_c is not None
    keys = in_c.Keys(in_c.Sets(), getattr(in_c, kind))
    assert wrong not in keys
    keys.discard(wrong)
    with pytest.raises((ValueError, OverflowError)):
        keys.add(wrong)
