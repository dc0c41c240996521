"""The interpreted core on a machine where Cython is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import lsps2fast

HIDE_CYTHON = """
import sys
from importlib.machinery import PathFinder

class WithoutCython:
    @staticmethod
    def find_spec(name, path=None, target=None):
        hidden = name.partition(".")[0].lower() == "cython"
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutCython
"""

TLV_WORKS = """
from lsps2fast import BACKEND
from lsps2fast import _tlv as tlv
from lsps2fast.errors import MalformedTlv

assert BACKEND == "pure" and tlv.__file__.endswith("_tlv.pyx")
assert sys.modules["cython"].__name__ == "lsps2fast._no_cython"
print(tlv.forward_payload("1402030f424004030c3590060800730b0012cf0001", 990000))
print(tlv.extra_fee_tlvs(10000), tlv.read_payload("0201ff0401f0", False).outgoing_cltv_value)
try:
    tlv.decode_bigsize(bytes.fromhex("fd00fc"))
except MalformedTlv as error:
    print(error)
"""


def run_without_cython(lines: str) -> subprocess.CompletedProcess[str]:
    """Run `lines` in a fresh interpreter that finds no Cython and has the core interpreted."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDE_CYTHON + lines],
        env={**os.environ, "LSPS2FAST_PURE": "1", "PYTHONPATH": str(Path(lsps2fast.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_cython_is_really_hidden() -> None:
    """The test below would prove nothing otherwise."""
    assert "No module named 'Cython'" in run_without_cython("import Cython").stderr


def test_codec_works_without_cython() -> None:
    """Style §8: the stand-in is enough; results and errors are the usual ones."""
    done = run_without_cython(TLV_WORKS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "02030f1b3004030c3590060800730b0012cf0001",
        "fe00010001080000000000002710 240",
        "BigSize not minimal at byte 0",
    ]


@pytest.mark.parametrize("name", ["_fsm", "_hook", "_live", "_payment", "_sessions", "_tlv"])
def test_every_core_module_loads_without_cython(name: str) -> None:
    """Style §8."""
    done = run_without_cython(f"import lsps2fast.{name}")
    assert (done.returncode, done.stderr) == (0, "")
