"""Commands and settings on the pages are such as there are; tests/test_api.py and tests/real run what they show."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lsps2fast_plugin.client.app import Client
from lsps2fast_plugin.service.app import Service
from lsps2fast_plugin.tools import service_rpc_page, wallet_rpc_page
from lsps2fast_plugin.tools.cli import parser

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"", "bash", "console", "ini", "json", "python", "sql", "text", "toml"}  # each has its test
OF_LIGHTNINGD = {"plugin", "important-plugin", "disable-plugin", "experimental-dual-fund", "network"}
OUR_METHODS: dict[str, Callable[..., Any]] = {**wallet_rpc_page.methods(), **service_rpc_page.methods()}
OURS = re.compile(r"(?:^|/)lsps2fast$")


def code(page: Path) -> Iterator[str]:
    """Yield every command of a page: lines of its blocks, and what stands between backquotes."""
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", text, re.S | re.M):
        if language in ("bash", "console"):
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            yield from (line.strip().removeprefix("$ ") for line in lines if language == "bash" or "$ " in line[:6])
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    yield from re.findall(r"`([^`\n]+)`", prose)


def words(command: str) -> list[str]:
    """Return the words of a command, without what follows it in the shell."""
    try:
        parts = shlex.split(re.sub(r"\|[a-z]+", "", re.split(r"\s[|>#;&]", command)[0]))
    except ValueError:
        return []
    return [part for part in parts if part not in ("…", "...")]


def is_one(asked: list[str]) -> bool:
    """Return whether our command line takes these words."""
    try:
        parser().parse_args(asked)
    except SystemExit as end:
        return not end.code
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_ours_are_such_as_there_are(page: Path) -> None:
    """`lsps2fast …` is held against the command line's own parser."""
    for command in code(page):
        parts = words(re.sub(r"<[^>]*>", "X", command))
        if len(parts) > 1 and OURS.search(parts[0]) and not re.search(r"[\[\]{}A-Z]{4,}", command):
            asked = parts[1:] if len(parts) > 2 or parts[1].startswith("-") else [parts[1], "--help"]  # only named
            assert is_one(asked), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_methods_of_ours_take_what_the_pages_give_them(page: Path) -> None:
    """`lightning-cli lsps2-…` and its parameters."""
    for command in code(page):
        parts = words(command)
        if not parts or parts[0] not in ("lightning-cli", "lsp", "alice"):  # the tutorials' aliases
            continue
        method, *given = [part for part in parts[1:] if not part.startswith("-")] or [""]
        if method.startswith(("lsps2-", "lsps-")):
            assert method in OUR_METHODS, command
            names = {part.partition("=")[0] for part in given if "=" in part}
            assert names <= set(inspect.signature(OUR_METHODS[method]).parameters), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_have_options_that_there_are(page: Path) -> None:
    """A name that lightningd does not know ends it at its start."""
    options = {name for app in (Service(), Client()) for name in app.host.plugin.options} | OF_LIGHTNINGD
    for block in re.findall(r"^ *```ini\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.S | re.M):
        for line in block.splitlines():
            if line.strip() and not line.strip().startswith(("#", "[")):
                assert line.strip().partition("=")[0] in options, line


def test_every_block_is_of_a_language_that_has_a_test() -> None:
    """What is no code is `text`."""
    for page in PAGES:
        found = set(re.findall(r"^ *```(\w*)[^\n]*\n.*?^ *```", page.read_text(encoding="utf-8"), re.S | re.M))
        assert found <= LANGUAGES, page


def test_a_command_that_is_none_is_seen(tmp_path: Path) -> None:
    """The checks above see what they are for."""
    page = tmp_path / "page.md"
    page.write_text("Say `lsps2fast dance --fast`.\n\n```console\n$ lightning-cli lsps2-quote amount=1\n```\n")
    with pytest.raises(AssertionError, match="dance"):
        test_commands_of_ours_are_such_as_there_are(page)
    with pytest.raises(AssertionError, match="amount=1"):
        test_methods_of_ours_take_what_the_pages_give_them(page)


def test_parameters_of_the_services_methods_have_words() -> None:
    """And each parameter has its words."""
    named = {name for do in service_rpc_page.methods().values() for name in inspect.signature(do).parameters}
    assert named == set(service_rpc_page.PARAMETERS)


OF_OTHERS = {"lsps2-policy-getpolicy", "lsps2-policy-buy", "lsps2-policy-getchannelcapacity"}  # a policy plugin's


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_of_options_and_methods_are_such_as_there_are(page: Path) -> None:
    """Wherever a page names one, also in the middle of a sentence."""
    if page.name == "CHANGELOG.md":
        return  # it names what has gone, too
    options = {name for app in (Service(), Client()) for name in app.host.plugin.options}
    known = options | OUR_METHODS.keys() | OF_OTHERS | {"lsps2-dev-advance"}
    named = re.findall(r"`(?:dev-|experimental-)?lsps2?-[a-z0-9-]+(?![a-z0-9.-])", page.read_text(encoding="utf-8"))
    assert {name[1:] for name in named} - known == set()


TESTED = {
    "lsps2fast",
    "lightning-cli",
    "lsp",
    "alice",
}  # above
ALIASES = {"payer", "btc", "bob", "carol"}  # of `regtest up`: tests/real/test_tutorials.py types them
EXEMPT = {  # commands that no test types as the page has them, and what is tried instead
    "pip": "asks a package index; `make wheels` installs what an index would serve",
    "python3": "-m venv, as the Makefile has it",
    "reckless": "needs a repository with an address; tests/real/test_reckless.py runs reckless on this one",
    "LIGHTNINGD_WALLET": "names a database of another machine; tests/ha starts lightningd with one of its own",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_block_is_tested_or_exempt_with_a_reason(page: Path) -> None:
    """What a reader types; `make` verbs are those of the Makefile."""
    verbs = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.M))
    played = (ROOT / "tests/real/test_tutorials.py").read_text("utf-8")
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^ *```(bash|console)\n(.*?)^ *```", text, re.S | re.M):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if language == "console" and not line.strip().startswith("$ "):
                continue  # an answer
            program, *rest = line.strip().removeprefix("$ ").split()
            name = re.split("=", program)[0].rpartition("/")[2]
            assert name in TESTED | ALIASES | EXEMPT.keys() | {"make"}, line
            assert name != "make" or rest[0] in verbs, line
            assert name not in ALIASES or f'"{page.parent.name}/{page.stem}"' in played, line
