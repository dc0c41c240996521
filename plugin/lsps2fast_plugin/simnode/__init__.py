"""The embedded node: what a plugin sees of lightningd, small enough for a demo and strict enough for tests.

It starts the real plugin executable with real pipes, listens on a real `lightning-rpc` socket, and plays the rest in
one process on one asyncio loop: chain, wallet, channels, peers, payers with Sphinx onions, wallets that check fees.
Nothing in it looks at a wall clock or rolls dice but `World.rng`; time and blocks come when the caller says so.

    options = {"experimental-lsps2-service": True}
    async with World(seed=1, plugin=["/path/to/lsps2fast-service"], options=options) as world:
        alice = world.client("alice")                    # a wallet, connected to world.lsp
        bob = world.payer("bob", channels=2)             # two channels to the LSP
        world.open_books()
        menu = await alice.request("lsps2.get_info", {})
        buy = await alice.request("lsps2.buy", {"opening_fee_params": menu["opening_fee_params_menu"][0], ...})
        invoice = alice.invoice(20_000_000, scid=buy["jit_channel_scid"], opening_fee_msat=1_000_000)
        payment = bob.pay(invoice, [10_000_000, 10_000_000])
        result = await payment                           # .paid, .codes, .raw_messages, .parts
        world.mine(6); await world.advance(90); world.check_books(); world.books()

Where to look:
    world       World: parties, blocks, clock, bounded waits, books
    lightningd  Node: start, stop, sigkill, crash, call; its tables. plugins: start_plugin, stop_plugin, kill_plugin
    client      Client: request, invoice, behaviour (reject, hold, fail, vanish, minimum, ...), connect, go_offline
    payer       Payer.pay -> Payment -> PaymentResult, one PartResult per part as waitsendpay words it
    faults      node.faults: fail, hang, late, twice, cut, per method and nth call
    transcript  world.transcript.entries, in the format of the recordings; select(), write()
    htlcs       the hook call, its answer, forwarding; parts: its rows; answers: what lightningd dies of
    channels    Channel, End, Htlc: the arithmetic and the line between two sides
    script      what a client does at a named message of an open: error, close, disconnect, silent
    closing     the ends of channels, node_closing: those a node asks for; onchain: HTLCs in a commitment;
                splices: channels that are called otherwise
    openings, invoices, wallet, psbt, chain, datastore, onions, process, rpcserver, methods*, listings
A second full node, for a wallet plugin: `await world.start_node("wallet", plugin=[...])`; pay it by its bolt11 text.
Not modelled: gossip, routing, dual funding, penalties, coin_movement, the 30 s to commit an HTLC, deferred
re-registration of hooks (cln:H13), indices of `wait` other than forwards.
"""

from . import methods_invoices, methods_money, methods_node  # noqa: F401  (they fill the registry of methods)
from .client import Client, LspsError
from .errors import NodeDown, NodeProblem, PluginFailed, RpcError, WaitTimeout
from .lightningd import Node
from .payer import PartResult, Payer, PaymentResult
from .world import World

__all__ = [
    "Client",
    "LspsError",
    "Node",
    "NodeDown",
    "NodeProblem",
    "PartResult",
    "Payer",
    "PaymentResult",
    "PluginFailed",
    "RpcError",
    "WaitTimeout",
    "World",
]
