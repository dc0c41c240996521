"""docs/reference/log-events.md: every sentence that the plugins log, with its level, read from the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import lsps2fast
import lsps2fast_plugin
from lsps2fast_plugin.service.alarms import KINDS, OTHER

CORE: Final = Path(str(lsps2fast.__file__)).parent  # its alarms are the service's
PACKAGE: Final = Path(str(lsps2fast_plugin.__file__)).parent
ALARMS: Final = ("Alarm", "_alarm", "alarm")
PARTS: Final = {"service": "The service", "client": "The wallet", "cln": "Both: the connection to lightningd"}
LEVELS: Final = {"error": "error", "warning": "warn", "info": "info", "debug": "debug"}
WORDS: Final = {"error": 0, "warn": 1, "info": 2, "debug": 3}
HOLE: Final = "…"  # what differs from line to line
Names = dict[str, list[ast.expr]]  # what a name may be; with "()" behind it what a function may return


class Event(NamedTuple):
    """A sentence of the log: lightningd's word for its level, and the sentence with what differs left out."""

    level: str
    text: str
    file: str


def events(part: str) -> list[Event]:
    """Return what one folder of the package logs, the gravest first."""
    paths = [*(PACKAGE / part).rglob("*.py"), *(CORE.glob("*.pyx") if part == "service" else ())]
    found = {event for path in paths for event in _of(path)}
    return sorted(found, key=lambda each: (WORDS[each.level], each.text.lower(), each.file))


def _of(path: Path) -> Iterator[Event]:
    text = path.read_text("utf-8")
    if path.suffix == ".pyx" and "Alarm(" not in text:
        return  # some are in Cython's own syntax
    name = path.relative_to(path.parents[1] if path.suffix == ".pyx" else PACKAGE).as_posix()
    tree = ast.parse(text)
    known = _results(tree) | _assigned(tree.body)
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))]:
        names = known | (_assigned(ast.walk(scope)) if scope is not tree else {})
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and node.args:
                yield from (Event(level, words, name) for level, words in _said(node, names))


def _assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """Return what each name is set to."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name):
                found.setdefault(target.id, []).append(node.value)
    return found


def _results(tree: ast.Module) -> Names:
    """Return the sentences that each function of a module returns."""
    found: Names = {}
    for one in tree.body:
        if isinstance(one, ast.FunctionDef):
            own = _assigned(ast.walk(one))
            returned = [node.value for node in ast.walk(one) if isinstance(node, ast.Return) and node.value]
            found[f"{one.name}()"] = [ast.Constant(text) for each in returned for text in _texts(each, own)]
    return found


def _said(call: ast.Call, names: Names) -> Iterator[tuple[str, str]]:
    """Yield (level, sentence) of a call that logs."""
    whole, last = ast.unparse(call.func), ast.unparse(call.func).rpartition(".")[2]
    first, *rest = call.args
    if whole.startswith("log.") and last in LEVELS:
        yield from ((LEVELS[last], text) for text in _texts(first, names))
    elif whole in ("log.log", "self.log", "plugin.log", "self.plugin.log") and rest:
        level, words = (first, rest[0]) if whole == "log.log" else (rest[0], first)
        yield from ((each, text) for each in _levels(level) for text in _texts(words, names))
    elif last in ALARMS:
        yield from (("warn", f"ALARM: {text}") for text in _texts(first, names))
    elif last in ("_report", "_warn") and rest:
        before = f"LSP {HOLE}: " if last == "_report" else ""
        yield from (("warn", f"{before}{text}") for text in _texts(rest[0], names))


def _levels(node: ast.expr) -> list[str]:
    words = re.findall(r"'(error|warn|info|debug)'|\b(ERROR|WARNING|INFO|DEBUG)\b", ast.unparse(node))
    return [LEVELS.get((word or constant).lower(), (word or constant).lower()) for word, constant in words]


def _texts(node: ast.expr, names: Names) -> list[str]:
    """Return the sentences that an expression may be; none where they are made elsewhere."""
    match node:
        case ast.Constant(value=str(text)):
            return [_plain(text)]
        case ast.JoinedStr(values=[first, *rest]):
            heads = _texts(first, names) if isinstance(first, ast.Constant) else []
            if isinstance(first, ast.FormattedValue):
                heads = _texts(first.value, names)  # a sentence may begin with one of a few words
            tail = "".join(str(one.value) if isinstance(one, ast.Constant) else HOLE for one in rest)
            texts = [head + tail for head in heads] if heads and isinstance(first, ast.FormattedValue) else []
            if not texts:
                texts = [(str(first.value) if isinstance(first, ast.Constant) else HOLE) + tail]
            return [_plain(text) for text in texts if re.search("[a-z]{2}", text)]
        case ast.IfExp(body=one, orelse=other):
            return [*_texts(one, names), *_texts(other, names)]
        case ast.Name(id=name):
            inner = {key: value for key, value in names.items() if key != name}
            return [text for each in names.get(name, ()) for text in _texts(each, inner)]
        case ast.Call(func=ast.Name(id=name)):
            inner = {key: value for key, value in names.items() if key != f"{name}()"}
            return [text for each in names.get(f"{name}()", ()) for text in _texts(each, inner)]
    return []


def _plain(text: str) -> str:
    return re.sub(rf"{HOLE}+", HOLE, " ".join(text.split())).replace("|", "\\|")


def _table(rows: list[Event]) -> str:
    lines = "".join(f"| {row.level} | {row.text} | `{row.file}` |\n" for row in rows)
    return f"| level | sentence | from |\n|---|---|---|\n{lines}"


def reference() -> str:
    """Return the page."""
    kinds = "".join(f"| `{kind.name}` | {kind.meaning} |\n" for kind in KINDS)
    parts = "\n".join(f"## {head}\n\n{_table(events(part))}" for part, head in PARTS.items())
    return (
        "# Log events\n\n"
        "Generated by `make pages`; do not edit.\n"
        f"What the plugins write to lightningd's log; `{HOLE}` stands for what differs from line to line.\n"
        "lightningd puts the plugin's name in front (`plugin-lsps2fast-service:`), and shows `debug` only with\n"
        "`log-level=debug`. A flood is cut short, and a line says how many were left out.\n\n"
        "A line is for you to act on when it begins with `ALARM:`. Its kind is the section of the\n"
        "[runbook](../how-to/runbook.md), and is also in the notification `lsps2_alarm`:\n\n"
        f"| kind | meaning |\n|---|---|\n{kinds}| `{OTHER}` | none of these; the line says what |\n\n"
        "Every payment that is over leaves one line at `info`, with its jit scid, payment hash, fee and reason:\n"
        "[answer a support case](../how-to/answer-a-support-case.md).\n\n" + parts
    )
