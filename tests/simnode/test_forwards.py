"""forward_event, the tables, spendable_msat (contract F, cln:O3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.node_steps import broadcast, forward, invoice_with_fee, open_channel, row_of
from harness.puppet import Strings, Wire, hearing, recorded_calls, recording, shape

from lsps2fast_plugin.simnode import World
from lsps2fast_plugin.simnode.feerates import marginal_feerate

MakeWorld = Callable[..., World]


def recorded_events(name: str, status: str) -> list[dict[str, Any]]:
    events = [
        entry["msg"]["params"]["forward_event"]
        for entry in recording(name)
        if entry["msg"].get("method") == "forward_event"
    ]
    return [event for event in events if event["status"] == status]


async def one_forward(world: World, on_part: str) -> Any:
    """A single part through a fresh channel; the payment."""
    client, payer, strings = world.client(on_part=on_part), world.payer(), Strings(world.lsp)
    payment = payer.pay(invoice_with_fee(client, 10_000_000))
    (call,) = await strings.opened(1)
    opened = await open_channel(world.lsp, client)
    await strings.answer(call, result=forward(call, opened.channel_id, 1_000_000))
    return payment


@pytest.mark.parametrize(
    ("on_part", "statuses", "name"),
    [("settle", ["offered", "settled"], "a_single_var"), ("fail", ["offered", "failed"], "j_client_fails")],
)
async def test_events_have_the_recorded_fields(
    make_world: MakeWorld, on_part: str, statuses: list[str], name: str
) -> None:
    """cln:F1: created_index or updated_index, resolved_time, preimage only when settled."""
    async with make_world(hearing("forward_event")) as world:
        payment = await one_forward(world, on_part)
        await payment
        events = await Strings(world.lsp).events("forward_event", 2)
        assert [event["status"] for event in events] == statuses
        for event in events:
            assert shape(event) == shape(recorded_events(name, event["status"])[0])


async def test_the_event_comes_before_the_upstream_removal_is_done(make_world: MakeWorld) -> None:
    """cln:F3: at the settled event the incoming HTLC is still there."""
    async with make_world(hearing("forward_event")) as world:
        live: list[int] = []
        world.transcript.listeners.append(lambda entry: live.extend(_live_in(world, entry)))
        payment = await one_forward(world, "settle")
        await payment
        assert live == [1]


def _live_in(world: World, entry: dict[str, Any]) -> list[int]:
    settled = entry["msg"].get("method") == "forward_event" and "settled" in str(entry["msg"])
    return [len(world.lsp.ends[0].other.live)] if settled else []


async def test_the_tables_have_the_recorded_columns(make_world: MakeWorld) -> None:
    """cln:F5: listforwards has no hash and no preimage; listhtlcs has the hash and keeps finished ones."""
    async with make_world() as world:
        await (await one_forward(world, "settle"))
        await world.until(lambda: not world.lsp.ends[0].other.live)
        ours = {name: await world.lsp.call(name) for name in ("listforwards", "listhtlcs")}
        for name, mine in ours.items():
            key = name.removeprefix("list")
            real = [answer["result"][key] for request, answer in recorded_calls("n_wait") if request["method"] == name]
            shapes = [shape(row) for rows in real for row in rows]
            assert all(shape(row) in shapes for row in mine[key]), name
        assert [row["state"] for row in ours["listhtlcs"]["htlcs"]] == [
            "SENT_REMOVE_ACK_REVOCATION",
            "RCVD_REMOVE_ACK_REVOCATION",
        ]


async def test_rows_keep_the_alias_and_events_take_the_new_name(make_world: MakeWorld) -> None:
    """cln:F6, cln:O5, cln:O7: a confirmation between offered and settled."""
    async with make_world(hearing("forward_event")) as world:
        client, payer, strings = world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(invoice_with_fee(client, 10_000_000))
        (call,) = await strings.opened(1)
        opened = await open_channel(world.lsp, client, withhold=False)
        await broadcast(world.lsp, opened.psbt)
        await strings.answer(call, result=forward(call, opened.channel_id, 1_000_000))
        await strings.events("forward_event", 1)
        world.mine()
        client.settle_held()
        assert (await payment).paid
        end = world.lsp.ends[-1]
        assert end.scid == "110x1x1"
        events = await strings.events("forward_event", 2)
        assert [event["out_channel"] for event in events] == [end.alias, end.scid]
        by_alias = await world.lsp.call("listforwards", {"out_channel": end.alias})
        by_scid = await world.lsp.call("listforwards", {"out_channel": end.scid})
        assert (len(by_alias["forwards"]), len(by_scid["forwards"])) == (1, 0)
        htlcs = (await world.lsp.call("listhtlcs", {"id": opened.channel_id}))["htlcs"]
        assert [row["short_channel_id"] for row in htlcs] == [end.scid]


async def test_wait_tells_of_forwards(make_world: MakeWorld) -> None:
    """cln:F7: 0 gives the present index; a wait for the next one is answered when it comes, as recorded in n_wait."""
    async with make_world() as world, Wire(world.lsp) as wire:
        wire.ask(1, "wait", {"subsystem": "forwards", "indexname": "updated", "nextvalue": 0})
        assert (await wire.next())["result"] == {"subsystem": "forwards", "updated": 0}
        wire.ask(2, "wait", {"subsystem": "forwards", "indexname": "updated", "nextvalue": 1})
        payment = await one_forward(world, "settle")
        real = [answer["result"] for _, answer in recorded_calls("n_wait") if "updated" in answer.get("result", {})]
        answer = (await wire.next())["result"]
        assert shape(answer) == shape(next(row for row in real if "forwards" in row))
        assert (await payment).paid
        wire.ask(3, "wait", {"subsystem": "channels", "indexname": "created", "nextvalue": 0})
        refused = (await wire.next())["error"]
        assert refused == {"code": -32602, "message": "subsystem: unknown subsystem: invalid token '\"channels\"'"}


async def test_listforwards_pages(make_world: MakeWorld) -> None:
    """cln:F5, cln:F7: status, index, start, limit."""
    async with make_world({"hooks": {"htlc_accepted": {"result": "continue"}}}) as world:
        payer, client = world.payer(), world.client()
        for _ in range(3):
            await payer.pay(client.invoice(1_000, scid="1x1x1"))
        page = await world.lsp.call("listforwards", {"index": "created", "start": 2, "limit": 1})
        assert [row["created_index"] for row in page["forwards"]] == [2]
        none = await world.lsp.call("listforwards", {"status": "settled"})
        assert none == {"forwards": []}


@pytest.mark.parametrize(("perkw", "marginal"), [(2500, 4887), (2505, 4896), (253, 506), (45_000, 49_500)])
def test_the_spike_buffer_fits_the_recordings(perkw: int, marginal: int) -> None:
    """cln:O3: the rate behind every recorded spendable_msat."""
    assert marginal_feerate(perkw) == marginal


# HTLCs out (msat) and spendable_msat of the recordings, capacity 200000 sat
SPENDABLE = [
    ([], 192_781_000),
    ([7_999_000, 10_000_000, 10_000_000, 1_000, 10_000_000], 151_403_000),
    ([9_000_000, 10_000_000], 172_087_000),
]


@pytest.mark.parametrize(("out", "spendable"), SPENDABLE)
async def test_spendable_is_as_recorded(make_world: MakeWorld, out: list[int], spendable: int) -> None:
    """cln:O3: no anchors, 2500 perkw, reserve 1 %, spike buffer, weight per HTLC, trimmed HTLCs without one."""
    async with make_world() as world:
        client, payer, strings = world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(client.invoice(1, scid="1x1x1"), out or [1])
        calls = await strings.opened(len(out) or 1)
        opened = await open_channel(world.lsp, client)
        for call in calls[: len(out)]:
            await strings.answer(call, result=forward(call, opened.channel_id))
        await world.until(lambda: len(client.held()) == len(out))
        row = await row_of(world.lsp, opened.channel_id)
        assert (row["spendable_msat"], row["receivable_msat"]) == (spendable, 0)
        assert row["maximum_htlc_out_msat"] == 198_000_000
        assert not payment.done


async def test_receivable_of_an_anchor_channel_is_as_recorded(make_world: MakeWorld) -> None:
    """cln:O3: the payer's channel, with anchors: 982166000 empty, 927943000 with five HTLCs of 10000000 in."""
    async with make_world() as world:
        payer = world.payer()
        rows = (await world.lsp.call("listpeerchannels"))["channels"]
        assert rows[0]["receivable_msat"] == 982_166_000
        payer.pay(world.client().invoice(1, scid="1x1x1"), [10_000_000] * 5)
        await Strings(world.lsp).opened(5)
        rows = (await world.lsp.call("listpeerchannels"))["channels"]
        assert rows[0]["receivable_msat"] == 927_943_000
