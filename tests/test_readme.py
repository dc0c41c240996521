"""The README's words hold: its commands exist, its options have the defaults it names, its Python runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lsps2fast_plugin.options import _INTS, reference

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_every_make_verb_in_the_readme_exists_and_is_described() -> None:
    verbs = re.findall(r"^make (\w+)$", "\n".join(blocks("bash")), re.M)
    assert verbs == ["demo", "test"]
    assert all(re.search(rf"^{verb}:.*## ", MAKEFILE, re.M) for verb in verbs)


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_readme_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_the_options_table_names_real_options_and_their_defaults() -> None:
    rows = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \| (.*?) \|", README, re.M)
    numbers = {
        name: int(default.replace(",", ""))
        for names, defaults in rows
        for name, default in zip(re.findall(r"`(.*?)`", names), re.findall(r"\d[\d,]*", defaults), strict=False)
    }
    assert len(numbers) >= 10
    assert numbers == {name: _INTS[name][0] for name in numbers}


def test_the_page_of_options_is_up_to_date() -> None:
    """`python -m lsps2fast_plugin.options > docs/reference/options.md` writes it."""
    assert (ROOT / "docs/reference/options.md").read_text() == reference()


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
