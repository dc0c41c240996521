"""A fleet in memory: the database as its functions promise it to be, nodes on top, and what may go wrong in between.

`break_next` says what becomes of the next question: "before" it is lost on the way, "after" only its answer is, and
"late" it is given up, and comes to its end only when the node joins again, or when `Server.land` is called. A node has
a `Fate`: it may be killed before and after each question's commit in the database, and each of its own.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from harness.negotiator import Datastore, Json, StillClock, no_late_replies
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.fleet.database import Client, FleetAway, FleetNode, News, Placed
from lsps2fast_plugin.service.fleet.fleet import Fleet
from lsps2fast_plugin.service.fleet.holds import Ask, Granted, Holds
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.rules import Rules, Token
from lsps2fast_plugin.service.policy.shared import Standing

NOW = datetime(2026, 11, 29, tzinfo=UTC)


class Killed(BaseException):
    """The process of a node is gone, at this point."""


class Fate:
    """Counts the points at which a node may be killed; `left` to go until it is, None for never."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.points = 0
        self.is_dead = False

    def point(self) -> None:
        """Go on, or die; whatever else the process does at that moment dies with it."""
        self.points += 1
        if self.left is not None:
            self.left -= 1
            self.is_dead = self.is_dead or self.left < 0
        if self.is_dead:
            raise Killed


class Disk(Datastore):
    """A datastore whose node may be killed before and after each commit."""

    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self.fate = fate

    async def call(
        self, method: str, params: Json | None = None, timeout_s: float | None = 60.0, late: Any = None
    ) -> Json:
        if method == "listdatastore":
            return await super().call(method, params, timeout_s)
        self.fate.point()
        answer = await super().call(method, params, timeout_s)
        self.fate.point()
        return answer


class Server:
    """The database."""

    def __init__(self, name: str = "db:5432/fleet") -> None:
        self.name = name
        self.holds: dict[str, dict[str, tuple[int, int]]] = {}  # by pot and node: held, used
        self.clients: dict[str, dict[str, Client]] = {}
        self.nodes: dict[str, str] = {}
        self.epochs: dict[str, int] = {}
        self.told_in: dict[tuple[str, str], int] = {}  # epoch of a row, by client and node
        self.up = True
        self.questions = 0
        self.under_way: dict[str, list[Callable[[], Any]]] = {}  # by node: given up, and not over

    def land(self, node: str) -> None:
        """Bring to its end what this node has given up."""
        for work in self.under_way.pop(node, []):
            work()

    def take_hold(self, node: str, ask: Ask) -> Granted:
        rows = self.holds.setdefault(ask.pot, {})
        others = [row for name, row in rows.items() if name != node]
        others_held, others_used = sum(row[0] for row in others), sum(row[1] for row in others)
        mine = rows.get(node, (0, 0))[0]
        held = max(ask.used, min(ask.want, max(ask.most - others_held, mine)))
        rows[node] = held, ask.used
        return Granted(held, others_held, others_used)

    def sums(self, node: str, pot: str) -> tuple[int, int]:
        rows = [row for name, row in self.holds.get(pot, {}).items() if name != node]
        return sum(row[0] for row in rows), sum(row[1] for row in rows)

    def others_of(self, node: str, peer_id: str) -> Standing:
        rows = [row for name, row in self.clients.get(peer_id, {}).items() if name != node]
        return Standing(*(sum(getattr(row, name) for row in rows) for name in Standing._fields))


class Line:
    """One node's connection to it."""

    def __init__(self, server: Server, node: str, fate: Fate) -> None:
        self._server, self.node, self._fate = server, node, fate
        self.break_next: str | None = None
        self._connected = False

    @property
    def fleet(self) -> str:
        return self._server.name

    async def join(self, policy: str) -> None:
        self._connected = False
        if not self._server.up or self._broken() is not None:
            raise FleetAway("away")
        self._server.land(self.node)  # `join` waits for it
        self._fate.point()
        self._connected = True
        self._server.nodes[self.node] = policy
        self._server.epochs[self.node] = self._server.epochs.get(self.node, 0) + 1

    async def place_buy(self, peer_id: str, buys: int, most_buys: int, asks: list[Ask]) -> Placed:
        def work() -> Placed:
            server = self._server
            others = server.others_of(self.node, peer_id)
            if others.buys + buys > most_buys:
                return Placed(False, Client(peer_id, *others), [])
            row = server.clients.setdefault(peer_id, {}).get(self.node, Client(peer_id, 0, 0, 0, 0, 0, 0))
            server.clients[peer_id][self.node] = Client(**{**_plain(row), "buys": buys})
            server.told_in[peer_id, self.node] = server.epochs[self.node]
            return Placed(True, Client(peer_id, *others), [server.take_hold(self.node, ask) for ask in sorted(asks)])

        return await self._do(work)

    async def tell_and_hear(
        self,
        policy: str,
        asks: list[Ask],
        watch: list[str],
        clients: list[Client],
        since: datetime | None,
        nodes_since: datetime | None,
    ) -> News:
        def work() -> News:
            server = self._server
            server.nodes[self.node] = policy
            for client in clients:
                server.clients.setdefault(client.peer, {})[self.node] = client
                server.told_in[client.peer, self.node] = server.epochs[self.node]
            holds = [server.take_hold(self.node, ask) for ask in sorted(asks)]
            heard = [
                Client(peer, *server.others_of(self.node, peer))
                for peer, rows in server.clients.items()
                if self.node in rows and len(rows) > 1
            ]
            nodes = [FleetNode(name, name, "0.2.0", revision, 0) for name, revision in sorted(server.nodes.items())]
            others = {pot: server.sums(self.node, pot) for pot in watch}
            return News(holds, others, heard, NOW, nodes, len(nodes), NOW)

        return await self._do(work)

    async def forget_untold(self) -> bool:
        def work() -> bool:
            server = self._server
            for peer_id, rows in server.clients.items():
                if self.node in rows and server.told_in[peer_id, self.node] < server.epochs[self.node]:
                    rows[self.node] = Client(peer_id, 0, 0, 0, 0, 0, 0)
            return False

        return bool(await self._do(work))

    async def list_nodes(self) -> list[FleetNode]:
        return [FleetNode(name, name, "0.2.0", policy, 0) for name, policy in sorted(self._server.nodes.items())]

    async def leave(self) -> None:
        self._connected = False

    def _broken(self) -> str | None:
        broken, self.break_next = self.break_next, None
        return broken

    async def _do(self, work: Any) -> Any:
        self._server.questions += 1
        broken = self._broken()
        await asyncio.sleep(0)
        self._fate.point()
        if not self._server.up or not self._connected or broken == "before":
            self._connected = False
            raise FleetAway("the fleet's database is away")
        if broken == "late":
            self._server.under_way.setdefault(self.node, []).append(work)
        else:
            answer = work()
            self._fate.point()
        if broken in ("after", "late"):
            self._connected = False
            raise FleetAway("the fleet's database did not answer within 2 s")
        return answer


def _plain(client: Client) -> dict[str, Any]:
    return {name: getattr(client, name) for name in client.__struct_fields__}


class FleetMember:
    """One node, with its policy, its datastore and its clock; `restart` keeps only what is journalled."""

    def __init__(self, server: Server, name: str, rules: Rules, buys_per_peer: int = 10) -> None:
        self.name, self._server, self._rules, self._most = name, server, rules, buys_per_peer
        self.fate = Fate()
        self.datastore = Disk(self.fate)
        self.open: dict[str, int] = {}  # unused buys by client
        self.token = next(iter(rules.tokens), b"")
        self.sold: dict[int, str] = {}  # buys under that token in its journal, by jit scid
        self.stakes: dict[int, tuple[str, int]] = {}  # channels on trust: client and msat, by jit scid
        self.blamed: list[str] = []
        self._scids = itertools.count(1)
        self.promised_sat = 0
        self.clock = StillClock()
        self.alarms: list[str] = []
        self.restart()

    def restart(self, server: Server | None = None) -> None:
        """A process of its own; what the journal has of clients and channels is read, tokens and holds not yet.

        `server`: another one from now on.
        """
        self._server = server or self._server
        self.fate.left, self.fate.is_dead = None, False
        self.line = Line(self._server, self.name, self.fate)
        self._storing: dict[str, int] = {}
        self.holds = Holds()
        self.policy = Policy(self._rules, pots=self.holds)
        self.notebook = DatastoreRecords(self.datastore, no_late_replies)
        self.fleet = Fleet(
            holds=self.holds,
            policy=self.policy,
            notebook=self.notebook,
            clock=self.clock,
            open_count=lambda peer_id: self.open.get(peer_id, 0) + self._storing.get(peer_id, 0),
            buys_per_peer=self._most,
            alarm=self.alarms.append,
            largest_promise_sat=lambda: self.promised_sat,
            clients=lambda: {*self.policy.ledger.peers(), *self.open},
        )
        self.fleet._wire = self.line
        ledger, wall_ms = self.policy.ledger, self.clock.wall_ms()
        for jit_scid, (peer_id, amount_msat) in self.stakes.items():
            ledger.reserved(peer_id, jit_scid, amount_msat, True, 0, wall_ms)
        for peer_id in self.blamed:
            ledger.blame(peer_id, 0, "unpaid", wall_ms)

    async def sell(self, peer_id: str, token: Token | None) -> None:
        """Store a buy, as the negotiation does: the client's place and the token's use are taken before anything."""
        self._storing[peer_id] = self._storing.get(peer_id, 0) + 1
        if token is not None:
            self.policy.uses.take(token)
        await asyncio.sleep(0)
        self.fate.point()
        self._storing[peer_id] -= 1
        self.open[peer_id] = self.open.get(peer_id, 0) + 1
        if token is not None:
            self.sold[next(self._scids)] = peer_id
        self.fate.point()

    def lapse(self) -> None:
        """The oldest buy under the token ends unused."""
        if self.sold:
            peer_id = self.sold.pop(min(self.sold))
            self.open[peer_id] -= 1
            self.fate.point()
            self.policy.uses.give_back(self.token)
            self.fleet.touched(peer_id)

    def open_channel(self, peer_id: str, amount_msat: int) -> bool:
        """Put so much into a channel on trust, if this node's part of the budget has room."""
        if self.policy.budgets.on_trust_room_msat() < amount_msat:
            return False
        jit_scid = next(self._scids)
        self.policy.ledger.reserved(peer_id, jit_scid, amount_msat, True, 0, self.clock.wall_ms())
        self.fate.point()
        self.stakes[jit_scid] = peer_id, amount_msat
        self.fleet.touched(peer_id)
        return True

    def paid(self) -> None:
        """The oldest channel on trust is paid for."""
        if self.stakes:
            jit_scid = min(self.stakes)
            peer_id, _ = self.stakes.pop(jit_scid)
            self.fate.point()
            self.policy.ledger.paid(peer_id, jit_scid, self.clock.wall_ms())
            self.fleet.touched(peer_id)

    def blame(self, peer_id: str) -> None:
        """A client left a channel unpaid."""
        self.blamed.append(peer_id)
        self.policy.ledger.blame(peer_id, 0, "unpaid", self.clock.wall_ms())
        self.fleet.touched(peer_id)

    async def start(self) -> None:
        """Read the journal, as the service does; then look once."""
        self.policy.uses.load((), {self.token: set(self.sold)})
        assert self.fleet._wire is not None
        await self.fleet.load(self.fleet._wire)
        await self.fleet.look()
