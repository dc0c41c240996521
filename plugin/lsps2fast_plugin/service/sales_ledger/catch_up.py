"""What the journal and lightningd's list of channels say, as facts: the ledger takes from them what it has missed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lsps2fast.actions import REUSED
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.capital import BACK
from lsps2fast_plugin.service.sales_ledger.facts import BuyFact, ChannelFact, Fact, RecordFact, StandingFact
from lsps2fast_plugin.service.session_record import StoredSession

TermsOf = Callable[[Buy], tuple[str | None, str | None]]
SENT = ("Succeeded", "Underpaid", "Unpaid")  # outcomes after which the funding was sent


def buy_fact(buy: Buy, terms_of: TermsOf) -> BuyFact:
    """Return an offer that was bought."""
    token, band = terms_of(buy)
    params = buy.params
    return BuyFact(
        jit_scid=format_scid(buy.jit_scid),
        peer_id=buy.peer_id,
        created_ms=buy.created_at_ms,
        valid_until_ms=params.valid_until_ms,
        min_fee_msat=params.min_fee_msat,
        proportional_ppm=params.proportional,
        min_lifetime_blocks=params.min_lifetime_blocks,
        capacity_sat=buy.capacity_sat,
        client_trusts_lsp=buy.client_trusts_lsp,
        payment_size_msat=buy.payment_size_msat,
        token=token,
        band=band,
    )


def facts_of(
    stored: Iterable[StoredSession], channels: Iterable[PeerChannel], terms_of: TermsOf, wall_ms: int
) -> Iterator[Fact]:
    """Yield everything that the journal and lightningd know, in an order in which it can be written."""
    rows = {channel.channel_id: channel for channel in channels}
    for record in stored:
        yield buy_fact(record.buy, terms_of)
        if record.journal.channel is not None:
            yield _channel(record, rows.get(record.journal.channel.channel_id), wall_ms)
        if record.is_attempt and record.outcome != REUSED:
            continue  # one of several of an offer that may live on: the active record says what came of it
        if record.outcome is not None or record.journal.fee_paid_msat:
            yield _record(record, terms_of, wall_ms)
    standing = frozenset(channel_id for channel_id, row in rows.items() if row.state not in BACK)
    yield StandingFact(channel_ids=standing, at_ms=wall_ms)


def _channel(record: StoredSession, row: PeerChannel | None, wall_ms: int) -> ChannelFact:
    channel, funding, buy = record.journal.channel, record.journal.funding, record.buy
    assert channel is not None
    at_ms = record.finalized_ms or wall_ms
    was_sent = (row is not None and not row.is_withheld) or record.outcome in SENT
    capacity_sat = buy.capacity_sat if funding is None else funding.capacity_sat
    return ChannelFact(
        channel_id=channel.channel_id,
        jit_scid=format_scid(buy.jit_scid),
        peer_id=buy.peer_id,
        funding_txid=channel.funding_txid or None,
        signed_psbt=(channel.signed_psbt or (row.funding.psbt if row is not None else None)) if was_sent else None,
        mining_sat=channel.mining_sat if was_sent else None,
        capacity_sat=capacity_sat if row is None else row.total_msat // 1000,
        locked_ms=min(at_ms, wall_ms),
        sent_ms=at_ms if was_sent else None,
    )


def _record(record: StoredSession, terms_of: TermsOf, wall_ms: int) -> RecordFact:
    journal, buy = record.journal, record.buy
    token, band = terms_of(buy)
    return RecordFact(
        jit_scid=format_scid(buy.jit_scid),
        peer_id=buy.peer_id,
        outcome=None if record.is_attempt else record.outcome,
        payment_hash=None if journal.payment_hash is None else journal.payment_hash.hex(),
        fee_agreed_msat=journal.opening_fee_msat,
        fee_paid_msat=journal.fee_paid_msat,
        ended_ms=record.finalized_ms or wall_ms,
        channel_id=None if journal.channel is None else journal.channel.channel_id,
        token=token,
        band=band,
    )
