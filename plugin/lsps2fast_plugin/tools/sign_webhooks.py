"""`lsps2fast sign-webhooks HSM_SECRET`: signs webhook notifications with the key of a node, and nothing else.

For `lsps2-webhook-signer`: a process of its own, so that the one that talks with clients and their servers never
holds the key. It reads texts and writes signatures, a JSON string a line, until its input ends. Of hsm_secret it keeps
the node's key alone, which opens no channel's coins, and it refuses any text but those of bLIP-55.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any, Final, TextIO

from lsps2fast.errors import ConfigError
from lsps2fast.lsps.lsps5 import signed_text

PLAIN_BYTES: Final = 32
ENCRYPTED_BYTES: Final = 73
HASH_BYTES: Final = 32  # before a mnemonic: of its passphrase, zeros without one
ROUNDS: Final = 2048  # BIP 39
PREFIX: Final = signed_text("", "").split("At ")[0]
ZBASE32: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
MOST_TEXT: Final = 2_000


def node_key(secret: bytes) -> bytes:
    """Return the node's private key that lightningd derives from the content of hsm_secret. Raises ConfigError."""
    if len(secret) == PLAIN_BYTES:
        seed = secret
    elif len(secret) == ENCRYPTED_BYTES:
        raise ConfigError("this hsm_secret is encrypted: its passphrase would have to lie beside it")
    elif secret[:HASH_BYTES] == bytes(HASH_BYTES) and secret[HASH_BYTES:].isascii() and len(secret) > HASH_BYTES:
        words = secret[HASH_BYTES:].strip()
        seed = hashlib.pbkdf2_hmac("sha512", words, b"mnemonic", ROUNDS)[:PLAIN_BYTES]
    else:
        raise ConfigError("this hsm_secret has a passphrase, or is none")
    extracted = hmac.digest(b"\0", seed, "sha256")  # HKDF: lightningd's salt is zero
    return hmac.digest(extracted, b"nodeid\x01", "sha256")


def sign(key: bytes, text: str) -> str:
    """Return the signature of a text (LSPS0.ln_signature). Raises ConfigError for one that is none of bLIP-55."""
    from coincurve import PrivateKey

    if not text.startswith(PREFIX) or len(text) > MOST_TEXT:
        raise ConfigError("only notifications of bLIP-55 are signed here")
    inner = hashlib.sha256(b"Lightning Signed Message:" + text.encode()).digest()
    raw = PrivateKey(key).sign_recoverable(hashlib.sha256(inner).digest(), hasher=None)
    number = int.from_bytes(bytes([31 + raw[64]]) + raw[:64], "big")
    return "".join(ZBASE32[number >> shift & 31] for shift in range(515, -1, -5))


def run(path: Path, lines: TextIO = sys.stdin, out: TextIO = sys.stdout) -> int:
    """Answer each line of `lines`; return 2 where the file cannot be used."""
    try:
        key = node_key(path.read_bytes())
    except (OSError, ConfigError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        sys.stderr.write(f"lsps2fast sign-webhooks: {path}: {why}\n")
        return 2
    for line in lines:
        answer: Any
        try:
            text = json.loads(line)
            answer = sign(key, text) if isinstance(text, str) else None
        except (ValueError, ConfigError) as error:
            sys.stderr.write(f"lsps2fast sign-webhooks: {error}\n")
            answer = None
        out.write(json.dumps(answer) + "\n")
        out.flush()
    return 0
