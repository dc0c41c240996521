"""The operator's side of every sale: the policy in force, its file, its plugin, tokens used, the pause switch.

Built from the options before the node is asked anything; `load` brings in what the datastore remembers. The talk with
clients is `negotiation`'s, what becomes of sold channels `exposure`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from lsps2fast.errors import PeerError
from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast.lsps.promise import Keyring, key_from_hex, promised_token
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.models import Caller
from lsps2fast_plugin.service.fleet.holds import Holds
from lsps2fast_plugin.service.options import Settings
from lsps2fast_plugin.service.policy.external import ExternalPolicy
from lsps2fast_plugin.service.policy.limits import Gate, Refusals
from lsps2fast_plugin.service.policy.policy import Policy
from lsps2fast_plugin.service.policy.preflight import Facts
from lsps2fast_plugin.service.policy.tokens import ROOT as TOKENS
from lsps2fast_plugin.service.policy.tokens import Record
from lsps2fast_plugin.service.policy.trust import TrustLedger
from lsps2fast_plugin.service.sales_ledger.terms import band_of, token_label
from lsps2fast_plugin.service.session_record import StoredSession, Unread, count_use, sold_under

if TYPE_CHECKING:
    from lsps2fast_plugin.service.policy.watch import PolicyFile

log = logging.getLogger(__name__)

PAUSED: Final = ("lsps", "lsps2", "selling", "paused")
COUNTED_AT_ONCE: Final = 5_000  # records: a few milliseconds
RETIRED_FOR_MS: Final = 86_400_000  # at least so long the offers of an earlier key are honoured


class Desk:
    """One service's policy and what belongs to it."""

    def __init__(self, settings: Settings, rpc: Caller, notebook: DatastoreRecords, clock: Clock) -> None:
        """Read the policy file. Raises ConfigError for one that cannot be used."""
        self._notebook = notebook
        self._clock = clock
        self.refusals = Refusals()
        self.file: PolicyFile | None = None
        rules = settings.rules
        if settings.policy_file is not None:
            from lsps2fast_plugin.service.policy.watch import PolicyFile  # with it the shapes of a policy file

            self.file = PolicyFile(settings.policy_file, self.refusals)
            rules = self.file.load(clock.wall_ms())
        self.holds = None if settings.fleet is None else Holds()
        self.policy = Policy(rules, refusals=self.refusals, ledger=TrustLedger(rules.trust), pots=self.holds)
        self.gate = Gate(settings.gate, self.refusals)
        self.external = ExternalPolicy(rpc, now_ms=clock.now_ms, refusals=self.refusals, use=settings.policy_plugin)
        self._zero_reserve = settings.zero_reserve
        self.paused = False
        self.menus = self.buys = 0  # sent and sold since the start
        self.errors: dict[int, int] = {}  # answers with an error, by the code we gave

    async def load(self, stored: Iterable[StoredSession] = (), unread: Iterable[Unread] = ()) -> None:
        """Load the uses of tokens and the pause switch as they were before the start. Raises StoreError.

        `stored`: all buys of the journal. One that is not understood may be a use of each token that it names.
        """
        sold: dict[bytes, set[int]] = {}
        for number, buy in enumerate(stored, 1):
            count_use(buy, sold)
            if number % COUNTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        records = await self._notebook.read(TOKENS)
        known = {*sold, *self.policy.rules.tokens}
        for number, each in enumerate(unread):
            for token_hash in (token_hash for token_hash in known if token_hash.hex().encode() in each.raw):
                sold.setdefault(token_hash, set()).add(-1 - number if each.jit_scid is None else each.jit_scid)
        complaints, write = self.policy.uses.load(records, sold)
        for complaint in complaints:
            log.error(complaint)
        for record in write:
            await self._write(record)
        self.paused = bool(await self._notebook.read(PAUSED))

    async def pause(self, yes: bool) -> None:
        """Sell nothing from now on, or sell again; also after a restart. StoreError: it stays as it was."""
        await self._notebook.write(PAUSED, lambda: {"since_ms": self._clock.wall_ms()} if yes else None)
        self.paused = yes

    def keyring(self, settings: Settings, derived: bytes) -> Keyring:
        """Return the key of our promises, and those before it for as long as offers made with them may live (P-05).

        `derived` is made from the node's own secret; it is the key when none is configured, and was it before one was.
        """
        retired = [key_from_hex(secret) for secret in settings.retired_secrets]
        current = derived
        if settings.promise_secret is not None:
            current = key_from_hex(settings.promise_secret)
            retired.append(derived)
        rules = self.policy.rules
        lines = [*rules.lines, *(line for token in rules.tokens.values() for line in token.lines or ())]
        longest_ms = 1000 * max(named.line.validity_s for named in lines)
        last_ms = self._clock.wall_ms() + max(longest_ms, RETIRED_FOR_MS)
        return Keyring(current, [(key, last_ms) for key in retired])

    def look(self) -> None:
        """Take over a changed policy file, if there is one."""
        rules = None if self.file is None else self.file.poll(self._clock.wall_ms())
        if rules is not None:
            self.policy.replace(rules)

    async def quote(
        self, peer_id: str, token: str | None, facts: Facts, payment_size_msat: int | None
    ) -> dict[str, Any]:
        """Return what this client would be offered now and why; a policy plugin is asked as it would be for him."""
        wall_ms = self._clock.wall_ms()
        theirs: list[FeeParams] | PeerError | None
        try:
            theirs = await self.external.menu(token, wall_ms)
        except PeerError as error:
            theirs = error
        answer = self.policy.explain(peer_id, token, wall_ms, facts, payment_size_msat, theirs)
        answer["paused"] = self.paused
        if self.file is not None and self.file.refused is not None:
            answer["policy_file_refused"] = self.file.refused
        return answer

    def terms_of(self, buy: Buy) -> tuple[str | None, str | None]:
        """Return what an offer was sold under, as the operator knows it: label of its token, name of its fee line."""
        rules = self.policy.rules
        return token_label(rules, buy), band_of(rules, buy)

    def zero_reserve(self, peer_id: str) -> bool:
        """Return whether we hold no reserve in channels to this client (O-18): the option, or the policy for him."""
        return self._zero_reserve or peer_id in self.policy.rules.zero_reserve

    # Tokens ----------------------------------------------------------------------------------------

    def unused(self, buy: Buy) -> None:
        """Give the use of its token back: the journal has this buy no more, and it brought no channel."""
        token_hash = promised_token(buy.params)
        if token_hash is not None:
            self.policy.uses.give_back(token_hash)

    async def leave(self, stored: Iterable[StoredSession]) -> None:
        """Count the uses of these records without them: they are about to be deleted. Raises StoreError."""
        for record in self.policy.uses.leave(sold_under(stored)):
            await self._write(record)

    async def _write(self, record: Record) -> None:
        await self._notebook.write(record.key, lambda: record.value)
