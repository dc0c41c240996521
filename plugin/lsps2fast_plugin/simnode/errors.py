"""Errors of the embedded node. Codes of `RpcError` are lightningd's own (cln:D2, cln:L2, cln:O9)."""

from __future__ import annotations

from typing import Any

# lightningd/jsonrpc_errors.h names, as far as the methods here use them
LIGHTNINGD = -1
PLUGIN_ERROR = -3
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602


class NodeProblem(Exception):
    """Base of what the embedded node raises to a test or a demo."""


class RpcError(NodeProblem):
    """A JSON-RPC error answer: `code`, `message` and optional `data` exactly as sent."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message
        self.data = data

    def to_json(self) -> dict[str, Any]:
        """Return the `error` member of the answer."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            body["data"] = self.data
        return body


class NodeDown(NodeProblem):
    """The node is stopped, killed or crashed, so it cannot do what was asked."""


class PluginFailed(NodeProblem):
    """The plugin did not start, or the host had to kill it."""


class WaitTimeout(NodeProblem):
    """A bounded wait ended; the message carries the last lines of the transcript."""


class ChainReject(NodeProblem):
    """The chain refuses a transaction; the text is bitcoind's."""


Outcome = tuple[Any, RpcError | None]  # of an RPC call
