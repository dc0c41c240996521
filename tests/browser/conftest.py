"""The page in a real browser: without one these tests are skipped, and the summary says so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from harness.browser import Browser, chromium


@pytest.fixture(scope="session")
def page_loop() -> Iterator[asyncio.Runner]:
    """One loop for all of these tests, and so one browser."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def browser(page_loop: asyncio.Runner) -> Iterator[Browser]:
    """The browser."""
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on PATH: install Debian's chromium, or name one with LSPS2FAST_CHROMIUM")
    running = Browser(program)
    page_loop.run(running.__aenter__())
    yield running
    page_loop.run(running.__aexit__(None, None, None))


@pytest.fixture(autouse=True)
def runner(page_loop: asyncio.Runner) -> asyncio.Runner:
    """These tests run on the browser's loop."""
    return page_loop
