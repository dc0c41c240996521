"""The service's options: CLN's names where it has one; what a value must be is said in a sentence."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from lsps2fast.errors import ConfigError
from lsps2fast.lsps.buys import BuyQuota
from lsps2fast.lsps.lsps2 import why_unsound
from lsps2fast.lsps.promise import key_from_hex
from lsps2fast_plugin.cln.option_table import Changed, NumberTable, add_numbers, read_numbers, several
from lsps2fast_plugin.cln.pyln_client import Plugin
from lsps2fast_plugin.service.coin_pool import PoolSize
from lsps2fast_plugin.service.lsps1.terms import OrderTerms
from lsps2fast_plugin.service.policy.external import Use
from lsps2fast_plugin.service.policy.limits import LIMIT_OPTIONS, GateLimits
from lsps2fast_plugin.service.policy.policy import DEFAULT_LINE, FeeLine, Rules, rules_from_options
from lsps2fast_plugin.service.policy.rules import (
    MAX_VALIDITY_S,
    MIN_VALIDITY_S,
    MODES,
    REUSES,
    CapacityRule,
    Floor,
    Reuse,
    TrustRule,
)

OWN_PREFIX = "lsps2-"  # of the options that CLN's built-in plugin does not have
GUARDS = ("refuse", "warn", "off")
CLOSE_BY_RULE = "lsps2-close-by-rule"
ON_OFF = ("off", "on")
ORDERS = ("off", "on", "finish")  # lsps2-lsps1
DEFAULT_ORDERS = OrderTerms(
    base_sat=1_000,
    lease_ppm=2_000,
    min_sat=100_000,
    max_sat=10_000_000,
    max_blocks=12_960,
    valid_s=3_600,
    most_per_peer=3,
    most=1_000,
)
LOOPBACK = "127.0.0.1"
LEDGER_FILE = "lsps2-sales.sqlite3"
DAY_MS = 86_400_000
MAX_HOLD_BLOCKS = 2_016  # as far as lightningd goes itself
TOKEN_LENGTH = 16
MOST_POOL_COINS = 50  # in one transaction
POOL_COIN_SAT = (10_000, 10**10)


class Settings(NamedTuple):
    """Options, checked."""

    promise_secret: str | None
    retired_secrets: tuple[str, ...]
    collect_ms: int
    max_parts: int
    zero_reserve: bool
    cltv_delta_blocks: int
    offline_ms: int
    max_overpay_ppm: int
    min_part_msat: int
    min_expiry_blocks: int
    max_hold_blocks: int
    held_parts_per_buy: int
    held_parts_per_peer: int
    held_msat_per_peer: int
    limits: BuyQuota
    gate: GateLimits
    rules: Rules  # in force when there is no policy file
    policy_file: str | None
    policy_plugin: Use
    close_guard: str
    keep_records_ms: int
    coin_low_water_sat: int
    coin_pool: PoolSize | None
    metrics_listen: tuple[str, int] | None
    page_listen: tuple[str, int] | None
    page_token: str | None
    ledger: str
    bookkeeper_notes: bool
    blinded_paths: bool
    fleet: str | None = None
    webhooks: int = 0
    wake_wait_ms: int = 0
    webhook_signer: tuple[str, ...] | None = None
    webhook_loopback: bool = False
    close_by_rule: bool = False
    orders: str = ORDERS[0]
    order_terms: OrderTerms = DEFAULT_ORDERS
    batch_window_ms: int = 0
    batch_channels: int = 25


NUMBERS: NumberTable = {  # default, least, most, meaning
    "dev-lsps2-collect-timeout": (90, 1, 3_600, "seconds to hold parts until a payment is complete (bLIP-52 wants 90)"),
    "lsps2-max-parts": (30, 1, 483, "parts of one payment that are accepted"),
    "lsps2-offline-wait": (600, 60, 86_400, "seconds that a complete payment is held for a client that is away"),
    "lsps2-webhooks": (0, 0, 10, "webhooks that one client may register, to be called when it is away; 0: no LSPS5"),
    "lsps2-wake-wait": (
        120,
        0,
        600,
        "seconds that a payment over an open channel or an onion message waits for a client that sleeps; 0: not at all",
    ),
    "lsps2-max-overpay-percent": (
        10,
        0,
        10_000,
        "percent by which a payment may be above what was bought; parts beyond that fail",
    ),
    "lsps2-min-part-msat": (
        1_000,
        1,
        10**12,
        "smallest part of a payment that comes in several; one part that is the whole may be smaller",
    ),
    "lsps2-min-expiry-blocks": (7, 1, 1_008, "nearest expiry, in blocks ahead, of a part that buys a channel"),
    "lsps2-max-held-parts-per-buy": (60, 1, 10**6, "HTLCs that are held at one time for one offer"),
    "lsps2-max-held-parts-per-peer": (200, 1, 10**6, "HTLCs that are held at one time for one client"),
    "lsps2-max-held-sat-per-peer": (250_000_000, 1, 10**15, "satoshis in HTLCs that are held for one client"),
    "lsps2-cltv-delta": (144, 6, 2_016, "cltv delta promised to clients; never below the node's own"),
    "lsps2-channel-headroom-sat": (100_000, 0, 10**12, "inbound capacity beyond the first payment"),
    "lsps2-min-channel-sat": (20_000, 0, 10**12, "smallest channel that is opened; many wallets take none below"),
    "lsps2-max-channel-sat": (CapacityRule().max_sat, 1_000, 10**12, "largest channel that is opened"),
    "lsps2-max-buys-per-peer": (10, 1, 10**6, "unused buys that one peer may hold"),
    "lsps2-max-buys": (10_000, 1, 10**7, "unused buys in all"),
    "lsps2-min-fee-msat": (DEFAULT_LINE.min_fee_msat, 0, 10**15, "smallest opening fee"),
    "lsps2-fee-ppm": (DEFAULT_LINE.proportional, 0, 10**6, "opening fee in parts per million of the payment"),
    "lsps2-fee-floor": (
        Floor().factor_percent,
        0,
        10_000,
        "lowest opening fee, in percent of what miners are expected to take",
    ),
    "lsps2-offer-validity": (DEFAULT_LINE.validity_s, MIN_VALIDITY_S, MAX_VALIDITY_S, "seconds an offer stays valid"),
    "lsps2-min-lifetime": (DEFAULT_LINE.min_lifetime_blocks, 0, 10**6, "blocks that a paid channel is kept open"),
    "lsps2-max-to-self-delay": (DEFAULT_LINE.max_client_to_self_delay_blocks, 1, 65_535, "largest to_self_delay"),
    "lsps2-min-payment-msat": (DEFAULT_LINE.min_payment_size_msat, 1, 10**15, "smallest payment that is sold"),
    "lsps2-max-payment-msat": (DEFAULT_LINE.max_payment_size_msat, 1, 10**15, "largest payment that is sold"),
    "lsps2-capital-budget-sat": (
        TrustRule().capital_budget_sat,
        0,
        10**12,
        "most satoshis that may lie on chain in channels that are not paid for, or on its way there",
    ),
    "lsps2-withheld-budget-sat": (
        0,
        0,
        10**12,
        "most satoshis that may be reserved for channels that are withheld; 0: as much as lsps2-capital-budget-sat",
    ),
    "lsps2-mining-budget-sat": (
        TrustRule().mining_budget_sat,
        0,
        10**12,
        "most satoshis that may be burnt in 24 hours on mining for channels that are not paid for; "
        "at twice as much no channel is withheld either",
    ),
    "lsps2-client-share": (
        TrustRule().client_share_percent,
        1,
        100,
        "percent of the coins that one client may hold in unpaid channels, its first one aside",
    ),
    "lsps2-max-loss-sat": (
        Floor().max_loss_sat,
        0,
        10**12,
        "most satoshis by which mining may cost more than the opening fee brings; above, no channel is opened",
    ),
    "lsps2-close-unpaid": (
        TrustRule().close_unpaid_hours,
        0,
        87_600,
        "hours after the end of its offer until a channel that was not paid for is closed; 0: never",
    ),
    "lsps2-reuse-fee-percent": (
        Reuse().fee_percent,
        0,
        100,
        "percent of the opening fee that is taken with lsps2-reuse=fee",
    ),
    "lsps2-max-hold-blocks": (
        MAX_HOLD_BLOCKS,
        42,
        2_016,
        "farthest expiry, in blocks ahead, of a part that buys a channel: how long its client may hold it",
    ),
    "lsps2-coin-low-water-sat": (
        250_000,
        0,
        10**12,
        "raise an alarm when free, confirmed coins of the wallet fall below this; 0: none",
    ),
    "lsps2-order-fee-sat": (
        DEFAULT_ORDERS.base_sat,
        0,
        10**9,
        "satoshis that a channel ordered with LSPS1 costs beside mining and its lease",
    ),
    "lsps2-order-fee-ppm": (
        DEFAULT_ORDERS.lease_ppm,
        0,
        10**6,
        "what leasing the sats of an ordered channel for 4320 blocks costs, in parts per million of them",
    ),
    "lsps2-order-min-sat": (DEFAULT_ORDERS.min_sat, 20_000, 10**12, "smallest channel that may be ordered"),
    "lsps2-order-max-sat": (
        DEFAULT_ORDERS.max_sat,
        20_000,
        10**12,
        "largest channel that may be ordered; never above lsps2-max-channel-sat",
    ),
    "lsps2-order-max-blocks": (DEFAULT_ORDERS.max_blocks, 144, 10**6, "longest lease of an ordered channel, in blocks"),
    "lsps2-order-validity": (DEFAULT_ORDERS.valid_s, 600, 86_400, "seconds in which an order may be paid"),
    "lsps2-max-orders-per-peer": (DEFAULT_ORDERS.most_per_peer, 1, 10**4, "orders of one peer that are not paid yet"),
    "lsps2-max-orders": (DEFAULT_ORDERS.most, 1, 10**6, "orders that are not paid yet, in all"),
    "lsps2-batch-window-ms": (
        0,
        0,
        30_000,
        "milliseconds in which channels that are opened on trust are put into one funding transaction; 0: each has one "
        "of its own",
    ),
    "lsps2-batch-channels": (25, 2, 100, "most channels in one funding transaction"),
    "lsps2-keep-records": (30, 1, 36_500, "days that the record of a finished sale is kept"),
    **LIMIT_OPTIONS,
}


def add_options(plugin: Plugin, changed: Changed | None = None) -> None:
    """Declare every option in the manifest. `changed(plugin, name, text)` hears of `setconfig`, and may refuse."""
    plugin.add_flag_option("experimental-lsps2-service", "accepted for compatibility; loading this plugin enables it")
    plugin.add_option(
        "experimental-lsps2-promise-secret",
        None,
        "key that signs our offers, 64 hex digits; by default derived from the node's own",
    )
    plugin.add_option(
        "lsps2-retired-promise-secret",
        None,
        "an earlier promise secret: offers signed with it stay valid until they end",
        multi=True,
    )
    plugin.add_flag_option("experimental-lsps2-zero-reserve", "open channels without a reserve on our side")
    plugin.add_flag_option(
        "lsps2-bookkeeper-notes",
        "write descriptions into bookkeeper's rows; each such call may end a busy lightningd (cln:N12)",
    )
    plugin.add_flag_option(
        "lsps2-blinded-paths",
        "sell parts that come inside a blinded path (BOLT 12) whose first node is this one; by default they fail",
    )
    plugin.add_option("lsps2-trust-mode", MODES[0], f"who trusts whom: {' or '.join(MODES)}")
    plugin.add_option(
        "lsps2-reuse",
        REUSES[0],
        f"what is taken for a payment that goes over a channel its client has: {', '.join(REUSES)}; with off every "
        "payment gets a channel of its own",
    )
    plugin.add_option("lsps2-policy-file", None, "a TOML file with fee lines, tokens, trust and peers")
    plugin.add_option(
        "lsps2-policy-plugin",
        Use.AUTO.value,
        f"whether a policy plugin is asked: {', '.join(use.value for use in Use)}",
    )
    plugin.add_option(
        "lsps2-close-guard", GUARDS[0], f"what to do with a `close` before min_lifetime is over: {', '.join(GUARDS)}"
    )
    plugin.add_option(
        CLOSE_BY_RULE,
        ON_OFF[0],
        f"whether channels are closed by the rules of the policy file, [[closing.rule]]: {' or '.join(ON_OFF)}; "
        "`lsps2-closable` says what they would do",
        dynamic=changed is not None,
        on_change=changed,
    )
    plugin.add_option(
        "lsps2-lsps1",
        ORDERS[0],
        f"whether clients may order channels and pay them ahead (LSPS1): {', '.join(ORDERS)}; off takes no new orders "
        "and goes on with those there are, finish also where a restart comes in the middle of a payment",
    )
    plugin.add_option(
        "lsps2-coin-pool",
        None,
        "how many coins of how many sat to split off ahead of openings, for example 10x250000: each as large as a "
        "usual channel and its mining fee; by default nothing is split",
    )
    plugin.add_option(
        "lsps2-ledger",
        LEDGER_FILE,
        "file of the sales ledger (SQLite); a relative path is in lightning-dir, beside lightningd's database; `off` "
        "keeps none",
    )
    plugin.add_option(
        "lsps2-fleet",
        None,
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE that several nodes share: quotas, budgets, what clients did; by "
        "default this node is alone",
    )
    plugin.add_option(
        "lsps2-webhook-signer",
        None,
        "command of a program that signs for this node what lightningd's signmessage cannot (cln:N14), such as "
        "`lsps2fast sign-webhooks /path/to/hsm_secret`",
    )
    plugin.add_flag_option(
        "lsps2-webhook-loopback",
        "for tests: webhooks may lead to this machine itself; refused on the main network",
    )
    plugin.add_option("lsps2-metrics-listen", None, "host:port of a page for Prometheus; by default there is none")
    plugin.add_option(
        "lsps2-page-listen",
        None,
        "host:port, or a port on the loopback, of a read-only page for the browser; by default there is none",
    )
    plugin.add_option(
        "lsps2-page-token",
        None,
        f"secret that a reader of that page must give, {TOKEN_LENGTH} characters or more; on the loopback it may be"
        " left out",
    )
    add_numbers(plugin, NUMBERS)


def _choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ConfigError(f"{name}={value!r} is unknown; give {' or '.join(choices)}")
    return str(value)


def _secret(value: Any, name: str = "experimental-lsps2-promise-secret") -> str:
    try:
        key_from_hex(str(value))
    except ConfigError:  # never shows what was given (P-05)
        raise ConfigError(f"{name} must be 64 hex digits (32 bytes)") from None
    return str(value)


def _retired(value: Any) -> tuple[str, ...]:
    return tuple(_secret(each, "lsps2-retired-promise-secret") for each in several(value))


def _address(value: Any, name: str, usual: int) -> tuple[str, int] | None:
    """Read host:port, [v6]:port, or a port alone, which then is on the loopback."""
    if value is None:
        return None
    host, _, port = str(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= 65_535:
        raise ConfigError(f"{name}={value!r} names no port; give host:port such as {LOOPBACK}:{usual}")
    return host or LOOPBACK, int(port)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    import ipaddress  # half a megabyte that only the page needs

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _page_token(value: Any, address: tuple[str, int] | None) -> str | None:
    """Read the token; what was given is never shown (P-05)."""
    if value is None:
        if address is None or is_loopback(address[0]):
            return None
        raise ConfigError(
            f"lsps2-page-listen={address[0]}:{address[1]} can be reached from elsewhere: give a lsps2-page-token, too "
            f"(`openssl rand -hex 16` makes one), or {LOOPBACK}:{address[1]}"
        )
    if not re.fullmatch(rf"[!-~]{{{TOKEN_LENGTH},200}}", str(value)):
        raise ConfigError(
            f"lsps2-page-token must have {TOKEN_LENGTH} to 200 letters, digits or signs, and no spaces; "
            "`openssl rand -hex 16` makes one"
        )
    return str(value)


def _signer(value: Any) -> tuple[str, ...] | None:
    """Read a command as a shell would split it."""
    if value is None:
        return None
    try:
        command = tuple(shlex.split(str(value)))
    except ValueError as error:
        raise ConfigError(f"lsps2-webhook-signer={value!r} is no command ({error})") from None
    if not command or shutil.which(command[0]) is None:
        raise ConfigError(f"lsps2-webhook-signer={value!r} names no program that can be run; give its whole path")
    return command


def _fleet(value: Any) -> str | None:
    """Look at the URL and at the driver, so that a mistake stops the start."""
    if value is None:
        return None
    from lsps2fast_plugin.service.fleet.database import load_driver, split_url  # a node that is alone needs neither

    split_url(str(value))
    load_driver()
    return str(value)


def _pool(value: Any) -> PoolSize | None:
    """Read NUMBERxSAT."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,15})", str(value))
    if found is None:
        raise ConfigError(
            f"lsps2-coin-pool={value!r} is no pool; give NUMBERxSAT, such as 10x250000 for ten coins of 250,000 sat, "
            "or leave it out"
        )
    size = PoolSize(int(found[1]), int(found[2]))
    least_sat, most_sat = POOL_COIN_SAT
    if not 1 <= size.coins <= MOST_POOL_COINS:
        raise ConfigError(f"lsps2-coin-pool={value} asks for {size.coins} coins; give 1 to {MOST_POOL_COINS}")
    if not least_sat <= size.each_sat <= most_sat:
        raise ConfigError(
            f"lsps2-coin-pool={value} asks for coins of {size.each_sat} sat; give {least_sat} to {most_sat} sat each"
        )
    return size


def _rules(number: dict[str, int], client_trusts_lsp: bool, reuse: str) -> Rules:
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
    return rules_from_options(
        (line,),
        floor=Floor(factor_percent=number["lsps2-fee-floor"], max_loss_sat=number["lsps2-max-loss-sat"]),
        capacity=CapacityRule(
            headroom_sat=number["lsps2-channel-headroom-sat"],
            min_sat=min(number["lsps2-min-channel-sat"], number["lsps2-max-channel-sat"]),
            max_sat=number["lsps2-max-channel-sat"],
        ),
        trust=TrustRule(
            client_trusts_lsp=client_trusts_lsp,
            capital_budget_sat=number["lsps2-capital-budget-sat"],
            withheld_budget_sat=number["lsps2-withheld-budget-sat"] or None,
            mining_budget_sat=number["lsps2-mining-budget-sat"],
            client_share_percent=number["lsps2-client-share"],
            close_unpaid_hours=number["lsps2-close-unpaid"],
        ),
        reuse=Reuse(reuse, number["lsps2-reuse-fee-percent"]),
    )


def _order_terms(number: dict[str, int]) -> OrderTerms:
    least, most = number["lsps2-order-min-sat"], number["lsps2-order-max-sat"]
    if least > most:
        raise ConfigError(f"lsps2-order-min-sat={least} is above lsps2-order-max-sat={most}; give at most {most}")
    if number["lsps2-order-fee-sat"] == number["lsps2-order-fee-ppm"] == 0:
        raise ConfigError(
            "lsps2-order-fee-sat and lsps2-order-fee-ppm are both 0; give one of them, channels cost money"
        )
    return OrderTerms(
        base_sat=number["lsps2-order-fee-sat"],
        lease_ppm=number["lsps2-order-fee-ppm"],
        min_sat=least,
        max_sat=most,
        max_blocks=number["lsps2-order-max-blocks"],
        valid_s=number["lsps2-order-validity"],
        most_per_peer=number["lsps2-max-orders-per-peer"],
        most=number["lsps2-max-orders"],
    )


def read_close_by_rule(value: Any, ledger: str, policy_file: str | None) -> bool:
    """Read the switch of closing by rule. Raises ConfigError where it could do nothing."""
    is_on = _choice(value, CLOSE_BY_RULE, ON_OFF) == "on"
    if is_on and policy_file is None:
        raise ConfigError(f"{CLOSE_BY_RULE}=on needs rules: write [[closing.rule]] into a file for lsps2-policy-file")
    if is_on and ledger == "off":
        raise ConfigError(f"{CLOSE_BY_RULE}=on needs the sales ledger: take lsps2-ledger=off out")
    return is_on


def read_settings(plugin: Plugin, changes: Mapping[str, Any] | None = None) -> Settings:
    """Return all options as given, and with `changes`. Raises ConfigError with the sentence that lightningd shows."""
    changes = changes or {}

    def get(name: str) -> Any:
        return changes[name] if name in changes else plugin.get_option(name)

    number = read_numbers(plugin, NUMBERS)
    ledger, path = str(get("lsps2-ledger") or LEDGER_FILE), get("lsps2-policy-file")
    secret = get("experimental-lsps2-promise-secret")
    page_listen = _address(get("lsps2-page-listen"), "lsps2-page-listen", 9751)
    uses = tuple(use.value for use in Use)
    return Settings(
        promise_secret=None if secret is None else _secret(secret),
        retired_secrets=_retired(get("lsps2-retired-promise-secret")),
        collect_ms=number["dev-lsps2-collect-timeout"] * 1000,
        max_parts=number["lsps2-max-parts"],
        zero_reserve=bool(get("experimental-lsps2-zero-reserve")),
        cltv_delta_blocks=number["lsps2-cltv-delta"],
        offline_ms=number["lsps2-offline-wait"] * 1000,
        max_overpay_ppm=number["lsps2-max-overpay-percent"] * 10_000,
        min_part_msat=number["lsps2-min-part-msat"],
        min_expiry_blocks=number["lsps2-min-expiry-blocks"],
        max_hold_blocks=number["lsps2-max-hold-blocks"],
        held_parts_per_buy=number["lsps2-max-held-parts-per-buy"],
        held_parts_per_peer=number["lsps2-max-held-parts-per-peer"],
        held_msat_per_peer=number["lsps2-max-held-sat-per-peer"] * 1000,
        limits=BuyQuota(number["lsps2-max-buys-per-peer"], number["lsps2-max-buys"]),
        gate=GateLimits(*(number[name] for name in LIMIT_OPTIONS)),
        rules=_rules(
            number,
            _choice(get("lsps2-trust-mode"), "lsps2-trust-mode", MODES) == MODES[1],
            _choice(get("lsps2-reuse"), "lsps2-reuse", REUSES),
        ),
        policy_file=None if path is None else str(path),
        policy_plugin=Use(_choice(get("lsps2-policy-plugin"), "lsps2-policy-plugin", uses)),
        close_guard=_choice(get("lsps2-close-guard"), "lsps2-close-guard", GUARDS),
        keep_records_ms=number["lsps2-keep-records"] * DAY_MS,
        coin_low_water_sat=number["lsps2-coin-low-water-sat"],
        coin_pool=_pool(get("lsps2-coin-pool")),
        metrics_listen=_address(get("lsps2-metrics-listen"), "lsps2-metrics-listen", 9750),
        page_listen=page_listen,
        page_token=_page_token(get("lsps2-page-token"), page_listen),
        ledger=ledger,
        bookkeeper_notes=bool(get("lsps2-bookkeeper-notes")),
        blinded_paths=bool(get("lsps2-blinded-paths")),
        fleet=_fleet(get("lsps2-fleet")),
        webhooks=number["lsps2-webhooks"],
        wake_wait_ms=number["lsps2-wake-wait"] * 1000,
        webhook_signer=_signer(get("lsps2-webhook-signer")),
        webhook_loopback=bool(get("lsps2-webhook-loopback")),
        close_by_rule=read_close_by_rule(get(CLOSE_BY_RULE), ledger, path),
        orders=_choice(get("lsps2-lsps1"), "lsps2-lsps1", ORDERS),
        order_terms=_order_terms(number),
        batch_window_ms=number["lsps2-batch-window-ms"],
        batch_channels=number["lsps2-batch-channels"],
    )
