"""The service's options: names as CLN has them where it has one, each checked with a reason a person can act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pyln.client import Plugin

from lsps2fast.errors import ConfigError
from lsps2fast.lsps2 import why_unsound
from lsps2fast.offers import Limits
from lsps2fast.promise import key_from_hex
from lsps2fast_plugin.policy import DEFAULT_LINE, FeeLine

MIN_VALIDITY_S = 600  # G-06
MODES = ("lsp-trusts-client", "client-trusts-lsp")


class Settings(NamedTuple):
    """Options, checked."""

    promise_secret: str | None
    collect_ms: int
    max_parts: int
    zero_reserve: bool
    cltv_delta_blocks: int
    client_trusts_lsp: bool
    headroom_sat: int
    max_capacity_sat: int
    limits: Limits
    menu: tuple[FeeLine, ...]


_INTS: dict[str, tuple[int, int, int, str]] = {  # default, least, most, meaning
    "dev-lsps2-collect-timeout": (90, 1, 3_600, "seconds to hold parts until a payment is complete (at least 90)"),
    "lsps2-max-parts": (30, 1, 483, "parts of one payment that are accepted"),
    "lsps2-cltv-delta": (144, 6, 2_016, "cltv delta promised to clients; never below the node's own"),
    "lsps2-channel-headroom-sat": (100_000, 0, 10**12, "inbound capacity beyond the first payment"),
    "lsps2-max-channel-sat": (16_777_215, 1_000, 10**12, "largest channel that is opened"),
    "lsps2-max-buys-per-peer": (10, 1, 10**6, "unused buys that one peer may hold"),
    "lsps2-max-buys": (10_000, 1, 10**7, "unused buys in all"),
    "lsps2-min-fee-msat": (DEFAULT_LINE.min_fee_msat, 0, 10**15, "smallest opening fee"),
    "lsps2-fee-ppm": (DEFAULT_LINE.proportional, 0, 10**6, "opening fee in parts per million of the payment"),
    "lsps2-offer-validity": (DEFAULT_LINE.validity_s, MIN_VALIDITY_S, 10**8, "seconds that an offer stays valid"),
    "lsps2-min-lifetime": (DEFAULT_LINE.min_lifetime_blocks, 0, 10**6, "blocks that a paid channel is kept open"),
    "lsps2-max-to-self-delay": (DEFAULT_LINE.max_client_to_self_delay_blocks, 1, 65_535, "largest to_self_delay"),
    "lsps2-min-payment-msat": (DEFAULT_LINE.min_payment_size_msat, 1, 10**15, "smallest payment that is sold"),
    "lsps2-max-payment-msat": (DEFAULT_LINE.max_payment_size_msat, 1, 10**15, "largest payment that is sold"),
}


def add_options(plugin: Plugin) -> None:
    """Declare every option in the manifest."""
    plugin.add_flag_option("experimental-lsps2-service", "accepted for compatibility; loading this plugin enables it")
    plugin.add_option(
        "experimental-lsps2-promise-secret", None, "key of our promises, 64 hex digits; by default made from the node's"
    )
    plugin.add_flag_option("experimental-lsps2-zero-reserve", "open channels without a reserve on our side")
    plugin.add_option("lsps2-trust-mode", MODES[0], f"who trusts whom: {' or '.join(MODES)}")
    for name, (default, least, most, meaning) in _INTS.items():
        plugin.add_option(name, default, f"{meaning} ({least} to {most})", opt_type="int")


def _int(value: Any, name: str) -> int:
    _, least, most, _ = _INTS[name]
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={value!r} is no whole number; give one from {least} to {most}") from None
    if not least <= number <= most:
        raise ConfigError(f"{name}={number} is out of range; give a number from {least} to {most}")
    return number


def _choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown; give {' or '.join(choices)}")
    return str(value)


def _secret(value: Any) -> str | None:
    if value is None:
        return None
    try:
        key_from_hex(str(value))
    except ConfigError:  # never shows what was given (P-05)
        raise ConfigError("experimental-lsps2-promise-secret must be 64 hex digits (32 bytes)") from None
    return str(value)


def read_settings(plugin: Plugin) -> Settings:
    """All options as given. Raises ConfigError with the sentence that lightningd shows."""
    get: Callable[[str], Any] = plugin.get_option
    number = {name: _int(get(name), name) for name in _INTS}
    line = FeeLine(
        min_fee_msat=number["lsps2-min-fee-msat"],
        proportional=number["lsps2-fee-ppm"],
        validity_s=number["lsps2-offer-validity"],
        min_lifetime_blocks=number["lsps2-min-lifetime"],
        max_client_to_self_delay_blocks=number["lsps2-max-to-self-delay"],
        min_payment_size_msat=number["lsps2-min-payment-msat"],
        max_payment_size_msat=number["lsps2-max-payment-msat"],
    )
    if reason := why_unsound(line.params(0)):
        raise ConfigError(f"lsps2-min-payment-msat, lsps2-max-payment-msat and lsps2-min-fee-msat: {reason}")
    return Settings(
        promise_secret=_secret(get("experimental-lsps2-promise-secret")),
        collect_ms=number["dev-lsps2-collect-timeout"] * 1000,
        max_parts=number["lsps2-max-parts"],
        zero_reserve=bool(get("experimental-lsps2-zero-reserve")),
        cltv_delta_blocks=number["lsps2-cltv-delta"],
        client_trusts_lsp=_choice(get("lsps2-trust-mode"), "lsps2-trust-mode", MODES) == MODES[1],
        headroom_sat=number["lsps2-channel-headroom-sat"],
        max_capacity_sat=number["lsps2-max-channel-sat"],
        limits=Limits(number["lsps2-max-buys-per-peer"], number["lsps2-max-buys"]),
        menu=(line,),
    )
