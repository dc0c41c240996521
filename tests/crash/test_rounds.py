"""How often a sale waits for lightningd: the calls between the last part and the answers, round by round."""

from __future__ import annotations

from typing import Any

import pytest

from crash.case import CLIENT_TRUSTS, LSP_TRUSTS, Case
from crash.machine import play
from lsps2fast_plugin.cln.rpc import Rpc
from lsps2fast_plugin.service.held_htlcs import HeldHtlcs

pytestmark = pytest.mark.slow  # as the case is of the crash machine, and with it

ROUNDS = {
    CLIENT_TRUSTS: [
        ["utxopsbt"],
        ["datastore"],
        ["fundchannel_start", "reserveinputs"],
        ["addpsbtoutput"],
        ["fundchannel_complete", "signpsbt"],
        ["listpeerchannels", "setchannel"],
        ["datastore"],
    ],
    LSP_TRUSTS: [
        ["utxopsbt"],
        ["datastore"],
        ["fundchannel_start", "reserveinputs"],
        ["addpsbtoutput"],
        ["fundchannel_complete", "signpsbt"],
        ["listpeerchannels"],
        ["datastore", "listpeerchannels", "listpeerchannels", "setchannel"],
        ["listpeerchannels", "sendpsbt"],
    ],
}


class Rounds:
    """What the service asks while parts are held; a call is of the round after the last one that was answered before
    it.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.found: list[list[str]] = []
        self._answered = 0
        self._is_over = False
        ask, hold, forward = Rpc.call, HeldHtlcs.hold, HeldHtlcs.forward

        async def call(rpc: Rpc, method: str, *args: Any, **how: Any) -> dict[str, Any]:
            number = self._answered
            if not self._is_over:
                if number == len(self.found):
                    self.found.append([])
                self.found[number].append(method)
            try:
                return await ask(rpc, method, *args, **how)
            finally:
                self._answered = max(self._answered, number + 1)

        def take(held: HeldHtlcs, *args: Any) -> None:
            if not self._is_over:  # so far the last part
                self.found, self._answered = [], 0
            hold(held, *args)

        def answer(held: HeldHtlcs, *args: Any) -> None:
            self._is_over = True
            forward(held, *args)

        patch.setattr(Rpc, "call", call)
        patch.setattr(HeldHtlcs, "hold", take)
        patch.setattr(HeldHtlcs, "forward", answer)


@pytest.mark.parametrize("story", ["single", "mpp"])
@pytest.mark.parametrize("mode", ROUNDS)
def test_a_sale_waits_for_lightningd_so_often(mode: str, story: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """P17: what can be known before is not asked, and what need not wait for another call is asked beside it."""
    rounds = Rounds(monkeypatch)
    outcome = play(Case(story, mode))
    assert outcome.violations == ()
    assert [sorted(each) for each in rounds.found] == ROUNDS[mode]
