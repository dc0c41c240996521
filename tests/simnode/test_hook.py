"""The hook htlc_accepted: what it asks, what its answers do (facts cln:H)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.node_steps import broadcast, forward, invoice_with_fee, open_channel, part_of
from harness.puppet import Strings, hearing, recording, shape

from lsps2fast_plugin.simnode import World, tlv

MakeWorld = Callable[..., World]
FAIL_TEMPORARILY = {"result": "fail", "failure_message": "10070000"}


def recorded_hooks(name: str) -> list[dict[str, Any]]:
    """Params of the LSP's hook calls in a recording."""
    return [
        entry["msg"]["params"]
        for entry in recording(name)
        if entry["dir"] == "host>plugin" and entry["msg"].get("method") == "htlc_accepted" and entry["peer"][:2] == "l2"
    ]


async def test_a_jit_part_is_asked_about_as_recorded(make_world: MakeWorld) -> None:
    """cln:H1, cln:H2: names, order and types of a_single_var; the payload has its length in front, forward_to is
    absent.
    """
    (real,) = recorded_hooks("a_single_var")
    async with make_world() as world:
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        payer.pay(client.invoice(10_000_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        ours = call["params"]
        assert shape(ours) == shape(real)
        assert ours["onion"]["payload"] == real["onion"]["payload"]
        assert len(ours["onion"]["next_onion"]) == len(real["onion"]["next_onion"]) == 2732
        ignored = ("payment_hash",)
        assert [ours["htlc"][key] for key in ours["htlc"] if key not in ignored] == [
            real["htlc"][key] for key in real["htlc"] if key not in ignored
        ]


async def test_a_known_next_channel_is_named_and_a_final_hop_has_a_secret(make_world: MakeWorld) -> None:
    """cln:H2: shapes of d_ordinary_forward, whose last call is a payment to the LSP."""
    forwards = recorded_hooks("d_ordinary_forward")
    async with make_world() as world:
        dave, payer, strings = world.client("dave"), world.payer(), Strings(world.lsp)
        end = world.add_channel(world.lsp, dave)
        own = world.lsp.invoices.add("label", 1_000_000, "to the lsp")
        payments = [payer.pay(dave.invoice(1_000_000)), payer.pay(own)]
        calls = await strings.opened(2)
        assert [shape(call["params"]) for call in calls] == [shape(forwards[0]), shape(forwards[-1])]
        assert calls[0]["params"]["forward_to"] == end.channel.channel_id
        for call in calls:
            await strings.answer(call, result={"result": "continue"})
        assert [(await payment).paid for payment in payments] == [True, True]
        assert own.status == "paid"


async def test_two_channels_count_their_htlcs_each(make_world: MakeWorld) -> None:
    """cln:H3: both parts have id 0; the channel is the other half of the name (c_two_upstream)."""
    async with make_world() as world:
        payer, strings = world.payer(channels=2), Strings(world.lsp)
        payer.pay(world.client().invoice(2_000, scid="1x1x1"), [1_000, 1_000])
        names = [part_of(call) for call in await strings.opened(2)]
        assert names == [("103x1x0", 0), ("103x2x0", 0)]


async def test_incoming_tlvs_are_shown(make_world: MakeWorld) -> None:
    """cln:H2: extra_tlvs only if the HTLC had some."""
    async with make_world() as world:
        payer, strings = world.payer(), Strings(world.lsp)
        payer.pay(world.client().invoice(1_000, scid="1x1x1"), extra_tlvs=bytes.fromhex("fd010301aa"))
        (call,) = await strings.opened(1)
        assert call["params"]["htlc"]["extra_tlvs"] == "fd010301aa"


async def test_two_parts_are_forwarded_with_the_fee_on_the_first(make_world: MakeWorld) -> None:
    """cln:H5, cln:C2, rule:4 and rule:13: the client sees extra_fee, checks, settles; the books balance to the msat."""
    async with make_world(hearing("forward_event")) as world:
        client, payer, strings = world.client(), world.payer(channels=2), Strings(world.lsp)
        world.open_books()
        payment = payer.pay(invoice_with_fee(client), [10_000_000, 10_000_000])
        calls = await strings.opened(2)
        opened = await open_channel(world.lsp, client)
        await strings.answer(calls[0], result=forward(calls[0], opened.channel_id, 1_000_000))
        await strings.answer(calls[1], result=forward(calls[1], opened.channel_id))
        assert (await payment).paid
        assert [part.extra_fee_msat for part in client.received] == [1_000_000, 0]
        await broadcast(world.lsp, opened.psbt)
        world.mine()
        world.check_books()
        fees_msat = world.chain.fees_sat * 1000
        assert world.books() == {"lsp": 1_000_000 - fees_msat, "client": 19_000_000, "payer": -20_000_000}


@pytest.mark.parametrize(
    ("fee_msat", "code"), [([0, 1_000_000], "100c00000000009896800000"), ([1_000_000, 1_000_000], "")]
)
async def test_routing_fees_are_taken_from_each_part(make_world: MakeWorld, fee_msat: list[int], code: str) -> None:
    """cln:H6: 1000 msat + 10 ppm; a part without opening fee fails with fee_insufficient (p_zero_fee_part)."""
    async with make_world(hearing("forward_event"), fee_base_msat=1000, fee_ppm=10) as world:
        client, payer, strings = world.client(on_part="hold"), world.payer(), Strings(world.lsp)
        payment = payer.pay(invoice_with_fee(client), [10_000_000, 10_000_000])
        calls = await strings.opened(2)
        opened = await open_channel(world.lsp, client)
        for call, fee in zip(calls, fee_msat, strict=True):
            await strings.answer(call, result=forward(call, opened.channel_id, fee))
        await world.until(lambda: len(world.lsp.htlcs.forwards) == 2)
        await world.until(lambda: all(htlc.delivered for htlc in world.lsp.ends[-1].live.values()))
        for part in client.held():
            client.fail(part)
        assert (await payment).raw_messages[0][:4] == (code or "400f")[:4]
        assert [row.status for row in world.lsp.htlcs.forwards].count("local_failed") == bool(code)


async def test_setchannel_cures_the_zero_fee_part(make_world: MakeWorld) -> None:
    """cln:H6: feebase=0 feeppm=0 on the new channel (p2_setchannel_zero_fee), with the recorded answer."""
    async with make_world(fee_base_msat=1000, fee_ppm=10) as world:
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        payment = payer.pay(invoice_with_fee(client, fee_msat=0), [10_000_000, 10_000_000])
        calls = await strings.opened(2)
        opened = await open_channel(world.lsp, client)
        answer = await world.lsp.call("setchannel", {"id": opened.channel_id, "feebase": 0, "feeppm": 0})
        real = next(
            entry["msg"]["result"]
            for entry in recording("p2_setchannel_zero_fee")
            if entry["dir"] == "host>rpc" and "fee_base_msat" in str(entry["msg"]) and len(str(entry["msg"])) < 700
        )
        assert shape(answer) == shape(real)
        for call in calls:
            await strings.answer(call, result=forward(call, opened.channel_id))
        assert (await payment).paid


async def test_old_fees_stay_good_for_the_enforce_delay(make_world: MakeWorld) -> None:
    """cln:H6, section N: raised rates bind after ten minutes."""
    async with make_world({"hooks": {"htlc_accepted": {"result": "continue"}}}) as world:
        dave, payer = world.client("dave"), world.payer()
        end = world.add_channel(world.lsp, dave)
        await world.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 1000, "feeppm": 0})
        assert (await payer.pay(dave.invoice(1_000_000))).paid
        await world.advance(600)
        assert (await payer.pay(dave.invoice(1_000_000))).raw_messages[0].startswith("100c")


CODES = [
    ("1007", 204, 4103, "WIRE_TEMPORARY_CHANNEL_FAILURE"),
    ("10070000", 204, 4103, "WIRE_TEMPORARY_CHANNEL_FAILURE"),
    ("10078800", 204, 4103, "WIRE_TEMPORARY_CHANNEL_FAILURE"),
    ("400a", 204, 16394, "WIRE_UNKNOWN_NEXT_PEER"),
    ("2002", 204, 8194, "WIRE_TEMPORARY_NODE_FAILURE"),
    ("0017", 204, 23, "WIRE_MPP_TIMEOUT"),
    ("1234", 204, 4660, None),
    ("10", 204, -1, None),
    ("", 202, 0, None),
]


@pytest.mark.parametrize("sphinx", [True, False])
@pytest.mark.parametrize(("message", "code", "failcode", "name"), CODES)
async def test_the_failure_message_reaches_the_payer_verbatim(
    make_world: MakeWorld, message: str, code: int, failcode: int, name: str | None, sphinx: bool
) -> None:
    """cln:H7, cln:F2: the table, over real onions and plain ones; and no forward_event, no row."""
    plan = hearing("forward_event", hooks={"htlc_accepted": {"result": "fail", "failure_message": message}})
    async with make_world(plan, sphinx=sphinx) as world:
        result = await world.payer().pay(world.client().invoice(1_000, scid="1x1x1"))
        (part,) = result.parts
        assert (part.code, part.raw_message.hex()) == (code, message)
        assert (part.failcode, part.failcodename) == (failcode, name)
        assert part.erring_index == (1 if code == 204 else 0)
        assert world.lsp.htlcs.forwards == []
        assert await Strings(world.lsp).seen("forward_event") == []


def fatal_answers() -> list[tuple[Any, int | None, str]]:
    """Answers of q_fatal with lightningd's exit code and the text it logged."""
    cases, answer = [], None
    for entry in recording("q_fatal"):
        message = entry["msg"]
        if message.get("event", "").startswith("hook answer"):
            answer = message["answer"]
        elif message.get("event") == "result":
            log = message["log"][0].partition("lightningd: ")[2] if message["log"] else ""
            cases.append((answer, message["lightningd_exit"], log))
    return cases


@pytest.mark.parametrize(("answer", "exit_code", "log"), fatal_answers())
async def test_what_kills_lightningd_kills_the_node(
    make_world: MakeWorld, answer: Any, exit_code: int | None, log: str
) -> None:
    """cln:H9: each recorded answer, with the recorded words; the HTLC is there again after a start."""
    async with make_world() as world:
        strings, payer = Strings(world.lsp), world.payer()
        payment = payer.pay(world.client().invoice(1_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        await strings.last_answer(call, result=answer)
        await world.until(lambda: world.lsp.state == "crashed" or payment.done)
        assert (world.lsp.state, world.lsp.crash_log) == (("crashed", log) if exit_code else ("running", ""))


@pytest.mark.parametrize(
    ("answer", "raw", "code"),
    [
        ({"result": "continue", "payload": ""}, "4016020001", 204),
        ({"result": "continue", "payload": "0402020101"}, "4016010004", 204),
        ({"result": "resolve", "payment_key": "00" * 32}, "400f", 204),
        ({"result": "fail", "failure_message": ""}, "", 202),
    ],
)
async def test_what_does_not_kill_reaches_the_payer(make_world: MakeWorld, answer: Any, raw: str, code: int) -> None:
    """cln:H9: q_fatal's harmless answers."""
    async with make_world({"hooks": {"htlc_accepted": answer}}) as world:
        result = await world.payer().pay(world.client().invoice(1_000, scid="1x1x1"))
        assert (result.raw_messages, result.codes) == ([raw], [code])


async def test_a_jsonrpc_error_is_fatal_and_replays_are_a_crash_loop(make_world: MakeWorld) -> None:
    """cln:H9: the same answer kills the node again after each start; another one ends the loop."""
    async with make_world() as world:
        strings, payer = Strings(world.lsp), world.payer()
        payment = payer.pay(world.client().invoice(1_000, scid="1x1x1"))
        for _ in range(2):
            (call,) = await strings.opened(1)
            await strings.last_answer(call, error={"code": -1, "message": "oops"})
            await world.until(lambda: world.lsp.state == "crashed")
            await world.lsp.start()
        (call,) = await strings.opened(1)
        await strings.answer(call, result=FAIL_TEMPORARILY)
        assert (await payment).raw_messages == ["10070000"]


async def test_a_right_preimage_resolves(make_world: MakeWorld) -> None:
    """cln:H9: resolve with the key pays without forwarding."""
    async with make_world() as world:
        client, strings = world.client(), Strings(world.lsp)
        invoice = client.invoice(1_000, scid="1x1x1")
        payment = world.payer().pay(invoice)
        (call,) = await strings.opened(1)
        await strings.answer(call, result={"result": "resolve", "payment_key": invoice.preimage.hex()})
        assert (await payment).preimage == invoice.preimage


@pytest.mark.parametrize("answer", [{"result": "continue"}, {"result": "continue", "forward_to": "ab" * 32}])
async def test_continue_to_nowhere_is_unknown_next_peer(make_world: MakeWorld, answer: Any) -> None:
    """cln:H10, cln:F1: an unknown scid or channel; local_failed as recorded in f_unknown_next_peer."""
    real = next(
        entry["msg"]["params"]["forward_event"]
        for entry in recording("f_unknown_next_peer")
        if entry["msg"].get("method") == "forward_event"
    )
    async with make_world(hearing("forward_event", hooks={"htlc_accepted": answer})) as world:
        result = await world.payer().pay(world.client().invoice(5_000_000, scid="7x7x7"))
        assert result.raw_messages == ["400a"]
        (event,) = await Strings(world.lsp).events("forward_event", 1)
        assert shape(event) == shape(real)
        same = ("out_channel", "in_channel", "in_htlc_id", "in_msat", "status", "failcode", "failreason", "style")
        assert [event[key] for key in same] == [real[key] for key in same]


async def test_forward_to_an_absent_client_fails_temporarily(make_world: MakeWorld) -> None:
    """cln:H10, cln:R4: i9; the event names the channel by its alias."""
    async with make_world(hearing("forward_event")) as world:
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        payment = payer.pay(invoice_with_fee(client, 10_000_000))
        (call,) = await strings.opened(1)
        opened = await open_channel(world.lsp, client)
        client.go_offline()
        await strings.answer(call, result=forward(call, opened.channel_id, 1_000_000))
        assert (await payment).raw_messages == ["10070000"]
        (event,) = await strings.events("forward_event", 1)
        assert (event["out_channel"], event["failcode"]) == (world.lsp.ends[-1].alias, 4103)


async def test_each_jit_part_is_logged_as_unusual(make_world: MakeWorld) -> None:
    """cln:H11: a subscriber to warning reads `No peer channel with scid=`."""
    async with make_world(hearing("warning")) as world:
        world.payer().pay(world.client().invoice(1_000, scid="1x1x1"))
        (warning,) = await Strings(world.lsp).events("warning", 1)
        assert warning["log"] == "No peer channel with scid=1x1x1"
        assert list(warning) == ["level", "time", "timestamp", "source", "log"]


async def test_a_late_plugin_gets_later_calls_only(make_world: MakeWorld) -> None:
    """cln:H12, cln:H13: no replay when a plugin is started again, but new parts reach it."""
    async with make_world() as world:
        client, payer = world.client(), world.payer()
        first = payer.pay(client.invoice(1_000, scid="1x1x1"))
        plugin = world.lsp.plugin
        await Strings(world.lsp).opened(1)
        await world.lsp.kill_plugin()
        assert (await first).raw_messages == ["400a"]
        await world.lsp.start_plugin(plugin.argv)
        payer.pay(client.invoice(1_000, scid="1x1x1"))
        (call,) = await Strings(world.lsp).opened(1)
        assert part_of(call) == ("103x1x0", 1)


async def test_the_payer_closes_when_a_part_is_held_too_long(make_world: MakeWorld) -> None:
    """cln:H14: expiry 169, closed by force at 170, the hook call still open (t_block_deadline)."""
    async with make_world(hearing("channel_state_changed")) as world:
        payer, strings = world.payer(), Strings(world.lsp)
        payer.pay(world.client().invoice(1_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        assert call["params"]["htlc"]["cltv_expiry"] == 169
        world.mine(60)
        assert payer.force_closed == []
        world.mine()
        assert len(payer.force_closed) == 1
        assert await strings.open() == [call]


async def test_an_ordinary_forward_may_be_steered_into_another_channel(make_world: MakeWorld) -> None:
    """cln:H15: the larger channel of the same peer with equal fees is chosen before the hook, withheld or not."""
    async with make_world(fee_base_msat=0, fee_ppm=0) as world:
        dave, payer, strings = world.client("dave"), world.payer(), Strings(world.lsp)
        small = world.add_channel(world.lsp, dave, 100_000)
        opened = await open_channel(world.lsp, dave, 400_000)
        payer.pay(dave.invoice(1_000_000), scid=small.scid)
        (call,) = await strings.opened(1)
        assert call["params"]["onion"]["short_channel_id"] == small.scid
        assert call["params"]["forward_to"] == opened.channel_id


async def test_other_fees_keep_a_forward_where_it_was_sent(make_world: MakeWorld) -> None:
    """cln:H15: channels with other fees are not taken."""
    async with make_world() as world:
        dave, payer, strings = world.client("dave"), world.payer(), Strings(world.lsp)
        small = world.add_channel(world.lsp, dave, 100_000)
        opened = await open_channel(world.lsp, dave, 400_000)
        await world.lsp.call("setchannel", {"id": opened.channel_id, "feebase": 5, "feeppm": 0})
        payer.pay(dave.invoice(1_000_000), scid=small.scid)
        (call,) = await strings.opened(1)
        assert call["params"]["forward_to"] == small.channel.channel_id


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"cltv_delta": 5}, "100d00000084" + "0000"),
        ({"final_delta": 0, "cltv_delta": 40}, "100e0000"),
        ({"final_delta": 2017}, "0015"),
        ({"overpay_msat": -1}, "100c" + (999_999).to_bytes(8, "big").hex() + "0000"),
    ],
)
async def test_the_usual_checks_follow_the_hook(make_world: MakeWorld, changes: dict[str, int], failure: str) -> None:
    """Section N: cltv delta, expiry too soon and too far, less in than out."""
    async with make_world({"hooks": {"htlc_accepted": {"result": "continue"}}}) as world:
        dave, payer = world.client("dave"), world.payer()
        world.add_channel(world.lsp, dave)
        given = {"final_delta": 18, **changes}
        result = await payer.pay(dave.invoice(1_000_000), **given)
        assert result.raw_messages == [failure]


@pytest.mark.parametrize(
    ("behaviour", "answers"),
    [
        ({"htlc_minimum_msat": 5_000_000}, ["100b00000000003d0900" + "0000"] * 3),
        ({"max_accepted_htlcs": 2}, ["", "", "10070000"]),
        ({"max_in_flight_msat": 9_000_000}, ["", "", "10070000"]),
        ({}, [""] * 3),
    ],
)
async def test_the_limits_of_the_client_bind_the_forward(
    make_world: MakeWorld, behaviour: dict[str, int], answers: list[str]
) -> None:
    """cln:H6, O-06, K-10: htlc_minimum, max_accepted_htlcs, value in flight."""
    async with make_world() as world:
        client, payer, strings = world.client(on_part="hold", **behaviour), world.payer(), Strings(world.lsp)
        payment = payer.pay(client.invoice(12_000_000, scid="1x1x1"), [4_000_000] * 3)
        calls = await strings.opened(3)
        opened = await open_channel(world.lsp, client)
        for call in calls:
            await strings.answer(call, result=forward(call, opened.channel_id))
        alive = answers.count("")
        await world.until(lambda: len(client.held()) == alive)
        client.settle_held()
        assert (await payment).raw_messages == answers


async def test_more_out_than_in_is_turned_down(make_world: MakeWorld) -> None:
    """H-14: an answer that asks for more than came in fails on the fee check."""
    async with make_world() as world:
        client, payer, strings = world.client(), world.payer(), Strings(world.lsp)
        payment = payer.pay(client.invoice(1_000, scid="1x1x1"))
        (call,) = await strings.opened(1)
        opened = await open_channel(world.lsp, client)
        records = tlv.read_records(tlv.unprefixed(bytes.fromhex(call["params"]["onion"]["payload"])))
        records[2] = tlv.tu(1_001)
        result = forward(call, opened.channel_id) | {"payload": tlv.write_records(records).hex()}
        await strings.answer(call, result=result)
        assert (await payment).raw_messages[0].startswith("100c")
