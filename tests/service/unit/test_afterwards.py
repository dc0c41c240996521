"""After the sale: the promised life of a channel, asked about at every `close`, and records that go when they may."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from harness.logs import Log
from harness.negotiator import ALICE, BOB, WALL_MS, Json, StillClock
from harness.rows import CHANNEL as CHANNEL_ROW

from lsps2fast.actions import Channel, SessionRecord
from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps.buys import Buy
from lsps2fast_plugin.service.leases import ChannelLeaseGuard
from lsps2fast_plugin.service.options import DEFAULT_LINE
from lsps2fast_plugin.service.session_record import StoredSession

DAY_MS = 86_400_000
LIFETIME = 1_008
HEIGHT = 2_000
CHANNEL = "ab" * 32
CONTINUE = {"result": "continue"}
NAMES = [ALICE, CHANNEL, "900x1x0", "12x34x56", CHANNEL.upper()]


def buy(jit_scid: int = 1, min_lifetime_blocks: int = LIFETIME) -> Buy:
    """A buy with this promise."""
    params = DEFAULT_LINE._replace(min_lifetime_blocks=min_lifetime_blocks).params(WALL_MS)
    return Buy(jit_scid, ALICE, params, 10**7, 144, False, WALL_MS, 100_000)


def final(
    jit_scid: int, outcome: str = "Succeeded", ended_ms: int | None = WALL_MS, channel_id: str | None = CHANNEL
) -> StoredSession:
    """A final record."""
    channel = None if channel_id is None else Channel(channel_id, "", "")
    return StoredSession(buy(jit_scid), SessionRecord("paid", None, 1, 0, None, channel, (), None), outcome, ended_ms)


class House:
    """An `ChannelLeaseGuard` at a node with one channel, confirmed in block `block`."""

    def __init__(self, block: int | None = HEIGHT - 99, guard: str = "refuse", *records: StoredSession) -> None:
        self.clock = StillClock()
        self.height = HEIGHT
        self.log = Log()
        self.records = list(records)
        self.error: NodeError | None = None
        self.store_error: StoreError | None = None
        self.left: list[int] = []
        self.channels = [
            CHANNEL_ROW
            | {
                "peer_id": ALICE,
                "channel_id": CHANNEL,
                "alias": {"local": "12x34x56", "remote": "9x9x9"},
                **({} if block is None else {"short_channel_id": f"{block}x1x0"}),
            },
            CHANNEL_ROW | {"peer_id": BOB, "channel_id": "cd" * 32, "short_channel_id": "1x1x1"},
        ]
        self.asked = 0
        self.house = ChannelLeaseGuard(
            rpc=self,
            store=self,
            clock=self.clock,
            height=lambda: self.height,
            guard=guard,
            keep_ms=30 * DAY_MS,
            leave=self.leave,
        )

    async def call(self, method: str, params: Json | None = None, timeout_s: float | None = 60.0) -> Json:
        """The node."""
        assert method == "listpeerchannels"
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"channels": self.channels}

    async def leave(self, records: list[StoredSession]) -> None:
        """What only they say."""
        if self.store_error is not None:
            raise self.store_error
        self.left += [record.buy.jit_scid for record in records if record in self.records]

    async def finished(self, default_delta_blocks: int) -> AsyncIterator[StoredSession]:
        """The journal."""
        for record in self.records:
            yield record

    async def drop_final(self, jit_scid: int) -> None:
        """The journal."""
        self.records = [record for record in self.records if record.buy.jit_scid != jit_scid]

    async def close(self, params: Any) -> Json:
        """Return lightningd's view of a `close` with these parameters."""
        return await self.house.judge({"id": "cli:close#1", "method": "close", "params": params})


@pytest.mark.parametrize("name", NAMES)
async def test_an_early_close_is_refused_by_every_name_of_the_channel(name: str) -> None:
    """A-05, A-06, G-09: with what was promised, what is reached, and how to close it all the same."""
    house = House()
    house.house.owe(CHANNEL, buy())
    house.channels[0]["short_channel_id"] = "900x1x0"
    house.height = 999
    for params in ({"id": name}, [name], {"id": name, "unilateraltimeout": 1, "force_lease_closed": False}):
        error = (await house.close(params))["return"]["error"]
        assert error["code"] == -1
        assert f"open for {LIFETIME} confirmations and has 100" in error["message"]
        assert "force_lease_closed=true" in error["message"]
    assert house.house.refused == 3


@pytest.mark.parametrize(
    ("confirmations", "allowed"),
    [(None, False), (0, False), (1, False), (LIFETIME - 1, False), (LIFETIME, True), (LIFETIME + 1, True)],
)
async def test_the_promise_ends_with_the_last_confirmation(confirmations: int | None, allowed: bool) -> None:
    """A-05, A-06: refused at min_lifetime - 1, free at min_lifetime; unconfirmed has none."""
    house = House(None if confirmations is None else HEIGHT - confirmations + 1)
    house.house.owe(CHANNEL, buy())
    assert (await house.close({"id": CHANNEL}) == CONTINUE) is allowed


@pytest.mark.parametrize(
    "params",
    [
        {"id": CHANNEL, "force_lease_closed": True},
        {"id": CHANNEL, "force_lease_closed": "true"},
        [CHANNEL, 1, "bc1q", "1", None, True],
    ],
)
async def test_who_means_it_may_close(params: Any) -> None:
    """A-06: the override, told to the log."""
    house = House()
    house.house.owe(CHANNEL, buy())
    assert await house.close(params) == CONTINUE
    assert house.log[0][0].startswith("closing early: channel abab")
    assert house.log[0][1] == "warn"


@pytest.mark.parametrize("params", [{"id": BOB}, {"id": "1x1x1"}, {"id": "5x5x5"}, {}, [], None, "x", {"id": None}])
async def test_other_channels_close_as_ever(params: Any) -> None:
    """A-06: and nonsense is lightningd's to answer."""
    house = House()
    house.house.owe(CHANNEL, buy())
    assert await house.close(params) == CONTINUE
    assert house.log == []


async def test_the_guard_may_only_warn_or_be_off() -> None:
    """A-06: refuse or at least warn; the operator chooses."""
    for guard, levels, asked in (("warn", ["warn"], 1), ("off", [], 0)):
        house = House(guard=guard)
        house.house.owe(CHANNEL, buy())
        assert await house.close({"id": CHANNEL}) == CONTINUE
        assert (house.log.levels(), house.asked) == (levels, asked)


async def test_nothing_is_asked_while_nothing_is_owed() -> None:
    """A-07: unpaid channels, and a promise of no lifetime, bind the LSP to nothing."""
    house = House()
    house.house.owe(CHANNEL, buy(min_lifetime_blocks=0))
    assert await house.close({"id": CHANNEL}) == CONTINUE
    house.house.owe(CHANNEL, buy())
    house.house.closed(CHANNEL)
    assert await house.close({"id": CHANNEL}) == CONTINUE
    assert (house.asked, len(house.house)) == (0, 0)


async def test_a_node_that_does_not_answer_us_is_not_kept_from_closing() -> None:
    """K-20: the hook always has an answer."""
    house = House()
    house.house.owe(CHANNEL, buy())
    house.error = NodeError("listpeerchannels", -1, "busy")
    assert await house.close({"id": CHANNEL}) == CONTINUE
    assert "let through" in house.log[0][0]


async def test_the_promise_survives_a_restart_in_the_final_record() -> None:
    """A-06: durable, for paid channels that are still there."""
    house = House()
    records = [
        final(1),
        final(2, "Failed", channel_id="cd" * 32),
        final(3, channel_id="ef" * 32),
        final(4, channel_id=None),
    ]
    house.house.load(records, [CHANNEL, "cd" * 32])
    assert len(house.house) == 1
    assert "return" in await house.close({"id": CHANNEL})


async def test_old_records_go_except_those_that_bind_us() -> None:
    """A-09, A-06: after thirty days, never before valid_until, never while the lifetime runs."""
    other = "cd" * 32
    young, gone = final(1), final(2, channel_id="ef" * 32)
    house = House(
        HEIGHT - 99,
        "refuse",
        young,
        gone,
        final(3, "Failed"),
        final(4, ended_ms=WALL_MS + 2 * DAY_MS),
        final(5, ended_ms=None),
        final(6, channel_id=other),
    )
    house.clock.wall = WALL_MS + 31 * DAY_MS  # offers are valid for a day
    assert await house.house.prune(144) == 0
    house.clock.wall += 1
    assert await house.house.prune(144) == 3
    assert [record.buy.jit_scid for record in house.records] == [1, 4, 5]
    house.height += LIFETIME
    house.clock.wall += 2 * DAY_MS
    assert await house.house.prune(144) == 2
    assert [record.buy.jit_scid for record in house.records] == [5]


async def test_pruning_waits_for_a_node_that_answers() -> None:
    """A-09, rule:10: one error is not an outcome."""
    house = House(HEIGHT, "refuse", final(1))
    house.clock.wall += 100 * DAY_MS
    house.error = NodeError("listpeerchannels", -1, "busy")
    assert await house.house.prune(144) == 0
    assert len(house.records) == 1


async def test_uses_are_counted_elsewhere_before_their_records_go() -> None:
    """rule:18: what only the record says is written down first; where it cannot be, the record stays."""
    house = House(None, "refuse", final(1, channel_id=None))
    house.clock.pass_ms(400 * DAY_MS)
    house.store_error = StoreError("disk full")
    assert await house.house.prune(144) == 0
    assert len(house.records) == 1
    house.store_error = None
    assert await house.house.prune(144) == 1
    assert (house.left, house.records) == ([1], [])


async def test_an_answer_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-22: every wait is bounded."""
    house = House()
    house.house.owe(CHANNEL, buy())
    monkeypatch.setattr("lsps2fast_plugin.service.leases.PATIENCE_S", 0.01)

    async def never(*_: Any) -> Json:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(house, "call", never)
    assert await house.close({"id": CHANNEL}) == CONTINUE
