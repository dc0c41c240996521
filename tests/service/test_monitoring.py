"""Board and alert rules against the page of a running service: every name and label they use is there."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.service import LSP_TRUSTS, SIZE_MSAT, Stage
from prometheus_client.parser import text_string_to_metric_families

from lsps2fast_plugin.service.alarms import KINDS, OTHER
from lsps2fast_plugin.tools import metrics_page

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "docs" / "monitoring"
BOARD = json.loads((MONITORING / "board.json").read_text("utf-8"))
RULES = (MONITORING / "alerts.yml").read_text("utf-8")
WORDS = {"by", "le", "sum", "rate", "increase", "histogram_quantile"}
LABELS = re.compile(r"\bby \(([^)]*)\)")
ADDED = {"instance", "job"}  # by Prometheus, to every sample
SELECTOR = re.compile(r"(\w+)\{([^}]*)\}")


def expressions() -> Iterator[str]:
    """Yield every PromQL expression of the board and the rules."""
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    yield from re.findall(r"^ +expr: (.*)$", RULES, re.M)


async def scraped(port: int) -> dict[str, set[str]]:
    """The page as names of samples with their labels."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    await writer.drain()
    body = (await reader.read()).partition(b"\r\n\r\n")[2].decode()
    writer.close()
    found: dict[str, set[str]] = {"up": {"job"}}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def faults(expression: str, page: dict[str, set[str]]) -> Iterator[str]:
    """Yield what an expression asks for and the page does not have."""
    used = set(re.findall(r"\b(?:lsps2_\w+|up)\b", expression))
    if not used:
        yield f"no metric in {expression}"
    labels: set[str] = set()
    for name in used:
        if name not in page:
            yield f"no metric {name}"
        labels |= page.get(name, set())
    for listed in LABELS.findall(expression):
        yield from (f"no label {label}" for label in re.split(r",\s*", listed) if label not in labels)
    for name, inside in SELECTOR.findall(expression):
        for label in re.findall(r"(\w+)[=!]", inside):
            if label not in page.get(name, set()) | ADDED:
                yield f"no label {label} of {name}"
    if expression.count("(") != expression.count(")"):
        yield f"unbalanced: {expression}"


def test_the_board_shows_one_node_or_several() -> None:
    """operator:O12: whatever it shows is of the nodes that were chosen; all of them by default."""
    (chosen,) = BOARD["templating"]["list"]
    assert (chosen["name"], chosen["query"], chosen["allValue"]) == (
        "node",
        "label_values(lsps2_live_buys, instance)",
        ".*",
    )
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            assert re.findall(r"\blsps2_\w+", target["expr"]) == re.findall(
                r'\b(lsps2_\w+)\{instance=~"\$node"', target["expr"]
            )


async def test_every_expression_asks_for_what_the_page_has() -> None:
    """operator:O12: after a sale and a failure, while a part is held; the reference page names the same metrics."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with Stage(LSP_TRUSTS, options={"lsps2-metrics-listen": f"127.0.0.1:{port}"}) as stage:
        await stage.sale(stage.client("won"), stage.payer("payer of won"))
        picky = stage.client("picky", on_part="fail")
        invoice = await stage.invoice(picky)
        assert not (await stage.payer("payer of picky").pay(invoice, [SIZE_MSAT])).paid
        await stage.ended(invoice)
        waiting = await stage.invoice(stage.client("slow"))
        payment = stage.payer("payer of slow").pay(waiting, [SIZE_MSAT // 2])
        await stage.held(1)
        page = await scraped(port)
        await stage.world.advance(91)
        await payment
        stage.leaves = ("channel", "active record", "no active record")
    found = {text: list(faults(text, page)) for text in expressions()}
    assert {text: said for text, said in found.items() if said} == {}
    assert len(found) >= 30
    documented = {name for name, *_ in metrics_page.names()}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in page} - {"up"}
    optional = {"lsps2_pool_coins", "lsps2_errors_sent_total", "lsps2_refused_parts_total"}
    optional |= {"lsps2_fleet_joined", "lsps2_fleet_nodes", "lsps2_wake_held", "lsps2_wake_calls_total"}
    assert shown <= documented
    assert documented - shown <= optional


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("lsps2_nothing > 0", "no metric lsps2_nothing"),
        ("sum by (colour) (lsps2_alarms_total)", "no label colour"),
        ('lsps2_alarms_total{colour="red"}', "no label colour of lsps2_alarms_total"),
        ("sum(lsps2_alarms_total", "unbalanced"),
        ("1 > 0", "no metric in"),
    ],
)
def test_a_wrong_expression_is_found(expression: str, fault: str) -> None:
    """The check sees what is not there."""
    assert any(said.startswith(fault) for said in faults(expression, {"lsps2_alarms_total": {"kind"}}))


def test_rules_name_sections_of_the_runbook() -> None:
    """operator:O12: or the kind of the alarm itself."""
    named = set(re.findall(r"^ +runbook: ([\w-]+)$", RULES, re.M))
    assert named <= {*(kind.name for kind in KINDS), OTHER}
    assert RULES.count("- alert: ") == len(re.findall(r"^ +expr: ", RULES, re.M)) == RULES.count("summary: ")


def test_panels_have_places_of_their_own() -> None:
    """Three in a row, each with a title."""
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in BOARD["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["title"] for panel in BOARD["panels"])


def test_what_compose_mounts_is_where_prometheus_and_grafana_look() -> None:
    """operator:O12: each file is there; rules, board and datasource are found under the names they go by."""
    folder = ROOT / "docs/monitoring"
    compose = (folder / "compose.yml").read_text()
    mounts = dict(re.findall(r"- \./(\S+?):(\S+?):ro$", compose, re.M))
    assert {"prometheus.yml", "alerts.yml", "board.json", "provisioning"} == mounts.keys()
    assert all((folder / name).exists() for name in mounts)
    assert all(port.startswith("127.0.0.1:") for port in re.findall(r'ports: \["(.*?)"\]', compose))
    assert f"rule_files: [{mounts['alerts.yml']}]" in (folder / "prometheus.yml").read_text()
    provider = (folder / "provisioning/dashboards/lsps2fast.yml").read_text()
    assert f"path: {Path(mounts['board.json']).parent}}}" in provider
    (uid,) = re.findall(r"uid: (\S+)", (folder / "provisioning/datasources/prometheus.yml").read_text())
    assert {panel["datasource"]["uid"] for panel in json.loads((folder / "board.json").read_text())["panels"]} == {uid}
