"""What is chosen or set beside a sale: the type of its channel, and routing fees."""

from __future__ import annotations

from .stage import Stage
from .story import THIRDS, parts_held, scenario

OWN = (77, 7)


@scenario(wallet_sat=(400_000,))
async def one_coin_for_two_types(stage: Stage) -> None:
    """A wallet refuses anchors: the coin of the first channel pays for the second (O-08)."""
    client, payer = stage.client(reject_types=frozenset({22})), stage.payer()
    sale = await stage.sale(client)
    await stage.begin()
    result = await stage.result(await stage.send(payer, sale, THIRDS))
    if stage.undisturbed and not all(each.paid for each in result):
        stage.problems.append("a wallet that takes another type was not paid by the same payment")
    await stage.pay_unpaid(payer, sale, THIRDS)


@scenario()
async def operator_sets_fees(stage: Stage) -> None:
    """The operator sets fees for the channel during its own payment: they stay (rule:13)."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client)
    client.behaviour.on_part = "hold"
    await stage.begin()
    payment = await parts_held(stage, client, sale, THIRDS)
    for end in client.ends:
        await stage.set_fees(end.channel.channel_id, *OWN)
    client.behaviour.on_part = "settle"
    client.settle_held()
    await stage.result(payment)
    await stage.pay_unpaid(payer, sale, THIRDS)


@scenario("lsp-trusts-client")
async def operator_sets_fees_between(stage: Stage) -> None:
    """The first payment fails and leaves its channel unpaid; its operator sets fees, which the second gives back."""
    client, payer = stage.client(), stage.payer()
    sale = await stage.sale(client)
    client.behaviour.on_part = "fail"
    await stage.pay(payer, sale, THIRDS, tries=1)
    await stage.quiet()
    for end in client.ends:
        await stage.set_fees(end.channel.channel_id, *OWN)
    await stage.begin()
    client.behaviour.on_part = "settle"
    await stage.pay_unpaid(payer, sale, THIRDS)
