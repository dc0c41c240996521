"""Frames of the host study, as the wallet gets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.client import CHANNEL, NOW_MS, Json, Stage, channel_row, entry, hook
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.client.records import Approval, Opening, Purchase

DATA = Path(__file__).parents[1] / "client" / "data"
HOOKS: dict[str, list[Json]] = json.loads((DATA / "hooks.json").read_text())
MORE: dict[str, list[Json]] = json.loads((DATA / "more_hooks.json").read_text())


def scan(call: Json) -> Any:
    """Through the frame reader, as the host does it."""
    read = hook.scan(json.dumps(call).encode())
    assert read is not None
    return read


async def approve_payment(
    stage: Stage, first: Json, size_msat: int | None, fee_msat: int, *, opened: bool = True
) -> Json:
    """The same by its first part."""
    lsp_id, payment_hash = first["peer_id"], first["htlc"]["payment_hash"]
    params = FeeParams.from_json(entry(min_fee_msat=str(fee_msat), proportional=0))
    buy = Purchase(
        lsp_id=lsp_id,
        jit_scid=1,
        params=params,
        payment_size_msat=size_msat,
        cltv_expiry_delta_blocks=48,
        client_trusts_lsp=True,
        opening_fee_msat=fee_msat,
        largest_payment_msat=2**40,
        max_fee_msat=2**40,
        max_fee_ppm=10**6,
        consent=True,
        created_ms=NOW_MS,
    )
    secret = bytes.fromhex(first["onion"]["payment_secret"])
    opening = Opening(200_000_000, NOW_MS, channel_id=CHANNEL) if opened else None
    approval = Approval(buy, bytes.fromhex(payment_hash), secret, payment_hash, None, opening=opening)
    await stage.client.book.approve(approval)
    row: Json = {
        "label": payment_hash,
        "payment_hash": payment_hash,
        "status": "unpaid",
        "expires_at": NOW_MS // 1000 + 3_600,
    }
    stage.node.invoices[payment_hash] = row | ({} if size_msat is None else {"amount_msat": size_msat})
    if opened:
        stage.node.channels.append(channel_row(peer_id=lsp_id, alias={"local": first["htlc"]["short_channel_id"]}))
    return first
