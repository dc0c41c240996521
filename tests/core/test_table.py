"""The grid is complete, the engine obeys it cell by cell, and every target that a cell names can be reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.scene import (
    CHANNEL,
    CLTV,
    EXISTING,
    FEE,
    FUNDING,
    HASH,
    LIMITS,
    OTHER_PREIMAGE,
    PREIMAGE,
    PUBLIC,
    SCID,
    SIZE,
    UPSTREAM,
    Machine,
    Scene,
)
from harness.scene import OTHER_HASH as OTHER
from msgspec.structs import replace

from lsps2fast import table
from lsps2fast.actions import Opened
from lsps2fast.errors import ProtocolBug
from lsps2fast.table import CODES, GRID, MASKS, RULES, TABLE, TERMINAL, Input, State

MODES: dict[str, dict[str, Any]] = {"trust": {}, "public": PUBLIC}

# The shortest road into each state, and for inputs that answer a step the road to where that step is under way.
ROAD = {
    State.COLLECTING: "half",
    State.OPENING: "part",
    State.AWAITING_CHANNEL_READY: "part reserved stored funded",
    State.AWAITING_SETTLEMENT: "part reserved stored funded ready stored",
    State.BROADCASTING: "part reserved stored funded ready stored settled",
    State.ABORTING: "part reserved unstored",
    State.SUCCEEDED: "part reserved stored funded ready stored settled sent",
    State.FAILED: "half due",
    State.ABANDONED: "part reserved stored funded unready undone",
    State.UNDERPAID: "half half reserved stored funded ready stored settled lost2 sent",
}
STEP_ROAD = {
    (State.OPENING, Input.STORED): "part reserved",
    (State.OPENING, Input.STORE_FAILED): "part reserved",
    (State.OPENING, Input.FUNDED): "part reserved stored",
    (State.AWAITING_CHANNEL_READY, Input.STORED): "part reserved stored funded ready",
    (State.AWAITING_CHANNEL_READY, Input.STORE_FAILED): "part reserved stored funded ready",
    (State.AWAITING_SETTLEMENT, Input.STORED): "part reserved stored funded ready stored late",
    (State.AWAITING_SETTLEMENT, Input.STORE_FAILED): "part reserved stored funded ready stored late",
    (State.BROADCASTING, Input.STORED): "part reserved stored funded ready stored settled late",
    (State.BROADCASTING, Input.STORE_FAILED): "part reserved stored funded ready stored settled late",
    (State.AWAITING_CHANNEL_READY, Input.FUNDING_BROADCAST): "part reserved stored funded stored",
    (State.AWAITING_SETTLEMENT, Input.FUNDING_BROADCAST): "part reserved stored funded stored sent ready stored",
    (State.BROADCASTING, Input.FUNDING_BROADCAST): "half half reserved stored funded stored sent ready stored settled",
    (State.SUCCEEDED, Input.FUNDING_BROADCAST): "part reserved stored funded stored sent ready stored settled",
    (State.ABANDONED, Input.FUNDING_BROADCAST): "part reserved stored funded unstored undone",
    (
        State.UNDERPAID,
        Input.FUNDING_BROADCAST,
    ): "half half reserved stored funded stored sent ready stored settled lost2",
    (State.ABORTING, Input.FUNDING_BROADCAST): "part reserved stored funded stored unready",
    (State.ABORTING, Input.COINS_CHOSEN): "part deadline",
    (State.ABORTING, Input.CHANNEL_FOUND): "part deadline",
    (State.AWAITING_CHANNEL_READY, Input.SISTER_GONE): "part reserved stored funded stored",
    (State.ABORTING, Input.SISTER_GONE): "part reserved stored funded stored deadline",
    (State.BROADCASTING, Input.SISTER_GONE): "part reserved stored funded stored deadline money",
    (State.ABORTING, Input.STORED): "part reserved deadline",
    (State.ABORTING, Input.STORE_FAILED): "part reserved deadline",
    (State.ABORTING, Input.FUNDED): "part reserved stored deadline",
    (State.ABORTING, Input.OPEN_FAILED): "part reserved stored deadline",
}
ON_TRUST = {(state, Input.SISTER_GONE) for state in (State.AWAITING_CHANNEL_READY, State.ABORTING, State.BROADCASTING)}
OUT = "part reserved stored funded ready stored"
TWO_OUT = "half half reserved stored funded ready stored"
PUBLIC_OUT = "part reserved stored funded stored sent ready stored"
PUBLIC_TWO_OUT = "half half reserved stored funded stored sent ready stored"

# How to reach every target of every cell that has a choice: mode, road, last word, where it ends.
CHOICES = [
    ("trust", "half", "half", Input.PART, State.OPENING),
    ("trust", "", "half", Input.PART, State.COLLECTING),
    ("public", "part reserved stored funded stored sent unready", "part", Input.PART, State.AWAITING_CHANNEL_READY),
    ("trust", "half exhausted", "half", Input.PART, State.FAILED),
    ("trust", "away half", "online", Input.ONLINE, State.COLLECTING),
    ("trust", "away half half", "online", Input.ONLINE, State.OPENING),
    ("public", "part reserved stored funded stored sent unready away part", "online", Input.ONLINE,
     State.AWAITING_CHANNEL_READY),
    ("trust", "away half half exhausted", "online", Input.ONLINE, State.FAILED),
    ("trust", "half", "old", Input.BLOCK, State.COLLECTING),
    ("trust", "half", "deadline", Input.BLOCK, State.FAILED),
    ("trust", "part", "old", Input.BLOCK, State.OPENING),
    ("trust", "part", "deadline", Input.BLOCK, State.ABORTING),
    ("trust", "part reserved stored funded", "old", Input.BLOCK, State.AWAITING_CHANNEL_READY),
    ("trust", "part reserved stored funded", "deadline", Input.BLOCK, State.ABORTING),
    ("public", "part reserved stored funded stored sent", "deadline", Input.BLOCK, State.FAILED),
    ("public", "part reserved stored funded", "stored", Input.STORED, State.AWAITING_CHANNEL_READY),
    ("trust", "part reserved stored funded ready", "stored", Input.STORED, State.AWAITING_SETTLEMENT),
    ("trust", TWO_OUT + " settled late closed", "stored", Input.STORED, State.BROADCASTING),
    ("trust", OUT + " settled late sent closed", "stored", Input.STORED, State.SUCCEEDED),
    ("public", PUBLIC_TWO_OUT + " settled late lost2 closed", "stored", Input.STORED, State.UNDERPAID),
    ("trust", "part reserved deadline", "stored", Input.STORED, State.ABORTING),
    ("public", "part reserved stored funded stored sent ready deadline", "stored", Input.STORED, State.FAILED),
    ("trust", "part reserved stored funded ready", "unstored", Input.STORE_FAILED, State.ABORTING),
    ("public", "part reserved stored funded stored sent ready", "unstored", Input.STORE_FAILED, State.FAILED),
    ("trust", OUT + " settled late", "unstored", Input.STORE_FAILED, State.BROADCASTING),
    ("trust", OUT + " settled late sent", "unstored", Input.STORE_FAILED, State.SUCCEEDED),
    ("trust", TWO_OUT + " settled late lost2 sent", "unstored", Input.STORE_FAILED, State.UNDERPAID),
    ("trust", "part reserved deadline", "unstored", Input.STORE_FAILED, State.ABORTING),
    ("public", "part reserved stored funded stored sent ready deadline", "unstored", Input.STORE_FAILED, State.FAILED),
    ("trust", "part reserved stored", "funded", Input.FUNDED, State.AWAITING_CHANNEL_READY),
    ("trust", "part reserved stored", "misfunded", Input.FUNDED, State.ABORTING),
    ("trust", "part reserved stored", "refused", Input.OPEN_FAILED, State.ABORTING),
    ("trust", "part", "refused", Input.OPEN_FAILED, State.FAILED),
    ("trust", "part reserved stored deadline", "refused", Input.OPEN_FAILED, State.ABORTING),
    ("trust", "part deadline", "refused", Input.OPEN_FAILED, State.FAILED),
    ("trust", "part reserved stored funded", "ready", Input.READY, State.AWAITING_CHANNEL_READY),
    ("public", "part reserved stored known stored sent", "ready", Input.READY, State.AWAITING_SETTLEMENT),
    ("trust", "part reserved stored funded", "slow", Input.READY, State.ABORTING),
    ("public", "part reserved stored funded stored sent", "slow", Input.READY, State.FAILED),
    ("trust", "part reserved stored funded", "unready", Input.READY_TIMEOUT, State.ABORTING),
    ("public", "part reserved stored funded stored sent", "unready", Input.READY_TIMEOUT, State.FAILED),
    ("public", "part reserved stored funded stored", "sent", Input.FUNDING_BROADCAST, State.AWAITING_CHANNEL_READY),
    ("public", "part reserved stored known stored ready", "sent", Input.FUNDING_BROADCAST, State.AWAITING_SETTLEMENT),
    ("public", "part reserved stored funded stored slow", "sent", Input.FUNDING_BROADCAST, State.FAILED),
    ("trust", TWO_OUT + " settled", "sent", Input.FUNDING_BROADCAST, State.BROADCASTING),
    ("trust", OUT + " settled", "sent", Input.FUNDING_BROADCAST, State.SUCCEEDED),
    ("trust", TWO_OUT + " settled lost2", "sent", Input.FUNDING_BROADCAST, State.UNDERPAID),
    ("trust", OUT, "settled", Input.PART_FULFILLED, State.BROADCASTING),
    ("public", PUBLIC_OUT, "settled", Input.PART_FULFILLED, State.SUCCEEDED),
    ("public", PUBLIC_TWO_OUT + " lost2", "settled", Input.PART_FULFILLED, State.UNDERPAID),
    ("trust", OUT + " late", "settled2", Input.PART_FULFILLED, State.AWAITING_SETTLEMENT),
    ("trust", TWO_OUT + " settled", "settled2", Input.PART_FULFILLED, State.BROADCASTING),
    ("trust", TWO_OUT + " settled sent", "settled2", Input.PART_FULFILLED, State.SUCCEEDED),
    ("trust", "half half half reserved stored funded ready stored lost settled2 sent", "settled3", Input.PART_FULFILLED,
     State.UNDERPAID),
    ("trust", OUT + " closed", "settled", Input.PART_FULFILLED, State.BROADCASTING),
    ("trust", "part reserved unstored", "settled", Input.PART_FULFILLED, State.ABORTING),
    ("trust", TWO_OUT, "lost", Input.PART_FAILED, State.AWAITING_SETTLEMENT),
    ("trust", OUT, "lost", Input.PART_FAILED, State.ABORTING),
    ("public", PUBLIC_OUT, "lost", Input.PART_FAILED, State.FAILED),
    ("trust", TWO_OUT + " settled", "lost2", Input.PART_FAILED, State.BROADCASTING),
    ("trust", OUT + " settled late stored sent", "lost2", Input.PART_FAILED, State.SUCCEEDED),
    ("trust", TWO_OUT + " settled sent", "lost2", Input.PART_FAILED, State.UNDERPAID),
    ("trust", "part reserved stored funded", "closed", Input.CLOSED, State.ABORTING),
    ("public", "part reserved stored funded stored sent", "closed", Input.CLOSED, State.FAILED),
    ("public", PUBLIC_OUT, "closed", Input.CLOSED, State.AWAITING_SETTLEMENT),
    ("trust", OUT, "closed", Input.CLOSED, State.ABORTING),
    ("trust", OUT + " settled", "closed", Input.CLOSED, State.BROADCASTING),
    ("trust", OUT + " settled late stored sent", "closed", Input.CLOSED, State.BROADCASTING),
    ("trust", TWO_OUT + " settled sent", "closed", Input.CLOSED, State.BROADCASTING),
    ("trust", OUT + " settled", "vanished", Input.CLOSED, State.ABORTING),
    ("trust", "part reserved unstored", "undone", Input.UNDONE, State.FAILED),
    ("trust", "part reserved stored funded unready", "kept", Input.FUNDING_BROADCAST, State.FAILED),
    ("public", "part reserved stored funded stored sent ready unready", "sent", Input.FUNDING_BROADCAST,
     State.ABORTING),
    ("trust", "part reserved stored funded unready", "undone", Input.UNDONE, State.ABANDONED),
    ("trust", "part reserved stored funded", "shutdown", Input.SHUTDOWN, State.ABORTING),
    ("public", "part reserved stored funded stored", "shutdown", Input.SHUTDOWN, State.FAILED),
    ("public", "half other2 reserved2 stored2 funded2 stored2 sent2 ready2 stored2", "settled_other",
     Input.SCID_SETTLED, State.SUCCEEDED),
    ("public", "half other2 reserved2 stored2 funded2 stored2 sent2 ready2 stored2 closed2", "settled_other",
     Input.SCID_SETTLED, State.FAILED),
    ("trust", "half crumb", "swap", Input.GAVE_WAY, State.COLLECTING),
    ("trust", "crumb", "swap", Input.GAVE_WAY, State.FAILED),
    ("trust", OUT, "money", Input.MONEY_SEEN, State.BROADCASTING),
    ("public", PUBLIC_OUT, "money", Input.MONEY_SEEN, State.AWAITING_SETTLEMENT),
    ("trust", OUT + " lost", "money", Input.MONEY_SEEN, State.BROADCASTING),
    ("trust", OUT + " settled vanished", "money", Input.MONEY_SEEN, State.ABORTING),
    ("trust", "half half half reserved stored funded ready dropped3", "stored", Input.STORED,
     State.AWAITING_CHANNEL_READY),
    ("trust", "half half half reserved stored funded steep dropped3", "stored", Input.STORED, State.ABORTING),
    ("public", "half half half reserved stored funded stored sent steep dropped3", "stored", Input.STORED,
     State.FAILED),
    ("trust", "half crumb", "dropped", Input.DROPPED, State.COLLECTING),
    ("trust", "half", "dropped", Input.DROPPED, State.FAILED),
    ("trust", "half half half", "dropped", Input.DROPPED, State.OPENING),
    ("trust", "part", "dropped", Input.DROPPED, State.ABORTING),
    ("trust", "half half half reserved stored funded", "dropped3", Input.DROPPED, State.AWAITING_CHANNEL_READY),
    ("trust", "part reserved stored funded", "dropped", Input.DROPPED, State.ABORTING),
    ("public", "part reserved stored funded stored sent", "dropped", Input.DROPPED, State.FAILED),
    ("trust", "half half dear half stored steep dropped3", "stored", Input.STORED, State.OPENING),
    ("trust", "part existing stored", "no_room", Input.READY, State.OPENING),
    ("trust", "part existing stored", "unready", Input.READY_TIMEOUT, State.OPENING),
    ("trust", "part existing", "closed", Input.CLOSED, State.AWAITING_CHANNEL_READY),
]  # fmt: skip


def _fact(scene: Scene, kind: Input) -> Any:
    facts: dict[Input, Callable[[], Any]] = {
        Input.BLOCK: lambda: CLTV - 6,
        Input.COINS_CHOSEN: lambda: FUNDING,
        Input.FUNDED: lambda: Opened(CHANNEL),
        Input.CHANNEL_FOUND: lambda: EXISTING,
        Input.OPEN_FAILED: lambda: False,
        Input.READY: lambda: LIMITS,
        Input.PART: lambda: scene.machine.htlc(SCID, HASH, (1, 99), SIZE, CLTV),
        Input.PART_FULFILLED: lambda: (scene.session.parts[0], PREIMAGE),
        Input.PART_FAILED: lambda: scene.session.parts[0],
        Input.GAVE_WAY: lambda: scene.session.parts[0],
        Input.DROPPED: lambda: scene.session.parts[-1],
        Input.SCID_SETTLED: lambda: setattr(scene.buy, "channel", CHANNEL),
    }
    return facts.get(kind, lambda: None)()


def _apply(scene: Scene, kind: Input, fact: Any) -> Any:
    """Tell the session itself; a part that comes is a new one, what became of a part is about the first."""
    return scene.session.apply(kind, fact)


def _snapshot(session: Any) -> tuple[Any, ...]:
    names = (
        "state sum_msat fee_msat floor_msat step recorded funding channel limits preimage committed sent gone "
        "never_sent money_back claimed in_flight fulfilled held"
    )
    parts = [(part.key, part.status, part.extra_fee_msat) for part in session.parts]
    buy = session.buy
    return (
        *(getattr(session, name) for name in names.split()), parts, list(buy.sets), buy.holder is session, buy.channel,
        buy.floor_msat, buy.paid, buy.dead, buy.expired, buy.attempts,
    )  # fmt: skip


CELLS = [(state, kind) for state in State for kind in Input]
BUGS = [cell for cell in CELLS if TABLE[cell].rule == "bug"]
LEGAL = [cell for cell in CELLS if TABLE[cell].rule != "bug"]
SKIPS = [cell for cell in CELLS if TABLE[cell].rule == "skip"]


@pytest.mark.parametrize(("state", "kind"), LEGAL, ids=lambda value: value.name)
def test_a_legal_input_leads_to_a_state_that_its_cell_names(machine: Machine, state: State, kind: Input) -> None:
    """C-28: what the grid says is what happens."""
    scene = Scene(machine, **(PUBLIC if kind is Input.FUNDING_BROADCAST or (state, kind) in ON_TRUST else {}))
    scene.walk(STEP_ROAD.get((state, kind), ROAD[state]))
    assert scene.state is state
    _apply(scene, kind, _fact(scene, kind))
    assert scene.state in TABLE[state, kind].targets


@pytest.mark.parametrize(("state", "kind"), BUGS, ids=lambda value: value.name)
def test_a_forbidden_input_is_refused_and_changes_nothing(machine: Machine, state: State, kind: Input) -> None:
    """C-28: `bug` is an error of our driver; the money stays where it is."""
    scene = Scene(machine)
    scene.walk(ROAD[state])
    fact = _fact(scene, kind)
    before = _snapshot(scene.session)
    with pytest.raises(ProtocolBug, match=f"{kind.name} cannot come in {state.name}"):
        _apply(scene, kind, fact)
    assert _snapshot(scene.session) == before


@pytest.mark.parametrize(("state", "kind"), SKIPS, ids=lambda value: value.name)
def test_a_skipped_input_has_no_effect(machine: Machine, state: State, kind: Input) -> None:
    """C-28: `skip` neither orders nor changes anything."""
    scene = Scene(machine)
    scene.walk(ROAD[state])
    fact = _fact(scene, kind)
    before = _snapshot(scene.session)
    assert _apply(scene, kind, fact) == ()
    assert _snapshot(scene.session) == before


STEPS = [
    ("part", Input.STORED),
    ("part", Input.STORE_FAILED),
    ("part", Input.FUNDED),
    ("part reserved", Input.COINS_CHOSEN),
    ("part reserved", Input.CHANNEL_FOUND),
    ("part reserved", Input.OPEN_FAILED),
    ("part reserved stored", Input.STORED),
    ("part reserved stored", Input.STORE_FAILED),
    ("part reserved stored funded", Input.STORED),
    ("part reserved stored funded", Input.STORE_FAILED),
    (OUT, Input.STORED),
    (OUT, Input.STORE_FAILED),
    (OUT + " settled", Input.STORED),
    (OUT + " settled", Input.STORE_FAILED),
    ("part reserved unstored", Input.COINS_CHOSEN),
    ("part reserved unstored", Input.FUNDED),
    ("part reserved unstored", Input.OPEN_FAILED),
    ("part reserved unstored", Input.STORED),
    ("part reserved deadline", Input.UNDONE),
    (OUT, Input.FUNDING_BROADCAST),
    ("part reserved stored funded", Input.FUNDING_BROADCAST),
    ("part reserved stored funded", Input.SISTER_GONE),
]


@pytest.mark.parametrize(("road", "kind"), STEPS)
def test_the_result_of_a_step_that_is_not_under_way_is_refused(machine: Machine, road: str, kind: Input) -> None:
    """rule:11: a stray STORED must not pass for the one an irreversible order waits for."""
    scene = Scene(machine)
    scene.walk(road)
    fact = _fact(scene, kind)
    before = _snapshot(scene.session)
    with pytest.raises(ProtocolBug, match=r"not under way|not ordered"):
        _apply(scene, kind, fact)
    assert _snapshot(scene.session) == before


MORE_WORDS: dict[str, Callable[[Scene], Any]] = {
    "crumb": lambda s: s.part(1),
    "dear": lambda s: s.tell(Input.CHANNEL_FOUND, replace(EXISTING, fee_msat=FEE)),
    "swap": lambda s: s.session.apply(Input.GAVE_WAY, s.session.parts[-1]),
    "settled3": lambda s: s.resolved(2, PREIMAGE),
    "dropped": lambda s: s.note(s.core.drop([(UPSTREAM, 0)], "its channel leaves")),
    "dropped3": lambda s: s.note(s.core.drop([(UPSTREAM, 2)], "its channel leaves")),
    # of so much at the least each: three halves bear the fee, two do not
    "steep": lambda s: s.tell(Input.READY, replace(LIMITS, htlc_minimum_msat=SIZE // 2 - FEE * 2 // 5)),
    "exhausted": lambda s: setattr(s.buy, "attempts", 5),
    "other2": lambda s: s.part(SIZE, payment_hash=OTHER, htlc_id=50),
    "reserved2": lambda s: s.tell(Input.COINS_CHOSEN, FUNDING, payment_hash=OTHER),
    "stored2": lambda s: s.tell(Input.STORED, payment_hash=OTHER),
    "funded2": lambda s: s.tell(Input.FUNDED, Opened(CHANNEL), payment_hash=OTHER),
    "sent2": lambda s: s.tell(Input.FUNDING_BROADCAST, payment_hash=OTHER),
    "ready2": lambda s: s.tell(Input.READY, LIMITS, payment_hash=OTHER),
    "closed2": lambda s: s.tell(Input.CLOSED, payment_hash=OTHER),
    "settled_other": lambda s: s.resolved(50, OTHER_PREIMAGE, payment_hash=OTHER),
}


def _live(scene: Scene, road: str) -> None:
    for word in road.split():
        MORE_WORDS.get(word, lambda s, word=word: s.walk(word))(scene)


@pytest.mark.parametrize(("mode", "road", "word", "kind", "target"), CHOICES)
def test_each_choice_of_a_cell_can_be_taken(
    machine: Machine, mode: str, road: str, word: str, kind: Input, target: State
) -> None:
    """C-28: no cell names a target that nothing leads to."""
    before, after = _choose(machine, mode, road, word)
    assert after is target
    assert target in TABLE[before, kind].targets


def _choose(machine: Machine, mode: str, road: str, word: str) -> tuple[State, State]:
    scene = Scene(machine, **MODES[mode])
    _live(scene, road)
    before = State(getattr(scene.buy.sets.get(HASH), "state", State.COLLECTING))
    _live(scene, word)
    return before, scene.state


def test_no_choice_of_the_grid_is_left_out(machine: Machine) -> None:
    """The list above takes every target of every cell that has more than one."""
    taken = {(before, kind, after) for *way, kind, _ in CHOICES for before, after in [_choose(machine, *way)]}
    wanted = {
        (state, kind, target)
        for (state, kind), cell in TABLE.items()
        for target in cell.targets
        if len(cell.targets) > 1
    }
    assert taken == wanted


@pytest.mark.parametrize("kind", [-1, len(Input)])
def test_an_input_that_does_not_exist_is_refused(machine: Machine, kind: int) -> None:
    """C-28."""
    scene = Scene(machine)
    scene.walk("half")
    with pytest.raises(ProtocolBug, match="no such input"):
        scene.session.apply(kind)


# The grid as data -----------------------------------------------------------------------------------


def test_masks_and_codes_say_what_the_table_says() -> None:
    """The engine's packed form loses nothing."""
    assert len(CODES) == len(MASKS) == len(State) * len(Input)
    unpacked = {
        (state, kind): (
            RULES[CODES[state * len(Input) + kind]],
            frozenset(target for target in State if MASKS[state * len(Input) + kind] >> target & 1),
        )
        for state in State
        for kind in Input
    }
    assert unpacked == {cell: tuple(entry) for cell, entry in TABLE.items()}


def test_every_rule_of_the_grid_has_a_handler(machine: Machine) -> None:
    """A name without a method would only fail when its cell is met."""
    assert [rule for rule in RULES if not callable(getattr(machine.fsm.Session, f"_{rule}", None))] == ["bug", "skip"]


def test_terminal_states_have_no_way_out() -> None:
    """C-28: terminal stays terminal."""
    assert {State.SUCCEEDED, State.FAILED, State.ABANDONED, State.UNDERPAID} == TERMINAL
    leaving = {(state, kind) for (state, kind), cell in TABLE.items() if state in TERMINAL and cell.targets != {state}}
    assert leaving == set()


def _lines() -> list[str]:
    return GRID.strip().splitlines()


BROKEN = {
    "a column is missing": ["C O W F B D", *_lines()[1:]],
    "columns are swapped": ["O C W F B D T", *_lines()[1:]],
    "a row is missing": _lines()[:-1],
    "a row is doubled": [*_lines(), _lines()[-1]],
    "rows are swapped": [_lines()[0], _lines()[2], _lines()[1], *_lines()[3:]],
    "a cell is missing": [*_lines()[:-1], _lines()[-1].rpartition(" ")[0]],
    "a cell too many": [*_lines()[:-1], _lines()[-1] + " skip"],
}


@pytest.mark.parametrize("lines", BROKEN.values(), ids=BROKEN)
def test_a_broken_grid_is_refused(lines: list[str]) -> None:
    """A forgotten cell is found when the module is loaded."""
    with pytest.raises(ProtocolBug):
        table.parse("\n".join(lines))


def test_a_target_that_is_no_state_is_refused() -> None:
    """A typing error in a cell is found when the module is loaded."""
    with pytest.raises(ProtocolBug, match="no state"):
        table.parse(GRID.replace("time_out>X", "time_out>Z"))


def test_the_diagram_has_every_move_of_the_table() -> None:
    """Each pair of different states joined by some cell is one arrow."""
    arrows = {line.split(":")[0].strip() for line in table.mermaid().splitlines() if " --> " in line}
    moves = {
        f"{state.name} --> {target.name}" for (state, _), cell in TABLE.items() for target in cell.targets - {state}
    }
    ends = {f"{state.name} --> [*]" for state in TERMINAL}
    assert arrows == moves | ends | {"[*] --> COLLECTING"}
