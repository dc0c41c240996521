"""While a channel's funding is not what its owner asks for, nothing but its purchase is received over it (T46).

Otherwise an LSP could open a JIT channel, never fund it, and take whatever else is paid to the wallet over it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from pyln.client.plugin import Request

from lsps2fast.errors import NodeError
from lsps2fast_plugin.client import route_hints
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.client.incoming_payments import TEMPORARY_NODE_FAILURE, Host
from lsps2fast_plugin.cln.reader import HtlcFilter

Json = dict[str, Any]


class ApprovedPayments:
    """The payments the host must hand over: those approved; with `guard` every payment."""

    def __init__(self, interest: HtlcFilter) -> None:
        self._interest = interest
        self.hashes = interest.payment_hashes

    @property
    def guard(self) -> bool:
        """Every payment is looked at."""
        return self._interest.every_payment

    def set_guard(self, missing: bool) -> None:
        """Whether there is any such channel."""
        self._interest.every_payment = missing


class UnfundedChannelGuard:
    """Judges what has nothing to do with our purchases but might use such a channel."""

    def __init__(
        self,
        host: Host,
        chain: Chain,
        watch: Watch,
        report: Callable[[str, str], None],
        say: Callable[[str, str], None],
    ) -> None:
        self._host = host
        self._chain = chain
        self._watch = watch
        self._report = report
        self._say = say

    async def take(self, scan: Any) -> None:
        """A payment to us: failed if it comes over a channel without good funding, else let go."""
        try:
            channel_id = await self._chain.channel_of(scan.in_scid)
        except NodeError as error:
            self._say(f"an HTLC is let go, its channel cannot be looked at: {error}", "warn")
            self._host.let_go(scan.id_raw)
            return
        why = await self._why_not(channel_id)
        if why is None:
            self._host.let_go(scan.id_raw)
            return
        self._report(scan.peer_id or "", f"refused {scan.amount_msat} msat over channel {channel_id}: {why}")
        self._host.fail(scan.id_raw, TEMPORARY_NODE_FAILURE)

    async def _why_not(self, channel_id: str | None) -> str | None:
        """Why nothing may be received over a channel, or None. Whatever goes wrong, the HTLC is answered (K-20)."""
        try:
            return await self._watch.unsafe(channel_id)
        except NodeError as error:
            return f"its funding cannot be looked at: {error}"
        except Exception:
            self._say(f"a payment is failed because of a bug\n{traceback.format_exc()}", "error")
            return "a bug"

    async def invoice(self, request: Request, command: Json) -> None:
        """The owner's `invoice` command, rewritten so that it does not offer such a channel."""
        answer: Json = {"result": "continue"}
        try:
            rows = await self._chain.rows()
            params = route_hints.rewritten(command.get("params", {}), rows, await self._watch.all_unsafe())
            if params is not None:
                answer = {"replace": {**command, "params": params}}
        except Exception:  # the owner's command must go on
            self._say(f"rpc_command failed\n{traceback.format_exc()}", "error")
        request.set_result(answer)
