"""Close channels by the operator's rules: decide, write it down, look once more, ask lightningd.

A close is asked for by agreement only and waits for its client for ever: lightningd forces nothing here
(`unilateraltimeout` 0). What fails is tried again with growing pauses, a few times; what the client does not finish
stays with lightningd, is told, and counts as under way.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Protocol

from lsps2fast.errors import AnswerPending, NodeError, StoreError
from lsps2fast_plugin.cln.answers import PerKw
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.models import Caller, PeerChannel, find_closed_channel, list_peer_channels
from lsps2fast_plugin.cln.pyln_adapter import MethodError
from lsps2fast_plugin.service.capital import BACK
from lsps2fast_plugin.service.closing.decision import ChannelFacts, Now, Use, decide, why_bound, why_not
from lsps2fast_plugin.service.closing.journal import CloseJournal, Decision
from lsps2fast_plugin.service.closing.survey import Survey
from lsps2fast_plugin.service.policy.closing import CloseRule, Closing
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.sales_ledger.facts import CloseFact
from lsps2fast_plugin.service.sales_ledger.ledger import SalesLedger
from lsps2fast_plugin.service.sales_ledger.periods import DAY_MS
from lsps2fast_plugin.service.sales_ledger.story import sat

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S: Final = 60.0  # for an answer; a close that goes on behind it is found in the channel's state
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 600_000, DAY_MS
MOST_TRIES: Final = 6
LEFT_ALONE_MS: Final = 30 * DAY_MS  # so long a channel is left alone after as many failures
STALE_MS: Final = DAY_MS  # a decision that led to nothing for so long is withdrawn
LOOKED_AT: Final = 20  # channels whose forwards lightningd is asked for, each time
AGAIN_MS: Final = 6 * 3_600_000  # until a channel that no rule took is looked at again
TELL_EVERY_MS: Final = DAY_MS


class Rates(Protocol):
    """What transactions pay: `NodeLiquidity`."""

    async def perkw(self) -> PerKw:
        """Return them. Raises NodeError."""


class Closer:
    """The closes of one service. `is_on` is the operator's switch: off, nothing is asked of lightningd."""

    def __init__(
        self,
        *,
        rpc: Caller,
        survey: Survey,
        journal: CloseJournal,
        sales: SalesLedger,
        policy: Policy,
        rates: Rates,
        clock: Clock,
        is_on: bool,
    ) -> None:
        self._rpc = rpc
        self.survey = survey
        self.journal = journal
        self._sales = sales
        self._policy = policy
        self._rates = rates
        self._clock = clock
        self.is_on = is_on
        self.is_cheap = False
        self.counts: Counter[str] = Counter()  # asked, closed, withdrawn, failed: since the start
        self._looking = self._is_asked = False
        self._held = False
        self._later: dict[str, int] = {}  # by channel: when it is looked at again
        self._told: dict[str, int] = {}  # by channel that closes: when the operator is told next that it waits

    @property
    def closing(self) -> Closing:
        """The rules in force."""
        return self._policy.rules.closing

    def hold(self) -> None:
        """Ask for no more closes until the next start: the node is about to end."""
        self._held = True

    def state(self) -> dict[str, Any]:
        """Return how it stands, for `lsps2-stats`."""
        return {
            "is_on": self.is_on,
            "rules": len(self.closing.rules),
            "is_cheap": self.is_cheap,
            "under_way": len(self.journal),
            **{name: self.counts[name] for name in ("asked", "closed", "withdrawn", "failed")},
        }

    # Each block ------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Go on with what was decided, then decide anew. What cannot be asked or written now waits for a block."""
        self._is_asked = True
        if self._looking or not self.journal.is_loaded:
            return
        self._looking = True
        try:
            while self._is_asked and (self._may_act() or len(self.journal)):  # again for a block that came meanwhile
                self._is_asked = False
                await self._look()
        except (NodeError, StoreError, MethodError) as error:
            log.warning(f"closing by rule waits for the next block: {error}")
        finally:
            self._looking = False

    async def _look(self) -> None:
        listed = await list_peer_channels(self._rpc)
        channels = {channel.channel_id: channel for channel in listed}
        for decision in self.journal:
            await self._go_on(decision, channels)
        if self._may_act():
            await self._decide(listed)

    def _may_act(self) -> bool:
        return self.is_on and not self._held and bool(self.closing.rules)

    async def _see_rates(self) -> PerKw:
        rates = await self._rates.perkw()
        was, self.is_cheap = self.is_cheap, self.closing.is_cheap(rates.closing, self.is_cheap)
        if self.is_cheap != was:
            ceiling = self.closing.max_feerate_perkw
            words = "begin" if self.is_cheap else "end"
            log.info(f"cheap hours for closes {words}: {rates.closing} sat per 1000 weight, at most {ceiling}")
        return rates

    async def room(self, wall_ms: int) -> tuple[int, int]:
        """Return how many closes may still be asked for, and how many were in 24 hours. Raises MethodError."""
        closed = await self.survey.decided_since(wall_ms - DAY_MS)
        closed |= {decision.channel_id for decision in self.journal if decision.decided_ms > wall_ms - DAY_MS}
        under_way = sum(_is_under_way(decision, wall_ms) for decision in self.journal)
        return self.closing.room(len(closed), under_way), len(closed)

    # Decide ----------------------------------------------------------------------------------------

    async def _decide(self, listed: list[PeerChannel]) -> None:
        rates = await self._see_rates()
        if not self.is_cheap or self._sales.is_behind:
            return
        wall_ms = self._clock.wall_ms()
        room, _ = await self.room(wall_ms)
        if room < 1:
            return
        now = self.now(rates)
        for facts in self._worth_a_look(await self.survey.sold(listed), now)[:LOOKED_AT]:
            use = await self.survey.use(facts, wall_ms)
            rule = decide(self.closing.rules, facts, use, now).rule
            if rule is None:
                self._later[facts.channel_id] = self._clock.now_ms() + AGAIN_MS
                continue
            await self._ask(_decision(facts, use, rule, rates, now), facts, rates)
            room -= 1
            if room < 1:
                return

    def now(self, rates: PerKw) -> Now:
        """Return the moment, and what a close would cost in it; vbytes are 4 weight, so perkw are msat."""
        floor = self._policy.rules.floor
        return Now(self._clock.wall_ms(), 4 * floor.close_vbytes * rates.closing)

    def _worth_a_look(self, sold: list[ChannelFacts], now: Now) -> list[ChannelFacts]:
        """Return those that only their forwards may keep: the most of our money first, once all have had their turn."""
        now_ms = self._clock.now_ms()
        known = {facts.channel_id for facts in sold}
        self._later = {each: due_ms for each, due_ms in self._later.items() if each in known}
        found = [
            facts
            for facts in sold
            if facts.channel_id not in self.journal
            and self._later.get(facts.channel_id, now_ms) <= now_ms
            and why_bound(facts) is None
            and any(why_not(rule, facts, None, now) is None for rule in self.closing.rules)
        ]
        return sorted(found, key=lambda facts: (self._later.get(facts.channel_id, 0), -facts.ours_msat))

    # Act -------------------------------------------------------------------------------------------

    async def _ask(self, decision: Decision, facts: ChannelFacts, rates: PerKw) -> None:
        """Write that it is tried, look once more, and ask for the close."""
        decision = decision.tried(self._clock.wall_ms())
        await self.journal.write(decision)
        why = await self._why_not_now(facts)
        if why is not None:
            await self._withdraw(decision, why)
            return
        log.info(
            f"closing channel {decision.channel_id} to {decision.peer_id} by rule {decision.rule!r}: unused for"
            f" {decision.idle_days} days, earned {sat(decision.opening_fee_msat + decision.routing_fees_msat)},"
            f" {sat(facts.ours_msat)} are ours, closing costs about {-(-decision.closing_msat // 1000):,} sat"
        )
        self.counts["asked"] += 1
        least_perkw = min(rates.min_acceptable, self.closing.max_feerate_perkw)
        params = {
            "id": decision.channel_id,
            "unilateraltimeout": 0,  # never by force
            "feerange": [f"{least_perkw}perkw", f"{self.closing.max_feerate_perkw}perkw"],
        }
        try:
            await self._rpc.call("close", params, CLOSE_TIMEOUT_S)
        except AnswerPending:
            log.info(f"lightningd has not closed channel {decision.channel_id} yet; its state says what becomes of it")
        except NodeError as error:
            await self._failed(decision, error)
        else:
            self._book(decision)

    async def _why_not_now(self, facts: ChannelFacts) -> str | None:
        """Return what has changed since the decision that speaks against it: right before the close."""
        fresh = await self.survey.again(facts)
        if not self._may_act():
            return "closing by rule was switched off"
        if fresh is None:
            return "it is gone"
        if fresh.ours_msat != facts.ours_msat:
            return "it was used meanwhile"
        return why_bound(fresh)

    async def _failed(self, decision: Decision, error: NodeError) -> None:
        self.counts["failed"] += 1
        log.warning(
            f"channel {decision.channel_id} could not be closed by rule {decision.rule!r}"
            f" (try {decision.tries} of {MOST_TRIES}): {error}"
        )
        if decision.tries >= MOST_TRIES:
            await self.journal.write(decision.hopeless(str(error)))

    async def _withdraw(self, decision: Decision, why: str) -> None:
        self.counts["withdrawn"] += 1
        log.info(f"channel {decision.channel_id} is not closed by rule {decision.rule!r} after all: {why}")
        self._later[decision.channel_id] = self._clock.now_ms() + AGAIN_MS
        await self.journal.drop(decision)

    def _book(self, decision: Decision) -> None:
        """Tell the ledger; it takes this as often as it comes."""
        self._sales.closed_by_rule(
            CloseFact(
                channel_id=decision.channel_id,
                rule=decision.rule,
                decided_ms=decision.decided_ms,
                feerate_perkw=decision.feerate_perkw,
                ours_msat=decision.ours_msat,
                client_msat=decision.capacity_msat - decision.ours_msat,
                opening_fee_msat=decision.opening_fee_msat,
                routing_fees_msat=decision.routing_fees_msat,
                idle_days=decision.idle_days,
            )
        )

    # Go on with what was decided -------------------------------------------------------------------

    async def _go_on(self, decision: Decision, channels: Mapping[str, PeerChannel]) -> None:
        channel = channels.get(decision.channel_id)
        ends = channel is None or channel.is_closing or channel.state in BACK
        if ends and _was_left_alone(decision, self._clock.wall_ms()):
            await self._withdraw(decision, "it had been left alone when it was closed")
        elif channel is None or channel.state in BACK:
            await self._finish(decision, channel)
        elif channel.is_closing and channel.closer == "remote":
            await self._withdraw(decision, "its client closes it")
        elif channel.is_closing:
            self._book(decision)
            self._tell_waiting(decision, channel.state)
        elif decision.given_up is not None:
            if self._clock.wall_ms() - decision.tried_ms >= LEFT_ALONE_MS:
                await self.journal.drop(decision)
        else:
            await self._again(decision, list(channels.values()))

    async def _finish(self, decision: Decision, channel: PeerChannel | None) -> None:
        """End a close whose money is back. The record goes once the ledger has what it says."""
        closer = None if channel is None else channel.closer
        if channel is None:
            closed = await find_closed_channel(self._rpc, decision.channel_id, id=decision.peer_id)
            closer = None if closed is None else closed.closer
        if closer == "remote":
            await self._withdraw(decision, "its client has closed it")
            return
        self._book(decision)
        await self._sales.settled()
        if self._sales.is_behind:
            return
        await self.journal.drop(decision)
        self._told.pop(decision.channel_id, None)
        self.counts["closed"] += 1
        log.info(f"channel {decision.channel_id} is closed by rule {decision.rule!r}")

    def _tell_waiting(self, decision: Decision, state: str) -> None:
        """Say each day that a close is not finished, and what the operator may do."""
        now_ms = self._clock.now_ms()
        due_ms = self._told.setdefault(decision.channel_id, now_ms + TELL_EVERY_MS)
        if now_ms >= due_ms and state == "CHANNELD_SHUTTING_DOWN":
            self._told[decision.channel_id] = now_ms + TELL_EVERY_MS
            log.warning(
                f"channel {decision.channel_id} has waited for {decision.peer_id} to agree to its close since"
                f" {(self._clock.wall_ms() - decision.tried_ms) // DAY_MS} days; nothing is forced by a rule,"
                " `close` with a unilateraltimeout is yours"
            )

    async def _again(self, decision: Decision, listed: list[PeerChannel]) -> None:
        """Try once more, after a pause that grows, if the rule still says so."""
        if not self._may_act():
            await self._withdraw(decision, "closing by rule was switched off")
            return
        rule = next((each for each in self.closing.rules if each.name == decision.rule), None)
        if rule is None:
            await self._withdraw(decision, "its rule is gone")
            return
        wall_ms = self._clock.wall_ms()
        if wall_ms - decision.decided_ms >= STALE_MS:
            await self._withdraw(decision, "nothing came of it within a day")
            return
        pause_ms = min(FIRST_PAUSE_MS << max(decision.tries - 1, 0), LONGEST_PAUSE_MS)
        if 0 <= wall_ms - decision.tried_ms < pause_ms:
            return
        rates = await self._see_rates()
        if not self.is_cheap:
            return
        sold = {facts.channel_id: facts for facts in await self.survey.sold(listed)}
        facts = sold.get(decision.channel_id)
        if facts is None:
            await self._withdraw(decision, "it is not in the ledger")
            return
        now = self.now(rates)
        verdict = decide((rule,), facts, await self.survey.use(facts, now.wall_ms), now)
        if verdict.rule is None:
            await self._withdraw(decision, "; ".join(verdict.sentences))
        else:
            await self._ask(decision, facts, rates)


def _is_under_way(decision: Decision, wall_ms: int) -> bool:
    """Return whether a close takes a place: one whose client has stayed away for a day holds up no other."""
    return decision.given_up is None and wall_ms - decision.tried_ms < DAY_MS


def _was_left_alone(decision: Decision, wall_ms: int) -> bool:
    """Return whether a close of now is another's: the last try, which may have worked all the same, is a day ago."""
    return decision.given_up is not None and wall_ms - decision.tried_ms >= DAY_MS


def _decision(facts: ChannelFacts, use: Use, rule: CloseRule, rates: PerKw, now: Now) -> Decision:
    return Decision(
        channel_id=facts.channel_id,
        peer_id=facts.peer_id,
        rule=rule.name,
        decided_ms=now.wall_ms,
        feerate_perkw=rates.closing,
        closing_msat=now.closing_msat,
        capacity_msat=facts.capacity_msat,
        ours_msat=facts.ours_msat,
        opening_fee_msat=facts.opening_fee_msat,
        routing_fees_msat=use.routing_fees_msat,
        idle_days=(now.wall_ms - use.used_ms) // DAY_MS,
    )
