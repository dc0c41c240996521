"""How often each token was used, over restarts: as often as the journal has a buy under it, never one more or less.

A use is a buy that is stored, until it ends unused; a crash at any moment leaves as many uses as buys. Records of buys
are deleted in the end: before that they are added to the number that the token's own record keeps. The rights of a
token stand in the policy, not here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from lsps2fast_plugin.service.policy.rules import Token
from lsps2fast_plugin.service.policy.shared import TOKEN, Alone, Pots

ROOT: Final = ("lsps", "lsps2", "tokens")
VERSION: Final = 2
COUNTED_ALL: Final = 1  # the version whose records counted the buys of the journal, too
MOST_USES: Final = 2**63 - 1
Scids = Collection[int]


class Record(NamedTuple):
    """A write to the datastore: the whole value of one key; None deletes it."""

    key: tuple[str, ...]
    value: dict[str, Any] | None


class _Gone(NamedTuple):
    """Uses whose buys are in the journal no more; those in `leaving` are counted, and perhaps still there."""

    uses: int = 0
    leaving: frozenset[int] = frozenset()


def _read_gone(value: Any, sold: Scids) -> _Gone:
    version = value.get("version") if isinstance(value, dict) else value
    if version not in (COUNTED_ALL, VERSION):
        raise ValueError(f"version {version!r} is not {VERSION}")
    uses = value["uses"]
    if type(uses) is not int or not 0 <= uses <= MOST_USES:
        raise ValueError(f"{uses!r} is not a count")
    if version == COUNTED_ALL:
        return _Gone(max(uses - len(sold), 0))
    return _Gone(uses, frozenset(int(scid) for scid in value["leaving"]))


def _pot(token: Token) -> tuple[str, int]:
    return f"{TOKEN}{token.hash.hex()}", token.max_uses or 0


class TokenUses:
    """Uses of every token, by its hash."""

    def __init__(self, pots: Pots | None = None) -> None:
        """`pots`: what other nodes of the operator leave of each quota."""
        self._pots = pots or Alone()
        self._uses: dict[bytes, int] = {}
        self._gone: dict[bytes, _Gone] = {}
        self._broken: set[bytes] = set()

    def load(
        self, records: Iterable[tuple[Sequence[str], Any]], sold: Mapping[bytes, Scids]
    ) -> tuple[list[str], list[Record]]:
        """Take over (key, value) pairs from the journal, and the jit scids of its buys by token.

        Return a sentence for each record that cannot be read, and records to write before anything is sold. A token
        whose record is broken counts as used up: its quota may be spent already.
        """
        complaints: list[str] = []
        write: list[Record] = []
        self._uses = {token_hash: len(scids) for token_hash, scids in sold.items()}
        for key, value in records:
            try:
                token_hash = bytes.fromhex(key[-1])
            except (ValueError, IndexError):
                complaints.append(f"journal key {list(key)} is that of no token; left alone")
                continue
            scids = sold.get(token_hash, ())
            try:
                gone = _read_gone(value, scids)
            except (ValueError, KeyError, TypeError) as error:
                self._broken.add(token_hash)
                complaints.append(
                    f"journal record {list(key)} cannot be read ({error}); the token counts as used up until"
                    " the record is deleted and the service restarted"
                )
                continue
            self._gone[token_hash] = gone
            self._uses[token_hash] = gone.uses + len(set(scids) - gone.leaving)
            if value["version"] == COUNTED_ALL:
                write.append(self._record(token_hash))
        return complaints, write

    def uses(self, token: Token) -> int:
        """Buys under this token so far."""
        return self._uses.get(token.hash, 0)

    def left(self, token: Token) -> int | None:
        """Buys that are left, None for any number."""
        if token.max_uses is None:
            return None
        return 0 if token.hash in self._broken else max(self._pots.reach(*_pot(token)) - self.uses(token), 0)

    def take(self, token: Token) -> None:
        """Count a buy that is about to be stored. Raises ValueError when no use is left: ask `left` first."""
        if token.max_uses is not None and (self.left(token) == 0 or self._pots.limit(*_pot(token)) <= self.uses(token)):
            raise ValueError(f"{token.label} is used up")
        self._uses[token.hash] = self.uses(token) + 1

    def give_back(self, token_hash: bytes) -> None:
        """Count a buy no more whose record is gone: it was not sold, or ended unused."""
        self._uses[token_hash] = max(self._uses.get(token_hash, 0) - 1, 0)

    def leave(self, sold: Mapping[bytes, Scids]) -> list[Record]:
        """Return what to write before the records of these buys are deleted; they count from now on without them."""
        return [self._leave(token_hash, scids) for token_hash, scids in sold.items() if token_hash not in self._broken]

    def _leave(self, token_hash: bytes, scids: Scids) -> Record:
        gone = self._gone.get(token_hash, _Gone())
        added = len(set(scids) - gone.leaving)
        self._gone[token_hash] = _Gone(gone.uses + added, frozenset(scids))
        return self._record(token_hash)

    def _record(self, token_hash: bytes) -> Record:
        gone = self._gone[token_hash]
        leaving = [str(scid) for scid in sorted(gone.leaving)]
        return Record((*ROOT, token_hash.hex()), {"version": VERSION, "uses": gone.uses, "leaving": leaving})
