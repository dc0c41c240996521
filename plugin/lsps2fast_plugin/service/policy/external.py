"""A policy plugin of the operator's, asked over RPC: same questions and answers as CLN's built-in service has.

`lsps2-policy-getpolicy {token?}` gives `{policy_opening_fee_params_menu, client_rejected?}`; `lsps2-policy-buy
{opening_fee_params, payment_size_msat}` (CLN pull request 8948), or in released CLN `lsps2-policy-getchannelcapacity
{opening_fee_params, init_payment_size, scid}`, gives `{channel_capacity_msat}`. A plugin may bind exactly these names,
so nothing is added to them. Its answers are checked like our own terms. A plugin that is slow, broken or suddenly gone
makes us sell nothing rather than at prices its owner did not choose.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, Protocol

from lsps2fast.errors import Malformed, NodeError, NodeUnreachable, ProtocolBug
from lsps2fast.lsps.buys import Lack
from lsps2fast.lsps.lsps0 import METHOD_NOT_FOUND, clean_message, client_rejected, internal_error
from lsps2fast.lsps.lsps2 import (
    FeeParams,
    format_scid,
    opening_fee_msat,
    order_menu,
    parse_msat,
    stale_token,
    why_unsound,
)
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals
from lsps2fast_plugin.service.policy.rules import MAX_ENTRIES, MAX_VALIDITY_S, MIN_VALIDITY_S

log = logging.getLogger(__name__)

GET_POLICY: Final = "lsps2-policy-getpolicy"
BUY: Final = "lsps2-policy-buy"
GET_CAPACITY: Final = "lsps2-policy-getchannelcapacity"
STALE_TOKEN: Final = 200  # a plugin that knows tokens may answer with bLIP-52's own code
TIMEOUT_S: Final = 5.0
MAX_CALLS: Final = 32
LOOK_AGAIN_MS: Final = 60_000  # a method that was missing may have come
MSAT_KEYS: Final = ("min_fee_msat", "min_payment_size_msat", "max_payment_size_msat")


class Use(StrEnum):
    """When to ask: when the node has the methods; always, selling nothing without them; never."""

    AUTO = "auto"
    REQUIRED = "required"
    OFF = "off"


class Caller(Protocol):
    """The part of `rpc.Rpc` that is needed."""

    async def call(
        self, method: str, params: dict[str, Any] | None = None, timeout_s: float | None = 60.0
    ) -> dict[str, Any]:
        """Return the result. Raises NodeError."""


class _Missing(Exception):
    """The node has no such method, and that is fine."""


class ExternalPolicy:
    """Asks the operator's policy plugin."""

    def __init__(
        self,
        rpc: Caller,
        *,
        now_ms: Callable[[], int],
        refusals: Refusals,
        use: Use = Use.AUTO,
        timeout_s: float = TIMEOUT_S,
        max_calls: int = MAX_CALLS,
    ) -> None:
        """`now_ms` is the monotonic clock."""
        self._rpc = rpc
        self._now_ms = now_ms
        self._refusals = refusals
        self._use = use
        self._timeout_s = timeout_s
        self._free = max_calls
        self._looking: dict[str, asyncio.Event] = {}  # methods that are asked for the first time
        self._seen: set[str] = set()
        self._missing_until_ms: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._warned_ms: dict[str, int] = {}  # by kind, of which there are few

    async def menu(self, token: str | None, wall_ms: int) -> list[FeeParams] | None:
        """Return the plugin's menu in G-07 order, not yet promised; None when there is no such plugin: use our own
        policy.

        Raises PeerError 1 when it rejects the client, 200 when it says so of the token, -32603 for any trouble with it.
        """
        try:
            answer = await self._ask(GET_POLICY, {} if token is None else {"token": token})
        except _Missing:
            return None
        if self._flag(GET_POLICY, answer, "client_rejected"):
            self._refusals.count(Refusal.EXTERNAL_REJECTED)
            raise client_rejected("this node does not serve you")
        try:
            entries = _read_menu(answer.get("policy_opening_fee_params_menu"))
        except (Malformed, ProtocolBug) as error:
            raise self._garbage(GET_POLICY, str(error)) from error
        self._works(GET_POLICY)
        return self._usable(entries, wall_ms)

    async def capacity_sat(
        self, params: FeeParams, payment_size_msat: int | None, jit_scid: int, least_sat: int, most_sat: int
    ) -> int | Lack | None:
        """Return the channel that the plugin wants for this buy; None when it has no say in it: use our own rule.

        `least_sat` (O-03) and `most_sat` bound it. Raises PeerError -32603 for any trouble with the plugin.
        """
        size = None if payment_size_msat is None else str(payment_size_msat)
        first = params.max_payment_size_msat if payment_size_msat is None else payment_size_msat
        asks: tuple[tuple[str, dict[str, Any]], ...] = (
            (BUY, {"opening_fee_params": params.to_json(), "payment_size_msat": size}),
            (
                GET_CAPACITY,
                {
                    "opening_fee_params": params.to_json(),
                    "init_payment_size": str(first),
                    "scid": format_scid(jit_scid),
                },
            ),
        )
        for method, question in asks:
            try:
                answer = await self._ask(method, question, required=method == GET_CAPACITY)
            except _Missing:
                continue
            return self._judge(method, answer, least_sat, most_sat)
        return None

    def _judge(self, method: str, answer: dict[str, Any], least_sat: int, most_sat: int) -> int | Lack:
        wanted = answer.get("channel_capacity_msat")
        if wanted is None:
            self._works(method)
            self._refusals.count(Refusal.EXTERNAL_REJECTED)
            return Lack.FUNDS
        try:
            capacity_sat = -(-_msat(wanted, "channel_capacity_msat") // 1000)
        except Malformed as error:
            raise self._garbage(method, str(error)) from error
        self._works(method)
        if capacity_sat < least_sat:
            self._refusals.count(Refusal.EXTERNAL_CAPACITY)
            self._warn(method, f"{method} wants a channel of {capacity_sat} sat; the payment needs {least_sat} sat")
            return Lack.SIZE
        return max(min(capacity_sat, most_sat), least_sat) if least_sat <= most_sat else Lack.SIZE

    # One call --------------------------------------------------------------------------------------

    async def _ask(self, method: str, params: dict[str, Any], required: bool = True) -> dict[str, Any]:
        """Turn a failed call into an error: _Missing when our own policy is to answer, else PeerError."""
        if self._use is Use.OFF:
            raise _Missing
        if (others := self._looking.get(method)) is not None:
            await others.wait()
        if self._now_ms() < self._missing_until_ms.get(method, -1):
            raise self._gone(method, required)
        if self._free <= 0:
            self._refusals.count(Refusal.EXTERNAL_BUSY)
            raise internal_error()
        if method in self._seen or method in self._looking:
            return await self._call(method, params, required)
        self._looking[method] = asyncio.Event()  # a crowd that meets no plugin asks once, and no client is turned away
        try:
            return await self._call(method, params, required)
        finally:
            self._looking.pop(method).set()

    async def _call(self, method: str, params: dict[str, Any], required: bool) -> dict[str, Any]:
        self._free -= 1
        try:
            async with asyncio.timeout(self._timeout_s):  # whatever the caller's own bound is worth
                answer: Any = await self._rpc.call(method, params, self._timeout_s)
        except TimeoutError:
            raise self._fault(method, Refusal.EXTERNAL_SLOW, f"no answer within {self._timeout_s:g} s") from None
        except NodeUnreachable as error:
            raise self._fault(method, Refusal.EXTERNAL_SLOW, clean_message(error.message)) from error
        except NodeError as error:
            raise self._refused(method, error, required) from error
        finally:
            self._free += 1
        self._seen.add(method)
        self._missing_until_ms.pop(method, None)
        if not isinstance(answer, dict):
            raise self._garbage(method, "the answer is no object")
        return answer

    def _refused(self, method: str, error: NodeError, required: bool) -> Exception:
        if error.code == METHOD_NOT_FOUND:
            self._missing_until_ms[method] = self._now_ms() + LOOK_AGAIN_MS
            return self._gone(method, required)
        self._seen.add(method)
        if error.code == STALE_TOKEN and method == GET_POLICY:
            self._works(method)
            self._refusals.count(Refusal.TOKEN_UNKNOWN)
            return stale_token()
        return self._fault(method, Refusal.EXTERNAL_ERROR, f"{clean_message(error.message)} (code {error.code})")

    def _gone(self, method: str, required: bool) -> Exception:
        """Complain about a missing method if it was there before or has to be there."""
        if method in self._seen or (self._use is Use.REQUIRED and required):
            return self._fault(method, Refusal.EXTERNAL_MISSING, "the node has no such method; start the policy plugin")
        return _Missing()

    # Reports ---------------------------------------------------------------------------------------

    def _fault(self, method: str, name: Refusal, why: str) -> Exception:
        """Count it, tell the operator once and whenever the number has doubled, give the client's error."""
        self._refusals.count(name)
        failures = self._failures[method] = self._failures.get(method, 0) + 1
        if failures & (failures - 1) == 0:
            log.warning(f"{method} failed, nothing is sold ({failures} in a row): {why}")
        return internal_error()

    def _garbage(self, method: str, why: str) -> Exception:
        return self._fault(method, Refusal.EXTERNAL_GARBAGE, clean_message(why))

    def _works(self, method: str) -> None:
        if failures := self._failures.pop(method, 0):
            log.info(f"{method} works again after {failures} failures")

    def _flag(self, method: str, answer: dict[str, Any], name: str) -> bool:
        value = answer.get(name, False)
        if type(value) is not bool:
            raise self._garbage(method, f"{name} is neither true nor false")
        return value

    def _usable(self, entries: list[FeeParams], wall_ms: int) -> list[FeeParams]:
        """Return the lines that may be sent: G-06, G-08, no overflow, then G-07."""
        sound: list[FeeParams] = []
        for entry in entries:
            why = _why_not(entry, wall_ms)
            if why is None:
                sound.append(entry)
            else:
                self._leave_out(entry, *why)
        menu, crossing = order_menu(sound)
        for entry in crossing:
            self._leave_out(entry, "order", "crosses or repeats another entry; a menu must rise in both numbers")
        return menu

    def _leave_out(self, entry: FeeParams, kind: str, why: str) -> None:
        self._refusals.count(Refusal.LINE_LEFT_OUT)
        name = f"{entry.min_fee_msat} msat, {entry.proportional} ppm"
        self._warn(kind, f"{GET_POLICY}: the entry {name} is left out: {why}")

    def _warn(self, kind: str, text: str) -> None:
        """Tell what every request may bring up again, at most once a minute for each kind."""
        now_ms = self._now_ms()
        if kind not in self._warned_ms or now_ms >= self._warned_ms[kind] + LOOK_AGAIN_MS:
            self._warned_ms[kind] = now_ms
            log.warning(text)


def _msat(value: Any, name: str) -> int:
    """Policy plugins write amounts as strings like bLIP-52 or as numbers like CLN. Raises MalformedField."""
    return parse_msat(str(value) if type(value) is int else value, name)


def _read_menu(value: Any) -> list[FeeParams]:
    """Check that every entry has exactly the seven keys of a term (G-05). Raises MalformedField or ProtocolBug."""
    if type(value) is not list:
        raise Malformed("policy_opening_fee_params_menu is not an array", 0)
    if len(value) > MAX_ENTRIES:
        raise Malformed(f"{len(value)} entries; {MAX_ENTRIES} are the most", 0)
    return [_read_entry(number, entry) for number, entry in enumerate(value, 1)]


def _read_entry(number: int, entry: Any) -> FeeParams:
    if type(entry) is not dict or "promise" in entry:
        raise Malformed(f"entry {number} is not an object of the seven terms", 0)
    try:
        texts = {key: str(text) if type(text := entry.get(key)) is int else text for key in MSAT_KEYS if key in entry}
        read = FeeParams.from_json({**entry, **texts, "promise": ""})
        return FeeParams.build(  # written anew: other plugins write other datetimes (S-05)
            min_fee_msat=read.min_fee_msat,
            proportional=read.proportional,
            valid_until_ms=read.valid_until_ms,
            min_lifetime_blocks=read.min_lifetime_blocks,
            max_client_to_self_delay_blocks=read.max_client_to_self_delay_blocks,
            min_payment_size_msat=read.min_payment_size_msat,
            max_payment_size_msat=read.max_payment_size_msat,
        )
    except Malformed as error:
        raise Malformed(f"entry {number}, {error}", 0) from error


def _why_not(entry: FeeParams, wall_ms: int) -> tuple[str, str] | None:
    """Kind and sentence of what speaks against an entry."""
    left_ms = entry.valid_until_ms - wall_ms
    if not MIN_VALIDITY_S * 1000 <= left_ms <= MAX_VALIDITY_S * 1000:
        return "validity", f"it is valid for {left_ms // 1000} s; {MIN_VALIDITY_S} to {MAX_VALIDITY_S} s are possible"
    if why := why_unsound(entry):
        return "limits", why
    if opening_fee_msat(entry.max_payment_size_msat, entry.min_fee_msat, entry.proportional) is None:
        return "overflow", "the fee of the largest payment leaves 64 bits"
    return None
