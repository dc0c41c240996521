"""What happens by itself: fee rates, blocks, reorgs, bad lines, a slow or failing node, kills, jumps of the clock.

Blocks and fee rates go on for ever (`Sky.run`); everything else is an event of `EVENTS`, which comes, does its harm and
ends. None of it is a party's strategy, so none of it excuses a loss.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.client import Client
from lsps2fast_plugin.simnode.party import connect, disconnect

from .broom import sweep
from .common import Common

BLOCK_S = 600.0
LEAST_PERKW, MOST_PERKW, USUAL_PERKW = 253, 60_000, 1_000
SWEEP_BLOCKS = 72
CALLS = (
    "fundchannel_start",
    "fundchannel_complete",
    "signpsbt",
    "sendpsbt",
    "reserveinputs",
    "unreserveinputs",
    "utxopsbt",
    "datastore",
    "deldatastore",
    "listpeerchannels",
    "listfunds",
    "setchannel",
    "close",
    "feerates",
    "sendcustommsg",
)
ORDER_CALLS = ("invoice", "delinvoice", "listinvoices", "bkpr-listaccountevents")
Look = Callable[[bool], Awaitable[None]]


class Sky:
    """The weather of a town."""

    def __init__(self, common: Common, look: Look) -> None:
        """`look()` comes after each block, `look(True)` after some dozens."""
        self.common = common
        self.town = common.town
        self._look = look
        self.slow = 1.0  # blocks come so much slower
        self.perkw = float(USUAL_PERKW)

    async def run(self) -> None:
        """Blocks, and the fee rate that walks with them."""
        dice = self.town.chance.stream("blocks")
        while not self.common.over:  # a cancellation that comes with the answer to a call is lost in `wait_for`
            await asyncio.sleep(dice.expovariate(1 / (BLOCK_S * self.slow)))
            self._walk(dice)
            self.town.mine()
            self.common.mined()
            self.common.story.counts["blocks"] += 1
            await asyncio.sleep(2)
            is_time = self.town.chain.height % SWEEP_BLOCKS == 0
            await self._look(is_time)
            if is_time:
                sweep(self.common)

    def _walk(self, dice: random.Random) -> None:
        """Walk at random, drawn back to the usual rate."""
        drift = (USUAL_PERKW / self.perkw) ** 0.02
        self.perkw = min(MOST_PERKW, max(LEAST_PERKW, self.perkw * drift * dice.lognormvariate(0, 0.06)))
        self.set_rate(self.perkw)

    def did(self, what: str, times: int = 1) -> None:
        """Count what really happened."""
        self.common.storms[what] += times

    def set_rate(self, perkw: float) -> None:
        """All estimates of every node, and the commitments' with it."""
        for node in self.town.nodes:
            rates = node.feerates
            rates.opening = rates.unilateral_close = max(LEAST_PERKW, round(perkw))
            rates.unilateral_anchor_close = max(1_250, round(perkw))
            rates.mutual_close = max(LEAST_PERKW, round(perkw / 2))


Event = Callable[[Sky, random.Random], Awaitable[None]]


async def _spike(sky: Sky, dice: random.Random) -> None:
    factor = dice.uniform(3, 40)
    sky.did("fee rate leaps")
    sky.perkw = min(MOST_PERKW, sky.perkw * factor)
    sky.common.story.tell("weather", f"fee rates rise to {sky.perkw:.0f} sat per 1000 weight")


async def _slow_blocks(sky: Sky, dice: random.Random) -> None:
    sky.slow = dice.uniform(3, 8)
    sky.did("spells of slow blocks")
    sky.common.story.tell("weather", f"blocks come {sky.slow:.1f} times slower")
    await asyncio.sleep(dice.uniform(3_600, 21_600))
    sky.slow = 1.0


async def _burst(sky: Sky, dice: random.Random) -> None:
    count = dice.randint(3, 12)
    sky.did("bursts of blocks")
    sky.common.story.tell("weather", f"{count} blocks within a minute")
    for _ in range(count):
        sky.town.mine()
        await asyncio.sleep(dice.uniform(0, 5))


async def _reorg(sky: Sky, dice: random.Random) -> None:
    depth = dice.randint(1, 3)
    sky.did("reorgs")
    sky.common.story.tell("weather", f"the last {depth} blocks are replaced")
    sky.town.reorg(depth)


async def _flap(sky: Sky, dice: random.Random) -> None:
    lsp = sky.town.lsp
    sky.common.story.tell("weather", "lines are bad")
    for _ in range(dice.randint(5, 30)):
        peers = sorted(lsp.links.values(), key=lambda each: each.name)
        if peers:
            peer = dice.choice(peers)
            disconnect(peer, lsp)
            sky.did("lines cut")
            await asyncio.sleep(dice.uniform(0.05, 60))
            if peer.online:
                connect(peer, lsp)
        await asyncio.sleep(dice.uniform(1, 300))


async def _rpc_trouble(sky: Sky, dice: random.Random) -> None:
    """One kind of call fails, is carried out and fails, answers late, twice, or not at all."""
    calls = (*CALLS, *ORDER_CALLS) if sky.common.sells_ahead else CALLS
    faults, method = sky.town.lsp.faults, dice.choice(calls)
    kind = dice.choice(("fails", "fails after the deed", "slow", "late", "twice", "hangs", "the line is cut"))
    times, nth = dice.randint(1, 4), dice.randint(1, 3)
    sky.common.story.tell("weather", f"{method}: {kind}, {times} times from call {nth} on")
    if kind == "slow":
        await _slow_calls(sky, dice, method)
        return
    if kind == "fails":
        fault = faults.fail(method, nth=nth, times=times)
    elif kind == "fails after the deed":
        fault = faults.fail(method, nth=nth, times=times, after=True)
    elif kind == "late":
        fault = faults.late(method, nth=nth, times=times)
    elif kind == "twice":
        fault = faults.twice(method, nth=nth, times=times)
    elif kind == "hangs":
        fault = faults.hang(method, nth=nth, times=times)
    else:
        fault = faults.cut(method, nth=nth, times=times, after=dice.random() < 0.5)
    for _ in range(60):
        await asyncio.sleep(dice.uniform(5, 600))
        if fault.seen >= nth + times and not fault.wait:
            break
        if fault.reached.is_set() and not fault.released.is_set() and dice.random() < 0.5:
            fault.release()
    fault.release()
    faults.remove(fault)
    sky.did(f"RPC: {kind}", fault.hits)


async def _slow_calls(sky: Sky, dice: random.Random, method: str) -> None:
    """Let calls of a method take up to half a minute each, carried out at once or at the end."""
    faults = sky.town.lsp.faults
    for _ in range(dice.randint(3, 20)):
        fault = faults.late(method) if dice.random() < 0.5 else faults.hang(method)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(fault.reached.wait(), 1_800)
            await asyncio.sleep(dice.uniform(0.1, 30))
        faults.remove(fault)
        sky.did("RPC: slow", fault.hits)


async def _disk_full(sky: Sky, dice: random.Random) -> None:
    sky.common.story.tell("weather", "lightningd's disk is full")
    fault = sky.town.lsp.faults.fail("datastore", times=1_000_000, message="disk I/O error")
    await asyncio.sleep(dice.uniform(30, 7_200))
    sky.town.lsp.faults.remove(fault)
    sky.did("writes on a full disk", fault.hits)


async def _amid_a_sale(sky: Sky, dice: random.Random) -> None:
    """Wait until a part is held, and for some messages more; not for longer than half a day."""
    tape = sky.town.tape
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(sky.common.part_held(), 43_200)
        more = dice.choice((0, dice.randint(1, 80), dice.randint(1, 80)))
        await asyncio.wait_for(tape.reach(tape.frames + more), 200)


def _ending(how: str) -> Event:
    async def end(sky: Sky, dice: random.Random) -> None:
        await _amid_a_sale(sky, dice)
        sky.common.story.tell("weather", how)
        sky.did(how, await sky.common.restart(how))

    return end


async def _clock_jump(sky: Sky, dice: random.Random) -> None:
    """Set the wall clock of the LSP's machine forward or back, not the monotonic one."""
    skew_s = dice.uniform(-600, 600)
    sky.common.story.tell("weather", f"the LSP's clock is {skew_s:+.0f} s off")
    sky.common.set_skew(round(skew_s * 1000))
    sky.did("jumps of the clock")
    await asyncio.sleep(dice.uniform(600, 7_200))
    sky.common.set_skew(0)


async def _splice(sky: Sky, dice: random.Random) -> None:
    """Let a payer, a client or the wallet's friend make a channel larger; another scid follows (cln:N3)."""
    payer = dice.choice(sky.common.payers)
    end, who = dice.choice(payer.ends), "payer"
    if dice.random() < 0.7:
        others = [each for channel in sky.town.channels for each in channel.ends if _may_splice(each)]
        if others:
            end, who = dice.choice(others), "client"
            sky.town.chain.grant(200_000, end.owner.wallet.new_script())
    if sky.common.splice(end, dice.randint(1_000, 100_000)):
        sky.did(f"splices of a {who}'s channel")
        sky.common.story.tell("weather", f"{end.owner.name} splices a channel")


def _may_splice(end: End) -> bool:
    """Whether it is a wallet's, and its funding is in a block: before that lightningd splices nothing."""
    if not isinstance(end.owner, Client) or end.state != "CHANNELD_NORMAL" or end.channel.dead:
        return False
    return end.owner.chain.depth(end.channel.funding_txid) > 0


EVENTS: dict[str, Event] = {
    "fee spike": _spike,
    "slow blocks": _slow_blocks,
    "burst of blocks": _burst,
    "reorg": _reorg,
    "flapping": _flap,
    "rpc trouble": _rpc_trouble,
    "disk full": _disk_full,
    "plugin killed": _ending("plugin killed"),
    "plugin stopped": _ending("plugin stopped"),
    "power cut": _ending("power cut"),
    "node stopped": _ending("node stopped"),
    "clock jump": _clock_jump,
    "splice": _splice,
}
HARM = frozenset(
    (
        "flapping",
        "rpc trouble",
        "disk full",
        "plugin killed",
        "plugin stopped",
        "power cut",
        "node stopped",
        "clock jump",
    )
)  # while one of these goes on, and a little longer, nothing is quiet
