"""The talk with a client, message in and answer out: every method, every refusal with its exact code."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from harness.negotiator import ALICE, BOB, KEY, SIZE_MSAT, WALL_MS, Json, Shop

from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps import lsps0
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps0 import INTERNAL_ERROR, MAX_PAYLOAD
from lsps2fast.lsps.lsps2 import BUY, GET_INFO, FeeParams, check_menu_order, format_datetime, parse_datetime
from lsps2fast.lsps.promise import Keyring
from lsps2fast_plugin.service.liquidity import Feerates, Liquidity
from lsps2fast_plugin.service.options import DEFAULT_LINE

PROMISE = re.compile(r"[ !#-\[\]-~]{1,512}")
KEYS = {
    "min_fee_msat",
    "proportional",
    "valid_until",
    "min_lifetime",
    "max_client_to_self_delay",
    "min_payment_size_msat",
    "max_payment_size_msat",
    "promise",
}


def error(code: int, message: str, **data: Any) -> Json:
    """An error object, with data only where there is some (T-20)."""
    return {"code": code, "message": message} | ({"data": data} if data else {})


INVALID = error(-32602, "Invalid params", unrecognized=[])


# --- LSPS0 ------------------------------------------------------------------------------------------------------------


async def test_the_protocols_are_those_of_this_program() -> None:
    """T-34, T-10: the result, the id unchanged, nothing else."""
    answer = await Shop().ask(ALICE, lsps0.LIST_PROTOCOLS)
    assert answer == {"jsonrpc": "2.0", "id": "q1", "result": {"protocols": [2]}}


async def test_an_unknown_method_is_not_found() -> None:
    """T-13."""
    assert (await Shop().ask(ALICE, "lsps9.fly"))["error"] == error(-32601, "Method not found")


@pytest.mark.parametrize("method", [lsps0.LIST_PROTOCOLS, GET_INFO, BUY])
async def test_unknown_parameters_are_listed_each_once(method: str) -> None:
    """T-14, G-02, B-01: for every method, also the one that knows no parameters."""
    answer = await Shop().ask(ALICE, method, {"zzz": 1, "aaa": {}})
    assert sorted(answer["error"].pop("data")["unrecognized"]) == ["aaa", "zzz"]
    assert answer["error"] == error(-32602, "Invalid params")


@pytest.mark.parametrize("params", [[], "x", 5, None, True])
@pytest.mark.parametrize("method", [lsps0.LIST_PROTOCOLS, GET_INFO, BUY])
async def test_parameters_that_are_no_object_are_invalid(method: str, params: Any) -> None:
    """T-15: the list of unknown names is there, and empty."""
    shop = Shop()
    payload = json.dumps({"jsonrpc": "2.0", "id": "x", "method": method, "params": params}).encode()
    assert json.loads(await shop.send(ALICE, payload) or b"")["error"] == INVALID


async def test_left_out_is_the_same_as_null_and_as_an_empty_object() -> None:
    """T-16: params, token and payment_size_msat; other members of the request are ignored."""
    shop = Shop()
    bare = json.dumps({"jsonrpc": "2.0", "id": "x", "method": GET_INFO, "extra": [1]}).encode()
    menu = json.loads(await shop.send(ALICE, bare) or b"")["result"]["opening_fee_params_menu"]
    assert menu == (await shop.ask(ALICE, GET_INFO, {"token": None}))["result"]["opening_fee_params_menu"]
    answer = await shop.ask(ALICE, BUY, {"opening_fee_params": menu[0], "payment_size_msat": None})
    assert "result" in answer
    assert shop.sold[0].payment_size_msat is None


async def test_responses_of_another_service_are_met_with_silence() -> None:
    """T-12: two services must not answer each other for ever."""
    shop = Shop()
    for message in (
        {"jsonrpc": "2.0", "id": None, "error": error(-32700, "Parse error")},
        {"jsonrpc": "2.0", "id": "q1", "result": {"protocols": [2]}},
        {"result": 1, "error": 2},
    ):
        assert await shop.send(ALICE, json.dumps(message).encode()) is None
    assert shop.counted() == {}


async def test_rubbish_is_answered_ten_times_a_minute_and_told_as_often() -> None:
    """T-11, T-12: -32700 with id null; the log cannot be filled either, every one is counted."""
    shop = Shop()
    answers = [await shop.send(ALICE, b"\x00rubbish") for _ in range(50)]
    replies = [json.loads(answer) for answer in answers if answer is not None]
    assert replies == [{"jsonrpc": "2.0", "id": None, "error": error(-32700, "Parse error")}] * 10
    assert len(shop.log) == 10
    assert shop.counted() == {"no_request": 50}
    assert await shop.send(BOB, b"[]") is not None


async def test_an_id_and_a_token_with_escapes_and_other_scripts_come_back_unharmed() -> None:
    """T-31, T-10: a reader accepts any legal escape, a writer writes none that is not needed."""
    shop = Shop()
    payload = (
        b'{"jsonrpc":"2.0","method":"lsps2.get_\\u0069nfo","params":{"token":"\\u00e9\\/"},"id":"\\u20ac\\/\xc3\xa9"}'
    )
    reply = await shop.send(ALICE, payload) or b""
    assert reply.startswith(b'{"jsonrpc":"2.0","id":"\xe2\x82\xac/\xc3\xa9"')
    assert json.loads(reply)["error"] == error(200, "unrecognized_or_stale_token")


async def test_a_large_menu_fits_one_message_and_an_ordinary_one_is_small() -> None:
    """T-30: fifty entries, each bound to a token; the usual answer stays under a thousand bytes."""
    shop = Shop()
    ordinary = await shop.send(ALICE, lsps0.encode_request("a" * 40, GET_INFO, {})) or b""
    assert len(ordinary) < 1000
    line = shop.desk.policy.rules.lines[0]
    lines = tuple(line._replace(line=line.line._replace(min_fee_msat=10**6 + number)) for number in range(50))
    shop.desk.policy.replace(shop.desk.policy.rules._replace(lines=lines))
    full = await shop.send(ALICE, lsps0.encode_request("a" * 40, GET_INFO, {})) or b""
    assert len(json.loads(full)["result"]["opening_fee_params_menu"]) == 50
    assert len(full) < MAX_PAYLOAD // 2


async def test_an_answer_that_fits_no_message_becomes_an_internal_error() -> None:
    """T-30, T-18: the id alone nearly fills the message."""
    shop = Shop()
    reply = await shop.send(ALICE, lsps0.encode_request("x" * 65_400, GET_INFO, {})) or b""
    assert len(reply) <= MAX_PAYLOAD
    assert json.loads(reply)["error"]["code"] in (-32603, -32700)


@pytest.mark.parametrize(
    ("options", "most"), [({}, 10), ({"lsps2_max_in_progress_per_peer": 3}, 3), ({"lsps2_max_in_progress": 2}, 2)]
)
async def test_only_so_many_requests_of_a_peer_are_worked_on_at_once(options: dict[str, int], most: int) -> None:
    """T-36: by default the eleventh gets -32603, counted; afterwards all places are free again."""
    shop = Shop(**options)
    offer = (await shop.menu())[0]
    gate = asyncio.Event()

    async def slow(buy: object) -> None:
        await gate.wait()

    shop.negotiator._accept = slow
    asks = [asyncio.ensure_future(shop.code(offer)) for _ in range(most + 1)]
    await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
    assert [ask.result() for ask in asks if ask.done()] == [-32603]
    gate.set()
    codes = [await ask for ask in asks]
    assert codes.count(None) == most
    assert shop.counted() == {"in_progress": 1}
    assert len(shop.desk.gate.in_progress) == 0


async def test_what_is_large_is_not_even_read_when_it_comes_often() -> None:
    """T-36, T-30, rule:14: silence, counted; what is small is answered all the same."""
    shop = Shop()
    large = lsps0.encode_request("x" * 60_000, GET_INFO, {})
    answers = [await shop.send(ALICE, large) for _ in range(12)]
    assert [answer is None for answer in answers] == [False] * 10 + [True] * 2
    assert shop.counted() == {"large_message": 2}
    assert len(await shop.menu()) == 1


async def test_a_slow_request_of_one_peer_does_not_hold_up_another() -> None:
    """T-29: nor one of its own that needs nothing slow."""
    shop = Shop()
    offer = (await shop.menu())[0]
    never = asyncio.Event()

    async def stuck(buy: object) -> None:
        await never.wait()

    shop.negotiator._accept = stuck
    waiting = asyncio.ensure_future(shop.buy(offer))
    await asyncio.sleep(0)
    assert len(await shop.menu(BOB)) == 1
    assert len(await shop.menu(ALICE)) == 1
    assert not waiting.done()
    waiting.cancel()


# --- lsps2.get_info ---------------------------------------------------------------------------------------------------


async def test_the_menu_has_exactly_the_eight_keys_in_their_forms() -> None:
    """G-04, G-05, S-01, S-03, S-04, S-05, P-02: keys, types, the one form of time, a plain promise."""
    answer = await Shop().ask(ALICE, GET_INFO)
    assert set(answer["result"]) == {"opening_fee_params_menu"}
    (entry,) = answer["result"]["opening_fee_params_menu"]
    assert set(entry) == KEYS
    assert {name: type(value) for name, value in entry.items()} == {
        name: int if name in ("proportional", "min_lifetime", "max_client_to_self_delay") else str for name in KEYS
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry["valid_until"])
    assert PROMISE.fullmatch(entry["promise"])


async def test_an_offer_is_valid_for_as_long_as_the_operator_says() -> None:
    """G-06: and never less than ten minutes."""
    (entry,) = await Shop(lsps2_offer_validity=600).menu()
    assert parse_datetime(entry["valid_until"]) == WALL_MS + 600_000


async def test_every_menu_rises_whatever_the_floor_does_to_it() -> None:
    """G-07, G-08: at any feerate."""
    shop = Shop(lsps2_fee_floor=100)
    line = shop.desk.policy.rules.lines[0]
    prices = ((500_000, 1_000), (900_000, 1_000), (2_000_000, 5_000), (2_000_000, 9_000))
    lines = tuple(line._replace(line=line.line._replace(min_fee_msat=fee, proportional=ppm)) for fee, ppm in prices)
    shop.desk.policy.replace(shop.desk.policy.rules._replace(lines=lines))
    for perkw in (253, 400, 1_000, 2_500, 100_000):
        shop.purse_now = Liquidity(None, 10**8, Feerates(perkw, perkw))
        menu = [FeeParams.from_json(entry) for entry in await shop.menu()]
        assert menu
        assert check_menu_order(menu)
        assert all(entry.min_fee_msat >= 1_800 * perkw for entry in menu)
        assert all(entry.min_payment_size_msat > entry.min_fee_msat for entry in menu)


@pytest.mark.parametrize("text", ["", "x", "SECRETDISCOUNTCOUPON100", "\u0000"])
async def test_a_token_that_nobody_issued_is_stale(text: str) -> None:
    """G-03, G-02: also where no tokens are configured; without one there is never a 200. No data."""
    shop = Shop()
    answer = await shop.ask(ALICE, GET_INFO, {"token": text})
    assert answer["error"] == error(200, "unrecognized_or_stale_token")
    assert "result" in await shop.ask(ALICE, GET_INFO)
    assert shop.counted() == {"token_unknown": 1}


@pytest.mark.parametrize("token", [5, [], {}, True])
async def test_a_token_that_is_no_text_is_invalid(token: Any) -> None:
    """G-02, T-15."""
    assert (await Shop().ask(ALICE, GET_INFO, {"token": token}))["error"] == INVALID


async def test_a_thousand_menus_leave_nothing_behind() -> None:
    """P-07: the promise carries everything."""
    shop = Shop(lsps2_max_info_per_peer=10_000, lsps2_max_info=10**6)
    for _ in range(1000):
        await shop.menu()
    assert shop.datastore.commits == 0
    assert len(shop.offers) == 0
    assert "result" in await shop.buy((await shop.menu())[0])


async def test_a_node_that_does_not_answer_offers_nothing() -> None:
    """T-18: without a feerate there is no price; nothing of the reason reaches the client."""
    shop = Shop()

    async def unknown() -> Liquidity:
        raise NodeError("feerates", -1, "bitcoind is away")

    shop.recent = unknown  # type: ignore[method-assign]
    assert (await shop.ask(ALICE, GET_INFO))["error"] == error(-32603, "Internal error")
    assert "bitcoind is away" in shop.log[0][0]


# --- lsps2.buy --------------------------------------------------------------------------------------------------------


FAULTS: list[tuple[str, int]] = [  # from the last step to the first, each on top of all later ones
    ("11 no coins", INTERNAL_ERROR),
    ("10 no inbound liquidity", 203),
    ("5 below the smallest payment", 202),
    ("4 expired", 201),
    ("3 not our promise", 201),
    ("2 too many open buys", INTERNAL_ERROR),
    ("2 not served", 1),
    ("1 no such parameter", -32602),
]


@pytest.mark.parametrize("count", range(1, len(FAULTS) + 1), ids=lambda count: FAULTS[count - 1][0])
async def test_the_first_fault_in_the_order_of_the_table_decides(count: int) -> None:
    """B-06: the order that clients meet; trap:31: what a later step would ask is not asked."""
    shop = Shop(lsps2_max_buys_per_peer=1)
    offer = (await shop.menu())[0]
    asked: list[str] = []
    shop.before_purse = lambda: asked.append("node")
    size_msat = SIZE_MSAT
    if count >= 1:
        shop.purse_now = shop.purse_now._replace(confirmed_sat=0)
    if count >= 2:
        shop.purse_now = shop.purse_now._replace(incoming_liquidity_msat=0)
    if count >= 3:
        size_msat = 1
    if count >= 4:
        shop.clock.pass_ms(10**9)
    if count >= 5:
        offer = offer | {"min_fee_msat": "1"}
    if count >= 6:
        shop.offers.restore(Buy(1, ALICE, DEFAULT_LINE.params(WALL_MS), None, 144, False, WALL_MS, 1))
    if count >= 7:
        shop.desk.policy.replace(shop.desk.policy.rules._replace(deny=frozenset({ALICE})))
    extra = {"what": 1} if count >= 8 else {}
    ask = {"opening_fee_params": offer, "payment_size_msat": str(size_msat)} | extra
    assert (await shop.ask(ALICE, BUY, ask))["error"]["code"] == FAULTS[count - 1][1]
    assert asked == (["node"] if count < 3 else [])
    assert shop.sold == []


async def test_a_buy_is_stored_before_it_is_answered_with_all_that_was_agreed() -> None:
    """B-02, B-05, B-09, B-10, B-15: by default the LSP trusts the client; the peer that asked is the client."""
    shop = Shop()
    offer = (await shop.menu())[0]
    answer = await shop.buy(offer)
    assert set(answer["result"]) == {"jit_channel_scid", "lsp_cltv_expiry_delta", "client_trusts_lsp"}
    (sold,) = shop.sold
    assert answer["result"]["client_trusts_lsp"] is sold.client_trusts_lsp is False
    assert answer["result"]["lsp_cltv_expiry_delta"] == sold.cltv_expiry_delta_blocks == 144
    assert (sold.peer_id, sold.payment_size_msat, sold.created_at_ms) == (ALICE, SIZE_MSAT, WALL_MS)
    assert sold.params.to_json() == offer
    assert sold.jit_scid in shop.offers


@pytest.mark.parametrize("size_msat", [SIZE_MSAT, None])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_fee_msat", "999999"),
        ("proportional", 9_999),
        ("valid_until", "2099-01-01T00:00:00.000Z"),
        ("min_lifetime", 1_009),
        ("max_client_to_self_delay", 2_017),
        ("min_payment_size_msat", "1499999"),
        ("max_payment_size_msat", "4000000001"),
        ("promise", "00" * 32),
        ("promise", ""),
        ("promise", "é" * 40),
    ],
)
async def test_no_term_of_an_offer_can_be_changed(key: str, value: Any, size_msat: int | None) -> None:
    """P-01, B-06, B-07: 201 with and without a size."""
    shop = Shop()
    offer = (await shop.menu())[0]
    assert await shop.code(offer | {key: value}, size_msat) == 201
    assert shop.sold == []


async def test_an_offer_is_good_for_the_client_it_was_made_to() -> None:
    """P-03, trap:29, B-05: another peer that sends the very same bytes gets 201."""
    shop = Shop()
    offer = (await shop.menu(ALICE))[0]
    assert await shop.code(offer, peer_id=BOB) == 201
    assert await shop.code(offer, peer_id=ALICE) is None


async def test_the_same_instant_in_another_writing_is_the_same_offer() -> None:
    """S-07: `.000Z` and `Z`; digits below the millisecond are a change."""
    shop = Shop()
    shop.clock.wall = WALL_MS // 1000 * 1000
    offer = (await shop.menu())[0]
    assert offer["valid_until"].endswith(".000Z")
    assert await shop.code(offer | {"valid_until": offer["valid_until"].replace(".000Z", "Z")}) is None
    assert await shop.code(offer | {"valid_until": offer["valid_until"].replace(".000Z", ".000000001Z")}) == 201


@pytest.mark.parametrize("key", sorted(KEYS))
async def test_every_key_of_the_terms_is_required_and_no_other_allowed(key: str) -> None:
    """T-17, T-15, B-01: missing or of the wrong type is -32602, one more is 201."""
    shop = Shop()
    offer = (await shop.menu())[0]
    missing = {name: value for name, value in offer.items() if name != key}
    for broken in (missing, offer | {key: None}, offer | {key: [1]}, offer | {key: 1.5}):
        assert (await shop.buy(broken))["error"] == INVALID
    assert await shop.code(offer | {key + "_": 1}) == 201


@pytest.mark.parametrize("size", [5, "05", "-1", "1.0", "1e6", "", " 1", "18446744073709551616", [], {}, True, "١"])
async def test_a_size_is_the_decimal_text_of_a_u64(size: Any) -> None:
    """S-01, S-02, B-01, T-15."""
    shop = Shop()
    offer = (await shop.menu())[0]
    answer = await shop.ask(ALICE, BUY, {"opening_fee_params": offer, "payment_size_msat": size})
    assert answer["error"] == INVALID


@pytest.mark.parametrize("later_ms", [0, 1, 10**12])
async def test_an_offer_ends_at_valid_until(later_ms: int) -> None:
    """B-06 step 4, X-06: equal counts as passed."""
    shop = Shop()
    offer = (await shop.menu())[0]
    shop.clock.wall = parse_datetime(offer["valid_until"]) + later_ms
    assert await shop.code(offer) == 201
    shop.clock.wall = parse_datetime(offer["valid_until"]) - 1
    assert await shop.code(offer) is None


async def test_an_offer_that_lapses_while_the_node_is_asked_is_not_sold() -> None:
    """B-06, C-08 in spirit: the last look at the clock is right before the buy is stored."""
    shop = Shop()
    offer = (await shop.menu())[0]
    shop.before_purse = lambda: shop.clock.pass_ms(86_400_000)
    assert await shop.code(offer) == 201
    assert shop.sold == []


async def test_a_journal_that_fails_sells_nothing() -> None:
    """B-10, T-18, P-07: -32603, no buy, no place taken; the next one works."""
    shop = Shop()
    offer = (await shop.menu())[0]
    shop.store_error = StoreError("disk full")
    answer = await shop.buy(offer)
    assert answer["error"] == error(-32603, "Internal error")
    assert len(shop.offers) == 0
    shop.store_error = None
    assert await shop.code(offer) is None


async def test_an_unforeseen_error_is_told_to_the_operator_only() -> None:
    """T-18: an internal error without internal text, and no lasting effect."""
    shop = Shop()
    offer = (await shop.menu())[0]
    shop.store_error = KeyError("secret inside")
    answer = await shop.buy(offer)
    assert answer["error"] == error(-32603, "Internal error")
    assert "secret inside" in shop.log[0][0]
    assert len(shop.offers) == 0


async def test_every_buy_gets_a_scid_of_its_own() -> None:
    """B-13, B-11: also for identical parameters; never the name of a channel or of another buy."""
    shop = Shop()
    offer = (await shop.menu())[0]
    numbers = iter([11_000_000 << 40, 11_000_000 << 40, 11_000_001 << 40, 11_000_002 << 40])
    shop.negotiator._random64 = lambda: next(numbers)
    shop.aliases = {11_000_001 << 40}
    assert [await shop.code(offer), await shop.code(offer)] == [None, None]
    assert [buy.jit_scid >> 40 for buy in shop.sold] == [11_000_000, 11_000_002]


async def test_a_peer_holds_ten_unused_buys_and_no_more() -> None:
    """B-14, B-06 step 2: -32603 with a text for people and no data, counted; another peer is served."""
    shop = Shop(lsps2_max_buys_per_minute_per_peer=100)
    offer = (await shop.menu())[0]
    codes = [await shop.code(offer) for _ in range(11)]
    assert codes == [None] * 10 + [INTERNAL_ERROR]
    refusal = (await shop.buy(offer))["error"]
    assert set(refusal) == {"code", "message"}
    assert "too many unused buys" in refusal["message"]
    assert shop.counted() == {"offer_limits": 2}
    assert await shop.code((await shop.menu(BOB))[0], peer_id=BOB) is None


async def test_the_limit_holds_for_buys_that_race() -> None:
    """B-14: places are reserved before the journal is written."""
    shop = Shop(lsps2_max_buys_per_peer=3)
    offer = (await shop.menu())[0]
    codes = await asyncio.gather(*(shop.code(offer) for _ in range(6)))
    assert sorted(codes, key=str) == [INTERNAL_ERROR] * 3 + [None, None, None]


async def test_a_client_that_is_gone_before_it_is_sold_anything_is_refused() -> None:
    """Client connected."""
    shop = Shop()
    offer = (await shop.menu())[0]
    shop.offline = {ALICE}
    assert await shop.code(offer) == INTERNAL_ERROR
    assert shop.counted() == {"not_connected": 1}


@pytest.mark.parametrize(
    ("purse", "committed_sat", "size_msat", "code", "counted"),
    [
        (Liquidity(SIZE_MSAT - 1, 10**8, Feerates(253, 253)), 0, SIZE_MSAT, 203, {"inbound_liquidity"}),
        (Liquidity(SIZE_MSAT, 10**8, Feerates(253, 253)), 0, SIZE_MSAT, None, set()),
        (Liquidity(0, 10**8, Feerates(253, 253)), 0, None, None, set()),
        (Liquidity(None, 10**8, Feerates(253, 253)), 0, SIZE_MSAT, None, set()),
        (Liquidity(None, 0, Feerates(253, 253)), 0, SIZE_MSAT, INTERNAL_ERROR, {"onchain_funds"}),
        (Liquidity(None, 0, Feerates(253, 253)), 0, None, INTERNAL_ERROR, {"onchain_funds"}),
        (Liquidity(None, 10**8, Feerates(253, 253)), 10**8, SIZE_MSAT, INTERNAL_ERROR, {"onchain_funds"}),
        (Liquidity(None, 200_000, Feerates(253, 253)), 0, 300_000_000, 203, {"onchain_funds"}),
        (Liquidity(None, 200_000, Feerates(253, 10**6)), 0, SIZE_MSAT, INTERNAL_ERROR, {"onchain_funds"}),
    ],
)
async def test_what_the_node_cannot_do_is_refused_at_the_buy(
    purse: Liquidity, committed_sat: int, size_msat: int | None, code: int | None, counted: set[str]
) -> None:
    """B-06 steps 10 and 11, B-08, O-03: before any payment, with a clear code, counted by its reason."""
    shop = Shop()
    offer = (await shop.menu())[0]
    shop.purse_now, shop.committed = purse, committed_sat
    assert await shop.code(offer, size_msat) == code
    assert set(shop.counted()) == counted


async def test_promises_outlive_a_change_of_the_key() -> None:
    """P-05, P-01: a new secret, then the derived key again; an unknown key proves nothing."""
    old, new = bytes(32), "ab" * 32
    derived = Shop()
    offers = {}
    offers["derived"] = (await derived.menu())[0]
    changed = Shop(experimental_lsps2_promise_secret=new, lsps2_retired_promise_secret=["11" * 32])
    changed.negotiator._promises = changed.desk.keyring(changed.settings, KEY)
    assert await changed.code(offers["derived"]) is None
    stranger = Shop()
    stranger.negotiator._promises = Keyring(old)
    assert await changed.code((await stranger.menu())[0]) == 201
    back = Shop(lsps2_retired_promise_secret=[new])
    back.negotiator._promises = back.desk.keyring(back.settings, KEY)
    assert await back.code((await changed.menu())[0]) is None


async def test_a_retired_key_promises_nothing_for_later() -> None:
    """P-05: who stole it cannot make offers beyond those that were made with it."""
    thief = Shop(lsps2_offer_validity=90_000_000)
    ours = Shop(experimental_lsps2_promise_secret="cd" * 32)
    ours.negotiator._promises = ours.desk.keyring(ours.settings, KEY)
    assert await ours.code((await thief.menu())[0]) == 201


@pytest.mark.parametrize("text", ["xyz", "ab" * 31, "zz" * 32])
def test_a_malformed_secret_is_never_shown(text: str) -> None:
    """P-05, K-28."""
    with pytest.raises(Exception, match="64 hex digits") as caught:
        Shop(experimental_lsps2_promise_secret=text)
    assert text not in str(caught.value)


def test_datetimes_have_one_form() -> None:
    """S-05: also where the milliseconds are zero."""
    assert format_datetime(WALL_MS) == "2030-03-17T17:46:40.000Z"
