"""Guards taken away on purpose, one for each switch, to see in how many steps the simulator finds the loss.

They live in this process and only while a run with `--mutant` lasts. Each changes one place of the service.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from lsps2fast.errors import NodeError
from lsps2fast.lsps.buys import InFlight
from lsps2fast.lsps.receiving import MPP_TIMEOUT
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.cln.scid_aliases import ScidAliases
from lsps2fast_plugin.service.broadcast import _SEAL, Broadcaster, ProofOfLife
from lsps2fast_plugin.service.capital import CapitalAtRisk
from lsps2fast_plugin.service.closing.survey import Survey
from lsps2fast_plugin.service.coins import Coins
from lsps2fast_plugin.service.driver import SessionDriver
from lsps2fast_plugin.service.funding_orders import FundingOrders
from lsps2fast_plugin.service.lsps1 import orders
from lsps2fast_plugin.service.lsps1 import steps as order_steps
from lsps2fast_plugin.service.lsps1.order_parts import OrderParts
from lsps2fast_plugin.service.lsps1.orders import Orders
from lsps2fast_plugin.service.lsps1.steps import OrderSteps
from lsps2fast_plugin.service.opening import Opener
from lsps2fast_plugin.service.payment_reports import PaymentReports
from lsps2fast_plugin.service.policy.budgets import Budgets
from lsps2fast_plugin.service.policy.closing import Closing
from lsps2fast_plugin.service.policy.stakes import Stakes
from lsps2fast_plugin.service.policy.trust import TrustLedger
from lsps2fast_plugin.service.promised_room import PromisedRoom
from lsps2fast_plugin.service.sales_ledger.tracker import Ended
from lsps2fast_plugin.service.sales_ledger.writer import LedgerWriter
from lsps2fast_plugin.service.shut_channels import ShutChannels

from .mutant import BATCHES, ORDERS, Mutant
from .plan import NONE, Plan
from .pot_mutants import POTS

_ended = PaymentReports.ended


async def _blind(self: Any, peer_id: str, channel_id: str) -> ProofOfLife:
    return ProofOfLife(_SEAL, channel_id, False)


async def _look_at_one(self: Broadcaster, peer_id: str, channel: Any) -> ProofOfLife:
    return await self.look(peer_id, channel.channel_id)


def _endless(*_: Any, **__: Any) -> int:
    return 10**15


def _never(*_: Any, **__: Any) -> None:
    """No reason to refuse."""


def _nothing(*_: Any, **__: Any) -> None:
    """Left undone."""


async def _undone(*_: Any, **__: Any) -> None:
    """Left undone, later."""


def _count_agreed(self: PaymentReports, payment: Ended) -> None:
    _ended(self, payment)
    self.fees_msat += payment.attempt.fee_agreed_msat - payment.attempt.fee_taken_msat


_write = LedgerWriter._write


def _write_less(self: LedgerWriter, db: Any, fact: Any) -> None:
    taken_msat = getattr(fact, "fee_taken_msat", 0)
    _write(self, db, replace(fact, fee_taken_msat=taken_msat - 1) if taken_msat else fact)


_free = PromisedRoom.free


def _as_if_alone(self: PromisedRoom, channel: Any, *how: Any) -> Any:
    return _free(PromisedRoom(), channel, *how)


async def _cancel(self: Any, peer_id: str, funding: Any) -> None:
    with contextlib.suppress(NodeError):
        await self._rpc.call("fundchannel_cancel", {"id": peer_id})


def _its_own_deed(self: TrustLedger, peer_id: str, jit_scid: int, wall_ms: int) -> None:
    self.blame(peer_id, jit_scid, "unpaid", wall_ms)


_leave = InFlight.leave


def _stay(self: InFlight, peer_id: str) -> None:
    in_all = self._sum
    _leave(self, peer_id)
    self._sum = in_all


def _few_slots(plan: Plan) -> dict[str, Any]:
    return {"lsps2-trust-mode": plan.trust_mode, "lsps2-max-in-progress": 100}


async def _asleep(*_: Any, **__: Any) -> None:
    await asyncio.Event().wait()


_sold = Survey._facts


def _no_lifetime(self: Survey, *what: Any) -> Any:
    return _sold(self, *what)._replace(min_lifetime_blocks=0)


def _without_shares(plan: Plan) -> dict[str, Any]:
    shares = ("lsps2-max-held-parts-per-buy", "lsps2-max-held-parts-per-peer")
    return {"lsps2-trust-mode": plan.trust_mode, **dict.fromkeys(shares, 2_000)}


_hold = OrderParts.hold


def _hold_all(self: OrderParts, call: Any, *how: Any) -> str | None:
    found = self.whole(self._payables[call.payment_hash].order_id)
    if found is None:
        return _hold(self, call, *how)
    found.whole = False
    failure = _hold(self, call, *how)
    found.whole = True
    return failure


_look, _taking = Orders.look, OrderSteps._taking


async def _look_at_all(self: Orders) -> None:
    for order_id in self.parts.overdue(self._clock.now_ms()):
        self.parts.give_back(order_id, self._height(), MPP_TIMEOUT)
    await _look(self)


def _runs_out(self: Orders, order_id: str, height: int) -> bool:
    left = self.parts.blocks_left(order_id, height)
    return left is not None and left <= orders.LAST_BLOCKS


def _take_the_whole(self: OrderSteps, order: Any) -> dict[str, Any]:
    return {} if self._parts.whole(order.id) is None else _taking(self, order)


async def _caught_up(self: OrderSteps) -> None:
    self._is_caught_up = True


async def _as_if_held(self: OrderSteps, order: Any) -> bool:
    await self._catch_up()
    return True


MUTANTS: dict[str, Mutant] = {
    "judged-at-the-buy": Mutant(
        "rule:19",
        "the question, right before the open, how many channels this client has left unpaid",
        ("many-buys",),
        ((Budgets, "why_not_on_trust", _never), (Budgets, "has_turn", lambda *_, **__: True)),
    ),
    "strangers-blamed": Mutant(
        "rule:22",
        "the difference between a payment that failed behind the LSP and a client's own deed",
        ("stranger-pays",),
        ((TrustLedger, "probed", _its_own_deed),),
    ),
    "no-shares": Mutant(
        "rule:24",
        "the shares of a buy and of a client in the parts that are held",
        ("crowd",),
        ((Plan, "options", property(_without_shares)),),
    ),
    "names-are-keys": Mutant(
        "rule:18",  # as far as the books see it; the guard is that of rule:25
        "the id of the incoming channel, in place of which its name of the moment is the key (rule:25)",
        ("splices-upstream",),
        (
            (ScidAliases, "one", lambda self, name: name),
            (ScidAliases, "key", lambda self, name, htlc_id, parts: (name, htlc_id)),
        ),
    ),
    "trusting-wallet": Mutant(
        "rule:27",
        "the wallet's question whether the funding of a channel is sound before a preimage goes out over it",
        ("drains", "withholds"),
        ((Watch, "unsafe", _undone), (Watch, "is_surely_safe", lambda *_: True), (Watch, "lacking", _undone)),
    ),
    "cancels-the-peer": Mutant(
        "rule:26",
        "the look what else is under way with a peer, before its open is called off",
        ("other-tool",),
        ((Opener, "end", _cancel),),
    ),
    "unseen": Mutant(
        "rule:23",
        "the look whether a channel lives, before its funding is sent",
        ("signs-and-errs", "fulfils-and-errs", "chaos"),
        ((Broadcaster, "look", _blind),),
        {"seed": 5, "people": 150.0, "mode": "client-trusts-lsp", "weather": True},
    ),
    "no-budget": Mutant(
        "rule:18",
        "every budget at the open",
        ("variable-refusers", "many-identities"),
        (
            (Budgets, "why_not_open", _never),
            *((Budgets, f"{pot}_room_msat", _endless) for pot in ("on_trust", "withheld", "mining")),
        ),
        {"people": 200.0},
    ),
    "no-mining-budget": Mutant(
        "rule:18",
        "the count of mining fees without a sale",
        ("many-identities", "overpays", "late-expiry"),
        ((Stakes, "mining_msat", lambda self, wall_ms: 0),),
        {"people": 400.0},
    ),
    "open-doors": Mutant(
        "rule:21",
        "the guard that lets nothing but its payment into an unpaid channel",
        ("free-channel",),
        ((ShutChannels, "look", _nothing),),
    ),
    "deaf-ledger": Mutant(
        "rule:18",
        "the word to the ledger that a payment has ended",
        ("overpays",),
        ((CapitalAtRisk, "session_changed", _nothing),),
    ),
    "forgets-at-a-start": Mutant(
        "rule:18",
        "what a start tells the ledger of sessions that go on",
        ("holds-long",),
        ((CapitalAtRisk, "revive", _nothing),),
        {"mode": "client-trusts-lsp", "weather": True},
    ),
    "agreed-is-earned": Mutant(
        "rule:20",
        "the fee that came, in place of which the one is counted that was agreed",
        ("evades", "overpays"),
        ((PaymentReports, "ended", _count_agreed),),
    ),
    "a-msat-less": Mutant(
        "rule:20",
        "one msat of each fee that is written to the sales ledger",
        ("evades",),
        ((LedgerWriter, "_write", _write_less),),
        {"people": 12.0},
    ),
    "room-for-all": Mutant(
        "rule:18",
        "what is promised to other payments, from the room of a channel that a client has",
        ("races-for-room",),
        ((PromisedRoom, "free", _as_if_alone),),
        {"reuse": "free"},
    ),
    "forgets-lifetimes": Mutant(
        "rule:20",
        "the lifetime that was promised, before a rule closes an idle channel",
        (NONE,),
        ((Survey, "_facts", _no_lifetime),),
        {"seed": 1, "people": 12.0, "closing": "on"},
    ),
    "closes-without-end": Mutant(
        "rule:18",
        "the count of the channels that rules have closed in a day",
        (NONE,),
        ((Closing, "room", lambda *_: 1_000),),
        {"people": 60.0, "closing": "on"},
    ),
    "coins-stay": Mutant(
        "rule:9",
        "the release of coins after an open that failed",
        ("signs-and-errs", "falls-silent"),
        ((Coins, "release", _undone),),
    ),
    "sisters-unseen": Mutant(
        "rule:23",
        "the looks at channels that share a funding, once they are signed and before that is sent",
        ("spoils-batches",),
        ((Broadcaster, "_look_at_all", _look_at_one), (Opener, "first_limits", _undone)),
        BATCHES,
    ),
    "coins-of-one": Mutant(
        "rule:9",
        "the promise of shared coins to all of a batch: the first to let go frees them",
        ("spoils-batches",),
        ((Coins, "_others", lambda *_: False),),
        BATCHES,
    ),
    "slots-stay": Mutant(
        "rule:24",
        "the release, after an answer, of the place among the requests that are worked on",
        ("asks-on",),
        ((InFlight, "leave", _stay), (Plan, "options", property(_few_slots))),
        {"people": 12.0},
    ),
    "sleeps-through": Mutant(
        "rule:5",
        "every time-out of a payment: parts that never become a payment are held on",
        ("crowd",),
        ((SessionDriver, "run", _asleep),),
        {"people": 12.0},
    ),
    "stays-withheld": Mutant(
        "rule:9",
        "the close of a withheld channel whose payment has failed",
        ("overpays",),
        ((FundingOrders, "_drop_once_free", _asleep),),
        {"people": 4.0, "mode": "client-trusts-lsp"},
    ),
    "never-hangs-up": Mutant(
        "rule:9",
        "the end of a line to a client that keeps silent inside an open",
        ("falls-silent",),
        ((Opener, "hang_up", _undone),),
        {"people": 4.0},
    ),
    "others-go-back": Mutant(
        "rule:20",
        "the hold on what is left of an order's payment, where a part is lost while bitcoind refuses its funding",
        ("withdraws",),
        ((order_steps, "_SIGNED", ()),),
        ORDERS,
    ),
    "a-part-comes-back": Mutant(
        "rule:20",
        "what a start knows of an order whose funding may be out: it takes what comes back, though it is not whole",
        ("withdraws-at-a-start",),
        (
            (Orders, "look", _look_at_all),
            (Orders, "_runs_out", _runs_out),
            (OrderSteps, "_taking", _take_the_whole),
            (OrderSteps, "_catch_up", _caught_up),
            (orders, "CHAIN_BLOCKS", orders.LAST_BLOCKS),
            (orders, "LEAST_BLOCKS", 60),
        ),
        ORDERS,
    ),
    "sends-unasked": Mutant(
        "rule:20",
        "the question, before the funding of an order is sent, whether lightningd has its payment",
        ("withdraws",),
        ((OrderSteps, "_has_payment", _as_if_held),),
        ORDERS,
    ),
    "a-part-too-many": Mutant(
        "rule:3",
        "the end of an order's payment: what comes beside a whole one is held, and taken with it",
        ("parts-too-many", "pays-twice"),
        ((OrderParts, "hold", _hold_all),),
        ORDERS,
    ),
    "waits-for-the-rest": Mutant(
        "rule:5",
        "the time-out of an order's parts whose others do not come",
        ("orders-many",),
        ((OrderParts, "overdue", lambda *_: []),),
        {"orders": "on", "people": 12.0},
    ),
    **POTS,
}


@contextlib.contextmanager
def applied(name: str) -> Iterator[None]:
    """Change the service while this lasts; "" changes nothing. KeyError for a name that is none."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, value in MUTANTS[name].patches if name else ():
            stack.enter_context(patch.object(owner, attribute, value))
        yield
