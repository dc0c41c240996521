"""LSPS5 from the wallet's side: webhooks at the LSP, and whether a notification is the LSP's."""

from __future__ import annotations

from typing import Any

import pytest
from harness import ln_signature
from harness.client import LSP, Json, Staging

from lsps2fast.errors import ConfigError, PeerError
from lsps2fast.lsps import lsps5
from lsps2fast.lsps.lsps2 import Unacceptable

URL = "https://push.example/call?app=1"
TIME = "2026-11-29T16:37:00.000Z"
BODY = lsps5.encode_notification(lsps5.EXPIRY_SOON, 925_000)
SECRET = 0x77


async def test_webhooks_are_set_listed_and_removed(staged: Staging) -> None:
    """N-04, N-06: as the LSP answers, each with named parameters."""
    async with staged() as stage:
        methods = stage.client.webhook_methods
        assert await methods.set_webhook(LSP, "phone", URL) == {
            "num_webhooks": 1,
            "max_webhooks": 3,
            "no_change": False,
        }
        assert (await methods.set_webhook(LSP, "phone", URL))["no_change"]
        assert await methods.list_webhooks(LSP) == {"app_names": ["phone"], "max_webhooks": 3}
        assert await methods.remove_webhook(LSP, "phone") == {}
        assert (await methods.list_webhooks(LSP))["app_names"] == []
        assert stage.lsp.asked[0]["params"] == {"app_name": "phone", "webhook": URL}


@pytest.mark.parametrize(
    ("name", "url", "said"),
    [
        ("a" * 65, URL, "app_name must be"),
        (7, URL, "app_name must be"),
        ("\ud800", URL, "app_name must be"),
        ("a", 7, "webhook must be"),
        ("a", "http://push.example/", "webhook must begin with https"),
        ("a", "push.example", "webhook must be a URL"),
        ("a", URL + "x" * 1024, "webhook must have at most 1024"),
    ],
)
async def test_what_an_lsp_would_refuse_is_not_sent(staged: Staging, name: Any, url: Any, said: str) -> None:
    """N-02, N-03, N-05: the sentence says what is right."""
    async with staged() as stage:
        with pytest.raises(ConfigError, match=said):
            await stage.client.webhook_methods.set_webhook(LSP, name, url)
        assert stage.lsp.asked == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (500, "too long"),
        (501, "no URL"),
        (502, "of https"),
        (503, "remove one first"),
        (1010, "no webhook of this name"),
        (-32601, "has no webhooks"),
    ],
)
async def test_errors_of_an_lsp_have_our_words(staged: Staging, code: int, said: str) -> None:
    """T-22, N-05, N-07: also without the data of 503, which LDK leaves out."""
    async with staged() as stage:
        stage.lsp.errors[lsps5.SET_WEBHOOK] = [{"code": code, "message": "theirs"}]
        with pytest.raises(PeerError, match=said) as failed:
            await stage.client.webhook_methods.set_webhook(LSP, "a", URL)
        assert failed.value.code == code


@pytest.mark.parametrize("wrong", [{}, {"num_webhooks": "1", "max_webhooks": 1, "no_change": False}])
async def test_an_answer_that_breaks_the_rules(staged: Staging, wrong: Json) -> None:
    """N-04: nothing is made of it."""
    async with staged() as stage:
        stage.lsp.mutate = lambda reply: reply | {"result": wrong}
        with pytest.raises(Unacceptable):
            await stage.client.webhook_methods.set_webhook(LSP, "a", URL)


async def test_a_notification_is_verified_without_the_lsp(staged: Staging) -> None:
    """N-11, N-12, N-13, N-14: the LSP is not asked."""
    lsp_id = ln_signature.node_id(SECRET).hex()
    signature = ln_signature.sign(SECRET, ln_signature.text_of(TIME, BODY))
    async with staged() as stage:
        verify = stage.client.webhook_methods.verify
        answer = await verify(lsp_id, TIME, signature, BODY)
        assert answer.pop("id")
        assert answer == {
            "verified": True,
            "method": lsps5.EXPIRY_SOON,
            "params": {"timeout": 925_000},
            "sent_at": TIME,
            "known": True,
        }
        assert await verify(LSP, TIME, signature, BODY) == {"verified": False, "reason": "not signed by this LSP"}
        with pytest.raises(ConfigError, match="body must be a text"):
            await verify(lsp_id, TIME, signature, {"jsonrpc": "2.0"})
        assert stage.lsp.asked == []
