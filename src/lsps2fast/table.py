"""The session machine as a table one can read: every (input, state) cell is filled.

One session is one payment attempt on a buy. The last column, T, stands for every state in which it is over. A cell says
what an input does in a state:

    bug        our driver must never ask this: `ProtocolBug`
    skip       legal but without effect
    rule       run that rule, stay in the state
    rule>X     run it, always go to X; rule>XY: to X or Y, the rule decides
    rule?XY    run it; stay, or go to X or Y: the rule decides

The engine (`_fsm.pyx`) has one small method for each rule and refuses a transition that the cell does not name.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from lsps2fast.errors import ProtocolBug


class State(IntEnum):
    """Where a session is. Names are those operators know from CLN; Opening and Aborting are ours."""

    COLLECTING = 0  # parts are held until they add up (C-05 to C-08)
    OPENING = 1  # the lock is taken: coins, intent, fundchannel (C-14, K-02)
    AWAITING_CHANNEL_READY = 2  # the channel is signed, parts are held until it is usable (O-13)
    AWAITING_SETTLEMENT = 3  # parts are with the client
    BROADCASTING = 4  # a preimage was seen: the funding is owed to the chain (K-12)
    ABORTING = 5  # parts are answered; the open is being undone, the lock stays (K-19)
    SUCCEEDED = 6  # the opening fee came
    FAILED = 7  # over, nothing to undo; the buy may live on (rule:6)
    ABANDONED = 8  # over, a channel or coins were given back
    UNDERPAID = 9  # over, the client took parts that carried less than the fee; the rest is owed (rule:20)


class Input(IntEnum):
    """What happened. The fact that comes with an input stands in brackets."""

    PART = 0  # a part arrived and passed C-04 (IncomingHtlc)
    COLLECT_TIMEOUT = 1  # the set has waited long enough
    OFFER_EXPIRED = 2  # valid_until has passed
    BLOCK = 3  # a height was reached at which this session asked to be told (int)
    ONLINE = 4  # the client is connected
    OFFLINE = 5  # the client is gone
    COINS_CHOSEN = 6  # coins for the channel are chosen (Funding)
    STORED = 7  # the journal has what was asked
    STORE_FAILED = 8  # the journal could not be written
    FUNDED = 9  # both sides have signed the channel (Opened)
    OPEN_FAILED = 10  # the open failed (bool: True if the client answered with an error, O-08)
    READY = 11  # channel_ready sent and received (ChannelLimits)
    READY_TIMEOUT = 12  # channel_ready did not come in time (O-13)
    FUNDING_BROADCAST = 13  # the funding is in the mempool or confirmed (Channel, where an undo found it owed: K-11)
    PART_FULFILLED = 14  # the client fulfilled a part (IncomingHtlc, preimage or None)
    PART_FAILED = 15  # a forwarded part failed (IncomingHtlc)
    CLOSED = 16  # lightningd says positively that the channel is gone (bool: True if its funding is never sent)
    UNDONE = 17  # the open was undone
    SHUTDOWN = 18  # the plugin is about to end (cln:W12)
    SCID_SETTLED = 19  # another payment has paid for this jit scid's channel; only from `Sessions`
    GAVE_WAY = 20  # a held part must give way to a larger one (IncomingHtlc; rule:24); only from `Sessions`
    MONEY_SEEN = 21  # the channel holds money of the client, whatever is known of its parts (rule:25)
    DROPPED = 22  # a held part can go no further: its channel leaves (IncomingHtlc; rule:19); only from `Sessions`
    CHANNEL_FOUND = 23  # a channel that the client has can carry the payment: none is opened (ExistingChannel)
    SISTER_GONE = 24  # the funding is not sent: it would pay a channel besides that was given up (trap:60)


LETTERS = dict(zip("COWFBDSXAU", State, strict=True))
TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.ABANDONED, State.UNDERPAID})
COLUMNS = {letter: (state,) for letter, state in LETTERS.items() if state not in TERMINAL} | {"T": tuple(TERMINAL)}

GRID = """
                  C               O                W                 F                 B                    D                   T
PART              gather?OWX      join             join              late              late                 reject              reject
COLLECT_TIMEOUT   time_out>X      skip             skip              skip              skip                 skip                skip
OFFER_EXPIRED     lapse>X         skip             skip              skip              skip                 skip                skip
BLOCK             guard?X         guard?D          guard?DX          on_block          on_block             skip                skip
ONLINE            resume?OWX      skip             skip              skip              skip                 skip                skip
OFFLINE           skip            skip             skip              skip              skip                 skip                skip
COINS_CHOSEN      bug             intend           bug               bug               bug                  undo_late_result    bug
STORED            bug             open             stored?OFDX       stored            stored?SU            undo_late_result?X  skip
STORE_FAILED      bug             store_failed>D   store_failed>DX   late_store_failed late_store_failed?SU undo_late_result?X  skip
FUNDED            bug             await_ready>WD   bug               bug               bug                  undo_late_result    bug
OPEN_FAILED       bug             open_failed>DX   bug               bug               bug                  undo_late_result?X  bug
READY             skip            bug              ready?OFDX        skip              skip                 skip                skip
READY_TIMEOUT     skip            bug              ready_timeout>ODX skip              skip                 skip                skip
FUNDING_BROADCAST skip            bug              broadcast?FX      broadcast         broadcast?SU         already_broadcast?X skip
PART_FULFILLED    bug             bug              bug               claim?BSU         claim?SU             claim_after_abort?B skip
PART_FAILED       bug             bug              bug               lose?DX           lose?SU              skip                skip
CLOSED            skip            channel_closed>D channel_closed?DX channel_closed?D  channel_closed?D     channel_closed      skip
UNDONE            bug             bug              bug               bug               skip                 undone>XA           skip
SHUTDOWN          shut_down>X     shut_down>D      shut_down>DX      shut_down         shut_down            skip                skip
SCID_SETTLED      become_alias>SX bug              bug               bug               bug                  bug                 skip
GAVE_WAY          give_way?X      bug              bug               bug               bug                  bug                 bug
MONEY_SEEN        skip            skip             skip              money_seen?B      skip                 money_seen?B        skip
DROPPED           give_way?X      drop?D           drop?DX           drop_late         drop_late            bug                 bug
CHANNEL_FOUND     bug             take_existing>W  bug               bug               bug                  undo_late_result>X  bug
SISTER_GONE       bug             bug              sister_gone>O     bug               sister_gone>D        sister_gone          skip
"""  # noqa: E501


class Cell(NamedTuple):
    """What one input does in one state: the rule's name and every state it may leave the session in."""

    rule: str
    targets: frozenset[State]


def _cell(state: State, text: str) -> Cell:
    for mark in "?>":
        rule, found, letters = text.partition(mark)
        if found:
            unknown = set(letters) - set(LETTERS)
            if unknown or not letters:
                raise ProtocolBug(f"cell {text} of column {state.name} leads to no state")
            targets = {LETTERS[letter] for letter in letters}
            return Cell(rule, frozenset(targets | ({state} if mark == "?" else set())))
    return Cell(text, frozenset({state}))


def parse(grid: str = GRID) -> dict[tuple[State, Input], Cell]:
    """Read a grid. Raises ProtocolBug if a row, a column or a cell is missing or doubled."""
    head, *rows = [line.split() for line in grid.strip().splitlines()]
    if head != list(COLUMNS):
        raise ProtocolBug(f"the grid's columns are {head}, not {list(COLUMNS)}")
    if [row[0] for row in rows] != [kind.name for kind in Input]:
        raise ProtocolBug("the grid's rows are not the inputs, in order")
    for row in rows:
        if len(row) != len(COLUMNS) + 1:
            raise ProtocolBug(f"row {row[0]} has {len(row) - 1} cells, not {len(COLUMNS)}")
    return {
        (state, kind): _cell(state, text)
        for kind, row in zip(Input, rows, strict=True)
        for states, text in zip(COLUMNS.values(), row[1:], strict=True)
        for state in sorted(states)
    }


TABLE = parse()
RULES = tuple(sorted({cell.rule for cell in TABLE.values()}))
# For the engine: one byte a cell (number of the rule) and one bit mask a cell (states it may lead to).
CODES = bytes(RULES.index(TABLE[state, kind].rule) for state in State for kind in Input)
MASKS = tuple(sum(1 << target for target in TABLE[state, kind].targets) for state in State for kind in Input)


def mermaid() -> str:
    """Return the state diagram, made from the table."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.COLLECTING.name}"]
    for source in State:
        for target in State:
            causes = [
                f"{kind.name}/{TABLE[source, kind].rule}"
                for kind in Input
                if target != source and target in TABLE[source, kind].targets
            ]
            if causes:
                lines.append(f"    {source.name} --> {target.name}: {', '.join(causes)}")
    lines += [f"    {state.name} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(lines) + "\n"
