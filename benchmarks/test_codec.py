"""Layer codec: one hook call, one payload. P13, P14."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import work

FOREIGN = work.frames(1)[0].strip()
JIT = work.frames(1, "1x2x3")[0].strip()


class Onion(msgspec.Struct):
    payload: str
    short_channel_id: str | None = None
    forward_msat: int | None = None
    outgoing_cltv_value: int | None = None
    total_msat: int | None = None
    payment_secret: str | None = None


class Htlc(msgspec.Struct):
    short_channel_id: str
    id: int
    amount_msat: int
    cltv_expiry: int
    payment_hash: str
    extra_tlvs: str | None = None


class Params(msgspec.Struct):
    onion: Onion
    htlc: Htlc
    peer_id: str | None = None
    forward_to: str | None = None


class Call(msgspec.Struct):
    id: str
    method: str
    params: Params


PAYLOADS = {"2-4-6": work.PAYLOAD, "2-4-8": work.FINAL_PAYLOAD}
TYPED = msgspec.json.Decoder(Call).decode
READERS: dict[str, Any] = {
    "foreign, compiled": lambda: work.core("compiled").hook.next_hop,
    "foreign, interpreted": lambda: work.core("interpreted").hook.next_hop,
    "jit, compiled": lambda: work.core("compiled").hook.scan,
    "jit, interpreted": lambda: work.core("interpreted").hook.scan,
    "msgspec": lambda: TYPED,
    "json": lambda: json.loads,
}


@pytest.mark.benchmark(group="scan of a 3.4 kB hook call")
@pytest.mark.parametrize("reader", READERS)
def test_scan(benchmark: Any, reader: str) -> None:
    """P14."""
    frame = JIT if reader.startswith("jit") else FOREIGN
    assert benchmark(READERS[reader](), frame)


@pytest.mark.benchmark(group="payload hex to hex, amount rewritten")
@pytest.mark.parametrize("run", work.RUNS)
@pytest.mark.parametrize("records", PAYLOADS)
def test_tlv(benchmark: Any, records: str, run: str) -> None:
    """P13."""
    tlv = work.core(run).tlv
    rewrite, more = (tlv.forward_payload, ()) if records == "2-4-6" else (tlv.final_payload, (9_000_000,))
    assert benchmark(rewrite, PAYLOADS[records], 9_000_000, *more)


@pytest.mark.benchmark(group="all answers of a session, in one buffer")
@pytest.mark.parametrize("parts", [10, 483])
def test_release(benchmark: Any, parts: int) -> None:
    """cln:H15: payload, fee and frame of each part, checked as before every write (rule:1)."""
    core = work.core("compiled")
    benchmark.extra_info["per"] = parts
    calls = [b'"cln:htlc_accepted#%d"' % number for number in range(parts)]

    def release() -> bytes:
        payload, fee = core.tlv.forward_payload, core.tlv.extra_fee_tlvs
        answer, channel_id = core.hook.answer_forward, work.CHANNEL.channel_id
        return b"".join([answer(call, payload(work.PAYLOAD, 9_000_000), channel_id, fee(1_000)) for call in calls])

    assert benchmark(release).count(b"extra_tlvs") == parts
