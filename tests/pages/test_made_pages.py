"""Pages of docs/ that are made from the code (`make pages`) say what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import msgspec
import pytest

from lsps2fast.table import LETTERS, TABLE, Input, State
from lsps2fast_plugin.service.policy import closing_file, file
from lsps2fast_plugin.tools import cli, command_line_page, log_page, machine_picture, pages, policy_file_page

DOCS = Path(__file__).parents[2] / "docs"
TOOLS = Path(str(cli.__file__)).parent
COMMANDS = (
    "cli",
    "database_check",
    "demo/evil",
    "demo/sales",
    "regtest/playground",
    "report",
    "simulate/command",
    "watch",
)


@pytest.mark.parametrize("name", pages.PAGES)
def test_a_made_page_is_up_to_date(name: str) -> None:
    """operator:O9, operator:O12: `make pages` writes all of them."""
    assert (DOCS / name).read_text("utf-8") == pages.PAGES[name]()


def test_all_are_written(tmp_path: Path) -> None:
    """And nothing else."""
    for name in pages.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    pages.main(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(pages.PAGES)


def test_every_key_of_the_policy_file_is_on_its_page() -> None:
    """Each shape is a table of the page, and each key that has words is one of them."""
    modules = (file, closing_file)
    classes = [one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)]
    shapes = {one for one in classes if one.__module__ in [module.__name__ for module in modules]}
    assert {one for one in shapes if issubclass(one, msgspec.Struct)} == {one for _, one, _ in policy_file_page.TABLES}
    assert policy_file_page.keys() == set(file.MEANING)


def test_every_variable_that_is_read_is_on_the_page() -> None:
    """And none that nothing reads."""
    assert command_line_page.variables() == command_line_page.ENVIRONMENT.keys()


def test_every_exit_code_of_a_command_is_on_the_page() -> None:
    """As far as a number says it; the signals are added in words."""
    texts = [(TOOLS / f"{name}.py").read_text("utf-8") for name in COMMANDS]
    given = {code for text in texts for code in re.findall(r"^ *return (\d+)(?: if .*)?$", text, re.M)}
    assert given <= command_line_page.EXIT_CODES.keys(), given
    assert {"0", "1", "2", "130"} <= given


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("table", 0),
        ("dance", 2),
        ("demo --html /no/such/folder/a.html", 2),
        ("watch --rpc /no/such/rpc", 2),
        ("report --file /no/such/file", 2),
    ],
)
def test_exit_codes_are_those_of_the_page(words: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong line and what is missing: 2, with a sentence on standard error."""
    try:
        got: object = cli.main(words.split())
    except SystemExit as end:
        got = end.code
    assert got == code
    assert bool(capsys.readouterr().err) == bool(code)


def test_the_picture_has_every_move_of_the_table() -> None:
    """An arrow for each pair of states that a cell joins; words for each state and each input."""
    names = {state: letter for letter, state in LETTERS.items()}
    moves = {
        names[state] + names[target] for (state, _), cell in TABLE.items() for target in cell.targets if target != state
    }
    assert machine_picture.ARROWS.keys() == moves
    assert machine_picture.PLACES.keys() == LETTERS.keys()
    assert machine_picture.STATES.keys() == set(State)
    assert machine_picture.INPUTS.keys() == set(Input)
    for kind in Input:
        assert machine_picture.svg().count(f"\n{kind.name}, ") == sum(
            len(TABLE[state, kind].targets - {state}) for state in State
        )


def test_a_sentence_of_the_log_is_seen_with_its_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways in which the sources log."""
    monkeypatch.setattr(log_page, "PACKAGE", tmp_path)
    (tmp_path / "cln").mkdir()
    (tmp_path / "cln" / "a.py").write_text(
        'log.info(f"{one} sold to {two!r} | done")\nself.log("came twice", "error")\nself._alarm(f"no coins: {why}")\n'
        'log.log(WARNING if news else DEBUG, f"{what} failed")\nself._report(lsp, f"refused {much} msat")\n'
        'log.warning(text)\nlog.debug("one" "two" if x else "three")\n'
    )
    assert [(each.level, each.text) for each in log_page.events("cln")] == [
        ("error", "came twice"),
        ("warn", "ALARM: no coins: …"),
        ("warn", "LSP …: refused … msat"),
        ("warn", "… failed"),
        ("info", "… sold to … \\| done"),
        ("debug", "onetwo"),
        ("debug", "three"),
        ("debug", "… failed"),
    ]
