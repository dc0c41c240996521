"""A fleet in memory: the database as its functions promise it to be, nodes on top, and what may go wrong in between.

`break_next` says what becomes of the next question: "before" it is lost on the way, "after" only its answer is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from harness.negotiator import Datastore, StillClock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.fleet.database import Client, FleetAway, FleetNode, News, Placed
from lsps2fast_plugin.service.fleet.fleet import Fleet
from lsps2fast_plugin.service.fleet.holds import Ask, Granted, Holds
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.rules import Rules
from lsps2fast_plugin.service.policy.shared import Standing

NOW = datetime(2026, 11, 29, tzinfo=UTC)


class Server:
    """The database."""

    def __init__(self) -> None:
        self.holds: dict[str, dict[str, tuple[int, int]]] = {}  # by pot and node: held, used
        self.clients: dict[str, dict[str, Client]] = {}
        self.nodes: dict[str, str] = {}
        self.up = True
        self.questions = 0

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

    def __init__(self, server: Server, node: str) -> None:
        self._server, self._node = server, node
        self.break_next: str | None = None
        self._connected = False

    async def join(self, policy: str) -> None:
        self._connected = False
        if not self._server.up or self._broken() is not None:
            raise FleetAway("away")
        self._connected = True
        self._server.nodes[self._node] = policy

    async def place_buy(self, peer_id: str, buys: int, most_buys: int, asks: list[Ask]) -> Placed:
        def work() -> Placed:
            server = self._server
            others = server.others_of(self._node, peer_id)
            if others.buys + buys > most_buys:
                return Placed(False, Client(peer_id, *others), [])
            row = server.clients.setdefault(peer_id, {}).get(self._node, Client(peer_id, 0, 0, 0, 0, 0, 0))
            server.clients[peer_id][self._node] = Client(**{**_plain(row), "buys": buys})
            return Placed(True, Client(peer_id, *others), [server.take_hold(self._node, ask) for ask in sorted(asks)])

        return self._do(work)

    async def tell_and_hear(
        self, policy: str, asks: list[Ask], watch: list[str], clients: list[Client], since: datetime | None
    ) -> News:
        def work() -> News:
            server = self._server
            server.nodes[self._node] = policy
            for client in clients:
                server.clients.setdefault(client.peer, {})[self._node] = client
            holds = [server.take_hold(self._node, ask) for ask in sorted(asks)]
            heard = [
                Client(peer, *server.others_of(self._node, peer))
                for peer, rows in server.clients.items()
                if rows.keys() - {self._node}
            ]
            nodes = [FleetNode(name, name, "0.2.0", revision, 0) for name, revision in sorted(server.nodes.items())]
            others = {pot: server.sums(self._node, pot) for pot in watch}
            return News(holds, others, heard, nodes, NOW)

        return self._do(work)

    async def leave(self) -> None:
        self._connected = False

    def _broken(self) -> str | None:
        broken, self.break_next = self.break_next, None
        return broken

    def _do(self, work: Any) -> Any:
        self._server.questions += 1
        broken = self._broken()
        if not self._server.up or not self._connected or broken == "before":
            self._connected = False
            raise FleetAway("the fleet's database is away")
        answer = work()
        if broken == "after":
            self._connected = False
            raise FleetAway("the fleet's database did not answer within 2 s")
        return answer


def _plain(client: Client) -> dict[str, Any]:
    return {name: getattr(client, name) for name in client.__struct_fields__}


class FleetMember:
    """One node, with its policy, its datastore and its clock; `restart` keeps only what is journalled."""

    def __init__(self, server: Server, name: str, rules: Rules, buys_per_peer: int = 10) -> None:
        self.name, self._server, self._rules, self._most = name, server, rules, buys_per_peer
        self.datastore = Datastore()
        self.open: dict[str, int] = {}
        self.promised_sat = 0
        self.clock = StillClock()
        self.alarms: list[str] = []
        self.restart()

    def restart(self) -> None:
        """A process of its own; nothing is read yet."""
        self.line = Line(self._server, self.name)
        self.holds = Holds()
        self.policy = Policy(self._rules, pots=self.holds)
        self.notebook = DatastoreRecords(self.datastore)
        self.fleet = Fleet(
            holds=self.holds,
            policy=self.policy,
            notebook=self.notebook,
            clock=self.clock,
            open_count=lambda peer_id: self.open.get(peer_id, 0),
            buys_per_peer=self._most,
            alarm=self.alarms.append,
            largest_promise_sat=lambda: self.promised_sat,
            clients=lambda: {*self.policy.ledger.peers(), *self.open},
        )
        self.fleet._wire = self.line

    async def start(self) -> None:
        """Read the journal, as the service does; then look once."""
        from lsps2fast_plugin.service.policy.tokens import ROOT

        self.policy.uses.load(await self.notebook.read(ROOT))
        await self.fleet.load()
        await self.fleet.look()
