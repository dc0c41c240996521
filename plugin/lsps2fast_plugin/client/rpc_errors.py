"""The codes of the errors that our methods answer (wallet:W10).

An LSP chooses its codes; they never become those of a command. They are in `data`, where a program that knows LSPS2
finds them.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

from lsps2fast.errors import ConfigError, Lsps2Error, NodeError, PeerError, StoreError
from lsps2fast.lsps.lsps2 import Unacceptable
from lsps2fast_plugin.client.invoices import DUPLICATE_LABEL
from lsps2fast_plugin.client.lsps0_client import Unavailable
from lsps2fast_plugin.cln.pyln_adapter import MethodError

Json = dict[str, Any]


class Code(NamedTuple):
    """A code of ours and what it means."""

    number: int
    meaning: str


INVALID_PARAMS: Final = Code(-32602, "a parameter is missing or invalid; the sentence says what is valid")
DUPLICATE: Final = Code(DUPLICATE_LABEL, "the label is taken, as with lightningd's `invoice`")
REFUSED: Final = Code(3101, "the LSP refused; `data` has its `lsp_code` and `lsp_error`")
UNAVAILABLE: Final = Code(3102, "the LSP cannot be asked now, or did not answer in time; nothing was agreed")
UNACCEPTABLE: Final = Code(3103, "what the LSP offers or answered is not what you allow, or breaks the rules")
NODE: Final = Code(3104, "lightningd refused; `data` has its `method` and `code`")
STORE: Final = Code(3105, "the records cannot be written; nothing was begun")
OTHER: Final = Code(3106, "it cannot be done in the present state; the sentence says why")
FOREIGN: Final = Code(3107, "this node does not have the preimage: hold invoices and swaps are not served")
INBOUND: Final = Code(3108, "no channel is needed, nothing was bought; `data` has `receivable_msat`")
CODES: Final = (
    INVALID_PARAMS,
    DUPLICATE,
    REFUSED,
    UNAVAILABLE,
    UNACCEPTABLE,
    NODE,
    STORE,
    OTHER,
    FOREIGN,
    INBOUND,
)


class ForeignHash(Lsps2Error):
    """A payment that another program would have to claim: refused before anything is bought or opened."""


class HasInbound(Lsps2Error):
    """No channel is needed for this payment."""

    def __init__(self, message: str, receivable_msat: int) -> None:
        super().__init__(message)
        self.receivable_msat = receivable_msat


def answer(error: Lsps2Error) -> MethodError:
    """Return what a method answers for one of our errors."""
    match error:
        case ConfigError():
            return MethodError(str(error), INVALID_PARAMS.number)
        case PeerError():
            data = {"lsp_code": _fitting(error.code), "lsp_error": (error.data or {}).get("name")}
            return MethodError(error.message, REFUSED.number, data)
        case Unavailable():
            return MethodError(str(error), UNAVAILABLE.number)
        case Unacceptable():
            return MethodError(str(error), UNACCEPTABLE.number)
        case NodeError(code=code) if code == DUPLICATE_LABEL:
            return MethodError(error.message, DUPLICATE.number)
        case NodeError():
            return MethodError(str(error), NODE.number, {"method": error.method, "code": error.code})
        case ForeignHash():
            return MethodError(str(error), FOREIGN.number)
        case HasInbound():
            return MethodError(str(error), INBOUND.number, {"receivable_msat": error.receivable_msat})
        case StoreError():
            return MethodError(str(error), STORE.number)
    return MethodError(str(error), OTHER.number)


def _fitting(code: int) -> int | None:
    """Return an LSP's code, when any program can read it: JSON knows no bound, others do."""
    return code if -(2**31) <= code < 2**31 else None


async def answered(work: Awaitable[Json]) -> Json:
    """Run a method; its errors become answers with our codes."""
    try:
        return await work
    except Lsps2Error as error:
        raise answer(error) from error
