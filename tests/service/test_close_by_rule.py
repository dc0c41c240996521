"""Channels that a rule of the policy file closes: the real process at its node, as an operator sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness.service import FEE_MSAT, LSP_TRUSTS, SIZE_MSAT, Stage

from lsps2fast_plugin.simnode import Client, Payer, RpcError

POLICY = """
[[fee_line]]
min_fee_msat = 1_000_000
proportional_ppm = 10_000
validity_s = 3_600
min_lifetime_blocks = 6

[floor]
factor_percent = 0
"""
RULE = """
[[closing.rule]]
name = "idle"
idle_days = 2
max_client_sat = 9_000
"""
REUSE_FEE = """
[existing_channels]
reuse = "fee"
fee_percent = 20
"""
DAYS = 3 * 86_400
NEXT_MSAT = 60_000_000  # fits into the first channel once
LIFETIME = 6
SWITCH = "lsps2-close-by-rule"
RECORDS = ("lsps", "lsps2", "closes")


class Shop:
    """A stage whose service has a policy file."""

    def __init__(self, folder: Path, rule: str = RULE, switch: str = "on", mode: str = LSP_TRUSTS) -> None:
        self.file = folder / "policy.toml"
        self.file.write_text(f'{POLICY}\n[trust]\ndefault = "{mode}"\n{rule}')
        self.stage = Stage(mode, options={"lsps2-policy-file": str(self.file), SWITCH: switch})

    async def __aenter__(self) -> Shop:
        await self.stage.__aenter__()
        return self

    async def __aexit__(self, *how: Any) -> None:
        await self.stage.__aexit__(*how)

    async def sold(self, name: str = "alice", payer: Payer | None = None, days: bool = True) -> Client:
        """A client with a channel that is paid for, past its lifetime and unused for days."""
        client = self.stage.client(name)
        await self.stage.sale(client, payer or self.stage.payer(f"payer of {name}"))
        if days:
            await self.age()
        return client

    async def age(self) -> None:
        """Days go by, and with them the offer; then blocks, with the last of which its lifetime is over."""
        await self.stage.world.advance(DAYS)
        await self.stage.quiet()
        await self.blocks(LIFETIME - 1)  # the sale has mined one

    async def blocks(self, count: int = 1) -> None:
        """So many blocks, one after the other."""
        for _ in range(count):
            self.stage.world.mine()
            await self.stage.quiet()

    async def closable(self, **how: Any) -> dict[str, Any]:
        """The dry run."""
        answer: dict[str, Any] = await self.stage.lsp.call("lsps2-closable", how)
        return answer

    def closes(self) -> list[Any]:
        """What lightningd was asked to close."""
        return self.stage.calls("close")

    async def asked(self, count: int = 1) -> None:
        """So many closes were asked for; the ledger is read on a thread, which `quiet` does not see."""
        await self.stage.until(lambda: len(self.closes()) == count, f"{count} closes")
        await self.stage.quiet()

    async def over(self) -> None:
        """Blocks come until no close is under way."""
        for _ in range(10):
            await self.blocks()
            if not await self.records():
                return
        raise AssertionError(f"a close is never over: {await self.records()}")

    async def records(self) -> list[str]:
        """Channels that something is decided about."""
        answer = await self.stage.lsp.call("listdatastore", {"key": list(RECORDS)})
        return [row["key"][-1] for row in answer["datastore"]]


async def test_a_channel_is_closed_by_a_rule_and_the_books_say_by_which(tmp_path: Path, mode: str) -> None:
    """operator:O2, rule:2, rule:11: written, closed by agreement, the coin is back, and no record is left."""
    async with Shop(tmp_path, mode=mode) as shop:
        stage = shop.stage
        client = await shop.sold()
        await shop.asked()
        channel = client.ends[0].channel
        assert [close["id"] for close in shop.closes()] == [channel.channel_id]
        assert stage.order("datastore", "close")[-2:] == ["datastore", "close"]
        assert await shop.records() == [channel.channel_id]
        await shop.over()
        assert len(shop.closes()) == 1
        assert client.force_closed == stage.lsp.force_closed == []
        (sale,) = (await stage.lsp.call("lsps2-listsales"))["sales"]
        assert sale["closed_by_rule"] == "idle"
        assert sale["close_mining_msat"] > 0
        about = await stage.lsp.call("lsps2-explain", {"about": channel.channel_id})
        (told,) = [line for line in about["offers"][0]["story"] if "Rule" in line]
        client_sat = (SIZE_MSAT - FEE_MSAT) // 1000
        assert "Rule 'idle' closed channel" in told
        assert "earned 1,000 sat of opening fees and 0 sat of routing fees" in told
        assert f"{client_sat:,} sat the client's" in told
        assert stage.log_lines("closing channel .* by rule 'idle': unused for 3 days, earned 1,000 sat")
        state = (await stage.stats())["closes_by_rule"]
        assert (state["asked"], state["closed"], state["under_way"]) == (1, 1, 0)


async def test_the_dry_run_says_of_each_channel_what_a_rule_would_do(tmp_path: Path) -> None:
    """operator:O2: off by default nothing is closed; the rule or the reason is named, and with `kept` what binds."""
    async with Shop(tmp_path, switch="off") as shop:
        alice = await shop.sold("alice")
        bob = await shop.sold("bob", days=False)
        answer = await shop.closable(kept=True)
        assert answer["by_rule"] == {
            "is_on": False,
            "rules": ["idle"],
            "is_cheap": True,
            "max_feerate_perkw": 1_250,
            "closed_in_24_hours": 0,
            "closes_per_day": 5,
            "under_way": [],
        }
        (channel,) = answer["channels"]
        assert (channel["peer_id"], channel["rule"], channel["why_not"]) == (alice.node_id, "idle", [])
        (kept,) = answer["kept"]
        assert kept["peer_id"] == bob.node_id
        assert "sold to stay open for 6 confirmations and has 1" in kept["why"]
        await shop.stage.sale(alice, shop.stage.payer("another"))
        answer = await shop.closable()
        (channel,) = answer["channels"]
        assert channel["rule"] is None
        assert channel["why_not"] == ["its client has an offer that is still good"]
        await shop.blocks(3)
        assert shop.closes() == []
        assert await shop.records() == []


async def test_the_switch_is_thrown_while_the_service_runs(tmp_path: Path) -> None:
    """operator:O2, cln:M7: `setconfig` is in force at once, both ways; a word that is none is refused."""
    async with Shop(tmp_path, switch="off") as shop:
        await shop.sold("alice")
        call = shop.stage.lsp.call
        with pytest.raises(RpcError, match="lsps2-close-by-rule='perhaps' is unknown; give off or on"):
            await call("setconfig", {"config": SWITCH, "val": "perhaps"})
        await call("setconfig", {"config": SWITCH, "val": "on", "transient": True})
        await call("setconfig", {"config": SWITCH, "val": "off", "transient": True})
        await shop.blocks(2)
        assert shop.closes() == []
        await call("setconfig", {"config": SWITCH, "val": "on", "transient": True})
        await shop.blocks()
        await shop.asked()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({SWITCH: "yes"}, "lsps2-close-by-rule='yes' is unknown; give off or on"),
        ({SWITCH: "on"}, "needs rules: write .{2}closing.rule.{2} into a file for lsps2-policy-file"),
        ({SWITCH: "on", "lsps2-policy-file": "FILE", "lsps2-ledger": "off"}, "needs the sales ledger"),
    ],
)
async def test_a_switch_that_could_do_nothing_stops_the_start(
    options: dict[str, str], words: str, tmp_path: Path
) -> None:
    """operator:O9: with a sentence that says what to change."""
    file = tmp_path / "policy.toml"
    file.write_text(POLICY + RULE)
    options = {name: value.replace("FILE", str(file)) for name, value in options.items()}
    with pytest.raises(Exception, match=words):
        async with Stage(options=options):
            pass


async def test_a_channel_stays_as_long_as_anything_binds_it(tmp_path: Path) -> None:
    """A-05, A-06, rule:22: its client is away, a part is in flight, an offer is good; then it is closed once."""
    async with Shop(tmp_path) as shop:
        stage = shop.stage
        client = await shop.sold(days=False)
        client.go_offline()
        await shop.age()
        await shop.blocks(2)
        assert shop.closes() == []
        assert "nothing is closed by force" in (await shop.closable())["channels"][0]["why_not"][0]
        client.connect()
        await stage.quiet()
        bought = await stage.buy(client)
        assert bought
        await shop.blocks(2)
        assert shop.closes() == []
        await stage.world.advance(3_700)
        await stage.quiet()
        await shop.blocks()
        await shop.asked()


async def test_a_channel_with_more_of_the_clients_money_than_the_rule_allows_stays(tmp_path: Path) -> None:
    """rule:22: Lightning money of a client goes on chain only where the rule says so."""
    async with Shop(tmp_path, RULE.replace("9_000", "8_999")) as shop:
        await shop.sold()
        await shop.blocks(2)
        assert shop.closes() == []
        (channel,) = (await shop.closable())["channels"]
        assert channel["why_not"] == [
            "idle: 9000 sat in it are the client's, and the rule sends at most 8999 sat to the chain"
        ]


async def test_a_rule_that_is_written_while_the_service_runs_is_in_force(tmp_path: Path) -> None:
    """The policy file is looked at every few seconds: no rule, no close; then one."""
    async with Shop(tmp_path, "") as shop:
        await shop.sold()
        await shop.blocks(2)
        assert shop.closes() == []
        shop.file.write_text(POLICY + RULE)
        await shop.stage.world.advance(5)
        await shop.stage.until(lambda: shop.stage.log_lines("policy reloaded"), "the new policy")
        await shop.blocks()
        await shop.asked()


async def test_a_payment_between_the_decision_and_the_close_keeps_the_channel(tmp_path: Path) -> None:
    """rule:19: the channel wakes up while its record is written: it is left alone, and carries the payment."""
    async with Shop(tmp_path) as shop:
        stage = shop.stage
        payer = stage.payer()
        client = await shop.sold(payer=payer, days=False)
        client.behaviour.on_part = "hold"
        await stage.world.advance(DAYS)
        await shop.stage.quiet()
        await shop.blocks(4)
        late = stage.lsp.faults.late("datastore")
        stage.world.mine()
        await late.reached.wait()
        (end,) = stage.lsp.ends[-1:]
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id, "feebase": 0, "feeppm": 0})
        invoice = client.invoice(1_000_000, end.alias)
        payment = payer.pay(invoice, [1_000_000])
        await stage.until(client.held, "the part at the client")
        late.release()
        await stage.quiet()
        assert shop.closes() == []
        assert await shop.records() == []
        client.settle_held()
        assert (await payment).paid
        await stage.lsp.call("setchannel", {"id": end.channel.channel_id})
        await shop.blocks(3)
        assert shop.closes() == []


async def test_a_client_that_leaves_inside_the_close_is_waited_for(tmp_path: Path) -> None:
    """rule:10: lightningd answers nothing; the channel shuts down, and closes when its client is back."""
    async with Shop(tmp_path) as shop:
        stage = shop.stage
        client = await shop.sold(days=False)
        await stage.world.advance(DAYS)
        await stage.quiet()
        await shop.blocks(4)
        client.mute = True
        stage.world.mine()
        await stage.until(lambda: shop.closes(), "the close")
        client.go_offline()
        await stage.lsp.call("lsps2-dev-advance", {"seconds": 61, "calls": True})
        await stage.until(lambda: stage.log_lines("has not closed channel"), "no answer")
        for _ in range(2):  # lightningd's answer is still to come, so nothing is ever quiet
            looks = len(stage.calls("listpeerchannels"))
            stage.world.mine()
            await stage.until(lambda before=looks: len(stage.calls("listpeerchannels")) > before, "a look")
            await stage.fence()
            await stage.world.advance(86_400)
        stage.world.mine()
        await stage.until(lambda: stage.log_lines("nothing is forced by a rule", "warn"), "the warning")
        assert client.ends[0].channel.on_chain is None
        client.mute = False
        client.connect()
        await stage.until(lambda: client.ends[0].channel.on_chain, "the close by agreement")
        await shop.blocks(2)
        assert await shop.records() == []
        assert stage.lsp.force_closed == []
        (sale,) = (await stage.lsp.call("lsps2-listsales"))["sales"]
        assert sale["closed_by_rule"] == "idle"


@pytest.mark.parametrize("power", [False, True])
@pytest.mark.parametrize("place", ["before the record", "after the record", "before the answer"])
async def test_a_death_at_each_step_closes_once_and_never_without_a_record(
    place: str, power: bool, tmp_path: Path
) -> None:
    """rule:2, rule:11: killed beside the record and the close, and started again."""
    async with Shop(tmp_path) as shop:
        stage = shop.stage
        client = await shop.sold(days=False)
        await stage.world.advance(DAYS)
        await stage.quiet()
        await shop.blocks(4)
        method = "close" if place == "before the answer" else "datastore"
        faults = stage.lsp.faults
        fault = faults.hang(method) if place == "before the record" else faults.late(method)
        stage.world.mine()
        await fault.reached.wait()
        if power:
            await stage.restart(power=True)
        else:
            await stage.kill()
            await stage.start()
        client.connect()
        await stage.quiet()
        for _ in range(10):  # a process that begins has no turned clock, and a look may still be at its first one
            await stage.world.advance(DAYS + 700)
            await shop.over()
            if client.ends[0].channel.on_chain:
                break
        assert client.ends[0].channel.on_chain
        await shop.over()
        assert stage.lsp.force_closed == client.force_closed == []
        (sale,) = (await stage.lsp.call("lsps2-listsales"))["sales"]
        assert sale["closed_by_rule"] == "idle"
        assert len(shop.closes()) == 1


async def test_a_fee_for_the_use_of_an_old_channel_is_none_of_the_next_ones_opening_fee(tmp_path: Path) -> None:
    """operator:O11, rule:4: a buy is paid over the channel its client has, then it needs one; each has its own fees."""
    async with Shop(tmp_path, REUSE_FEE) as shop:
        stage = shop.stage
        client, payer = stage.client(), stage.payer()
        await stage.sale(client, payer)
        invoice = await stage.invoice(client, NEXT_MSAT)
        second = client.invoice(NEXT_MSAT, invoice.scid, opening_fee_msat=FEE_MSAT, cltv_delta=invoice.cltv_delta)
        for each in (invoice, second):
            assert (await payer.pay(each, [NEXT_MSAT])).paid
            await stage.at_rest()
        assert (invoice.fee_taken_msat, second.fee_taken_msat) == (FEE_MSAT // 5, FEE_MSAT)
        await shop.blocks()
        await shop.age()
        channels = (await shop.closable())["channels"]
        assert [channel["opening_fee_msat"] for channel in channels] == [FEE_MSAT, FEE_MSAT]
        assert [channel["routing_fees_msat"] for channel in channels] == [FEE_MSAT // 5, 0]
