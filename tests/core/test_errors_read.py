"""Our error answers as other wallets read them: what LDK's reader drops silences us until it connects again."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from lsps2fast.errors import PeerError
from lsps2fast.lsps import lsps0, lsps2

I32 = range(-(2**31), 2**31)


def ldk_reads(error: object) -> bool:
    """Whether lightning-liquidity 0.2 takes this `error`: a number, a text, and for `data` a text, null or nothing."""
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return False
    code, data = error.get("code"), error.get("data")
    return isinstance(code, int) and code in I32 and (data is None or isinstance(data, str))


@pytest.mark.parametrize(
    ("make", "code", "read"),
    [
        (lambda: lsps0.try_later("no coins"), -32603, True),
        (lsps0.internal_error, -32603, True),
        (lsps0.parse_error, -32700, True),
        (lsps0.method_not_found, -32601, True),
        (lsps2.stale_token, 200, True),
        (lsps2.invalid_fee_params, 201, True),
        (lsps2.too_small, 202, True),
        (lsps2.too_large, 203, True),
        # Their data is the specification's (S-10, T-14); neither is sent for what passes by itself.
        (lsps0.client_rejected, 1, False),
        (lambda: lsps0.invalid_params(["x"]), -32602, False),
    ],
)
def test_what_passes_by_itself_is_read_by_everybody(make: Callable[[], PeerError], code: int, read: bool) -> None:
    """T-18, T-19, S-10: coins, limits, rate, pause and budget are said in a code and a shape that LDK reads."""
    sent = json.loads(lsps0.encode_error("1", make()))["error"]
    assert (sent["code"], ldk_reads(sent)) == (code, read)


def test_what_passes_by_itself_is_told_to_people() -> None:
    """The sentence of a passing refusal is its message: there is no data."""
    sent = json.loads(lsps0.encode_error("1", lsps0.try_later("the node is paused")))["error"]
    assert sent == {"code": -32603, "message": "the node is paused"}
