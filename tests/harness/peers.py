"""Nodes of others as children: an ldk-node of ours told what to do by JSON lines, and a stock lnd told by lncli."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

from lsps2fast.errors import NodeError
from lsps2fast_plugin.tools.regtest import Bitcoind, Lightningd, until
from lsps2fast_plugin.tools.regtest.processes import PASSWORD, PATIENCE_S, USER, Child, free_port

Json = dict[str, Any]
ANSWER_S = PATIENCE_S


class Ldk(Child):
    """ldk-node: with `lsp` a wallet that buys there, with `service` an LSP; everything else as the crate has it."""

    def __init__(self, name: str, directory: Path, program: Path, bitcoind: Bitcoind, **config: Any) -> None:
        super().__init__(name, directory)
        self.program = program
        self.bitcoind = bitcoind
        self.config = config
        self.port = free_port()
        self.node_id = ""
        self.events: list[str] = []
        self._answers: queue.Queue[Json] = queue.Queue()
        self._reader: threading.Thread | None = None
        self._ids = itertools.count(1)

    def start(self) -> None:
        """Up, and its chain is the chain's height."""
        self._answers = queue.Queue()  # nothing of an earlier run
        with open(self.directory / "err", "ab") as err:
            self.process = subprocess.Popen(
                [self.program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, start_new_session=True
            )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()
        bitcoind = {"port": self.bitcoind.port, "user": USER, "password": PASSWORD}
        self._write({"dir": str(self.directory / "ldk"), "port": self.port, "bitcoind": bitcoind, **self.config})
        self.node_id = self._answer("ready", None)
        self.synced()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                row = json.loads(line)
                if "event" in row:
                    self.events.append(row["event"])
                else:
                    self._answers.put(row)
        self._answers.put({"ended": True})

    def _write(self, row: Json) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(row).encode() + b"\n")
        self.process.stdin.flush()

    def _answer(self, member: str, number: int | None) -> Any:
        while True:
            row = self._answers.get(timeout=ANSWER_S)
            if "ended" in row:
                raise RuntimeError(f"{self.name} ended\n{self.tail('err')}\n{self.tail('ldk/log')}")
            if row.get("id") == number:
                if "error" in row:
                    raise NodeError(self.name, 0, row["error"])
                return row[member]

    def call(self, method: str, **params: Any) -> Any:
        """Ask it; NodeError with its reason."""
        number = next(self._ids)
        self._write({"id": number, "method": method, "params": params})
        return self._answer("result", number)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def synced(self) -> None:
        """Until it has seen the best block, coins included."""
        height = self.bitcoind.height
        until(lambda: self.call("info")["height"] >= height, f"height {height} at {self.name}")
        self.call("sync")

    def heard(self, *words: str, timeout_s: float = PATIENCE_S) -> str:
        """Wait for an event that has all these words; its text."""

        def found() -> str | None:
            return next((event for event in self.events if all(word in event for word in words)), None)

        return str(until(found, f"event {words} of {self.name}", timeout_s, lambda: self.tail("ldk/log", 30)))

    def stop(self) -> None:
        """A clean end: its stdin is closed."""
        if self.runs:
            assert self.process is not None
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.gone()
        if self._reader is not None:
            self._reader.join()


class Lnd(Child):
    """A stock lnd on the same bitcoind."""

    def __init__(self, name: str, directory: Path, programs: tuple[Path, Path], bitcoind: Bitcoind) -> None:
        """`programs`: lnd and lncli."""
        super().__init__(name, directory)
        self.lnd, self.lncli = programs
        self.bitcoind = bitcoind
        self.port, self.rpc_port, self.rest_port = free_port(), free_port(), free_port()
        self.node_id = ""
        self._results: queue.Queue[Json] = queue.Queue()

    def start(self) -> None:
        """Up, and its chain is the chain's height."""
        options = {
            "lnddir": self.directory / "lnd",
            "listen": f"127.0.0.1:{self.port}",
            "rpclisten": f"127.0.0.1:{self.rpc_port}",
            "restlisten": f"127.0.0.1:{self.rest_port}",
            "bitcoin.node": "bitcoind",
            "bitcoind.rpchost": f"127.0.0.1:{self.bitcoind.port}",
            "bitcoind.rpcuser": USER,
            "bitcoind.rpcpass": PASSWORD,
        }
        flags = ["--bitcoin.regtest", "--bitcoind.rpcpolling", "--noseedbackup", "--nobootstrap", "--norest"]
        flags.append("--protocol.zero-conf")  # of channels others open to it; it buys none here
        flags.append("--protocol.option-scid-alias")
        self.spawn([str(self.lnd), *flags, *(f"--{name}={value}" for name, value in options.items())])
        until(self._up, f"start of {self.name}", say=self.tail)
        self.synced()

    def _up(self) -> bool:
        if not self.runs:
            raise RuntimeError(f"{self.name} ended\n{self.tail()}")
        try:
            self.node_id = self.call("getinfo")["identity_pubkey"]
        except NodeError:
            return False
        return True

    def call(self, *words: str, timeout_s: float = ANSWER_S) -> Any:
        """`lncli …`; NodeError with what it says."""
        command = [self.lncli, f"--lnddir={self.directory / 'lnd'}", f"--rpcserver=127.0.0.1:{self.rpc_port}"]
        run = subprocess.run(
            [*command, "--network=regtest", *words], capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if run.returncode:
            raise NodeError(f"lncli {words[0]}", run.returncode, (run.stderr or run.stdout).strip())
        return json.loads(run.stdout) if run.stdout.strip() else None

    def synced(self) -> None:
        """Until it has seen the best block."""
        height = self.bitcoind.height
        until(lambda: self.call("getinfo")["block_height"] >= height, f"height {height} at {self.name}")
        until(lambda: self.call("getinfo")["synced_to_chain"], f"chain of {self.name}", say=self.tail)

    def link(self, other: Lightningd, size_sat: int, count: int = 1) -> None:
        """Confirmed public channels to a lightningd, all money here."""
        addresses = [self.call("newaddress", "p2wkh")["address"] for _ in range(count)]
        self.bitcoind.send([(address, size_sat + 100_000) for address in addresses])
        self.bitcoind.mine(6)
        self.synced()
        until(lambda: int(self.call("walletbalance")["confirmed_balance"]) >= size_sat * count, f"coins of {self.name}")
        for _ in range(count):
            until(lambda: self._opened(other, size_sat), f"channel of {self.name}", say=self.tail)
        self.bitcoind.mine(6)
        self.synced()
        other.synced()
        until(lambda: self._active(other) >= count, f"channels of {self.name}", say=self.tail)

    def _opened(self, other: Lightningd, size_sat: int) -> bool:
        """Whether the other side heard of it: on a busy machine a first connection may not last."""
        try:
            self.call("connect", f"{other.node_id}@127.0.0.1:{other.port}")
        except NodeError as error:
            if "already connected" not in error.message:
                return False
        try:
            self.call("openchannel", f"--node_key={other.node_id}", f"--local_amt={size_sat}")
        except NodeError as error:
            if not any(words in error.message for words in ("is not online", "peer exiting", "disconnected")):
                raise
            return False
        return True

    def _active(self, other: Lightningd) -> int:
        rows = self.call("listchannels", "--active_only")["channels"]
        return sum(row["remote_pubkey"] == other.node_id for row in rows)

    def pay(self, invoice: str, *more: str, timeout_s: int = 180) -> Json:
        """`payinvoice` to its end; the last state of the payment with its failure."""
        words = ["payinvoice", "--force", "--json", f"--timeout={timeout_s}s", "--fee_limit=100000", *more, invoice]
        try:
            return dict(self.call(*words, timeout_s=timeout_s + 30))
        except NodeError as error:
            return {"status": "FAILED", "failure_reason": error.message}

    def spawn_pay(self, invoice: str) -> None:
        """Begin a payment; `paid` waits for its end."""
        self._payment = threading.Thread(target=lambda: self._results.put(self.pay(invoice)), daemon=True)
        self._payment.start()

    def paid(self, timeout_s: float = PATIENCE_S) -> Json:
        """The end of the payment that was begun."""
        return self._results.get(timeout=timeout_s)

    def stop(self) -> None:
        """A clean end."""
        if self.runs:
            try:
                self.call("stop")
            except NodeError:
                assert self.process is not None
                self.process.terminate()
            self.gone()
