"""What this node holds of each pot, and how much more of it is asked for.

Sans-IO. What is held here is never more than the database says, so that the nodes together never use more than a pot
has: it is raised there first and given back here first. It has no end: only its node gives it back, or the operator
for a node that does not come back. So neither clocks nor a database that is away can make two nodes use the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from lsps2fast_plugin.service.policy.shared import TOKEN

VERSION: Final = 1


class Pot(NamedTuple):
    """A pot as it is now: how much of it this node uses, of how much; so much as is `promised` is kept in reserve."""

    name: str
    used: int
    most: int
    promised: int = 0


class Granted(NamedTuple):
    """What the database says of a pot."""

    held: int
    others_held: int
    others_used: int


class Ask(NamedTuple):
    """What is asked of the database: hold `want` of this pot."""

    pot: str
    used: int
    want: int
    most: int


class Holds:
    """The holds of one node. `joined` while the database answers."""

    def __init__(self) -> None:
        self.joined = False
        self.fleet = ""  # whose pots they are
        self.nodes = 1  # of the fleet, at the last look
        self._granted: dict[str, Granted] = {}
        self._told: dict[str, tuple[int, int]] = {}  # held and used as the database has them
        self.changed = False  # since `write`

    def limit(self, pot: str, most: int) -> int:
        """Return what may be used here without asking."""
        granted = self._granted.get(pot)
        return 0 if granted is None else min(most, granted.held)

    def reach(self, pot: str, most: int) -> int:
        """Return what may be used here after asking."""
        granted = self._granted.get(pot)
        if not self.joined:
            return self.limit(pot, most)
        return most if granted is None else max(most - granted.others_held, min(granted.held, most))

    def others_used(self, pot: str) -> int:
        """Return what the other nodes used at the last look."""
        granted = self._granted.get(pot)
        return 0 if granted is None else granted.others_used

    def held(self, pot: str) -> int:
        """Return what this node holds."""
        granted = self._granted.get(pot)
        return 0 if granted is None else granted.held

    # Asking -------------------------------------------------------------------------------------------------------

    def at_least(self, pot: Pot, more: int) -> Ask | None:
        """Return what to ask for so that `more` can be used; None when that is held already."""
        if pot.used + more <= self.limit(pot.name, pot.most):
            return None
        return Ask(pot.name, pot.used, pot.used + more, pot.most)

    def balance(self, pots: Iterable[Pot]) -> list[Ask]:
        """Return what to ask for so that each node has something in reserve, and no more than its share.

        What is given back stops counting here at once; write it down before the database is told.
        """
        asks = []
        for pot in pots:
            want = pot.used + self._reserve(pot)
            held = self.held(pot.name)
            spare = held - pot.used
            if want < held and held - want > spare // 4:
                self._granted[pot.name] = self._granted[pot.name]._replace(held=want)
                self.changed = True
            elif want <= held or want - held <= spare // 4:
                want = held
            want = max(want, pot.used)
            if self._told.get(pot.name) != (want, pot.used) or want != self.held(pot.name):
                asks.append(Ask(pot.name, pot.used, want, pot.most))
        return asks

    def _reserve(self, pot: Pot) -> int:
        """Return an equal share of what is free, or what is promised; one share is left for the node that asks first.

        Of a token a quarter of that: its last uses are to be found in one place.
        """
        free = max(pot.most - pot.used - self.others_used(pot.name), 0)
        share = free // ((self.nodes + 1) * (4 if pot.name.startswith(TOKEN) else 1))
        return max(share, min(pot.promised, free))

    def grant(self, ask: Ask, granted: Granted) -> None:
        """Take the database's answer."""
        if granted.held != self.held(ask.pot):
            self.changed = True
        self._granted[ask.pot] = granted
        self._told[ask.pot] = granted.held, ask.used

    def heard(self, pot: str, others_held: int, others_used: int) -> None:
        """Take what the other nodes hold and use by now."""
        self._granted[pot] = Granted(self.held(pot), others_held, others_used)

    def counted(self, nodes: int) -> None:
        """Take how many nodes there are."""
        self.changed = self.changed or nodes != self.nodes
        self.nodes = nodes

    def left(self) -> None:
        """Tell all again at the next look: the database may have lost it."""
        self.joined = False
        self._told.clear()

    def names(self) -> list[str]:
        """Return the pots that something is held of."""
        return list(self._granted)

    # Journal ------------------------------------------------------------------------------------------------------

    def write(self) -> dict[str, Any]:
        """Return the record that lets this node sell when the database is away at the start."""
        self.changed = False
        held = {name: str(each.held) for name, each in self._granted.items()}
        return {"version": VERSION, "fleet": self.fleet, "holds": held, "nodes": self.nodes}

    def read(self, value: Any) -> None:
        """Read what `write` wrote of this fleet. Raises KeyError, TypeError, ValueError or AttributeError."""
        if value["version"] != VERSION:
            raise ValueError(f"version {value['version']} is not {VERSION}")
        if value.get("fleet", self.fleet) != self.fleet:  # records of before have none
            raise ValueError(f"it is of the fleet at {value['fleet']}, not of that at {self.fleet}")
        self._granted = {str(name): Granted(int(held), 0, 0) for name, held in value["holds"].items()}
        self.nodes = max(int(value.get("nodes", 1)), 1)  # records of before have none
