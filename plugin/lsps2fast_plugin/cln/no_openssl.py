"""A start without OpenSSL: no loop of ours speaks TLS, and Python has hashes of its own (P27).

asyncio looks for `ssl`, hashlib and hmac for OpenSSL's hashes, and all three go on where Python was built without them.
So they are imported here, first of all, as in such a Python: 5 MB and 8 ms less. Everything else finds `ssl` as ever;
who wants it of asyncio, as the driver of the fleet's database does, calls `give_tls` before.
"""

from __future__ import annotations

import sys
from importlib import import_module, reload
from importlib.util import find_spec
from typing import Final

OPENSSL: Final = ("ssl", "_hashlib")
OWN_HASHES: Final = (
    "_md5",
    "_sha1",
    "_sha3",
    "_blake2",
    *(("_sha2",) if sys.version_info >= (3, 12) else ("_sha256", "_sha512")),
)


def _enter() -> None:
    """Import them, unless this process has them already, or its Python has no hashes but OpenSSL's."""
    if "asyncio" in sys.modules or not all(map(find_spec, OWN_HASHES)):
        return
    hidden = [name for name in OPENSSL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: there is no such module
    try:
        for name in ("asyncio", "hashlib", "hmac"):
            import_module(name)
    finally:
        for name in hidden:
            del sys.modules[name]


def give_tls() -> None:
    """Let asyncio speak TLS, if it cannot yet."""
    import ssl
    from asyncio import base_events, selector_events, sslproto

    if vars(base_events)["ssl"] is None:
        vars(base_events)["ssl"] = vars(selector_events)["ssl"] = ssl
        reload(sslproto)


_enter()
