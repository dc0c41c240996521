"""LSPS0 requests to LSPs: ids that cannot be guessed, answers only from the peer that was asked, and an end to waiting.

What an LSP sends can be late, double, foreign, rubbish or nothing; none of it reaches a caller but one well-formed
answer to its own request (T-08, T-09, T-24 … T-29).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any, Final

from lsps2fast.errors import Lsps2Error, NodeError, NodeUnreachable, PeerError
from lsps2fast.lsps.lsps0 import (
    MAX_PAYLOAD,
    MESSAGE_TYPE_HEX,
    REQUEST_TIMEOUT_MS,
    Dropped,
    ErrorName,
    OpenRequests,
    RemoteError,
    Reply,
    encode_request,
)
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger(__name__)

# What an LSP's error code means to the owner of this wallet (I-34); its own text goes to the debug log only (T-21).
SENTENCES: Final[dict[ErrorName, str]] = {
    "client_rejected": "the LSP does not want to serve this node",
    "unrecognized_or_stale_token": "the LSP does not know this token, or it has expired; ask the LSP for a new one",
    "invalid_opening_fee_params": "the LSP no longer stands by this offer; fetch its menu again",
    "payment_size_too_small": "the amount is too small for the LSP; ask for more",
    "payment_size_too_large": "the amount is too large for the LSP; ask for less, or try later",
    "too_long": "the name or the URL of the webhook is too long for the LSP",
    "url_parse_error": "the LSP takes this webhook for no URL that it may call",
    "unsupported_protocol": "the LSP does not call webhooks of this protocol; give one of https",
    "too_many_webhooks": "the LSP keeps no more webhooks for this node; remove one first",
    "app_name_not_found": "the LSP has no webhook of this name",
    "method_not_found": "the peer does not sell JIT channels (LSPS2)",
    "invalid_params": "the LSP did not understand the request",
    "parse_error": "the LSP could not read the request",
    "invalid_request": "the LSP did not understand the request",
    "internal_error": "the LSP has a problem of its own; try again later",
    "unrecognized": "the LSP answered with an unknown error",
}


MOST_LOGGED = 10  # messages of one peer that are ignored, a connection
MOST_WASTED = 262_144  # bytes of a peer that answer nothing while it is asked something; reading costs time (wallet:W5)
MESSAGE_COST = 256  # that even an empty message counts


class Unavailable(Lsps2Error):
    """The LSP cannot be asked now, or did not answer: temporary, nothing was agreed."""


def lsp_error(method: str, error: RemoteError) -> PeerError:
    """Return the error of a failed command: our own words, the LSP's code (T-22)."""
    sentence = SENTENCES[error.name]
    if error.name == "method_not_found" and method.startswith("lsps5."):
        sentence = "the peer has no webhooks (LSPS5)"
    return PeerError(error.code, f"{method}: {sentence} ({error.name})", {"name": error.name})


class Lsps0Client:
    """Requests in flight to all LSPs."""

    def __init__(
        self,
        rpc: Rpc,
        clock: Clock,
        token: Callable[[], str] = lambda: secrets.token_hex(16),
        timeout_ms: int = REQUEST_TIMEOUT_MS,
        know: Callable[[str, bool], None] = lambda *_: None,
    ) -> None:
        """`token` makes request ids: 128 bits of the system's generator; what it raises fails the call (T-07).

        `know`: of `HtlcFilter`, which hears who is asked something.
        """
        self._know = know
        self._rpc = rpc
        self._clock = clock
        self._token = token
        self._timeout_ms = timeout_ms
        self._open = OpenRequests(timeout_ms)
        self._answers: dict[tuple[str, str], asyncio.Future[Reply]] = {}
        self._asked: dict[str, int] = {}  # requests in flight, by peer
        self._dropped: dict[str, int] = {}  # messages of connected peers that answered no request
        self._wasted: dict[str, int] = {}  # bytes read of peers that are asked something, and which answered nothing

    def __len__(self) -> int:
        return len(self._open)

    def muted(self, peer_id: str) -> bool:
        """Return whether this peer sent rubbish and is left alone until it reconnects (T-24)."""
        return self._open.is_muted(peer_id)

    async def call(self, peer_id: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of one request.

        Raises PeerError with the LSP's code, or Unavailable: not connected, muted, no answer in time (T-09).
        """
        if self.muted(peer_id):
            raise Unavailable(f"{peer_id} sent something that is no LSPS message; it is left alone until it reconnects")
        request_id = self._token()
        payload = encode_request(request_id, method, params)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open.open(peer_id, request_id, self._clock.now_ms())
        self._asked[peer_id] = self._asked.get(peer_id, 0) + 1
        self._know(peer_id, True)
        self._answers[peer_id, request_id] = future
        try:
            await self._send(peer_id, method, payload)
            reply = await self._await(peer_id, method, future)
        finally:
            self._open.close(peer_id, request_id)
            self._asked[peer_id] -= 1
            if not self._asked[peer_id]:
                del self._asked[peer_id]
                self._know(peer_id, False)
                self._wasted.pop(peer_id, None)
            del self._answers[peer_id, request_id]
            if future.done() and not future.cancelled():
                future.exception()  # taken note of, also when sending failed first
        if reply.error is not None:
            log.debug(f"{peer_id} refused {method}: {reply.error.code} {reply.error.message}")
            raise lsp_error(method, reply.error)
        return reply.result or {}

    async def _send(self, peer_id: str, method: str, payload: bytes) -> None:
        """MAX_PAYLOAD was checked when it was encoded: one byte more would end lightningd (cln:L4)."""
        assert len(payload) <= MAX_PAYLOAD
        message = MESSAGE_TYPE_HEX + payload.hex()
        try:
            await self._rpc.call("sendcustommsg", {"node_id": peer_id, "msg": message})
        except NodeUnreachable as error:
            raise Unavailable(f"{method} could not be sent: {error}") from error
        except NodeError as error:  # "No such peer": it went away since we looked (T-38)
            raise Unavailable(f"{method} could not be sent, {peer_id} is not connected: {error.message}") from error

    async def _await(self, peer_id: str, method: str, future: asyncio.Future[Reply]) -> Reply:
        timer = asyncio.ensure_future(self._clock.sleep_until(self._clock.now_ms() + self._timeout_ms))
        both: tuple[asyncio.Future[Any], ...] = (future, timer)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        if not future.done():
            raise Unavailable(f"{peer_id} did not answer {method} within {self._timeout_ms // 1000} s; try again later")
        return future.result()

    def unawaited(self, peer_id: str) -> bool:
        """Count a message of a peer that was asked nothing, or is muted: it need not be read (wallet:W5)."""
        if self._asked.get(peer_id) and not self.muted(peer_id):
            return False
        count = self._dropped[peer_id] = self._dropped.get(peer_id, 0) + 1
        if count == MOST_LOGGED:
            log.info(f"messages of {peer_id} that are not waited for are not read; the next ones are not logged")
        return True

    def receive(self, peer_id: str, payload: bytes) -> None:
        """Take a message of type 37913. Requests are the service's business and left alone (T-39)."""
        if self.muted(peer_id):
            return
        got = self._open.receive(peer_id, payload)
        if isinstance(got, Dropped):
            self._drop(peer_id, got)
        if got is None or isinstance(got, Dropped):
            self._waste(peer_id, len(payload))
        else:
            future = self._answers.get((peer_id, got.id or ""))
            if future is not None and not future.done():
                future.set_result(got)

    def _waste(self, peer_id: str, size: int) -> None:
        """Count what was read for nothing; a peer that goes on is not read any more."""
        if self.muted(peer_id) or peer_id not in self._asked:
            return
        wasted = self._wasted[peer_id] = self._wasted.get(peer_id, 0) + size + MESSAGE_COST
        if wasted > MOST_WASTED:
            why = f"{peer_id} sent too much that answers nothing; it is left alone until it reconnects"
            log.warning(why)
            self._open.mute(peer_id)
            self._end_all(peer_id, why)

    def _drop(self, peer_id: str, got: Dropped) -> None:
        """Ignored and logged (T-24, T-26), but a peer cannot fill the log."""
        count = self._dropped[peer_id] = self._dropped.get(peer_id, 0) + 1
        if got.muted or count <= MOST_LOGGED:
            log.log(logging.WARNING if got.muted else logging.INFO, f"message of {peer_id} ignored: {got.why}")
        if got.muted:
            self._end_all(peer_id, f"{peer_id} sent something that is no LSPS message")

    def connected(self, peer_id: str) -> None:
        """Forgive what a peer did in its last connection (T-24)."""
        self._open.unmute(peer_id)
        self._dropped.pop(peer_id, None)

    def disconnected(self, peer_id: str) -> None:
        """End all requests to a peer that is gone."""
        self._open.unmute(peer_id)
        self._dropped.pop(peer_id, None)
        self._end_all(peer_id, f"{peer_id} disconnected before it answered")

    def _end_all(self, peer_id: str, why: str) -> None:
        for (asked_id, _), future in list(self._answers.items()):
            if asked_id == peer_id and not future.done():
                future.set_exception(Unavailable(why))
