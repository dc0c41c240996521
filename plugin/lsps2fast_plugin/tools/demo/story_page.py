"""`lsps2fast demo --html FILE`: the same story as a page: who said what to whom, when, and whose money it was.

One file without anything from elsewhere; without its script it is a page to read, with it time can be turned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Final

LIFELINES: Final = ("payer", "LSP", "wallet", "chain")
WIDTH, LEFT, ROW, HEAD = 1_000, 90, 24, 34
TEXT_PX: Final = 7.3  # of one letter, about
_AT: Final = {
    "payer": 0, "demo": 0, "service": 1, "session": 1, "journal": 1, "node": 1,
    "client": 2, "owner": 2, "wallet": 2, "app": 2, "clock": 3,
}  # fmt: skip
SAID: Final = ("forwards", "sells", "answers", "proposes", "calls the webhook")  # by the service to the wallet
_TO: Final = (  # of each lifeline: how a line begins, and where it goes to
    (),
    (("fails", 0), ("puts the funding", 3), *((words, 2) for words in SAID)),
    (("looks for the funding", 3), *((words, 1) for words in ("asks", "claims", "part", "accepts the zero-conf"))),
    (),
)
STYLE: Final = """
:root{color-scheme:light dark;--ink:#1a1a1a;--paper:#fff;--faint:#888;--in:#1a7f37;--out:#b42318}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--paper:#161616;--in:#4ac26b;--out:#ff7b72}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
body{max-width:1040px;margin:2em auto;padding:0 1em}
.drawn{overflow-x:auto}
svg{width:100%;min-width:760px;height:auto;font:12px ui-monospace,monospace}svg text{fill:var(--ink)}
svg text{paint-order:stroke;stroke:var(--paper);stroke-width:4px;stroke-linejoin:round}
.line{stroke:var(--faint);stroke-dasharray:3 4}.arrow{stroke:var(--ink);stroke-width:1.4}
.head{font-weight:bold;text-anchor:middle}svg text.time{fill:var(--faint)}.later{opacity:.12}
.bar{display:grid;grid-template-columns:9em 1fr 13em;gap:.6em;align-items:center}
.bar i{display:block;height:.8em;border-radius:3px}.got i{background:var(--in)}.paid i{background:var(--out)}
.bar b{font-weight:normal;text-align:right;font-variant-numeric:tabular-nums}
@media(max-width:600px){.bar{grid-template-columns:4em 1fr 10.5em}}
input{width:100%}li.wrong{color:var(--out);font-weight:bold}
"""
HOW: Final = "The bars are what each party paid or got; the slider turns time, in seconds from the first step."
SCRIPT: Final = """
for(const sale of document.querySelectorAll('section')){const s=sale.querySelector('input');if(!s)continue;
const rows=[...sale.querySelectorAll('g[data-row]')],out=sale.querySelector('output');
s.oninput=()=>{rows.forEach((r,i)=>r.classList.toggle('later',i>=+s.value));
out.textContent=+s.value?rows[+s.value-1].dataset.time+' s':'the beginning'};}
"""


@dataclass
class Chapter:
    """One sale: what was told of it (seconds, who, what), what each party gained, what was proved."""

    title: str
    lines: list[tuple[float, str, str]] = field(default_factory=list)
    gains_msat: Mapping[str, int] = field(default_factory=dict)
    checks: Mapping[str, bool] = field(default_factory=dict)


def arrow(who: str, what: str) -> tuple[int, int]:
    """Return between which lifelines a line of the story goes; twice the same for what is done alone."""
    here = _AT.get(who, 1)
    if who == "journal" and what.startswith("client"):
        here = 2
    if who == "payer":
        return here, 1
    return here, next((there for words, there in _TO[here] if what.startswith(words)), here)


def page(title: str, chapters: Iterable[Chapter]) -> str:
    """Return the whole page."""
    body = "".join(_section(chapter) for chapter in chapters)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><p>{HOW}</p>{body}<script>{SCRIPT}</script></body></html>\n"
    )


def _section(chapter: Chapter) -> str:
    diagram = _diagram(chapter) if chapter.lines else ""
    checks = "".join(
        f"<li{'' if holds else ' class=wrong'}>{'' if holds else 'WRONG: '}{escape(text)}</li>"
        for text, holds in chapter.checks.items()
    )
    proved = f"<details><summary>{len(chapter.checks)} checks</summary><ul>{checks}</ul></details>" if checks else ""
    return f"<section><h2>{escape(chapter.title)}</h2>{_bars(chapter.gains_msat)}{diagram}{proved}</section>"


def _bars(gains_msat: Mapping[str, int]) -> str:
    most = max((abs(gain) for gain in gains_msat.values()), default=0)
    rows = [
        f'<div class="bar {"got" if gain >= 0 else "paid"}"><span>{escape(name)}</span>'
        f'<i style="width:{max(100 * abs(gain) / most, 0.3):.1f}%"></i><b>{_signed(gain)} msat</b></div>'
        for name, gain in sorted(gains_msat.items(), key=lambda each: each[1])
        if gain
    ]
    return "".join(rows)


def _signed(gain: int) -> str:
    return f"{gain:+,}".replace("-", "\N{MINUS SIGN}")


def _diagram(chapter: Chapter) -> str:
    count, begin = len(chapter.lines), chapter.lines[0][0]
    height = HEAD + ROW * (count + 1)
    gap = (WIDTH - 2 * LEFT - 130) / (len(LIFELINES) - 1)
    places = [LEFT + gap * number for number in range(len(LIFELINES))]
    heads = "".join(
        f'<text class="head" x="{x:.0f}" y="16">{name}</text>'
        f'<line class="line" x1="{x:.0f}" x2="{x:.0f}" y1="24" y2="{height}"/>'
        for x, name in zip(places, LIFELINES, strict=True)
    )
    told = ((seconds - begin, who, what) for seconds, who, what in chapter.lines)
    rows = "".join(_row(number, *line, places) for number, line in enumerate(told))
    slider = (
        f"<label>time <output>{chapter.lines[-1][0] - begin:.3f} s</output>"
        f'<input type="range" min="0" max="{count}" value="{count}" aria-label="how far the story has come"></label>'
    )
    label = f"what payer, LSP, wallet and chain did: {count} steps"
    tip = '<defs><marker id="tip" markerWidth="7" markerHeight="7" refX="6" refY="3" orient="auto">'
    tip += '<path d="M0,0 L6,3 L0,6 z" fill="currentColor"/></marker></defs>'
    drawing = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{tip}{heads}{rows}</svg>'
    drawing = (
        f'<div class="drawn" tabindex="0" role="group" aria-label="the diagram, wider than a phone">{drawing}</div>'
    )
    return f"{slider}{drawing}"


def _row(number: int, seconds: float, who: str, what: str, places: list[float]) -> str:
    start, end = arrow(who, what)
    y = HEAD + ROW * (number + 1)
    room = int((WIDTH - 30 - places[min(start, end)]) / TEXT_PX)
    text = what if len(what) <= room else what[: room - 1] + "…"
    x, down = (places[start] + 9, 4) if start == end else (min(places[start], places[end]) + 9, -5)
    drawn = f'<circle cx="{places[start]:.0f}" cy="{y}" r="3" fill="currentColor"/>'
    if start != end:
        ends = f'x1="{places[start]:.0f}" x2="{places[end]:.0f}" y1="{y}" y2="{y}"'
        drawn += f'<line class="arrow" marker-end="url(#tip)" {ends}/>'
    return (
        f'<g data-row data-time="{seconds:.3f}"><title>{seconds:.3f} s, {escape(who)}: {escape(what)}</title>'
        f'<text class="time" x="0" y="{y + 4}">{seconds:.3f}</text>{drawn}'
        f'<text x="{x:.0f}" y="{y + down}">{escape(text)}</text></g>'
    )
