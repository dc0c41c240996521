"""Which channel a short channel id means, for as long as we remember (rule:25).

lightningd calls an incoming channel by its scid, or by its alias while it has none (cln:H3); a splice gives it another
scid and hides the old one (cln:N3). The channel id never changes. So a part is known by channel id and HTLC id from its
arrival on, and whatever name lightningd uses later, in an event, a table or a replay, is looked up here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

Key = tuple[int | str, int]  # channel id, or scid where the id is not known; HTLC id


class ScidAliases:
    """Every scid and alias we have seen, and whose it is. An unknown name stands for itself."""

    def __init__(self) -> None:
        self._ids: dict[int, str] = {}
        self._names: dict[str, list[int]] = {}

    def learn(self, channel_id: str, names: Iterable[int]) -> None:
        """Remember that these are names of this channel, beside those it had before."""
        known = self._names.setdefault(channel_id, [])
        for name in names:
            self._ids[name] = channel_id
            if name not in known:
                known.append(name)

    def channel_id(self, name: int) -> str:
        """Return the channel with this name, "" if it is not known."""
        return self._ids.get(name, "")

    def names_of(self, channel_id: str) -> tuple[int, ...]:
        """Return every name of this channel that we have seen."""
        return tuple(self._names.get(channel_id, ()))

    def one(self, name: int | str) -> int | str:
        """Return what this channel is compared by: its id where it is known."""
        return self._ids.get(name, name) if isinstance(name, int) else name

    def key(self, name: int, htlc_id: int, parts: Container[Key]) -> Key:
        """Return the key under which `parts` has this HTLC, whatever its channel is called now; else the one to use."""
        channel_id = self.channel_id(name)
        for other in (channel_id, name, *self._names.get(channel_id, ())):
            if other and (other, htlc_id) in parts:
                return other, htlc_id
        return channel_id or name, htlc_id
