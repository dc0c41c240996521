"""Serves the page, its feed and its answers over HTTP; needs aiohttp (the extra `page`).

Nothing here changes anything: every route is a GET. The page itself holds no data, so it is given to everyone who
reaches the address; whatever tells of the service wants the token, where one is set. Without a token the address is on
the loopback (`options` sees to that), and only requests that name a loopback are answered: a foreign page that has its
own name point to 127.0.0.1 learns nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.pyln_adapter import MethodError
from lsps2fast_plugin.service.options import is_loopback
from lsps2fast_plugin.service.page.feed import PERIOD_MS, Feed, Source
from lsps2fast_plugin.service.rpc_errors import NOT_READY, UNKNOWN
from lsps2fast_plugin.service.runbook import ADVICE

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

MOST_READERS: Final = 16  # open feeds
MOST_CONNECTIONS: Final = 64
PATIENCE_S: Final = 10.0  # for the first request of a connection, and for a reader that does not read
SIGN_OF_LIFE_S: Final = 15
REPORT_DAYS: Final = 30
RECENT_SALES: Final = 20
KEEP_REPORT_S: Final = 2.0  # the page asks 3 s after a payment has ended, so that is in it
KEEP_CLOSABLE_S: Final = 60.0  # lightningd is asked once a channel: not for each reader
PAGE: Final = Path(__file__).with_name("page.html")
INLINE: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.S)
DAY_S: Final = 86_400


def policy_of(page: str) -> str:
    """Return the content security policy of a page: its own style and script, its own server, nothing else."""
    hashes = {
        kind: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for kind, text in INLINE.findall(page)
    }
    return (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src {hashes['style']};"
        f" script-src {hashes['script']}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Shared:
    """An answer that is asked for once, and then given to every reader for so long."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._asking = asyncio.Lock()
        self._answer: Any = None
        self._until = 0.0

    async def get(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer. Errors are not to be cached."""
        async with self._asking:
            if time.monotonic() >= self._until:
                self._answer = await ask()
                self._until = time.monotonic() + self._keep_s
            return self._answer


class Questions(Protocol):
    """Whatever answers about the sales ledger: `ledger_rpc.LedgerMethods`."""

    async def report(self, by: str | None, since: int, until: int) -> dict[str, Any]: ...

    async def list_sales(self, limit: int) -> dict[str, Any]: ...

    async def explain(self, about: str) -> dict[str, Any]: ...

    async def closable(self) -> dict[str, Any]: ...


class PageServer:
    """The page of one service."""

    def __init__(
        self, address: tuple[str, int], token: str | None, source: Source, methods: Questions, clock: Clock
    ) -> None:
        """Prepare the page, served from `listen` on. Raises ConfigError without aiohttp."""
        try:
            import aiohttp  # noqa: F401
        except ImportError:
            raise ConfigError(
                "lsps2-page-listen needs aiohttp: pip install 'lsps2fast[page]', or leave it out"
            ) from None
        self._address = address
        self._token = token
        self._methods = methods
        self._clock = clock
        self._feed = Feed(source, clock.now_ms, clock.wall_ms)
        self._html = PAGE.read_text("utf-8")
        self._policy = policy_of(self._html)
        self._report, self._closable = Shared(KEEP_REPORT_S), Shared(KEEP_CLOSABLE_S)
        self._readers: set[asyncio.Task[Any]] = set()
        self._silent: set[Any] = set()  # connections that have asked nothing yet
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it is served; 0 before."""
        return self._listening.sockets[0].getsockname()[1] if self._listening is not None else 0

    async def listen(self) -> None:
        """Serve from now on. An address that cannot be had is told, and selling goes on."""
        from aiohttp import web

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._guard(request, handler)

        app = web.Application(middlewares=[guard], client_max_size=1_024)
        app.router.add_get("/", self._page)
        app.router.add_get("/api/events", self._events)
        app.router.add_get("/api/runbook", self._answer(self._runbook))
        app.router.add_get("/api/report", self._answer(self._days))
        app.router.add_get("/api/sales", self._answer(self._sales))
        app.router.add_get("/api/closable", self._answer(self._channels))
        app.router.add_get("/api/explain", self._answer(self._story))
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        host, port = self._address
        try:
            self._listening = await asyncio.get_running_loop().create_server(self._connection, host, port)
        except OSError as error:
            log.error(f"lsps2-page-listen={host}:{port} cannot be served: {error}")
            return
        log.info(f"the page is at http://{f'[{host}]' if ':' in host else host}:{self.port}/")

    async def close(self) -> None:
        """Serve no more."""
        if self._listening is not None:
            self._listening.close()
        for reader in self._readers:
            reader.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    # Connections ----------------------------------------------------------------------------------

    def _connection(self) -> asyncio.Protocol:
        """Take a connection; one that asks nothing, or is one too many, is ended."""
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        handler = server()
        self._silent.add(handler)
        loop, patience_s = asyncio.get_running_loop(), PATIENCE_S
        if len(server.connections) >= MOST_CONNECTIONS:
            patience_s = 0.0
        loop.call_later(patience_s, self._end_if_silent, handler)
        return handler

    def _end_if_silent(self, handler: Any) -> None:
        if handler in self._silent:
            self._silent.discard(handler)
            handler.force_close()

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        from aiohttp import web

        self._silent.discard(request.protocol)
        no = self._refusal(request)
        try:
            response = await handler(request) if no is None else web.json_response({"error": no[1]}, status=no[0])
        except web.HTTPException as error:  # no such path, no such method
            response = web.json_response({"error": error.reason}, status=error.status)
        response.headers.update(self._headers())
        return response

    def _headers(self) -> dict[str, str]:
        return {
            "Cache-Control": "no-store",
            "Content-Security-Policy": self._policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }

    def _refusal(self, request: web.Request) -> tuple[int, str] | None:
        if self._token is None:
            name = (request.url.host or "").removeprefix("[").removesuffix("]")
            return None if is_loopback(name) else (403, "without a token this page answers to localhost only")
        if request.path == "/":
            return None
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return None
        return 401, "the token is missing or wrong: it is the value of lsps2-page-token"

    # Answers --------------------------------------------------------------------------------------

    async def _page(self, _: web.Request) -> web.Response:
        from aiohttp import web

        return web.Response(text=self._html, content_type="text/html", charset="utf-8")

    def _answer(self, ask: Callable[[Mapping[str, str]], Awaitable[Any]]) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            from aiohttp import web

            try:
                answer, status = await ask(request.query), 200
            except MethodError as error:
                status = {NOT_READY.number: 503, UNKNOWN.number: 404}.get(error.code, 409)
                answer = {"error": str(error)}
            except ConfigError as error:
                answer, status = {"error": str(error)}, 400
            except NodeError as error:
                answer, status = {"error": f"lightningd does not answer: {error}"}, 503
            return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")

        return handle

    async def _runbook(self, _: Mapping[str, str]) -> Any:
        return ADVICE

    async def _days(self, _: Mapping[str, str]) -> Any:
        today = self._clock.wall_ms() // 1000 // DAY_S
        since = (today - REPORT_DAYS + 1) * DAY_S
        return await self._report.get(lambda: self._methods.report("day", since, (today + 1) * DAY_S))

    async def _sales(self, _: Mapping[str, str]) -> Any:
        return await self._methods.list_sales(RECENT_SALES)

    async def _channels(self, _: Mapping[str, str]) -> Any:
        return await self._closable.get(self._methods.closable)

    async def _story(self, asked: Mapping[str, str]) -> Any:
        return await self._methods.explain(asked.get("about", ""))

    # The feed -------------------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        if len(self._readers) >= MOST_READERS:
            return web.json_response({"error": f"{MOST_READERS} pages are open already: close one"}, status=503)
        task = asyncio.current_task()
        assert task is not None
        self._readers.add(task)
        try:
            response = web.StreamResponse(headers={**self._headers(), "Content-Type": "text/event-stream"})
            await response.prepare(request)
            await self._tell(response)
            return response
        finally:
            self._readers.discard(task)

    async def _tell(self, response: web.StreamResponse) -> None:
        """Tell news until the reader goes away, or does not read."""
        reader, quiet = self._feed.reader(), 0
        while True:
            news = reader.news()
            quiet = quiet + 1 if news is None else 0
            if news is not None or quiet * PERIOD_MS >= SIGN_OF_LIFE_S * 1000:
                quiet = 0
                words = b": still here\n\n" if news is None else b"data: " + news + b"\n\n"
                try:
                    async with asyncio.timeout(PATIENCE_S):
                        await response.write(words)
                except (OSError, TimeoutError):
                    return
            await self._clock.turned(PERIOD_MS / 1000)
