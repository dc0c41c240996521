"""What happens, in words, step by step: the last of it is what a violation prints."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

KEPT = 40


class Violation(Exception):
    """A promise that did not hold. `rule` is the money rule that it breaks, e.g. `rule:23`."""

    def __init__(self, rule: str, sentence: str) -> None:
        super().__init__(f"{rule}: {sentence}")
        self.rule = rule
        self.sentence = sentence


class Story:
    """Steps are counted; after each of them `look()` may raise a Violation."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self.step = 0
        self.lines: deque[str] = deque(maxlen=KEPT)
        self.counts: Counter[str] = Counter()
        self.look: Callable[[], None] = _nothing
        self.hear: Callable[[str], None] = _unheard

    def tell(self, who: str, what: str) -> None:
        """One step: it is over, and everything must be in order."""
        self.step += 1
        seconds = int(self._seconds())
        day, rest = divmod(seconds, 86_400)
        clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
        self.lines.append(f"step {self.step:>6}  day {day:>3} {clock}  {who:<12} {what}")
        self.hear(self.lines[-1])
        self.look()


def _unheard(line: str) -> None:
    """Take no note of it."""


def _nothing() -> None:
    """Until there is something to look at."""
