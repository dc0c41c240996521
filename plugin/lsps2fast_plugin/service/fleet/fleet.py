"""This node as one of a fleet: tells the others what its clients have and what it uses, and asks before a buy.

Nothing here is on the path of an HTLC. A buy costs one question to the database. When that is away this node sells
alone, from what it holds of each pot; clients it was told nothing of are then served in the safe mode only.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final, Protocol

import msgspec

from lsps2fast.errors import StoreError
from lsps2fast.lsps.lsps0 import try_later
from lsps2fast.lsps.lsps2 import invalid_fee_params
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.fleet.away import Away
from lsps2fast_plugin.service.fleet.database import Client, FleetAway, FleetNode, News, Placed
from lsps2fast_plugin.service.fleet.holds import Ask, Holds, Pot
from lsps2fast_plugin.service.policy.limits import Refusal
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.rules import Rules, Token
from lsps2fast_plugin.service.policy.shared import CAPITAL, MINING, MINING_IN_ALL, TOKEN, WITHHELD, Place
from lsps2fast_plugin.service.sales_ledger import outbox
from lsps2fast_plugin.service.sales_ledger.outbox import Shipment

log = logging.getLogger(__name__)

ROOT: Final = ("lsps", "lsps2", "fleet")
HOLDS: Final = (*ROOT, "holds")
LOOK_EVERY_S, LONGEST_PAUSE_S = 2.0, 16.0
ALL_EVERY_MS: Final = 3_600_000  # what heals with time is told anew this often
MOST_TOLD: Final = 500  # clients in one message
MOST_SHIPPED: Final = 20  # messages about the ledger between two looks
TOO_MANY: Final = "you have too many unused buys; use one, or wait until one ends"
NOT_NOW: Final = "no channel available at this time"


class Wire(Protocol):
    """What is asked of the database: `Database`."""

    @property
    def node(self) -> str:
        """The id of this node."""

    @property
    def fleet(self) -> str:
        """Where the fleet is: server, database and schema."""

    async def join(self, policy: str) -> None:
        """Act for this node from now on. Raises FleetAway."""

    async def place_buy(self, peer_id: str, buys: int, most_buys: int, asks: list[Ask]) -> Placed:
        """Ask for a place for a buy. Raises FleetAway."""

    async def tell_and_hear(
        self,
        policy: str,
        asks: list[Ask],
        watch: list[str],
        clients: list[Client],
        since: datetime | None,
        nodes_since: datetime | None,
    ) -> News:
        """Tell and hear what has changed. Raises FleetAway."""

    async def forget_untold(self) -> bool:
        """Forget clients that were told of before the join and not since; True while there are more."""

    async def list_nodes(self) -> list[FleetNode]:
        """Return all nodes. Raises FleetAway."""

    async def ship(self, shipment: Shipment) -> int:
        """Bring rows of the ledger there, if they follow on; return the last change there before. Raises FleetAway."""

    async def leave(self) -> None:
        """Close the connection."""


def revision_of(rules: Rules) -> str:
    """Return what tells one policy from another: the same for equal rules, wherever they were read from."""
    text = repr([(name, _plain(value)) for name, value in sorted(rules._asdict().items()) if name != "source"])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return sorted((_plain(key), _plain(each)) for key, each in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value


class Fleet:
    """One node's part in it."""

    def __init__(
        self,
        *,
        holds: Holds,
        policy: Policy,
        notebook: DatastoreRecords,
        clock: Clock,
        open_count: Callable[[str], int],
        buys_per_peer: int,
        alarm: Callable[[str], None],
        ledger_path: str | None = None,
        largest_promise_sat: Callable[[], int] = lambda: 0,
        clients: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`open_count(peer_id)`: unused buys of one client here, of `buys_per_peer` it may have at all nodes.

        `ledger_path`: the sales ledger whose rows are shipped. `largest_promise_sat()`: the largest channel that was
        sold here and is not made yet. `clients()`: all of whom there is something to tell.
        """
        self._clients = clients
        self._ledger_path = ledger_path
        self._largest_promise_sat = largest_promise_sat
        self._shipping_failed = False
        self._compared = False  # what was shipped with what is there, since the join
        self.holds = holds
        self._others = others = policy.ledger.others
        self._policy = policy
        self._notebook = notebook
        self._clock = clock
        self._open_count = open_count
        self._most_buys = buys_per_peer
        self._alarm = alarm
        self.away = Away(clock, alarm)
        self._wire: Wire | None = None
        self._turn = asyncio.Lock()  # one question at a time: what is asked for depends on the answer before
        self._placing: dict[str, int] = {}  # buys that are being judged, by client
        self._taking: dict[bytes, int] = {}  # and by the hash of their token
        self._tokens: dict[bytes, None] = {}  # under which something was bought since the last look
        self._waiting: list[bytes] = []  # tokens whose turn to be looked at comes yet
        self._touched: dict[str, None] = {}  # clients of whom something may have changed
        self._again: dict[str, None] | None = None  # those to be told of after a join; None when all were
        self._told: dict[str, Client] = {}  # with something to tell
        self._since: datetime | None = None
        self._nodes_since: datetime | None = None
        self._nodes: dict[str, FleetNode] = {}
        self._all_told_ms = 0
        self._differ: tuple[str, ...] = ()
        others.is_unknown = lambda peer_id: not holds.joined and not others.knows(peer_id)

    # ---- begin and go on

    async def load(self, wire: Wire) -> None:
        """Read what this node held before of the fleet at this wire, which is asked from now on. Raises StoreError."""
        self._wire, self.holds.fleet = wire, wire.fleet
        for key, value in await self._notebook.read(ROOT):
            if key != HOLDS:
                continue
            try:
                self.holds.read(value)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.error(f"journal record {list(key)} is not read ({error}); nothing is held until the fleet says")

    async def run(self) -> None:
        """Look every `LOOK_EVERY_S`, until cancelled."""
        pause_s = LOOK_EVERY_S
        while True:
            await self.look()
            await self.ship()
            pause_s = LOOK_EVERY_S if self.holds.joined else min(2 * pause_s, LONGEST_PAUSE_S)
            await self._clock.turned(pause_s)

    async def close(self) -> None:
        """Tell the database nothing more."""
        if self._wire is not None:
            await self._wire.leave()

    async def look(self) -> None:
        """Join when that is needed, then tell and hear once."""
        wire = self._wire
        if wire is None:
            return
        async with self._turn:
            try:
                if not self.holds.joined:
                    await wire.join(revision_of(self._policy.rules))
                    self._compared = False
                    self._again = dict.fromkeys([*self._told, *self._clients()])
                    self._told.clear()
                    self._since = self._nodes_since = None
                    await self._exchange(wire, asking=False)  # how many there are, before a share is asked for
                await self._exchange(wire)
                if self._again is not None and not self._again and not await wire.forget_untold():
                    self._again = None
            except FleetAway as error:
                self._away(str(error))
            except StoreError as error:
                log.warning(f"what this node holds of the fleet could not be journalled, will be tried again: {error}")

    async def ship(self) -> None:
        """Bring what the sales ledger has gained to the database; the disk is asked on another thread.

        After a join a shipment without rows finds out whether the database has lost some.
        """
        wire, path = self._wire, self._ledger_path
        if wire is None or path is None:
            return
        try:
            for _ in range(MOST_SHIPPED):
                shipment = await asyncio.to_thread(outbox.oldest, path, wire.node, empty=not self._compared)
                if shipment is None or not self.holds.joined:
                    break
                async with self._turn:
                    there = await wire.ship(shipment)
                await asyncio.to_thread(outbox.done, path, shipment, there)
                self._compared = True
                if not shipment.is_full and there >= shipment.shipped:
                    break
            self._shipping_failed = False
        except FleetAway as error:
            self._away(str(error))
        except outbox.OtherNode as error:
            if not self._shipping_failed:
                self._shipping_failed = True
                self._alarm(f"fleet: {error}")
        except sqlite3.Error as error:
            if not self._shipping_failed:
                self._shipping_failed = True
                log.warning(f"the sales ledger cannot be read for the fleet, will be tried again: {error}")

    async def _exchange(self, wire: Wire, *, asking: bool = True) -> None:
        pots = list(self._pots())
        asks = self.holds.balance(pots) if asking else []
        if self.holds.changed:
            await self._write()  # before the database may give it to others
        now_ms = self._clock.now_ms()
        if now_ms - self._all_told_ms >= ALL_EVERY_MS:
            self._all_told_ms = now_ms
            self._touched.update(dict.fromkeys(self._told))
        clients = self._to_tell()
        watch = [pot.name for pot in pots]
        news = await wire.tell_and_hear(
            revision_of(self._policy.rules), asks, watch, clients, self._since, self._nodes_since
        )
        for client in clients:
            self._was_told(client.peer)
            if any(value for name, value in msgspec.structs.asdict(client).items() if name != "peer"):
                self._told[client.peer] = client
            else:
                self._told.pop(client.peer, None)
        for ask, granted in zip(sorted(asks), news.holds, strict=True):
            self.holds.grant(ask, granted)
        for name in watch:
            self.holds.heard(name, *news.others.get(name, (0, 0)))
        for heard in news.clients:
            if self._others.knows(heard.peer) or any(heard.standing):
                self._others.tell(heard.peer, heard.standing)
        self._since = news.heard_until
        self.holds.counted(news.count)
        self._nodes.update((node.node, node) for node in news.nodes)
        self._nodes_since = news.now
        if len(self._nodes) != news.count:  # some were forgotten
            self._nodes, self._nodes_since = {node.node: node for node in news.nodes}, None
        self._joined()
        if self.holds.changed:
            await self._write()

    def _to_tell(self) -> list[Client]:
        clients = []
        for peer_id in dict.fromkeys(islice(chain(self._again or (), self._touched), MOST_TOLD)):
            client = self._client(peer_id)
            if self._told.get(peer_id) == client:
                self._was_told(peer_id)
            else:
                clients.append(client)
        return clients

    def _was_told(self, peer_id: str) -> None:
        self._touched.pop(peer_id, None)
        if self._again is not None:
            self._again.pop(peer_id, None)

    def _client(self, peer_id: str) -> Client:
        ledger, wall_ms = self._policy.ledger, self._clock.wall_ms()
        return Client(
            peer=peer_id,
            buys=self._open_count(peer_id),
            unpaid=ledger.unpaid_here(peer_id, wall_ms),
            probes=ledger.probes_here(peer_id, wall_ms),
            unsettled=ledger.unsettled_here(peer_id, wall_ms),
            under_way=ledger.under_way_here(peer_id),
            unpaid_msat=ledger.stakes.of_peer_msat(peer_id),
        )

    async def _write(self) -> None:
        try:
            await self._notebook.write(HOLDS, self.holds.write)
        except StoreError:
            self.holds.changed = True  # or the next look would tell the database what the journal does not say
            raise

    def touched(self, peer_id: str) -> None:
        """Take note that something of this client may have changed; joining tells of all, so few wait for that."""
        if self.holds.joined or len(self._touched) < MOST_TOLD:
            self._touched[peer_id] = None

    # ---- one buy

    @asynccontextmanager
    async def place(self, wanted: Place) -> AsyncIterator[None]:
        """See `Buying.place`."""
        peer_id, token = wanted.peer_id, wanted.token
        hash_ = None if token is None or token.max_uses is None else token.hash
        self._placing[peer_id] = self._placing.get(peer_id, 0) + 1
        if hash_ is not None:
            self._tokens[hash_] = None
            self._taking[hash_] = self._taking.get(hash_, 0) + 1
        try:
            if not (self.holds.joined and await self._ask(wanted)):
                self._alone(wanted)
            if token is not None and hash_ is not None and self._short_of(token):
                self._policy.refusals.count(Refusal.TOKEN_USED_UP)
                raise invalid_fee_params() if self.holds.joined else try_later(NOT_NOW)
        finally:
            _less(self._placing, peer_id)
            if hash_ is not None:
                _less(self._taking, hash_)
            self.touched(peer_id)  # the database may count one that is refused here
        try:
            yield  # it counts as an open buy and as a use before anything is awaited
        finally:
            self.touched(peer_id)

    async def _ask(self, wanted: Place) -> bool:
        """Ask the database; False when it is away. Raises PeerError."""
        async with self._turn:
            wire = self._wire
            if wire is None or not self.holds.joined:
                return False
            asks = self._asks(wanted)
            buys = self._open_count(wanted.peer_id) + self._placing[wanted.peer_id]
            self._told.pop(wanted.peer_id, None)  # the database has another number from here on
            try:
                placed = await wire.place_buy(wanted.peer_id, buys, self._most_buys, asks)
            except FleetAway as error:
                self._away(str(error))
                return False
            if placed.room:
                for ask, granted in zip(sorted(asks), placed.holds, strict=True):
                    self.holds.grant(ask, granted)
        self._others.tell(wanted.peer_id, placed.others.standing)
        if not placed.room:
            self._policy.refusals.count(Refusal.OFFER_LIMITS)
            raise try_later(TOO_MANY)
        return True

    def _asks(self, wanted: Place) -> list[Ask]:
        more = {
            CAPITAL: wanted.capacity_msat,
            WITHHELD: wanted.capacity_msat,
            MINING: wanted.mining_msat,
            MINING_IN_ALL: wanted.mining_msat,
        }
        pots = [(pot, more[pot.name]) for pot in self._money()]
        if wanted.token is not None and wanted.token.max_uses is not None:
            pots.append((self._token_pot(wanted.token), self._taking[wanted.token.hash]))
        asks = (self.holds.at_least(pot, much) for pot, much in pots)
        return [ask for ask in asks if ask is not None]

    def _alone(self, wanted: Place) -> None:
        """Judge a buy without the others. Raises PeerError."""
        peer_id, here = wanted.peer_id, self._open_count(wanted.peer_id)
        elsewhere = self._others.of(peer_id).buys if self._others.knows(peer_id) else None
        most = self.away.most_buys(peer_id, here, elsewhere, self._most_buys, max(self.holds.nodes, 1))
        if here + self._placing[peer_id] > most:
            self._policy.refusals.count(Refusal.OFFER_LIMITS)
            raise try_later(TOO_MANY)

    def _short_of(self, token: Token) -> bool:
        """Return whether this node holds too few uses for the buys that are being judged."""
        pot = self._token_pot(token)
        return pot.used + self._taking[token.hash] > self.holds.limit(pot.name, pot.most)

    # ---- pots

    def _pots(self) -> Iterator[Pot]:
        """Yield the budgets, the tokens under which something was bought since the last look, and some of the rest."""
        yield from self._money()
        quotas = {hash_: token for hash_, token in self._policy.rules.tokens.items() if token.max_uses is not None}
        if not self._waiting:
            self._waiting = list(quotas)
        due = dict.fromkeys(self._tokens) | dict.fromkeys(self._waiting[:MOST_TOLD])
        self._waiting = self._waiting[MOST_TOLD:]
        self._tokens = dict.fromkeys(self._taking)
        for hash_ in due:
            if hash_ in quotas:
                yield self._token_pot(quotas[hash_])

    def _money(self) -> list[Pot]:
        rule, stakes, wall_ms = self._policy.rules.trust, self._policy.ledger.stakes, self._clock.wall_ms()
        mining_msat, promised_msat = stakes.mining_msat(wall_ms), 1000 * self._largest_promise_sat()
        return [
            Pot(CAPITAL, stakes.msat(on_trust=True), rule.most_on_trust_msat, promised_msat),
            Pot(WITHHELD, stakes.msat(on_trust=False), rule.most_withheld_msat, promised_msat),
            Pot(MINING, mining_msat, rule.most_mining_msat),
            Pot(MINING_IN_ALL, mining_msat, rule.most_mining_in_all_msat),
        ]

    def _token_pot(self, token: Token) -> Pot:
        return Pot(f"{TOKEN}{token.hash.hex()}", self._policy.uses.uses(token), token.max_uses or 0)

    # ---- there, or away

    def _joined(self) -> None:
        if not self.holds.joined:
            self.holds.joined = True
            self.away.back()
            log.info(f"joined the fleet: {self.holds.nodes} nodes share quotas, budgets and what clients did")
        mine = revision_of(self._policy.rules)
        differ = tuple(node.alias or id_ for id_, node in sorted(self._nodes.items()) if node.policy != mine)
        if differ != self._differ:
            self._differ = differ
            if differ:
                log.warning(f"the policy of {', '.join(differ)} differs from this node's; give all nodes the same file")
            else:
                log.info("all nodes of the fleet have one policy")

    def _away(self, why: str) -> None:
        """Sell alone from now on."""
        self.holds.left()
        self.away.gone(why)

    # ---- for the operator

    async def state(self) -> dict[str, Any]:
        """Return what `lsps2-fleet` shows; the nodes as they were last heard of while the database is away."""
        if self._wire is not None and self.holds.joined:
            async with self._turn:
                try:
                    self._nodes = {node.node: node for node in await self._wire.list_nodes()}
                except FleetAway as error:
                    self._away(str(error))
        tokens = [token for token in self._policy.rules.tokens.values() if token.max_uses is not None]
        return {
            "joined": self.holds.joined,
            "why_away": None if self.holds.joined else self.away.why,
            "away_since_ms": self.away.since_ms,
            "policy": revision_of(self._policy.rules),
            "nodes": [
                {
                    "node_id": each.node,
                    "alias": each.alias,
                    "version": each.program,
                    "policy": each.policy,
                    "seen_s": each.seen_s,
                }
                for _, each in sorted(self._nodes.items())
            ],
            "pots": [
                {
                    "pot": pot.name,
                    "limit": pot.most,
                    "used": pot.used,
                    "held": self.holds.held(pot.name),
                    "used_elsewhere": self.holds.others_used(pot.name),
                }
                for pot in [*self._money(), *(self._token_pot(token) for token in tokens)]
            ],
        }


def _less(counts: dict[Any, int], key: Any) -> None:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1
