"""The arguments of `lsps2fast simulate`; apart, because every other command reads them and needs no embedded node."""

from __future__ import annotations

import argparse
from pathlib import Path

from .plan import MODES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    parser.add_argument("--seed", type=_whole, default=1, metavar="N", help="seed of all random choices (default 1)")
    parser.add_argument(
        "--seeds",
        type=_count,
        default=1,
        metavar="N",
        help="how many seeds to play, as many at a time as there are cores",
    )
    parser.add_argument(
        "--minutes", type=_positive, metavar="M", help="begin no further seed after so many minutes (default: play all)"
    )
    parser.add_argument("--days", type=_positive, default=30.0, help="simulated days for each seed (default 30)")
    parser.add_argument("--people", type=_positive, default=24.0, help="people who come to town in a day (default 24)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="STRATEGY",
        help="only these dishonest strategies, or none; honest people stay",
    )
    parser.add_argument("--mode", choices=MODES, default="", help="trust mode of the LSP (default: the seed decides)")
    parser.add_argument(
        "--reuse",
        choices=("off", "free", "fee"),
        default="",
        help="what the LSP takes for a payment over a channel that its client has (default: the seed decides)",
    )
    parser.add_argument(
        "--closing",
        choices=("on", "off"),
        default="",
        help="whether rules of the operator close idle channels (default: the seed decides)",
    )
    parser.add_argument(
        "--batch",
        choices=("on", "off"),
        default="",
        help="whether channels that are opened within half a minute share a funding (default: the seed decides)",
    )
    parser.add_argument(
        "--orders",
        choices=("on", "off"),
        default="",
        help="whether channels may be ordered and paid ahead (default: the seed decides)",
    )
    parser.add_argument("--without", default="", metavar="NUMBERS", help="leave out these events, for example 2-8,13")
    parser.add_argument("--no-weather", action="store_true", help="no faults of the node: only blocks and fee rates")
    parser.add_argument("--mutant", default="", metavar="NAME", help="take one guard away and see what is lost")
    parser.add_argument("--mutants", action="store_true", help="try all mutants: a table of what finds each")
    parser.add_argument("--shrink", action="store_true", help="shorten the story of a violation as far as possible")
    parser.add_argument("--tell", action="store_true", help="tell each step as it comes, on standard error")
    parser.add_argument("--json", action="store_true", help="print only the result, as JSON")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the money of each group, beside a town of honest people, as SVG"
    )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e5:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0 (and below 100,000)")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text:.40} is not a whole number") from None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 100_000):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 99,999")
    return int(text)
