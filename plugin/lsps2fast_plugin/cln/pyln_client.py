"""What is used of pyln-client, without the rest of its package.

`pyln.client` imports its gossip map, and with that the codecs of all BOLTs, bitstring and cryptography: 18 MB and 50 ms
of a plugin that reads no gossip. Its `plugin` module is public and needs none of that. So the package is entered
without running its `__init__`; that runs when something else is asked of it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any, Final

PACKAGE: Final = "pyln.client"


class _Unopened(ModuleType):
    """A package whose `__init__` has not run yet: it runs when a name is asked for that its submodules do not give."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        loader = None if self.__spec__ is None else self.__spec__.loader
        assert loader is not None
        loader.exec_module(self)
        return getattr(self, name)


def _enter() -> None:
    if PACKAGE not in sys.modules and (spec := find_spec(PACKAGE)) is not None:
        module = module_from_spec(spec)
        module.__class__ = _Unopened
        sys.modules[PACKAGE] = module
        parent, _, name = PACKAGE.rpartition(".")  # `find_spec` has imported that
        setattr(sys.modules[parent], name, module)


_enter()

from pyln.client.plugin import (  # noqa: E402 - after the package was entered
    MethodType,
    Plugin,
    PluginLogHandler,
    Request,
    RequestState,
    RpcException,
)

__all__ = ["MethodType", "Plugin", "PluginLogHandler", "Request", "RequestState", "RpcException"]
