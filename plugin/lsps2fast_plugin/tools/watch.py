"""`lsps2fast watch`: a running service on a terminal: payments as lanes through their stages, money, limits, alarms.

It only asks: `lsps2-listsessions`, `lsps2-stats` and `lsps2-report`, once a second, of any lightningd whose socket can
be reached. What is shown is made of the answers alone, so that a test needs no terminal.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.sales_ledger.story import sat
from lsps2fast_plugin.tools.report import DEFAULT_RPC, call

Answer = dict[str, Any]
Ask = Callable[[str, Answer], Answer]
LANE: Final = ("COLLECTING", "OPENING", "AWAITING_CHANNEL_READY", "AWAITING_SETTLEMENT", "BROADCASTING")
LEAST_WIDTH, WIDE = 60, 90
MOST_LANES: Final = 12
PERIOD_S: Final = 1.0
KEYS: Final = "p pauses, q ends"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what may be given."""
    parser.add_argument("--rpc", metavar="SOCKET", default=DEFAULT_RPC, help=f"of lightningd (default {DEFAULT_RPC})")
    parser.add_argument("--once", action="store_true", help="show it once and end")
    parser.add_argument("--demo", action="store_true", help="instead: the three sales of `lsps2fast demo`, as seen")
    parser.add_argument("--speed", type=_speed, default=1.0, help="of --demo, in looks a second (default 1)")


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.1 <= speed <= 100:
        raise ArgumentTypeError(f"{text} is not a number from 0.1 to 100")
    return speed


def look(ask: Ask) -> Answer:
    """Ask everything that is shown."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    answers = {"sessions": ask("lsps2-listsessions", {})["sessions"], "stats": ask("lsps2-stats", {})}
    try:
        answers["today"] = ask("lsps2-report", {"since": today})["total"]
    except ConfigError:  # no ledger is kept
        answers["today"] = None
    return answers


def lines(seen: Answer, width: int, paused: bool = False) -> list[str]:
    """Return the picture, cut to `width`; at 60 columns nothing of it is missing."""
    return [line[:width] for line in picture(seen, width, paused)]


def picture(seen: Answer, width: int, paused: bool = False) -> list[str]:
    """Return the picture for so many columns."""
    width = max(width, LEAST_WIDTH)
    found = [
        *_money(seen, width),
        *_coins(seen["stats"]),
        *_alarms(seen["stats"]),
        "",
        *_lanes(seen["sessions"], width),
    ]
    found.append(f"{KEYS}{'; PAUSED' if paused else ''}")
    return found


def _money(seen: Answer, width: int) -> Iterator[str]:
    stats, today = seen["stats"], seen["today"]
    selling = "selling is PAUSED" if stats["paused"] else "selling"
    yield f"lsps2fast {stats['version']}: {selling}, {stats['live_buys']} offers, {stats['live_sessions']} under way"
    if today is not None:
        yield f"today   {today['sales']} sold, {today['failed']} failed"
        yield f"money   {sat(today['earned_msat'])} earned, {sat(today['net_msat'])} net"
    yield f"held    {stats['held_parts']} parts, {sat(stats['held_msat'])}{_expiry(stats)}"
    for name, use in stats["limits"].items():
        if use.get("limit_msat"):
            used_sat, limit_sat = use["used_msat"] // 1000, use["limit_msat"] // 1000
            bar = _bar(use["used_msat"] / use["limit_msat"], width - 51)
            yield f"{name.replace('_', ' ')[:20]:<20} {bar} {f'{used_sat:,} of {limit_sat:,} sat':>27}"


def _expiry(stats: Answer) -> str:
    left = stats["held_blocks_left"]
    return "" if left is None else f", {left} blocks left"


def _coins(stats: Answer) -> Iterator[str]:
    free = "not looked at yet" if stats["free_coins_sat"] is None else f"{stats['free_coins_sat']:,} sat free"
    yield f"coins   {free}, {stats['coins_needed_sat']:,} sat needed now"
    owed = stats["broadcasts_owed"]
    yield f"chain   {stats['withheld_channels']} withheld, {stats['unpaid_channels']} unpaid, {owed} to be broadcast"


def _alarms(stats: Answer) -> Iterator[str]:
    raised = {kind: count for kind, count in stats["alarms_by_kind"].items() if count}
    if raised:
        yield "ALARMS  " + ", ".join(f"{kind} {count}" for kind, count in raised.items())
    if stats["ledger_in_trouble"]:
        yield "LEDGER  cannot be written; see the log"


def _lanes(sessions: list[Answer], width: int) -> Iterator[str]:
    """Yield a lane for each payment: its scid, how far it has come, its sum and fee."""
    live = [(buy, payment) for buy in sessions for payment in buy["payments"]]
    if not live:
        yield "no payment is under way"
    for buy, payment in live[:MOST_LANES]:
        state = payment["state"]
        place = LANE.index(state) if state in LANE else len(LANE) - 1
        track = "=" * place + ">" + "." * (len(LANE) - 1 - place)
        name = f" {state:<22}" if width >= WIDE else ""
        amounts = f"{sat(payment['sum_msat'])} fee {sat(payment['opening_fee_msat'])}"
        yield f"{buy['jit_channel_scid']:<23} {track}{name} {amounts}"
    if len(live) > MOST_LANES:
        yield f"and {len(live) - MOST_LANES} more"


def _bar(share: float, width: int) -> str:
    full = round(min(max(share, 0.0), 1.0) * max(width, 8))
    return "[" + "#" * full + "." * (max(width, 8) - full) + "]"


# The terminal -----------------------------------------------------------------------------------------


def run(args: Namespace) -> int:
    """Show it until `q`; 2 when the node cannot be asked."""
    if args.demo:
        return _replay(args)
    path = Path(args.rpc).expanduser()

    def ask(method: str, params: Answer) -> Answer:
        return call(path, method, params)

    try:
        seen = look(ask)
    except ConfigError as error:
        sys.stderr.write(f"lsps2fast watch: {error}\n")
        return 2
    if args.once or not sys.stdout.isatty():
        return _print(seen)
    _live(lambda: look(ask), seen, PERIOD_S)
    return 0


def _replay(args: Namespace) -> int:
    """Play the demo and show what was seen meanwhile, slowly enough to follow; the last look stays until `q`."""
    from lsps2fast_plugin.tools.demo import film

    if sys.stdout.isatty() and not args.once:
        sys.stdout.write("three sales are made on embedded nodes, to be shown in a moment\n")
    taken = film.frames()
    if args.once or not sys.stdout.isatty():
        return _print(taken[-1])
    rest = iter(taken[1:])
    _live(lambda: next(rest, taken[-1]), taken[0], 1 / args.speed)
    return 0


def _print(seen: Answer) -> int:
    sys.stdout.write("\n".join(lines(seen, shutil.get_terminal_size().columns)) + "\n")
    return 0


def _live(again: Callable[[], Answer], seen: Answer, period_s: float) -> None:
    try:
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        sys.stderr.write("lsps2fast watch needs rich: pip install 'lsps2fast[terminal]', or give --once\n")
        raise SystemExit(2) from None
    paused = False
    with _keys() as key, Live(auto_refresh=False, screen=True) as live:
        while True:
            shown = "\n".join(lines(seen, live.console.width, paused))
            live.update(Text(shown, no_wrap=True, overflow="crop"), refresh=True)
            pressed = key(period_s)
            if pressed == "q":
                return
            if pressed == "p":
                paused = not paused
            if not paused:
                try:
                    seen = again()
                except ConfigError as error:  # the plugin is restarted, or lightningd: wait for it
                    live.update(Text(f"{error}\nwaiting; {KEYS}"), refresh=True)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Read single keys, as far as there is a keyboard."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
