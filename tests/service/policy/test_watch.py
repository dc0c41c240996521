"""Reload: a change is taken over whole or not at all, and told once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.logs import Log
from harness.policy import MINIMAL

from lsps2fast.errors import ConfigError
from lsps2fast_plugin.service.policy import watch as policy_watch
from lsps2fast_plugin.service.policy.limits import Refusal, Refusals
from lsps2fast_plugin.service.policy.watch import MAX_FILE_BYTES, SETTLED_MS, PolicyFile

WRITTEN_S = 1_700_000_000
LATER_MS = WRITTEN_S * 1000 + SETTLED_MS + 1  # the file has settled
DEARER = MINIMAL.replace("2_000_000", "3_000_000")


class Watched:
    """A file on disk with times of our choosing, and who watches it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "policy.toml"
        self.log = Log()
        self.refusals = Refusals()
        self.write(MINIMAL)
        self.file = PolicyFile(str(self.path), self.refusals)

    def write(self, text: str | bytes, age_s: int = 0) -> None:
        """Replace the file as editors do: a new inode."""
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(text if isinstance(text, bytes) else text.encode())
        os.utime(fresh, (WRITTEN_S - age_s, WRITTEN_S - age_s))
        fresh.replace(self.path)

    def min_fee_msat(self, wall_ms: int = LATER_MS) -> int | None:
        """The price in what a poll brings, None when it brings nothing."""
        rules = self.file.poll(wall_ms)
        return None if rules is None else rules.lines[0].line.min_fee_msat


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """A loaded policy file."""
    made = Watched(tmp_path)
    made.file.load(LATER_MS)
    return made


def test_a_file_that_did_not_change_is_not_read_again(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Polling is one look at the folder."""
    read: list[object] = []
    monkeypatch.setattr("builtins.open", read.append)
    assert watched.min_fee_msat() is None
    assert read == []
    assert watched.log == []


def test_a_change_is_in_force_without_a_restart(watched: Watched) -> None:
    """Reloaded on change, and said so."""
    watched.write(DEARER)
    assert watched.min_fee_msat() == 3_000_000
    assert watched.min_fee_msat() is None
    assert watched.log.levels() == ["info"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINIMAL + "validty_s = 1", "line 4: fee_line 1, validty_s: unknown key; did you mean validity_s?"),
        (MINIMAL.encode() + b"# \xff", "line 4: a byte that is not UTF-8"),
        (b"", "there is no [[fee_line]]"),
        (MINIMAL + "#" * MAX_FILE_BYTES, f"{MAX_FILE_BYTES} is the most"),
    ],
)
def test_a_bad_change_is_refused_once_and_the_old_policy_stays(watched: Watched, text: str | bytes, words: str) -> None:
    """A bad file refused with line and reason, the refusal reported and counted once."""
    watched.write(text)
    assert [watched.min_fee_msat() for _ in range(3)] == [None] * 3
    assert watched.log.levels() == ["warn"]
    assert words in watched.log.text()
    assert watched.file.refused is not None
    assert watched.refusals[Refusal.POLICY_FILE] == 1


def test_a_file_that_grows_while_it_is_read_is_refused(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:14: what is read has a bound, whatever the file's size was a moment ago."""
    watched.write(MINIMAL + "#" * MAX_FILE_BYTES)
    monkeypatch.setattr(policy_watch, "_signature", lambda path: policy_watch.Signature(0, 1, 1))
    assert watched.min_fee_msat() is None
    assert "line 1: more than" in watched.log.text()


def test_a_mended_file_is_taken_also_when_it_is_the_old_one(watched: Watched) -> None:
    """After a refusal the next good version counts, and the complaint is gone."""
    watched.write("nonsense")
    assert watched.min_fee_msat() is None
    watched.write(MINIMAL)
    assert watched.min_fee_msat() == 2_000_000
    assert watched.file.refused is None


def test_a_file_that_vanished_is_told_once_and_welcome_back(watched: Watched) -> None:
    """An editor, or a mount that went away, ends no sale."""
    kept = watched.path.rename(watched.path.with_suffix(".kept"))
    assert [watched.min_fee_msat() for _ in range(3)] == [None] * 3
    kept.rename(watched.path)
    assert watched.min_fee_msat() == 2_000_000
    assert watched.file.refused is None
    assert watched.log.levels() == ["warn", "info"]


def test_a_change_within_the_same_tick_of_the_clock_is_seen(watched: Watched) -> None:
    """A file that is rewritten in place in the moment it was read keeps size, inode and mtime."""
    young_ms = WRITTEN_S * 1000 + SETTLED_MS
    watched.write(DEARER)
    assert watched.min_fee_msat(young_ms) == 3_000_000
    watched.path.write_text(DEARER.replace("3_000_000", "4_000_000"))
    os.utime(watched.path, (WRITTEN_S, WRITTEN_S))
    assert watched.min_fee_msat(young_ms) == 4_000_000
    assert watched.min_fee_msat() is None


def test_a_pipe_in_place_of_the_file_does_not_stop_us(watched: Watched) -> None:
    """Nothing on the loop may block: opening a pipe waits for a writer."""
    watched.path.unlink()
    os.mkfifo(watched.path)
    assert watched.min_fee_msat() is None
    assert "not a regular file" in watched.log.text()


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_start_without_a_file_is_refused(tmp_path: Path, name: str) -> None:
    """At the start there is no old policy to keep: the plugin must say what is wrong and not sell at other prices."""
    with pytest.raises(ConfigError, match="lsps2-policy-file cannot be read"):
        PolicyFile(str(tmp_path / name), Refusals()).load(LATER_MS)


def test_a_start_with_a_bad_file_is_refused_with_its_line(tmp_path: Path) -> None:
    """The same sentence at the start as at a reload."""
    path = tmp_path / "policy.toml"
    path.write_text(MINIMAL + "x = 1")
    with pytest.raises(ConfigError, match=r"policy\.toml, line 4: fee_line 1, x: unknown key"):
        PolicyFile(str(path), Refusals()).load(LATER_MS)
