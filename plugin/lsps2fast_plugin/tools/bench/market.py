"""Two LSPs on real nodes, ours and lightningd's built-in one, with the same wallets, payer and coins for both."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from lsps2fast import bolt11
from lsps2fast.errors import NodeError
from lsps2fast_plugin.tools.bench.real import child_of
from lsps2fast_plugin.tools.regtest.processes import Lightningd, Programs, built_in, until
from lsps2fast_plugin.tools.regtest.town import Bill, Town

SIZE_MSAT = 10_000_000
COIN_SAT = 400_000  # enough for one channel, so that no sale waits for the change of another
SPARE = 12  # coins: some go into the channel to the neighbour, and an open that is tried again needs another
MOST_HTLCS = 483  # in a channel of the payer: a crowd passes it
OURS = "ours"
BUILT_IN = "built-in"
POLICY = f"""#!{sys.executable}
from datetime import datetime, timedelta, timezone
from pyln.client import Plugin
plugin = Plugin()
@plugin.method("lsps2-policy-getpolicy")
def getpolicy(plugin, **kwargs):
    until = datetime.now(timezone.utc) + timedelta(hours=1)
    return {{"policy_opening_fee_params_menu": [{{
        "min_fee_msat": "1000000", "proportional": 10000, "valid_until": until.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "min_lifetime": 1008, "max_client_to_self_delay": 2016,
        "min_payment_size_msat": "1500000", "max_payment_size_msat": "4000000000",
    }}]}}
@plugin.method("lsps2-policy-getchannelcapacity")
def capacity(plugin, **kwargs):
    return {{"channel_capacity_msat": 200000000}}
plugin.run()
"""
NO_LIMITS = {
    "lsps2-max-buys-per-peer": 10**4,
    "lsps2-max-buys-per-minute": 10**6,
    "lsps2-max-buys-per-minute-per-peer": 10**6,
    "lsps2-max-info": 10**6,
    "lsps2-max-info-per-peer": 10**6,
    "lsps2-capital-budget-sat": 10**9,
    "lsps2-mining-budget-sat": 10**9,
    "lsps2-client-share": 100,
}


def stock_lsp(town: Town, **options: Any) -> Lightningd:
    """Return a node, not started, that sells with the built-in plugin.

    It must not charge for routing, or that plugin's parts fail.
    """
    sells = {"experimental-lsps2-service": True, "experimental-lsps2-promise-secret": "ab" * 32}
    node = town.node("built-in lsp", {**sells, "fee-base": 0, "fee-per-satoshi": 0, **options}, built_ins=True)
    path = node.directory / "policy"
    path.write_text(POLICY)
    path.chmod(0o700)
    node.options |= {"plugin": path, "disable-plugin": ["cln-lsps-client"]}
    return node


class Way(NamedTuple):
    """Where a payment goes: what `sendpay` needs."""

    payment_hash: str
    payment_secret: str
    lsp: Lightningd
    scids: Sequence[str]  # of the payer's channels to it, used in turn
    hops: Sequence[tuple[str, str, int, int]]  # behind the payer: node id, channel, direction, delay


class Paid(NamedTuple):
    """When a payment began with its last part, how long it then took, and why it failed ("": paid)."""

    began_s: float
    took_s: float
    why: str

    @property
    def ended_s(self) -> float:
        """When it was over."""
        return self.began_s + self.took_s


class Market(Town):
    """Our LSP, the built-in one where lightningd has it, wallets, a payer, and a neighbour with a channel already."""

    def __init__(self, directory: Path, wallets: int, sales: int, programs: Programs | None = None) -> None:
        """`sales`: how many each LSP has coins for."""
        coins_sat = (COIN_SAT,) * (sales + SPARE)
        more = {"max-concurrent-htlcs": MOST_HTLCS}
        super().__init__(
            directory, programs=programs, lsp_options=more, service_options=NO_LIMITS, coins_sat=coins_sat, record=False
        )
        self.payer.options |= more
        self.lsps = {OURS: self.lsp}
        self.neighbour = self.node("neighbour", more)
        if built_in(self.programs, "cln-lsps-service") is not None:
            self.lsps[BUILT_IN] = stock_lsp(self, **more)
        self.wallets = [self._wallet(number) for number in range(wallets)]

    def _wallet(self, number: int) -> Lightningd:
        wallet = self.node(f"w{number}")
        self.add_plugin(wallet, "client", {"lsps2-trusted-lsp": "any"})
        return wallet

    def open(self) -> None:
        """Start everything."""
        super().open()
        for node in (self.neighbour, *self.wallets, *list(self.lsps.values())[1:]):
            node.start()
        for wallet in self.wallets:
            wallet.wait_log("lsps2fast-client .* is ready")
            for lsp in self.lsps.values():
                self.connect(wallet, lsp)
        for lsp in list(self.lsps.values())[1:]:
            self.grant(lsp, self._coins_sat)
            self.link(self.payer, lsp, self._payer_channels)
        self.link(self.lsp, self.neighbour)
        self.lsp.call("setchannel", {"id": self.neighbour.node_id, "feebase": 0, "feeppm": 0})
        self._doors = {name: self.scids(self.payer, lsp) for name, lsp in self.lsps.items()}
        self._street = self.scids(self.lsp, self.neighbour)[0]
        self._wallet_turn = itertools.cycle(self.wallets)

    def plugin_pid(self, name: str) -> int:
        """Return the process that sells."""
        if name == OURS:
            return child_of(self.lsp, [sys.executable, "-m", "lsps2fast_plugin.service.app"])
        lightningd = self.lsps[name].process
        assert lightningd is not None
        pids = Path(f"/proc/{lightningd.pid}/task/{lightningd.pid}/children").read_text().split()
        path = built_in(self.programs, "cln-lsps-service")
        return next(int(pid) for pid in pids if Path(f"/proc/{pid}/exe").resolve() == path)

    def sale(self, name: str, *, fixed: bool) -> tuple[Bill, Way]:
        """Have the next wallet buy a channel there; `fixed`: for a payment of known size, which may come in parts."""
        lsp = self.lsps[name]
        bill = self.bill(next(self._wallet_turn), SIZE_MSAT if fixed else None, lsp_id=lsp.node_id)
        final = bill.final_blocks + 2
        hops = [(lsp.node_id, "", 0, final + bill.delta_blocks), (bill.wallet.node_id, bill.jit_scid, 0, final)]
        return bill, Way(bill.payment_hash, bill.payment_secret, lsp, self._doors[name], hops)

    def ordinary(self) -> Way:
        """Return the way to a neighbour who has a channel."""
        ask = {"amount_msat": SIZE_MSAT, "label": f"ordinary {next(self._labels)}", "description": "ordinary"}
        row = self.neighbour.call("invoice", ask)
        invoice = bolt11.decode(row["bolt11"])
        final = invoice.min_final_cltv_blocks + 2
        side = int(self.lsp.node_id > self.neighbour.node_id)
        hops = [(self.lsp.node_id, "", 0, final + 144), (self.neighbour.node_id, self._street, side, final)]
        return Way(row["payment_hash"], invoice.payment_secret.hex(), self.lsp, self._doors[OURS], hops)

    def send(self, way: Way, parts: int, first_door: int = 0) -> float:
        """Send all parts; when the last one was about to leave."""
        began_s = 0.0
        for part in range(parts):
            amount = SIZE_MSAT // parts + (SIZE_MSAT % parts if part == parts - 1 else 0)
            route = [
                {"id": hop, "channel": via, "direction": side, "amount_msat": amount, "delay": delay, "style": "tlv"}
                for hop, via, side, delay in way.hops
            ]
            door = {"channel": way.scids[(first_door + part) % len(way.scids)]}
            route[0] |= {**door, "direction": int(self.payer.node_id > way.lsp.node_id)}
            call = {"route": route, "payment_hash": way.payment_hash, "payment_secret": way.payment_secret}
            began_s = time.perf_counter()
            self.payer.call("sendpay", {**call, "partid": part + 1, "groupid": 1, "amount_msat": SIZE_MSAT})
        return began_s

    def wait(self, way: Way, parts: int, began_s: float) -> Paid:
        """Wait for the end of a payment."""
        why = ""
        for part in range(parts):
            ask = {"payment_hash": way.payment_hash, "partid": part + 1, "groupid": 1, "timeout": 120}
            try:
                self.payer.call("waitsendpay", ask, 130)
            except NodeError as error:
                why = str(error)
        return Paid(began_s, time.perf_counter() - began_s, why)

    def paid(self, way: Way, parts: int) -> Paid:
        """Send all parts and wait for their end."""
        return self.wait(way, parts, self.send(way, parts))

    def paid_all(self, ways: Sequence[Way]) -> list[Paid]:
        """Send as many payments of one part as there are, without waiting for any; then wait for all."""
        with ThreadPoolExecutor(len(ways)) as pool:
            began = [self.send(way, 1, door) for door, way in enumerate(ways)]
            return list(pool.map(lambda way, began_s: self.wait(way, 1, began_s), ways, began))

    def settled(self, name: str) -> None:
        """Until no channel that was sold there is withheld."""
        lsp = self.lsps[name]

        def withheld() -> list[Any]:
            rows = lsp.call("listpeerchannels")["channels"]
            return [row["state"] for row in rows if row.get("funding", {}).get("withheld")]

        until(lambda: not withheld(), f"end of the sales of {lsp.name}", 120.0, lambda: f"{withheld()}")
