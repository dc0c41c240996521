"""What the owner sees: purchases, approvals, channels, LSPs, and why something was refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lsps2fast.lsps.lsps2 import format_datetime, format_scid
from lsps2fast_plugin.client.incoming_payments import Incoming
from lsps2fast_plugin.client.lsps0_client import Lsps0Client
from lsps2fast_plugin.client.options import Settings
from lsps2fast_plugin.client.records import Approval, JitChannel, Purchase
from lsps2fast_plugin.client.reports import Reports
from lsps2fast_plugin.client.store import WalletRecords

GIVEN_UP = (
    "the LSP gave this channel up and never funded it; nothing of yours is in it, no invoice offers it, and there is"
    " nothing to do: lightningd forgets it 2016 blocks (two weeks) after it was opened"
)
Json = dict[str, Any]


def _buy(buy: Purchase) -> Json:
    return {
        "lsp_id": buy.lsp_id,
        "jit_channel_scid": format_scid(buy.jit_scid),
        "payment_size_msat": buy.payment_size_msat,
        "opening_fee_msat": buy.opening_fee_msat,
        "smallest_payment_msat": buy.smallest_payment_msat,
        "largest_payment_msat": buy.largest_payment_msat,
        "client_trusts_lsp": buy.client_trusts_lsp,
        "valid_until": buy.params.raw["valid_until"],
    }


def _approval(approval: Approval, incoming: Incoming) -> Json:
    held = incoming.holds(approval.payment_hash)
    state = "paid" if approval.served else "released" if approval.released else "receiving" if held else "awaited"
    awaits, height = incoming.awaits(approval.payment_hash) or (None, None)
    return {
        "payment_hash": approval.payment_hash.hex(),
        "label": approval.label,
        "state": state,
        "awaits": awaits,
        "awaits_height": height,
        **_buy(approval.buy),
    }


def _channel(channel: JitChannel) -> Json:
    owed = "missing" if channel.missing else "owed" if channel.paid_ms is not None else "not paid yet"
    return {
        "channel_id": channel.channel_id,
        "lsp_id": channel.lsp_id,
        "capacity_msat": channel.capacity_msat,
        "funding_txid": channel.funding_txid,
        "funding_outnum": channel.funding_outnum,
        "state": channel.state,
        "funding": owed,
        "payment_hash": None if channel.payment_hash is None else channel.payment_hash.hex(),
    }


def given_up_channel(channel: JitChannel) -> Json:
    """Return what is shown of a channel that will not be funded."""
    names = {"channel_id": channel.channel_id, "lsp_id": channel.lsp_id, "state": channel.state}
    return names | {"note": GIVEN_UP}


def status(
    book: WalletRecords,
    incoming: Incoming,
    talk: Lsps0Client,
    settings: Settings,
    reports: Reports,
    given_up: Iterable[JitChannel],
) -> Json:
    """Return the result of `lsps2-status`. `given_up`: channels that lightningd lists and that will not be funded."""
    known = {
        *(buy.lsp_id for buy in book.buys.values()),
        *(approval.buy.lsp_id for approval in book.approvals.values()),
        *(channel.lsp_id for channel in book.channels.values()),
        *book.distrusted,
        *book.lapsed,
    }
    lsps = []
    for lsp_id in sorted(known):
        distrust, lapse = book.distrusted.get(lsp_id), book.lapsed.get(lsp_id)
        lsps.append(
            {
                "lsp_id": lsp_id,
                "trusted": distrust is None and settings.trusts(lsp_id),
                "broke_its_word": None if distrust is None else distrust.why,
                "last_lapse": None if lapse is None else format_datetime(lapse.ended_ms),
                "muted": talk.muted(lsp_id),
            }
        )
    approvals = book.approvals.values()
    return {
        "buys": [_buy(buy) for buy in book.buys.values()],
        "approvals": [_approval(each, incoming) for each in approvals],
        "channels": [_channel(channel) for channel in book.channels.values() if not channel.confirmed],
        "given_up": [given_up_channel(channel) for channel in given_up],
        "lsps": lsps,
        "held_parts": incoming.held_parts(),
        "open_requests": len(talk),
        "reports": reports.kept,
    }
