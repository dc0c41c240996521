"""Faults a test lays in the way of RPC calls: refusals, silence, lateness, repetition.

faults = node.faults
faults.fail("sendpsbt", nth=1, code=-1, message="bitcoind is away")  # not carried out
faults.fail("datastore", times=3, after=True)                        # carried out, answered with an error
late = faults.late("fundchannel_complete")                           # carried out; the answer waits
late.release()
faults.hang("signpsbt")                                              # neither carried out nor answered
faults.twice("listpeerchannels")                                     # the answer comes twice
faults.cut("sendpsbt", after=True)                                   # carried out, then the line is cut
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from .errors import LIGHTNINGD, RpcError


@dataclass(eq=False)
class Fault:
    """One fault on calls number `first`..`first+times-1` of `method`, counted from when it was laid."""

    method: str
    first: int
    times: int
    error: RpcError | None = None
    carry_out: bool = False
    wait: bool = False
    repeat: bool = False
    hang_up: bool = False
    match: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    hits: int = 0
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let the calls that wait go on, and those that will come."""
        self.released.set()

    def takes(self, params: Any) -> bool:
        if self.match and not (isinstance(params, dict) and self.match.items() <= params.items()):
            return False
        self.seen += 1
        if not self.first <= self.seen < self.first + self.times:
            return False
        self.hits += 1
        self.reached.set()
        return True


class Faults:
    """The faults of one node; `nth` counts from 1 = the next call of that method."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def _lay(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def fail(
        self,
        method: str,
        *,
        nth: int = 1,
        times: int = 1,
        code: int = LIGHTNINGD,
        message: str = "injected failure",
        after: bool = False,
        match: dict[str, Any] | None = None,
    ) -> Fault:
        """Answer with an error; with `after` the call is carried out all the same."""
        error = RpcError(code, message)
        return self._lay(Fault(method, nth, times, error, carry_out=after, match=match or {}))

    def hang(self, method: str, *, nth: int = 1, times: int = 1, after: bool = False) -> Fault:
        """Never answer; `release()` carries it out and answers after all."""
        return self._lay(Fault(method, nth, times, carry_out=after, wait=True))

    def late(self, method: str, *, nth: int = 1, times: int = 1) -> Fault:
        """Carry out at once, answer on `release()`."""
        return self._lay(Fault(method, nth, times, carry_out=True, wait=True))

    def twice(self, method: str, *, nth: int = 1, times: int = 1) -> Fault:
        """Answer, then answer again."""
        return self._lay(Fault(method, nth, times, repeat=True))

    def cut(self, method: str, *, nth: int = 1, times: int = 1, after: bool = False) -> Fault:
        """Hang up instead of answering: the caller cannot know whether the call was carried out (`after`: it was)."""
        return self._lay(Fault(method, nth, times, carry_out=after, hang_up=True))

    def clear(self) -> None:
        """Take every fault away and let what waits go on."""
        for fault in self._faults:
            fault.release()
        self._faults.clear()

    def remove(self, fault: Fault) -> None:
        """Take one fault away and let what waits for it go on."""
        fault.release()
        if fault in self._faults:
            self._faults.remove(fault)

    def find(self, method: str, params: Any) -> Fault | None:
        for fault in self._faults:
            if fault.method == method and fault.takes(params):
                return fault
        return None
