"""Everything this project raises on purpose. Any other exception is a bug of this project.

Lsps2Error
├── PeerError               the peer broke a rule; carries the JSON-RPC error to answer with
├── Malformed               bytes that are not what they claim to be; carries the offset
│   ├── MalformedTlv        BigSize, tu16/32/64, TLV streams, hop payloads
│   ├── MalformedOnion      a Sphinx packet or failure onion
│   └── MalformedFrame      bytes from lightningd that are no JSON object
├── NodeError               lightningd said no; carries its code and message
│   └── NodeUnreachable     lightningd did not answer at all: the outcome is unknown
│       └── AnswerPending   and may still be to come
├── StoreError              the journal could not be written or read
├── ConfigError             an option or policy file the operator must mend
└── ProtocolBug             our own driver asked the machine something impossible
"""

from __future__ import annotations

from typing import Any


class Lsps2Error(Exception):
    """Base of all errors raised on purpose."""


class PeerError(Lsps2Error):
    """The peer broke a rule.

    `code` and `message` are the JSON-RPC error to answer with (bLIP-50, bLIP-52); `data` is left out of
    the answer when None.
    """

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.data = data


class Malformed(Lsps2Error):
    """Bytes that are not what they claim to be: `why`, at byte `offset`."""

    def __init__(self, why: str, offset: int) -> None:
        super().__init__(f"{why} at byte {offset}")
        self.why = why
        self.offset = offset


class MalformedTlv(Malformed):
    """A BigSize, truncated integer, TLV stream or hop payload breaks BOLT 1 or BOLT 4."""


class MalformedOnion(Malformed):
    """A Sphinx packet or failure onion breaks BOLT 4."""


class MalformedFrame(Malformed):
    """What came over the pipe is not one JSON object."""


class NodeError(Lsps2Error):
    """lightningd answered an RPC call with an error: `code`, `message`, the `method` asked, `data` if any."""

    def __init__(self, method: str, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{method}: {message} (code {code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data


class NodeUnreachable(NodeError):
    """No answer: time-out, closed socket, broken reply. Whether the call took effect is unknown (K-13)."""

    def __init__(self, method: str, why: str) -> None:
        super().__init__(method, 0, why)


class AnswerPending(NodeUnreachable):
    """No answer within the time; the call may still be carried out, and answered, at any later moment."""


class StoreError(Lsps2Error):
    """The journal could not be written or read; what it protects must not happen."""


class ConfigError(Lsps2Error):
    """An option or file has a value that cannot work; the message says what to change."""


class ProtocolBug(Lsps2Error):
    """An input that cannot come in this state: our driver is wrong, not the peer."""
