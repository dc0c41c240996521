"""LSPS2: opening_fee_params, menus, the fee, both ends of each method. Sections (c), (d) and O-03."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lsps2fast.errors import PeerError, ProtocolBug
from lsps2fast.lsps import lsps0, lsps2
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import U64_MAX, FeeParams, Unacceptable

WIRE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text("utf-8"))
ENTRY: dict[str, Any] = {
    "min_fee_msat": "546000",
    "proportional": 1200,
    "valid_until": "2023-02-23T08:47:30.511Z",
    "min_lifetime": 1008,
    "max_client_to_self_delay": 2016,
    "min_payment_size_msat": "1000",
    "max_payment_size_msat": "1000000",
    "promise": "abcdefghijklmnopqrstuvwxyz",
}
WRONG_TYPES: list[object] = [None, True, 1.0, [], {}, -1, "", "x"]

u64s = st.integers(0, U64_MAX) | st.sampled_from([0, 1, 999_999, 10**6, 10**6 + 1, 2**32, U64_MAX - 999_999, U64_MAX])


def rpc_example(name: str) -> dict[str, Any]:
    json_rpc: dict[str, Any] = WIRE["json_rpc"]
    found: dict[str, Any] = next(v for v in json_rpc["examples"] if v["name"] == name)
    return found


def entry(**changes: Any) -> FeeParams:
    """The reference entry, changed by wire names."""
    return FeeParams.from_json({**ENTRY, **changes})


def offer(min_fee_msat: int = 0, proportional: int = 0, **changes: Any) -> FeeParams:
    """An entry by prices: valid for a day from 0, up to u64."""
    terms: dict[str, Any] = {
        "valid_until_ms": 86_400_000,
        "min_lifetime_blocks": 1008,
        "max_client_to_self_delay_blocks": 2016,
        "min_payment_size_msat": 0,
        "max_payment_size_msat": U64_MAX,
    }
    return FeeParams.build(min_fee_msat=min_fee_msat, proportional=proportional, **{**terms, **changes})


# --- Opening fee ------------------------------------------------------------------------------------------------------


def oracle_fee_msat(payment_size_msat: int, min_fee_msat: int, proportional: int) -> int | None:
    """F-01 to F-03 in exact fractions, one step at a time."""
    product = Fraction(payment_size_msat) * proportional
    total = product + 999_999
    fee = max(Fraction(total / 1_000_000).__floor__(), min_fee_msat)
    return {True: fee, False: None}[product < 2**64 and total < 2**64]


@pytest.mark.parametrize("row", WIRE["opening_fee"], ids=lambda row: row["name"])
def test_the_opening_fee_is_that_of_the_vectors(row: dict[str, str]) -> None:
    """F-01, F-02, F-03, Z-01, trap:18: V:opening_fee, by the code samples and not by the prose."""
    arguments = [int(row[name]) for name in ("payment_size_msat", "min_fee_msat", "proportional")]
    got = lsps2.opening_fee_msat(*arguments)
    assert got == {"ok": int(row.get("opening_fee_msat", 0)), "overflow": None}[row["result"]]
    assert (got is not None and got < arguments[0]) == row.get("fee_strictly_below_payment", False)
    assert str(got) != row.get("wrong_value_if_divided_by_10000000")


@given(u64s, u64s, u64s | st.integers(0, 10_000))
@example(U64_MAX, 0, 1)
@example(U64_MAX - 999_999, 0, 1)
@example(U64_MAX - 999_998, 0, 1)
@example(2**32, 0, 2**32)
def test_the_opening_fee_agrees_with_exact_fractions(payment_msat: int, min_fee_msat: int, ppm: int) -> None:
    """F-01 … F-03, F-05, trap:18, rule:4: never a float, never negative, never a wrapped number."""
    got = lsps2.opening_fee_msat(payment_msat, min_fee_msat, ppm)
    assert got == oracle_fee_msat(payment_msat, min_fee_msat, ppm)
    assert type(got) in (int, type(None))


@given(st.integers(1, U64_MAX), st.integers(-2, 2), st.integers(-2, 2))
def test_the_fee_is_exact_around_every_overflow(ppm: int, around_product: int, around_sum: int) -> None:
    """F-02, F-03, trap:18: payments next to the edges of the product and of the sum, for any ppm."""
    edges = (2**64 // ppm + around_product, (2**64 - 999_999) // ppm + around_sum)
    payments = [min(max(edge, 0), U64_MAX) for edge in edges]
    got = [lsps2.opening_fee_msat(payment, 0, ppm) for payment in payments]
    assert got == [oracle_fee_msat(payment, 0, ppm) for payment in payments]


EDGES = [0, 1, 2, 999_999, 10**6, 10**6 + 1, 2**32 - 1, 2**32, 2**63, U64_MAX - 10**6, U64_MAX - 999_999, U64_MAX]


@pytest.mark.parametrize(("payment_msat", "ppm"), list(itertools.product(EDGES, EDGES)))
def test_the_fee_is_exact_at_all_pairs_of_edges(payment_msat: int, ppm: int) -> None:
    """F-02, F-03, trap:18."""
    assert lsps2.opening_fee_msat(payment_msat, 7, ppm) == oracle_fee_msat(payment_msat, 7, ppm)


# --- opening_fee_params -----------------------------------------------------------------------------------------------


def test_an_entry_is_read_into_numbers_and_kept_verbatim() -> None:
    """G-05, B-03: the same keys, values and texts go back, also of a datetime in another form."""
    odd = {**ENTRY, "valid_until": "2030-01-01T00:00:00Z", "promise": 'ä"\\\n😀'}
    params = FeeParams.from_json(json.loads(json.dumps(odd)))
    assert params.to_json() == odd
    assert params.valid_until_ms == 1_893_456_000_000
    assert (params.min_fee_msat, params.proportional, params.min_lifetime_blocks) == (546000, 1200, 1008)
    assert (params.min_payment_size_msat, params.max_payment_size_msat) == (1000, 1000000)
    assert params.max_client_to_self_delay_blocks == 2016
    assert lsps2.buy_params(params) == {"opening_fee_params": odd}


def test_entries_are_equal_when_their_values_are() -> None:
    """S-07: two texts of one instant; any other difference counts."""
    assert entry(valid_until="2023-02-23T08:47:30.000Z") == entry(valid_until="2023-02-23T08:47:30Z")
    assert hash(entry(valid_until="2023-02-23T08:47:30.000Z")) == hash(entry(valid_until="2023-02-23T08:47:30Z"))
    assert entry() != entry(promise="x")
    assert entry() != entry(proportional=1201)


def test_an_entry_does_not_change_with_the_object_it_came_from() -> None:
    """B-03."""
    source = dict(ENTRY)
    params = FeeParams.from_json(source)
    source["promise"] = "changed"
    params.to_json()["promise"] = "changed"
    assert params.to_json() == ENTRY


def test_our_own_entries_are_written_canonically() -> None:
    """G-05, S-05: exactly eight keys, in the order of the specification."""
    params = FeeParams.build(
        min_fee_msat=546000,
        proportional=1200,
        valid_until_ms=1677142050511,
        min_lifetime_blocks=1008,
        max_client_to_self_delay_blocks=2016,
        min_payment_size_msat=1000,
        max_payment_size_msat=1000000,
    )
    assert json.dumps(params.with_promise(ENTRY["promise"]).to_json()) == json.dumps(ENTRY)
    assert params.with_promise(ENTRY["promise"]) == entry()


def test_we_never_write_more_than_32_bits_of_ppm() -> None:
    """S-03."""
    assert offer(proportional=2**32 - 1).proportional == 2**32 - 1
    with pytest.raises(MalformedField, match="proportional"):
        offer(proportional=2**32)


@pytest.mark.parametrize("name", sorted(ENTRY))
def test_a_missing_key_is_named(name: str) -> None:
    """G-05, G-11, T-17."""
    with pytest.raises(MalformedField, match=f"^{name}: missing$"):
        FeeParams.from_json({key: value for key, value in ENTRY.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, value in itertools.product(sorted(ENTRY), WRONG_TYPES)
        if not (name == "promise" and type(value) is str)
    ],
)
def test_a_key_of_the_wrong_type_is_named(name: str, value: object) -> None:
    """G-11, T-17, S-01 … S-06."""
    with pytest.raises(MalformedField, match=f"^{name}: "):
        entry(**{name: value})


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_only_an_object_is_an_entry(value: object) -> None:
    """G-11."""
    with pytest.raises(MalformedField, match="not an object"):
        FeeParams.from_json(value)


def test_unknown_keys_are_told_apart_from_broken_ones() -> None:
    """T-17, G-11: they are 201 at the service, but a broken value comes first."""
    with pytest.raises(lsps2.UnknownFields) as caught:
        entry(b=1, a=2)
    assert caught.value.names == ("a", "b")
    with pytest.raises(MalformedField, match="proportional"):
        entry(a=2, proportional="1")


@pytest.mark.parametrize(
    ("smallest", "largest", "min_fee", "sound"),
    [(1, 1, 0, True), (2, 1, 0, False), (1, 10, 9, True), (1, 10, 10, False), (0, 0, 0, False)],
)
def test_limits_that_allow_no_payment_are_unsound(smallest: int, largest: int, min_fee: int, sound: bool) -> None:
    """G-08."""
    params = offer(min_fee, min_payment_size_msat=smallest, max_payment_size_msat=largest)
    assert (lsps2.why_unsound(params) is None) == sound


# --- Menus ------------------------------------------------------------------------------------------------------------


def menu_of(pairs: list[list[int]] | list[tuple[int, int]]) -> list[FeeParams]:
    return [offer(min_fee, ppm) for min_fee, ppm in pairs]


@pytest.mark.parametrize("case", WIRE["menu_order"]["cases"], ids=lambda case: str(case["menu"]))
def test_menu_order_is_that_of_the_vectors(case: dict[str, Any]) -> None:
    """G-07, G-14: V:menu_order; a client reads a menu in any order."""
    menu = menu_of(case["menu"])
    assert lsps2.check_menu_order(menu) == case["valid"]
    assert lsps2.validate_menu({"opening_fee_params_menu": [entry.to_json() for entry in menu]}) == menu


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_any_menu_can_be_put_in_order(pairs: list[tuple[int, int]]) -> None:
    """G-07: sorted, offenders dropped, nothing lost, the cheapest entry kept."""
    menu = menu_of(pairs)
    kept, dropped = lsps2.order_menu(menu)
    assert lsps2.check_menu_order(kept)
    assert sorted(map(id, kept + dropped)) == sorted(map(id, menu))
    assert lsps2.order_menu(kept) == (kept, [])
    assert kept[:1] == sorted(menu, key=lambda entry: (entry.min_fee_msat, entry.proportional))[:1]


def test_a_menu_out_of_order_is_never_sent() -> None:
    """G-07."""
    with pytest.raises(ProtocolBug):
        lsps2.menu_result(menu_of([(2000, 1000), (1000, 2000)]))


def test_get_info_answers_as_in_the_example() -> None:
    """G-04, G-05: V:json_rpc.examples; an empty menu is legal."""
    vector = rpc_example("get_info response")
    menu = lsps2.validate_menu(vector["json"]["result"])
    assert lsps0.encode_result(vector["json"]["id"], lsps2.menu_result(menu)) == vector["text"].encode()
    assert lsps2.menu_result([]) == rpc_example("get_info response, empty menu")["json"]["result"]
    assert lsps2.validate_menu({"opening_fee_params_menu": []}) == []


def test_a_menu_of_200_entries_becomes_an_internal_error() -> None:
    """T-30: more than a peer message holds."""
    menu = [offer(n, n, promise="p" * 128) for n in range(200)]
    answer = json.loads(lsps0.encode_result("a1", lsps2.menu_result(menu)))
    assert answer["error"]["code"] == -32603


@pytest.mark.parametrize(
    "result", [None, [], {}, {"opening_fee_params_menu": {}}, {"opening_fee_params_menu": None}, {"x": []}]
)
def test_a_result_without_a_menu_is_refused(result: object) -> None:
    """G-04, G-11."""
    with pytest.raises(MalformedField, match="opening_fee_params_menu"):
        lsps2.validate_menu(result)


@pytest.mark.parametrize("bad", [{**ENTRY, "new": 1}, {**ENTRY, "promise": 5}, {"min_fee_msat": "1"}, 5])
def test_one_bad_entry_spoils_the_menu(bad: object) -> None:
    """G-11: no partial use."""
    with pytest.raises(MalformedField):
        lsps2.validate_menu({"opening_fee_params_menu": [ENTRY, bad, ENTRY]})


def test_unknown_keys_beside_the_menu_are_ignored() -> None:
    """T-25, Z-02: outside opening_fee_params."""
    assert lsps2.validate_menu({"opening_fee_params_menu": [ENTRY], "new": {"x": 1}}) == [entry()]


@pytest.mark.parametrize("promise", ["a" * 512, "é" * 256, '"' * 256, "\n" * 256, "", "\x7f" * 512])
def test_a_promise_of_512_bytes_is_opaque(promise: str) -> None:
    """G-11, G-12: counted as the JSON that says it; survives byte for byte."""
    assert lsps2.validate_menu({"opening_fee_params_menu": [{**ENTRY, "promise": promise}]})[0].promise == promise


@pytest.mark.parametrize("promise", ["a" * 513, "é" * 256 + "a", '"' * 257, "\x01" * 86])
def test_a_longer_promise_aborts(promise: str) -> None:
    """G-11."""
    with pytest.raises(MalformedField, match="promise: longer than 512 bytes"):
        lsps2.validate_menu({"opening_fee_params_menu": [{**ENTRY, "promise": promise}]})


# --- get_info and buy at the service ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "token"), [({}, None), ({"token": None}, None), ({"token": ""}, ""), ({"token": "é\0"}, "é\0")]
)
def test_a_token_is_any_string(params: object, token: str | None) -> None:
    """G-02, T-16: null counts as left out."""
    assert lsps2.parse_get_info(params) == token


@pytest.mark.parametrize(
    ("params", "unrecognized"),
    [({"token": 5}, []), ([], []), (None, []), ({"token": "x", "b": 1, "a": 2}, ["a", "b"]), ({"token": ["x"]}, [])],
)
def test_other_get_info_parameters_are_invalid(params: object, unrecognized: list[str]) -> None:
    """G-02, T-14, T-15."""
    with pytest.raises(PeerError) as caught:
        lsps2.parse_get_info(params)
    assert (caught.value.code, caught.value.data) == (-32602, {"unrecognized": unrecognized})


@pytest.mark.parametrize(
    ("name", "size_msat"), [("buy request, fixed amount", 42000), ("buy request, variable amount", None)]
)
def test_buy_requests_go_out_and_come_in_as_in_the_examples(name: str, size_msat: int | None) -> None:
    """B-01, B-02, B-03, T-05: V:json_rpc.examples."""
    vector = rpc_example(name)
    payload = lsps0.encode_request(vector["json"]["id"], lsps2.BUY, lsps2.buy_params(entry(), size_msat))
    assert payload == vector["text"].encode()
    request = lsps0.decode_request(payload)
    assert request is not None
    assert lsps2.parse_buy(request.params) == lsps2.BuyAsk(entry(), size_msat)


def code_of(read: Callable[[object], object], params: object) -> int | None:
    """The code with which `params` are refused, None when they are read."""
    try:
        read(params)
    except PeerError as error:
        return error.code
    return None


def buy_with(**changes: Any) -> dict[str, Any]:
    return {"opening_fee_params": ENTRY, "payment_size_msat": "42000", **changes}


@pytest.mark.parametrize(
    ("params", "code", "data"),
    [
        ([], -32602, {"unrecognized": []}),
        ({}, -32602, {"unrecognized": []}),
        ({"payment_size_msat": "1"}, -32602, {"unrecognized": []}),
        (buy_with(opening_fee_params=None), -32602, {"unrecognized": []}),
        (buy_with(opening_fee_params=[]), -32602, {"unrecognized": []}),
        (buy_with(payment_size_msat=42000), -32602, {"unrecognized": []}),
        (buy_with(payment_size_msat="042"), -32602, {"unrecognized": []}),
        (buy_with(payment_size_msat=str(2**64)), -32602, {"unrecognized": []}),
        (buy_with(token="x", other=1), -32602, {"unrecognized": ["other", "token"]}),
        (buy_with(opening_fee_params={**ENTRY, "proportional": 1200.0}), -32602, {"unrecognized": []}),
        (buy_with(opening_fee_params={**ENTRY, "valid_until": "1969"}), -32602, {"unrecognized": []}),
        (buy_with(opening_fee_params={**ENTRY, "new": 1}), 201, None),
        (buy_with(opening_fee_params={**ENTRY, "new": 1}, payment_size_msat=1), -32602, {"unrecognized": []}),
        (buy_with(opening_fee_params={**ENTRY, "valid_until": "2023-02-23T08:47:30.5110001Z"}), 201, None),
    ],
)
def test_a_buy_of_the_wrong_shape_gets_its_code(params: object, code: int, data: object) -> None:
    """B-01, B-06 step 1, T-14 … T-17, S-07."""
    with pytest.raises(PeerError) as caught:
        lsps2.parse_buy(params)
    assert (caught.value.code, caught.value.data) == (code, data)


@pytest.mark.parametrize("name", sorted(ENTRY))
def test_a_buy_without_one_key_is_invalid(name: str) -> None:
    """T-17: one case for each key."""
    with pytest.raises(PeerError) as caught:
        lsps2.parse_buy({"opening_fee_params": {key: value for key, value in ENTRY.items() if key != name}})
    assert caught.value.code == -32602


def test_a_size_of_null_is_no_size() -> None:
    """T-16, B-02."""
    assert lsps2.parse_buy(buy_with(payment_size_msat=None)).payment_size_msat is None


@given(
    st.recursive(
        st.none() | st.text() | st.integers() | st.booleans(),
        lambda inner: st.dictionaries(
            st.sampled_from([*ENTRY, "opening_fee_params", "payment_size_msat", "token"]), inner
        ),
        max_leaves=20,
    )
)
def test_params_of_any_shape_are_read_or_refused(params: object) -> None:
    """T-14 … T-17, trap:33: a value or PeerError, never anything else."""
    readers = (lsps2.parse_buy, lsps2.parse_get_info, lsps0.parse_list_protocols)
    assert {code_of(read, params) for read in readers} <= {None, -32602, 201}


def test_buy_answers_as_in_the_example() -> None:
    """B-09, S-08: V:json_rpc.examples."""
    vector = rpc_example("buy response")
    result = lsps2.buy_result(lsps2.parse_scid("29451x4815x1"), 144, False)
    assert lsps0.encode_result(vector["json"]["id"], result) == vector["text"].encode()


@pytest.mark.parametrize("delta", [-1, 65536])
def test_a_delta_that_bolt11_cannot_carry_is_never_sent(delta: int) -> None:
    """B-12, S-04."""
    assert [lsps2.buy_result(1, fits, True)["lsp_cltv_expiry_delta"] for fits in (0, 65535)] == [0, 65535]
    with pytest.raises(ProtocolBug):
        lsps2.buy_result(1, delta, True)


# --- The client -------------------------------------------------------------------------------------------------------

BOUGHT = {"jit_channel_scid": "29451x4815x1", "lsp_cltv_expiry_delta": 144}


@pytest.mark.parametrize("more", [{}, {"client_trusts_lsp": False}, {"client_trusts_lsp": False, "new": 1}])
def test_a_missing_flag_means_false(more: dict[str, Any]) -> None:
    """B-09, T-25."""
    assert lsps2.parse_buy_result({**BOUGHT, **more}) == (32381717265186817, 144, False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jit_channel_scid", 5),
        ("jit_channel_scid", "1x2"),
        ("jit_channel_scid", None),
        ("lsp_cltv_expiry_delta", "144"),
        ("lsp_cltv_expiry_delta", 65536),
        ("lsp_cltv_expiry_delta", True),
        ("client_trusts_lsp", "false"),
        ("client_trusts_lsp", 0),
        ("client_trusts_lsp", None),
    ],
)
def test_a_buy_result_of_the_wrong_type_is_refused(field: str, value: object) -> None:
    """B-16, S-04, S-08, S-11."""
    with pytest.raises(MalformedField, match=f"^{field}: "):
        lsps2.parse_buy_result({**BOUGHT, field: value}, allow_client_trusts_lsp=True)


def test_a_buy_result_must_be_an_object() -> None:
    """B-16."""
    with pytest.raises(MalformedField):
        lsps2.parse_buy_result([])


def test_trust_needs_consent() -> None:
    """B-16."""
    asked = {**BOUGHT, "client_trusts_lsp": True}
    assert lsps2.parse_buy_result(asked, allow_client_trusts_lsp=True).client_trusts_lsp
    with pytest.raises(Unacceptable, match="trusted"):
        lsps2.parse_buy_result(asked)


def test_a_delta_has_a_sane_limit() -> None:
    """B-16: 2016 by default."""
    assert lsps2.parse_buy_result({**BOUGHT, "lsp_cltv_expiry_delta": 2016}).cltv_expiry_delta_blocks == 2016
    with pytest.raises(Unacceptable, match="2017"):
        lsps2.parse_buy_result({**BOUGHT, "lsp_cltv_expiry_delta": 2017})


def choose(menu: list[FeeParams], **wishes: Any) -> lsps2.Choice:
    return lsps2.choose_entry(menu, now_ms=0, our_to_self_delay_blocks=144, **wishes)


def is_acceptable(terms: FeeParams, **wishes: Any) -> bool:
    try:
        choose([terms], **wishes)
    except Unacceptable:
        return False
    return True


def test_the_cheapest_entry_that_fits_is_chosen() -> None:
    """G-13, G-14: whatever its place in the menu."""
    menu = [offer(5000, 0), offer(3000, 0, valid_until_ms=60_000), offer(4000, 0), offer(0, 10_000)]
    assert choose(menu, payment_size_msat=1_000_000) == (menu[2], 4000, 1_000_000)
    assert choose(menu, payment_size_msat=100_000) == (menu[3], 1000, 100_000)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"valid_until_ms": 60_000}, "ends too soon"),
        ({"max_client_to_self_delay_blocks": 143}, "to_self_delay"),
        ({"min_payment_size_msat": 50_001}, "outside"),
        ({"max_payment_size_msat": 49_999}, "outside"),
        ({"min_fee_msat": 50_000}, "leaves nothing"),
        ({"min_fee_msat": 1001}, "above the limit"),
        ({"proportional": 20_001}, "above the limit"),
    ],
)
def test_an_entry_that_does_not_fit_is_passed_over_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    """G-13, G-15, B-04: each condition one step beyond its boundary, the boundary itself fits."""
    good = offer(
        1000,
        20_000,
        valid_until_ms=60_001,
        max_client_to_self_delay_blocks=144,
        min_payment_size_msat=50_000,
        max_payment_size_msat=50_000,
    )
    bad = offer(**{"min_fee_msat": 1000, "proportional": 20_000, **changes})
    wishes = {"payment_size_msat": 50_000, "max_fee_msat": 1000}
    assert choose([bad, good], **wishes) == (good, 1000, 50_000)
    with pytest.raises(Unacceptable, match=reason):
        choose([bad], **wishes)


def test_a_fee_that_overflows_is_told_to_the_caller() -> None:
    """F-03, B-04."""
    with pytest.raises(Unacceptable, match="overflows"):
        choose([offer(0, 2)], payment_size_msat=U64_MAX)


def test_an_empty_menu_means_no_channels_for_now() -> None:
    """G-04."""
    with pytest.raises(Unacceptable, match="the menu is empty"):
        choose([])


def test_the_margin_covers_the_invoice() -> None:
    """G-13: a minute and the life of the invoice."""
    with pytest.raises(Unacceptable, match="ends too soon"):
        choose([offer(1, 0, valid_until_ms=3_660_000)], payment_size_msat=10, needed_ms=3_660_000)
    assert choose([offer(1, 0, valid_until_ms=3_660_001)], payment_size_msat=10, needed_ms=3_660_000).entry


def test_a_variable_buy_is_judged_at_the_largest_amount() -> None:
    """G-15, X-22: named by the caller, capped by the entry."""
    menu = [offer(1000, 10_000, max_payment_size_msat=500_000)]
    assert choose(menu, largest_payment_msat=10**9, max_fee_msat=5000) == (menu[0], 5000, 500_000)
    assert choose(menu, largest_payment_msat=200_000, max_fee_msat=2000) == (menu[0], 2000, 200_000)
    with pytest.raises(Unacceptable, match="above the limit"):
        choose(menu, largest_payment_msat=10**9, max_fee_msat=4999)


@given(
    st.integers(0, 2**40) | st.integers(0, 1000),
    st.integers(0, 2**32 - 1) | st.integers(0, 20_000),
    st.integers(1, U64_MAX),
    st.just(U64_MAX) | st.integers(0, 2**50),
)
def test_a_variable_buy_accepts_as_much_as_the_fee_limit_allows(
    min_fee_msat: int, ppm: int, largest_msat: int, max_fee_msat: int
) -> None:
    """G-15, F-03: the amount returned keeps every limit, and one msat more would break one."""
    terms = offer(min_fee_msat, ppm, max_payment_size_msat=largest_msat)
    assume(is_acceptable(terms, max_fee_msat=max_fee_msat))
    choice = choose([terms], max_fee_msat=max_fee_msat)
    more_msat = terms.fee_msat(min(choice.largest_payment_msat + 1, U64_MAX))
    assert choice.opening_fee_msat == terms.fee_msat(choice.largest_payment_msat)
    assert choice.opening_fee_msat <= max_fee_msat
    assert choice.opening_fee_msat < choice.largest_payment_msat <= largest_msat
    assert choice.largest_payment_msat == largest_msat or more_msat is None or more_msat > max_fee_msat


def test_without_any_limit_a_variable_buy_accepts_what_the_entry_does() -> None:
    """G-15, F-03: but no amount whose fee would overflow."""
    assert choose([offer(5, 0)]).largest_payment_msat == U64_MAX
    assert choose([offer(5, 1)]).largest_payment_msat == U64_MAX - 999_999


def test_variable_offers_are_compared_at_one_amount() -> None:
    """G-13: a lower cap does not make an entry look cheaper."""
    dear = offer(0, 20_000, max_payment_size_msat=100_000)
    cheap = offer(0, 10_000, max_payment_size_msat=10**9)
    assert choose([dear, cheap]).entry is cheap


def test_of_two_equal_fees_the_longer_offer_is_chosen() -> None:
    """G-13."""
    menu = [offer(1000, 0), offer(1000, 1, valid_until_ms=90_000_000)]
    assert choose(menu, payment_size_msat=50_000).entry is menu[1]


# --- Channel size -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", WIRE["channel_capacity"], ids=lambda row: row["name"])
def test_the_smallest_channel_is_that_of_the_vectors(row: dict[str, Any]) -> None:
    """O-03: V:channel_capacity."""
    names = ("parts", "feerate_perkw", "anchors", "zero_reserve", "dust_limit_sat")
    got = lsps2.min_capacity_sat(int(row["sum_forward_msat"]), *(row[name] for name in names))
    assert got == row["min_capacity_sat"]


@given(
    st.integers(0, 10**13),
    st.integers(1, 483),
    st.integers(253, 100_000),
    st.booleans(),
    st.booleans(),
    st.integers(294, 10_000),
)
def test_the_smallest_channel_is_enough_and_one_sat_less_is_not(
    forward_msat: int, parts: int, feerate: int, anchors: bool, zero_reserve: bool, dust_sat: int
) -> None:
    """O-03: the inequality of the digest, word for word."""
    capacity_sat = lsps2.min_capacity_sat(forward_msat, parts, feerate, anchors, zero_reserve, dust_sat)
    weight, anchors_msat = {True: (1124, 660_000), False: (724, 0)}[anchors]
    fee_msat = 2 * Fraction(feerate * (weight + 172 * (parts + 1)), 1000).__ceil__() * 1000

    def enough(sat: int) -> bool:
        reserve_sat = max(Fraction(sat, 100).__ceil__(), dust_sat) * (not zero_reserve)
        return sat * 1000 >= forward_msat + reserve_sat * 1000 + fee_msat + anchors_msat

    assert enough(capacity_sat)
    assert not enough(capacity_sat - 1)


def test_an_entry_survives_any_json_writer() -> None:
    """B-03, B-10: what the journal keeps is read back as the same entry."""
    params = entry(valid_until="2030-01-01T00:00:00Z")
    again = FeeParams.from_json(json.loads(msgspec.json.encode(params.to_json())))
    assert again == params
    assert again.to_json() == params.to_json()
