"""What gives way where no more HTLCs may be held for clients that sleep: each incoming channel has its share (rule:24).

An HTLC that is held costs its payer nothing, so a stranger could fill the room there is for a client, or for all, and
keep every payment out. So a channel that holds more than another gives way to it, and its smallest HTLC goes first.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from lsps2fast.actions import ChannelKey


class Claim(NamedTuple):
    """A place in what may be held: by which channel it came, how much it brings, and how its owner calls it."""

    channel: ChannelKey
    amount_msat: int
    name: bytes


class _Share:
    """What one channel holds, the smallest last."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.msat = 0

    def add(self, claim: Claim) -> None:
        self.claims.append(claim)
        self.msat += claim.amount_msat

    def give_up(self) -> Claim:
        least = self.claims.pop()
        self.msat -= least.amount_msat
        return least


def giving_way(held: Collection[Claim], new: Claim, most: int, most_msat: int) -> list[Claim] | None:
    """Return what gives way to a new HTLC, so that no more than this is held; None: it has no room.

    A channel gives way to one that holds less than it, the new HTLC counted; of one channel the small gives way to the
    large.
    """
    count, msat = len(held) + 1, sum(claim.amount_msat for claim in held) + new.amount_msat
    gone: list[Claim] = []
    if count <= most and msat <= most_msat:
        return gone
    shares = {new.channel: _Share()}
    for claim in sorted(held, key=lambda each: each.amount_msat, reverse=True):
        shares.setdefault(claim.channel, _Share()).add(claim)
    own = shares[new.channel]
    while count > most or msat > most_msat:
        if count > most:
            greatest = max(shares.values(), key=lambda share: len(share.claims))
            is_greater = len(greatest.claims) > len(own.claims) + 1
        else:
            greatest = max(shares.values(), key=lambda share: share.msat)
            is_greater = greatest.msat > own.msat + new.amount_msat
        if not is_greater:
            greatest = own
            if not own.claims or own.claims[-1].amount_msat >= new.amount_msat:
                return None
        gone.append(greatest.give_up())
        count, msat = count - 1, msat - gone[-1].amount_msat
    return gone
