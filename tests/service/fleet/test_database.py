"""What the fleet's database promises: no pot is used up twice, whichever nodes ask at once, die or come late."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from urllib.parse import unquote

import pytest
from harness.fleet import FleetServer, database

from lsps2fast_plugin.service.fleet import database as fleet_database
from lsps2fast_plugin.service.fleet.database import (
    Client,
    Database,
    FleetAway,
    NotOurs,
    load_driver,
    without_password,
)
from lsps2fast_plugin.service.fleet.holds import Ask, Granted
from lsps2fast_plugin.service.fleet.schema import MIGRATIONS, VERSION
from lsps2fast_plugin.service.policy.shared import Standing
from lsps2fast_plugin.tools import fleet

CLIENT = "02" + "aa" * 32
NOTHING: list[Client] = []
NO_POTS: list[str] = []


async def one_waits(admin: Any, waits: bool = True) -> None:
    """Return once a call waits for what another holds, or none does: PostgreSQL sends no word, so it is asked."""
    for _ in range(1000):
        if waits == bool(await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("no call waits for a lock" if waits else "a call that was given up still waits for a lock")


def schema_of(url: str) -> str:
    return url.rpartition("=")[2]


async def joined(url: str, *names: str) -> list[Database]:
    nodes = [database(url, name) for name in names]
    for node in nodes:
        await node.join("p1")
    return nodes


async def left(*nodes: Database) -> None:
    for node in nodes:
        await node.leave()


async def test_a_pot_is_never_held_twice(url: str) -> None:
    """rule:18: what one node holds no other gets, and what it gives back they do."""
    one, two = await joined(url, "one", "two")
    first = await one.tell_and_hear("p1", [Ask("token:aa", 0, 60, 100)], NO_POTS, NOTHING)
    second = await two.tell_and_hear("p1", [Ask("token:aa", 0, 60, 100)], NO_POTS, NOTHING)
    assert first.holds == [Granted(60, 0, 0)]
    assert second.holds == [Granted(40, 60, 0)]
    assert [node.node for node in second.nodes] == ["one", "two"]
    await one.tell_and_hear("p1", [Ask("token:aa", 10, 10, 100)], NO_POTS, NOTHING)
    assert (await two.tell_and_hear("p1", [Ask("token:aa", 5, 200, 100)], NO_POTS, NOTHING)).holds == [
        Granted(90, 10, 10)
    ]
    await left(one, two)


async def test_what_is_held_stays_when_a_budget_shrinks(url: str) -> None:
    """rule:18: a node that holds more than the new limit keeps what it uses, and gets nothing more."""
    one, two = await joined(url, "one", "two")
    await one.tell_and_hear("p1", [Ask("capital", 50, 80, 100)], NO_POTS, NOTHING)
    assert (await one.tell_and_hear("p1", [Ask("capital", 50, 200, 30)], NO_POTS, NOTHING)).holds[0].held == 80
    assert (await one.tell_and_hear("p1", [Ask("capital", 50, 50, 30)], NO_POTS, NOTHING)).holds[0].held == 50
    assert (await two.tell_and_hear("p1", [Ask("capital", 0, 1, 30)], NO_POTS, NOTHING)).holds[0].held == 0
    await left(one, two)


async def test_many_at_once_take_exactly_what_there_is(door: str) -> None:
    """rule:18: eight nodes, each raising its hold by one as fast as it can."""
    nodes = await joined(door, *(f"n{number}" for number in range(8)))
    held = dict.fromkeys(range(8), 0)

    async def take(number: int) -> None:
        for _ in range(40):
            ask = Ask("token:bb", held[number], held[number] + 1, 100)
            client = f"02{number:064x}"
            held[number] = (await nodes[number].place_buy(client, 1, 1000, [ask])).holds[0].held

    await asyncio.gather(*map(take, range(8)))
    assert sum(held.values()) == 100
    await left(*nodes)


async def test_a_client_who_asks_everywhere_at_once_gets_ten_places(door: str) -> None:
    """B-14: eight nodes, one client with a request at each, again and again."""
    nodes = await joined(door, *(f"n{number}" for number in range(8)))
    sold = dict.fromkeys(range(8), 0)

    async def shop(number: int) -> None:
        for _ in range(10):
            sold[number] += (await nodes[number].place_buy(CLIENT, sold[number] + 1, 10, [])).room

    await asyncio.gather(*map(shop, range(8)))
    assert sum(sold.values()) == 10
    await left(*nodes)


async def test_pots_in_any_order_never_wait_for_each_other(url: str) -> None:
    """A deadlock would end one of them with an error after a second."""
    nodes = await joined(url, *(f"n{number}" for number in range(4)))
    dice = random.Random(4)
    clients = [f"02{number:064x}" for number in range(3)]

    async def work(node: Database) -> None:
        for _ in range(60):
            pots = dice.sample(["capital", "mining", "withheld", "token:cc"], 3)
            asks = [Ask(pot, 0, dice.randrange(50), 100) for pot in pots]
            told = [Client(each, 1, 0, 0, 0, 0, 0) for each in dice.sample(clients, 2)]
            if dice.random() < 0.5:
                await node.place_buy(dice.choice(clients), 1, 1000, asks)
            else:
                await node.tell_and_hear("p1", asks, NO_POTS, told)

    await asyncio.gather(*map(work, nodes))
    await left(*nodes)


async def test_a_client_has_its_places_once(url: str) -> None:
    """B-14: buys at one node count at the other; what ended there makes room here."""
    one, two = await joined(url, "one", "two")
    assert (await one.place_buy(CLIENT, 6, 10, [])).room
    assert not (await two.place_buy(CLIENT, 5, 10, [])).room
    placed = await two.place_buy(CLIENT, 4, 10, [])
    assert placed.room
    assert placed.others.standing == Standing(buys=6)
    await one.tell_and_hear("p1", [], NO_POTS, [Client(CLIENT, 0, 1, 2, 3, 4, 5_000)])
    placed = await two.place_buy(CLIENT, 10, 10, [])
    assert placed.room
    assert placed.others.standing == Standing(0, 1, 2, 3, 4, 5_000)
    await left(one, two)


async def test_what_others_tell_is_heard_once_it_changes(url: str) -> None:
    """rule:22: what a client did at one node is known at the others that have something with it, and at no more."""
    one, two, other = await joined(url, "one", "two", "other")
    told = [Client(CLIENT, 1, 0, 0, 0, 0, 0)]
    since = (await two.tell_and_hear("p1", [], NO_POTS, told)).heard_until
    await one.tell_and_hear("p1", [], NO_POTS, [Client(CLIENT, 0, 1, 0, 0, 0, 7_000)])
    news = await two.tell_and_hear("p1", [], NO_POTS, NOTHING, since)
    assert [(heard.peer, heard.standing) for heard in news.clients] == [(CLIENT, Standing(unpaid=1, unpaid_msat=7_000))]
    assert (await other.tell_and_hear("p1", [], NO_POTS, NOTHING)).clients == []
    await one.place_buy(CLIENT, 3, 10, [])
    news = await two.tell_and_hear("p1", [], NO_POTS, NOTHING, since)
    assert news.clients[-1].standing.buys == 3
    await left(one, two, other)


async def test_a_node_hears_of_others_when_they_change(server: FleetServer, url: str) -> None:
    """Of a thousand nodes a look names those that came, went or have another policy; the rest only counts."""
    one, two = await joined(url, "one", "two")
    news = await one.tell_and_hear("p1", [], NO_POTS, NOTHING)
    assert ([node.node for node in news.nodes], news.count) == (["one", "two"], 2)
    server.value(schema_of(url), "UPDATE node SET changed = changed - interval '1 minute'")
    since = news.now
    news = await one.tell_and_hear("p1", [], NO_POTS, NOTHING, None, since)
    assert (news.nodes, news.count) == ([], 2)
    await two.tell_and_hear("p2", [], NO_POTS, NOTHING)
    news = await one.tell_and_hear("p1", [], NO_POTS, NOTHING, None, since)
    assert [(node.node, node.policy) for node in news.nodes] == [("two", "p2")]
    assert [node.node for node in await one.list_nodes()] == ["one", "two"]
    assert (await asyncio.to_thread(server.command, "forget", schema_of(url), node="two"))[0] == 0
    assert (await one.tell_and_hear("p1", [], NO_POTS, NOTHING, None, since)).count == 1
    await left(one, two)


async def test_what_a_node_does_not_tell_again_is_forgotten(server: FleetServer, url: str) -> None:
    """B-14: a place whose answer was lost with its node is in no journal, so no one would ever say that it is free."""
    one, two = await joined(url, "one", "two")
    await one.place_buy(CLIENT, 9, 10, [])
    await two.tell_and_hear("p1", [], NO_POTS, [Client(CLIENT, 1, 0, 0, 0, 0, 0)])
    assert not (await two.place_buy(CLIENT, 2, 10, [])).room
    since = (await two.tell_and_hear("p1", [], NO_POTS, NOTHING)).heard_until
    await one.join("p1")
    await one.tell_and_hear("p1", [], NO_POTS, [Client("03" + CLIENT[2:], 4, 0, 0, 0, 0, 0)])
    assert not await one.forget_untold()
    assert server.value(schema_of(url), "SELECT sum(buys) FROM client WHERE node = 'one'") == "4"
    assert [heard.standing for heard in (await two.tell_and_hear("p1", [], NO_POTS, NOTHING, since)).clients][-1:] == [
        Standing()
    ]
    assert (await two.place_buy(CLIENT, 2, 10, [])).room
    await left(one, two)


async def test_an_older_schema_is_brought_to_this_one(server: FleetServer, url: str) -> None:
    """A fleet of the first version keeps what its nodes hold and have told; its role needs the new functions, too."""
    schema = schema_of(url)
    admin = await load_driver().connect(server.url)
    await admin.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}; SET search_path = {schema}")
    await admin.execute(MIGRATIONS[0])
    await admin.execute(
        "INSERT INTO about (version, network) VALUES (1, 'regtest');"
        "INSERT INTO node VALUES ('one', 7, 'ONE', '0.1.0', 'p0', now()), ('two', 1, 'TWO', '0.1.0', 'p0', now());"
        "INSERT INTO hold VALUES ('capital', 'one', 60, 20), ('capital', 'two', 30, 0), ('token:aa', 'two', 5, 5);"
        f"INSERT INTO client VALUES ('{CLIENT}', 'one', 2, 1, 0, 0, 0, 5000, now())"
    )
    await admin.close()
    code, said = await asyncio.to_thread(server.command, "init", schema)
    assert (code, "brought from version 1" in said) == (0, True)
    one, two = await joined(url, "one", "two")
    assert (await one.tell_and_hear("p1", [], ["capital"], NOTHING)).others == {"capital": (30, 0)}
    assert (await two.tell_and_hear("p1", [Ask("capital", 0, 90, 100)], NO_POTS, NOTHING)).holds == [
        Granted(40, 60, 20)
    ]
    assert (await two.place_buy(CLIENT, 1, 10, [])).others.standing == Standing(buys=2, unpaid=1, unpaid_msat=5_000)
    assert (await asyncio.to_thread(server.command, "forget", schema, node="one"))[0] == 0
    assert server.value(schema, "SELECT pot, held, used FROM pot ORDER BY pot") == "capital|40|0\ntoken:aa|5|5"
    await left(one, two)


async def test_a_schema_is_brought_up_while_its_nodes_sell(server: FleetServer, url: str) -> None:
    """rule:18: a question that is under way ends first, or what it grants would be in no sum for ever."""
    schema = schema_of(url)
    admin = await load_driver().connect(server.url)
    await admin.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}; SET search_path = {schema}")
    await admin.execute(MIGRATIONS[0])
    await admin.execute("INSERT INTO about VALUES (true, 1, 'regtest'); SELECT join_fleet('one', 'ONE', '0', 'p')")
    asks = "'{token:aa}', '{7}', '{60}', '{100}'"
    await admin.execute(f"BEGIN; SELECT tell_and_hear('one', 1, {asks}, '{{}}', '[]', now())")
    init = asyncio.create_task(asyncio.to_thread(server.command, "init", schema))
    await one_waits(admin)
    await admin.execute("COMMIT")
    await admin.close()
    assert (await init)[0] == 0
    assert server.value(schema, "SELECT pot, held, used FROM pot") == "token:aa|60|7"


async def test_a_schema_of_others_is_left_alone(server: FleetServer, url: str) -> None:
    """Whatever lies in `public` keeps its rights: a fleet's tables want a schema of their own."""
    schema = schema_of(url)
    server.value(schema, f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema} AUTHORIZATION lightning")
    server.value(schema, "SET ROLE lightning; CREATE FUNCTION theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    code, said = await asyncio.to_thread(server.command, "init", schema)
    assert (code, "has other things in it" in said) == (2, True)
    rights = "SELECT proacl IS NULL AND proconfig IS NULL FROM pg_proc WHERE proname = 'theirs' AND pronamespace ="
    assert server.value(schema, f"{rights} '{schema}'::regnamespace") == "t"


async def test_uses_stay_counted_when_the_node_that_sold_them_is_forgotten(server: FleetServer, url: str) -> None:
    """rule:18: a hundred uses are a hundred; budgets are free again. A node that lives after all counts them once."""
    schema = schema_of(url)
    one, two = await joined(url, "one", "two")
    asks = [Ask("capital", 20, 50, 100), Ask("token:aa", 30, 40, 100), Ask("token:bb", 0, 9, 9)]
    await one.tell_and_hear("p1", asks, NO_POTS, NOTHING)
    assert (await asyncio.to_thread(server.command, "forget", schema, node="one"))[0] == 0
    wanted = [Ask("capital", 0, 100, 100), Ask("token:aa", 0, 100, 100), Ask("token:bb", 0, 9, 9)]
    news = await two.tell_and_hear("p1", wanted, NO_POTS, NOTHING)
    assert news.holds == [Granted(100, 0, 0), Granted(70, 30, 30), Granted(9, 0, 0)]
    assert "pot token:aa: 30 used, 100 held by 2 nodes" in (await asyncio.to_thread(server.command, "show", schema))[1]
    await one.join("p1")
    news = await one.tell_and_hear("p1", [Ask("token:aa", 29, 29, 100)], NO_POTS, NOTHING)
    assert news.holds == [Granted(29, 70, 0)]
    assert server.value(schema, "SELECT held, used FROM pot WHERE pot = 'token:aa'") == "99|29"
    assert (await asyncio.to_thread(server.command, "forget", schema, node="two"))[0] == 0
    assert server.value(schema, "SELECT held, used FROM pot WHERE pot = 'capital'") == "0|0"
    await left(one, two)


async def test_an_earlier_process_of_a_node_is_refused(door: str) -> None:
    """cln:N6: two machines act for one node by mistake; the one that came later does."""
    (old,) = await joined(door, "one")
    await old.tell_and_hear("p1", [Ask("capital", 0, 50, 100)], NO_POTS, NOTHING)
    (new,) = await joined(door, "one")
    with pytest.raises(FleetAway, match="another process acts for this node"):
        await old.tell_and_hear("p1", [Ask("capital", 0, 0, 100)], NO_POTS, NOTHING)
    assert (await new.tell_and_hear("p1", [Ask("capital", 0, 50, 100)], NO_POTS, NOTHING)).holds == [Granted(50, 0, 0)]
    await left(old, new)


async def test_a_call_that_is_still_under_way_is_over_before_the_node_goes_on(
    server: FleetServer, door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """K-13: a raise whose answer was given up comes to its end, or never, but not behind the next call's back."""
    one, other = await joined(door, "one", "other")
    admin = await load_driver().connect(server.url)
    await one.tell_and_hear("p1", [Ask("capital", 0, 1, 100)], NO_POTS, NOTHING)
    await admin.execute(f"BEGIN; SELECT 1 FROM {schema_of(door)}.pot WHERE pot = 'capital' FOR UPDATE")
    late = asyncio.create_task(one.tell_and_hear("p1", [Ask("capital", 0, 90, 100)], NO_POTS, NOTHING))
    await one_waits(admin)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    with monkeypatch.context() as impatient:
        impatient.setattr(fleet_database, "PATIENCE_S", 2.0)
        with pytest.raises(FleetAway, match="did not answer"):  # the database still works on it
            await one.join("p1")
    await admin.execute("ROLLBACK")
    await admin.close()
    await one.join("p1")
    news = await one.tell_and_hear("p1", [Ask("capital", 0, 10, 100)], NO_POTS, NOTHING)
    assert news.holds == [Granted(10, 0, 0)]
    news = await other.tell_and_hear("p1", [Ask("capital", 0, 90, 100)], NO_POTS, NOTHING)
    assert news.holds == [Granted(90, 10, 0)]
    await left(one, other)


async def test_a_question_that_was_given_up_ends_in_the_database_too(
    server: FleetServer, door: str, impatient: None
) -> None:
    """rule:14 in kind: while something holds the tables, as a backup does, each try would leave a connection behind."""
    one, other = await joined(door, "one", "other")
    admin, lock = await load_driver().connect(server.url), await load_driver().connect(server.url)
    await lock.execute(f"BEGIN; LOCK TABLE {schema_of(door)}.node")
    late = asyncio.create_task(one.tell_and_hear("p1", [], NO_POTS, NOTHING))
    await one_waits(admin)
    late.cancel()  # as by a network that is cut: no word of it reaches the server
    with pytest.raises(asyncio.CancelledError):
        await late
    await one_waits(admin, False)
    with pytest.raises(FleetAway, match="did not answer within 2 s"):
        await other.place_buy(CLIENT, 1, 10, [])
    await one_waits(admin, False)
    await lock.close()
    await admin.close()
    await left(one, other)


async def test_a_node_may_call_functions_and_nothing_else(server: FleetServer, url: str) -> None:
    """Least rights: the role of a node reads and writes no table."""
    (one,) = await joined(url, "one")
    for sql in ("SELECT * FROM {}.hold", "DELETE FROM {}.node", "SELECT {}.take_hold('one', 'x', 0, 1, 1)"):
        with pytest.raises(Exception, match="permission denied"):
            await one._connection.fetch(sql.format(schema_of(url)))
    await left(one)


@pytest.mark.parametrize(
    ("sql", "words", "kind"),
    [
        ("UPDATE about SET version = 99", f"has version 99, not {VERSION}: upgrade this program", NotOurs),
        ("UPDATE about SET version = 1", "run `lsps2fast fleet init`", NotOurs),
        ("UPDATE about SET network = 'bitcoin'", "is one on bitcoin, this node is on regtest", NotOurs),
        ("DROP SCHEMA {} CASCADE", "run `lsps2fast fleet init URL` once", NotOurs),
    ],
)
async def test_a_database_that_is_not_ours(
    server: FleetServer, url: str, sql: str, words: str, kind: type[FleetAway]
) -> None:
    """Schema newer than ours, older, of another network, none: a sentence that says what to do."""
    server.value(schema_of(url), sql.format(schema_of(url)))
    node = database(url, "one")
    with pytest.raises(kind, match=words):
        await node.join("p1")
    await node.leave()


async def test_a_wrong_password_never_shows(server: FleetServer, url: str) -> None:
    """P-05: the sentence names the server, and neither the right password nor the wrong one."""
    node = database(url.replace(server.password, "open-sesame"), "one")
    with pytest.raises(NotOurs, match=r"refuses user or password; mend lsps2-fleet") as caught:
        await node.join("p1")
    assert "sesame" not in str(caught.value)
    assert server.password not in str(caught.value)


@pytest.mark.parametrize("words", ["secret%20word", "se/cret", "s%40cret"])
def test_a_password_is_hidden_in_what_others_say(words: str) -> None:
    """P-05: also where the driver or the system repeats the URL, or what it made of it."""
    url = f"postgresql://lsp:{words.replace('/', '%2F')}@db/x?password=open-sesame"
    said = without_password(f"cannot connect to {url}: bad {unquote(words)}, open-sesame", url)
    assert "cret" not in said
    assert "sesame" not in said
    assert "postgresql://lsp:…@db/x" in said


async def test_a_server_that_is_read_only(server: FleetServer, url: str) -> None:
    """A replica by mistake: nothing is written, and the sentence says so."""
    server.query("ALTER ROLE lsp SET default_transaction_read_only = on")
    try:
        node = database(url, "one")
        with pytest.raises(FleetAway, match="is read-only: a replica, or set so"):
            await node.join("p1")
    finally:
        server.query("ALTER ROLE lsp RESET default_transaction_read_only")


async def test_a_stricter_isolation_is_refused(server: FleetServer, url: str) -> None:
    """rule:18: with an older snapshot two nodes could hold the same."""
    server.query("ALTER ROLE lsp SET default_transaction_isolation = 'repeatable read'")
    try:
        node = database(url, "one")
        await node.join("p1")
        with pytest.raises(NotOurs, match="default_transaction_isolation"):
            await node.tell_and_hear("p1", [], NO_POTS, NOTHING)
    finally:
        server.query("ALTER ROLE lsp RESET default_transaction_isolation")


async def test_a_database_that_is_slow_is_given_up(server: FleetServer, url: str, impatient: None) -> None:
    """P19: five seconds for an answer are too long for a client that waits; the question ends after two."""
    (one,) = await joined(url, "one")
    server.value(
        schema_of(url),
        "CREATE OR REPLACE FUNCTION enter(p_node text, p_epoch bigint) RETURNS void LANGUAGE sql AS"
        " 'SELECT pg_sleep(5)'",
    )
    began = asyncio.get_running_loop().time()
    with pytest.raises(FleetAway, match="did not answer within 2 s"):
        await one.place_buy(CLIENT, 1, 10, [])
    assert asyncio.get_running_loop().time() - began < 4.5
    await left(one)


async def test_clients_of_whom_there_is_nothing_are_forgotten_after_a_day(server: FleetServer, url: str) -> None:
    """Nothing grows without bound: young ones stay, for the others have to hear of them; the old ones go."""
    (one,) = await joined(url, "one")
    told = [Client(f"02{number:064x}", int(number == 7), 0, 0, 0, 0, 0) for number in range(300)]
    await one.tell_and_hear("p1", [], NO_POTS, told)
    long_ago = "UPDATE client SET told = told - interval '2 days' WHERE "
    server.value(schema_of(url), f"{long_ago} buys > 0 OR peer >= '{told[200].peer}'")
    await one.tell_and_hear("p1", [], NO_POTS, NOTHING)
    assert server.value(schema_of(url), "SELECT count(*) FROM client") == "200"
    assert server.value(schema_of(url), "SELECT sum(buys) FROM client") == "1"
    await left(one)


async def test_a_server_whose_disk_is_full(server: FleetServer, url: str) -> None:
    """The node hears what is wrong in words, and what was held before is held still."""
    (one,) = await joined(url, "one")
    await one.tell_and_hear("p1", [Ask("capital", 0, 50, 100)], NO_POTS, NOTHING)
    full = "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END"
    server.value(
        schema_of(url),
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $x$" + full + "$x$;"
        "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON hold FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with pytest.raises(FleetAway, match=r"is out of disk, memory or connections \(could not extend file"):
        await one.tell_and_hear("p1", [Ask("capital", 0, 60, 100)], NO_POTS, NOTHING)
    server.value(schema_of(url), "DROP TRIGGER full_disk ON hold")
    await one.join("p1")
    news = await one.tell_and_hear("p1", [], NO_POTS, NOTHING)
    assert news.holds == []
    assert server.value(schema_of(url), "SELECT held FROM hold") == "50"
    await left(one)


async def test_two_fleets_in_one_database_share_nothing(url: str, other_url: str) -> None:
    """Each has a schema; their pots and clients are their own."""
    (one,), (two,) = await joined(url, "one"), await joined(other_url, "one")
    for node in (one, two):
        news = await node.tell_and_hear("p1", [Ask("capital", 0, 100, 100)], NO_POTS, NOTHING)
        assert news.holds == [Granted(100, 0, 0)]
        assert (await node.place_buy(CLIENT, 10, 10, [])).room
    await left(one, two)


async def test_a_role_with_too_many_rights_is_no_way_around_the_functions(server: FleetServer, url: str) -> None:
    """rule:18: the administrator's own URL works, and each node still has only its own part."""
    schema = schema_of(url)
    one, two = database(f"{server.url}?schema={schema}", "one"), database(url, "two")
    for node in (one, two):
        await node.join("p1")
    assert (await one.tell_and_hear("p1", [Ask("capital", 0, 90, 100)], NO_POTS, NOTHING)).holds[0].held == 90
    assert (await two.tell_and_hear("p1", [Ask("capital", 0, 90, 100)], NO_POTS, NOTHING)).holds[0].held == 10
    await left(one, two)


@pytest.mark.parametrize("name", ["'; DROP SCHEMA public; --", "$$", 'a"b', "\\", "\u00e9\U0001f4a9", "x" * 1_000_000])
async def test_names_are_only_names(server: FleetServer, url: str, name: str) -> None:
    """rule:16 in kind: whatever an alias or a policy says is data; a megabyte of it, too."""
    node = Database(url, "regtest", "one", name, name)
    await node.join(name)
    news = await node.tell_and_hear(name, [Ask("capital", 0, 1, 1)], NO_POTS, NOTHING)
    assert [(each.alias, each.policy) for each in news.nodes] == [(name, name)]
    await node.leave()


async def test_a_name_with_a_nul_is_refused_by_the_server(url: str) -> None:
    """PostgreSQL's texts have no NUL: the node is away, and says why."""
    node = Database(url, "regtest", "one", "a\0b", "0.2.0")
    with pytest.raises(FleetAway, match="0x00"):
        await node.join("p1")
    await node.leave()


async def test_a_server_that_is_gone(server: FleetServer, url: str) -> None:
    """Away in the middle: an error and no wait; back again: the node joins anew."""
    (one,) = await joined(url, "one")
    server.crash()
    with pytest.raises(FleetAway):
        await one.place_buy(CLIENT, 1, 10, [])
    with pytest.raises(FleetAway):
        await one.join("p1")
    server.start()
    await one.join("p1")
    assert (await one.place_buy(CLIENT, 1, 10, [])).room
    await left(one)


def test_the_command_makes_shows_and_forgets(server: FleetServer, url: str) -> None:
    """`lsps2fast fleet`: making it twice changes nothing, another network is refused, a lost node's hold is freed."""
    schema = schema_of(url)

    async def play() -> None:
        (one,) = await joined(url, "one")
        await one.tell_and_hear("p1", [Ask("capital", 20, 50, 100)], NO_POTS, NOTHING)
        await one.leave()

    asyncio.run(play())
    code, said = server.command("init", schema)
    assert (code, "is as it was" in said) == (0, True)
    code, said = server.command("init", schema, network="bitcoin")
    assert (code, "that of a fleet on regtest" in said) == (2, True)
    code, said = server.command("show", schema)
    assert code == 0
    assert "node one ONE: version 0.2.0, policy p1" in said
    assert "pot capital: 20 used, 50 held by 1 nodes" in said
    assert server.command("forget", schema, node="two")[0] == 2
    assert server.command("forget", schema, node="one")[0] == 0
    assert "pot capital" not in server.command("show", schema)[1]


def test_the_command_says_what_is_wrong(server: FleetServer, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """operator:O10: a backup that holds the tables, and a database without a fleet: a sentence, no traceback."""
    schema = schema_of(url)

    async def play() -> tuple[int, str]:
        admin = await load_driver().connect(server.url)
        await admin.execute(f"BEGIN; LOCK TABLE {schema}.about")
        done = await asyncio.to_thread(server.command, "init", schema)
        await admin.close()
        return done

    with monkeypatch.context() as impatient:
        impatient.setattr(fleet, "PATIENCE_S", 0.5)
        code, said = asyncio.run(play())
    assert (code, "something holds its tables" in said) == (2, True)
    code, said = server.command("show", "nowhere")
    assert (code, "no fleet in the schema nowhere" in said) == (2, True)
