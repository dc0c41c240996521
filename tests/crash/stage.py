"""A world whose LSP may die at one named message, the steps a scenario is made of, and time that passes when it must.

A scenario says what clients and payers want; when the plugin dies it is started again behind the scenario's back and
the steps go on. Nothing waits for real time: a step waits until the plugin has dealt with everything it was sent
(`quiet`), and only then is the clock turned.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast_plugin.service.missed_events import FUNDING_EVERY_BLOCKS
from lsps2fast_plugin.simnode import Client, LspsError, Payer, PaymentResult, World
from lsps2fast_plugin.simnode.channels import Channel
from lsps2fast_plugin.simnode.client import ClientInvoice
from lsps2fast_plugin.simnode.errors import NodeDown, NodeProblem, PluginFailed, RpcError, WaitTimeout
from lsps2fast_plugin.simnode.faults import Fault
from lsps2fast_plugin.simnode.party import connect
from lsps2fast_plugin.simnode.payer import Payment, target_of

from .case import Misdeed, Trouble
from .inside import Inside
from .mutants import VARIABLE
from .nursery import Nursery
from .points import PLUGIN, PLUGIN_STOP, POWER, STOP, Death, Labels

ARGV = ["lsps2fast-service"]
VALIDITY_S = 3_600
SIZE_MSAT = 10_000_000
MOST_TURNS = 60  # of the clock, before a step is given up
TURN_S = 15.0
PATIENCE_TURNS = 12  # after which a client that fell silent or went away is back
PAUSES_S = (5, 5, 30, 60, 60)  # between a payer's tries
LIMIT_S = 30.0  # real time of one run
BLOCKS_AT_ONCE, MOST_BLOCKS = 5, 250  # at the end, for HTLCs on chain
ORDER: dict[str, Any] = {
    "lsp_balance_sat": "150000",
    "client_balance_sat": "0",
    "required_channel_confirmations": 0,
    "funding_confirms_within_blocks": 12,
    "channel_expiry_blocks": 4_320,
    "announce_channel": False,
}
ORDER_BLOCKS = 150  # to the expiry of a payment for one
NOT_READY = 3201  # of lsps2-stats while the journal is being read


class Stuck(Exception):
    """Something that must happen did not, however long the clock was turned."""


def folder(is_inside: bool) -> str:
    """Return a new folder for the ledger; where a case must play again to the letter it has one name."""
    if not is_inside:
        return tempfile.mkdtemp(prefix="lsps2fast-ledger-")
    place = f"{tempfile.gettempdir()}/lsps2fast-ledger-of-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place, 0o700)
    return place


@dataclass
class Sale:
    """What one invoice should come to."""

    client: Client
    invoice: ClientInvoice
    fee_msat: int
    must_pay: bool = True
    jit: bool = True  # one of which the LSP takes a fee
    overpay_msat: int = 0  # for the routing fee of each part
    may_be_partial: bool = False  # the client does not care about the sum
    reuse_percent: int | None = None  # of the fee that is taken over a channel the client has; None: that may not be
    sent: list[Payment] = field(default_factory=list)


@dataclass
class Ordered:
    """A channel that a client ordered (bLIP-51), and the payment of its invoice."""

    client: Client
    order_id: str
    invoice: str
    sent: list[Payment] = field(default_factory=list)

    @property
    def paid_msat(self) -> int:
        """What the payer lost on it."""
        parts = [part for payment in self.sent for part in payment.parts]
        return sum(part.amount_msat for part in parts if part.result.done() and part.result.result().code == 0)


class Stage:
    """`async with Stage(nursery, mode, ...) as stage: await scenario(stage)`."""

    def __init__(
        self,
        nursery: Nursery | None,
        mode: str,
        seed: int,
        *,
        deaths: tuple[Death, ...] = (),
        trouble: Trouble | None = None,
        misdeed: Misdeed | None = None,
        mutant: str = "",
        options: dict[str, Any] | None = None,
        **world: Any,
    ) -> None:
        self.options = {"lsps2-trust-mode": mode, "lsps2-offer-validity": VALIDITY_S, **(options or {})}
        self._folder = folder(nursery is None)
        self.options["lsps2-ledger"] = self.ledger = f"{self._folder}/sales.sqlite3"
        world = {"fee_base_msat": 1000, "fee_ppm": 10, "wallet_sat": (400_000,) * 4} | world
        self.mode = mode
        self.world = self._make_world(nursery, seed, mutant, plugin=ARGV, options=self.options, **world)
        self.lsp = self.world.lsp
        self.lsp.signs_what_is_meant = True
        self._peer = f"{self.lsp.name}/plugin"  # in the transcript
        self.sales: list[Sale] = []
        self.orders: list[Ordered] = []
        self.payers: list[Payer] = []
        self.clients: list[Client] = []
        self.points: list[str] = []  # every point seen since begin(), in order
        self.problems: list[str] = []
        self.operators_fees: dict[str, tuple[int, int]] = {}  # by channel id: what was set for it in its first payment
        self.payers_spent_msat = 0  # on something else than invoices
        self.foreign: set[str] = set()  # channels that another tool made
        self.while_down: Callable[[], Awaitable[None]] | None = None
        self.deaths_left = list(deaths)
        self._harms = max(0, len(deaths) + (trouble is not None) + (misdeed is not None) - 1)  # more tries to pay
        self.died = 0
        self.forgetful = any(death.kind in (POWER, STOP) for death in deaths)  # lightningd keeps no extra TLVs (K-29)
        self.misdeed = misdeed
        self._trouble = trouble
        self._fault: Fault | None = None
        self._fault_turned = False
        self._labels = Labels()
        self._begun = False
        self._lives = True  # between a death and the next start lightningd may still speak to the dead process
        self._seen = 0
        self._of_life = self._of_deed = 0  # points since the last start, since the client's deed
        self._turned_s = 0.0
        self._rising: asyncio.Task[None] | None = None

    @staticmethod
    def _make_world(nursery: Nursery | None, seed: int, mutant: str, **world: Any) -> World:
        if nursery is None:
            return Inside(seed, **world)
        made = World(seed, env={VARIABLE: mutant} if mutant else None, sphinx=False, **world)
        made.start_process = nursery.start
        return made

    async def __aenter__(self) -> Stage:
        self.world.transcript.listeners.append(self._listen)
        await self.world.__aenter__()
        self._lay_trouble()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.world.transcript.listeners.clear()
        if self._rising is not None and not self._rising.done():
            self._rising.cancel()
        for plugin in self.lsp.processes:
            plugin.kill()
        await self.world.__aexit__(kind, error, trace)
        shutil.rmtree(self._folder, ignore_errors=True)

    # Points and deaths -----------------------------------------------------------------------------

    def _listen(self, entry: dict[str, Any]) -> None:
        message = entry["msg"]
        if entry["peer"] == self._peer and message.get("event") == "plugin process start":
            self._lives = True
            self._of_life = 0
            self._labels.begin()
        label = self._labels.of(entry)
        if label is not None or message.get("method") in ("log", "lsps2_session"):
            self._seen += 1
        if label is None or not self._begun or not self._lives:
            return
        self._of_life += 1
        self._of_deed += self.is_done
        name = f"{self.died + 1}/{label}"
        self.points.append(name)
        names = (name, f"{self.died + 1}/+{self._of_life}", f"deed/+{self._of_deed}")
        if self.deaths_left and self.deaths_left[0].point in names:
            self._die(self.deaths_left.pop(0))

    @property
    def is_done(self) -> bool:
        """Whether the client has done its deed."""
        return any(client.script.done for client in self.clients)

    @property
    def undeletable(self) -> bool:
        """Whether the one call in trouble deletes a record."""
        return self._trouble is not None and self._trouble.method == "deldatastore"

    @property
    def wrote_for_the_dead(self) -> bool:
        """Whether the one call in trouble writes a record, perhaps when the plugin that asked for it has died."""
        trouble = self._trouble
        return trouble is not None and trouble.kind == "hang" and trouble.method == "datastore" and self.died > 0

    @property
    def undisturbed(self) -> bool:
        """Whether nothing went wrong, but for what a client did."""
        return not self.died and not self.deaths_left and self._trouble is None

    @property
    def gave_up(self) -> bool:
        """Whether a client renounced its channel: what it loses thereby is its own affair."""
        return self.is_done and self.misdeed is not None and self.misdeed.gives_up

    async def begin(self) -> None:
        """Points count from here."""
        await self.quiet()
        self._labels.begin()
        self._begun = True

    def _die(self, death: Death) -> None:
        self.world.transcript.mark("test", f"DEATH {death}")
        self.died += 1
        self._lives = False
        rising = self._rising
        if death.kind in (PLUGIN, POWER):
            for plugin in self.lsp.plugins:
                plugin.kill()
        if death.kind == POWER and self.lsp.state == "running":
            self.lsp.sigkill()
        self._rising = asyncio.get_running_loop().create_task(self._rise(death.kind, rising))

    async def _rise(self, kind: str, before: asyncio.Task[None] | None) -> None:
        """Bring the plugin back; callers come again."""
        if before is not None:
            await asyncio.wait([before])
        if kind == STOP and self.lsp.state == "running":
            await self.lsp.stop()
        elif kind == PLUGIN_STOP and self.lsp.plugins:
            await self.lsp.stop_plugin()
        for process in list(self.lsp.processes):
            await process.gone.wait()
        await self.world.until(lambda: not any(plugin.alive for plugin in self.lsp.plugins), "the end of its pipe")
        if self.while_down is not None:
            await self.while_down()
        died = self.died
        self._lay_trouble()
        try:
            if self.lsp.state == "running":
                await self.lsp.start_plugin(ARGV, self.options, self.world.lsp.plugin_plans[0][2])
            else:
                await self.lsp.start()
        except (PluginFailed, RpcError, NodeDown):
            if died == self.died:
                raise
            return  # it died again while it started; that death raises it
        if self._turned_s and self.lsp.state == "running" and died == self.died:
            await self._turn_plugin(self._turned_s, calls=False)
        for client in self.clients:
            if client.online and died == self.died:
                client.connect()
        for payer in self.payers:  # a node that dies while it starts has forgotten who was waiting to call
            connect(payer, self.lsp)

    def _lay_trouble(self) -> None:
        if self._trouble is not None and self._fault is None and self._trouble.after == self.died:
            self._fault = self._trouble.lay(self.world)

    @property
    def hit(self) -> bool:
        """Whether everything that was to go wrong has."""
        deed = self.misdeed is None or self.is_done
        fault = self._trouble is None or (self._fault is not None and self._fault.hits > 0)
        return not self.deaths_left and deed and fault

    # Quiet and time --------------------------------------------------------------------------------

    async def quiet(self) -> None:
        """Return when the plugin is up and all other parties have dealt with all they were sent."""
        calm, before = 0, -1
        while calm < (1 if isinstance(self.world, Inside) else 3):
            while self._rising is not None and not self._rising.done():
                await asyncio.wait([self._rising])
            if self._rising is not None:
                self._rising.result()
            if not await self._is_up():
                await asyncio.sleep(0.001)
                continue
            await self._rest()
            calm = calm + 1 if self._seen == before else 0
            before = self._seen

    async def _rest(self) -> None:
        if isinstance(self.world, Inside):
            await self.world.idle()
            return
        for _ in range(5):
            await asyncio.sleep(0)

    async def _is_up(self) -> bool:
        """Whether the plugin answers and has read its journal, or cannot because an answer is held back."""
        try:
            await self.lsp.call("lsps2-stats")
        except RpcError as error:
            fault = self._fault
            held_back = fault is not None and fault.wait and fault.reached.is_set() and not fault.released.is_set()
            return held_back and error.code == NOT_READY
        except NodeDown:
            return False
        return True

    async def calm(self) -> None:
        """Return when all is quiet and no answer is held back any more."""
        await self.quiet()
        while await self._tend():
            await self.quiet()

    async def turn(self, seconds: float = TURN_S) -> None:
        """Let time pass."""
        self._turned_s += seconds
        self.world.clock.advance(seconds)
        if self.lsp.state == "running" and self.lsp.plugins:
            await self._turn_plugin(seconds, calls=True)

    async def _turn_plugin(self, seconds: float, calls: bool) -> None:
        """`calls`: those under way have waited as long."""
        try:
            await self.lsp.call("lsps2-dev-advance", {"seconds": seconds, "calls": calls})
        except (RpcError, NodeDown):
            return  # it has just died; the next life is told of all turns

    async def _tend(self) -> bool:
        """When all is quiet and an answer is held back: turn the clock over it, then let it come. Whether so."""
        fault = self._fault
        if fault is None or not fault.wait or not fault.reached.is_set() or fault.released.is_set():
            return False
        if not self._fault_turned:
            self._fault_turned = True
            await self.turn(61 if fault.carry_out is False else 25)
        else:
            fault.release()
        return True

    async def until(self, condition: Callable[[], object], what: str, turns: bool = True) -> bool:
        """Wait for it, turning the clock when nothing else moves. Raises Stuck; False if `turns` is."""
        for turn in range(MOST_TURNS):
            if turn and turn % PATIENCE_TURNS == 0:  # again and again: the misdeed may come later
                self.mend()
            if condition():
                return True
            await self.quiet()
            if condition():
                return True
            if await self._tend():
                continue
            if not turns:
                return False
            if self.open_on_chain():
                self.world.mine(BLOCKS_AT_ONCE)
            await self.turn()
        raise Stuck(what)

    # Steps -----------------------------------------------------------------------------------------

    def client(self, name: str = "alice", **behaviour: Any) -> Client:
        """A wallet connected to the LSP, which calls again when the LSP was away."""
        if self.misdeed is not None and not self.clients:
            behaviour["script"] = {self.misdeed.message: self.misdeed.deed}
        client = self.world.client(name, **behaviour)
        self.clients.append(client)
        return client

    async def set_fees(self, channel_id: str, base_msat: int, ppm: int) -> None:
        """What the operator types, while the node is there and knows the channel."""
        fees = {"feebase": base_msat, "feeppm": ppm, "enforcedelay": 0}
        with suppress(NodeDown, RpcError):
            await self.lsp.call("setchannel", {"id": channel_id, **fees})
            self.operators_fees[channel_id] = base_msat, ppm

    def fees_of(self, channel_id: str) -> tuple[int, int]:
        """Return what this channel is to take in the end: what its operator has set, or what is configured."""
        return self.operators_fees.get(channel_id, (self.lsp.fee_base_msat, self.lsp.fee_ppm))

    def mend(self) -> None:
        """Clients that did something speak again and call the LSP, as people do when a payment failed."""
        for client in self.clients:
            if client.script.done:
                client.speak()
                client.release_ready()
            if client.script.done or client.online:  # the LSP may have hung up on it
                client.connect()

    def payer(self, name: str = "payer", channels: int = 1) -> Payer:
        """The payer."""
        payer = self.world.payer(name, channels, 10_000_000)
        self.payers.append(payer)
        return payer

    async def request(self, client: Client, method: str, params: Any = None) -> Any:
        """One LSPS call, repeated when its answer was lost with the plugin."""
        for _ in range(MOST_TURNS):
            await self.quiet()
            work = asyncio.ensure_future(client.request(method, params, LIMIT_S))
            try:
                await asyncio.sleep(0)
                await self.quiet()
                while not work.done() and await self._tend():
                    await self.quiet()
                if work.done():
                    return work.result()
            except (LspsError, NodeProblem, WaitTimeout):
                pass
            finally:
                work.cancel()
            await self.turn(1)
        raise Stuck(f"{method} of {client.name}")

    async def buy(self, client: Client, size_msat: int | None = SIZE_MSAT) -> tuple[str, int, FeeParams]:
        """(jit scid, cltv delta, terms)."""
        menu = await self.request(client, "lsps2.get_info")
        offer = menu["opening_fee_params_menu"][0]
        ask: dict[str, Any] = {"opening_fee_params": offer}
        if size_msat is not None:
            ask["payment_size_msat"] = str(size_msat)
        bought = await self.request(client, "lsps2.buy", ask)
        return bought["jit_channel_scid"], bought["lsp_cltv_expiry_delta"], FeeParams.from_json(offer)

    async def sale(
        self, client: Client, size_msat: int | None = SIZE_MSAT, *, must_pay: bool = True, preimage: bytes | None = None
    ) -> Sale:
        """Buy, and an invoice over it; `size_msat` None: variable mode."""
        scid, delta, terms = await self.buy(client, size_msat)
        return self.second_sale(client, scid, delta, terms, size_msat, must_pay=must_pay, preimage=preimage)

    def second_sale(
        self,
        client: Client,
        scid: str,
        delta: int,
        terms: FeeParams,
        size_msat: int | None = SIZE_MSAT,
        *,
        must_pay: bool = True,
        preimage: bytes | None = None,
    ) -> Sale:
        """One more invoice over a scid bought before."""
        invoice = client.invoice(
            size_msat,
            scid,
            opening_fee_msat=lambda size: terms.fee_msat(size) or 0,
            cltv_delta=delta,
            preimage=preimage,
        )
        sale = Sale(client, invoice, terms.fee_msat(size_msat or SIZE_MSAT) or 0, must_pay)
        self.sales.append(sale)
        return sale

    async def order(self, client: Client) -> Ordered:
        """Order a channel; one whose answer was lost is never paid."""
        told = await self.request(client, "lsps1.create_order", ORDER)
        ordered = Ordered(client, told["order_id"], told["payment"]["bolt11"]["invoice"])
        self.orders.append(ordered)
        return ordered

    async def send_order(self, payer: Payer, ordered: Ordered, parts: int = 1) -> Payment:
        """So many parts of the payment of its invoice go out."""
        await self.quiet()
        total_msat = target_of(ordered.invoice).amount_msat or 0
        amounts = [total_msat // parts] * (parts - 1)
        payment = payer.pay(ordered.invoice, [*amounts, total_msat - sum(amounts)], final_delta=ORDER_BLOCKS)
        ordered.sent.append(payment)
        return payment

    async def pay_order(self, payer: Payer, ordered: Ordered, parts: int = 1) -> bool:
        """Pay its invoice; return whether the payment was taken."""
        (result,) = await self.result(await self.send_order(payer, ordered, parts))
        return result.paid

    async def has_its_channel(self, ordered: Ordered) -> None:
        """A payment that was taken brings its channel, once the client calls again if the LSP hung up on it."""
        key = ("lsps", "lsps1", "orders", ordered.order_id)

        def is_sent() -> bool:
            return json.loads(self.lsp.datastore.rows[key][0])["state"] in ("sent", "done")

        await self.until(is_sent, f"the channel of order {ordered.order_id}")

    async def send(
        self, payer: Payer, sale: Sale, amounts: list[int], total_msat: int | None = None, final_delta: int = 100
    ) -> Payment:
        """Parts of a payment go out."""
        await self.quiet()
        payment = payer.pay(
            sale.invoice,
            amounts,
            total_msat=total_msat or sum(amounts),
            final_delta=final_delta,
            overpay_msat=sale.overpay_msat,
        )
        sale.sent.append(payment)
        return payment

    async def result(self, *payments: Payment) -> list[PaymentResult]:
        """What became of them, however long it takes."""
        await self.until(lambda: all(payment.done for payment in payments), "a payment is still unresolved")
        return [await payment for payment in payments]

    async def pay(self, payer: Payer, sale: Sale, amounts: list[int] | None = None, tries: int = len(PAUSES_S)) -> bool:
        """Pay it; the payer tries again when it was refused, in the end after longer than an RPC call may take."""
        again = (PAUSES_S[-1],) * self._harms if tries == len(PAUSES_S) else ()
        for pause_s in (*PAUSES_S[:tries], *again):
            self.mend()
            (result,) = await self.result(await self.send(payer, sale, amounts or [SIZE_MSAT]))
            if result.paid:
                return True
            await self.calm()
            await self.turn(pause_s)
            if pause_s == PAUSES_S[-1]:  # the coins of a funding that went out late are good with the next block
                self.world.mine()
        return False

    async def pay_unpaid(self, payer: Payer, sale: Sale, amounts: list[int] | None = None) -> None:
        """Pay it unless it is paid."""
        if sale.invoice.paid_msat is None:
            await self.pay(payer, sale, amounts)

    async def finish(self) -> None:
        """Let the world come to its end: all are there, blocks come, offers lapse."""
        for client in self.clients:
            client.behaviour.vanish_at = ""
            if not client.online:
                client.connect()
        self.mend()
        await self.quiet()
        self.world.mine()
        await self.until(lambda: True, "the end")
        for seconds in (1, 5, 30, 60, 120, 300, VALIDITY_S, 120, 120):
            await self.calm()
            await self.turn(seconds)
        await self.calm()
        self.world.mine()
        await self._last_blocks()
        await self.calm()

    async def _last_blocks(self) -> None:
        """Blocks until every funding that was sent has one and every HTLC on chain has ended, within bounds.

        A funding that bitcoind dropped is sent again every few blocks only, counted from the answer to the last time.
        """
        await self.calm()
        for _ in range(FUNDING_EVERY_BLOCKS + 2):
            if not self.unconfirmed():
                break
            self.world.mine()
            await self.calm()
        for _ in range(MOST_BLOCKS // BLOCKS_AT_ONCE):
            if not self.open_on_chain():
                break
            self.world.mine(BLOCKS_AT_ONCE)
            await self.calm()

    def unconfirmed(self) -> list[Channel]:
        """Channels that live, whose funding was sent and is in no block."""
        sent = [channel for channel in self.world.channels if not channel.withheld and not channel.dead]
        return [channel for channel in sent if self.world.chain.depth(channel.funding_txid) == 0]

    def open_on_chain(self) -> list[Channel]:
        """Channels that went to chain with HTLCs that have no end yet."""
        closed = [channel for channel in self.world.channels if channel.on_chain is not None]
        return [channel for channel in closed if any(end.live for end in channel.ends)]
