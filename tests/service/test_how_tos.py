"""An operator's days as the how-tos tell them: each command that they name is run here, on the embedded node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.service import FEE_MSAT, LSP_TRUSTS, OFFER_S, SIZE_MSAT, Stage

from lsps2fast_plugin.simnode.client import LspsError

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
PAGES = (
    "run-an-lsp",
    "answer-a-support-case",
    "read-the-books",
    "stop-the-node",
    "monitor-the-service",
    "runbook",
    "watch-it-in-a-browser",
)
METHODS = re.compile(r"`(?:lightning-cli )?(lsps2-[a-z-]+)((?: [^`]*)?)`")
COMMANDS = re.compile(r"`lsps2fast ([a-z]+)([^`]*)`|^lsps2fast ([a-z]+)([^\n]*)$", re.M)
ELSEWHERE = {"demo", "regtest", "simulate"}  # their own tests
SECRETS = {"old": "11" * 32, "new": "22" * 32}


class Day:
    """What was run, by name."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.ran: set[str] = set()

    async def call(self, method: str, **params: Any) -> Any:
        """`lightning-cli METHOD …`."""
        self.ran.add(method)
        return await self.stage.lsp.call(method, params)

    async def command(self, *words: str) -> str:
        """`lsps2fast …`; at the node where it asks one."""
        self.ran.add(f"lsps2fast {words[0]}")
        asks = [] if "--file" in words else ["--rpc", str(self.stage.lsp.rpc_path)]
        line = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", *words, *asks]
        done = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
        out, _ = await done.communicate()
        assert done.returncode == 0, words
        return out.decode()


def back_up(ledger: Path, copy: Path) -> None:
    """`sqlite3 … ".backup COPY"`, by the shell where there is one."""
    if shutil.which("sqlite3") is not None:
        subprocess.run(["sqlite3", str(ledger), f".backup {copy}"], check=True, timeout=60)
        return
    with contextlib.closing(sqlite3.connect(ledger)) as of, contextlib.closing(sqlite3.connect(copy)) as to:
        of.backup(to)


def named() -> set[str]:
    """Every method and every command that the pages name."""
    text = "\n".join((HOW_TO / f"{page}.md").read_text() for page in PAGES)
    options = set(re.findall(r"^\| `(lsps2-[a-z-]+)`", (HOW_TO.parent / "reference/options.md").read_text(), re.M))
    methods = {name for name, _ in METHODS.findall(text)} - options
    commands = {found[0] or found[2] for found in COMMANDS.findall(text)} - ELSEWHERE
    return methods | {f"lsps2fast {name}" for name in commands}


def asked_in_read_the_books() -> list[tuple[str, str]]:
    """The questions of that page: on the node, and on a command line."""
    rows = re.findall(r"^\| .*\? \| `(.*?)` \| `lsps2fast (.*?)` \|$", (HOW_TO / "read-the-books.md").read_text(), re.M)
    assert len(rows) == 5
    return rows


async def test_an_operators_days(tmp_path: Path) -> None:
    """operator:O2, operator:O3, operator:O9: first day, questions, support, back-up, upgrade, end."""
    async with Stage(LSP_TRUSTS, fresh=True) as stage:
        day = Day(stage)
        # the first day
        await day.call("lsps2-pause")
        assert (await day.call("lsps2-quote"))["paused"] is True
        await day.call("lsps2-resume")
        assert (await day.call("lsps2-quote"))["paused"] is False
        client, payer = stage.client(), stage.payer()
        sale = await stage.sale(client, payer)
        assert "1 sold" in await day.command("watch", "--once")
        # size coins and budgets
        stats = await day.call("lsps2-stats")
        assert {"free_coins_sat", "coins_needed_sat", "limits", "live_sessions", "live_buys"} <= stats.keys()
        # read the books, answer a support case
        for on_node, on_line in asked_in_read_the_books():
            method, *given = on_node.replace("<payment hash>", sale.payment_hash.hex()).split()
            params = dict(word.split("=", 1) if "=" in word else ("about", word) for word in given)
            await day.call(method, **{key: int(value) if value.isdecimal() else value for key, value in params.items()})
            await day.command(*on_line.replace("<payment hash>", sale.payment_hash.hex()).split())
        for what in (sale.payment_hash.hex(), sale.scid, client.node_id, client.ends[0].channel.channel_id):
            story = await day.command("report", "explain", what)
            assert "1,000" in story
        assert (await day.call("lsps2-getsession", jit_channel_scid=sale.scid))["jit_channel_scid"] == sale.scid
        await day.call("lsps2-forgive", peer_id=client.node_id)
        # back up, and read the copy without the node
        books = json.loads(await day.command("report", "--json"))
        assert books["total"]["earned_msat"] == FEE_MSAT
        copy = tmp_path / "COPY"
        await asyncio.to_thread(back_up, stage.lsp.directory / "lsps2-sales.sqlite3", copy)
        copied = json.loads(await day.command("report", "--json", "--file", str(copy)))
        money = ("sales", "failed", "earned_msat", "owed_msat", "mining_msat", "net_msat")  # capital grows meanwhile
        assert {name: copied["total"][name] for name in money} == {name: books["total"][name] for name in money}
        # upgrade: nothing is under way
        invoice = await stage.invoice(client)
        assert (await day.call("lsps2-listorders"))["orders"] == []
        await day.call("lsps2-pause")
        assert (await day.call("lsps2-stats"))["live_sessions"] == 0
        await stage.stop()
        await stage.start()
        # stop being an LSP: still paused after the start; what was sold is honoured, then nothing binds any more
        assert (await day.call("lsps2-quote"))["paused"] is True
        assert (await client.request("lsps2.get_info"))["opening_fee_params_menu"] == []
        assert invoice.scid in {buy["jit_channel_scid"] for buy in (await day.call("lsps2-listsessions"))["sessions"]}
        await stage.paid(payer, invoice)
        await stage.ended(invoice)
        stage.world.mine(1_008)
        await stage.world.advance(OFFER_S + 1)
        while (await day.call("lsps2-stats"))["live_buys"]:
            await stage.fence()
        closable = (await day.call("lsps2-closable"))["channels"]
        assert {each["peer_id"] for each in closable} == {client.node_id}
        assert named() <= day.ran, sorted(named() - day.ran)


async def test_the_promise_secret_is_rotated() -> None:
    """P-05: an offer made with the old secret is bought after the change, where the old one is named, and not else."""
    options = {"experimental-lsps2-promise-secret": SECRETS["old"]}
    async with Stage(LSP_TRUSTS, options=options) as stage:
        client = stage.client()
        offer = await stage.offer(client)
        argv, given, env = stage.lsp.plugin_plans[0]
        for more, sold in (({}, False), ({"lsps2-retired-promise-secret": SECRETS["old"]}, True)):
            changed = given | {"experimental-lsps2-promise-secret": SECRETS["new"]} | more
            stage.lsp.plugin_plans[0] = (argv, changed, env)
            await stage.stop()
            await stage.start()
            ask = {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)}
            if sold:
                assert (await client.request("lsps2.buy", ask))["jit_channel_scid"]
            else:
                with pytest.raises(LspsError) as refused:
                    await client.request("lsps2.buy", ask)
                assert refused.value.code == 201
