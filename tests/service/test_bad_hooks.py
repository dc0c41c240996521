"""htlc_accepted calls with missing or odd fields, wrong types, numbers too large, broken hex, broken onion payloads."""

from __future__ import annotations

import random
from typing import Any

import pytest
from harness.service import HIDDEN, NODE_FAILURE, SIZE_MSAT, TEMPORARY, UNKNOWN, Stage

from lsps2fast_plugin.simnode import Payer, tlv
from lsps2fast_plugin.simnode.client import ClientInvoice

U64_MAX = 2**64 - 1
LOW = {"result": "fail", "failure_message": f"100c{SIZE_MSAT - 1:016x}0000"}  # what a readable call gets here
UNREADABLE = {"result": "fail", "failure_message": NODE_FAILURE}
FAILED = {"result": "fail", "failure_message": TEMPORARY}
CONTINUE = {"result": "continue"}
ABSENT = object()
ODD = (None, True, 1.5, "x", -1, [], "", [1])


class Calls:
    """Hook calls about one part of one msat too little, so that a call that is understood gets `LOW` at once."""

    def __init__(self, stage: Stage, payer: Payer, invoice: ClientInvoice) -> None:
        self.stage, self.payer, self.invoice = stage, payer, invoice
        self._count = 9000

    def payload(self, value_msat: int) -> str:
        """A good payload of the LSP's hop, in hex."""
        expiry = self.stage.lsp.height + 12
        return tlv.prefixed(tlv.hop_payload(value_msat, expiry, self.invoice.scid)).hex()

    async def ask(self, *changes: tuple[str, str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The result for a call with these changes, (object, field, value), and what the log said about it."""
        self._count += 1
        params = self.stage.part_call(self.invoice, self.payer, htlc_id=self._count)
        params["htlc"]["amount_msat"] -= 1
        for place, name, value in changes:
            target = params if place == "" else params[place]
            target[name] = value
            if value is ABSENT:
                del target[name]
        before = len(self.stage.log_lines("", "warn", "error"))
        answer = await self.stage.world.bounded(self.stage.hook_call(params), None, "an answer")
        return self.stage.valid(answer), self.stage.log_lines("", "warn", "error")[before:]


async def _calls(stage: Stage, size_msat: int | None = SIZE_MSAT) -> Calls:
    client, payer = stage.client(), stage.payer()
    return Calls(stage, payer, await stage.invoice(client, size_msat))


@pytest.mark.parametrize(
    ("place", "name", "result"),
    [
        ("", "onion", UNREADABLE),
        ("", "htlc", UNREADABLE),
        ("onion", "payload", UNREADABLE),
        ("htlc", "short_channel_id", UNREADABLE),
        ("htlc", "id", UNREADABLE),
        ("htlc", "amount_msat", UNREADABLE),
        ("htlc", "cltv_expiry", UNREADABLE),
        ("htlc", "payment_hash", UNREADABLE),
        ("onion", "short_channel_id", CONTINUE),  # then it ends here and is no part of ours
        ("", "peer_id", LOW),
        ("onion", "type", LOW),
        ("onion", "forward_msat", LOW),
        ("onion", "outgoing_cltv_value", LOW),
        ("onion", "next_onion", LOW),
        ("onion", "shared_secret", LOW),
        ("htlc", "cltv_expiry_relative", LOW),
    ],
)
async def test_a_missing_field_matters_only_if_it_is_needed(place: str, name: str, result: dict[str, str]) -> None:
    """trap:12, cln:H9, rule:1: exactly one valid answer; a call that cannot be read is one line in the log."""
    async with Stage() as stage:
        calls = await _calls(stage)
        got, said = await calls.ask((place, name, ABSENT))
        assert got == result
        assert len(said) == (result == UNREADABLE)
        stage.errors_expected = bool(said)
        await stage.still_sells(calls.payer)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("", "onion"),
        ("", "htlc"),
        ("onion", "payload"),
        ("htlc", "short_channel_id"),
        ("htlc", "id"),
        ("htlc", "cltv_expiry"),
        ("htlc", "payment_hash"),
    ],
)
async def test_a_needed_field_of_a_wrong_type_fails_the_part(place: str, name: str) -> None:
    """trap:12, rule:1: null, bool, float, text, negative, array: one answer and one line each, then a sale."""
    async with Stage() as stage:
        calls = await _calls(stage)
        for odd in ODD:
            got, said = await calls.ask((place, name, odd))
            assert (odd, got in (UNREADABLE, FAILED), len(said)) == (odd, True, 1), got
        stage.errors_expected = bool(stage.log_lines("", "error"))
        await stage.still_sells(calls.payer)


async def test_an_outgoing_scid_of_a_wrong_type_is_never_let_go() -> None:
    """trap:12, C-17: `continue` would fail it for good; only null means that there is none."""
    async with Stage() as stage:
        calls = await _calls(stage)
        for odd in (True, 1.5, 17, "x", "1x2", "1x2x3x4", "1x1x70000", "-1x1x1", [], {}, ""):
            got, said = await calls.ask(("onion", "short_channel_id", odd))
            assert (odd, got, len(said)) == (odd, UNREADABLE, 1)
        assert (await calls.ask(("onion", "short_channel_id", None)))[0] == CONTINUE
        stage.errors_expected = True
        await stage.still_sells(calls.payer)


@pytest.mark.parametrize("value", [f"{SIZE_MSAT - 1}msat", str(SIZE_MSAT - 1)])
async def test_amounts_in_the_form_of_older_nodes_are_understood(value: str) -> None:
    """cln:W4: lightningd writes numbers now; texts are no reason to fail a payment."""
    async with Stage() as stage:
        calls = await _calls(stage)
        assert await calls.ask(("htlc", "amount_msat", value)) == (LOW, [])


@pytest.mark.parametrize("field", ["id", "amount_msat", "cltv_expiry"])
async def test_a_number_beyond_64_bits_fails_the_part(field: str) -> None:
    """trap:12, H-07: never wrapped, never cut."""
    async with Stage() as stage:
        calls = await _calls(stage)
        for odd in (U64_MAX + 1, 10**30, -1, -(2**63), f"{U64_MAX + 1}msat"):
            got, said = await calls.ask(("htlc", field, odd))
            assert (odd, got, len(said)) == (odd, UNREADABLE, 1)
        stage.errors_expected = True
        await stage.still_sells(calls.payer)


async def test_the_largest_numbers_are_numbers() -> None:
    """F-03, H-07, C-04: u64 maximum as id, expiry and amount is refused by rule, not by accident."""
    async with Stage() as stage:
        calls = await _calls(stage)
        assert (await calls.ask(("htlc", "id", U64_MAX)))[0] == LOW
        got, _ = await calls.ask(("onion", "payload", calls.payload(U64_MAX)))
        assert got == LOW
        got, _ = await calls.ask(("htlc", "cltv_expiry", U64_MAX), ("htlc", "amount_msat", SIZE_MSAT - 1))
        assert got == LOW
        await stage.still_sells(calls.payer)


@pytest.mark.parametrize("size_msat", [SIZE_MSAT, None])
async def test_an_amount_that_no_node_can_hold_fails_and_uses_nothing_up(size_msat: int | None) -> None:
    """H-07, rule:14, C-23: 2^63 and 2^64-1 msat, alone and together, open nothing; the payment after them is paid.

    For now where a size was bought, for good where the amount itself is out of range.
    """
    async with Stage() as stage:
        calls = await _calls(stage, size_msat)
        for value_msat in (2**63, U64_MAX, 2**63):
            got, _ = await calls.ask(
                ("onion", "payload", calls.payload(value_msat)), ("htlc", "amount_msat", value_msat)
            )
            assert got == (FAILED if size_msat else {"result": "fail", "failure_message": UNKNOWN})
        assert stage.calls("utxopsbt") == []
        await stage.paid(calls.payer, calls.invoice, [SIZE_MSAT])
        await stage.over(calls.invoice)


async def test_a_fee_beyond_64_bits_fails_for_good_in_variable_mode() -> None:
    """C-21, F-03: with the operator's limit at its highest; the buy is not used up."""
    most_sat = 10**15
    async with Stage(options={"lsps2-max-held-sat": most_sat}) as stage:
        calls = await _calls(stage, None)
        value_msat = most_sat * 1000
        got, _ = await calls.ask(("onion", "payload", calls.payload(value_msat)), ("htlc", "amount_msat", value_msat))
        assert got == {"result": "fail", "failure_message": UNKNOWN}
        await stage.paid(calls.payer, calls.invoice, [SIZE_MSAT])
        await stage.over(calls.invoice)


@pytest.mark.parametrize(
    ("place", "name", "texts", "result"),
    [
        ("onion", "payload", ("1", "zz", "0x12", "12 34", "120", "é"), FAILED),
        ("htlc", "payment_hash", ("ab", "ab" * 31 + "a", "zz" * 32, "ab" * 33, " " + "ab" * 32), UNREADABLE),
    ],
)
async def test_hex_that_is_none_fails_the_part(place: str, name: str, texts: tuple[str, ...], result: Any) -> None:
    """trap:12: odd length, other letters, blanks; one answer, one line each."""
    async with Stage() as stage:
        calls = await _calls(stage)
        for text in texts:
            got, said = await calls.ask((place, name, text))
            assert (text, got, len(said)) == (text, result, 1)
        stage.errors_expected = bool(stage.log_lines("", "error"))
        await stage.still_sells(calls.payer)


async def test_tlvs_of_the_incoming_htlc_are_not_ours_to_judge() -> None:
    """H-10: whatever stands in extra_tlvs is replaced; odd hex in it does not stop a part."""
    async with Stage() as stage:
        calls = await _calls(stage)
        for text in ("", "f", "zz", "fe000100010800000000000854d0"):
            assert await calls.ask(("htlc", "extra_tlvs", text)) == (LOW, [])
        await stage.still_sells(calls.payer)


async def test_an_onion_payload_that_is_no_tlv_stream_fails_temporarily() -> None:
    """trap:12, H-12, H-11: every way to break it; the warning names the part and the place."""
    good = tlv.hop_payload(SIZE_MSAT, 121, "1x1x1")
    broken = {
        "empty": b"",
        "no length": good,
        "length too small": bytes([len(good) - 1]) + good,
        "length too large": bytes([len(good) + 1]) + good,
        "length not minimal": b"\xfd\x00" + bytes([len(good)]) + good,
        "records fall": tlv.prefixed(b"\x04\x01\x79\x02\x01\x05"),
        "record twice": tlv.prefixed(b"\x02\x01\x05\x02\x01\x05"),
        "record cut": tlv.prefixed(b"\x02\x09\x05"),
        "amount not minimal": tlv.prefixed(b"\x02\x02\x00\x05\x04\x01\x79"),
        "amount of nine bytes": tlv.prefixed(b"\x02\x09" + b"\x01" * 9 + b"\x04\x01\x79"),
        "the old fixed payload": bytes(33),
    }
    async with Stage() as stage:
        calls = await _calls(stage)
        for what, payload in broken.items():
            got, said = await calls.ask(("onion", "payload", payload.hex()))
            assert (what, got) == (what, FAILED)
            assert (what, len(said)) == (what, 1)
        await stage.still_sells(calls.payer)


@pytest.mark.parametrize(
    ("payload", "readable"),
    [
        (b"\x04\x01\x79", True),
        (b"\x02\x01\x05", True),
        (b"", True),
        (b"\x02\x01\x05\x04\x01\x79\x0a\x01\x00", False),
        (b"\x02\x01\x05\x04\x01\x79\x0c\x00", True),  # no path key is as short
    ],
    ids=["no amount", "no expiry", "no record at all", "encrypted_recipient_data", "path key"],
)
async def test_a_payload_whose_amount_cannot_be_changed_fails_and_the_log_says_why(
    payload: bytes, readable: bool
) -> None:
    """C-25, trap:12: nothing to reduce, or inside a blinded path; one answer, one line."""
    async with Stage() as stage:
        calls = await _calls(stage)
        got, said = await calls.ask(("onion", "payload", tlv.prefixed(payload).hex()))
        assert got == (FAILED if readable else {"result": "fail", "failure_message": HIDDEN})
        assert len(said) == 1
        await stage.still_sells(calls.payer)


async def test_an_unknown_scid_is_lightningds_business() -> None:
    """C-01, cln:H10: `continue`, no line in the log, one HTLC at a time and many."""
    async with Stage() as stage:
        calls = await _calls(stage)
        for scid in ("1x1x1", "0x0x0", "16777215x16777215x65535"):
            assert await calls.ask(("onion", "short_channel_id", scid)) == (CONTINUE, [])
        payment = await calls.payer.pay(calls.invoice, [1_000] * 20, scid="1x1x1")
        assert payment.raw_messages == [UNKNOWN] * 20
        await stage.still_sells(calls.payer)


async def test_records_that_are_not_ours_travel_on_untouched() -> None:
    """H-13: odd records of the payload leave byte-identical; only record 2 changes."""
    async with Stage() as stage:
        client, payer = stage.client(), stage.payer()
        invoice = await stage.invoice(client)
        await stage.paid(payer, invoice, [SIZE_MSAT], more={99: b"keep", 65_999: b""})
        await stage.over(invoice)
        sent = tlv.read_records(bytes.fromhex(stage.htlc_results(invoice.payment_hash)[0]["payload"]))
        assert (sent[99], sent[65_999]) == (b"keep", b"")
        assert tlv.read_tu(sent[2]) == SIZE_MSAT - 1_000_000


async def test_calls_spoilt_at_random_get_valid_answers() -> None:
    """trap:12: 300 calls, each with one to three values replaced or removed anywhere; lightningd would survive them
    all.
    """
    rng = random.Random(2)
    junk: list[Any] = [*ODD, {}, 0, 2**64, 10**40, "ff", "1x1x1", "\n\n{}", "é\u2028", {"a": [1]}, ABSENT]
    async with Stage(fresh=True) as stage:
        calls = await _calls(stage)
        fields = [
            (place, name)
            for place, names in stage.part_call(calls.invoice, calls.payer).items()
            for name in ([""] if isinstance(names, str) else names)
        ]
        for _ in range(300):
            spoilt = rng.sample(fields, rng.randint(1, 3))
            changes = [(place if name else "", name or place, rng.choice(junk)) for place, name in spoilt]
            got, _ = await calls.ask(*changes)
            assert got in (LOW, UNREADABLE, FAILED, CONTINUE) or got["failure_message"][:4] in ("100b", "100c", "100d")
        stage.errors_expected = True
        await stage.still_sells(calls.payer)
