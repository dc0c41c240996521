"""Who made a payment fail, with which code, as what we saw says. The codes stand in docs/reference/errors.md."""

from __future__ import annotations

from typing import Final, NamedTuple

from lsps2fast.table import Input, State
from lsps2fast_plugin.cln.notifications import ForwardEvent

PAYER, CLIENT, LSP, OPERATOR = "payer", "client", "lsp", "operator"


class Blame(NamedTuple):
    """`failed_by`: payer, client, lsp or operator; None where nothing says."""

    failed_by: str | None
    code: str
    reason: str


# Without better evidence: what it means that a payment ends in this stage.
BY_STAGE: Final = {
    State.COLLECTING: Blame(PAYER, "incomplete", "its parts never added up to what was bought"),
    State.OPENING: Blame(LSP, "open_failed", "no channel could be opened"),
    State.AWAITING_CHANNEL_READY: Blame(CLIENT, "not_ready", "the channel did not become usable in time"),
    State.AWAITING_SETTLEMENT: Blame(CLIENT, "part_failed", "the client did not take the payment"),
    State.BROADCASTING: Blame(CLIENT, "underpaid", "the client took parts that carried less than the fee"),
}
SHUTDOWN: Final = Blame(LSP, "shutdown", "the plugin ended while its parts were coming in")
OFFER_EXPIRED: Final = Blame(PAYER, "offer_expired", "the offer ended before the payment was complete")
CLIENT_AWAY: Final = Blame(CLIENT, "client_away", "the payment was complete, and the client not connected")
NOT_HELD: Final = Blame(None, "not_held", "its parts could not be held: too near their end, too many, or too small")
CHANNEL_LEFT: Final = Blame(PAYER, "channel_left", "a channel that brought its parts was closed while they were held")
CANCELLED: Final = Blame(OPERATOR, "cancelled", "the operator took the offer back")

_BY_INPUT: Final = {
    Input.READY_TIMEOUT: BY_STAGE[State.AWAITING_CHANNEL_READY],
    Input.STORE_FAILED: Blame(LSP, "journal", "the journal could not be written, so nothing was risked"),
    Input.CLOSED: Blame(CLIENT, "channel_gone", "lightningd says that the channel is closed or was given up"),
}


def of_input(kind: Input, fact: object) -> Blame | None:
    """Return what the result of an action says, None where it is no failure."""
    if kind == Input.OPEN_FAILED:
        return Blame(CLIENT, "open_refused", "the client refused the channel") if fact else BY_STAGE[State.OPENING]
    return _BY_INPUT.get(kind)


def of_forward(event: ForwardEvent) -> Blame | None:
    """Return what a `forward_event` says of a part that came back."""
    said = event.reason
    if event.status == "local_failed":
        return Blame(LSP, "not_forwarded", f"this node could not send a part on: {said or 'no reason given'}")
    if event.status == "failed":
        return Blame(CLIENT, "part_failed", "the client failed a part" + (f": {said}" if said else ""))
    return None


CODES: Final = {  # of failed payments in the sales ledger, the log and lsps2_payment_failures_total; limits aside
    "incomplete": "the parts never added up to what was bought, within the collect time-out",
    "offer_expired": "the offer ended before the payment was complete",
    "not_held": "parts could not be held: too near their end, too many, or giving way to larger ones",
    "channel_left": "a channel that brought parts was closed while they were held",
    "client_away": "the payment was complete, and the client did not connect in time",
    "limit": "a limit of the policy; where one is known, its own name stands here (`lsps2-stats`, `limits`)",
    "no_coins": "no free, confirmed coins for the channel",
    "channel_too_large": "the payment needs a larger channel than any that is opened",
    "not_forwardable": "lightningd would not forward the parts, whatever channel is made",
    "open_refused": "the client refused the channel, with its own words",
    "open_failed": "the channel could not be opened, with lightningd's words",
    "given_up": "the client gave the channel up while it was opened",
    "not_ready": "the channel did not become usable in time",
    "channel_gone": "lightningd says that the channel is closed or was given up",
    "journal": "the journal could not be written, so nothing was risked",
    "part_failed": "the client failed a part, with the code it gave",
    "not_forwarded": "this node could not send a part on to the client",
    "underpaid": "the client took parts that carried less than the fee; the rest is owed",
    "cancelled": "the operator took the offer back",
    "shutdown": "the plugin ended while parts were coming in",
    "restart": "it ended while the plugin was not running",
    "from_the_journal": "found in the journal at a start; more is not known",
    "bug": "a fault of this program, see the log",
}
