"""Several channels that one transaction funds."""

from __future__ import annotations

from .case import LSP_TRUSTS
from .stage import SIZE_MSAT, Stage
from .story import scenario

BATCH = {"lsps2-batch-window-ms": 2_000}
WINDOW_S = 2.0


async def _at_once(stage: Stage, names: tuple[str, ...], last_refuses: bool = False) -> None:
    """These buy and are paid within one window; each is paid in the end."""
    sales = []
    for name in names:
        sales.append(await stage.sale(stage.client(name)))
    if last_refuses:
        stage.clients[-1].behaviour.refuse_funding = "not now"
    payer = stage.payer()
    await stage.begin()
    payments = [await stage.send(payer, sale, [SIZE_MSAT]) for sale in sales]
    await stage.quiet()
    await stage.turn(WINDOW_S)
    results = await stage.result(*payments)
    if stage.undisturbed and not all(result.paid for result in results[1 : len(results) - last_refuses]):
        stage.problems.append("a payment failed for what another client of its batch did")
    stage.clients[-1].behaviour.refuse_funding = None
    for sale in sales:
        await stage.pay_unpaid(payer, sale)


@scenario(LSP_TRUSTS, options=BATCH)
async def batch(stage: Stage) -> None:
    """Three channels, one transaction (trap:60)."""
    await _at_once(stage, ("alice", "bertha", "carol"))
    txids = {end.channel.funding_txid for client in stage.clients for end in client.ends}
    funded = [txid for txid in txids if stage.world.chain.knows(txid)]
    if stage.undisturbed and stage.misdeed is None and len(funded) > 1:
        stage.problems.append(f"{len(funded)} transactions paid for one batch")


@scenario(LSP_TRUSTS, options=BATCH, wallet_sat=(900_000,))
async def batch_with_one_coin(stage: Stage) -> None:
    """The same with a wallet of one coin, so that a second try needs the coin of the first."""
    await _at_once(stage, ("alice", "bertha", "carol"))


@scenario(LSP_TRUSTS, options=BATCH)
async def batch_spoilt(stage: Stage) -> None:
    """The last client refuses to sign when the outputs are fixed: the others have another transaction."""
    await _at_once(stage, ("alice", "bertha", "carol"), last_refuses=True)
