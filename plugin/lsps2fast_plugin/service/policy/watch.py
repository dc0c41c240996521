"""The policy file on disk: read at the start, looked at again whenever the caller says so, never half believed.

A change is taken over whole or not at all. The format belongs to `file`.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import Final, NamedTuple

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.policy.file import parse_rules
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals
from lsps2fast_plugin.service.policy.rules import Rules

log = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 1 << 20
SETTLED_MS: Final = 2_000  # a file younger than this may still be in the making, or change without a new mtime


class Signature(NamedTuple):
    """The stat fields that change when a file is edited or replaced."""

    mtime_ns: int
    size: int
    inode: int


def _signature(path: str) -> Signature:
    """Read a regular file. Raises OSError for anything else too: opening a pipe would wait for ever."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is not a regular file")
    if found.st_size > MAX_FILE_BYTES:
        raise OSError(f"{path} has {found.st_size} bytes; {MAX_FILE_BYTES} is the most")
    return Signature(found.st_mtime_ns, found.st_size, found.st_ino)


def _decode(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}, line {line}: a byte that is not UTF-8; save the file as UTF-8") from None


class PolicyFile:
    """One file. `load` it at the start, `poll` it every few seconds: the caller has the clock."""

    def __init__(self, path: str, refusals: Refusals) -> None:
        self.path = path
        self.refused: str | None = None  # why the file as it is now is not in force
        self._refusals = refusals
        self._seen: Signature | None = None
        self._settled = False
        self._data: bytes | None = None

    def load(self, wall_ms: int) -> Rules:
        """Return the policy at the start. Raises ConfigError: without a policy nothing is sold."""
        try:
            data = self._read(_signature(self.path), wall_ms)
        except OSError as error:
            raise ConfigError(f"lsps2-policy-file cannot be read: {error}; correct the path or the file") from error
        return self._parse(data)

    def poll(self, wall_ms: int) -> Rules | None:
        """Return the new policy after a change; None when nothing changed,
        or the change was refused and the old one stays.
        """
        try:
            signature = _signature(self.path)
            if signature == self._seen and self._settled:
                return None
            before = self._data
            data = self._read(signature, wall_ms)
            if data == before:
                return None
            rules = self._parse(data)
        except OSError as error:
            self._seen = self._data = None  # when it is back it is news, also unchanged
            self._refuse(str(error))
            return None
        except ConfigError as error:
            self._refuse(str(error))
            return None
        self.refused = None
        log.info(f"policy reloaded from {self.path}")
        return rules

    def _read(self, signature: Signature, wall_ms: int) -> bytes:
        with open(self.path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        self._seen = signature
        self._settled = wall_ms - signature.mtime_ns // 1_000_000 > SETTLED_MS
        self._data = data
        return data

    def _parse(self, data: bytes) -> Rules:
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"{self.path}, line 1: more than {MAX_FILE_BYTES} bytes; shorten the file")
        return parse_rules(_decode(data, self.path), self.path)

    def _refuse(self, why: str) -> None:
        """Report once for each new reason: the same broken file is polled for as long as it lies there."""
        if why != self.refused:
            self.refused = why
            self._refusals.count(Refusal.POLICY_FILE)
            log.warning(f"policy file refused, the old policy stays in force: {why}")
