"""`lsps2fast regtest up --ha` as a person uses it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from lsps2fast_plugin.tools.regtest import until

COMMAND = [sys.executable, "-m", "lsps2fast_plugin.tools.cli", "regtest", "up", "--ha"]
LIMIT_S = 120


def test_the_printed_command_has_another_machine_take_over(postgres: None) -> None:
    """cln:N6: one signal, and the printed alias asks the other machine; Ctrl-C leaves no process and no file."""
    with tempfile.TemporaryDirectory(prefix="l2p-", dir="/tmp") as directory:
        os.chmod(directory, 0o711)  # the user of the database has to come by
        place, log = Path(directory) / "p", Path(directory) / "up"
        with open(log, "w", encoding="utf-8") as out:
            process = subprocess.Popen([*COMMAND, "--dir", str(place)], stdout=out, stderr=subprocess.STDOUT)
        try:
            until(lambda: "ends and removes everything" in log.read_text(), "playground", say=log.read_text)
            told = re.search(r"kill -USR1 (\d+)", log.read_text())
            assert told is not None
            os.kill(int(told[1]), signal.SIGUSR1)
            until(lambda: "it sells:" in log.read_text(), "takeover", say=log.read_text)
            alias = re.findall(r'alias lsp="(.*)"', log.read_text())[-1].split()
            asked = subprocess.run([*alias, "lsps2-stats"], capture_output=True, check=True, timeout=LIMIT_S)
            assert json.loads(asked.stdout)["live_sessions"] == 0
            pids = list(json.loads((place / "state.json").read_text())["pids"].values())
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT_S) == 0
            assert not place.exists()
            assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
