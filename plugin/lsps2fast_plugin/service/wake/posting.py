"""What makes the requests of wake-up calls, as its callers know it: a node without webhooks imports no HTTP."""

from __future__ import annotations

from typing import Protocol

from lsps2fast.lsps.lsps5 import WebhookUrl


class PostFailed(Exception):
    """No answer came. `refused`: the request was never made, for where it would have gone."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class Post(Protocol):
    """What makes requests."""

    async def __call__(self, url: WebhookUrl, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer. Raises PostFailed."""

    def close(self) -> None:
        """Break off what is under way."""
