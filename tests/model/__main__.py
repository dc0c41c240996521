"""`python -m model` (in tests/): the large searches; ends with 1 at a broken rule, after the steps that lead to it."""

from __future__ import annotations

import sys
import time

from .bounds import LARGE, LEAST_STATES
from .search import search


def main() -> int:
    """Search every large world."""
    bad = 0
    for name, rules in LARGE.items():
        began = time.monotonic()
        found = search(rules)
        print(f"{name}: {found} ({time.monotonic() - began:.0f} s)", flush=True)
        bad += bool(found.broken) or found.states < LEAST_STATES
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
