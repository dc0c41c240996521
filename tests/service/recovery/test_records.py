"""Records that no run of this program has written: kept, reported, skipped; nothing they name is touched (K-08)."""

from __future__ import annotations

import asyncio
import hashlib
import json
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from harness.logs import Log
from harness.session_records import CHANNEL, FUNDING, JIT, PARTS, record

from lsps2fast.actions import SessionRecord
from lsps2fast.errors import AnswerPending, NodeError, StoreError
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.datastore import NO_SUCH_KEY
from lsps2fast_plugin.service.session_record import FRESH, VERSIONS, StoredSession, final_record, record_of
from lsps2fast_plugin.service.session_store import AT_ONCE, OLD_ROOT, ROOT, SessionStore

OTHER = JIT + 1
NEWER = max(VERSIONS) + 1
PREIMAGE = b"\x05" * 32
HASH = hashlib.sha256(PREIMAGE).digest()
INTENT = record("intent")
FORWARDS = record("forwards", CHANNEL, PARTS)
OUTPOINT = FUNDING.inputs[0]
Json = dict[str, Any]


class Datastore:
    """lightningd's, as far as a journal needs it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], str] = {}  # hex

    async def call(self, method: str, params: Json, timeout_s: float | None = None, late: Any = None) -> Json:
        key = tuple(params["key"])
        if method == "listdatastore":
            found = sorted(row for row in self.rows if row[: len(key)] == key and len(row) == len(key) + 1)
            return {"datastore": [{"key": list(row), "hex": self.rows[row]} for row in found]}
        if method == "datastore":
            self.rows[key] = params["hex"]
        elif self.rows.pop(key, None) is None:
            raise NodeError(method, NO_SUCH_KEY, "Key does not exist")
        return {}


class Journalled:
    """A store over a datastore with one good record, and what it reports."""

    def __init__(self) -> None:
        self.data = Datastore()
        self.log = Log()
        self.insisted: list[str] = []
        self.store = SessionStore(self.data, lambda what, work: self.insisted.append(what))  # type: ignore[arg-type]
        self.put("active", OTHER, record_of(INTENT.buy, FRESH))

    def put(self, folder: str, jit_scid: int, value: Any) -> tuple[str, ...]:
        """A record; its key."""
        key = (*ROOT, folder, format_scid(jit_scid))
        self.data.rows[key] = (value if isinstance(value, bytes) else json.dumps(value).encode()).hex()
        return key

    def load(self) -> list[StoredSession]:
        return asyncio.run(self.store.load(144))

    def finished(self) -> list[StoredSession]:
        """All final records."""

        async def read() -> list[StoredSession]:
            return [stored async for stored in self.store.finished(144)]

        return asyncio.run(read())


def spoilt(stored: StoredSession, **members: Any) -> Json:
    """Its record with other members."""
    return record_of(stored.buy, stored.journal) | members


def odd(stored: StoredSession, **facts: Any) -> Json:
    """Its record with other facts of our own."""
    whole = record_of(stored.buy, stored.journal)
    return whole | {"lsps2fast": whole["lsps2fast"] | facts}


BROKEN: dict[str, Any] = {
    "no JSON": b"{",
    "no UTF-8": b"\xff\xfe",
    "empty": b"",
    "no object": b"[]",
    "our facts are no object": spoilt(INTENT, lsps2fast=[1]),
    "no peer": {name: value for name, value in spoilt(INTENT).items() if name != "peer_id"},
    "a peer that is none": spoilt(INTENT, peer_id="02ab"),
    "no terms": spoilt(INTENT, opening_fee_params=None),
    "a payment hash that is none": spoilt(INTENT, payment_hash="07"),
    "a channel that is none": spoilt(FORWARDS, channel_id="cc"),
    "a newer version": odd(INTENT, version=NEWER),
    "an unknown stage": odd(INTENT, stage="spliced"),
    "attempts that are no number": odd(INTENT, attempts="1"),
    "coins without a name": odd(INTENT, funding={"psbt": "p"}),
    "an intent without coins": odd(INTENT, funding=None),
    "an intent for no payment": spoilt(INTENT, payment_hash=None),
    "parts without a channel": spoilt(FORWARDS, channel_id=None),
    "parts of no payment": spoilt(FORWARDS, payment_hash=None),
    "a part without its id": odd(FORWARDS, forwards=[["1x1x1", None, "1", "0"]]),
    "a part with a negative id": odd(FORWARDS, forwards=[["1x1x1", -1, "1", "0"]]),
    "a preimage of another payment": spoilt(FORWARDS, preimage="05" * 32),
    "a final record among the active ones": spoilt(FORWARDS, outcome="Failed"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_record_that_is_not_understood_is_reported_and_the_others_are_read(what: str) -> None:
    """K-08: an operator hears of it once, by its key."""
    place = Journalled()
    key = place.put("active", JIT, BROKEN[what])
    assert [stored.buy.jit_scid for stored in place.load()] == [OTHER]
    assert [unread.jit_scid for unread in place.store.unread] == [JIT]
    assert len(place.log) == 1
    assert key[-1] in place.log.text()


@pytest.mark.parametrize("what", ["no JSON", "a newer version", "a final record among the active ones"])
def test_a_record_that_is_not_understood_stays_as_it_is(what: str) -> None:
    """K-08: no order writes over it or deletes it."""
    place = Journalled()
    key = place.put("active", JIT, BROKEN[what])
    before = place.data.rows[key]
    place.load()
    with pytest.raises(StoreError, match="stays as it is"):
        asyncio.run(place.store.forget(JIT))
    with pytest.raises(StoreError, match="stays as it is"):
        asyncio.run(place.store.add(FORWARDS.buy))
    assert place.data.rows[key] == before


def test_a_record_that_was_read_and_cannot_be_taken_up_stays_as_it_is() -> None:
    """K-08: recovery keeps it; its offer that ends later deletes nothing."""
    place = Journalled()
    place.load()
    place.store.keep(OTHER)
    assert not place.store.knows(OTHER)
    with pytest.raises(StoreError, match="stays as it is"):
        asyncio.run(place.store.forget(OTHER))
    assert len(place.data.rows) == 1


def test_a_final_record_that_is_not_understood_is_told_once_and_never_pruned() -> None:
    """K-08, A-09, rule:14: the daily look over finished sales passes it by."""
    place = Journalled()
    key = place.put("finalized", JIT, b"{")
    place.load()
    assert [place.finished() for _ in range(3)] == [[], [], []]
    assert (len(place.log), len(place.store.unread)) == (1, 1)
    with pytest.raises(StoreError, match="stays as it is"):
        asyncio.run(place.store.drop_final(JIT))
    assert key in place.data.rows


async def test_a_look_over_many_finished_sales_lets_others_have_their_turn() -> None:
    """P27: 100,000 final records are read in slices, by the daily look and when the ledger is written anew."""
    place = Journalled()
    for number in range(3 * AT_ONCE):
        buy = msgspec.structs.replace(INTENT.buy, jit_scid=JIT + 2 + number)
        place.put("finalized", buy.jit_scid, final_record(buy, FRESH, "Timeout", 1))
    read: list[int] = []
    seen_by_others: list[int] = []

    async def look() -> None:
        async for stored in place.store.finished(144):
            read.append(stored.buy.jit_scid)

    looking = asyncio.create_task(look())
    while not looking.done():
        await asyncio.sleep(0)
        seen_by_others.append(len(read))
    assert len(read) == len(set(read)) == 3 * AT_ONCE
    assert max(after - before for before, after in pairwise([0, *seen_by_others])) <= AT_ONCE


@pytest.mark.parametrize("name", ["promise-secret", "1x2", "1x2x3x4"])
def test_a_key_that_is_no_scid_is_somebody_else_s(name: str) -> None:
    """K-08: named in the report, and no scid is set aside for it."""
    place = Journalled()
    place.data.rows[*OLD_ROOT, name] = b"{}".hex()
    place.load()
    assert [unread.jit_scid for unread in place.store.unread] == [None]
    assert name in place.log.text()


def test_what_a_record_that_is_not_understood_speaks_of_can_be_asked() -> None:
    """K-08, K-11: its channel, its peer and its coins, whatever a newer version calls them."""
    place = Journalled()
    place.put("active", JIT, odd(FORWARDS, version=NEWER))
    place.load()
    spoken_of = [place.store.unread_names(name) for name in (CHANNEL.channel_id, FORWARDS.buy.peer_id, "ab" * 32)]
    assert spoken_of == [True, True, False]
    assert place.store.unread[0].outpoints() == [OUTPOINT]


@pytest.mark.parametrize(
    "journal",
    [
        FRESH,
        INTENT.journal,
        record("channel", CHANNEL).journal,
        SessionRecord("channel", None, 2, 0, None, CHANNEL, (), None),
        FORWARDS.journal,
        SessionRecord("paid", HASH, 1, 100, FUNDING, CHANNEL, PARTS, PREIMAGE),
    ],
    ids=lambda journal: f"{journal.stage} {'paid' if journal.preimage else ''}",
)
def test_what_is_written_is_read_again(journal: SessionRecord) -> None:
    """rule:11, K-24: every stage, every member."""
    place = Journalled()
    place.put("active", JIT, record_of(INTENT.buy, journal))
    (found,) = [stored for stored in place.load() if stored.buy.jit_scid == JIT]
    assert found == StoredSession(INTENT.buy, journal, None)
    assert place.log == []


async def test_a_record_that_is_gone_needs_no_second_deletion() -> None:
    """K-13: a write that was given up comes late, and what it wrote has gone: deleting is not tried for ever."""
    place = Journalled()
    works: list[Any] = []
    place.store._writer._last._insist = lambda what, work: works.append(work)
    late_calls: list[Any] = []

    async def hangs(method: str, params: Json, timeout_s: float | None = None, late: Any = None) -> Json:
        if method == "datastore":
            late_calls.append(late)
            raise AnswerPending(method, "no answer within 60 s")
        return await Datastore.call(place.data, method, params)

    place.data.call = hangs  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await place.store.add(INTENT.buy)
    await place.store.forget(INTENT.buy.jit_scid)
    late_calls[0]()
    (work,) = works
    await work()


@pytest.mark.parametrize("told_before", [False, True])
def test_word_of_a_payment_that_could_not_be_written_is_written_at_the_next_try(told_before: bool) -> None:
    """K-15, rule:11: a disk that is full once does not lose it, nor what was written of the payment before."""
    stage = Journalled()
    stage.load()

    def end(payment_hash: bytes, outcome: str) -> None:
        asyncio.run(stage.store.attempt_ended(OTHER, payment_hash, outcome, 0, 900))

    def words() -> list[tuple[bytes | None, str | None]]:
        return [(stored.journal.payment_hash, stored.outcome) for stored in stage.finished()]

    if told_before:
        end(b"\x09" * 32, "Failed")
    before = words()
    full = stage.data.call

    async def call(method: str, params: Json, timeout_s: float | None = None, late: Any = None) -> Json:
        raise NodeError(method, -1, "disk full")

    stage.data.call = call  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        end(HASH, "Reused")
    stage.data.call = full  # type: ignore[method-assign]
    assert words() == before
    end(HASH, "Reused")
    assert words() == [(HASH, "Reused")]
