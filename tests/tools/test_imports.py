"""What a plugin imports before it answers `getmanifest`: each package costs every start, and memory for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness.webhook_server import WebhookServer

UNUSED = (
    *("aiohttp", "bitstring", "cryptography", "difflib", "email", "http.client", "prometheus_client"),
    *("pyln.client.gossmap", "pyln.proto"),
    *("pyln.spec", "rich", "ssl", "_ssl", "_hashlib", "tomllib", "xml"),
)
SERVICE = "lsps2fast_plugin.service"
ON_DEMAND = (
    *(f"{SERVICE}.{part}" for part in ("page.server", "fleet.fleet", "wake.waker", "policy.file", "lsps1.orders")),
    *("lsps2fast.lsps.lsps1", "lsps2fast.lsps.lsps5", "coincurve"),
)
UNUSED_BY = {"service": (*UNUSED, *ON_DEMAND), "client": UNUSED}  # the wallet reads invoices, with coincurve


def _run(code: str, *args: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("wing", UNUSED_BY)
def test_a_plugin_imports_what_it_uses_at_its_start_and_no_more(wing: str) -> None:
    """P27: what a node may never need is imported when it does."""
    loaded = _run(f"import sys, lsps2fast_plugin.{wing}.app\nprint(*sys.modules, sep='\\n')").split()
    assert f"lsps2fast_plugin.{wing}.app" in loaded
    assert set(UNUSED_BY[wing]) & set(loaded) == set()


def test_the_rest_of_pyln_client_is_there_for_who_asks() -> None:
    """P27: our way into the package takes nothing away from other code of the process."""
    said = _run(
        "import lsps2fast_plugin.cln.pyln_client as ours\n"
        "import pyln.client\n"
        "from pyln.client import Gossmap, Plugin\n"
        "import pyln.client.gossmapstats\n"
        "assert ours.Plugin is Plugin is pyln.client.Plugin\n"
        "assert not hasattr(pyln.client, 'nothing_of_this_name')\n"
        "print(Gossmap.__name__, pyln.client.__version__)\n"
    )
    assert said.startswith("Gossmap v")


def test_the_package_may_be_there_already() -> None:
    """P27: other code of the process may have imported all of it first."""
    said = _run(
        "import pyln.client\nfrom lsps2fast_plugin.cln.pyln_client import Plugin\nprint(Plugin is pyln.client.Plugin)\n"
    )
    assert said.split() == ["True"]


TLS = """
import sys
from lsps2fast_plugin.service import app
from lsps2fast_plugin.service.fleet.database import load_driver
import hashlib, hmac

assert hashlib.sha256(b"abc").hexdigest().startswith("ba7816bf")
assert hmac.digest(b"key", b"abc", "sha256").hex().startswith("9c196e32")
load_driver()
import asyncio, ssl

async def ask(context):
    if sys.argv[3] == "at once":
        reader, writer = await asyncio.open_connection("localhost", int(sys.argv[1]), ssl=context)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
        await writer.start_tls(context, server_hostname="localhost")
    writer.write(b"POST / HTTP/1.0\\r\\n\\r\\n")
    status = await reader.readline()
    writer.close()
    return status.decode().strip()

async def main():
    print(await ask(ssl.create_default_context(cafile=sys.argv[2])))
    try:
        await ask(ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        print(error.verify_message)

asyncio.run(main())
"""


@pytest.mark.parametrize("way", ["at once", "later"])
def test_a_plugin_that_needs_tls_after_all_has_it(tmp_path: Path, way: str) -> None:
    """P27: asyncio was imported without; with the driver of the fleet's database it speaks TLS, and certificates are
    checked.
    """
    server = WebhookServer(tmp_path)
    try:
        said = _run(TLS, str(server.port), str(server.ca_file), way).splitlines()
    finally:
        server.close()
    assert said == ["HTTP/1.0 200 OK", "self-signed certificate"]


def test_a_python_without_hashes_of_its_own_keeps_those_of_openssl() -> None:
    """P27: as some distributions build it; nothing is taken away that has no other."""
    said = _run(
        "import importlib.util as util, sys\n"
        "known = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == '_sha3' else known(name, *rest)\n"
        "from lsps2fast_plugin.service import app\n"
        "print('_hashlib' in sys.modules)\n"
    )
    assert said.split() == ["True"]
