"""Menus, choices and buys: what the wallet accepts from an LSP, and what it never pays."""

from __future__ import annotations

from typing import Any

import pytest
from harness.client import JIT_SCID, LSP, NOW_MS, OTHER_LSP, STRANGER, Json, Lsp, Stage, Staging, entry, failure_of

from lsps2fast.errors import ConfigError, PeerError
from lsps2fast.lsps.lsps2 import Unacceptable, format_datetime
from lsps2fast_plugin.client.lsps0_client import Unavailable
from lsps2fast_plugin.client.records import Distrust


def asked(stage: Stage, method: str) -> list[Json]:
    return [request["params"] for request in stage.lsp.asked if request["method"] == method]


async def test_protocols_may_be_any_numbers(staged: Staging) -> None:
    """T-34, T-35."""
    async with staged() as stage:
        stage.lsp.result = lambda request: {"protocols": [2, 300, 65000], "more": 1}  # type: ignore[method-assign]
        assert await stage.client.methods.list_protocols(LSP.upper().replace("0X", "0x")) == {
            "protocols": [2, 300, 65000]
        }


@pytest.mark.parametrize("protocols", [None, "2", [0], [2.0], [True], {}])
async def test_protocols_of_a_wrong_shape_are_refused(staged: Staging, protocols: Any) -> None:
    """T-35."""
    async with staged() as stage:
        stage.lsp.result = lambda request: {"protocols": protocols}  # type: ignore[method-assign]
        with pytest.raises(Unacceptable, match="breaks the rules"):
            await stage.client.methods.list_protocols(LSP)


async def test_a_menu_comes_as_it_was_sent(staged: Staging) -> None:
    """T-25: unknown members around it are ignored; inside nothing changes."""
    async with staged() as stage:
        stage.lsp.mutate = lambda reply: {**reply, "result": {**reply["result"], "new": 1}, "x": 2}
        assert await stage.client.methods.get_info(LSP) == {"opening_fee_params_menu": stage.lsp.entries}


def many(count: int) -> list[Json]:
    return [entry(min_fee_msat=str(1_000_000 + number)) for number in range(count)]


@pytest.mark.parametrize(
    "menu",
    [
        None,
        {},
        [[]],
        [{}],
        [entry(extra="x")],
        [entry(), entry(proportional=20_000, **{"": 1})],
        [entry(min_fee_msat=1)],
        [entry(min_fee_msat="+1")],
        [entry(proportional="1")],
        [entry(proportional=1.0)],
        [entry(proportional=True)],
        [entry(valid_until="2030-01-01")],
        [entry(min_lifetime=-1)],
        [entry(max_client_to_self_delay=2**32)],
        [entry(promise=7)],
        [entry(promise="p" * 513)],
        [entry(promise="ü" * 257)],
        [entry(promise='"' * 257)],
        [{key: value for key, value in entry().items() if key != "promise"}],
    ],
    ids=lambda menu: repr(menu)[:50],
)
async def test_a_menu_with_anything_wrong_is_refused_whole(staged: Staging, menu: Any) -> None:
    """G-11, S-01 to S-06: extra keys, missing keys, types, promises over 512 bytes; no partial use."""
    async with staged() as stage:
        stage.lsp.entries = menu
        with pytest.raises(Unacceptable, match="breaks the rules"):
            await stage.invoice()
        assert not asked(stage, "lsps2.buy")
        assert not stage.working


async def test_a_promise_is_opaque_and_512_bytes_long_at_most(staged: Staging) -> None:
    """G-11, G-12: odd text survives byte for byte."""
    async with staged() as stage:
        stage.lsp.entries = [entry(promise="ü</>" + "p" * 506)]
        await stage.invoice()
        assert asked(stage, "lsps2.buy")[0]["opening_fee_params"]["promise"] == "ü</>" + "p" * 506


async def test_an_oversized_menu_is_a_menu(staged: Staging) -> None:
    """T-30: as much as a peer message holds; the cheapest is chosen."""
    async with staged() as stage:
        stage.lsp.entries = many(200)
        invoice = await stage.invoice()
        assert invoice["opening_fee_msat"] == 1_000_000


async def test_a_menu_out_of_order_is_noted_and_the_cheapest_taken(staged: Staging) -> None:
    """G-14: binds the LSP, not us."""
    async with staged() as stage:
        stage.lsp.entries = [entry(min_fee_msat="3000000"), entry(min_fee_msat="2000000")]
        assert (await stage.invoice())["opening_fee_msat"] == 2_000_000
        assert "out of order" in stage.host.said("warn")


@pytest.mark.parametrize(
    "unusable",
    [
        {"valid_until": format_datetime(NOW_MS + 100_000)},
        {"max_client_to_self_delay": 143},
        {"max_payment_size_msat": "19999999"},
        {"min_payment_size_msat": "20000001"},
        {"min_fee_msat": "20000000"},
        {"proportional": 2**64 - 1},
    ],
    ids=str,
)
async def test_the_first_entry_may_be_unusable(staged: Staging, unusable: Json) -> None:
    """G-13: too short, too small a delay, out of range, all of the payment, overflow."""
    async with staged() as stage:
        stage.lsp.entries = [entry(min_fee_msat="1") | unusable, entry(min_fee_msat="2000000")]
        assert (await stage.invoice())["opening_fee_msat"] == 2_000_000
        stage.lsp.entries = stage.lsp.entries[:1]
        with pytest.raises(Unacceptable):
            await stage.invoice()


async def test_an_empty_menu_sells_nothing(staged: Staging) -> None:
    """G-04."""
    async with staged() as stage:
        stage.lsp.entries = []
        with pytest.raises(Unacceptable, match="empty"):
            await stage.invoice()


async def test_the_chosen_entry_goes_back_verbatim(staged: Staging) -> None:
    """B-02, B-03: the LSP's own texts, also of a datetime without milliseconds (S-06)."""
    async with staged() as stage:
        stage.lsp.entries = [entry(valid_until="2030-01-01T00:00:00Z")]
        await stage.invoice()
        assert asked(stage, "lsps2.buy") == [
            {"opening_fee_params": stage.lsp.entries[0], "payment_size_msat": "20000000"}
        ]


async def test_a_variable_buy_names_no_size(staged: Staging) -> None:
    """B-02."""
    async with staged() as stage:
        await stage.invoice("any")
        assert asked(stage, "lsps2.buy") == [{"opening_fee_params": stage.lsp.entries[0]}]


@pytest.mark.parametrize(
    ("amount_msat", "works"),
    [(1_499_999, False), (1_500_000, False), (2_000_000, True), (4_000_000_000, True), (4_000_000_001, False)],
)
async def test_a_size_outside_the_limits_is_not_asked_for(staged: Staging, amount_msat: int, works: bool) -> None:
    """B-04; 1 500 000 msat would cost 66 %, above the default limit of half."""
    async with staged() as stage:
        failed = await failure_of(stage.invoice(amount_msat))
        assert isinstance(failed, Unacceptable) != works
        assert bool(asked(stage, "lsps2.buy")) == works


@pytest.mark.parametrize(
    ("limits", "works"),
    [
        ({}, True),
        ({"max_fee_msat": 999_999}, False),
        ({"max_fee_msat": "1000sat"}, True),
        ({"max_fee_ppm": 49_999}, False),
        ({"max_fee_ppm": 50_000}, True),
        ({"max_fee_msat": 10**12, "max_fee_ppm": 10**6}, True),
    ],
    ids=str,
)
async def test_a_call_can_tighten_the_fee_ceiling(staged: Staging, limits: Json, works: bool) -> None:
    """G-15: before lsps2.buy is asked."""
    async with staged() as stage:
        failed = await failure_of(stage.invoice(**limits))
        assert ("limit" in str(failed)) != works
        assert bool(asked(stage, "lsps2.buy")) == works


@pytest.mark.parametrize(
    "limits", [{"max_fee_msat": 999_999}, {"max_fee_ppm": 49_999}, {"max_fee_ppm": 9_999}], ids=str
)
async def test_a_call_cannot_widen_the_owners_ceiling(staged: Staging, limits: Json) -> None:
    """G-15: lsps2-max-fee-msat and lsps2-max-fee-ppm."""
    async with staged(**limits) as stage:
        with pytest.raises(Unacceptable, match="limit"):
            await stage.invoice(max_fee_msat=10**12, max_fee_ppm=10**6)
        assert not asked(stage, "lsps2.buy")


async def test_a_variable_invoice_accepts_only_what_the_ceiling_allows(staged: Staging) -> None:
    """G-15, X-22: the fee at the largest payment is within the limit, and that payment is the cap."""
    async with staged() as stage:
        invoice = await stage.invoice("any", max_fee_msat=2_000_000)
        assert (invoice["largest_payment_msat"], invoice["opening_fee_msat"]) == (200_000_000, 2_000_000)
        named = await stage.invoice("any", max_payment_msat=50_000_000)
        assert named["largest_payment_msat"] == 50_000_000
        with pytest.raises(Unacceptable, match="ppm"):
            await stage.invoice("any", max_payment_msat=2_000_000, max_fee_ppm=100_000)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"jit_channel_scid": "1x1"},
        {"jit_channel_scid": "16777216x1x1"},
        {"jit_channel_scid": 5},
        {"lsp_cltv_expiry_delta": "144"},
        {"lsp_cltv_expiry_delta": 65_536},
        {"lsp_cltv_expiry_delta": 2_017},
        {"lsp_cltv_expiry_delta": -1},
        {"client_trusts_lsp": "false"},
        {"client_trusts_lsp": 0},
    ],
    ids=str,
)
async def test_a_buy_result_of_a_wrong_shape_is_refused(staged: Staging, result: Json) -> None:
    """B-16, S-08, S-11: nothing is approved."""
    async with staged() as stage:
        good = {"jit_channel_scid": JIT_SCID, "lsp_cltv_expiry_delta": 144, "client_trusts_lsp": False}
        answer = {} if not result else good | result
        stage.lsp.result = lambda request: answer if request["method"] == "lsps2.buy" else stage.lsp.menu()  # type: ignore[method-assign]
        with pytest.raises(Unacceptable):
            await stage.invoice()
        assert not stage.working
        assert not stage.node.invoices


async def test_trust_is_given_only_by_name(staged: Staging) -> None:
    """B-16: client-trusts-LSP needs the owner's consent, for this call or for this LSP."""
    async with staged() as stage:
        stage.lsp.trust = True
        with pytest.raises(Unacceptable, match="asks to be trusted"):
            await stage.invoice()
        with pytest.raises(Unacceptable, match="asks to be trusted"):
            await stage.invoice(client_trusts_lsp=False)
        assert (await stage.invoice(client_trusts_lsp=True))["client_trusts_lsp"] is True


@pytest.mark.parametrize(("trusted", "works"), [({LSP}, True), ({"any"}, True), ({OTHER_LSP}, False)], ids=str)
async def test_the_owner_can_name_lsps_to_trust(staged: Staging, trusted: set[str], works: bool) -> None:
    """B-16: lsps2-trusted-lsp."""
    async with staged(trusted=frozenset(trusted)) as stage:
        stage.lsp.trust = True
        failed = await failure_of(stage.invoice())
        assert ("trusted" in str(failed)) != works
        assert bool(stage.node.invoices) == works


async def test_an_lsp_that_broke_its_word_gets_no_trust_again(staged: Staging) -> None:
    """trap:46: whatever is asked for, until the owner forgives."""
    async with staged(trusted=frozenset({LSP})) as stage:
        stage.lsp.trust = True
        await stage.client.book.distrust(Distrust(LSP, "withheld", NOW_MS))
        with pytest.raises(Unacceptable, match="trusted"):
            await stage.invoice(client_trusts_lsp=True)
        assert await stage.client.methods.trust(LSP) == {"lsp_id": LSP, "was_distrusted": True}
        assert await stage.client.methods.trust(LSP) == {"lsp_id": LSP, "was_distrusted": False}
        assert await stage.invoice(client_trusts_lsp=True)


@pytest.mark.parametrize(("refusals", "works"), [(1, True), (2, False)])
async def test_an_offer_that_has_just_gone_is_fetched_again_once(staged: Staging, refusals: int, works: bool) -> None:
    """I-34: code 201."""
    async with staged() as stage:
        stage.lsp.errors["lsps2.buy"] = [{"code": 201, "message": "x"}] * refusals
        failed = await failure_of(stage.invoice())
        assert isinstance(failed, PeerError) != works
        assert getattr(failed, "code", 201) == 201
        assert bool(stage.node.invoices) == works
        assert (len(asked(stage, "lsps2.get_info")), len(asked(stage, "lsps2.buy"))) == (2, 2)


@pytest.mark.parametrize("code", [1, 200, 202, 203, -32602, -32603])
async def test_other_refusals_are_final_and_leave_nothing(staged: Staging, code: int) -> None:
    """I-34, I-01."""
    async with staged() as stage:
        data = {"message": "m", "unrecognized": []}
        stage.lsp.errors["lsps2.buy"] = [{"code": code, "message": "x", "data": data}]
        with pytest.raises(PeerError) as failed:
            await stage.invoice()
        assert failed.value.code == code
        assert not stage.working


async def test_an_lsp_that_is_not_connected_is_dialled(staged: Staging) -> None:
    """T-38, I-19."""
    async with staged() as stage:
        stage.node.peers.clear()
        with pytest.raises(Unavailable, match=f"Not connected to peer {LSP}"):
            await stage.invoice()
        stage.node.reachable.add(LSP)
        assert await stage.invoice()


async def test_a_low_level_buy_answers_like_clns(staged: Staging) -> None:
    """Drop-in: lsps-lsps2-buy gives the LSP's three members; the buy is kept for lsps-lsps2-approve."""
    async with staged() as stage:
        entry_sent = (await stage.client.methods.get_info(LSP))["opening_fee_params_menu"][0]
        bought = await stage.client.methods.buy(LSP, "20000000", entry_sent)
        assert bought == {"jit_channel_scid": JIT_SCID, "lsp_cltv_expiry_delta": 144, "client_trusts_lsp": False}
        assert stage.keys == {f"{LSP}/{JIT_SCID}"}
        stage.node.own("11" * 32)
        assert await stage.client.methods.approve(LSP, JIT_SCID, "11" * 32) == {}
        assert stage.keys == {"11" * 32}
        (approval,) = stage.client.book.approvals.values()
        assert (approval.buy.payment_size_msat, approval.buy.opening_fee_msat) == (20_000_000, 1_000_000)


async def test_a_buy_made_elsewhere_is_approved_with_its_terms(staged: Staging) -> None:
    """Drop-in: without the fee nothing can be checked, so it must be told; trust is what the caller says."""
    async with staged() as stage:
        with pytest.raises(ConfigError, match="no buy with this scid"):
            await stage.client.methods.approve(LSP, "1x2x3", "11" * 32)
        stage.node.own("11" * 32)
        await stage.client.methods.approve(LSP, "1x2x3", "11" * 32, True, entry(), "20000000")
        (approval,) = stage.client.book.approvals.values()
        assert (approval.buy.client_trusts_lsp, approval.buy.consent) == (True, True)
        with pytest.raises(ConfigError, match="approved already"):
            await stage.client.methods.approve(LSP, "1x2x3", "11" * 32, True, entry(), "20000000")


async def test_an_offer_that_is_over_is_not_approved(staged: Staging) -> None:
    """I-33."""
    async with staged() as stage:
        await stage.client.methods.buy(LSP, None, stage.lsp.entries[0])
        stage.clock._offset_ms += 3_600_000
        with pytest.raises(ConfigError, match="ended"):
            await stage.client.methods.approve(LSP, JIT_SCID, "11" * 32)


async def test_compare_puts_the_cheapest_first_and_says_why_others_are_out(staged: Staging) -> None:
    """lsps2-compare."""
    async with staged() as stage:
        stage.lsps[OTHER_LSP] = Lsp(OTHER_LSP, min_fee_msat="500000")
        stage.lsps[STRANGER] = Lsp(STRANGER)
        stage.lsps[STRANGER].errors["lsps2.get_info"] = [{"code": 1, "message": "x", "data": {"message": "no"}}]
        stage.node.peers |= {OTHER_LSP: {}, STRANGER: {}}
        answer = await stage.client.methods.compare(20_000_000, [LSP, OTHER_LSP, STRANGER])
        assert [(offer["lsp_id"], offer["opening_fee_msat"], offer["receive_msat"]) for offer in answer["offers"]] == [
            (OTHER_LSP, 500_000, 19_500_000),
            (LSP, 1_000_000, 19_000_000),
        ]
        (refused,) = answer["refused"]
        assert (refused["lsp_id"], refused["code"]) == (STRANGER, 1)


async def test_compare_asks_by_default_those_that_say_they_sell(staged: Staging) -> None:
    """T-33: feature bit 729 of connected peers, though it is no duty."""
    async with staged() as stage:
        stage.lsps[OTHER_LSP] = Lsp(OTHER_LSP)
        stage.node.peers[OTHER_LSP] = {"features": "02" + "00" * 91}
        stage.node.peers[STRANGER] = {"features": "zz"}
        answer = await stage.client.methods.compare("any")
        assert [offer["lsp_id"] for offer in answer["offers"]] == [OTHER_LSP]
        assert answer["refused"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"lsp_id": "02" + "0" * 63},
        {"lsp_id": 7},
        {"amount_msat": 0},
        {"amount_msat": None},
        {"amount_msat": "10eur"},
        {"amount_msat": True},
        {"amount_msat": -5},
        {"amount_msat": 2**64},
        {"max_fee_ppm": 1_000_001},
        {"max_fee_ppm": "x"},
        {"max_fee_msat": "1.5"},
        {"client_trusts_lsp": "perhaps"},
        {"client_trusts_lsp": 1},
        {"token": 5},
        {"description": None},
        {"description": "x" * 640},
        {"label": None},
        {"label": True},
        {"label": ""},
        {"expiry": 59},
        {"expiry": "soon"},
    ],
    ids=str,
)
async def test_wrong_parameters_are_refused_before_anything_is_asked(staged: Staging, wrong: Json) -> None:
    """-32602 with a sentence."""
    async with staged() as stage:
        given = {"amount_msat": 20_000_000} | wrong
        with pytest.raises(ConfigError):
            await stage.invoice(given.pop("amount_msat"), **given)
        assert not stage.lsp.asked


@pytest.mark.parametrize(
    "amount", [20_000_000, "20000000", "20000000msat", "20000sat", "0.00020000btc", "0.0002btc"], ids=str
)
async def test_amounts_as_lightningd_takes_them(staged: Staging, amount: Any) -> None:
    """Drop-in: AmountOrAny."""
    async with staged() as stage:
        await stage.invoice(amount)
        assert asked(stage, "lsps2.buy")[0]["payment_size_msat"] == "20000000"
