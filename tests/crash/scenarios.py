"""The stories that are told again and again with a death in them. Each is short; `Stage` does the waiting.

In every story the client comes back and the payer tries again where a payer may, so that in the end the money must
have moved: a sale that is never paid is a violation, too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from lsps2fast_plugin.service.coins import RESERVE_BLOCKS
from lsps2fast_plugin.simnode.channels import End, Htlc
from lsps2fast_plugin.simnode.errors import NodeDown, RpcError
from lsps2fast_plugin.simnode.splices import FEE_SAT, LOCK_DEPTH

from . import stories_batch, stories_choice, stories_existing, stories_ordered  # noqa: F401 (they enter theirs)
from .case import CLIENT_TRUSTS, LSP_TRUSTS
from .closing import PROMISED_BLOCKS, CloseWatch
from .stage import PATIENCE_TURNS, SIZE_MSAT, VALIDITY_S, Sale, Stage
from .story import LONGEST_PAUSE_S, SCENARIOS, THIRDS, WEBHOOK, parts_held, scenario, served

__all__ = ["SCENARIOS"]
CLOSE_BLOCKS, CLOSE_PAUSE_S = 60, 900  # a close that failed is tried again after ten minutes and more
CLOSING_POLICY = str(Path(__file__).parents[1] / "data" / "closing-policy.toml")


# Everything goes well ----------------------------------------------------------------------------------------------


@scenario()
async def single(stage: Stage) -> None:
    """One part, fixed size; the purchase is part of the story."""
    client, payer = stage.client(), stage.payer()
    await stage.begin()
    sale = await stage.sale(client)
    await stage.pay(payer, sale)


@scenario()
async def mpp(stage: Stage) -> None:
    """Three parts over two channels."""
    client, payer = stage.client(), stage.payer(channels=2)
    sale = await stage.sale(client)
    await stage.begin()
    await stage.pay(payer, sale, THIRDS)


@scenario(options={"lsps2-blinded-paths": True})
async def blinded(stage: Stage) -> None:
    """Three parts over two channels, inside a blinded path that begins at the LSP (C-25)."""
    client, payer = stage.client(), stage.payer(channels=2)
    sale = await stage.sale(client)
    client.blind(sale.invoice)
    await stage.begin()
    await stage.pay(payer, sale, THIRDS)


@scenario()
async def variable(stage: Stage) -> None:
    """One part of any amount."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client, None)
    await stage.begin()
    await stage.pay(payer, sale)


@scenario()
async def two_hashes(stage: Stage) -> None:
    """Two invoices over one scid: one opens the channel, the other is forwarded over it without a fee (C-14, A-03)."""
    client, payer = stage.client(), stage.payer()
    scid, delta, terms = await stage.buy(client)
    slow = stage.second_sale(client, scid, delta, terms)
    quick = stage.second_sale(client, scid, delta, terms)
    await stage.begin()
    half = await stage.send(payer, slow, [5_000_000], SIZE_MSAT)
    await stage.pay(payer, quick)
    await stage.result(half)
    await stage.pay(payer, slow)


@scenario()
async def two_clients(stage: Stage) -> None:
    """Two sales at once."""
    sales = []
    for name in ("alice", "bertha"):
        sales.append(await stage.sale(stage.client(name)))
    payer = stage.payer()
    await stage.begin()
    payments = [await stage.send(payer, sale, [SIZE_MSAT]) for sale in sales]
    await stage.result(*payments)
    for sale in sales:
        await stage.pay_unpaid(payer, sale)


@scenario()
async def two_buys_of_one_client(stage: Stage) -> None:
    """Two scids of one client paid at once: lightningd opens one channel a peer at a time (O-19)."""
    client, payer = stage.client(), stage.payer()
    sales = [await stage.sale(client) for _ in range(2)]
    await stage.begin()
    payments = [await stage.send(payer, sale, [SIZE_MSAT]) for sale in sales]
    await stage.result(*payments)
    for sale in sales:
        await stage.pay_unpaid(payer, sale)


@scenario(options={"lsps2-max-overpay-percent": 40})
async def late_part(stage: Stage) -> None:
    """The first two parts are enough for us, not for the client; the third comes when they are with it (C-18)."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    first = await stage.send(payer, sale, [6_000_000, 5_000_000], 14_000_000)
    await stage.until(lambda: len(client.held()) == 2 or first.done, "two parts with the client")
    last = await stage.send(payer, sale, [3_000_000], 14_000_000)
    await stage.result(first, last)
    await stage.pay_unpaid(payer, sale, [6_000_000, 5_000_000, 3_000_000])


# Refusals and absences ---------------------------------------------------------------------------------------------


@scenario()
async def refused_open(stage: Stage) -> None:
    """The client answers the open with an error, later it takes one (O-08)."""
    client, payer = stage.client(reject_open="not now"), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    await stage.pay(payer, sale, tries=1)
    client.behaviour.reject_open = None
    await stage.pay_unpaid(payer, sale)


async def _vanishing(stage: Stage, when: str) -> None:
    client, payer = stage.client(vanish_at=when), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    await stage.pay(payer, sale, tries=1)
    client.behaviour.vanish_at = ""
    client.connect()
    client.release_ready()
    await stage.pay_unpaid(payer, sale)


@scenario()
async def vanish_at_open(stage: Stage) -> None:
    """The client is gone when it should answer the open (O-07)."""
    await _vanishing(stage, "open")


@scenario()
async def vanish_at_funding(stage: Stage) -> None:
    """The client is gone before it has signed (O-07)."""
    await _vanishing(stage, "funding")


@scenario()
async def vanish_at_ready(stage: Stage) -> None:
    """The client has signed and is gone before channel_ready (O-13)."""
    await _vanishing(stage, "ready")


@scenario()
async def silent_inside_the_open(stage: Stage) -> None:
    """The client stays connected and never signs (people:S13):
    the part is answered and the coins are back all the same.
    """
    client, payer = stage.client(), stage.payer()
    client.behaviour.script = {"funding_created": "silent"}
    sale = await stage.sale(client)
    await stage.begin()
    payment = await stage.send(payer, sale, [SIZE_MSAT])
    for _ in range(2 * PATIENCE_TURNS):
        await stage.quiet()
        if payment.done and not any(row["reserved"] for row in stage.lsp.wallet.rows()):
            break
        await stage.turn()
    else:
        stage.problems.append("a part or a coin waits for a silent client")
    await stage.result(payment)
    await stage.pay_unpaid(payer, sale)


@scenario()
async def never_ready(stage: Stage) -> None:
    """channel_ready does not come within 120 s; later the client sends it (O-13)."""
    client, payer = stage.client(send_ready=False), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    await stage.pay(payer, sale, tries=1)
    client.behaviour.send_ready = True
    client.release_ready()
    await stage.pay_unpaid(payer, sale)


@scenario()
async def client_away(stage: Stage) -> None:
    """The parts add up while the client is offline; it comes back in time (C-13)."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client)
    client.go_offline()
    await stage.begin()
    payment = await stage.send(payer, sale, THIRDS)
    await stage.turn(20)
    await stage.quiet()
    client.connect()
    await stage.result(payment)
    await stage.pay_unpaid(payer, sale)


@scenario(options={"lsps2-webhooks": 2})
async def woken(stage: Stage) -> None:
    """The client registers a webhook, sleeps when the parts add up, is called and comes back (N-08, N-19)."""
    client, payer = stage.client(), stage.payer()
    await stage.begin()
    await stage.request(client, "lsps5.set_webhook", WEBHOOK)
    sale = await stage.sale(client)
    client.go_offline()
    payment = await stage.send(payer, sale, THIRDS)
    await stage.turn(20)
    await stage.quiet()
    client.connect()
    await stage.result(payment)
    await stage.pay_unpaid(payer, sale)
    listed = await stage.request(client, "lsps5.list_webhooks")
    if listed["app_names"] != ["app"]:
        stage.problems.append(f"a webhook that was set is forgotten: {listed}")


@scenario(options={"lsps2-webhooks": 1})
async def sleeper_paid(stage: Stage) -> None:
    """No sale: a payment over the channel of a client that sleeps, and one over its jit scid; then it comes (N-19)."""
    client = await served(stage)
    payer, (bought,) = stage.payers[0], stage.sales
    await stage.request(client, "lsps5.set_webhook", WEBHOOK)
    names = (client.ends[0].other.scid_now(), bought.invoice.scid)
    over_channel, over_jit_scid = (
        Sale(client, client.invoice(1_000_000, name, cltv_delta=40), 0, must_pay=False, jit=False, overpay_msat=10_000)
        for name in names
    )
    over_channel.must_pay = True  # the jit scid goes, in time
    sales = [over_channel, over_jit_scid]
    stage.sales += sales
    client.go_offline()
    await stage.begin()
    for sale in sales:
        await stage.send(payer, sale, [400_000, 600_000])
    await stage.turn(20)
    await stage.quiet()
    client.connect()
    await stage.result(*(payment for sale in sales for payment in sale.sent))
    for sale in sales:
        await stage.pay_unpaid(payer, sale, [1_000_000])


@scenario()
async def no_coins(stage: Stage) -> None:
    """The wallet is empty when the parts add up, and full later (O-09)."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client)
    all_of_it = {"satoshi": "all", "feerate": "normal", "startweight": 0}
    taken = await stage.lsp.call("fundpsbt", all_of_it)
    await stage.begin()
    await stage.pay(payer, sale, tries=1)
    await stage.quiet()
    await stage.lsp.call("unreserveinputs", {"psbt": taken["psbt"]})
    await stage.pay_unpaid(payer, sale)


@scenario(wallet_sat=(400_000,))
async def one_coin(stage: Stage) -> None:
    """One coin for two sales at once: never both, and the change pays for the other one later (trap:35)."""
    sales = []
    for name in ("alice", "bertha"):
        sales.append(await stage.sale(stage.client(name)))
    payer = stage.payer()
    await stage.begin()
    payments = [await stage.send(payer, sale, [SIZE_MSAT]) for sale in sales]
    await stage.result(*payments)
    for sale in sales:
        await stage.quiet()
        stage.world.mine()
        await stage.pay_unpaid(payer, sale)


@scenario(CLIENT_TRUSTS, options={"lsps2-coin-pool": "2x150000"}, wallet_sat=(1_500_000,))
async def coin_pool(stage: Stage) -> None:
    """A sale uses a coin of the pool, with the next block another one is split off, and a second sale uses that."""

    def is_split() -> bool:
        stage.world.mine()  # a split that failed is tried again with the next block
        return sum(row["status"] == "confirmed" for row in stage.lsp.wallet.rows()) > 1

    await stage.until(is_split, "the first split")
    first, second = [await stage.sale(stage.client(name)) for name in ("alice", "bertha")]
    payer = stage.payer()
    await stage.begin()
    await stage.pay(payer, first)
    for _ in range(3):
        await stage.quiet()
        stage.world.mine()
    await stage.pay(payer, second)


# The client does not settle at once --------------------------------------------------------------------------------


@scenario()
async def failed_part(stage: Stage) -> None:
    """The client fails one of three parts, the one with the fee; the payer sends it again (K-10, H-17)."""
    client, payer = stage.client(), stage.payer()
    seen: list[Htlc] = []

    def first_fails(htlc: Htlc) -> str:
        seen.append(htlc)
        return "fail" if len(seen) == 1 else "settle"

    client.behaviour.on_part = first_fails
    sale = await stage.sale(client)
    await stage.begin()
    payment = await stage.send(payer, sale, THIRDS)
    await stage.until(lambda: any(part.result.done() for part in payment.parts), "a failed part", turns=False)
    failed = [part.amount_msat for part in payment.parts if part.result.done() and part.result.result().code]
    again = [await stage.send(payer, sale, failed, SIZE_MSAT)] if failed else []
    await stage.result(payment, *again)
    await stage.pay_unpaid(payer, sale, THIRDS)


@scenario()
async def all_failed(stage: Stage) -> None:
    """A probe: the client fails every part (C-26, X-13). Then the real payment comes."""
    client, payer = stage.client(on_part="fail"), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    await stage.pay(payer, sale, THIRDS, tries=1)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale, THIRDS)


@scenario()
async def settle_while_down(stage: Stage) -> None:
    """The client has all parts and fulfils them, if it can while the LSP is away (cln:F4)."""
    client = stage.client(on_part="hold")
    stage.payer()
    sale = await stage.sale(client)

    async def settle() -> None:
        if len(client.held()) == len(THIRDS):
            client.settle_held()

    stage.while_down = settle
    await stage.begin()
    payment = await parts_held(stage, client, sale, THIRDS)
    await settle()
    await stage.result(payment)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(stage.payers[0], sale, THIRDS)


@scenario()
async def settle_late(stage: Stage) -> None:
    """The client holds for 80 blocks: the coins must stay reserved, and others buy meanwhile (trap:8, O-04)."""
    client, other = stage.client(on_part="hold"), stage.client("bertha")
    payer = stage.payer()
    sale, second = await stage.sale(client), await stage.sale(other)
    await stage.begin()
    payment = await parts_held(stage, client, sale, [SIZE_MSAT])
    for _ in range(4):
        await stage.quiet()
        stage.world.mine(20)
    await stage.pay(payer, second)
    if client.held():
        client.settle_held()
    await stage.result(payment)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale)


@scenario(CLIENT_TRUSTS)
async def coins_about_to_lapse(stage: Stage) -> None:
    """Nothing could be renewed until the last block of the reservation; after it the coins must be ours (O-04)."""
    client, payer = stage.client(on_part="hold"), stage.payer()
    sale = await stage.sale(client)
    payment = await stage.send(payer, sale, [SIZE_MSAT], final_delta=2 * RESERVE_BLOCKS)
    await stage.until(lambda: client.held() or payment.done, "the part with the client, or failed")
    refusal = stage.lsp.faults.fail("reserveinputs", times=1_000)
    stage.world.mine(RESERVE_BLOCKS - 2)
    await stage.quiet()
    refusal.times = 0
    await stage.begin()
    stage.world.mine()
    await stage.turn(LONGEST_PAUSE_S)
    for _ in range(2):
        await stage.calm()  # a call hangs for a minute, no block long
        stage.world.mine()
    await stage.calm()
    if client.held() and not any(row["reserved"] for row in stage.lsp.wallet.rows()):
        stage.problems.append("coins of a withheld channel are free for any program")
    client.settle_held()
    await stage.result(payment)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale)


@scenario()
async def fail_late(stage: Stage) -> None:
    """The client holds two parts, then fails one and fulfils the other (K-11): the channel is owed."""
    client = stage.client(on_part="hold")
    stage.payer()
    sale = await stage.sale(client, must_pay=False)
    sale.may_be_partial = True
    await stage.begin()
    payment = await parts_held(stage, client, sale, [4_000_000, 6_000_000])
    held = client.held()
    if len(held) == 2:
        client.fail(held[0])
        client.settle_held()
    await stage.result(payment)


@scenario(CLIENT_TRUSTS)
async def operator_closes(stage: Stage) -> None:
    """The operator closes the channel while parts are with the client (cln:A3); the payer tries again."""
    client = stage.client(on_part="hold")
    payer = stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    payment = await parts_held(stage, client, sale, [4_000_000, 6_000_000])
    await stage.quiet()
    for end in [*client.ends, *client.ends]:  # the operator asks again if the node died meanwhile
        await stage.quiet()
        if client.held() and end.channel.withheld and not end.channel.dead:
            insist = {"unilateraltimeout": 1, "force_lease_closed": True}  # or the plugin refuses to let it go
            await _try(stage, "close", {"id": end.channel.channel_id, **insist})
    await stage.result(payment)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale)


async def _try(stage: Stage, method: str, params: dict[str, Any]) -> None:
    try:
        await stage.lsp.call(method, params)
    except (RpcError, NodeDown) as error:
        stage.world.transcript.mark("test", f"{method} failed: {error}")
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise  # we are to end, not the call
        stage.world.transcript.mark("test", f"lightningd died in {method}")


# Time --------------------------------------------------------------------------------------------------------------


@scenario(options={"lsps2-cltv-delta": 6})
async def deadline(stage: Stage) -> None:
    """Blocks come while the channel is not ready: the part must fail in time (K-06, trap:5)."""
    client, payer = stage.client(send_ready=False), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    payment = await stage.send(payer, sale, [SIZE_MSAT], final_delta=20)
    await stage.quiet()
    for _ in range(21):
        stage.world.mine()
        await stage.quiet()
    await stage.result(payment)
    client.behaviour.send_ready = True
    client.release_ready()
    await stage.pay_unpaid(payer, sale)


@scenario(CLIENT_TRUSTS)
async def offer_lapses(stage: Stage) -> None:
    """Half a payment is held when valid_until passes (C-07)."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client, must_pay=False)
    await stage.begin()
    await stage.turn(VALIDITY_S - 30)
    payment = await stage.send(payer, sale, [4_000_000], SIZE_MSAT)
    await stage.turn(31)
    await stage.result(payment)


@scenario()
async def upstream_confirms(stage: Stage) -> None:
    """The payer's channel is unconfirmed when the parts come and gets its real scid while they are out (cln:H3)."""
    client = stage.client(on_part="hold")
    payer = stage.payer()
    _unconfirm(payer.ends[0])
    sale = await stage.sale(client)
    await stage.begin()
    payment = await parts_held(stage, client, sale, [4_000_000, 6_000_000])
    stage.world.mine()
    await stage.quiet()
    if len(client.held()) == 2:
        client.settle_held()
    await stage.result(payment)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale)


@scenario()
async def upstream_splices(stage: Stage) -> None:
    """The payer's channel gets another scid while its parts are with the client (people:S9):
    the old one is shown nowhere.
    """
    client = stage.client(on_part="hold")
    payer = stage.payer()
    stage.world.chain.grant(50_000, payer.wallet.new_script())
    sale = await stage.sale(client)
    stage.world.open_books()
    await stage.begin()
    payment = await parts_held(stage, client, sale, [4_000_000, 6_000_000])
    stage.world.splice(payer.ends[0])
    stage.payers_spent_msat = FEE_SAT * 1000
    for _ in range(LOCK_DEPTH):
        stage.world.mine()
    await stage.quiet()
    if len(client.held()) == 2:
        client.settle_held()
    await stage.result(payment)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale)


def _unconfirm(end: End) -> None:
    """A channel as a zero-conf one is before its first block."""
    end.scid = end.other.scid = None


# Ends that are not announced
# -------------------------------------------------------------------------------------------------


@scenario()
async def funding_forgotten(stage: Stage) -> None:
    """bitcoind drops the funding from its mempool after the sale (rule:8): blocks come without it."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    await stage.pay(payer, sale)
    await stage.quiet()
    for txid in list(stage.world.chain.mempool):
        stage.world.chain.forget(txid)
    for _ in range(8):
        stage.world.mine()
        await stage.quiet()


@scenario()
async def events_lost(stage: Stage) -> None:
    """No forward_event says how the parts ended: the tables do, a block or two later (cln:F4)."""
    client = stage.client(on_part="hold")
    payer = stage.payer()
    sale = await stage.sale(client)
    stage.lsp.forward_event = lambda row: None  # type: ignore[method-assign]
    await stage.begin()
    payment = await parts_held(stage, client, sale, [4_000_000, 6_000_000])
    client.settle_held()
    for _ in range(5):
        await stage.quiet()
        stage.world.mine()
    await stage.result(payment)
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale)
    for _ in range(5):
        await stage.quiet()
        stage.world.mine()


@scenario(LSP_TRUSTS, options={"lsps2-policy-file": CLOSING_POLICY, "lsps2-close-by-rule": "on"})
async def closed_by_rule(stage: Stage) -> None:
    """Two channels are paid, unused for days and past their lifetime: a rule closes them, each once (operator:O2)."""
    payer = stage.payer()
    clients = [stage.client(name) for name in ("alice", "bertha")]
    for client in clients:
        await stage.pay(payer, await stage.sale(client))
    await stage.quiet()
    stage.world.mine()
    await stage.quiet()
    await stage.turn(3 * 86_400)
    await stage.quiet()
    watch = CloseWatch(stage)
    await stage.begin()

    for _ in range(PROMISED_BLOCKS):
        stage.world.mine()
        await stage.quiet()
    for _ in range(CLOSE_BLOCKS):
        closed = all(client.ends[0].channel.on_chain is not None for client in clients)
        if closed and not watch.records():
            break
        stage.mend()
        stage.world.mine()
        await stage.quiet()
        await stage.turn(CLOSE_PAUSE_S)
        await stage.quiet()
    stage.problems += watch.problems()


# Others on the node ------------------------------------------------------------------------------------------------


@scenario()
async def another_tool(stage: Stage) -> None:
    """Another tool has negotiated a channel with the client and keeps its PSBT; the client refuses our open
    (people:S8).

    That channel is not ours to cancel: its funding, sent later, must still be the funding of a channel.
    """
    client, payer = stage.client(send_ready=False), stage.payer()
    start = {"id": client.node_id, "amount": 50_000, "announce": False, "mindepth": 0, "channel_type": [12, 22]}
    begun = await stage.lsp.call("fundchannel_start", start)
    coins = {"satoshi": 50_000, "feerate": "normal", "startweight": 1000, "excess_as_change": True, "reserve": 1000}
    funded = await stage.lsp.call("fundpsbt", coins)
    output = {"satoshi": 50_000, "initialpsbt": funded["psbt"], "destination": begun["funding_address"]}
    psbt = (await stage.lsp.call("addpsbtoutput", output))["psbt"]
    done = await stage.lsp.call("fundchannel_complete", {"id": client.node_id, "psbt": psbt, "withhold": True})
    stage.foreign.add(done["channel_id"])
    client.behaviour.send_ready, client.behaviour.reject_open = True, "not now"
    sale = await stage.sale(client)
    await stage.begin()
    await stage.pay(payer, sale, tries=1)
    client.behaviour.reject_open = None
    await stage.pay_unpaid(payer, sale)
    await stage.quiet()
    signed = await stage.lsp.call("signpsbt", {"psbt": psbt})
    await stage.lsp.call("sendpsbt", {"psbt": signed["signed_psbt"]})


@scenario(CLIENT_TRUSTS, fee_base_msat=0, fee_ppm=0)
async def stranger(stage: Stage) -> None:
    """The client has an older channel, and a payment goes over it while the JIT channel is withheld: lightningd would
    steer that into the bigger one (cln:H15, trap:45). Then the client fails the JIT payment."""
    client = stage.client(on_part="hold")
    stage.payer()
    friend = stage.payer("friend")
    stage.world.add_channel(stage.lsp, client, 60_000)
    old = client.ends[0].other
    sale = await stage.sale(client, must_pay=False)
    invoice = client.invoice(2_000_000, old.scid, cltv_delta=6)
    ordinary = Sale(client, invoice, 0, must_pay=False)
    ordinary.jit = False
    stage.sales.append(ordinary)

    async def befriend() -> None:
        client.behaviour.on_part = lambda htlc: "settle" if htlc.payment_hash == invoice.payment_hash else "hold"
        if not ordinary.sent:
            ordinary.sent.append(friend.pay(invoice, [2_000_000], final_delta=100))

    stage.while_down = befriend
    await stage.begin()
    payment = await parts_held(stage, client, sale, [SIZE_MSAT])
    await befriend()
    await stage.result(*ordinary.sent)
    for part in client.held():
        client.fail(part)
    await stage.result(payment)
