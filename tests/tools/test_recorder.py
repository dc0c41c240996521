"""The recorder between lightningd and a plugin: what it owes both when one of them is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ECHO = "import sys\nfor line in sys.stdin:\n    if line.strip():\n        print(line, flush=True)\n"


def test_the_plugin_ends_when_its_answers_have_no_reader(tmp_path: Path) -> None:
    """K-07: lightningd was killed with an answer under way; no plugin and no recorder is left behind."""
    places = [str(tmp_path / "transcript.jsonl"), str(tmp_path / "trip")]
    command = [sys.executable, "-m", "lsps2fast_plugin.tools.regtest.recorder", *places, "plugin", "--"]
    pipe = subprocess.PIPE
    recorder = subprocess.Popen([*command, sys.executable, "-c", ECHO], stdin=pipe, stdout=pipe)
    assert recorder.stdin is not None
    assert recorder.stdout is not None
    try:
        recorder.stdout.close()
        recorder.stdin.write(b'{"id": 1, "method": "getmanifest", "params": {}}\n\n')
        recorder.stdin.flush()  # and it stays open: the end of the answers must be enough
        assert recorder.wait(timeout=60) == 0
    finally:
        recorder.kill()
        recorder.stdin.close()
