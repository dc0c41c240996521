"""The page for the browser below the browser: who is answered, with which headers, what a feed tells, what it costs."""

from __future__ import annotations

import asyncio
import builtins
import json
import re
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from harness.logs import Log
from harness.negotiator import settings
from harness.page import HASH, FakeService, served

from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.service.page import server as page_server
from lsps2fast_plugin.service.page.feed import MOST_LANES, Feed
from lsps2fast_plugin.service.page.server import MOST_READERS, PAGE, PageServer, policy_of
from lsps2fast_plugin.service.recent import KEPT, Recent
from lsps2fast_plugin.service.rpc_errors import NO_LEDGER, NOT_READY, UNKNOWN, refusal
from lsps2fast_plugin.service.runbook import ADVICE

TOKEN = "0123456789abcdef"


async def get(server: PageServer, path: str, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Status, answer and headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.port}{path}", headers=named) as answer,
    ):
        text = await answer.text()
        return answer.status, text if path == "/" else json.loads(text), dict(answer.headers)


async def until(condition: Callable[[], object]) -> None:
    """Wait for the server, which runs on this loop."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  (there is no event of it)
            await asyncio.sleep(0)


# Who is answered --------------------------------------------------------------------------------------


async def test_a_foreign_name_for_the_loopback_is_not_answered() -> None:
    """operator:O12: a page elsewhere that has its name point to 127.0.0.1 learns nothing."""
    async with served(FakeService()) as server:
        for name in ("localhost:9751", "127.0.0.1", "[::1]:80"):
            assert (await get(server, "/api/report", Host=name))[0] == 200
        for name in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1", "localhost.evil.example:9751"):
            status, answer, _ = await get(server, "/api/report", Host=name)
            assert (status, answer) == (403, {"error": "without a token this page answers to localhost only"})


@pytest.mark.parametrize("path", ["events", "report", "sales", "closable", "explain?about=1x1x1", "runbook", "nothing"])
async def test_nothing_is_told_without_the_token(path: str) -> None:
    """operator:O12: whatever the path; the page itself holds no data."""
    async with served(FakeService(), TOKEN) as server:
        for given in ({}, {"Authorization": "Bearer " + TOKEN[:-1]}, {"Authorization": "Bearer é"}):
            status, answer, _ = await get(server, f"/api/{path}", **given)
            assert status == 401
            assert "lsps2-page-token" in answer["error"]
            assert TOKEN not in answer["error"]
        assert (await get(server, "/"))[0] == 200
        assert (await get(server, "/api/report", Authorization=f"Bearer {TOKEN}", Host="lsp.example"))[0] == 200


async def test_it_only_shows() -> None:
    """operator:O12: no method but GET and HEAD, nothing but the paths that are there."""
    async with served(FakeService()) as server, aiohttp.ClientSession() as session:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            async with session.request(method, f"http://127.0.0.1:{server.port}/api/report") as answer:
                assert answer.status == 405
        for path in ("/api/", "/etc/passwd", "/../x", "/api/pause"):
            assert (await get(server, path))[0] == 404


async def test_a_page_that_loads_nothing_from_elsewhere() -> None:
    """operator:O12: one file; the browser is told to run nothing else, and to show it in no frame."""
    async with served(FakeService()) as server:
        status, html, headers = await get(server, "/")
    assert status == 200
    assert re.findall(r"""(?:src|href)=["']([^"']*)""", html) == ["data:,", "#lanes"]
    assert "http:" not in html.replace("http://www.w3.org/2000/svg", "")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert policy == policy_of(PAGE.read_text("utf-8"))
    assert policy != policy_of(html.replace("lanes", "lines"))
    assert headers["Cache-Control"] == "no-store"
    assert not any(name.lower().startswith("access-control") for name in headers)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (refusal(NOT_READY, "wait"), 503),
        (refusal(UNKNOWN, "no such"), 404),
        (refusal(NO_LEDGER, "off"), 409),
        (ConfigError("wrong"), 400),
        (NodeError("listforwards", -1, "busy"), 503),
    ],
)
async def test_an_error_is_a_sentence(error: Exception, status: int) -> None:
    """operator:O9: "wait" is another one than "wrong"; an error is not kept for the next reader."""
    service = FakeService()
    right = service.questions["closable"]
    service.questions |= {"closable": error, "explain": error}
    async with served(service) as server:
        assert (await get(server, f"/api/explain?about={HASH}"))[0] == status
        found, answer, _ = await get(server, "/api/closable")
        assert found == status
        assert str(error) in answer["error"]
        service.questions["closable"] = right
        assert (await get(server, "/api/closable"))[:2] == (200, right)
        service.questions["closable"] = error  # asked of lightningd once for all readers
        assert (await get(server, "/api/closable"))[:2] == (200, right)


async def test_the_runbook_is_told() -> None:
    """operator:O12: as in docs/how-to/runbook.md."""
    async with served(FakeService()) as server:
        assert (await get(server, "/api/runbook"))[1] == ADVICE


# Too many, too slow -------------------------------------------------------------------------------------


async def test_more_readers_than_a_plugin_serves() -> None:
    """rule:14: the next is told so, and one that goes makes room."""
    async with served(FakeService()) as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}/api/events"
        open_ones = [await session.get(url) for _ in range(MOST_READERS)]
        status, answer, _ = await get(server, "/api/events")
        assert (status, answer) == (503, {"error": f"{MOST_READERS} pages are open already: close one"})
        open_ones.pop().close()
        await until(lambda: len(server._readers) < MOST_READERS)
        async with session.get(url) as answer:
            assert answer.status == 200
        for each in open_ones:
            each.close()


async def test_a_connection_that_asks_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:14: as is one too many, at once."""
    monkeypatch.setattr(page_server, "PATIENCE_S", 0.05)
    async with served(FakeService()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        writer.close()
        monkeypatch.setattr(page_server, "PATIENCE_S", 60.0)
        monkeypatch.setattr(page_server, "MOST_CONNECTIONS", 1)
        first = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: server._silent)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert await reader.read() == b""
        for each in (first[1], writer):
            each.close()


async def test_an_address_that_is_taken_is_told_and_selling_goes_on() -> None:
    """operator:O12: an error in the log, no exception."""
    log = Log()
    async with served(FakeService()) as server, served(FakeService(), port=server.port) as other:
        assert other.port == 0
        assert f"lsps2-page-listen=127.0.0.1:{server.port} cannot be served" in log.text("error")


def test_without_aiohttp_it_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """operator:O10: with the command that mends it."""
    there = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "aiohttp":
            raise ImportError(name)
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    service = FakeService.__new__(FakeService)
    with pytest.raises(ConfigError, match=r"pip install 'lsps2fast\[page\]'"):
        PageServer(("127.0.0.1", 1), None, service, service, Clock.__new__(Clock))


# The options --------------------------------------------------------------------------------------------


def test_the_address_and_the_token() -> None:
    """operator:O12: loopback by default; what others can reach wants a token."""
    assert settings().page_listen is None
    assert settings(lsps2_page_listen="9751").page_listen == ("127.0.0.1", 9751)
    for own in ("9751", "127.0.0.9:9751", "localhost:9751", "[::1]:9751"):
        assert settings(lsps2_page_listen=own).page_token is None
    for open_one in ("0.0.0.0:9751", "[::]:9751", "lsp.example:9751", "192.168.1.2:9751"):
        with pytest.raises(ConfigError, match="can be reached from elsewhere: give a lsps2-page-token"):
            settings(lsps2_page_listen=open_one)
        assert settings(lsps2_page_listen=open_one, lsps2_page_token=TOKEN).page_token == TOKEN
    for wrong in ("short", "x" * 15, "with spaces in it all", "ü" * 20, "x" * 201):
        with pytest.raises(ConfigError, match="openssl rand -hex 16") as told:
            settings(lsps2_page_listen="9751", lsps2_page_token=wrong)
        assert wrong not in str(told.value)
    with pytest.raises(
        ConfigError, match=r"lsps2-page-listen='x' names no port; give host:port such as 127\.0\.0\.1:9751"
    ):
        settings(lsps2_page_listen="x")


# The feed -----------------------------------------------------------------------------------------------


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        self.ms += 1_000
        return self.ms


def feed(service: FakeService) -> Feed:
    return Feed(service, Hand(), lambda: 7)


def told(reader: Any) -> dict[str, Any]:
    news = reader.news()
    return {} if news is None else json.loads(news)


async def test_a_reader_is_told_everything_once_and_then_what_changes() -> None:
    """operator:O12: new lanes, moved lanes, gone lanes, ends and alarms; nothing when nothing has happened."""
    service = FakeService()
    one, two = service.pay(1), service.pay(2)
    reader = feed(service).reader()
    first = told(reader)
    assert first["whole"] is True
    assert set(first["lanes"]) == {one, two}
    assert first["stats"]["live_sessions"] == 2
    assert told(reader) == {}
    service.pay(2, 3)
    assert told(reader) == {"at_ms": 7, "lanes": {two: list(service.under_way[two])}}
    service.end(one)
    service.alarms.tell({"at_ms": 1, "kind": "coins", "text": "none"})
    news = told(reader)
    assert news["gone"] == [one]
    assert [row["jit_scid"] for row in news["ended"]] == ["1x1x1"]
    assert news["alarms"] == [{"at_ms": 1, "kind": "coins", "text": "none"}]
    late = told(feed(service).reader())
    assert set(late["lanes"]) == {two}
    assert len(late["ended"]) == len(late["alarms"]) == 1


async def test_one_look_serves_all_readers() -> None:
    """rule:14: as long as it is fresh."""
    service, looks = FakeService(), []
    lanes = service.lanes
    service.lanes = lambda most: looks.append(most) or lanes(most)  # type: ignore[func-returns-value,method-assign]
    one = Feed(service, lambda: 5, lambda: 7)
    for _ in range(9):
        assert one.reader().news()
    assert looks == [MOST_LANES]


def test_the_last_rows_are_kept() -> None:
    """rule:14: and no more; a reader that was away gets what is kept."""
    recent = Recent()
    assert recent.after(0) == []
    for number in range(KEPT + 5):
        recent.tell({"n": number})
    assert [row["n"] for row in recent.after(KEPT + 3)] == [KEPT + 3, KEPT + 4]
    assert len(recent.after(0)) == KEPT
    assert recent.after(recent.count) == []
