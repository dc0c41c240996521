"""What a client does at a named message: `client.behaviour.script = {"funding_signed": "error"}`.

Messages in the order of an open, as the client sees them (BOLT 2): `open_channel` has come, `accept_channel` is sent,
`funding_created` has come, `funding_signed` is sent, `channel_ready` is sent, `normal` (both are ready),
`update_add_htlc` has come, `update_fulfill_htlc` or `update_fail_htlc` is sent. `#2` behind a name means its second
time; without it, the first time only, `#*` every time.

Deeds: `error` sends that message and gives the channel up, `close` asks to close it, `disconnect` goes offline, `flap`
disconnects and calls again, `silent` stays connected and never says a word until `client.speak()`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from . import closing
from .channels import U64_MAX, End, Htlc, Owner
from .transcript import Transcript

MESSAGES = (
    "open_channel",
    "accept_channel",
    "funding_created",
    "funding_signed",
    "channel_ready",
    "normal",
    "update_add_htlc",
    "update_fulfill_htlc",
    "update_fail_htlc",
)
DEEDS = ("error", "close", "disconnect", "flap", "silent")
TEXT = "I changed my mind"


@dataclass
class Behaviour:
    """How a client acts. `on_part`: `settle`, `fail`, `hold` or `vanish`, or a function of the HTLC giving one."""

    reject_open: str | None = None  # text of the error answer to open_channel
    least_funding_sat: int = 0  # smaller channels are refused
    reject_types: frozenset[int] = frozenset()  # feature bits: channels of a type with any of them are refused
    accepts_as: tuple[int, ...] | None = None  # type in the answer to open_channel, whatever was asked for
    vanish_at: str = ""  # "open", "funding" or "ready": disconnect at that step
    refuse_funding: str | None = None
    zeroconf: bool = True
    send_ready: bool = True
    htlc_minimum_msat: int = 0
    to_self_delay: int = 6
    max_accepted_htlcs: int = 483
    max_in_flight_msat: int = U64_MAX
    reserve_sat: int | None = None
    on_part: str | Callable[[Htlc], str] = "settle"
    check_fees: bool = True
    script: dict[str, str] = field(default_factory=dict)  # message: deed


class Actor(Owner, Protocol):
    """What a script asks of its client."""

    behaviour: Behaviour
    transcript: Transcript

    @property
    def lsp(self) -> Owner:
        """Return the LSP it is connected to."""

    def connect(self) -> None:
        """Come online."""

    def go_offline(self) -> None:
        """Disconnect."""

    def send_shutdown(self, end: End | None = None) -> None:
        """Ask to close a channel."""


class Script:
    """Carries out the script of one client. `done` are (message, deed) in order."""

    def __init__(self, client: Actor) -> None:
        self.client = client
        self.done: list[tuple[str, str]] = []
        self._seen: Counter[str] = Counter()
        self._speaks = asyncio.Event()
        self._speaks.set()

    def at(self, message: str, end: End | None = None) -> str:
        """Carry out the deed for a message that has come or was sent; return it, or ""."""
        plan = self.client.behaviour.script
        if not plan:
            return ""
        self._seen[message] += 1
        count = self._seen[message]
        deed = plan.get(f"{message}#{count}") or plan.get(f"{message}#*") or (plan.get(message) if count == 1 else None)
        if not deed:
            return ""
        self.done.append((message, deed))
        self.client.transcript.mark(self.client.name, f"{deed} at {message}")
        self._do(deed, end)
        return deed

    async def wait(self) -> None:
        """Return when the client speaks."""
        await self._speaks.wait()

    def _do(self, deed: str, end: End | None) -> None:
        client = self.client
        match deed:
            case "error":
                send_error(client, end, TEXT)
            case "close":
                client.send_shutdown(end)
            case "disconnect":
                client.go_offline()
            case "flap":
                client.go_offline()
                asyncio.get_running_loop().call_soon(client.connect)
            case "silent":
                client.mute = True
                self._speaks.clear()
            case _:
                raise ValueError(f"{deed!r} is no deed: give one of {', '.join(DEEDS)}")

    def speak(self) -> None:
        """Say everything that was not said."""
        self.client.mute = False
        self._speaks.set()
        for end in self.client.ends:
            end.channel.pause(False)


def send_error(client: Actor, end: End | None, text: str) -> None:
    """`error` about a channel, behind what was sent on it before; without one, about the open under way."""
    lsp = client.links.get(client.lsp.node_id)
    if lsp is None:
        return
    if end is None:
        lsp.error_arrived(client, None, text)
        return
    theirs = end.other

    def deliver() -> None:
        theirs.owner.error_arrived(client, theirs, text)
        if end.state not in closing.CLOSED_STATES:
            client.change_state(end, "AWAITING_UNILATERAL", "local", f"sent ERROR {text}")

    end.channel.post(theirs.owner, deliver)
