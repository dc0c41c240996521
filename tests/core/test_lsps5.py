"""Webhooks: what a client may register, what an LSP answers, and what a receiver believes. bLIP-55."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from harness import ln_signature
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import PeerError, ProtocolBug
from lsps2fast.lsps import lsps0, lsps5
from lsps2fast.lsps.lsps0 import MalformedField
from lsps2fast.lsps.lsps5 import BadNotification, WebhookUrl, verify_notification

VECTORS: dict[str, Any] = json.loads(ln_signature.VECTORS.read_text("utf-8"))
SIGNED: list[dict[str, str]] = VECTORS["signed"]
URL = "https://www.example.org/push?l=1234567890abcdefghijklmnopqrstuv&c=best"
SECRET = 0x42
LSP = ln_signature.node_id(SECRET).hex()
TIME = "2026-11-29T16:37:00.000Z"
BODY = lsps5.encode_notification(lsps5.PAYMENT_INCOMING)


def headers_of(signature: str, timestamp: str = TIME) -> dict[str, str]:
    return {"x-lsps5-timestamp": timestamp, "x-lsps5-signature": signature}


def signed(body: str = BODY, timestamp: str = TIME, *, low: bool = True) -> dict[str, str]:
    text = ln_signature.text_of(timestamp, body)
    return headers_of(ln_signature.sign(SECRET, text, low=low), timestamp)


def code_of(params: object) -> int:
    with pytest.raises(PeerError) as caught:
        lsps5.parse_set_webhook(params)
    return caught.value.code


# What a client may register --------------------------------------------------------------------------------------


def test_a_webhook_is_read_as_it_is_written() -> None:
    """N-01, N-03: the example of the specification."""
    ask = lsps5.parse_set_webhook({"app_name": "My LSPS-Compliant Lightning Client", "webhook": URL})
    assert ask == ("My LSPS-Compliant Lightning Client", URL)
    target = "/push?l=1234567890abcdefghijklmnopqrstuv&c=best"
    assert lsps5.parse_url(URL) == WebhookUrl("www.example.org", 443, target)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://a.example", ("a.example", 443, "/")),
        ("https://a.example?x", ("a.example", 443, "/?x")),
        ("HTTPS://A.Example:8443/B%2fc/;p?q=/?", ("a.example", 8443, "/B%2fc/;p?q=/?")),
        ("https://203.0.113.9/~user", ("203.0.113.9", 443, "/~user")),
        ("https://xn--bcher-kva.example/", ("xn--bcher-kva.example", 443, "/")),
    ],
)
def test_urls_in_their_parts(url: str, parts: tuple[str, int, str]) -> None:
    """N-03: the scheme and the host in any case of letters, the rest as it is."""
    assert lsps5.parse_url(url) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "no url",
        "//a.example/",
        "https:a.example",
        "https:///path",
        "https://",
        "https://user@a.example/",
        "https://user:word@a.example/",
        "https://a.example#top",
        "https://a.example/a b",
        "https://a.example/a\r\nx: y",
        "https://a.example/%zz",
        "https://a.example/\u20ac",
        "https://a_b.example/",
        "https://-a.example/",
        "https://a..example/",
        "https://a.example./",
        "https://a.example:0/",
        "https://a.example:65536/",
        "https://a.example:/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://127.1/",
        "https://256.1.1.1/",
        "https://[::1]/",
        "https://a.example\\@b.example/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 130 + "example/",
    ],
)
def test_what_is_no_url_of_https(url: str) -> None:
    """N-05, trap:47: nor a number that a resolver would take for an address, nor anything with a line end."""
    assert code_of({"app_name": "a", "webhook": url}) == 501


@pytest.mark.parametrize("url", ["http://a.example/", "ftp://a.example/", "mailto:a@b.example", "HTTP://a.example"])
def test_other_protocols(url: str) -> None:
    """N-05: 502, also for http."""
    assert code_of({"app_name": "a", "webhook": url}) == 502


def test_names_and_urls_have_their_lengths() -> None:
    """N-02: 64 bytes as JSON writes them, and 1024 characters; 500 beyond."""
    longest = "https://a.example/".ljust(1024, "x")
    assert lsps5.parse_set_webhook({"app_name": "a" * 64, "webhook": longest}).webhook == longest
    assert lsps5.parse_set_webhook({"app_name": "\u20ac" * 21, "webhook": URL})
    for name in ("a" * 65, "\u20ac" * 22, "\n" * 33, "\0" * 11):
        assert code_of({"app_name": name, "webhook": URL}) == 500, name
    assert code_of({"app_name": "a", "webhook": longest + "x"}) == 500
    assert code_of({"app_name": "a", "webhook": "x" * 1025}) == 500


@pytest.mark.parametrize(
    "params",
    [
        None,
        [],
        {},
        {"app_name": "a"},
        {"webhook": URL},
        {"app_name": 1, "webhook": URL},
        {"app_name": "a", "webhook": []},
    ],
)
def test_parameters_of_another_shape(params: object) -> None:
    """T-15: -32602, with no names."""
    assert code_of(params) == -32602


def test_unknown_parameters_are_named() -> None:
    """T-14."""
    with pytest.raises(PeerError) as caught:
        lsps5.parse_set_webhook({"app_name": "a", "webhook": URL, "x": 1})
    assert caught.value.data == {"unrecognized": ["x"]}
    with pytest.raises(PeerError):
        lsps5.parse_list_webhooks({"x": 1})
    lsps5.parse_list_webhooks({})
    assert lsps5.parse_remove_webhook({"app_name": "b"}) == "b"
    with pytest.raises(PeerError):
        lsps5.parse_remove_webhook({})


@given(st.text())
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    """N-05: nothing else comes out, and what is a URL can stand in a request line."""
    try:
        url = lsps5.parse_url(text)
    except PeerError as error:
        code = error.code
    else:
        code = 0
        assert 0 < url.port < 65536
        assert " " not in url.host + url.target
        assert url.target.startswith("/")
    assert code in (0, 500, 501, 502)


def test_errors_and_their_names() -> None:
    """N-05, N-07: the client knows each of them by its name; 503 says how many."""
    errors = [
        lsps5.too_long(),
        lsps5.url_parse_error(),
        lsps5.unsupported_protocol(),
        lsps5.too_many_webhooks(4),
        lsps5.app_name_not_found(),
    ]
    assert [(error.code, error.message) for error in errors] == [
        (error.code, lsps0.error_name(error.code)) for error in errors
    ]
    assert errors[3].data == {"max_webhooks": 4}


def test_results_there_and_back() -> None:
    """N-04, N-06, T-25: what the service writes the client reads; what it should not be is refused."""
    result = lsps5.set_result(2, 4, False)
    assert lsps5.parse_set_result({**result, "more": 1}) == (2, 4, False)
    listed = lsps5.list_result(["a", "b"], 4)
    assert lsps5.parse_list_result({**listed, "more": 1}) == (("a", "b"), 4)
    for wrong in ({}, {**result, "num_webhooks": True}, {**result, "max_webhooks": -1}, {**result, "no_change": 0}):
        with pytest.raises(MalformedField):
            lsps5.parse_set_result(wrong)
    for listing in ({}, {**listed, "app_names": "a"}, {**listed, "app_names": [1]}, {**listed, "max_webhooks": 1.0}):
        with pytest.raises(MalformedField):
            lsps5.parse_list_result(listing)


# Notifications ---------------------------------------------------------------------------------------------------


def test_the_vectors_are_those_that_independent_code_makes() -> None:
    """N-11: `python -m harness.ln_signature` writes the file."""
    assert ln_signature.vectors() == VECTORS


@pytest.mark.parametrize("vector", SIGNED, ids=range(len(SIGNED)))
def test_signatures_of_the_vectors_are_believed(vector: dict[str, str]) -> None:
    """N-11, N-12: spaces and escapes in a body, a time as LDK writes it, and four keys."""
    got = verify_notification(
        vector["node_id"], headers_of(vector["signature"], vector["timestamp"]), vector["body"].encode()
    )
    assert got.method == json.loads(vector["body"])["method"]


def test_a_signature_of_a_megabyte_is_refused_by_its_length() -> None:
    """N-12: a stranger's header costs nothing; letter by letter this one would take minutes."""
    began_s = time.process_time()
    with pytest.raises(lsps5.BadNotification, match="not signed"):
        lsps5.verify_notification(LSP, headers_of("9" * 1_000_000), BODY.encode())
    assert time.process_time() - began_s < 1


@pytest.mark.parametrize("vector", VECTORS["published"], ids=range(3))
def test_signatures_that_lightningd_and_ldk_publish(vector: list[str]) -> None:
    """N-11: the form of the signature, whatever the message."""
    message, signature, node_id = vector
    assert lsps5._signer(b"Lightning Signed Message:" + message.encode(), signature) == bytes.fromhex(node_id)


def test_the_specification_has_the_text_in_hex() -> None:
    """N-11: the example's first and last line."""
    text = lsps5.signed_text(*ln_signature.SPECIFIED).encode()
    assert text[:16].hex() == "4c535053353a20444f204e4f54205349"
    assert text[0x80:].hex() == "6172616d73223a7b7d7d"


def test_the_five_notifications() -> None:
    """N-10, N-14: no blanks, no needless members; `timeout` belongs to one of them."""
    bodies = [lsps5.encode_notification(method) for method in lsps5.NOTIFICATIONS if method != lsps5.EXPIRY_SOON]
    assert bodies == [body for _, body in ln_signature.BODIES if body in bodies and "timeout" not in body][:4]
    assert lsps5.encode_notification(lsps5.EXPIRY_SOON, 925_000) == ln_signature.BODIES[3][1]
    for method, timeout in ((lsps5.EXPIRY_SOON, None), (lsps5.PAYMENT_INCOMING, 1), ("lsps5.goodbye", None)):
        with pytest.raises(ProtocolBug):
            lsps5.encode_notification(method, timeout)


def test_a_notification_says_what_and_when() -> None:
    """N-12, N-13, N-14: an unknown one is told apart, and the timeout read only where it belongs."""
    body = lsps5.encode_notification(lsps5.EXPIRY_SOON, 7)
    got = verify_notification(bytes.fromhex(LSP), signed(body), body.encode())
    assert (got.known, got.timeout_block, got.sent_ms) == (True, 7, 1_795_970_220_000)
    for other in ('{"jsonrpc":"2.0","method":"x.y","params":{"timeout":7}}', body.replace("7", '"7"')):
        got = verify_notification(LSP, signed(other), other.encode())
        assert (got.known, got.timeout_block) == (got.method != "x.y", None)


def test_headers_in_any_case() -> None:
    """N-12: servers write them as they like."""
    assert verify_notification(LSP, {key.title(): value for key, value in signed().items()}, BODY.encode()).known


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, BODY),
        ({"x-lsps5-timestamp": TIME}, BODY),
        ({**signed(), "X-LSPS5-Signature": "y"}, BODY),
        (signed(), BODY + " "),
        ({**signed(), "x-lsps5-timestamp": "2026-11-29T16:37:00.001Z"}, BODY),
        (signed(timestamp="2026-11-29 16:37"), BODY),
        (signed(timestamp="2026-11-29T16:37:00.000+01:00"), BODY),
        (signed(timestamp="2026-02-30T16:37:00.000Z"), BODY),
        (headers_of("y" * 104), BODY),
        (headers_of("y" * 103), BODY),
        (headers_of("9" * 104), BODY),
        (headers_of("\u20ac" * 104), BODY),
        (headers_of(signed()["x-lsps5-signature"].upper()), BODY),
        (headers_of(signed()["x-lsps5-signature"] + "y"), BODY),
        (signed("[]"), "[]"),
        (signed("{"), "{"),
        (signed('{"jsonrpc":"2.0","method":1}'), '{"jsonrpc":"2.0","method":1}'),
        (signed('{"jsonrpc":"1.0","method":"a"}'), '{"jsonrpc":"1.0","method":"a"}'),
        (signed('{"jsonrpc":"2.0","method":"a","params":[]}'), '{"jsonrpc":"2.0","method":"a","params":[]}'),
        (signed('{"jsonrpc":"2.0","method":"a","id":1}'), '{"jsonrpc":"2.0","method":"a","id":1}'),
    ],
)
def test_what_is_not_believed(headers: dict[str, str], body: str) -> None:
    """N-12: each leaves the receiver with one kind of error."""
    with pytest.raises(BadNotification):
        verify_notification(LSP, headers, body.encode())


def test_each_bit_of_a_signature_counts() -> None:
    """N-12: one letter changed is another signer, or none."""
    right = signed()["x-lsps5-signature"]
    for place in range(len(right)):
        wrong = right[:place] + ("b" if right[place] == "y" else "y") + right[place + 1 :]
        with pytest.raises(BadNotification):
            verify_notification(LSP, headers_of(wrong), BODY.encode())


def test_another_lsp_is_not_this_one() -> None:
    """N-12."""
    with pytest.raises(BadNotification, match="not signed by this LSP"):
        verify_notification(ln_signature.node_id(7), signed(), BODY.encode())


def test_the_other_signature_that_fits_is_refused() -> None:
    """N-12: else one notification would have two signatures, and a replay looked new."""
    with pytest.raises(BadNotification):
        verify_notification(LSP, signed(low=False), BODY.encode())


def test_a_replay_has_the_same_id_and_age_can_be_asked() -> None:
    """N-12: ten minutes to either side, if the receiver gives the time."""
    sent_ms = 1_795_970_220_000
    ids = {verify_notification(LSP, signed(), BODY.encode(), now_ms=sent_ms + off).id for off in (-600_000, 0, 600_000)}
    assert len(ids) == 1
    assert verify_notification(LSP, signed(timestamp="2026-11-29T16:37:00.001Z"), BODY.encode()).id not in ids
    for off in (-600_001, 600_001):
        with pytest.raises(BadNotification, match="too old"):
            verify_notification(LSP, signed(), BODY.encode(), now_ms=sent_ms + off)


@given(st.dictionaries(st.sampled_from(["x-lsps5-timestamp", "x-lsps5-signature", "y"]), st.text()), st.binary())
def test_anything_may_come(headers: dict[str, str], body: bytes) -> None:
    """N-12: a webhook's address is not secret for long."""
    with pytest.raises(BadNotification):
        verify_notification(LSP, headers, body)
