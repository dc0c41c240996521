"""Peer messages of LSPS0: from lightningd's hook to the negotiation, and answers back on their way."""

from __future__ import annotations

import logging
from typing import Any, Final

from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps0 import MESSAGE_TYPE_HEX, Request
from lsps2fast_plugin.cln.host import Host
from lsps2fast_plugin.cln.models import Caller
from lsps2fast_plugin.service.negotiation import Negotiator

log = logging.getLogger(__name__)

MOST_EARLY: Final = 1_000  # messages kept until the journal is read


class Lsps0Server:
    """Hears every peer. Silent until `begin`; what came before is then dealt with first."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._early: list[tuple[str, bytes]] = []
        self._missed = 0  # of those
        self._rpc: Caller | None = None
        self._negotiator: Negotiator | None = None

    def begin(self, rpc: Caller, negotiator: Negotiator) -> None:
        """Answer from now on."""
        self._rpc, self._negotiator = rpc, negotiator
        negotiator.missed(self._missed)
        early, self._early = self._early, []
        for peer_id, payload in early:
            self._hear(rpc, negotiator, peer_id, payload)

    def on_custommsg(self, peer_id: str, payload: str, **_: Any) -> dict[str, str]:
        """Answer the hook at once, work outside of it (T-37)."""
        if payload.startswith(MESSAGE_TYPE_HEX):  # lightningd filters, and a peer's other messages are not ours (T-01)
            body = bytes.fromhex(payload[len(MESSAGE_TYPE_HEX) :])
            if self._rpc is not None and self._negotiator is not None:
                self._hear(self._rpc, self._negotiator, peer_id, body)
            elif len(self._early) < MOST_EARLY:
                self._early.append((peer_id, body))
            else:
                self._missed += 1
        return {"result": "continue"}

    def _hear(self, rpc: Caller, negotiator: Negotiator, peer_id: str, payload: bytes) -> None:
        verdict = negotiator.admit(peer_id, payload)
        if isinstance(verdict, Request):
            self._host.spawn(self._answer(rpc, negotiator, peer_id, verdict))
        elif verdict is not None:
            self._host.spawn(self._send(rpc, peer_id, verdict))

    async def _answer(self, rpc: Caller, negotiator: Negotiator, peer_id: str, request: Request) -> None:
        await self._send(rpc, peer_id, await negotiator.work(peer_id, request))

    async def _send(self, rpc: Caller, peer_id: str, reply: bytes) -> None:
        try:
            await rpc.call("sendcustommsg", {"node_id": peer_id, "msg": MESSAGE_TYPE_HEX + reply.hex()})
        except Lsps2Error as error:  # T-32: an undelivered reply counts as delivered
            log.info(f"reply to {peer_id} could not be sent: {error}")
