"""Whose HTLCs concern this plugin: the sets that the lane looks things up in, filled by the loop.

For the lane in C they lie where it can look (`_keyset.pyx`), for the one in Python they are sets.
"""

from __future__ import annotations

import enum
import importlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol, TypeVar

from lsps2fast import BACKEND

NODE_ID_DIGITS = 66
NODE_ID = re.compile("[0-9a-f]{66}")
Key = TypeVar("Key")


def _load() -> tuple[ModuleType | None, str]:
    """Return the lane in C, or why there is none."""
    try:
        return importlib.import_module("lsps2fast_plugin.cln._reader"), ""
    except ImportError as error:
        return None, str(error)


in_c, _why = _load()
why_not_in_c = _why if BACKEND == "compiled" else "the core runs interpreted"  # "": it is used


class Keys(Protocol[Key]):
    """What the sets of an `HtlcFilter` can do; a `set` can, too."""

    def add(self, key: Key, /) -> None:
        """Take a key in."""

    def discard(self, key: Key, /) -> None:
        """Take a key out, if it is there."""

    def __contains__(self, key: object, /) -> bool: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Key]: ...


class Verdict(enum.Enum):
    """Whose HTLC it is, as far as can be told now."""

    FOREIGN = enum.auto()
    OURS = enum.auto()
    UNKNOWN = enum.auto()


class HtlcFilter:
    """What concerns this plugin. The owner fills the sets, on the loop; a change counts once the call returns.

    scids           next hops that are ours (64-bit numbers)
    channel_ids     channels no forward may enter unseen, lower-case hex (withheld ones, rule:7)
    payment_hashes  payments to be seen wherever they go, 32 bytes; also the forward_events wanted
    peers           node ids of peers whose HTLCs are all to be seen, wherever they go (rule:27): a channel has
                    several names, which change, its peer has one
    known           node ids of peers whose messages are shed last: clients who bought, LSPs that were asked
    every_payment   as if payment_hashes held all there are
    channels_loaded the channel_ids are complete; until then a forward into a known channel waits, too
    loaded          all is complete; until then only what cannot be ours is foreign (cln:W11)
    final_hops      the client's: an HTLC that ends here is looked up by payment hash, and is ours if its message had
                    extra TLVs: a fee may be in them (I-22). Else it is foreign
    """

    __slots__ = (
        "_channels_loaded",
        "_every_payment",
        "_loaded",
        "channel_ids",
        "final_hops",
        "known",
        "payment_hashes",
        "peers",
        "scids",
        "sets",
    )

    def __init__(self, *, final_hops: bool = False, compiled: bool | None = None) -> None:
        """`compiled`: for the lane in C or the one in Python; by default C where it is there.

        Raises ValueError if not.
        """
        self.final_hops = final_hops
        self._channels_loaded = False
        self._loaded = False
        self._every_payment = False
        self.sets: Any = None
        self.scids: Keys[int] = set()
        self.channel_ids: Keys[str] = set()
        self.payment_hashes: Keys[bytes] = set()
        self.peers: Keys[str] = set()
        self.known: Keys[str] = set()
        if compiled is None:
            compiled = not why_not_in_c
        if compiled:
            self._move_to_c()

    def _move_to_c(self) -> None:
        if in_c is None:
            raise ValueError(f"there is no lane in C: {_why}")
        self.sets = in_c.Sets()
        self.scids = in_c.Keys(self.sets, in_c.SCID)
        self.channel_ids = in_c.Keys(self.sets, in_c.CHANNEL_ID)
        self.payment_hashes = in_c.Keys(self.sets, in_c.PAYMENT_HASH)
        self.peers = in_c.Keys(self.sets, in_c.PEER_ID)
        self.known = in_c.Keys(self.sets, in_c.KNOWN_ID)
        self._switch()

    def _switch(self) -> None:
        if self.sets is not None:
            self.sets.switch(
                final_hops=self.final_hops,
                channels_loaded=self._channels_loaded,
                loaded=self._loaded,
                every_payment=self._every_payment,
            )

    @property
    def channels_loaded(self) -> bool:
        """The channel_ids are complete."""
        return self._channels_loaded

    @channels_loaded.setter
    def channels_loaded(self, yes: bool) -> None:
        self._channels_loaded = yes
        self._switch()

    @property
    def loaded(self) -> bool:
        """All is complete."""
        return self._loaded

    @loaded.setter
    def loaded(self, yes: bool) -> None:
        self._loaded = yes
        self._switch()

    @property
    def every_payment(self) -> bool:
        """Every payment is of interest."""
        return self._every_payment

    @every_payment.setter
    def every_payment(self, yes: bool) -> None:
        self._every_payment = yes
        self._switch()

    def see_final_hops(self, yes: bool = True) -> None:
        """Look up what ends here from now on, or no longer."""
        self.final_hops = yes
        self._switch()

    def know(self, peer_id: str, yes: bool) -> None:
        """Shed the messages of this peer last, or no longer so; what is no node id sends none."""
        if yes and NODE_ID.fullmatch(peer_id):
            self.known.add(peer_id)
        else:
            self.known.discard(peer_id)

    def wants(self, payment_hash: bytes) -> bool:
        """Return whether this payment is to be seen."""
        return self._every_payment or payment_hash in self.payment_hashes

    def watches(self, peer_id: str | None) -> bool:
        """Return whether all that comes from this peer is to be seen; None: it is not known whose HTLC it is."""
        return len(self.peers) > 0 and (peer_id is None or len(peer_id) != NODE_ID_DIGITS or peer_id in self.peers)

    def judge(
        self, scid: int, forward_to: str | None, payment_hash: bytes, has_extra: bool, peer_id: str | None = None
    ) -> Verdict:
        """Whose HTLC goes to `scid` (-1: none), into the channel `forward_to` (None: lightningd knows none).

        `has_extra`: its call has `extra_tlvs`. `peer_id`: who sent it, None when that is not known here.
        """
        ends_here = scid < 0 and forward_to is None
        watched = self.watches(peer_id)
        if ends_here and not self.final_hops and not watched:
            return Verdict.FOREIGN
        listed = scid in self.scids or forward_to in self.channel_ids or self.wants(payment_hash)
        listed = listed or (ends_here and has_extra) or watched
        if self._loaded:
            return Verdict.OURS if listed else Verdict.FOREIGN
        if forward_to is not None and self._channels_loaded and not listed:
            return Verdict.FOREIGN  # a jit scid leads to no channel that lightningd knows
        return Verdict.UNKNOWN
