"""The common schemas of LSPS0: amounts, ppm, blocks, datetimes, scids, node ids, booleans. Section (b)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import coincurve
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lsps2fast.errors import MalformedTlv, ProtocolBug
from lsps2fast.lsps import lsps2
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps2 import U64_MAX

WIRE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text("utf-8"))
SCHEMAS = WIRE["schemas"]

u64s = st.integers(0, U64_MAX) | st.sampled_from([0, 1, 2**16, 2**40, 2**63, U64_MAX])


@pytest.mark.parametrize("parse", [lsps2.parse_msat, lsps2.parse_sat])
@pytest.mark.parametrize("row", SCHEMAS["msat"]["valid"])
def test_amounts_are_plain_decimal_strings(parse: Callable[[object], int], row: dict[str, str]) -> None:
    """S-01, S-02: V:schemas.msat."""
    assert parse(row["json"]) == int(row["value"])


@pytest.mark.parametrize("parse", [lsps2.parse_msat, lsps2.parse_sat])
@pytest.mark.parametrize("value", [*SCHEMAS["msat"]["invalid"], "1\n", "9" * 5000, b"1", [], "-0", "1_0"])
def test_anything_else_is_no_amount(parse: Callable[[object], int], value: object) -> None:
    """S-01, S-02: V:schemas.msat; numbers are refused too."""
    with pytest.raises(MalformedField):
        parse(value)


@given(u64s)
def test_every_u64_is_an_amount(value: int) -> None:
    """S-01."""
    assert lsps2.parse_msat(str(value)) == value


@pytest.mark.parametrize("value", [*SCHEMAS["ppm"]["valid"], U64_MAX])
def test_ppm_is_a_json_integer(value: int) -> None:
    """S-03: V:schemas.ppm; a client reads up to u64."""
    assert lsps2.parse_ppm(value) == value


@pytest.mark.parametrize("value", [*SCHEMAS["ppm"]["invalid"], False, U64_MAX + 1, [1]])
def test_anything_else_is_no_ppm(value: object) -> None:
    """S-03: V:schemas.ppm."""
    with pytest.raises(MalformedField):
        lsps2.parse_ppm(value)


@pytest.mark.parametrize(("value", "most"), [(0, 0), (2**32 - 1, 2**32 - 1), (65535, 65535), (144, 65535)])
def test_block_counts_reach_their_limit(value: int, most: int) -> None:
    """S-04."""
    assert lsps2.parse_blocks(value, "x", most) == value


@pytest.mark.parametrize(
    ("value", "most"), [(1, 0), (2**32, 2**32 - 1), (65536, 65535), (-1, 5), (True, 5), (1.0, 5), ("1", 5), (None, 5)]
)
def test_block_counts_stop_at_their_limit(value: object, most: int) -> None:
    """S-04."""
    with pytest.raises(MalformedField):
        lsps2.parse_blocks(value, "x", most)


@pytest.mark.parametrize("row", SCHEMAS["datetime"]["valid"])
def test_datetimes_are_read_and_written_in_one_form(row: dict[str, str]) -> None:
    """S-05: V:schemas.datetime, .000 included."""
    assert lsps2.parse_datetime(row["json"]) == int(row["unix_ms"])
    assert lsps2.format_datetime(int(row["unix_ms"])) == row["json"]


@given(st.datetimes(min_value=datetime.datetime(1970, 1, 1), max_value=datetime.datetime(9999, 12, 31, 23, 59, 59)))
@example(datetime.datetime(9999, 12, 31, 23, 59, 59, 999_999))
def test_datetimes_agree_with_the_calendar(moment: datetime.datetime) -> None:
    """S-05: against the standard library, every digit, to the last day."""
    unix_ms = (moment - datetime.datetime(1970, 1, 1)) // datetime.timedelta(milliseconds=1)
    text = moment.isoformat(timespec="milliseconds") + "Z"
    assert lsps2.format_datetime(unix_ms) == text
    assert lsps2.parse_datetime(text) == unix_ms


@pytest.mark.parametrize("unix_ms", [-1, 253_402_300_800_000])
def test_a_datetime_outside_four_digit_years_is_never_written(unix_ms: int) -> None:
    """S-05: 24 characters and no other form."""
    with pytest.raises(ProtocolBug):
        lsps2.format_datetime(unix_ms)


@pytest.mark.parametrize(
    ("fraction", "unix_ms", "whole"),
    [
        ("", 1677142050000, True),
        (".5", 1677142050500, True),
        (".51", 1677142050510, True),
        (".511000", 1677142050511, True),
        (".511000000", 1677142050511, True),
        (".511000001", 1677142050511, False),
        (".5119", 1677142050511, False),
        (".999999999", 1677142050999, False),
    ],
)
def test_other_fractions_are_read_but_known_as_such(fraction: str, unix_ms: int, whole: bool) -> None:
    """S-06, S-07: 0 to 9 digits; rest below a millisecond is cut."""
    text = f"2023-02-23T08:47:30{fraction}Z"
    assert lsps2.parse_datetime(text) == unix_ms
    assert lsps2.is_whole_ms(text) == whole


TOLERATED = {"2023-02-23T08:47:30Z", "2023-02-23T08:47:30.5Z", "2023-02-23T08:47:30.511000Z"}
REFUSED_DATETIMES = [text for text in SCHEMAS["datetime"]["invalid_for_writer"] if text not in TOLERATED]


@pytest.mark.parametrize(
    "value",
    [
        *REFUSED_DATETIMES,
        "2023-02-23T08:47Z",
        "2023-02-23T08:47:30.Z",
        "2023-02-23T08:47:30.0000000001Z",
        "2023-02-23T08:47:30.511Z\n",
        "2023-02-23T08:60:30.511Z",
        "0000-01-01T00:00:00.000Z",
        "2023-00-10T00:00:00.000Z",
        "2023-04-31T00:00:00.000Z",
        "2023-02-23T08:47:30.511-00:00",
        "٢٠٢٣-02-23T08:47:30.511Z",
        None,
    ],
)
def test_no_other_datetime_is_read(value: object) -> None:
    """S-06: V:schemas.datetime; offsets, lower case, missing seconds, impossible dates, second 60."""
    with pytest.raises(MalformedField):
        lsps2.parse_datetime(value)


def test_a_year_before_1970_is_long_ago() -> None:
    """S-06, trap:33: 1969 is no crash, just over."""
    assert lsps2.parse_datetime("1969-12-31T23:59:59.999Z") == -1
    assert lsps2.parse_datetime("0001-01-01T00:00:00Z") == -62_135_596_800_000


@pytest.mark.parametrize("row", SCHEMAS["scid"]["valid"])
def test_scids_are_read_and_written(row: dict[str, str]) -> None:
    """S-08: V:schemas.scid."""
    assert lsps2.parse_scid(row["json"]) == int(row["u64"]) == int(row["hex"], 16)
    assert lsps2.format_scid(int(row["u64"])) == row["json"]


@pytest.mark.parametrize("value", [*SCHEMAS["scid"]["invalid"], "1x02x3", "1x2x3\n", "99999999x0x0", "1xx3", "١x2x3"])
def test_no_other_scid_is_read(value: object) -> None:
    """S-08: V:schemas.scid; no part spills into the next."""
    with pytest.raises(MalformedField):
        lsps2.parse_scid(value)


@given(u64s)
def test_every_u64_is_a_scid(scid: int) -> None:
    """S-08."""
    assert lsps2.parse_scid(lsps2.format_scid(scid)) == scid


def value_of(read: Callable[[str], int], text: str) -> int | None:
    """The number of a scid, None when it is refused."""
    try:
        return read(text)
    except (MalformedField, MalformedTlv):
        return None


@given(st.text("0123456789x", max_size=20) | st.text(max_size=8) | u64s.map(lsps2.format_scid))
def test_peers_and_lightningd_write_one_kind_of_scid(tlv: ModuleType, text: str) -> None:
    """S-08: the reader for peers and the one for hook calls agree on every text."""
    assert value_of(lsps2.parse_scid, text) == value_of(tlv.scid_from_str, text)


@pytest.mark.parametrize("scid", [-1, 2**64])
def test_nothing_beyond_u64_is_written_as_scid(scid: int) -> None:
    """S-08."""
    with pytest.raises(ProtocolBug):
        lsps2.format_scid(scid)


G = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"


@pytest.mark.parametrize("text", [G, G.upper(), "03" + G[2:]])
def test_node_ids_are_read_in_either_case(text: str) -> None:
    """S-09."""
    assert lsps2.parse_node_id(text) == bytes.fromhex(text)


@pytest.mark.parametrize(
    "value", ["", G[:-1], G + "00", "04" + G[2:], "02" + "00" * 31 + "05", "02" + "ff" * 32, G + "\n", 5, None]
)
def test_no_other_node_id_is_read(value: object) -> None:
    """S-09: length, prefix, on the curve, below the prime."""
    with pytest.raises(MalformedField):
        lsps2.parse_node_id(value)


def reads_node_id(read: Callable[[str], object], text: str) -> bool:
    try:
        read(text)
    except (MalformedField, ValueError):
        return False
    return True


@given(st.sampled_from(["02", "03"]), st.binary(min_size=32, max_size=32))
@example("02", (2**256 - 2**32 - 977).to_bytes(32, "big"))
@example("03", (2**256 - 2**32 - 976).to_bytes(32, "big"))
@example("02", b"\0" * 32)
def test_the_curve_is_that_of_libsecp256k1(prefix: str, x: bytes) -> None:
    """S-09: half of all numbers are on it."""
    text = prefix + x.hex()
    theirs = reads_node_id(lambda text: coincurve.PublicKey(bytes.fromhex(text)), text)
    assert reads_node_id(lsps2.parse_node_id, text) == theirs


@pytest.mark.parametrize("value", ["false", "true", 0, 1, None, []])
def test_only_true_and_false_are_booleans(value: object) -> None:
    """S-11."""
    assert lsps2.parse_bool(True)
    assert not lsps2.parse_bool(False)
    with pytest.raises(MalformedField):
        lsps2.parse_bool(value)
