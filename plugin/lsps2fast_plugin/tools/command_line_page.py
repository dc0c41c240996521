"""docs/reference/command-line.md: commands, exit codes and environment, from the parsers and from the sources."""

from __future__ import annotations

import argparse
import ast
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lsps2fast
import lsps2fast_plugin
from lsps2fast_plugin.tools import cli

PACKAGES: Final = tuple(Path(str(each.__file__)).parent for each in (lsps2fast, lsps2fast_plugin))
EXIT_CODES: Final = {  # of `lsps2fast`, whatever the command
    "0": "all was well",
    "1": "a check did not hold, what was asked for is not there, or the answer could not be written; standard error"
    " says which",
    "2": "the command line was wrong, or what the command needs is missing; standard error says what to change",
    str(128 + signal.SIGINT): "interrupted, by Ctrl-C or SIGTERM; folders and processes of its own are cleared away",
    str(128 + signal.SIGPIPE): "the reader of the output has gone, as `head` does when it has seen enough",
}
PLUGINS: Final = {  # of lsps2fast-service and lsps2fast-client
    "0": "lightningd told it to stop or closed the pipe; it disabled itself with a sentence; or it was started by hand"
    " and printed how it is meant to be started",
    "1": "lightningd's stream could not be read: the log says at which byte",
}
ENVIRONMENT: Final = {
    "CC": "`lsps2fast bench`: the C compiler for the program it compares with (default `cc`)",
    "COLUMNS": "`lsps2fast report`: the width, where the output is no terminal",
    "LIGHTNINGD_PLUGIN": "set by lightningd; without it the plugins say how to start them, and end",
    "LIGHTNINGD_WALLET": "`lsps2fast check-database`: the address of the database, as lightningd takes it",
    "LSPS2FAST_CLN_DIR": "`lsps2fast regtest`, `bench --real`: a folder with lightningd, searched before PATH",
    "LSPS2FAST_PURE": "`1`: run the core interpreted, even where it is compiled",
    "LSPS2FAST_TEST_CLOCK": "`1`, for tests: a method that turns the plugin's clock; never on a node with money",
    "LSPS2FAST_TEST_SEED": "for tests: makes every draw repeatable, secrets included; never on a node with money",
    "PATH": "`lsps2fast regtest`, `bench --real`: where lightningd and bitcoind are looked for",
}
BUILD: Final = {
    "LSPS2FAST_ADDRESS": "where the repository can be read: an index and the site link to its files there",
    "LSPS2FAST_BUILD": "`compiled`, `pure` or `auto`: [install](../how-to/install.md#for-packagers)",
}


def _commands() -> dict[str, argparse.ArgumentParser]:
    (chooser,) = (act for act in cli.parser()._actions if isinstance(act, argparse._SubParsersAction))
    return dict(sorted(chooser.choices.items()))


def _helps() -> dict[str, str]:
    (chooser,) = (act for act in cli.parser()._actions if isinstance(act, argparse._SubParsersAction))
    return {act.dest: str(act.help) for act in chooser._choices_actions}


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    if action.nargs == 0:
        return names
    return f"{names} {str(action.metavar or action.dest).upper().replace('-', '_')}"


def _meaning(action: argparse.Action) -> str:
    words = str(action.help or "").replace("%%", "%").replace("|", "\\|")
    if action.choices:
        words += f"; one of {', '.join(f'`{one}`' for one in action.choices)}"
    return words


def _section(name: str, one: argparse.ArgumentParser, words: str) -> str:
    actions = [action for action in one._actions if not isinstance(action, argparse._HelpAction)]
    rows = "".join(f"| {_name(action)} | {_meaning(action)} |\n" for action in actions)
    table = f"\n| argument | meaning |\n|---|---|\n{rows}" if rows else ""
    return f"### lsps2fast {name}\n\n{words[:1].upper()}{words[1:]}.\n{table}\n"


def variables() -> set[str]:
    """Return every variable of the environment that the sources read by name."""
    paths = [path for package in PACKAGES for path in package.rglob("*.py")]
    return {name for path in paths for name in _read(ast.parse(path.read_text("utf-8")))}


def _read(tree: ast.Module) -> Iterator[str]:
    constants: dict[str, object] = {}
    for line in tree.body:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                constants[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)):
                constants[name] = value
    for node in ast.walk(tree):
        key: ast.expr | None = None
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get"), args=[first, *_]):
                key = first
            case ast.Subscript(value=ast.Attribute(attr="environ"), slice=first):
                key = first
            case ast.Compare(left=first, comparators=[ast.Attribute(attr="environ")]):
                key = first
        match key:
            case ast.Constant(value=str(name)):
                yield name
            case ast.Name(id=name):
                yield str(constants[name])


def _table(head: str, pairs: dict[str, str]) -> str:
    return f"| {head} | meaning |\n|---|---|\n" + "".join(f"| `{name}` | {words} |\n" for name, words in pairs.items())


def reference() -> str:
    """Return the page."""
    helps = _helps()
    sections = "".join(_section(name, one, helps[name]) for name, one in _commands().items())
    return (
        "# Command line, exit codes, environment\n\n"
        "Generated by `make pages`; do not edit.\n\n"
        "## Commands\n\n"
        "`lsps2fast --version` prints the version, `lsps2fast COMMAND --help` what stands here.\n\n"
        f"{sections}"
        "## Exit codes\n\n"
        f"Of `lsps2fast`:\n\n{_table('code', EXIT_CODES)}\n"
        "Of `lsps2fast-service`, `lsps2fast-service-announced` and `lsps2fast-client`, which lightningd starts:\n\n"
        f"{_table('code', PLUGINS)}\n"
        "## Environment\n\n"
        f"At run time:\n\n{_table('variable', ENVIRONMENT)}\n"
        f"When it is built:\n\n{_table('variable', BUILD)}"
    )
