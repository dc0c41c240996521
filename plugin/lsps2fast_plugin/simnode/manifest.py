"""The members of a plugin's `getmanifest` answer, and how options become the `options` of `init` (cln:M1 to cln:M7)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from .errors import PluginFailed

HOOKS = {
    "htlc_accepted": True,  # chained: every plugin in turn
    "custommsg": True,
    "openchannel": True,
    "invoice_payment": True,
    "peer_connected": True,
    "rpc_command": True,
    "commitment_revocation": True,
    "db_write": False,
    "openchannel2": True,
    "openchannel2_changed": True,
    "openchannel2_sign": True,
    "rbf_channel": True,
    "onion_message_recv": True,
    "onion_message_recv_secret": True,
    "recover": True,
}
FILTERED_HOOKS = ("custommsg", "rpc_command")
OPTION_TYPES = ("string", "int", "bool", "flag", "string-conceal")


@dataclass
class Option:
    """One option of a plugin; `value` None means not set and without default."""

    name: str
    kind: str = "string"
    default: Any = None
    description: str = ""
    multi: bool = False
    dynamic: bool = False
    deprecated: bool = False
    value: Any = None
    source: str = "default"

    def typed(self, text: Any) -> Any:
        """Return the value as its type says; raises ValueError with lightningd's words."""
        if self.kind in ("string", "string-conceal"):
            return str(text)
        if self.kind == "int":
            try:
                return int(text)
            except ValueError:
                raise ValueError(f"'{text}' is not a number") from None
        if isinstance(text, bool):
            return text
        if str(text).lower() in ("true", "1"):
            return True
        if str(text).lower() in ("false", "0"):
            return False
        raise ValueError(f"'{text}' is not a boolean")


@dataclass
class Manifest:
    """The checked manifest of one plugin."""

    options: dict[str, Option] = field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    subscriptions: set[str] = field(default_factory=set)
    hooks: dict[str, list[Any] | None] = field(default_factory=dict)
    hook_order: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    dynamic: bool = True
    can_check: bool = False
    featurebits: dict[str, str] = field(default_factory=dict)
    custommessages: list[int] = field(default_factory=list)
    notifications: set[str] = field(default_factory=set)

    def init_options(self) -> dict[str, Any]:
        """`options` of `init`: typed; a flag that is not given and a value-less option are left out (cln:M7)."""
        result: dict[str, Any] = {}
        for option in self.options.values():
            if option.value is None or (option.kind == "flag" and option.value is False):
                continue
            result[option.name] = [option.value] if option.multi else option.value
        return result


def read_manifest(answer: dict[str, Any], starting_dynamically: bool) -> Manifest:
    """Check the answer; raises PluginFailed with the text that follows the plugin's path (cln:M5)."""
    if "disable" in answer:
        raise PluginFailed(f"disabled itself: {answer['disable']}")
    manifest = Manifest(dynamic=bool(answer.get("dynamic", False)))
    if starting_dynamically and not manifest.dynamic:
        raise PluginFailed("Not a dynamic plugin")
    manifest.can_check = bool(answer.get("cancheck", False))
    manifest.featurebits = answer.get("featurebits") or {}
    if manifest.dynamic and any(manifest.featurebits.values()):
        shown = json.dumps(manifest.featurebits)
        raise PluginFailed(f"Custom featurebits only allows for non-dynamic plugins: dynamic=1, featurebits={shown}")
    _read_hooks(manifest, answer.get("hooks", []))
    for raw in answer.get("options", []):
        option = _read_option(raw)
        manifest.options[option.name] = option
    manifest.methods = {method["name"]: method for method in answer.get("rpcmethods", [])}
    manifest.subscriptions = set(answer.get("subscriptions", []))
    manifest.custommessages = list(answer.get("custommessages", []))
    manifest.notifications = {item["method"] for item in answer.get("notifications", [])}
    return manifest


def _read_hooks(manifest: Manifest, hooks: list[Any]) -> None:
    for hook in hooks:
        entry: dict[str, Any] = {"name": hook} if isinstance(hook, str) else hook
        name = entry["name"]
        if name not in HOOKS:
            raise PluginFailed(f"Unknown hook name {name}")
        if name in manifest.hooks:
            raise PluginFailed(f"Registered for hook {name} multiple times")
        filters = entry.get("filters")
        if filters is not None and name not in FILTERED_HOOKS:
            raise PluginFailed(f"Hook {name} does not allow filters")
        manifest.hooks[name] = None if filters is None else _filters(name, filters)
        manifest.hook_order[name] = {"before": entry.get("before", []), "after": entry.get("after", [])}


def _filters(hook: str, filters: list[Any]) -> list[Any]:
    """Names of commands, or message types; cln:M3: ["37913"] works like [37913]."""
    return [str(item) if hook == "rpc_command" else int(item) for item in filters]


def _read_option(raw: dict[str, Any]) -> Option:
    option = Option(
        raw["name"],
        raw.get("type", "string"),
        raw.get("default"),
        raw.get("description", ""),
        bool(raw.get("multi", False)),
        bool(raw.get("dynamic", False)),
        bool(raw.get("deprecated", False)),
    )
    if option.kind not in OPTION_TYPES:
        raise PluginFailed(
            f'Only "string", "int", "bool", "flag" and "string-conceal" options are supported: {option.kind}'
        )
    if option.default is not None:
        option.value = option.typed(option.default)
    return option


def set_options(manifest: Manifest, values: dict[str, Any], source: str) -> None:
    """Give options their values; raises PluginFailed for an unknown one or a wrong type."""
    for name, text in values.items():
        option = manifest.options.get(name)
        if option is None:
            raise PluginFailed(f"unknown option '{name}'")
        try:
            option.value = option.typed(text)
        except ValueError as error:
            raise PluginFailed(str(error)) from None
        option.source = source
