"""Which client wants to be called where: kept in lightningd's datastore before the client hears that it is (N-08).

One record a client, under ["lsps","lsps5","webhooks",<node id>]. It is remembered while the client has a channel, and
at least seven days after (N-15).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec
from msgspec.structs import replace

from lsps2fast.lsps.lsps5 import WebhookAsk
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords, Key

log = logging.getLogger(__name__)

ROOT: Final = ("lsps", "lsps5", "webhooks")
KEPT_MS: Final = 8 * 86_400_000  # at least seven days: clocks are set, and the look is a daily one
MOST_STRANGERS: Final = 2_000  # clients without a channel whose webhooks are kept (rule:24)
MOST_WITH_OFFERS: Final = 12_000  # likewise, where one that has an offer is to be let in: offers are free, too
DAY_MS: Final = 86_400_000


class Webhook(msgspec.Struct, frozen=True):
    """One of a client. `told`: `lsps5.webhook_registered` was sent there, which comes before all else (N-18)."""

    app_name: str
    webhook: str
    told: bool = False


class Client(msgspec.Struct, frozen=True):
    """What is stored of a client. `since_ms`: when it registered last, or lost its last channel."""

    webhooks: tuple[Webhook, ...]
    since_ms: int
    channel: bool = False


class WebhookBook:
    """The webhooks of all clients."""

    def __init__(self, notebook: DatastoreRecords, clock: Clock, most: int) -> None:
        """`most`: webhooks that one client may have."""
        self.most = most
        self._notebook = notebook
        self._clock = clock
        self._clients: dict[str, Client] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def load(self) -> None:
        """Read all records. Raises StoreError. One that cannot be read is reported, and stays until its client comes.

        What the client then sets takes its place.
        """
        for key, value in await self._notebook.read(ROOT):
            try:
                self._clients[key[-1]] = msgspec.convert(value, Client)
            except (msgspec.ValidationError, TypeError) as error:
                log.error(f"webhooks of {key[-1]} cannot be read ({error}); kept until it sets one, not used")

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._clients

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._clients))

    def of(self, peer_id: str) -> tuple[Webhook, ...]:
        """Return the webhooks of a client."""
        client = self._clients.get(peer_id)
        return () if client is None else client.webhooks

    def find(self, peer_id: str, webhook: Webhook) -> Webhook | None:
        """Return this webhook as it is now, None where it was replaced or removed."""
        same = (
            each for each in self.of(peer_id) if (each.app_name, each.webhook) == (webhook.app_name, webhook.webhook)
        )
        return next(same, None)

    def count(self) -> int:
        """Return how many webhooks there are in all."""
        return sum(len(client.webhooks) for client in self._clients.values())

    def is_stranger(self, peer_id: str) -> bool:
        """Return whether a client had no channel when we last looked."""
        client = self._clients.get(peer_id)
        return client is None or not client.channel

    def has_room(self, has_offer: bool) -> bool:
        """Return whether one more client that has no channel is kept."""
        most = MOST_WITH_OFFERS if has_offer else MOST_STRANGERS
        return sum(not client.channel for client in self._clients.values()) < most

    def changes(self, peer_id: str, ask: WebhookAsk) -> bool:
        """Return whether what is asked is not there yet."""
        return all((each.app_name, each.webhook) != ask for each in self.of(peer_id))

    async def set(self, peer_id: str, ask: WebhookAsk, has_channel: bool) -> bool:
        """Insert or replace; return False where there are as many as may be. Raises StoreError: it is as it was."""
        async with self._lock(peer_id):
            new = Webhook(ask.app_name, ask.webhook)
            names = [each.app_name for each in self.of(peer_id)]
            if ask.app_name in names:
                webhooks = tuple(new if each.app_name == ask.app_name else each for each in self.of(peer_id))
            elif len(names) >= self.most:
                return False
            else:
                webhooks = (*self.of(peer_id), new)
            await self._put(peer_id, Client(webhooks, self._clock.wall_ms(), has_channel))
            return True

    async def seen(self, peer_id: str) -> None:
        """Count the week of a client without a channel from now, once a day: it has set what is there. StoreError."""
        async with self._lock(peer_id):
            client, now_ms = self._clients.get(peer_id), self._clock.wall_ms()
            if client is not None and not client.channel and client.since_ms + DAY_MS <= now_ms:
                await self._put(peer_id, replace(client, since_ms=now_ms))

    async def remove(self, peer_id: str, app_name: str) -> bool:
        """Remove one; return False where there is none of this name. Raises StoreError."""
        async with self._lock(peer_id):
            client = self._clients.get(peer_id, Client((), 0))
            webhooks = tuple(each for each in client.webhooks if each.app_name != app_name)
            if len(webhooks) == len(client.webhooks):
                return False
            await self._put(peer_id, replace(client, webhooks=webhooks, since_ms=self._clock.wall_ms()))
            return True

    async def told(self, peer_id: str, webhook: Webhook) -> None:
        """Take note that this webhook knows that it is one. Raises StoreError."""
        async with self._lock(peer_id):
            client = self._clients.get(peer_id)
            if client is not None and webhook in client.webhooks:
                webhooks = tuple(replace(each, told=True) if each == webhook else each for each in client.webhooks)
                await self._put(peer_id, replace(client, webhooks=webhooks))

    async def look(self, peer_id: str, has_channel: bool, has_offer: bool) -> None:
        """Remember whether this client has a channel; forget it when it had none for long (N-15). Raises StoreError."""
        async with self._lock(peer_id):
            client, now_ms = self._clients.get(peer_id), self._clock.wall_ms()
            if client is None:
                return
            if client.channel != has_channel:
                await self._put(peer_id, replace(client, channel=has_channel, since_ms=now_ms))
            elif not has_channel and not has_offer and client.since_ms + KEPT_MS < now_ms:
                await self._put(peer_id, replace(client, webhooks=()))
                log.info(f"webhooks of {peer_id} are forgotten: it had no channel for a week")

    async def _put(self, peer_id: str, client: Client) -> None:
        """Write first, then believe it."""
        value: Any = msgspec.to_builtins(client) if client.webhooks else None
        await self._notebook.write(self._key(peer_id), lambda: value)
        if client.webhooks:
            self._clients[peer_id] = client
        else:
            self._clients.pop(peer_id, None)

    @staticmethod
    def _key(peer_id: str) -> Key:
        return (*ROOT, peer_id)

    def _lock(self, peer_id: str) -> asyncio.Lock:
        return self._locks.setdefault(peer_id, asyncio.Lock())
