"""What the rules ask about other nodes of the operator; alone there are none, and every limit is this node's own.

Sans-IO. A pot is a sum that the nodes share: the uses of a token, a budget in msat. Each node *holds* a part of every
pot, which no other may use, and takes from its own part without asking anyone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, NamedTuple, Protocol

from lsps2fast_plugin.service.policy.rules import Token

CAPITAL: Final = "capital"  # msat in channels that go on chain before they are paid for
WITHHELD: Final = "withheld"  # msat in channels that are withheld
MINING: Final = "mining"  # msat that may be burnt in a day
MINING_IN_ALL: Final = "mining-in-all"  # the same, with what withheld channels may cost
TOKEN: Final = "token:"  # and the hash of one; uses


class Pots(Protocol):
    """How much of a pot this node may use."""

    def limit(self, pot: str, most: int) -> int:
        """Return what may be used here without asking: of `most` in all, what this node holds."""

    def reach(self, pot: str, most: int) -> int:
        """Return what may be used here after asking: of `most` in all, what no other node holds."""


class Alone:
    """The pots of a node that shares with none."""

    def limit(self, pot: str, most: int) -> int:
        """Return `most`."""
        return most

    reach = limit


class Standing(NamedTuple):
    """What one client has with the other nodes together."""

    buys: int = 0  # unused
    unpaid: int = 0
    probes: int = 0
    unsettled: int = 0
    under_way: int = 0
    unpaid_msat: int = 0


class Place(NamedTuple):
    """What a buy is asked about: the most that it may use of each pot."""

    peer_id: str
    token: Token | None
    capacity_msat: int
    mining_msat: int


class Buying(Protocol):
    """Asked once for each buy, before it is judged."""

    def place(self, wanted: Place) -> AbstractAsyncContextManager[Any]:
        """Enter once the fleet has room for this buy; leave when it was stored, or not sold.

        Raises PeerError -32603 or 201.
        """


class NoFleet:
    """Every buy has room, as far as others go."""

    def place(self, wanted: Place) -> AbstractAsyncContextManager[Any]:
        """Return at once."""
        return nullcontext()


class Others:
    """What clients have with other nodes, as far as this node was told; `max_peers` are remembered."""

    def __init__(self, max_peers: int = 20_000) -> None:
        self._max_peers = max_peers
        self._known: dict[str, Standing] = {}  # last told last
        self.is_unknown: Callable[[str], bool] = lambda _: False  # what is missing here may be bad all the same

    def of(self, peer_id: str) -> Standing:
        """Return what this client has elsewhere."""
        return self._known.get(peer_id, _NOTHING)

    def knows(self, peer_id: str) -> bool:
        """Return whether this node was told of this client, if only that there is nothing."""
        return peer_id in self._known

    def tell(self, peer_id: str, standing: Standing) -> None:
        """Take the place of what was known of this client."""
        self._known.pop(peer_id, None)
        self._known[peer_id] = standing
        if len(self._known) > self._max_peers:
            del self._known[next(iter(self._known))]


_NOTHING: Final = Standing()
