"""The policy file: TOML in, `Rules` out, or a ConfigError that names line, key and remedy.

Every key is declared once, in a shape below with its range and in `MEANING` with its words. docs/how-to/set-a-fee-
policy.md shows them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import U64_MAX, opening_fee_msat, parse_node_id, why_unsound
from lsps2fast.lsps.promise import token_hash
from lsps2fast_plugin.service.policy.closing_file import CLOSING_MEANING, closing_of
from lsps2fast_plugin.service.policy.rules import (
    DEFAULT_LINE,
    MAX_ENTRIES,
    MAX_VALIDITY_S,
    MIN_VALIDITY_S,
    MODES,
    REUSES,
    CapacityRule,
    FeeLine,
    Floor,
    NamedLine,
    Reuse,
    Rules,
    Token,
    TrustRule,
)
from lsps2fast_plugin.service.policy.toml import Path, Source

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Msat = Annotated[int, Meta(ge=0, le=10**15)]
Sat = Annotated[int, Meta(ge=0, le=10**12)]
Ppm = Annotated[int, Meta(ge=0, le=10**6)]
Blocks = Annotated[int, Meta(ge=0, le=10**6)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Mode = Literal["lsp-trusts-client", "client-trusts-lsp"]
Reuses = Literal["off", "free", "fee"]


class FeeLineTable(msgspec.Struct, frozen=True, kw_only=True):
    """[[fee_line]] and [[token.fee_line]]."""

    min_fee_msat: Msat | None = None
    proportional_ppm: Ppm | None = None
    validity_s: Annotated[int, Meta(ge=MIN_VALIDITY_S, le=MAX_VALIDITY_S)] = DEFAULT_LINE.validity_s
    min_payment_size_msat: Msat = DEFAULT_LINE.min_payment_size_msat
    max_payment_size_msat: Msat | None = None
    min_lifetime_blocks: Blocks = DEFAULT_LINE.min_lifetime_blocks
    max_client_to_self_delay_blocks: Annotated[int, Meta(ge=1, le=65_535)] = (
        DEFAULT_LINE.max_client_to_self_delay_blocks
    )
    band: object = None


class BandTable(msgspec.Struct, frozen=True, kw_only=True):
    """[[fee_line.band]]."""

    up_to_msat: Msat
    min_fee_msat: Msat | None = None
    proportional_ppm: Ppm | None = None


class FloorTable(msgspec.Struct, frozen=True, kw_only=True):
    """[floor]."""

    open_vbytes: Annotated[int, Meta(ge=0, le=100_000)] = Floor().open_vbytes
    close_vbytes: Annotated[int, Meta(ge=0, le=100_000)] = Floor().close_vbytes
    factor_percent: Annotated[int, Meta(ge=0, le=10_000)] = Floor().factor_percent
    max_loss_sat: Sat = Floor().max_loss_sat


class CapacityTable(msgspec.Struct, frozen=True, kw_only=True):
    """[capacity]."""

    headroom_sat: Sat = CapacityRule().headroom_sat
    factor_percent: Annotated[int, Meta(ge=100, le=10_000)] = CapacityRule().factor_percent
    min_sat: Sat = CapacityRule().min_sat
    max_sat: Annotated[int, Meta(ge=1_000, le=10**12)] = CapacityRule().max_sat
    keep_onchain_sat: Sat = CapacityRule().keep_onchain_sat


class TrustTable(msgspec.Struct, frozen=True, kw_only=True):
    """[trust]."""

    default: Mode = "lsp-trusts-client"
    client_trusts_above_sat: Sat | None = None
    capital_budget_sat: Sat = TrustRule().capital_budget_sat
    unpaid_limit: Annotated[int, Meta(ge=1, le=1_000)] = TrustRule().unpaid_limit
    heal_days: Annotated[int, Meta(ge=1, le=3_650)] = TrustRule().heal_days
    probe_limit: Annotated[int, Meta(ge=1, le=1_000)] = TrustRule().probe_limit
    probe_heal_hours: Annotated[int, Meta(ge=1, le=8_760)] = TrustRule().probe_heal_hours
    withheld_budget_sat: Sat | None = None
    mining_budget_sat: Sat = TrustRule().mining_budget_sat
    client_share_percent: Annotated[int, Meta(ge=1, le=100)] = TrustRule().client_share_percent
    close_unpaid_hours: Annotated[int, Meta(ge=0, le=87_600)] = TrustRule().close_unpaid_hours


class ExistingChannelsTable(msgspec.Struct, frozen=True, kw_only=True):
    """[existing_channels]."""

    reuse: Reuses = "off"
    fee_percent: Percent = Reuse().fee_percent


class PeersTable(msgspec.Struct, frozen=True, kw_only=True):
    """[peers]."""

    allow: list[str] | None = None
    deny: list[str] = []
    zero_reserve: list[str] = []


class TokenTable(msgspec.Struct, frozen=True, kw_only=True):
    """[[token]]."""

    token: Annotated[str, Meta(min_length=1, max_length=256)]
    label: Annotated[str, Meta(max_length=64)] | None = None
    discount_percent: Percent = 0
    max_uses: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    expires: datetime | None = None
    revoked: bool = False
    trust: Mode | None = None
    fee_line: object = None


MEANING: Final = MappingProxyType(
    {
        "fee_line": "an array of tables [[fee_line]], one for each entry of the menu",
        "token": "the text a client presents, 1 to 256 characters; at the top level an array of tables [[token]]",
        "band": "an array of tables [[fee_line.band]], prices by payment size",
        "floor": "the table of the expected mining cost",
        "capacity": "the table of the channel's size",
        "trust": f"the table of trust, inside a token one of {', '.join(MODES)}",
        "existing_channels": "the table of payments that go over a channel the client has",
        "peers": "the table of who is served",
        "min_fee_msat": "the smallest opening fee, 0 to 10^15 msat",
        "proportional_ppm": "the opening fee in parts per million of the payment, 0 to 1000000",
        "validity_s": f"how long an offer binds you, {MIN_VALIDITY_S} to {MAX_VALIDITY_S} seconds",
        "min_payment_size_msat": "the smallest payment that is sold, 0 to 10^15 msat",
        "max_payment_size_msat": "the largest payment that is sold, 0 to 10^15 msat; bands replace it",
        "min_lifetime_blocks": "how long a paid channel is kept open, 0 to 1000000 blocks",
        "max_client_to_self_delay_blocks": "the longest to_self_delay a client may ask, 1 to 65535 blocks",
        "up_to_msat": "the largest payment of this band, 0 to 10^15 msat",
        "open_vbytes": "the expected size of a funding transaction, 0 to 100000 vbytes",
        "close_vbytes": "the expected size of a closing transaction, 0 to 100000 vbytes",
        "factor_percent": "whole percent; of the mining cost 0 to 10000 (0: no floor), of the channel 100 to 10000",
        "headroom_sat": "inbound capacity beyond the first payment, 0 to 10^12 sat",
        "min_sat": "the smallest channel that is opened, 0 to 10^12 sat",
        "max_sat": "the largest channel that is opened, 1000 to 10^12 sat",
        "keep_onchain_sat": "on-chain funds that are never spent on JIT channels, 0 to 10^12 sat",
        "default": f"who trusts whom: {' or '.join(MODES)}",
        "client_trusts_above_sat": "channels larger than this are client-trusts-lsp, 0 to 10^12 sat",
        "max_loss_sat": "how far mining may cost more than the fee when a channel is opened, 0 to 10^12 sat",
        "capital_budget_sat": "the most that may lie on chain in unpaid channels, 0 to 10^12 sat",
        "withheld_budget_sat": "the most that may be reserved for withheld channels, 0 to 10^12 sat",
        "mining_budget_sat": "the most that may be burnt on unpaid channels in 24 hours, 0 to 10^12 sat",
        "client_share_percent": "of the coins, in unpaid channels of one client, 1 to 100 percent",
        "close_unpaid_hours": "hours after its offer until an unpaid channel is closed, 0 to 87600 (0: never)",
        "reuse": f"what is taken for a payment over a channel that the client has: {', '.join(REUSES)}; "
        "with off every payment gets a channel of its own",
        "fee_percent": "of the opening fee, for a payment over a channel that the client has, 0 to 100 percent",
        "unpaid_limit": "unpaid channels after which a peer is no longer trusted, 1 to 1000",
        "heal_days": "days after which one unpaid channel is forgiven, 1 to 3650",
        "probe_limit": "sales a peer let fail after which it must trust us, 1 to 1000",
        "probe_heal_hours": "hours after which one probe is forgotten, 1 to 8760",
        "allow": "a list of node ids; when given, no other node is served",
        "deny": "a list of node ids that are not served",
        "zero_reserve": "a list of node ids; in channels to these we hold no reserve",
        "label": "the name of a token in logs and quotes, up to 64 characters",
        "discount_percent": "how much less the holder pays, 0 to 100 percent",
        "max_uses": "how many buys the token is good for, 0 to 10^9",
        "expires": "when the token ends, a date and time with offset such as 2027-01-31T00:00:00Z",
        "revoked": "true or false; true ends the token and the offers made under it",
        **CLOSING_MEANING,
    }
)

TOP: Final = ("fee_line", "floor", "capacity", "trust", "existing_channels", "peers", "token", "closing")


def parse_rules(text: str, name: str) -> Rules:
    """Return the policy in a TOML text; `name` is how errors call it. Raises ConfigError, always with a line."""
    source = Source(text, name)
    source.only((), {key: MEANING[key] for key in TOP})
    lines = _fee_lines(source, ("fee_line",))
    if lines is None:
        raise source.fail((), "there is no [[fee_line]], so nothing would be sold; write at least one")
    floor = source.table(("floor",), FloorTable, MEANING)
    peers = source.table(("peers",), PeersTable, MEANING)
    existing = source.table(("existing_channels",), ExistingChannelsTable, MEANING)
    allow, deny = _peers(source, peers)
    return Rules(
        source=name,
        lines=lines,
        floor=Floor(floor.open_vbytes, floor.close_vbytes, floor.factor_percent, floor.max_loss_sat),
        capacity=_capacity(source),
        trust=_trust(source),
        tokens=MappingProxyType(_tokens(source)),
        allow=allow,
        deny=deny,
        zero_reserve=_node_ids(source, peers.zero_reserve, "zero_reserve"),
        closing=closing_of(source),
        reuse=Reuse(existing.reuse, existing.fee_percent),
    )


def _fee_lines(source: Source, path: Path) -> tuple[NamedLine, ...] | None:
    """Return the lines under one array of tables, bands apart; None when there is no such array."""
    paths = source.tables(path)
    if source.at(path) is None:
        return None
    found = [pair for each in paths for pair in _bands(source, each)]
    if not found:
        raise source.fail(path, "is empty, so nothing would be sold; give at least one line")
    if len(found) > MAX_ENTRIES:
        raise source.fail(found[MAX_ENTRIES][0], f"is line {MAX_ENTRIES + 1} of a menu; {MAX_ENTRIES} is the most")
    _check_order(source, found)
    return tuple(line for _, line in found)


def _bands(source: Source, path: Path) -> list[tuple[Path, NamedLine]]:
    """One line, or one for each of its bands, with the path to complain about."""
    table = source.table(path, FeeLineTable, MEANING)
    name = f"fee_line {int(path[-1]) + 1}"
    bands = source.tables((*path, "band"))
    if not bands:
        if table.band is not None:
            raise source.fail((*path, "band"), "is empty; give at least one band or leave it out")
        most_msat = table.max_payment_size_msat
        most_msat = DEFAULT_LINE.max_payment_size_msat if most_msat is None else most_msat
        whole = BandTable(up_to_msat=most_msat)
        return [(path, NamedLine(name, _line(source, path, table, whole, table.min_payment_size_msat)))]
    if table.max_payment_size_msat is not None:
        raise source.fail((*path, "max_payment_size_msat"), "the last band's up_to_msat says this; leave it out")
    found: list[tuple[Path, NamedLine]] = []
    least_msat = table.min_payment_size_msat
    for number, each in enumerate(bands, 1):
        band = source.table(each, BandTable, MEANING)
        if band.up_to_msat < least_msat:
            raise source.fail((*each, "up_to_msat"), f"must be at least {least_msat}, where this band begins")
        found.append((each, NamedLine(f"{name}, band {number}", _line(source, each, table, band, least_msat))))
        least_msat = band.up_to_msat + 1
    return found


def _line(source: Source, path: Path, table: FeeLineTable, band: BandTable, least_msat: int) -> FeeLine:
    min_fee_msat = table.min_fee_msat if band.min_fee_msat is None else band.min_fee_msat
    ppm = table.proportional_ppm if band.proportional_ppm is None else band.proportional_ppm
    if min_fee_msat is None:
        raise source.fail(path, f"min_fee_msat is missing; it is {MEANING['min_fee_msat']}")
    if ppm is None:
        raise source.fail(path, f"proportional_ppm is missing; it is {MEANING['proportional_ppm']}")
    line = FeeLine(
        min_fee_msat=min_fee_msat,
        proportional=ppm,
        validity_s=table.validity_s,
        min_lifetime_blocks=table.min_lifetime_blocks,
        max_client_to_self_delay_blocks=table.max_client_to_self_delay_blocks,
        min_payment_size_msat=least_msat,
        max_payment_size_msat=band.up_to_msat,
    )
    if why := why_unsound(line.params(0)):
        raise source.fail(path, f"{why}; change one of the two")  # G-08
    if opening_fee_msat(line.max_payment_size_msat, min_fee_msat, ppm) is None:  # F-03
        most_msat = (U64_MAX - 999_999) // ppm
        raise source.fail(path, f"the fee of the largest payment leaves 64 bits; sell at most {most_msat} msat")
    return line


def _check_order(source: Source, found: Sequence[tuple[Path, NamedLine]]) -> None:
    """Refuse at once what G-07 would keep out of every menu."""
    rising = sorted(found, key=lambda pair: (pair[1].line.min_fee_msat, pair[1].line.proportional))
    for (_, lower), (path, upper) in pairwise(rising):
        if upper.line.proportional < lower.line.proportional:
            raise source.fail(
                path,
                f"{upper.line.min_fee_msat} msat with {upper.line.proportional} ppm crosses {lower.name}"
                f" ({lower.line.min_fee_msat} msat with {lower.line.proportional} ppm): clients must get menus that"
                " rise in both; give the line with the smaller percentage the smaller or equal min_fee_msat",
            )


def _capacity(source: Source) -> CapacityRule:
    table = source.table(("capacity",), CapacityTable, MEANING)
    if table.min_sat > table.max_sat:
        raise source.fail(
            ("capacity",), f"min_sat {table.min_sat} is above max_sat {table.max_sat}; swap or change them"
        )
    return CapacityRule(
        headroom_sat=table.headroom_sat,
        factor_percent=table.factor_percent,
        min_sat=table.min_sat,
        max_sat=table.max_sat,
        keep_onchain_sat=table.keep_onchain_sat,
    )


def _trust(source: Source) -> TrustRule:
    table = source.table(("trust",), TrustTable, MEANING)
    return TrustRule(
        client_trusts_lsp=table.default == MODES[1],
        client_trusts_above_sat=table.client_trusts_above_sat,
        capital_budget_sat=table.capital_budget_sat,
        unpaid_limit=table.unpaid_limit,
        heal_days=table.heal_days,
        probe_limit=table.probe_limit,
        probe_heal_hours=table.probe_heal_hours,
        withheld_budget_sat=table.withheld_budget_sat,
        mining_budget_sat=table.mining_budget_sat,
        client_share_percent=table.client_share_percent,
        close_unpaid_hours=table.close_unpaid_hours,
    )


def _peers(source: Source, table: PeersTable) -> tuple[frozenset[str] | None, frozenset[str]]:
    if table.allow == []:
        raise source.fail(("peers", "allow"), "would serve no client; leave it out to serve all")
    allow = None if table.allow is None else _node_ids(source, table.allow, "allow")
    deny = _node_ids(source, table.deny, "deny")
    if both := sorted(deny & (allow or frozenset())):
        raise source.fail(("peers", "deny"), f"{both[0]} is allowed and denied; take it out of one list")
    return allow, deny


def _node_ids(source: Source, texts: Sequence[str], key: str) -> frozenset[str]:
    for number, text in enumerate(texts):
        try:
            parse_node_id(text, "node id")
        except MalformedField as error:
            raise source.fail(("peers", key, number), f"{text[:80]!r}: {error}; give such a key") from None
    return frozenset(text.lower() for text in texts)


def _tokens(source: Source) -> dict[bytes, Token]:
    found: dict[bytes, Token] = {}
    for number, path in enumerate(source.tables(("token",)), 1):
        table = source.table(path, TokenTable, MEANING)
        if table.fee_line is not None and table.discount_percent:
            raise source.fail((*path, "discount_percent"), "this token has lines of its own; put the price there")
        if table.expires is not None and table.expires.tzinfo is None:
            raise source.fail((*path, "expires"), f"has no offset; it is {MEANING['expires']}")
        token = Token(
            hash=token_hash(table.token),
            label=table.label or f"token {number}",
            lines=_fee_lines(source, (*path, "fee_line")),
            discount_percent=table.discount_percent,
            max_uses=table.max_uses,
            expires_ms=None if table.expires is None else (table.expires - EPOCH) // timedelta(milliseconds=1),
            revoked=table.revoked,
            client_trusts_lsp=None if table.trust is None else table.trust == MODES[1],
        )
        if token.hash in found:  # never names the token itself (K-28)
            raise source.fail((*path, "token"), f"is the same as that of {found[token.hash].label}; remove one of them")
        found[token.hash] = token
    return found
