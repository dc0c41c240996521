"""LSPS2 (bLIP-52): the shapes of `lsps2.get_info` and `lsps2.buy`, the opening fee, menus and channel sizes.

Bytes from a peer become exact values here, once; the rest of the code never re-checks. JSON itself, request ids and
error objects belong to `lsps0`; whether an offer is ours to `promise`; which buys live to `offers`. Requirement ids
such as G-07 are those of docs/conformance.md.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, NamedTuple

import msgspec

from lsps2fast._parts import opening_fee_msat as opening_fee_msat  # the codec's users find it here (F-01 to F-05)
from lsps2fast.errors import Lsps2Error, PeerError, ProtocolBug
from lsps2fast.lsps.lsps0 import MalformedField, invalid_params, read_params

U64_MAX: Final = 2**64 - 1
U32_MAX: Final = 2**32 - 1
U16_MAX: Final = 2**16 - 1

PROTOCOL: Final = 2
GET_INFO: Final = "lsps2.get_info"
BUY: Final = "lsps2.buy"

PROMISE_MAX_BYTES: Final = 512
CLTV_DELTA_LIMIT_BLOCKS: Final = 2016  # B-16: also the farthest expiry lightningd forwards
VALIDITY_MARGIN_MS: Final = 60_000  # G-13


class UnknownFields(MalformedField):
    """Keys that an `opening_fee_params` object must not have (G-11, T-17): `names`, sorted."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__("opening_fee_params", f"unknown keys {', '.join(ascii(name) for name in names)}")
        self.names = tuple(names)


class Unacceptable(Lsps2Error):
    """The LSP kept the rules, but what it offers is outside the caller's limits: do not buy."""


# --- Errors an LSP answers with ---------------------------------------------------------------------------------------


def stale_token() -> PeerError:
    """200: the token is unknown, used up, revoked or expired (G-03)."""
    return PeerError(200, "unrecognized_or_stale_token")


def invalid_fee_params() -> PeerError:
    """201: these are not parameters we promised to this client, or no longer."""
    return PeerError(201, "invalid_opening_fee_params")


def too_small() -> PeerError:
    """202: below the minimum, or nothing is left after the fee."""
    return PeerError(202, "payment_size_too_small")


def too_large() -> PeerError:
    """203: above the maximum, above what we can receive, or beyond 64 bits."""
    return PeerError(203, "payment_size_too_large")


# --- Common schemas (S-01 … S-11) -------------------------------------------------------------------------------------

_DECIMAL = re.compile("0|[1-9][0-9]{0,19}")
_DATETIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?Z")
_SCID = re.compile("(0|[1-9][0-9]{0,7})x(0|[1-9][0-9]{0,7})x(0|[1-9][0-9]{0,4})")
_NODE_ID = re.compile("0[23][0-9a-fA-F]{64}")
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAY_MS = 86_400_000
_FIELD_PRIME = 2**256 - 2**32 - 977  # of secp256k1


def parse_msat(value: object, name: str = "amount_msat") -> int:
    """Return a u64 in plain decimal digits, given as a string (S-01, S-02). Raises MalformedField."""
    if type(value) is not str or _DECIMAL.fullmatch(value) is None or int(value) > U64_MAX:
        raise MalformedField(name, "not a u64 as a decimal string")
    return int(value)


parse_sat = parse_msat


def parse_ppm(value: object, name: str = "proportional") -> int:
    """Return a JSON integer of parts per million, 0 … 2^64-1; no float, no bool (S-03). Raises MalformedField."""
    if type(value) is not int or not 0 <= value <= U64_MAX:
        raise MalformedField(name, "not an integer from 0 to 2^64-1")
    return value


def parse_blocks(value: object, name: str = "blocks", most: int = U32_MAX) -> int:
    """Return a JSON integer of blocks, 0 … `most` (S-04). Raises MalformedField."""
    if type(value) is not int or not 0 <= value <= most:
        raise MalformedField(name, f"not an integer from 0 to {most}")
    return value


def parse_bool(value: object, name: str = "flag") -> bool:
    """JSON true or false, nothing that merely looks like it (S-11). Raises MalformedField."""
    if type(value) is not bool:
        raise MalformedField(name, "neither true nor false")
    return value


def parse_text(value: object, name: str = "text") -> str:
    """Any JSON string. Raises MalformedField."""
    if type(value) is not str:
        raise MalformedField(name, "not a string")
    return value


def parse_datetime(value: object, name: str = "datetime") -> int:
    """Milliseconds since 1970 (UTC) of `YYYY-MM-DDThh:mm:ss[.f]Z` with at most nine fractional digits (S-06).

    Digits below a millisecond are cut off, which can only make an offer end earlier. A time before 1970 is negative.
    Raises MalformedField for any other form, impossible dates and second 60.
    """
    match = _DATETIME.fullmatch(value) if type(value) is str else None
    if match is None:
        raise MalformedField(name, "not a datetime in UTC")
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    if hour > 23 or minute > 59 or second > 59:
        raise MalformedField(name, "no such time of day")
    try:
        days = date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError as error:
        raise MalformedField(name, "no such day") from error
    fraction_ms = int((match[7] or "0").ljust(3, "0")[:3])
    return days * _DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000 + fraction_ms


@functools.lru_cache(maxsize=1024)  # the end of an offer is written many times in a sale
def format_datetime(unix_ms: int) -> str:
    """Return the only form we write: 24 characters, three fractional digits, `Z` (S-05).

    ProtocolBug outside 1970 … 9999.
    """
    days, rest_ms = divmod(unix_ms, _DAY_MS)
    if days < 0 or days + _EPOCH_DAY > date.max.toordinal():
        raise ProtocolBug(f"{unix_ms} ms since 1970 has no datetime with a year of four digits")
    day = date.fromordinal(days + _EPOCH_DAY)
    rest_s, milli = divmod(rest_ms, 1000)
    clock = f"{rest_s // 3600:02}:{rest_s // 60 % 60:02}:{rest_s % 60:02}.{milli:03}"
    return f"{day.year:04}-{day.month:02}-{day.day:02}T{clock}Z"


def is_whole_ms(text: str) -> bool:
    """Return true when a datetime that `parse_datetime` accepted has only zeros below the millisecond (S-07)."""
    return not text[23:-1].strip("0")


def parse_scid(value: object, name: str = "scid") -> int:
    """Return the u64 of `BLOCKxTXxOUT`, limits 24, 24 and 16 bits (S-08). Raises MalformedField."""
    match = _SCID.fullmatch(value) if type(value) is str else None
    if match is None:
        raise MalformedField(name, "not BLOCKxTXxOUT")
    block, tx, out = map(int, match.groups())
    if block >= 1 << 24 or tx >= 1 << 24 or out >= 1 << 16:
        raise MalformedField(name, "a part is out of range")
    return block << 40 | tx << 16 | out


def format_scid(scid: int) -> str:
    """`BLOCKxTXxOUT` of a u64. Raises ProtocolBug outside u64."""
    if not 0 <= scid <= U64_MAX:
        raise ProtocolBug(f"{scid} is not a short channel id")
    return f"{scid >> 40}x{scid >> 16 & 0xFFFFFF}x{scid & 0xFFFF}"


def parse_node_id(value: object, name: str = "node_id") -> bytes:
    """Return the 33 bytes of a compressed point on the curve, from 66 hex digits of either case (S-09).

    Raises MalformedField.
    """
    if type(value) is not str or _NODE_ID.fullmatch(value) is None:
        raise MalformedField(name, "not a compressed point of 66 hex digits")
    x = int(value[2:], 16)
    square = (x * x * x + 7) % _FIELD_PRIME
    if x >= _FIELD_PRIME or pow(square, (_FIELD_PRIME - 1) // 2, _FIELD_PRIME) != 1:
        raise MalformedField(name, "not a point of secp256k1")
    return bytes.fromhex(value)


# --- opening_fee_params -----------------------------------------------------------------------------------------------

_READERS: Final[Mapping[str, Callable[[object, str], int | str]]] = {  # G-05: these keys, in this order, and no other
    "min_fee_msat": parse_msat,
    "proportional": parse_ppm,
    "valid_until": parse_datetime,
    "min_lifetime": parse_blocks,
    "max_client_to_self_delay": parse_blocks,
    "min_payment_size_msat": parse_msat,
    "max_payment_size_msat": parse_msat,
    "promise": parse_text,
}


_KEYS: Final = tuple(_READERS)


@functools.lru_cache(maxsize=512, typed=True)
def _numbers(*values: object) -> tuple[tuple[Any, ...], bool]:
    """Return the seven numbers of an entry, and whether we would write them as they came. Raises MalformedField.

    A menu is sold to many: what is the same in their buys is read once, and kept once.
    """
    numbers: list[Any] = [read(value, name) for value, (name, read) in zip(values, _READERS.items(), strict=False)]
    try:
        return tuple(numbers), _texts(*numbers) == values
    except ProtocolBug:  # a year we do not write
        return tuple(numbers), False


def _texts(least_fee: int, ppm: int, until_ms: int, life: int, delay: int, least: int, most: int) -> tuple[object, ...]:
    """Return the seven numbers of an entry as we write them. Raises ProtocolBug for a time that cannot be written."""
    return str(least_fee), ppm, format_datetime(until_ms), life, delay, str(least), str(most)


@dataclass(frozen=True, slots=True)
class FeeParams:
    """One `opening_fee_params` object. Equal when the values are; `raw` has the texts as they came (B-03)."""

    min_fee_msat: int
    proportional: int
    valid_until_ms: int
    min_lifetime_blocks: int
    max_client_to_self_delay_blocks: int
    min_payment_size_msat: int
    max_payment_size_msat: int
    promise: str
    _given: dict[str, Any] | None = field(compare=False, repr=False)  # None: as we would write them

    @classmethod
    def from_json(cls, value: object) -> FeeParams:
        """Read all eight keys. Raises MalformedField (missing, type, syntax), else UnknownFields for any other key."""
        if type(value) is not dict:
            raise MalformedField("opening_fee_params", "not an object")
        if tuple(value) == _KEYS:
            *numbers, promise = value.values()
            with contextlib.suppress(TypeError):  # what cannot be looked up is read like an unusual entry
                known, ours = _numbers(*numbers)
                return cls(*(*known, parse_text(promise, "promise"), None if ours else dict(value)))
        values: list[Any] = []
        for name, read in _READERS.items():
            if name not in value:
                raise MalformedField(name, "missing")
            values.append(read(value[name], name))
        if len(value) > len(_KEYS):
            raise UnknownFields(sorted(value.keys() - _READERS.keys()))
        return cls(*(*values, dict(value)))

    @property
    def raw(self) -> dict[str, Any]:
        """The eight keys with the texts as they came."""
        if self._given is not None:
            return dict(self._given)
        numbers = (
            self.min_fee_msat, self.proportional, self.valid_until_ms, self.min_lifetime_blocks,
            self.max_client_to_self_delay_blocks, self.min_payment_size_msat, self.max_payment_size_msat,
        )  # fmt: skip
        return dict(zip(_KEYS, (*_texts(*numbers), self.promise), strict=True))

    @classmethod
    def build(
        cls,
        *,
        min_fee_msat: int,
        proportional: int,
        valid_until_ms: int,
        min_lifetime_blocks: int,
        max_client_to_self_delay_blocks: int,
        min_payment_size_msat: int,
        max_payment_size_msat: int,
        promise: str = "",
    ) -> FeeParams:
        """Return an entry of our own, written canonically.

        Raises MalformedField for a value that has no place on the wire.
        """
        if proportional > U32_MAX:  # S-03: others may read only 32 bits
            raise MalformedField("proportional", "not an integer from 0 to 2^32-1")
        return cls.from_json(
            {
                "min_fee_msat": str(min_fee_msat),
                "proportional": proportional,
                "valid_until": format_datetime(valid_until_ms),
                "min_lifetime": min_lifetime_blocks,
                "max_client_to_self_delay": max_client_to_self_delay_blocks,
                "min_payment_size_msat": str(min_payment_size_msat),
                "max_payment_size_msat": str(max_payment_size_msat),
                "promise": promise,
            }
        )

    def with_promise(self, promise: str) -> FeeParams:
        """Return the same entry under another promise."""
        return FeeParams.from_json({**self.raw, "promise": promise})

    def to_json(self) -> dict[str, Any]:
        """Return the eight keys with their original texts: what a client sends back and a journal keeps (B-03,
        B-10).
        """
        return self.raw

    def fee_msat(self, payment_size_msat: int) -> int | None:
        """`opening_fee_msat` under these terms; None is overflow."""
        return opening_fee_msat(payment_size_msat, self.min_fee_msat, self.proportional)


def why_unsound(params: FeeParams) -> str | None:
    """Return why an LSP must not offer these limits, or None (G-08)."""
    if params.min_payment_size_msat > params.max_payment_size_msat:
        return "min_payment_size_msat is above max_payment_size_msat"
    if params.max_payment_size_msat <= params.min_fee_msat:
        return "max_payment_size_msat does not exceed min_fee_msat, so that no payment is possible"
    return None


# --- Menus (G-04 … G-07) ----------------------------------------------------------------------------------------------


def _rises(lower: FeeParams, upper: FeeParams) -> bool:
    """G-07: neither number falls and at least one grows."""
    return (
        lower.min_fee_msat <= upper.min_fee_msat
        and lower.proportional <= upper.proportional
        and (lower.min_fee_msat, lower.proportional) != (upper.min_fee_msat, upper.proportional)
    )


def check_menu_order(menu: Sequence[FeeParams]) -> bool:
    """Return true when each entry costs more than the one before it, as G-07 has it."""
    return all(map(_rises, menu, menu[1:]))


def order_menu(menu: Iterable[FeeParams]) -> tuple[list[FeeParams], list[FeeParams]]:
    """Sort by (min_fee, proportional) and drop what crosses or repeats: (menu to send, entries dropped) (G-07)."""
    kept: list[FeeParams] = []
    dropped: list[FeeParams] = []
    for entry in sorted(menu, key=lambda entry: (entry.min_fee_msat, entry.proportional)):
        (kept if not kept or _rises(kept[-1], entry) else dropped).append(entry)
    return kept, dropped


# --- lsps2.get_info ---------------------------------------------------------------------------------------------------


def get_info_params(token: str | None = None) -> dict[str, Any]:
    """Return what a client sends (G-02)."""
    return {} if token is None else {"token": token}


def parse_get_info(params: object) -> str | None:
    """Return the token of a `lsps2.get_info` request, if any. Raises PeerError -32602 (G-02, T-14 … T-16)."""
    token = read_params(params, {"token"}).get("token")
    if token is None:
        return None
    try:
        return parse_text(token, "token")
    except MalformedField as error:
        raise invalid_params() from error


def menu_result(menu: Sequence[FeeParams]) -> dict[str, Any]:
    """Return what an LSP answers (G-04, G-05). Raises ProtocolBug for a menu that breaks G-07: order it first."""
    if not check_menu_order(menu):
        raise ProtocolBug("menu entries are not in rising order")
    return {"opening_fee_params_menu": [entry.to_json() for entry in menu]}


def validate_menu(result: object) -> list[FeeParams]:
    """Return a menu as the client reads it: all of it or nothing (G-11). The promise stays opaque (G-12).

    Raises MalformedField; the flow then ends. A wrong order is not an error (G-14): see `check_menu_order`.
    """
    menu = result.get("opening_fee_params_menu") if type(result) is dict else None
    if type(menu) is not list:
        raise MalformedField("opening_fee_params_menu", "not an array")
    entries = [FeeParams.from_json(entry) for entry in menu]
    for entry in entries:
        if len(msgspec.json.encode(entry.promise)) - 2 > PROMISE_MAX_BYTES:  # without the quotes
            raise MalformedField("promise", f"longer than {PROMISE_MAX_BYTES} bytes")
    return entries


# --- Choosing an entry (client) ---------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """The entry to buy. The fee is that of the largest payment to accept, which in fixed mode is the payment itself."""

    entry: FeeParams
    opening_fee_msat: int
    largest_payment_msat: int


def choose_entry(
    menu: Sequence[FeeParams],
    *,
    now_ms: int,
    our_to_self_delay_blocks: int,
    payment_size_msat: int | None = None,
    largest_payment_msat: int | None = None,
    max_fee_msat: int | None = None,
    needed_ms: int = VALIDITY_MARGIN_MS,
) -> Choice:
    """Return the cheapest entry that fits (G-13, G-15, B-04).

    `payment_size_msat` chooses fixed mode. In variable mode the fee is judged at the largest payment the invoice will
    accept: `largest_payment_msat` when the caller names one, else as much as the entry and `max_fee_msat` allow; the
    caller must then refuse more than `Choice.largest_payment_msat`. `needed_ms` is how long the entry must still be
    valid: a margin plus the life of the invoice. Raises Unacceptable with the reason for each entry.
    """
    fitting: list[Choice] = []
    reasons: list[str] = []
    for number, entry in enumerate(menu):
        try:
            _check_terms(entry, now_ms + needed_ms, our_to_self_delay_blocks)
            largest_msat = _largest_payment_msat(entry, payment_size_msat, largest_payment_msat, max_fee_msat)
            fitting.append(Choice(entry, _accepted_fee_msat(entry, largest_msat, max_fee_msat), largest_msat))
        except Unacceptable as reason:
            reasons.append(f"entry {number}: {reason}")
    if not fitting:
        raise Unacceptable("; ".join(reasons) or "the menu is empty")
    common_msat = min(choice.largest_payment_msat for choice in fitting)  # fees compare only at one amount
    return min(fitting, key=lambda choice: (choice.entry.fee_msat(common_msat) or 0, -choice.entry.valid_until_ms))


def _check_terms(entry: FeeParams, needed_until_ms: int, our_to_self_delay_blocks: int) -> None:
    if entry.valid_until_ms <= needed_until_ms:
        raise Unacceptable(f"ends too soon, at {entry.raw['valid_until']}; ask for a new menu, or a shorter expiry")
    if entry.max_client_to_self_delay_blocks < our_to_self_delay_blocks:
        raise Unacceptable(
            f"max_client_to_self_delay {entry.max_client_to_self_delay_blocks}, we ask {our_to_self_delay_blocks}"
        )


def _largest_payment_msat(
    entry: FeeParams, payment_size_msat: int | None, largest_msat: int | None, max_fee_msat: int | None
) -> int:
    """Return the amount at which the fee is judged; within the entry's limits, or Unacceptable."""
    if payment_size_msat is not None:
        amount_msat = payment_size_msat
    elif largest_msat is not None:
        amount_msat = min(largest_msat, entry.max_payment_size_msat)
    else:
        amount_msat = min(entry.max_payment_size_msat, _fee_bound_msat(entry, max_fee_msat))
    if not entry.min_payment_size_msat <= amount_msat <= entry.max_payment_size_msat:
        raise Unacceptable(
            f"{amount_msat} msat is outside {entry.min_payment_size_msat} … {entry.max_payment_size_msat} msat"
        )
    return amount_msat


def _fee_bound_msat(entry: FeeParams, max_fee_msat: int | None) -> int:
    """Return the largest payment whose proportional fee neither overflows nor exceeds the caller's limit.

    ceil(size * ppm / 10^6) <= limit is the same as size * ppm <= limit * 10^6.
    """
    if entry.proportional == 0:
        return U64_MAX
    bound = (U64_MAX - 999_999) // entry.proportional
    return bound if max_fee_msat is None else min(bound, max_fee_msat * 1_000_000 // entry.proportional)


def _accepted_fee_msat(entry: FeeParams, amount_msat: int, max_fee_msat: int | None) -> int:
    fee_msat = entry.fee_msat(amount_msat)
    if fee_msat is None:
        raise Unacceptable(f"the fee for {amount_msat} msat overflows")
    if fee_msat >= amount_msat:
        raise Unacceptable(f"the fee of {fee_msat} msat leaves nothing of {amount_msat} msat")
    if max_fee_msat is not None and fee_msat > max_fee_msat:
        raise Unacceptable(
            f"the fee of {fee_msat} msat for {amount_msat} msat is above the limit of {max_fee_msat} msat"
        )
    return fee_msat


# --- lsps2.buy --------------------------------------------------------------------------------------------------------


class BuyAsk(NamedTuple):
    """A client's request for a channel; without a size the buy is variable: one HTLC of any allowed amount (B-02)."""

    params: FeeParams
    payment_size_msat: int | None


class BuyResult(NamedTuple):
    """The answer to a buy, as the client reads it (B-09)."""

    jit_scid: int
    cltv_expiry_delta_blocks: int
    client_trusts_lsp: bool


def buy_params(entry: FeeParams, payment_size_msat: int | None = None) -> dict[str, Any]:
    """Return what a client sends: the chosen entry verbatim (B-01, B-03)."""
    params: dict[str, Any] = {"opening_fee_params": entry.to_json()}
    if payment_size_msat is not None:
        params["payment_size_msat"] = str(payment_size_msat)
    return params


def parse_buy(params: object) -> BuyAsk:
    """Step 1 of B-06: the shape of a `lsps2.buy` request.

    Raises PeerError -32602, or 201 when `opening_fee_params` has a key or precision that we never promise (T-17, S-07).
    """
    given = read_params(params, {"opening_fee_params", "payment_size_msat"})
    try:
        size = given.get("payment_size_msat")
        size_msat = None if size is None else parse_msat(size, "payment_size_msat")
        offer = FeeParams.from_json(given.get("opening_fee_params"))
    except UnknownFields as error:
        raise invalid_fee_params() from error
    except MalformedField as error:
        raise invalid_params() from error
    if not is_whole_ms(offer.raw["valid_until"]):
        raise invalid_fee_params()
    return BuyAsk(offer, size_msat)


def buy_result(jit_scid: int, cltv_expiry_delta_blocks: int, client_trusts_lsp: bool) -> dict[str, Any]:
    """Return what an LSP answers (B-09). Raises ProtocolBug for a delta that BOLT 11 cannot carry (B-12)."""
    if not 0 <= cltv_expiry_delta_blocks <= U16_MAX:
        raise ProtocolBug(f"lsp_cltv_expiry_delta of {cltv_expiry_delta_blocks} blocks does not fit 16 bits")
    return {
        "jit_channel_scid": format_scid(jit_scid),
        "lsp_cltv_expiry_delta": cltv_expiry_delta_blocks,
        "client_trusts_lsp": client_trusts_lsp,
    }


def parse_buy_result(
    result: object, *, allow_client_trusts_lsp: bool = False, max_delta_blocks: int = CLTV_DELTA_LIMIT_BLOCKS
) -> BuyResult:
    """Read the answer to a buy (B-16). Raises MalformedField for its shape, Unacceptable for terms we did not allow."""
    if type(result) is not dict:
        raise MalformedField("result", "not an object")
    got = BuyResult(
        parse_scid(result.get("jit_channel_scid"), "jit_channel_scid"),
        parse_blocks(result.get("lsp_cltv_expiry_delta"), "lsp_cltv_expiry_delta", U16_MAX),
        parse_bool(result.get("client_trusts_lsp", False), "client_trusts_lsp"),
    )
    if got.cltv_expiry_delta_blocks > max_delta_blocks:
        raise Unacceptable(f"lsp_cltv_expiry_delta of {got.cltv_expiry_delta_blocks} blocks, limit {max_delta_blocks}")
    if got.client_trusts_lsp and not allow_client_trusts_lsp:
        raise Unacceptable("the LSP asks to be trusted until it broadcasts the funding transaction")
    return got


# --- Channel size -----------------------------------------------------------------------------------------------------


def min_capacity_sat(
    sum_forward_msat: int, parts: int, feerate_perkw: int, anchors: bool, zero_reserve: bool, dust_limit_sat: int
) -> int:
    """Return the smallest channel through which `parts` HTLCs of `sum_forward_msat` in all can be sent (O-03).

    Beside the forwards it holds our reserve of 1 %, twice the commitment fee with one HTLC more (the spike buffer of
    BOLT 2) and, with anchors, both anchor outputs.
    """
    weight = (1124 if anchors else 724) + 172 * (parts + 1)
    commitment_fee_sat = 2 * -(-feerate_perkw * weight // 1000)
    needed_sat = -(-(sum_forward_msat + (660_000 if anchors else 0)) // 1000) + commitment_fee_sat
    if zero_reserve:
        return needed_sat
    # capacity - ceil(capacity / 100) >= needed  is the same as  99 * capacity >= 100 * needed
    return max(needed_sat + dust_limit_sat, -(-100 * needed_sat // 99))
