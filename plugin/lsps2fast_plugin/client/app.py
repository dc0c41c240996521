"""lsps2fast-client: the wallet. Wires lightningd's hooks, notifications and methods to the modules beside it.

Everything runs on the host's one loop. Decisions about money are made in `lsps2fast.lsps.receiving` and in the
other modules; this file says who hears what, and what happens at start, at each deadline and at the end.
"""

from __future__ import annotations

from lsps2fast_plugin.cln import no_openssl  # noqa: F401 - before all else: it imports asyncio

# isort: split

import asyncio
import hashlib
import inspect
import logging
import os
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from lsps2fast import BACKEND, __version__
from lsps2fast.bolt11 import CURRENCIES
from lsps2fast.errors import ConfigError
from lsps2fast.lsps.lsps0 import MESSAGE_TYPE, MESSAGE_TYPE_HEX
from lsps2fast.lsps.receiving import carries_fee
from lsps2fast_plugin.client import channel_terms, checking, deletions, rpc_errors
from lsps2fast_plugin.client.bindings import ChannelBindings
from lsps2fast_plugin.client.built_in_records import BuiltInRecords
from lsps2fast_plugin.client.channel_terms import CONTINUE
from lsps2fast_plugin.client.channel_watch import Watch
from lsps2fast_plugin.client.endings import PurchaseEndings
from lsps2fast_plugin.client.funding_status import Chain
from lsps2fast_plugin.client.history import STEPS, History, topic_of
from lsps2fast_plugin.client.incoming_payments import Incoming
from lsps2fast_plugin.client.invoices import Invoices
from lsps2fast_plugin.client.lifetimes import Lifetimes
from lsps2fast_plugin.client.lsps0_client import Lsps0Client
from lsps2fast_plugin.client.methods import Methods
from lsps2fast_plugin.client.openchannel_hook import OpenChannelHook
from lsps2fast_plugin.client.options import OWN_PREFIX, Settings, add_options, read_settings
from lsps2fast_plugin.client.purchase import LspBuyer
from lsps2fast_plugin.client.purchase_methods import PurchaseMethods
from lsps2fast_plugin.client.reconnect import Reconnect
from lsps2fast_plugin.client.records import JitChannel
from lsps2fast_plugin.client.reports import Reports
from lsps2fast_plugin.client.rpc_errors import answered
from lsps2fast_plugin.client.status import status
from lsps2fast_plugin.client.store import WalletRecords
from lsps2fast_plugin.client.unfunded_guard import ApprovedPayments, UnfundedChannelGuard
from lsps2fast_plugin.client.webhooks import WebhookMethods
from lsps2fast_plugin.cln import plugin_app
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.cln.host import Host, HtlcFilter
from lsps2fast_plugin.cln.models import CLOSING, get_info, list_configs, list_peers
from lsps2fast_plugin.cln.notifications import BlockAdded, ChannelStateChanged, InvoicePayment, PeerLink
from lsps2fast_plugin.cln.plugin_app import PluginApp
from lsps2fast_plugin.cln.pyln_client import Plugin, Request, RpcException
from lsps2fast_plugin.cln.retry import retry, until_answered
from lsps2fast_plugin.cln.rpc import Rpc

log = logging.getLogger("lsps2fast_plugin.client.app")  # also when run as __main__

POLL_S = 30.0  # between two looks at fundings that are owed, beside each block
BUILT_IN = "cln-lsps-client"  # whose place this plugin takes
Json = dict[str, Any]

METHODS = {  # RPC name: coroutine of Methods
    "lsps-listprotocols": "list_protocols",
    "lsps-lsps2-getinfo": "get_info",
    "lsps-lsps2-buy": "buy",
    "lsps-lsps2-approve": "approve",
    "lsps-lsps2-invoice": "invoice",
    "lsps2-compare": "compare",
    "lsps2-trust": "trust",
}
PURCHASE_METHODS = {  # RPC name: coroutine of PurchaseMethods
    "lsps2-listpurchases": "list_purchases",
    "lsps2-purchase": "purchase",
    "lsps2-cancel-purchase": "cancel_purchase",
}
WEBHOOK_METHODS = {  # RPC name: coroutine of WebhookMethods
    "lsps-lsps5-setwebhook": "set_webhook",
    "lsps-lsps5-listwebhooks": "list_webhooks",
    "lsps-lsps5-removewebhook": "remove_webhook",
    "lsps-lsps5-verify": "verify",
}


class Client(PluginApp):
    """One wallet plugin process."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        dice: random.Random | None = None,
        make_host: Callable[..., Host] = Host,
    ) -> None:
        """Time, chance and standard streams are the process's own; a simulation brings others."""
        plugin = Plugin(autopatch=False, dynamic=True)
        interest = HtlcFilter(final_hops=True)
        super().__init__(plugin, interest, self._add_options, clock=clock, dice=dice, make_host=make_host)
        self.awaited = ApprovedPayments(interest)
        self.reports = Reports(self.clock)
        self.settings: Settings | None = None
        self._long_rpc: Rpc | None = None  # for the call that is answered when an invoice is deleted
        self._ready = asyncio.Event()
        self._knocking: dict[str, Request] = {}  # openings that wait for the records, by peer
        self._looked_ms = 0  # when every channel was looked at last, by the wall clock
        self._rearm = asyncio.Event()
        self.plugin.add_hook("openchannel", self._on_openchannel, background=True)
        self.plugin.add_hook("rpc_command", self._on_rpc_command, background=True, filters=["invoice"])
        self.host.hook("custommsg", self._on_custommsg, filters=[MESSAGE_TYPE])
        self._subscribe(
            {
                "connect": self._on_connect,
                "disconnect": self._on_disconnect,
                "block_added": self._on_block,
                "channel_state_changed": self._on_channel_state,
                "invoice_payment": self._on_invoice_payment,
            }
        )
        self.host.ignore_messages(lambda peer_id: self.settings is None or self.talk.unawaited(peer_id))
        for step in STEPS:
            self.plugin.add_notification_topic(topic_of(step))
        for rpc_name, name in METHODS.items():
            self.host.method(rpc_name, self._late(Methods, "methods", name))
        for rpc_name, name in PURCHASE_METHODS.items():
            self.host.method(rpc_name, self._late(PurchaseMethods, "purchase_methods", name))
        for rpc_name, name in WEBHOOK_METHODS.items():
            self.host.method(rpc_name, self._late(WebhookMethods, "webhook_methods", name))
        self.host.method("lsps2-status", self._status)
        self.host.checks(self._check)
        if os.environ.get("LSPS2FAST_TEST_CLOCK") == "1":
            self.host.method("lsps2-dev-advance", self._advance)

    def _late(self, owner: type, attribute: str, name: str) -> Callable[..., Coroutine[Any, Any, Json]]:
        """Return a method that waits until the records are read; with the parameters and the help of the real one."""
        real = getattr(owner, name)

        async def run(*args: Any, **kwargs: Any) -> Json:
            await self._ready.wait()
            result: Json = await answered(getattr(getattr(self, attribute), name)(*args, **kwargs))
            return result

        signature = inspect.signature(real)
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=list(signature.parameters.values())[1:]
        )
        run.__doc__ = inspect.getdoc(real)
        return run

    async def _check(self, name: str, params: Json) -> None:
        """`check`: whether a method, or `setconfig`, would take these parameters. Raises MethodError, ConfigError."""
        await self._ready.wait()
        if name == "setconfig":
            read_settings(self.plugin, {params.get("config", ""): params.get("val")})
        elif name in METHODS:
            await answered(checking.check(getattr(self.methods, METHODS[name])(**params)))
        elif name in PURCHASE_METHODS:
            await answered(checking.check(getattr(self.purchase_methods, PURCHASE_METHODS[name])(**params)))
        elif name in WEBHOOK_METHODS:
            await answered(checking.check(getattr(self.webhook_methods, WEBHOOK_METHODS[name])(**params)))

    def _add_options(self, plugin: Plugin) -> None:
        add_options(plugin, self._on_setconfig)

    def _on_setconfig(self, _: Plugin, name: str, text: Any) -> None:
        """`setconfig` of a dynamic option: in force at once, for what is agreed from now on."""
        try:
            settings = read_settings(self.plugin, {name: text})
        except ConfigError as error:
            raise RpcException(str(error), rpc_errors.INVALID_PARAMS.number) from None
        log.info(f"{name} is {text} now")
        self._put_in_force(settings)

    def _put_in_force(self, settings: Settings) -> None:
        deeper = self.settings is None or settings.funding_depth != self.settings.funding_depth
        self.settings = settings
        for part in (self.market, self.watch, self.incoming):
            part.allow(settings)
        self.bindings.limits = self.bindings.limits._replace(
            max_to_self_delay_blocks=settings.max_to_self_delay_blocks,
            least_htlcs=settings.least_htlcs,
            max_htlc_minimum_msat=settings.max_htlc_minimum_msat,
        )
        if self._ready.is_set():
            self.methods.settings = settings
            if deeper:
                self.watch.block()  # what is sound is judged anew
                self.host.spawn(self._look_all())
            self.incoming.look()
            self._rearm.set()

    # Start ---------------------------------------------------------------------------------------

    def _begin(self, rpc_path: str, configuration: Json) -> None:
        settings = read_settings(self.plugin)
        currency = CURRENCIES.get(configuration["network"])
        if currency is None:
            raise ConfigError(f"invoices for the network {configuration['network']} cannot be written")
        self.settings = settings
        self._long_rpc = Rpc(rpc_path)
        self._build(settings, Rpc(rpc_path), currency)
        self.host.spawn(self._start())  # the records are read in the background (rule:15)

    def _insist(self, what: str, work: Callable[[], Awaitable[Any]]) -> None:
        """Have something done in the background until it works."""
        self.host.spawn(retry(what, work, self.clock, errors=Exception))

    def _build(self, settings: Settings, rpc: Rpc, currency: str) -> None:
        self.rpc = rpc
        self.currency = currency
        self.book = WalletRecords(rpc, self._insist, self.clock, self.awaited.hashes, lambda: self.watch.guard())
        self.talk = Lsps0Client(rpc, self.clock, lambda: self._dice.randbytes(16).hex(), know=self.interest.know)
        self.chain = Chain(rpc)
        self.invoices = Invoices(rpc)
        self.market = LspBuyer(rpc, self.talk, self.book, self.clock, settings)
        limits = channel_terms.Limits(
            our_to_self_delay_blocks=0,  # asked for at the start
            zero_reserve=settings.zero_reserve,
            max_to_self_delay_blocks=settings.max_to_self_delay_blocks,
            least_htlcs=settings.least_htlcs,
            max_htlc_minimum_msat=settings.max_htlc_minimum_msat,
        )
        self.history = History(DatastoreRecords(rpc, self._insist), self.clock, self._notify, self.host.spawn)
        self.reports.keep_in(DatastoreRecords(rpc, self._insist), self.host.spawn)
        self.lifetimes = Lifetimes(rpc, self.book, self.history, self.chain, self.clock, self._report, self.host.spawn)
        self.bindings = ChannelBindings(self.book, self.clock, limits)
        self.watch = Watch(
            rpc=rpc,
            book=self.book,
            chain=self.chain,
            bindings=self.bindings,
            clock=self.clock,
            settings=settings,
            report=self._report,
            closing=lambda channel_id: self.incoming.channel_closes(channel_id),
            guarding=self.awaited.watch,
            happened=self._happened,
            spawn=self.host.spawn,
        )
        self.guard = UnfundedChannelGuard(self.host, self.chain, self.watch, self._report)
        self.incoming = Incoming(
            host=self.host,
            book=self.book,
            chain=self.chain,
            invoices=self.invoices,
            clock=self.clock,
            settings=settings,
            report=self._report,
            changed=self._rearm.set,
            bindings=self.bindings,
            watch=self.watch,
            history=self.history,
        )
        self.endings = PurchaseEndings(
            book=self.book,
            watch=self.watch,
            bindings=self.bindings,
            history=self.history,
            incoming=self.incoming,
            invoices=self.invoices,
            clock=self.clock,
            changed=self._rearm.set,
        )
        self.bindings.moved = self.history.opened
        self.reconnect = Reconnect(
            rpc, self.clock, self.host.spawn, lambda lsp_id: lsp_id in self.book.lsps(), self._address_of
        )

    async def _start(self) -> None:
        """Read the records, look at the node, then let in the HTLCs that waited (cln:W11)."""
        assert self.settings is not None
        info = await until_answered("getinfo", lambda: get_info(self.rpc), self.clock)
        self.chain.block(info.blockheight)
        configs = await until_answered("listconfigs", lambda: list_configs(self.rpc), self.clock)
        mainnet = info.network == "bitcoin"
        final_cltv_blocks = configs.number("cltv-final", 18 if mainnet else 10)
        to_self_delay_blocks = configs.number("watchtime-blocks", 144 if mainnet else 6)
        self.incoming.final_cltv_blocks = final_cltv_blocks
        self.market.our_to_self_delay_blocks = to_self_delay_blocks
        self.bindings.limits = self.bindings.limits._replace(our_to_self_delay_blocks=to_self_delay_blocks)
        self.door = OpenChannelHook(
            book=self.book,
            bindings=self.bindings,
            chain=self.chain,
            watch=self.watch,
            clock=self.clock,
            spawn=self.host.spawn,
            report=self._report,
            end_deleted=self.endings.end_deleted,
        )
        self.methods = Methods(
            market=self.market,
            book=self.book,
            history=self.history,
            chain=self.chain,
            watch=self.watch,
            invoices=self.invoices,
            clock=self.clock,
            settings=self.settings,
            changed=self._rearm.set,
            currency=self.currency,
            final_cltv_blocks=final_cltv_blocks,
            random_bytes=self._dice.randbytes,
        )
        self.webhook_methods = WebhookMethods(self.market, self.talk)
        self.purchase_methods = PurchaseMethods(self.history, self.book, self.incoming, self.invoices, self.endings.end)
        await self._load()
        # Until then no HTLC comes in: any channel may be the one without a funding.
        await until_answered("looking at the channels", self.watch.find, self.clock)
        await self.endings.guarded(self.lifetimes.look_back)
        self._loaded()
        self._ready.set()
        log.info(
            f"lsps2fast-client {__version__} ({BACKEND} core) is ready: {len(self.book.approvals)} payments awaited"
        )
        self.host.spawn(self._watch_time())
        self.host.spawn(BuiltInRecords(self.rpc, self.invoices.by_hash, self.clock).watch())
        self.host.spawn(deletions.watch(self._long_rpc or self.rpc, self.clock, self.endings.end_all_deleted))
        peers = await until_answered("listpeers", lambda: list_peers(self.rpc), self.clock)
        connected = {peer.id for peer in peers if peer.connected}
        for lsp_id in self.book.lsps() - connected:
            self.reconnect.lost(lsp_id)

    async def _load(self) -> None:
        """Read all records, and end those whose payment was made while we were away, or whose invoice never was."""
        await until_answered("reading the records", self.book.load, self.clock)
        await until_answered("reading the history", self.history.load, self.clock)
        await until_answered("reading the reports", self.reports.load, self.clock)
        for approval in list(self.book.approvals.values()):
            made = approval.payment_hash.hex() in self.history.purchases
            if not made:  # it was not written, or is of a version without history
                self.history.bought(approval)
            await self.endings.guarded(partial(self.endings.check_loaded, approval, made))

    def _on_htlc(self, scan: Any) -> None:
        onward = scan.next_scid >= 0 or scan.forward_to is not None
        if not onward and scan.payment_hash in self.book.approvals:
            self.incoming.take(scan)
        elif not onward and carries_fee(scan):
            self.incoming.refuse_fee(scan)
        elif self.interest.watches(scan.peer_id) and not self.guard.passes(scan):
            self.host.spawn(self.guard.take(scan))
        else:
            self.host.let_go(scan.id_raw)

    def _on_openchannel(self, request: Request, openchannel: Json, **_: Any) -> None:
        """Answer from memory where that can be; before the records are read it waits for them (cln:W11)."""
        if self._ready.is_set():
            self.door.knock(request, openchannel)
        else:
            self.host.spawn(self._knock_later(request, openchannel))

    async def _knock_later(self, request: Request, openchannel: Json) -> None:
        peer_id = str(openchannel.get("id"))
        self._knocking[peer_id] = request
        await self._ready.wait()
        if self._knocking.get(peer_id) is request:
            del self._knocking[peer_id]
            self.door.knock(request, openchannel)
        else:
            request.set_result(CONTINUE)  # its peer is gone

    def _on_rpc_command(self, request: Request, rpc_command: Json, **_: Any) -> None:
        if self.awaited.guard:
            self.host.spawn(self.guard.invoice(request, rpc_command))
        else:
            request.set_result({"result": "continue"})

    def _on_channel_state(self, event: ChannelStateChanged) -> None:
        if self.settings is None:
            return
        self.incoming.look()
        self.host.spawn(self.endings.guarded(partial(self._channel_changed, event)))

    async def _channel_changed(self, event: ChannelStateChanged) -> None:
        await self._ready.wait()  # the records say what a channel is for
        if event.new_state in CLOSING:
            self.lifetimes.closes(event)
        await self.watch.changed(event)

    # Facts of the node -----------------------------------------------------------------------------

    def _on_custommsg(self, peer_id: str, payload: str, **_: Any) -> Json:
        """Answer at once (T-37). Nothing of a peer is awaited before the start is over."""
        if payload.startswith(MESSAGE_TYPE_HEX) and self.settings is not None:
            self.talk.receive(peer_id, bytes.fromhex(payload[len(MESSAGE_TYPE_HEX) :]))
        return {"result": "continue"}

    def _on_connect(self, peer: PeerLink) -> None:
        if self.settings is not None:
            self.talk.connected(peer.id)
            self.reconnect.back(peer.id)

    def _on_disconnect(self, peer: PeerLink) -> None:
        self._knocking.pop(peer.id, None)
        if self.settings is not None:
            self.talk.disconnected(peer.id)
            self.bindings.disconnected(peer.id)
            if self._ready.is_set():
                self.door.disconnected(peer.id)
            self.reconnect.lost(peer.id)

    def _on_block(self, block: BlockAdded) -> None:
        if self.settings is None:
            return
        self.chain.block(block.height)
        self.reports.write()
        self.watch.block()
        self.incoming.block()
        if self.book.channels or self.watch.given_up:
            self.host.spawn(self._look_all())

    def _on_invoice_payment(self, payment: InvoicePayment) -> None:
        if self.settings is None:
            return
        digest = hashlib.sha256(bytes.fromhex(payment.preimage)).digest()
        approval = self.book.approvals.get(digest)
        if approval is not None and not approval.served:
            self.host.spawn(self.endings.guarded(partial(self.endings.settle, approval)))

    def _address_of(self, lsp_id: str) -> str | None:
        return next((each.address for each in self.book.of_lsp(lsp_id) if each.address), None)

    async def _look_all(self) -> None:
        self._looked_ms = self.clock.wall_ms()
        await self.endings.guarded(self.watch.look_all)

    async def _watch_time(self) -> None:
        """Do what is due at its moment; sleeps until the next one."""
        while True:
            self._rearm.clear()
            self.incoming.tick()
            await self.endings.sweep()
            if (look_ms := self._next_look_ms()) is not None and look_ms <= self.clock.wall_ms():
                await self._look_all()
            timeout_s = self._next_s()
            waiters = {asyncio.ensure_future(self.clock.turned(timeout_s)), asyncio.ensure_future(self._rearm.wait())}
            _, rest = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
            for waiter in rest:
                waiter.cancel()

    def _next_s(self) -> float | None:
        waits_ms: list[float] = []
        if (due_ms := self.incoming.next_due_ms()) is not None:
            waits_ms.append(due_ms - self.clock.now_ms())
        if (wait_ms := self.endings.next_ms()) is not None:
            waits_ms.append(wait_ms)
        if (look_ms := self._next_look_ms()) is not None:
            waits_ms.append(look_ms - self.clock.wall_ms())
        return max(min(waits_ms), 0) / 1000 if waits_ms else None

    def _next_look_ms(self) -> int | None:
        """Return when fundings that are owed are due for a look, beside each block, by the wall clock.

        Nothing else that happens is a reason: each look asks bitcoind for every channel.
        """
        if not self.watch.owed:
            return None
        deadline_ms = self.watch.next_deadline_ms(self._looked_ms)
        poll_ms = self._looked_ms + round(POLL_S * 1000)
        return poll_ms if deadline_ms is None else min(deadline_ms, poll_ms)

    # For the owner ---------------------------------------------------------------------------------

    def _happened(self, step: str, channel: JitChannel, depth: int) -> None:
        if step == "opened":
            self.history.opened(channel)
        else:
            self.history.funding(step, channel, self.chain.height - depth + 1)

    def _notify(self, topic: str, fields: Json) -> None:
        self.host.send(topic, fields)

    def _report(self, lsp_id: str, sentence: str) -> None:
        self.reports.add(lsp_id, sentence)
        log.warning(f"LSP {lsp_id}: {sentence}")

    async def _status(self) -> Json:
        """Purchases, payments awaited, channels, those given up, LSPs trusted or not, and why something was refused."""
        await self._ready.wait()
        assert self.settings is not None
        given_up = self.watch.given_up.values()
        return status(self.book, self.incoming, self.talk, self.settings, self.reports, given_up)

    async def _advance(self, seconds: float) -> Json:
        """Turn the clock forward, for tests."""
        self.clock.advance(float(seconds))
        return {"now_ms": self.clock.now_ms()}

    async def _shutdown(self) -> None:
        if self.settings is None:
            return
        self.incoming.stop()
        self.reports.write(at_once=True)
        for rpc in (self.rpc, self._long_rpc):
            if rpc is not None:
                await rpc.close()


def main() -> int:
    """Entry point: runs until lightningd ends us."""
    return plugin_app.run(Client, BUILT_IN, add_options, OWN_PREFIX)


if __name__ == "__main__":
    sys.exit(main())
