"""TOML text into checked tables, where every complaint names the line of the file and what to do.

tomllib says where a text is no TOML, but keeps no positions of what it could read, so `Source.line_of` looks for the
first statement after which a value exists. The meaning of the tables is not known here. Most nodes have no such file,
so what reads it is imported when there is one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from lsps2fast.errors import ConfigError

Path = tuple[str | int, ...]
Shape = TypeVar("Shape", bound=msgspec.Struct)

HIDDEN = frozenset({"token"})  # keys whose values stay out of logs (K-28)

_AT_LINE = re.compile(r"at line (\d+)")
_FIELD = re.compile(r" - at `\$\.(\w+)")
# Syntax that can hide a bracket or a line end: the four kinds of string, and comments.
_PIECE = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:\\.|[^"\\\n])*"|' r"'[^'\n]*'|" r"#[^\n]*|[\[\]{}]|\n",
    re.DOTALL,
)


def _loads(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _statements(text: str) -> list[tuple[int, int]]:
    """Yield (number of its first line, offset of its end) for each statement, comment and empty line of a TOML text."""
    found: list[tuple[int, int]] = []
    line, first, depth = 1, 1, 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        line += piece.count("\n")
        if piece in "[{":
            depth += 1
        elif piece in "]}":
            depth -= 1
        elif piece == "\n" and depth <= 0:
            found.append((first, match.end()))
            first = line
    return [*found, (first, len(text))]


def _holds(document: Any, path: Path) -> bool:
    """Return whether a parsed document has a value at this path."""
    for step in path:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _parses(text: str) -> bool:
    try:
        _loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def describe(path: Path) -> str:
    """Return a path as an operator reads it: ("token", 1, "fee_line", 0, "label") is `token 2, fee_line 1, label`."""
    words: list[str] = []
    for step in path:
        if isinstance(step, int):
            words[-1] += f" {step + 1}"
        else:
            words.append(step)
    return ", ".join(words)


def suggest(word: str, known: Mapping[str, Any]) -> str:
    """Return what an unknown word may have been meant to be, or all that is known."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


class Source:
    """One TOML text. `name` is how errors call it, usually the file's path."""

    def __init__(self, text: str, name: str) -> None:
        """Check that a text is TOML. Raises ConfigError with the line."""
        self.name = name
        self._text = text.replace("\r\n", "\n")
        try:
            self.document: dict[str, Any] = _loads(self._text)
        except (ValueError, RecursionError) as error:  # RecursionError, int limits: tomllib lets them through
            why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise self._error(self._broken_line(error), why, "") from None

    def fail(self, path: Path, why: str) -> ConfigError:
        """Return the error to raise for what stands at `path`."""
        return self._error(self.line_of(path), why, describe(path))

    def _error(self, line: int, why: str, where: str) -> ConfigError:
        return ConfigError(f"{self.name}, line {line}: {where + ': ' if where else ''}{why}")

    def _broken_line(self, error: Exception) -> int:
        if match := _AT_LINE.search(str(error)):
            return int(match[1])
        from tomllib import TOMLDecodeError

        if isinstance(error, TOMLDecodeError):  # "at end of document"
            return self._text.rstrip("\n").count("\n") + 1
        statements = _statements(self._text)
        starts = [0, *(end for _, end in statements)]
        pieces = zip(statements, starts, strict=False)
        return next((line for (line, end), start in pieces if not _parses(self._text[start:end])), 1)

    def line_of(self, path: Path) -> int:
        """Return the line where the statement starts that first gives `path` a value; 1 when none does."""
        if not path or not _holds(self.document, path):
            return 1
        statements = _statements(self._text)
        low, high = 0, len(statements) - 1
        while low < high:
            middle = (low + high) // 2
            if _holds(_loads(self._text[: statements[middle][1]]), path):
                high = middle
            else:
                low = middle + 1
        return statements[low][0]

    def at(self, path: Path) -> Any:
        """Return the value at a path, None when there is none."""
        value: Any = self.document
        for step in path:
            if isinstance(step, str) and step not in value:
                return None
            value = value[step]
        return value

    def only(self, path: Path, known: Mapping[str, Any]) -> None:
        """Raise ConfigError for a key in the table at `path` that is not known."""
        for key in self.at(path):
            if key not in known:
                raise self.fail((*path, key), f"unknown key; {suggest(key, known)}")

    def table(self, path: Path, shape: type[Shape], meaning: Mapping[str, str]) -> Shape:
        """Return the table at `path` as `shape`; an absent one is empty. `meaning` explains each key.

        Raises ConfigError.
        """
        table = {} if self.at(path) is None else self.at(path)
        if not isinstance(table, dict):
            raise self.fail(path, f"must be a table; write [{path[-1]}] on a line of its own, its keys below")
        if table:
            self.only(path, {name: meaning[name] for name in shape.__struct_fields__})
        try:
            return msgspec.convert(table, shape)
        except msgspec.ValidationError as error:
            raise self._invalid(path, str(error), table, meaning) from None

    def tables(self, path: Path) -> list[Path]:
        """Return the paths of an array of tables, none when it is absent. Raises ConfigError."""
        value = self.at(path)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            name = ".".join(step for step in path if isinstance(step, str))
            raise self.fail(path, f"must be an array of tables; write [[{name}]] with two brackets")
        return [(*path, number) for number in range(len(value))]

    def _invalid(self, path: Path, error: str, table: dict[str, Any], meaning: Mapping[str, str]) -> ConfigError:
        what = error.partition(" - at ")[0].replace("`", "")
        match = _FIELD.search(error)
        if match is None:  # a key is missing: the table itself is at fault
            key = what.rpartition(" ")[2]
            return self.fail(path, f"{key} is missing; it is {meaning.get(key, 'required')}")
        key = match[1]
        what = what[:1].lower() + what[1:]
        given = "this text" if key in HIDDEN else _short(table[key])
        return self.fail((*path, key), f"{given} is not allowed: {what}; it is {meaning[key]}")


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # too many digits to print, too many brackets
        return "this value"
    return text if len(text) <= 60 else f"{text[:57]}..."
