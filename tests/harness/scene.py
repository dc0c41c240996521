"""One machine with one buy, and words for what the node tells it. Time, heights and amounts are numbers a test sets."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from msgspec.structs import replace

from harness.backends import load_compiled, load_pure
from lsps2fast import actions as order
from lsps2fast.table import Input, State

RUNS = {"compiled": load_compiled, "pure": load_pure}

PREIMAGE = b"\x07" * 32
HASH = hashlib.sha256(PREIMAGE).digest()
OTHER_PREIMAGE = b"\x08" * 32
OTHER_HASH = hashlib.sha256(OTHER_PREIMAGE).digest()
SCID, OTHER_SCID = 0x0C3500_000001_0001, 0x0C3500_000002_0001
CLIENT, OTHER_CLIENT = "02" + "11" * 32, "02" + "22" * 32
UPSTREAM, OTHER_UPSTREAM = 700_001, 700_002  # incoming channels

HEIGHT = 800_000
DELTA = 144
CLTV = HEIGHT + 400  # of a part; its guard height is CLTV - 6
SIZE = 1_000_000
FEE = 10_000
WALL_MS = 1_800_000_000_000
VALID_UNTIL_MS = WALL_MS + 3_600_000

FUNDING = order.Funding("psbt", ("aa" * 32 + ":0",), HEIGHT + 72, 100_000)
CHANNEL = order.Channel("cc" * 32, "signed", "dd" * 32)
SECOND_CHANNEL = order.Channel("ce" * 32, "signed too", "de" * 32)
EXISTING = order.ExistingChannel("ee" * 32, 0, 1_000, 10)
LIMITS = order.ChannelLimits(1, 90_000_000, 90_000_000, 144)
U64_MAX = 2**64 - 1

TERMS = order.Terms(
    payment_size_msat=SIZE,
    min_fee_msat=FEE,
    proportional=0,
    min_payment_size_msat=1,
    max_payment_size_msat=U64_MAX,
    max_client_to_self_delay_blocks=2016,
    cltv_expiry_delta_blocks=DELTA,
    valid_until_ms=VALID_UNTIL_MS,
    client_trusts_lsp=True,
)
VARIABLE = {"payment_size_msat": None}
PUBLIC = {"client_trusts_lsp": False}  # the funding is not withheld

Orders = tuple[order.Action, ...]


class Machine(NamedTuple):
    """The modules of one run."""

    name: str
    parts: Any
    fsm: Any
    sessions: Any

    def htlc(
        self,
        scid: int,
        payment_hash: bytes,
        key: tuple[int, int],
        value_msat: int,
        cltv: int,
        *,
        delta: int = DELTA,
        amount_msat: int | None = None,
        outgoing: int | None = None,
        in_channel: str = "",
    ) -> Any:
        """Return one `IncomingHtlc`; its amount and outgoing expiry are what the value and `delta` say unless given."""
        return self.parts.IncomingHtlc(
            jit_scid=scid,
            payment_hash=payment_hash,
            in_scid=key[0],
            htlc_id=key[1],
            amount_msat=value_msat if amount_msat is None else amount_msat,
            amt_to_forward_msat=value_msat,
            cltv_expiry=cltv,
            outgoing_cltv_value=cltv - delta if outgoing is None else outgoing,
            in_channel=in_channel,
        )

    @classmethod
    def load(cls, name: str) -> Machine:
        """`name`: a key of RUNS."""
        return cls(name, *(RUNS[name](module) for module in ("_parts", "_fsm", "_sessions")))


class Scene:
    """A machine whose clock, chain and node are the test's hands."""

    def __init__(self, machine: Machine, *, online: bool = True, limits: dict[str, int] | None = None, **terms: Any):
        """`terms` replace those of TERMS; `limits` are keywords of `Sessions`; sums are not limited but by them."""
        unlimited = {"max_held_msat": U64_MAX, "max_held_msat_per_peer": U64_MAX}
        self.core = machine.sessions.Sessions(**(unlimited | (limits or {})))
        self.machine = machine
        self.terms = replace(TERMS, **terms)
        self.now_ms, self.wall_ms = 5_000, WALL_MS
        self.orders: list[order.Action] = []
        self.count = self.served = 0
        self.core.block(HEIGHT)
        self.buy = self.core.add_buy(SCID, CLIENT, self.terms)
        self.session: Any = None
        if online:
            self.core.peer(CLIENT, True)

    # Facts ---------------------------------------------------------------------------------------

    def part(
        self,
        value_msat: int = SIZE,
        *,
        payment_hash: bytes = HASH,
        scid: int = SCID,
        cltv: int = CLTV,
        in_scid: int = UPSTREAM,
        htlc_id: int | None = None,
        amount_msat: int | None = None,
        outgoing: int | None = None,
        in_channel: str = "",
    ) -> Orders:
        """A part comes in; its htlc id is the next one unless given."""
        if htlc_id is None:
            htlc_id, self.count = self.count, self.count + 1
        facts: dict[str, Any] = {"amount_msat": amount_msat, "outgoing": outgoing, "in_channel": in_channel}
        htlc = self.machine.htlc(scid, payment_hash, (in_scid, htlc_id), value_msat, cltv, **facts)
        actions = self.core.part(htlc, self.now_ms, self.wall_ms)
        buy = self.core.buys.get(scid)
        if buy is not None and scid == SCID and payment_hash == HASH:
            self.session = buy.sets.get(HASH, self.session)
        return self.note(actions)

    def tell(self, kind: Input, fact: Any = None, *, payment_hash: bytes = HASH, scid: int = SCID) -> Orders:
        """The result of an order."""
        return self.note(self.core.handle(scid, payment_hash, kind, fact))

    def resolved(
        self, htlc_id: int, preimage: bytes | None = None, *, payment_hash: bytes = HASH, in_scid: int = UPSTREAM
    ) -> Orders:
        """What became of a forwarded part: paid with its preimage, or lost."""
        return self.note(self.core.resolved((in_scid, htlc_id), payment_hash, preimage))

    def block(self, height: int) -> Orders:
        """A block."""
        return self.note(self.core.block(height))

    def wait(self, ms: int) -> Orders:
        """Both clocks go on."""
        self.now_ms += ms
        self.wall_ms += ms
        return self.note(self.core.tick(self.now_ms, self.wall_ms))

    def peer(self, online: bool) -> Orders:
        """The client comes or goes."""
        return self.note(self.core.peer(CLIENT, online, self.wall_ms))

    def shutdown(self) -> Orders:
        """The plugin is about to end."""
        return self.note(self.core.shutdown())

    def note(self, actions: Orders) -> Orders:
        """Keep what was ordered."""
        self.orders += actions
        return actions

    # Roads ---------------------------------------------------------------------------------------

    def walk(self, words: str) -> Orders:
        """Live through these words (names of WORDS), one after the other; the orders of the last one."""
        actions: Orders = ()
        for word in words.split():
            actions = WORDS[word](self)
        return actions

    def forward(self, *values_msat: int, limits: order.ChannelLimits = LIMITS) -> order.ForwardParts:
        """From these parts to their forwarding, along the road of this trust mode."""
        for value in values_msat or (SIZE,):
            self.part(value)
        self.walk("reserved stored funded" if self.terms.client_trusts_lsp else "reserved stored funded stored sent")
        self.tell(Input.READY, limits)
        (forwards,) = self.tell(Input.STORED)
        assert isinstance(forwards, order.ForwardParts)
        return forwards

    def serve(self, limits: order.ChannelLimits = LIMITS, most: int = 1_000) -> None:
        """Let everything succeed that is ordered, in order, until nothing more is; parts that went out stay out.

        At `most` so many orders are answered.
        """
        answers: dict[type, tuple[Input, Any]] = {
            order.ReserveCoins: (Input.COINS_CHOSEN, FUNDING),
            order.Persist: (Input.STORED, None),
            order.PrepareChannel: (Input.READY, limits),
            order.OpenChannel: (Input.FUNDED, order.Opened(CHANNEL)),
            order.AwaitReady: (Input.READY, limits),
            order.Broadcast: (Input.FUNDING_BROADCAST, None),
            order.Undo: (Input.UNDONE, None),
        }
        while self.served < len(self.orders) and most:
            action: Any = self.orders[self.served]
            self.served += 1
            if type(action) in answers:
                most -= 1
                self.tell(*answers[type(action)], payment_hash=action.payment_hash, scid=action.jit_scid)

    def of(self, kind: type[order.Action]) -> list[Any]:
        """Every order of this kind so far."""
        return [action for action in self.orders if isinstance(action, kind)]

    @property
    def state(self) -> State:
        """Of the session of HASH on SCID, also after it has ended."""
        return State(self.session.state)


WORDS: dict[str, Any] = {
    "half": lambda s: s.part(SIZE // 2),
    "part": lambda s: s.part(),
    "late": lambda s: s.part(50_000),
    "other": lambda s: s.part(SIZE // 2, payment_hash=OTHER_HASH),
    "away": lambda s: s.peer(False),
    "online": lambda s: s.peer(True),
    "due": lambda s: s.wait(90_000),
    "expired": lambda s: s.wait(3_600_000),
    "deadline": lambda s: s.block(CLTV - 6),
    "old": lambda s: s.block(FUNDING.reserved_to_block - 12),
    "reserved": lambda s: s.tell(Input.COINS_CHOSEN, FUNDING),
    "stored": lambda s: s.tell(Input.STORED),
    "unstored": lambda s: s.tell(Input.STORE_FAILED),
    "funded": lambda s: s.tell(Input.FUNDED, order.Opened(CHANNEL)),
    "known": lambda s: s.tell(Input.FUNDED, order.Opened(CHANNEL, LIMITS)),
    "misfunded": lambda s: s.tell(Input.FUNDED, order.Opened(CHANNEL, replace(LIMITS, to_self_delay_blocks=9999))),
    "refused": lambda s: s.tell(Input.OPEN_FAILED, False),
    "existing": lambda s: s.tell(Input.CHANNEL_FOUND, EXISTING),
    "room": lambda s: s.tell(Input.READY, LIMITS),
    "no_room": lambda s: s.tell(Input.READY, replace(LIMITS, spendable_msat=1_000)),
    "rejected": lambda s: s.tell(Input.OPEN_FAILED, True),
    "ready": lambda s: s.tell(Input.READY, LIMITS),
    "picky": lambda s: s.tell(Input.READY, replace(LIMITS, htlc_minimum_msat=1_000)),
    "slow": lambda s: s.tell(Input.READY, replace(LIMITS, to_self_delay_blocks=9999)),
    "unready": lambda s: s.tell(Input.READY_TIMEOUT),
    "sent": lambda s: s.tell(Input.FUNDING_BROADCAST),
    "settled": lambda s: s.resolved(0, PREIMAGE),
    "settled2": lambda s: s.resolved(1, PREIMAGE),
    "lost": lambda s: s.resolved(0),
    "lost2": lambda s: s.resolved(1),
    "closed": lambda s: s.tell(Input.CLOSED),
    "vanished": lambda s: s.tell(Input.CLOSED, True),
    "money": lambda s: s.note(s.core.money_seen(CHANNEL.channel_id)),
    "sister": lambda s: s.tell(Input.SISTER_GONE),
    "undone": lambda s: s.tell(Input.UNDONE),
    "kept": lambda s: s.tell(Input.FUNDING_BROADCAST, CHANNEL),
    "shutdown": lambda s: s.shutdown(),
}


def failed(keys: list[int], failure: str = order.TEMPORARY, in_scid: int = UPSTREAM) -> order.FailParts:
    """The order to fail these HTLC ids."""
    return order.FailParts(tuple((in_scid, key) for key in keys), failure)


def kinds(actions: Orders) -> list[str]:
    """The names of these orders."""
    return [type(action).__name__ for action in actions]


def both_modes() -> list[dict[str, Any]]:
    """Terms of the two trust modes."""
    return [{}, PUBLIC]
