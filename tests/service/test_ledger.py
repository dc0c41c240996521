"""The sales ledger of a real plugin process: every outcome, compared with the records, the metrics and the money."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness.service import FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, Stage
from prometheus_client.parser import text_string_to_metric_families

from lsps2fast_plugin.simnode.errors import RpcError

FILE = "lsps2-sales.sqlite3"


async def sales(stage: Stage, **wanted: Any) -> list[dict[str, Any]]:
    """`lsps2-listsales`, the oldest first."""
    found: list[dict[str, Any]] = (await stage.lsp.call("lsps2-listsales", wanted))["sales"]
    return found[::-1]


async def test_a_sale_is_in_the_ledger_with_all_that_is_known_of_it(mode: str) -> None:
    """operator:O2: ids, peer, amounts, fee, mining from the transaction, capital, a time for each stage."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.sale(client, payer)
        (sale,) = await sales(stage)
        (end,) = client.ends
        assert sale["outcome"] == "Succeeded"
        assert sale["jit_scid"] == invoice.scid
        assert sale["payment_hash"] == invoice.payment_hash.hex()
        assert sale["peer_id"] == client.node_id
        assert sale["band"] == "fee_line 1"
        assert (sale["amount_msat"], sale["parts"]) == (SIZE_MSAT, 5)
        assert (sale["fee_agreed_msat"], sale["fee_taken_msat"], sale["fee_owed_msat"]) == (FEE_MSAT, FEE_MSAT, 0)
        assert sale["channel_id"] == end.channel.channel_id
        assert sale["capacity_sat"] == end.channel.capacity_sat
        assert sale["mining_msat"] == stage.world.chain.fees_sat * 1000
        times = [sale[f"{name}_at"] for name in ("began", "opening", "channel", "forwarded", "claimed", "ended")]
        assert times == sorted(times)
        assert {"locked_at", "sent_at"} <= sale.keys()
        assert "released_at" not in sale


async def _won(stage: Stage) -> str:
    await stage.sale(stage.client("won"), stage.payer("payer of won"))
    return "Succeeded"


async def _incomplete(stage: Stage) -> str:
    """The payer sends one part of two, and no more."""
    invoice = await stage.invoice(stage.client("incomplete"))
    payment = stage.payer("payer of incomplete").pay(invoice, [SIZE_MSAT // 2])
    await stage.held(1)
    await stage.world.advance(91)
    assert not (await payment).paid
    return "Failed payer incomplete"


async def _away(stage: Stage) -> str:
    """The payment is complete, and its client does not come."""
    client, payer = stage.client("away"), stage.payer("payer of away")
    invoice = await stage.invoice(client)
    client.go_offline()
    payment = payer.pay(invoice, [SIZE_MSAT])
    await stage.held(1)
    await stage.world.advance(601)
    assert not (await payment).paid
    return "Failed client client_away"


async def _refused(stage: Stage) -> str:
    """The wallet takes no channel."""
    client, payer = stage.client("refused", reject_open="no, thank you"), stage.payer("payer of refused")
    invoice = await stage.invoice(client)
    assert not (await payer.pay(invoice, [SIZE_MSAT])).paid
    return f"{(await stage.ended(invoice)).capitalize()} client open_refused"


async def _not_taken(stage: Stage) -> str:
    """The wallet fails the payment it was sent."""
    client, payer = stage.client("picky", on_part="fail"), stage.payer("payer of picky")
    invoice = await stage.invoice(client)
    assert not (await payer.pay(invoice, [SIZE_MSAT])).paid
    return f"{(await stage.ended(invoice)).capitalize()} client part_failed"


async def _in_part(stage: Stage) -> str:
    """The wallet takes one of two parts, and so half of the fee."""
    client = stage.client("half", on_part="hold")
    invoice = await stage.invoice(client)
    payment = stage.payer("payer of half").pay(invoice, [SIZE_MSAT // 2] * 2)
    await stage.until(lambda: len(client.held()) == 2, "the parts are with the client")
    first, second = client.held()
    client.fulfill(first, invoice.preimage)
    await stage.quiet()
    client.fail(second)
    await payment
    await stage.underpaid(invoice)
    return "Underpaid client underpaid"


async def _no_coins(stage: Stage) -> str:
    """Nothing is left to open a channel with."""
    invoice = await stage.invoice(stage.client("late"))
    stage.lsp.faults.fail("fundpsbt", times=1_000, message="no coins today")
    stage.lsp.faults.fail("utxopsbt", times=1_000, message="no coins today")
    assert not (await stage.payer("payer of late").pay(invoice, [SIZE_MSAT])).paid
    await stage.ended(invoice)
    stage.lsp.faults.clear()
    return "Failed lsp no_coins"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


async def values(port: int) -> dict[str, float]:
    """What the page for Prometheus says: by name and labels' values."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    body = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
    writer.close()
    samples = (sample for family in text_string_to_metric_families(body) for sample in family.samples)
    return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}


STORIES = (_won, _incomplete, _away, _refused, _not_taken, _in_part, _no_coins)


async def test_every_outcome_is_in_the_ledger_and_the_sums_are_the_same_everywhere(mode: str) -> None:
    """operator:O1, operator:O2: ledger, report, counters and records agree to the msat; each failure has its cause."""
    page = free_port()
    options = {"lsps2-capital-budget-sat": 10_000_000, "lsps2-metrics-listen": f"127.0.0.1:{page}"}
    async with Stage(mode, fresh=True, options=options) as stage:
        stage.leaves = ("channel", "coin", "active record", "no active record")
        before_msat = stage.world.gained_msat(stage.lsp)
        expected = [await story(stage) for story in STORIES]
        await stage.quiet()
        rows = await sales(stage)
        said = [" ".join(row[name] for name in ("outcome", "failed_by", "code") if name in row) for row in rows]
        assert said == expected
        lines = stage.log_lines(r"^(sold|not sold|sold in part): ", "info")
        assert len(lines) == len(STORIES)
        for row, line in zip(rows, lines, strict=True):
            assert row["peer_id"] in line
            assert row["payment_hash"] in line
            assert "by" not in row or f"({row['code']})" in line
        assert stage.log_lines("The offer stands until .*: the payer may try again")
        assert stage.log_lines("The next payment over this scid brings the 500 sat that are owed")
        stats, report = await stage.stats(), await stage.lsp.call("lsps2-report", {"by": "peer"})
        records = [*stage.records("active").values(), *stage.records("finalized").values()]
        offers = [record["lsps2fast"] for record in records if not record["lsps2fast"].get("attempt")]
        came_msat = sum(int(facts["fee_paid_msat"]) for facts in offers)
        assert sum(row["fee_taken_msat"] for row in rows) == came_msat > FEE_MSAT
        assert report["total"]["earned_msat"] == came_msat == sum(row["earned_msat"] for row in report["rows"])
        assert report["total"]["owed_msat"] == 2 * FEE_MSAT - came_msat
        assert report["total"]["mining_msat"] == stage.world.chain.fees_sat * 1000
        assert (report["total"]["sales"], report["total"]["failed"]) == (1, len(STORIES) - 1)
        ends = stats["payments"]
        assert ends == {"succeeded": 1, "underpaid": 1, "reused": 0} | {
            name: sum(row["outcome"].lower() == name for row in rows) for name in ("failed", "abandoned")
        }
        assert stats["ledger"]["trouble"] is None
        assert stats["fees_earned_msat"] == came_msat
        assert stats["alarms_by_kind"]["coins"] == stats["alarms"] == 1
        mining_msat = stage.world.chain.fees_sat * 1000
        assert (
            stage.world.gained_msat(stage.lsp) - before_msat == came_msat - mining_msat == report["total"]["net_msat"]
        )
        for by in ("day", "week", "month", "token", "band", "peer"):
            lines = (await stage.lsp.call("lsps2-report", {"by": by}))["rows"]
            for name in ("sales", "failed", "earned_msat", "owed_msat", "mining_msat", "net_msat"):
                assert sum(line[name] for line in lines) == report["total"][name], (by, name)
        shown = await values(page)
        assert shown["lsps2_fees_earned_msat_total"] == came_msat
        assert shown["lsps2_mining_paid_msat_total"] == mining_msat
        assert {name: shown[f"lsps2_payments_total {name}"] for name in ends} == ends
        blamed = Counter(row["failed_by"] for row in rows if "failed_by" in row)
        assert {who: shown[f"lsps2_failed_by_total {who}"] for who in blamed} == blamed


async def test_a_plugin_that_dies_has_its_sale_once(mode: str) -> None:
    """operator:O2, rule:8: killed with the parts at the client; the next start brings it to its end."""
    async with Stage(mode, fresh=True) as stage:
        client, payer = stage.client(on_part="hold"), stage.payer()
        invoice = await stage.invoice(client)
        payment = payer.pay(invoice, [SIZE_MSAT])
        await stage.until(lambda: len(client.held()) == 1, "the part is at the client")
        await stage.quiet()
        await sales(stage)  # answered once all that has happened is written
        await stage.kill()
        client.settle_held()
        assert (await payment).paid
        await stage.start()
        await stage.until(lambda: stage.outcome(invoice.scid) == "Succeeded", "the final record")
        (sale,) = await sales(stage)
        assert (sale["outcome"], sale["fee_taken_msat"]) == ("Succeeded", FEE_MSAT)
        assert {"opening_at", "channel_at", "forwarded_at", "sent_at"} <= sale.keys()


@pytest.mark.parametrize("kept", [True, False])
async def test_a_ledger_that_is_lost_is_begun_anew_with_what_the_journal_has(kept: bool) -> None:
    """operator:O2, operator:O3: the file is gone, or last week's is put back; sales of 30 days are in the records."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        path = Path(stage.lsp.lightning_dir) / FILE
        await stage.sale(stage.client("alice"), stage.payer("payer of alice"))
        await sales(stage)
        await stage.stop()
        saved = path.read_bytes()
        path.unlink()
        await stage.start()
        await stage.sale(stage.client("bob"), stage.payer("payer of bob"))
        assert [row["fee_taken_msat"] for row in await sales(stage)] == [FEE_MSAT] * 2
        await stage.stop()
        if kept:
            path.write_bytes(saved)
        else:
            path.unlink()
        await stage.start()
        rows = await sales(stage)
        assert sorted(row["outcome"] for row in rows) == ["Succeeded"] * 2
        assert len({row["jit_scid"] for row in rows}) == 2
        report = await stage.lsp.call("lsps2-report")
        assert report["total"]["earned_msat"] == 2 * FEE_MSAT
        assert report["total"]["mining_msat"] == stage.world.chain.fees_sat * 1000


async def test_selling_goes_on_without_a_ledger() -> None:
    """operator:O2: a path that cannot be had is an alarm with what to do, and no sale is lost by it."""
    async with Stage(LSP_TRUSTS, options={"lsps2-ledger": "nowhere/sales.sqlite3"}) as stage:
        await stage.sale(stage.client(), stage.payer())
        await stage.until(lambda: stage.log_lines("ALARM: the sales ledger .* cannot be opened"), "the alarm")
        assert "see to the folder" in (await stage.stats())["ledger"]["trouble"]
        with pytest.raises(RpcError, match="cannot be read: it cannot be opened"):
            await stage.lsp.call("lsps2-report")
        (Path(stage.lsp.lightning_dir) / "nowhere").mkdir()
        await stage.until(lambda: stage.log_lines("can be written again"), "the ledger is there")
        (sale,) = await sales(stage)
        assert sale["fee_taken_msat"] == FEE_MSAT


async def test_no_ledger_is_kept_when_none_is_wanted() -> None:
    """operator:O2: `lsps2-ledger=off`."""
    async with Stage(LSP_TRUSTS, options={"lsps2-ledger": "off"}) as stage:
        await stage.sale(stage.client(), stage.payer())
        assert [name for name in os.listdir(stage.lsp.lightning_dir) if "sqlite3" in name] == []
        with pytest.raises(RpcError, match="no sales ledger is kept: lsps2-ledger is off"):
            await stage.lsp.call("lsps2-listsales")


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("lsps2-listsales", {"limit": 0}, "limit=0 is no number of rows; give 1 to 1000"),
        ("lsps2-listsales", {"limit": "all"}, "limit='all' is no number of rows"),
        ("lsps2-listsales", {"cursor": "x"}, "cursor='x' is not from this method"),
        ("lsps2-listsales", {"since": "soon"}, "since='soon' is no time"),
        ("lsps2-listsales", {"peer_id": "alice"}, "peer_id"),
        ("lsps2-listsales", {"outcome": "fine"}, "outcome='fine' is unknown; give Succeeded"),
        ("lsps2-report", {"by": "hour"}, "by='hour' is unknown; give day, week, month, token, band, peer"),
        ("lsps2-report", {"since": "2026-02-01", "until": "2026-01-01"}, "since is later than until"),
        ("lsps2-explain", {"about": "bob"}, "no payment hash, channel id, jit scid or node id"),
        ("lsps2-closable", {"idle_days": "many"}, "idle_days='many' is no number of days"),
    ],
)
async def test_a_question_that_makes_no_sense_is_told(method: str, params: dict[str, Any], words: str) -> None:
    """operator:O9: in the names that the caller used."""
    async with Stage() as stage:
        with pytest.raises(RpcError, match=re.escape(words)):
            await stage.lsp.call(method, params)


async def test_closable_channels_are_those_that_nothing_binds_any_more() -> None:
    """operator:O2, operator:O11: past their lifetime, the opening fee apart from routing; closing is the operator's."""
    options = {"lsps2-min-lifetime": 3}
    async with Stage(LSP_TRUSTS, options=options) as stage:
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        assert (await stage.lsp.call("lsps2-closable"))["channels"] == []
        stage.world.mine(3)
        await stage.quiet()
        answer = await stage.lsp.call("lsps2-closable")
        (channel,) = answer["channels"]
        assert channel["peer_id"] == client.node_id
        assert channel["opening_fee_msat"] == FEE_MSAT
        assert channel["routing_fees_msat"] == 0
        assert channel["mining_msat"] == stage.world.chain.fees_sat * 1000
        assert answer["closing_msat"] == 800 * answer["feerate_perkw"]
        assert (await stage.lsp.call("lsps2-closable", {"idle_days": 1}))["channels"] == []
        await stage.lsp.call("close", {"id": client.node_id})
        stage.world.mine(1)
        await stage.quiet()
        (sale,) = await sales(stage)
        assert {"released_at", "close_mining_msat"} <= sale.keys()
        assert (await stage.lsp.call("lsps2-closable"))["channels"] == []


async def test_the_ledger_asks_lightningd_nothing_for_a_sale(mode: str) -> None:
    """operator:O2: a sale makes the same RPC calls and the same commits with the ledger and without."""
    made = []
    for ledger in ("off", "sales.sqlite3"):
        async with Stage(mode, options={"lsps2-ledger": ledger}) as stage:
            client, payer = stage.client(), stage.payer()
            await stage.quiet()
            before = Counter(stage.order())
            await stage.sale(client, payer, parts=1)
            await stage.quiet()
            made.append(Counter(stage.order()) - before)
    assert made[0]["datastore"] + made[0]["deldatastore"] == 5
    assert made[0] == made[1]
