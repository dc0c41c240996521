"""What sales, orders and sleeping clients draw from together: nothing of it is counted twice (rule:18, rule:24).

At rest `promises.py` compares every figure with the books. Here it is done amid payments, while parts of all kinds are
held and channels wait for their fundings.
"""

from __future__ import annotations

import asyncio
from typing import Any

from lsps2fast_plugin.service.funding import HALF_CLOSED
from lsps2fast_plugin.simnode.channels import Htlc
from lsps2fast_plugin.simnode.errors import NodeProblem, RpcError
from lsps2fast_plugin.simnode.psbt import Outpoint, decode

from .books import BACK, Account, Books
from .common import Common
from .story import Violation

LOOKS, PAUSE_S = 4, 1.0  # what comes or ends in that moment is counted in the next
OLD_S = 5.0  # of a part: what has just come may wait for a question
ASK_S = 30.0


def check_coins(books: Books) -> None:
    """rule:9: no coin pays for two fundings, whether one of them is sent already or not. Raises Violation."""
    users: dict[Outpoint, Account] = {}
    unspent = books.town.chain.unspent
    for account in books.unsent():
        psbt = account.channel.funding_psbt
        for point in () if psbt is None or _is_given_up(account) else decode(psbt).inputs:
            if point not in unspent:
                raise Violation("rule:9", f"a coin for the channel of {account.end.peer.name} is spent already")
            other = users.setdefault(point, account)
            if other.channel.funding_txid != account.channel.funding_txid:
                names = f"{other.end.peer.name} and {account.end.peer.name}"
                raise Violation("rule:9", f"a coin pays for channels of {names}, in two fundings")


def _is_given_up(account: Account) -> bool:
    """Return whether its client has begun to close a channel that is not funded, and has no money in it.

    A part may still be with that client. Its coins are kept as long as their reservation lasts, and no longer.
    """
    return account.end.state in HALF_CLOSED and not account.end.other.to_us_msat


async def check_pots(common: Common) -> None:
    """Ask what is held and at risk, and compare it with the node. Raises Violation for what stays wrong."""
    wrong = None
    for _ in range(LOOKS):
        wrong = await _wrong(common)
        if wrong is None:
            return
        await asyncio.sleep(PAUSE_S)
    raise Violation("rule:24", f"{wrong}, amid payments")


async def _wrong(common: Common) -> str | None:
    """Return what is counted otherwise than it is; None for all that moved while it was asked."""
    before = _state(common)
    try:
        stats = await asyncio.wait_for(common.town.lsp.call("lsps2-stats"), ASK_S)
    except (RpcError, NodeProblem, TimeoutError):
        return None
    if before is None or _state(common) != before:
        return None
    held, _ = before
    common.story.counts["pots compared amid payments"] += bool(held)
    sum_msat = sum(htlc.amount_msat for htlc in held)
    if (stats["held_parts"], stats["held_msat"]) != (len(held), sum_msat):
        said = f"{stats['held_msat']} msat in {stats['held_parts']} parts"
        return f"lsps2-stats says that {said} are held, and {sum_msat} in {len(held)} are"
    return _at_risk(common, stats)


def _state(common: Common) -> tuple[frozenset[Htlc], Any] | None:
    """Return the HTLCs that are held and the channels that are under way; None while anything is on its way."""
    lsp, now_s = common.town.lsp, common.town.clock.time()
    if lsp.state != "running" or not lsp.plugins or not lsp.plugins[0].ready or common.harm:
        return None
    if lsp.openings.pending or lsp.openings.starting:
        return None
    if any(part.received_s > now_s - OLD_S for part in lsp.htlcs.held.values()):
        return None
    common.books.look()
    accounts = [(each.channel.channel_id, each.end.state, each.paid) for each in common.books.live.values()]
    return frozenset(lsp.htlcs.held), (common.lives, accounts)


def _at_risk(common: Common, stats: dict[str, Any]) -> str | None:
    """Compare the capital; an order or a sale whose coins are chosen, and no more, may be in it."""
    books = common.books
    debts = [each for each in books.live.values() if each.is_open_debt]
    busy = [each for each in books.accounts.values() if each.paid and each.end.live and each.end.state not in BACK]
    least_msat = sum(each.capacity_sat * 1000 for each in debts if not (each.is_whole or _is_on_its_way(each)))
    if stats["at_risk_msat"] < least_msat:
        return f"lsps2-stats says that {stats['at_risk_msat']} msat are at risk, and {least_msat} are"
    waiting = [order for order in books.orders.all if order.is_held and not order.accounts]
    selling = any(not payment.done for sale in books.open_sales for payment in sale.payments)
    most_sat = sum(each.capacity_sat for each in (*debts, *busy)) + sum(order.capacity_sat for order in waiting)
    if not selling and stats["at_risk_msat"] > most_sat * 1000:
        return f"lsps2-stats says that {stats['at_risk_msat']} msat are at risk, and {most_sat} sat are at most"
    return None


def _is_on_its_way(account: Account) -> bool:
    """Return whether the price of an order was taken, and its payer does not know yet: their line may be down."""
    return account.order is not None and account.order.payments != [] and not account.order.is_held
