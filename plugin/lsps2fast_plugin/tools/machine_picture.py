"""The session machine as a page, with a picture whose states and arrows speak when pointed at.

States have their place here; which arrows there are, and what each is for, comes from the table.
"""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from lsps2fast.table import GRID, LETTERS, TABLE, TERMINAL, Input, State

WIDTH: Final = 1180
HEIGHT: Final = 590
BOX: Final = (196, 44)
PLACES: Final = {  # the middle of each box
    "C": (110, 220),
    "O": (340, 220),
    "W": (580, 220),
    "F": (830, 220),
    "B": (1070, 220),
    "S": (830, 60),
    "U": (1070, 60),
    "D": (700, 380),
    "X": (340, 510),
    "A": (700, 510),
}
ARROWS: Final = {  # where from, two points that the curve leans to, where to
    "CO": ((208, 220), (222, 220), (228, 220), (242, 220)),
    "CW": ((150, 198), (220, 130), (460, 130), (530, 198)),
    "CS": ((110, 198), (130, 60), (500, 60), (732, 60)),
    "CX": ((110, 242), (110, 420), (160, 510), (242, 510)),
    "OW": ((438, 220), (452, 220), (468, 220), (482, 220)),
    "OD": ((390, 242), (420, 330), (500, 370), (602, 372)),
    "OX": ((330, 242), (330, 320), (330, 400), (330, 488)),
    "WO": ((540, 198), (510, 150), (410, 150), (380, 198)),
    "WF": ((678, 220), (696, 220), (714, 220), (732, 220)),
    "WD": ((600, 242), (610, 290), (650, 310), (670, 358)),
    "WX": ((550, 242), (540, 350), (420, 400), (380, 488)),
    "FB": ((928, 220), (942, 220), (958, 220), (972, 220)),
    "FD": ((800, 242), (790, 290), (750, 320), (735, 358)),
    "FS": ((830, 198), (830, 160), (830, 120), (830, 82)),
    "FU": ((880, 198), (910, 140), (980, 110), (1030, 82)),
    "FX": ((850, 242), (890, 500), (840, 575), (600, 572), (470, 570), (420, 560), (370, 532)),
    "BD": ((1050, 242), (1030, 320), (900, 365), (798, 372)),
    "BS": ((1030, 198), (990, 130), (920, 100), (880, 82)),
    "BU": ((1080, 198), (1080, 160), (1080, 120), (1080, 82)),
    "DB": ((798, 390), (960, 395), (1070, 330), (1080, 242)),
    "DX": ((602, 395), (520, 420), (440, 450), (410, 488)),
    "DA": ((700, 402), (700, 430), (700, 460), (700, 488)),
}
STATES: Final = {
    State.COLLECTING: "Parts are held until they add up to the payment.",
    State.OPENING: "The set is complete. Coins are chosen, the intent is journalled, the channel is proposed.",
    State.AWAITING_CHANNEL_READY: "Both sides have signed, or the client had a channel with room. The parts are held "
    "until the channel can be used.",
    State.AWAITING_SETTLEMENT: "The parts are with the client, less the opening fee.",
    State.BROADCASTING: "A preimage was seen: the funding is owed to the chain.",
    State.ABORTING: "The parts are answered. What was opened is being undone.",
    State.SUCCEEDED: "Over: the opening fee came, or all that was taken in its place.",
    State.FAILED: "Over, with nothing to undo. The offer may still be used.",
    State.ABANDONED: "Over: a channel or coins were given back.",
    State.UNDERPAID: "Over: the client took parts that carried less than the fee.",
}
INPUTS: Final = {
    Input.PART: "a part of the payment arrived",
    Input.COLLECT_TIMEOUT: "the set has waited long enough",
    Input.OFFER_EXPIRED: "the offer has ended",
    Input.BLOCK: "a height was reached at which parts must be answered",
    Input.ONLINE: "the client is connected",
    Input.OFFLINE: "the client is gone",
    Input.COINS_CHOSEN: "coins for the channel are chosen",
    Input.STORED: "the journal has what was asked",
    Input.STORE_FAILED: "the journal could not be written",
    Input.FUNDED: "both sides have signed the channel",
    Input.OPEN_FAILED: "the channel could not be opened",
    Input.READY: "the channel can be used",
    Input.READY_TIMEOUT: "the channel could not be used in time",
    Input.FUNDING_BROADCAST: "the funding is in the mempool, or confirmed",
    Input.PART_FULFILLED: "the client fulfilled a part",
    Input.PART_FAILED: "a part that was forwarded failed",
    Input.CLOSED: "the channel is gone",
    Input.UNDONE: "the open was undone",
    Input.SHUTDOWN: "the plugin is about to end",
    Input.SCID_SETTLED: "another payment has paid for the channel",
    Input.GAVE_WAY: "a held part must give way to a larger one",
    Input.MONEY_SEEN: "the channel holds money of the client",
    Input.DROPPED: "a held part can go no further: its channel is closing",
    Input.CHANNEL_FOUND: "a channel that the client has can carry the payment",
    Input.SISTER_GONE: "the funding pays another channel, too, which was given up",
}
COLOURS: Final = {"S": "#cdeccf", "U": "#fbe6c2", "X": "#f3d0d0", "A": "#e4dcf1"}
STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1b2330; text-anchor: middle; pointer-events: none }
rect { stroke: #55606e; stroke-width: 1.5 }
.line { fill: none; stroke: #8a94a1; stroke-width: 1.6; marker-end: url(#tip) }
.hit { fill: none; stroke: transparent; stroke-width: 14 }
.arrow:hover .line { stroke: #d9480f; stroke-width: 3 }
.state:hover rect { stroke: #d9480f; stroke-width: 3 }
"""


def _causes(source: State, target: State) -> list[str]:
    """Return why a session goes from one state to another, a line each."""
    cells = [(kind, TABLE[source, kind]) for kind in Input]
    return [f"{kind.name}, {INPUTS[kind]}: {cell.rule}" for kind, cell in cells if target in cell.targets]


def _arrow(name: str) -> str:
    source, target = (LETTERS[letter] for letter in name)
    first, *rest = ARROWS[name]
    path = f"M{first[0]},{first[1]} C" + " ".join(f"{x},{y}" for x, y in rest)
    title = "\n".join((f"{source.name} to {target.name}", *_causes(source, target)))
    return (
        f'<g class="arrow from{name[0]}"><title>{escape(title)}</title>'
        f'<path class="hit" d="{path}"/><path class="line" d="{path}"/></g>\n'
    )


def _state(letter: str) -> str:
    state, (x, y), (width, height) = LETTERS[letter], PLACES[letter], BOX
    lines = [state.name, STATES[state]]
    if state not in TERMINAL:
        cells = [(kind, TABLE[state, kind]) for kind in Input]
        stays = [f"{kind.name}: {cell.rule}" for kind, cell in cells if cell.rule not in ("bug", "skip")]
        lines += ["", "What is heard here:", *stays]
    shape = f'x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="8"'
    fill = COLOURS.get(letter, "#f3f6fa")
    return (
        f'<g class="state" id="state{letter}"><title>{escape(chr(10).join(lines))}</title>'
        f'<rect {shape} fill="{fill}"/><text x="{x}" y="{y + 5}">{state.name.replace("_", " ")}</text></g>\n'
    )


def svg() -> str:
    """Return the picture."""
    lit = "".join(
        f"svg:has(#state{letter}:hover) .from{letter} .line {{ stroke: #d9480f; stroke-width: 2.6 }}\n"
        for letter, state in LETTERS.items()
        if state not in TERMINAL
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-label="The session machine: states, and what leads from one to another">\n'
        f"<style>{STYLE}{lit}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,1 L10,5 L0,9 z" fill="#8a94a1"/></marker></defs>\n'
        + "".join(map(_arrow, ARROWS))
        + "".join(map(_state, PLACES))
        + "</svg>\n"
    )


def reference() -> str:
    """Return the page `docs/reference/session-machine.md`: picture, grid, and the words of both."""
    states = "\n".join(f"| `{letter}` {state.name} | {STATES[state]} |" for letter, state in LETTERS.items())
    inputs = "\n".join(f"| `{kind.name}` | {words} |" for kind, words in INPUTS.items())
    return (
        "# The session machine\n\n"
        "Generated by `make pages`; do not edit. One session is one payment attempt on a buy. In the picture point at\n"
        "a state or an arrow: it says what leads there. `lsps2fast table` prints grid and diagram on a terminal.\n\n"
        "![The states, and what leads from one to another](../pictures/session-machine.svg)\n\n"
        "## States\n\n| state | what it means |\n|---|---|\n"
        f"{states}\n\n"
        "## Inputs\n\nFacts that the plugin tells the machine.\n\n| input | what has happened |\n|---|---|\n"
        f"{inputs}\n\n"
        "## The grid\n\nA row is an input, a column a state by its letter; `T` stands for each state that is over.\n\n"
        "```text\n" + GRID.strip("\n") + "\n```\n\n"
        "`bug`: our driver must never ask this. `skip`: legal, no effect. `rule`: run it and stay. `rule>XY`: run\n"
        "it, always go to X or Y. `rule?XY`: run it; stay, or go to X or Y.\n"
    )
