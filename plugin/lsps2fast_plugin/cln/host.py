"""The plugin's side of the wire to lightningd: reads hooks, never answers badly, ends politely.

Built on pyln-client's `Plugin`, which keeps options, manifest, methods and the dispatch of everything rare (pyln_side);
its reading loop is replaced by the lane (lane.py) and its output goes through the lane's lock as
whole frames. What is decided about an HTLC belongs to `on_htlc`; that each HTLC gets exactly one well-formed answer,
whatever happens, belongs here (rule:1), and so does failing the held ones on the way out (rule:17).

One asyncio loop owns everything but the lane. Only `log`, `answers` and writes may come from another thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any

from lsps2fast import _hook as hook
from lsps2fast import _tlv as tlv
from lsps2fast_plugin.cln import lenient_json
from lsps2fast_plugin.cln.htlc_filter import HtlcFilter, Verdict, why_not_in_c
from lsps2fast_plugin.cln.inbox import Ended, LogLimit, ShedBook
from lsps2fast_plugin.cln.log import LightningdHandler, installed
from lsps2fast_plugin.cln.pyln_adapter import TEMPORARY_NODE_FAILURE, PylnAdapter
from lsps2fast_plugin.cln.pyln_client import Plugin
from lsps2fast_plugin.cln.reader import LATENCY_BOUNDS_S, HookReader, Output, make_lane, make_output

__all__ = ["Host", "HtlcFilter"]


TEMPORARY_CHANNEL_FAILURE = "10070000"  # cln:H7: the form BOLT 4 asks for
INVALID_ONION_BLINDING = "c018" + "00" * 32  # BOLT 4; the hook does not show the packet whose hash is due
FRAMES_A_TURN = 100  # frames handled before other tasks of the loop get their turn
SHUTDOWN_S = 5.0  # for all on_shutdown callbacks; lightningd waits 30 s (cln:W5)


class Host(PylnAdapter):
    """Runs a plugin; see the module docstring.

    `on_htlc(scan)` is called on the loop for each HTLC of interest. Its owner answers each once, at any time, with
    `forward`, `final`, `settle`, `fail` or `let_go`; one whose handler raises is failed with 2002. `fd_in` and `fd_out`
    are for tests; with the defaults stray prints of this process and its children cannot reach lightningd.
    """

    has_threads = True  # whether more than the loop runs: not in a run on simulated time

    def __init__(
        self,
        plugin: Plugin,
        interest: HtlcFilter,
        on_htlc: Callable[[Any], None],
        *,
        fd_in: int = 0,
        fd_out: int = 1,
        now: Callable[[], float] = time.monotonic,
        lane: Callable[..., HookReader] = make_lane,
        output: Callable[..., Output] = make_output,
    ) -> None:
        self.interest = interest
        self._on_htlc = on_htlc
        self._fd_in = fd_in
        self._fd_out = fd_out
        self._out = output(interest, fd_out, self._on_broken_stdout)
        self._make_lane = lane
        self._lane: HookReader | None = None
        self._limit = LogLimit(now)
        self._shed = ShedBook(now)
        self._open: dict[bytes, Any] = {}  # calls without an answer, None for one that cannot be read
        self._waiting: list[Any] = []
        self._ending = False
        self._exit_code = 0
        self._goodbyes: list[Callable[[], Awaitable[None]]] = []
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order of their beginning
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Event | None = None
        super().__init__(plugin)
        plugin.add_subscription("shutdown", self._on_shutdown_event)

    # ---- what the owner registers, before run()

    def on_shutdown(self, goodbye: Callable[[], Awaitable[None]]) -> None:
        """Run `goodbye()` when the plugin ends, before held HTLCs are failed; all together have 5 s."""
        self._goodbyes.append(goodbye)

    # ---- what the owner does while running

    async def run(self) -> int:
        """Serve lightningd until `shutdown`, SIGTERM or the end of stdin; the exit code.

        On the way out every HTLC that has no answer is failed with 10070000 (cln:W12). 1 when the stream made no sense.
        """
        if os.environ.get("LIGHTNINGD_PLUGIN") != "1":
            self.plugin.run()  # prints the usage
            return 0
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._claim_standard_streams()
        self._lane = lane = self._make_lane(self._fd_in, self.interest, self._out, self._wake)
        if lane.wake_fd >= 0:
            self._loop.add_reader(lane.wake_fd, self._woken, lane.wake_fd)
        if self.interest.sets is None and why_not_in_c:
            slow = f"hooks are read in Python, not in C: {why_not_in_c}"
            self.write(lenient_json.notification("log", {"level": "warn", "message": slow}))
        with installed(self._log_handler()):  # to the last: else a late line goes to stderr
            try:
                with self._sigterm():
                    lane.start()
                    await self._end.wait()
                    await self._say_goodbye()
            finally:
                self._ending = True
                self._fail_open()
                await self._stop_tasks()
                self._drain_all()
                self._fail_open()
                self._out.mute()
                lane.stop()
                if lane.wake_fd >= 0:
                    self._loop.remove_reader(lane.wake_fd)
        return self._exit_code

    def hook_latencies(self) -> tuple[list[int], float]:
        """Return how long the HTLCs that are not ours waited for their answer: `HookReader.latencies`."""
        return ([0] * (len(LATENCY_BOUNDS_S) + 1), 0.0) if self._lane is None else self._lane.latencies

    def shed(self) -> ShedBook:
        """Return what the lane has let go unread since the start, because more came than could be read."""
        if self._lane is not None:
            self._shed.look(self._lane.take_shed())
        return self._shed

    def _log_handler(self) -> logging.Handler:
        """Return what carries our log to lightningd."""
        return LightningdHandler(self.log)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine on the loop, by itself; what it raises is logged. It is cancelled at the end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    def channels_loaded(self) -> None:
        """Let other forwards go: all channels that no forward may enter are in `interest.channel_ids`."""
        self.interest.channels_loaded = True
        self._judge_waiting()

    def interest_loaded(self) -> None:
        """Judge the HTLCs that waited, in the order they came: `interest` is complete (cln:W11)."""
        self.interest.channels_loaded = True
        self.interest.loaded = True
        self._judge_waiting()

    def forward(self, id_raw: bytes, payload_hex: str, channel_id: str, extra_tlvs_hex: str) -> None:
        """Answer `continue` into a channel with another payload (cln:H5); see `hook.answer_forward`."""
        self._answer(id_raw, hook.answer_forward, payload_hex, channel_id, extra_tlvs_hex)

    def final(self, id_raw: bytes, payload_hex: str, invoice_msat: int | None = None) -> None:
        """Answer `continue` here with another payload (cln:C2); see `hook.answer_final`."""
        self._answer(id_raw, hook.answer_final, payload_hex, invoice_msat)

    def fail(self, id_raw: bytes, failure_hex: str) -> None:
        """Answer `fail` with a BOLT 4 failure message; inside a blinded path there is one for all (C-25)."""
        self._answer(id_raw, hook.answer_fail, _hidden(self._open.get(id_raw), failure_hex))

    def settle(self, ids: Iterable[bytes], preimage: bytes) -> None:
        """Answer these calls, of one payment, `resolve`: in one write, so that a death takes all of it or nothing."""
        frames: list[bytes] = []
        for id_raw in ids:
            scan = self._open.get(id_raw)
            if scan is None or hashlib.sha256(preimage).digest() != scan.payment_hash:
                self.log(f"refused: {id_raw!r} has no open htlc_accepted call, or another preimage", "error")
                continue
            frames.append(hook.answer_resolve(id_raw, preimage))
            del self._open[id_raw]
        if frames:
            self.write(b"".join(frames))

    def let_go(self, id_raw: bytes) -> None:
        """Answer `continue` and nothing else."""
        self._answer(id_raw, hook.answer_continue)

    def log(self, text: str, level: str = "info") -> None:
        """Log through lightningd, a line each; from any thread. A flood is cut, and the cut is said."""
        for line in text.splitlines():
            dropped = self._limit.pass_or_drop()
            if dropped is None:
                continue
            if dropped:
                self.write(
                    lenient_json.notification("log", {"level": "warn", "message": f"{dropped} log lines dropped"})
                )
            self.write(lenient_json.notification("log", {"level": level, "message": line}))

    def write(self, whole_frames: bytes) -> None:
        """Write whole frames to lightningd; from any thread. Blocks while the pipe is full, which is enough
        (cln:W10).
        """
        self._out.write(whole_frames)

    def _on_broken_stdout(self, error: OSError) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the end has come already
                self._loop.call_soon_threadsafe(self._stop, f"stdout cannot be written: {error}", 1)

    # ---- frames, on the loop

    def _wake(self) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: frames are not taken any more
                self._loop.call_soon_threadsafe(self._drain)

    def _woken(self, wake_fd: int) -> None:
        os.read(wake_fd, 1)
        self._drain()

    def _drain(self) -> None:
        items = [] if self._lane is None else self._lane.take(FRAMES_A_TURN)
        for item in items:
            self._take_safely(item)
        if items and self._loop is not None:
            self._loop.call_soon(self._drain)
        if self._lane is not None and self._shed.is_due(self._lane.shed_count):
            self.shed()
            self.log(self._shed.line(), "warn")

    def _drain_all(self) -> None:
        while self._lane is not None and (items := self._lane.take(FRAMES_A_TURN)):
            for item in items:
                self._take_safely(item)

    def _take_safely(self, item: bytes | Ended) -> None:
        try:
            self._take(item)
        except Exception:  # a bug of ours must not stop the frames behind it, nor leave an HTLC without its answer
            self.log(f"a frame failed in our code: {item!r:.200}\n{traceback.format_exc()}", "error")
            id_raw = hook.method_of(item)[1] if isinstance(item, bytes) else None
            if id_raw in self._open:
                self.fail(id_raw, TEMPORARY_NODE_FAILURE)

    def _take(self, item: bytes | Ended) -> None:
        if isinstance(item, Ended):
            self._stop(item.why or "end of stdin", 0 if item.why is None else 1)
            return
        scan = hook.scan(item)
        if scan is not None:
            if self._admit(scan.id_raw, scan):
                self._judge(scan)
            return
        method, id_raw = hook.method_of(item)
        if method == "htlc_accepted" and id_raw is not None:
            self._take_odd_htlc(item, id_raw)
        elif method is not None:
            self._dispatch(item, method, id_raw)
        else:
            self.log(f"a frame without a method, ignored: {item[:200]!r}", "error")

    def _admit(self, id_raw: bytes, scan: Any = None) -> bool:
        """Note that this call needs an answer. False for one that cannot have one, or has it coming already."""
        try:
            hook.answer_continue(id_raw)
        except ValueError as error:
            self.log(f"an htlc_accepted call cannot be answered: {error}", "error")
            return False
        if id_raw in self._open:
            self.log(f"htlc_accepted {id_raw.decode()} came twice; it gets one answer", "error")
            return False
        self._open[id_raw] = scan
        return True

    def _judge(self, scan: Any) -> None:
        has_extra = scan.extra_tlvs is not None
        verdict = self.interest.judge(scan.next_scid, scan.forward_to, scan.payment_hash, has_extra, scan.peer_id)
        if verdict is Verdict.FOREIGN:
            self.let_go(scan.id_raw)
        elif self._ending:
            self.fail(scan.id_raw, TEMPORARY_CHANNEL_FAILURE)
        elif verdict is Verdict.UNKNOWN:
            self._waiting.append(scan)
        else:
            self._give(scan)

    def _judge_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for scan in waiting:
            if scan.id_raw in self._open:
                self._judge(scan)

    def _give(self, scan: Any) -> None:
        try:
            self._on_htlc(scan)
        except Exception:  # the HTLC needs its answer all the same
            what = f"htlc_accepted {scan.id_raw.decode()} failed in our code"
            self.log(f"{what}, answered with a temporary failure\n{traceback.format_exc()}", "error")
            if scan.id_raw in self._open:
                self.fail(scan.id_raw, TEMPORARY_NODE_FAILURE)

    def _take_odd_htlc(self, frame: bytes, id_raw: bytes) -> None:
        """Read leniently a call that the strict reader left: let it go when it is surely not ours, else fail it."""
        if not self._admit(id_raw):
            return
        try:
            call = lenient_json.parse(frame, unique=True)
            hop = lenient_json.hop_of(call)
        except (ValueError, RecursionError) as error:
            self._fail_odd(id_raw, error)
            return
        try:
            scan = self._open[id_raw] = lenient_json.scan(call, id_raw)
        except ValueError as error:
            if self.interest.judge(*hop) is Verdict.FOREIGN:
                self.log(f"htlc_accepted {id_raw.decode()} is odd ({error}) but not ours; let go", "warn")
                self.let_go(id_raw)
            else:
                self._fail_odd(id_raw, error)
            return
        self._judge(scan)

    def _fail_odd(self, id_raw: bytes, error: Exception) -> None:
        what = f"htlc_accepted {id_raw.decode()} cannot be read ({error})"
        self.log(f"{what}; answered with a temporary failure", "error")
        self.fail(id_raw, TEMPORARY_NODE_FAILURE)

    def _answer(self, id_raw: bytes, build: Callable[..., bytes], *parts: Any) -> None:
        if id_raw not in self._open:
            self.log(f"refused: {id_raw!r} has no open htlc_accepted call, or is answered already", "error")
            return
        try:
            frame = build(id_raw, *parts)
        except Exception as error:  # whatever is wrong with the parts, the HTLC needs its one answer
            self.log(f"{id_raw.decode()}: {error}; answered with a temporary failure instead", "error")
            frame = hook.answer_fail(id_raw, _hidden(self._open[id_raw], TEMPORARY_NODE_FAILURE))
        del self._open[id_raw]
        self.write(frame)

    # ---- beginning and end

    def _claim_standard_streams(self) -> None:
        """Keep fds 0 and 1 to ourselves: what this process or a child prints goes to stderr, never to lightningd."""
        if self._fd_in == 0:
            self._fd_in = os.dup(0)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.close(nothing)
        if self._fd_out == 1:
            self._fd_out = os.dup(1)
            self._out.move(self._fd_out)
            os.dup2(2, 1)

    @contextlib.contextmanager
    def _sigterm(self) -> Iterator[None]:
        """End politely on SIGTERM, where that can be asked for."""
        loop = asyncio.get_running_loop()
        main = threading.current_thread() is threading.main_thread()
        if main:
            loop.add_signal_handler(signal.SIGTERM, self._stop, "SIGTERM", 0)
        try:
            yield
        finally:
            if main:
                loop.remove_signal_handler(signal.SIGTERM)

    def _on_shutdown_event(self, **_: Any) -> None:
        self._stop("shutdown", 0)

    def _stop(self, why: str, exit_code: int) -> None:
        if self._ending:
            return
        self._ending = True
        self._exit_code = exit_code
        self.log(f"ending: {why}; {len(self._open)} held HTLCs", "error" if exit_code else "debug")
        if self._end is not None:
            self._end.set()

    async def _say_goodbye(self) -> None:
        if not self._goodbyes:
            return
        work = [asyncio.ensure_future(self._one_goodbye(goodbye)) for goodbye in self._goodbyes]
        _, late = await asyncio.wait(work, timeout=SHUTDOWN_S)
        for task in late:
            task.cancel()
        if late:
            self.log(f"the end did not wait for {len(late)} callbacks", "warn")

    async def _one_goodbye(self, goodbye: Callable[[], Awaitable[None]]) -> None:
        try:
            await goodbye()
        except Exception:  # the others, and the HTLCs, still need their end
            self.log(f"a callback of the end failed\n{traceback.format_exc()}", "error")

    def let_ends_go(self) -> None:
        """Let go what ends here and waits until all is known: lightningd looks after its invoices itself."""
        for scan in self._waiting:
            if scan.next_scid == -1 and scan.forward_to is None and scan.id_raw in self._open:
                self.let_go(scan.id_raw)

    def _fail_open(self) -> None:
        self.let_ends_go()
        for id_raw in list(self._open):
            self.fail(id_raw, TEMPORARY_CHANNEL_FAILURE)

    async def _stop_tasks(self) -> None:
        """Cancel what still runs; methods answer with an error."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            lines = "".join(traceback.format_exception(error))
            self.log(f"a task failed\n{lines}", "error")


def _hidden(call: Any, failure_hex: str) -> str:
    """Return what the payer is told of this call; at the end of a path lightningd hides it itself (cln:N7)."""
    if call is None or call.next_scid == -1:
        return failure_hex
    try:
        return INVALID_ONION_BLINDING if tlv.read_payload(call.payload_hex).blinded else failure_hex
    except Exception:  # whatever is wrong with its payload, the HTLC needs its answer
        return failure_hex
