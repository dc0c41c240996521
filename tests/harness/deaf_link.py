"""A connection between two nodes that works one way only, as a phone leaves it behind when it changes its network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ACT_TWO_BYTES = 50  # of the handshake (BOLT 8): the last that the dialler hears


class DeafLink:
    """One connection from `port` to a node. The node hears all; of the node the dialler hears the handshake alone."""

    def __init__(self, to_port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._node = socket.create_connection(("127.0.0.1", to_port))
        self._dialler: socket.socket | None = None
        threading.Thread(target=self._carry, daemon=True).start()

    def _carry(self) -> None:
        with suppress(OSError):
            dialler = self._dialler = self._listener.accept()[0]
            threading.Thread(target=self._hear, args=(dialler,), daemon=True).start()
            while data := dialler.recv(65_536):
                self._node.sendall(data)

    def _hear(self, dialler: socket.socket) -> None:
        left = ACT_TWO_BYTES
        with suppress(OSError):
            while data := self._node.recv(65_536):
                dialler.sendall(data[:left])
                left -= len(data[:left])

    def drop(self) -> None:
        """Cut it on the dialler's side; the node sees nothing of it."""
        if self._dialler is not None:
            with suppress(OSError):
                self._dialler.shutdown(socket.SHUT_RDWR)
            self._dialler.close()

    def close(self) -> None:
        """End it."""
        self.drop()
        self._node.close()
        self._listener.close()


@contextmanager
def deaf_link(to_port: int) -> Iterator[DeafLink]:
    """Return one that ends with the block."""
    link = DeafLink(to_port)
    try:
        yield link
    finally:
        link.close()
