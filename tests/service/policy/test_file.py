"""The policy file: what it may say, and that every complaint names the line, the key and the remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.policy import ALICE, BOB, MINIMAL
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import ConfigError
from lsps2fast.lsps.promise import token_hash
from lsps2fast_plugin.service.policy import closing_file
from lsps2fast_plugin.service.policy import file as policy_file
from lsps2fast_plugin.service.policy.closing import CloseRule, Closing
from lsps2fast_plugin.service.policy.file import MEANING, parse_rules
from lsps2fast_plugin.service.policy.rules import DEFAULT_LINE, MAX_ENTRIES, Floor, Rules
from lsps2fast_plugin.service.policy.toml import Source

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "set-a-fee-policy.md"
COMPLAINT = re.compile(r"\Apolicy\.toml, line (\d+): \S")


def refused(text: str) -> tuple[int, str]:
    """The line and the whole sentence of the refusal."""
    with pytest.raises(ConfigError) as caught:
        parse_rules(text, "policy.toml")
    match = COMPLAINT.match(str(caught.value))
    assert match is not None
    return int(match[1]), str(caught.value)


def example() -> str:
    """The complete file in the how-to page."""
    found = re.findall(r"```toml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_example_of_the_page_is_a_policy() -> None:
    """G-08: docs/how-to/set-a-fee-policy.md shows a file that works, with bands, discounts and a token's own lines."""
    made = parse_rules(example(), "page")
    names = [name for name, _ in made.lines]
    assert names == ["fee_line 1", "fee_line 2", "fee_line 3, band 1", "fee_line 3, band 2"]
    assert made.lines[0].line == DEFAULT_LINE
    assert made.lines[3].line.min_payment_size_msat == made.lines[2].line.max_payment_size_msat + 1
    spring, partner = (made.tokens[token_hash(text)] for text in ("SPRING-7f3c90d1", "partner-51b2aa04"))
    assert (spring.max_uses, spring.discount_percent, spring.lines) == (200, 50, None)
    assert partner.lines is not None
    assert partner.lines[0].line.min_fee_msat == 500_000
    assert partner.client_trusts_lsp is False
    assert BOB in made.deny
    assert made.zero_reserve == {ALICE}


@pytest.mark.parametrize("key", sorted(MEANING))
def test_the_page_shows_every_key(key: str) -> None:
    """An operator needs no code to know what can be written."""
    assert re.search(rf"\b{key}\b", example())


def test_every_key_of_every_table_has_a_meaning() -> None:
    """An error about any key can say what it is for."""
    modules = (policy_file, closing_file)
    shapes = [value for module in modules for name, value in vars(module).items() if name.endswith("Table")]
    keys = {key for shape in shapes for key in shape.__struct_fields__}
    assert len(shapes) == 10
    assert keys | set(policy_file.TOP) == set(MEANING)


CLOSING = (
    MINIMAL
    + """
[closing]
max_feerate_perkw = 253

[[closing.rule]]
name = "a"
idle_days = 1

[[closing.rule]]
name = "b"
idle_days = 2
past_lifetime_blocks = 3
max_return_ppm = -4
max_client_sat = 5
min_ours_sat = 6
"""
)


def test_rules_for_closes_are_read_in_their_order() -> None:
    """operator:O2: what a rule leaves out is its default, and no rule is no close."""
    closing = parse_rules(CLOSING, "policy.toml").closing
    assert closing == Closing((CloseRule("a", 1), CloseRule("b", 2, 3, -4, 5, 6)), max_feerate_perkw=253)
    assert parse_rules(MINIMAL, "policy.toml").closing == Closing()
    assert Closing().rules == ()


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("idle_days = 1", "", 8, "closing, rule 1: idle_days is missing; it is days without a forward"),
        ("idle_days = 1", "idle_days = 0", 10, "closing, rule 1, idle_days: 0 is not allowed"),
        ('name = "b"', 'name = "a"', 13, "'a' is the name of an earlier rule; give each its own"),
        ("max_feerate_perkw = 253", "max_feerate_perkw = 252", 6, "closing, max_feerate_perkw: 252 is not allowed"),
        ("[closing]", "[closing]\nclosed_per_day = 3", 6, "did you mean closes_per_day?"),
        ("max_client_sat = 5", "max_client_msat = 5", 17, "did you mean max_client_sat?"),
        ('[[closing.rule]]\nname = "a"\nidle_days = 1\n', "", 9, ""),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_its_line(old: str, new: str, line: int, words: str) -> None:
    """operator:O9: line, key and remedy, as for all of the file; with one rule less the file is good."""
    text = CLOSING.replace(old, new)
    if not words:
        assert len(parse_rules(text, "policy.toml").closing.rules) == 1
        return
    found, sentence = refused(text)
    assert words in sentence
    assert found == line


def test_rules_have_a_bound() -> None:
    """rule:14: twenty."""
    rules = "".join(f'[[closing.rule]]\nname = "{number}"\nidle_days = 1\n' for number in range(21))
    assert "is rule 21; 20 is the most" in refused(MINIMAL + rules)[1]


def test_the_smallest_file_takes_our_defaults() -> None:
    """Two keys are enough to sell."""
    made = parse_rules(MINIMAL, "policy.toml")
    assert made.lines[0].line == DEFAULT_LINE._replace(min_fee_msat=2_000_000)
    assert made == Rules("policy.toml", made.lines, tokens={})


@pytest.mark.parametrize(
    ("added", "line", "words"),
    [
        ("validty_s = 3600", 4, "fee_line 1, validty_s: unknown key; did you mean validity_s?"),
        ("validity_s = 540", 4, "540 is not allowed: expected int >= 600"),  # G-06: 9 minutes
        ("validity_s = 3600.0", 4, "got float"),
        ("validity_s = true", 4, "got bool"),
        ("validity_s = '3600'", 4, "got str"),
        ("min_payment_size_msat = -1", 4, "expected int >= 0"),
        ("max_payment_size_msat = 99999999999999999999999999", 4, "is not allowed"),
        ("max_payment_size_msat = 1_000_000", 1, "min_payment_size_msat is above max_payment_size_msat"),
        ("min_payment_size_msat = 1\nmax_payment_size_msat = 2_000_000", 1, "does not exceed min_fee_msat"),
        ("max_payment_size_msat = 10\n[[fee_line.band]]\nup_to_msat = 20", 4, "leave it out"),
        ("[[fee_line.band]]\nmin_fee_msat = 3", 4, "up_to_msat is missing; it is the largest payment of this band"),
        ("[[fee_line.band]]\nup_to_msat = 5_000_000\n[[fee_line.band]]\nup_to_msat = 5_000_000", 7, "at least 5000001"),
        ("band = []", 4, "is empty"),
        ("band = 3", 4, "[[fee_line.band]] with two brackets"),
        ("[[fee_line]]\nproportional_ppm = 1", 4, "min_fee_msat is missing; it is the smallest opening fee"),
        ("[[fee_line]]\nmin_fee_msat = 1", 4, "proportional_ppm is missing"),
        ("[[fee_line]]\nmin_fee_msat = 3_000_000\nproportional_ppm = 9_999", 4, "crosses fee_line 1"),
        ("[flor]", 4, "flor: unknown key; did you mean floor?"),
        ("zzz = 1", 4, "unknown key; known here: min_fee_msat"),
        ("[floor]\nfactor_percent = 10_001", 5, "expected int <= 10000"),
        ("[[floor]]", 4, "write [floor] on a line of its own"),
        ("[capacity]\nmin_sat = 20_000\nmax_sat = 10_000", 4, "min_sat 20000 is above max_sat 10000"),
        ("[capacity]\n\nfactor_percent = 99", 6, "expected int >= 100"),
        ("[trust]\ndefault = 'neither'", 5, "it is who trusts whom: lsp-trusts-client or client-trusts-lsp"),
        ("[peers]\nallow = []", 5, "would serve no client"),
        (f"[peers]\nallow = ['{ALICE}']\ndeny = ['{ALICE.upper()}']", 6, "is allowed and denied"),
        ("[peers]\n# who\ndeny = [\n  'alice',\n]", 6, "deny 1: 'alice': node id: not a compressed point"),
        ("[peers]\ndeny = [3]", 5, "got int"),
        ("[peers]\nzero_reserve = [\n  'bob']", 5, "zero_reserve 1: 'bob': node id: not a compressed point"),
        ("[[token]]\nlabel = 'x'", 4, "token is missing"),
        ("[[token]]\ntoken = 's3cret'\nexpires = 2031-01-01T00:00:00", 6, "has no offset"),
        ("[[token]]\ntoken = 's3cret'\nexpires = 2031-01-01", 6, "got date"),
        ("[[token]]\ntoken = 's3cret'\n[[token]]\ntoken = 's3cret'", 7, "is the same as that of token 1"),
        ("[[token]]\ntoken = 's3cret'\ndiscount_percent = 9\n[[token.fee_line]]", 6, "has lines of its own"),
        ("[[token]]\ntoken = 's3cret'\nfee_line = []", 6, "at least one line"),
        ("[[token]]\ntoken = 's3cret'\nfee_line = [{min_fee_msat = 1}]", 6, "token 1, fee_line 1: proportional_ppm"),
        ("[token]\ntoken = 's3cret'", 4, "[[token]] with two brackets"),
        ("min_payment_size_msat = 0x" + "f" * 5_000, 4, "this value is not allowed"),
        ("x = ", 4, "Invalid value"),
        ("min_fee_msat = 3", 4, "Cannot overwrite"),
        ("x = 'open", 4, ""),
        ("x = " + "1" * 5_000, 4, "4300"),
        ("x = " + "[" * 9_000, 4, "nested too deeply"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_reason(added: str, line: int, words: str) -> None:
    """G-06, G-07, G-08, S-03: nothing is guessed; K-28: no token is shown."""
    number, sentence = refused(MINIMAL + added)
    assert (number, words in sentence) == (line, True), sentence
    assert "s3cret" not in sentence


@pytest.mark.parametrize(
    ("text", "expires_ms"),
    [
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000),
        ("9999-12-31T23:59:59.999999-23:59", 253_402_387_139_999),
        ("1970-01-01t00:00:00.0019z", 1),
        ("'2031-01-31T00:00:00Z'", 1_927_584_000_000),
    ],
)
def test_a_token_may_end_at_any_time(text: str, expires_ms: int) -> None:
    """G-03: milliseconds since 1970, cut off, so that a token can only end earlier."""
    made = parse_rules(f"{MINIMAL}[[token]]\ntoken = 'x'\nexpires = {text}", "policy.toml")
    assert [token.expires_ms for token in made.tokens.values()] == [expires_ms]


def test_a_token_that_is_too_long_is_not_shown() -> None:
    """K-28: not even when it is what is wrong."""
    number, sentence = refused(f"{MINIMAL}[[token]]\ntoken = '{'s3cret' * 99}'")
    assert number == 5
    assert "s3cret" not in sentence


@pytest.mark.parametrize("text", ["", "# nothing", "[floor]\n"])
def test_a_file_without_lines_is_refused(text: str) -> None:
    """A file that was emptied, or is just being written, does not end the sale in silence."""
    assert "[[fee_line]]" in refused(text)[1]


def test_a_menu_has_room_in_one_message() -> None:
    """T-30: more lines than a peer message holds are refused at the line that is too many."""
    text = "".join(f"[[fee_line]]\nmin_fee_msat = {n}\nproportional_ppm = 1\n" for n in range(MAX_ENTRIES + 1))
    assert refused(text)[0] == 3 * MAX_ENTRIES + 1


def test_a_fee_that_leaves_64_bits_is_refused() -> None:
    """F-03: a price that overflows for a payment we offer to sell would fail that payment."""
    line, sentence = refused(MINIMAL.replace("10_000", "1_000_000") + "max_payment_size_msat = 1_000_000_000_000_000")
    assert line == 1
    assert "sell at most 18446744073708 msat" in sentence


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ('a = """\n[x]\n"""\n[x]\ny = 1', ("x", "y"), 5),
        ("a = '''\n[[x]]\n''''\nb = [\n1, # ]\n2]\nc = 3", ("c",), 7),
        ('a."b.c".d = 1\na."b.c".e = "]\\""\nf = 2', ("a", "b.c", "e"), 2),
        ("[[x]]\n[[x]]\n[[x.y]]\n[[x.y]]\nz = 1", ("x", 1, "y", 1), 4),
        ("x = {a = [\n{b = 1},\n]}\n", ("x", "a", 0, "b"), 1),
        ("a = 1", ("b",), 1),
        ("a = 1", ("a", "b"), 1),
        ("a = 1", (), 1),
    ],
)
def test_the_line_of_a_value_is_found_in_all_forms_of_toml(
    text: str, path: tuple[str | int, ...], line: int, ending: str
) -> None:
    """Strings over several lines, dotted keys, inline tables and comments do not mislead us."""
    assert Source(text.replace("\n", ending), "x").line_of(path) == line


def outcome(text: str) -> tuple[int, str]:
    """How many lines would be sold, and the complaint."""
    try:
        return len(parse_rules(text, "policy.toml").lines), ""
    except ConfigError as error:
        return 0, str(error)


KEYS = st.sampled_from([*MEANING, "x", "a.b"])
VALUES = st.recursive(
    st.one_of(
        st.sampled_from(["1", "-1", "0", "true", "'x'", "1.5", "nan", "inf", "1979-05-27", "1979-05-27T07:32:00Z"]),
        st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", f"'{ALICE}'", "07:32:00", '"\\n"']),
        st.integers(-(2**70), 2**70).map(str),
        st.sampled_from(["'lsp-trusts-client'", "'client-trusts-lsp'", '"""\n"""', "3_600", "1e400"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(KEYS, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=4,
)
HEADERS = st.sampled_from([f"{left}{key}{right}" for key in MEANING for left, right in (("[", "]"), ("[[", "]]"))])
NEAR = st.sampled_from(["[[fee_line]]", "[[fee_line.band]]", "[[token]]", "[[token.fee_line]]", "min_fee_msat = 1"])
LINES = st.one_of(HEADERS, NEAR, st.tuples(KEYS, VALUES).map(" = ".join), st.text(max_size=12))


@given(st.one_of(st.text(), st.lists(LINES, max_size=14).map("\n".join)), st.booleans())
def test_any_text_is_a_policy_or_refused_with_a_line(text: str, begun: bool) -> None:
    """Nothing but Rules or ConfigError comes out, and the line exists."""
    whole = MINIMAL * begun + text
    lines, complaint = outcome(whole)
    match = COMPLAINT.match(complaint)
    assert bool(lines) != (match is not None), complaint
    assert match is None or 1 <= int(match[1]) <= whole.count("\n") + 1


@given(st.integers(0, 10**9), st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 10_000))
def test_the_floor_covers_the_mining_cost_to_the_msat(perkw: int, opens: int, closes: int, percent: int) -> None:
    """Exact, rounded up, in integers."""
    cost_msat = Floor(opens, closes, percent).cost_msat(perkw)
    exact = 4 * (opens + closes) * perkw * percent  # hundredths of a msat
    assert exact <= 100 * cost_msat < exact + 100
