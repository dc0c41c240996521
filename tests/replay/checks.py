"""Checks on a replayed sale, for any plugin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from replay import tlv
from replay.datastore import decoded
from replay.played import ACTIVE, FINALIZED, Event, Json, Part, Played

# Calls that move a sale on, as they show in a milestone list. A call counts when lightningd has carried it out;
# `fundchannel_start` and `close` when they are asked for, since from then on something must be undone.
STEPS = {
    ("reply", "reserveinputs"): "reserve",
    ("call", "fundchannel_start"): "start",
    ("reply", "addpsbtoutput"): "output",
    ("reply", "fundchannel_complete"): "complete",
    ("reply", "signpsbt"): "sign",
    ("reply", "sendpsbt"): "send",
}
ONCE = ("start", "complete")
# O-10, O-11, K-02, K-15, H-16: what may only be done after what. (Signing, O-21, only has to come before forwarding.)
WITHHELD = "journal reserve start output complete journal:channel forward settled send final:Succeeded forget"
AT_ONCE = "journal reserve start output complete send forward settled final:Succeeded forget"
UNSEEN_SETTLE = "journal reserve start output complete journal:channel forward send final:Succeeded forget"
ABANDONED = "journal reserve start output complete journal:channel forward failed close journal"
BEFORE_FORWARDING = ("sign", "no-fees", "journal:channel")  # O-21, O-17, H-16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """One JIT channel. Parts in order of arrival: (incoming scid, HTLC id, forwarded msat, fee msat)."""

    jit_scid: str
    channel: str  # first characters of the channel id
    parts: tuple[tuple[str, int, int, int], ...]
    number: int = 0  # which of the recording's openings it is

    @property
    def keys(self) -> set[Part]:
        """(incoming scid, HTLC id) of its parts."""
        return {(in_channel, htlc_id) for in_channel, htlc_id, _, _ in self.parts}


def assert_polite(played: Played) -> None:
    """No answer lightningd would abort on, none twice, none missing, and every process ended by itself with 0."""
    assert played.faults == []
    assert [calls for calls in played.unanswered if calls] == []
    assert set(played.exit_codes) == {0}


def assert_forwarded(played: Played, sale: Sale) -> None:
    """Each part is answered with its reduced amount, the exact extra_tlvs, the recorded channel, nothing else."""
    channel_id = next(name for name in played.recording.jit_channel_ids if name.startswith(sale.channel))
    wanted = {
        (in_channel, htlc_id): {
            "result": "continue",
            "payload": tlv.with_amount(played.hooks[in_channel, htlc_id]["onion"]["payload"], forward_msat),
            "forward_to": channel_id,
            "extra_tlvs": tlv.extra_fee(fee_msat),
        }
        for in_channel, htlc_id, forward_msat, fee_msat in sale.parts
    }
    assert {part: played.answers[part] for part in sale.keys} == wanted
    received = [played.hooks[part]["onion"]["forward_msat"] for part in wanted]
    assert received == [forward_msat + fee_msat for _, _, forward_msat, fee_msat in sale.parts]


def assert_order(played: Played, sale: Sale, wanted: str) -> None:
    """The milestones come in this order, openings only once, and nothing is forwarded before it is journalled."""
    seen = milestones(played, sale)
    assert missing(wanted.split(), seen) == [], seen
    counts = Counter(seen)
    assert {step: counts[step] for step in ONCE} == dict.fromkeys(ONCE, 1)
    late = [step for step in BEFORE_FORWARDING if step not in seen[: seen.index("forward")]]
    assert late == [], seen
    assert counts["forward"] == len(sale.parts)


def assert_opened_as_asked(played: Played, sale: Sale) -> None:
    """O-01, O-02, O-11: private, zero-conf, scid alias, the sold capacity, withheld if the client trusts the LSP."""
    buy = played.recording.purchases[sale.jit_scid]
    start = calls(played, "fundchannel_start")[sale.number]
    complete = calls(played, "fundchannel_complete")[sale.number]
    asked = {key: start[key] for key in ("id", "amount", "announce", "mindepth")}
    assert asked == {"id": buy.peer_id, "amount": buy.capacity_sat, "announce": False, "mindepth": 0}
    assert {12, 46} <= set(start["channel_type"])
    assert complete["id"] == buy.peer_id
    assert complete.get("withhold", False) >= buy.withhold


def assert_sold(played: Played, sale: Sale, order: str = WITHHELD) -> None:
    """Everything above for a sale that was paid, broadcast once, and brought to the books (K-15)."""
    assert_polite(played)
    assert_forwarded(played, sale)
    assert_order(played, sale, order)
    assert_opened_as_asked(played, sale)
    final = played.node.datastore.get(*FINALIZED, sale.jit_scid)
    assert final["outcome"] == "Succeeded"
    assert final["channel_id"].startswith(sale.channel)
    assert played.node.datastore.get(*ACTIVE, sale.jit_scid) is None
    assert Counter(milestones(played, sale))["send"] == 1
    assert [text for level, text in played.logs if level in {"error", "broken"}] == []


def calls(played: Played, method: str) -> list[Json]:
    """Parameters of all calls of one method, in order."""
    return [event.detail for event in played.timeline if (event.kind, event.name) == ("call", method)]


def milestones(played: Played, sale: Sale) -> list[str]:
    """What happened to one sale, in order."""
    return [name for event in _of_sale(played, sale) if (name := _milestone(played, sale, event))]


def missing(wanted: Iterable[str], seen: list[str]) -> list[str]:
    """The tail of `wanted` that does not follow in `seen`, in this order and with anything between."""
    rest, left = iter(seen), list(wanted)
    while left and left[0] in rest:
        left.pop(0)
    return left


def _of_sale(played: Played, sale: Sale) -> Iterator[Event]:
    """Leave out the STEPS of other openings: they carry no jit scid, but come in the order of the openings.

    A funding that is sent again, as happens until a block has it, is no further step.
    """
    ordinal: Counter[tuple[str, str]] = Counter()
    sent: set[str] = set()
    for event in played.timeline:
        key = event.kind, event.name
        if key == ("reply", "sendpsbt"):
            if event.detail["psbt"] in sent:
                continue
            sent.add(event.detail["psbt"])
        if key not in STEPS or ordinal[key] == sale.number:
            yield event
        ordinal[key] += 1


def _milestone(played: Played, sale: Sale, event: Event) -> str:
    readers = {"answer": _answered, "note": _noted, "call": _called, "reply": _called}
    read = readers.get(event.kind)
    return STEPS.get((event.kind, event.name)) or ("" if read is None else read(played, sale, event))


def _answered(played: Played, sale: Sale, event: Event) -> str:
    hooks = {f"{e.name}": e.detail for e in played.timeline if e.kind == "hook" and "htlc" in e.detail}
    htlc = hooks.get(event.name, {}).get("htlc", {})
    if (htlc.get("short_channel_id"), htlc.get("id")) not in sale.keys:
        return ""
    return {"continue": "forward", "fail": "fail"}[event.detail["result"]]


def _noted(played: Played, sale: Sale, event: Event) -> str:
    part = (event.detail or {}).get("in_channel"), (event.detail or {}).get("in_htlc_id")
    return str(event.detail["status"]) if event.name == "forward_event" and part in sale.keys else ""


def _called(played: Played, sale: Sale, event: Event) -> str:
    target: Any = event.detail.get("key") or str(event.detail.get("id"))
    if event.kind == "call":
        return "close" if event.name == "close" and target.startswith(sale.channel) else ""
    if event.name == "setchannel" and target.startswith(sale.channel):
        return "no-fees" if (event.detail.get("feebase"), event.detail.get("feeppm")) == (0, 0) else "fees"
    if target == [*ACTIVE, sale.jit_scid] and event.name == "datastore":
        return "journal:channel" if "channel_id" in decoded(event.detail) else "journal"
    if target == [*FINALIZED, sale.jit_scid] and event.name == "datastore":
        return f"final:{decoded(event.detail)['outcome']}"
    return "forget" if (event.name, target) == ("deldatastore", [*ACTIVE, sale.jit_scid]) else ""
