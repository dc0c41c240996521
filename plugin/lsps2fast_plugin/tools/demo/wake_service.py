"""The service of `lsps2fast demo --wake`: the real one, but for its HTTPS requests, which are logged and not made.

A server of the app would need a name and a certificate on this machine. All before that is as it is elsewhere: whether
to call, what is signed, where it would go.
"""

from __future__ import annotations

import json
import logging
import sys

from lsps2fast.lsps.lsps5 import WebhookUrl
from lsps2fast_plugin.cln import plugin_app
from lsps2fast_plugin.service.app import BUILT_IN, Service
from lsps2fast_plugin.service.options import OWN_PREFIX, add_options

log = logging.getLogger("lsps2fast_plugin.tools.demo.wake_service")  # also when run as __main__

CALLED = "a webhook would be called: "


class LoggedPost:
    """Takes the place of HTTPS: says what would be sent, and answers as a server that took it."""

    async def __call__(self, url: WebhookUrl, headers: dict[str, str], body: bytes) -> int:
        """Return the status of the answer."""
        log.info(CALLED + json.dumps({"host": url.host, "headers": headers, "body": body.decode()}))
        return 200

    def close(self) -> None:
        """Nothing runs."""


if __name__ == "__main__":
    sys.exit(plugin_app.run(lambda: Service(post=LoggedPost()), BUILT_IN, add_options, OWN_PREFIX))
