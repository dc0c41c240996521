"""Orders of channels (bLIP-51) without a node: requests, answers, and which state follows which."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import PeerError, ProtocolBug
from lsps2fast.lsps import lsps1
from lsps2fast.lsps.lsps1 import GRID, Fact, Info, OrderAsk, OrderState, OrderStatus, state_after

INFO = Info(
    min_required_channel_confirmations=0,
    min_funding_confirms_within_blocks=12,
    supports_zero_channel_reserve=False,
    max_channel_expiry_blocks=12_960,
    min_initial_client_balance_sat=0,
    max_initial_client_balance_sat=0,
    min_initial_lsp_balance_sat=100_000,
    max_initial_lsp_balance_sat=10_000_000,
    min_channel_balance_sat=100_000,
    max_channel_balance_sat=10_000_000,
)
GOOD: dict[str, Any] = {
    "lsp_balance_sat": "200000",
    "client_balance_sat": "0",
    "required_channel_confirmations": 0,
    "funding_confirms_within_blocks": 12,
    "channel_expiry_blocks": 4_320,
    "announce_channel": False,
}
S = OrderState


def refused(params: object) -> PeerError:
    """What an order is refused with."""
    with pytest.raises(PeerError) as error:
        lsps1.parse_create_order(params, INFO)
    return error.value


def test_what_is_sold_is_written_as_the_specification_has_it() -> None:
    """E-02: ten members, satoshis as strings."""
    told = INFO.to_json()
    assert len(told) == 10
    assert told["max_initial_lsp_balance_sat"] == "10000000"
    assert told["max_channel_expiry_blocks"] == 12_960
    assert told["supports_zero_channel_reserve"] is False


def test_get_info_knows_no_parameters() -> None:
    """E-01: none are needed, and others are named."""
    lsps1.parse_get_info({})
    with pytest.raises(PeerError) as error:
        lsps1.parse_get_info({"x": 1})
    assert (error.value.code, (error.value.data or {})["unrecognized"]) == (-32602, ["x"])


def test_an_order_is_read() -> None:
    """E-04: token and address may be left out, or be null."""
    ask = lsps1.parse_create_order(GOOD, INFO)
    null = lsps1.parse_create_order({**GOOD, "token": None, "refund_onchain_address": None}, INFO)
    assert (null.token, null.refund_onchain_address) == (None, None)
    assert (ask.lsp_balance_sat, ask.capacity_sat, ask.token, ask.refund_onchain_address) == (
        200_000,
        200_000,
        "",
        None,
    )
    full = lsps1.parse_create_order({**GOOD, "token": "abc", "refund_onchain_address": "bc1q"}, INFO)
    assert (full.token, full.refund_onchain_address) == ("abc", "bc1q")


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("value", [None, 1.5, -1, "x", "01", [], {}, 2**64, "18446744073709551616"])
def test_each_member_is_checked(name: str, value: object) -> None:
    """E-05: -32602 with the member's name; and so for one that is missing."""
    error = refused({**GOOD, name: value})
    assert (error.code, (error.data or {})["property"]) == (-32602, name)
    left_out = refused({key: each for key, each in GOOD.items() if key != name})
    assert (left_out.data or {})["property"] == name
    assert (left_out.data or {})["message"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"lsp_balance_sat": "0"}, "lsp_balance_sat"),
        ({"channel_expiry_blocks": 0}, "channel_expiry_blocks"),
        ({"announce_channel": 1}, "announce_channel"),
        ({"token": 5}, "token"),
        ({"refund_onchain_address": 5}, "refund_onchain_address"),
        ({"refund_onchain_address": "b" * 101}, "refund_onchain_address"),
        ({"surprise": 5}, "surprise"),
        ({"required_channel_confirmations": 65_536}, "required_channel_confirmations"),
    ],
)
def test_wrong_members(change: dict[str, Any], name: str) -> None:
    """E-05: what is no order at all."""
    error = refused({**GOOD, **change})
    assert (error.code, (error.data or {})["property"]) == (-32602, name)


@pytest.mark.parametrize("params", [None, [], "x", 5, [GOOD]])
def test_parameters_by_name_only(params: object) -> None:
    """E-05, T-14."""
    assert refused(params).code == -32602


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"lsp_balance_sat": "99999"}, "min_initial_lsp_balance_sat"),
        ({"lsp_balance_sat": "10000001"}, "max_initial_lsp_balance_sat"),
        ({"client_balance_sat": "1"}, "max_initial_client_balance_sat"),
        ({"lsp_balance_sat": "10000000", "client_balance_sat": "1"}, "max_initial_client_balance_sat"),
        ({"funding_confirms_within_blocks": 11}, "min_funding_confirms_within_blocks"),
        ({"channel_expiry_blocks": 12_961}, "max_channel_expiry_blocks"),
    ],
)
def test_what_is_not_sold(change: dict[str, Any], name: str) -> None:
    """E-06: 100 with the member of get_info that forbids it."""
    error = refused({**GOOD, **change})
    assert (error.code, error.message, (error.data or {})["property"]) == (100, "Option mismatch", name)


def test_the_bounds_themselves_are_sold() -> None:
    """E-06: each of them is within."""
    for change in ({"lsp_balance_sat": "100000"}, {"lsp_balance_sat": "10000000"}, {"channel_expiry_blocks": 12_960}):
        lsps1.parse_create_order({**GOOD, **change}, INFO)
    strict = INFO._replace(min_required_channel_confirmations=1, max_channel_balance_sat=150_000)
    for name in ("min_required_channel_confirmations", "max_channel_balance_sat"):
        loose = {"max_channel_balance_sat": 10**7} if name.startswith("min") else {}
        also = {} if name.startswith("min") else {"required_channel_confirmations": 1}
        with pytest.raises(PeerError) as error:
            lsps1.parse_create_order({**GOOD, **also}, strict._replace(**loose))
        assert (error.value.data or {})["property"] == name


@pytest.mark.parametrize("params", [{}, {"order_id": 5}, {"order_id": None}, {"order_id": "x", "more": 1}, None])
def test_an_order_is_asked_for_by_its_id(params: object) -> None:
    """E-11: -32602 for anything else; an id that is none is not found, whatever it looks like."""
    assert lsps1.parse_get_order({"order_id": "no uuid"}) == "no uuid"
    with pytest.raises(PeerError) as error:
        lsps1.parse_get_order(params)
    assert error.value.code == -32602
    assert (lsps1.order_not_found().code, lsps1.order_not_found().data) == (101, {})


def status(state: OrderState, paid: bool = False, sent: bool = False) -> dict[str, Any]:
    """What the client of an order hears."""
    ask = lsps1.parse_create_order(GOOD, INFO)
    funded = {"funded_ms": 1_700_000_000_000, "funding_outpoint": "ab:1", "lease_ends_ms": 1_702_592_000_000}
    return OrderStatus(
        "id", ask, state, paid, 1_600_000_000_000, 1_600_003_600_000, 1_500, "lnbcrt1", **(funded if sent else {})
    ).to_json()


def test_an_order_is_told() -> None:
    """E-08, E-09: the request mirrored, the invoice, no other way to pay."""
    told = status(S.EXPECTED)
    assert {name: told[name] for name in GOOD} == GOOD
    assert (told["token"], told["channel"], told["order_state"]) == ("", None, "CREATED")
    assert told["created_at"] == "2020-09-13T12:26:40.000Z"
    assert told["payment"] == {
        "bolt11": {
            "state": "EXPECT_PAYMENT",
            "expires_at": "2020-09-13T13:26:40.000Z",
            "fee_total_sat": "1500",
            "order_total_sat": "1500",
            "invoice": "lnbcrt1",
        }
    }


@pytest.mark.parametrize(
    ("state", "paid", "order_state", "payment_state"),
    [
        (S.EXPECTED, False, "CREATED", "EXPECT_PAYMENT"),
        (S.HELD, False, "CREATED", "HOLD"),
        (S.HELD, True, "CREATED", "PAID"),
        (S.OPENING, False, "CREATED", "HOLD"),
        (S.FUNDED, False, "CREATED", "HOLD"),
        (S.SENT, False, "COMPLETED", "HOLD"),
        (S.SENT, True, "COMPLETED", "PAID"),
        (S.DONE, True, "COMPLETED", "PAID"),
        (S.REFUNDING, False, "FAILED", "REFUNDED"),
        (S.REFUNDING, True, "CREATED", "PAID"),
        (S.FAILED, False, "FAILED", "REFUNDED"),
    ],
)
def test_states_are_told_in_the_words_of_the_specification(
    state: OrderState, paid: bool, order_state: str, payment_state: str
) -> None:
    """E-10, E-12."""
    told = status(state, paid, sent=state in (S.SENT, S.DONE))
    assert (told["order_state"], told["payment"]["bolt11"]["state"]) == (order_state, payment_state)
    assert (told["channel"] is not None) == (order_state == "COMPLETED")


def test_a_channel_is_told() -> None:
    """E-13: when its funding was sent, where it is, and how long it stays."""
    assert status(S.SENT, True, sent=True)["channel"] == {
        "funded_at": "2023-11-14T22:13:20.000Z",
        "funding_outpoint": "ab:1",
        "expires_at": "2023-12-14T22:13:20.000Z",
    }


# The grid ----------------------------------------------------------------------------------------


def test_every_cell_is_filled() -> None:
    """E-12: each state with each fact: a state, the same, or what our own driver must never say."""
    assert set(GRID) == set(Fact)
    for row in GRID.values():
        cells = row.split()
        assert len(cells) == len(OrderState)
        for cell in cells:
            assert cell in ("!", "=") or all(OrderState(name) for name in cell.split("|"))


def facts_of(state: OrderState, paid: bool) -> list[tuple[Fact, OrderState]]:
    """Every fact that may be told in a state, and what follows."""
    found = []
    for fact in Fact:
        try:
            found.append((fact, state_after(state, paid or fact is Fact.PAID, fact)))
        except ProtocolBug:
            continue
    return found


@given(st.data())
def test_any_way_through_the_grid(data: st.DataObject) -> None:
    """E-12, rule:2: nothing is taken and refused; what was paid never ends without a channel; each way may end."""
    state, paid, sent, refunded = S.EXPECTED, False, False, False
    for _ in range(40):
        options = facts_of(state, paid)
        if not options or state.is_over:
            break
        fact, following = data.draw(st.sampled_from(options))
        paid = paid or fact is Fact.PAID
        sent = sent or following is S.SENT
        refunded = refunded or following is S.FAILED
        if following is S.SENT:
            assert state in (S.FUNDED, S.SENT)
        if following is S.FAILED:
            assert not paid
        state = following
    assert not (sent and refunded)


def test_every_state_can_come_to_its_end() -> None:
    """E-12: paid ones at DONE and nowhere else, unpaid ones also at FAILED."""
    for paid in (False, True):
        ends = {state: {state} for state in OrderState}
        for _ in OrderState:
            for state in OrderState:
                for fact, following in facts_of(state, paid):
                    if paid or fact is not Fact.PAID:
                        ends[state] |= ends[following]
        for state in (each for each in OrderState if not each.is_over):
            assert S.DONE in ends[state] or not paid
            assert (S.FAILED in ends[state]) == (not paid and state is not S.SENT), state


def test_what_cannot_be_is_a_bug_of_ours() -> None:
    """E-12: a funding that was sent without a channel, a failed order that is paid."""
    for state, fact in ((S.HELD, Fact.SENT), (S.FAILED, Fact.PAID), (S.EXPECTED, Fact.COINS)):
        with pytest.raises(ProtocolBug):
            state_after(state, False, fact)


def test_an_order_of_no_client_balance_has_the_size_of_ours() -> None:
    """E-14."""
    ask = OrderAsk(
        lsp_balance_sat=5,
        client_balance_sat=2,
        required_channel_confirmations=0,
        funding_confirms_within_blocks=6,
        channel_expiry_blocks=1,
        announce_channel=True,
    )
    assert ask.capacity_sat == 7
