from typing import Any, Final, final

from lsps2fast._payment import Payment
from lsps2fast.actions import Action

CLTV_MARGIN_BLOCKS: Final = 6
MAX_SESSION_PARTS: Final = 483
RENEW_MARGIN_BLOCKS: Final = 12
RENEW_BLOCKS: Final = 72
CRUMBS_ARE: Final = 10
MOST_OVERSIZED: Final = 8

@final
class Session(Payment):
    def apply(self, kind: int, arg: Any = None) -> tuple[Action, ...]: ...
