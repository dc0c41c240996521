"""What the tests of the policy share: a log that can be read, peers, one line, one moment."""

from __future__ import annotations

from typing import Any

from lsps2fast.lsps.promise import token_hash
from lsps2fast_plugin.service.policy.preflight import Facts
from lsps2fast_plugin.service.policy.rules import FeeLine, NamedLine, Rules, Token

WALL_MS = 1_900_000_000_000
DAY_MS = 86_400_000
ALICE = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
BOB = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
PERKW = 2_500  # 10 sat/vB: the default floor is 450 vbytes, 4,500,000 msat

MINIMAL = """\
[[fee_line]]
min_fee_msat = 2_000_000
proportional_ppm = 10_000
"""


def line(min_fee_msat: int = 2_000_000, proportional: int = 10_000, **changes: int) -> FeeLine:
    """A fee line; the rest as given or ordinary."""
    return FeeLine(min_fee_msat, proportional, 3_600, 1_008, 2_016, 3_000_000, 4_000_000_000)._replace(**changes)


def named(*lines: FeeLine) -> tuple[NamedLine, ...]:
    """The lines with the names that a file gives them."""
    return tuple(NamedLine(f"fee_line {number}", each) for number, each in enumerate(lines, 1))


def token(text: str = "spring", **changes: Any) -> Token:
    """A token of this text."""
    return Token(token_hash(text), f"label of {text}")._replace(**changes)


def rules(*lines: FeeLine, tokens: tuple[Token, ...] = (), **changes: Any) -> Rules:
    """A policy with these lines, or one ordinary line."""
    made = Rules("test", named(*(lines or (line(),))), tokens={each.hash: each for each in tokens})
    return made._replace(**changes)


def facts(feerate_perkw: int = 253, **changes: Any) -> Facts:
    """A node that has everything, at this feerate."""
    rich = Facts(
        connected=True,
        incoming_liquidity_msat=None,
        confirmed_sat=10**9,
        committed_sat=0,
        keep_onchain_sat=25_000,
        feerate_perkw=feerate_perkw,
        commitment_perkw=feerate_perkw,
        open_vbytes=250,
    )
    return rich._replace(**changes)
