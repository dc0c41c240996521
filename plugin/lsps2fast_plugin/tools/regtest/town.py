"""An LSP with our service, wallets with our client, and a payer, on real nodes; the steps that stories are made of."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lsps2fast import bolt11
from lsps2fast.errors import ConfigError, NodeError
from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.tools.regtest.processes import (
    PATIENCE_S,
    Bitcoind,
    Child,
    Lightningd,
    Programs,
    find_programs,
    until,
)
from lsps2fast_plugin.tools.regtest.recorder import HELD

CLIENT_TRUSTS = "client-trusts-lsp"
LSP_TRUSTS = "lsp-trusts-client"
TEST_CLOCK = {"LSPS2FAST_TEST_CLOCK": "1"}
NORMAL = "CHANNELD_NORMAL"
BUILT_INS = ("cln-lsps-service", "cln-lsps-client")  # plugins that every release build of lightningd has
BOUGHT_SAT = 3_000_000  # size of a payer's channel to the LSP
Json = dict[str, Any]


@dataclass(frozen=True)
class Bill:
    """An invoice over a JIT channel, and what it was sold for."""

    wallet: Lightningd
    label: str
    text: str
    payment_hash: str
    payment_secret: str
    amount_msat: int | None
    jit_scid: str
    delta_blocks: int
    final_blocks: int
    opening_fee_msat: int | None


@dataclass
class Part:
    """How one HTLC of a payment ended: `failure` is the raw message, "" when it was settled."""

    amount_msat: int
    status: str
    failure: str = ""
    error: Json = field(default_factory=dict)


@dataclass
class Paid:
    """How a payment ended."""

    parts: list[Part]

    @property
    def paid(self) -> bool:
        """Whether every part was settled."""
        return bool(self.parts) and all(part.status == "complete" for part in self.parts)

    @property
    def failures(self) -> list[str]:
        """Raw failure messages of the parts."""
        return [part.failure for part in self.parts]


class Town:
    """Everything in one directory; `with Town(...) as town` ends every process it has started."""

    def __init__(
        self,
        directory: Path,
        mode: str = CLIENT_TRUSTS,
        *,
        programs: Programs | None = None,
        lsp_options: Json | None = None,
        service_options: Json | None = None,
        coins_sat: Sequence[int] = (2_000_000,) * 6,
        payer_channels: int = 2,
        record: bool = True,
        quick: bool = True,
    ) -> None:
        """`lsp_options` are lightningd's, `service_options` the plugin's; `coins_sat` what the LSP's wallet holds."""
        self.directory = directory
        self.mode = mode
        self.programs = programs or find_programs()
        self.record = record
        self.quick = quick
        self.bitcoind = Bitcoind(directory / "btc", self.programs)
        self.children: list[Child] = [self.bitcoind]
        self.lsp = self.node("lsp", lsp_options)
        self.payer = self.node("payer")
        # Fee rates mean nothing on regtest: fees stay those of the options.
        self.service_options = {"lsps2-trust-mode": mode, "lsps2-fee-floor": 0} | (service_options or {})
        self._coins_sat = coins_sat
        self._payer_channels = payer_channels
        self._labels = itertools.count(1)
        self._groups = itertools.count(1)

    # Life ------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Start everything: the LSP sells and the payer has channels to it."""
        self.bitcoind.start()
        self.add_plugin(self.lsp, "service", self.service_options)
        self.lsp.start(wait=False)
        self.payer.start(wait=False)
        self.lsp.wait_up()
        self.payer.wait_up()
        line = self.lsp.wait_log("(?:sells JIT channels|lsps2fast-service: .*disabled itself)")
        if "disabled itself" in line:
            why = line.rpartition("disabled itself")[2].removeprefix(" at init").removeprefix(": ")
            raise ConfigError(f"the LSP's plugin does not start: {why}")
        self.grant(self.lsp, self._coins_sat)
        if self._payer_channels:
            self.link(self.payer, self.lsp, self._payer_channels)

    def close(self) -> None:
        """End every process, nodes before bitcoind; those that do not go by themselves are killed."""
        for child in reversed(self.children):
            if isinstance(child, Lightningd | Bitcoind) and child.runs:
                child.stop()
        for child in self.children:
            child.kill()

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    # Nodes -----------------------------------------------------------------------------------------

    def node(self, name: str, options: Json | None = None, *, built_ins: bool = False) -> Lightningd:
        """Another lightningd with stock settings, not started.

        `built_ins`: leave it the plugins that ours take the place of.
        """
        options = ({} if built_ins else {"disable-plugin": list(BUILT_INS)}) | (options or {})
        node = Lightningd(name, self.directory / name, self.bitcoind, options, quick=self.quick)
        self.children.append(node)
        return node

    def add_plugin(self, node: Lightningd, which: str, options: Json | None = None) -> None:
        """Give a node that is not started our `service` or `client`."""
        node.plugins.append((str(self.launcher(node, which)), options or {}))

    def launcher(self, node: Lightningd, which: str) -> Path:
        """Return an executable for lightningd that runs our plugin with this very interpreter."""
        command = [sys.executable, "-m", f"lsps2fast_plugin.{which}.app"]
        if self.record:
            recorder = [sys.executable, "-m", "lsps2fast_plugin.tools.regtest.recorder"]
            command = [*recorder, str(self.transcript(node)), str(self.trip_file(node)), node.name, "--", *command]
        path = node.directory / f"lsps2fast-{which}"
        exports = " ".join(f"{key}={value}" for key, value in TEST_CLOCK.items())
        path.write_text(f'#!/bin/sh\n{exports} exec {shlex.join(command)} "$@"\n')
        path.chmod(0o700)
        return path

    def wallet(self, name: str, node_options: Json | None = None, **options: Any) -> Lightningd:
        """Return a fresh node with our client plugin, connected to the LSP. By default it trusts every LSP."""
        wallet = self.node(name, node_options)
        self.add_plugin(wallet, "client", {"lsps2-trusted-lsp": "any", **options})
        wallet.start()
        wallet.wait_log("lsps2fast-client .* is ready")
        self.connect(wallet, self.lsp)
        return wallet

    def connect(self, node: Lightningd, other: Lightningd) -> None:
        """Connect two nodes; both know it when this returns. Raises NodeError."""

        def both() -> bool:
            # Each time anew: a node whose peer has died a moment ago answers that it is connected, and then is not.
            node.call("connect", {"id": other.node_id, "host": "127.0.0.1", "port": other.port})
            return self.connected(other, node)

        until(both, f"connection of {node.name} at {other.name}")

    def connected(self, node: Lightningd, other: Lightningd) -> bool:
        """Return whether `node` sees `other` connected."""
        peers = node.call("listpeers", {"id": other.node_id})["peers"]
        return any(peer["connected"] for peer in peers)

    def rejoin(self, node: Lightningd) -> None:
        """After a restart: connected to the LSP again, and every channel between the two that lives is in use."""

        def joined() -> bool:
            try:
                self.connect(node, self.lsp)
            except NodeError:
                return False
            rows = self.channels(node, self.lsp)
            living = [row for row in rows if row["state"].endswith(("_AWAITING_LOCKIN", "_NORMAL"))]
            return all(row["state"] == NORMAL and row.get("reestablished", True) for row in living)

        def seen() -> str:
            rows = [(row["state"], row.get("reestablished"), row["status"]) for row in self.channels(node, self.lsp)]
            return f"its channels with the LSP: {rows}"

        until(joined, f"{node.name} at the LSP", say=seen)

    # Coins and channels ----------------------------------------------------------------------------

    def grant(self, node: Lightningd, coins_sat: Iterable[int]) -> None:
        """Give a node's wallet confirmed coins."""
        coins = [(node.call("newaddr")["p2tr"], amount) for amount in coins_sat]
        if not coins:
            return
        before = len(self.coins(node))
        self.bitcoind.send(coins)
        self.mine()
        until(lambda: len(self.coins(node)) == before + len(coins), f"coins of {node.name}")

    def coins(self, node: Lightningd) -> list[Json]:
        """Return the confirmed outputs of a node's wallet."""
        rows: list[Json] = node.call("listfunds")["outputs"]
        return [row for row in rows if row["status"] == "confirmed"]

    def mine(self, blocks: int = 1) -> None:
        """Mine, and wait until every running node knows."""
        self.bitcoind.mine(blocks)
        for child in self.children:
            if isinstance(child, Lightningd) and child.runs:
                child.synced()

    def link(self, opener: Lightningd, other: Lightningd, count: int = 1, size_sat: int = BOUGHT_SAT) -> None:
        """Open confirmed public channels from one node to another, all money on the opener's side."""
        self.connect(opener, other)
        self.grant(opener, [size_sat + 100_000] * count)
        for _ in range(count):
            opener.call("fundchannel", {"id": other.node_id, "amount": size_sat, "minconf": 1})
        self.mine(6)
        for node, peer in ((opener, other), (other, opener)):
            until(lambda node=node, peer=peer: self._ready(node, peer) >= count, f"channels of {node.name}")  # type: ignore[misc]
        scids = self.scids(opener, other)
        until(lambda: self._announced(opener, scids), "gossip about the channels")

    def _ready(self, node: Lightningd, peer: Lightningd) -> int:
        """Channels that can be used."""
        rows = self.channels(node, peer)
        return sum(row["state"] == NORMAL and row.get("reestablished", True) for row in rows)

    def _announced(self, node: Lightningd, scids: Iterable[str]) -> bool:
        return all(len(node.call("listchannels", {"short_channel_id": scid})["channels"]) == 2 for scid in scids)

    def channels(self, node: Lightningd, peer: Lightningd) -> list[Json]:
        """Rows of listpeerchannels."""
        rows: list[Json] = node.call("listpeerchannels", {"id": peer.node_id})["channels"]
        return rows

    def scids(self, node: Lightningd, peer: Lightningd) -> list[str]:
        """Return the confirmed short channel ids between two nodes."""
        rows = self.channels(node, peer)
        return sorted(row["short_channel_id"] for row in rows if "short_channel_id" in row)

    # Buying and paying -----------------------------------------------------------------------------

    def bill(self, wallet: Lightningd, amount_msat: int | None, **more: Any) -> Bill:
        """Buy a JIT channel and make its invoice; `amount_msat` None: an invoice without an amount."""
        label = f"bill {next(self._labels)}"
        ask = {
            "lsp_id": self.lsp.node_id,
            "amount_msat": "any" if amount_msat is None else amount_msat,
            "description": "a JIT channel",
            "label": label,
            **more,
        }
        row = wallet.call("lsps-lsps2-invoice", ask)
        invoice = bolt11.decode(row["bolt11"])
        hint = invoice.hints[0][0]
        return Bill(
            wallet=wallet,
            label=label,
            text=row["bolt11"],
            payment_hash=row["payment_hash"],
            payment_secret=invoice.payment_secret.hex(),
            amount_msat=amount_msat,
            jit_scid=format_scid(hint.scid),
            delta_blocks=hint.cltv_expiry_delta_blocks,
            final_blocks=invoice.min_final_cltv_blocks,
            opening_fee_msat=row["opening_fee_msat"],
        )

    def further_bill(self, bill: Bill, amount_msat: int) -> Bill:
        """Another invoice of that wallet, to be paid over the same jit scid."""
        label = f"bill {next(self._labels)}"
        ask = {"amount_msat": amount_msat, "label": label, "description": "once more"}
        text = bill.wallet.call("invoice", ask)["bolt11"]
        invoice = bolt11.decode(text)
        return replace(
            bill,
            label=label,
            text=text,
            payment_hash=invoice.payment_hash.hex(),
            payment_secret=invoice.payment_secret.hex(),
            amount_msat=amount_msat,
            final_blocks=invoice.min_final_cltv_blocks,
            opening_fee_msat=None,
        )

    def send_parts(
        self,
        bill: Bill,
        amounts_msat: Sequence[int],
        *,
        total_msat: int | None = None,
        first_part: int = 1,
        group: int | None = None,
        payment_hash: str | None = None,
        payer: Lightningd | None = None,
        spare_blocks: int = 2,
    ) -> tuple[int, range]:
        """Send HTLCs with `sendpay`, in turn over the payer's channels; (group, part ids) for `result`."""
        payer = payer or self.payer
        scids = self._able(payer, max(amounts_msat))
        group = next(self._groups) if group is None else group
        final = bill.final_blocks + spare_blocks
        parts = range(first_part, first_part + len(amounts_msat))
        for part, amount, scid in zip(parts, amounts_msat, itertools.cycle(scids), strict=False):
            hops = ((self.lsp.node_id, scid, final + bill.delta_blocks), (bill.wallet.node_id, bill.jit_scid, final))
            route = [
                {"id": hop, "channel": via, "direction": 0, "amount_msat": amount, "delay": delay, "style": "tlv"}
                for hop, via, delay in hops
            ]
            route[0]["direction"] = int(payer.node_id > self.lsp.node_id)
            payer.call(
                "sendpay",
                {
                    "route": route,
                    "payment_hash": payment_hash or bill.payment_hash,
                    "payment_secret": bill.payment_secret,
                    "partid": part,
                    "groupid": group,
                    "amount_msat": total_msat or sum(amounts_msat),
                },
            )
        return group, parts

    def _able(self, payer: Lightningd, amount_msat: int) -> list[str]:
        """Return the payer's channels that can carry such a part, in the order of their scids."""
        rows = self.channels(payer, self.lsp)
        living = [row for row in rows if row["state"] == NORMAL]
        able = [row["short_channel_id"] for row in living if row["spendable_msat"] > 2 * amount_msat]
        return sorted(able)

    def result(
        self, bill: Bill, sent: tuple[int, range], amounts_msat: Sequence[int], timeout_s: int = 300, **more: Any
    ) -> Paid:
        """Wait until the parts are settled or failed."""
        group, parts = sent
        payment_hash = more.get("payment_hash") or bill.payment_hash
        payer: Lightningd = more.get("payer") or self.payer
        ends = []
        for part, amount in zip(parts, amounts_msat, strict=True):
            ask = {"payment_hash": payment_hash, "partid": part, "groupid": group, "timeout": timeout_s}
            try:
                ends.append(Part(amount, payer.call("waitsendpay", ask, timeout_s + 10)["status"]))
            except NodeError as error:
                data = error.data or {}
                ends.append(Part(amount, "failed", data.get("raw_message", f"? {error}"), {"code": error.code, **data}))
        return Paid(ends)

    def pay(self, bill: Bill, amounts_msat: Sequence[int], **how: Any) -> Paid:
        """Send parts and wait for their end."""
        sent = self.send_parts(bill, amounts_msat, **how)
        return self.result(bill, sent, amounts_msat, payer=how.get("payer"), payment_hash=how.get("payment_hash"))

    # The LSP's plugin ----------------------------------------------------------------------

    def transcript(self, node: Lightningd) -> Path:
        """Return where the recorder writes."""
        return node.directory / "transcript.jsonl"

    def trip_file(self, node: Lightningd) -> Path:
        """Return where the recorder looks for a trip."""
        return node.directory / "trip.json"

    def trip(self, node: Lightningd, direction: str, method: str, when: str, kill: str) -> None:
        """Kill the `plugin` or the `node` before or after the next frame of this kind (see `recorder`)."""
        trip = {"dir": direction, "method": method, "when": when, "kill": kill}
        draft = self.trip_file(node).with_suffix(".new")
        draft.write_text(json.dumps(trip))
        draft.rename(self.trip_file(node))

    def hold(self, node: Lightningd, direction: str, method: str) -> Path:
        """Have everything wait at the next frame of this kind; the file that says so, and that ends it when deleted."""
        self.trip(node, direction, method, "before", "none")
        file = self.trip_file(node)
        return file.with_name(file.name + HELD)

    def entries(self, node: Lightningd | None = None) -> list[Json]:
        """Return everything recorded so far; the last line may still be on its way."""
        path = self.transcript(node or self.lsp)
        if not path.exists():
            return []
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def stats(self) -> Json:
        """`lsps2-stats` of the service."""
        stats: Json = self.lsp.call("lsps2-stats")
        return stats

    def sessions(self) -> list[Json]:
        """`lsps2-listsessions` of the service."""
        rows: list[Json] = self.lsp.call("lsps2-listsessions")["sessions"]
        return rows

    def records(self, folder: str, node: Lightningd | None = None) -> dict[str, Json]:
        """Journal records by jit scid."""
        key = ["lsps", "lsps2", "sessions", folder]
        rows = (node or self.lsp).call("listdatastore", {"key": key})["datastore"]
        return {row["key"][-1]: json.loads(bytes.fromhex(row["hex"])) for row in rows}

    def outcome(self, bill: Bill) -> str | None:
        """Return how the buy ended according to the journal; None while its active record is there."""
        if bill.jit_scid in self.records("active"):
            return None
        outcome: str | None = self.records("finalized").get(bill.jit_scid, {}).get("outcome")
        return outcome

    def over(self, bill: Bill, outcome: str = "Succeeded", timeout_s: float = PATIENCE_S) -> None:
        """Wait for the final record."""
        until(lambda: self.outcome(bill) == outcome, f"{outcome} of {bill.jit_scid}", timeout_s, self._say)

    def held(self, count: int) -> None:
        """Wait until the service holds so many parts."""
        until(lambda: self.stats()["held_parts"] == count, f"{count} held parts", say=self._say)

    def advance(self, node: Lightningd, seconds: float) -> None:
        """Turn the clock of our plugin at this node."""
        node.call("lsps2-dev-advance", {"seconds": seconds})

    def _say(self) -> str:
        lines = [line[24:300] for line in self.lsp.log_text().splitlines() if "plugin-lsps2fast" in line]
        return "\n".join(f"  {line}" for line in lines[-15:]) + f"\n  {json.dumps(self.sessions())[:1500]}"

    # Books -----------------------------------------------------------------------------------------

    def wealth_msat(self, node: Lightningd) -> int:
        """Return all a node owns: coins (also those on their way) and its side of every
        channel whose funding was sent.
        """
        rows = node.call("listfunds")["outputs"]
        coins = sum(int(row["amount_msat"]) for row in rows if row["status"] in ("confirmed", "unconfirmed"))
        channels = node.call("listpeerchannels")["channels"]
        ours = sum(int(row["to_us_msat"]) for row in channels if not row.get("funding", {}).get("withheld"))
        return coins + ours
