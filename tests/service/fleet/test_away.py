"""What a node does while the fleet's database is away, or comes and goes."""

from __future__ import annotations

import pytest
from harness.negotiator import StillClock

from lsps2fast_plugin.service.fleet.away import Away

HOUR_MS = 3_600_000


def test_two_processes_for_one_node_alarm_less_and_less(caplog: pytest.LogCaptureFixture) -> None:
    """rule:14 in kind: each joins where the other did, for a day; neither an alarm every few seconds nor silence."""
    clock, alarms = StillClock(), []
    away = Away(clock, alarms.append)
    for _ in range(24 * 900):
        away.gone("another process acts for this node")
        clock.pass_ms(2_000)
        away.back()
        clock.pass_ms(2_000)
    assert alarms[0] == "fleet: another process acts for this node; this node sells alone, from its share"
    assert 24 < len(alarms) < 40
    assert len(alarms) + len(caplog.records) == 24 * 900


def test_after_a_calm_each_alarm_counts_again() -> None:
    """One that was away for a moment a week ago alarms at once, and a minute later if it goes again."""
    clock, alarms = StillClock(), []
    away = Away(clock, alarms.append)
    for pause_ms, seen in ((59_000, 1), (2_000, 1), (61_000, 2), (3 * HOUR_MS, 2), (60_000, 3), (0, 4)):
        away.gone("gone")
        away.gone("gone")
        assert len(alarms) == seen
        away.back()
        clock.pass_ms(pause_ms)
