"""A second purchase, and channels beside the first one's."""

from __future__ import annotations

from typing import Any

from harness.client import Json, Stage, tlv

SECOND = "ef" * 32
OVER_SECOND = {"in_scid": tlv.scid_from_str("7x7x7")}
OVER_OLD = {"in_scid": tlv.scid_from_str("500x1x1")}


async def second(stage: Stage, **fields: Any) -> Json:
    """Another channel of the LSP's, by the name 7x7x7."""
    return await stage.channel(channel_id=SECOND, alias={"local": "7x7x7"}, funding_txid="12" * 32, **fields)


def approval(stage: Stage, invoice: Json) -> Any:
    """The purchase that this invoice is for."""
    return stage.client.book.approvals[bytes.fromhex(invoice["payment_hash"])]


async def another(stage: Stage, **wish: Any) -> Json:
    """One more purchase, over another scid."""
    stage.lsp.scid = "29452x4815x1"
    return await stage.invoice(client_trusts_lsp=True, **wish)
