"""The wallet after a swap: what CLN's built-in client has left, and what it finds when it comes back."""

from __future__ import annotations

import json

from harness.client import LSP, Stage, Staging

OTHER = "02" + "77" * 32
SCID = "100x2x3"


def built_in(stage: Stage, payment_hash: str, lsp_id: str = LSP) -> None:
    """Leave what `lsps-lsps2-approve` of the built-in client writes."""
    record = {"jit_channel_scid": SCID, "client_trusts_lsp": True}
    stage.node.datastore["lsps", "client", lsp_id] = json.dumps(record).encode()
    stage.node.datastore["lsps", "invoice", payment_hash] = lsp_id.encode()


def approvals(stage: Stage) -> set[str]:
    """The built-in client's own approvals: it looks for a node id."""
    return {key[-1] for key in stage.node.datastore if key[:2] == ("lsps", "client") and "/" not in key[-1]}


async def test_invoices_of_the_built_in_client_are_named_by_label(staged: Staging) -> None:
    """K-24: one sentence with what to do, no error of reading, once; the open invoice keeps its approval."""
    async with staged() as stage:
        row = await stage.invoice(label="old one")
        await stage.restart()
        for key in [key for key in stage.node.datastore if key[:2] == ("lsps", "invoice")]:
            del stage.node.datastore[key]
        built_in(stage, row["payment_hash"])
        await stage.restart()
        await stage.calm()
        said = stage.host.said("warn")
        assert "'old one'" in said
        assert "make new ones" in said
        assert "is left alone" not in said
        assert approvals(stage) == {LSP}
        assert not stage.client.book.approvals


async def test_an_approval_without_an_open_invoice_is_ended(staged: Staging) -> None:
    """K-24: going back, the built-in client must not accept a zero-conf channel that was not bought."""
    async with staged() as stage:
        row = await stage.invoice(label="old one")
        del stage.node.datastore["lsps", "invoice", row["payment_hash"]]
        built_in(stage, row["payment_hash"])
        built_in(stage, "77" * 32, OTHER)  # an invoice that is no more
        await stage.restart()
        await stage.calm()
        assert approvals(stage) == {LSP}
        stage.node.invoices["old one"]["status"] = "expired"
        await stage.pass_time(7 * 86_400)
        await stage.calm()
        assert approvals(stage) == set()


async def test_our_own_purchases_are_no_approval_for_the_built_in_client(staged: Staging) -> None:
    """K-24: their keys are no node ids, so it finds nothing; and the start leaves them alone."""
    async with staged() as stage:
        row = await stage.invoice()
        await stage.restart()
        await stage.calm()
        assert ("lsps", "invoice", row["payment_hash"]) in stage.node.datastore
        assert approvals(stage) == set()
        assert len(stage.client.book.approvals) == 1
