"""Commands of the operator that would break a sale under way are refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from harness.logs import Log
from harness.negotiator import ALICE, BOB, Json
from harness.rows import CHANNEL as CHANNEL_ROW

from lsps2fast.errors import NodeError
from lsps2fast_plugin.service.unfinished_guard import CANCEL, SPLICES, UnfinishedChannelGuard

CHANNEL = "ab" * 32
OTHER = "cd" * 32
BY_CHANNEL = ("close", *SPLICES)
NAMES = [ALICE, CHANNEL, CHANNEL.upper(), "12x34x56"]


class Node:
    """A node with an unconfirmed JIT channel to Alice and a foreign channel to Bob."""

    def __init__(self, guard: str = "refuse", *, withheld: bool = False, sold: bool = True) -> None:
        self.error: NodeError | None = None
        self.log = Log()
        self.asked = 0
        self.opens: list[Json] = []
        self.opens_to: dict[str, str] = {}
        self.is_sold = sold
        self.jit: Json = CHANNEL_ROW | {
            "peer_id": ALICE,
            "channel_id": CHANNEL,
            "alias": {"local": "12x34x56"},
            "funding": {"withheld": withheld},
        }
        self.guard = UnfinishedChannelGuard(rpc=self, sales=self, guard=guard)

    def sold(self) -> dict[str, str]:
        """As `Sales.sold`."""
        return {CHANNEL: "7x7x7"} if self.is_sold else {}

    def opening(self) -> dict[str, str]:
        """As `Sales.opening`."""
        return self.opens_to

    async def call(self, method: str, params: Json | None = None, timeout_s: float | None = 60.0) -> Json:
        """The node."""
        assert method == "listpeerchannels"
        self.asked += 1
        if self.error is not None:
            raise self.error
        return {"channels": [CHANNEL_ROW | {"peer_id": BOB, "channel_id": OTHER}, self.jit, *self.opens]}

    async def hears(self, method: str, params: Any, call_id: Any = "cli:x#1") -> str | None:
        """Return the error that the caller gets; None: lightningd carries the command out."""
        answer = await self.guard.judge({"id": call_id, "method": method, "params": params})
        return None if answer is None else str(answer["return"]["error"]["message"])


@pytest.mark.parametrize("withheld", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", BY_CHANNEL)
async def test_what_would_break_a_sale_is_refused_by_every_name(method: str, name: str, withheld: bool) -> None:
    """cln:N3, rule:7: a withheld channel and an unconfirmed one, parameters by name and by place."""
    node = Node(withheld=withheld)
    keys = {"close": "id", "splice_init": "channel_id", "dev-splice": "script_or_json", "stfu_channels": "channel_ids"}
    key, value = keys.get(method, "channel"), [name] if method == "stfu_channels" else name
    for params in ({key: value, "amount": 1000}, [value, 1000]):
        words = await node.hears(method, params)
        assert words is not None
        assert ("not sent yet" if withheld else "in no block yet") in words
        assert ("force_lease_closed=true" if method == "close" else "force-close") in words
    assert node.guard.refused == 2


@pytest.mark.parametrize("method", BY_CHANNEL)
async def test_a_confirmed_channel_and_other_channels_are_not_guarded(method: str) -> None:
    """Only what may break: a foreign channel, and ours once it is in a block."""
    node = Node()
    assert await node.hears(method, [BOB, 1000]) is None
    assert await node.hears(method, [OTHER, 1000]) is None
    node.jit["short_channel_id"] = "900x1x0"
    assert await node.hears(method, [CHANNEL, 1000]) is None
    assert node.log == []


@pytest.mark.parametrize(
    "script",
    [
        "wallet -> 10%; 10% -> *:?",
        {"channels": [CHANNEL]},
        f"wallet -> 5000 -> {CHANNEL}",
        f"wallet -> 5000; 5000 -> {CHANNEL[:6].upper()}",
        f"wallet -> 5000; 5000 -> {ALICE[:12]}:?",
    ],
)
async def test_a_script_that_means_the_channel_is_found_out(script: Any) -> None:
    """A splice names channels in a language of its own; one for every channel means this one, too."""
    assert await Node().hears("dev-splice", {"script_or_json": script}) is not None


@pytest.mark.parametrize("params", [{"id": ALICE}, [ALICE], {"id": ALICE.upper()}], ids=str)
async def test_a_cancel_that_would_take_the_channel_is_refused(params: Any) -> None:
    """cln:N1, rule:26: the end of a foreign, failed `fundchannel` to the same client, before its channel is ready."""
    node = Node(withheld=True)
    node.jit["state"] = "CHANNELD_AWAITING_LOCKIN"
    words = await node.hears(CANCEL, params)
    assert words is not None
    assert "no other open is under way with its peer" in words
    assert await node.hears(CANCEL, {"id": BOB}) is None


async def test_a_cancel_does_not_take_a_channel_whose_id_we_have_not_heard() -> None:
    """cln:N1: lightningd has made it, and its answer to the open is on its way; also a `close` by the client's id."""
    node = Node(withheld=True, sold=False)
    node.jit["state"] = "CHANNELD_AWAITING_LOCKIN"
    assert await node.hears(CANCEL, {"id": ALICE}) is None  # another tool's, as far as we know
    node.opens_to = {ALICE: "7x7x7"}
    for method in (CANCEL, "close"):
        words = await node.hears(method, {"id": ALICE})
        assert words is not None
        assert "sold as 7x7x7 and its funding is not sent yet" in words
    assert await node.hears(CANCEL, {"id": BOB}) is None
    node.jit["funding"] = {"withheld": False}
    assert await node.hears(CANCEL, {"id": ALICE}) is None


async def test_a_cancel_that_takes_something_else_goes_through() -> None:
    """cln:N1: an open that is under way, or none of our channels; our own cancels are not asked about."""
    node = Node(withheld=True)
    assert await node.hears(CANCEL, {"id": ALICE}) is None  # in use already: lightningd does not take it
    node.jit["state"] = "CHANNELD_AWAITING_LOCKIN"
    assert await node.hears(CANCEL, {"id": ALICE}, "lsps2fast:fundchannel_cancel#7") is None
    node.opens = [{"peer_id": ALICE, "state": "OPENINGD", "opener": "local", "total_msat": 5}]
    assert await node.hears(CANCEL, {"id": ALICE}) is None


async def test_a_script_that_means_another_channel_goes_through() -> None:
    """Amounts and other people's ids begin like none of ours."""
    script = f"wallet -> 50000; 50000 -> {OTHER[:8]}; {BOB[:12]}:? -> 10%"
    assert await Node().hears("dev-splice", {"script_or_json": script}) is None


async def test_our_own_close_of_what_is_given_up_goes_through_without_a_question() -> None:
    """An undo closes a withheld channel: the guard must not stop it (rule:9)."""
    node = Node(withheld=True)
    assert await node.hears("close", {"id": CHANNEL}, "lsps2fast:close#7") is None
    assert await node.hears("close", {"id": CHANNEL}, '"lsps2fast:close#7"') is None
    assert node.asked == 0


async def test_who_means_it_closes_all_the_same() -> None:
    """`force_lease_closed`, or an operator who only wants to be told, or nothing at all."""
    assert await Node().hears("close", {"id": CHANNEL, "force_lease_closed": True}) is None
    for method in SPLICES:
        assert await Node().hears(method, [CHANNEL, "force_lease_closed"]) is not None
    warned = Node("warn")
    assert await warned.hears("splicein", [CHANNEL]) is None
    assert warned.log.levels() == ["warn"]
    off = Node("off")
    assert await off.hears("splicein", [CHANNEL]) is None
    assert (off.log, off.asked) == ([], 0)


async def test_a_node_that_does_not_answer_does_not_keep_its_operator_waiting() -> None:
    """Let through with a warning; and nothing is asked while nothing was sold."""
    node = Node()
    node.error = NodeError("listpeerchannels", -1, "busy")
    assert await node.hears("close", [CHANNEL]) is None
    assert node.log.levels() == ["warn"]
    nothing = Node(sold=False)
    assert await nothing.hears("close", [CHANNEL]) is None
    assert nothing.asked == 0
