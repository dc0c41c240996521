"""The pages' words hold: the README's commands exist, its options have the defaults it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyln.client import Plugin

from lsps2fast_plugin.client.app import Client
from lsps2fast_plugin.service.app import Service
from lsps2fast_plugin.service.options import NUMBERS, add_options

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = (ROOT / "README.md").read_text()
NOTHING = ("none", "from the node", "off")  # how the table shows an option that is not given
ROWS = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \| (.*?) \|", README, re.M)
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    """The rest is in docs/."""
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_verb_on_a_page_exists_and_is_described(page: Path) -> None:
    for verb in re.findall(r"`make ([a-z]+)\b[^`\n]*`", page.read_text(encoding="utf-8")):
        assert re.search(rf"^{verb}:.*## ", MAKEFILE, re.M), verb


def test_two_commands_are_enough_to_begin() -> None:
    assert re.findall(r"^make (\w+)$", "\n".join(blocks("bash")), re.M) == ["demo", "test"]


def test_the_options_table_has_the_numbers_that_the_plugin_has() -> None:
    numbers = {
        name: int(default.replace(",", ""))
        for names, defaults in ROWS
        for name, default in zip(re.findall(r"`(.*?)`", names), re.findall(r"\d[\d,]*", defaults), strict=False)
    }
    assert len(numbers) >= 10
    assert numbers == {name: NUMBERS[name][0] for name in numbers}


def test_the_options_table_names_real_options_and_their_defaults() -> None:
    """Those without a number."""
    plugin = Plugin(autopatch=False)
    add_options(plugin)
    assert {name for names, _ in ROWS for name in re.findall(r"`(.*?)`", names)} <= plugin.options.keys()
    texts = {names.strip("`"): default.strip("`") for names, default in ROWS if not re.search(r"\d", default)}
    assert len(texts) >= 4
    shown = {name: None if text in NOTHING else text for name, text in texts.items()}
    assert shown == {name: plugin.options[name].default for name in texts}


HOOKS = {"init", "getmanifest", "custommsg", "rpc_command", "setconfig", "htlc_accepted"}  # each plugin has its own


def test_one_node_can_be_an_lsp_and_a_wallet() -> None:
    """cln:N5: no option and no method has the name of another plugin's: lightningd would end at its start."""
    plugins = [app.host.plugin for app in (Service(), Client())]
    for kind in ("options", "methods"):
        ours, theirs = (set(getattr(plugin, kind)) - HOOKS for plugin in plugins)
        assert ours
        assert theirs
        assert not ours & theirs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_configuration_names_a_plugin_twice(page: Path) -> None:
    """`plugin=` and `important-plugin=` of one path end lightningd at its start ("Failed to register")."""
    for block in re.findall(r"```ini\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        paths = re.findall(r"^(?:important-)?plugin=(.*)$", block, re.M)
        assert len(paths) == len(set(paths)), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading in it where one is named."""
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if heading:
            assert heading in anchors(path.read_text(encoding="utf-8")), target
