"""Which channel an incoming HTLC came over, whatever lightningd calls that channel by now (rule:25)."""

from __future__ import annotations

from lsps2fast_plugin.cln.scid_aliases import ScidAliases

ID, OTHER = "aa" * 32, "bb" * 32


def test_an_unknown_name_stands_for_itself() -> None:
    """cln:H3."""
    names = ScidAliases()
    assert (names.one(7), names.channel_id(7), names.key(7, 3, {(8, 3)})) == (7, "", (7, 3))


def test_a_part_is_found_by_its_channel_under_every_name_the_channel_has_had() -> None:
    """rule:25, cln:N3: an alias, a scid, the scid after a splice; a name is never taken back."""
    names = ScidAliases()
    names.learn(ID, (8,))
    names.learn(ID, (7, 8))
    names.learn(ID, (9, 8))
    names.learn(OTHER, (5,))
    assert {names.one(name) for name in (7, 8, 9)} == {ID}
    for name in (7, 8, 9):
        assert names.key(name, 3, {(ID, 3)}) == (ID, 3)
    assert names.key(5, 3, {(ID, 3)}) == (OTHER, 3)


def test_a_part_of_a_record_that_names_no_channel_id_is_found_under_the_name_it_came_with() -> None:
    """cln:H3: it came under the alias 8, the event says 7."""
    names = ScidAliases()
    names.learn(ID, (7, 8))
    assert names.key(7, 3, {(8, 3)}) == (8, 3)
    assert names.key(8, 3, {(7, 3)}) == (7, 3)
    assert names.key(7, 4, {(8, 3)}) == (ID, 4)
