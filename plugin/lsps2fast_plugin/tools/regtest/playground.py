"""`lsps2fast regtest up|demo|down`: real nodes for a person to play with, and a whole sale told as it happens.

`up` stays in the foreground and cleans up on Ctrl-C, on SIGTERM and when `down` is called elsewhere; `down` also clears
away what a killed `up` has left. Only one playground exists for a user at a time; its place is in `state.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.tools.demo.screen import Screen
from lsps2fast_plugin.tools.demo.timeline import Timeline
from lsps2fast_plugin.tools.demo.transcript_report import Sale, collect
from lsps2fast_plugin.tools.regtest.machines import Machines
from lsps2fast_plugin.tools.regtest.postgres import find_postgres
from lsps2fast_plugin.tools.regtest.processes import Child, Lightningd, find_programs, until
from lsps2fast_plugin.tools.regtest.town import CLIENT_TRUSTS, Bill, Town

WALLET = "alice"
WALLETS = (WALLET, "bob", "carol", "dave", "erin")
END_S = 60.0


class Extras(NamedTuple):
    """What a person may ask of `up`: PostgreSQL and a second machine, options of the LSP's plugin, more wallets."""

    ha: bool = False
    options: Mapping[str, str | bool] = {}
    wallets: int = 1


NO_EXTRAS = Extras()


class Stopped(Exception):
    """The process was asked to end (SIGTERM, SIGINT)."""


def place() -> Path:
    """Return where this user's playground is: a directory of our own, short enough for sockets."""
    return Path(tempfile.gettempdir()) / f"lsps2fast-regtest-{os.getuid()}"


# Up and down ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ground(directory: Path, mode: str, say: Any, extras: Extras = NO_EXTRAS) -> Iterator[Town]:
    """Yield a town in `directory`, which is ours alone; gone afterwards, however that comes about.

    Raises ConfigError for options that the LSP's plugin does not take.
    """
    programs = find_programs()
    if extras.ha:
        find_postgres()
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(f"there is a playground in {directory}; end it with: lsps2fast regtest down") from None
    town = (Machines if extras.ha else Town)(directory, mode, programs=programs, service_options=dict(extras.options))
    _write_state(directory, [])
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        say("starting bitcoind, an LSP and a payer, and opening the payer's channels")
        town.open()
        say("starting the wallet" if extras.wallets == 1 else f"starting {extras.wallets} wallets")
        for name in WALLETS[: extras.wallets]:
            town.wallet(name)
        _write_state(directory, town.children)
        yield town
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the cleaning up
        say("stopping everything")
        town.close()
        town.remove()
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    raise Stopped(signal.Signals(number).name)


def _write_state(directory: Path, children: list[Child]) -> None:
    pids = {child.name: child.process.pid for child in children if child.process is not None}
    (directory / "state.json").write_text(json.dumps({"pid": os.getpid(), "pids": pids}) + "\n")


def _is_ours(pid: int, directory: Path, word: str) -> bool:
    """Return whether this process is still the one we started: its command line says so."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return word in line and (str(directory) in line or "regtest" in line)


def down(directory: Path, say: Any) -> int:
    """End the playground; 1 when there is none."""
    file = directory / "state.json"
    if not file.exists():
        say("there is no playground")
        return 1
    state = json.loads(file.read_text())
    if _is_ours(state["pid"], directory, "lsps2fast"):
        os.kill(state["pid"], signal.SIGTERM)
        until(lambda: not directory.exists(), "end of the playground", END_S)
    else:
        _clear(directory, state["pids"])
    say("the playground is gone")
    return 0


def _clear(directory: Path, pids: dict[str, int]) -> None:
    """Remove the remains of an `up` that was killed."""
    for pid in reversed(pids.values()):
        with contextlib.suppress(ProcessLookupError):
            if _is_ours(pid, directory, str(directory)):
                os.kill(pid, signal.SIGTERM)
                until(lambda pid=pid: not _is_ours(pid, directory, str(directory)), f"end of process {pid}", END_S)  # type: ignore[misc]
    shutil.rmtree(directory)


def up(directory: Path, mode: str, say: Any, extras: Extras) -> int:
    """Start it, say what can be done, and wait for the end."""
    try:
        with ground(directory, mode, say, extras) as town:
            if isinstance(town, Machines):
                _take_over_when_told(town, say)
            say(_instructions(town))
            signal.pause()
    except (KeyboardInterrupt, Stopped):
        return 0
    return 0


def _take_over_when_told(town: Machines, say: Any) -> None:
    """Go on beside it: at SIGUSR1 the machine of the LSP dies, and another one takes its place."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # the thread waits for it

    def each_time() -> None:
        while True:
            signal.sigwait({signal.SIGUSR1})
            other = town.machine()
            town.lose_machine()
            say(f"the machine in {town.lsp.directory} is dead; another one starts on the same database")
            took = town.take_over(other)
            _write_state(town.directory, town.children)
            for node in town.children:
                if isinstance(node, Lightningd) and node is not town.lsp and node.runs:
                    town.connect(node, town.lsp)
            say(
                f"it sells: lightningd took {took.lightningd_s:.1f} s, the plugin {took.ours_s:.2f} s more; now\n\n"
                f'  alias lsp="{_cli(town.lsp)}"\n'
            )

    threading.Thread(target=each_time, daemon=True).start()


def _cli(node: Lightningd) -> str:
    return f"{node.programs.lightning_cli} --network=regtest --lightning-dir={node.directory}"


def _instructions(town: Town) -> str:
    """Commands to copy: buy, pay, look, mine."""
    wallets = [node for node in town.children if isinstance(node, Lightningd) and node.name in WALLETS]
    wallet, nodes, lsp_id = wallets[0], len(wallets) + 2, town.lsp.node_id
    bitcoind = town.bitcoind
    bitcoin = f"{bitcoind.programs.bitcoin_cli} -regtest -datadir={bitcoind.directory} -rpcport={bitcoind.port}"
    lines = [
        "",
        f"{'Three' if nodes == 3 else nodes} nodes and bitcoind run in {town.directory}. In another terminal:",
        "",
        *(f'  alias {each.name}="{_cli(each)}"' for each in wallets),
        f'  alias lsp="{_cli(town.lsp)}"',
        f'  alias payer="{_cli(town.payer)}"',
        f'  alias btc="{bitcoin} -rpcuser={"regtest"} -rpcpassword={"regtest"}"',
        "",
        "What the LSP sells, and an invoice over a JIT channel (10,000 sat):",
        "",
        f"  {wallet.name} lsps-lsps2-getinfo {lsp_id}",
        f"  {wallet.name} -k lsps-lsps2-invoice lsp_id={lsp_id} amount_msat=10000000 description=tea label=tea",
        "",
        "Pay it, look, and mine the funding:",
        "",
        "  payer xpay BOLT11",
        "  lsp lsps2-listsessions",
        f"  {wallet.name} listpeerchannels",
        "  btc -generate 1",
        "",
    ]
    if isinstance(town, Machines):
        lines += [
            "The LSP keeps everything in PostgreSQL. Kill its machine, at any moment, and have another take its place:",
            "",
            f"  kill -USR1 {os.getpid()}",
            "",
        ]
    lines.append("Ctrl-C, or `lsps2fast regtest down` in another terminal, ends and removes everything.")
    return "\n".join(lines)


# The sale, told -----------------------------------------------------------------------------------------------


class Teller:
    """Follows the LSP's transcript while it is written and tells it as the demo does."""

    def __init__(self, town: Town, screen: Screen) -> None:
        self._town = town
        self._timeline = Timeline(screen.line)
        self._begin = time.monotonic()
        self._told = len(town.entries())
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Teller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._tell()

    def _follow(self) -> None:
        while not self._end.wait(0.05):
            self._tell()

    def _tell(self) -> None:
        entries = self._town.entries()
        for entry in entries[self._told :]:
            self._timeline.take({**entry, "t": entry["t"] - self._begin})
        self._told = len(entries)


class Story:
    """The sales of `regtest demo`."""

    def __init__(self, town: Town, screen: Screen) -> None:
        self.town = town
        self.screen = screen
        self.sales: list[Sale] = []

    def play(self) -> None:
        """Three sales, as in `lsps2fast demo`."""
        wallet = next(child for child in self.town.children if child.name == WALLET)
        assert isinstance(wallet, Lightningd)
        self._sale("A fixed invoice, paid in 5 parts over 2 channels", wallet, 10_000_000, [2_000_000] * 5)
        self._sale("An invoice without an amount, paid at once", wallet, None, [7_654_321])
        title = "Two of four parts stay away for 90 s; the payer tries again"
        self._sale(title, wallet, 20_000_000, [5_000_000] * 4, late=True)

    def _sale(
        self, title: str, wallet: Lightningd, size_msat: int | None, amounts_msat: list[int], late: bool = False
    ) -> None:
        town = self.town
        self.screen.chapter(title)
        begin, mark = time.monotonic(), len(town.entries())
        before = self._wealth(wallet)
        with Teller(town, self.screen):
            bill = town.bill(wallet, size_msat)
            if late:
                self._come_late(bill, amounts_msat)
            result = town.pay(bill, amounts_msat)
            if not result.paid:
                raise RuntimeError(f"the payment failed: {result.failures}")
            town.over(bill)
        town.mine()
        final = town.records("finalized")[bill.jit_scid]
        sale = Sale(title, bill.jit_scid, bill.payment_hash, int(final["lsps2fast"]["opening_fee_msat"]))
        sale.seconds = round(time.monotonic() - begin, 3)
        entries = town.entries()[mark:]
        collect(sale, entries)
        sale.funding_txid = final["funding_txid"]
        after = self._wealth(wallet)
        sale.books_msat = {name: after[name] - before[name] for name in before}
        self._prove(sale, bill, entries)
        self.sales.append(sale)

    def _come_late(self, bill: Bill, amounts_msat: list[int]) -> None:
        town = self.town
        amounts = amounts_msat[:2]
        sent = town.send_parts(bill, amounts, total_msat=sum(amounts_msat))
        town.held(2)
        town.advance(town.lsp, 90)
        failures = town.result(bill, sent, amounts).failures
        if failures != ["10070000"] * 2:
            raise RuntimeError(f"the held parts were answered {failures}, not with the temporary failure")

    def _wealth(self, wallet: Lightningd) -> dict[str, int]:
        town = self.town
        return {node.name: town.wealth_msat(node) for node in (town.payer, town.lsp, wallet)}

    def _prove(self, sale: Sale, bill: Bill, entries: list[dict[str, Any]]) -> None:
        """Make the checks of the demo that real nodes can answer."""
        town = self.town
        paid = [row for row in sale.parts if row.outcome == "forwarded"]
        arrived, forwarded = sum(row.amount_msat for row in paid), sum(row.forward_msat for row in paid)
        fee, books = sum(row.fee_msat for row in paid), sale.books_msat
        tx = town.bitcoind.call("getrawtransaction", sale.funding_txid, 2)
        miner_msat = round(tx["fee"] * 10**8) * 1000
        row = bill.wallet.call("listinvoices", {"label": bill.label})["invoices"][0]
        opens = [e for e in entries if e["dir"] == "rpc>host" and e["msg"].get("method") == "fundchannel_complete"]
        reserved = [coin for coin in town.lsp.call("listfunds")["outputs"] if coin["reserved"]]
        sale.checks = {
            "every hook call got exactly one answer": all(part.answers == 1 for part in sale.parts),
            f"fees taken add up to the opening fee of {sale.opening_fee_msat:,} msat": fee == sale.opening_fee_msat,
            f"{arrived:,} arrived = {forwarded:,} forwarded + {fee:,} fee": arrived == forwarded + fee,
            f"the wallet's invoice brought {forwarded:,} msat": row.get("amount_received_msat") == forwarded,
            f"the wallet owns {forwarded:,} msat more": books[bill.wallet.name] == forwarded,
            f"the payer lost {arrived:,} msat": books[town.payer.name] == -arrived,
            f"the LSP earned the fee and paid the miner {miner_msat:,} msat": books["lsp"] == fee - miner_msat,
            "one channel was opened": len(opens) == 1,
            "its funding is in a block": tx.get("confirmations", 0) > 0,
            "the final record is in the journal, no active one is left": town.outcome(bill) == "Succeeded",
            "no coins stay reserved": not reserved,
        }


def demo(directory: Path, mode: str, as_json: bool) -> int:
    """Play the story; 0 when every check held."""
    screen = Screen(silent=as_json)
    screen.title("lsps2fast regtest demo", f"real nodes on loopback, {mode}, default routing fees")
    begin = time.monotonic()
    try:
        with ground(directory, mode, lambda text: screen.line(time.monotonic() - begin, "stage", text)) as town:
            story = Story(town, screen)
            story.play()
    except (KeyboardInterrupt, Stopped):
        return 130
    well = all(all(sale.checks.values()) for sale in story.sales)
    if as_json:
        report = {"ok": well, "mode": mode, "sales": [asdict(sale) for sale in story.sales]}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return 0 if well else 1
    for sale in story.sales:
        screen.sale(sale)
    screen.verdict(well, sum(len(sale.checks) for sale in story.sales))
    return 0 if well else 1


def run(
    action: str,
    *,
    mode: str = CLIENT_TRUSTS,
    as_json: bool = False,
    directory: Path | None = None,
    extras: Extras = NO_EXTRAS,
) -> int:
    """One of up, demo, down; the exit code. `extras` are for `up` alone."""

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    where = directory or place()
    try:
        if action == "down":
            return down(where, say)
        return up(where, mode, say, extras) if action == "up" else demo(where, mode, as_json)
    except ConfigError as error:
        sys.stderr.write(f"lsps2fast regtest: {error}\n")
        return 2
    except (RuntimeError, TimeoutError) as error:  # with the last lines of the log
        sys.stderr.write(f"lsps2fast regtest: {error}\n")
        return 1
