"""BOLT 11: invoices as lightningd and the specification write them, ours as vectors ask, and rubbish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast import bolt11
from lsps2fast.bolt11 import Hint, Invoice, MalformedInvoice
from lsps2fast.errors import ProtocolBug
from lsps2fast.lsps.lsps2 import parse_scid

DATA: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "invoices.json").read_text())
RECORDED = [each["bolt11"] for each in DATA["recorded"]]
PUBLISHED = DATA["published"]
KEY = PrivateKey(b"\x07" * 32)
PLAIN = Invoice(
    currency="bcrt",
    amount_msat=20_000_000,
    timestamp_s=1_800_000_000,
    payment_hash=b"\x11" * 32,
    payment_secret=b"\x22" * 32,
    description="a channel",
    expiry_s=3_530,
    min_final_cltv_blocks=13,
    features=bolt11.FIXED_FEATURES,
    hints=((Hint(KEY.public_key.format(), 1 << 40 | 2 << 16 | 3, 0, 0, 144),),),
)


def sign(digest: bytes) -> bytes:
    signature: bytes = KEY.sign_recoverable(digest, hasher=None)
    return signature


@pytest.mark.parametrize("text", RECORDED)
def test_an_invoice_of_lightningd_is_read_and_written_again_to_the_word(text: str) -> None:
    """I-03, I-07: all fields in lightningd's own order; only the signature is not ours."""
    invoice = bolt11.decode(text)
    ours = bolt11.encode(invoice)
    assert ours[:-110] == text[:-110]
    assert bolt11.decode(ours, signed=False) == invoice._replace(payee=None)


@pytest.mark.parametrize("made", DATA["recorded"], ids=lambda made: made["from"])
def test_what_lightningd_says_of_an_invoice_is_in_it(made: dict[str, Any]) -> None:
    """cln:C6, against the rows of `invoice` and `createinvoice`."""
    invoice = bolt11.decode(made["bolt11"])
    assert invoice.payment_hash.hex() == made["payment_hash"]
    assert made["payment_secret"] in (None, invoice.payment_secret.hex())


@pytest.mark.parametrize("vector", PUBLISHED, ids=lambda vector: vector["name"])
def test_the_published_examples_are_read(vector: dict[str, Any]) -> None:
    """BOLT 11, examples: amount, expiry, features, and who signed."""
    invoice = bolt11.decode(vector["bolt11"])
    assert invoice.payee is not None
    assert invoice.payee.hex() == DATA["published_payee"]
    assert (invoice.amount_msat, invoice.expiry_s) == (vector["amount_msat"], vector["expiry_s"])
    assert sorted(invoice.features) == vector["features"]
    assert invoice.payment_secret == b"\x11" * 32
    assert invoice.min_final_cltv_blocks == 18
    assert bolt11.decode(vector["bolt11"].upper()) == invoice


@pytest.mark.parametrize("vector", PUBLISHED, ids=lambda vector: vector["name"])
def test_one_changed_character_is_noticed(vector: dict[str, Any]) -> None:
    """BIP 173: the checksum covers prefix and data."""
    text = vector["bolt11"]
    for place in range(4, len(text), 37):
        other = "q" if text[place] != "q" else "p"
        with pytest.raises(MalformedInvoice):
            bolt11.decode(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "separator"),
        ("lnbc", "separator"),
        ("1" + "q" * 20, "separator"),
        ("LNBC2500u1pvjluez", "mixed case"),
        ("lnbc1ä", "ASCII"),
        ("lnbc1" + "b" * 120, "bech32 character"),
        ("lnbc1" + "q" * 120, "checksum"),
    ],
)
def test_what_is_no_bech32_is_refused(text: str, why: str) -> None:
    """BOLT 11, reader."""
    with pytest.raises(MalformedInvoice, match=why):
        bolt11.decode(text)


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        ("lnxx", "not the prefix"),
        ("lnbc2500x", "not the prefix"),
        ("lnbc01u", "not the prefix"),
        ("lnbc1.5", "not the prefix"),
        ("bc20m", "not the prefix"),
        ("lnbc2500000001p", "below one"),
        ("lnbc0u", "out of range"),
        ("lnbc99999999999999999999", "out of range"),
    ],
)
def test_a_wrong_prefix_is_refused(prefix: str, why: str) -> None:
    """BOLT 11, reader: unknown networks, multipliers, leading zeros, fractions of a millisatoshi."""
    text = bolt11._to_text(prefix, [0] * 200)
    with pytest.raises(MalformedInvoice, match=why):
        bolt11.decode(text)


@pytest.mark.parametrize(
    ("drop", "why"),
    [("s", "no field s"), ("p", "no field p"), ("d", "no description")],
)
def test_an_invoice_without_what_it_needs_is_refused(drop: str, why: str) -> None:
    """BOLT 11, reader; I-05: a payment secret is required."""
    fields = {"s": [0] * 52, "p": [0] * 52, "d": [0] * 5}
    words = [0] * 7
    for tag, value in fields.items():
        words += [] if tag == drop else bolt11._field(tag, value)
    with pytest.raises(MalformedInvoice, match=why):
        bolt11.decode(bolt11._to_text("lnbcrt", words + [0] * 104), signed=False)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([0] * 110, "too short"),
        ([0] * 7 + [16, 0, 5, 0] + [0] * 104, "cut short"),
        ([0] * 7 + [16, 0] + [0] * 104, "cut short"),
        ([0] * 7 + bolt11._field("r", [0] * 80) + [0] * 104, "route hint of 50 bytes"),
        ([0] * 7 + bolt11._field("r", []) + [0] * 104, "route hint of 0 bytes"),
    ],
)
def test_data_that_ends_too_soon_is_refused(words: list[int], why: str) -> None:
    """BOLT 11: tagged fields."""
    with pytest.raises(MalformedInvoice, match=why):
        bolt11.decode(bolt11._to_text("lnbcrt", words), signed=False)


def test_a_description_must_be_text() -> None:
    """BOLT 11: UTF-8."""
    words = [0] * 7 + bolt11._field("s", [0] * 52) + bolt11._field("p", [0] * 52)
    words += bolt11._field("d", bolt11._byte_words(b"\xff")) + [0] * 104
    with pytest.raises(MalformedInvoice, match="UTF-8"):
        bolt11.decode(bolt11._to_text("lnbcrt", words), signed=False)


def test_a_signature_of_nobody_is_refused_unless_nobody_asks() -> None:
    """cln:C6: what we hand to lightningd is not signed."""
    text = bolt11.encode(PLAIN)
    with pytest.raises(MalformedInvoice, match="fits no key"):
        bolt11.decode(text)
    assert bolt11.decode(text, signed=False) == PLAIN


def test_an_invoice_that_names_another_node_than_the_signer_is_refused() -> None:
    """BOLT 11, `n`."""
    other = PrivateKey(b"\x08" * 32).public_key.format()
    words = bolt11._data_words(PLAIN) + bolt11._field("n", bolt11._byte_words(other))
    digest = bolt11.hashlib.sha256(bolt11._signed_bytes("lnbcrt200u", words)).digest()
    text = bolt11._to_text("lnbcrt200u", words + bolt11._byte_words(sign(digest)))
    with pytest.raises(MalformedInvoice, match="another key"):
        bolt11.decode(text)


def test_the_route_hint_of_the_vectors(vectors: dict[str, Any]) -> None:
    """V:bolt11.route_hint (I-03): 82 words."""
    vector = vectors["bolt11"]["route_hint"]
    hint = Hint(
        bytes.fromhex(vector["pubkey"]),
        parse_scid(vector["short_channel_id"]),
        vector["fee_base_msat"],
        vector["fee_proportional_millionths"],
        vector["cltv_expiry_delta"],
    )
    data = bolt11._hint_bytes(hint)
    words = bolt11._byte_words(data)
    assert data.hex() == vector["hex"]
    assert "".join(bolt11.CHARSET[word] for word in words) == vector["bech32_data"]
    assert len(words) == vector["data_length_words"]
    assert bolt11._read_hint(data) == (hint,)


def test_min_final_cltv_of_the_vectors(vectors: dict[str, Any]) -> None:
    """V:bolt11.min_final_cltv (I-04)."""
    for vector in vectors["bolt11"]["min_final_cltv"]:
        words = bolt11._number_words(vector["invoice_c"])
        assert "".join(bolt11.CHARSET[word] for word in words) == vector["c_words"]


def test_the_payment_secret_lightningd_derives(vectors: dict[str, Any]) -> None:
    """V:bolt11.payment_secret_cln (I-07), and one that a real lightningd made (r_client_without_developer)."""
    vector = vectors["bolt11"]["payment_secret_cln"]
    assert bolt11.payment_secret_for(bytes.fromhex(vector["preimage"])).hex() == vector["payment_secret"]
    recorded = bytes.fromhex("679de27aa1648b84dea900bd10b5c253bcae6e1b35ab0399499c7654bbe940da")
    secrets = {bolt11.decode(text).payment_secret for text in RECORDED}
    assert bolt11.payment_secret_for(recorded) in secrets


@pytest.mark.parametrize(
    ("features", "name"),
    [(bolt11.FIXED_FEATURES, "bolt11_fixed_mpp_8_14_17"), (bolt11.VARIABLE_FEATURES, "bolt11_var_no_mpp_8_14")],
)
def test_features_of_the_vectors(vectors: dict[str, Any], features: frozenset[int], name: str) -> None:
    """V:feature_bits (I-05)."""
    bits = sum(1 << bit for bit in features)
    assert bits == int(vectors["feature_bits"][name], 16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"currency": "xx"},
        {"amount_msat": 0},
        {"amount_msat": 2**64},
        {"timestamp_s": 1 << 35},
        {"payment_hash": b""},
        {"payment_secret": b"\0" * 31},
        {"description": None},
        {"description": "ä" * 320},
        {"description_hash": b"\0" * 32},
        {"description": None, "description_hash": b"\0" * 31},
        {"expiry_s": 0},
        {"min_final_cltv_blocks": 0},
    ],
    ids=str,
)
def test_what_no_invoice_can_say_is_a_bug_of_ours(wrong: dict[str, Any]) -> None:
    """Sans-IO rule: ranges are checked before anything is written."""
    with pytest.raises(ProtocolBug):
        bolt11.encode(PLAIN._replace(**wrong))


amounts = st.none() | st.integers(1, 2_100_000_000_000_000_000) | st.sampled_from([1, 10, 1000, 10**8, 10**11, 10**14])
hints = st.builds(
    Hint,
    st.just(KEY.public_key.format()),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
)
invoices = st.builds(
    Invoice,
    currency=st.sampled_from(sorted(set(bolt11.CURRENCIES.values()))),
    amount_msat=amounts.filter(lambda amount: amount is None or amount <= (2**64 - 1) // 10),
    timestamp_s=st.integers(0, 2**35 - 1),
    payment_hash=st.binary(min_size=32, max_size=32),
    payment_secret=st.binary(min_size=32, max_size=32),
    description=st.text(max_size=100),
    expiry_s=st.integers(1, 2**40),
    min_final_cltv_blocks=st.integers(1, 2**16),
    features=st.frozensets(st.integers(0, 120), max_size=6),
    hints=st.lists(st.lists(hints, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    payee=st.none(),
    other_fields=st.just(()),
    description_hash=st.none(),
)


@given(invoices, st.binary(min_size=32, max_size=32))
def test_a_hash_stands_for_the_description(invoice: Invoice, digest: bytes) -> None:
    """BOLT 11: exactly one of `d` and `h`."""
    meant = invoice._replace(description=None, description_hash=digest)
    assert bolt11.decode(bolt11.encode(meant, sign)) == meant._replace(payee=KEY.public_key.format())


@given(invoices)
def test_what_is_written_is_read(invoice: Invoice) -> None:
    """encode, then decode, gives the same invoice and its signer, for every amount unit and network."""
    assert bolt11.decode(bolt11.encode(invoice, sign)) == invoice._replace(payee=KEY.public_key.format())


@given(st.sampled_from(RECORDED), st.lists(st.tuples(st.integers(4, 200), st.integers(0, 31)), min_size=1, max_size=5))
def test_changed_words_under_a_right_checksum_give_an_invoice_or_a_refusal(
    text: str, changes: list[tuple[int, int]]
) -> None:
    """Whatever the words are: an Invoice or MalformedInvoice, nothing else."""
    prefix, words = bolt11._from_text(text)
    for place, word in changes:
        words[place % len(words)] = word
    try:
        read = bolt11.decode(bolt11._to_text(prefix, words))
    except MalformedInvoice:
        return
    assert isinstance(read, Invoice)


@given(st.text(max_size=200) | st.text(alphabet=bolt11.CHARSET + "1lnbcrt", max_size=300))
def test_any_text_gives_an_invoice_or_a_refusal(text: str) -> None:
    """Fuzz: nothing but MalformedInvoice comes out."""
    with pytest.raises(MalformedInvoice):
        bolt11.decode(text)
