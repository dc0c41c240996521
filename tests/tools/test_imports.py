"""What a plugin imports before it answers `getmanifest`: each package costs every start, and memory for good."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNUSED = (
    *("aiohttp", "bitstring", "cryptography", "difflib", "email", "http.client", "prometheus_client"),
    *("pyln.client.gossmap", "pyln.proto"),
    *("pyln.spec", "rich", "tomllib", "xml"),
)
SERVICE = "lsps2fast_plugin.service"
ON_DEMAND = (
    *(f"{SERVICE}.{part}" for part in ("page.server", "fleet.fleet", "wake.waker", "policy.file", "lsps1.orders")),
    *("lsps2fast.lsps.lsps1", "lsps2fast.lsps.lsps5", "coincurve"),
)
UNUSED_BY = {"service": (*UNUSED, *ON_DEMAND), "client": UNUSED}  # the wallet reads invoices, with coincurve


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
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
