"""All chance of a run, from one seed: a stream for each purpose, so that one more draw moves nothing else."""

from __future__ import annotations

import random


class Chance:
    """`stream(name)` is the generator of that name; the same one each time."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._streams: dict[str, random.Random] = {}

    def stream(self, name: str) -> random.Random:
        """Return a generator that depends on seed and name alone."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = random.Random(f"{self.seed}/{name}")
        return found

    def once(self, name: str) -> random.Random:
        """Return a new generator of that name, which is not kept."""
        return random.Random(f"{self.seed}/{name}")
