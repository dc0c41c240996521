"""`lsps2fast …`: the demo on the embedded node, the table of the session machine, load on the plugin."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO

from lsps2fast import __version__, table
from lsps2fast.errors import ConfigError

UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # of a place to write to
AGAIN_S: Final = 0.1  # until an interrupt that was lost comes again


def _table_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools import machine_picture

    sys.stdout.write(machine_picture.reference() if args.markdown else f"{table.GRID.strip()}\n\n{table.mermaid()}")
    return 0


def _cannot_write(command: str, option: str, path: Path | None) -> bool:
    """Tell of a path that cannot be written before the run, not after it."""
    try:
        if path is not None:
            path.touch()
    except OSError as error:
        sys.stderr.write(f"lsps2fast {command}: {option} {path}: {error.strerror}; name a file that can be written\n")
        return True
    return False


def _demo_command(args: argparse.Namespace) -> int:
    if _cannot_write("demo", "--html", args.html):
        return 2
    from lsps2fast_plugin.tools.demo import (
        batch,
        evil,  # the embedded node is not needed by the other commands
        reuse,
        sales,
        wake,
    )

    if args.evil_lsp is not None:
        return evil.run(seed=args.seed, as_json=args.json, mode=args.mode, vice=args.evil_lsp, html=args.html)
    kinds: dict[str, type[sales.Stage]] = {"reuse": reuse.ReuseStage, "wake": wake.WakeStage, "batch": batch.BatchStage}
    kind = next((kind for name, kind in kinds.items() if getattr(args, name)), sales.Stage)
    mode = args.mode or kind.modes[0]
    if mode not in kind.modes:
        sys.stderr.write(f"lsps2fast demo: --mode {mode} has no such story; leave it out\n")
        return 2
    return sales.run(seed=args.seed, as_json=args.json, mode=mode, html=args.html, kind=kind)


def _regtest_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools.regtest.playground import Extras, run

    options = dict(option.split("=", 1) if "=" in option else (option, True) for option in args.option)
    return run(
        args.action,
        mode=args.mode,
        as_json=args.json,
        directory=args.dir,
        extras=Extras(args.ha, options, args.wallets),
    )


def _database_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools import database_check

    return database_check.run(args)


def _fleet_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools import fleet

    return fleet.run(args)


def _sign_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools import sign_webhooks

    return sign_webhooks.run(args.hsm_secret)


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")


def _flood_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools.bench import flood

    if args.sweep:
        return _sweep_command(args)
    result = flood.run_flood(args.seed, args.per_second, args.seconds, _say)
    sys.stdout.write(flood.as_json(result) if args.json else flood.text(result))
    return 0


def _sweep_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools.bench import sweep

    if _cannot_write("bench", "--plot", args.plot):
        return 2
    found = sweep.run_sweep(args.seed, 4 if args.quick else args.seconds, _say)
    sys.stdout.write(sweep.as_json(found) if args.json else sweep.text(found))
    if args.plot is not None:
        args.plot.write_text(sweep.svg(found), encoding="utf-8")
    return 0


def _real_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools.bench import real, real_sales

    rounds, payments = (2, 20) if args.quick else (9, 40)
    try:
        if args.sales:
            sales = real_sales.run_sales(args.rounds or (6 if args.quick else 24), _say)
            text = real_sales.as_json(sales) if args.json else real_sales.sales_text(sales)
        elif args.crowd:
            crowds = real_sales.run_crowds(args.crowd, args.rounds or (1 if args.quick else 3), _say)
            text = real_sales.as_json(crowds) if args.json else real_sales.crowd_text(crowds)
        else:
            results = real.RealBench(args.rounds or rounds, payments, _say).run()
            text = real.as_json(results) if args.json else real.text(results)
    except ConfigError as error:
        sys.stderr.write(f"lsps2fast bench: {error}\n")
        return 2
    sys.stdout.write(text)
    return 0


def _crowd_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools.bench import crowd

    crowds = crowd.run_crowds(args.seed, args.crowd, args.rounds or (1 if args.quick else 3), _say)
    sys.stdout.write(crowd.as_json(crowds) if args.json else crowd.text(crowds))
    return 0


def _bench_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools.bench import report as figures  # neither compiler nor embedded node else
    from lsps2fast_plugin.tools.bench.run import FULL, QUICK, Bench

    if args.flood:
        return _flood_command(args)
    if args.real:
        return _real_command(args)
    if args.sales:
        sys.stderr.write("lsps2fast bench: --sales needs --real: real nodes\n")
        return 2
    if args.crowd:
        return _crowd_command(args)
    if _cannot_write("bench", "--plot", args.plot):
        return 2
    results = Bench(QUICK if args.quick else FULL, args.seed, _say).run()
    sys.stdout.write(figures.as_json(results) if args.json else figures.text(results))
    if args.plot is not None:
        args.plot.write_text(figures.svg(results), encoding="utf-8")
    return 0


def _simulate_command(args: argparse.Namespace) -> int:
    from lsps2fast_plugin.tools.simulate import command

    return command.run(args)


class _Parser(argparse.ArgumentParser):
    """argparse's own says nothing of help that cannot be written, and counts it as written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            sys.stdout.write(message)
        else:
            super()._print_message(message, file)


def parser() -> argparse.ArgumentParser:
    from lsps2fast_plugin.tools import report, watch  # here, so that a signal that comes meanwhile is heard
    from lsps2fast_plugin.tools.simulate import arguments

    parser = _Parser(prog="lsps2fast", description="JIT channels (LSPS2, bLIP-52) for Core Lightning.")
    parser.add_argument("--version", action="version", version=f"lsps2fast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="sell JIT channels on the embedded node and prove the sums")
    demo.add_argument("--json", action="store_true", help="print only the result, as JSON")
    demo.add_argument(
        "--seed",
        type=int,
        default=1,
        help="seed of amounts, parts and transactions; scids and payment hashes differ in each run (default 1)",
    )
    demo.add_argument(
        "--mode",
        choices=("client-trusts-lsp", "lsp-trusts-client"),
        help="who trusts whom until the payment is settled (default: client-trusts-lsp; withhold: lsp-trusts-client)",
    )
    demo.add_argument(
        "--evil-lsp",
        choices=(
            "skim",
            "withhold",
            "resize",
            "late",
            "drain",
            "reuse",
            "fake-funding",
            "second-channel",
            "vanish",
        ),
        help="instead, an LSP that takes 1 msat too much, never sends the funding, opens too small a channel, opens it"
        " when its offer is over, drains the wallet, takes two fees for one channel, shows a false funding, opens"
        " twice, or goes away; and a client that refuses",
    )
    demo.add_argument(
        "--wake",
        action="store_true",
        help="instead, a wallet that sleeps when its first payment comes, and is called (LSPS5)",
    )
    demo.add_argument(
        "--reuse",
        action="store_true",
        help="instead, a wallet that has a channel is paid again: over the room in it, and then more than that",
    )
    demo.add_argument(
        "--batch",
        action="store_true",
        help="instead, three wallets are paid at about the same time: one transaction funds their channels",
    )
    demo.add_argument(
        "--html", type=Path, metavar="FILE", help="write the story as an HTML page: who said what to whom, and when"
    )
    demo.set_defaults(run=_demo_command)

    regtest = commands.add_parser("regtest", help="the demo on real nodes: bitcoind and lightningd on loopback")
    regtest.add_argument("action", choices=("up", "demo", "down"), help="start a playground, play three sales, end it")
    regtest.add_argument(
        "--ha", action="store_true", help="up: the LSP on PostgreSQL, with a second machine that takes over on a signal"
    )
    regtest.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="up: an option of the LSP's plugin, such as lsps2-reuse=free; once for each",
    )
    regtest.add_argument("--wallets", type=int, choices=range(1, 6), default=1, help="up: so many, 1 to 5 (default: 1)")
    regtest.add_argument("--dir", type=Path, default=None, help="directory of the nodes (default: your own in /tmp)")
    regtest.add_argument("--json", action="store_true", help="demo: print only the result, as JSON")
    regtest.add_argument(
        "--mode",
        choices=("client-trusts-lsp", "lsp-trusts-client"),
        default="client-trusts-lsp",
        help="who trusts whom until the payment is settled (default: client-trusts-lsp)",
    )
    regtest.set_defaults(run=_regtest_command)

    bench = commands.add_parser("bench", help="measure the plugin under load, beside pyln-client and plain C")
    bench.add_argument("--quick", action="store_true", help="take less than a minute; with --real two or three")
    bench.add_argument("--json", action="store_true", help="print only the result, as JSON")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="draw latency and growth as SVG")
    bench.add_argument("--flood", action="store_true", help="instead, a crowd of peers with LSPS2 requests")
    bench.add_argument(
        "--sweep", action="store_true", help="with --flood: at rest, at rates up to 20,000, loop blocked"
    )
    bench.add_argument("--real", action="store_true", help="instead, payments through a real lightningd (on PATH)")
    bench.add_argument("--sales", action="store_true", help="with --real: sales beside ordinary payments instead")
    bench.add_argument("--crowd", type=int, metavar="N", help="N sales at once instead, on embedded nodes or --real")
    bench.add_argument("--rounds", type=int, metavar="N", help="of --real and --crowd (default by --quick)")
    bench.add_argument(
        "--per-second", type=float, default=10_000, help="messages a second of the crowd (default 10,000)"
    )
    bench.add_argument("--seconds", type=float, default=10, help="how long the crowd keeps on (default 10)")
    bench.add_argument("--seed", type=int, default=1, help="seed of the made-up HTLCs (default 1)")
    bench.set_defaults(run=_bench_command)

    simulated = commands.add_parser("simulate", help="play a town of honest and dishonest people on simulated time")
    arguments.add_arguments(simulated)
    simulated.set_defaults(run=_simulate_command)

    books = commands.add_parser(
        "report", help="show what was sold and earned, why a payment failed, which channels may be closed"
    )
    report.add_arguments(books)
    books.set_defaults(run=report.run)

    seen = commands.add_parser("watch", help="watch a running service on the terminal: payments, money, limits, alarms")
    watch.add_arguments(seen)
    seen.set_defaults(run=watch.run)

    database = commands.add_parser(
        "check-database", help="check whether lightningd's PostgreSQL could forget what an LSP has acted upon"
    )
    database.add_argument(
        "url", nargs="?", help="lightningd's option `wallet` (default: the variable LIGHTNINGD_WALLET)"
    )
    database.set_defaults(run=_database_command)

    fleet = commands.add_parser("fleet", help="the database that several nodes of one LSP share")
    fleet.add_argument("action", choices=("init", "show", "forget"), help="make its tables, list nodes, take one out")
    fleet.add_argument("url", help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE, of a role that may create there")
    fleet.add_argument("node", nargs="?", help="forget: the id of a node that will not come back")
    fleet.add_argument("--role", help="init: let this role of the database in, which the nodes then use")
    fleet.add_argument(
        "--network",
        choices=("bitcoin", "testnet", "testnet4", "signet", "regtest"),
        default="bitcoin",
        help="init: of the nodes (default: bitcoin)",
    )
    fleet.set_defaults(run=_fleet_command)

    signer = commands.add_parser(
        "sign-webhooks", help="for lsps2-webhook-signer: sign notifications to webhooks with the key of a node"
    )
    signer.add_argument("hsm_secret", type=Path, help="lightningd's file; read once, when this is started")
    signer.set_defaults(run=_sign_command)

    table = commands.add_parser("table", help="print the session machine: its grid and its diagram")
    table.add_argument("--markdown", action="store_true", help="print it as the page in docs/reference")
    table.set_defaults(run=_table_command)
    return parser


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end a command at any moment, so that folders and processes of its own are cleared away.

    A script's `&` starts commands that ignore SIGINT: this one does not, for SIGTERM ends it by the same way.
    """
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT)),
        signal.SIGALRM: signal.signal(signal.SIGALRM, _again),
    }
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt a moment later where an interrupt was lost: in a `__del__` or a callback of a weak reference."""
    if lost.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(lost)


def _again(number: int, frame: FrameType | None) -> None:
    """Interrupt, but not in the hook itself, where it would be lost once more."""
    while frame is not None and frame.f_code is not _interrupt_again.__code__:
        frame = frame.f_back
    if frame is None:
        signal.raise_signal(signal.SIGINT)
    else:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 when all was well."""
    if sys.stdout is None:
        sys.stderr.write("lsps2fast: there is no standard output: leave out `>&-`, or give /dev/null\n")
        return 1
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows ASCII only gets "?" for an ellipsis
    try:
        return _run(argv)
    except KeyboardInterrupt:
        sys.stderr.write("lsps2fast: interrupted before there was anything to tell\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader has seen enough, as in `lsps2fast demo | head`
        _say_no_more(sys.stdout)
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _say_no_more(sys.stdout)
        where = error.filename or "what it says"
        with suppress(OSError):  # standard error may be full, too
            sys.stderr.write(f"lsps2fast: {where} cannot be written: {error.strerror}; let it go to another place\n")
        return 1
    finally:
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
        except OSError:
            _say_no_more(sys.stderr)


def _run(argv: list[str] | None) -> int:
    try:
        with _ended_by_signals():
            args = parser().parse_args(argv)
            command: Callable[[argparse.Namespace], int] = args.run
            return command(args)
    finally:
        sys.stdout.flush()


def _say_no_more(stream: TextIO) -> None:
    """Let nothing be left that the end of the process would try to write once more: it would end with 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main())
