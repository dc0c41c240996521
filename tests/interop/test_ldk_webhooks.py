"""LDK's own readers of LSPS5 beside our service: its validator of notifications, its types of answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from harness import ln_signature
from harness import programs as others

from lsps2fast.errors import PeerError
from lsps2fast.lsps import lsps0, lsps5

PAIR = "LDK's LSPS5, our notifications and answers"
SECRET = 0x42
LSP = ln_signature.node_id(SECRET).hex()
TIME = "2026-11-29T16:37:00.123Z"
AS_LDK = TIME.replace("Z", "+00:00")
BODIES = {
    method: lsps5.encode_notification(method, 925_000 if method == lsps5.EXPIRY_SOON else None)
    for method in lsps5.NOTIFICATIONS
}
ERRORS = (
    lsps5.too_long(),
    lsps5.url_parse_error(),
    lsps5.unsupported_protocol(),
    lsps5.too_many_webhooks(3),
    lsps5.app_name_not_found(),
)
Json = dict[str, Any]


@pytest.fixture(scope="module")
def program() -> Path:
    """LDK's readers, or a skip with the reason."""
    try:
        return others.ldk_webhooks()
    except others.NotHere as error:
        pytest.skip(f"no lightning-liquidity: {error}")


def asked(program: Path, method: str, **request: Any) -> Json:
    """What LDK says to one request."""
    line = json.dumps({"method": method, **request})
    run = subprocess.run([program], input=line, capture_output=True, text=True, check=True, timeout=60)
    answer: Json = json.loads(run.stdout)
    return answer


@pytest.mark.parametrize("method", BODIES)
def test_notifications(program: Path, method: str) -> None:
    """Its validator takes a notification whose time is signed with `+00:00`, and refuses one with `Z` as specified."""
    given = {"lsp_id": LSP, "timestamp": TIME, "body": BODIES[method]}
    signatures = [ln_signature.sign(SECRET, ln_signature.text_of(at, BODIES[method])) for at in (TIME, AS_LDK)]
    specified, theirs = (asked(program, "validate", signature=signature, **given) for signature in signatures)
    assert specified == {"error": "InvalidSignature"}
    assert "ok" in theirs
    for at, signature in zip((TIME, AS_LDK), signatures, strict=True):
        headers = {lsps5.TIMESTAMP_HEADER: at, lsps5.SIGNATURE_HEADER: signature}
        assert lsps5.verify_notification(LSP, headers, BODIES[method].encode()).method == method


def test_answers(program: Path) -> None:
    """Its client reads our answers, and we its request"""
    ask = {"app_name": "phone", "webhook": "https://push.example/call?app=1"}
    assert lsps5.parse_set_webhook(asked(program, "set_request", body=ask)["ok"]) == tuple(ask.values())
    assert "ok" in asked(program, "set_result", body=lsps5.set_result(1, 3, False))
    assert "ok" in asked(program, "list_result", body=lsps5.list_result(["phone"], 3))
    assert "ok" in asked(program, "remove_result", body={})


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_errors(program: Path, error: PeerError) -> None:
    """Its client reads our errors, but not 503, whose data is an object as specified"""
    body = json.loads(lsps0.encode_error("1", error))["error"]
    assert ("ok" in asked(program, "error", body=body)) == (error.data is None)
