"""An app developer's server on the loopback: HTTPS with a certificate of its own, and every request remembered."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lsps2fast.lsps.lsps5 import WebhookNotification, verify_notification


class Request(NamedTuple):
    """What came: method and target, headers, body."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def notification(self, lsp_id: str) -> WebhookNotification:
        """As a receiver reads it. Raises BadNotification."""
        return verify_notification(lsp_id, self.headers, self.body)


class WebhookServer:
    """`status` and `answer_headers` are what it answers, or `status_line` as it stands; while `hangs` is set, nothing.

    `shakes_hands_after_s`: TLS begins so late. `drips_every_s`: after that it writes a byte so often, for ever.
    """

    def __init__(self, directory: Path, name: str = "localhost") -> None:
        self.name = name
        self.status = 200
        self.answer_headers: dict[str, str] = {}
        self.status_line = b""
        self.shakes_hands_after_s = self.drips_every_s = 0.0
        self.hangs = threading.Event()
        self.go_on = threading.Event()
        self.requests: list[Request] = []
        self.connections = 0
        self.ca_file = directory / f"{name}.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        self.ca_file.write_bytes(_certificate(name, key))
        key_file = directory / f"{name}.key"
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, key_file)
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.context = context
        self._server.owner = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def url(self, target: str = "/push?secret=word", name: str | None = None) -> str:
        """A webhook that leads here."""
        return f"https://{name or self.name}:{self.port}{target}"

    def kinds(self, lsp_id: str, target: str | None = None) -> list[str]:
        """The methods of what came, each verified, without `lsps5.`."""
        found = [each for each in self.requests if target is None or each.target == target]
        return [each.notification(lsp_id).method.removeprefix("lsps5.") for each in found]

    def close(self) -> None:
        """End it, and what hangs in it."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    context: ssl.SSLContext
    owner: WebhookServer

    def finish_request(self, request: Any, client_address: Any) -> None:
        """TLS in the thread of the request, so that one that says nothing keeps no other waiting."""
        owner = self.owner
        owner.go_on.wait(owner.shakes_hands_after_s)
        try:
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                while owner.drips_every_s:
                    wrapped.sendall(b"H")
                    owner.go_on.wait(owner.drips_every_s)
                super().finish_request(wrapped, client_address)
        except OSError:
            return


def _handler(owner: WebhookServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            owner.requests.append(Request("POST", self.path, dict(self.headers.items()), body))
            if owner.hangs.is_set():
                owner.go_on.wait(60)
                return
            if owner.status_line:
                self.wfile.write(owner.status_line)
                return
            self.send_response(owner.status)
            for name, value in owner.answer_headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            owner.requests.append(Request("GET", self.path, {}, b""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing on the terminal."""

    return Handler


def _certificate(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    whose = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(whose)
        .issuer_name(whose)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@contextmanager
def webhook_server(directory: Path) -> Iterator[WebhookServer]:
    """Such a server, ended at the end."""
    server = WebhookServer(directory)
    try:
        yield server
    finally:
        server.close()
