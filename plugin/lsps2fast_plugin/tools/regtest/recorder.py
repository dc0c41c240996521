"""Stands between lightningd and a plugin and writes down what they say, in the format of the recordings.

lightningd starts this program in place of the plugin; it starts the plugin, passes every frame on unchanged, and leads
the plugin's RPC connection through a socket of its own by rewriting `rpc-file` in `init`. Nothing else is changed.

    recorder.py TRANSCRIPT TRIP NAME -- plugin command ...

`TRIP` names a file that need not exist. Is it there when a frame passes, `{"dir", "method", "when", "kill"}` in it says
at which frame a process dies: `when` "before" or "after" it is passed on; `kill` "plugin" or "node". With `kill` "none"
no process dies, and nothing passes until the file `TRIP`.held is deleted. It works once.
A `result` of a call counts under the call's method, an answer of a hook under the hook's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from typing import Any, TextIO

from lsps2fast._hook import FrameReader
from lsps2fast.errors import MalformedFrame

Entry = dict[str, Any]
LIMIT = 1 << 16
HELD = ".held"
POLL_S = 0.01


class Recorder:
    """One run of one plugin."""

    def __init__(self, file: TextIO, trip: str, name: str) -> None:
        self.file = file
        self.trip = trip
        self.name = name
        self.methods: dict[tuple[str, str], str] = {}  # (line, id) -> method of a call that waits for its answer
        self.child: asyncio.subprocess.Process | None = None
        self.real_socket = ""
        self._connections = 0

    def write(self, direction: str, peer: str, message: Any) -> None:
        """Write one line of the transcript to disk at once: the process may be about to be killed."""
        entry = {"t": round(time.monotonic(), 6), "dir": direction, "peer": f"{self.name}/{peer}", "msg": message}
        self.file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.file.flush()

    def take(self, direction: str, peer: str, line: str, frame: bytes) -> tuple[Any, str | None]:
        """Note a frame; the message and the method it belongs to. Dies here if a trip says so."""
        message = json.loads(frame.decode(errors="replace"), strict=False)
        method, key = message.get("method"), (line, json.dumps(message.get("id")))
        if method is None:
            method = self.methods.pop(key, None)
        elif "id" in message:
            self.methods[key] = method
        self.write(direction, peer, message)
        return message, method

    # Trips -----------------------------------------------------------------------------------------------

    def check(self, direction: str, method: str | None, when: str) -> None:
        """Kill the process that the trip names, or hold everything, if this is the frame."""
        if not os.path.exists(self.trip):
            return
        with open(self.trip, encoding="utf-8") as file:
            trip = json.load(file)
        if (trip["dir"], trip["method"], trip["when"]) != (direction, method, when):
            return
        if trip["kill"] == "none":
            self._hold(trip)
            return
        os.unlink(self.trip)
        self.write("mark", "plugin", {"event": "killed", **trip})
        assert self.child is not None
        if trip["kill"] == "node":
            os.kill(os.getppid(), signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        os._exit(1)

    def _hold(self, trip: Entry) -> None:
        self.write("mark", "plugin", {"event": "held", **trip})
        os.rename(self.trip, self.trip + HELD)
        while os.path.exists(self.trip + HELD):
            time.sleep(POLL_S)
        self.write("mark", "plugin", {"event": "released", **trip})

    # Lines -----------------------------------------------------------------------------------------------

    async def run(self, command: list[str]) -> int:
        """Until the plugin ends."""
        loop = asyncio.get_running_loop()
        pipe = asyncio.subprocess.PIPE
        self.child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=LIMIT)
        self.write("mark", "plugin", {"event": "started", "pid": self.child.pid})
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._pass_signal, number)
        node = asyncio.StreamReader(limit=LIMIT)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(node), sys.stdin.buffer)
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        inward = asyncio.ensure_future(self._inward(node, self.child.stdin))
        with contextlib.suppress(BrokenPipeError):  # lightningd is gone
            await self._outward(self.child.stdout)
        inward.cancel()
        self.child.stdin.close()  # the plugin ends when its input does
        return await self.child.wait()

    def _pass_signal(self, number: int) -> None:
        assert self.child is not None
        with contextlib.suppress(ProcessLookupError):
            self.child.send_signal(number)

    async def _inward(self, node: asyncio.StreamReader, plugin: asyncio.StreamWriter) -> None:
        reader = FrameReader()
        with contextlib.suppress(ConnectionError):
            while data := await node.read(LIMIT):
                for frame in reader.feed(data):
                    message, method = self.take("host>plugin", "plugin", "hooks", frame)
                    if method == "init" and "configuration" in message.get("params", {}):
                        frame = await self._own_socket(message)
                    self.check("host>plugin", method, "before")
                    plugin.write(frame + b"\n\n")
                    await plugin.drain()
                    self.check("host>plugin", method, "after")
            plugin.close()

    async def _outward(self, plugin: asyncio.StreamReader) -> None:
        reader = FrameReader()
        while data := await plugin.read(LIMIT):
            for frame in reader.feed(data):
                _, method = self.take("plugin>host", "plugin", "hooks", frame)
                self.check("plugin>host", method, "before")
                _write_all(1, frame + b"\n\n")
                self.check("plugin>host", method, "after")

    async def _own_socket(self, init: Entry) -> bytes:
        """Open a socket beside lightningd's and name it in `init`."""
        configuration = init["params"]["configuration"]
        own = f"{configuration['rpc-file']}-{self.name}"
        self.real_socket = os.path.join(configuration["lightning-dir"], configuration["rpc-file"])
        path = os.path.join(configuration["lightning-dir"], own)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        await asyncio.start_unix_server(self._serve, path, limit=LIMIT)
        configuration["rpc-file"] = own
        return json.dumps(init).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        line = f"rpc{self._connections}"
        try:
            node_reader, node_writer = await asyncio.open_unix_connection(self.real_socket, limit=LIMIT)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            self._copy("rpc>host", line, reader, node_writer), self._copy("host>rpc", line, node_reader, writer)
        )

    async def _copy(
        self, direction: str, line: str, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        frames = FrameReader()
        with contextlib.suppress(ConnectionError, MalformedFrame):
            while data := await source.read(LIMIT):
                for frame in frames.feed(data):
                    _, method = self.take(direction, "plugin-rpc", line, frame)
                    self.check(direction, method, "before")
                    target.write(frame + b"\n\n")
                    await target.drain()
                    self.check(direction, method, "after")
        target.close()


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def main(arguments: list[str]) -> int:
    """Run the plugin named after `--`."""
    cut = arguments.index("--")
    transcript, trip, name = arguments[:cut]
    with open(transcript, "a", encoding="utf-8") as file:
        return asyncio.run(Recorder(file, trip, name).run(arguments[cut + 1 :]))


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(max(code, 0))
