"""Words that pages do without, and what they say instead: part of `make lint`.

All text that users see is on a page: option and log lines, errors and the command line's help are written there by
`make pages`. Quotations of others and code are left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
RULES: Final = {  # pattern: what to write instead
    r"\banew\b": "again, from the start",
    r"\bof (ours|theirs|yours)\b": "our, their, your, one of our",
    r"\blest\b": "so that … not",
    r"\bamid\b": "during, in the middle of",
    r"\bfor want of\b": "for lack of, without",
    r"\b(is|are|was|were) told by\b": "knows from, learns from",
    r"\bas \w+ as may be\b": "as … as possible",
    r"\bin order to\b": "to",
    r"\b(utili[sz]e|leverage|facilitate)": "use, help",
    r"\b(simply|obviously|of course|please|easily)\b": "nothing",
    r"\b(e\.g\.|i\.e\.|etc\.)": "such as, that is, and so on",
    r"\b(guarantee[ds]?|bulletproof|foolproof|never fails?|always works?|cannot fail)\b": "what holds, and its"
    " exception",
    r"\b(blazing|lightning-fast|world-class|cutting-edge|seamless|robust|powerful)\b": "a figure",
    r"\b(the the|a a|of of|is is|to to|and and|in in|it it)\b": "the word once",
}
LEFT_OUT: Final = ("docs/conformance.md",)  # the specification's words
CODE: Final = re.compile(r"^ *```.*?^ *```|`[^`\n]*`|\]\([^)]*\)|\"[^\"\n]*\"", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Return the pages that are read."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.md")]
    return sorted(page for page in found if page.relative_to(ROOT).as_posix() not in LEFT_OUT)


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, words and remedy of each fault of a page."""
    plain = CODE.sub(lambda code: re.sub(r"[^\n]", "·", code[0]), text)
    for pattern, instead in RULES.items():
        for found in re.finditer(pattern, plain, re.IGNORECASE):
            yield plain.count("\n", 0, found.start()) + 1, found[0], instead


def main() -> int:
    """Name every fault; return 1 if there are any."""
    count = 0
    for page in pages():
        for line, words, instead in sorted(faults(page.read_text(encoding="utf-8"))):
            sys.stderr.write(f"{page.relative_to(ROOT)}:{line}: {words!r}; write: {instead}\n")
            count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
