"""What lightningd enforces on forwards is known before a channel is made for them."""

from __future__ import annotations

import pytest

from lsps2fast_plugin.cln.channel_types import PLAIN, WITH_ANCHORS
from lsps2fast_plugin.cln.models import Configs, ConfigValue
from lsps2fast_plugin.service.forward_limits import DEFAULT_DUST_EXPOSURE_MSAT, ForwardLimits, dust_exposure_msat

PERKW = 258


def _limits(**given: ConfigValue) -> ForwardLimits:
    limits = ForwardLimits()
    limits.learn(Configs({name.replace("_", "-"): value for name, value in given.items()}))
    return limits


def test_a_part_above_the_largest_htlc_is_refused() -> None:
    """people:S14: to the msat."""
    limits = _limits(htlc_maximum_msat=ConfigValue(value_msat=5_000_000))
    assert limits.set_refusal([5_000_000] * 2, PLAIN, PERKW) is None
    assert "htlc-maximum-msat" in (limits.set_refusal([1, 5_000_001], PLAIN, PERKW) or "")


def test_a_part_with_too_few_blocks_is_refused() -> None:
    """people:S15: what the node enforces now, whatever was sold."""
    limits = _limits(cltv_delta=ConfigValue(value_int=40))
    assert limits.part_refusal(140, 100) is None
    assert "cltv-delta" in (limits.part_refusal(139, 100) or "")


def test_more_parts_than_may_be_out_at_once_are_refused() -> None:
    """people:S19's kind: `max-concurrent-htlcs`."""
    limits = _limits(max_concurrent_htlcs=ConfigValue(value_int=3))
    assert limits.set_refusal([10**9] * 3, PLAIN, PERKW) is None
    assert "max-concurrent-htlcs" in (limits.set_refusal([10**9] * 4, PLAIN, PERKW) or "")


@pytest.mark.parametrize(
    ("parts", "channel_type", "fits"),
    [
        ([2_000_000] * 30, PLAIN, False),  # 546 + 703 * (258 + 2530) / 1000 is 2,505 sat
        ([2_000_000] * 25, PLAIN, True),
        ([2_000_000] * 30, WITH_ANCHORS, True),  # an HTLC pays no second transaction: 546 sat
        ([2_505_000] * 30, PLAIN, True),
        ([2_504_999] * 20, PLAIN, False),
        ([545_999] * 92, WITH_ANCHORS, False),
        ([545_999] * 91, WITH_ANCHORS, True),
    ],
)
def test_dust_is_counted_as_lightningd_counts_it(parts: list[int], channel_type: tuple[int, ...], fits: bool) -> None:
    """people:S19: at the accelerated fee rate, the sum over all parts."""
    assert (ForwardLimits().set_refusal(parts, channel_type, PERKW) is None) is fits
    assert (dust_exposure_msat(parts, channel_type, PERKW) <= DEFAULT_DUST_EXPOSURE_MSAT) is fits


def test_defaults_are_those_of_lightningd() -> None:
    assert _limits() == ForwardLimits()


@pytest.mark.parametrize(
    ("exposure_msat", "little", "fits"),
    [(20_000_000, True, True), (21_000_000, True, False), (21_000_000, False, True)],
)
def test_a_client_that_refuses_anchors_gets_little_dust(exposure_msat: int, little: bool, fits: bool) -> None:
    """people:S19: it may close the channel for what our own node would still allow."""
    parts = [1_000_000] * (exposure_msat // 1_000_000)
    assert (ForwardLimits().set_refusal(parts, (12, 46, 50), PERKW, little_dust=little) is None) is fits
