"""What every plugin process of ours begins with: its host on standard streams, its clock, its chance, its `init`."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.cln import built_in
from lsps2fast_plugin.cln.chance import chance
from lsps2fast_plugin.cln.clock import Clock
from lsps2fast_plugin.cln.host import Host, HtlcFilter
from lsps2fast_plugin.cln.notifications import heard
from lsps2fast_plugin.cln.pyln_client import Plugin

AddOptions = Callable[[Plugin], None]


class PluginApp(ABC):
    """One plugin process."""

    def __init__(
        self,
        plugin: Plugin,
        interest: HtlcFilter,
        add_options: AddOptions,
        *,
        clock: Clock | None,
        dice: random.Random | None,
        make_host: Callable[..., Host],
    ) -> None:
        """Time, chance and standard streams are the process's own; a simulation brings others."""
        self.plugin = plugin
        self.interest = interest
        self.clock = clock or Clock()
        self._dice = dice or chance()
        self.at_rest: Callable[[], None] = lambda: None  # called once all that was stored is read
        self.host = make_host(plugin, interest, self._on_htlc)
        add_options(plugin)
        plugin.init()(self._init)
        self.host.on_shutdown(self._shutdown)

    def _subscribe(self, handlers: Mapping[str, Callable[[Any], None]]) -> None:
        """Declare notifications; each handler takes its topic's type of `notifications`."""
        self._handlers = dict(handlers)
        for topic in handlers:
            self.host.subscribe(topic, partial(self.hear, topic))

    def hear(self, topic: str, **params: Any) -> None:
        """Take a notification from lightningd. Raises NodeUnreachable for one that makes no sense."""
        self._handlers[topic](heard(topic, params))

    def _init(self, options: dict[str, Any], configuration: dict[str, Any], **_: Any) -> dict[str, Any] | None:
        """Answer at once (rule:15); a configuration that cannot work disables the plugin with a sentence."""
        path = os.path.join(configuration["lightning-dir"], configuration["rpc-file"])
        try:
            refuse_without_gil()
            self._begin(path, configuration)
        except ConfigError as error:
            self.plugin.log(f"not started: {error}", "warn")  # lightningd writes the reason at debug level
            return {"disable": str(error)}
        return None

    @abstractmethod
    def _begin(self, rpc_path: str, configuration: dict[str, Any]) -> None:
        """Read the options and begin the start in the background. Raises ConfigError."""

    @abstractmethod
    def _on_htlc(self, call: Any) -> None:
        """Take an HTLC that the filter has let through."""

    def _loaded(self) -> None:
        """All that was stored is known: let in what has waited for it."""
        self.host.interest_loaded()
        self.at_rest()

    @abstractmethod
    async def _shutdown(self) -> None:
        """Answer what is held, and close what is open."""


def run(make: Callable[[], PluginApp], beside: str, add_options: AddOptions, own_prefix: str) -> int:
    """Run a plugin until lightningd ends it; beside the built-in one it takes the place of, only say so."""
    if built_in.is_beside(beside, os.getpid()):
        return built_in.stand_aside(beside, add_options, own_prefix)
    app = make()
    gc.disable()  # a long journal is read without being searched for garbage again and again (P27)
    app.at_rest = _search_what_is_new
    return asyncio.run(app.host.run())


def _search_what_is_new() -> None:
    """Look for garbage from now on, but not in what was read at the start: that would hold the loop (P27)."""
    gc.freeze()
    gc.enable()


def refuse_without_gil() -> None:
    """Raise ConfigError on a free-threaded Python: loop and lane share sets that were only tried with the GIL."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise ConfigError(
            "this Python runs without its GIL: install lsps2fast for an ordinary one, or set PYTHON_GIL=1"
        )
