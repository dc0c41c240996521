"""A URL that names several servers: the first one that takes writes is the fleet's."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.fleet import ROLE, FleetServer, database
from harness.logs import Log

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.fleet.database import FleetAway, split_url
from lsps2fast_plugin.tools.regtest.processes import free_port


@pytest.fixture
def replica(server: FleetServer) -> Iterator[FleetServer]:
    """Another server with the same roles, which takes no writes."""
    running = FleetServer(Path(tempfile.mkdtemp(prefix="l2r-", dir="/tmp")))
    running.password = server.password
    running.start()
    running.query(f"ALTER ROLE {ROLE} SET default_transaction_read_only = on")
    yield running
    running.remove()


def with_hosts(url: str, *ports: int) -> str:
    head, _, rest = url.rpartition("@")
    return f"{head}@{','.join(f'127.0.0.1:{port}' for port in ports)}/{rest.partition('/')[2]}"


async def test_the_one_that_takes_writes_is_found(server: FleetServer, url: str, replica: FleetServer) -> None:
    """A server is gone, or was made a replica: the next one in the URL is asked; commands of the operator, too."""
    gone, log = free_port(), Log()
    node = database(with_hosts(url, gone, replica.port, server.port), "one")
    await node.join("p1")
    for passed in (gone, replica.port):
        assert f"the fleet's server at 127.0.0.1:{passed} does not do: " in log.text()
    assert server.password not in log.text()
    assert [each.node for each in await node.list_nodes()] == ["one"]
    assert node.place == f"127.0.0.1:{gone},127.0.0.1:{replica.port},127.0.0.1:{server.port}/lightning"
    await node.leave()
    schema = url.rpartition("=")[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FleetServer, "url", with_hosts(server.url, gone, server.port))
        code, said = await asyncio.to_thread(server.command, "show", schema)
    assert (code, "node one ONE" in said) == (0, True)


async def test_none_takes_writes(url: str, replica: FleetServer) -> None:
    """A sentence, and the password of neither."""
    node = database(with_hosts(url, free_port(), replica.port), "one")
    with pytest.raises(FleetAway, match="no server there takes writes; promote one") as caught:
        await node.join("p1")
    assert replica.password not in str(caught.value)
    node = database(with_hosts(url, replica.port, free_port()), "one")
    with pytest.raises(FleetAway, match=r"OSError|ConnectionRefused"):
        await node.join("p1")


def test_each_host_has_its_port() -> None:
    """As in libpq; one that is no host or port is told without the password."""
    urls, schema = split_url("postgresql://u:p,w@a,b:5433,[::1]:5434/x?schema=s&sslmode=require")
    asked = "/x?sslmode=require&target_session_attrs=read-write"
    assert (urls, schema) == ([f"postgresql://u:p,w@{host}{asked}" for host in ("a", "b:5433", "[::1]:5434")], "s")
    assert split_url("postgresql://u@a,b/x?target_session_attrs=any")[0][1].endswith("@b/x?target_session_attrs=any")
    assert split_url("postgresql://u@a/x")[0] == ["postgresql://u@a/x"]
    for wrong in ("a,,b", "a,b:port", "a:0,b", ",", "a,b:99999"):
        with pytest.raises(ConfigError, match="lsps2-fleet") as caught:
            split_url(f"postgresql://u:sesame@{wrong}/x")
        assert "sesame" not in str(caught.value)
