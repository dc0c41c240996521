"""What an offer was sold under, as the operator knows it: the label of its token, the name of its fee line."""

from __future__ import annotations

from lsps2fast.lsps.buys import Buy
from lsps2fast.lsps.lsps2 import FeeParams
from lsps2fast.lsps.promise import promised_token
from lsps2fast_plugin.service.policy.rules import FeeLine, Rules, Token


def token_of(rules: Rules, buy: Buy) -> Token | None:
    """Return the token of an offer, if the policy in force still has it."""
    promised = promised_token(buy.params)
    return None if promised is None else rules.tokens.get(promised)


def token_label(rules: Rules, buy: Buy) -> str | None:
    """Return the label of an offer's token; that of one which the policy has no more begins with its hash."""
    promised = promised_token(buy.params)
    token = token_of(rules, buy)
    if token is not None:
        return token.label
    return None if promised is None else f"token {promised.hex()[:8]}"


def band_of(rules: Rules, buy: Buy) -> str | None:
    """Return the name of the fee line that makes such offers, None where none does: of a plugin, of a policy before.

    The floor may have raised a line's smallest fee, and the node's means lowered its largest payment; the rest is as
    the operator wrote it.
    """
    token = token_of(rules, buy)
    lines = rules.lines if token is None or token.lines is None else token.lines
    keep = 100 if token is None else 100 - token.discount_percent
    least_msat = buy.params.min_payment_size_msat
    fitting = [named for named in lines if _makes(named.line, buy.params, keep)]
    nearest = sorted(fitting, key=lambda named: abs(named.line.min_payment_size_msat - least_msat))
    return nearest[0].name if nearest else None


def _makes(line: FeeLine, params: FeeParams, keep_percent: int) -> bool:
    return (
        -(-line.proportional * keep_percent // 100) == params.proportional
        and line.min_lifetime_blocks == params.min_lifetime_blocks
        and line.max_client_to_self_delay_blocks == params.max_client_to_self_delay_blocks
        and line.min_payment_size_msat <= params.min_payment_size_msat
        and line.max_payment_size_msat >= params.max_payment_size_msat
    )
