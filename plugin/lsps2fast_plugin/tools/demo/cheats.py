"""What an LSP that cheats does to one payment, step by step, and what proves that it did (`demo --evil-lsp`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lsps2fast_plugin.client.funding_status import FundingStatus
from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE
from lsps2fast_plugin.simnode import Node, PaymentResult, tlv
from lsps2fast_plugin.simnode.channels import End
from lsps2fast_plugin.simnode.party import connect
from lsps2fast_plugin.simnode.payer import Payment
from lsps2fast_plugin.simnode.psbt import Output
from lsps2fast_plugin.tools.demo.evil_lsp import WAITING
from lsps2fast_plugin.tools.demo.sales import Stage
from lsps2fast_plugin.tools.demo.timeline import Entry
from lsps2fast_plugin.tools.demo.transcript_report import ClaimRow, accepted, count

SIZE_MSAT, FEE_MSAT, PARTS = 10_000_000, 1_000_000, 5
OFFER_S = DEFAULT_LINE.validity_s
MOST_BLOCKS = 12
DRAINABLE_SAT, DRAINED_MSAT, ROUTING_FEE_MSAT = 1_000_000, 50_000_000, 2_000
HOLD_S = 91
ENDS = ("FAILED", "ABANDONED", "SUCCEEDED")


class Cheat:
    """One payment to a wallet whose LSP cheats."""

    def __init__(self, stage: Stage, wallet: Node) -> None:
        self.stage = stage
        self.world = stage.world
        self.wallet = wallet
        self.real: End | None = None
        self.bob: Node
        self.drained: PaymentResult | None = None
        self.forged = False
        self.mark = len(self.world.transcript.entries)
        self.lapsed_at = -1  # place in the transcript where the client had given the approval up

    async def status(self) -> dict[str, Any]:
        """Return the client's `lsps2-status`."""
        told: dict[str, Any] = await self.wallet.call("lsps2-status")
        return told

    async def until(self, condition: Callable[[dict[str, Any]], object], what: str) -> None:
        """Ask the client until the condition holds of what it tells. Raises WaitTimeout."""

        async def poll() -> None:
            while not condition(await self.status()):
                continue

        await self.world.bounded(poll(), None, what)

    def seen_by_wallet(self) -> list[Entry]:
        """Return what went over the wallet's pipes since the invoice was made."""
        return self.stage.seen(self.wallet.name, self.mark)

    def calls(self, name: str, direction: str, method: str) -> list[Entry]:
        """Return the calls of one method on this node's pipes or socket."""
        seen = self.stage.seen(name, self.mark)
        return [e for e in seen if e["dir"] == direction and e["msg"].get("method") == method]

    # While the payment is under way

    async def wait(self, payment: Payment) -> None:
        """Nothing: the client answers by itself."""

    async def mine(self, payment: Payment) -> None:
        """Blocks come; the client holds the parts as long as it can and the funding is not among the transactions."""
        for _ in range(MOST_BLOCKS):
            await self.until(lambda told: self.awaits(told) or payment.done, "the client looking for the funding")
            if payment.done:
                return
            self.stage.say("clock", f"a block is mined, without the funding; the client holds {PARTS} parts")
            self.world.mine()

    def awaits(self, told: dict[str, Any]) -> str | None:
        """Return how far the funding has come, as of this block, that the client holds every part for."""
        now = told["held_parts"] == PARTS and told["approvals"][0]["awaits_height"] == self.world.chain.height
        sight: str | None = told["approvals"][0]["awaits"] if now else None
        return sight

    async def lapse(self, payment: Payment) -> None:
        """Let the offer end, for the client first: an LSP's clock that is late is the LSP's affair."""
        await self.world.until(lambda: payment.done or self._is_waiting(), "the service waiting for its offer to end")
        if payment.done:
            return
        self.stage.say("clock", f"{OFFER_S} s pass, and with them the offer")
        self.world.clock.advance(OFFER_S)
        await self.wallet.call("lsps2-dev-advance", {"seconds": OFFER_S})
        await self.until(lambda told: not told["approvals"], "the client's approval being over")
        self.lapsed_at = len(self.world.transcript.entries)
        await self.world.lsp.call("lsps2-dev-advance", {"seconds": OFFER_S + 60})

    def _is_waiting(self) -> bool:
        return any(each["msg"]["params"]["message"] == WAITING for each in self.calls("lsp", "plugin>host", "log"))

    async def drain(self, payment: Payment) -> None:
        """Route through the wallet while it holds the parts; then mine blocks that do not hold the funding."""
        await self.until(lambda told: told["held_parts"] == PARTS or payment.done, "the client holding every part")
        if not payment.done:
            self.drained = await self._route()
        await self.mine(payment)

    async def _route(self) -> PaymentResult:
        height, real = self.world.chain.height, self.real
        jit = next(end for end in self.wallet.ends if end is not real)
        assert real is not None
        target = await self.bob.call("invoice", {"amount_msat": DRAINED_MSAT, "label": "drain", "description": "drain"})
        secret, sent_msat = bytes.fromhex(target["payment_secret"]), DRAINED_MSAT + ROUTING_FEE_MSAT
        last = tlv.hop_payload(DRAINED_MSAT, height + 12, payment_secret=secret, total_msat=DRAINED_MSAT)
        hops = [
            (bytes.fromhex(self.world.lsp.node_id), tlv.hop_payload(sent_msat, height + 32, jit.other.scid_now())),
            (bytes.fromhex(self.wallet.node_id), tlv.hop_payload(DRAINED_MSAT, height + 12, real.scid_now())),
            (bytes.fromhex(self.bob.node_id), last),
        ]
        payment_hash = bytes.fromhex(target["payment_hash"])
        return await self.stage.payer.send_along(payment_hash, hops, sent_msat + ROUTING_FEE_MSAT, height + 176)

    async def forge(self, payment: Payment) -> None:
        """Show an output of the right amount that is no funding: its script is the LSP's own. Then blocks come."""
        await self.until(lambda told: told["held_parts"] == PARTS or payment.done, "the client holding every part")
        channel = self.wallet.ends[0].channel
        point = (channel.funding_txid, channel.funding_outnum)
        self.world.chain.unspent[point] = Output(channel.capacity_sat, b"\x00\x20" + b"\x5a" * 32)
        self.world.mine()
        seen = FundingStatus.MEMPOOL.value
        await self.until(lambda told: self.awaits(told) == seen or payment.done, "the client seeing the output")
        await self.mine(payment)
        self.forged = (await self.wallet.call("getutxout", {"txid": point[0], "vout": point[1]}))["amount"] is not None
        del self.world.chain.unspent[point]

    async def confirm(self, payment: Payment) -> None:
        """Mine the funding where the client waits for it."""
        await self.until(lambda told: told["held_parts"] == PARTS or payment.done, "the client holding every part")
        if not payment.done:
            self.world.mine()

    async def miss(self, payment: Payment) -> None:
        """Let time pass until the client gives back the part it holds."""
        await self.until(lambda told: told["held_parts"] == 1 or payment.done, "the client holding a part")
        await self.world.until(lambda: not self._serves(), "the end of the LSP's service")
        self.stage.say("clock", f"{HOLD_S} s pass, and no other part comes")
        await self.wallet.call("lsps2-dev-advance", {"seconds": HOLD_S})
        await self.until(lambda told: not told["held_parts"], "the client giving it back")

    async def give_up(self, payment: Payment) -> None:
        """Let time pass until the parts without a fee, which wait for the refused one, have gone back."""

        async def end() -> None:
            while not payment.done:
                told = await self.status()
                if told["held_parts"] == PARTS:
                    self.world.mine()  # an honest LSP's parts wait for a block
                    return
                if told["held_parts"] and any(lsp["broke_its_word"] for lsp in told["lsps"]):
                    self.world.clock.advance(HOLD_S)
                    await self.wallet.call("lsps2-dev-advance", {"seconds": HOLD_S})

        await self.world.bounded(end(), None, "the end of the payment")

    # Before the payment

    async def befriend(self) -> None:
        """Give the wallet a real channel with Bob, all of it on its own side."""
        self.bob = self.world.add_node("bob")
        await self.bob.start()
        connect(self.wallet, self.bob)
        self.real = self.world.add_channel(self.wallet, self.bob, DRAINABLE_SAT)

    async def sell_once(self) -> None:
        """Sell a channel as it should be."""
        bill = await self.stage.bill(self.wallet, SIZE_MSAT)
        payment = self.stage.send(bill, [SIZE_MSAT])
        await self.until(lambda told: told["held_parts"] == 1 or payment.done, "the client holding the part")
        self.world.mine()
        await self.until(lambda told: told["approvals"][0]["state"] == "paid", "the first payment known")
        await self.world.until(lambda: self.stage.sessions(bill["payment_hash"])[-1] in ENDS, "its end at the LSP")

    # Proof that the LSP misbehaved as its vice says

    def drained_nothing(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that a forward came in over the channel without funding, and went no further."""
        tried = [part.code for part in self.drained.parts] if self.drained is not None else []
        return {
            "the LSP did route through the wallet, which forwarded nothing": bool(tried) and 0 not in tried,
            "the wallet's real channel has every msat it had": self.real is not None
            and self.real.to_us_msat == DRAINABLE_SAT * 1000,
            **self.withheld(claims),
        }

    def reused(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that the fee of a second sale came, and no second channel."""
        fees_msat = sum(row.fee_msat for row in claims)
        return {
            f"the LSP did take a fee of {fees_msat:,} msat again, over the channel of its first sale": fees_msat > 0
            and len(self.wallet.ends) == 1,
        }

    def fooled_nobody(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that the chain did show an output of the right amount."""
        return {"the chain did show an output of the channel's amount that is no funding": self.forged} | self.withheld(
            claims
        )

    def vanished(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that one part came and the rest did not."""
        return {"the LSP did open the channel, send one part of five and go": len(claims) == 1 and not self._serves()}

    def _serves(self) -> bool:
        return any(plugin.alive for plugin in self.world.lsp.plugins)

    def opened_once(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Check that a second channel was asked for, and that there is one."""
        return {
            "the LSP did ask for a second channel for the same sale": len(self._openings()) > 1,
            "there is one channel, and its fee was taken once": len(self.wallet.ends) == 1
            and sum(row.fee_msat for row in claims) == FEE_MSAT,
        }

    def skimmed(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return whether each part came with less than its fee accounts for."""
        short = bool(claims) and all(row.amount_msat + row.fee_msat == row.sent_msat - 1 for row in claims)
        return {"the LSP did send every part 1 msat short of its word": short}

    def withheld(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return everything but the transaction."""
        ours = [end.channel.funding_txid for end in self.wallet.ends if end is not self.real]
        unseen = bool(ours) and not any(txid in self.world.chain.transactions for txid in ours)
        calls = self.calls(self.wallet.name, "host>plugin", "htlc_accepted")
        left = [call["msg"]["params"]["htlc"]["cltv_expiry"] - self.world.chain.height for call in calls]
        return {
            "the LSP did forward all parts and keep the funding to itself": unseen and len(claims) == PARTS,
            f"the parts were failed {min(left, default=0)} blocks before they would have expired": min(left, default=0)
            > 0,
        }

    def resized(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return a channel that the payment does not fit into."""
        asked = [call["msg"]["params"]["openchannel"]["funding_msat"] for call in self._openings()]
        return {
            f"the LSP did offer a channel of {max(asked, default=0):,} msat for {SIZE_MSAT - FEE_MSAT:,} msat": bool(
                asked
            )
            and max(asked) < SIZE_MSAT - FEE_MSAT,
            "the client accepted no channel": accepted(self.seen_by_wallet()) == 0,
        }

    def came_late(self, claims: list[ClaimRow]) -> dict[str, bool]:
        """Return whether the open was asked for when the client's approval was over, and not before."""
        entries = self.stage.seen(self.wallet.name, self.lapsed_at) if self.lapsed_at >= 0 else []
        after = count(entries, "host>plugin", "openchannel")  # once for each type of channel that it tries
        return {
            "the LSP did ask for the channel after the approval had lapsed": 0 < after == len(self._openings()),
            "the client accepted no channel": accepted(self.seen_by_wallet()) == 0,
        }

    def _openings(self) -> list[Entry]:
        return self.calls(self.wallet.name, "host>plugin", "openchannel")
