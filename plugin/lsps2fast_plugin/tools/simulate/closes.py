"""Channels that the operator's rules close: the rules of a town, and what is promised of each close.

A close by rule is seen as it is asked for: only by a rule, with a record, past the promised lifetime, without HTLCs,
after the idle time, never by force. Once it is on chain, the sales ledger must have it to the satoshi.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lsps2fast_plugin.service.closing.journal import ROOT
from lsps2fast_plugin.service.sales_ledger.ledger import reading
from lsps2fast_plugin.simnode.channels import DUST_SAT, End
from lsps2fast_plugin.simnode.parts import Forward

from .common import Common
from .plan import DAY_S, RULES_FILE, Plan
from .story import Violation

IDLE_DAYS, CLOSES_A_DAY, RULE = 1, 5, "idle"
SKEW_S = 1_260.0  # the clock of the LSP's machine is ten minutes off at most, and jumps from one side to the other
NEWS_S = 120.0  # an answer of lightningd may be so old: what has come since then is not in it
BOOKED_S = DAY_S  # after a block has the close, the ledger has it
BOOKED = """SELECT c.close_mining_msat, r.rule, r.ours_msat FROM closes r JOIN channels c USING (channel_id)
  WHERE channel_id = ?"""


def policy_of(plan: Plan) -> str:
    """Return the policy file of a town whose operator has closing rules; all else in it is what the options say."""
    headroom = "headroom_sat = 0\n" if plan.is_tight else ""
    return f"""
[[fee_line]]
min_fee_msat = 1_000_000
proportional_ppm = 10_000
min_lifetime_blocks = {plan.lifetime_blocks}

[capacity]
min_sat = {plan.least_channel_sat}
{headroom}
[trust]
default = "{plan.trust_mode}"

[existing_channels]
reuse = "{plan.reuse_mode}"

[closing]
max_feerate_perkw = 2_000
closes_per_day = {CLOSES_A_DAY}

[[closing.rule]]
name = "{RULE}"
idle_days = {IDLE_DAYS}
max_client_sat = 100_000_000
min_ours_sat = 1_000
"""


def write_policy(plan: Plan, folder: str) -> None:
    """Write it where the town's service looks; old enough that it is read once."""
    path = Path(folder) / RULES_FILE
    path.write_text(policy_of(plan), encoding="utf-8")
    os.utime(path, (0, 0))


@dataclass(eq=False)
class _Asked:
    """A channel that was to be closed by a rule."""

    end: End
    since_s: float  # when it was asked for first
    back_s: float | None = None  # when its coins were found back


class ClosePromise:
    """Sees each close that the plugin asks for by a rule."""

    def __init__(self, common: Common, plan: Plan) -> None:
        self._common = common
        self._plan = plan
        self._lsp = common.town.lsp
        self._used_s: dict[str, float] = {}
        self._asked: dict[str, _Asked] = {}
        self._reorg_s = float("-inf")
        self._reorgs = 0
        self._lsp.forward_listeners.append(self._forwarded)
        common.town.transcript.listeners.append(self._listen)

    def _forwarded(self, row: Forward) -> None:
        if row.status == "settled" and row.out_htlc is not None:
            now_s = self._common.town.loop.time()
            for channel in (row.out_htlc.channel, row.part.end.channel):
                self._used_s[channel.channel_id] = now_s

    # as it is asked for

    def _listen(self, entry: dict[str, Any]) -> None:
        message = entry["msg"]
        is_close = entry["dir"] == "rpc>host" and message.get("method") == "close"
        if is_close and entry["peer"] == "lsp/plugin-rpc" and "feerange" in message["params"]:  # no other close has it
            self._see(message["params"])

    def _see(self, params: dict[str, Any]) -> None:
        channel_id = params["id"]
        end = next((end for end in self._lsp.ends if end.channel.channel_id == channel_id), None)
        if end is None:
            return
        self._common.story.counts["closes asked for by a rule"] += 1
        self._asked.setdefault(channel_id, _Asked(end, self._common.town.loop.time()))
        for violation in self._wrong(end, params):
            self._common.fail(violation)

    def _wrong(self, end: End, params: dict[str, Any]) -> Iterator[Violation]:
        channel_id, now_s = end.channel.channel_id, self._common.town.loop.time()
        name = f"channel {channel_id[:8]} of {end.peer.name}"
        if not self._plan.closes:
            yield Violation("rule:20", f"{name} is closed by a rule, and there is none")
        if (*ROOT, channel_id) not in self._lsp.datastore.rows:
            yield Violation("rule:11", f"{name} is closed by a rule without a record")
        if params.get("unilateraltimeout") != 0:
            yield Violation("rule:5", f"{name} may be closed by force, by a rule")
        old_s = self._common.town.clock.time() - NEWS_S
        if any(0 < htlc.received_s < old_s for side in (end, end.other) for htlc in side.live.values()):
            yield Violation("rule:10", f"{name} is closed by a rule with HTLCs in it")
        account = self._common.books.accounts.get(channel_id)
        if account is None or account.sale is None or not account.paid:
            yield Violation("rule:20", f"{name} is closed by a rule, and no paid sale has brought it")
            return
        depth, least = self._depth(end), account.sale.params.min_lifetime_blocks
        if depth < least and now_s - self._reorg_s > NEWS_S:
            yield Violation("rule:20", f"{name} is closed by a rule after {depth} blocks, and {least} were promised")
        if account.sale.until_s > now_s + SKEW_S:
            yield Violation("rule:20", f"{name} is closed by a rule while its jit scid is promised to be an alias")
        idle_s = now_s - max(self._used_s.get(channel_id, 0.0), account.sent_s)
        if idle_s < IDLE_DAYS * DAY_S - SKEW_S:
            yield Violation("rule:20", f"{name} is closed by a rule after {idle_s / 3600:.1f} idle hours")

    def _depth(self, end: End) -> int:
        return self._common.town.chain.depth(end.channel.funding_txid)

    # with every block

    def block(self) -> None:
        """Check what has become of them."""
        reorgs = self._common.storms["reorgs"]
        if reorgs != self._reorgs:
            self._reorgs, self._reorg_s = reorgs, self._common.town.loop.time()
        now_s, ended = self._common.town.loop.time(), 0
        for asked in self._asked.values():
            end = asked.end
            ended += end.channel.on_chain is not None and now_s - asked.since_s < DAY_S - SKEW_S
            if end in self._lsp.force_closed:
                raise Violation("rule:5", f"the LSP closed {end.channel.channel_id[:8]} by force after a rule")
            if asked.back_s is None and end.channel.settled_on_chain:
                asked.back_s = now_s
        if ended > CLOSES_A_DAY:
            raise Violation("rule:18", f"{ended} channels were closed by rule within a day, {CLOSES_A_DAY} is the most")

    def told(self) -> str | None:
        """Return what the sales ledger says otherwise than it was, None when all is told well."""
        before_s = self._common.town.loop.time() - BOOKED_S
        due = {key: each for key, each in self._asked.items() if each.back_s is not None and each.back_s < before_s}
        if not due:
            return None
        try:
            with reading(self._common.town.ledger_path) as db:
                told = {key: db.execute(BOOKED, (bytes.fromhex(key),)).fetchone() for key in due}
        except sqlite3.Error as error:
            return f"the sales ledger cannot be read: {error}"
        for channel_id, asked in due.items():
            if (wrong := _wrongly_told(asked.end, told[channel_id])) is not None:
                return f"the sales ledger says of the close of {channel_id[:8]} {wrong}"
            self._common.story.counts["closes by rule compared with the ledger"] += 1
            del self._asked[channel_id]
            self._used_s.pop(channel_id, None)
        return None


def _wrongly_told(end: End, row: tuple[Any, ...] | None) -> str | None:
    on_chain = end.channel.on_chain
    if on_chain is None or (row is None and end.closer == "remote"):
        return None  # its client was first
    if row is None:
        return "nothing"
    mining_msat, rule, ours_msat = row
    fee_sat = on_chain.tx.fee_sat
    if rule != RULE or mining_msat != fee_sat * 1000:
        return f"that rule {rule!r} paid miners {mining_msat} msat, and they got {fee_sat} sat"
    back_sat = sum(output.amount_sat for output in on_chain.tx.outputs if output.script in end.owner.wallet.scripts)
    if not 0 <= fee_sat - (ours_msat // 1000 - back_sat) <= DUST_SAT:  # of the client's, and what is less than a sat
        return f"that {ours_msat} msat were ours, and {back_sat} sat came back; miners got {fee_sat} sat"
    return None
