"""`lsps2fast bench --real`: other people's payments through a real lightningd, with and without a plugin on its hook.

A payer, a node in the middle and a payee, on loopback and regtest. The middle starts and stops the plugins while it
runs, one at a time, so the same node and channels serve all of them in turn. This is the promise that is measured: a
method handler that blocks (P21), and what the plugin's process burns for each HTLC (P2).
"""

from __future__ import annotations

import itertools
import json
import shlex
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lsps2fast import bolt11
from lsps2fast_plugin.tools.bench import children
from lsps2fast_plugin.tools.bench.figures import needed, quantile
from lsps2fast_plugin.tools.bench.harness import Late, cpu_s
from lsps2fast_plugin.tools.bench.report import table
from lsps2fast_plugin.tools.bench.run import BLOCK_EVERY_S, BLOCK_S, machine
from lsps2fast_plugin.tools.regtest.processes import Lightningd, Programs, until
from lsps2fast_plugin.tools.regtest.town import Town

AMOUNT_MSAT = 10_000
FINAL_BLOCKS = 30
AT_ONCE = 20  # of the 30 HTLCs that lightningd lets into a channel
BURSTS = 10  # of so many in each round
NO_PLUGIN = "no plugin"
SERVICE = "service"
OUR_HOST = "our host"
PYLN = "pyln-client"
COMMANDS = {SERVICE: children.service(), OUR_HOST: children.ours("c"), PYLN: children.stock()}
SHARES = {"p50": 0.5, "p25": 0.25, "p75": 0.75, "p99": 0.99}
Say = Callable[[str], None]


@dataclass
class RealResults:
    """Seconds of a payment and CPU of the plugin's process for each HTLC, by program."""

    machine: dict[str, Any]
    lightningd: str
    payments: int
    payment_ms: dict[str, Late] = field(default_factory=dict)  # of one payment at a time
    blocked_ms: dict[str, Late] = field(default_factory=dict)  # the same beside a method that blocks
    cpu_us: dict[str, list[float]] = field(default_factory=dict)  # for each HTLC of a round's, sent without waiting
    ratios: dict[str, float] = field(default_factory=dict)


class Ticket(NamedTuple):
    """An invoice and the route to it, as a payer needs them."""

    payment_hash: str
    payment_secret: str


class Road(Town):
    """Payer, middle (`lsp`) and payee with a channel between each two; no plugin of ours runs at first."""

    def open(self) -> None:
        """Start everything."""
        self.payee = self.node("payee")
        self.bitcoind.start()
        for node in (self.lsp, self.payer, self.payee):
            node.start(wait=False)
        for node in (self.lsp, self.payer, self.payee):
            node.wait_up()
        self.link(self.payer, self.lsp)
        self.link(self.lsp, self.payee)
        self.lsp.call("setchannel", {"id": self.payee.node_id, "feebase": 0, "feeppm": 0})
        delta_blocks = int(self.lsp.call("listconfigs", {"config": "cltv-delta"})["configs"]["cltv-delta"]["value_int"])
        self._route = [
            self._hop(self.payer, self.lsp, FINAL_BLOCKS + delta_blocks),
            self._hop(self.lsp, self.payee, FINAL_BLOCKS),
        ]
        self._services = itertools.count(1)

    def _hop(self, node: Lightningd, to: Lightningd, delay_blocks: int) -> dict[str, Any]:
        return {
            "id": to.node_id,
            "channel": self.scids(node, to)[0],
            "direction": int(node.node_id > to.node_id),
            "amount_msat": AMOUNT_MSAT,
            "delay": delay_blocks,
            "style": "tlv",
        }

    def tickets(self, count: int) -> list[Ticket]:
        """Fresh invoices of the payee."""
        return [self._ticket(next(self._labels)) for _ in range(count)]

    def _ticket(self, number: int) -> Ticket:
        ask = {"amount_msat": AMOUNT_MSAT, "label": f"ticket {number}", "description": "a ticket"}
        row = self.payee.call("invoice", ask)
        return Ticket(row["payment_hash"], bolt11.decode(row["bolt11"]).payment_secret.hex())

    def send(self, ticket: Ticket) -> None:
        """Let the payment go."""
        self.payer.call("sendpay", {"route": self._route, **ticket._asdict(), "amount_msat": AMOUNT_MSAT})

    def arrived(self, ticket: Ticket) -> None:
        """Wait until it is paid. Raises NodeError when it failed."""
        self.payer.call("waitsendpay", {"payment_hash": ticket.payment_hash, "timeout": 60})

    @contextmanager
    def running(self, program: str) -> Iterator[int | None]:
        """Yield a plugin on the middle node's hook; the pid of its process."""
        if program == NO_PLUGIN:
            yield None
            return
        path = self.lsp.directory / program.replace(" ", "-")
        path.write_text(f'#!/bin/sh\nexec {shlex.join(COMMANDS[program])} "$@"\n')
        path.chmod(0o700)
        self.lsp.call("plugin", {"subcommand": "start", "plugin": str(path)})
        if program == SERVICE:  # its start goes on behind init, and is not what is measured
            self.lsp.wait_log("sells JIT channels", next(self._services))
        try:
            yield child_of(self.lsp, COMMANDS[program])
        finally:
            self.lsp.call("plugin", {"subcommand": "stop", "plugin": str(path)})


def child_of(node: Lightningd, command: list[str]) -> int:
    """Return the pid of the child of lightningd that runs this command."""

    def found() -> list[int]:
        assert node.process is not None
        pids = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
        wanted = "\0".join(command).encode()
        return [int(pid) for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(wanted)]

    pids: list[int] = until(found, f"process {shlex.join(command)}")
    return pids[0]


@contextmanager
def blocked(node: Lightningd) -> Iterator[None]:
    """Call, again and again, the method that blocks its handler `BLOCK_S` of every `BLOCK_EVERY_S`."""
    over = threading.Event()

    def call() -> None:
        while not over.wait(BLOCK_EVERY_S - BLOCK_S):
            node.call("block", {"seconds": BLOCK_S})

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join()


class RealBench:
    """One run. ConfigError where bitcoind or lightningd is missing."""

    def __init__(self, rounds: int, payments: int, say: Say, programs: Programs | None = None) -> None:
        """`payments` of each program in each round."""
        self._rounds = rounds
        self._payments = payments
        self._say = say
        self._programs = programs

    def run(self) -> RealResults:
        """Return all cases: programs interleaved, order reversed every other round."""
        with (
            tempfile.TemporaryDirectory(prefix="lsps2fast-") as place,
            Road(Path(place), programs=self._programs, record=False) as road,
        ):
            version = road.lsp.call("getinfo")["version"]
            results = RealResults(machine(), version, self._rounds * self._payments)
            self._say(f"payments one at a time, {self._rounds} rounds")
            results.payment_ms = self._in_turn(road, (NO_PLUGIN, SERVICE, PYLN))
            self._say(f"the same beside a method that blocks {BLOCK_S} s of every {BLOCK_EVERY_S}")
            results.blocked_ms = self._in_turn(road, (NO_PLUGIN, OUR_HOST, PYLN), blocking=True)
            self._say(f"{AT_ONCE} payments at once, {self._rounds} rounds")
            results.cpu_us = self._at_once(road, (SERVICE, PYLN))
        results.ratios = ratios(results)
        return results

    def _turns(self, programs: tuple[str, ...]) -> list[str]:
        return [each for turn in range(self._rounds) for each in (programs if turn % 2 == 0 else programs[::-1])]

    def _in_turn(self, road: Road, programs: tuple[str, ...], *, blocking: bool = False) -> dict[str, Late]:
        took_ms: dict[str, list[float]] = {name: [] for name in programs}
        for name in self._turns(programs):
            tickets = road.tickets(self._payments)
            with road.running(name) as pid:
                if blocking and pid is not None:
                    with blocked(road.lsp):
                        took_ms[name] += _pay_each(road, tickets)
                else:
                    took_ms[name] += _pay_each(road, tickets)
        return {name: _late(each) for name, each in took_ms.items()}

    def _at_once(self, road: Road, programs: tuple[str, ...]) -> dict[str, list[float]]:
        cpu_us: dict[str, list[float]] = {name: [] for name in programs}
        for name in self._turns(programs):
            tickets = road.tickets(AT_ONCE * BURSTS)
            with road.running(name) as pid:
                assert pid is not None
                before_s = cpu_s(pid)
                for start in range(0, len(tickets), AT_ONCE):
                    _pay_all(road, tickets[start : start + AT_ONCE])
                cpu_us[name].append((cpu_s(pid) - before_s) / len(tickets) * 1e6)
        return cpu_us


def _pay_each(road: Road, tickets: list[Ticket]) -> list[float]:
    took_ms = []
    for ticket in tickets:
        begin = time.perf_counter()
        road.send(ticket)
        road.arrived(ticket)
        took_ms.append((time.perf_counter() - begin) * 1e3)
    return took_ms


def _pay_all(road: Road, tickets: list[Ticket]) -> None:
    for ticket in tickets:
        road.send(ticket)
    for ticket in tickets:
        road.arrived(ticket)


def _late(took_ms: list[float]) -> Late:
    return {name: quantile(took_ms, share) for name, share in SHARES.items()}


def ratios(r: RealResults) -> dict[str, float]:
    """Return what the targets are about."""

    def over(table: dict[str, Late], name: str, key: str = "p50") -> float | None:
        above, below = table[name][key], table[NO_PLUGIN][key]
        return None if above is None or not below else round(above / below, 3)

    cpu = [pyln / ours for pyln, ours in zip(r.cpu_us[PYLN], r.cpu_us[SERVICE], strict=True)]  # round by round
    found = {
        "P2 CPU of the process for an HTLC: pyln-client ÷ service (≥ 20)": round(statistics.median(cpu), 1),
        "the same, least of all rounds": round(min(cpu), 1),
        "the same, most": round(max(cpu), 1),
        "P21 p50 beside a blocking method: our host ÷ no plugin (≤ 1.05)": over(r.blocked_ms, OUR_HOST),
        "P21 p50 beside a blocking method: pyln-client ÷ no plugin": over(r.blocked_ms, PYLN),
        "p50 of a payment: service ÷ no plugin": over(r.payment_ms, SERVICE),
        "p99 of a payment: service ÷ no plugin": over(r.payment_ms, SERVICE, "p99"),
    }
    return {what: ratio for what, ratio in found.items() if ratio is not None}


def text(r: RealResults) -> str:
    """For people."""
    m = r.machine
    head = f"{m['cpu']}, {m['cores']} cores, load {m['load']}, lightningd {r.lightningd}, {r.payments} payments a case"
    rows = [["payment through a real lightningd, ms", *SHARES]]
    rows += [[name, *_shown(late)] for name, late in r.payment_ms.items()]
    for name, late in r.blocked_ms.items():
        beside = f"{name}, {BLOCK_S} of {BLOCK_EVERY_S} s blocked" if name != NO_PLUGIN else f"{name} (again)"
        rows.append([beside, *_shown(late)])
    cpu = [["CPU of the plugin's process, µs an HTLC", "median", "least", "most"]]
    for name, values in r.cpu_us.items():
        cpu.append([name, *(f"{value:.0f}" for value in (statistics.median(values), min(values), max(values)))])
    bounds = [["ratio", "value"], *([name, f"{value:g}"] for name, value in r.ratios.items())]
    return "\n\n".join([head, table(rows), table(cpu), table(bounds)]) + "\n"


def _shown(late: Late) -> list[str]:
    return [f"{needed(share)} needed" if (ms := late[name]) is None else f"{ms:.1f}" for name, share in SHARES.items()]


def as_json(r: RealResults) -> str:
    """For programs."""
    return json.dumps(asdict(r), indent=2) + "\n"
