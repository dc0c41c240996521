"""One machine with one buy, and words for what the node tells it. Time, heights and amounts are numbers a test sets."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from backends import load_compiled, load_pure

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
LIMITS = order.Limits(1, 90_000_000, 90_000_000, 144)
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

    @classmethod
    def load(cls, name: str) -> Machine:
        """`name`: a key of RUNS."""
        return cls(name, *(RUNS[name](module) for module in ("_parts", "_fsm", "_sessions")))


class Scene:
    """A machine whose clock, chain and node are the test's hands."""

    def __init__(self, machine: Machine, *, online: bool = True, limits: dict[str, int] | None = None, **terms: Any):
        """`terms` replace those of TERMS; `limits` are the keywords of `Sessions`."""
        self.core = machine.sessions.Sessions(**(limits or {}))
        self.machine = machine
        self.terms = TERMS._replace(**terms)
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
    ) -> Orders:
        """A part comes in; its htlc id is the next one unless given."""
        if htlc_id is None:
            htlc_id, self.count = self.count, self.count + 1
        actions = self.core.part(
            scid,
            payment_hash,
            in_scid,
            htlc_id,
            value_msat if amount_msat is None else amount_msat,
            value_msat,
            cltv,
            cltv - DELTA if outgoing is None else outgoing,
            self.now_ms,
            self.wall_ms,
        )
        buy = self.core.buys.get(scid)
        if buy is not None and scid == SCID and payment_hash == HASH:
            self.session = buy.sets.get(HASH, self.session)
        return self._note(actions)

    def tell(self, kind: Input, fact: Any = None, *, payment_hash: bytes = HASH, scid: int = SCID) -> Orders:
        """The result of an order."""
        return self._note(self.core.take(scid, payment_hash, kind, fact))

    def resolved(
        self, htlc_id: int, preimage: bytes | None = None, *, payment_hash: bytes = HASH, in_scid: int = UPSTREAM
    ) -> Orders:
        """What became of a forwarded part: paid with its preimage, or lost."""
        return self._note(self.core.resolved(in_scid, htlc_id, payment_hash, preimage))

    def block(self, height: int) -> Orders:
        """A block."""
        return self._note(self.core.block(height))

    def wait(self, ms: int) -> Orders:
        """Both clocks go on."""
        self.now_ms += ms
        self.wall_ms += ms
        return self._note(self.core.tick(self.now_ms, self.wall_ms))

    def peer(self, online: bool) -> Orders:
        """The client comes or goes."""
        return self._note(self.core.peer(CLIENT, online, self.wall_ms))

    def shutdown(self) -> Orders:
        """The plugin is about to end."""
        return self._note(self.core.shutdown())

    def _note(self, actions: Orders) -> Orders:
        self.orders += actions
        return actions

    # Roads ---------------------------------------------------------------------------------------

    def walk(self, words: str) -> Orders:
        """Live through these words (names of WORDS), one after the other; the orders of the last one."""
        actions: Orders = ()
        for word in words.split():
            actions = WORDS[word](self)
        return actions

    def forward(self, *values_msat: int, limits: order.Limits = LIMITS) -> order.ForwardParts:
        """From these parts to their forwarding, along the road of this trust mode."""
        for value in values_msat or (SIZE,):
            self.part(value)
        self.walk("reserved stored funded" if self.terms.client_trusts_lsp else "reserved stored funded stored sent")
        self.tell(Input.READY, limits)
        (forwards,) = self.tell(Input.STORED)
        assert isinstance(forwards, order.ForwardParts)
        return forwards

    def serve(self, limits: order.Limits = LIMITS) -> None:
        """Let everything succeed that is ordered, in order, until nothing more is; parts that went out stay out."""
        answers: dict[type, tuple[Input, Any]] = {
            order.ReserveCoins: (Input.RESERVED, FUNDING),
            order.Persist: (Input.STORED, None),
            order.OpenChannel: (Input.FUNDED, CHANNEL),
            order.AwaitReady: (Input.READY, limits),
            order.Broadcast: (Input.SENT, None),
            order.Undo: (Input.UNDONE, None),
        }
        while self.served < len(self.orders):
            action: Any = self.orders[self.served]
            self.served += 1
            if type(action) in answers:
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
    "reserved": lambda s: s.tell(Input.RESERVED, FUNDING),
    "stored": lambda s: s.tell(Input.STORED),
    "unstored": lambda s: s.tell(Input.UNSTORED),
    "funded": lambda s: s.tell(Input.FUNDED, CHANNEL),
    "known": lambda s: s.tell(Input.FUNDED, CHANNEL._replace(limits=LIMITS)),
    "misfunded": lambda s: s.tell(Input.FUNDED, CHANNEL._replace(limits=LIMITS._replace(to_self_delay_blocks=9999))),
    "refused": lambda s: s.tell(Input.REFUSED, False),
    "rejected": lambda s: s.tell(Input.REFUSED, True),
    "ready": lambda s: s.tell(Input.READY, LIMITS),
    "picky": lambda s: s.tell(Input.READY, LIMITS._replace(htlc_minimum_msat=1_000)),
    "slow": lambda s: s.tell(Input.READY, LIMITS._replace(to_self_delay_blocks=9999)),
    "unready": lambda s: s.tell(Input.UNREADY),
    "sent": lambda s: s.tell(Input.SENT),
    "settled": lambda s: s.resolved(0, PREIMAGE),
    "settled2": lambda s: s.resolved(1, PREIMAGE),
    "lost": lambda s: s.resolved(0),
    "lost2": lambda s: s.resolved(1),
    "closed": lambda s: s.tell(Input.CLOSED),
    "undone": lambda s: s.tell(Input.UNDONE),
    "kept": lambda s: s.tell(Input.SENT, CHANNEL),
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
