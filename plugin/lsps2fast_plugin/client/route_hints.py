"""Keeping a channel without funding out of the invoices lightningd makes: the `invoice` command, rewritten (trap:46).

lightningd offers private channels by itself and cannot be told to leave one out; its `exposeprivatechannels` can.
"""

from __future__ import annotations

from typing import Any, Final

from lsps2fast.lsps.lsps2 import format_scid
from lsps2fast_plugin.cln.models import PeerChannel

NAMES: Final = (
    "amount_msat",
    "label",
    "description",
    "expiry",
    "fallbacks",
    "preimage",
    "exposeprivatechannels",
    "cltv",
    "deschashonly",
)
Json = dict[str, Any]


def rewritten(params: Json | list[Any], rows: list[PeerChannel], missing: set[str]) -> Json | None:
    """Return the parameters of `invoice` that offer none of the channels in `missing`; None to leave them as they are.

    `rows` are those of listpeerchannels. Without a wish of the caller lightningd offers private channels only when
    there are no public ones.
    """
    given = dict(zip(NAMES, params, strict=False)) if isinstance(params, list) else dict(params)
    wish = given.get("exposeprivatechannels")
    normal = [row for row in rows if row.is_normal]
    bad = {format_scid(scid) for row in rows if row.channel_id in missing for scid in row.scids_and_theirs}
    if wish is False or wish == "false":
        return None
    if isinstance(wish, list | str) and wish != "true":
        asked = wish if isinstance(wish, list) else [wish]
        good = [name for name in asked if name not in bad]
        return None if len(good) == len(asked) else given | {"exposeprivatechannels": good or False}
    if wish is None and any(not row.private for row in normal):
        return None
    private = [row for row in normal if row.private and row.channel_id not in missing]
    offered = [row.alias.local for row in private if row.alias.local]
    return given | {"exposeprivatechannels": offered or False}
