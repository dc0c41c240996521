"""BigSize, truncated integers, TLV streams, hop payloads, extra_fee and scid texts, in both runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import coincurve
import pytest
from harness.backends import load_compiled, load_pure
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import MalformedTlv

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "wire-vectors.json").read_text(encoding="utf-8"))
BIGSIZE = VECTORS["bigsize"]
BOLT1 = VECTORS["tlv_streams"]["published_bolt1"]
PAYLOADS = VECTORS["onion_payloads"]
EXTRA_FEE = VECTORS["extra_fee_tlv"]["vectors"]
HOOKS = VECTORS["cln_hooks"]
SCID = VECTORS["schemas"]["scid"]

U64_MAX = 2**64 - 1
N1 = {1: None, 2: 8, 3: 49, 254: 2}
N2 = {0: None, 11: None}
LSP_HOP = "1402030f424004030c3590060800730b0012cf0001"
CLIENT_HOP = "2f02030f424004030c35000823" + "42" * 32 + "0f4240"


def tu_rows(kind: str) -> list[tuple[int, dict[str, str]]]:
    """(width in bytes, vector) for all truncated integers that are `kind`."""
    numbers = VECTORS["truncated_integers"]
    return [(int(name[2:]) // 8, row) for name in ("tu16", "tu32", "tu64") for row in numbers[name][kind]]


def hexes(*groups: list[dict[str, Any]]) -> list[bytes]:
    """The bytes of all vectors in `groups`."""
    return [bytes.fromhex(row["hex"]) for group in groups for row in group]


def labels(rows: list[dict[str, Any]]) -> list[str]:
    """Names of vectors, for pytest's output."""
    return [row["name"] for row in rows]


def read_n1(tlv: ModuleType, data: bytes) -> None:
    """Read `data` as BOLT 1's namespace n1; the point is checked by coincurve, it is no business of the codec."""
    records = dict(tlv.read_stream(data, N1))
    tlv.decode_tu(records.get(1, b""))
    coincurve.PublicKey(records.get(3, b"\x02" + bytes(31) + b"\x01")[:33])


# ---------------------------------------------------------------------------------------------- BigSize


@pytest.mark.parametrize("row", BIGSIZE["published_valid"] + BIGSIZE["valid"], ids=lambda row: row["name"])
def test_bigsize_vector_is_read_and_written(tlv: ModuleType, row: dict[str, str]) -> None:
    """V:bigsize."""
    data = bytes.fromhex(row["hex"])
    assert tlv.encode_bigsize(int(row["value"])) == data
    assert tlv.decode_bigsize(data) == (int(row["value"]), len(data))
    assert tlv.decode_bigsize(b"\xff\xff" + data + b"\x00", 2) == (int(row["value"]), 2 + len(data))


@pytest.mark.parametrize("row", BIGSIZE["published_invalid"] + BIGSIZE["non_canonical"], ids=lambda row: row["name"])
def test_bad_bigsize_is_refused(tlv: ModuleType, row: dict[str, str]) -> None:
    """V:bigsize: not minimal, or cut short."""
    with pytest.raises(MalformedTlv):
        tlv.decode_bigsize(bytes.fromhex(row["hex"]))


@pytest.mark.parametrize("offset", [-1, 3, 2**70])
def test_bigsize_offset_outside_the_data_is_refused(tlv: ModuleType, offset: int) -> None:
    """N codecs: no read before the start or past the end."""
    with pytest.raises(MalformedTlv):
        tlv.decode_bigsize(b"\x00\x01", offset)


@pytest.mark.parametrize("value", [-1, 2**64, 2**64 + 1, -(2**70)])
def test_number_outside_u64_is_refused_not_wrapped(tlv: ModuleType, value: int) -> None:
    """H-07: checked before it happens, in both runs."""
    calls: list[Callable[[], object]] = [
        lambda: tlv.encode_bigsize(value),
        lambda: tlv.encode_tu(value),
        lambda: tlv.extra_fee_tlvs(value),
        lambda: tlv.scid_to_str(value),
        lambda: tlv.forward_payload(LSP_HOP, value),
        lambda: tlv.final_payload(CLIENT_HOP, value, 1),
        lambda: tlv.final_payload(CLIENT_HOP, 1, value),
        lambda: tlv.write_stream([(value, b"")]),
    ]
    for call in calls:
        with pytest.raises(MalformedTlv):
            call()


# ----------------------------------------------------------------------------------- truncated integers


@pytest.mark.parametrize(("width", "row"), tu_rows("valid"))
def test_truncated_integer_vector_is_read_and_written(tlv: ModuleType, width: int, row: dict[str, str]) -> None:
    """V:truncated_integers."""
    data = bytes.fromhex(row["hex"])
    assert tlv.decode_tu(data, width) == int(row["value"])
    assert tlv.encode_tu(int(row["value"]), width) == data


@pytest.mark.parametrize(("width", "row"), tu_rows("invalid"))
def test_bad_truncated_integer_is_refused(tlv: ModuleType, width: int, row: dict[str, str]) -> None:
    """V:truncated_integers: leading zero, or too long."""
    with pytest.raises(MalformedTlv):
        tlv.decode_tu(bytes.fromhex(row["hex"]), width)


@pytest.mark.parametrize("width", [2, 4, 8])
def test_truncated_integer_too_large_for_its_width_is_not_written(tlv: ModuleType, width: int) -> None:
    """N codecs."""
    assert tlv.encode_tu((1 << 8 * width) - 1, width) == b"\xff" * width
    with pytest.raises(MalformedTlv):
        tlv.decode_tu(b"\x01" * 9, 9)
    with pytest.raises(MalformedTlv):
        tlv.encode_tu(1 << 8 * width, width)


# ------------------------------------------------------------------------------------------ TLV streams


@pytest.mark.parametrize("data", hexes(BOLT1["any_namespace_invalid"]), ids=bytes.hex)
@pytest.mark.parametrize("known", [{}, N1, N2], ids=["none known", "n1", "n2"])
def test_stream_bad_in_any_namespace_is_refused(tlv: ModuleType, data: bytes, known: dict[int, int | None]) -> None:
    """V:tlv_streams."""
    with pytest.raises(MalformedTlv):
        tlv.read_stream(data, known)


@pytest.mark.parametrize("data", hexes(BOLT1["any_namespace_valid_ignored"]), ids=bytes.hex)
@pytest.mark.parametrize("known", [None, {}, N1, N2], ids=["structure only", "none known", "n1", "n2"])
def test_unknown_odd_records_are_let_through(tlv: ModuleType, data: bytes, known: dict[int, int | None] | None) -> None:
    """V:tlv_streams."""
    assert tlv.write_stream(tlv.read_stream(data, known)) == data


@pytest.mark.parametrize("data", hexes(BOLT1["n1_valid"]), ids=bytes.hex)
def test_stream_of_n1_is_read_and_written(tlv: ModuleType, data: bytes) -> None:
    """V:tlv_streams."""
    read_n1(tlv, data)
    assert tlv.write_stream(tlv.read_stream(data, N1)) == data


@pytest.mark.parametrize("data", hexes(BOLT1["n1_invalid"]), ids=bytes.hex)
def test_bad_stream_of_n1_is_refused(tlv: ModuleType, data: bytes) -> None:
    """V:tlv_streams; ValueError is coincurve's word for the one point that is none."""
    with pytest.raises((MalformedTlv, ValueError)):
        read_n1(tlv, data)


@pytest.mark.parametrize(
    ("data", "known"),
    [(data, N1) for data in hexes(BOLT1["n1_invalid_order"])]
    + [(data, N2) for data in hexes(BOLT1["n2_invalid_order"])],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_types_that_do_not_rise_are_refused(tlv: ModuleType, data: bytes, known: dict[int, int | None]) -> None:
    """H-11, V:tlv_streams: duplicates included, with and without a namespace."""
    with pytest.raises(MalformedTlv):
        tlv.read_stream(data, known)
    with pytest.raises(MalformedTlv):
        tlv.read_stream(data)


@pytest.mark.parametrize(
    "row", [row for row in BOLT1["extension_on_init"] if row["valid"]], ids=lambda row: row["note"]
)
def test_good_extension_of_init_is_read(tlv: ModuleType, row: dict[str, Any]) -> None:
    """V:tlv_streams."""
    data = bytes.fromhex(row["extension_hex"])
    assert tlv.write_stream(tlv.read_stream(data, {})) == data


@pytest.mark.parametrize(
    "row", [row for row in BOLT1["extension_on_init"] if not row["valid"]], ids=lambda row: row["note"]
)
def test_bad_extension_of_init_is_refused(tlv: ModuleType, row: dict[str, Any]) -> None:
    """V:tlv_streams."""
    with pytest.raises(MalformedTlv):
        tlv.read_stream(bytes.fromhex(row["extension_hex"]), {})


@pytest.mark.parametrize("records", [[(2, b""), (2, b"")], [(3, b"a"), (1, b"")], [(0, b""), (0, b"x")]])
def test_stream_that_does_not_rise_is_not_written(tlv: ModuleType, records: list[tuple[int, bytes]]) -> None:
    """H-11."""
    with pytest.raises(MalformedTlv):
        tlv.write_stream(records)


@pytest.mark.parametrize(
    ("data", "known", "offset"),
    [
        ("fd", None, 1),
        ("0100fd000100", None, 2),
        ("01000ffd", None, 4),
        ("010101050301", None, 5),
        ("010103000101", None, 3),
        ("01011f1200", {}, 3),
        ("01011f0207010101010101ff", {2: 8}, 3),
    ],
)
def test_error_names_the_byte_where_the_stream_breaks(
    tlv: ModuleType, data: str, known: dict[int, int | None] | None, offset: int
) -> None:
    """Style §9: why and where."""
    with pytest.raises(MalformedTlv) as caught:
        tlv.read_stream(bytes.fromhex(data), known)
    assert caught.value.offset == offset


# ----------------------------------------------------------------------------------------- hop payloads


@pytest.mark.parametrize("row", PAYLOADS["published"] + PAYLOADS["computed"], ids=lambda row: row["name"])
def test_hop_payload_vector_is_read(tlv: ModuleType, row: dict[str, Any]) -> None:
    """V:onion_payloads, cln:H1."""
    payload = tlv.read_payload(row["hex_with_length_prefix"])
    decoded = row["decoded"]
    scid, secret = payload.short_channel_id, payload.payment_secret
    said = {
        "amt_to_forward": str(payload.amt_to_forward_msat),
        "outgoing_cltv_value": str(payload.outgoing_cltv_value),
        "short_channel_id": scid is not None and tlv.scid_to_str(scid),
        "payment_secret": secret is not None and secret.hex(),
        "total_msat": payload.total_msat is not None and str(payload.total_msat),
    }
    assert {name: value for name, value in said.items() if value is not False} == decoded
    assert payload.blinded is False
    stream = tlv.write_stream(payload.records)
    assert (tlv.encode_bigsize(len(stream)) + stream).hex() == row["hex_with_length_prefix"]
    assert tlv.read_payload(stream.hex(), False).records == payload.records


@pytest.mark.parametrize("row", PAYLOADS["invalid"], ids=lambda row: row["name"])
def test_bad_hop_payload_is_refused(tlv: ModuleType, row: dict[str, Any]) -> None:
    """V:onion_payloads."""
    with pytest.raises(MalformedTlv):
        tlv.read_payload(row["hex"], row["has_length_prefix"])


@pytest.mark.parametrize("row", PAYLOADS["invalid"], ids=lambda row: row["name"])
def test_bad_hop_payload_is_not_rewritten(tlv: ModuleType, row: dict[str, Any]) -> None:
    """H-12, I-31: a prefix is put before those vectors that lack one."""
    prefix = {True: "", False: f"{len(row['hex']) // 2:02x}"}[row["has_length_prefix"]]
    for rewrite in (lambda text: tlv.forward_payload(text, 1), lambda text: tlv.final_payload(text, 1, 1)):
        with pytest.raises(MalformedTlv):
            rewrite(prefix + row["hex"])


def test_prefix_is_never_guessed(tlv: ModuleType) -> None:
    """H-12, V:onion_payloads.ambiguous_prefix: both readings parse, the caller says which it is."""
    text = PAYLOADS["ambiguous_prefix"]["hex"]
    assert tlv.read_payload(text, True).records == ((1, b""),)
    with pytest.raises(MalformedTlv):
        tlv.read_payload(text + "00", True)
    assert tlv.read_stream(bytes.fromhex(text)) == ((2, b"\x00"),)
    with pytest.raises(MalformedTlv):
        tlv.read_payload(text, False)


@pytest.mark.parametrize("text", ["", "00", "0", "0g", "zz", "14 02", "1402030f42400403", "é0", "\ud800", "0" * 41])
def test_text_that_is_no_payload_is_refused(tlv: ModuleType, text: str) -> None:
    """trap:12: odd length, no hex, white space, not ASCII, reserved lengths (BOLT 4)."""
    for read in (
        lambda: tlv.read_payload(text),
        lambda: tlv.forward_payload(text, 1),
        lambda: tlv.final_payload(text, 1, 1),
    ):
        with pytest.raises(MalformedTlv):
            read()


def test_blinded_payload_is_seen(tlv: ModuleType) -> None:
    """BOLT 4: records 10, 12 and 18 are known; total_amount_msat gives the total."""
    stream = tlv.write_stream([(2, b"\x05"), (4, b"\x09"), (10, b"secret"), (12, b"\x02" * 33), (18, b"\x07")])
    payload = tlv.read_payload(stream.hex(), False)
    assert (payload.blinded, payload.total_msat, payload.payment_secret) == (True, 7, None)
    for record in ((10, b""), (12, b"\x03" * 33)):
        assert tlv.read_payload(tlv.write_stream([record]).hex(), False).blinded is True


@pytest.mark.parametrize("record", [(12, b"\x02" * 32), (18, b"\x00"), (18, b"\x01" * 9), (8, b"\x01" * 41), (6, b"")])
def test_known_record_of_a_wrong_shape_is_refused(tlv: ModuleType, record: tuple[int, bytes]) -> None:
    """BOLT 4."""
    with pytest.raises(MalformedTlv):
        tlv.read_payload(tlv.write_stream([record]).hex(), False)


# --------------------------------------------------------------------------------- rewriting for the hook


def test_forward_takes_the_fee_out_of_the_payload(tlv: ModuleType) -> None:
    """H-12, V:cln_hooks.lsp_forward: prefix gone, only type 2 changed, extra_fee beside it."""
    case = HOOKS["lsp_forward"]
    fee = int(case["opening_fee_msat"])
    amount = case["request"]["onion"]["forward_msat"] - fee
    assert tlv.forward_payload(case["request"]["onion"]["payload"], amount) == case["response"]["payload"]
    assert tlv.extra_fee_tlvs(fee) == case["response"]["extra_tlvs"]


def test_forward_without_fee_keeps_the_payload_and_carries_no_tlv(tlv: ModuleType) -> None:
    """H-09, H-10, V:cln_hooks.lsp_forward_no_fee."""
    case = HOOKS["lsp_forward_no_fee"]
    amount = tlv.read_payload(case["request_payload"]).amt_to_forward_msat
    assert tlv.forward_payload(case["request_payload"], amount) == case["response"]["payload"]
    assert tlv.extra_fee_tlvs(0) == case["response"]["extra_tlvs"]


def test_client_rewrites_amount_and_total_to_what_arrived(tlv: ModuleType) -> None:
    """I-28, V:cln_hooks.client_accept."""
    case = HOOKS["client_accept"]
    htlc = case["request"]["htlc"]
    arrived = htlc["amount_msat"]
    rewritten = tlv.final_payload(case["request"]["onion"]["payload"], arrived, case["response"]["invoice_msat"])
    assert rewritten == case["response"]["payload"]
    assert arrived + tlv.read_extra_fee(htlc["extra_tlvs"]) == case["request"]["onion"]["forward_msat"]


@pytest.mark.parametrize(("before", "after"), [(0, 1), (2, 3)])
def test_rewriting_gives_the_computed_vector(tlv: ModuleType, before: int, after: int) -> None:
    """V:onion_payloads.computed: the payload before and after a 10000 msat fee."""
    first, second = (PAYLOADS["computed"][i] for i in (before, after))
    amount = int(second["decoded"]["amt_to_forward"])
    rewrites = {
        0: lambda text: tlv.forward_payload(text, amount),
        2: lambda text: tlv.final_payload(text, amount, int(second["decoded"]["total_msat"])),
    }
    assert rewrites[before](first["hex_with_length_prefix"]) == second["hex"]


def test_upper_case_payload_is_the_same_payload(tlv: ModuleType) -> None:
    """H-12: hex digits are read in both cases."""
    assert tlv.forward_payload(LSP_HOP.upper(), 990000).lower() == tlv.forward_payload(LSP_HOP, 990000)


@pytest.mark.parametrize("payload", ["0404030c3590", "020100", "05fd00ff0101"])
def test_payload_without_an_amount_cannot_be_rewritten(tlv: ModuleType, payload: str) -> None:
    """H-12: a blinded hop has no amt_to_forward to replace."""
    with pytest.raises(MalformedTlv):
        tlv.forward_payload(payload, 1)
    with pytest.raises(MalformedTlv):
        tlv.final_payload(payload, 1, 1)


def test_final_payload_needs_payment_data(tlv: ModuleType) -> None:
    """I-20: a payload without payment_secret is none of ours."""
    with pytest.raises(MalformedTlv):
        tlv.final_payload(LSP_HOP, 1, 1)


# -------------------------------------------------------------------------------------------- extra_fee


@pytest.mark.parametrize("row", [row for row in EXTRA_FEE if row["valid"]], ids=lambda row: row["name"])
def test_extra_fee_vector_is_read(tlv: ModuleType, row: dict[str, Any]) -> None:
    """I-21, V:extra_fee_tlv."""
    fee = row["extra_fee_msat"]
    assert tlv.read_extra_fee(row["hex"]) == (fee and int(fee))


@pytest.mark.parametrize("row", [row for row in EXTRA_FEE if not row["valid"]], ids=lambda row: row["name"])
def test_bad_extra_fee_is_refused(tlv: ModuleType, row: dict[str, Any]) -> None:
    """I-21, I-31, V:extra_fee_tlv."""
    with pytest.raises(MalformedTlv):
        tlv.read_extra_fee(row["hex"])


@pytest.mark.parametrize("index", [1, 2, 3])
def test_extra_fee_vector_is_written(tlv: ModuleType, index: int) -> None:
    """H-08, V:extra_fee_tlv: a full u64 behind type 65537."""
    assert tlv.extra_fee_tlvs(int(EXTRA_FEE[index]["extra_fee_msat"])) == EXTRA_FEE[index]["hex"]


def test_extra_fee_of_every_allocation_vector_is_written(tlv: ModuleType, vectors: dict[str, Any]) -> None:
    """H-08, H-09, V:fee_allocation: no record where nothing was taken."""
    rows = [row for row in vectors["fee_allocation"] if row["result"] == "ok"]
    written = [[tlv.extra_fee_tlvs(int(fee or 0)) for fee in row["extra_fee_msat"]] for row in rows]
    assert written == [[text or "" for text in row["extra_tlvs_hex"]] for row in rows]


@pytest.mark.parametrize("absent", [None, "", "0021" + "02" * 33])
def test_htlc_without_extra_fee_has_none(tlv: ModuleType, absent: str | None) -> None:
    """I-21: absent is not malformed."""
    assert tlv.read_extra_fee(absent) is None


# -------------------------------------------------------------------------------------------------- scid


@pytest.mark.parametrize("row", SCID["valid"], ids=lambda row: row["json"])
def test_scid_vector_is_read_and_written(tlv: ModuleType, row: dict[str, str]) -> None:
    """S-08, V:schemas.scid."""
    assert tlv.scid_from_str(row["json"]) == int(row["u64"]) == int(row["hex"], 16)
    assert tlv.scid_to_str(int(row["u64"])) == row["json"]


@pytest.mark.parametrize("text", [*SCID["invalid"], "1x2x", "xx", "1x٣x3", "1x²x3", "+1x2x3", "1_0x2x3", "1x2x00"])
def test_bad_scid_is_refused(tlv: ModuleType, text: str) -> None:
    """S-08, V:schemas.scid; digits of other scripts are none."""
    with pytest.raises(MalformedTlv):
        tlv.scid_from_str(text)


def test_scid_error_names_the_field(tlv: ModuleType) -> None:
    """S-08: the offset is the field's first character."""
    with pytest.raises(MalformedTlv) as caught:
        tlv.scid_from_str("539268x845x65536")
    assert caught.value.offset == 11


# -------------------------------------------------------------------------------------------- properties


def tu(value: int) -> bytes:
    """`value` as tu64, written down a second time so that the codec does not judge itself."""
    return value.to_bytes(8, "big").lstrip(b"\x00")


U64 = st.one_of(
    st.sampled_from([0, 1, 0xFC, 0xFD, 0xFFFF, 0x10000, 2**32 - 1, 2**32, 2**63, U64_MAX]), st.integers(0, U64_MAX)
)
VALUES = st.one_of(st.binary(max_size=40), st.binary(min_size=250, max_size=260))
STREAMS = st.dictionaries(U64, VALUES, max_size=8).map(lambda records: tuple(sorted(records.items())))
ODD = st.dictionaries(st.integers(10, 2**63 - 1).map(lambda n: 2 * n + 1), VALUES, max_size=4)
HOP_ENDS = st.one_of(
    st.fixed_dictionaries({6: st.binary(min_size=8, max_size=8)}),
    st.builds(
        lambda secret, total: {8: secret + total},
        st.binary(min_size=32, max_size=32),
        U64.map(tu),
    ),
)


def hop_records(amount: int, cltv: int, end: dict[int, bytes], odd: dict[int, bytes]) -> dict[int, bytes]:
    """The records of a hop payload in order of their types."""
    return dict(sorted({2: tu(amount), 4: tu(cltv), **end, **odd}.items()))


HOPS = st.builds(hop_records, U64, st.integers(0, 2**32 - 1), HOP_ENDS, ODD)


def outcome(call: Callable[..., Any], *args: object) -> object:
    """What `call` gives: its value, or why and where it refused. Any other exception is a failure of the test."""
    try:
        return call(*args)
    except MalformedTlv as error:
        return ("malformed", error.why, error.offset)


def fields(payload: Any) -> object:
    """A HopPayload as plain data; an outcome that is none unchanged."""
    names = (
        "amt_to_forward_msat",
        "outgoing_cltv_value",
        "short_channel_id",
        "payment_secret",
        "total_msat",
        "blinded",
    )
    return getattr(payload, "records", payload), [getattr(payload, name, None) for name in names]


@pytest.fixture(scope="session")
def both() -> tuple[ModuleType, ModuleType]:
    """The compiled run and the pure one."""
    return load_compiled("_tlv"), load_pure("_tlv")


@given(value=U64)
def test_every_u64_survives_bigsize_and_tu64(tlv: ModuleType, value: int) -> None:
    """Encode then decode is the identity."""
    data = tlv.encode_bigsize(value)
    assert tlv.decode_bigsize(data) == (value, len(data))
    assert tlv.decode_tu(tlv.encode_tu(value)) == value
    assert tlv.encode_tu(value) == tu(value)
    assert tlv.scid_from_str(tlv.scid_to_str(value)) == value
    assert tlv.read_extra_fee(tlv.extra_fee_tlvs(value)) == (value or None)


@given(records=STREAMS)
def test_every_stream_survives(tlv: ModuleType, records: tuple[tuple[int, bytes], ...]) -> None:
    """Encode then decode is the identity."""
    data = tlv.write_stream(records)
    assert tlv.read_stream(data) == records
    assert tlv.read_stream(data, {kind: len(value) for kind, value in records}) == records


@given(data=st.binary(max_size=64))
def test_what_is_read_is_written_back_to_the_byte(tlv: ModuleType, data: bytes) -> None:
    """There is one encoding: decode then encode is the identity wherever decoding succeeds."""
    again = outcome(lambda: tlv.write_stream(tlv.read_stream(data)))
    assert again in (data, outcome(tlv.read_stream, data))


@given(hop=HOPS, amount=U64)
def test_forward_leaves_every_other_record_as_it_was(tlv: ModuleType, hop: dict[int, bytes], amount: int) -> None:
    """H-13: byte-identical but for type 2."""
    stream = tlv.write_stream(hop.items())
    prefixed = tlv.encode_bigsize(len(stream)) + stream
    wanted = tlv.write_stream({**hop, 2: tu(amount)}.items())
    assert tlv.forward_payload(prefixed.hex(), amount) == wanted.hex()


@given(hop=HOPS, secret=st.binary(min_size=32, max_size=32), amount=U64, total=U64)
def test_final_leaves_every_other_record_as_it_was(
    tlv: ModuleType, hop: dict[int, bytes], secret: bytes, amount: int, total: int
) -> None:
    """I-28: byte-identical but for type 2 and the total in type 8."""
    before = dict(sorted({**hop, 8: secret + b"\x01"}.items()))
    stream = tlv.write_stream(before.items())
    prefixed = tlv.encode_bigsize(len(stream)) + stream
    wanted = tlv.write_stream({**before, 2: tu(amount), 8: secret + tu(total)}.items())
    assert tlv.final_payload(prefixed.hex(), amount, total) == wanted.hex()


@given(data=st.binary(max_size=80), offset=st.integers(-3, 90), width=st.sampled_from([2, 4, 8]))
def test_arbitrary_bytes_give_the_same_in_both_runs(
    both: tuple[ModuleType, ModuleType], data: bytes, offset: int, width: int
) -> None:
    """trap:12, trap:33: a value or MalformedTlv, and both runs agree on which, why and where."""
    compiled, pure = both
    calls = [
        ("decode_bigsize", (data, offset)),
        ("decode_tu", (data, width)),
        ("read_stream", (data,)),
        ("read_stream", (data, {})),
        ("read_stream", (data, N1)),
    ]
    for name, args in calls:
        assert outcome(getattr(compiled, name), *args) == outcome(getattr(pure, name), *args)


def spoiled(hop: dict[int, bytes], spot: int, byte: int) -> str:
    """A payload with one byte replaced, as hex with its prefix."""
    stream = bytearray(load_pure("_tlv").write_stream(hop.items()))
    stream[spot % len(stream)] = byte
    return (load_pure("_tlv").encode_bigsize(len(stream)) + stream).hex()


TEXTS = st.one_of(
    st.text(max_size=20),
    st.text("0123456789abcdefABCDEF xg", max_size=20),
    st.binary(max_size=60).map(bytes.hex),
    st.builds(spoiled, HOPS, st.integers(0, 400), st.integers(0, 255)),
    st.builds("{}x{}x{}".format, st.integers(0, 2**25), st.integers(0, 2**25), st.integers(0, 2**17)),
)


@given(text=TEXTS, amount=st.integers(-1, 2**64), prefixed=st.booleans())
def test_arbitrary_text_gives_the_same_in_both_runs(
    both: tuple[ModuleType, ModuleType], text: str, amount: int, prefixed: bool
) -> None:
    """trap:12, trap:33: a value or MalformedTlv, and both runs agree on which, why and where."""
    compiled, pure = both
    for name, args in [
        ("forward_payload", (text, amount)),
        ("final_payload", (text, 1, amount)),
        ("read_extra_fee", (text,)),
        ("scid_from_str", (text,)),
    ]:
        assert outcome(getattr(compiled, name), *args) == outcome(getattr(pure, name), *args)
    read = [fields(outcome(run.read_payload, text, prefixed)) for run in both]
    assert read[0] == read[1]


@given(number=st.integers(-(2**66), 2**66), width=st.sampled_from([2, 4, 8]))
def test_arbitrary_numbers_give_the_same_in_both_runs(
    both: tuple[ModuleType, ModuleType], number: int, width: int
) -> None:
    """H-07."""
    compiled, pure = both
    for name, args in [
        ("encode_bigsize", (number,)),
        ("encode_tu", (number, width)),
        ("extra_fee_tlvs", (number,)),
        ("scid_to_str", (number,)),
        ("write_stream", ([(0, b""), (number, b"x")],)),
    ]:
        assert outcome(getattr(compiled, name), *args) == outcome(getattr(pure, name), *args)
