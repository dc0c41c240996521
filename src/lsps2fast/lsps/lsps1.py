"""LSPS1 (bLIP-51), sans-I/O: channels that a client orders and pays ahead, by an invoice that is held.

What an LSP sells (`Info`), what a client orders (`OrderAsk`), what it is told of its order, and in which order things
happen to one: `GRID`. Prices, records and the calls to lightningd are the service's. Requirement ids such as E-07 are
those of docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

from lsps2fast.errors import PeerError, ProtocolBug
from lsps2fast.lsps.lsps0 import INVALID_PARAMS, MalformedField
from lsps2fast.lsps.lsps2 import U16_MAX, U32_MAX, format_datetime, parse_blocks, parse_bool, parse_sat, parse_text

PROTOCOL: Final = 1
GET_INFO: Final = "lsps1.get_info"
CREATE_ORDER: Final = "lsps1.create_order"
GET_ORDER: Final = "lsps1.get_order"

MOST_ADDRESS: Final = 100  # characters; the longest of bitcoin has 90
MOST_ORDER_ID: Final = 64


# --- Errors an LSP answers with ---------------------------------------------------------------------------------------


def invalid_field(name: str, why: str, unrecognized: tuple[str, ...] = ()) -> PeerError:
    """-32602: a member of the request is missing, wrong or unknown; LSPS0's list is there, too (E-05, T-14)."""
    data = {"property": name, "message": why, "unrecognized": list(unrecognized)}
    return PeerError(INVALID_PARAMS, "Invalid params", data)


def option_mismatch(name: str, why: str) -> PeerError:
    """100: the order is outside of what `lsps1.get_info` says; `name` is the member of it (E-06)."""
    return PeerError(100, "Option mismatch", {"property": name, "message": why})


def wrong_token() -> PeerError:
    """102: no such token is known, or not any more (E-03)."""
    return PeerError(102, "Unrecognized or stale token", {})


def order_not_found() -> PeerError:
    """101: there is no such order of this client (E-11)."""
    return PeerError(101, "Not found", {})


# --- What is sold -----------------------------------------------------------------------------------------------------


class Info(NamedTuple):
    """The answer to `lsps1.get_info` (E-02)."""

    min_required_channel_confirmations: int
    min_funding_confirms_within_blocks: int
    supports_zero_channel_reserve: bool
    max_channel_expiry_blocks: int
    min_initial_client_balance_sat: int
    max_initial_client_balance_sat: int
    min_initial_lsp_balance_sat: int
    max_initial_lsp_balance_sat: int
    min_channel_balance_sat: int
    max_channel_balance_sat: int

    def to_json(self) -> dict[str, Any]:
        """Return it as it is sent: satoshis as strings of digits (S-01)."""
        return {name: str(value) if name.endswith("_sat") else value for name, value in self._asdict().items()}


def parse_get_info(params: object) -> None:
    """`lsps1.get_info` knows no parameters. Raises PeerError -32602."""
    _members(params, ())


# --- Orders -----------------------------------------------------------------------------------------------------------


class OrderAsk(msgspec.Struct, frozen=True, kw_only=True):
    """What a client orders. `token`: as it came, null too, for LDK wants it back so; without one "" (E-08)."""

    lsp_balance_sat: int
    client_balance_sat: int
    required_channel_confirmations: int
    funding_confirms_within_blocks: int
    channel_expiry_blocks: int
    announce_channel: bool
    token: str | None = ""
    refund_onchain_address: str | None = None

    @property
    def capacity_sat(self) -> int:
        """Return the size of the channel."""
        return self.lsp_balance_sat + self.client_balance_sat


_REQUIRED: Final = (
    "lsp_balance_sat",
    "client_balance_sat",
    "required_channel_confirmations",
    "funding_confirms_within_blocks",
    "channel_expiry_blocks",
    "announce_channel",
)
_ASKED: Final = (*_REQUIRED, "token", "refund_onchain_address")


def parse_create_order(params: object, info: Info) -> OrderAsk:
    """Read `lsps1.create_order` against what is sold.

    Raises PeerError -32602 for a member that breaks its schema (E-05), then 100 for one outside of `info` (E-06).
    Members that may be left out may be null, as some wallets write them.
    """
    known = _members(params, _ASKED)
    try:
        ask = OrderAsk(
            lsp_balance_sat=parse_sat(known.get("lsp_balance_sat"), "lsp_balance_sat"),
            client_balance_sat=parse_sat(known.get("client_balance_sat"), "client_balance_sat"),
            required_channel_confirmations=_blocks(known, "required_channel_confirmations", U16_MAX),
            funding_confirms_within_blocks=_blocks(known, "funding_confirms_within_blocks", U16_MAX),
            channel_expiry_blocks=_blocks(known, "channel_expiry_blocks", U32_MAX),
            announce_channel=parse_bool(known.get("announce_channel"), "announce_channel"),
            token=_text(known, "token") if "token" in known else "",
            refund_onchain_address=_text(known, "refund_onchain_address"),
        )
    except MalformedField as error:
        raise invalid_field(error.name, error.why.partition(": ")[2]) from error
    for name in ("lsp_balance_sat", "channel_expiry_blocks"):
        if getattr(ask, name) < 1:
            raise invalid_field(name, "less than 1")
    if len(ask.refund_onchain_address or "") > MOST_ADDRESS:
        raise invalid_field("refund_onchain_address", "longer than an address")
    _check(ask, info)
    return ask


def _check(ask: OrderAsk, info: Info) -> None:
    """Hold an order against what is sold. Raises PeerError 100 (E-06)."""
    least = {
        "min_initial_lsp_balance_sat": ask.lsp_balance_sat,
        "min_initial_client_balance_sat": ask.client_balance_sat,
        "min_channel_balance_sat": ask.capacity_sat,
        "min_required_channel_confirmations": ask.required_channel_confirmations,
        "min_funding_confirms_within_blocks": ask.funding_confirms_within_blocks,
    }
    most = {
        "max_initial_lsp_balance_sat": ask.lsp_balance_sat,
        "max_initial_client_balance_sat": ask.client_balance_sat,
        "max_channel_balance_sat": ask.capacity_sat,
        "max_channel_expiry_blocks": ask.channel_expiry_blocks,
    }
    for name, value in least.items():
        if value < (bound := getattr(info, name)):
            raise option_mismatch(name, f"{value} is less than {bound}")
    for name, value in most.items():
        if value > (bound := getattr(info, name)):
            raise option_mismatch(name, f"{value} is more than {bound}")


def parse_get_order(params: object) -> str:
    """Return which order `lsps1.get_order` asks for. Raises PeerError -32602."""
    order_id = _members(params, ("order_id",)).get("order_id")
    if type(order_id) is not str:
        raise invalid_field("order_id", "not a string")
    return order_id


def _members(params: object, known: tuple[str, ...]) -> Mapping[str, Any]:
    if type(params) is not dict:
        raise invalid_field("", "the parameters are not an object")
    unknown = tuple(sorted(params.keys() - known))
    if unknown:
        raise invalid_field(unknown[0], "not known", unknown)
    return params


def _blocks(known: Mapping[str, Any], name: str, most: int) -> int:
    return parse_blocks(known.get(name), name, most)


def _text(known: Mapping[str, Any], name: str) -> str | None:
    value = known.get(name)
    return None if value is None else parse_text(value, name)


# --- What becomes of an order -----------------------------------------------------------------------------------------


class OrderState(StrEnum):
    """How far an order has come. From FUNDED on its channel exists; what is paid then is owed."""

    EXPECTED = "expected"  # its invoice may be paid
    HELD = "held"  # all parts of the payment are held; or it was taken, and no channel is under way
    OPENING = "opening"  # coins are chosen, and an open may be under way
    FUNDED = "funded"  # the channel is signed, its funding withheld
    SENT = "sent"  # bitcoind has the funding
    REFUNDING = "refunding"  # no channel comes of it: the payment goes back, the rest of an open is cleared away
    DONE = "done"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self in (OrderState.DONE, OrderState.FAILED)


class Fact(StrEnum):
    """What may happen to an order."""

    HOLD = "hold"  # all parts of the payment are held
    PAID = "paid"  # the payment is taken: by lightningd with its invoice, or by us with the preimage
    LOST = "lost"  # there is no payment: it never came in time, or went back without us
    COINS = "coins"  # coins for its channel are chosen
    NO_CHANNEL = "no_channel"  # no channel can be opened
    FUNDED = "funded"  # the channel is signed, its funding withheld
    SENT = "sent"  # bitcoind has the funding
    GONE = "gone"  # lightningd has the channel no more, and its funding was not sent, or was taken back
    LATE = "late"  # the payment may be held no longer
    CLEARED = "cleared"  # nothing is left of an open
    BURIED = "buried"  # the funding has blocks enough, or the channel has been closed


# A cell: the state that follows; `=` the same; `!` our own driver must never say this; `A|B` A where the payment was
# not taken yet, B where it was (`paid`): what was taken is owed, and another channel is opened for it.
GRID: Final[Mapping[Fact, str]] = {
    #                  expected   held            opening         funded          sent  refunding    done  failed
    Fact.HOLD: "        held       =               =               =               =     =            =     =",
    Fact.PAID: "        held       =               =               =               =     =            =     !",
    Fact.LOST: "        refunding  refunding|held  refunding|held  =               =     =            !     !",
    Fact.COINS: "       !          opening         opening         !               !     !            !     !",
    Fact.NO_CHANNEL: "  !          refunding|held  refunding|held  !               !     !            !     !",
    Fact.FUNDED: "      !          !               funded          !               !     !            !     !",
    Fact.SENT: "        !          !               !               sent            =     !            !     !",
    Fact.GONE: "        !          !               !               refunding|held  =     !            !     !",
    Fact.LATE: "        !          refunding|held  =               =               =     =            !     !",
    Fact.CLEARED: "     !          =               held            !               !     failed|held  !     !",
    Fact.BURIED: "      !          !               !               !               done  !            =     !",
}
_CELLS: Final = {fact: dict(zip(OrderState, row.split(), strict=True)) for fact, row in GRID.items()}


def state_after(state: OrderState, paid: bool, fact: Fact) -> OrderState:
    """Return the state that follows; `paid` as it is with the fact. Raises ProtocolBug for what cannot be."""
    cell = _CELLS[fact][state]
    if cell == "!":
        raise ProtocolBug(f"an order that is {state} is told {fact}")
    if cell == "=":
        return state
    unpaid, _, taken = cell.partition("|")
    return OrderState(taken if paid and taken else unpaid)


class OrderStatus(NamedTuple):
    """What `lsps1.create_order` and `lsps1.get_order` tell. Times in ms since 1970."""

    order_id: str
    ask: OrderAsk
    state: OrderState
    paid: bool
    created_ms: int
    expires_ms: int
    fee_sat: int
    invoice: str
    funded_ms: int = 0  # 0: its funding was not sent
    funding_outpoint: str = ""
    lease_ends_ms: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the answer (E-08 to E-10)."""
        ask = self.ask
        return {
            "order_id": self.order_id,
            "lsp_balance_sat": str(ask.lsp_balance_sat),
            "client_balance_sat": str(ask.client_balance_sat),
            "required_channel_confirmations": ask.required_channel_confirmations,
            "funding_confirms_within_blocks": ask.funding_confirms_within_blocks,
            "channel_expiry_blocks": ask.channel_expiry_blocks,
            "token": ask.token,
            "announce_channel": ask.announce_channel,
            "created_at": format_datetime(self.created_ms),
            "order_state": self._order_state(),
            "payment": {
                "bolt11": {
                    "state": self._payment_state(),
                    "expires_at": format_datetime(self.expires_ms),
                    "fee_total_sat": str(self.fee_sat),
                    "order_total_sat": str(self.fee_sat + ask.client_balance_sat),
                    "invoice": self.invoice,
                }
            },
            "channel": self._channel(),
        }

    def _order_state(self) -> str:
        if self.state in (OrderState.SENT, OrderState.DONE):
            return "COMPLETED"
        failed = self.state is OrderState.FAILED or (self.state is OrderState.REFUNDING and not self.paid)
        return "FAILED" if failed else "CREATED"

    def _payment_state(self) -> str:
        if self.paid:
            return "PAID"
        if self.state is OrderState.EXPECTED:
            return "EXPECT_PAYMENT"
        return "REFUNDED" if self.state in (OrderState.REFUNDING, OrderState.FAILED) else "HOLD"

    def _channel(self) -> dict[str, Any] | None:
        if not self.funded_ms:
            return None
        return {
            "funded_at": format_datetime(self.funded_ms),
            "funding_outpoint": self.funding_outpoint,
            "expires_at": format_datetime(self.lease_ends_ms),
        }
