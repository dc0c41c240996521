"""Where a webhook may lead, and how one request is made: trap:47. The servers here are on the loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.webhook_server import WebhookServer, webhook_server

from lsps2fast.lsps.lsps5 import parse_url
from lsps2fast_plugin.service.wake import post as posting
from lsps2fast_plugin.service.wake.addresses import is_loopback, is_public
from lsps2fast_plugin.service.wake.post import HttpsPost
from lsps2fast_plugin.service.wake.posting import PostFailed

NOT_PUBLIC = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2606:4700::1%1",
    "name",
    "1.2.3",
    "1.2.3.4.5",
    "0x7f.0.0.1",
    "2130706433",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.167.1.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "2001:4860:4860::8888",
]
OK_HEADERS = {"x-lsps5-timestamp": "t"}


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_public(address: str) -> None:
    """trap:47: also as IPv6 that carries IPv4, and what only looks like an address."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    """trap:47: the neighbours of those ranges are."""
    assert is_public(address)
    assert not is_loopback(address)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookServer]:
    with webhook_server(tmp_path) as found:
        monkeypatch.setenv("SSL_CERT_FILE", str(found.ca_file))
        yield found


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to, in place of DNS; each question is counted under the empty name."""
    table: dict[str, list[str]] = {"": []}

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        table[""].append(host)
        rows = table.get(host, [])
        if not rows:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in rows]

    monkeypatch.setattr(posting.socket, "getaddrinfo", resolve)
    return table


async def asked(url: str, *, loopback: bool = True, body: bytes = b"{}") -> int:
    post = HttpsPost(allow_loopback=loopback)
    try:
        return await post(parse_url(url), OK_HEADERS, body)
    finally:
        post.close()


async def test_a_request_is_made_as_it_was_signed(server: WebhookServer) -> None:
    """N-16: POST, the whole target, the headers, and the body to the byte; the status comes back."""
    assert await asked(server.url("/push?l=1;c=%2f"), body=b'{"a": 1}') == 200
    (request,) = server.requests
    assert (request.method, request.target, request.body) == ("POST", "/push?l=1;c=%2f", b'{"a": 1}')
    assert request.headers["x-lsps5-timestamp"] == "t"
    assert request.headers["Host"] == f"localhost:{server.port}"
    server.status = 500
    assert await asked(server.url()) == 500


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_redirect_is_followed(server: WebhookServer, status: int) -> None:
    """N-16, trap:47: neither to another place of the same server."""
    server.status, server.answer_headers = status, {"location": server.url("/inside")}
    assert await asked(server.url()) == status
    assert [request.target for request in server.requests] == ["/push?secret=word"]


async def test_no_proxy_of_the_environment_is_used(server: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """trap:47: it would resolve the name itself."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await asked(server.url()) == 200


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["1.1.1.1", "10.0.0.1"], ["169.254.169.254"], ["::1"]])
async def test_names_that_lead_inside_are_not_called(names: dict[str, list[str]], addresses: list[str]) -> None:
    """trap:47: one address that is not public is enough."""
    names["a.example"] = addresses
    with pytest.raises(PostFailed) as failed:
        await asked("https://a.example/", loopback=False)
    assert failed.value.refused


async def test_loopback_is_for_tests_alone(server: WebhookServer) -> None:
    """trap:47: without the option a server of this machine hears nothing."""
    with pytest.raises(PostFailed) as failed:
        await asked(server.url(), loopback=False)
    assert failed.value.refused
    with pytest.raises(PostFailed):
        await asked(server.url(name="127.0.0.1"), loopback=False)
    assert server.requests == []


async def test_a_name_is_resolved_once(server: WebhookServer, names: dict[str, list[str]]) -> None:
    """trap:47: the address that was looked at is the one that is called (DNS rebinding)."""
    names["localhost"] = ["127.0.0.1"]
    assert await asked(server.url()) == 200
    assert names[""] == ["localhost"]


async def test_an_address_of_our_own_is_not_called(
    server: WebhookServer, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """trap:47: a public address may be this machine's."""
    names["localhost"] = ["127.0.0.1"]
    monkeypatch.setattr(posting, "is_public", lambda _: True)
    monkeypatch.setattr(posting, "is_loopback", lambda _: False)
    with pytest.raises(PostFailed) as failed:
        await asked(server.url(), loopback=False)
    assert failed.value.refused
    assert server.requests == []


async def test_the_certificate_must_be_of_that_name(server: WebhookServer, names: dict[str, list[str]]) -> None:
    """N-16: the name of the URL, not the address that was called."""
    names["other.example"] = ["127.0.0.1"]
    with pytest.raises(PostFailed, match="CERTIFICATE_VERIFY_FAILED"):
        await asked(server.url(name="other.example"))
    assert server.requests == []


async def test_a_name_without_an_address() -> None:
    """trap:47: it is an error like any other."""
    with pytest.raises(PostFailed, match="resolved"):
        await asked("https://nothing.invalid/")


async def test_a_server_that_says_nothing_is_left(server: WebhookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """trap:47: the whole takes ten seconds at most, and the thread comes free."""
    monkeypatch.setattr(posting, "PATIENCE_S", 0.2)
    server.hangs.set()
    post = HttpsPost(allow_loopback=True)
    with pytest.raises(PostFailed, match=r"no answer|timed out"):
        await post(parse_url(server.url()), OK_HEADERS, b"{}")
    server.hangs.clear()
    monkeypatch.setattr(posting, "PATIENCE_S", 10.0)
    assert await asyncio.gather(*(post(parse_url(server.url()), OK_HEADERS, b"{}") for _ in range(8))) == [200] * 8
    post.close()


async def test_a_server_that_drips_is_left(monkeypatch: pytest.MonkeyPatch, server: WebhookServer) -> None:
    """trap:47: a byte now and then does not make the time longer; nor does a TLS that never ends."""
    monkeypatch.setattr(posting, "PATIENCE_S", 0.3)
    drip = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []
    threading.Thread(target=lambda: taken.append(drip.accept()[0]), daemon=True).start()
    with pytest.raises(PostFailed, match=r"no answer|timed out"):
        await asked(f"https://localhost:{drip.getsockname()[1]}/")
    for each in (*taken, drip):
        each.close()


async def test_a_server_that_drips_once_we_have_left_keeps_no_thread(
    server: WebhookServer, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """trap:47: a slow name, then a slow TLS: ours is the end of the ten seconds, whatever step it falls into.

    Sixteen such threads would end all wake-up calls.
    """
    names["localhost"] = ["127.0.0.1"]
    resolve = posting.socket.getaddrinfo

    def slowly(*args: Any, **kinds: Any) -> list[Any]:
        time.sleep(0.25)
        return resolve(*args, **kinds)

    monkeypatch.setattr(posting.socket, "getaddrinfo", slowly)
    monkeypatch.setattr(posting, "PATIENCE_S", 0.4)
    server.shakes_hands_after_s, server.drips_every_s = 0.3, 0.1
    post = HttpsPost(allow_loopback=True)
    with pytest.raises(PostFailed, match=r"no answer|timed out"):
        await post(parse_url(server.url()), OK_HEADERS, b"{}")
    threads = [each for each in threading.enumerate() if each.name == "webhook"]
    await asyncio.gather(*(asyncio.to_thread(each.join, 3) for each in threads))
    assert not any(each.is_alive() for each in threads)
    assert server.requests == []
    post.close()


async def test_a_server_writes_nothing_into_our_log(server: WebhookServer) -> None:
    """trap:47, rule:14: of what it sends where HTTP is due not one word goes into the sentence that is logged."""
    server.status_line = b"\x1b[2JALARM: send coins to bc1q\r\n" + b"x" * 50_000
    with pytest.raises(PostFailed) as failed:
        await asked(server.url())
    assert str(failed.value) == "its answer is no HTTP"


async def test_a_long_answer_is_not_read(server: WebhookServer) -> None:
    """N-16: of the answer only the status counts."""
    server.answer_headers = {f"x-{number}": "y" * 1000 for number in range(60)}
    assert await asked(server.url()) == 200
    server.answer_headers = {f"x-{number}": "y" * 1000 for number in range(300)}
    assert await asked(server.url()) == 200


async def test_interim_answers_without_end_are_not_read(server: WebhookServer) -> None:
    """trap:47: http.client reads them as fast as they come, in Python, and the loop waits for its turns."""
    server.status_line = b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000
    with pytest.raises(PostFailed, match="no status"):
        await asked(server.url())
    server.status_line = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.0 204\r\n\r\n"
    assert await asked(server.url()) == 204


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 2", b"HTTP/2 200\r\n", b"HTTP/1.1 999 x\r\n", b"HTTP/1.1 100 x\r\n\r\nnoise\n", b"x" * 9_000],
)
async def test_what_is_no_answer_is_none(server: WebhookServer, answer: bytes) -> None:
    """N-16: cut off, another protocol, no number of HTTP."""
    server.status_line = answer or b" "
    with pytest.raises(PostFailed, match=r"no status|no HTTP"):
        await asked(server.url())


def test_certificates_are_checked() -> None:
    """N-16: as the standard library does it by default."""
    context = HttpsPost()._context
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
