"""The RPC methods of LSPS5 (bLIP-55): where an LSP calls this wallet's app, and whether a call is the LSP's.

Nothing is stored here: the LSP keeps webhooks, and `lsps-lsps5-listwebhooks` asks it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lsps2fast.errors import ConfigError, PeerError
from lsps2fast.lsps import lsps5
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import Unacceptable, format_datetime
from lsps2fast_plugin.client import checking, params
from lsps2fast_plugin.client.lsps0_client import Lsps0Client
from lsps2fast_plugin.client.purchase import LspBuyer

Json = dict[str, Any]
Answer = TypeVar("Answer")
_WRONG_URL = {
    500: f"webhook must have at most {lsps5.MOST_URL_CHARACTERS} characters",
    501: "webhook must be a URL such as https://push.example/call?app=1, without user, fragment or IPv6 literal",
    502: "webhook must begin with https://",
}


class WebhookMethods:
    """One coroutine for each method; each may raise ConfigError or any other Lsps2Error."""

    def __init__(self, market: LspBuyer, talk: Lsps0Client) -> None:
        self._market = market
        self._talk = talk

    async def set_webhook(self, lsp_id: Any, app_name: Any, webhook: Any) -> Json:
        """Have an LSP call this URL when it needs this wallet and the wallet is away; the name's last URL counts."""
        lsp, name, url = params.node_id(lsp_id), _name(app_name), _url(webhook)
        checking.parameters_are_right()
        result = await self._ask(lsp, lsps5.SET_WEBHOOK, {"app_name": name, "webhook": url}, lsps5.parse_set_result)
        return result._asdict()

    async def list_webhooks(self, lsp_id: Any) -> Json:
        """Return the names of the webhooks that an LSP has for this node."""
        lsp = params.node_id(lsp_id)
        checking.parameters_are_right()
        result = await self._ask(lsp, lsps5.LIST_WEBHOOKS, {}, lsps5.parse_list_result)
        return {"app_names": list(result.app_names), "max_webhooks": result.max_webhooks}

    async def remove_webhook(self, lsp_id: Any, app_name: Any) -> Json:
        """Have an LSP forget a webhook."""
        lsp, name = params.node_id(lsp_id), _name(app_name)
        checking.parameters_are_right()
        await self._ask(lsp, lsps5.REMOVE_WEBHOOK, {"app_name": name}, lambda result: result)
        return {}

    async def verify(self, lsp_id: Any, timestamp: Any, signature: Any, body: Any) -> Json:
        """Check a notification that came to a webhook: headers and body as they came. Nothing is asked of the LSP."""
        lsp = params.node_id(lsp_id)
        texts = {"timestamp": timestamp, "signature": signature, "body": body}
        for name, value in texts.items():
            if not isinstance(value, str) or not params.is_unicode(value):
                raise ConfigError(f"{name} must be a text, as it came to the webhook")
        checking.parameters_are_right()
        headers = {lsps5.TIMESTAMP_HEADER: timestamp, lsps5.SIGNATURE_HEADER: signature}
        try:
            found = lsps5.verify_notification(lsp, headers, body.encode())
        except lsps5.BadNotification as error:
            return {"verified": False, "reason": str(error)}
        return {
            "verified": True,
            "method": found.method,
            "params": found.params,
            "sent_at": format_datetime(found.sent_ms),
            "id": found.id,
            "known": found.known,
        }

    async def _ask(self, lsp: str, method: str, ask: Json, read: Callable[[Json], Answer]) -> Answer:
        await self._market.reach(lsp)
        result = await self._talk.call(lsp, method, ask)
        try:
            return read(result)
        except MalformedField as error:
            raise Unacceptable(f"the LSP's answer to {method} breaks the rules: {error}") from error


def _name(value: Any) -> str:
    if not isinstance(value, str) or not params.is_unicode(value) or lsps5.name_bytes(value) > lsps5.MOST_NAME_BYTES:
        raise ConfigError(f"app_name must be a text of at most {lsps5.MOST_NAME_BYTES} bytes")
    return value


def _url(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(_WRONG_URL[501])
    try:
        lsps5.parse_url(value)
    except PeerError as error:
        raise ConfigError(_WRONG_URL[error.code]) from None
    return value
