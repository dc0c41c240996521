"""What the real wallet plugin tells its owner, while LSPs lie to it: more rows of wallet.md. See `wallet_rows.py`."""

from __future__ import annotations

from typing import Any

from lsps2fast_plugin.client.rpc_errors import CODES
from lsps2fast_plugin.simnode import RpcError
from lsps2fast_plugin.simnode.errors import NodeProblem
from lsps2fast_plugin.simnode.party import connect, disconnect
from lsps2fast_plugin.simnode.payer import target_of

from .evil_lsp import EvilLsp
from .scene import Scene, Visitor
from .story import Violation
from .wallet_rows import STRANGE, Cheat, Deal

OURS = frozenset(code.number for code in CODES if code.number > 3_000)
UNKNOWN_COMMAND = -32601  # of the node: the plugin is just being started
LDK_BITS = (12, 22, 50)  # option_scid_alias is never in the type


class NamesCodes(Cheat):
    """Answers with numbers that mean something else to the wallet's caller."""

    name = "names-codes"
    row = "W10"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        for code in (*STRANGE, me.some(-(10**9), 10**9)):
            deal.lsp.errors = [{"code": code, "message": "no", "data": {}}]
            try:
                await deal.purse.node.call("lsps-lsps2-getinfo", {"lsp_id": deal.lsp.node_id}, 300)
            except RpcError as error:
                if error.code == UNKNOWN_COMMAND:
                    return
                if error.code not in OURS:
                    raise Violation("wallet:W10", f"the LSP's {code} became the command's {error.code}") from None
                me.say(f"its error {code} is told as {error.code}")
                me.did()
            except NodeProblem:
                return
        deal.lsp.errors.clear()
        await self.sell(me, deal)


class SellsDearer(Cheat):
    """Two LSPs, one of them dearer: the wallet shows the cheap one first, at one amount."""

    name = "sells-dearer"
    row = "W11"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        dear = EvilLsp(me.town, f"{me.name}/dear", deal.purse)
        me.town.parties[dear.name] = dear
        dear.fees_msat = [me.some(1, 9_000_000)]
        connect(dear, deal.purse.node)
        amount: Any = "any" if me.maybe(0.5) else deal.amount_msat
        ask = {"amount_msat": amount, "lsp_ids": [dear.node_id, deal.lsp.node_id]}
        try:
            told = await deal.purse.node.call("lsps2-compare", ask, 300)
        except (RpcError, NodeProblem) as error:
            me.say(f"nothing is compared: {str(error).splitlines()[0][:80]}")
        else:
            offers = told["offers"]
            fees = [offer["opening_fee_msat"] for offer in offers]
            if fees != sorted(fees) or len({offer["payment_msat"] for offer in offers}) > 1:
                raise Violation("wallet:W11", f"the wallet compares {offers}")
            me.say(f"the wallet compares fees {fees}")
            me.did()
        disconnect(dear, deal.purse.node)
        me.town.emigrate(dear)
        await self.sell(me, deal)


class LooksBack(Cheat):
    """A sale as it should be; the wallet's plugin is killed, and then asked what it bought and paid."""

    name = "looks-back"
    row = "W13"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        paid = None
        if await deal.open():
            paid = deal.send(deal.parts(me.some(1, 4)))
            deal.broadcast()
            await deal.end_of(paid)
        if me.maybe(0.5):
            me.say("the wallet's plugin is killed")
            await deal.purse.restart()
            connect(deal.lsp, deal.purse.node)
        payment_hash = target_of(deal.bolt11).payment_hash
        try:
            told = await deal.purse.node.call("lsps2-purchase", {"payment_hash": payment_hash.hex()}, 300)
        except NodeProblem:
            return
        except RpcError as error:
            if error.code == UNKNOWN_COMMAND:
                return
            raise Violation("wallet:W13", f"the purchase is forgotten: {error}") from None
        taken_msat = deal.lsp.claimed.get(payment_hash, 0)
        if told["lsp_id"] != deal.lsp.node_id or told["opening_fee_msat"] != deal.fee_msat:
            raise Violation("wallet:W13", f"the wallet remembers {told}; it bought for {deal.fee_msat} msat")
        if told["state"] == "paid" and told["fee_taken_msat"] != taken_msat:
            raise Violation("wallet:W13", f"{taken_msat} msat were taken; the wallet remembers {told}")
        me.did()
        me.say(f"the wallet remembers a purchase that is {told['state']}, {taken_msat} msat taken")


class OpensAsLdk(Cheat):
    """Opens as ldk-node does: an alias is used, and not part of the channel's type."""

    name = "opens-as-ldk"
    row = "W16"

    async def cheat(self, me: Scene, deal: Deal) -> None:
        if not await deal.open(bits=LDK_BITS):
            if deal.purse.node.state == "running" and deal.purse.node.plugins and not me.common.harm:
                raise Violation("wallet:W16", "the wallet refuses a channel as ldk-node opens it")
            return
        me.did()
        payment = deal.send(deal.parts(me.some(1, 5)))
        deal.broadcast()
        await deal.end_of(payment)


WORDS: tuple[type[Visitor], ...] = (NamesCodes, SellsDearer, LooksBack, OpensAsLdk)
