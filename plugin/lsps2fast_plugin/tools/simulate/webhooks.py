"""The servers that webhooks of a town lead to: an app's that wakes its wallet, and those that are a trap (trap:47).

The first label of a host's name says what it does: `hangs`, `redirects`, `inside` (its address is not public), `fails`;
every other is an app, and wakes what `wakes` has under its host. What comes is verified as an app would.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from lsps2fast.lsps.lsps5 import WebhookUrl, verify_notification
from lsps2fast_plugin.service.wake.caller import CALLS_AT_ONCE
from lsps2fast_plugin.service.wake.post import PATIENCE_S
from lsps2fast_plugin.service.wake.posting import PostFailed

HOUR_S = 3_600.0


class TownPost:
    """Takes the place of HTTPS. `most` is the largest number of calls that one host got within an hour.

    Each start of the plugin in that hour takes as many off as it may make at once: it does not know of those before.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.lsp_id = ""  # of the node whose signature is right; "": none is looked at
        self.wakes: dict[str, Callable[[], None]] = {}
        self.calls: Counter[str] = Counter()  # by host
        self.kinds: Counter[str] = Counter()  # by what the notification was
        self.most = 0
        self._times: dict[str, list[float]] = {}
        self._starts_s: list[float] = []

    async def __call__(self, url: WebhookUrl, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer. Raises PostFailed, and BadNotification for what no app would believe."""
        kind, _, _ = url.host.partition(".")
        self._count(url.host)
        if kind == "inside":
            raise PostFailed("its name leads to an address that is not public", refused=True)
        if kind == "hangs":
            await asyncio.sleep(PATIENCE_S)
            raise PostFailed(f"no answer within {PATIENCE_S:g} s")
        if kind == "fails":
            raise PostFailed("ConnectionRefusedError")
        await asyncio.sleep(0)
        if self.lsp_id:
            self.kinds[verify_notification(self.lsp_id, headers, body).method] += 1
        if kind == "redirects":
            return 302
        if (wake := self.wakes.get(url.host)) is not None:
            wake()
        return 200

    def _count(self, host: str) -> None:
        now_s = self._now_s()
        self.calls[host] += 1
        times = self._times.setdefault(host, [])
        times.append(now_s)
        while times[0] <= now_s - HOUR_S:
            times.pop(0)
        started = sum(each > now_s - HOUR_S for each in self._starts_s)
        self.most = max(self.most, len(times) - started * CALLS_AT_ONCE)

    def plugin_started(self) -> None:
        """Take note that the calls so far are forgotten."""
        now_s = self._now_s()
        self._starts_s = [*(each for each in self._starts_s if each > now_s - HOUR_S), now_s]

    def close(self) -> None:
        """Nothing runs."""
