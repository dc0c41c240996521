"""Both runs of the real machine, and the real recovery, as a function from (state, input) to (state, orders).

A state of the machine is what its fields say; each is kept once, with the shortest list of inputs that led there, and
is made anew from that list when an input has not been tried in it before. Recovery is
`lsps2fast_plugin.service.recovery` itself, on a service that only notes what it is told.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

from harness.random_world import Twin
from harness.scene import CLIENT, CLTV, DELTA, HEIGHT, SCID, UPSTREAM, VALID_UNTIL_MS, WALL_MS

from lsps2fast import actions as order
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast.table import TERMINAL, State
from lsps2fast_plugin.cln.models import PeerChannel
from lsps2fast_plugin.service.driver import buy_terms
from lsps2fast_plugin.service.reconcile import Snapshot
from lsps2fast_plugin.service.recovery import Recovery
from lsps2fast_plugin.service.session_record import StoredSession

COLLECT_MS = 90_000
DEADLINE = CLTV - 6
Orders = tuple[Any, ...]
Input = tuple[Any, ...]


class Part(NamedTuple):
    """A part that the payer may send; its HTLC id is its place in the list."""

    payment_hash: bytes
    value_msat: int


class Start(NamedTuple):
    """Everything a start of the plugin depends on."""

    stored: tuple[StoredSession, ...]
    channels: tuple[tuple[str, PeerChannel], ...]  # channel id, its row in listpeerchannels
    rows: tuple[tuple[str, tuple[Any, ...]], ...]  # channel id, its rows in listforwards
    held: frozenset[tuple[int, int]]
    replays: bool
    online: bool
    expired: bool
    late: bool  # the deadline's block has come


class Mind(NamedTuple):
    """What the world may know of a state of the machine."""

    collecting: bool  # a collect time-out is due some time
    live: int  # sessions
    owned: frozenset[str]  # channels that a session or the buy knows


def a_buy(client_trusts_lsp: bool, size_msat: int, fee_msat: int) -> Buy:
    """The one buy of the model."""
    terms = {
        "min_fee_msat": str(fee_msat),
        "proportional": 0,
        "valid_until": "2027-01-15T09:00:00.000Z",
        "min_lifetime": 1000,
        "max_client_to_self_delay": 2016,
        "min_payment_size_msat": "1",
        "max_payment_size_msat": "1000000000",
        "promise": "p",
    }
    params = FeeParams.from_json(terms)
    assert params.valid_until_ms == VALID_UNTIL_MS
    return Buy(SCID, CLIENT, params, size_msat, DELTA, client_trusts_lsp, 0, 100_000)


class Watched(Twin):
    """Both runs; what has ended stays ended in either."""

    def _dump(self, core: Any) -> Any:  # type: ignore[override]
        dump = Twin._dump(core)
        for scid, payment_hash, before, after, *_ in dump[5]:
            assert before is None or before not in TERMINAL, f"{scid} {payment_hash.hex()}: {before} to {after}"
        return dump


class Brain:
    """Every state of the machine that was met."""

    def __init__(self, buy: Buy, parts: tuple[Part, ...]) -> None:
        self.buy = buy
        self.parts = parts
        self._numbers: dict[Any, int] = {}
        self._inputs: list[tuple[Input, ...]] = []
        self._minds: list[Mind] = []
        self._known: dict[tuple[int | None, Input], tuple[int, Orders]] = {}

    def __len__(self) -> int:
        return len(self._inputs)

    def mind(self, number: int) -> Mind:
        """About one state."""
        return self._minds[number]

    def begin(self, start: Start) -> tuple[int, Orders]:
        """The machine after a start of the plugin."""
        return self.step(None, ("start", start))

    def step(self, number: int | None, given: Input) -> tuple[int, Orders]:
        """The state after this input, and the orders. AssertionError when the runs differ or the machine complains."""
        key = (number, given)
        if key not in self._known:
            inputs = () if number is None else self._inputs[number]
            twin = Watched()
            for each in inputs:
                self._ask(twin, each)
            orders = self._ask(twin, given)
            self._known[key] = (self._number(twin.cores[1], (*inputs, given)), orders)
        return self._known[key]

    def _number(self, core: Any, inputs: tuple[Input, ...]) -> int:
        print_ = fingerprint(core)
        if print_ not in self._numbers:
            self._numbers[print_] = len(self._inputs)
            self._inputs.append(inputs)
            self._minds.append(_mind(core))
        return self._numbers[print_]

    def _ask(self, twin: Watched, given: Input) -> Orders:
        kind, *facts = given
        if kind == "start":
            return self._start(twin, facts[0])
        orders: Orders
        if kind == "part":
            place, expired = facts
            part, wall_ms = self.parts[place], VALID_UNTIL_MS if expired else WALL_MS
            orders = twin.ask("part", SCID, part.payment_hash, (UPSTREAM, place), part.value_msat, CLTV, 0, wall_ms)
        else:
            orders = twin.ask(kind, *facts)
        return orders

    def _start(self, twin: Watched, start: Start) -> Orders:
        """As `Service._start` does it, once in each run."""
        twin.ask("block", DEADLINE if start.late else HEIGHT)
        wall_ms = VALID_UNTIL_MS if start.expired else WALL_MS
        if start.online:
            twin.ask("peer", CLIENT, True, wall_ms)
        first, second = (recover(core, start, wall_ms) for core in twin.cores)
        assert first == second, f"recovery: compiled {first}, interpreted {second}"
        assert twin._dump(twin.cores[0]) == twin._dump(twin.cores[1])
        return first


def recover(core: Any, start: Start, wall_ms: int) -> Orders:
    """The orders that the real recovery gives in this situation."""
    orders: list[Any] = []

    def go_live(buy: Buy) -> Any:
        return core.add_buy(buy.jit_scid, buy.peer_id, buy_terms(buy))

    def feed(jit_scid: int, payment_hash: bytes, kind: Any, fact: object) -> None:
        orders.extend(core.handle(jit_scid, payment_hash, kind, fact))

    def spawn(work: Any) -> None:
        work.close()  # it only deletes the record of a buy that lapsed
        orders.append(order.ForgetBuy(SCID, "Timeout"))

    service: Any = SimpleNamespace(
        host=SimpleNamespace(spawn=spawn),
        store=SimpleNamespace(unread=(), unread_names=lambda name: False),
        effects=SimpleNamespace(
            alarm=_unexpected,
            unready=set(),
            of_last_life=set(),
            found_fees=_nothing,
            take_up_fees=_nothing,
            finish=lambda buy, fees: orders.append(order.ForgetBuy(buy.jit_scid, "finish")),
            keep_alias=_nothing,
        ),
        coins=SimpleNamespace(promise=_nothing),
        offers=SimpleNamespace(mark_used=_nothing),
        fee_notes=SimpleNamespace(rates=_nothing),
        exposure=SimpleNamespace(revive=lambda *_, **__: None),
        interest=SimpleNamespace(scids=set()),
        clock=SimpleNamespace(wall_ms=lambda: wall_ms),
        sessions=core,
        shut=SimpleNamespace(withhold=_nothing),
        orders=None,
        driver=SimpleNamespace(
            set_aside=set(),
            go_live=go_live,
            carry_out=orders.extend,
            feed=feed,
        ),
    )
    snapshot = Snapshot(
        channels=dict(start.channels),
        rows={channel_id: list(rows) for channel_id, rows in start.rows},
        held=set(start.held),
        replays=start.replays,
    )
    recovery, stored = Recovery(service), list(start.stored)
    begun = recovery.begun(stored)
    recovery.revive_begun(begun, snapshot)
    list(recovery.revive_offers(stored, begun))
    return tuple(orders)


def _nothing(*_: Any) -> None:
    """Not part of the model."""


def _unexpected(text: str) -> None:
    raise AssertionError(text)


def fingerprint(core: Any) -> Any:
    """All that the interpreted machine knows, but what cannot matter any more."""
    return (
        core.height,
        core._closing,
        core.held_parts,
        frozenset(peer_id for peer_id, client in core._clients.items() if client.online),
        tuple(sorted(core._expiry)),
        tuple((session.payment_hash, session.due_ms) for session in (*core._collecting, *core._complete)),
        tuple((scid, _fields(buy, "client", "holder", "sets"), _sessions(buy)) for scid, buy in core.buys.items()),
    )


def _sessions(buy: Any) -> Any:
    return tuple(
        (
            session is buy.holder,
            _fields(session, "registry", "buy", "parts"),
            tuple(_fields(part, "session") for part in session.parts),
        )
        for session in buy.sets.values()
    )


def _fields(thing: Any, *without: str) -> Any:
    return tuple((name, _plain(value)) for name, value in sorted(vars(thing).items()) if name not in without)


def _plain(value: Any) -> Any:
    return tuple(value.items()) if isinstance(value, dict) else value


def _mind(core: Any) -> Mind:
    sessions = [session for buy in core.buys.values() for session in buy.sets.values()]
    channels = [each.channel for each in (*core.buys.values(), *sessions) if each.channel is not None]
    channels += [channel for buy in core.buys.values() for channel in buy.closing.values()]
    return Mind(
        any(session.state == State.COLLECTING for session in sessions),
        core.live,
        frozenset(channel.channel_id for channel in channels),
    )
