"""The policy where clients feel it: tokens and their quotas, trust per buy, the operator's plugin, pause and reload."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from harness.negotiator import ALICE, BOB, SIZE_MSAT, WALL_MS, Datastore, Json, Shop
from harness.policy import facts

from lsps2fast.errors import NodeError, StoreError
from lsps2fast.lsps.lsps0 import INTERNAL_ERROR
from lsps2fast.lsps.promise import token_hash
from lsps2fast_plugin.service.liquidity import Feerates, Liquidity
from lsps2fast_plugin.service.policy.external import BUY, GET_POLICY
from lsps2fast_plugin.service.session_record import FRESH, StoredSession, Unread

POLICY = """
[[fee_line]]
min_fee_msat = 1_000_000
proportional_ppm = 10_000

[floor]
factor_percent = 0

[[token]]
token = "spring"
label = "spring campaign"
discount_percent = 50
max_uses = 2

[[token]]
token = "partner"
trust = "client-trusts-lsp"

  [[token.fee_line]]
  min_fee_msat = 10_000
  proportional_ppm = 100

[[token]]
token = "gone"
revoked = true
"""
USES = ("lsps", "lsps2", "tokens", token_hash("spring").hex())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy file with tokens."""
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def rewrite(file: Path, text: str) -> None:
    """The operator saves the file."""
    file.write_text(text)


def fees(menu: list[Json]) -> list[str]:
    """The smallest fees."""
    return [entry["min_fee_msat"] for entry in menu]


# --- Tokens -----------------------------------------------------------------------------------------------------------


async def test_a_token_opens_its_own_menu_and_an_unknown_one_none(file: Path) -> None:
    """G-10, G-03: discount, lines of its own, unknown, revoked; each refusal under its name."""
    shop = Shop(lsps2_policy_file=str(file))
    assert fees(await shop.menu()) == ["1000000"]
    assert fees(await shop.menu(token="spring")) == ["500000"]
    assert fees(await shop.menu(token="partner")) == ["10000"]
    for token in ("gone", "unknown"):
        answer = await shop.ask(ALICE, "lsps2.get_info", {"token": token})
        assert answer["error"] == {"code": 200, "message": "unrecognized_or_stale_token"}
    assert shop.counted() == {"token_revoked": 1, "token_unknown": 1}


async def test_a_quota_is_never_exceeded(file: Path) -> None:
    """Two uses, whatever was offered before; 200 for new menus, 201 for old offers."""
    shop = Shop(lsps2_policy_file=str(file))
    (offer,) = await shop.menu(token="spring")
    codes = await asyncio.gather(*(shop.code(offer) for _ in range(5)))
    assert sorted(codes, key=str) == [201, 201, 201, None, None]
    assert shop.datastore.commits == 0  # the buys themselves are what is counted
    assert (await shop.ask(ALICE, "lsps2.get_info", {"token": "spring"}))["error"]["code"] == 200
    assert shop.counted()["token_used_up"] == 4


async def test_a_quota_survives_a_restart(file: Path) -> None:
    """K-24: the buys in the journal are the uses."""
    shop = Shop(lsps2_policy_file=str(file))
    (offer,) = await shop.menu(token="spring")
    assert [await shop.code(offer), await shop.code(offer)] == [None, None]
    again = Shop(lsps2_policy_file=str(file), datastore=shop.datastore)
    await again.desk.load([StoredSession(buy, FRESH, None) for buy in shop.sold])
    assert await again.code(offer) == 201


async def test_a_buy_that_is_not_stored_gives_its_use_back(file: Path) -> None:
    """T-18: no lasting effect of a request that failed."""
    shop = Shop(lsps2_policy_file=str(file))
    (offer,) = await shop.menu(token="spring")
    shop.store_error = StoreError("disk full")
    assert [await shop.code(offer) for _ in range(5)] == [-32603] * 5
    shop.store_error = None
    assert [await shop.code(offer) for _ in range(3)] == [None, None, 201]


async def test_a_record_of_an_earlier_version_is_written_before_anything_is_sold(file: Path) -> None:
    """K-24: its number counted the journal's buys, too; read once more beside others it would count them twice."""
    shop = Shop(lsps2_policy_file=str(file))
    shop.datastore.rows[USES] = json.dumps({"version": 1, "uses": 1}).encode().hex()
    await shop.desk.load()
    assert json.loads(bytes.fromhex(shop.datastore.rows[USES])) == {"version": 2, "uses": 1, "leaving": []}
    (offer,) = await shop.menu(token="spring")
    assert [await shop.code(offer) for _ in range(2)] == [None, 201]


async def test_a_buy_that_is_not_understood_is_a_use_of_the_token_that_it_names(file: Path) -> None:
    """K-08: it may be one of a newer version; its token's quota counts it, the others' do not."""
    shop = Shop(lsps2_policy_file=str(file))
    (offer,) = await shop.menu(token="spring")
    await shop.desk.load(unread=[Unread(None, f"… {token_hash('spring').hex()} …".encode()), Unread(7, b"")])
    assert [await shop.code(offer) for _ in range(2)] == [None, 201]


async def test_an_offer_ends_with_its_token(file: Path) -> None:
    """Revocation reaches the offers that were made, a raised price does not."""
    shop = Shop(lsps2_policy_file=str(file))
    (spring,) = await shop.menu(token="spring")
    (common,) = await shop.menu()
    rewrite(file, POLICY.replace("max_uses = 2", "revoked = true").replace("1_000_000", "9_000_000"))
    shop.desk.look()
    assert await shop.code(spring) == 201
    assert await shop.code(spring, size_msat=1) == 201  # step 3 comes before the size (B-06)
    assert await shop.code(common) is None
    assert fees(await shop.menu()) == ["9000000"]


async def test_an_offer_made_for_a_token_is_worth_nothing_without_it(file: Path) -> None:
    """P-01, trap:29: the token's hash is part of what is promised."""
    shop = Shop(lsps2_policy_file=str(file))
    (offer,) = await shop.menu(token="spring")
    assert await shop.code(offer | {"promise": offer["promise"][:64]}) == 201
    other = offer["promise"][:64] + token_hash("partner").hex()
    assert await shop.code(offer | {"promise": other}) == 201


# --- Reload and pause -------------------------------------------------------------------------------------------------


async def test_a_bad_file_changes_nothing_and_is_told_with_its_line(file: Path) -> None:
    """The old policy stays, the log names line and remedy."""
    shop = Shop(lsps2_policy_file=str(file))
    rewrite(file, POLICY.replace("proportional_ppm = 10_000", "proportional_pm = 10_000"))
    shop.desk.look()
    shop.desk.look()
    assert fees(await shop.menu()) == ["1000000"]
    assert shop.counted() == {"policy_file": 1}
    assert shop.desk.file is not None
    assert "line 4: fee_line 1, proportional_pm: unknown key" in str(shop.desk.file.refused)
    assert [level for _, level in shop.log] == ["warn"]


def test_a_service_without_a_usable_file_does_not_start(tmp_path: Path) -> None:
    """At the start there is no old policy."""
    with pytest.raises(Exception, match=r"lsps2-policy-file cannot be read: .*no-such-file"):
        Shop(lsps2_policy_file=str(tmp_path / "no-such-file"))


async def test_a_paused_service_offers_nothing_and_keeps_its_manners() -> None:
    """G-04: an empty menu is legal; buys get code 1; who has a wrong token still hears that (G-03)."""
    shop = Shop()
    (offer,) = await shop.menu()
    await shop.desk.pause(True)
    assert await shop.menu() == []
    assert await shop.code(offer) == INTERNAL_ERROR
    assert (await shop.ask(ALICE, "lsps2.get_info", {"token": "x"}))["error"]["code"] == 200
    again = Shop(datastore=shop.datastore)
    await again.desk.load()
    assert await again.menu() == []
    await again.desk.pause(False)
    assert await again.code(offer) is None
    assert Shop(datastore=shop.datastore).datastore.rows == {}


async def test_who_is_denied_hears_code_1_for_everything(file: Path) -> None:
    """S-10, G-10, B-06 step 2: with a text for people."""
    rewrite(file, POLICY + f'[peers]\ndeny = ["{BOB}"]\n')
    shop = Shop(lsps2_policy_file=str(file))
    (offer,) = await shop.menu(ALICE)
    for answer in (await shop.ask(BOB, "lsps2.get_info"), await shop.buy(offer, peer_id=BOB)):
        assert answer["error"]["message"] == "Client rejected"
        assert answer["error"]["data"] == {"message": "this node does not serve you"}
    assert shop.counted() == {"peer_denied": 2}


# --- Trust per buy ----------------------------------------------------------------------------------------------------


async def test_each_buy_has_the_mode_its_policy_gives_it(file: Path) -> None:
    """B-15: default, by token, by amount; the flag in the answer is the one that is stored."""
    text = POLICY + "[trust]\nclient_trusts_above_sat = 250_000\n"
    rewrite(file, text)
    shop = Shop(lsps2_policy_file=str(file))
    (common,) = await shop.menu()
    (partner,) = await shop.menu(token="partner")
    answers = [await shop.buy(common), await shop.buy(partner), await shop.buy(common, 500_000_000)]
    assert [answer["result"]["client_trusts_lsp"] for answer in answers] == [False, True, True]
    assert [buy.client_trusts_lsp for buy in shop.sold] == [False, True, True]


async def test_a_spent_budget_makes_every_buy_safe_for_us() -> None:
    """B-15, rule:18: when the capital at risk passes the budget; back again when it is free."""
    shop = Shop(lsps2_capital_budget_sat=200_000)
    (offer,) = await shop.menu()
    ledger = shop.desk.policy.ledger
    flags = [(await shop.buy(offer))["result"]["client_trusts_lsp"]]
    stake = ledger.reserved(BOB, 1, 150_000_000, True, 0, WALL_MS)
    flags.append((await shop.buy(offer))["result"]["client_trusts_lsp"])
    ledger.back(stake, WALL_MS)
    flags.append((await shop.buy(offer))["result"]["client_trusts_lsp"])
    assert flags == [False, True, False]


async def test_who_let_a_channel_go_unpaid_must_trust_us_until_it_has_healed() -> None:
    """B-15: at once, for this peer only, for thirty days after the debt was closed."""
    shop = Shop()
    ledger = shop.desk.policy.ledger
    stake = ledger.sent(ALICE, 1, "cc" * 32, 10**8, WALL_MS)
    ledger.let_go(ALICE, 1, WALL_MS)
    ledger.back(stake, WALL_MS)
    flags = {}
    for day in (0, 29, 30):
        shop.clock.wall = WALL_MS + day * 86_400_000
        for peer_id in (ALICE, BOB):
            (offer,) = await shop.menu(peer_id)
            flags[day, peer_id] = (await shop.buy(offer, peer_id=peer_id))["result"]["client_trusts_lsp"]
    assert flags == {(0, ALICE): True, (0, BOB): False, (29, ALICE): True, (29, BOB): False, (30, ALICE): False} | {
        (30, BOB): False
    }


async def test_a_prober_is_served_in_the_safe_mode() -> None:
    """C-26, people:L1: three sales whose payments failed after a channel was made, by no matter whose doing."""
    shop = Shop()
    (offer,) = await shop.menu()
    for scid in (1, 2, 3):
        shop.desk.policy.ledger.probed(ALICE, scid, WALL_MS)
    assert (await shop.buy(offer))["result"]["client_trusts_lsp"] is True
    assert shop.counted() == {"peer_probed": 1}


# --- The operator's plugin --------------------------------------------------------------------------------------------

TERMS = {
    "min_fee_msat": "777000",
    "proportional": 1_200,
    "valid_until": "2030-03-18T00:00:00Z",
    "min_lifetime": 1_008,
    "max_client_to_self_delay": 2_016,
    "min_payment_size_msat": "1000000",
    "max_payment_size_msat": "100000000",
}


def with_plugin(menu: Any, capacity: Any, **options: Any) -> Shop:
    """A node that has a policy plugin with these answers."""
    datastore = Datastore()

    def fail_or(answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    datastore.methods = {GET_POLICY: lambda _: fail_or(menu), BUY: lambda _: fail_or(capacity)}
    return Shop(datastore=datastore, **options)


async def test_a_policy_plugin_sets_menu_and_capacity() -> None:
    """S-05: its menu is signed and sold like our own, written in our form of time."""
    shop = with_plugin({"policy_opening_fee_params_menu": [TERMS]}, {"channel_capacity_msat": "345678901"})
    (offer,) = await shop.menu()
    assert (offer["min_fee_msat"], offer["valid_until"]) == ("777000", "2030-03-18T00:00:00.000Z")
    assert await shop.code(offer) is None
    assert shop.sold[0].capacity_sat == 345_679


async def test_a_quote_shows_what_a_policy_plugin_offers() -> None:
    """A quote of our own lines would be what no client gets."""
    shop = with_plugin({"policy_opening_fee_params_menu": [TERMS]}, {}, lsps2_fee_floor=100)
    quote = await shop.desk.quote(ALICE, "a token of the plugin's", facts(10_000), SIZE_MSAT)
    assert (quote["policy"], quote["served"], "refused" in quote) == (GET_POLICY, True, False)
    assert [(entry["name"], entry["opening_fee_msat"], entry["fits"]) for entry in quote["menu"]] == [
        ("entry 1", 777_000, True)
    ]
    assert shop.desk.menus == 0


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (NodeError(GET_POLICY, -1, "boom"), -32603),
        (NodeError(GET_POLICY, 200, "unknown token"), 200),
        ({"client_rejected": True, "policy_opening_fee_params_menu": []}, 1),
    ],
)
async def test_a_quote_says_that_a_policy_plugin_sells_nothing(answer: Any, code: int) -> None:
    """: and with which code; without a plugin our own lines are quoted."""
    quote = await with_plugin(answer, {}).desk.quote(ALICE, None, facts(253), None)
    assert (quote["menu"], quote["refused"]["code"]) == ([], code)
    ours = await Shop().desk.quote(ALICE, None, facts(253), None)
    assert (ours["policy"], len(ours["menu"]), ours["paused"]) == ("options", 1, False)


async def test_what_a_policy_plugin_wants_must_be_affordable() -> None:
    """B-06 step 11: our wallet bounds it; a channel too small for the payment is not opened."""
    poor = with_plugin({"policy_opening_fee_params_menu": [TERMS]}, {"channel_capacity_msat": "9000000000"})
    (offer,) = await poor.menu()
    poor.purse_now = Liquidity(None, 200_000, Feerates(253, 253))
    assert await poor.code(offer) is None
    assert poor.sold[0].capacity_sat <= 200_000 - 25_000
    small = with_plugin({"policy_opening_fee_params_menu": [TERMS]}, {"channel_capacity_msat": "5000000"})
    assert await small.code((await small.menu())[0]) == 203


@pytest.mark.parametrize("trouble", [NodeError(GET_POLICY, -1, "boom"), {}, {"policy_opening_fee_params_menu": [{}]}])
async def test_a_broken_policy_plugin_sells_nothing(trouble: Any) -> None:
    """Slow or broken answers are bounded; prices that were not chosen would be worse."""
    shop = with_plugin(trouble, trouble)
    assert (await shop.ask(ALICE, "lsps2.get_info"))["error"] == {"code": -32603, "message": "Internal error"}
    assert shop.sold == []


@pytest.mark.parametrize(("feerate_perkw", "offers"), [(6_111, 1), (6_112, 0)])
async def test_a_policy_plugin_offers_nothing_that_would_not_be_opened(feerate_perkw: int, offers: int) -> None:
    """people:S12: mining costs 10,000 sat more than the fee of its largest payment, 1,000 sat; counted by reason."""
    entry = TERMS | {"min_fee_msat": "1000", "proportional": 10_000, "max_payment_size_msat": "100000000"}
    shop = with_plugin({"policy_opening_fee_params_menu": [entry]}, {})
    shop.purse_now = shop.purse_now._replace(feerates=Feerates(feerate_perkw, 253))
    assert len(await shop.menu()) == offers
    assert shop.counted().get("sold_at_a_loss", 0) == 1 - offers


async def test_a_policy_plugin_may_be_required_or_ignored() -> None:
    """`required` sells nothing without one, `off` never asks."""
    required = Shop(lsps2_policy_plugin="required")
    assert (await required.ask(ALICE, "lsps2.get_info"))["error"]["code"] == -32603
    off = with_plugin({"policy_opening_fee_params_menu": []}, {}, lsps2_policy_plugin="off")
    assert len(await off.menu()) == 1
    assert GET_POLICY not in off.datastore.calls


async def test_the_floor_follows_the_feerate() -> None:
    """Opening and closing are paid for at today's rate, also when yesterday's offer was cheaper."""
    shop = Shop(lsps2_fee_floor=100)
    (cheap,) = await shop.menu()
    shop.purse_now = shop.purse_now._replace(feerates=Feerates(10_000, 10_000))
    (dear,) = await shop.menu()
    assert (cheap["min_fee_msat"], dear["min_fee_msat"]) == ("1000000", "18000000")
    assert await shop.code(cheap, SIZE_MSAT) is None
    assert await shop.code(dear, SIZE_MSAT) == 202
