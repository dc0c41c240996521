"""What clients ask of LSPS5: set, list and remove webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from lsps2fast.lsps import lsps5
from lsps2fast.lsps.lsps0 import client_rejected, try_later
from lsps2fast_plugin.service.wake.addresses import is_loopback, is_public
from lsps2fast_plugin.service.wake.caller import Caller
from lsps2fast_plugin.service.wake.webhooks import Webhook, WebhookBook

Json = dict[str, Any]


class WebhookRequests:
    """One coroutine a method; each may raise PeerError, or NodeError or StoreError: nothing was stored (N-08)."""

    def __init__(
        self,
        book: WebhookBook,
        caller: Caller,
        *,
        is_served: Callable[[str], bool],
        has_channel: Callable[[str], Awaitable[bool]],
        has_offer: Callable[[str], bool],
        allow_loopback: bool,
    ) -> None:
        self._book = book
        self._caller = caller
        self._is_served = is_served
        self._has_channel = has_channel
        self._has_offer = has_offer
        self._allow_loopback = allow_loopback

    async def set_webhook(self, peer_id: str, params: object) -> Json:
        """Insert or replace a webhook (N-01, N-04)."""
        ask = lsps5.parse_set_webhook(params)
        if not self._is_served(peer_id):
            raise client_rejected("this node does not serve you")
        host = lsps5.parse_url(ask.webhook).host
        if host[-1].isdigit() and not is_public(host) and not (self._allow_loopback and is_loopback(host)):
            raise lsps5.url_parse_error()  # an address in figures that is never called; names are judged when called
        changes = self._book.changes(peer_id, ask)
        if changes:
            await self._insert(peer_id, ask)
        else:
            await self._book.seen(peer_id)
        return lsps5.set_result(len(self._book.of(peer_id)), self._book.most, not changes)

    async def _insert(self, peer_id: str, ask: lsps5.WebhookAsk) -> None:
        self._caller.check_allowance(peer_id, ask.app_name)
        has_channel = await self._has_channel(peer_id)  # those on whom money depends always have room
        if not (has_channel or peer_id in self._book or self._book.has_room(self._has_offer(peer_id))):
            raise try_later("no room for webhooks of new clients at this time")
        if not await self._book.set(peer_id, ask, has_channel):
            raise lsps5.too_many_webhooks(self._book.most)
        self._caller.registered(peer_id, Webhook(ask.app_name, ask.webhook))

    async def list_webhooks(self, peer_id: str, params: object) -> Json:
        """Return the names of a client's webhooks (N-06)."""
        lsps5.parse_list_webhooks(params)
        return lsps5.list_result([each.app_name for each in self._book.of(peer_id)], self._book.most)

    async def remove_webhook(self, peer_id: str, params: object) -> Json:
        """Remove a webhook (N-07)."""
        if not await self._book.remove(peer_id, lsps5.parse_remove_webhook(params)):
            raise lsps5.app_name_not_found()
        return {}
