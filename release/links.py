"""Ask every address of others that a page links to whether it still answers: the workflow `links`, once a week.

`make test` holds their form without asking. Those that refuse programs, or
what is too much, are named and no fault.
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
LINK: Final = re.compile(r"\bhttps?:[^)>|\s]*", re.IGNORECASE)
CODE: Final = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.DOTALL | re.MULTILINE)
SHY: Final = (401, 403, 405, 429, 503)  # there, and not for us
TIMEOUT_S: Final = 30
TRIES: Final = 3


def pages() -> list[Path]:
    """Return every page that a reader may open."""
    return sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")))


def links(text: str) -> list[str]:
    """Return the addresses on a page, in their order; code and what stands for an address are left out."""
    return [address for address in LINK.findall(CODE.sub("", text)) if "…" not in address]


def answer(address: str) -> str:
    """Return what is wrong with an address: nothing if it answers."""
    ask = urllib.request.Request(address, headers={"User-Agent": "lsps2fast-links/1"})
    why = ""
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(ask, timeout=TIMEOUT_S):
                return ""
        except urllib.error.HTTPError as error:
            if error.code in SHY:
                print(f"{address}: {error.code}, taken for there")
                return ""
            why = f"{error.code} {error.reason}"
        except OSError as error:
            why = str(error)
    return why


def main() -> int:
    """Ask each address once; return 1 if one does not answer."""
    where: dict[str, list[str]] = {}
    for page in pages():
        for address in links(page.read_text(encoding="utf-8")):
            where.setdefault(address, []).append(page.relative_to(ROOT).as_posix())
    bad = {address: why for address in where if (why := answer(address))}
    for address, why in bad.items():
        sys.stderr.write(f"{', '.join(where[address])}: {address}: {why}\n")
    print(f"{len(where)} addresses, {len(bad)} without an answer")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
