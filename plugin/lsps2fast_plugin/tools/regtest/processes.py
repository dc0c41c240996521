"""Real bitcoind and lightningd as children: find them, start, ask, wait for, kill and stop them, all on loopback.

Nothing here knows LSPS2. Every wait is bounded and ends with what the process last said. Children run in sessions of
their own, so that Ctrl-C reaches us alone and they are stopped in order.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lsps2fast._hook import FrameReader
from lsps2fast.errors import ConfigError, NodeError, NodeUnreachable

POLL_S = 0.02
PATIENCE_S = 180.0  # for whatever must come, on a machine that has other work to do
START_S = PATIENCE_S
STOP_S = 120.0
# Coins are mature after 100 blocks. Wallets set the lock time of a transaction up to 100 blocks back, and Bitcoin Knots
# takes one of 21 for spam: such a height is never within their reach.
FIRST_BLOCKS = 125
USER, PASSWORD = "regtest", "regtest"  # the port is bound to loopback and dies with the playground
PATH_LIMIT = 70  # of a node's directory: "…/regtest/lightning-rpc" must fit into the 108 bytes of a socket's name


class Programs(NamedTuple):
    """Executables of a real node."""

    lightningd: str
    lightning_cli: str
    bitcoind: str
    bitcoin_cli: str


def find_programs() -> Programs:
    """Return the four programs on PATH, lightningd's two also in LSPS2FAST_CLN_DIR (installed or a source tree).

    Raises ConfigError with everything that is missing.
    """
    cln = os.environ.get("LSPS2FAST_CLN_DIR")
    folders = [] if cln is None else [cln, f"{cln}/bin", f"{cln}/lightningd", f"{cln}/cli"]
    path = os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])
    names = ("lightningd", "lightning-cli", "bitcoind", "bitcoin-cli")
    found = {name: shutil.which(name, path=path) for name in names}
    missing = [name for name, place in found.items() if place is None]
    if missing:
        raise ConfigError(
            f"not found on PATH: {', '.join(missing)}. Install Core Lightning v26.06 or newer and Bitcoin Core (or name"
            " the directory of lightningd in LSPS2FAST_CLN_DIR)"
        )
    return Programs(*(str(found[name]) for name in names))


def built_in(programs: Programs, name: str) -> Path | None:
    """Return a plugin that this lightningd was built with, None where it was not."""
    place = Path(programs.lightningd).resolve().parent
    folders = ("../libexec/c-lightning/plugins", "../plugins")
    return next((found.resolve() for folder in folders if (found := place / folder / name).exists()), None)


def free_port() -> int:
    """Return a port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S, say: Callable[[], str] = str) -> Any:
    """Return the first true value of `condition()`; raises TimeoutError with `what` and
    `say()` when none comes in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {timeout_s:g} s\n{say()}")
        time.sleep(POLL_S)


class Child:
    """One process with its output in a file."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def spawn(self, command: list[str], env: dict[str, str] | None = None, user: str | None = None) -> None:
        """Start it, as this user; stdout and stderr go to `out`."""
        with open(self.directory / "out", "ab") as out:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(env or {})},
                user=user,
                cwd=self.directory if user else None,
            )

    def tail(self, file: str = "out", lines: int = 15) -> str:
        """Return the last lines it said."""
        path = self.directory / file
        text = path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
        return "\n".join(f"  {self.name}: {line[:300]}" for line in text)

    def gone(self, timeout_s: float = STOP_S) -> int:
        """Wait for its end; SIGKILL when it takes too long. The exit code."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Bitcoind(Child):
    """One regtest bitcoind with a wallet that owns mature coins."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        super().__init__("bitcoind", directory)
        self.programs = programs
        self.port = free_port()
        self._address = ""

    def start(self) -> None:
        """Up, with a wallet and FIRST_BLOCKS blocks."""
        fixed = "-server=1 -listen=0 -rpcbind=127.0.0.1 -rpcallowip=127.0.0.1 -fallbackfee=0.00001 -txindex=1"
        more = "-dnsseed=0 -fixedseeds=0 -listenonion=0 -printtoconsole=0 -rpcthreads=12 -rpcworkqueue=256"
        self.spawn(
            [
                self.programs.bitcoind,
                "-regtest",
                f"-datadir={self.directory}",
                f"-rpcport={self.port}",
                f"-rpcuser={USER}",
                f"-rpcpassword={PASSWORD}",
                *fixed.split(),
                *more.split(),
            ]
        )
        until(self._answers, "answer of bitcoind", START_S, self.tail)
        self.call("createwallet", "purse")
        self._address = self.call("getnewaddress")
        self.call("generatetoaddress", FIRST_BLOCKS, self._address)

    def _answers(self) -> bool:
        if not self.runs:
            raise RuntimeError(f"bitcoind ended\n{self.tail()}")
        try:
            self.call("getblockcount")
        except (OSError, NodeError):
            return False
        return True

    def call(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call. Raises NodeError when bitcoind says no, OSError when it does not answer."""
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = json.dumps({"id": 1, "method": method, "params": params})
            connection.request("POST", "/", body, {"Authorization": f"Basic {login}"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if answer.get("error") is not None:
            raise NodeError(method, answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def mine(self, blocks: int = 1) -> None:
        """Mine blocks; the first takes the mempool."""
        self.call("generatetoaddress", blocks, self._address)

    @property
    def height(self) -> int:
        """Of the best block."""
        count: int = self.call("getblockcount")
        return count

    def send(self, amounts_sat: Iterable[tuple[str, int]]) -> str:
        """One transaction that pays these addresses; the txid."""
        outputs = [{address: f"{amount // 10**8}.{amount % 10**8:08d}"} for address, amount in amounts_sat]
        txid: str = self.call("send", outputs)["txid"]
        return txid

    def stop(self) -> None:
        """End cleanly."""
        if self.runs:
            try:
                self.call("stop")
            except (OSError, NodeError):
                assert self.process is not None
                self.process.terminate()
            self.gone()


class Lightningd(Child):
    """One lightningd; `options` are its command line without the dashes, changes take effect at the next start."""

    def __init__(
        self,
        name: str,
        directory: Path,
        bitcoind: Bitcoind,
        options: dict[str, Any] | None = None,
        *,
        quick: bool = True,
    ) -> None:
        """`quick`: developer mode for a chain that is looked at every second instead of every thirty."""
        super().__init__(name, directory)
        if len(str(directory)) > PATH_LIMIT:
            raise ConfigError(f"the directory {directory} is too long for a socket's name; use a shorter one")
        self.bitcoind = bitcoind
        self.programs = bitcoind.programs
        self.options = dict(options or {})
        self.plugins: list[tuple[str, dict[str, Any]]] = []
        self.env: dict[str, str] = {}
        self.quick = quick
        self.port = free_port()
        self.node_id = ""
        self.log_start = 0

    @property
    def socket(self) -> Path:
        """Of its RPC."""
        return self.directory / "regtest" / "lightning-rpc"

    def _command(self) -> list[str]:
        bitcoind = self.bitcoind
        options: dict[str, Any] = {
            "network": "regtest",
            "lightning-dir": self.directory,
            "addr": f"127.0.0.1:{self.port}",
            "bitcoin-cli": self.programs.bitcoin_cli,
            "bitcoin-datadir": bitcoind.directory,
            "bitcoin-rpcconnect": "127.0.0.1",
            "bitcoin-rpcport": bitcoind.port,
            "bitcoin-rpcuser": USER,
            "bitcoin-rpcpassword": PASSWORD,
            "disable-dns": True,
            "log-level": "debug",
            "log-file": self.directory / "log",
            "alias": self.name,
        }
        developer = ["--developer", "--dev-bitcoind-poll=1", "--dev-fast-gossip"] if self.quick else []
        command = [self.programs.lightningd, *developer, *_flags({**options, **self.options})]
        for path, own in self.plugins:
            command += [f"--plugin={path}", *_flags(own)]
        return command

    def start(self, *, wait: bool = True) -> None:
        """Start it; `wait` until it answers and listens."""
        log = self.directory / "log"
        self.log_start = log.stat().st_size if log.exists() else 0
        self.spawn(self._command(), self.env)
        if wait:
            self.wait_up()

    def wait_up(self) -> None:
        """Until it answers, its port listens (later than RPC) and its chain is the chain's height."""
        until(self._answers, f"start of {self.name}", START_S, lambda: self.tail("log"))
        self.wait_log("Server started with public key")
        self.synced()

    def _answers(self) -> bool:
        if not self.runs:
            raise RuntimeError(f"{self.name} ended\n{self.tail()}\n{self.tail('log')}")
        try:
            self.node_id = self.call("getinfo")["id"]
        except NodeError:
            return False
        return True

    def synced(self, timeout_s: float = PATIENCE_S) -> None:
        """Until it has seen the best block."""
        height = self.bitcoind.height
        until(lambda: self.call("getinfo")["blockheight"] >= height, f"height {height} at {self.name}", timeout_s)

    def call(self, method: str, params: dict[str, Any] | None = None, timeout_s: float = PATIENCE_S) -> Any:
        """One RPC call on a connection of its own. NodeError, or NodeUnreachable when no answer came."""
        try:
            return _ask(str(self.socket), method, params or {}, timeout_s)
        except OSError as error:
            raise NodeUnreachable(method, f"{self.name}: {error}") from error

    def log_text(self) -> str:
        """Return what it logged since its last start."""
        with open(self.directory / "log", "rb") as file:
            file.seek(self.log_start)
            return file.read().decode(errors="replace")

    def wait_log(self, pattern: str, count: int = 1, timeout_s: float = PATIENCE_S) -> str:
        """Wait for the `count`-th line of this run that matches; that line."""
        wanted = re.compile(f".*{pattern}.*")
        lines = until(
            lambda: wanted.findall(self.log_text())[count - 1 :], f"{pattern!r} in {self.name}'s log", timeout_s,
            lambda: self.tail("log"),
        )  # fmt: skip
        return str(lines[0])

    def stop(self) -> None:
        """End cleanly."""
        if not self.runs:
            return
        try:
            self.call("stop", timeout_s=STOP_S)
        except NodeError:
            assert self.process is not None
            self.process.send_signal(signal.SIGTERM)
        self.gone()


def _flags(options: dict[str, Any]) -> list[str]:
    """Command line of options; True is a flag, a list repeats, None is left out."""
    flags: list[str] = []
    for name, value in options.items():
        each = value if isinstance(value, list) else [value]
        flags += [f"--{name}" if one is True else f"--{name}={one}" for one in each if one is not None]
    return flags


def _ask(path: str, method: str, params: dict[str, Any], timeout_s: float) -> Any:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(timeout_s)
        line.connect(path)
        request = {"jsonrpc": "2.0", "id": f"regtest:{method}#1", "method": method, "params": params}
        line.sendall(json.dumps(request).encode())
        reader = FrameReader()
        frames: list[bytes] = []
        while not frames:
            data = line.recv(65536)
            if not data:
                raise OSError("the connection was closed before the answer")
            frames = reader.feed(data)
    answer = json.loads(frames[0])
    if "error" in answer:
        error = answer["error"]
        raise NodeError(method, error["code"], error["message"], error.get("data"))
    return answer["result"]
