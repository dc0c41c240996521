"""How often each token was used, over restarts: data to journal, never more buys than the quota.

A use is a buy. It is counted before the buy is stored and given back only after the buy is gone, so a crash in between
loses a use and never sells one too many. The rights of a token stand in the policy, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from lsps2fast_plugin.service.policy.rules import Token
from lsps2fast_plugin.service.policy.shared import TOKEN, Alone, Pots

ROOT: Final = ("lsps", "lsps2", "tokens")
VERSION: Final = 1
MOST_USES: Final = 2**63 - 1


class Record(NamedTuple):
    """A write to the datastore: the whole value of one key; None deletes it."""

    key: tuple[str, ...]
    value: dict[str, Any] | None


def _read_uses(value: Any) -> int:
    if not isinstance(value, dict) or value.get("version") != VERSION:
        raise ValueError(f"version {value.get('version') if isinstance(value, dict) else value!r} is not {VERSION}")
    uses = value["uses"]
    if type(uses) is not int or not 0 <= uses <= MOST_USES:
        raise ValueError(f"{uses!r} is not a count")
    return uses


def _pot(token: Token) -> tuple[str, int]:
    return f"{TOKEN}{token.hash.hex()}", token.max_uses or 0


class TokenUses:
    """Uses of every token that has a quota, by token hash. Tokens without one are not counted."""

    def __init__(self, pots: Pots | None = None) -> None:
        """`pots`: what other nodes of the operator leave of each quota."""
        self._pots = pots or Alone()
        self._uses: dict[bytes, int] = {}
        self._broken: set[bytes] = set()

    def load(self, records: Iterable[tuple[Sequence[str], Any]]) -> list[str]:
        """Take over (key, value) pairs from the journal; returns a sentence for each that cannot be read.

        A token whose record is broken counts as used up: its quota may be spent already.
        """
        complaints: list[str] = []
        for key, value in records:
            try:
                token_hash = bytes.fromhex(key[-1])
            except (ValueError, IndexError):
                complaints.append(f"journal key {list(key)} is that of no token; left alone")
                continue
            try:
                self._uses[token_hash] = _read_uses(value)
            except (ValueError, KeyError) as error:
                self._broken.add(token_hash)
                complaints.append(
                    f"journal record {list(key)} cannot be read ({error}); the token counts as used up until"
                    " the record is deleted and the service restarted"
                )
        return complaints

    def uses(self, token: Token) -> int:
        """Buys under this token so far."""
        return self._uses.get(token.hash, 0)

    def left(self, token: Token) -> int | None:
        """Buys that are left, None for any number."""
        if token.max_uses is None:
            return None
        return 0 if token.hash in self._broken else max(self._pots.reach(*_pot(token)) - self.uses(token), 0)

    def take(self, token: Token) -> Record | None:
        """Count a buy that is about to be stored. The caller then writes the record before it stores the buy.

        None when the token has no quota: nothing to write. Raises ValueError when no use is left: ask `left` first.
        """
        if token.max_uses is None:
            return None
        if self.left(token) == 0 or self._pots.limit(*_pot(token)) <= self.uses(token):
            raise ValueError(f"{token.label} is used up")
        self._uses[token.hash] = self.uses(token) + 1
        return self.record(token.hash)

    def give_back(self, token_hash: bytes) -> Record | None:
        """Give a use back: the buy was not stored, or ended unused.

        The caller then writes the record; None when nothing was counted.
        """
        uses = self._uses.get(token_hash, 0)
        if uses == 0 or token_hash in self._broken:
            return None
        self._uses[token_hash] = uses - 1
        return self.record(token_hash)

    def record(self, token_hash: bytes) -> Record:
        """Return the record as it must stand now.

        Writers of one token take turns and each writes what this says then.
        """
        return Record((*ROOT, token_hash.hex()), {"version": VERSION, "uses": self._uses.get(token_hash, 0)})
