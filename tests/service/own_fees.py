"""A channel of a client for which the operator has set routing fees."""

from __future__ import annotations

from harness.service import Stage

from lsps2fast_plugin.simnode import Client, Payer

FREE = {"lsps2-reuse": "free"}
CONFIGURED = (1000, 10)
OWN = (77, 7)  # what the operator has set for the channel
MOST_MSAT = 90_000_000  # nearly all that the first channel has to spare


async def with_own_fees(stage: Stage) -> tuple[Client, Payer]:
    """A client with a channel for which the operator has set fees."""
    client, payer = stage.client(), stage.payer()
    await stage.sale(client, payer)
    await set_fees(stage, client, *OWN)
    return client, payer


async def set_fees(stage: Stage, client: Client, base_msat: int, ppm: int) -> None:
    """What its operator types."""
    channel_id = client.ends[0].channel.channel_id
    await stage.lsp.call("setchannel", {"id": channel_id, "feebase": base_msat, "feeppm": ppm, "enforcedelay": 0})


def fees(client: Client) -> tuple[int, int]:
    """What the LSP charges on the first channel of this client."""
    end = client.ends[0].other
    return end.fee_base_msat, end.fee_ppm
