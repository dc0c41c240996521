"""A process that has loaded the plugin once and forks a child for each start: 10 ms in place of 300.

The child is the real plugin with a pid, pipes and a death of its own; only the imports are its parent's. The parent
has no threads and no loop. It is spoken to over a socket pair: one JSON datagram a start, with the file descriptors
beside it; one a child's end.

`python -m crash.nursery FD` is the parent's side; `Nursery` is ours, and `Nursery.start` fits `World.start_process`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
from types import TracebackType
from typing import Any

MOST = 1 << 20  # bytes of a datagram
PROGRAMS = {"lsps2fast-service": "lsps2fast_plugin.service.app", "lsps2fast-client": "lsps2fast_plugin.client.app"}
TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # where our children find this package


def environment() -> dict[str, str]:
    """Of a child that runs a module of this package, wherever we were started."""
    path = os.pathsep.join((TESTS, *filter(None, [os.environ.get("PYTHONPATH")])))
    return os.environ | {"PYTHONPATH": path}


# The parent ------------------------------------------------------------------------------------------------------


def _serve(channel: socket.socket) -> None:
    """Fork what is asked for, report what ends; returns when the other side hangs up."""
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([channel, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            _report(channel)
        if channel in ready:
            data, fds, _, _ = socket.recv_fds(channel, MOST, 3)
            if not data:
                return
            order = json.loads(data)
            pid = os.fork()
            if pid == 0:
                _live(order, fds)
            for fd in fds:
                os.close(fd)
            channel.send(json.dumps({"order": order["order"], "pid": pid}).encode())


def _report(channel: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        channel.send(json.dumps({"gone": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


def _live(order: dict[str, Any], fds: list[int]) -> None:
    """Be the plugin, from here to the end of this process."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        os.closerange(3, 4096)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        from . import mutants

        mutants.apply(order["env"].get(mutants.VARIABLE, ""))
        code = importlib.import_module(PROGRAMS[order["program"]]).main()
    except BaseException:  # nothing may return into the parent's code
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Load everything a child needs, then serve."""
    import gc

    from . import mutants

    assert mutants
    for program in PROGRAMS.values():
        importlib.import_module(program)
    gc.freeze()  # children share these pages
    _serve(socket.socket(fileno=int(sys.argv[1])))


# Our side --------------------------------------------------------------------------------------------------------


class Born:
    """One child, as `node.process.Child` wants it."""

    def __init__(self, pid: int, stderr: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stderr = stderr
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        """The exit code once it has ended."""
        return await asyncio.shield(self._end)

    def send_signal(self, sign: int) -> None:
        """A signal to this child alone; none when it has ended."""
        if not self._end.done():
            with contextlib.suppress(ProcessLookupError):  # its parent has buried it and is about to say so
                os.kill(self.pid, sign)

    def ended(self, code: int) -> None:
        """The parent has buried it."""
        if not self._end.done():
            self._end.set_result(code)


class Nursery:
    """`async with Nursery() as nursery: world.start_process = nursery.start`."""

    def __init__(self) -> None:
        self._children: dict[int, Born] = {}
        self._births: dict[int, asyncio.Future[int]] = {}
        self._orders = 0
        self._early_ends: dict[int, int] = {}

    async def __aenter__(self) -> Nursery:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            command = [sys.executable, "-m", f"{__package__}.nursery", str(theirs.fileno())]
            self._process = await asyncio.create_subprocess_exec(
                *command, pass_fds=[theirs.fileno()], env=environment()
            )
        asyncio.get_running_loop().add_reader(self._channel, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        await self._process.wait()

    async def start(self, argv: list[str], stdin: int, stdout: int, cwd: str, env: dict[str, str]) -> Born:
        """Fork a plugin on these file descriptors; of `argv` only the name of the program counts."""
        loop = asyncio.get_running_loop()
        self._orders += 1
        birth: asyncio.Future[int] = loop.create_future()
        self._births[self._orders] = birth
        read_end, write_end = os.pipe()
        try:
            told = {"order": self._orders, "program": argv[-1], "cwd": cwd, "env": env}
            order = json.dumps(told).encode()
            socket.send_fds(self._channel, [order], [stdin, stdout, write_end])
        finally:
            os.close(write_end)
        stderr = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stderr), os.fdopen(read_end, "rb", 0))
        pid = await birth
        child = self._children[pid] = Born(pid, stderr)
        if pid in self._early_ends:
            child.ended(self._early_ends.pop(pid))
        return child

    def _read(self) -> None:
        while True:
            try:
                data = self._channel.recv(MOST)
            except BlockingIOError:
                return
            if not data:
                self._gone()
                return
            news = json.loads(data)
            if "pid" in news:
                self._births.pop(news["order"]).set_result(news["pid"])
            elif news["gone"] in self._children:
                self._children.pop(news["gone"]).ended(news["code"])
            else:
                self._early_ends[news["gone"]] = news["code"]

    def _gone(self) -> None:
        """It has died: its birth is not awaited any more."""
        asyncio.get_running_loop().remove_reader(self._channel)
        for birth in self._births.values():
            birth.set_exception(RuntimeError("the nursery is gone"))
        self._births.clear()


if __name__ == "__main__":
    main()
