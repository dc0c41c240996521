"""An operator's policy plugin: used when it is there, bounded when it is slow, never believed when it is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from harness.logs import Log
from harness.policy import WALL_MS, line
from hypothesis import given
from hypothesis import strategies as st

from lsps2fast.errors import NodeError, NodeUnreachable, PeerError
from lsps2fast.lsps.buys import Lack
from lsps2fast.lsps.lsps2 import FeeParams, check_menu_order, format_datetime
from lsps2fast_plugin.service.policy.external import BUY, GET_CAPACITY, GET_POLICY, LOOK_AGAIN_MS, ExternalPolicy, Use
from lsps2fast_plugin.service.policy.limits import Refusals

TERMS = {
    "min_fee_msat": "1000",
    "proportional": 1000,
    "valid_until": format_datetime(WALL_MS + 3_600_000),
    "min_lifetime": 2000,
    "max_client_to_self_delay": 2016,
    "min_payment_size_msat": "1000",
    "max_payment_size_msat": "100000000",
}
PARAMS = line().params(WALL_MS).with_promise("00" * 32)
UNKNOWN = NodeError("x", -32601, "Unknown command 'x'")
Answer = dict[str, Any] | NodeError


class World:
    """A node whose policy plugin answers as told, a clock, a log."""

    def __init__(self, answers: dict[str, Answer], **changes: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, dict[str, Any] | None]] = []
        self.now_ms = 1_000
        self.log = Log()
        self.refusals = Refusals()
        self.silent = asyncio.Event()
        self.silent.set()
        self.asked = asyncio.Event()
        self.policy = ExternalPolicy(self, now_ms=lambda: self.now_ms, refusals=self.refusals, **changes)

    async def call(
        self, method: str, params: dict[str, Any] | None = None, timeout_s: float | None = 60.0
    ) -> dict[str, Any]:
        """The node's side of an RPC call; it ignores the time-out that it is given."""
        self.calls.append((method, params))
        self.asked.set()
        await self.silent.wait()
        answer = self.answers.get(method, UNKNOWN)
        if isinstance(answer, NodeError):
            raise answer
        return answer

    def menu(self, token: str | None = None) -> list[FeeParams] | None:
        """One question for the menu."""
        return asyncio.run(self.policy.menu(token, WALL_MS))

    def capacity(self, size_msat: int | None = 50_000_000, least_sat: int = 60_000) -> int | Lack | None:
        """One question for the capacity, for jit scid 1x2x3."""
        return asyncio.run(self.policy.capacity_sat(PARAMS, size_msat, 1 << 40 | 2 << 16 | 3, least_sat, 200_000))

    def refused(self, ask: Callable[[], object]) -> int:
        """The code that the client would get."""
        with pytest.raises(PeerError) as caught:
            ask()
        return caught.value.code

    def counted(self) -> dict[str, int]:
        """What was counted."""
        return {name: count for name, count in self.refusals.as_dict().items() if count}


def menu_of(*entries: Any, **others: Any) -> dict[str, Answer]:
    """A node whose plugin offers these entries."""
    return {GET_POLICY: {"policy_opening_fee_params_menu": list(entries), **others}}


# --- Menu -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("token", "params"), [(None, {}), ("spring", {"token": "spring"})])
def test_the_menu_of_the_plugin_is_used(token: str | None, params: dict[str, str]) -> None:
    """Architecture 5: names and parameters as CLN's built-in has them, and none beside them."""
    world = World(menu_of(TERMS, policy_id=7))
    menu = world.menu(token)
    assert menu is not None
    assert [entry.to_json() for entry in menu] == [TERMS | {"promise": ""}]
    assert world.calls == [(GET_POLICY, params)]
    assert world.log == []


def test_an_empty_menu_is_the_plugins_word() -> None:
    """G-04: no channels for now; not a reason to use our own lines."""
    assert World(menu_of()).menu() == []


def test_dates_and_amounts_as_plugins_write_them() -> None:
    """S-05, S-06: microseconds and JSON numbers come in, our own form goes out; cut off, so never longer."""
    changes = {"valid_until": format_datetime(WALL_MS + 3_600_000)[:-5] + ".123987Z", "min_fee_msat": 1000}
    menu = World(menu_of(TERMS | changes)).menu()
    assert menu is not None
    assert menu[0].raw["valid_until"] == format_datetime(WALL_MS + 3_600_000)[:-5] + ".123Z"
    assert menu[0].raw["min_fee_msat"] == "1000"


@pytest.mark.parametrize(
    ("changes", "kept", "words"),
    [
        ({"valid_until": format_datetime(WALL_MS + 600_000)}, 1, ""),
        ({"valid_until": format_datetime(WALL_MS + 599_999)}, 0, "valid for 599 s"),  # G-06
        ({"valid_until": format_datetime(WALL_MS - 1)}, 0, "valid for -1 s"),
        ({"valid_until": format_datetime(WALL_MS + 10**11 + 1)}, 0, "600 to 100000000 s"),
        ({"min_payment_size_msat": "100000001"}, 0, "min_payment_size_msat is above"),  # G-08
        ({"min_fee_msat": "100000000"}, 0, "does not exceed min_fee_msat"),  # G-08
        ({"max_payment_size_msat": str(2**64 - 1)}, 0, "leaves 64 bits"),  # F-03
    ],
)
def test_an_entry_we_could_not_honour_is_left_out(changes: dict[str, str], kept: int, words: str) -> None:
    """G-06, G-08, F-03: as strict as with our own lines, entry by entry, told once a minute."""
    world = World(menu_of(TERMS | changes))
    assert [len(world.menu() or ()) for _ in range(3)] == [kept] * 3
    assert words in world.log.text()
    assert len(world.log) == 1 - kept
    world.now_ms += LOOK_AGAIN_MS
    world.menu()
    assert len(world.log) == 2 * (1 - kept)


def test_a_menu_in_no_order_is_sorted_and_offenders_left_out() -> None:
    """G-07: sort by (min_fee, proportional), drop what crosses or repeats, log."""
    prices = [(3000, 30), (1000, 20), (2000, 10), (1000, 20)]
    world = World(menu_of(*(TERMS | {"min_fee_msat": str(fee), "proportional": ppm} for fee, ppm in prices)))
    menu = world.menu()
    assert menu is not None
    assert [(entry.min_fee_msat, entry.proportional) for entry in menu] == [(1000, 20), (3000, 30)]
    assert world.counted() == {"line_left_out": 2}


def test_a_client_that_the_plugin_rejects_gets_code_1() -> None:
    """S-10, G-10."""
    world = World(menu_of(client_rejected=True))
    assert world.refused(world.menu) == 1
    assert world.counted() == {"external_rejected": 1}


def test_a_plugin_may_know_tokens() -> None:
    """G-03: its error 200 is the client's error 200."""
    world = World({GET_POLICY: NodeError(GET_POLICY, 200, "unrecognized_or_stale_token")})
    assert world.refused(lambda: world.menu("spring")) == 200
    assert world.log == []


# --- Trouble ----------------------------------------------------------------------------------------------------------

BAD_ENTRIES: list[Any] = [
    None,
    [],
    TERMS | {"promise": "x"},
    TERMS | {"extra": 1},
    {key: value for key, value in TERMS.items() if key != "min_lifetime"},
    TERMS | {"min_fee_msat": -1},
    TERMS | {"min_fee_msat": True},
    TERMS | {"min_fee_msat": "01"},
    TERMS | {"min_fee_msat": None},
    TERMS | {"proportional": 1.0},
    TERMS | {"proportional": 2**32},
    TERMS | {"proportional": "1"},
    TERMS | {"valid_until": "tomorrow"},
    TERMS | {"valid_until": "0001-01-01T00:00:00Z"},
    TERMS | {"min_lifetime": 2**32},
]
GARBAGE: list[Any] = [
    [],
    {},
    {"policy_opening_fee_params_menu": None},
    {"policy_opening_fee_params_menu": {}},
    {"policy_opening_fee_params_menu": [TERMS], "client_rejected": 1},
    {"policy_opening_fee_params_menu": [TERMS] * 51},
    *({"policy_opening_fee_params_menu": [entry]} for entry in BAD_ENTRIES),
]


@pytest.mark.parametrize("answer", GARBAGE)
def test_garbage_sells_nothing(answer: Any) -> None:
    """T-18: the client gets -32603, the operator a sentence; nothing is guessed from half an answer."""
    world = World({GET_POLICY: answer})
    assert world.refused(world.menu) == -32603
    assert world.counted() == {"external_garbage": 1}
    assert world.log.levels() == ["warn"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(list(TERMS.values())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(TERMS)), inner, max_size=7),
    max_leaves=12,
)


@given(JSON, st.none() | st.dictionaries(st.sampled_from(list(TERMS)), JSON, max_size=2))
def test_any_answer_is_a_menu_or_an_error(value: Any, changes: dict[str, Any] | None) -> None:
    """G-06, G-07, T-18: whatever JSON comes, a client gets a sound menu or -32603."""
    menu = value if changes is None else [TERMS | changes]
    world = World({GET_POLICY: {"policy_opening_fee_params_menu": menu}, BUY: {"channel_capacity_msat": value}})
    params: list[FeeParams] = []
    codes = [outcome(lambda: params.extend(world.menu() or ())), outcome(world.capacity)]
    assert set(codes) <= {None, -32603}
    assert check_menu_order(params)
    assert all(entry.valid_until_ms - WALL_MS >= 600_000 for entry in params)


def outcome(step: Callable[[], object]) -> int | None:
    """The code of the refusal, None for none."""
    try:
        step()
    except PeerError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (NodeUnreachable(GET_POLICY, "the connection was closed"), "external_slow"),
        (NodeError(GET_POLICY, -32600, "TypeError: got an unexpected keyword argument\n<b>"), "external_error"),
        (NodeError(BUY, 200, "only of the menu is this a token's error"), "external_error"),
    ],
)
@pytest.mark.parametrize("ask", [World.menu, World.capacity])
def test_an_error_sells_nothing(ask: Callable[[World], object], answer: NodeError, name: str) -> None:
    """T-18, T-21: -32603 for the client, a clean sentence in the log."""
    world = World({GET_POLICY: answer, BUY: answer})
    expected = 200 if answer.code == 200 and ask is World.menu else -32603
    assert world.refused(lambda: ask(world)) == expected
    assert world.counted() == {"token_unknown" if expected == 200 else name: 1}
    assert "<" not in world.log.text()
    assert "\n" not in world.log.text()


@pytest.mark.parametrize("ask", [World.menu, World.capacity])
def test_a_plugin_that_never_answers_holds_nobody_up(ask: Callable[[World], object]) -> None:
    """Slow answers are bounded, also when the connection's own time-out fails."""
    world = World(menu_of(TERMS), timeout_s=0.01)
    world.silent = asyncio.Event()
    assert world.refused(lambda: ask(world)) == -32603
    assert world.counted() == {"external_slow": 1}


def test_a_slow_plugin_cannot_make_us_hoard_calls() -> None:
    """rule:14: beyond a number of open questions the answer is -32603 at once."""
    world = World(menu_of(TERMS), max_calls=2)
    world.menu()

    async def crowd() -> list[Any]:
        world.silent.clear()
        waiting = [asyncio.ensure_future(world.policy.menu(None, WALL_MS)) for _ in range(5)]
        await asyncio.wait(waiting[2:])  # these end without an answer
        world.silent.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    answers = asyncio.run(crowd())
    assert [isinstance(answer, list) for answer in answers] == [True, True, False, False, False]
    assert world.counted() == {"external_busy": 3}
    assert world.menu() is not None


def test_trouble_is_told_when_it_doubles_and_when_it_ends() -> None:
    """K-20 in spirit: an operator hears of it, and a thousand clients do not fill the log."""
    world = World({GET_POLICY: NodeError(GET_POLICY, -1, "boom")})
    for _ in range(1_000):
        world.refused(world.menu)
    assert len(world.log) == 10
    assert world.log[-1][0] == f"{GET_POLICY} failed, nothing is sold (512 in a row): boom (code -1)"
    world.answers = menu_of(TERMS)
    world.menu()
    assert world.log[-1] == (f"{GET_POLICY} works again after 1000 failures", "info")


# --- Presence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [World.menu, World.capacity])
def test_without_a_plugin_our_own_policy_answers(ask: Callable[[World], object]) -> None:
    """Architecture 5: otherwise the built-in policy; a missing method is looked for once a minute."""
    world = World({})
    assert [ask(world) for _ in range(3)] == [None] * 3
    first = len(world.calls)
    assert first == len({method for method, _ in world.calls})
    world.now_ms += LOOK_AGAIN_MS
    assert ask(world) is None
    assert len(world.calls) == 2 * first
    assert (world.log, world.counted()) == ([], {})


@pytest.mark.parametrize("answers", [{}, menu_of(TERMS)])
def test_a_crowd_that_comes_first_asks_once_whether_there_is_a_plugin(answers: dict[str, Answer]) -> None:
    """rule:14: no client is turned away for a question that is being answered already."""
    world = World(answers, max_calls=50)

    async def crowd() -> list[Any]:
        return await asyncio.gather(*(world.policy.menu(None, WALL_MS) for _ in range(50)))

    found = asyncio.run(crowd())
    assert [menu is None for menu in found] == [not answers] * 50
    assert len(world.calls) == (50 if answers else 1)
    assert world.counted() == {}


def test_a_plugin_that_comes_later_is_found() -> None:
    """lightningd starts plugins in any order."""
    world = World({})
    assert world.menu() is None
    world.answers = menu_of(TERMS)
    world.now_ms += LOOK_AGAIN_MS
    assert world.menu() is not None


def test_a_plugin_that_disappears_is_missed() -> None:
    """Its owner's prices are not replaced by ours behind his back."""
    world = World(menu_of(TERMS))
    world.menu()
    world.answers = {}
    codes = [world.refused(world.menu) for _ in range(3)]
    assert codes == [-32603] * 3
    assert world.counted() == {"external_missing": 3}
    assert "start the policy plugin" in world.log.text()
    world.answers = menu_of(TERMS)
    world.now_ms += LOOK_AGAIN_MS
    assert world.menu() is not None


@pytest.mark.parametrize("ask", [World.menu, World.capacity])
def test_a_required_plugin_is_missed_from_the_start(ask: Callable[[World], object]) -> None:
    """For operators who never want our own prices."""
    world = World({}, use=Use.REQUIRED)
    assert [world.refused(lambda: ask(world)) for _ in range(2)] == [-32603] * 2
    assert world.counted() == {"external_missing": 2}


@pytest.mark.parametrize("ask", [World.menu, World.capacity])
def test_a_plugin_that_is_switched_off_is_not_asked(ask: Callable[[World], object]) -> None:
    """For operators who run it for another purpose."""
    world = World(menu_of(TERMS), use=Use.OFF)
    assert ask(world) is None
    assert world.calls == []


# --- Capacity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_msat", [50_000_000, None])
@pytest.mark.parametrize("method", [BUY, GET_CAPACITY])
def test_the_plugin_chooses_the_capacity(method: str, size_msat: int | None) -> None:
    """Architecture 5: `lsps2-policy-buy`, or what released CLN calls `lsps2-policy-getchannelcapacity`."""
    world = World({method: {"channel_capacity_msat": "100000001", "policy_id": 3}})
    assert world.capacity(size_msat) == 100_001
    name, params = world.calls[-1]
    size = None if size_msat is None else str(size_msat)
    first = size or PARAMS.raw["max_payment_size_msat"]
    shapes: dict[str, dict[str, Any]] = {
        BUY: {"payment_size_msat": size},
        GET_CAPACITY: {"init_payment_size": first, "scid": "1x2x3"},
    }
    assert (name, params) == (method, shapes[method] | {"opening_fee_params": PARAMS.to_json()})


@pytest.mark.parametrize(
    ("wanted", "capacity", "counted"),
    [
        (100_000_000, 100_000, {}),
        ("60000000", 60_000, {}),
        ("59999001", 60_000, {}),
        ("59999000", Lack.SIZE, {"external_capacity": 1}),
        ("0", Lack.SIZE, {"external_capacity": 1}),
        ("999999999999", 200_000, {}),
        (None, Lack.FUNDS, {"external_rejected": 1}),
    ],
)
def test_the_capacity_is_kept_within_bounds(wanted: Any, capacity: int | Lack, counted: dict[str, int]) -> None:
    """O-03, B-06 step 11: enough for the payment, not above our largest channel; no capacity is a no."""
    world = World({BUY: {"channel_capacity_msat": wanted}})
    assert world.capacity() == capacity
    assert world.counted() == counted


@pytest.mark.parametrize("wanted", [True, 1.5, "1e9", "", -1, 2**64, [], {}])
def test_a_capacity_that_is_no_amount_sells_nothing(wanted: Any) -> None:
    """S-01, T-18."""
    world = World({BUY: {"channel_capacity_msat": wanted}})
    assert world.refused(world.capacity) == -32603
    assert world.counted() == {"external_garbage": 1}


def test_a_payment_above_our_largest_channel_is_too_large() -> None:
    """B-06 step 11: 203, whatever the plugin wants."""
    assert World({BUY: {"channel_capacity_msat": "999999999999"}}).capacity(least_sat=200_001) is Lack.SIZE


def test_cancelling_a_question_frees_its_place() -> None:
    """A client that left does not use up the plugin's places."""
    world = World(menu_of(TERMS), max_calls=1)

    async def leave() -> list[FeeParams] | None:
        world.silent.clear()
        task = asyncio.ensure_future(world.policy.menu(None, WALL_MS))
        await world.asked.wait()
        task.cancel()
        await asyncio.wait([task])
        world.silent.set()
        return await world.policy.menu(None, WALL_MS)

    assert asyncio.run(leave()) is not None
