"""The client's options: what the owner allows an LSP to take, to open and to be trusted with."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from lsps2fast.errors import ConfigError
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import parse_node_id
from lsps2fast_plugin.cln.option_table import Changed, NumberTable, add_numbers, read_numbers, several
from lsps2fast_plugin.cln.pyln_client import Plugin

INBOUND_OPTION: Final = "lsps2-inbound"
OWN_PREFIX = "lsps2-"  # of the options that CLN's built-in plugin does not have
ANY_LSP = "any"
WARN, REFUSE, BOTH = INBOUND = ("warn", "refuse", "both")


class Settings(NamedTuple):
    """Options, checked."""

    max_fee_msat: int
    max_fee_ppm: int
    funding_depth: int
    hold_ms: int
    funding_timeout_ms: int
    zero_reserve: bool
    trusted: frozenset[str]
    confirm_timeout_blocks: int = 144
    max_to_self_delay_blocks: int = 2016
    least_htlcs: int = 2
    max_htlc_minimum_msat: int = 1_000_000
    inbound: str = WARN
    reuse_fee_percent: int = 0

    def trusts(self, lsp_id: str) -> bool:
        """Return whether the owner named this LSP as one whose word is enough."""
        return lsp_id in self.trusted or ANY_LSP in self.trusted


NUMBERS: NumberTable = {  # default, least, most, meaning
    "lsps2-max-fee-msat": (100_000_000, 0, 2**63 - 1, "largest opening fee to pay for a channel"),
    "lsps2-max-fee-ppm": (
        666_667,  # all that our own service sells by default: 1,000 sat of 1,500 (wallet:W12)
        0,
        10**6,
        "largest opening fee in parts per million of the payment",
    ),
    "lsps2-funding-depth": (
        1,
        0,
        144,
        "confirmations of the funding before an LSP that is not trusted gets the preimage; 0: seen in the mempool",
    ),
    "lsps2-hold-timeout": (90, 60, 600, "seconds to hold the parts of a payment until all have come"),
    "lsps2-funding-timeout": (600, 10, 86_400, "seconds within which a funding that was paid for must be seen"),
    "lsps2-confirm-timeout": (
        144,
        6,
        2016,
        "blocks within which a funding that was paid for and seen must be confirmed",
    ),
    "lsps2-max-channel-delay": (2016, 1, 2016, "largest delay in blocks that an LSP may impose on us in a JIT channel"),
    "lsps2-max-reuse-fee-percent": (
        0,
        0,
        100,
        "most of the agreed opening fee, in percent, that an LSP may take for a payment over a channel we have; it then"
        " opens none. 0: a fee is paid for a channel only",
    ),
    "lsps2-min-htlcs": (2, 1, 483, "fewest HTLCs in flight that an LSP must allow us in a JIT channel"),
    "lsps2-max-htlc-minimum-msat": (
        1_000_000,
        0,
        2**63 - 1,
        "largest htlc_minimum_msat that an LSP may ask for in a JIT channel: smaller HTLCs cannot be sent",
    ),
}


def add_options(plugin: Plugin, changed: Changed | None = None) -> None:
    """Declare every option in the manifest. `changed(plugin, name, text)` hears of `setconfig`, and may refuse."""
    plugin.add_flag_option("experimental-lsps-client", "accepted for compatibility; loading this plugin enables it")
    plugin.add_flag_option(
        "experimental-lsps-client-zero-reserve", "let an LSP keep no reserve in a JIT channel it opens to us"
    )
    plugin.add_option(
        "lsps2-trusted-lsp",
        None,
        f"node id of an LSP trusted to broadcast a funding after it has the preimage, or '{ANY_LSP}'; may be repeated",
        multi=True,
    )
    add_numbers(plugin, NUMBERS, changed)
    plugin.add_option(
        INBOUND_OPTION,
        WARN,
        "what to do for an invoice that could be paid without a new channel: warn (buy and say so), refuse, or both"
        " (buy, and offer the channels there are beside it; such an invoice is paid in one part)",
        dynamic=changed is not None,
        on_change=changed,
    )


def _inbound(value: Any) -> str:
    if value not in INBOUND:
        raise ConfigError(f"{INBOUND_OPTION}={value!r} is unknown; give one of {', '.join(INBOUND)}")
    return str(value)


def _trusted(value: Any) -> frozenset[str]:
    ids = set()
    for text in several(value):
        try:
            ids.add(ANY_LSP if text == ANY_LSP else parse_node_id(text).hex())
        except MalformedField:
            raise ConfigError(f"lsps2-trusted-lsp={text!r} is no node id; give 66 hex digits or '{ANY_LSP}'") from None
    return frozenset(ids)


def read_settings(plugin: Plugin, changes: dict[str, Any] | None = None) -> Settings:
    """Return all options as given, and with `changes`. Raises ConfigError with the sentence that lightningd shows."""
    changes = changes or {}
    number = read_numbers(plugin, NUMBERS, changes)
    return Settings(
        max_fee_msat=number["lsps2-max-fee-msat"],
        max_fee_ppm=number["lsps2-max-fee-ppm"],
        funding_depth=number["lsps2-funding-depth"],
        hold_ms=number["lsps2-hold-timeout"] * 1000,
        funding_timeout_ms=number["lsps2-funding-timeout"] * 1000,
        zero_reserve=bool(plugin.get_option("experimental-lsps-client-zero-reserve")),
        trusted=_trusted(plugin.get_option("lsps2-trusted-lsp")),
        confirm_timeout_blocks=number["lsps2-confirm-timeout"],
        max_to_self_delay_blocks=number["lsps2-max-channel-delay"],
        least_htlcs=number["lsps2-min-htlcs"],
        max_htlc_minimum_msat=number["lsps2-max-htlc-minimum-msat"],
        reuse_fee_percent=number["lsps2-max-reuse-fee-percent"],
        inbound=_inbound(changes.get(INBOUND_OPTION, plugin.get_option(INBOUND_OPTION))),
    )
