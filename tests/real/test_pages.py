"""README and docs, fed to real nodes: each configuration starts a stock node, each `lightning-cli` command works."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lsps2fast_plugin.tools.regtest import Lightningd, Town

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = itertools.count(1)
BIN = Path(sys.executable).parent
EXAMPLE_BIN = "/path/to/venv/bin"
EXAMPLE_HOME = "/home/lightning/.lightning/bitcoin"
POLICY = "/etc/lightningd/lsps2-policy.toml"
READY = {"lsps2fast-service": "sells JIT channels", "lsps2fast-client": "lsps2fast-client .* is ready"}
STOCK = f"disable-plugin=cln-lsps-service\nplugin={EXAMPLE_BIN}/lsps2fast-service\n"


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks of a page; those in a list are indented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


CONFIGURATIONS = [
    pytest.param(page, text, id=f"{page.name} {number}")
    for page in PAGES
    for number, text in enumerate(blocks(page, "ini"), 1)
]
COMMANDS = {
    page: [line[2:] for text in blocks(page, "console") for line in text.splitlines() if line[:15] == "$ lightning-cli"]
    for page in PAGES
}


def configure(node: Lightningd, page: Path, text: str) -> None:
    """Write these lines into the node's configuration, paths of the page replaced by ours."""
    if POLICY in text:
        file = node.directory / "policy.toml"
        file.write_text(blocks(page, "toml")[0])
        text = text.replace(POLICY, str(file))
    if "plugin=" not in text:
        text = STOCK + text
    text = text.replace(EXAMPLE_BIN, str(BIN)).replace(EXAMPLE_HOME, shlex.quote(str(node.directory / "regtest")))
    (node.directory / "config").write_text(text)


def test_the_pages_have_something_to_try() -> None:
    """No test below is empty because a page has changed its fences."""
    assert len(CONFIGURATIONS) >= 4
    assert sum(bool(commands) for commands in COMMANDS.values()) >= 3


@pytest.mark.parametrize(("page", "text"), CONFIGURATIONS)
def test_a_printed_configuration_starts_a_stock_node(client_trusts_town: Town, page: Path, text: str) -> None:
    """Nothing but the printed lines, on a lightningd with whatever plugins it was built with."""
    node = client_trusts_town.node(f"page {next(NAMES)}", built_ins=True)
    configure(node, page, text)
    node.start()
    for plugin, words in READY.items():
        if plugin in (node.directory / "config").read_text():
            node.wait_log(words)
    node.stop()


class Shell:
    """Types commands of a page for an LSP and a wallet."""

    def __init__(self, town: Town, page: Path) -> None:
        self.lsp = town.node(f"page {next(NAMES)}", built_ins=True)
        self.wallet = town.node(f"page {next(NAMES)}", built_ins=True)
        if not any("plugin start" in command for command in COMMANDS[page]):
            text = next(iter(blocks(page, "ini")))
            configure(self.lsp, page, text)
            (self.wallet.directory / "config").write_text(
                f"disable-plugin=cln-lsps-client\nplugin={BIN}/lsps2fast-client\n"
            )
        for node in (self.lsp, self.wallet):
            node.start()
        town.connect(self.wallet, self.lsp)
        town.grant(self.lsp, [2_000_000])
        self.town = town

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run it at the node that knows its method; words such as 02… are filled in."""
        command = re.sub(r"peer_id=0[23][0-9a-f]*…", f"peer_id={self.wallet.node_id}", command)
        command = re.sub(r"0[23][0-9a-f]*…", self.lsp.node_id, command)
        node = self.wallet if self._is_for_the_wallet(command) else self.lsp
        place = node.directory / "bin"
        place.mkdir(exist_ok=True)
        (place / "lightning-cli").write_text(
            f'#!/bin/sh\nexec {node.programs.lightning_cli} --network=regtest --lightning-dir="{node.directory}" "$@"\n'
        )
        (place / "lightning-cli").chmod(0o700)
        env = {**os.environ, "PATH": os.pathsep.join((str(place), str(BIN), os.environ["PATH"]))}
        done = subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            text=True,
            env=env,
            timeout=60,
            check=False,
        )
        for plugin, words in READY.items():
            if f'plugin start "$(command -v {plugin})"' in command:
                node.wait_log(words)
        return done

    def _is_for_the_wallet(self, command: str) -> bool:
        """By the plugin it starts, the records it touches, or the node that has its method."""
        method = command.split()[1]
        if method == "plugin" or "datastore" in method:
            return "client" in command
        return method in {row["command"].split()[0] for row in self.wallet.call("help")["help"]}

    def end(self) -> None:
        """Stop both nodes."""
        for node in (self.wallet, self.lsp):
            node.stop()
            self.town.children.remove(node)


@pytest.mark.parametrize("page", [page for page, commands in COMMANDS.items() if commands], ids=lambda page: page.name)
def test_printed_commands_work(client_trusts_town: Town, page: Path) -> None:
    """Every `$ lightning-cli …` of a page, in its order, on nodes with the page's configuration."""
    shell = Shell(client_trusts_town, page)
    key = ["lsps", "client", shell.lsp.node_id]  # what the built-in wallet leaves behind
    shell.wallet.call("datastore", {"key": key, "string": "{}"})
    for command in COMMANDS[page]:
        done = shell.type(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    shell.end()
