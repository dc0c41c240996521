"""The world around the machine in one immutable value, and every step that can be taken in it.

lightningd, the journal, one client, one payer and the wallet's two coins, as far as money depends on them. What an
order does happens in steps (written, then told), so that a death fits between any two. Rules are checked at the step
that could break them (`Broken`), and at every end: where nothing more happens by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from harness.rows import peer_channel
from harness.scene import (
    CLIENT,
    FEE,
    HASH,
    LIMITS,
    OTHER_HASH,
    OTHER_PREIMAGE,
    PREIMAGE,
    SCID,
    SIZE,
    UPSTREAM,
    VALID_UNTIL_MS,
    WALL_MS,
)

from lsps2fast import actions as order
from lsps2fast.actions import Channel, Funding, Opened, SessionRecord
from lsps2fast.table import Input
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.reconcile import Row
from lsps2fast_plugin.service.session_record import FRESH, StoredSession

from .brain import COLLECT_MS, DEADLINE, Brain, Orders, Part, Start, a_buy

PREIMAGES = {HASH: PREIMAGE, OTHER_HASH: OTHER_PREIMAGE}
WRITES = (order.Persist, order.Reset, order.Finalize, order.ForgetBuy)  # to one record: in their order
MOST = 2 * SIZE  # what the core lets in by default: as much again


class Broken(Exception):
    """A rule about money does not hold."""


class Piece(NamedTuple):
    """One part: with the payer, held, replay (held by a lightningd that will ask again), failed, going (taken by
    lightningd, not yet committed), out (with the client), lost or settled.
    """

    status: str = "payer"
    fee_msat: int = 0


class Chan(NamedTuple):
    """One channel to the client."""

    channel_id: str
    coin: int
    withheld: bool = True
    usable: bool = False
    paid: bool = False  # money of the client is in it
    confirmed: bool = False


class Todo(NamedTuple):
    """An order that is not done yet: how far it is, and what came of it so far."""

    action: Any
    step: int = 0
    result: Any = None


class World(NamedTuple):
    """Everything there is."""

    brain: int | None  # state of the machine; None: the plugin is dead
    dead: str = ""  # "plugin", or "power": lightningd, too
    record: SessionRecord | None = FRESH
    final: tuple[str, SessionRecord] | None = None
    parts: tuple[Piece, ...] = ()
    channels: tuple[Chan, ...] = ()
    made: int = 0  # channels so far
    coins: tuple[str, ...] = ("free", "free")  # free, ours, theirs, spent
    todo: tuple[Todo, ...] = ()
    notes: tuple[tuple[int, bool], ...] = ()  # forward_events on their way: part, settled
    online: bool = True
    unready: bool = False  # after a start of lightningd nothing goes out before the client is back (cln:R4)
    expired: bool = False
    late: bool = False
    crashes: int = 0
    mishaps: int = 0  # writes that fail, coins that others take, answers that are lost, channels that are given up
    given_up: bool = False  # a channel with the client's money in it was given up


class Rules(NamedTuple):
    """How large the world is, and what in it is broken on purpose."""

    parts: tuple[Part, ...]
    client_trusts_lsp: bool
    crashes: int = 1
    mishaps: int = 1
    mutant: str = ""


Move = tuple[str, World]


class Game:
    """All moves."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.buy = a_buy(rules.client_trusts_lsp, SIZE, FEE)
        self.brain = Brain(self.buy, rules.parts)

    def begin(self) -> World:
        """The buy is sold, the payer has its invoice."""
        return self._start(World(None, parts=(Piece(),) * len(self.rules.parts)))

    # Moves ----------------------------------------------------------------------------------------------

    def moves(self, world: World) -> Iterator[Move]:
        """Everything that can happen next. What is not `progress` need never happen."""
        yield from self.progress(world)
        if not world.expired:
            yield "valid_until passes", self._time(world._replace(expired=True), world)
        if not world.late:
            yield "the parts come near their expiry", self._ask(world._replace(late=True), "block", DEADLINE)
        if world.crashes < self.rules.crashes and not world.dead:
            yield "the plugin dies", self._plugin_dies(world)
            yield "lightningd dies, and the plugin with it", self._power_fails(world)
        if world.mishaps < self.rules.mishaps:
            yield from self._give_up(world)
            for coin, state in enumerate(world.coins):
                if state == "free":
                    yield f"another program reserves coin {coin}", self._coin(self._mishap(world), coin, "theirs")

    def _give_up(self, world: World) -> Iterator[Move]:
        """The client sends an error: lightningd forgets an unfunded channel, frees its coins (cln:N2)."""
        for channel in world.channels:
            if not channel.withheld or world.dead == "power" or not world.online:
                continue
            forgotten = self._mishap(world)
            for place, piece in enumerate(world.parts):
                if piece.status in ("going", "out"):
                    forgotten = self._note(self._piece(forgotten, place, piece._replace(status="lost")), place, False)
            channels = tuple(each for each in forgotten.channels if each != channel)
            forgotten = self._coin(forgotten._replace(channels=channels), channel.coin, "free")
            forgotten = forgotten._replace(given_up=forgotten.given_up or channel.paid)
            yield "the client gives its channel up", forgotten
            if not world.notes:  # lightningd tells one thing after the other
                told = self._ask(forgotten, "channel_closed", channel.channel_id)
                yield "the client gives its channel up, and lightningd says so", told

    def progress(self, world: World) -> Iterator[Move]:
        """What happens sooner or later."""
        if world.dead:
            yield "the plugin starts", self._start(world)
        else:
            yield from self._plugin_moves(world)
        if world.dead != "power":
            yield from self._client_moves(world)

    def _plugin_moves(self, world: World) -> Iterator[Move]:
        assert world.brain is not None
        for place, piece in enumerate(world.parts):
            if piece.status in ("payer", "replay"):
                yield f"part {place} arrives", self._arrive(world, place)
        if self.brain.mind(world.brain).collecting:
            yield "the collect time-out", self._ask(world, "tick", COLLECT_MS, _wall(world))
        if not world.online:
            yield "the client connects", self._ask(world._replace(online=True), "peer", CLIENT, True, _wall(world))
        for note in sorted(set(world.notes)):
            yield f"lightningd tells of part {note[0]}", self._told(world, note)
        writes = [todo for todo in world.todo if isinstance(todo.action, WRITES)]
        for todo in world.todo:
            if todo in writes[1:] and todo != writes[0]:
                continue
            yield from self._work(world, todo)

    def _client_moves(self, world: World) -> Iterator[Move]:
        for place, piece in enumerate(world.parts):
            if piece.status == "going" and world.online:
                yield f"part {place} reaches the client", self._piece(world, place, piece._replace(status="out"))
            if piece.status == "out" and world.online:
                yield f"the client claims part {place}", self._claim(world, place)
                yield (
                    f"the client fails part {place}",
                    self._note(self._piece(world, place, piece._replace(status="lost")), place, False),
                )
        for place, channel in enumerate(world.channels):
            if not channel.withheld and not channel.confirmed:
                channels = _put(world.channels, place, channel._replace(confirmed=True))
                yield "the funding is confirmed", world._replace(channels=channels)

    # The plugin -------------------------------------------------------------------------------------------

    def _ask(self, world: World, *given: Any) -> World:
        """Tell the machine, and begin what it orders."""
        if world.dead:
            return world
        number, orders = self.brain.step(world.brain, given)
        return self._carry_out(world._replace(brain=number), orders)

    def _tell(self, world: World, todo: Todo, kind: Input, fact: Any = None) -> World:
        """The result of an order; it is done."""
        action = todo.action
        return self._ask(_without(world, todo), "handle", SCID, action.payment_hash, kind, fact)

    def _time(self, world: World, before: World) -> World:
        return self._ask(world, "tick", 0, _wall(world)) if not before.dead else world

    def _arrive(self, world: World, place: int) -> World:
        world = self._piece(world, place, Piece("held"))
        return self._ask(world, "part", place, world.expired)

    def _told(self, world: World, note: tuple[int, bool]) -> World:
        place, settled = note
        payment_hash = self.rules.parts[place].payment_hash
        notes = list(world.notes)
        notes.remove(note)
        preimage = PREIMAGES[payment_hash] if settled else None
        return self._ask(world._replace(notes=tuple(notes)), "resolved", (UPSTREAM, place), payment_hash, preimage)

    def _carry_out(self, world: World, orders: Orders) -> World:
        for action in orders:
            match action:
                case order.FailParts():
                    for _, place in action.parts:
                        world = self._answer(world, place, Piece("failed"))
                case order.ForwardParts() if world.unready and not world.online:
                    world = _with(world, action)
                case order.ForwardParts():
                    world = self._forward(world, action)
                case order.AwaitReady() | order.Undo():
                    gone = [todo for todo in world.todo if isinstance(todo.action, order.AwaitReady)]
                    for todo in gone:
                        world = _without(world, todo)
                    world = _with(world, action)
                case order.ForgetBuy() if action.outcome not in ("Timeout", "finish"):
                    pass
                case order.RenewInputs():
                    coin = int(action.funding.inputs[0])
                    world = self._coin(world, coin, "ours") if world.coins[coin] == "free" else world
                case order.ConnectPeer() | order.RestoreFees() | order.Alarm():
                    pass
                case _:
                    world = _with(world, action)
        return world

    def _forward(self, world: World, action: order.ForwardParts) -> World:
        alive = any(channel.channel_id == action.channel_id for channel in world.channels)
        for part in action.parts:
            if alive:
                self._check_forward(world, action.channel_id, part)
            if alive and world.online:
                world = self._answer(world, part.htlc_id, Piece("going", part.extra_fee_msat))
            else:  # lightningd takes the answer, and fails the part
                world = self._answer(world, part.htlc_id, Piece("lost"))
                world = self._note(world, part.htlc_id, False)
        return world

    def _answer(self, world: World, place: int, piece: Piece) -> World:
        if world.parts[place].status != "held":
            raise Broken(f"part {place} is answered while it is {world.parts[place].status} (rule:1)")
        return self._piece(world, place, piece)

    # Orders that take time -------------------------------------------------------------------------------------

    def _work(self, world: World, todo: Todo) -> Iterator[Move]:
        work: Callable[[World, Todo], Iterator[Move]] = getattr(self, f"_do_{type(todo.action).__name__}")
        yield from work(world, todo)

    def _do_ForwardParts(self, world: World, todo: Todo) -> Iterator[Move]:
        if world.online:
            yield "the parts that waited for the client go out", self._forward(_without(world, todo), todo.action)

    def _do_Persist(self, world: World, todo: Todo) -> Iterator[Move]:
        action = todo.action
        if todo.step == 1:
            yield f"the {action.record.stage} is stored", self._tell(world, todo, Input.STORED)
            return
        if self.rules.mutant == f"unwritten {action.record.stage}":
            yield f"the {action.record.stage} is said to be stored", self._tell(world, todo, Input.STORED)
            return
        yield f"the {action.record.stage} is written", _next(world._replace(record=action.record), todo)
        if world.mishaps < self.rules.mishaps:
            broken = self._mishap(world)
            yield f"the {action.record.stage} cannot be written", self._tell(broken, todo, Input.STORE_FAILED)
            broken = broken._replace(record=action.record)
            yield f"the {action.record.stage} is written, no answer comes", self._tell(broken, todo, Input.STORE_FAILED)

    def _do_Reset(self, world: World, todo: Todo) -> Iterator[Move]:
        yield "the record is that of a plain buy again", _without(world._replace(record=todo.action.record), todo)

    def _do_ForgetBuy(self, world: World, todo: Todo) -> Iterator[Move]:
        yield "the active record is deleted", _without(world._replace(record=None), todo)

    def _do_Finalize(self, world: World, todo: Todo) -> Iterator[Move]:
        if todo.step == 1:
            yield "the active record is deleted", _without(world._replace(record=None), todo)
            return
        channel = todo.action.record.channel
        if channel is not None and any(_sends(other, channel.channel_id) for other in world.todo):
            return  # `RecordOrders.finalize` waits: until it is sent only the active record knows of the channel
        final = (todo.action.outcome, todo.action.record)
        if world.final is not None and world.final[0] != final[0]:
            raise Broken(f"the final record says {world.final[0]} and is to say {final[0]}")
        yield f"the final record is written: {final[0]}", _next(world._replace(final=final), todo)

    def _do_ReserveCoins(self, world: World, todo: Todo) -> Iterator[Move]:
        yield self._choose(world, todo)

    def _choose(self, world: World, todo: Todo) -> Move:
        coin = world.coins.index("free") if "free" in world.coins else None
        if coin is None:
            return "no coin is free", self._tell(world, todo, Input.OPEN_FAILED, False)
        funding = Funding(f"psbt {coin}", (f"{coin}",), 10_000_000, 100_000)
        if self.rules.mutant == "reserved before the intent":
            world = self._coin(world, coin, "ours")
        return f"coin {coin} is chosen", self._tell(world, todo, Input.COINS_CHOSEN, funding)

    def _do_OpenChannel(self, world: World, todo: Todo) -> Iterator[Move]:
        coin = int(todo.action.funding.inputs[0])
        if todo.step == 0:
            yield from self._reserve(world, todo, coin)
        elif todo.step == 1:
            yield "the open fails", self._tell(world, todo, Input.OPEN_FAILED, False)
            if world.online:
                yield "the client refuses the open", self._tell(world, todo, Input.OPEN_FAILED, True)
                opened, channel = self._open(world, coin)
                yield "both have signed", _next(opened, todo, channel)
                if world.mishaps < self.rules.mishaps:
                    lost = self._mishap(opened)
                    yield "both have signed, no answer comes", self._tell(lost, todo, Input.OPEN_FAILED, False)
        else:
            yield "the channel is told", self._tell(world, todo, Input.FUNDED, Opened(todo.result))
            if not self.rules.client_trusts_lsp:  # then its record names the forwards, too
                known = Opened(todo.result, LIMITS)
                yield "the channel is told, and what it allows", self._tell(world, todo, Input.FUNDED, known)

    def _reserve(self, world: World, todo: Todo, coin: int) -> Iterator[Move]:
        early = self.rules.mutant == "reserved before the intent"
        if world.coins[coin] == "ours" and not early:
            raise Broken(f"coin {coin} is reserved twice")
        if world.coins[coin] in ("free", "ours"):
            yield f"coin {coin} is reserved", _next(self._coin(world, coin, "ours"), todo)
        else:
            yield self._choose(world, todo)

    def _open(self, world: World, coin: int) -> tuple[World, Channel]:
        if world.channels:
            raise Broken("a second channel (rule:2)")
        if world.coins[coin] != "ours":
            raise Broken("a channel is made of a coin that is not reserved")
        name = f"{world.made + 1:064x}"
        opened = world._replace(made=world.made + 1, channels=(*world.channels, Chan(name, coin)))
        return opened, Channel(name, "signed", "dd" * 32)

    def _do_AwaitReady(self, world: World, todo: Todo) -> Iterator[Move]:
        place = _place(world, todo.action.channel_id)
        if place is None:
            yield "the channel is found gone", self._tell(world, todo, Input.CLOSED)
            return
        yield "the channel does not get ready", self._tell(world, todo, Input.READY_TIMEOUT)
        if world.online:
            channels = _put(world.channels, place, world.channels[place]._replace(usable=True))
            yield "the channel is ready", self._tell(world._replace(channels=channels), todo, Input.READY, LIMITS)

    def _do_Broadcast(self, world: World, todo: Todo) -> Iterator[Move]:
        channel = todo.action.channel
        if todo.step == 0 and _place(world, channel.channel_id) is None:
            yield "the channel is found to be given up", self._tell(world, todo, Input.CLOSED, True)
        elif todo.step == 0:
            yield "the funding is sent", _next(self._send(world, channel.channel_id), todo)
        else:
            yield "the funding is told to be out", self._tell(world, todo, Input.FUNDING_BROADCAST)

    def _send(self, world: World, channel_id: str) -> World:
        place = _place(world, channel_id)
        if place is None:
            raise Broken("a funding is sent whose channel is closed")
        channel = world.channels[place]
        if world.coins[channel.coin] == "theirs":
            raise Broken("a funding is sent whose coin is another program's")
        channels = _put(world.channels, place, channel._replace(withheld=False))
        return self._coin(world._replace(channels=channels), channel.coin, "spent")

    def _do_Undo(self, world: World, todo: Todo) -> Iterator[Move]:
        """As `FundingOrders.undo` and `Funder.close` do it: lightningd has the last word on what is gone (K-11)."""
        action = todo.action
        if todo.step == 0:
            yield from self._drop(world, todo)
        elif todo.step == 1:
            coin = None if action.funding is None else int(action.funding.inputs[0])
            if coin is not None and world.coins[coin] == "ours" and self.rules.mutant != "coins not released":
                world = self._coin(world, coin, "free")
            yield "the coins are released", _next(world, todo)
        elif isinstance(todo.result, Channel):
            yield "the channel is told to be kept", self._tell(world, todo, Input.FUNDING_BROADCAST, todo.result)
        else:
            yield "it is told that all is undone", self._tell(world, todo, Input.UNDONE)

    def _drop(self, world: World, todo: Todo) -> Iterator[Move]:
        assert world.brain is not None
        named, owned = todo.action.channel, self.brain.mind(world.brain).owned
        for channel in world.channels:
            if channel.channel_id != named.channel_id if named is not None else channel.channel_id in owned:
                continue
            if not channel.withheld or channel.paid:
                kept = Channel(channel.channel_id, "signed", "dd" * 32)
                sent = _next(self._send(world, channel.channel_id), todo, kept)
                yield "the channel is the client's: sent", _next(sent, todo._replace(step=1, result=kept))
            elif not any(piece.status in ("going", "out") for piece in world.parts):
                yield "the channel is closed", _next(self._close(world, channel), todo)
            return
        yield "there is no channel to close", _next(world, todo)

    def _close(self, world: World, channel: Chan) -> World:
        """A withheld channel that is closed frees its coins (cln:A2)."""
        if channel.paid:
            raise Broken("a channel with the client's money is closed (K-11)")
        channels = tuple(each for each in world.channels if each != channel)
        return self._coin(world._replace(channels=channels), channel.coin, "free")

    # lightningd, the client, the payer ------------------------------------------------------------------------------

    def _claim(self, world: World, place: int) -> World:
        """The client shows the preimage; lightningd settles upstream by itself."""
        world = self._piece(world, place, world.parts[place]._replace(status="settled"))
        channels = tuple(channel._replace(paid=True) for channel in world.channels)
        return self._note(world._replace(channels=channels), place, True)

    def _note(self, world: World, place: int, settled: bool) -> World:
        return world if world.dead else world._replace(notes=tuple(sorted((*world.notes, (place, settled)))))

    def _plugin_dies(self, world: World) -> World:
        """lightningd lets the held parts go, and no channel has the scid (cln:H12)."""
        parts = tuple(Piece("failed") if piece.status == "held" else piece for piece in world.parts)
        return _dead(world, "plugin")._replace(parts=parts)

    def _power_fails(self, world: World) -> World:
        """What was held, or had not reached the client, comes again (cln:R1)."""
        parts = tuple(Piece("replay") if piece.status in ("held", "going") else piece for piece in world.parts)
        return _dead(world, "power")._replace(parts=parts, online=False)

    def _start(self, world: World) -> World:
        stored = [] if world.final is None else [StoredSession(self.buy, world.final[1], world.final[0], 0)]
        if world.record is not None:
            stored.append(StoredSession(self.buy, world.record, None))
        forgets = self.rules.mutant == "recovery sees no parts"
        start = Start(
            tuple(stored),
            tuple((channel.channel_id, _row(channel)) for channel in world.channels),
            tuple((channel_id, () if forgets else self._rows(world)) for channel_id in _named_channels(world)),
            frozenset((UPSTREAM, place) for place, piece in enumerate(world.parts) if piece.status == "replay"),
            world.dead != "plugin",
            world.online,
            world.expired,
            world.late,
        )
        world = world._replace(dead="", unready=world.dead != "")
        number, orders = self.brain.begin(start)
        if self.rules.mutant == "recovery orders nothing":
            orders = ()
        return self._carry_out(world._replace(brain=number), orders)

    def _rows(self, world: World) -> tuple[Row, ...]:
        """listforwards: every part that ever went towards the client, under the one channel there can be."""
        names = {"going": "offered", "out": "offered", "settled": "settled", "lost": "failed"}
        return tuple(
            Row((UPSTREAM, place), names[piece.status], part.value_msat, part.value_msat - piece.fee_msat)
            for place, (piece, part) in enumerate(zip(world.parts, self.rules.parts, strict=True))
            if piece.status in names
        )

    def _piece(self, world: World, place: int, piece: Piece) -> World:
        return world._replace(parts=_put(world.parts, place, piece))

    def _coin(self, world: World, coin: int, state: str) -> World:
        return world._replace(coins=_put(world.coins, coin, state))

    def _mishap(self, world: World) -> World:
        return world._replace(mishaps=world.mishaps + 1)

    # Rules ------------------------------------------------------------------------------------------------------------

    def _check_forward(self, world: World, channel_id: str, part: order.Forward) -> None:
        """What only a crash would show otherwise: each part's forward stands in the journal before it is made."""
        if self.rules.mutant.startswith("unwritten"):
            return
        paid = world.final is not None or any(isinstance(todo.action, order.Finalize) for todo in world.todo)
        if paid and part.extra_fee_msat == 0:
            return  # an alias of the channel by now
        record = world.record
        if record is None or record.channel is None or record.channel.channel_id != channel_id:
            raise Broken("a part is forwarded into a channel that is not in the journal (rule:2)")
        if part not in record.forwards and not (record.stage == "channel" and record.payment_hash is None):
            raise Broken("a part is forwarded that is not in the journal (rule:2)")

    def check_end(self, world: World) -> None:
        """Nothing more happens by itself: each party has its money, and nothing is left over."""
        assert world.brain is not None
        statuses = [piece.status for piece in world.parts]
        open_ = [status for status in statuses if status not in ("failed", "lost", "settled")]
        _demand(not open_, f"a part is {open_} for ever")
        _demand(not world.todo, f"{[type(todo.action).__name__ for todo in world.todo]} wait for ever")
        _demand(self.brain.mind(world.brain).live == 0, "a payment is under way for ever")
        _demand("ours" not in world.coins, "a coin stays reserved (rule:9)")
        _demand(not any(channel.withheld for channel in world.channels), "a channel stays withheld (rule:9)")
        _demand(len(world.channels) <= 1, "two channels for one scid (rule:2)")
        settled = [piece for piece in world.parts if piece.status == "settled"]
        settled_msat = sum(
            part.value_msat
            for piece, part in zip(world.parts, self.rules.parts, strict=True)
            if piece.status == "settled"
        )
        fee_msat = sum(piece.fee_msat for piece in settled)
        outcome = None if world.final is None else world.final[0]
        if settled and world.given_up:
            _demand(not world.channels, "a channel was funded after the client had given it up (rule:23)")
            _demand(outcome == "Forfeited", f"the client gave its channel up, and the final record says {outcome}")
        elif settled:
            _demand(bool(world.channels), "the client was paid and has no channel on chain (rule:8)")
            _demand(fee_msat <= FEE, "more than the opening fee was taken (rule:4)")
            _demand("lost" in statuses or fee_msat == FEE, "less than the opening fee was taken (rule:4)")
            if fee_msat == FEE:
                _demand(outcome == "Succeeded", "paid, and the final record lacks that")
            elif settled_msat >= SIZE and (fee_msat + len(settled)) * MOST >= FEE * SIZE:  # rule:22: its promises hold
                _demand(outcome == "Underpaid", f"the whole was taken for less than the fee, and the end is {outcome}")
            else:  # rule:20
                _demand(world.record is not None, "paid in part, and no record says so")
                record = world.record or FRESH
                known = (record.stage, record.fee_paid_msat, record.opening_fee_msat)
                _demand(known == ("channel", fee_msat, FEE - fee_msat), f"paid in part, and the record says {known}")
        if world.record is not None:
            _demand(world.record.stage in ("buy", "channel"), f"the record stays at {world.record.stage}")
            _demand(world.final is None, "the active record stays beside the final one (K-15)")


def _demand(holds: bool, text: str) -> None:
    if not holds:
        raise Broken(text)


def _wall(world: World) -> int:
    return VALID_UNTIL_MS if world.expired else WALL_MS


def _sends(todo: Todo, channel_id: str) -> bool:
    return isinstance(todo.action, order.Broadcast) and bool(todo.action.channel.channel_id == channel_id)


def _put(values: tuple[Any, ...], place: int, value: Any) -> tuple[Any, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _with(world: World, action: Any) -> World:
    return world._replace(todo=(*world.todo, Todo(action)))


def _without(world: World, todo: Todo) -> World:
    place = world.todo.index(todo)
    return world._replace(todo=(*world.todo[:place], *world.todo[place + 1 :]))


def _next(world: World, todo: Todo, result: Any = None) -> World:
    place = world.todo.index(todo)
    further = todo._replace(step=todo.step + 1, result=todo.result if result is None else result)
    return world._replace(todo=_put(world.todo, place, further))


def _dead(world: World, who: str) -> World:
    return world._replace(brain=None, dead=who, todo=(), notes=(), unready=True, crashes=world.crashes + 1)


def _named_channels(world: World) -> list[str]:
    """Return the channels whose forwards a start asks for: what is there, and what the record names (cln:F6)."""
    there = [channel.channel_id for channel in world.channels]
    named = None if world.record is None else world.record.channel
    return there if named is None or named.channel_id in there else [*there, named.channel_id]


def _place(world: World, channel_id: str) -> int | None:
    return next((place for place, each in enumerate(world.channels) if each.channel_id == channel_id), None)


@functools.cache
def _row(channel: Chan) -> PeerChannel:
    """As listpeerchannels has it, as far as recovery reads it."""
    return peer_channel(
        channel_id=channel.channel_id,
        peer_id=CLIENT,
        state="CHANNELD_NORMAL" if channel.usable else "CHANNELD_AWAITING_LOCKIN",
        funding_txid="dd" * 32,
        fee_base_msat=0,
        fee_proportional_millionths=0,
        short_channel_id="1x1x1" if channel.confirmed else None,
        funding={"withheld": channel.withheld},
    )
