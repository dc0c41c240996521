"""What may be wrong with the database of a fleet that sells: one clear line, sales from a part, then all the rest."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest
from harness.fleet import ROLE, FleetServer
from harness.fleet_histories import POT, QUOTA

from lsps2fast_plugin.service.fleet import database
from lsps2fast_plugin.service.fleet.schema import VERSION

from .members import Member, buy, sell_out

# The fence itself stays: what is given up and comes late is refused.
ENTER = (
    "ALTER FUNCTION enter(text, bigint) RENAME TO enter_really;"
    "CREATE FUNCTION enter(p_node text, p_epoch bigint) RETURNS void LANGUAGE"
)
AS_BEFORE = "DROP FUNCTION enter(text, bigint); ALTER FUNCTION enter_really(text, bigint) RENAME TO enter"
FULL = "BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END"
KICK = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"


class Harm(NamedTuple):
    """What is done to the server, how it is mended, and what the node's one alarm says."""

    harm: str
    mend: str
    words: str


HARMS = {
    "slow": Harm(
        f"{ENTER} sql AS 'SELECT pg_sleep(5); SELECT enter_really(p_node, p_epoch)'",
        AS_BEFORE,
        "did not answer within 2 s",
    ),
    "full": Harm(f"{ENTER} plpgsql AS $x${FULL}$x$", AS_BEFORE, "is out of disk, memory or connections"),
    "read-only": Harm(
        f"ALTER ROLE {ROLE} SET default_transaction_read_only = on; {KICK}",
        f"ALTER ROLE {ROLE} RESET default_transaction_read_only; {KICK}",
        "is read-only: a replica, or set so; name the server that takes writes",
    ),
    "a newer schema": Harm(
        f"UPDATE about SET version = 99; {KICK}",
        f"UPDATE about SET version = {VERSION}; {KICK}",
        f"has version 99, not {VERSION}: upgrade this program",
    ),
    "a wrong password": Harm(
        f"ALTER ROLE {ROLE} PASSWORD 'another'; {KICK}",
        f"ALTER ROLE {ROLE} PASSWORD 'PASSWORD'; {KICK}",
        "refuses user or password; mend lsps2-fleet or the role there",
    ),
    "rights taken away": Harm(
        f"REVOKE USAGE ON SCHEMA SCHEMA FROM {ROLE}; {KICK}",
        f"GRANT USAGE ON SCHEMA SCHEMA TO {ROLE}; {KICK}",
        "lets this role not in; run `lsps2fast fleet init URL --role ROLE` for it",
    ),
}


@pytest.mark.parametrize("what", HARMS)
async def test_a_fleet_that_meets_a_bad_database_sells_on(
    server: FleetServer, url: str, what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rule:18: in the middle of business; the reason is told, sales go on from the part, and no use is lost."""
    schema = url.rpartition("=")[2]
    harm = HARMS[what]
    one, two = Member(url, "one"), Member(url, "two")
    for node in (one, two, one, two):
        await node.start()

    async def do(sql: str) -> None:
        whole = sql.replace("SCHEMA SCHEMA", f"SCHEMA {schema}").replace("'PASSWORD'", f"'{server.password}'")
        await asyncio.to_thread(server.value, schema, whole)

    await do(harm.harm)
    try:
        with monkeypatch.context() as impatient:
            impatient.setattr(database, "PATIENCE_S", 2.0 if what == "slow" else 60.0)
            for _ in range(2):
                await one.fleet.look()
        told = [*one.alarms, *(record.getMessage() for record in caplog.records)]
        assert any(harm.words in line for line in told), told
        assert len(one.alarms) == 1
        assert "this node sells alone, from its share" in one.alarms[0]
        assert server.password not in "".join(told)
        part = one.holds.held(POT)
        assert part > 0
        for number in range(part + 3):
            assert await buy(one, f"02{number:064x}") == (number < part)
    finally:
        await do(harm.mend)
    for node in (one, two, one, two):
        await node.fleet.look()
    assert one.holds.joined
    assert await sell_out(one, two) == QUOTA
    assert len(one.alarms) == 1
    for node in (one, two):
        await node.cut.leave()
