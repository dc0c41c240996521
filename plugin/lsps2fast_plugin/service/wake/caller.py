"""Calls all webhooks of a client that is away: seldom enough that neither it nor a stranger's server suffers.

Of one kind there is at most one call in three minutes until the client connects (N-17); coming and going resets that,
but an allowance for the hour does not move with it, so a client that flaps, or a payer that probes, gets no more calls
than one that sleeps (trap:47). A call that reached no server is made again sooner, with growing pauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

from lsps2fast.errors import PeerError, ProtocolBug, StoreError
from lsps2fast.lsps import lsps5
from lsps2fast.lsps.buys import PeerBuckets, TokenBucket
from lsps2fast.lsps.lsps0 import try_later
from lsps2fast.lsps.lsps2 import format_datetime
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.wake.posting import Post, PostFailed
from lsps2fast_plugin.service.wake.signer import NotSigned, Signer
from lsps2fast_plugin.service.wake.webhooks import Webhook, WebhookBook

log = logging.getLogger(__name__)

COOLDOWN_MS: Final = 180_000
FIRST_RETRY_MS: Final = 15_000
HOUR_S: Final = 3_600
CALLS_AN_HOUR: Final = 20  # of each webhook that a client may have
CALLS_AT_ONCE: Final = 6  # of each, on top of the hour's
LIMITED: Final = f"this client has had its {CALLS_AN_HOUR} calls of each webhook in an hour"
MOST_OF_CLIENT: Final = 2  # requests under way for one client
UNSIGNED: Final = "no wake-up calls are made: there is no signature that receivers believe, see the log"
CONNECTED: Final = "it is connected"
REPLACED: Final = "its webhook was replaced or removed meanwhile"
OUTCOMES: Final = ("answered", "refused", "failed", "limited", "unsigned")


@dataclass(slots=True)
class _Kind:
    """When the next call of one kind may be made for one client."""

    next_ms: int
    failures: int = 0


class _Lane:
    """So many requests under way, so many that wait or are, and so many a second."""

    def __init__(self, *, places: int, per_s: int) -> None:
        self.places = asyncio.Semaphore(places)
        self._most = 50 * places
        self._rate = TokenBucket(per_s, 5 * per_s)
        self._in = 0

    def enter(self, now_ms: int) -> bool:
        """Return whether one more may come in; it then must `leave`."""
        if self._in >= self._most or not self._rate.take(now_ms):
            return False
        self._in += 1
        return True

    def leave(self) -> None:
        """Make room."""
        self._in -= 1


class Caller:
    """Makes the calls."""

    def __init__(
        self,
        *,
        book: WebhookBook,
        post: Post,
        clock: Clock,
        spawn: Callable[[Coroutine[Any, Any, Any]], Any],
        is_online: Callable[[str], bool],
    ) -> None:
        self._book = book
        self._post = post
        self._clock = clock
        self._spawn = spawn
        self._is_online = is_online
        self._kinds: dict[str, dict[str, _Kind]] = {}  # by client and method; goes when the client connects
        rate = book.most * CALLS_AN_HOUR / HOUR_S
        self._allowance = PeerBuckets(rate, book.most * CALLS_AT_ONCE)
        self._of_each = PeerBuckets(CALLS_AN_HOUR / HOUR_S, CALLS_AT_ONCE)  # of one webhook, by client and app
        self._needed = _Lane(places=6, per_s=20)
        self._free = _Lane(places=2, per_s=5)  # new webhooks of clients without a channel, which cost nothing to set
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # of each client, while used
        self._registering: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self.signer: Signer | None = None
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.calls = dict.fromkeys((name.removeprefix("lsps5.") for name in lsps5.NOTIFICATIONS), 0)

    # What happens ----------------------------------------------------------------------------------

    def may_wake(self, peer_id: str, method: str) -> bool:
        """Return whether a client can be called for this, is away, and was not called for it of late."""
        return self.why_not(peer_id, method) is None

    def why_not(self, peer_id: str, method: str) -> str | None:
        """Say why a client is not called for this now, or return None."""
        if self.signer is None:
            return UNSIGNED
        if peer_id not in self._book:
            return "it has registered no webhook"
        if self._is_online(peer_id):
            return CONNECTED
        kind, now_ms = self._kinds.get(peer_id, {}).get(method), self._clock.now_ms()
        if kind is not None and kind.next_ms > now_ms:
            left_s = -(-(kind.next_ms - now_ms) // 1000)
            return f"it was called for that of late; it may be again in {left_s} s, or once it was connected"
        return None

    def wake(self, peer_id: str, method: str, expiry: int | None = None) -> bool:
        """Call all webhooks of a client, where that may be. Return whether calls are made."""
        if not self.may_wake(peer_id, method):
            return False
        self._spawn(self._begin(peer_id, method, expiry))
        return True

    async def call(self, peer_id: str, method: str) -> str | None:
        """Call all webhooks of a client; return None once a server has answered, or why none did.

        That takes as long as servers may take.
        """
        if (why := self.why_not(peer_id, method)) is not None:
            return why
        failures = await self._begin(peer_id, method, None)
        return None if None in failures else "; ".join(dict.fromkeys(why for why in failures if why))

    def registered(self, peer_id: str, webhook: Webhook) -> None:
        """Tell a new webhook that it is one."""
        lane = self._free if self._book.is_stranger(peer_id) else self._needed
        self._spawn(self._register_alone(peer_id, webhook, lane))

    def forget(self, peer_id: str) -> None:
        """Forget what a client was called for: it is there, and that is over (N-17)."""
        self._kinds.pop(peer_id, None)

    def check_allowance(self, peer_id: str, app_name: str) -> None:
        """Raise PeerError for a client whose next call would be beyond its allowance: it registers too often."""
        if not self._is_allowed(peer_id, app_name):
            raise try_later("too many webhooks were set, try again later")

    def _is_allowed(self, peer_id: str, app_name: str) -> bool:
        """Return whether one more call may be made; a client that has one webhook gets the calls of one."""
        now_ms = self._clock.now_ms()
        allowed = self._of_each.take(f"{peer_id} {app_name}", now_ms) and self._allowance.take(peer_id, now_ms)
        self.outcomes["limited"] += not allowed
        return allowed

    # Calls -----------------------------------------------------------------------------------------

    def _begin(self, peer_id: str, method: str, expiry: int | None) -> Coroutine[Any, Any, list[str | None]]:
        """Take note that a client is called for this, and return the calls."""
        now_ms = self._clock.now_ms()
        kind = self._kinds.setdefault(peer_id, {}).setdefault(method, _Kind(now_ms))
        kind.next_ms = now_ms + COOLDOWN_MS
        return self._call_all(peer_id, method, expiry, kind)

    async def _call_all(self, peer_id: str, method: str, expiry: int | None, kind: _Kind) -> list[str | None]:
        """Return of each webhook None, where a server answered, or why not."""
        webhooks = self._book.of(peer_id)
        failures = await asyncio.gather(*(self._call(peer_id, each, method, expiry) for each in webhooks))
        if None in failures:
            kind.failures = 0
        else:
            pause_ms = min(FIRST_RETRY_MS << kind.failures, COOLDOWN_MS)
            kind.failures = min(kind.failures + 1, 10)
            kind.next_ms = min(kind.next_ms, self._clock.now_ms() + pause_ms)
        return failures

    async def _call(self, peer_id: str, webhook: Webhook, method: str, expiry: int | None) -> str | None:
        """Make one call; return None once a server has answered, or why none did."""
        name = webhook.app_name
        if not webhook.told:
            if not self._is_allowed(peer_id, name):
                return LIMITED
            if (why := await self._register(peer_id, webhook, self._needed)) is not None:
                return why
        if not self._is_allowed(peer_id, name):
            return LIMITED
        return await self._send(peer_id, webhook, method, expiry, self._needed)

    async def _register_alone(self, peer_id: str, webhook: Webhook, lane: _Lane) -> None:
        await self._register(peer_id, webhook, lane)

    async def _register(self, peer_id: str, webhook: Webhook, lane: _Lane) -> str | None:
        """Send `webhook_registered`, once however many want to call; return why it is not out, or None (N-18)."""
        async with self._registering.setdefault((peer_id, webhook.app_name), asyncio.Lock()):
            now = self._book.find(peer_id, webhook)
            if now is None or now.told:
                return REPLACED if now is None else None
            if (why := await self._send(peer_id, now, lsps5.WEBHOOK_REGISTERED, None, lane)) is not None:
                return why
            try:
                await self._book.told(peer_id, now)
            except StoreError as error:  # it will be told again
                log.warning(f"that a webhook of {peer_id} was called could not be stored: {error}")
            return None

    async def _send(self, peer_id: str, webhook: Webhook, method: str, expiry: int | None, lane: _Lane) -> str | None:
        if not lane.enter(self._clock.now_ms()):
            self.outcomes["limited"] += 1
            return "too many calls are under way"
        share = self._shares.setdefault(peer_id, asyncio.Semaphore(MOST_OF_CLIENT))
        try:
            async with share, lane.places:
                return await self._sign_and_send(peer_id, webhook, method, expiry)
        finally:
            lane.leave()

    def _why_not(self, peer_id: str, webhook: Webhook, method: str) -> str | None:
        """Say why a call that was to be made is not made after all, or return None."""
        if method != lsps5.WEBHOOK_REGISTERED and self._is_online(peer_id):
            return CONNECTED
        now = self._book.find(peer_id, webhook)
        is_new = now is None or (webhook.told and not now.told)  # the same, removed and set again, is told first (N-18)
        return REPLACED if is_new else None

    async def _sign_and_send(self, peer_id: str, webhook: Webhook, method: str, expiry: int | None) -> str | None:
        if self.signer is None:
            return UNSIGNED
        if (why := self._why_not(peer_id, webhook, method)) is not None:
            return why
        what = f"{method} for {peer_id}"
        try:
            url = lsps5.parse_url(webhook.webhook)
            body = lsps5.encode_notification(method, expiry)
            timestamp = format_datetime(self._clock.wall_ms())
            signature = await self.signer.sign(lsps5.signed_text(timestamp, body))
            if (why := self._why_not(peer_id, webhook, method)) is not None:  # a program that signs takes its time
                return why
            headers = {lsps5.TIMESTAMP_HEADER: timestamp, lsps5.SIGNATURE_HEADER: signature}
            status = await self._post(url, headers, body.encode())
        except NotSigned as error:
            self.outcomes["unsigned"] += 1
            log.warning(f"{what} is not sent: {error}")
            return f"it is not signed: {error}"
        except PostFailed as error:  # the path may hold secrets: it is not logged
            self.outcomes["refused" if error.refused else "failed"] += 1
            log.info(f"{what} did not reach {url.host}: {error}")
            return f"{url.host} was not reached: {error}"
        except (PeerError, ProtocolBug) as error:
            log.error(f"{what}: {error}")
            return str(error)
        self.outcomes["answered"] += 1
        self.calls[method.removeprefix("lsps5.")] += 1
        log.log(logging.DEBUG if status == 200 else logging.INFO, f"{what}: {url.host} answered {status}")
        return None
