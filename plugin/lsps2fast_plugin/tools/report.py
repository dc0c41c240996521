"""`lsps2fast report`: what the sales ledger says, as tables, CSV or JSON; asked of the node, or read from the file."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sqlite3
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

from lsps2fast.errors import ConfigError
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import parse_node_id
from lsps2fast_plugin.service.sales_ledger.ledger import reading
from lsps2fast_plugin.service.sales_ledger.listing import MOST_ROWS, OUTCOMES, Wanted, page, read_cursor
from lsps2fast_plugin.service.sales_ledger.periods import month_of, read_time
from lsps2fast_plugin.service.sales_ledger.report import BY, report
from lsps2fast_plugin.service.sales_ledger.schema import VERSION, NotOurs, version_of
from lsps2fast_plugin.service.sales_ledger.story import explain, sat
from lsps2fast_plugin.service.sales_ledger.writer import advice

DEFAULT_RPC: Final = "~/.lightning/bitcoin/lightning-rpc"
KINDS: Final = ("money", "sales", "explain", "closable")
Answer = dict[str, Any]
# Columns of each table: heading and member of a row; the last to go where a terminal is narrow stand first.
_MONEY: Final = (
    ("net", "net_msat"),
    ("earned", "earned_msat"),
    ("mining", "mining_msat"),
    ("sales", "sales"),
    ("failed", "failed"),
    ("% a year", "return_percent_per_year"),
    ("BTC-days", "capital_sat_days"),
)
_SALES: Final = (
    ("ended", "ended_at"),
    ("outcome", "outcome"),
    ("fee", "fee_taken_msat"),
    ("why", "code"),
    ("amount", "amount_msat"),
    ("mining", "mining_msat"),
    ("by", "failed_by"),
    ("jit scid", "jit_scid"),
    ("token", "token"),
    ("peer", "peer_id"),
)
_CLOSABLE: Final = (
    ("channel", "short_channel_id"),
    ("idle days", "idle_days"),
    ("by rule", "rule"),
    ("opening", "opening_fee_msat"),
    ("routing", "routing_fees_msat"),
    ("capacity", "capacity_msat"),
    ("ours", "to_us_msat"),
    ("mining", "mining_msat"),
    ("peer", "peer_id"),
    ("last used", "last_used_at"),
    ("why not", "why_not"),
)
_KEPT: Final = (
    ("channel", "short_channel_id"),
    ("confirmations", "confirmations"),
    ("promised", "min_lifetime_blocks"),
    ("it stays because", "why"),
    ("peer", "peer_id"),
)
ANOTHER: Final = "name another file with --file"
# Options that ask for something, and of which questions; those of where and how go with all.
ASKS: Final = {
    "by": ("money",),
    "since": ("money", "sales"),
    "until": ("money", "sales"),
    "peer": ("sales",),
    "token": ("sales",),
    "outcome": ("sales",),
    "limit": ("sales",),
    "idle_days": ("closable",),
    "kept": ("closable",),
}
USUAL_LIMIT: Final = 100
NODE: Final = "node"
GAP: Final = 2  # between columns
Columns = tuple[tuple[str, str], ...]


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what may be asked."""
    parser.add_argument(
        "what", nargs="?", choices=KINDS, default="money", help="money (default), sales, explain, or closable channels"
    )
    parser.add_argument("about", nargs="?", help="explain: a payment hash, channel id, jit scid or node id")
    parser.add_argument("--by", choices=(*BY, NODE), help="money: a row for each")
    parser.add_argument("--since", metavar="TIME", help="a date, a time, or seconds since 1970 (UTC)")
    parser.add_argument("--until", metavar="TIME", help="the same; money: by default this month")
    parser.add_argument("--peer", metavar="NODE_ID", help="sales: to this client")
    parser.add_argument("--token", metavar="LABEL", help="sales: with this token")
    parser.add_argument("--outcome", choices=OUTCOMES, help="sales: that ended so")
    parser.add_argument("--limit", type=int, help=f"sales: how many at most (default {USUAL_LIMIT})")
    parser.add_argument("--idle-days", type=int, help="closable: unused for so long")
    parser.add_argument("--kept", action="store_true", default=None, help="closable: also what is bound, and by what")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="rows for spreadsheets, amounts in msat")
    shape.add_argument("--json", action="store_true", help="the answer as it is")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--rpc", metavar="SOCKET", default=DEFAULT_RPC, help=f"of lightningd (default {DEFAULT_RPC})")
    source.add_argument("--file", metavar="LEDGER", help="read this file instead; the node need not run")
    source.add_argument(
        "--fleet", metavar="URL", help="of the fleet's database: money and sales of all nodes; money also --by node"
    )


def run(args: Namespace) -> int:
    """Ask and show; 2 when that cannot be done."""
    try:
        if args.about is not None and args.what != "explain":
            raise ConfigError(f"{args.about!r} has no place here: only explain takes something to explain")
        _check(args)
        answer = _from_fleet(args) if args.fleet else _from_file(args) if args.file else _from_node(args)
        if args.json:
            sys.stdout.write(json.dumps(answer, indent=2) + "\n")
        elif args.csv:
            sys.stdout.write(_csv(args.what, answer))
        else:
            _show(args.what, answer)
    except ConfigError as error:
        sys.stderr.write(f"lsps2fast report: {error}\n")
        return 2
    return 0


def _check(args: Namespace) -> None:
    """Refuse what would be ignored. Raises ConfigError."""
    for name, questions in ASKS.items():
        if getattr(args, name) is not None and args.what not in questions:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} has no place here: it goes with `report {'` and `report '.join(questions)}`")
    if args.by == NODE and not args.fleet:
        raise ConfigError("--by node has no place here: it goes with --fleet")
    if args.limit is None:
        args.limit = USUAL_LIMIT


# Where it comes from ----------------------------------------------------------------------------------


def _from_node(args: Namespace) -> Answer:
    path = Path(args.rpc).expanduser()
    if args.what == "sales":
        return _pages(args, lambda more: call(path, "lsps2-listsales", _given(_wanted_of(args) | more)))
    method = {"money": "lsps2-report", "explain": "lsps2-explain", "closable": "lsps2-closable"}[args.what]
    params = {
        "money": {"by": args.by, "since": args.since, "until": args.until},
        "explain": {"about": _about(args)},
        "closable": {"idle_days": args.idle_days, "kept": args.kept},
    }[args.what]
    return call(path, method, _given(params))


def _wanted_of(args: Namespace) -> Answer:
    names = {"peer_id": args.peer, "token": args.token, "outcome": args.outcome}
    return names | {"since": args.since, "until": args.until}


def _given(params: Answer) -> Answer:
    return {name: value for name, value in params.items() if value is not None}


def _about(args: Namespace) -> str | None:
    if args.what == "explain" and args.about is None:
        raise ConfigError("explain what? Give a payment hash, channel id, jit scid or node id")
    about: str | None = args.about
    return about


def call(path: Path, method: str, params: Answer) -> Answer:
    """Return the answer of a running lightningd. Raises ConfigError with what to do."""
    from pyln.client import LightningRpc, RpcError

    if not path.exists():
        raise ConfigError(f"there is no {path}: name the socket of your lightningd with --rpc, or a ledger with --file")
    try:
        answer: Answer = LightningRpc(str(path)).call(method, params)
    except RpcError as error:
        said = error.error.get("message", error.error) if isinstance(error.error, dict) else error.error
        raise ConfigError(str(said)) from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; does lightningd run?") from error
    return answer


def _from_file(args: Namespace) -> Answer:
    if args.what == "closable":
        raise ConfigError("which channels may be closed only a running node knows: leave out --file")
    path = Path(args.file).expanduser()
    if not path.is_file():
        raise ConfigError(f"there is no ledger {path}")
    try:
        with reading(str(path)) as db:
            version = version_of(db)
            if version == 0:
                raise ConfigError(f"{path} is empty: name the ledger of a service that has run")
            if version < VERSION:
                raise ConfigError(f"{path} has version {version}: the service brings it to {VERSION} when it starts")
            return _asked(args, db)
    except (NotOurs, sqlite3.Error) as error:
        damaged = f"{ANOTHER}, or ask the node; `sqlite3 FILE .recover` may read what is left"
        raise ConfigError(f"{path}: {advice(error, ANOTHER, damaged)}") from error


def _from_fleet(args: Namespace) -> Answer:
    if args.what not in ("money", "sales"):
        raise ConfigError(f"`report {args.what}` is a question for one node: leave out --fleet")
    from lsps2fast_plugin.tools.fleet import read_ledgers

    with ExitStack() as opened:
        ledgers = {node: opened.enter_context(closing(db)) for node, db in read_ledgers(args.fleet).items()}
        if args.by != NODE:
            return _asked(args, ledgers[""])
        args.by = None
        answer = _asked(args, ledgers.pop(""))
        answer["rows"] = [{NODE: node, **_asked(args, db)["total"]} for node, db in ledgers.items()]
        return answer


def _asked(args: Namespace, db: sqlite3.Connection) -> Answer:
    since_ms, until_ms = read_time(args.since, "--since"), read_time(args.until, "--until")
    if args.what == "explain":
        return explain(db, _about(args) or "")
    if args.what == "sales":
        wanted = Wanted(since_ms, until_ms, _peer(args.peer), args.token, args.outcome)
        return _pages(args, lambda more: page(db, wanted, read_cursor(more.get("cursor")), more["limit"]))
    now_ms = time.time_ns() // 1_000_000
    first_ms, last_ms = month_of(now_ms)
    first_ms = first_ms if since_ms is None else since_ms
    last_ms = max(last_ms, first_ms) if until_ms is None else until_ms
    if first_ms > last_ms:
        raise ConfigError("--since is later than --until")
    return report(db, first_ms, last_ms, args.by, now_ms)


def _peer(value: str | None) -> str | None:
    try:
        return None if value is None else parse_node_id(value, "--peer").hex()
    except MalformedField as error:
        raise ConfigError(str(error)) from error


def _pages(args: Namespace, ask: Callable[[Answer], Answer]) -> Answer:
    """Return as many rows as were wanted, page by page."""
    if args.limit < 1:
        raise ConfigError("--limit must be at least 1")
    rows: list[Answer] = []
    more: Answer = {}
    while True:
        answer = ask(more | {"limit": min(args.limit - len(rows), MOST_ROWS)})
        rows += answer["sales"]
        if "next_cursor" not in answer or len(rows) >= args.limit:
            return {"sales": rows}
        more = {"cursor": answer["next_cursor"]}


# How it is shown --------------------------------------------------------------------------------------


def _rows(what: str, answer: Answer) -> list[Answer]:
    if what == "money":
        return [*answer.get("rows", []), {"total": True, **answer["total"]}]
    if what == "explain":
        return [
            {"jit_channel_scid": offer["jit_channel_scid"], "story": line}
            for offer in answer["offers"]
            for line in offer["story"]
        ]
    found: list[Answer] = answer["sales" if what == "sales" else "channels"]
    return found


def _csv(what: str, answer: Answer) -> str:
    rows = answer["rows"] if what == "money" and "rows" in answer else _rows(what, answer)
    names = list(dict.fromkeys(name for row in rows for name in row if name != "total"))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _harmless(value: Any) -> Any:
    """Return a label as text that a spreadsheet takes for no formula, a list as its sentences."""
    value = "; ".join(value) if isinstance(value, list) else value
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def _show(what: str, answer: Answer) -> None:
    out = sys.stdout
    if what == "explain":
        for offer in answer["offers"]:
            out.write(f"{offer['jit_channel_scid']}\n" + "".join(f"  {line}\n" for line in offer["story"]))
        return
    if what == "money":
        out.write(f"{answer['since']} to {answer['until']}, in sat\n")
    if what == "closable":
        cost_sat = -(-answer["closing_msat"] // 1000)
        out.write(f"closing costs {cost_sat:,} sat at {answer['feerate_perkw']} sat per 1000 weight\n")
        out.write(_by_rule(answer["by_rule"]))
    rows = _rows(what, answer)
    columns = {"money": _money_columns(answer), "sales": _SALES, "closable": _CLOSABLE}[what]
    if not rows:
        out.write("no channel can be closed\n" if what == "closable" else "none\n")
    else:
        _print_table(columns, rows, what == "money")
    if answer.get("kept"):
        out.write("\nbound\n")
        _print_table(_KEPT, answer["kept"], False)


def _by_rule(state: Answer) -> str:
    """Say how closing by rule stands."""
    if not state["rules"]:
        return "closing by rule: the policy has no rules\n"
    hours = "cheap hours now" if state["is_cheap"] else "no cheap hours now"
    return (
        f"closing by rule is {'on' if state['is_on'] else 'off'} ({', '.join(state['rules'])}); {hours}, at most"
        f" {state['max_feerate_perkw']} sat per 1000 weight; in 24 hours {state['closed_in_24_hours']} of"
        f" {state['closes_per_day']}, under way {len(state['under_way'])}\n"
    )


def _money_columns(answer: Answer) -> Columns:
    by = next((name for name in (*BY, NODE) if answer.get("rows") and name in answer["rows"][0]), "total")
    return (("" if by == "total" else by, by), *_MONEY)


def _print_table(columns: Columns, rows: list[Answer], with_total: bool) -> None:
    """No amount is ever cut: where the terminal is too narrow, columns are left out, the least important first."""
    filled = tuple(column for column in columns if any(row.get(column[1]) is not None for row in rows))
    table = {name: [_cell(name, row) for row in rows] for _, name in filled}
    widths = {name: max(len(heading), *map(len, table[name])) for heading, name in filled}
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None
    while wide is not None and len(filled) > 2 and sum(widths[name] + GAP for _, name in filled) - GAP > wide:
        filled = filled[:-1]
    console = _console()
    for number in range(-1, len(rows)):
        cells = [
            (heading if number < 0 else table[name][number]).rjust(widths[name])
            if _is_number(name)
            else (heading if number < 0 else table[name][number]).ljust(widths[name])
            for heading, name in filled
        ]
        line = (" " * GAP).join(cells).rstrip()
        loud = number < 0 or (with_total and number == len(rows) - 1)
        if console is None:
            sys.stdout.write(line + "\n")
        else:
            console.print(
                line, style="bold" if loud else None, markup=False, no_wrap=True, overflow="ignore", crop=False
            )


def _console() -> Any:
    """Rich on a terminal; plain lines elsewhere, or where it is not installed."""
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(highlight=False)


def _is_number(name: str) -> bool:
    ends = ("_msat", "_days", "_year", "_blocks")
    return name.endswith(ends) or name in ("sales", "failed", "confirmations")


def _cell(name: str, row: Answer) -> str:
    value = row.get(name)
    if name in (*BY, NODE, "total") and row.get("total") is True:
        return "total"
    if value is None:
        return "-" if name in (*BY, NODE) else ""
    if isinstance(value, list):
        return "; ".join(value)
    if name == "capital_sat_days":
        return f"{value / 1e8:,.2f}"
    if name.endswith("_msat"):
        return sat(value).removesuffix(" sat")
    if name.endswith("_at"):
        return str(value)[:16].replace("T", " ")
    if name in ("peer_id", "peer", NODE):
        return f"{value[:10]}…"
    return f"{value:,}" if type(value) in (int, float) else str(value)
