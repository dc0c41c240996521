"""Channels that carry nothing but their payment, in either direction: withheld ones and unpaid ones (rule:7, rule:21).

lightningd would forward into them as into any other. What would go out into one is known by its channel id; what comes
in is known by its peer only, for a channel has several names that change with confirmations and splices. So all that
such a peer sends is looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from lsps2fast.errors import Lsps2Error
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter
from lsps2fast_plugin.cln.models import PeerChannel


class ShutChannels:
    """Keeps the reader's sets true, and judges what comes in from a peer with such a channel."""

    def __init__(
        self,
        interest: HtlcFilter,
        is_unpaid: Callable[[str], bool],
        channels_of: Callable[[str], Awaitable[list[PeerChannel]]],
    ) -> None:
        """`is_unpaid(channel_id)`: on chain and not paid for; `channels_of(peer_id)`: as lightningd lists them."""
        self._interest = interest
        self._is_unpaid = is_unpaid
        self._channels_of = channels_of
        self._peers: dict[str, str] = {}  # of each channel that is shut
        self._shut: Counter[str] = Counter()  # such channels, by peer
        self._unknown: dict[str, str] = {}  # of each channel that may be shut, until the journal has been read
        self._seen: set[str] = set()  # channels that are open, and whose payments are to be seen all the same
        self.withheld: set[str] = set()  # channels whose funding is kept back

    def withhold(self, channel_id: str, yes: bool, peer_id: str) -> None:
        """Take note that the funding of this channel is kept back, or is not any more."""
        (self.withheld.add if yes else self.withheld.discard)(channel_id)
        self.look(channel_id, peer_id)

    def gone(self, channel_id: str) -> None:
        """Take note that lightningd has deleted this channel: an entry for it would stay for good (rule:14)."""
        self.withhold(channel_id, False, self._peers.get(channel_id, ""))

    def wait_for(self, channel_id: str, peer_id: str) -> None:
        """Let nothing through before it is known whether this channel is paid for; `look` then decides."""
        self._interest.channel_ids.add(channel_id)
        self._interest.peers.add(peer_id)
        self._unknown[channel_id] = peer_id

    def known(self) -> None:
        """Decide about all that waited: the journal has been read."""
        for channel_id, peer_id in self._unknown.items():
            self.look(channel_id, peer_id)
        self._unknown.clear()

    def look(self, channel_id: str, peer_id: str) -> None:
        """Shut this channel, or open it, as its state is now."""
        was = self._peers.pop(channel_id, None)
        self._shut[was or peer_id] -= was is not None
        if channel_id in self.withheld or self._is_unpaid(channel_id):
            self._peers[channel_id] = peer_id
            self._shut[peer_id] += 1
            self._interest.channel_ids.add(channel_id)
            self._interest.peers.add(peer_id)
            return
        if channel_id not in self._seen:
            self._interest.channel_ids.discard(channel_id)
        if not self._shut[was or peer_id]:
            del self._shut[was or peer_id]
            self._interest.peers.discard(was or peer_id)

    def see(self, channel_id: str, yes: bool) -> None:
        """Have what goes out into this channel come by, although it is not shut; or no longer so."""
        if yes:
            self._seen.add(channel_id)
            self._interest.channel_ids.add(channel_id)
            return
        self._seen.discard(channel_id)
        if not self.lets_nothing_out(channel_id):
            self._interest.channel_ids.discard(channel_id)

    def lets_nothing_out(self, channel_id: str) -> bool:
        """Return whether nothing but its payment may go out into this channel."""
        return channel_id in self._peers or channel_id in self._unknown

    def watches(self, peer_id: str | None) -> bool:
        """Return whether what this peer sends must be looked up."""
        return self._interest.watches(peer_id)

    async def why_not_in(self, peer_id: str | None, in_scid: int) -> str | None:
        """Return why nothing may come in under this name, or None. What cannot be looked up does not come in."""
        try:
            channels = await self._channels_of(peer_id or "")
        except Lsps2Error as error:
            return f"over {format_scid(in_scid)}: lightningd does not say which channel that is: {error}"
        found = next((channel for channel in channels if in_scid in channel.scids), None)
        if found is None:
            return f"over {format_scid(in_scid)}, which is no channel that lightningd lists"
        shut = found.channel_id in self._peers
        return f"over channel {found.channel_id}, which is not paid for" if shut else None
