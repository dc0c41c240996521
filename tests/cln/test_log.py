"""Modules log as usual, and it comes out as frames for lightningd."""

from __future__ import annotations

import logging
from collections.abc import Callable

from harness.host import Desk
from pyln.client.plugin import PluginLogHandler

from lsps2fast_plugin.cln.log import LightningdHandler, installed

OURS = logging.getLogger("lsps2fast_plugin.service.something")


def test_levels_and_tracebacks() -> None:
    """cln:W10: lightningd's words for levels; an exception comes with its traceback."""
    said: list[tuple[str, str]] = []
    with installed(LightningdHandler(lambda text, level: said.append((level, text)))):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
            OURS.log(level, f"100 % of level {level}")
        logging.getLogger("asyncio").error("Task was destroyed")
        try:
            raise ValueError("a cause")
        except ValueError:
            OURS.exception("it failed")
    OURS.error("without a handler")
    *levels, other, error = said
    assert [level for level, _ in levels] == ["debug", "info", "warn", "error", "error"]
    assert levels[0] == ("debug", "100 % of level 10")
    assert other == ("error", "asyncio: Task was destroyed")
    assert error[1].startswith("it failed\nTraceback")
    assert error[1].endswith("ValueError: a cause")


def test_a_running_host_writes_what_is_logged_once(open_desk: Callable[..., Desk]) -> None:
    """cln:W13: pyln-client's handler would say it a second time, with warnings as info."""
    desk = open_desk()
    desk.load()
    OURS.warning("three\nlines\nof text")
    logging.getLogger("asyncio").warning("once")
    desk.host.log("the end")
    desk.log_with("the end")
    assert desk.logs[-5:] == ["three", "lines", "of text", "asyncio: once", "the end"]
    assert not [handler for handler in logging.getLogger().handlers if isinstance(handler, PluginLogHandler)]
