"""Which scids and aliases are one incoming channel (cln:H3)."""

from __future__ import annotations

from lsps2fast_plugin.cln.scid_aliases import ScidAliases


def test_an_unknown_name_stands_for_itself() -> None:
    """cln:H3."""
    names = ScidAliases()
    assert (names.one(7), names.known(7), names.key(7, 3, {(8, 3)})) == (7, False, (7, 3))


def test_a_part_is_found_under_the_name_it_came_with() -> None:
    """cln:H3: it came under the alias 8, the event says 7."""
    names = ScidAliases()
    names.learn((7, 8))
    assert names.one(8) == names.one(7)
    assert names.key(7, 3, {(8, 3)}) == (8, 3)
    assert names.key(8, 3, {(7, 3)}) == (7, 3)
    assert names.key(7, 4, {(8, 3)}) == (7, 4)
