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
def test_payload(benchmark: Any, run: str) -> None:
    """P13."""
    assert benchmark(work.core(run).tlv.forward_payload, work.PAYLOAD, 9_000_000)
