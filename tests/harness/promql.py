"""As much of PromQL as the board and the alert rules use, over pages that were scraped: what each expression is.

`promtool` is the judge of it where there is one; tests/service/test_alerts.py compares the two.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
TOKEN = re.compile(
    r'\s*(?:(\d+\.?\d*)(?![\w.])|([a-zA-Z_]\w*)|("(?:[^"\\]|\\.)*")|(>=|<=|==|!=|=~|!~|[-+*/<>(){},\[\]=])|(\d+[smhd]))'
)
COMPARED: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, "<": operator.lt, "==": operator.eq, ">=": operator.ge, "<=": operator.le, "!=": operator.ne,
}  # fmt: skip
SUMS: dict[str, Callable[[float, float], float]] = {"+": operator.add, "-": operator.sub}


def _divide(one: float, other: float) -> float:
    return one / other if other else one * float("inf")  # 0 by 0 is no number, and that is more than nothing


PRODUCTS: dict[str, Callable[[float, float], float]] = {"*": operator.mul, "/": _divide}


class Scrape(NamedTuple):
    """One page at one moment."""

    at_s: float
    samples: dict[tuple[str, Labels], float]


def scrape(at_s: float, page: str | None, job: str = "lsps2fast") -> Scrape:
    """Read a page as Prometheus does, None: it could not be had; `up` is part of it."""
    found: dict[tuple[str, Labels], float] = {("up", frozenset({("job", job)})): float(page is not None)}
    for family in text_string_to_metric_families(page or ""):
        for sample in family.samples:
            found[sample.name, frozenset({**sample.labels, "job": job}.items())] = sample.value
    return Scrape(at_s, found)


def evaluate(expression: str, scrapes: list[Scrape]) -> Vector:
    """Return what an expression is at the last of these scrapes. Raises ValueError where it is none."""
    return _Parser(expression, scrapes).whole()


class _Parser:
    def __init__(self, text: str, scrapes: list[Scrape]) -> None:
        self._tokens = list(_tokens(text))
        self._place = 0
        self._scrapes = scrapes

    def whole(self) -> Vector:
        found = self._comparison()
        if self._place != len(self._tokens):
            raise ValueError(f"what does {self._tokens[self._place]} mean here?")
        return found if isinstance(found, dict) else {frozenset(): found}

    def _next(self, *wanted: str) -> str | None:
        if self._place < len(self._tokens) and (not wanted or self._tokens[self._place] in wanted):
            self._place += 1
            return self._tokens[self._place - 1]
        return None

    def _must(self, *wanted: str) -> str:
        found = self._next(*wanted)
        if found is None:
            raise ValueError(f"{wanted or 'something'} is missing")
        return found

    def _comparison(self) -> Vector | float:
        left = self._chain(SUMS, lambda: self._chain(PRODUCTS, self._unit))
        sign = self._next(*COMPARED)
        if sign is None:
            return left
        right = self._chain(SUMS, lambda: self._chain(PRODUCTS, self._unit))
        assert isinstance(left, dict), "a number is never an alert"
        pairs = _pairs(left, right)
        return {labels: left[labels] for labels, one, other in pairs if COMPARED[sign](one, other)}

    def _chain(
        self, signs: dict[str, Callable[[float, float], float]], unit: Callable[[], Vector | float]
    ) -> Vector | float:
        found = unit()
        while sign := self._next(*signs):
            other = unit()
            if isinstance(found, dict):
                found = {labels: signs[sign](one, two) for labels, one, two in _pairs(found, other)}
            else:
                assert not isinstance(other, dict)
                found = signs[sign](found, other)
        return found

    def _unit(self) -> Vector | float:
        token = self._must()
        if token == "(":
            found = self._comparison()
            self._must(")")
            return found
        if token[0].isdigit():
            return float(token)
        if token == "sum":
            return self._sum()
        if token == "histogram_quantile":
            self._must("(")
            share = self._comparison()
            self._must(",")
            buckets = self._comparison()
            self._must(")")
            assert isinstance(share, float)
            assert isinstance(buckets, dict)
            return _quantile(share, buckets)
        if token in ("increase", "rate"):
            self._must("(")
            found = self._range(self._must(), token == "rate")
            self._must(")")
            return found
        matchers = self._matchers()
        return _picked(self._scrapes[-1], token, matchers)

    def _sum(self) -> Vector:
        by = self._by()
        self._must("(")
        inner = self._comparison()
        self._must(")")
        by = by or self._by()
        assert isinstance(inner, dict)
        found: defaultdict[Labels, float] = defaultdict(float)
        for labels, value in inner.items():
            found[frozenset(pair for pair in labels if pair[0] in by)] += value
        return dict(found)

    def _by(self) -> list[str]:
        names = []
        if self._next("by"):
            self._must("(")
            while not self._next(")"):
                names.append(self._must())
                self._next(",")
        return names

    def _matchers(self) -> list[Callable[[dict[str, str]], bool]]:
        found: list[Callable[[dict[str, str]], bool]] = []
        if not self._next("{"):
            return found
        while not self._next("}"):
            name, sign, value = self._must(), self._must("=", "!=", "=~", "!~"), self._must()[1:-1]
            wanted = re.compile(value if "~" in sign else re.escape(value))
            yes = "!" not in sign
            found.append(lambda labels, n=name, w=wanted, y=yes: bool(w.fullmatch(labels.get(n, ""))) == y)  # type: ignore[misc]
            self._next(",")
        return found

    def _range(self, name: str, per_second: bool) -> Vector:
        matchers = self._matchers()
        self._must("[")
        text = self._must()
        self._must("]")
        seconds = int(text[:-1]) * SECONDS[text[-1]]
        end_s = self._scrapes[-1].at_s
        inside = [each for each in self._scrapes if end_s - seconds <= each.at_s]
        found: Vector = {}
        for labels in _picked(inside[-1], name, matchers):
            values = [value for each in inside if (value := _picked(each, name, matchers).get(labels)) is not None]
            if len(values) > 1:
                steps = itertools.pairwise(values)
                found[labels] = sum(new - old if new >= old else new for old, new in steps)
                found[labels] /= seconds if per_second else 1
        return found


def _tokens(text: str) -> Iterator[str]:
    place = 0
    while place < len(text.rstrip()):
        found = TOKEN.match(text, place)
        if found is None:
            raise ValueError(f"what is {text[place:]!r}?")
        place = found.end()
        yield found[0].strip()


def _picked(page: Scrape, name: str, matchers: list[Callable[[dict[str, str]], bool]]) -> Vector:
    return {
        labels: value
        for (each, labels), value in page.samples.items()
        if each == name and all(fits(dict(labels)) for fits in matchers)
    }


def _pairs(left: Vector, right: Vector | float) -> Iterator[tuple[Labels, float, float]]:
    for labels, one in left.items():
        if not isinstance(right, dict):
            yield labels, one, right
        elif labels in right:
            yield labels, one, right[labels]


def _quantile(share: float, buckets: Vector) -> Vector:
    groups: defaultdict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, value in buckets.items():
        bound = float(dict(labels)["le"])
        groups[frozenset(pair for pair in labels if pair[0] != "le")].append((bound, value))
    found = {}
    for labels, rows in groups.items():
        rows.sort()
        wanted, below, before = share * rows[-1][1], 0.0, 0.0
        for bound, count in rows:
            if count >= wanted and count > before:
                found[labels] = (
                    below if bound == float("inf") else below + (bound - below) * (wanted - before) / (count - before)
                )
                break
            below, before = (bound, count) if bound != float("inf") else (below, count)
    return found
