"""LSPS2 (bLIP-52), sans-I/O: no clock, no I/O, no threads, no randomness. Facts go in, actions come out.

Everything in `__all__` is public and imported when it is first used. What else can be reached may change.

The LSP's side: `Sessions` takes every fact (`IncomingHtlc`, `Input`) and returns `actions`; `Terms` say what was
bought, `JitChannel` is a live buy, `Session` one payment attempt on it, `State` where that is, `TABLE` and `mermaid`
the whole machine. `lsps0` and `lsps2` are the messages, `Keyring` makes and proves promises, `BuyRegistry` and
`TokenBucket` count buys and requests. The wallet's side: `PaymentSet` judges the parts of a payment by `PaymentTerms`;
`Reason` is why it refuses. `lsps5` (bLIP-55) has webhooks for the LSP, the wallet and the app's server, which asks
`lsps5.verify_notification`. Codecs: `tlv`, `onion`, `bolt11`. `errors` has every exception, `BACKEND` says whether the
core is compiled.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lsps2fast._backend import BACKEND

if TYPE_CHECKING:
    from lsps2fast import _tlv as tlv
    from lsps2fast import actions, bolt11, errors, onion
    from lsps2fast._fsm import Session
    from lsps2fast._parts import IncomingHtlc
    from lsps2fast._payment import JitChannel
    from lsps2fast._sessions import Sessions
    from lsps2fast.actions import Terms
    from lsps2fast.lsps import lsps0, lsps2, lsps5
    from lsps2fast.lsps.buys import BuyRegistry, TokenBucket
    from lsps2fast.lsps.promise import Keyring
    from lsps2fast.lsps.receiving import PaymentSet, PaymentTerms, Reason
    from lsps2fast.table import TABLE, Input, State, mermaid

__version__ = "0.2.0"
__all__ = [
    "BACKEND",
    "TABLE",
    "BuyRegistry",
    "IncomingHtlc",
    "Input",
    "JitChannel",
    "Keyring",
    "PaymentSet",
    "PaymentTerms",
    "Reason",
    "Session",
    "Sessions",
    "State",
    "Terms",
    "TokenBucket",
    "__version__",
    "actions",
    "bolt11",
    "errors",
    "lsps0",
    "lsps2",
    "lsps5",
    "mermaid",
    "onion",
    "tlv",
]
_WHERE = {  # name: the module it is in, and its name there ("": the module itself)
    "TABLE": ("table", "TABLE"),
    "BuyRegistry": ("lsps.buys", "BuyRegistry"),
    "IncomingHtlc": ("_parts", "IncomingHtlc"),
    "Input": ("table", "Input"),
    "JitChannel": ("_payment", "JitChannel"),
    "Keyring": ("lsps.promise", "Keyring"),
    "PaymentSet": ("lsps.receiving", "PaymentSet"),
    "PaymentTerms": ("lsps.receiving", "PaymentTerms"),
    "Reason": ("lsps.receiving", "Reason"),
    "Session": ("_fsm", "Session"),
    "Sessions": ("_sessions", "Sessions"),
    "State": ("table", "State"),
    "Terms": ("actions", "Terms"),
    "TokenBucket": ("lsps.buys", "TokenBucket"),
    "actions": ("actions", ""),
    "bolt11": ("bolt11", ""),
    "errors": ("errors", ""),
    "lsps0": ("lsps.lsps0", ""),
    "lsps2": ("lsps.lsps2", ""),
    "lsps5": ("lsps.lsps5", ""),
    "mermaid": ("table", "mermaid"),
    "onion": ("onion", ""),
    "tlv": ("_tlv", ""),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, inner = _WHERE[name]
    found = import_module(f"{__name__}.{module}")
    value = getattr(found, inner) if inner else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
