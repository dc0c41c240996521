"""Each alert rule is made to fire by a service in that very trouble, and by no healthy one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from harness.promql import SECONDS, Scrape, evaluate, scrape
from harness.service import CLIENT_TRUSTS, FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, Stage
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from lsps2fast_plugin.service.metrics import BUCKETS_S, RPC_SECONDS

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
RULES = (MONITORING / "alerts.yml").read_text("utf-8")
BOARD = json.loads((MONITORING / "board.json").read_text("utf-8"))


class Rule(NamedTuple):
    """One alert."""

    expression: str
    for_s: int


def read_rules() -> dict[str, Rule]:
    """Return the alerts by name, read without a YAML parser: the file is as plain as that."""
    found = {}
    for block in RULES.split("- alert: ")[1:]:
        expression = re.search(r"^ +expr: (.*)$", block, re.M)
        waits = re.search(r"^ +for: (\d+)([smhd])$", block, re.M)
        assert expression is not None
        found[block.split("\n")[0]] = Rule(expression[1], int(waits[1]) * SECONDS[waits[2]] if waits else 0)
    return found


ALERTS = read_rules()


class Watched:
    """A service whose page is scraped, and the rules that are held against it."""

    def __init__(self, stage: Stage, port: int) -> None:
        self.stage = stage
        self._port = port
        self.scrapes: list[Scrape] = []

    async def scrape(self) -> None:
        """Read the page now."""
        at_s = self.stage.world.clock.time()
        self.scrapes.append(scrape(at_s, await _page(self._port)))

    async def fires(self) -> set[str]:
        """Return the alerts that fire within an hour: what they ask for is so, and stays so as long as they wait."""
        began_s, found = None, set()
        lasting = set(ALERTS)
        for wait_s in sorted({rule.for_s for rule in ALERTS.values()}):
            if began_s is not None:
                await self._wait(wait_s - began_s)
            began_s = wait_s
            await self.scrape()
            lasting &= {name for name in lasting if evaluate(ALERTS[name].expression, self.scrapes)}
            found |= {name for name in lasting if ALERTS[name].for_s == wait_s}
        return found

    async def _wait(self, seconds: float) -> None:
        if self.stage.plugin_lives:
            await self.stage.world.advance(seconds)
            await self.stage.quiet()
        else:
            self.stage.world.clock.advance(seconds)


async def _page(port: int) -> str | None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return None
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    body = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
    writer.close()
    return body


@contextlib.asynccontextmanager
async def watched(
    mode: str = LSP_TRUSTS, options: Mapping[str, Any] | None = None, **world: Any
) -> AsyncIterator[Watched]:
    """A service with its page, scraped once while all is well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"lsps2-metrics-listen": f"127.0.0.1:{port}"} | dict(options or {})
    async with Stage(mode, options=options, **world) as stage:
        seen = Watched(stage, port)
        await seen.scrape()
        yield seen


class EnoughSeenError(Exception):
    """A trouble is not lived through to its end."""


# --- Troubles ---------------------------------------------------------------------------------------------------------


async def plugin_ends(seen: Watched) -> None:
    await seen.stage.stop()


async def funding_is_not_taken(seen: Watched) -> None:
    """The client is paid, and bitcoind is away."""
    stage = seen.stage
    stage.lsp.faults.fail("sendpsbt", times=10**6, message="bitcoind is away")
    invoice = await stage.invoice(stage.client())
    await stage.payer().pay(invoice, [SIZE_MSAT])
    await stage.state(invoice, "BROADCASTING")


async def parts_grow_old(seen: Watched) -> None:
    """A part waits for its others, and blocks come fast."""
    stage = seen.stage
    invoice = await stage.invoice(stage.client())
    stage.payer().pay(invoice, [SIZE_MSAT // 2])
    await stage.held(1)
    stage.world.mine((await stage.stats())["held_blocks_left"] - 17)
    await stage.quiet()
    assert (await stage.stats())["held_parts"] == 1


async def coins_are_gone(seen: Watched) -> None:
    """Offers are out, and the wallet's coins go elsewhere."""
    stage = seen.stage
    invoices = [await stage.invoice(stage.client(f"client {number}")) for number in range(5)]
    for row in stage.lsp.wallet.rows():
        outpoint = f"{row['txid']}:{row['output']}"
        await stage.lsp.call("reserveinputs", {"psbt": await _psbt(stage, outpoint)})
    for number, invoice in enumerate(invoices):
        await stage.payer(f"payer {number}").pay(invoice, [SIZE_MSAT])


async def _psbt(stage: Stage, outpoint: str) -> str:
    ask = {"satoshi": "all", "feerate": "253perkw", "startweight": 0, "utxos": [outpoint], "reserve": 0}
    found: str = (await stage.lsp.call("utxopsbt", ask))["psbt"]
    return found


async def clients_give_up(seen: Watched) -> None:
    """Six clients end their channel before its funding is sent."""
    stage = seen.stage
    for number in range(6):
        client = stage.client(f"client {number}")
        client.behaviour.script = {"normal": "error"}
        invoice = await stage.invoice(client)
        payment = stage.payer(f"payer {number}").pay(invoice, [SIZE_MSAT])
        await stage.ended(invoice)
        await payment


async def a_limit_is_used(seen: Watched) -> None:
    """A client leaves its channel unpaid, and there is little capital for another."""
    stage = seen.stage
    invoice = await stage.invoice(stage.client(on_part="fail"))
    assert not (await stage.payer().pay(invoice, [SIZE_MSAT])).paid
    await stage.ended(invoice)


async def a_channel_is_withheld(seen: Watched) -> None:
    """The client has its payment and neither takes nor fails it, for a day and more."""
    stage = seen.stage
    client = stage.client(on_part="hold")
    invoice = await stage.invoice(client)
    stage.payer().pay(invoice, [SIZE_MSAT])
    await stage.until(client.held, "the part at the client")
    await stage.world.advance(90_000)
    await stage.quiet()


async def the_feerate_rises(seen: Watched) -> None:
    stage = seen.stage
    await stage.invoice(stage.client())
    rates = stage.lsp.feerates
    dear = {field.name: getattr(rates, field.name) * 5 for field in dataclasses.fields(rates)}
    stage.lsp.feerates = dataclasses.replace(rates, **dear)
    await stage.world.advance(100)
    stage.world.mine(2)
    await stage.quiet()


async def selling_is_paused(seen: Watched) -> None:
    await seen.stage.lsp.call("lsps2-pause")


async def menu_is_asked_for(seen: Watched) -> None:
    """A wallet with little in it is looked at."""
    await seen.stage.client().request("lsps2.get_info")


async def nothing(_: Watched) -> None:
    pass


class Trouble(NamedTuple):
    """What happens, in which mode and with which options; what else fires; what the story leaves."""

    happens: Callable[[Watched], Awaitable[None]]
    mode: str = LSP_TRUSTS
    options: Mapping[str, Any] = MappingProxyType({})
    more: frozenset[str] = frozenset()
    world: Mapping[str, Any] = MappingProxyType({})


TROUBLES = {
    "Lsps2Down": Trouble(plugin_ends),
    "Lsps2BroadcastOwed": Trouble(funding_is_not_taken, CLIENT_TRUSTS),
    "Lsps2HeldPartsNearExpiry": Trouble(parts_grow_old),
    "Lsps2Alarm": Trouble(coins_are_gone, more=frozenset({"Lsps2PaymentsFail", "Lsps2CoinsShort"})),
    "Lsps2PaymentsFail": Trouble(coins_are_gone, more=frozenset({"Lsps2Alarm", "Lsps2CoinsShort"})),
    "Lsps2ClientsGiveUp": Trouble(clients_give_up, CLIENT_TRUSTS),
    "Lsps2CoinsShort": Trouble(menu_is_asked_for, more=frozenset({"Lsps2Alarm"}), world={"wallet_sat": (240_000,)}),
    "Lsps2LimitNearlyUsed": Trouble(a_limit_is_used, options={"lsps2-capital-budget-sat": 135_000}),
    "Lsps2WithheldTooLong": Trouble(a_channel_is_withheld, CLIENT_TRUSTS, {"lsps2-offer-validity": 100_000}),
    "Lsps2LedgerBehind": Trouble(nothing, options={"lsps2-ledger": "/proc/no/ledger"}),
    "Lsps2OffersAtALoss": Trouble(the_feerate_rises, options={"lsps2-fee-floor": 100, "lsps2-offer-validity": 86_400}),
    "Lsps2Paused": Trouble(selling_is_paused),
}


@pytest.mark.parametrize("name", TROUBLES)
async def test_a_trouble_makes_its_alert_fire(name: str) -> None:
    """operator:O12: that one, and those that belong to the same trouble; none before."""
    trouble = TROUBLES[name]
    with contextlib.suppress(EnoughSeenError):
        async with watched(trouble.mode, trouble.options, **trouble.world) as seen:
            await trouble.happens(seen)
            assert await seen.fires() == {name} | trouble.more
            raise EnoughSeenError


async def test_a_healthy_service_alarms_nobody() -> None:
    """operator:O12: a sale, a customer who gives up, and an hour of nothing; each panel of the board has a value."""
    async with watched(LSP_TRUSTS) as seen:
        stage = seen.stage
        await stage.sale(stage.client("won"), stage.payer("payer of won"))
        await stage.payer("stranger").pay(stage.client("no customer").invoice(SIZE_MSAT, "1x2x3"), [SIZE_MSAT])
        waiting = await stage.invoice(stage.client("slow"))
        payment = stage.payer("payer of slow").pay(waiting, [SIZE_MSAT // 2])
        await stage.held(1)
        picky = await stage.invoice(stage.client("picky", on_part="fail"))
        assert not (await stage.payer("payer of picky").pay(picky, [SIZE_MSAT])).paid
        await stage.ended(picky)
        await stage.lsp.call("lsps2-report", {})  # once the ledger's thread has what was told
        await seen.scrape()
        # There is one node here, so the board's choice of nodes chooses it.
        every = {target["expr"] for panel in BOARD["panels"] for target in panel["targets"]}
        panels = {each.replace('instance=~"$node", ', "").replace('{instance=~"$node"}', "") for each in every}
        values = {expression: evaluate(expression, seen.scrapes) for expression in panels}
        assert await seen.fires() == set()
        await payment
        stage.leaves = ("",)
        empty = {expression for expression, vector in values.items() if not vector}
        assert empty == set()
        (net,) = values[next(each for each in panels if each.startswith("(increase(lsps2_fees"))].values()
        assert net == (FEE_MSAT - stage.world.chain.fees_sat * 1000) / 1000


def test_a_slow_datastore_makes_its_alert_fire() -> None:
    """operator:O12: the one that needs real seconds, on a page of made-up ones."""
    rule = ALERTS["Lsps2RpcSlow"]
    for seconds, slow in ((0.002, False), (1.7, True)):
        registry = CollectorRegistry()
        labels = ["method", "outcome"]
        times = Histogram("lsps2_rpc_seconds", RPC_SECONDS, labels, buckets=BUCKETS_S, registry=registry)
        scrapes = []
        for at_s in (0, 60, 120):
            for _ in range(20):
                times.labels("datastore", "ok").observe(seconds)
                times.labels("listpeerchannels", "ok").observe(30.0)
            scrapes.append(scrape(at_s, generate_latest(registry).decode()))
        assert bool(evaluate(rule.expression, scrapes)) == slow


def test_every_alert_has_its_trouble() -> None:
    """operator:O12: a new rule brings its scenario."""
    assert {*TROUBLES, "Lsps2RpcSlow"} == ALERTS.keys()


# --- The judge --------------------------------------------------------------------------------------------------------

SERIES = {  # as promtool takes them: every minute one value
    'lsps2_broadcasts_owed{job="lsps2fast"}': "0 1 1 1",
    'lsps2_alarms_total{job="lsps2fast",kind="coins"}': "0 0 2 3",
    'lsps2_alarms_total{job="lsps2fast",kind="given-up"}': "1 1 4 9",
    'lsps2_used_msat{job="lsps2fast",limit="a"}': "10 50 90 90",
    'lsps2_limit_msat{job="lsps2fast",limit="a"}': "100 100 100 100",
    'lsps2_free_coins_sat{job="lsps2fast"}': "300000 300000 300000 300000",
    'lsps2_coins_needed_sat{job="lsps2fast"}': "0 0 60000 60000",
    'up{job="lsps2fast"}': "1 1 1 0",
}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on PATH: Debian's prometheus has it")
def test_promtool_takes_the_rules_and_agrees_with_our_reading_of_them(tmp_path: Path) -> None:
    """operator:O12: `promtool check rules`, and the alerts of made-up series after three minutes."""
    rules = tmp_path / "alerts.yml"
    rules.write_text(re.sub(r"^ +for: .*\n", "", RULES, flags=re.M), "utf-8")
    promtool = str(shutil.which("promtool"))
    checked = subprocess.run([promtool, "check", "rules", MONITORING / "alerts.yml"], capture_output=True, check=False)
    assert checked.returncode == 0, checked
    scrapes = [Scrape(60.0 * minute, _samples(minute)) for minute in range(4)]
    ours = {name for name, rule in ALERTS.items() if evaluate(rule.expression, scrapes)}
    assert {"Lsps2Down", "Lsps2BroadcastOwed", "Lsps2Alarm", "Lsps2CoinsShort", "Lsps2LimitNearlyUsed"} <= ours
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    question = {"expr": "ALERTS", "eval_time": "3m", "exp_samples": []}  # wrong on purpose: it says what it got
    one = {"interval": "1m", "input_series": series, "promql_expr_test": [question]}
    asked = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [one]}
    told = tmp_path / "tests.yml"
    told.write_text(json.dumps(asked), "utf-8")
    judged = subprocess.run([promtool, "test", "rules", told], capture_output=True, text=True, check=False)
    assert set(re.findall(r'alertname="(\w+)"', judged.stdout + judged.stderr)) == ours, judged


def _samples(minute: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = {}
    for series, values in SERIES.items():
        name, _, inside = series.partition("{")
        labels = frozenset(re.findall(r'(\w+)="([^"]*)"', inside))
        found[name, labels] = float(values.split()[minute])
    return found
