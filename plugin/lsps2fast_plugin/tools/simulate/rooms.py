"""Room in channels that wallets have: who uses it, and the promise that none of it is given away twice (rule:18).

The strategy is honest: several payments of one wallet race into room that is enough for one of them. What the service
promises is looked at here, beside what the embedded node's channel could send at that moment.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from lsps2fast_plugin.service.promised_room import Promise
from lsps2fast_plugin.simnode import Client
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.parts import Forward

from .books import Sale
from .common import Common
from .honest import Honest
from .scene import Scene, Visitor
from .story import Violation

LATELY_S = 600.0  # so long an ordinary forward excuses that there is less room than was listed
SLACK_MSAT = 5_000_000  # of a commitment fee that has risen since the channel was listed


class RoomPromise:
    """Sees that what is promised of a channel is never more than what the channel can send."""

    def __init__(self, common: Common) -> None:
        self._common = common
        self._lsp = common.town.lsp
        self._ours: set[bytes] = set()  # payment hashes that ever were promised room
        self._sent_msat: Counter[tuple[str, bytes]] = Counter()  # settled, by channel and payment hash
        self._others_s: dict[str, float] = {}  # when something else last went over a channel
        self._lsp.forward_listeners.append(self._forwarded)
        common.town.loop.promised = self._promised

    def _forwarded(self, row: Forward) -> None:
        if row.out_htlc is None:
            return
        channel_id, payment_hash = row.out_htlc.channel.channel_id, row.out_htlc.payment_hash
        if payment_hash not in self._ours:
            self._others_s[channel_id] = self._common.town.loop.time()
        elif row.status == "settled":
            self._sent_msat[channel_id, payment_hash] += row.out_htlc.amount_msat

    def _promised(self, channel_id: str, promises: list[Promise]) -> None:
        end = next((end for end in self._lsp.ends if end.channel.channel_id == channel_id), None)
        self._common.story.counts["promises of room"] += 1
        if end is None:
            return
        promised_msat: Counter[bytes] = Counter()
        for promise in promises:
            promised_msat[promise.key[1]] += promise.out_msat
        self._ours.update(promised_msat)
        gone_msat = Counter({payment_hash: self._sent_msat[channel_id, payment_hash] for payment_hash in promised_msat})
        for htlc in end.live.values():
            gone_msat[htlc.payment_hash] += htlc.amount_msat
        owed_msat = sum(max(amount - gone_msat[each], 0) for each, amount in promised_msat.items())
        since_s = self._common.town.loop.time() - LATELY_S
        quiet = self._others_s.get(channel_id, -LATELY_S) <= since_s
        if len(promises) > 1:
            self._common.story.counts["promises of shared room"] += 1
        if quiet and owed_msat > end.spendable_msat() + SLACK_MSAT:
            sentence = f"{owed_msat} msat are promised of channel {channel_id[:8]}, which can send"
            self._common.fail(Violation("rule:18", f"{sentence} {end.spendable_msat()}"))


class RacesForRoom(Honest):
    """Comes back for several payments at once; each alone fits into the channel that it has, all of them do not."""

    name = "races-for-room"
    row = "all"
    parts = (1, 4)
    wait_s = 60.0

    async def before_paying(self, me: Scene, wallet: Client, sale: Sale, invoice: ClientInvoice) -> None:
        await me.rest(0.0, self.wait_s)

    async def while_paying(self, me: Scene, wallet: Client) -> None:
        if wallet.behaviour.on_part == "hold":
            await me.rest(1, 60)
            for part in wallet.held():
                wallet.fulfill(part, wallet.invoices[part.htlc.payment_hash].preimage)

    async def play(self, me: Scene) -> None:
        wallet = self.wallet(me)
        first = await me.buy(wallet, me.sat(20_000, 300_000))
        if first is None or not await self.be_paid(me, wallet, first, first.size_msat or 0):
            return
        for _ in range(me.some(1, 3)):
            await me.rest(600, 7_200)
            wallet.behaviour.on_part = "settle"
            sales = [await me.buy(wallet, me.sat(10_000, 95_000)) for _ in range(me.some(2, 4))]
            bought = [sale for sale in sales if sale is not None]
            if me.maybe(0.3) and bought:  # a probe takes a share of the room, and gives it back
                probe = me.stranger_pays(bought[0], me.bill(bought[0]), [bought[0].size_msat or 0])
                await me.end(probe, 3_600)
            if len(bought) > 1 and any(not end.channel.dead for end in wallet.ends):
                me.did()
            self.wait_s = 0.0  # all payers at once
            wallet.behaviour.on_part = me.dice.choice(("settle", "hold"))
            await asyncio.gather(*(self.be_paid(me, wallet, sale, sale.size_msat or 0) for sale in bought))
        await me.blocks(me.some(1, 100))
        await me.leave()


ROOMS: tuple[type[Visitor], ...] = (RacesForRoom,)
