"""Records that CLN's built-in plugin has left: a buy it sold is honoured by ours (drop-in)."""

from __future__ import annotations

import json

from harness.service import SIZE_MSAT, Stage

from lsps2fast_plugin.service.session_store import OLD_ROOT, ROOT

OLD_FIELDS = ("peer_id", "opening_fee_params", "expected_payment_size")
NEW_FIELDS = (*OLD_FIELDS, "channel_capacity_msat", "created_at")


def as_built_in(stage: Stage, scid: str, fields: tuple[str, ...], root: tuple[str, ...]) -> None:
    """Leave of our record what that plugin would have written, where it would have written it."""
    rows = stage.lsp.datastore.rows
    value, generation = rows.pop((*ROOT, "active", scid))
    record = {name: member for name, member in json.loads(value).items() if name in fields}
    rows[*root, scid] = (json.dumps(record).encode(), generation)


async def test_a_buy_of_the_built_in_plugin_of_v26_06_is_paid_and_its_record_goes(mode: str) -> None:
    """Drop-in: ["lsps","lsps2",<scid>] without capacity and date; a finalized record takes its place."""
    async with Stage(mode) as stage:
        invoice = await stage.invoice(stage.client())
        await stage.stop()
        as_built_in(stage, str(invoice.scid), OLD_FIELDS, OLD_ROOT)
        await stage.start()
        await stage.paid(stage.payer(), invoice)
        await stage.over(invoice)
        rows = stage.lsp.datastore.rows
        await stage.until(lambda: (*OLD_ROOT, str(invoice.scid)) not in rows, "the old record gone")


async def test_a_buy_of_the_later_built_in_plugin_is_paid(mode: str) -> None:
    """Drop-in: the sessions folder, without our fields."""
    async with Stage(mode) as stage:
        invoice = await stage.invoice(stage.client())
        await stage.stop()
        as_built_in(stage, str(invoice.scid), NEW_FIELDS, (*ROOT, "active"))
        await stage.start()
        await stage.paid(stage.payer(), invoice)
        await stage.over(invoice)


async def test_an_unpaid_buy_of_the_built_in_plugin_stays_where_it_was(mode: str) -> None:
    """Switch back: what we have not touched the built-in plugin finds again."""
    async with Stage(mode) as stage:
        invoice = await stage.invoice(stage.client())
        await stage.stop()
        as_built_in(stage, str(invoice.scid), OLD_FIELDS, OLD_ROOT)
        before = dict(stage.lsp.datastore.rows)
        await stage.start()
        assert (await stage.stats())["live_buys"] == 1
        await stage.stop()
        assert stage.lsp.datastore.rows == before
        await stage.start()
        await stage.paid(stage.payer(), invoice, [SIZE_MSAT])
        await stage.over(invoice)
