"""Several nodes share quotas and budgets, whatever the database does in between."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from harness.fleet_model import FleetMember, Server
from harness.policy import ALICE, BOB, rules, token
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lsps2fast.errors import PeerError
from lsps2fast_plugin.service.fleet.fleet import MOST_TOLD, revision_of
from lsps2fast_plugin.service.policy.rules import Token, TrustRule
from lsps2fast_plugin.service.policy.shared import CAPITAL, TOKEN, WITHHELD, Place, Standing
from lsps2fast_plugin.service.sales_ledger import outbox, schema

SPRING = token("spring", max_uses=40)
POT = f"{TOKEN}{SPRING.hash.hex()}"
BUDGETS = TrustRule(capital_budget_sat=100_000, mining_budget_sat=10_000)
RULES = rules(tokens=(SPRING,), trust=BUDGETS)


def place(peer_id: str = ALICE, held: Token | None = None, capacity_msat: int = 0) -> Place:
    return Place(peer_id, held, capacity_msat, 0)


async def member(server: Server, name: str, **options: int) -> FleetMember:
    node = FleetMember(server, name, RULES, **options)
    await node.start()
    return node


async def buy(node: FleetMember, peer_id: str = ALICE, held: Token | None = None, capacity_msat: int = 0) -> str:
    """Sell as the negotiation does. "sold", or the code."""
    try:
        async with node.fleet.place(place(peer_id, held, capacity_msat)):
            await node.sell(peer_id, held)
    except PeerError as error:
        return str(error.code)
    return "sold"


async def test_a_quota_is_sold_once_by_all_together() -> None:
    """rule:18: forty uses, three nodes, a hundred who want one: forty are sold, wherever they are asked for."""
    server = Server()
    nodes = [await member(server, name, buys_per_peer=1000) for name in ("a", "b", "c")]
    sold = 0
    for _ in range(20):
        answers = [await buy(node, held=SPRING) for node in nodes for _ in range(5)]
        sold += answers.count("sold")
        for node in nodes:
            await node.fleet.look()
    assert sold == 40
    assert [await buy(node, held=SPRING) for node in nodes] == ["201"] * 3
    assert nodes[0].policy.refusals.as_dict()["token_used_up"] > 0


async def test_a_buy_costs_one_question() -> None:
    """P16: and a look without news one more, whatever lies in the journal."""
    server = Server()
    node = await member(server, "a")
    before = server.questions
    assert await buy(node, held=SPRING, capacity_msat=5_000_000) == "sold"
    assert server.questions == before + 1


async def test_a_node_that_is_cut_off_sells_its_share_and_says_so() -> None:
    """What it holds is its own; the rest of the quota is for the others. One alarm, not one a look."""
    server = Server()
    one, two = await member(server, "a", buys_per_peer=1000), await member(server, "b", buys_per_peer=1000)
    for node in (one, two):
        await node.fleet.look()
    server.up = False
    answers = [await buy(one, held=SPRING) for _ in range(20)]
    for _ in range(3):
        await one.fleet.look()
    sold = answers.count("sold")
    assert 0 < sold == one.holds.limit(POT, 40)
    assert set(answers[sold:]) == {"-32603"}  # it may have some again: not 201, which ends the offer
    assert len(one.alarms) == 1
    assert "this node sells alone, from its share" in one.alarms[0]
    server.up = True
    await two.fleet.look()
    more = 0
    for _ in range(60):
        more += await buy(two, held=SPRING) == "sold"
    await one.fleet.look()
    await two.fleet.look()
    for _ in range(60):
        more += await buy(two, held=SPRING) == "sold"
    assert sold + more == 40


async def test_a_database_that_is_away_at_the_start() -> None:
    """What was held when it ended is in the journal, and is sold from."""
    server = Server()
    node = await member(server, "a", buys_per_peer=1000)
    await node.fleet.look()
    held = node.holds.held(POT)
    assert held > 0
    server.up = False
    node.restart()
    await node.start()
    assert node.holds.held(POT) == held
    assert await buy(node, held=SPRING) == "sold"


async def test_a_node_that_knows_nothing_sells_nothing_shared() -> None:
    """Started for the first time with the database away: no token, no budget, no wrong sale."""
    server = Server()
    server.up = False
    node = await member(server, "a")
    assert await buy(node, held=SPRING) == "-32603"
    assert node.policy.budgets.withheld_room_msat() == 0
    assert node.policy.budgets.on_trust_room_msat() == 0


async def test_a_budget_is_one_for_all() -> None:
    """rule:18: 100,000 sat at risk in all; what one node holds the other has not."""
    server = Server()
    one, two = await member(server, "a"), await member(server, "b")
    for node in (one, two, one, two):
        await node.fleet.look()
    most_msat = BUDGETS.most_on_trust_msat
    assert one.holds.limit(CAPITAL, most_msat) + two.holds.limit(CAPITAL, most_msat) <= most_msat
    one.policy.ledger.reserved(ALICE, 1, 60_000_000, True, 0, one.clock.wall_ms())
    assert one.policy.budgets.on_trust_room_msat() < 60_000_000
    assert await buy(two, BOB, capacity_msat=30_000_000) == "sold"
    await one.fleet.look()
    await two.fleet.look()
    assert two.holds.reach(CAPITAL, most_msat) <= 40_000_000
    assert two.holds.limit(WITHHELD, most_msat) > 30_000_000


async def test_what_was_sold_can_be_opened_without_asking() -> None:
    """rule:19: the largest channel that a node has sold stays in its part until it is made, however many nodes come."""
    server = Server()
    one = await member(server, "a")
    assert await buy(one, capacity_msat=80_000_000) == "sold"
    one.promised_sat = 80_000
    for name in "bcdef":
        await member(server, name)
        await one.fleet.look()
    server.up = False
    await one.fleet.look()
    assert one.policy.budgets.on_trust_room_msat() >= 80_000_000
    server.up, one.promised_sat = True, 0
    for _ in range(3):
        await one.fleet.look()
    assert one.policy.budgets.on_trust_room_msat() < 80_000_000


async def test_a_clients_places_and_deeds_are_known_everywhere() -> None:
    """B-14, rule:22: ten buys in all; left unpaid at one node, in the safe mode at the other."""
    server = Server()
    one, two = await member(server, "a"), await member(server, "b")
    assert [await buy(one) for _ in range(7)] == ["sold"] * 7
    assert [await buy(two) for _ in range(5)] == ["sold"] * 3 + ["-32603"] * 2
    for _ in range(3):
        one.policy.ledger.blame(ALICE, 1, "unpaid", one.clock.wall_ms())
    one.fleet.touched(ALICE)
    await one.fleet.look()
    await two.fleet.look()
    assert two.policy.ledger.why_not_trusted(ALICE, two.clock.wall_ms()) == "3 channels of this peer went unpaid"
    assert two.policy.ledger.why_not_trusted(BOB, two.clock.wall_ms()) is None


async def test_what_ended_makes_room_elsewhere() -> None:
    """B-14: an unused buy that ended counts nowhere any more."""
    server = Server()
    one, two = await member(server, "a"), await member(server, "b")
    assert [await buy(one) for _ in range(10)] == ["sold"] * 10
    assert await buy(two) == "-32603"
    one.open[ALICE] = 0
    one.fleet.touched(ALICE)
    await one.fleet.look()
    assert await buy(two) == "sold"


async def test_strangers_are_not_trusted_while_the_database_is_away() -> None:
    """rule:22: what a client did elsewhere cannot be known; one that was asked about lately is as before."""
    server = Server()
    one = await member(server, "a")
    assert await buy(one, ALICE) == "sold"
    server.up = False
    await one.fleet.look()
    assert one.policy.ledger.why_not_trusted(ALICE, one.clock.wall_ms()) is None
    assert "database is away" in str(one.policy.ledger.why_not_trusted(BOB, one.clock.wall_ms()))
    server.up = True
    await one.fleet.look()
    assert one.policy.ledger.why_not_trusted(BOB, one.clock.wall_ms()) is None


async def test_alone_a_strangers_places_are_a_share() -> None:
    """B-14: of ten places two nodes may give five each, so that cut off they give no more than ten."""
    server = Server()
    one, two = await member(server, "a"), await member(server, "b")
    await one.fleet.look()
    server.up = False
    answers = [await buy(node) for node in (one, two) for _ in range(10)]
    assert answers.count("sold") == 10


async def test_alone_from_the_start_a_strangers_places_are_a_share_too() -> None:
    """B-14: the journal says how many nodes there were; a restart while the database is away gives no one more."""
    server = Server()
    one, two = await member(server, "a"), await member(server, "b")
    await one.fleet.look()
    server.up = False
    for node in (one, two):
        node.restart()
        await node.start()
    answers = [await buy(node) for node in (one, two) for _ in range(10)]
    assert answers.count("sold") == 10


async def test_alone_what_a_known_client_has_left_is_shared() -> None:
    """B-14: of ten places it has two at each of two nodes; cut off, each gives it half of the six that are left."""
    server = Server()
    one, two = await member(server, "a"), await member(server, "b")
    assert [await buy(node) for node in (one, two) for _ in range(2)] == ["sold"] * 4
    for node in (one, two):
        await node.fleet.look()
    server.up = False
    answers = []
    for _ in range(5):
        answers += [await buy(node) for node in (one, two) for _ in range(3)]
        one.open[ALICE] -= 1  # what ends meanwhile makes room here, and no more than that
        answers += [await buy(one)]
    assert one.open[ALICE] == two.open[ALICE] == 5
    assert answers.count("sold") == 6 + 5
    server.up = True
    for node in (one, two):
        await node.fleet.look()
    assert [await buy(node) for node in (one, two)] == ["-32603"] * 2
    one.open[ALICE] = 0
    one.fleet.touched(ALICE)
    await one.fleet.look()
    await two.fleet.look()
    server.up = False
    assert [await buy(two) for _ in range(4)] == ["sold"] * 2 + ["-32603"] * 2


async def test_alone_a_known_client_that_has_all_places_gets_none() -> None:
    """B-14: and one of whom a place is left gets it, at each of few nodes."""
    server = Server()
    one, two = await member(server, "a"), await member(server, "b")
    assert [await buy(one) for _ in range(9)] == ["sold"] * 9
    assert await buy(two, BOB) == "sold"
    assert [await buy(one, BOB) for _ in range(9)] == ["sold"] * 9
    for node in (one, two):
        await node.fleet.look()
    server.up = False
    assert [await buy(one) for _ in range(2)] == ["sold", "-32603"]
    assert [await buy(node, BOB) for node in (one, two)] == ["-32603"] * 2


async def test_nodes_with_different_policies_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """The fleet has one policy: a node whose file is older is named, once."""
    server = Server()
    one = await member(server, "a")
    two = FleetMember(server, "b", rules(tokens=(SPRING,), trust=BUDGETS._replace(unpaid_limit=9)))
    await two.start()
    for _ in range(3):
        await one.fleet.look()
    told = [record.message for record in caplog.records if "policy of b differs" in record.message]
    assert len(told) == 1
    assert revision_of(RULES) == revision_of(RULES._replace(source="elsewhere"))


async def test_a_node_comes_back_after_a_week(caplog: pytest.LogCaptureFixture) -> None:
    """Holds have no end, so clocks do not matter: what it held is still its own, and no other has sold it meanwhile."""
    server = Server()
    one, two = await member(server, "a", buys_per_peer=1000), await member(server, "b", buys_per_peer=1000)
    await one.fleet.look()
    held = one.holds.held(POT)
    sold = [await buy(two, held=SPRING) for _ in range(60)].count("sold")
    assert sold == 40 - held
    one.clock.pass_ms(7 * 86_400_000)
    one.restart()
    await one.start()
    answers = [await buy(one, held=SPRING) for _ in range(60)]
    for _ in range(3):
        await one.fleet.look()
        answers += [await buy(one, held=SPRING) for _ in range(10)]
    assert answers.count("sold") == held


async def test_clocks_that_are_minutes_apart_do_not_matter() -> None:
    """No time of one node is compared with that of another."""
    server = Server()
    nodes = [await member(server, name, buys_per_peer=1000) for name in ("a", "b")]
    nodes[0].clock.pass_ms(10 * 60_000)
    nodes[1].clock.wall -= 10 * 60_000
    sold = 0
    for _ in range(12):
        sold += [await buy(node, held=SPRING) for node in nodes for _ in range(3)].count("sold")
        for node in nodes:
            await node.fleet.look()
    assert sold == 40


async def test_what_one_fleet_granted_is_nothing_in_another(caplog: pytest.LogCaptureFixture) -> None:
    """rule:18: a node moves to another fleet and back; started while that is away it uses nothing of the other's."""
    first, second = Server("db:5432/first"), Server("db:5432/second")
    one = await member(first, "a", buys_per_peer=1000)
    await one.fleet.look()
    held = one.holds.held(POT)
    assert held > 0
    for server in (second, first):
        server.up = False
        one.restart(server)
        await one.start()
        assert await buy(one, held=SPRING) == "-32603"
        assert one.policy.budgets.on_trust_room_msat() == 0
        server.up = True
        await one.fleet.look()
        await one.fleet.look()
        assert await buy(one, held=SPRING) == "sold"
    assert "it is of the fleet at db:5432/first, not of that at db:5432/second" in caplog.text
    assert one.holds.held(POT) >= held


async def test_a_journal_of_before_names_no_fleet() -> None:
    """An upgrade while the database is away sells on."""
    one = await member(Server(), "a", buys_per_peer=1000)
    await one.fleet.look()
    held = one.holds.held(POT)
    one.line._server.up = False
    (row,) = one.datastore.rows
    record = json.loads(bytes.fromhex(one.datastore.rows[row]))
    del record["fleet"]
    one.datastore.rows[row] = json.dumps(record).encode().hex()
    one.restart()
    await one.start()
    assert one.holds.held(POT) == held > 0


async def test_a_journal_that_cannot_be_written_gives_nothing_away() -> None:
    """rule:2: less is given back only after it stands in the journal, or a restart could use what others have."""
    server = Server()
    one = await member(server, "a", buys_per_peer=1000)
    await one.fleet.look()
    stored = one.holds.held(POT)
    two = await member(server, "b", buys_per_peer=1000)
    await buy(two, held=SPRING)
    one.datastore.broken = True
    one.holds.nodes = 9  # so much less is its share
    await one.fleet.look()
    assert server.holds[POT]["a"][0] == stored
    one.datastore.broken = False
    await one.fleet.look()
    assert server.holds[POT]["a"][0] < stored


async def test_what_could_not_be_journalled_is_journalled_first_at_the_next_look() -> None:
    """rule:2: a disk that was full for a moment; a restart beside a database that is away uses what it holds."""
    server = Server()
    one = await member(server, "a", buys_per_peer=1000)
    await one.fleet.look()
    one.holds.nodes, one.datastore.broken = 9, True
    await one.fleet.look()
    one.datastore.broken = False
    await one.fleet.look()
    server.up = False
    one.restart()
    await one.start()
    for pot, rows in server.holds.items():
        assert one.holds.held(pot) <= rows["a"][0], pot


async def test_a_crowd_of_strangers_leaves_nothing_behind_while_the_database_is_away() -> None:
    """rule:24 in kind: node ids cost nothing; what is told later is taken from what there still is."""
    server = Server()
    one = await member(server, "a")
    server.up = False
    await one.fleet.look()
    for number in range(1000):
        peer_id = f"02{number:064x}"
        assert await buy(one, peer_id) == "sold"
        del one.open[peer_id]
    assert len(one.fleet._touched) <= MOST_TOLD
    one.open[ALICE] = 3
    server.up = True
    await one.fleet.look()
    assert server.clients[ALICE]["a"].buys == 3


async def test_what_is_given_back_is_not_used_though_the_answer_is_lost() -> None:
    """K-13: from the moment the database may have heard it, others may use it."""
    server = Server()
    one = await member(server, "a", buys_per_peer=1000)
    await one.fleet.look()
    await buy(one, held=SPRING)
    one.holds.nodes = 9
    one.line.break_next = "after"
    await one.fleet.look()
    assert not one.holds.joined
    assert one.holds.limit(POT, 40) <= server.holds[POT]["a"][0]
    assert one.policy.uses.left(SPRING) == one.holds.limit(POT, 40) - 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("buy", "buy", "buy", "look", "look", "before", "after", "restart", "down", "up", "broken", "mended", "end")
        ),
        st.integers(0, 2),
    ),
    max_size=80,
)


@given(STEPS)
@example([("buy", 0)] * 6 + [("down", 0), ("restart", 0)])  # what was granted last is in the journal at the next look
@settings(max_examples=150, deadline=None)
def test_no_use_is_sold_twice_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """rule:18, rule:2, K-13: answers are lost, processes die, the disk is full, the database comes and goes."""

    async def play() -> None:
        server = Server()
        nodes = [await member(server, name, buys_per_peer=10_000) for name in ("a", "b", "c")]
        for what, number in steps:
            node = nodes[number]
            match what:
                case "buy":
                    await buy(node, held=SPRING)
                case "look":
                    await node.fleet.look()
                case "before" | "after":
                    node.line.break_next = what
                case "restart" if not node.datastore.broken:
                    node.restart()
                    await node.start()
                case "down" | "up":
                    server.up = what == "up"
                case "broken" | "mended":
                    node.datastore.broken = what == "broken"
                case "end":
                    node.lapse()
            used = [each.policy.uses.uses(SPRING) for each in nodes]
            assert sum(used) <= 40
            rows = server.holds.get(POT, {})
            assert sum(held for held, _ in rows.values()) <= 40
            for each, uses in zip(nodes, used, strict=True):
                assert max(uses, each.holds.limit(POT, 40)) <= rows.get(each.name, (0, 0))[0]
        server.up = True
        for each in nodes:
            each.datastore.broken = False
        for _ in range(3):
            for each in nodes:
                await each.fleet.look()
        for _ in range(60):
            await buy(nodes[0], held=SPRING)
            for each in nodes:
                await each.fleet.look()
        assert sum(each.policy.uses.uses(SPRING) for each in nodes) == 40

    asyncio.run(play())


async def test_a_ledger_that_was_copied_from_another_node_is_not_shipped(tmp_path: Path) -> None:
    """A cloned machine got a new hsm_secret: its sales would lie among the other node's. It sells all the same."""
    path = str(tmp_path / "ledger.sqlite3")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        schema.migrate(db)
        outbox.keep(db)
    assert outbox.oldest(path, "the first node") is None
    clone = await member(Server(), "a")
    clone.fleet._ledger_path = path
    for _ in range(3):
        await clone.fleet.ship()
    assert len(clone.alarms) == 1
    assert f"the sales ledger {path} is that of the node the first node, copied here" in clone.alarms[0]
    assert clone.holds.joined
    assert await buy(clone, held=SPRING) == "sold"


async def test_state_tells_an_operator_where_he_is() -> None:
    """operator: `lsps2-fleet` names nodes, pots and why the database is away."""
    server = Server()
    one = await member(server, "a")
    assert await buy(one, held=SPRING) == "sold"
    state = await one.fleet.state()
    assert state["joined"] is True
    assert [pot["pot"] for pot in state["pots"]] == ["capital", "withheld", "mining", "mining-in-all", POT]
    server.up = False
    await one.fleet.look()
    state = await one.fleet.state()
    assert (state["joined"], state["why_away"]) == (False, "the fleet's database is away")
    assert one.policy.ledger.others.of(BOB) == Standing()
