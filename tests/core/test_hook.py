"""Frames by structure, the strict reader of htlc_accepted: compiled and twin, against plain JSON."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from harness.backends import load_compiled, load_pure
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast import _hook_py
from lsps2fast.errors import MalformedFrame

RECORDED = (Path(__file__).parents[1] / "data" / "hook-frames.jsonl").read_bytes().splitlines()
CALLS = [frame for frame in RECORDED if b'"method":"htlc_accepted"' in frame]
EVENTS = [frame for frame in RECORDED if b'"method":"forward_event"' in frame]
OTHERS = [frame for frame in RECORDED if frame not in CALLS and frame not in EVENTS]
RUNS = (load_compiled("_hook"), load_pure("_hook"))
FIELDS = _hook_py.Scan._fields
U64_MAX = 2**64 - 1
FORGED = (
    b'{"jsonrpc":"2.0","method":"forward_event","params":{"forward_event":{"payment_hash":"'
    + b"ab" * 32
    + b'","status":"settled"}}}'
)


def short(frame: bytes) -> bytes:
    """The same call with an onion of a few bytes, so that an edit seldom falls into it."""
    call = json.loads(frame)
    call["params"].get("onion", {})["next_onion"] = "0002ab"
    return json.dumps(call, separators=(",", ":")).encode()


SHORT = [short(frame) for frame in CALLS + EVENTS]


def fields(scan: Any) -> tuple[Any, ...] | None:
    """A Scan of either run as a tuple, so that they can be compared."""
    return None if scan is None else tuple(getattr(scan, name) for name in FIELDS)


def scid(text: str) -> int:
    """A scid as the number BOLT 7 makes of it."""
    block, tx, out = map(int, text.split("x"))
    return block << 40 | tx << 16 | out


def by_json(frame: bytes) -> tuple[Any, ...]:
    """What the json module finds in a call, in the order of FIELDS. Control characters and any bytes are allowed."""
    call = json.loads(frame.decode("latin-1"), strict=False)
    params = call["params"]
    onion, htlc = params["onion"], params["htlc"]
    return (
        json.dumps(call["id"]).encode(),
        scid(onion["short_channel_id"]) if "short_channel_id" in onion else -1,
        params.get("forward_to"),
        bytes.fromhex(htlc["payment_hash"]),
        scid(htlc["short_channel_id"]),
        htlc["id"],
        htlc["amount_msat"],
        htlc["cltv_expiry"],
        onion.get("forward_msat", -1),
        onion.get("outgoing_cltv_value", -1),
        onion["payload"],
        onion.get("total_msat", -1),
        onion.get("payment_secret"),
        htlc.get("extra_tlvs"),
        params.get("peer_id"),
    )


def feed_all(reader: Any, chunks: Iterable[bytes]) -> tuple[list[bytes], str]:
    """All frames of a stream and how it ended."""
    frames: list[bytes] = []
    try:
        for chunk in chunks:
            frames += reader.feed(chunk)
        reader.feed(b"")
    except MalformedFrame as error:
        return frames, str(error)
    return frames, "fine"


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """The stream in pieces, cut at these places (taken modulo its length)."""
    at = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(at)]


places = st.lists(st.integers(0, 5000), max_size=12)

# ---- FrameReader


@given(st.lists(st.sampled_from(RECORDED + SHORT), max_size=6), st.sampled_from([b"\n\n", b"", b" \t\r\n"]), places)
def test_frames_come_out_whole_wherever_the_stream_is_cut(frames: list[bytes], between: bytes, cuts: list[int]) -> None:
    """cln:W9: the end of a frame is its closing brace, whatever stands between frames."""
    stream = between + between.join(frames) + between
    results = [feed_all(run.FrameReader(), cut(stream, cuts)) for run in RUNS]
    assert results == [(frames, "fine")] * 2


def test_a_frame_may_be_split_at_any_byte(hook: ModuleType) -> None:
    """cln:W9."""
    frame = b'{"a":"x\\"{\\\\","b":[1,{"c":"}"}],"d":12}'
    stream = frame + b"\n\n" + frame
    whole = [feed_all(hook.FrameReader(), [stream[:at], stream[at:]]) for at in range(len(stream))]
    assert whole == [([frame, frame], "fine")] * len(stream)


def test_bytes_may_come_one_by_one(hook: ModuleType) -> None:
    """cln:W9."""
    stream = RECORDED[0] + b"\n\n" + RECORDED[-1]
    assert feed_all(hook.FrameReader(), [bytes([byte]) for byte in stream])[0] == [RECORDED[0], RECORDED[-1]]


SMUGGLED = {
    "line feeds in a string": b'{"id":"a","method":"ours","params":{"note":"\n\n%b\n\n"}}',
    "line feeds in a key": b'{"id":"a","method":"ours","params":{"\n\n%b\n\n":1}}',
    "a quote in a number": b'{"id":"a","method":"ours","params":{"n":1"\n,"s":"}}\n\n%b\n\n"}}',
    "a brace in a number": b'{"id":"a","method":"ours","params":{"n":1{ ,"s":"\n\n%b"}}',
    "a bracket in a word": b'{"id":"a","method":"ours","params":[t[[[ ,"\n\n%b"]}',
    "an escaped quote": b'{"id":"a","method":"ours","params":{"s":"\\"}}\n\n%b"}}',
    "an escaped backslash": b'{"id":"a","method":"ours","params":{"s":"\\\\\\"}}\n\n%b"}}',
}


@pytest.mark.parametrize("attack", SMUGGLED.values(), ids=SMUGGLED)
def test_parameters_of_a_caller_forge_no_frame(hook: ModuleType, attack: bytes) -> None:
    """cln:W9, trap:48, rule:16: lightningd passes these on as they are; for its tokenizer (jsmn, strict) each is one
    value.
    """
    frame = attack.replace(b"%b", FORGED.replace(b'"', b'\\"'))
    stream = frame + b"\n\n" + RECORDED[-1] + b"\n\n"
    splits = [feed_all(hook.FrameReader(), [stream[:at], stream[at:]]) for at in range(len(stream))]
    assert splits == [([frame, RECORDED[-1]], "fine")] * len(stream)


NONSENSE = {
    "a letter": b"x",
    "a closing brace": b"}",
    "a list": b"[{}]",
    "a number": b"12 ",
    "a zero byte": b"\0",
    "an object closed by a bracket": b'{"a":1]',
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_stream_without_sense_is_given_up_behind_its_last_frame(hook: ModuleType, nonsense: bytes, size: int) -> None:
    """cln:W9: never resynchronised; what came whole before is still answered."""
    stream = RECORDED[-1] + b"\n\n" + nonsense + RECORDED[-1]
    reader = hook.FrameReader()
    frames, end = feed_all(reader, [stream[at : at + size] for at in range(0, len(stream), size)])
    assert frames == [RECORDED[-1]]
    assert " at byte 6" in end or " at byte 7" in end
    assert reader.lost
    with pytest.raises(MalformedFrame):
        reader.feed(RECORDED[-1])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_frame_above_the_bound_is_given_up(hook: ModuleType, size: int) -> None:
    """rule:14: nothing grows without bound, however the bytes arrive."""
    stream = b"{}" + b'{"a":"' + b"x" * 100 + b'"}'
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert feed_all(hook.FrameReader(107), pieces)[1].startswith("a frame above 107 bytes")
    assert feed_all(hook.FrameReader(108), pieces) == ([stream[:2], stream[2:]], "fine")


def test_pending_counts_the_unfinished_frame(hook: ModuleType) -> None:
    """The bytes held between calls, and nothing else."""
    reader = hook.FrameReader()
    reader.feed(b'{}\n\n{"a":')
    assert reader.pending == 5
    assert reader.feed(b"1}") == [b'{"a":1}']
    assert reader.pending == 0


@pytest.mark.parametrize("filling", [b"\\\\", b'\\"', b"[", b"x", b'"",'])
def test_time_is_linear_in_the_bytes(hook: ModuleType, filling: bytes) -> None:
    """trap:12: two million bytes in small pieces are through in a moment; anything quadratic would take minutes."""
    body = filling * (1_000_000 // len(filling))
    opening = {b"[": b'{"a":', b'"",': b'{"a":['}.get(filling, b'{"a":"')
    reader = hook.FrameReader()
    pieces = [opening, *(body[at : at + 5000] for at in range(0, len(body), 5000))]
    assert feed_all(reader, pieces) == ([], "fine")
    assert reader.pending == len(opening) + len(body)


TOKENS = [b'"', b"{", b"}", b"[", b"]", b"\\", b",", b":", b" ", b"\n\n", b"1", b"x", b'{"a":"b"}', b"\xff", b"\0"]


@given(st.lists(st.sampled_from([*TOKENS, RECORDED[-1]]), max_size=30).map(b"".join), places)
def test_both_readers_agree_on_any_bytes_and_any_cuts(stream: bytes, cuts: list[int]) -> None:
    """Twin: same frames, same error, same bytes held."""
    readers = [run.FrameReader(60) for run in RUNS]
    one, two = (feed_all(reader, cut(b"{" + stream, cuts)) for reader in readers)
    assert one == two
    assert one == feed_all(_hook_py.FrameReader(60), [b"{" + stream])


# ---- scan


@pytest.mark.parametrize("frame", CALLS, ids=range(len(CALLS)))
def test_recorded_calls_read_as_json_reads_them(hook: ModuleType, frame: bytes) -> None:
    """cln:H1, cln:H2: every call lightningd was seen to make is in the usual shape."""
    assert fields(hook.scan(frame)) == by_json(frame)
    assert hook.next_hop(frame) == (*by_json(frame)[:4], b'"extra_tlvs":' in frame)
    assert hook.event_hash(frame) is None


@pytest.mark.parametrize("frame", OTHERS + EVENTS, ids=range(len(OTHERS + EVENTS)))
def test_other_frames_are_no_calls(hook: ModuleType, frame: bytes) -> None:
    """cln:W3."""
    assert hook.scan(frame) is None
    assert hook.next_hop(frame) is None


def shuffled(value: Any, dice: random.Random) -> Any:
    """The same value with the keys of every object in another order."""
    items = list(value.items()) if isinstance(value, dict) else []
    dice.shuffle(items)
    return {key: shuffled(inner, dice) for key, inner in items} if items else value


@given(st.sampled_from(CALLS), st.randoms(use_true_random=False), st.sampled_from([None, 0, 3, "\t"]))
def test_keys_in_any_order_and_any_white_space_read_the_same(
    frame: bytes, dice: random.Random, indent: int | str | None
) -> None:
    """lightningd promises no order of keys."""
    other = json.dumps(shuffled(json.loads(frame), dice), indent=indent).encode()
    assert [fields(run.scan(other)) for run in RUNS] == [by_json(frame)] * 2


ADDED = st.tuples(
    st.sampled_from(
        b"failure_reason new id method params peer_id onion htlc forward_to payload type short_channel_id forward_msat"
        b" outgoing_cltv_value total_msat payment_secret next_onion amount_msat cltv_expiry payment_hash extra_tlvs"
        b"".split()
    ),
    st.sampled_from(
        [b'"outgoing_peer_offline"', b"17", b"null", b'{"a":[1,{"b":"}]"}]}', b'"1x2x3"', b'"%s"' % (b"ab" * 32)]
    ),
)


@given(st.sampled_from(CALLS), st.lists(st.tuples(st.floats(0, 1), ADDED), min_size=1, max_size=3))
def test_members_of_tomorrow_lie_anywhere(frame: bytes, added: list[tuple[float, tuple[bytes, bytes]]]) -> None:
    """cln:N9, trap:12: a new member changes nothing of what is read; a known one too many is read as JSON reads it,
    or not at all.
    """
    for where, (name, value) in added:
        places = [found.end() for found in re.finditer(rb'[{,](?=")', frame)]
        at = places[int(where * (len(places) - 1))]
        frame = frame[:at] + b'"%s":%s,' % (name, value) + frame[at:]
    compiled, pure = (fields(run.scan(frame)) for run in RUNS)
    assert compiled == pure
    assert compiled is None or compiled == by_json(frame)
    assert [run.next_hop(frame) for run in RUNS] == [_hook_py.next_hop(frame)] * 2
    if all(name in (b"failure_reason", b"new") for _, (name, _) in added):
        assert compiled is not None


def all_objects(run: ModuleType, text: bytes) -> tuple[list[bytes], str | None]:
    """The objects of a list, and what is wrong with it."""
    found: list[bytes] = []
    try:
        for each in run.objects(text, 1):
            found.append(each)
    except MalformedFrame as error:
        return found, str(error)
    return found, None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SPACE = st.sampled_from([b"", b" ", b"\n  ", b"\t\r\n"])


@given(st.lists(st.dictionaries(st.text(max_size=8), JSON, max_size=3), max_size=6), st.data())
def test_the_objects_of_a_list_are_those_that_json_finds(rows: list[Any], data: st.DataObject) -> None:
    """P27: a long list is read an object at a time, however it is spaced, in either run."""
    gap = lambda: data.draw(SPACE)  # noqa: E731
    text = b"[" + b",".join(gap() + json.dumps(row).encode() + gap() for row in rows) + gap() + b"]"
    for run in RUNS:
        found, wrong = all_objects(run, text + b'},"id":1}')
        assert wrong is None
        assert [json.loads(each) for each in found] == rows


def test_a_frame_above_a_hook_call_is_not_copied() -> None:
    """P27: an answer of 100 MB is the reader's own memory, and its rows are read from there; shorter ones are bytes."""
    long = b'{"rows":[' + b",".join([b'{"a":"' + b"x" * 100_000 + b'"}'] * 200) + b"]}"
    for run in RUNS:
        reader = run.FrameReader(1 << 30)
        frames = [frame for at in range(0, len(long), 65_536) for frame in reader.feed(long[at : at + 65_536])]
        assert [(type(frame), bytes(frame) == long) for frame in frames] == [(bytearray, True)]
        assert len(list(run.objects(frames[0], 9))) == 200
        short = [frame for half in (b'{"a":', b"1}") for frame in reader.feed(half)]
        assert short == [b'{"a":1}']
        assert type(short[0]) is bytes


@given(
    st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b",", b'"', b"\\", b" ", b"1", b'{"a":1}', b"x"]), max_size=12)
)
def test_a_list_of_something_else_is_told_alike(pieces: list[bytes]) -> None:
    """G-01: whatever stands there, both runs find the same objects before it and say the same."""
    compiled, pure = (all_objects(run, b"[" + b"".join(pieces)) for run in RUNS)
    assert compiled == pure


def change(path: str, value: Any) -> Callable[[Any], bytes]:
    """A call with one member set to another value; `...` takes it away."""

    def changed(call: Any) -> bytes:
        *outer, last = path.split(".")
        place = call
        for key in outer:
            place = place[key]
        place[last] = value
        kept = {key: inner for key, inner in place.items() if inner is not ...}
        place.clear()
        place.update(kept)
        return json.dumps(call).encode()

    return changed


def with_text(old: bytes, new: bytes) -> Callable[[Any], bytes]:
    """A call with one piece of its text replaced."""
    return lambda call: json.dumps(call, separators=(",", ":")).encode().replace(old, new, 1)


UNUSUAL: dict[str, Callable[[Any], bytes]] = {
    "no id": change("id", ...),
    "id a list": change("id", []),
    "id null": change("id", None),
    "id with an escape": change("id", 'a"b'),
    "id with a letter beyond ASCII": with_text(b'"id":"', b'"id":"\xc3\xa9'),
    "id with a control character": with_text(b'"id":"', b'"id":"\x01'),
    "id a fraction": change("id", 1.5),
    "id with a leading zero": with_text(b'"id":"cln:htlc_accepted#103"', b'"id":01'),
    "another method": change("method", "htlc_accepted2"),
    "no method": change("method", ...),
    "method spelled with an escape": with_text(b"htlc_accepted", b"htlc\\u005faccepted"),
    "key spelled with an escape": with_text(b'"htlc":', b'"ht\\u006cc":'),
    "id twice": with_text(b'"id":', b'"id":1,"id":'),
    "method twice": with_text(b'"method":', b'"method":"htlc_accepted","method":'),
    "params twice": with_text(b'"params":', b'"params":{},"params":'),
    "onion twice": with_text(b'"onion":', b'"onion":{},"onion":'),
    "scid twice": with_text(b'"short_channel_id":', b'"short_channel_id":"1x1x1","short_channel_id":'),
    "amount twice": with_text(b'"amount_msat":', b'"amount_msat":1,"amount_msat":'),
    "no params": change("params", ...),
    "params a list": change("params", []),
    "no onion": change("params.onion", ...),
    "onion a text": change("params.onion", "x"),
    "no payload": change("params.onion.payload", ...),
    "payload null": change("params.onion.payload", None),
    "payload beyond ASCII": with_text(b'"payload":"', b'"payload":"\xc3\xa9'),
    "scid a number": change("params.onion.short_channel_id", 1),
    "scid null": change("params.onion.short_channel_id", None),
    "scid of two pieces": change("params.onion.short_channel_id", "1x2"),
    "scid of four pieces": change("params.onion.short_channel_id", "1x2x3x4"),
    "scid with a leading zero": change("params.onion.short_channel_id", "01x2x3"),
    "scid beyond 24 bits": change("params.onion.short_channel_id", "16777216x2x3"),
    "scid beyond 16 bits": change("params.onion.short_channel_id", "1x2x65536"),
    "scid with a space": change("params.onion.short_channel_id", " 1x2x3"),
    "no htlc": change("params.htlc", ...),
    "no htlc id": change("params.htlc.id", ...),
    "no incoming scid": change("params.htlc.short_channel_id", ...),
    "no payment hash": change("params.htlc.payment_hash", ...),
    "payment hash too short": change("params.htlc.payment_hash", "ab" * 31),
    "payment hash too long": change("params.htlc.payment_hash", "ab" * 33),
    "payment hash in capitals": change("params.htlc.payment_hash", "AB" * 32),
    "payment hash no hex": change("params.htlc.payment_hash", "xy" * 32),
    "no amount": change("params.htlc.amount_msat", ...),
    "amount as text": change("params.htlc.amount_msat", "1msat"),
    "amount negative": change("params.htlc.amount_msat", -1),
    "amount a fraction": change("params.htlc.amount_msat", 1.5),
    "amount with an exponent": with_text(b'"amount_msat":', b'"amount_msat":1e'),
    "amount with a leading zero": with_text(b'"amount_msat":', b'"amount_msat":0'),
    "amount true": change("params.htlc.amount_msat", True),
    "amount of 65 bits": change("params.htlc.amount_msat", 2**64),
    "amount of 200 digits": change("params.htlc.amount_msat", 10**200),
    "forward_to too short": change("params.forward_to", "ab" * 31),
    "forward_to in capitals": change("params.forward_to", "AB" * 32),
    "forward_to null": change("params.forward_to", None),
    "bytes behind": lambda call: json.dumps(call).encode() + b" ",
    "bytes in front": lambda call: b" " + json.dumps(call).encode(),
    "cut short": lambda call: json.dumps(call).encode()[:-1],
    "a comma too many": with_text(b'"onion":{', b'"onion":{,'),
    "a comma at the end": with_text(b'"peer_id"', b'"z":[1,],"peer_id"'),
    "a comma missing": with_text(b',"method"', b' "method"'),
    "a literal misspelled": with_text(b'"peer_id"', b'"z":nul,"peer_id"'),
    "NaN": with_text(b'"peer_id"', b'"z":NaN,"peer_id"'),
    "a number without digits": with_text(b'"peer_id"', b'"z":-,"peer_id"'),
    "a number without a fraction": with_text(b'"peer_id"', b'"z":1.,"peer_id"'),
    "nesting without end": with_text(b'"peer_id"', b'"z":' + b"[" * 40 + b"]" * 40 + b',"peer_id"'),
    "a key that is no text": with_text(b'"peer_id"', b'1:2,"peer_id"'),
    "a list": lambda call: b"[" + json.dumps(call).encode() + b"]",
    "nothing": lambda call: b"",
}


@pytest.mark.parametrize("unusual", UNUSUAL.values(), ids=UNUSUAL)
def test_whatever_is_unusual_is_left_to_the_lenient_reader(hook: ModuleType, unusual: Callable[[Any], bytes]) -> None:
    """rule:16: the strict reader never guesses."""
    frame = unusual(json.loads(CALLS[0]))
    assert hook.scan(frame) is None
    assert [run.next_hop(frame) for run in RUNS] in ([None, None], [RUNS[0].next_hop(frame)] * 2)


USUAL: dict[str, Callable[[Any], bytes]] = {
    "unknown members of every kind": with_text(
        b'"peer_id"', b'"z":[1,-2.5e+3,{"a":null,"b":[]},"x",true,false,{}],"peer_id"'
    ),
    "id a number": change("id", 7),
    "id a negative number": change("id", -7),
    "id zero": change("id", 0),
    "no peer": change("params.peer_id", ...),
    "a relative expiry below zero": change("params.htlc.cltv_expiry_relative", -3),
    "the largest numbers": change("params.htlc.amount_msat", U64_MAX),
    "the largest id": change("params.htlc.id", U64_MAX),
    "zero": change("params.htlc.amount_msat", 0),
    "the largest scid": change("params.onion.short_channel_id", "16777215x16777215x65535"),
    "the smallest scid": change("params.onion.short_channel_id", "0x0x0"),
    "a payload lightningd could not read": lambda call: change("params.onion", {"payload": "00"})(call),
    "an onion with a control character": with_text(b'"next_onion":"', b'"next_onion":"\n'),
    "an onion that is no UTF-8": with_text(b'"next_onion":"', b'"next_onion":"\xff'),
    "a known channel": change("params.forward_to", "ab" * 32),
}


@pytest.mark.parametrize("usual", USUAL.values(), ids=USUAL)
def test_what_may_be_missing_or_new_is_no_obstacle(hook: ModuleType, usual: Callable[[Any], bytes]) -> None:
    """cln:H2: fields come and go with the kind of HTLC and the release of lightningd."""
    frame = usual(json.loads(CALLS[0]))
    assert fields(hook.scan(frame)) == by_json(frame)


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 3),
        st.sampled_from(
            [
                *TOKENS, b"null", b"0", b"-", b"9" * 20, b".5", b"e1", b'"id":1,', b'"id":"a",', b'"amount_msat":5,',
                b'"short_channel_id":"1x2x3",', b'"z":[{}],', b'"z":{"a":[1,2]},', b"[[", b"]]", b"\xc3\xa9", b"\x7f",
            ]
        ),
    ),
    max_size=4,
)  # fmt: skip


def edited(frame: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    """The frame with a few places overwritten; each place moves to the next separator, where edits hurt most."""
    for where, gone, new in changes:
        at = frame.find(b'"', int(where * len(frame)))
        frame = frame[:at] + new + frame[at + gone :]
    return frame


@given(st.sampled_from(SHORT), edits)
def test_a_spoilt_frame_is_read_right_or_not_at_all(frame: bytes, changes: list[tuple[float, int, bytes]]) -> None:
    """trap:12: what scan returns, a JSON reader finds too; and both runs say the same."""
    spoilt = edited(frame, changes)
    compiled, pure = (fields(run.scan(spoilt)) for run in RUNS)
    assert compiled == pure
    assert compiled is None or compiled == by_json(spoilt)
    assert [run.next_hop(spoilt) for run in RUNS] == [_hook_py.next_hop(spoilt)] * 2
    assert [run.event_hash(spoilt) for run in RUNS] == [_hook_py.event_hash(spoilt)] * 2
    assert [run.method_of(spoilt) for run in RUNS] == [_hook_py.method_of(spoilt)] * 2


NUMBER = st.from_regex(rb"0?[1-9][0-9]{0,20}|0|-?[0-9]{0,2}x?", fullmatch=True)
TRIPLE = st.builds(lambda *numbers: b'"%s"' % b"x".join(numbers), NUMBER, NUMBER, NUMBER)


@given(st.sampled_from(CALLS), st.sampled_from([rb'":(\d+)', rb':("\d+x\d+x\d+")']), st.integers(0, 9), NUMBER, TRIPLE)
def test_numbers_of_any_width_read_alike(frame: bytes, kind: bytes, which: int, number: bytes, triple: bytes) -> None:
    """cln:H9's ground: eight digits are looked at in one go, so every width is tried, and what is no number."""
    found = list(re.finditer(kind, frame))
    begin, end = found[which % len(found)].span(1)
    other = frame[:begin] + (triple if frame[begin:end].startswith(b'"') else number) + frame[end:]
    one, two = ((fields(run.scan(other)), run.next_hop(other)) for run in RUNS)
    assert one == two
    assert one[0] is None or one[0] == by_json(other)
    assert (one[0] is None) == (one[1] is None)


HASH_PLACES = re.compile(rb'"(?:forward_to|payment_hash)":"([0-9a-f]{64})"')
FORWARD = next(frame for frame in CALLS if b'"forward_to"' in frame)


@pytest.mark.parametrize("at", [0, 7, 8, 63])
@pytest.mark.parametrize("which", [0, 1])
def test_only_hex_digits_make_a_hash(hook: ModuleType, which: int, at: int) -> None:
    """Eight digits are looked at in one go: every byte at the edges of the eight."""
    begin = list(HASH_PLACES.finditer(FORWARD))[which].start(1) + at
    others = [FORWARD[:begin] + bytes([byte]) + FORWARD[begin + 1 :] for byte in range(256)]
    assert bytes(byte for byte, other in enumerate(others) if hook.next_hop(other)) == b"0123456789abcdef"


@pytest.mark.parametrize("at", [0, 7, 8, 20])
def test_only_printable_bytes_make_an_id(hook: ModuleType, at: int) -> None:
    """cln:W9, cln:H9: what is echoed is printable ASCII without quote and backslash; every byte."""
    begin = CALLS[0].index(b"cln:htlc_accepted#103") + at
    others = [CALLS[0][:begin] + bytes([byte]) + CALLS[0][begin + 1 :] for byte in range(256)]
    found = {byte for byte, other in enumerate(others) if hook.next_hop(other)}
    assert found == set(range(32, 127)) - set(b'"\\')


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_frame(data: bytes) -> None:
    """trap:12: and nothing but None comes of them."""
    results = {(run.scan(data), run.next_hop(data), run.event_hash(data)) for run in RUNS}
    assert results == {(None, None, None)}
    assert RUNS[0].method_of(data) == RUNS[1].method_of(data)


def test_a_scan_can_be_made_by_hand(hook: ModuleType) -> None:
    """What the lenient reader does with a call that scan left."""
    frame = CALLS[0]
    values = dict(zip(FIELDS, by_json(frame), strict=True))
    assert fields(hook.Scan(**values)) == by_json(frame)
    absent = dict.fromkeys(("next_scid", "forward_msat", "outgoing_cltv_value", "total_msat"), -1)
    assert [getattr(hook.Scan(**values | absent), name) for name in absent] == [-1] * 4


# ---- other frames


@pytest.mark.parametrize("frame", EVENTS, ids=range(len(EVENTS)))
def test_a_forward_event_is_known_by_its_payment_hash(hook: ModuleType, frame: bytes) -> None:
    """cln:W15."""
    assert hook.event_hash(frame) == bytes.fromhex(json.loads(frame)["params"]["forward_event"]["payment_hash"])


NO_EVENT = {
    "with an id": with_text(b'"method"', b'"id":1,"method"'),
    "with an escape": change("params.forward_event.in_channel", "\n"),
    "hash missing": change("params.forward_event.payment_hash", ...),
    "hash too short": change("params.forward_event.payment_hash", "ab"),
    "hash twice": with_text(b'"payment_hash"', b'"payment_hash":"","payment_hash"'),
    "under another name": change("params", {"payload": {"payment_hash": "ab" * 32}}),
    "another topic": change("method", "forward_events"),
}


@pytest.mark.parametrize("odd", NO_EVENT.values(), ids=NO_EVENT)
def test_an_odd_forward_event_is_left_to_the_loop(hook: ModuleType, odd: Callable[[Any], bytes]) -> None:
    """cln:W15: only events that certainly match no session are dropped."""
    assert hook.event_hash(odd(json.loads(EVENTS[0]))) is None


METHODS = {
    b'{"id":"a","method":"m","params":{"method":"no","id":"no"}}': ("m", b'"a"'),
    b'{"params":{"s":"\n\n","n":1"},"method" : "m" ,\n"id": 7 }': ("m", b"7"),
    b'{"method":"m"}': ("m", None),
    b'{"id":"a\\"b","method":"m"}': ("m", b'"a\\"b"'),
    b'{"id":null,"method":"m"}': ("m", b"null"),
    b'{"id":[1],"method":"m"}': ("m", None),
    b'{"id":1,"method":"\\u006d"}': (None, b"1"),
    b'{"id":1,"method":5}': (None, b"1"),
    b'{"id":1,"id":2,"method":"m"}': (None, None),
    b'{"id":1,"method":"m","method":"n"}': (None, None),
    b'{"id":1,"method":"m"': (None, None),
    b'{"id":1,"method":"m"}x': (None, None),
    b'{"id":1 "method":"m"}': (None, None),
    b"{}": (None, None),
    b"[]": (None, None),
    b"": (None, None),
    b'{"id":1,"method":"\xff"}': ("\ufffd", b"1"),
}


@pytest.mark.parametrize("frame", METHODS, ids=range(len(METHODS)))
def test_method_and_id_are_the_outermost_ones(hook: ModuleType, frame: bytes) -> None:
    """cln:W1, cln:W9: an id is echoed as it came, so it is taken as it came."""
    assert hook.method_of(frame) == METHODS[frame]


@pytest.mark.parametrize("frame", RECORDED, ids=range(len(RECORDED)))
def test_method_and_id_of_recorded_frames(hook: ModuleType, frame: bytes) -> None:
    """cln:W1, cln:W3."""
    call = json.loads(frame)
    token = json.dumps(call["id"]).encode() if "id" in call else None
    assert hook.method_of(frame) == (call["method"], token)
