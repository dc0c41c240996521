"""The books of a town, kept from what its embedded nodes did: never from what a plugin claims.

`check` compares them with what was promised. A promise is a method of `promises.py`; here is what they are about.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.simnode.channels import Channel, End, Htlc
from lsps2fast_plugin.simnode.client import Client, ClientInvoice
from lsps2fast_plugin.simnode.lightningd import Node
from lsps2fast_plugin.simnode.parts import Forward
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.simnode.psbt import Tx, decode
from lsps2fast_plugin.simnode.wallet import INPUT_WEIGHT, OUTPUT_WEIGHT

from .ordered import Order, OrderBooks
from .story import Story
from .town import Town

BACK = ("FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED")  # the LSP's coins are its own again
ZERO_CONF = 50  # the feature bit of a channel that is made just in time
DAY_S = 86_400.0
START_WEIGHT = 214  # of a funding without inputs
OPEN_WEIGHT, CLOSE_WEIGHT = 1_000, 800  # of the 250 and 200 vbytes that a budget counts
KEPT_S = 4 * 86_400.0  # that a sale is remembered after its end


@dataclass(eq=False)
class Sale:
    """One buy, as its buyer knows it."""

    buyer: Client | Node
    honest: bool
    scid: str
    params: FeeParams
    size_msat: int | None
    cltv_delta: int
    trusts: bool  # the client trusts the LSP
    since_s: float
    until_s: float
    invoices: list[ClientInvoice] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)
    totals_msat: dict[bytes, int] = field(default_factory=dict)  # of what was sent, by payment hash
    fee_came_msat: int = 0  # over parts that were settled
    fee_over_existing_msat: int = 0  # likewise, in place of an opening fee
    delivered_msat: int = 0
    paid_s: float | None = None
    wanted_s: float | None = None  # when an honest payer first tried

    def fee_msat(self, amount_msat: int) -> int:
        """Return the opening fee of a payment."""
        return self.params.fee_msat(amount_msat if self.size_msat is None else self.size_msat) or 0

    @property
    def all_fees_msat(self) -> int:
        """Return what came over this scid, whatever for."""
        return self.fee_came_msat + self.fee_over_existing_msat


class Fees(NamedTuple):
    """Mining fees of one channel, as far as a budget counts them."""

    open_sat: int
    close_sat: int  # at most

    @property
    def sat(self) -> int:
        """Both."""
        return self.open_sat + self.close_sat


NO_FEES = Fees(0, 0)


@dataclass(eq=False)
class Account:
    """One channel that the LSP opened just in time, or because it was ordered."""

    channel: Channel
    since_s: float
    capacity_sat: int  # as it was opened: what a client splices in is not the LSP's
    fee_came_msat: int = 0
    paid: bool = False
    is_whole: bool = False  # its client took all it bought: of missing fee the cause may be a stranger
    order: Order | None = None  # that it was opened for
    sale: Sale | None = None  # that its fee is for: payments of others may go over it once that has come
    on_trust: bool = False  # its funding was sent before any of its fee had come
    funding: Fees | None = None  # once it is sent
    mining_sat: int = 0  # and what miners get of that
    sent_s: float = 0.0

    @property
    def end(self) -> End:
        """Our side."""
        return self.channel.opener

    @property
    def risk(self) -> Fees:
        """What its funding pays, or would pay if it were sent now."""
        if self.funding is None:
            psbt = self.channel.funding_psbt
            return NO_FEES if psbt is None else fees_of(decode(psbt))
        return self.funding

    @property
    def burnt_sat(self) -> int:
        """What miners got of its opening and its close, as far as a budget counts it and no fee made up for it."""
        if self.paid or self.is_whole or self.funding is None:
            return 0
        on_chain = self.channel.on_chain
        closed = on_chain is not None and self.channel.settled_on_chain
        close_sat = min(on_chain.tx.fee_sat, self.funding.close_sat) if on_chain is not None and closed else 0
        return max(0, self.funding.open_sat + close_sat - self.fee_came_msat // 1000)

    @property
    def is_open_debt(self) -> bool:
        """Whether its coins are bound, withheld or on chain, and its fee has not come."""
        return not (self.paid or self.end.forgotten or self.end.state in BACK)

    @property
    def is_unpaid(self) -> bool:
        """Whether its money is ours, on chain, and not to be had: what a budget counts."""
        return not self.paid and self.is_on_chain and self.end.state not in BACK

    @property
    def is_at_rest(self) -> bool:
        """Whether no coin of ours can be at stake in it ever again; of most channels of a town that is so."""
        return self.funding is not None and not self.channel.withheld and (self.paid or self.end.state in BACK)

    @property
    def is_on_chain(self) -> bool:
        """Whether the chain has its funding, or waits for it."""
        return self.end.owner.chain.knows(self.channel.funding_txid)


class Books:
    """Sales, channels, fees that came. `totals` counts whatever is told in a report."""

    def __init__(self, town: Town, story: Story) -> None:
        self.town = town
        self.lsp = town.lsp
        self.story = story
        self.orders = OrderBooks()
        self.sales: list[Sale] = []
        self.open_sales: dict[Sale, None] = {}  # over which something may still come, and some that have just ended
        self.of_scid: defaultdict[str, list[Sale]] = defaultdict(list)
        self.by_hash: dict[bytes, Sale] = {}
        self.accounts: dict[str, Account] = {}
        self.live: dict[str, Account] = {}  # those that are not at rest: each step looks at these
        self.sent_lately: deque[Account] = deque()  # within a day or so, in order
        self.totals: Counter[str] = Counter()
        self.earned_msat = 0  # by forwards of any kind
        self.opening_fees_msat = 0  # over channels that were opened for it
        self.strategists_paid_msat = 0
        self.brought_msat = 0  # put into the LSP's wallet by its owner since the start
        self.strays: list[str] = []  # payments that an unpaid channel carried, against rule:21
        self._seen: set[Channel] = set(town.channels)
        self.lsp.forward_listeners.append(self._forwarded)

    # what happens

    def sold(self, sale: Sale) -> None:
        """Record a buy."""
        self.sales.append(sale)
        self.open_sales[sale] = None
        self.of_scid[sale.scid].append(sale)
        self.totals["buys"] += 1

    def sent(self, sale: Sale, payment: Payment, total_msat: int) -> None:
        """Record a payment that was tried over this sale."""
        sale.payments.append(payment)
        sale.totals_msat[payment.payment_hash] = total_msat
        self.by_hash[payment.payment_hash] = sale
        self.open_sales[sale] = None

    def look(self) -> None:
        """Record new channels."""
        for channel in reversed(self.town.channels):
            if channel in self._seen:
                break  # new ones stand at the end, wherever others are taken out
            self._seen.add(channel)
            if channel.opener.owner is self.lsp:
                self._opened(channel)
        for account in self.live.values():
            if account.funding is None and self.town.chain.knows(account.channel.funding_txid):
                funding = self.town.chain.transactions[account.channel.funding_txid]
                account.funding, account.mining_sat = fees_of(funding), self._share_sat(account, funding)
                account.sent_s = self.town.loop.time()
                account.on_trust = account.fee_came_msat == 0 and account.order is None
                self.sent_lately.append(account)

    def _opened(self, channel: Channel) -> None:
        order = self.orders.find(channel)
        if order is None and ZERO_CONF not in channel.channel_type:
            return  # another tool's
        account = Account(channel, self.town.loop.time(), channel.capacity_sat, order=order)
        self.accounts[channel.channel_id] = self.live[channel.channel_id] = account
        if order is not None:
            order.accounts.append(account)
        self.totals["channels" if order is None else "ordered channels"] += 1

    def _share_sat(self, account: Account, funding: Tx) -> int:
        """Return what miners get of this funding for this channel; the first of several has what is left over."""
        txid = account.channel.funding_txid
        ours = [each for each in self.accounts.values() if each.channel.funding_txid == txid]
        ours.sort(key=lambda each: each.channel.funding_outnum)
        self.totals["channels in shared fundings"] += len(ours) > 1
        share_sat, rest_sat = divmod(funding.fee_sat, len(ours))
        return share_sat + (rest_sat if ours[0] is account else 0)

    def rest(self) -> None:
        """Leave alone from now on what is at rest; to be called once it has been looked at."""
        for channel_id in [key for key, account in self.live.items() if account.is_at_rest]:
            del self.live[channel_id]

    def recount(self) -> str | None:
        """Go through all that is at rest, too; return what is wrong with leaving it alone."""
        for channel_id, account in self.accounts.items():
            if channel_id not in self.live and not account.is_at_rest:
                return f"{_short(account)} is no longer at rest"
        if {*filter(self._is_open, self.sales)} != {*filter(self._is_open, self.open_sales)}:
            return "a sale goes on that had ended"
        return None

    def forget_channel(self, channel: Channel) -> None:
        """Drop a channel that is gone and paid out."""
        self.accounts.pop(channel.channel_id, None)
        self.live.pop(channel.channel_id, None)

    def _forwarded(self, row: Forward) -> None:
        if row.status != "settled" or row.out_htlc is None:
            return
        self.look()
        out, taken_msat = row.out_htlc, row.part.htlc.amount_msat - row.out_htlc.amount_msat
        self.earned_msat += taken_msat
        self.totals["forwards"] += 1
        incoming = self.accounts.get(row.part.end.channel.channel_id)
        if incoming is not None and incoming.is_unpaid and not incoming.fee_came_msat:
            self.strays.append(f"{row.part.htlc.amount_msat} msat came in over unpaid channel {_short(incoming)}")
        account, sale = self.accounts.get(out.channel.channel_id), self.by_hash.get(out.payment_hash)
        if account is None:
            return
        if sale is None or sale.buyer is not out.taker.owner:
            if account.is_unpaid and not account.fee_came_msat:
                self.strays.append(f"{out.amount_msat} msat of another payment went into {_short(account)}")
            return
        self._paid(sale, account, taken_msat, out)

    def _paid(self, sale: Sale, account: Account, fee_msat: int, out: Htlc) -> None:
        self.opening_fees_msat += fee_msat
        self.strategists_paid_msat += 0 if sale.honest else fee_msat
        if account.order is None:
            account.sale = account.sale or sale
        if account.sale is not sale:
            sale.fee_over_existing_msat += fee_msat
            self._over_existing(sale, account, out)
            return
        sale.fee_came_msat += fee_msat
        sale.delivered_msat += out.amount_msat
        account.fee_came_msat += fee_msat
        total_msat = sale.totals_msat[out.payment_hash]
        if sale.paid_s is None and sale.fee_came_msat >= sale.fee_msat(total_msat):
            sale.paid_s = self.town.loop.time()
            self.totals["sales"] += 1
        account.paid |= sale.paid_s is not None
        account.is_whole |= sale.delivered_msat + sale.fee_came_msat >= (sale.size_msat or total_msat)

    def _over_existing(self, sale: Sale, account: Account, out: Htlc) -> None:
        """Record what went over the channel of another sale of the same buyer, in place of a new one."""
        self.totals["parts over existing channels"] += 1
        if account.is_open_debt and not account.is_whole:
            self.strays.append(f"{out.amount_msat} msat of another sale, {sale.scid}, went into {_short(account)}")

    # what there is

    def unpaid(self) -> Iterator[Account]:
        """Return the channels on chain that are not paid for."""
        return (account for account in self.live.values() if account.is_unpaid)

    def withheld(self) -> Iterator[Account]:
        """Channels whose funding is kept back."""
        for account in self.live.values():
            if account.channel.withheld and not account.end.forgotten and account.end.state not in BACK:
                yield account

    def unsent(self) -> Iterator[Account]:
        """Channels whose funding is not on chain: kept back, or refused by bitcoind."""
        for account in self.live.values():
            if not (account.is_on_chain or account.end.forgotten or account.end.state in BACK):
                yield account

    def due_msat(self) -> int:
        """Return what payers owe the LSP for preimages that it has, or will see on chain."""
        rows = self.lsp.htlcs.by_out
        claimed = [
            rows[htlc].part.htlc.amount_msat
            for end in self.lsp.ends
            if end.channel.on_chain is not None
            for htlc in end.live.values()
            if htlc.preimage is not None and htlc in rows
        ]
        return sum(claimed) + sum(
            htlc.amount_msat
            for end in self.lsp.ends
            for htlc in end.other.live.values()
            if htlc.preimage is not None and not htlc.removed
        )

    def share_msat(self) -> int:
        """Return what came of fees that have not come whole: told with the final record, at the end of the offer."""
        self.open_sales = {sale: None for sale in self.open_sales if self._is_open(sale)}
        return sum(sale.fee_came_msat for sale in self.open_sales)

    def is_over(self, sale: Sale) -> bool:
        """Return whether nothing more can come over this sale, and its last record has been written."""
        return not self._is_open(sale) and self.town.loop.time() > sale.until_s + DAY_S

    def _is_open(self, sale: Sale) -> bool:
        if any(not payment.done for payment in sale.payments):
            return True
        return sale.paid_s is None and self.town.loop.time() < sale.until_s + DAY_S

    def profit_msat(self) -> int:
        """Return what the LSP has gained, mining fees deducted, capital brought aside."""
        return self.town.gained_msat(self.lsp) - self.brought_msat

    def tidy(self) -> None:
        """Forget sales that ended long ago."""
        self.look()
        now_s = self.town.loop.time()
        old = [sale for sale in self.sales if sale.until_s + KEPT_S < now_s]
        self.orders.tidy(now_s)
        for sale in old:
            for payment in sale.payments:
                self.by_hash.pop(payment.payment_hash, None)
        self._seen = set(self.town.channels)
        if old:
            gone = set(old)
            self.sales = [sale for sale in self.sales if sale not in gone]
            self.open_sales = {sale: None for sale in self.open_sales if sale not in gone}
            self.of_scid.clear()
            for sale in self.sales:
                self.of_scid[sale.scid].append(sale)


def fees_of(funding: Tx) -> Fees:
    """Return what a budget counts of a funding and of the close: what is larger is bound by no option."""
    weight = START_WEIGHT + INPUT_WEIGHT * len(funding.inputs) + OUTPUT_WEIGHT * (len(funding.outputs) - 1)
    return Fees(funding.fee_sat * OPEN_WEIGHT // max(OPEN_WEIGHT, weight), funding.fee_sat * CLOSE_WEIGHT // weight)


def _short(account: Account) -> str:
    return f"{account.channel.channel_id[:8]} of {account.channel.opener.peer.name}"
