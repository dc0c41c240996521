"""The codes of the errors that the service's methods answer: "wait" is another one than "wrong" (operator:O9)."""

from __future__ import annotations

from typing import Final, NamedTuple

from lsps2fast_plugin.cln.pyln_adapter import MethodError


class Code(NamedTuple):
    """A code of ours and what it means."""

    number: int
    meaning: str


INVALID_PARAMS: Final = Code(-32602, "a parameter is missing or invalid; the sentence names it and says what is valid")
NOT_READY: Final = Code(3201, "the plugin is starting: ask again in a moment")
UNKNOWN: Final = Code(3202, "there is no such offer or payment")
NO_LEDGER: Final = Code(3203, "the sales ledger is off, or cannot be read now; the sentence says why")
STATE: Final = Code(3204, "it cannot be done in the present state; the sentence says why")
INTERNAL: Final = Code(-32603, "lightningd or its datastore refused, or this program has a fault; the log says more")
CODES: Final = (INVALID_PARAMS, NOT_READY, UNKNOWN, NO_LEDGER, STATE, INTERNAL)


def refusal(code: Code, sentence: str) -> MethodError:
    """Return the error to raise."""
    return MethodError(sentence, code.number)
