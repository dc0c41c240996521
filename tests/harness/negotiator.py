"""A negotiator with everything around it that a test can set: the node, the clock, the dice, the journal."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from typing import Any

from pyln.client import Plugin

from harness.logs import Log
from lsps2fast.errors import NodeError
from lsps2fast.lsps import lsps0
from lsps2fast.lsps.buys import Buy, BuyRegistry
from lsps2fast.lsps.lsps0 import Request
from lsps2fast.lsps.lsps2 import BUY, GET_INFO
from lsps2fast.lsps.promise import Keyring
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.liquidity import Feerates, Liquidity
from lsps2fast_plugin.service.negotiation import Negotiator
from lsps2fast_plugin.service.options import Settings, add_options, read_settings
from lsps2fast_plugin.service.sales_policy import Desk
from lsps2fast_plugin.service.supply import NodeTerms, Supply

Json = dict[str, Any]
ALICE = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
BOB = "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"
KEY = bytes(range(32))
WALL_MS = 1_900_000_000_000
SIZE_MSAT = 10_000_000
UNKNOWN_COMMAND = -32601


def settings(**options: Any) -> Settings:
    """The service's options; names with underscores, without the floor unless a test wants it."""
    plugin = Plugin(autopatch=False)
    add_options(plugin)
    for name, value in ({"lsps2_fee_floor": 0} | options).items():
        plugin.options[name.replace("_", "-")].value = value
    return read_settings(plugin)


class StillClock(Clock):
    """Stands still; a test sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.wall = 1_000_000, WALL_MS

    def now_ms(self) -> int:
        return self.now

    def wall_ms(self) -> int:
        return self.wall

    def pass_ms(self, ms: int) -> None:
        """Both clocks go on."""
        self.now += ms
        self.wall += ms


def no_late_replies(what: str, work: object) -> None:
    """`insist` of records whose datastore answers at once."""
    raise AssertionError(f"{what}: nothing comes late here")


class Datastore:
    """lightningd's datastore, and nothing else: other methods are unknown, or what a test makes of them."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, ...], str] = {}
        self.calls: list[str] = []
        self.methods: dict[str, Callable[[Json], Any]] = {}
        self.broken = False

    async def call(
        self, method: str, params: Json | None = None, timeout_s: float | None = 60.0, late: Any = None
    ) -> Json:
        """The result, or NodeError."""
        params = params or {}
        self.calls.append(method)
        if method in self.methods:
            answer: Json = self.methods[method](params)
            return answer
        if method not in ("datastore", "listdatastore", "deldatastore"):
            raise NodeError(method, UNKNOWN_COMMAND, "Unknown command")
        if self.broken:
            raise NodeError(method, -1, "disk full")
        key = tuple(params["key"])
        if method == "listdatastore":
            found = [k for k in sorted(self.rows) if k[: len(key)] == key and len(k) <= len(key) + 1]
            return {"datastore": [{"key": list(k), "hex": self.rows[k]} for k in found]}
        if method == "deldatastore":
            if self.rows.pop(key, None) is None:
                raise NodeError(method, 1200, "Key does not exist")
            return {"key": list(key)}
        self.rows[key] = params["hex"]
        return {"key": list(key)}

    @property
    def commits(self) -> int:
        """Writes so far."""
        return self.calls.count("datastore") + self.calls.count("deldatastore")


class Shop:
    """A negotiator at work. What it knows of the node and of payments are fields of this."""

    def __init__(self, *, datastore: Datastore | None = None, key: bytes = KEY, seed: int = 1, **options: Any) -> None:
        self.settings = settings(**options)
        self.datastore = datastore or Datastore()
        self.clock = StillClock()
        self.log = Log()
        self.notebook = DatastoreRecords(self.datastore, no_late_replies)
        self.desk = Desk(self.settings, self.datastore, self.notebook, self.clock)
        self.offers = BuyRegistry(self.settings.limits)
        self.sold: list[Buy] = []
        self.purse_now = Liquidity(10**12, 10**8, Feerates(253, 253))
        self.aliases: set[int] = set()
        self.offline: set[str] = set()
        self.committed = 0
        self.store_error: Exception | None = None
        self.before_purse: Callable[[], None] = lambda: None
        self.rng = random.Random(seed)
        self._ids = itertools.count(1)
        self.negotiator = Negotiator(
            supply=Supply(self, self, self.desk, self.settings.max_parts, self.settings.max_overpay_ppm),
            scid_taken=self.scid_taken,
            offers=self.offers,
            promises=Keyring(key),
            desk=self.desk,
            terms=NodeTerms(144),
            clock=self.clock,
            random64=lambda: self.rng.getrandbits(64),
            accept=self.accept,
        )

    # the node and what is under way

    async def purse(self) -> Liquidity:
        """What the node has."""
        self.before_purse()
        return self.purse_now

    async def recent(self) -> Liquidity:
        """What it had a moment ago."""
        return self.purse_now

    def scid_taken(self, scid: int) -> bool:
        """Whether a channel has this name."""
        return scid in self.aliases

    def is_online(self, peer_id: str) -> bool:
        """All peers are connected but those that are away."""
        return peer_id not in self.offline

    def committed_sat(self) -> int:
        """Promised to openings."""
        return self.committed

    async def accept(self, buy: Buy) -> None:
        """The journal."""
        if self.store_error is not None:
            self.desk.unused(buy)
            raise self.store_error
        self.sold.append(buy)

    # a client

    async def send(self, peer_id: str, payload: bytes) -> bytes | None:
        """One message and its answer."""
        verdict = self.negotiator.admit(peer_id, payload)
        if isinstance(verdict, Request):
            return await self.negotiator.work(peer_id, verdict)
        return verdict

    async def ask(self, peer_id: str, method: str, params: Any = None) -> Json:
        """The whole answer to a request."""
        request_id = f"q{next(self._ids)}"
        reply = await self.send(peer_id, lsps0.encode_request(request_id, method, {} if params is None else params))
        assert reply is not None, f"silence for {method}"
        answer: Json = json.loads(reply)
        assert answer["id"] == request_id
        return answer

    async def menu(self, peer_id: str = ALICE, token: str | None = None) -> list[Json]:
        """The menu this peer gets."""
        answer = await self.ask(peer_id, GET_INFO, {} if token is None else {"token": token})
        menu: list[Json] = answer["result"]["opening_fee_params_menu"]
        return menu

    async def buy(self, offer: Json, size_msat: int | None = SIZE_MSAT, peer_id: str = ALICE) -> Json:
        """The whole answer to a buy of this offer."""
        size = {} if size_msat is None else {"payment_size_msat": str(size_msat)}
        return await self.ask(peer_id, BUY, {"opening_fee_params": offer} | size)

    async def code(self, offer: Json, size_msat: int | None = SIZE_MSAT, peer_id: str = ALICE) -> int | None:
        """The error code of a buy, None when it is sold."""
        answer = await self.buy(offer, size_msat, peer_id)
        code: int | None = answer.get("error", {}).get("code")
        return code

    def counted(self) -> dict[str, int]:
        """Refusals that were counted."""
        return {name: count for name, count in self.desk.refusals.as_dict().items() if count}
