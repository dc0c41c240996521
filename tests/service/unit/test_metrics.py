"""The page for Prometheus: every counter of the service, the time lightningd takes, and nothing a stranger can grow."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.logs import Log
from harness.negotiator import settings
from prometheus_client.parser import text_string_to_metric_families

from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.cln.reader import LATENCY_BOUNDS_S
from lsps2fast_plugin.service.metrics import (
    CLOSE_ENDS,
    COUNTERS,
    GAUGES,
    LABELLED,
    LONGER,
    MOST_READERS,
    MeteredRpc,
    Metrics,
)
from lsps2fast_plugin.service.payment_reports import Durations

STATS: dict[str, Any] = {
    "version": "1.2.3",
    "core": "pure",
    "node_id": "02aa",
    "network": "regtest",
    "payments": {"succeeded": 7, "failed": 0},
    "failed_by": {"payer": 4, "lsp": 0},
    "failed_parts": {"mpp_timeout": 0, "unknown_next_peer": 5},
    "refusals": {"rate_peer": 3, "paused": 0},
    "refused_parts": {"too small": 2},
    "unread": {"messages": 9, "events": 0},
    "alarms_by_kind": {"coins": 1, "bug": 0},
    "payments_by_stage": {"collecting": 3, "opening": 0},
    "payment_failures": [{"stage": "collecting", "failed_by": "payer", "code": "incomplete", "count": 4}],
    "errors_sent": {"203": 2},
    "wake_calls": {"answered": 6, "failed": 0},
    "closes_by_rule": {
        "is_on": True,
        "rules": 2,
        "is_cheap": False,
        "asked": 5,
        "closed": 3,
        "withdrawn": 1,
        "failed": 0,
        "under_way": 4,
    },
    "limits": {"capital_budget": {"used_msat": 250, "limit_msat": 1_000, "binds": False}},
    **{key: number for number, key in enumerate([*GAUGES, *COUNTERS], 1)},
}

HOOKS = ([5, 3, *[0] * (len(LATENCY_BOUNDS_S) - 2), 1], 2.5)
DURATIONS = {"opening": Durations()}
DURATIONS["opening"].add(0.2)
DURATIONS["opening"].add(7_000.0)


@contextlib.asynccontextmanager
async def page() -> AsyncIterator[tuple[Metrics, int]]:
    """Metrics on a free port of the loopback."""
    log = Log()
    metrics = Metrics(lambda: STATS, lambda: DURATIONS, lambda: HOOKS)
    await metrics.listen("127.0.0.1", 0)
    assert metrics._server is not None
    assert "metrics are at" in log.text()
    try:
        yield metrics, metrics._server.sockets[0].getsockname()[1]
    finally:
        await metrics.close()


async def fetch(port: int, request: bytes = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    """The whole response to a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    response = await reader.read()
    writer.close()
    return response


async def test_the_page_shows_every_counter() -> None:
    """Session, offer, refusal, commit and alarm counters, with what they mean."""
    async with page() as (_, port):
        head, _, body = (await fetch(port)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert all(samples[f"lsps2_{key}",] == STATS[key] for key in GAUGES)
    assert all(samples[f"lsps2_{key}_total",] == STATS[key] for key in COUNTERS)
    for key in LABELLED:
        counted = STATS[LONGER.get(key, key)]
        assert {name: samples[f"lsps2_{key}_total", name] for name in counted} == counted
    assert {name: samples["lsps2_closes_by_rule_total", name] for name in CLOSE_ENDS} == {
        name: STATS["closes_by_rule"][name] for name in CLOSE_ENDS
    }
    assert samples["lsps2_closes_under_way",] == 4
    assert samples["lsps2_payments_under_way", "collecting"] == 3
    assert samples["lsps2_payment_failures_total", "incomplete", "payer", "collecting"] == 4
    assert samples["lsps2_payment_seconds_bucket", "0.25", "opening"] == 1
    assert samples["lsps2_payment_seconds_count", "opening"] == 2
    assert samples["lsps2_foreign_hook_seconds_bucket", "1e-05"] == 5
    assert samples["lsps2_foreign_hook_seconds_bucket", "1.0"] == 8
    assert samples["lsps2_foreign_hook_seconds_count",] == 9
    assert samples["lsps2_foreign_hook_seconds_sum",] == 2.5
    assert not [name for name, *_ in samples if name.endswith("_created")]
    assert samples["lsps2_used_msat", "capital_budget"] == 250
    assert samples["lsps2_limit_msat", "capital_budget"] == 1_000
    assert {"pure", "1.2.3", "02aa", "regtest"} in [set(labels) for name, *labels in samples if name == "lsps2_info"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /secret HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\r\n\r\n", b"405"),
    ],
)
async def test_only_reading_is_possible(request_: bytes, status: bytes) -> None:
    """One page, two verbs."""
    async with page() as (_, port):
        response = await fetch(port, request_)
    assert response.split(b" ")[1] == status
    assert (b"# HELP" in response) == (status == b"200" and not request_.startswith(b"HEAD"))


@pytest.mark.parametrize("junk", [b"", b"GET /metr", b"x" * 20_000, b"\xff\x00" * 500])
async def test_who_does_not_talk_http_gets_nothing(junk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """K-22: bounded in bytes and time, and the next reader is served."""
    monkeypatch.setattr("lsps2fast_plugin.service.metrics.PATIENCE_S", 0.05)
    async with page() as (metrics, port):
        with contextlib.suppress(ConnectionError):
            assert await fetch(port, junk) == b""
        assert b"200 OK" in await fetch(port)
        assert metrics._readers == 0


async def test_readers_beyond_the_bound_are_turned_away() -> None:
    """rule:14."""
    async with page() as (_, port):
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MOST_READERS)]
        with contextlib.suppress(ConnectionError):
            assert await fetch(port) == b""
        for _, writer in idle:
            writer.close()


async def test_an_address_that_is_taken_stops_nothing() -> None:
    """Selling goes on without the page, and the log says so."""
    async with page() as (_, port):
        log = Log()
        second = Metrics(lambda: STATS, lambda: DURATIONS, lambda: HOOKS)
        await second.listen("127.0.0.1", port)
        await second.close()
    assert log[0][1] == "error"
    assert f"127.0.0.1:{port} cannot be served" in log[0][0]


async def test_calls_of_lightningd_are_timed_by_method_and_outcome() -> None:
    """P16: what a commit costs is seen where it is paid."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b'"result":{}', b'"error":{"code":-1,"message":"no"}'):
            request = await reader.readuntil(b"\n\n")
            call_id = request.partition(b'"id":"')[2].partition(b'"')[0]
            writer.write(b'{"jsonrpc":"2.0","id":"' + call_id + b'",' + answer + b"}\n\n")
        writer.close()

    metrics = Metrics(lambda: STATS, lambda: DURATIONS, lambda: HOOKS)
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        path = os.path.join(directory, "rpc")
        server = await asyncio.start_unix_server(serve, path)
        rpc = MeteredRpc(path, metrics.rpc_seconds)
        assert await rpc.call("datastore") == {}
        with pytest.raises(NodeError):
            await rpc.call("datastore")
        server.close()
        await rpc.close()
        with pytest.raises(NodeError):
            await MeteredRpc(path + "gone", metrics.rpc_seconds).call("feerates")
    counts = {
        (sample.labels["method"], sample.labels["outcome"]): sample.value
        for family in metrics.rpc_seconds.collect()
        for sample in family.samples
        if sample.name.endswith("_count")
    }
    assert counts == {("datastore", "ok"): 1, ("datastore", "error"): 1, ("feerates", "unreachable"): 1}


def test_without_the_library_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extra `metrics`."""
    load = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "prometheus_client":
            raise ImportError(name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'lsps2fast\[metrics\]'"):
        Metrics(lambda: STATS, lambda: DURATIONS, lambda: HOOKS)


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (None, None),
        ("9750", ("127.0.0.1", 9750)),
        (":9750", ("127.0.0.1", 9750)),
        ("0.0.0.0:9750", ("0.0.0.0", 9750)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_a_port_alone_is_on_the_loopback(given: str | None, address: tuple[str, int] | None) -> None:
    """By default there is no page at all."""
    assert settings(lsps2_metrics_listen=given).metrics_listen == address


@pytest.mark.parametrize("given", ["", "localhost", "localhost:", "localhost:0", "localhost:65536", "x:٣", "a:b"])
def test_an_address_without_a_port_is_refused(given: str) -> None:
    """With the sentence that helps."""
    with pytest.raises(ConfigError, match=r"give host:port such as 127\.0\.0\.1:9750"):
        settings(lsps2_metrics_listen=given)
