"""What is promised about money, each with the rule that guards it. All of it is computed from options and books.

Three rhythms: after every step what is cheap to look at, with every block the sums, and whenever nothing is under way
what the operator is told. A promise that does not hold raises `Violation`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lsps2fast_plugin.simnode.errors import NodeProblem, RpcError
from lsps2fast_plugin.simnode.psbt import decode

from .books import BACK, Account, Books
from .closes import ClosePromise
from .common import Common
from .held_asleep import Asleep
from .order_promise import OrderPromise
from .page import read_page
from .pots import check_coins
from .rooms import RoomPromise
from .sleepers import MOST_AN_HOUR
from .story import Violation
from .told import Told

NOISE = (
    *("Traceback", "failed in our code", "a task failed", "failed in pyln-client"),
    *("TypeError:", "KeyError:", "AttributeError:", "IndexError:"),  # which an answer to a peer hides
)
DAY_S = 86_400.0
WINDOW_S = 25 * 3_600.0  # of burnt mining fees: a day in whole hours
KEPT_S = WINDOW_S + 7_200  # the hours in which a day begins and ends count whole
ANSWER_S = 5.0  # until a part that cannot be held has been failed
LISTED_EVERY = 12  # quiet blocks
PAGE_EVERY_S = DAY_S / 3  # between looks at the metrics page, which takes long to make
QUIET_BLOCKS = 3  # that a leftover may stay
RULES = {"coins": "rule:9", "sessions": "rule:5"} | dict.fromkeys(("fees", "accounts", "orders"), "rule:20")


@dataclass(frozen=True)
class Bounds:
    """What the options promise, in sat; defaults as in `docs/reference/options.md`."""

    capital_sat: int = 10_000_000
    withheld_sat: int = 10_000_000
    mining_sat: int = 100_000
    channel_sat: int = 16_777_215
    least_channel_sat: int = 20_000
    parts: int = 2_000
    parts_of_peer: int = 200
    parts_of_buy: int = 60
    at_once: int = 2  # unpaid channels of one client on chain


class Promises:
    """Looks at a town. `worst` is the highest that each bounded sum has reached."""

    def __init__(self, common: Common, bounds: Bounds, closes: ClosePromise) -> None:
        self.common = common
        self.closes = closes
        self.books: Books = common.books
        self.town = common.town
        self.lsp = common.town.lsp
        self.bounds = bounds
        self.worst: Counter[str] = Counter()
        self._low_s = 0.0  # when little enough was burnt for channels to be withheld
        self._allowed: set[Account] | None = None  # those that were withheld when that ended
        self._told: tuple[int, int, int] | None = None  # life, what stats said was earned, what we knew then
        self._page_s = -PAGE_EVERY_S  # when the metrics page was last compared
        self._left: Counter[str] = Counter()  # leftovers, by how many quiet blocks they have been there
        self.told_of = Told(common.town, common.books)
        self.rooms = RoomPromise(common)
        self.orders = OrderPromise(common)
        self.asleep = Asleep(common)
        self.town.transcript.listeners.append(self._listen)

    # after every step

    def step(self) -> None:
        """Check what must hold all the time."""
        self.books.look()
        if self.lsp.state == "crashed":
            raise Violation("rule:1", f"lightningd died of our answer: {self.lsp.crash_log}")
        if self.books.strays:
            raise Violation("rule:21", self.books.strays[0])
        if self.town.apps.most > MOST_AN_HOUR:
            raise Violation("rule:24", f"a webhook was called {self.town.apps.most} times in an hour")
        self._capital()
        self._held()
        self._shares()
        self.orders.step()
        self.asleep.step()
        check_coins(self.books)
        self.books.rest()

    def _listen(self, entry: dict[str, Any]) -> None:
        message = entry["msg"]
        self.asleep.hear(entry)
        if message.get("method") == "htlc_accepted" and entry["dir"] == "host>plugin":
            self.worst["parts"] = max(self.worst["parts"], len(self.lsp.htlcs.held))
            self.common.part_came()
        if entry["dir"] == "plugin>host" and message.get("method") == "log":
            text = str(message["params"].get("message", ""))
            if any(word in text for word in NOISE):
                self.common.fail(Violation("rule:1", f"{entry['peer']} broke: {text}"))
            self.orders.hear(text)
        elif entry["dir"] == "mark" and str(message.get("event", "")).startswith("Killing plugin"):
            self.common.fail(Violation("rule:1", str(message["event"])))

    def _capital(self) -> None:
        """rule:18: what lies in unpaid channels, by what was really put in."""
        bounds = self.bounds
        unpaid_sat = withheld_sat = 0
        for account in self.books.live.values():
            if not bounds.least_channel_sat <= account.capacity_sat <= bounds.channel_sat:
                raise Violation("rule:18", f"a channel of {account.capacity_sat} sat was opened")
            unpaid_sat += account.capacity_sat if account.is_unpaid else 0
        for account in self.books.withheld():
            withheld_sat += account.capacity_sat
        self._reached("capital", unpaid_sat + withheld_sat, bounds.capital_sat + bounds.withheld_sat)
        self._reached("withheld", withheld_sat, bounds.capital_sat + bounds.withheld_sat)

    def _held(self) -> None:
        """rule:24: parts held in all."""
        self._reached("parts", len(self.lsp.htlcs.held), self.bounds.parts, "rule:24")

    def _shares(self) -> None:
        """rule:24: parts held for one buy and for one client, those aside that have just come."""
        of_buy: Counter[str] = Counter()
        since_s = self.town.clock.time() - ANSWER_S
        for part in self.lsp.htlcs.held.values():
            if part.scid is not None and part.received_s < since_s:
                of_buy[part.scid] += 1
        of_client: Counter[str] = Counter()
        for scid, parts in of_buy.items():
            for sale in self.books.of_scid.get(scid, ()):
                of_client[sale.buyer.name] += parts
        for what, counts, bound in (
            ("parts of a buy", of_buy, self.bounds.parts_of_buy),
            ("parts of a client", of_client, self.bounds.parts_of_peer),
        ):
            self._reached(what, max(counts.values(), default=0), bound, "rule:24")

    def _turns(self) -> None:
        """rule:19: of one client few channels at a time go on chain before they are paid for."""
        since_s = self.town.loop.time() - DAY_S
        of_client = Counter(
            each.end.peer.name for each in self.books.unpaid() if each.on_trust and each.sent_s > since_s
        )
        self._reached("unpaid of a client", max(of_client.values(), default=0), self.bounds.at_once, "rule:19")

    def _reached(self, what: str, amount: int, bound: int, rule: str = "rule:18") -> None:
        self.worst[what] = max(self.worst[what], amount)
        if amount > bound:
            raise Violation(rule, f"{what} reached {amount}, and {bound} is the bound")

    # with every block

    def block(self) -> None:
        """Check the sums."""
        self.step()
        orphans = self.town.orphaned_sat()
        if orphans:
            raise Violation(
                "rule:23", f"{sum(orphans.values())} sat went into fundings that no channel owns: {orphans}"
            )
        changes = self.town.books()
        try:
            self.town.check_books(changes)
        except AssertionError as error:
            raise Violation("rule:3", str(error)) from None
        self._turns()
        self._payers(changes)
        self._loss()
        self._mining()
        self.closes.block()
        self.common.purse.check()

    def _payers(self, changes: dict[str, int]) -> None:
        """rule:5: no payer had to close by force; an honest one has lost what was delivered, and no more."""
        for payer in self.common.payers:
            if payer.force_closed:
                late = [htlc.payment_hash for end in payer.force_closed for htlc in end.live.values()]
                scids = sorted({self.books.by_hash[each].scid for each in late if each in self.books.by_hash})
                where = f"a part over {', '.join(scids) or 'another way'} was held too long"
                raise Violation("rule:5", f"{payer.name} closed its channel by force: {where}")
            if -changes[payer.name] != payer.paid_msat + self.common.spent_msat[payer.name]:
                lost = -changes[payer.name]
                raise Violation("rule:3", f"{payer.name} lost {lost} msat and has receipts for {payer.paid_msat}")

    def _loss(self) -> None:
        """rule:5, rule:20: the LSP has what it earned, less what miners took."""
        have_msat = self.books.profit_msat() + self.books.due_msat()
        came_msat = self.books.earned_msat + self.books.orders.income_msat
        must_msat = came_msat - self.town.chain.fees_sat * 1000
        if have_msat < must_msat:
            short = must_msat - have_msat
            raise Violation("rule:5", f"the LSP lost {short} msat that neither miners nor a sale account for")

    def _mining(self) -> None:
        """Check rule:18, mining without a sale within a day: of fundings sent on trust M, of all together 2 M and what
        the channels cost that were withheld when that sum was reached.
        """
        now_s, kept, most_sat = self.town.loop.time(), self.books.sent_lately, self.bounds.mining_sat
        while kept and kept[0].sent_s < now_s - KEPT_S:
            kept.popleft()
        sent = [each for each in kept if each.sent_s >= now_s - WINDOW_S + 3_600]
        self._reached("mining", sum(each.burnt_sat for each in sent if each.on_trust), most_sat)
        in_all_sat = sum(each.burnt_sat for each in sent)
        if in_all_sat <= 2 * most_sat:
            self._low_s, self._allowed = now_s, None
        elif self._allowed is None:
            accounts = [*self.books.accounts.values(), *sent]
            late = {each for each in accounts if each.funding is None or each.sent_s > self._low_s}
            self._allowed = {each for each in late if not each.on_trust}
        allowed_sat = sum(each.risk.sat for each in self._allowed or ())
        self._reached("all mining", in_all_sat, 2 * most_sat + allowed_sat)

    # when nothing is under way

    async def told(self) -> None:
        """Check, when all is quiet, that the operator's figures equal the books and nothing is left over."""
        if not self._is_quiet():
            return
        try:
            stats = await asyncio.wait_for(self.lsp.call("lsps2-stats"), 60)
        except (RpcError, NodeProblem, TimeoutError):
            return  # it is starting
        if not self._is_quiet():
            return
        self.common.story.counts["quiet looks"] += 1
        self._is_told("held_parts", stats["held_parts"], 0)
        self._at_risk(stats)
        self._earned(stats, self.common.lives)
        self._leftovers(stats)
        self._sessions(stats)
        if self.common.story.counts["quiet looks"] % LISTED_EVERY == 0:
            await self._listed()
            await self._ordered()
            await self._on_page()
            self._accounts()

    async def _listed(self) -> None:
        """people:S17: every channel on chain with our money in it that is not paid for is listed until it is back."""
        try:
            told = await asyncio.wait_for(self.lsp.call("lsps2-listsessions"), 60)
        except (RpcError, NodeProblem, TimeoutError):
            return
        rows = {row["channel_id"] for row in told["unpaid_channels"]}
        true = {each.channel.channel_id for each in self.books.unpaid() if not each.is_whole}
        if self._is_quiet() and (missing := true - rows):
            self._later("listing", f"lsps2-listsessions lacks {len(missing)} unpaid channels: {sorted(missing)}")
        else:
            self._left["listing"] = 0

    async def _ordered(self) -> None:
        """rule:20: what the operator is told of each order is what came of it."""
        if not self.books.orders.all:
            return
        try:
            told = await asyncio.wait_for(self.lsp.call("lsps2-listorders"), 60)
        except (RpcError, NodeProblem, TimeoutError):
            return
        wrong = self.orders.told(told["orders"]) if self._is_quiet() else None
        if wrong is None:
            self._left["orders"] = 0
        else:
            self._later("orders", wrong)

    async def _on_page(self) -> None:
        """rule:18, rule:20: the page for Prometheus says what the books say, to the msat."""
        life, now_s = self.common.lives, self.town.loop.time()
        if now_s < self._page_s + PAGE_EVERY_S:
            return
        try:
            page = await asyncio.wait_for(read_page(), 60)
        except (OSError, TimeoutError):
            return
        if not self._is_quiet() or not page or life != self.common.lives:
            return
        figures = {name: round(page[f"lsps2_{name}"]) for name in ("held_parts", "held_msat", "at_risk_msat")}
        figures["fees_earned_msat"] = round(page["lsps2_fees_earned_msat_total"])
        self._is_told("held_parts", figures["held_parts"], 0, "the metrics page")
        self._is_told("held_msat", figures["held_msat"], 0, "the metrics page")
        self._at_risk(figures, "the metrics page")
        self._earned(figures, life, "the metrics page")
        withheld = sum(1 for _ in self.books.withheld())
        if round(page["lsps2_withheld_channels"]) == withheld:
            self._left["page"] = 0
        else:
            told = f"{page['lsps2_withheld_channels']:.0f} withheld channels, and there are {withheld}"
            self._later("page", f"the metrics page tells of {told}")
        self._page_s = now_s
        self.common.story.counts["metrics pages compared"] += 1

    def _accounts(self) -> None:
        """rule:20: ledger and records say of each sale that is over which fee came, to the msat."""
        wrong = self.told_of.wrong() or self.closes.told()
        if wrong is None:
            self._left["accounts"] = 0
        else:
            self._later("accounts", wrong)
        self.common.story.counts["sales compared with ledger and record"] = self.told_of.compared
        if wrong := self.books.recount():
            raise RuntimeError(wrong)

    def _is_quiet(self) -> bool:
        lsp = self.lsp
        if lsp.state != "running" or not lsp.plugins or not lsp.plugins[0].ready or lsp.htlcs.held:
            return False
        return not (lsp.openings.pending or lsp.openings.starting or self.common.harm)

    def _is_told(self, what: str, said: int, true: int, who: str = "lsps2-stats") -> None:
        if said != true:
            raise Violation("rule:18", f"{who} says {what} is {said}, and it is {true}")

    def _at_risk(self, stats: dict[str, Any], who: str = "lsps2-stats") -> None:
        """Check the ledger of capital. A paid channel may still count while parts are on their way over it; one whose
        client took all it bought need not, though a share of the fee is missing: that may be a stranger's doing.
        """
        accounts = self.books.accounts.values()
        debts = [account for account in self.books.live.values() if account.is_open_debt]
        busy = [each for each in accounts if each.paid and each.end.live and each.end.state not in BACK]
        least_msat = sum(each.capacity_sat * 1000 for each in debts if not each.is_whole)
        most_msat = sum(each.capacity_sat * 1000 for each in (*debts, *busy))
        if least_msat <= stats["at_risk_msat"] <= most_msat:
            self._left["ledger"] = 0
            return
        names = ", ".join(f"{each.end.peer.name} {each.capacity_sat}" for each in debts)
        told = f"{who} says that {stats['at_risk_msat']} msat are at risk, and {least_msat} are"
        self._later("ledger", f"{told} ({names or 'no channel'})")

    def _earned(self, stats: dict[str, Any], life: int, who: str = "lsps2-stats") -> None:
        """Fees that came, since the plugin's start; shares of fees are told when their sale is over."""
        said, true = stats["fees_earned_msat"], self.books.opening_fees_msat
        share_msat = self.books.share_msat()
        if self._told is None or self._told[0] != life:
            self._told = (life, true - said, share_msat)
        missing = true - said - self._told[1]
        if -self._told[2] <= missing <= share_msat:
            self._left["fees"] = 0
        else:
            came = f"{missing} msat more came, {share_msat} of it shares of sales that are not over"
            self._later("fees", f"{who} counts {said} msat of opening fees since its start; {came}")

    def _leftovers(self, stats: dict[str, Any]) -> None:
        """rule:9: no coin stays reserved but those of fundings that are not on chain yet."""
        psbts = [account.channel.funding_psbt for account in self.books.unsent()]
        needed = {point for text in psbts if text is not None for point in decode(text).inputs}
        wallet = self.lsp.wallet
        foreign = self.common.others
        reserved = [
            point
            for point in wallet.outputs()
            if wallet.is_reserved(point) and point not in needed and wallet.reserved[point] != foreign.get(point)
        ]
        if reserved:
            self._later("coins", f"{len(reserved)} coins of the LSP are reserved for nothing")
        else:
            self._left["coins"] = 0

    def _sessions(self, stats: dict[str, Any]) -> None:
        """rule:5: no payment waits when there is nothing that it could wait for: no HTLC, no funding."""
        accounts = self.books.accounts.values()
        if stats["live_sessions"] and not any(_is_busy(each) for each in accounts):
            self._later("sessions", f"{stats['live_sessions']} payments are under way in which nothing is")
        else:
            self._left["sessions"] = 0

    def _later(self, what: str, sentence: str) -> None:
        """Allow it for a moment, not for several quiet blocks."""
        self._left[what] += 1
        if self._left[what] > QUIET_BLOCKS:
            raise Violation(RULES.get(what, "rule:18"), sentence)

    # at the end

    def end(self) -> None:
        """Check that the journal's final records say what the books say."""
        for key, (value, _) in self.lsp.datastore.rows.items():
            if key[:4] == ("lsps", "lsps2", "sessions", "finalized"):
                self.common.story.counts[f"records {json.loads(value).get('outcome')}"] += 1


def _is_busy(account: Account) -> bool:
    """Whether something in this channel has no end yet: its funding, or a HTLC."""
    if any(end.live for end in account.channel.ends):
        return True
    return not (account.is_on_chain or account.end.forgotten or account.end.state in BACK)
