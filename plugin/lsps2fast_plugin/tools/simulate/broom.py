"""Keeps a town small: what is over and paid out leaves the lists, so that a year needs no more room than a week."""

from __future__ import annotations

from lsps2fast_plugin.simnode.channels import Channel
from lsps2fast_plugin.simnode.client import Client
from lsps2fast_plugin.simnode.lightningd import Node
from lsps2fast_plugin.simnode.payer import Payer

from .common import Common
from .evil_lsp import EvilLsp

KEPT_BLOCKS = 150  # of transactions
KEPT_ROWS = 300  # of HTLCs and channels that are over, and lines of log
LARGE_SAT, MOST_SMALL = 1_000_000, 40  # coins
KEPT_SCRIPTS = 1_000  # of a wallet: the change of a withheld funding is younger
KEPT_S = 8 * 86_400.0  # that a forward is listed after its end


def sweep(common: Common) -> None:
    """Once a day or so."""
    town, books = common.town, common.books
    for channel in [each for each in town.channels if _is_over(each)]:
        _drop_channel(common, channel)
    for node in town.nodes:
        _node(node, town.clock.time() - KEPT_S)
    common.purse.tidy()
    _people(common)
    _coins(common)
    _chain(common)
    books.tidy()


def _node(node: Node, old_s: float) -> None:
    """Shorten what a node lists of HTLCs, channels and processes that are over."""
    for end in node.ends:
        for side in (end, end.other):
            if len(side.htlcs) > len(side.live):
                side.htlcs = dict(side.live)
            del side.state_changes[:-20]
    forwards, log = node.htlcs.forwards, node.htlc_log
    forwards[:] = [row for row in forwards if row.status == "offered" or row.received_s > old_s]
    kept = KEPT_ROWS if node is node.world.lsp else KEPT_ROWS // 10  # each holds on to its channel and its peer
    log[:] = [*(each for each in log[:-kept] if not each[0].removed), *log[-kept:]]
    del node.closed[:-KEPT_ROWS]
    node.processes[:] = [each for each in node.processes if not each.gone.is_set()]
    node.wallet.forget_scripts(KEPT_SCRIPTS)
    while len(node.logs) > KEPT_ROWS:
        node.logs.popleft()


def _is_over(channel: Channel) -> bool:
    if channel.on_chain is None:
        return all(end.forgotten for end in channel.ends if hasattr(end.owner, "openings")) and channel.withheld
    gone = [end for end in channel.ends if end.forgotten]
    return bool(gone) and not any(end.live for end in channel.ends) and channel.settled_on_chain


def _drop_channel(common: Common, channel: Channel) -> None:
    """Both sides have been paid; the books of either stay what they are."""
    worth = [(end, end.owner.books_msat()) for end in channel.ends]
    for end in channel.ends:
        if end in end.owner.ends:
            end.owner.ends.remove(end)
    common.town.channels.remove(channel)
    common.books.forget_channel(channel)
    if any(end.owner.books_msat() != before for end, before in worth):
        raise RuntimeError(f"channel {channel.channel_id} was not over: {worth}")


def _people(common: Common) -> None:
    """Wallets, and LSPs that cheat, without channels and no longer on a visit; their coins are taken with them."""
    town = common.town
    for party in list(town.parties.values()):
        stays = party.ends or party in common.present or party in common.payers
        if not isinstance(party, Client | EvilLsp | Payer) or stays:
            continue
        for link in list(party.links.values()):
            party.links.pop(link.node_id, None)
            link.links.pop(party.node_id, None)
            if isinstance(link, Node):
                link.peer_disconnected(party)
        town.emigrate(party)
    for payer in common.payers:
        payer.payments.clear()


def _coins(common: Common) -> None:
    """Merge small coins of the LSP once there are many, as an operator does; forget reservations that have ended."""
    chain, wallet = common.town.chain, common.town.lsp.wallet
    for held in (wallet.reserved, common.others):
        for point in [point for point, height in held.items() if height <= chain.height]:
            del held[point]
    small = [
        point
        for point, output in wallet.outputs().items()
        if output.amount_sat < LARGE_SAT and chain.depth(point[0]) > 6 and not wallet.is_reserved(point)
    ]
    if len(small) <= MOST_SMALL:
        return
    total_sat = sum(chain.unspent[point].amount_sat for point in small)
    for point in small:
        del chain.unspent[point]
    chain.issued_sat -= total_sat
    whole, rest_sat = divmod(total_sat, LARGE_SAT)
    for amount_sat in (*(LARGE_SAT,) * whole, *((rest_sat,) if rest_sat else ())):
        chain.grant(amount_sat, wallet.new_script())


def _chain(common: Common) -> None:
    """Transactions that are deep and spent."""
    chain = common.town.chain
    old = chain.height - KEPT_BLOCKS
    unspent = {txid for txid, _ in chain.unspent}
    used = {channel.funding_txid for channel in common.town.channels}
    used |= {channel.on_chain.tx.txid for channel in common.town.channels if channel.on_chain is not None}
    for txid, (height, _) in list(chain.confirmed.items()):
        if height < old and txid not in unspent and txid not in used:
            del chain.confirmed[txid]
            chain.transactions.pop(txid, None)
