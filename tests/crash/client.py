"""A wallet that dies at one named message of its purchase or its payment, and what must be true afterwards.

`python -m crash.client` (in tests/) plays every message once for each mode and kind of death; test_client.py plays a
few. The LSP is the real service and lives on; the payer tries again as payers do. Nothing waits for real time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from crash.__main__ import seed_of_version
from crash.nursery import Nursery
from crash.points import PLUGIN, POWER, UNCOUNTED, Death, Labels
from lsps2fast_plugin.simnode import Node, World
from lsps2fast_plugin.simnode.errors import NodeDown, RpcError
from lsps2fast_plugin.simnode.party import connect

SERVICE, CLIENT = ["lsps2fast-service"], ["lsps2fast-client"]
LSP_TRUSTS, CLIENT_TRUSTS = "lsp-trusts-client", "client-trusts-lsp"
MODES, KINDS = (CLIENT_TRUSTS, LSP_TRUSTS), (PLUGIN, POWER)
SIZE_MSAT, FEE_MSAT = 20_000_000, 1_000_000
AMOUNTS = [12_000_000, 8_000_000]
FINAL_DELTA = 60  # room for the blocks of several tries
MOST_TRIES, MOST_TURNS = 6, 40
OWN_CALLS = (UNCOUNTED - {"custommsg"}) | {"lsps2-status"}
LIMIT_S = 120.0
Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One run; str() names it for a replay."""

    mode: str
    death: Death | None = None
    seed: int = 3

    def __str__(self) -> str:
        return f"{self.mode} {self.death or ''}".strip()


@dataclass(frozen=True)
class Outcome:
    """Points passed, whether the wallet died, what was wrong at the end."""

    case: Case
    points: tuple[str, ...]
    died: bool
    violations: tuple[str, ...]


class Story:
    """A sale to a wallet that may die once."""

    def __init__(self, nursery: Nursery, case: Case) -> None:
        self.case = case
        options = {"lsps2-trust-mode": case.mode, "lsps2-fee-floor": 0}
        self.world = World(seed=case.seed, plugin=SERVICE, options=options, sphinx=False)
        self.world.start_process = nursery.start
        self.wallet: Node = self.world.add_node("wallet")
        self.wallet.plan_plugin(CLIENT, {}, self.world.env)
        self.points: list[str] = []
        self.died = False
        self.violations: list[str] = []
        self._labels = Labels("wallet", OWN_CALLS)
        self._others = Labels("lsp", OWN_CALLS)
        self._seen = 0
        self._rising: asyncio.Task[None] | None = None
        self._labels_used = 0

    async def __aenter__(self) -> Story:
        await self.world.__aenter__()
        await self.wallet.start()
        connect(self.wallet, self.world.lsp)
        self.payer = self.world.payer("payer", channels=2)
        await self._is_up()
        self.world.open_books()
        self.world.transcript.listeners.append(self._listen)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.world.transcript.listeners.clear()
        await self.world.__aexit__(kind, error, trace)

    # Death and life

    def _listen(self, entry: Json) -> None:
        self._seen += self._others.of(entry) is not None
        label = self._labels.of(entry)
        if label is None:
            return
        self._seen += 1
        if self.died:
            return
        self.points.append(label)
        if self.case.death is not None and self.case.death.point == label:
            self._die(self.case.death.kind)

    def _die(self, kind: str) -> None:
        self.died = True
        for plugin in self.wallet.plugins:
            plugin.kill()
        if kind == POWER:
            self.wallet.sigkill()
        self._rising = asyncio.get_running_loop().create_task(self._rise())

    async def _rise(self) -> None:
        for process in list(self.wallet.processes):
            await process.gone.wait()
        await self.world.until(lambda: not any(plugin.alive for plugin in self.wallet.plugins), "the end of its pipe")
        if self.wallet.state == "running":
            await self.wallet.start_plugin(CLIENT, {}, self.world.env)
        else:
            await self.wallet.start()
            connect(self.wallet, self.world.lsp)

    async def _is_up(self) -> bool:
        """Whether both plugins have read their records and answer."""
        try:
            await self.wallet.call("lsps2-status")
            await self.world.lsp.call("lsps2-stats")
        except (RpcError, NodeDown):
            return False
        return True

    async def quiet(self) -> None:
        """Until both plugins have dealt with all they were sent."""
        calm, before = 0, -1
        while calm < 3:
            if self._rising is not None:
                await self._rising
            if not await self._is_up():
                await asyncio.sleep(0.001)
                continue
            calm = calm + 1 if self._seen == before else 0
            before = self._seen

    async def turn(self, seconds: float) -> None:
        await self.quiet()
        await self.world.advance(seconds)
        await self.quiet()

    # The sale

    async def play(self) -> None:
        """Buy, be paid, and be paid for every other invoice that came to be on the way."""
        await self.pay(await self.invoice())
        await self.turn(60)
        for invoice in list(self.wallet.invoices.by_hash.values()):
            if invoice.status == "unpaid":
                await self.pay(invoice.bolt11)
        for _ in range(2):
            self.world.mine()
            await self.turn(60)
        await self._judge()

    async def invoice(self) -> str:
        """As an owner who asks again under the same label when the first answer was lost."""
        for _ in range(MOST_TRIES):
            given = {"lsp_id": self.world.lsp.node_id, "amount_msat": SIZE_MSAT, "description": "d"}
            trust = {"client_trusts_lsp": self.case.mode == CLIENT_TRUSTS}
            try:
                made: Json = await self.wallet.call("lsps-lsps2-invoice", given | trust | {"label": "l"})
            except (RpcError, NodeDown):
                await self.turn(1)
            else:
                return str(made["bolt11"])
        raise RuntimeError("no invoice however often it was asked for")

    async def pay(self, bolt11: str) -> None:
        """As a payer who tries again."""
        for _ in range(MOST_TRIES):
            payment = self.payer.pay(bolt11, AMOUNTS, final_delta=FINAL_DELTA)
            for _ in range(MOST_TURNS):
                await self.quiet()
                if payment.done:
                    break
                if self.world.chain.mempool:
                    self.world.mine()
                else:
                    await self.turn(15)
            if (await payment).paid:
                return
            await self.turn(5)
        self.violations.append(f"{bolt11[:40]}... was not paid in {MOST_TRIES} tries")

    # What must be true

    async def _judge(self) -> None:
        """No msat lost, no channel too many, nothing left behind."""
        status = await self.wallet.call("lsps2-status")
        rows = list(self.wallet.invoices.by_hash.values())
        paid = sum(row.status == "paid" for row in rows)
        usable = [end for end in self.wallet.ends if end.state == "CHANNELD_NORMAL"]
        books = self.world.books()
        for wrong, sentence in (
            (paid != len(rows), f"{len(rows)} invoices were made, {paid} are paid"),
            (
                books["wallet"] != paid * (SIZE_MSAT - FEE_MSAT),
                f"the wallet has {books['wallet']} msat for {paid} sales",
            ),
            (-books["payer"] < paid * SIZE_MSAT, f"the payer paid {-books['payer']} msat for {paid} sales"),
            (len(usable) != paid, f"{len(usable)} channels for {paid} purchases"),
            (status["held_parts"], f"{status['held_parts']} parts are still held"),
            (status["channels"], f"still watched: {status['channels']}"),
            (any("ALARM" in each["report"] for each in status["reports"]), f"alarm: {status['reports']}"),
            (any(row[:1] == ("lsps",) for row in self.wallet.datastore.rows), "records of the purchase are left"),
            (self.wallet.crash_log, f"lightningd died: {self.wallet.crash_log}"),
        ):
            if wrong:
                self.violations.append(sentence)
        self.world.check_books()


async def run(nursery: Nursery, case: Case, tail: int = 0) -> Outcome:
    """Play it to its end; whatever is raised is a finding."""
    story = Story(nursery, case)
    try:
        async with story:
            await asyncio.wait_for(story.play(), LIMIT_S)
    except Exception as error:
        story.violations.append(f"{type(error).__name__}: {error}")
    if tail:
        entries = [each for each in story.world.transcript.entries if not _is_own(each)]
        for each in entries[-tail:]:
            print(f"  {each['t']:9.3f} {each['dir']:<11} {each['peer']:<18} {json.dumps(each['msg'])[:300]}")
    return Outcome(case, tuple(story.points), story.died, tuple(story.violations))


def _is_own(entry: Json) -> bool:
    text = json.dumps(entry["msg"])
    return any(f'"driver:{name}' in text for name in OWN_CALLS)


async def main() -> int:
    """Every message of both modes with both deaths, or one case again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--replay", nargs=2, metavar=("MODE", "DEATH"))
    parser.add_argument("--seed", type=int, default=seed_of_version(), help="default: from the version")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    bad = missed = 0
    async with Nursery() as nursery:
        if given.replay:
            case = Case(given.replay[0], Death.parse(given.replay[1]), given.seed)
            outcome = await run(nursery, case, tail=250)
            print(*outcome.violations, sep="\n")
            return len(outcome.violations)
        for mode in MODES:
            points = (await run(nursery, Case(mode, seed=given.seed))).points
            for kind in KINDS:
                for point in points:
                    outcome = await run(nursery, Case(mode, Death(kind, point), given.seed))
                    missed += not outcome.died  # a look more or less at the chain, as the moments fell
                    if outcome.violations:
                        bad += 1
                        print(outcome.case, *outcome.violations, sep="\n    ")
                        again = f'{mode} "{outcome.case.death}"'
                        print(f"    again: python -m crash.client --seed {given.seed} --replay {again}", flush=True)
            print(f"{mode}: {len(points)} messages, {len(KINDS)} deaths each", flush=True)
    print(f"{bad} violations; {missed} messages did not come again")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
