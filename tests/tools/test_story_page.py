"""`lsps2fast demo --html`: one file, the whole story, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lsps2fast_plugin.tools import cli
from lsps2fast_plugin.tools.demo.story_page import LIFELINES, Chapter, arrow, page

LINES = [
    (0.1, "client", "asks lsps2.buy"),
    (0.2, "service", "sells jit channel 1x2x3"),
    (0.3, "payer", "part 103x1x0/0 of 20,000,000 msat arrives"),
    (0.4, "service", "forwards part 103x1x0/0, 900,000 msat taken"),
    (0.5, "service", "puts the funding on chain"),
    (0.6, "service", "fails part 103x1x0/1: mpp_timeout"),
    (0.7, "clock", "a block is mined"),
    (0.8, "owner", "has <b>1</b> & more"),
    (0.9, "journal", "client writes purchase"),
    (1.0, "client", "looks for the funding"),
    (1.1, "client", "claims part 103x1x0/0: 19,100,000 msat"),
    (1.2, "node", "proposes a zero-conf channel of 116,319 sat"),
]


class Reader(HTMLParser):
    """Collects tags and text; every tag that is opened must be closed."""

    VOID = ("meta", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def told() -> str:
    gains = {"payer": -100_000_000, "lsp": 3_000_000, "bystander": 0, "wallets": 95_500_000}
    return page("a story", [Chapter("one <sale>", LINES, gains, {"it adds up": True, "it does not": False})])


def test_the_page_tells_every_line_in_its_place() -> None:
    """operator:O6: who told what to whom, and when; time can be turned."""
    reader = Reader(told())
    rows = [attrs for attrs in reader.all("g") if "data-row" in attrs]
    assert [row["data-time"] for row in rows] == [f"{line[0] - LINES[0][0]:.3f}" for line in LINES]
    assert [attrs["max"] for attrs in reader.all("input")] == [str(len(LINES))]
    assert reader.all("svg")[0]["role"] == "img"
    for words in (
        *LIFELINES,
        "has <b>1</b> & more",
        "one <sale>",
        "\N{MINUS SIGN}100,000,000 msat",
        "WRONG: it does not",
    ):
        assert words in reader.text, words
    assert "bystander" not in reader.text


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """One self-contained file: no address, no picture, no style sheet of others."""
    assert re.findall(r"https?://|src=|<link|@import", told()) == []


ENDS = [(2, 1), (1, 2), (0, 1), (1, 2), (1, 3), (1, 0), (3, 3), (2, 2), (2, 2), (2, 3), (2, 1), (1, 2)]


@pytest.mark.parametrize(("line", "ends"), list(zip(LINES, ENDS, strict=True)))
def test_an_arrow_goes_where_the_word_goes(line: tuple[float, str, str], ends: tuple[int, int]) -> None:
    """Payer, LSP, wallet, chain."""
    assert arrow(line[1], line[2]) == ends


def test_bars_are_as_long_as_the_money() -> None:
    """The largest change is the whole width."""
    widths = re.findall(r'<i style="width:([\d.]+)%"', told())
    assert widths == ["100.0", "3.0", "95.5"]


def test_a_file_that_cannot_be_written_is_told_before_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """operator:O10."""
    assert cli.main(["demo", "--html", "/no/such/folder/story.html"]) == 2
    assert "name a file that can be written" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("further", "words"), [([], "three sales"), (["--evil-lsp", "skim"], "The LSP")])
def test_the_demo_writes_its_story(
    further: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """operator:O6: the sales with what was earned, and an LSP that cheats."""
    path = tmp_path / "story.html"
    assert cli.main(["demo", "--html", str(path), *further]) == 0
    assert f"The story is in {path}" in capsys.readouterr().out
    reader = Reader(path.read_text("utf-8"))
    assert words in reader.text
    assert len(reader.all("svg")) == (1 if further else 3)
    assert len([attrs for attrs in reader.all("g") if "data-row" in attrs]) > 20
    assert "WRONG" not in reader.text
