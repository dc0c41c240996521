"""Random lives of a fleet, and its crash machine: whatever dies at whatever moment, the sums are right.

`cd tests && python -m harness.fleet_histories [--first 1] [--histories 2000]` plays as many from their seeds, then
kills a node at each point of a given life, and says what was seen.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
from collections import Counter

from harness.fleet_model import FleetMember, Killed, Server
from harness.policy import ALICE, BOB, rules, token
from lsps2fast.errors import PeerError
from lsps2fast_plugin.service.policy.rules import TrustRule
from lsps2fast_plugin.service.policy.shared import CAPITAL, TOKEN, Place, Standing

QUOTA = 40
SPRING = token("spring", max_uses=QUOTA)
POT = f"{TOKEN}{SPRING.hash.hex()}"
BUDGETS = TrustRule(capital_budget_sat=100_000, mining_budget_sat=10_000, unpaid_limit=1_000)
RULES = rules(tokens=(SPRING,), trust=BUDGETS)
CAROL = "03" + "c4" * 32
CLIENTS = (ALICE, BOB, CAROL)
PLACES = 30
STEPS = 60
CHANCES = {
    "buy": 10, "crowd": 3, "lapse": 5, "open": 6, "paid": 4, "blame": 2, "look": 10, "before": 2, "after": 2,
    "late": 2, "land": 2, "kill": 3, "kill soon": 4, "away": 2, "back": 3, "full": 1, "mended": 2,
}  # fmt: skip
Step = tuple[str, int, str, int]  # what, at which node, which client, how much


class Life:
    """A fleet, what befell it, and what must be true of it at each moment."""

    def __init__(self, nodes: int) -> None:
        self.server = Server()
        self.nodes = [FleetMember(self.server, f"n{number}", RULES, buys_per_peer=PLACES) for number in range(nodes)]
        self.seen: Counter[str] = Counter()

    async def begin(self) -> None:
        """All have joined and know of each other."""
        for _ in range(2):
            for node in self.nodes:
                await node.start()

    async def buy(self, node: FleetMember, peer_id: str) -> None:
        """One client buys under the token."""
        try:
            async with node.fleet.place(Place(peer_id, SPRING, 0, 0)):
                await node.sell(peer_id, SPRING)
            self.seen["sold"] += 1
        except PeerError:
            self.seen["refused"] += 1

    async def step(self, step: Step) -> None:
        """Something happens; a node that dies of it starts again."""
        what, number, peer_id, much = step
        node = self.nodes[number % len(self.nodes)]
        self.seen[what] += 1
        try:
            await self._step(what, node, peer_id, much)
        except Killed:
            self.seen["killed at a point"] += 1
            await self.restart(node)
        self.check()

    async def _step(self, what: str, node: FleetMember, peer_id: str, much: int) -> None:
        match what:
            case "buy":
                await self.buy(node, peer_id)
            case "crowd":
                found = await asyncio.gather(*(self.buy(node, peer) for peer in CLIENTS), return_exceptions=True)
                for each in found:
                    if isinstance(each, BaseException):
                        raise each
            case "lapse":
                node.lapse()
            case "open":
                self.seen["opened"] += node.open_channel(peer_id, 1_000_000 * (1 + much % 40))
            case "paid":
                node.paid()
            case "blame":
                node.blame(peer_id)
            case "look":
                await node.fleet.look()
            case "before" | "after" | "late":
                node.line.break_next = what
            case "land":
                self.server.land(node.name)
            case "kill":
                raise Killed
            case "kill soon":
                node.fate.left = much % 7
            case "away" | "back":
                self.server.up = what == "back"
            case "full" | "mended":
                node.datastore.broken = what == "full"

    async def restart(self, node: FleetMember) -> None:
        """A process that died starts again, from what it has journalled; its disk has room."""
        node.datastore.broken = False
        node.restart()
        await node.start()

    # What must be true -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Never above quota or budget; what a node may use without asking is its own in the database."""
        assert sum(len(node.sold) for node in self.nodes) <= QUOTA
        most_msat = BUDGETS.most_on_trust_msat
        assert sum(self.at_risk(node) for node in self.nodes) <= most_msat
        for pot, rows in self.server.holds.items():
            if pot in (POT, CAPITAL):
                assert sum(held for held, _ in rows.values()) <= (QUOTA if pot == POT else most_msat), pot
            for node in self.nodes:
                assert node.holds.held(pot) <= rows.get(node.name, (0, 0))[0], (node.name, pot)
        for node in self.nodes:
            assert len(node.sold) <= self.server.holds.get(POT, {}).get(node.name, (0, 0))[0]

    @staticmethod
    def at_risk(node: FleetMember) -> int:
        """What its journal says of channels on trust, in msat."""
        return sum(amount_msat for _, amount_msat in node.stakes.values())

    async def settle(self) -> None:
        """All is well again, and all have looked often enough to know."""
        self.server.up = True
        for node in self.nodes:
            node.datastore.broken, node.fate.left, node.line.break_next = False, None, None
        for _ in range(4):
            for node in self.nodes:
                await node.fleet.look()

    def check_books(self) -> None:
        """Database, journals and what each node knows of the others are equal."""
        for node in self.nodes:
            assert node.holds.joined
            for pot, used in ((POT, len(node.sold)), (CAPITAL, self.at_risk(node))):
                held, told = self.server.holds[pot][node.name]
                assert (told, node.holds.held(pot)) == (used, held), (node.name, pot)
            for peer_id in (peer for peer in CLIENTS if node.name in self.server.clients.get(peer, {})):
                others = [self.standing(each, peer_id) for each in self.nodes if each is not node]
                sums = Standing(*(sum(values) for values in zip(*others, strict=True)))
                assert node.policy.ledger.others.of(peer_id) == sums, (node.name, peer_id)

    @staticmethod
    def standing(node: FleetMember, peer_id: str) -> Standing:
        """What a client has with this node, by its journal."""
        channels = [amount_msat for peer, amount_msat in node.stakes.values() if peer == peer_id]
        buys, unpaid = node.open.get(peer_id, 0), node.blamed.count(peer_id)
        return Standing(buys, unpaid, 0, 0, len(channels), sum(channels))

    async def check_nothing_leaked(self) -> None:
        """Everything that no buy has is found by one node alone; the budget but for the shares of the others."""
        for node in self.nodes[1:]:
            while node.sold:
                node.lapse()
            while node.stakes:
                node.paid()
        await self.settle()
        one = self.nodes[0]
        for number in range(4 * QUOTA):
            await self.buy(one, f"02{number:064x}")
            for node in self.nodes:
                await node.fleet.look()
        assert len(one.sold) == QUOTA
        while one.stakes:
            one.paid()
        await self.settle()
        most_msat, share = BUDGETS.most_on_trust_msat, BUDGETS.most_on_trust_msat // (len(self.nodes) + 1)
        rows = self.server.holds[CAPITAL].values()
        assert sum(used for _, used in rows) == 0
        assert all(held <= share * 4 // 3 for held, _ in rows), rows
        assert one.holds.reach(CAPITAL, most_msat) >= most_msat - (len(self.nodes) - 1) * share * 4 // 3


def dice(seed: int) -> tuple[int, list[Step]]:
    """How many nodes, and what happens to them."""
    chance = random.Random(seed)
    words = chance.choices(list(CHANCES), list(CHANCES.values()), k=STEPS)
    return chance.choice((2, 3)), [
        (what, chance.randrange(3), chance.choice(CLIENTS), chance.randrange(1_000)) for what in words
    ]


async def play(nodes: int, steps: list[Step]) -> Counter[str]:
    """Live through it; what was seen. Raises AssertionError."""
    life = Life(nodes)
    await life.begin()
    for step in steps:
        await life.step(step)
    await life.settle()
    life.check()
    life.check_books()
    await life.check_nothing_leaked()
    return life.seen


def history(seed: int) -> Counter[str]:
    """One random history from its seed."""
    return asyncio.run(play(*dice(seed)))


LIFE: list[Step] = [
    ("buy", 0, ALICE, 0), ("crowd", 1, BOB, 0), ("open", 0, ALICE, 9), ("look", 0, ALICE, 0), ("look", 1, ALICE, 0),
    ("buy", 1, ALICE, 0), ("blame", 0, BOB, 0), ("lapse", 0, ALICE, 0), ("look", 0, ALICE, 0), ("open", 1, CAROL, 30),
    ("before", 1, ALICE, 0), ("buy", 1, CAROL, 0), ("look", 1, ALICE, 0), ("after", 0, ALICE, 0), ("crowd", 0, BOB, 0),
    ("look", 0, ALICE, 0), ("paid", 1, ALICE, 0), ("late", 0, ALICE, 0), ("buy", 0, BOB, 0), ("away", 0, ALICE, 0),
    ("buy", 0, ALICE, 0), ("crowd", 1, ALICE, 0), ("look", 0, ALICE, 0), ("back", 0, ALICE, 0), ("look", 0, ALICE, 0),
    ("look", 1, ALICE, 0), ("crowd", 0, ALICE, 0), ("lapse", 1, ALICE, 0), ("look", 1, ALICE, 0), ("look", 0, ALICE, 0),
]  # fmt: skip


async def _killed_at(number: int, point: int | None) -> int:
    """Live through `LIFE`, with a node killed at a point of it; how many points there were."""
    life = Life(2)
    await life.begin()
    node = life.nodes[number]
    node.fate.points, node.fate.left = 0, point
    for step in LIFE:
        await life.step(step)
    points, was_killed = node.fate.points, bool(life.seen["killed at a point"])
    assert was_killed == (point is not None)
    await life.settle()
    life.check()
    life.check_books()
    await life.check_nothing_leaked()
    return points


def crash_machine() -> int:
    """Kill each node before and after each commit of its own and of the database; how many points were tried."""
    tried = 0
    for number in range(2):
        points = asyncio.run(_killed_at(number, None))
        for point in range(points):
            asyncio.run(_killed_at(number, point))
        tried += points
    return tried


def main() -> int:
    """Play and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--histories", type=int, default=2_000)
    args = parser.parse_args()
    seen: Counter[str] = Counter()
    logging.disable()
    for seed in range(args.first, args.first + args.histories):
        try:
            seen += history(seed)
        except AssertionError:
            sys.stdout.write(f"the history of seed {seed} breaks a promise\n")
            raise
    points = crash_machine()
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(seen.items()))
    last = args.first + args.histories - 1
    sys.stdout.write(
        f"fleet: {args.histories:,} random histories (seeds {args.first} to {last}), all sums right: {counts}\n"
    )
    sys.stdout.write(f"fleet: a node killed at each of {points} points of a life, all sums right\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
