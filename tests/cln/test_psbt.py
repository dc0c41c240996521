"""What miners get from a PSBT, in both versions and whatever an input says of its coin."""

from __future__ import annotations

import base64

import pytest

from lsps2fast_plugin.cln.psbt import fee_sat, inputs_of
from lsps2fast_plugin.simnode.psbt import Output, Tx, encode, encode_v2

SCRIPT = b"\x00\x20" + b"\x11" * 32
TX = Tx(
    inputs=(("aa" * 32, 1), ("bb" * 32, 0)),
    outputs=(Output(150_000, SCRIPT), Output(48_500, SCRIPT)),
    spent=(Output(100_000, SCRIPT), Output(100_000, SCRIPT)),
)
POINTS = ("aa" * 32 + ":1", "bb" * 32 + ":0")


@pytest.mark.parametrize("text", [encode(TX), encode(TX.sign(b"us")), encode_v2(TX)])
def test_what_a_psbt_spends_and_leaves_to_miners(text: str) -> None:
    """operator:O2: the mining fee is that of the transaction, not an estimate."""
    assert inputs_of(text) == POINTS
    assert fee_sat(text) == 1_500


def _pair(key: bytes, value: bytes) -> bytes:
    return (
        bytes([len(key)])
        + key
        + (bytes([len(value)]) if len(value) < 253 else b"\xfd" + len(value).to_bytes(2, "little"))
        + value
    )


@pytest.mark.parametrize("witness", [False, True])
def test_an_input_that_shows_the_whole_transaction_before(witness: bool) -> None:
    """operator:O2: lightningd gives both forms; the coin is the output that the input names."""
    before = Tx((("cc" * 32, 0),), (Output(7, SCRIPT), Output(90_000, SCRIPT)), (Output(90_100, SCRIPT),))
    before = before.sign(b"them") if witness else before
    head = _pair(b"\x04", b"\x01") + _pair(b"\x05", b"\x01") + b"\0"
    coin = _pair(b"\x00", before.serialize()) + _pair(b"\x0e", bytes(32)) + _pair(b"\x0f", b"\x01\0\0\0") + b"\0"
    out = _pair(b"\x03", (88_000).to_bytes(8, "little")) + _pair(b"\x04", SCRIPT) + b"\0"
    assert fee_sat(base64.b64encode(b"psbt\xff" + head + coin + out).decode()) == 2_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        base64.b64encode(b"psbt\xff").decode(),
        base64.b64encode(b"psbt\xfe\0").decode(),
        encode(TX)[:-80],
    ],
)
def test_what_is_no_psbt_is_told(text: str) -> None:
    """A ValueError, whatever is wrong."""
    with pytest.raises(ValueError, match=r"."):
        fee_sat(text)


def test_a_psbt_that_says_nothing_of_its_coins() -> None:
    """No guess: what miners get is then not known."""
    with pytest.raises(ValueError, match="broken"):
        fee_sat(encode(Tx(TX.inputs, TX.outputs, ())))
