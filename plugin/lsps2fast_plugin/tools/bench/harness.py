"""lightningd's end of a plugin's pipes, quick enough not to be what is measured. Linux only: CPU time is from /proc.

Every figure is of the child alone. Latency counts from the moment a call was due, not from when it was written, so
that a child that stands still is charged for all calls that would have come meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lsps2fast._hook import FrameReader
from lsps2fast_plugin.simnode.manifest import read_manifest, set_options
from lsps2fast_plugin.tools.bench.figures import quantile

WAIT_S = 30.0


class Saturated(NamedTuple):
    """As fast as it goes: `per_s` calls a second, `cpu_us` of the child per call."""

    per_s: float
    cpu_us: float


def cpu_s(pid: int) -> float:
    """CPU time of all threads of a process so far, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Child:
    """One program under load."""

    def __init__(self, argv: list[str], *, pure: bool = False, shake_hands: bool = True) -> None:
        environment = {**os.environ, "LIGHTNINGD_PLUGIN": "1"}
        environment.pop("LSPS2FAST_PURE", None)
        if pure:
            environment["LSPS2FAST_PURE"] = "1"
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        self._reader = FrameReader()
        self._frames: deque[dict[str, Any]] = deque()
        if shake_hands:
            self.shake_hands({}, "/nowhere", "rpc")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    # ---- talk

    def send(self, data: bytes) -> None:
        """Write all of it; blocks."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._in, rest) :]

    def hear(self, wait_s: float = WAIT_S) -> dict[str, Any]:
        """Return the next frame."""
        while not self._frames:
            if not select.select([self._out], [], [], wait_s)[0]:
                raise TimeoutError("the program says nothing")
            data = os.read(self._out, 1 << 16)
            if not data:
                raise EOFError("the program ended")
            self._frames.extend(json.loads(frame) for frame in self._reader.feed(data))
        return self._frames.popleft()

    def ask(self, method: str, params: dict[str, Any], wait_s: float = WAIT_S) -> Any:
        """Call and wait; what comes between is dropped."""
        call = {"jsonrpc": "2.0", "id": f"bench:{method}#1", "method": method, "params": params}
        self.send(json.dumps(call).encode() + b"\n\n")
        while (frame := self.hear(wait_s)).get("id") != call["id"]:
            pass
        return frame["result"]

    def shake_hands(self, options: dict[str, Any], directory: str, rpc_file: str) -> None:
        """getmanifest and init, with the options as their defaults and `options` say."""
        manifest = read_manifest(self.ask("getmanifest", {}), starting_dynamically=False)
        set_options(manifest, options, "cmdline")
        place = {"lightning-dir": directory, "rpc-file": rpc_file, "startup": True, "network": "regtest"}
        self.ask("init", {"options": manifest.init_options(), "configuration": place})

    def wait_for_log(self, text: str, wait_s: float = WAIT_S) -> None:
        """Until a log line has this text; it may say nothing for so long."""
        while text not in str(self.hear(wait_s).get("params", {}).get("message")):
            pass

    def close(self) -> None:
        """End it; only this process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()

    @contextlib.contextmanager
    def alone(self, others: Iterable[Child]) -> Iterator[None]:
        """Meanwhile the others get no CPU: a thread of theirs that computes would be measured here."""
        stopped = [other.pid for other in others if other is not self]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    # ---- what it costs

    def cpu_s(self) -> float:
        """CPU time of all its threads so far, to the nanosecond."""
        return cpu_s(self.pid)

    def rss_kb(self) -> int:
        """Memory it holds."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    # ---- load

    def _count_answers(self, wanted: int) -> None:
        """Read until so many answers came; an answer has two line feeds, and nothing else has any."""
        feeds = 0
        while feeds < 2 * wanted:
            if not select.select([self._out], [], [], WAIT_S)[0]:
                raise TimeoutError(f"{feeds // 2} of {wanted} answers came")
            feeds += os.read(self._out, 1 << 16).count(b"\n")

    def saturate(self, stream: bytes, calls: int, answers: int | None = None) -> Saturated:
        """Write the stream as fast as it is read; `answers` come back for `calls`."""
        cpu_s, begin = self.cpu_s(), time.perf_counter()
        writer = threading.Thread(target=self.send, args=(stream,))
        writer.start()
        self._count_answers(calls if answers is None else answers)
        took_s = time.perf_counter() - begin
        writer.join()
        return Saturated(calls / took_s, (self.cpu_s() - cpu_s) / calls * 1e6)

    def try_send(self, data: bytes) -> bytes:
        """Write what the pipe takes without waiting; what is left."""
        os.set_blocking(self._in, False)
        try:
            return data[os.write(self._in, data) :]
        except BlockingIOError:
            return data
        finally:
            os.set_blocking(self._in, True)

    def frames(self, timeout_s: float, *, or_writable: bool = False) -> list[bytes]:
        """Return what it says within this time, as raw frames; none when only its end of the other pipe has room."""
        if not select.select([self._out], [self._in] if or_writable else [], [], timeout_s)[0]:
            return []
        data = os.read(self._out, 1 << 16)
        if not data:
            raise EOFError("the program ended")
        return list(self._reader.feed(data))

    def _write_some(self, waiting: deque[bytes]) -> None:
        """Write what the pipe takes of the first frames, without waiting."""
        some = b"".join(waiting.popleft() for _ in range(min(len(waiting), 16)))
        with contextlib.suppress(BlockingIOError):
            some = some[os.write(self._in, some) :]
        if some:
            waiting.appendleft(some)

    def offer(
        self, frames: list[bytes], per_s: float, seconds: float, extra: bytes = b"", every_s: float = 0.0
    ) -> list[float]:
        """Call at a steady rate; return the latency of each in µs. `extra`: a method call sent every `every_s`."""
        due: deque[float] = deque()
        waiting: deque[bytes] = deque()
        late_us: list[float] = []
        total, sent, feeds, others = int(per_s * seconds), 0, 0, 0
        begin = time.perf_counter()
        next_extra = begin if extra else float("inf")
        os.set_blocking(self._in, False)
        while len(late_us) < total:
            now = time.perf_counter()
            if now > begin + seconds + WAIT_S:
                raise TimeoutError(f"{len(late_us)} of {total} answers came")
            if now >= next_extra and sent < total:
                waiting.append(extra)
                next_extra += every_s
            while sent < total and begin + sent / per_s <= now:
                due.append(begin + sent / per_s)
                waiting.append(frames[sent % len(frames)])
                sent += 1
            if waiting:
                self._write_some(waiting)
            pause_s = max(0.0, begin + sent / per_s - time.perf_counter()) if sent < total else 0.1
            if not select.select([self._out], [self._in] if waiting else [], [], pause_s)[0]:
                continue
            data = os.read(self._out, 1 << 16)
            now = time.perf_counter()
            others += data.count(b'"result":{}') + data.count(b'"result": {}')
            feeds += data.count(b"\n")
            while due and len(late_us) < feeds // 2 - others:
                late_us.append((now - due.popleft()) * 1e6)
        os.set_blocking(self._in, True)
        return late_us


Late = dict[str, float | None]


def percentiles(late_us: list[float]) -> Late:
    """p50, p99 and p99.9; None where there are too few values for it."""
    shares = {"p50_us": 0.5, "p99_us": 0.99, "p99_9_us": 0.999}
    found = {name: quantile(late_us, share) for name, share in shares.items()}
    return {name: None if late is None else round(late, 1) for name, late in found.items()}
