"""Which parts a wallet holds, refuses and claims: the pure logic of I-20 to I-28, against vectors and at random."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from harness.client import LSP, STRANGER, entry, hook, payload, tlv
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import MalformedTlv, ProtocolBug
from lsps2fast.lsps.lsps2 import U64_MAX, FeeParams
from lsps2fast.lsps.receiving import (
    LSP_FAULTS,
    MPP_TIMEOUT,
    Part,
    PaymentSet,
    PaymentTerms,
    Reason,
    carries_fee,
    details_failure,
    read_part,
)

SECRET = b"\x42" * 32
CHANNEL = "ab" * 32


def terms(size_msat: int | None = 1_000_000, **fields: Any) -> PaymentTerms:
    """1 %, at least 1 sat; payments from 100 sat to 40 000 sat."""
    entry_fields = {
        "min_fee_msat": "1000",
        "proportional": 10_000,
        "min_payment_size_msat": "100000",
        "max_payment_size_msat": "40000000",
    }
    params = FeeParams.from_json(entry(**{**entry_fields, **fields.pop("params", {})}))
    return PaymentTerms(
        **{
            "lsp_id": LSP,
            "params": params,
            "payment_size_msat": size_msat,
            "largest_payment_msat": U64_MAX,
            "max_fee_msat": U64_MAX,
            "max_fee_ppm": 10**6,
            "payment_secret": SECRET,
            **fields,
        }
    )


def part(onion_msat: int | None, fee_msat: int = 0, number: int = 0, **fields: Any) -> Part:
    return Part(
        **{
            "key": (CHANNEL, number),
            "peer_id": LSP,
            "htlc_msat": (onion_msat or 0) - fee_msat,
            "onion_msat": onion_msat,
            "total_msat": 1_000_000,
            "payment_secret": SECRET,
            "extra_fee_msat": fee_msat,
            "cltv_expiry": 900,
            **fields,
        }
    )


def take(collected: PaymentSet, each: Part) -> Reason | None:
    reason = collected.check(each)
    if reason is None:
        collected.hold(each, 0)
    return reason


def outcome(collected: PaymentSet, parts: list[Part]) -> str:
    """In the words of the vectors."""
    for each in parts:
        reason = take(collected, each)
        if reason is not None:
            names = {
                Reason.AMOUNT_MISMATCH: "htlc_amount_mismatch",
                Reason.FEE_SUM: "extra_fee_sum_above_opening_fee",
            }
            return f"reject:{names[reason]}"
    return "accept" if collected.complete else "hold:not_enough_yet"


def test_every_client_vector(vectors: dict[str, Any]) -> None:
    """V:client_checks (I-21, I-23, I-24)."""
    for vector in vectors["client_checks"]:
        fee_msat = vector["opening_fee_msat"]
        agreed = terms(int(vector["payment_size_msat"]), params={"min_fee_msat": fee_msat, "proportional": 0})
        parts = [
            part(
                int(each["onion_amt_to_forward_msat"]),
                int(each["extra_fee_msat"] or 0),
                number,
                htlc_msat=int(each["htlc_amount_msat"]),
                total_msat=int(vector["payment_size_msat"]),
            )
            for number, each in enumerate(vector["parts"])
        ]
        assert outcome(PaymentSet(agreed, 90_000), parts) == vector["expect"], vector["name"]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"peer_id": STRANGER, "extra_fee_msat": 1, "htlc_msat": 999_999}, Reason.NOT_FROM_LSP),
        ({"peer_id": None, "extra_fee_msat": 1, "htlc_msat": 999_999}, Reason.NOT_FROM_LSP),
        ({"payment_secret": None}, Reason.NO_SECRET),
        ({"total_msat": None}, Reason.NO_SECRET),
        ({"onion_msat": None}, Reason.NO_SECRET),
        ({"payment_secret": b"\x43" * 32}, Reason.WRONG_SECRET),
        ({"htlc_msat": 499_999}, Reason.AMOUNT_MISMATCH),
        ({"htlc_msat": 500_001}, Reason.AMOUNT_MISMATCH),
        ({"extra_fee_msat": U64_MAX}, Reason.AMOUNT_MISMATCH),
        ({"extra_fee_msat": 10_001, "htlc_msat": 489_999}, Reason.FEE_SUM),
        ({"total_msat": 999_999}, Reason.TOTAL_TOO_SMALL),
        ({"total_msat": 2_000_001}, Reason.TOTAL_TOO_LARGE),
    ],
    ids=str,
)
def test_a_part_that_breaks_a_rule_is_refused_and_not_kept(wrong: dict[str, Any], reason: Reason) -> None:
    """I-20, I-21, I-23; BOLT 4's bounds on the total, which lightningd no longer sees."""
    collected = PaymentSet(terms(), 90_000)
    assert take(collected, part(500_000)._replace(**wrong)) is reason
    assert not collected.parts


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_the_lsp_alone_can_cause_ends_the_set(reason: Reason) -> None:
    """K-27: a stranger who knows the payment hash must not be able to fail an honest payment."""
    assert (reason in LSP_FAULTS) == (reason in {Reason.AMOUNT_MISMATCH, Reason.FEE_SUM})


@pytest.mark.parametrize("other", [{"total_msat": 1_000_001}, {"payment_secret": b"\x43" * 32}], ids=str)
def test_all_parts_name_the_same_total_and_secret(other: dict[str, Any]) -> None:
    """I-27; the newcomer is refused, what is held stays."""
    collected = PaymentSet(terms(payment_secret=None), 90_000)
    assert take(collected, part(500_000)) is None
    assert take(collected, part(500_000, number=1)._replace(**other)) is Reason.OTHER_SET
    assert len(collected.parts) == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_parts_does_not_matter(order: tuple[int, ...]) -> None:
    """I-24, H-18: any order, any distribution of the fee."""
    parts = [part(200_000, 4_000, 0), part(300_000, 0, 1), part(500_000, 6_000, 2)]
    collected = PaymentSet(terms(), 90_000)
    for count, place in enumerate(order, 1):
        assert take(collected, parts[place]) is None
        assert collected.complete == (count == 3)
    assert {claim.key[1]: (claim.amount_msat, claim.total_msat) for claim in collected.claims()} == {
        0: (196_000, 990_000),
        1: (300_000, 990_000),
        2: (494_000, 990_000),
    }


def test_a_part_asked_about_again_is_the_same_part() -> None:
    """rule:3, K-07: counted once."""
    collected = PaymentSet(terms(), 90_000)
    for _ in range(3):
        assert take(collected, part(500_000, 10_000)) is None
    assert (collected.sent_msat, collected.fees_msat, collected.complete) == (500_000, 10_000, False)


def test_parts_of_two_channels_with_one_number_are_two() -> None:
    """C-03 for the wallet: htlc ids repeat across channels."""
    collected = PaymentSet(terms(), 90_000)
    assert take(collected, part(500_000, 10_000)) is None
    assert take(collected, part(500_000, key=("ef" * 32, 0))) is None
    assert collected.complete


def test_an_overpaying_payer_is_waited_for() -> None:
    """I-24, I-28: all that was announced, so that nothing is left behind."""
    collected = PaymentSet(terms(), 90_000)
    assert take(collected, part(1_000_000, 10_000, total_msat=1_500_000)) is None
    assert not collected.complete
    assert take(collected, part(500_000, number=1, total_msat=1_500_000)) is None
    assert collected.complete


def test_the_number_of_parts_is_bounded() -> None:
    """rule:14: an LSP cannot grow our memory."""
    collected = PaymentSet(terms(1_000_000, params={"proportional": 0}), 90_000)
    for number in range(483):
        assert take(collected, part(1, number=number)) is None
    assert take(collected, part(1, number=483)) is Reason.TOO_MANY


def test_sums_above_64_bits_are_refused() -> None:
    """I-21, I-31: u64 checks."""
    huge = terms(2**62, params={"proportional": 0, "max_payment_size_msat": str(U64_MAX)})
    collected = PaymentSet(huge, 90_000)
    assert take(collected, part(U64_MAX - 5, total_msat=2**63)) is None
    assert take(collected, part(6, number=1, total_msat=2**63)) is Reason.SUM_OVERFLOW


@pytest.mark.parametrize(
    ("payment_msat", "fee_msat", "reason"),
    [
        (500_000, 5_000, None),
        (500_000, 0, None),
        (500_000, 5_001, Reason.FEE_SUM),
        (10_000_000, 9_999_999, Reason.FEE_SUM),
        (100_000, 1_000, None),
        (99_999, 0, Reason.OUT_OF_RANGE),
        (40_000_000, 400_000, None),
        (40_000_001, 0, Reason.OUT_OF_RANGE),
    ],
)
def test_an_invoice_without_an_amount_takes_one_part_for_the_fee_of_what_was_sent(
    payment_msat: int, fee_msat: int, reason: Reason | None
) -> None:
    """I-25: an LSP that forwards 1 msat of 10 000 000 gets nothing."""
    collected = PaymentSet(terms(None), 90_000)
    assert take(collected, part(payment_msat, fee_msat, total_msat=payment_msat)) is reason
    assert collected.complete == (reason is None)


@pytest.mark.parametrize("total_msat", [499_999, 500_001, 1_000_000])
def test_variable_mode_takes_no_set_of_parts(total_msat: int) -> None:
    """I-25: total_msat equals the part."""
    assert PaymentSet(terms(None), 90_000).check(part(500_000, total_msat=total_msat)) is Reason.NOT_SINGLE


def test_variable_mode_takes_no_second_part() -> None:
    """I-25."""
    collected = PaymentSet(terms(None), 90_000)
    assert take(collected, part(500_000, total_msat=500_000)) is None
    assert take(collected, part(500_000, number=1, total_msat=500_000)) is Reason.NOT_SINGLE


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"largest_payment_msat": 499_999}, Reason.OUT_OF_RANGE),
        ({"largest_payment_msat": 500_000}, None),
        ({"max_fee_msat": 4_999}, Reason.FEE_ABOVE_LIMIT),
        ({"max_fee_msat": 5_000}, None),
        ({"max_fee_ppm": 9_999}, Reason.FEE_ABOVE_LIMIT),
        ({"max_fee_ppm": 10_000}, None),
    ],
    ids=str,
)
def test_the_owners_limits_hold_when_the_amount_is_known(limit: dict[str, int], reason: Reason | None) -> None:
    """G-15, X-22: in variable mode the fee is judged when the payment comes."""
    assert PaymentSet(terms(None, **limit), 90_000).check(part(500_000, 5_000, total_msat=500_000)) is reason


@pytest.mark.parametrize("size_msat", [None, 2**40])
def test_a_fee_that_overflows_is_refused(size_msat: int | None) -> None:
    """F-03."""
    size = 2**40 if size_msat is None else size_msat
    agreed = terms(size_msat, params={"proportional": U64_MAX, "max_payment_size_msat": str(U64_MAX)})
    assert PaymentSet(agreed, 90_000).check(part(size, total_msat=size)) is Reason.FEE_OVERFLOW


def test_a_fee_that_leaves_nothing_is_refused() -> None:
    """B-04: the fee is strictly below the payment."""
    agreed = terms(1_000_000, params={"min_fee_msat": "1000000"})
    assert PaymentSet(agreed, 90_000).check(part(1_000_000)) is Reason.FEE_ABOVE_LIMIT


def test_nothing_is_claimed_before_all_is_here() -> None:
    """I-24: the order to claim does not exist before."""
    collected = PaymentSet(terms(), 90_000)
    assert take(collected, part(999_999)) is None
    with pytest.raises(ProtocolBug):
        collected.claims()


def test_the_timeout_runs_from_the_first_part_and_starts_anew_with_a_new_set() -> None:
    """I-27, C-27: not restarted by later parts."""
    collected = PaymentSet(terms(), 90_000)
    assert collected.due_ms is None
    collected.hold(part(1), 5_000)
    collected.hold(part(1, number=1), 60_000)
    assert collected.due_ms == 95_000
    collected.drop(list(collected.parts))
    assert collected.due_ms is None
    collected.hold(part(1), 100_000)
    assert collected.due_ms == 190_000


@pytest.mark.parametrize(
    ("height", "final_cltv", "late"),
    [(893, 0, False), (894, 0, True), (890, 10, False), (891, 10, True), (882, 18, False), (883, 18, True)],
)
def test_parts_are_failed_before_they_expire_or_lightningd_would_refuse_them(
    height: int, final_cltv: int, late: bool
) -> None:
    """K-06 (6 blocks before expiry), I-04 (lightningd enforces cltv-final)."""
    collected = PaymentSet(terms(), 90_000)
    assert not collected.too_late(height, final_cltv)
    collected.hold(part(1, cltv_expiry=2_000), 0)
    collected.hold(part(1, number=1, cltv_expiry=900), 0)
    assert collected.too_late(height, final_cltv) == late


def test_failure_messages_of_the_vectors(vectors: dict[str, Any]) -> None:
    """V:failure_messages (I-26, I-27)."""
    known = {vector["name"]: vector["hex"] for vector in vectors["failure_messages"]["vectors"]}
    assert details_failure(990_000, 800_000) == known["incorrect_or_unknown_payment_details"]
    assert known["mpp_timeout"] == MPP_TIMEOUT


# --- Reading a part ---------------------------------------------------------------------------------------------------


def scan(payload_hex: str, extra_tlvs: str | None = None) -> Any:
    return hook.Scan(
        id_raw=b"1",
        next_scid=-1,
        forward_to=None,
        payment_hash=b"\x11" * 32,
        in_scid=1,
        htlc_id=0,
        amount_msat=990_000,
        cltv_expiry=900,
        forward_msat=-1,
        outgoing_cltv_value=-1,
        payload_hex=payload_hex,
        total_msat=-1,
        payment_secret=None,
        extra_tlvs=extra_tlvs,
        peer_id=LSP,
    )


def test_the_hook_of_the_vectors_is_read_and_answered(vectors: dict[str, Any]) -> None:
    """V:cln_hooks.client_accept (I-28)."""
    vector = vectors["cln_hooks"]["client_accept"]
    given_part = read_part(
        scan(vector["request"]["onion"]["payload"], vector["request"]["htlc"]["extra_tlvs"]), (CHANNEL, 0), None
    )
    assert (given_part.onion_msat, given_part.total_msat, given_part.extra_fee_msat) == (1_000_000, 1_000_000, 10_000)
    collected = PaymentSet(terms(), 90_000)
    assert take(collected, given_part) is None
    (claim,) = collected.claims()
    answer = vector["response"]
    assert (
        tlv.final_payload(vector["request"]["onion"]["payload"], claim.amount_msat, claim.total_msat)
        == answer["payload"]
    )
    assert claim.total_msat == answer["invoice_msat"]


@pytest.mark.parametrize(("extra_tlvs", "remembered", "fee_msat"), [
    (None, None, 0),
    (None, 7_000, 7_000),
    ("fe00010001080000000000002710", None, 10_000),
    ("fe00010001080000000000002710", 7_000, 10_000),
])  # fmt: skip
def test_a_remembered_fee_stands_in_for_the_lost_tlv(
    extra_tlvs: str | None, remembered: int | None, fee_msat: int
) -> None:
    """I-32: lightningd forgets the TLV over a restart; what is on the wire counts first."""
    text = payload(1_000_000, 900, SECRET, 1_000_000)
    assert read_part(scan(text, extra_tlvs), (CHANNEL, 0), remembered).extra_fee_msat == fee_msat


@pytest.mark.parametrize(
    ("extra_tlvs", "carries"),
    [
        (None, False),
        ("", False),
        ("fe00010001080000000000000000", False),
        ("fe00010001080000000000002710", True),
        ("fe000100010400002710", True),
        ("zz", True),
    ],
)
def test_an_unexpected_fee_is_recognised(extra_tlvs: str | None, carries: bool) -> None:
    """I-22; a TLV of the wrong length is no licence."""
    assert carries_fee(scan("0400", extra_tlvs)) == carries


def test_a_blinded_payload_is_no_payment_to_an_invoice_of_ours() -> None:
    """I-20, C-25: without payment data of its own it cannot be rewritten."""
    stream = tlv.write_stream([(2, b"\x01"), (4, b"\x02"), (10, b"\x03" * 8), (18, b"\x01")])
    text = (tlv.encode_bigsize(len(stream)) + stream).hex()
    assert PaymentSet(terms(), 90_000).check(read_part(scan(text), (CHANNEL, 0), None)) is Reason.NO_SECRET


hexes = st.binary(max_size=60).map(bytes.hex) | st.text(max_size=40)


@given(hexes, st.none() | hexes)
def test_any_payload_gives_a_part_or_a_malformed_tlv(payload_hex: str, extra_tlvs: str | None) -> None:
    """I-31: fuzzed hook input; nothing else comes out."""
    try:
        read = read_part(scan(payload_hex, extra_tlvs), (CHANNEL, 0), None)
    except MalformedTlv:
        return
    assert PaymentSet(terms(payment_secret=None), 90_000).check(read) in (*Reason, None)


# --- An LSP with all freedom ------------------------------------------------------------------------------------------

amounts = st.integers(1, 400_000)


@given(st.lists(amounts, min_size=1, max_size=6), st.data())
def test_a_claim_never_brings_less_than_agreed(sent: list[int], data: st.DataObject) -> None:
    """rule:4, trap:37: whatever an LSP takes, in whatever order: what is claimed is at least size less fee, and the
    fees of the claimed parts are at most the agreed fee; one msat more and nothing is claimed.
    """
    size_msat = sum(sent)
    agreed = terms(size_msat, params={"min_fee_msat": "500", "max_payment_size_msat": str(U64_MAX)})
    fee_msat = agreed.params.fee_msat(size_msat) or 0
    collected = PaymentSet(agreed, 90_000)
    for number in data.draw(st.permutations(range(len(sent)))):
        onion_msat = sent[number]
        taken = data.draw(st.integers(0, min(onion_msat, fee_msat + 2)) | st.just(0))
        hidden = data.draw(st.sampled_from([0, 0, 0, 1, -1]))
        take(collected, part(onion_msat, taken, number, htlc_msat=onion_msat - taken - hidden, total_msat=size_msat))
    assert collected.fees_msat <= fee_msat
    assert collected.received_msat + collected.fees_msat == collected.sent_msat
    claimed = sum(claim.amount_msat for claim in collected.claims()) if collected.complete else None
    assert claimed is None or (claimed >= size_msat - fee_msat and claimed == collected.claims()[0].total_msat)


@given(st.integers(2, 6), st.integers(0, 5), st.integers(1, 10**9), st.data())
def test_one_msat_too_much_spread_over_the_parts_is_never_claimed(
    count: int, victim: int, size_msat: int, data: st.DataObject
) -> None:
    """trap:37: the fee is exact, then one part takes one msat more."""
    agreed = terms(size_msat * count, params={"min_fee_msat": "0", "max_payment_size_msat": str(U64_MAX)})
    fee_msat = agreed.params.fee_msat(size_msat * count) or 0
    shares = [fee_msat // count + (1 if place < fee_msat % count else 0) for place in range(count)]
    greedy = victim % count
    collected = PaymentSet(agreed, 90_000)
    reasons = [
        take(collected, part(size_msat, share + (place == greedy), place, total_msat=size_msat * count))
        for place, share in data.draw(st.permutations(list(enumerate(shares))))
    ]
    refused = [reason for reason in reasons if reason is not None]
    assert refused in ([Reason.FEE_SUM], [Reason.FEE_ABOVE_LIMIT] * count)
    assert not collected.complete


@given(st.integers(100_000, 40_000_000), st.integers(-3, 3))
def test_the_fee_of_a_variable_payment_is_bounded_to_the_msat(payment_msat: int, more_msat: int) -> None:
    """I-25, trap:37."""
    agreed = terms(None)
    fee_msat = agreed.params.fee_msat(payment_msat) or 0
    collected = PaymentSet(agreed, 90_000)
    take(collected, part(payment_msat, fee_msat + more_msat, total_msat=payment_msat))
    assert collected.complete == (more_msat <= 0)


OLD = "cd" * 32


@pytest.mark.parametrize(
    ("percent", "fees_msat", "expected"),
    [
        (0, [1], [Reason.FEE_ELSEWHERE]),
        (20, [1_000, 1_000], [None, None]),
        (20, [1_000, 1_001], [None, Reason.FEE_ELSEWHERE]),
        (100, [10_000], [None]),
    ],
)
def test_a_part_of_the_fee_over_a_channel_we_have_where_its_owner_allows_it(
    percent: int, fees_msat: list[int], expected: list[Reason | None]
) -> None:
    """rule:27, I-20: of all parts together, and of the agreed 10,000 msat."""
    collected = PaymentSet(terms(), 90_000, "")
    collected.reuse_fee_percent = percent
    parts = [part(500_000, fee, number, key=(OLD, number)) for number, fee in enumerate(fees_msat)]
    assert [take(collected, each) for each in parts] == expected


def test_once_a_channel_was_opened_for_it_the_fee_comes_over_no_other() -> None:
    """rule:27: whatever its owner allows for payments without one."""
    collected = PaymentSet(terms(), 90_000, CHANNEL)
    collected.reuse_fee_percent = 100
    assert take(collected, part(500_000, 1, key=(OLD, 0))) is Reason.FEE_ELSEWHERE
    assert take(collected, part(500_000, 10_000, 1)) is None
