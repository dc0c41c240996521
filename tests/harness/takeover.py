"""What tests of a takeover share: the payment, and the moments of its sale at which a machine dies."""

from __future__ import annotations

from lsps2fast_plugin.tools.regtest import Bill, Town

SIZE_MSAT = 10_000_000
FEE_MSAT = 1_000_000
HALVES = [SIZE_MSAT // 2] * 2

MOMENTS = {  # direction, method, before or after it passes the recorder
    "a part arrives": ("host>plugin", "htlc_accepted", "after"),
    "the intent is written": ("rpc>host", "datastore", "before"),
    "coins chosen": ("host>rpc", "utxopsbt", "after"),
    "coins reserved": ("host>rpc", "reserveinputs", "after"),
    "the open has begun": ("host>rpc", "fundchannel_start", "after"),
    "channel made": ("host>rpc", "fundchannel_complete", "before"),
    "channel written": ("host>rpc", "fundchannel_complete", "after"),
    "parts let go": ("plugin>host", "htlc_accepted", "after"),
    "before the broadcast": ("rpc>host", "sendpsbt", "before"),
    "after the broadcast": ("host>rpc", "sendpsbt", "after"),
    "the last record": ("rpc>host", "deldatastore", "before"),
}


def reconnected(town: Town, bill: Bill) -> None:
    """Payer and wallet are connected to the machine that serves."""
    for node in (town.payer, bill.wallet):
        town.rejoin(node)
