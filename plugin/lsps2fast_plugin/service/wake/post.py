"""One HTTPS request to an address that was looked at: in a thread, bounded in time, without redirects or proxies.

The name is resolved once; every address it has must be public, and the connection goes to one of those, with the name
in SNI and checked in the certificate. So a name that leads elsewhere a moment later (DNS rebinding) gains nothing.
http.client follows no redirect and knows no proxy of the environment. Of the answer only the status is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
import ssl
import threading
from typing import Final

from lsps2fast.lsps.lsps5 import WebhookUrl
from lsps2fast_plugin.service.wake.addresses import is_loopback, is_public
from lsps2fast_plugin.service.wake.posting import PostFailed

log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0  # for name, connection, TLS, request and status together
MOST_THREADS: Final = 16  # of requests; `caller` makes eight at one time, others may wait for a resolver
MOST_ADDRESSES: Final = 16  # of one name
AGENT: Final = "lsps2fast"


class _Connection(http.client.HTTPSConnection):
    """A connection to one address, for one host."""

    def __init__(self, url: WebhookUrl, address: str, context: ssl.SSLContext) -> None:
        super().__init__(url.host, url.port, timeout=PATIENCE_S, context=context)
        self._address = address
        self._tls = context

    def connect(self) -> None:
        """Connect, and see that it is not ourselves under a public address."""
        raw = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET, socket.SOCK_STREAM)
        self.sock = raw  # so that `HttpsPost` can break it off
        raw.settimeout(PATIENCE_S)
        raw.connect((self._address, self.port))
        if raw.getsockname()[0] == self._address and not is_loopback(self._address):
            raw.close()
            raise PostFailed("its address is one of this machine", refused=True)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self.host)


class HttpsPost:
    """Makes requests, each in a thread that ends with the process: a resolver that hangs does not keep it."""

    def __init__(self, *, allow_loopback: bool = False) -> None:
        """`allow_loopback`: for tests, so that a server of this machine can be called."""
        self._allow_loopback = allow_loopback
        self._context = ssl.create_default_context()
        self._open: set[_Connection] = set()
        self._lock = threading.Lock()
        self._threads = 0

    async def __call__(self, url: WebhookUrl, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer. Raises PostFailed."""
        if self._threads >= MOST_THREADS:
            raise PostFailed("too many requests do not end")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        mine: list[_Connection] = []
        given_up = threading.Event()

        def run() -> None:
            try:
                status, error = self._work(url, headers, body, mine, given_up), None
            except PostFailed as failed:
                status, error = 0, failed
            except Exception as bug:
                status, error = 0, PostFailed(f"{type(bug).__name__}: {bug}")
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended, answer, status, error)

        self._threads += 1
        threading.Thread(target=run, name="webhook", daemon=True).start()
        try:
            return await asyncio.wait_for(answer, PATIENCE_S)
        except TimeoutError:
            raise PostFailed(f"no answer within {PATIENCE_S:g} s") from None
        finally:
            given_up.set()
            for connection in mine:
                _break(connection)

    def _ended(self, answer: asyncio.Future[int], status: int, error: PostFailed | None) -> None:
        self._threads -= 1
        if answer.done():
            return
        if error is None:
            answer.set_result(status)
        else:
            answer.set_exception(error)

    def close(self) -> None:
        """Break off what is under way."""
        with self._lock:
            for connection in self._open:
                _break(connection)

    # In a thread -----------------------------------------------------------------------------------

    def _work(
        self,
        url: WebhookUrl,
        headers: dict[str, str],
        body: bytes,
        connections: list[_Connection],
        given_up: threading.Event,
    ) -> int:
        why = "it has no address"
        for address in self._addresses(url):
            connection = _Connection(url, address, self._context)
            connections.append(connection)
            with self._lock:
                self._open.add(connection)
            try:
                return self._ask(connection, url, headers, body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = f"{type(error).__name__}: {error}"
            finally:
                with self._lock:
                    self._open.discard(connection)
                connection.close()
            if given_up.is_set():
                break
        raise PostFailed(why)

    @staticmethod
    def _ask(connection: _Connection, url: WebhookUrl, headers: dict[str, str], body: bytes) -> int:
        usual = {"content-type": "application/json", "user-agent": AGENT, "connection": "close"}
        connection.request("POST", url.target, body, usual | headers)
        return connection.getresponse().status  # the rest means nothing (N-16)

    def _addresses(self, url: WebhookUrl) -> list[str]:
        """Return two addresses to try at most. Raises PostFailed where the name leads anywhere but outside."""
        try:
            rows = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise PostFailed(f"its name cannot be resolved: {error}") from error
        found = list(dict.fromkeys(str(row[4][0]) for row in rows))[:MOST_ADDRESSES]
        for address in found:
            if not is_public(address) and not (self._allow_loopback and is_loopback(address)):
                raise PostFailed("its name leads to an address that is not public", refused=True)
        return found[:2]


def _break(connection: _Connection) -> None:
    """Wake the thread that waits for this connection; it closes it."""
    found = connection.sock
    if found is not None:
        try:
            found.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
