"""One HTTPS request to an address that was looked at: in a thread, bounded in time, without redirects or proxies.

The name is resolved once; every address it has must be public, and the connection goes to one of those, with the name
in SNI and checked in the certificate. So a name that leads elsewhere a moment later (DNS rebinding) gains nothing.
http.client follows no redirect and knows no proxy of the environment. Of the answer only the status is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
import ssl
import threading
from typing import Final

from lsps2fast.lsps.lsps5 import WebhookUrl
from lsps2fast_plugin.service.wake.addresses import is_loopback, is_public
from lsps2fast_plugin.service.wake.posting import PostFailed

PATIENCE_S: Final = 10.0  # for name, connection, TLS, request and status together
MOST_THREADS: Final = 16  # of requests; `caller` makes eight at one time, others may wait for a resolver
MOST_ADDRESSES: Final = 16  # of one name
AGENT: Final = "lsps2fast"
MOST_ANSWER: Final = 8_192  # bytes that are read until the status is there
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")


class _Work:
    """One request, made in a thread; the loop may leave it at any step, and then it ends at the next one."""

    def __init__(self, url: WebhookUrl, headers: dict[str, str], body: bytes) -> None:
        self.url = url
        self._headers = {"content-type": "application/json", "user-agent": AGENT, "connection": "close"} | headers
        self._body = body
        self._lock = threading.Lock()  # or what is shut down could be another's: numbers of files are used again
        self._socket: socket.socket | None = None
        self._left = False

    def leave(self) -> None:
        """Wake the thread from whatever it waits for on its connection."""
        with self._lock:
            self._left = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # not SSLSocket's own, which takes TLS away under a reader
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def holds(self, opened: socket.socket) -> None:
        """Have `leave` reach this one. Raises PostFailed where the loop has left."""
        with self._lock:
            self._socket = opened
            if self._left:
                raise PostFailed("it took too long")

    def ask(self, address: str, tls: ssl.SSLContext) -> int:
        """Return the status of the answer from this address; the rest of it means nothing (N-16)."""
        connection = _Connection(self, address, tls)
        try:
            connection.request("POST", self.url.target, self._body, self._headers)
            return _read_status(connection.sock)
        finally:
            with self._lock:
                self._socket = None
                connection.close()


class _Connection(http.client.HTTPSConnection):
    """A connection to one address, for one host."""

    def __init__(self, work: _Work, address: str, tls: ssl.SSLContext) -> None:
        super().__init__(work.url.host, work.url.port, timeout=PATIENCE_S, context=tls)
        self._work = work
        self._address = address
        self._tls = tls

    def connect(self) -> None:
        """Connect, and see that it is not ourselves under a public address."""
        raw = self.sock = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET, socket.SOCK_STREAM)
        self._work.holds(raw)
        raw.settimeout(PATIENCE_S)
        raw.connect((self._address, self.port))
        if raw.getsockname()[0] == self._address and not is_loopback(self._address):
            raise PostFailed("its address is one of this machine", refused=True)
        wrapped = self.sock = self._tls.wrap_socket(raw, server_hostname=self.host, do_handshake_on_connect=False)
        self._work.holds(wrapped)
        wrapped.do_handshake()


def _read_status(sock: socket.socket) -> int:
    """Return the status of the answer. Raises PostFailed.

    http.client would read interim answers without end, and megabytes of headers, in Python: so many servers that mean
    ill would take turns with our loop.
    """
    data = b""
    while len(data) < MOST_ANSWER and (more := sock.recv(MOST_ANSWER - len(data))):
        data += more
        status = _final_status(data)
        if status is not None:
            return status
    raise PostFailed("its answer has no status")


def _final_status(data: bytes) -> int | None:
    """Return the first status that is not interim, None where it has not come. Raises PostFailed: it is no HTTP."""
    begin = 0
    while found := _STATUS.match(data, begin):
        if found[1] >= b"200":
            return int(found[1])
        end = data.find(b"\r\n\r\n", found.end() - 2)
        if end < 0:
            return None
        begin = end + 4
    if b"\n" in data[begin:]:
        raise PostFailed("its answer is no HTTP")
    return None


class HttpsPost:
    """Makes requests, each in a thread that ends with the process: a resolver that hangs does not keep it."""

    def __init__(self, *, allow_loopback: bool = False) -> None:
        """`allow_loopback`: for tests, so that a server of this machine can be called."""
        self._allow_loopback = allow_loopback
        self._context = ssl.create_default_context()
        self._under_way: set[_Work] = set()
        self._threads = 0

    async def __call__(self, url: WebhookUrl, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer. Raises PostFailed."""
        if self._threads >= MOST_THREADS:
            raise PostFailed("too many requests do not end")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[int] = loop.create_future()
        work = _Work(url, headers, body)

        def run() -> None:
            try:
                status, error = self._try_addresses(work), None
            except PostFailed as failed:
                status, error = 0, failed
            except Exception as bug:
                status, error = 0, PostFailed(type(bug).__name__)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._ended, answer, status, error)

        try:
            threading.Thread(target=run, name="webhook", daemon=True).start()
        except RuntimeError as error:  # the system gives no more
            raise PostFailed(str(error)) from error
        self._threads += 1
        self._under_way.add(work)
        try:
            return await asyncio.wait_for(answer, PATIENCE_S)
        except TimeoutError:
            raise PostFailed(f"no answer within {PATIENCE_S:g} s") from None
        finally:
            self._under_way.discard(work)
            work.leave()

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
        for work in self._under_way:
            work.leave()

    # In a thread -----------------------------------------------------------------------------------

    def _try_addresses(self, work: _Work) -> int:
        why = "it has no address"
        for address in self._addresses(work.url):
            try:
                return work.ask(address, self._context)
            except OSError as error:
                why = f"{type(error).__name__}: {error}"
            except http.client.HTTPException as error:  # what it says has the server's own words: none for our log
                why = type(error).__name__
        raise PostFailed(why)

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
