"""The one door through which chance comes in: the system's generator, or one that a test has seeded.

`LSPS2FAST_TEST_SEED` in the environment makes every draw of a plugin repeatable: jit scids, preimages, ids of
requests. It is for tests only: the seed tells the preimages.
"""

from __future__ import annotations

import os
import random
from typing import Final

SEED: Final = "LSPS2FAST_TEST_SEED"


def chance() -> random.Random:
    """Return the generator of this process; its `getrandbits` and `randbytes` are what the plugins use."""
    seed = os.environ.get(SEED)
    return random.SystemRandom() if seed is None else random.Random(seed)
