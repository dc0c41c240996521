"""What other people's payments feel of our plugin on a real lightningd."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from lsps2fast_plugin.tools.bench.real import OUR_HOST, PYLN, SERVICE, RealBench, Road
from lsps2fast_plugin.tools.regtest import Programs

BLOCK_S: Final = 20.0  # for payments that take a tenth of a second where nothing else runs
PAYMENTS: Final = 3


def _paid_while_blocked(road: Road, program: str, seconds: float, payments: int) -> bool:
    """Return whether these payments of others were all paid before a method that blocks its handler answered."""
    tickets = road.tickets(payments)
    with road.running(program), ThreadPoolExecutor(1) as pool:
        blocks = pool.submit(road.lsp.call, "block", {"seconds": seconds})
        for ticket in tickets:
            road.send(ticket)
            road.arrived(ticket)
        meanwhile = not blocks.done()
        blocks.result()
    return meanwhile


def test_payments_do_not_wait_for_a_method_that_blocks(programs: Programs) -> None:
    """P21: while one handler blocks, payments go on; on pyln-client they wait for its end, which is printed only.

    By order, not by time: how long one takes beside such a method needs a quiet machine and `lsps2fast bench --real`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lsps2fast-") as place,
        Road(Path(place), programs=programs, record=False) as road,
    ):
        assert _paid_while_blocked(road, OUR_HOST, BLOCK_S, PAYMENTS)
        print(f"on pyln-client, paid meanwhile: {_paid_while_blocked(road, PYLN, 2.0, 1)}")


def test_a_payment_of_others_costs_a_fifth_of_what_it_does_on_pyln_client(programs: Programs) -> None:
    """P2: CPU of the plugin's process for each of 200 HTLCs, in one run; the target needs longer ones."""
    found = RealBench(1, 4, print, programs).run()
    assert 5 * found.cpu_us[SERVICE][0] < found.cpu_us[PYLN][0]
