"""Lets pages of the site speak of files outside of docs/: linked where the repository has an address, else named.

A drawing that says more when pointed at becomes part of its page, for browsers keep quiet about images.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DRAWING = re.compile(r"!\[[^\]]*\]\((\.\./pictures/session-machine\.svg)\)")  # it speaks only inside the page
NARROW = "<style>@media (max-width: 700px) { .drawing { overflow-x: auto } .drawing svg { min-width: 1000px } }</style>"
LINK = re.compile(r"\[([^\]]*)\]\((\.\.?/[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, files: Any) -> str:
    """Return the page with links that lead out of docs/ (or into what is no page) made absolute, or plain."""
    docs = Path(config["docs_dir"])
    root = docs.parent
    address = config["extra"]["address"].rstrip("/")

    def outward(link: re.Match[str]) -> str:
        target = (docs / page.file.src_uri).parent.joinpath(link[2]).resolve()
        if target.is_relative_to(docs) and not target.is_dir() and "monitoring" not in target.parts:
            return link[0]
        if not address:
            return link[1]
        return f"[{link[1]}]({address}/blob/main/{target.relative_to(root)}{link[3] or ''})"

    def inside(image: re.Match[str]) -> str:
        path = (docs / page.file.src_uri).parent / image[1]
        return f'<div class="drawing">{NARROW}{path.read_text(encoding="utf-8")}</div>'

    return DRAWING.sub(inside, LINK.sub(outward, markdown))
