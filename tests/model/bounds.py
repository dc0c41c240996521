"""How far the model is searched: small worlds in `make test`, larger ones in `make crash`."""

from __future__ import annotations

from harness.scene import HASH, OTHER_HASH, SIZE

from .brain import Part
from .world import Rules

WHOLE, HALF, OTHER = Part(HASH, SIZE), Part(HASH, SIZE // 2), Part(OTHER_HASH, SIZE)
PAYMENTS = {
    "one part": (WHOLE,),
    "two parts": (HALF, HALF),
    "one part, then another": (WHOLE, WHOLE),
    "two hashes": (WHOLE, OTHER),
}


def _both(payment: str, crashes: int, mishaps: int) -> dict[str, Rules]:
    text = f"{payment}, {crashes} crashes, {mishaps} mishaps"
    return {
        f"{text}, {'client' if trusts else 'lsp'} trusts": Rules(PAYMENTS[payment], trusts, crashes, mishaps)
        for trusts in (True, False)
    }


SMALL = _both("one part", 1, 0) | _both("one part", 0, 1) | _both("two parts", 0, 0) | _both("two hashes", 0, 0)
LARGE = (
    _both("one part", 2, 0)
    | _both("one part", 1, 1)
    | _both("two parts", 1, 0)
    | _both("one part, then another", 0, 1)
    | _both("two hashes", 1, 0)
)
LEAST_STATES = 1_000  # a search that meets fewer has missed something
