"""What other people's payments feel of our plugin on a real lightningd."""

from __future__ import annotations

from lsps2fast_plugin.tools.bench.real import NO_PLUGIN, OUR_HOST, PYLN, SERVICE, RealBench
from lsps2fast_plugin.tools.regtest import Programs


def test_payments_do_not_wait_for_a_method_that_blocks(programs: Programs) -> None:
    """P21, P2: beside a handler that blocks 0.5 s of every 0.6 a payment takes as long as without a plugin, where one
    on pyln-client waits; the targets themselves need a quiet machine and `lsps2fast bench --real`."""
    found = RealBench(1, 8, print, programs).run()
    late = {name: row["p50"] or 0.0 for name, row in found.blocked_ms.items()}
    assert late[OUR_HOST] < late[NO_PLUGIN] + 150 < late[PYLN]
    assert 5 * found.cpu_us[SERVICE][0] < found.cpu_us[PYLN][0]
