"""Hands each order of the session machine to the module that carries it out.

Answers to hooks are given at once; everything that asks lightningd runs as a task of its own, and its result comes back
as an input of the machine. Nothing here decides about money.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from lsps2fast import actions as order
from lsps2fast.errors import NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.alarms import Alarms
from lsps2fast_plugin.service.batch_opening import BatchOpening
from lsps2fast_plugin.service.batches import Batches
from lsps2fast_plugin.service.broadcast import Broadcaster
from lsps2fast_plugin.service.existing_channels import ExistingChannels, RoomFinder
from lsps2fast_plugin.service.fee_notes import FeeNotes
from lsps2fast_plugin.service.funding import Funder
from lsps2fast_plugin.service.funding_orders import FundingOrders, Sent
from lsps2fast_plugin.service.opening import Opener
from lsps2fast_plugin.service.opening_orders import Capital, OpeningOrders, Withhold
from lsps2fast_plugin.service.order_tasks import Driver, OrderTasks
from lsps2fast_plugin.service.promised_room import PromisedRoom
from lsps2fast_plugin.service.record_orders import RecordOrders
from lsps2fast_plugin.service.reservations import Reservations
from lsps2fast_plugin.service.routing_fees import RoutingFees
from lsps2fast_plugin.service.session_store import SessionStore
from lsps2fast_plugin.service.unfunded import UnfundedChannels
from lsps2fast_plugin.service.waiting_orders import Answers, WaitingOrders

log = logging.getLogger(__name__)

Handler = Callable[[Any], Coroutine[Any, Any, None]]


class ActionExecutor:
    """Executor of actions."""

    def __init__(
        self,
        *,
        funder: Funder,
        opener: Opener,
        broadcaster: Broadcaster,
        store: SessionStore,
        answers: Answers,
        clock: Clock,
        driver: Driver,
        withheld: Withhold,
        capital: Capital,
        sent: Sent,
        alarms: Alarms,
        rpc: Rpc,
        finder: RoomFinder,
        room: PromisedRoom,
        fee_notes: FeeNotes,
        batch_window_ms: int = 0,
        batch_channels: int = 25,
    ) -> None:
        """`withheld(channel_id, yes, peer_id)` keeps other forwards out of a channel (rule:7); `capital` is asked
        before each open; `sent(peer_id, channel)` hears of each funding that bitcoind has; `finder` looks for channels
        that clients have, `room` is what was promised of them. Channels on trust that are opened within
        `batch_window_ms` share a funding, so many of them at most; 0: each has its own.
        """
        self._answers = answers
        self._driver = driver
        self._alarms = alarms
        self._tasks = tasks = OrderTasks(clock, driver, alarms.tell)
        self._fees = fees = RoutingFees(funder, fee_notes, clock, tasks.insist, tasks.until_done)
        self._records = RecordOrders(tasks, store, clock, fees, room)
        self._waiting = WaitingOrders(tasks, funder, fees, answers, clock, room)
        self._existing = ExistingChannels(
            rpc=rpc, tasks=tasks, fees=fees, clock=clock, finder=finder, book=room, sessions=driver
        )
        reservations = Reservations(tasks, funder, broadcaster, driver)
        unfunded = UnfundedChannels(
            tasks=tasks, funder=funder, reservations=reservations, clock=clock, withheld=withheld
        )
        self._opening = OpeningOrders(
            tasks=tasks,
            funder=funder,
            opener=opener,
            reservations=reservations,
            clock=clock,
            driver=driver,
            capital=capital,
            withheld=withheld,
            existing=self._existing,
        )
        self._funding = FundingOrders(
            tasks=tasks,
            funder=funder,
            broadcaster=broadcaster,
            opening=self._opening,
            waiting=self._waiting,
            reservations=reservations,
            unfunded=unfunded,
            fees=fees,
            driver=driver,
            withheld=withheld,
            sent=sent,
        )
        self.batches = Batches(
            tasks=tasks,
            funder=funder,
            opening=self._opening,
            opens=lambda spoiled: BatchOpening(
                tasks=tasks,
                funder=funder,
                opener=opener,
                opening=self._opening,
                reservations=reservations,
                unfunded=unfunded,
                clock=clock,
                driver=driver,
                withheld=withheld,
                spoiled=spoiled,
            ),
            sending=self._funding,
            clock=clock,
            driver=driver,
            window_ms=batch_window_ms,
            most=batch_channels,
        )
        self._opening.batches = self._funding.batches = self.batches
        self._handlers: dict[type, Handler] = {
            order.ReserveCoins: self._opening.reserve,
            order.OpenChannel: self._opening.open,
            order.PrepareChannel: self._existing.prepare,
            order.RenewInputs: reservations.renew,
            order.Undo: self._funding.undo,
            order.CloseChannel: self._funding.close_channel,
            order.ConnectPeer: self._funding.connect,
        }
        self.renew_found = reservations.renew_found
        self.reserved_late = reservations.reserved_late
        self.opening = self._opening
        self.watch = self._waiting.watch
        self.unready = self._waiting.unready
        self.returning = self._waiting.returning
        self.of_last_life = fees.of_last_life
        self.found_fees = fees.found
        self.take_up_fees = fees.take_up
        self.finish = self._records.finish
        self.keep_alias = self._records.keep_alias
        self.drop_waiting = self._waiting.drop
        self.waits = self._waiting.waits
        self.revive_existing = self._existing.revive

    def let_sleep(self, asleep: Callable[[int], int]) -> None:
        """Say for how many ms parts of a paid buy wait for its client; 0: it is there, or cannot be called."""
        self._waiting.asleep = asleep

    def clients_waited_for(self) -> set[str]:
        """Return the clients for whom parts wait that are let out."""
        return self._waiting.clients()

    @property
    def alarms(self) -> int:
        """How often the operator was alarmed."""
        return len(self._alarms)

    def carry_out(self, actions: Iterable[order.Action]) -> None:
        """Carry out these orders; those that take time go on in the background."""
        actions = tuple(actions)
        fees = next((action for action in actions if isinstance(action, order.RestoreFees)), None)
        left = None
        for action in actions:
            match action:
                case order.ForwardParts():
                    self._waiting.forward(action)
                case order.FailParts():
                    self._answers.fail(action.parts, action.failure)
                case order.Alarm():
                    self.alarm(action.text)
                case order.ForgetBuy():
                    self._opening.forget(action.jit_scid)
                    self._driver.forget(action.jit_scid)
                    self._tasks.spawn(self._records.forget(action), action)
                case order.Persist():
                    self._tasks.spawn(self._records.persist(action), action)
                    self._funding.announce(action)
                case order.LeaveChannel():
                    left, leaving = action, self._existing.leave(action)
                    if leaving is not None:
                        self._records.leaving[action.jit_scid, action.existing.channel_id] = leaving
                case order.Reset():
                    task = self._tasks.spawn(self._records.reset(action, left), action)
                    self._records.resetting[action.jit_scid] = task
                case order.Finalize():
                    self._tasks.spawn(self._records.finalize(action, fees), action)
                case order.RestoreFees() if any(isinstance(other, order.Finalize) for other in actions):
                    self._waiting.stop(action.channel_id)  # the rest with its Finalize: then the record goes
                case order.RestoreFees():
                    self._waiting.stop(action.channel_id)
                    self._tasks.spawn(self._fees.restore(action), action)
                case order.Broadcast():
                    task = self._tasks.spawn(self._funding.broadcast(action), action)
                    self._records.sending[action.channel.channel_id] = task
                case order.AwaitReady():
                    self._waiting.await_ready(action)
                case _:
                    self._tasks.spawn(self._handlers[type(action)](action), action)

    def alarm(self, text: str) -> None:
        """Tell the operator."""
        self._tasks.alarm(text)

    def insist(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Have something done that must be done in the end, in the background."""
        self._tasks.insist(what, work)

    async def block(self) -> None:
        """Look at routing fees after a block; what cannot be asked now is asked with the next one."""
        try:
            await self._fees.block()
        except NodeError as error:
            log.warning(f"looking at routing fees after the start: {error}")

    async def idle(self) -> None:
        """Return when no order is being carried out."""
        await self._tasks.idle()

    def stop(self) -> None:
        """End every task where it stands; the journal tells the next start what was going on."""
        self._tasks.stop()
