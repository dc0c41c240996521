"""A small world for the machine: a node that answers late, in any order, or not as hoped, and keeps the books.

`Twin` asks both runs the same and insists that they answer alike. `World` carries out the orders in its own simple way
and checks each one when it is given: what must have been written before, which part may still be answered, which
channel may still exist. It knows the rules of the requirements, nothing of the machine's insides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from harness.scene import (
    CHANNEL,
    CLIENT,
    FUNDING,
    HASH,
    HEIGHT,
    OTHER_CLIENT,
    OTHER_HASH,
    OTHER_PREIMAGE,
    PREIMAGE,
    TERMS,
    UPSTREAM,
    WALL_MS,
    Machine,
)
from lsps2fast import actions as order
from lsps2fast.table import TERMINAL, Input, State

PREIMAGES = {HASH: PREIMAGE, OTHER_HASH: OTHER_PREIMAGE}
BUYS = {  # jit scid -> client, terms
    11: (CLIENT, TERMS),
    12: (CLIENT, replace(TERMS, client_trusts_lsp=False)),
    13: (OTHER_CLIENT, replace(TERMS, payment_size_msat=None, proportional=20_000)),
    14: (OTHER_CLIENT, replace(TERMS, payment_size_msat=None, client_trusts_lsp=False)),
}
ANSWERED = (order.ReserveCoins, order.Persist, order.OpenChannel, order.AwaitReady, order.Broadcast, order.Undo)
FRESH = order.SessionRecord("buy", None, 0, 0, None, None, (), None)
FAILURE = re.compile(r"400a|10070000|100[bc][0-9a-f]{16}0000|100d[0-9a-f]{8}0000|100e0000|0015")  # C-19
Key = tuple[int, int]


class Twin:
    """Both runs of the machine, asked the same."""

    def __init__(self) -> None:
        limits = {"max_parts": 5, "max_attempts": 4}
        self.machines = [Machine.load(name) for name in ("compiled", "pure")]
        self.cores = [machine.sessions.Sessions(**limits) for machine in self.machines]

    @property
    def core(self) -> Any:
        """One of the two."""
        return self.cores[0]

    def ask(self, method: str, *args: Any) -> Any:
        """Call this method in both runs; what they return or raise must be the same."""
        if method == "part":
            (*facts, now_ms, wall_ms) = args
            asked = [(machine.htlc(*facts), now_ms, wall_ms) for machine in self.machines]
        else:
            asked = [args, args]
        first, second = (self._ask(core, method, each) for core, each in zip(self.cores, asked, strict=True))
        assert first == second, f"{method}{args}: compiled {first}, interpreted {second}"
        assert self._dump(self.cores[0]) == self._dump(self.cores[1])
        error, value = first
        assert error is None, f"{method}{args} raised {error}: {value}"
        return value

    @staticmethod
    def _ask(core: Any, method: str, args: tuple[Any, ...]) -> tuple[Any, Any]:
        try:
            value = getattr(core, method)(*args)
        except Exception as error:
            return type(error), str(error)
        known = value is None or isinstance(value, (tuple, int))
        return None, value if known else type(value).__name__

    @staticmethod
    def _dump(core: Any) -> Any:
        return (
            core.live, core.height, sorted(core.index), core.next_due(), core.by_hash, core.take_changes(),
            core.refused, core.held_parts, core.held_msat,
            [
                (scid, buy.paid, buy.dead, buy.expired, buy.attempts, buy.floor_msat, buy.channel, buy.closing,
                 buy.closed, buy.owed_msat, buy.fee_paid_msat, buy.held_parts, buy.held_msat,
                 buy.client.held_parts, buy.client.held_msat, buy.client.online, [
                    (key, s.state, s.sum_msat, s.fee_msat, s.fee_paid_msat, s.held, s.in_flight, s.fulfilled, s.step,
                     s.recorded, s.committed, s.sent, s.gone, s.never_sent, s.money_back, s.claimed, s.reused,
                     s.due_ms, s.floor_msat, s.funding, s.channel, s.limits, s.preimage, s is buy.holder,
                     [(p.key, p.status, p.extra_fee_msat, p.amt_to_forward_msat) for p in s.parts])
                    for key, s in buy.sets.items()
                ])
                for scid, buy in core.buys.items()
            ],
        )  # fmt: skip


def _session(action: Any) -> tuple[int, bytes]:
    return action.jit_scid, action.payment_hash


@dataclass
class Htlc:
    """One part as the payer sees it: held, failed, out, lost or paid."""

    scid: int
    payment_hash: bytes
    value_msat: int
    cltv: int
    status: str = "held"
    fee_msat: int = 0
    channel_id: str = ""


@dataclass
class Offer:
    """What the world remembers of one jit scid."""

    record: order.SessionRecord = FRESH  # as the journal has it
    final: bool = False  # paid, the record is final
    gone: bool = False  # forgotten
    run: list[Key] = field(default_factory=list)  # parts forwarded in this payment
    preimage_seen: bool = False  # in this payment
    channels: dict[str, str] = field(
        default_factory=dict
    )  # id -> withheld, ordered (to be sent), sent, forgotten, undone
    owed_msat: int = 0  # of the fee, after the client took parts that carried less
    undoing: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    back: set[str] = field(default_factory=set)  # closed, and the close in a block


class World:
    """The node, the payers, the clients and the books."""

    def __init__(self) -> None:
        self.twin = Twin()
        self.now_ms, self.wall_ms, self.height = 0, WALL_MS, HEIGHT
        self.htlcs: dict[Key, Htlc] = {}
        self.offers = {scid: Offer() for scid in BUYS}
        self.pending: list[Any] = []
        self.online: set[str] = set()
        self.ended: list[Any] = []
        self.serial = 0
        self.tell("block", self.height)
        for scid, (peer_id, terms) in BUYS.items():
            self.twin.ask("add_buy", scid, peer_id, terms)

    # Asking --------------------------------------------------------------------------------------

    def tell(self, method: str, *args: Any) -> None:
        """Feed one fact and carry out what is ordered."""
        sessions = [session for buy in self.twin.core.buys.values() for session in buy.sets.values()]
        self.carry_out(self.twin.ask(method, *args))
        self.ended += [session for session in sessions if State(session.state) in TERMINAL]

    def take(self, action: Any, kind: Input, fact: Any = None) -> None:
        """Feed the result of an order."""
        self.tell("handle", action.jit_scid, action.payment_hash, kind, fact)

    def part(self, scid: int, payment_hash: bytes, value_msat: int, cltv: int) -> None:
        """A new part comes in."""
        self.serial += 1
        key = (UPSTREAM + self.serial % 2, self.serial)
        self.htlcs[key] = Htlc(scid, payment_hash, value_msat, cltv)
        self.deliver(key)

    def deliver(self, key: Key) -> None:
        """lightningd asks about this part, perhaps again."""
        htlc = self.htlcs[key]
        self.tell(
            "part", htlc.scid, htlc.payment_hash, key, htlc.value_msat, htlc.cltv, self.now_ms, self.wall_ms,
        )  # fmt: skip

    # Orders --------------------------------------------------------------------------------------

    def carry_out(self, actions: tuple[Any, ...]) -> None:
        """Check each order at the moment it is given, and do it or leave it to be answered."""
        for action in actions:
            check = getattr(self, f"_on_{type(action).__name__}", None)
            if check is not None:
                check(action)
            if isinstance(action, ANSWERED):
                self.pending.append(action)

    def _on_FailParts(self, action: order.FailParts) -> None:
        assert FAILURE.fullmatch(action.failure), action
        for key in action.parts:
            assert self.htlcs[key].status == "held", f"{key} is answered twice"
            self.htlcs[key].status = "failed"

    def _on_ForwardParts(self, action: order.ForwardParts) -> None:
        offer = self.offers[action.jit_scid]
        for part in action.parts:
            key = (part.in_scid, part.htlc_id)
            htlc = self.htlcs[key]
            assert htlc.status == "held", f"{key} is answered twice"
            assert part.out_msat + part.extra_fee_msat == htlc.value_msat
            assert part.out_msat > 0
            assert (htlc.scid, htlc.payment_hash) == (action.jit_scid, action.payment_hash)
            htlc.status, htlc.fee_msat, htlc.channel_id = "out", part.extra_fee_msat, action.channel_id
            if offer.final:
                assert part.extra_fee_msat == 0, "an alias takes no fee (A-03)"
            else:
                assert part in offer.record.forwards, "not in the journal (rule:2)"
                assert offer.record.channel is not None
                assert offer.record.channel.channel_id == action.channel_id
                offer.run.append(key)
        assert offer.channels[action.channel_id] != "undone"
        assert action.channel_id not in offer.undoing
        if not offer.final:
            self._check_fee(action.jit_scid, offer)
            public = offer.channels[action.channel_id] == "sent"
            assert public or BUYS[action.jit_scid][1].client_trusts_lsp, "O-10"

    def _check_fee(self, scid: int, offer: Offer) -> None:
        """rule:4: never more than the opening fee, and all of it while no part was lost."""
        parts = [self.htlcs[key] for key in offer.run]
        taken = sum(htlc.fee_msat for htlc in parts if htlc.status in ("out", "paid"))
        fee = offer.owed_msat or self.opening_fee(scid, parts[0].value_msat)
        assert taken <= fee, "more than the opening fee (F-05)"
        still_held = any(self.htlcs[part.in_scid, part.htlc_id].status == "held" for part in offer.record.forwards)
        if not still_held and all(htlc.status in ("out", "paid") for htlc in parts):
            assert taken == fee, "less than the opening fee (H-06)"

    @staticmethod
    def opening_fee(scid: int, value_msat: int) -> int:
        """In unbounded integers."""
        terms = BUYS[scid][1]
        size = value_msat if terms.payment_size_msat is None else terms.payment_size_msat
        return max(-(-size * terms.proportional // 1_000_000), terms.min_fee_msat)

    def _on_OpenChannel(self, action: order.OpenChannel) -> None:
        offer = self.offers[action.jit_scid]
        assert (offer.record.stage, offer.record.payment_hash) == ("intent", action.payment_hash), "rule:2"
        named = offer.record.funding  # blocks that came while it was written may have renewed the reservation
        assert named is not None
        assert replace(named, reserved_to_block=action.funding.reserved_to_block) == action.funding
        standing = [name for name, state in offer.channels.items() if state != "undone" and name not in offer.closed]
        assert not standing, "a second channel beside one that stands (rule:2)"
        assert not [a for a in self._pending(action.jit_scid) if isinstance(a, (order.OpenChannel, order.Undo))]

    def _on_Broadcast(self, action: order.Broadcast) -> None:
        offer = self.offers[action.jit_scid]
        assert offer.record.channel == action.channel, "broadcast before it was journalled (rule:2)"
        state = offer.channels[action.channel.channel_id]
        assert offer.preimage_seen or state == "sent" or not BUYS[action.jit_scid][1].client_trusts_lsp, "O-11"
        assert state != "undone", "broadcast of a channel that was undone"
        offer.channels[action.channel.channel_id] = {"withheld": "ordered"}.get(state, state)

    def _on_Undo(self, action: order.Undo) -> None:
        offer = self.offers[action.jit_scid]
        state = None if action.channel is None else offer.channels[action.channel.channel_id]
        assert not offer.preimage_seen or state == "forgotten", "K-11: undone after a preimage"
        if action.channel is not None:
            channel_id = action.channel.channel_id
            assert state in ("withheld", "forgotten"), f"undo of a channel that is {state}"
            out = [htlc for htlc in self.htlcs.values() if htlc.channel_id == channel_id and htlc.status == "out"]
            assert channel_id in offer.closed or not out, "K-11: closed with parts in it"
            offer.undoing.add(channel_id)
        self.pending = [
            a for a in self.pending
            if not (isinstance(a, order.AwaitReady) and _session(a) == _session(action))
        ]  # fmt: skip

    def _on_Finalize(self, action: order.Finalize) -> None:
        offer = self.offers[action.jit_scid]
        paid = [self.htlcs[key] for key in offer.run if self.htlcs[key].status == "paid"]
        whole = action.outcome == "Underpaid" and action.record.stage == "paid"
        if action.outcome == "Succeeded" or whole:
            assert paid, "success without a payment"
            assert set(offer.channels.values()) - {"undone"} == {"sent"}, "rule:8: broadcast is owed"
            fee = offer.owed_msat or self.opening_fee(action.jit_scid, self.htlcs[offer.run[0]].value_msat)
            came = sum(htlc.fee_msat for htlc in paid)
            assert (came < fee) if whole else (came == fee), "rule:20: success without the fee"
            if whole:
                self._check_whole(action.jit_scid, paid, came, fee)
        elif action.outcome == "Forfeited":
            assert offer.preimage_seen
            assert set(offer.channels.values()) <= {"undone", "sent"}, "rule:23: its coins are not back"
        else:
            assert (action.outcome == "Underpaid") >= offer.preimage_seen
        self._over(action.jit_scid, action.record, final=action.outcome == "Succeeded" or whole)

    def _check_whole(self, scid: int, paid: list[Htlc], came: int, fee: int) -> None:
        """rule:22, people:S3: promises hold where all that was bought was taken, and nearly the whole fee came."""
        size = BUYS[scid][1].payment_size_msat
        assert size is not None
        assert sum(htlc.value_msat for htlc in paid) >= size
        most = max(size, min(BUYS[scid][1].max_payment_size_msat, 2 * size))
        assert (came + len(paid)) * most >= fee * size

    def _on_Reset(self, action: order.Reset) -> None:
        offer = self.offers[action.jit_scid]
        assert (action.outcome == "Underpaid") == offer.preimage_seen
        if offer.preimage_seen:
            came = sum(self.htlcs[key].fee_msat for key in offer.run if self.htlcs[key].status == "paid")
            fee = offer.owed_msat or self.opening_fee(action.jit_scid, self.htlcs[offer.run[0]].value_msat)
            assert came < fee, "rule:20: the fee came"
            assert action.record.opening_fee_msat == fee - came
            offer.owed_msat = fee - came
        self._over(action.jit_scid, action.record, final=False)

    def _over(self, scid: int, journal: order.SessionRecord, final: bool) -> None:
        offer = self.offers[scid]
        offer.record, offer.final, offer.run, offer.preimage_seen = journal, final, [], False

    def _on_ForgetBuy(self, action: order.ForgetBuy) -> None:
        offer = self.offers[action.jit_scid]
        assert not offer.gone, "forgotten twice"
        offer.gone = True

    # Answers -------------------------------------------------------------------------------------

    def _pending(self, scid: int) -> list[Any]:
        return [action for action in self.pending if action.jit_scid == scid]

    def answer(self, action: Any, well: bool, limits: order.ChannelLimits, by_client: bool = False) -> None:
        """The node has done this, or could not. `by_client`: its refusal, or it told its limits with the open."""
        self.pending.remove(action)
        offer = self.offers[action.jit_scid]
        match action, well:
            case order.ReserveCoins(), True:
                self.take(action, Input.COINS_CHOSEN, replace(FUNDING, reserved_to_block=self.height + 72))
            case order.ReserveCoins(), False:
                self.take(action, Input.OPEN_FAILED, False)
            case order.Persist(), True:
                offer.record = action.record
                self.take(action, Input.STORED)
            case order.Persist(), False:
                self.take(action, Input.STORE_FAILED)
            case order.OpenChannel(), True:
                self.serial += 1
                channel = replace(CHANNEL, channel_id=f"{self.serial:064x}")
                offer.channels[channel.channel_id] = "withheld"
                self.take(action, Input.FUNDED, order.Opened(channel, limits if by_client else None))
            case order.OpenChannel(), False:
                self.take(action, Input.OPEN_FAILED, by_client)
            case order.AwaitReady(), True:
                self.take(action, Input.READY, limits)
            case order.AwaitReady(), False:
                self.take(action, Input.READY_TIMEOUT)
            case order.Broadcast(), True if self._is_forgotten(offer, action.channel.channel_id):
                offer.channels[action.channel.channel_id] = "forgotten"
                self.take(action, Input.CLOSED, True)
            case order.Broadcast(), True:
                self._sent(offer, action.channel.channel_id)
                self.take(action, Input.FUNDING_BROADCAST)
            case order.Undo(), True:
                for channel_id, state in offer.channels.items():
                    if state in ("withheld", "forgotten"):
                        offer.channels[channel_id] = "undone"
                offer.undoing.clear()
                self.take(action, Input.UNDONE)
            case _:
                self.pending.append(action)  # tried again later: a broadcast, a clean-up

    @staticmethod
    def _is_forgotten(offer: Offer, channel_id: str) -> bool:
        """lightningd deletes a channel that closes before its funding was sent (cln:N2)."""
        return channel_id in offer.closed and offer.channels[channel_id] in ("ordered", "forgotten")

    @staticmethod
    def _sent(offer: Offer, channel_id: str) -> None:
        if offer.channels[channel_id] == "ordered":
            offer.channels[channel_id] = "sent"

    def resolve(self, key: Key, paid: bool) -> None:
        """The client fulfils or fails a part that is out."""
        htlc = self.htlcs[key]
        offer = self.offers[htlc.scid]
        preimage = PREIMAGES[htlc.payment_hash]
        htlc.status = "paid" if paid else "lost"
        if key in offer.run:
            offer.preimage_seen |= paid
        self.tell("resolved", key, htlc.payment_hash, preimage if paid else None)

    def close(self, scid: int, channel_id: str) -> None:
        """lightningd says that a channel is gone."""
        self.offers[scid].closed.add(channel_id)
        self.tell("channel_closed", channel_id)

    def leave(self, in_scid: int) -> None:
        """A payer's channel goes to the chain; nothing that came over it is held any more (rule:19)."""
        keys = self.twin.core.held_over("ff" * 32, (in_scid,))
        assert sorted(keys) == sorted(key for key in self.twin.core.index if key[0] == in_scid and self.knows(key))
        self.tell("drop", keys, "its channel leaves")
        assert self.twin.core.held_over("ff" * 32, (in_scid,)) == []

    # Crash and start -----------------------------------------------------------------------------

    def crash(self, written: bool) -> None:
        """The process dies; what was being written is on disk or not. Then a start, and the facts in any order."""
        for action in self.pending:
            if isinstance(action, order.Persist) and written:
                self.offers[action.jit_scid].record = action.record
        self.pending, self.ended, self.twin = [], [], Twin()
        for offer in self.offers.values():
            offer.undoing.clear()
            offer.channels = {name: {"ordered": "withheld"}.get(state, state) for name, state in offer.channels.items()}
        self.tell("block", self.height)
        for scid, (peer_id, terms) in BUYS.items():
            if not self.offers[scid].gone:
                self.twin.ask("add_buy", scid, peer_id, terms)
                self._revive(scid, self.offers[scid])
        for peer_id in sorted(self.online):
            self.tell("peer", peer_id, True, self.wall_ms)
        self.tell("tick", self.now_ms, self.wall_ms)

    def _revive(self, scid: int, offer: Offer) -> None:
        record = self._as_gone_out(offer.record)
        if offer.final:
            for core in self.twin.cores:
                core.buys[scid].paid, core.buys[scid].channel = True, record.channel
            return
        channel_id = None if record.channel is None else record.channel.channel_id
        sent = channel_id is not None and offer.channels[channel_id] == "sent"
        self.twin.ask("restore", scid, record, sent)
        session = self.twin.core.buys[scid].holder
        if session is not None:
            self._go_on(scid, record, session)
        if channel_id is not None and channel_id in offer.closed:
            self.close(scid, channel_id)
        if channel_id is not None and channel_id in offer.back:
            self.tell("money_back", channel_id)

    def _as_gone_out(self, record: order.SessionRecord) -> order.SessionRecord:
        """Return a record as the start judges it: a channel's names where parts will go (P16), not that they went."""
        keys = [(part.in_scid, part.htlc_id) for part in record.forwards]
        if record.stage == "channel" and all(self.htlcs[key].status in ("held", "failed") for key in keys):
            return replace(record, forwards=())
        return record

    def _go_on(self, scid: int, record: order.SessionRecord, session: Any) -> None:
        if State(session.state) is State.ABORTING:
            self.carry_out((order.Undo(scid, record.payment_hash, record.channel, record.funding),))  # type: ignore[arg-type]
        if State(session.state) is State.BROADCASTING:
            self.carry_out((order.Broadcast(scid, record.payment_hash, record.channel),))  # type: ignore[arg-type]
        for part in record.forwards:
            self._tell_what_became_of((part.in_scid, part.htlc_id))

    def _tell_what_became_of(self, key: Key) -> None:
        for settled in {"paid": [True], "lost": [False], "failed": [False]}.get(self.htlcs[key].status, []):
            self.tell("resolve_from_tables", key, settled)

    def lost_calls(self) -> list[Key]:
        """Held parts that the machine does not know: lightningd asks about them again after its start."""
        return [key for key, htlc in self.htlcs.items() if htlc.status == "held" and not self.knows(key)]

    def knows(self, key: Key) -> bool:
        """Whether the machine holds this part."""
        part = self.twin.core.index.get(key)
        return part is not None and part.status == 0

    # Always true ---------------------------------------------------------------------------------

    def check(self) -> None:
        """What holds between any two facts."""
        for session in self.ended:
            assert State(session.state) in TERMINAL, "terminal stays terminal (C-28)"
        for scid, buy in self.twin.core.buys.items():
            working = [s for s in buy.sets.values() if State(s.state) is not State.COLLECTING]
            assert len(working) <= 1, "two payments hold the lock (C-14)"
            assert all(session is buy.holder for session in working)
            offer = self.offers[scid]
            alive = [name for name, state in offer.channels.items() if state != "undone" and name not in offer.closed]
            assert len(alive) <= 1, "two channels (rule:2)"
            assert len([a for a in self._pending(scid) if isinstance(a, order.OpenChannel)]) <= 1
        for key, part in self.twin.core.index.items():
            assert part.status != 0 or self.htlcs[key].cltv - 6 > self.height, "held within the margin (K-06)"
