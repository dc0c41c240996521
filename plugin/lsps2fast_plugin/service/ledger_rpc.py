"""What an operator asks of the sales ledger, as RPC methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lsps2fast.errors import ConfigError
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import parse_node_id
from lsps2fast_plugin.cln.host import Host
from lsps2fast_plugin.service.closing import dry_run
from lsps2fast_plugin.service.parts import ServiceParts
from lsps2fast_plugin.service.rpc_errors import UNKNOWN, refusal
from lsps2fast_plugin.service.sales_ledger import story
from lsps2fast_plugin.service.sales_ledger.listing import MOST_ROWS, OUTCOMES, Wanted, page, read_cursor
from lsps2fast_plugin.service.sales_ledger.periods import month_of, read_time
from lsps2fast_plugin.service.sales_ledger.report import BY, report

USUAL_ROWS = 100


def add_ledger_methods(host: Host, ready: Callable[[], ServiceParts]) -> LedgerMethods:
    """Register them with the host; `ready()` raises ConfigError until the service runs."""
    methods = LedgerMethods(ready)
    host.method("lsps2-listsales", methods.list_sales)
    host.method("lsps2-report", methods.report)
    host.method("lsps2-explain", methods.explain)
    host.method("lsps2-closable", methods.closable)
    return methods


class LedgerMethods:
    """The methods of one service."""

    def __init__(self, ready: Callable[[], ServiceParts]) -> None:
        self._ready = ready

    async def list_sales(
        self,
        limit: int = USUAL_ROWS,
        cursor: str | None = None,
        since: int | str | None = None,
        until: int | str | None = None,
        peer_id: str | None = None,
        token: str | None = None,
        outcome: str | None = None,
    ) -> dict[str, Any]:
        """Payments that are over, won or lost, newest first; `next_cursor` leads to the next page."""
        sales = self._ready().sales
        wanted = Wanted(
            since_ms=read_time(since, "since"),
            until_ms=read_time(until, "until"),
            peer_id=_peer(peer_id),
            token=token,
            outcome=_outcome(outcome),
        )
        return await sales.ask(partial(page, wanted=wanted, cursor=read_cursor(cursor), limit=_limit(limit)))

    async def report(
        self, by: str | None = None, since: int | str | None = None, until: int | str | None = None
    ) -> dict[str, Any]:
        """Return what was earned; `by` day, week, month, token, band or peer; by default of this month (UTC)."""
        parts = self._ready()
        now_ms = parts.clock.wall_ms()
        if by is not None and by not in BY:
            raise ConfigError(f"by={by!r} is unknown; give {', '.join(BY)}, or leave it out")
        first_ms, last_ms = month_of(now_ms)
        since_ms, until_ms = read_time(since, "since"), read_time(until, "until")
        first_ms = first_ms if since_ms is None else since_ms
        last_ms = max(last_ms, first_ms) if until_ms is None else until_ms
        if first_ms > last_ms:
            raise ConfigError("since is later than until")
        ask = partial(report, since_ms=first_ms, until_ms=last_ms, by=by, now_ms=now_ms)
        return await parts.sales.ask(ask)

    async def explain(self, about: str) -> dict[str, Any]:
        """Return the story of a payment hash, channel id, jit scid or node id, in sentences with times."""
        try:
            return await self._ready().sales.ask(partial(story.explain, what=str(about)))
        except story.NothingKnown as error:
            raise refusal(UNKNOWN, str(error)) from error

    async def closable(self, idle_days: int = 0, kept: bool = False) -> dict[str, Any]:
        """Channels past their lifetime: what they earned, what closing costs, which rule would close them and why not.

        `idle_days`: only those over which nothing went for so many days; `kept`: also those that are bound, with what
        binds them. This closes nothing.
        """
        parts = self._ready()
        if type(idle_days) is not int or not 0 <= idle_days <= 36_500:
            raise ConfigError(f"idle_days={idle_days!r} is no number of days; give 0 to 36500")
        if type(kept) is not bool:
            raise ConfigError(f"kept={kept!r} is neither true nor false")
        return await dry_run.closable(parts.closer, await parts.view.perkw(), idle_days, kept)


def _limit(value: int | str) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MOST_ROWS:
        raise ConfigError(f"limit={value!r} is no number of rows; give 1 to {MOST_ROWS}")
    return int(text)


def _peer(value: str | None) -> str | None:
    try:
        return None if value is None else parse_node_id(value, "peer_id").hex()
    except MalformedField as error:
        raise ConfigError(str(error)) from error


def _outcome(value: str | None) -> str | None:
    if value is None:
        return None
    name = str(value).capitalize()
    if name not in OUTCOMES:
        raise ConfigError(f"outcome={value!r} is unknown; give {', '.join(OUTCOMES)}")
    return name
