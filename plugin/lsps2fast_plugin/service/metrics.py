"""A page for Prometheus: what the service counts, and how long lightningd takes to answer it.

Needs prometheus-client (the extra `metrics`). Served on the plugin's own loop, on the address the operator gave, by
default nowhere. It only reads counters that exist anyway; labels come from fixed sets, so no peer can make it grow.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.cln.reader import LATENCY_BOUNDS_S
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.payment_reports import BOUNDS_S, Durations

if TYPE_CHECKING:
    from prometheus_client import Histogram
    from prometheus_client.metrics_core import Metric

log = logging.getLogger(__name__)

MOST_READERS: Final = 16
MOST_REQUEST_BYTES: Final = 8_192
PATIENCE_S: Final = 5.0
# A journal write is about 1 ms, a channel negotiation up to seconds, the bound of a call is a minute.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)

GAUGES: Final = {  # key of `lsps2-stats`: meaning
    "live_buys": "Jit scids that are live: unused offers, payments under way, aliases",
    "live_sessions": "Payments under way",
    "held_parts": "HTLCs held now",
    "held_msat": "Sum of the HTLCs held now",
    "withheld_channels": "Channels whose funding is kept back",
    "at_risk_msat": "Capital in channels that are open and unpaid, or about to be",
    "unpaid_channels": "Channels with our money in them that are not paid for",
    "offers_at_a_loss": "Open offers whose channel would cost more than their fee brings now",
    "offers_at_a_loss_msat": "What those would lose",
    "free_coins_sat": "Confirmed coins of the wallet that nothing has reserved, at the last look",
    "pool_coins": "Free coins of at least the size in lsps2-coin-pool, at the last look",
    "channels_to_keep_open": "Paid channels whose min_lifetime may still run",
    "paused": "1 while selling is paused",
    "fleet_joined": "1 while the fleet's database answers; nothing for a node that is alone",
    "fleet_nodes": "Nodes of the fleet, at the last look; nothing for a node that is alone",
    "wake_held": "HTLCs that wait for a client which was called; nothing without lsps2-webhooks",
    "held_blocks_left": "Blocks until the first of the HTLCs held now expires; nothing while none is held",
    "oldest_withheld_s": "Age of the oldest channel whose funding is kept back, in seconds; 0: none",
    "broadcasts_owed": "Payments whose client was paid and whose funding is owed to the chain",
    "coins_needed_sat": "What payments that open a channel now will still take of the wallet",
    "ledger_in_trouble": "1 while the sales ledger cannot be written",
}
COUNTERS: Final = {
    "menus": "Menus sent",
    "buys": "Offers sold",
    "fees_earned_msat": "Opening fees that came",
    "mining_paid_msat": "What miners got for fundings, from the transactions; 0 without a sales ledger",
    "journal_commits": "Writes to the datastore",
    "coin_splits": "Coins split to fill lsps2-coin-pool",
    "batches": "Transactions that funded several channels, or one of a batch of which only one was left",
    "batched_channels": "Channels that were funded by those",
    "batches_spoilt": "Transactions of several channels that were not sent, for one of these was given up",
    "closes_refused": "Attempts to close a channel before its min_lifetime that were refused",
}
INFO: Final = ("version", "core", "node_id", "network")
LABELLED: Final = {  # key: label and meaning
    "alarms": ("kind", "Alarms raised, by their section of the runbook"),
    "payments": ("outcome", "Payments that came to an end"),
    "failed_by": ("who", "Payments that failed, by who failed them"),
    "failed_parts": ("failure", "HTLCs that were held and failed, by what the payer was told"),
    "errors_sent": ("code", "Answers to clients with an error, by its code"),
    "refusals": ("reason", "Requests, parts and policies refused"),
    "unread": ("kind", "What was let go unread because more came than could be read: messages of peers, events"),
    "wake_calls": ("outcome", "Calls to webhooks of clients that are away; nothing without lsps2-webhooks"),
    "refused_parts": ("reason", "HTLCs for a jit scid that were not let in, or gave way"),
}

CLOSES: Final = "Closes by rules of the operator: asked for, closed, withdrawn, failed at lightningd"
CLOSES_UNDER_WAY: Final = "Closes by rule that are decided and not over"
CLOSE_ENDS: Final = ("asked", "closed", "withdrawn", "failed")
LONGER: Final = {"alarms": "alarms_by_kind"}  # the key of `lsps2-stats` where it is another
LIMITS: Final = {"used": "What is used of each limit", "limit": "Each limit"}
UNITS: Final = ("msat", "parts", "offers")
STAGES: Final = "Payments under way, by where they stand"
FAILURES: Final = "Payments that failed: in which stage, by whom, with which code"
FAILURE_LABELS: Final = ["stage", "failed_by", "code"]
SECONDS: Final = "How long each step of a payment took"
HOOK_SECONDS: Final = "How long HTLCs that are not for us waited for their answer, from the block they were read in"
RPC_SECONDS: Final = "Time lightningd took to answer our calls"


class Metrics:
    """The registry, and the server of the page."""

    def __init__(
        self,
        stats: Callable[[], dict[str, Any]],
        durations: Callable[[], dict[str, Durations]],
        hooks: Callable[[], tuple[list[int], float]],
    ) -> None:
        """`stats()`: the answer of `lsps2-stats`; `durations()`: of each step; `hooks()`: `HookReader.latencies`.

        Raises ConfigError without prometheus-client.
        """
        try:
            from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
        except ImportError:
            raise ConfigError(
                "lsps2-metrics-listen needs prometheus-client: pip install 'lsps2fast[metrics]', or leave it out"
            ) from None
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._stats = stats
        self._durations = durations
        self._hooks = hooks
        self._readers = 0
        self._server: asyncio.Server | None = None
        self.registry = CollectorRegistry()
        self.rpc_seconds: Histogram = Histogram(
            "lsps2_rpc_seconds",
            RPC_SECONDS,
            ["method", "outcome"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield what the registry asks for: the counters of the service as they are now."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        stats = self._stats()
        yield InfoMetricFamily("lsps2", "This program and its node", {name: stats[name] for name in INFO})
        for key, meaning in GAUGES.items():
            if stats[key] is not None:
                yield GaugeMetricFamily(f"lsps2_{key}", meaning, value=float(stats[key]))
        for key, meaning in COUNTERS.items():
            yield CounterMetricFamily(f"lsps2_{key}", meaning, value=float(stats[key]))
        for key, (label, meaning) in LABELLED.items():
            family = CounterMetricFamily(f"lsps2_{key}", meaning, labels=[label])
            for name, count in stats[LONGER.get(key, key)].items():
                family.add_metric([name], float(count))
            yield family
        yield from self._of_payments(stats)
        by_rule = stats["closes_by_rule"]
        closes = CounterMetricFamily("lsps2_closes_by_rule", CLOSES, labels=["outcome"])
        for name in CLOSE_ENDS:
            closes.add_metric([name], float(by_rule[name]))
        yield closes
        yield GaugeMetricFamily("lsps2_closes_under_way", CLOSES_UNDER_WAY, value=float(by_rule["under_way"]))
        for unit in UNITS:
            for part, meaning in LIMITS.items():
                limits = GaugeMetricFamily(f"lsps2_{part}_{unit}", meaning, labels=["limit"])
                for name, use in stats["limits"].items():
                    if f"{part}_{unit}" in use:
                        limits.add_metric([name], float(use[f"{part}_{unit}"]))
                yield limits

    def _of_payments(self, stats: dict[str, Any]) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        stages = GaugeMetricFamily("lsps2_payments_under_way", STAGES, labels=["stage"])
        for name, count in stats["payments_by_stage"].items():
            stages.add_metric([name], float(count))
        failures = CounterMetricFamily("lsps2_payment_failures", FAILURES, labels=FAILURE_LABELS)
        for row in stats["payment_failures"]:
            failures.add_metric([row[label] for label in FAILURE_LABELS], float(row["count"]))
        seconds = HistogramMetricFamily("lsps2_payment_seconds", SECONDS, labels=["step"])
        for step, durations in self._durations().items():
            seconds.add_metric([step], _buckets(BOUNDS_S, durations.counts), durations.sum_s)
        counts, sum_s = self._hooks()
        hooks = HistogramMetricFamily("lsps2_foreign_hook_seconds", HOOK_SECONDS)
        hooks.add_metric([], _buckets(LATENCY_BOUNDS_S, counts), sum_s)
        yield from (stages, failures, seconds, hooks)

    def describe(self) -> list[Metric]:
        """Nothing is known before the service runs."""
        return []

    # The page -------------------------------------------------------------------------------------

    async def listen(self, host: str, port: int) -> None:
        """Serve from now on. An address that cannot be had is told, and selling goes on."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=MOST_REQUEST_BYTES)
        except OSError as error:
            log.error(f"lsps2-metrics-listen={host}:{port} cannot be served: {error}")
            return
        log.info(f"metrics are at http://{host}:{port}/metrics")

    async def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._readers += 1
        try:
            if self._readers <= MOST_READERS:
                async with asyncio.timeout(PATIENCE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no HTTP, no answer; nothing of ours depends on it
        finally:
            self._readers -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        """One whole response to a request's head."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "text/plain", b"only GET\n")
        if path not in (b"/metrics", b"/"):
            return _response("404 Not Found", "text/plain", b"the page is /metrics\n")
        body = generate_latest(self.registry)
        return _response("200 OK", CONTENT_TYPE_LATEST, body, with_body=method == b"GET")


def _buckets(bounds: tuple[float, ...], counts: list[int]) -> list[tuple[str, float]]:
    """Return a histogram as Prometheus has it: how many were at most so much."""
    names = [*(str(bound) for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(counts)), strict=True))


def _response(status: str, kind: str, body: bytes, with_body: bool = True) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (body if with_body else b"")


class MeteredRpc(Rpc):
    """An `Rpc` whose calls are timed. The methods are our own, a fixed set."""

    def __init__(self, path: str, seconds: Histogram) -> None:
        super().__init__(path)
        self._seconds = seconds

    async def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        timeout_s: float | None = 60.0,
        late: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """As `Rpc.call`."""
        outcome, began = "error", time.perf_counter()
        try:
            answer = await super().call(method, params, timeout_s, late)
            outcome = "ok"
        except NodeError as error:
            outcome = "unreachable" if error.code == 0 else "error"
            raise
        finally:
            self._seconds.labels(method, outcome).observe(time.perf_counter() - began)
        return answer
