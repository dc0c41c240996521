"""Real plugin processes on embedded nodes, one fleet: sales go on while nodes and the database die and come back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.fleet import FleetServer
from harness.service import SIZE_MSAT, Stage

from lsps2fast_plugin.simnode.client import Client, LspsError
from lsps2fast_plugin.simnode.errors import NodeProblem, WaitTimeout

QUOTA, WANTED = 100, 150
POLICY = """\
[[fee_line]]
min_fee_msat = 1_000_000
proportional_ppm = 10_000
[floor]
factor_percent = 0
[[token]]
token = "spring"
max_uses = 100
"""
MANY = {
    "lsps2-max-buys-per-peer": 1_000,
    "lsps2-max-buys-per-minute-per-peer": 100_000,
    "lsps2-max-buys-per-minute": 1_000_000,
    "lsps2-max-info-per-peer": 100_000,
}
NAMES = ("one", "two", "three")


def stage(url: str, number: int = 0, **options: Any) -> Stage:
    """One node of the fleet; each has keys of its own."""
    return Stage(options={"lsps2-fleet": url} | options, seed=71 + number)


async def joined(*stages: Stage) -> None:
    """All know of all."""
    for each in stages:

        async def all_there(node: Any = each.lsp) -> bool:
            state: dict[str, Any] = await node.call("lsps2-fleet")
            return state["joined"] is True and len(state["nodes"]) == len(stages)

        for _ in range(300):
            if await all_there():
                break
            await asyncio.sleep(0.2)
        else:
            raise AssertionError("they do not find each other")


async def sold_under(stages: list[Stage], token_uses: int) -> int:
    """Offers that are live, over all nodes; each was bought with the token."""
    sessions = [len((await each.lsp.call("lsps2-listsessions"))["sessions"]) for each in stages]
    assert sum(sessions) <= token_uses
    return sum(sessions)


async def offered(client: Client) -> dict[str, Any]:
    """The offer under the token, once the others have given back what is this node's share."""
    for _ in range(100):
        menu = await client.request("lsps2.get_info", {"token": "spring"})
        if menu["opening_fee_params_menu"]:
            offer: dict[str, Any] = menu["opening_fee_params_menu"][0]
            return offer
        await asyncio.sleep(0.2)
    raise AssertionError("nothing is offered")


async def buy(client: Client, offer: dict[str, Any]) -> str:
    """ "sold", the code of a refusal, or "gone" when the plugin died meanwhile."""
    try:
        await client.request("lsps2.buy", {"opening_fee_params": offer, "payment_size_msat": str(SIZE_MSAT)}, 10)
    except LspsError as error:
        return str(error.code)
    except (NodeProblem, WaitTimeout):
        return "gone"
    return "sold"


@pytest.mark.within(240)
async def test_a_quota_of_a_hundred_while_a_node_and_the_database_die(
    server: FleetServer, url: str, tmp_path: Path
) -> None:
    """rule:18, rule:2: 150 wish to buy at three nodes at once; the 100 are sold, whatever dies in between."""
    file = tmp_path / "policy.toml"
    file.write_text(POLICY)
    async with AsyncExitStack() as towns:
        stages = [
            await towns.enter_async_context(stage(url, number, **MANY, **{"lsps2-policy-file": str(file)}))
            for number in range(3)
        ]
        await joined(*stages)
        clients = [each.client() for each in stages]
        offers = [await offered(client) for client in clients]
        answers: list[str] = []

        async def shop(number: int, wanted: int) -> None:
            """One after the other, each tried until it is sold or refused for good."""
            for _ in range(wanted):
                for _ in range(40):
                    answer = await buy(clients[number], offers[number])
                    answers.append(answer)
                    if answer not in ("gone", "-32603"):
                        break
                    await asyncio.sleep(0.25)
                await asyncio.sleep(0.02)

        async def harm() -> None:
            await asyncio.sleep(0.4)
            await stages[1].kill()
            await asyncio.sleep(0.5)
            await stages[1].start()
            await asyncio.sleep(0.5)
            server.crash()
            await asyncio.sleep(3)
            server.start()

        await asyncio.gather(harm(), *(shop(number, WANTED // 3) for number in range(3)))
        over = 0
        for _ in range(200):
            await joined(*stages)
            last = [await buy(clients[number], offers[number]) for number in range(3)]
            answers += last
            over = over + 1 if last == ["201"] * 3 else 0
            if over == 3:
                break
            await asyncio.sleep(0.5)
        assert over == 3, answers[-9:]
        assert await sold_under(stages, QUOTA) == QUOTA
        assert answers.count("sold") <= QUOTA


async def test_a_sale_needs_no_database_once_it_is_bought(server: FleetServer, url: str) -> None:
    """P19, rule:18: nothing shared is on the path of an HTLC."""
    async with stage(url) as one:
        await joined(one)
        client, payer = one.client(), one.payer()
        invoice = await one.invoice(client)
        server.crash()
        result = await payer.pay(invoice, [SIZE_MSAT // 2] * 2)
        assert result.paid
        await one.over(invoice)
        await one.until(lambda: one.log_lines("ALARM: fleet: .*this node sells alone"), "the alarm")
        stats = await one.stats()
        assert (stats["fleet_joined"], stats["alarms_by_kind"]["fleet"]) == (False, 1)


async def test_a_database_that_is_away_at_the_start_keeps_nothing_from_starting(server: FleetServer, url: str) -> None:
    """It starts, says what is wrong, sells nothing shared, and joins once the database is there."""
    server.crash()
    async with stage(url) as one:
        client = one.client()
        assert (await client.request("lsps2.get_info"))["opening_fee_params_menu"] == []
        await one.until(lambda: one.log_lines("ALARM: fleet"), "the alarm")
        server.start()
        await joined(one)
        await one.sale(client, one.payer())


async def test_an_option_that_is_no_url_stops_the_start() -> None:
    """K-27: the sentence says what to write, and shows no password."""
    from harness.negotiator import settings

    from lsps2fast.errors import ConfigError

    for value in (
        "mysql://lsp:secret@db/x",
        "postgresql:///x",
        "postgresql://lsp:secret@db/x?schema=A;b",
        "postgresql://lsp:secret#word@db/x",
        "postgresql://lsp:secret/word@db/x",
        "postgresql://lsp:secret?word@db/x",
        "postgresql://[lsp:secret@db/x",
    ):
        with pytest.raises(ConfigError, match="lsps2-fleet") as caught:
            settings(lsps2_fleet=value)
        assert "secret" not in str(caught.value)


async def test_two_nodes_know_of_one_client(url: str) -> None:
    """B-14, B-15: `lsps2-fleet` shows both; what one holds the other has not."""
    async with stage(url, 0) as one, stage(url, 1) as two:
        await joined(one, two)
        await one.sale(one.client(), one.payer())
        for _ in range(100):
            pots = {pot["pot"]: pot for pot in (await two.lsp.call("lsps2-fleet"))["pots"]}
            mine = {pot["pot"]: pot for pot in (await one.lsp.call("lsps2-fleet"))["pots"]}
            if pots["capital"]["held"] and mine["capital"]["held"]:
                break
            await asyncio.sleep(0.2)
        for name in ("capital", "withheld"):
            assert 0 < pots[name]["held"] + mine[name]["held"] <= pots[name]["limit"]


async def test_the_books_of_all_nodes_are_in_one_place(server: FleetServer, url: str) -> None:
    """operator:O1: two nodes sell, one of them while the database is away; the fleet's report is the sum of theirs."""
    schema = url.rpartition("=")[2]
    async with stage(url, 0) as one, stage(url, 1) as two:
        await joined(one, two)
        await one.sale(one.client(), one.payer())
        invoice = await two.invoice(two.client())
        server.crash()
        assert (await two.payer().pay(invoice, [SIZE_MSAT])).paid
        await two.over(invoice)
        server.start()
        theirs = [(await each.lsp.call("lsps2-report"))["total"] for each in (one, two)]
        names = ("sales", "failed", "earned_msat", "owed_msat", "mining_msat", "net_msat")
        together = {name: sum(each[name] for each in theirs) for name in names}
        assert together["sales"] == 2
        for _ in range(150):
            answer = await asyncio.to_thread(reported, f"{server.url}?schema={schema}")
            if {name: answer["total"][name] for name in names} == together:
                break
            await asyncio.sleep(0.2)
        assert {name: answer["total"][name] for name in names} == together
        assert [row["sales"] for row in answer["rows"]] == [1, 1]
        assert {row["node"] for row in answer["rows"]} == {one.lsp.node_id, two.lsp.node_id}


def reported(url: str) -> dict[str, Any]:
    """`lsps2fast report --fleet --by node --json`."""
    command = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "report", "--fleet", url, "--by", "node", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
