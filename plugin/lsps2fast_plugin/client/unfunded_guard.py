"""Nothing but its purchase comes in over a channel whose funding is not what its owner asks for (rule:27, trap:46,
wallet:W0).

Otherwise an LSP could open a JIT channel, never fund it, and take whatever else is paid to the wallet over it; or route
through the wallet, in over that channel and out over a real one, for which no payment to the wallet is needed.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.client import route_hints
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.client.incoming_payments import TEMPORARY_NODE_FAILURE, Host
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
from lsps2fast_plugin.cln.pyln_client import Request

log = logging.getLogger(__name__)

Json = dict[str, Any]


class ApprovedPayments:
    """What the host must hand over: payments that are approved, and all that comes from peers with such a channel."""

    def __init__(self, interest: HtlcFilter) -> None:
        self._interest = interest
        self.hashes = interest.payment_hashes

    @property
    def guard(self) -> bool:
        """Whether there is any such channel."""
        return len(self._interest.peers) > 0

    def watch(self, peers: set[str]) -> None:
        """Hand over all HTLCs of these peers, and of these only."""
        for peer_id in set(self._interest.peers) - peers:
            self._interest.peers.discard(peer_id)
        for peer_id in peers:
            self._interest.peers.add(peer_id)


class UnfundedChannelGuard:
    """Judges what has nothing to do with our purchases but might use such a channel."""

    def __init__(
        self,
        host: Host,
        chain: Chain,
        watch: Watch,
        report: Callable[[str, str], None],
    ) -> None:
        self._host = host
        self._chain = chain
        self._watch = watch
        self._report = report

    def passes(self, scan: Any) -> bool:
        """Return whether it may go on, as far as is known without asking lightningd."""
        return self._watch.is_surely_safe(self._chain.name_of(scan.in_scid))

    async def take(self, scan: Any) -> None:
        """Fail an HTLC to us or through us that comes over a channel without good funding; else let it go."""
        why = await self._why_not(scan.in_scid)
        if why is None:
            self._host.let_go(scan.id_raw)
            return
        onward = scan.next_scid >= 0 or scan.forward_to is not None
        what = "to be forwarded " if onward else ""
        self._report(scan.peer_id or "", f"refused {scan.amount_msat} msat {what}{why}")
        self._host.fail(scan.id_raw, TEMPORARY_NODE_FAILURE)

    async def _why_not(self, scid: int) -> str | None:
        """Return why nothing may come in over a channel, or None. Whatever goes wrong, the HTLC is answered (K-20)."""
        try:
            channel_id = await self._chain.channel_of(scid)
            if channel_id is None:
                return f"over a channel that lightningd does not list: {format_scid(scid)}"
            why = await self._watch.unsafe(channel_id)
            return None if why is None else f"over channel {channel_id}: {why}"
        except Lsps2Error as error:
            return f"over {format_scid(scid)}: its funding cannot be looked at: {error}"
        except Exception:
            log.error(f"an HTLC is failed because of a bug\n{traceback.format_exc()}")
            return f"over {format_scid(scid)}: a bug"

    async def invoice(self, request: Request, command: Json) -> None:
        """Rewrite the owner's `invoice` command so that it does not offer such a channel."""
        answer: Json = {"result": "continue"}
        try:
            rows = await self._chain.rows()
            params = route_hints.rewritten(command.get("params", {}), rows, await self._watch.all_unsafe())
            if params is not None:
                answer = {"replace": {**command, "params": params}}
        except Exception:  # the owner's command must go on
            log.error(f"rpc_command failed\n{traceback.format_exc()}")
        request.set_result(answer)
