"""Takes back a funding that went out for a channel that had just gone (rule:23).

A client may give its channel up between our look and our `sendpsbt`. lightningd then frees the coins, and `sendpsbt`,
which does not ask for reservations (cln:O1), sends the funding all the same: into an output that no channel owns. Until
a block has it, another transaction of the same coins that pays more takes its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from lsps2fast.actions import Channel
from lsps2fast.errors import NodeError, NodeUnreachable
from lsps2fast_plugin.cln.answers import number, text
from lsps2fast_plugin.cln.models import list_outputs
from lsps2fast_plugin.cln.psbt import fee_sat, inputs_of
from lsps2fast_plugin.cln.rpc import Rpc

RESERVE_BLOCKS: Final = 72  # lightningd's own default: no sale takes it for a reservation of its own (K-13)
REST_WEIGHT: Final = 214  # what is not an input: the transaction and one output
INPUT_WEIGHT: Final = 272
LEAST_PERKW: Final = 1_000
TRIES: Final = 4  # each at twice the rate of the one before

log = logging.getLogger(__name__)


class StrayFundings:
    """Finds fundings that no channel owns, and replaces them."""

    def __init__(self, rpc: Rpc, alarm: Callable[[str], None]) -> None:
        self._rpc = rpc
        self._alarm = alarm

    async def is_out(self, channel: Channel) -> bool:
        """Return whether bitcoind has its output, in a block or not yet. Raises NodeError.

        lightningd goes on listing the change of a transaction that was replaced, so its wallet is asked only where the
        source of blocks does not answer.
        """
        point = {"txid": channel.funding_txid, "vout": funding_outnum(channel)}
        try:
            return (await self._rpc.call("getutxout", point)).get("amount") is not None
        except NodeUnreachable:
            raise
        except NodeError as error:
            log.warning(f"asking for the funding of channel {channel.channel_id}: {error}")
        return any(output.txid == channel.funding_txid for output in await list_outputs(self._rpc))

    async def take_back(self, peer_id: str, channel: Channel, gone: Exception) -> None:
        """Spend the coins of this funding to ourselves at a higher rate; say it where that fails.

        `gone` says which of the channels is, where it pays several. Raises NodeUnreachable where lightningd does not
        answer: then it is to be tried again.
        """
        what = f"funding {channel.funding_txid} of channel {channel.channel_id} went out when"
        if channel.sisters:
            what = f"{what} one of {len(channel.sisters) + 1} that it pays had just been given up ({gone})"
        else:
            what = f"{what} {peer_id} had just given it up"
        try:
            txid = await self._replace(channel.signed_psbt)
        except NodeUnreachable:
            raise
        except (NodeError, ValueError) as error:
            self._alarm(f"{what}, and cannot be taken back: {error}")
        else:
            self._alarm(f"{what}; {txid} takes its coins back")

    async def _replace(self, psbt: str) -> str:
        """Reserve the coins, so that no sale takes them before a block decides, and send them to an address of ours."""
        await self._rpc.call("reserveinputs", {"psbt": psbt, "exclusive": False, "reserve": RESERVE_BLOCKS})
        inputs = inputs_of(psbt)
        feerate_perkw = _more_than(psbt, REST_WEIGHT + INPUT_WEIGHT * len(inputs))
        for left in reversed(range(TRIES)):
            try:
                return await self._spend(inputs, feerate_perkw)
            except NodeUnreachable:
                raise
            except NodeError as error:
                if not left:
                    raise
                log.warning(f"taking coins back at {feerate_perkw} sat/kw: {error}")
                feerate_perkw *= 2
        raise AssertionError("the last try returns or raises")

    async def _spend(self, inputs: tuple[str, ...], feerate_perkw: int) -> str:
        wanted = {
            "satoshi": "all",
            "feerate": f"{feerate_perkw}perkw",
            "startweight": REST_WEIGHT,
            "utxos": list(inputs),
            "reserve": 0,
            "reservedok": True,
        }
        funded = await self._rpc.call("utxopsbt", wanted)
        excess_sat = number(funded, "utxopsbt", "excess_msat") // 1000
        output = {"satoshi": f"{excess_sat}sat", "initialpsbt": text(funded, "utxopsbt", "psbt")}
        psbt = text(await self._rpc.call("addpsbtoutput", output), "addpsbtoutput", "psbt")
        psbt = text(await self._rpc.call("signpsbt", {"psbt": psbt}), "signpsbt", "signed_psbt")
        return text(await self._rpc.call("sendpsbt", {"psbt": psbt}), "sendpsbt", "txid")


def funding_outnum(channel: Channel) -> int:
    """Return the index of the funding output: the channel id is its txid XOR this index (BOLT 2)."""
    txid, mixed = bytes.fromhex(channel.funding_txid)[::-1], bytes.fromhex(channel.channel_id)
    return int.from_bytes(mixed[30:], "big") ^ int.from_bytes(txid[30:], "big")


def _more_than(psbt: str, weight: int) -> int:
    """Return the rate at which a transaction of this weight pays well more than this PSBT."""
    try:
        paid_sat = fee_sat(psbt)
    except ValueError:  # of the built-in plugin: it need not say what it spends
        paid_sat = 0
    return max(LEAST_PERKW, 2 * paid_sat * 1000 // weight + LEAST_PERKW // 2)
