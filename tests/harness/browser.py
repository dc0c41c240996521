"""A headless Chromium, driven over its DevTools protocol: what a reader of a page sees, presses and is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome-headless-shell")
PATIENCE_S = 60.0
START_S = 40.0
KEYS = {"Tab": 9, "Enter": 13, " ": 32}


def chromium() -> str | None:
    """Return the browser of this machine: LSPS2FAST_CHROMIUM, or one on PATH."""
    return os.environ.get("LSPS2FAST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """`async with Browser(program) as browser`: one process, a profile of its own."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.tabs: dict[str, Tab] = {}

    async def __aenter__(self) -> Browser:
        self._exits = exits = contextlib.AsyncExitStack()
        profile = exits.enter_context(tempfile.TemporaryDirectory(prefix="l2f-browser-", ignore_cleanup_errors=True))
        self._process = await asyncio.create_subprocess_exec(
            *(
                self._program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ),
            *(f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        exits.push_async_callback(self._end)
        async with asyncio.timeout(START_S):
            url = await self._url()
        self._drain = asyncio.create_task(self._read_stderr())
        self._session = await exits.enter_async_context(aiohttp.ClientSession())
        self._socket = await self._session.ws_connect(url, max_msg_size=0)
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (self._listening, self._drain):
            task.cancel()
        await self._socket.close()
        await self._exits.aclose()

    async def _end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def _url(self) -> str:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            if found := re.search(rb"DevTools listening on (ws://\S+)", line):
                return found[1].decode()
        raise AssertionError(f"{self._program} ended at its start")

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while await self._process.stderr.readline():
            pass

    async def _listen(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said.get("sessionId") in self.tabs:
                self.tabs[said["sessionId"]].hear(said["method"], said["params"])

    async def call(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> Any:
        """Return the answer of a command of the DevTools protocol."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params or {}}
        await self._socket.send_json(message if session is None else message | {"sessionId": session})
        said = await asyncio.wait_for(answer, PATIENCE_S)
        assert "error" not in said, f"{method}: {said}"
        return said["result"]

    async def open(self, url: str, *, width: int = 1_200, height: int = 900, dark: bool = False) -> Tab:
        """Return a new tab of a profile of its own, that shows this address."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        attached = await self.call("Target.attachToTarget", {"targetId": target["targetId"], "flatten": True})
        tab = self.tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            await tab.call(f"{domain}.enable")
        mobile = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        await tab.call("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        await tab.call("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        await tab.call("Page.navigate", {"url": url})
        await tab.until("location.href !== 'about:blank' && document.readyState === 'complete'")
        return tab


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.faults: list[str] = []  # exceptions of its script, and what the browser complains of

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Take note of what went wrong on the page."""
        if method == "Runtime.exceptionThrown":
            self.faults.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.faults.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Return the answer of a command about this tab."""
        return await self._browser.call(method, params, self._session)

    async def value(self, expression: str) -> Any:
        """Return what an expression is on the page."""
        asked = {"expression": expression, "returnByValue": True, "awaitPromise": True}
        answer = await self.call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true on the page."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await self.value(expression):  # noqa: ASYNC110  (a page tells nothing by itself)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never: {expression}; the page says:\n{await self.text()}\n{self.faults}") from None

    async def says(self, *words: str, where: str = "body") -> None:
        """Wait until all these words are seen there."""
        for each in words:
            await self.until(f"document.querySelector({where!r}).innerText.includes({each!r})")

    async def text(self, where: str = "body") -> str:
        """Return what is seen there."""
        seen: str = await self.value(f"document.querySelector({where!r}).innerText")
        return seen

    async def press(self, key: str, times: int = 1) -> None:
        """Press a key."""
        for _ in range(times):
            pressed = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
            text = {"Enter": "\r", " ": " "}.get(key)
            await self.call(
                "Input.dispatchKeyEvent", {"type": "keyDown", **pressed, **({"text": text} if text else {})}
            )
            await self.call("Input.dispatchKeyEvent", {"type": "keyUp", **pressed})

    async def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        await self.call("Input.insertText", {"text": text})

    async def told(self) -> list[tuple[str, str]]:
        """Return what a screen reader is given: role and name of everything that has both."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [
            (node["role"]["value"], node["name"]["value"])
            for node in nodes
            if not node.get("ignored") and node.get("name", {}).get("value")
        ]

    async def picture(self, path: Path) -> None:
        """Write what is seen of the whole page."""
        shot = await self.call("Page.captureScreenshot", {"captureBeyondViewport": True})
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))
