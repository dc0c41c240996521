"""Methods, hooks and notifications through pyln-client."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest
from harness.host import (
    CONTINUE,
    EVENT,
    WAIT_S,
    Desk,
    ping,
)
from pyln.client import RpcException
from pyln.client.plugin import Request

from lsps2fast.errors import ConfigError, NodeError


def test_methods_answer_with_results_and_clear_errors(open_desk: Callable[..., Desk]) -> None:
    """RpcException keeps its code; ours have theirs; the unexpected says what it was."""
    failures: dict[str, Exception] = {
        "rpc": RpcException("no such offer", 901),
        "config": ConfigError("lsps2-x must be a number"),
        "node": NodeError("getinfo", -1, "no"),
        "bug": KeyError("our bug"),
    }

    async def fail(how: str) -> dict[str, Any]:
        raise failures[how]

    async def odd() -> Any:
        return {"set": {1}}

    def prepare(desk: Desk) -> None:
        desk.host.method("fail", fail)
        desk.host.method("odd", odd)

    desk = open_desk(prepare=prepare)
    for how in failures:
        desk.send({"jsonrpc": "2.0", "id": how, "method": "fail", "params": {"how": how}})
    desk.send({"jsonrpc": "2.0", "id": "odd", "method": "odd", "params": []})
    desk.send({"jsonrpc": "2.0", "id": "missing", "method": "fail", "params": {}})
    desk.send({"jsonrpc": "2.0", "id": "too many", "method": "fail", "params": ["rpc", 1]})
    errors = {key: desk.answer(key)["error"] for key in [*failures, "odd", "missing", "too many"]}
    assert (errors["rpc"]["code"], errors["rpc"]["message"]) == (901, "no such offer")
    assert (errors["config"]["code"], errors["config"]["message"]) == (-32602, "lsps2-x must be a number")
    assert (errors["node"]["code"], errors["node"]["message"]) == (-1, "getinfo: no (code -1)")
    assert errors["bug"]["code"] == -32603
    assert "our bug" in errors["bug"]["message"]
    assert errors["odd"]["code"] == -32603
    assert (errors["missing"]["code"], errors["too many"]["code"]) == (-32602, -32602)
    assert "'how'" in errors["missing"]["message"]
    assert {key for key, error in errors.items() if "traceback" in error} == set()


def test_a_method_called_by_position_may_leave_out_what_is_optional(open_desk: Callable[..., Desk]) -> None:
    """lightning-cli passes lists: pyln-client alone would put its request into the gap."""

    async def quote(amount_msat: int, note: str = "none", unit: str = "msat") -> dict[str, Any]:
        return {"amount_msat": amount_msat, "note": note, "unit": unit}

    desk = open_desk(prepare=lambda desk: desk.host.method("quote", quote))
    desk.send({"jsonrpc": "2.0", "id": 1, "method": "quote", "params": [5]})
    desk.send({"jsonrpc": "2.0", "id": 2, "method": "quote", "params": [5, "a"]})
    desk.send({"jsonrpc": "2.0", "id": 3, "method": "quote", "params": {"unit": "sat", "amount_msat": 6}})
    assert desk.result(1) == {"amount_msat": 5, "note": "none", "unit": "msat"}
    assert desk.result(2) == {"amount_msat": 5, "note": "a", "unit": "msat"}
    assert desk.result(3) == {"amount_msat": 6, "note": "none", "unit": "sat"}


def test_unknown_methods_and_notifications_stop_nothing(desk: Desk) -> None:
    """cln:W13: stock pyln-client dies of them."""
    desk.send({"jsonrpc": "2.0", "id": "u", "method": "unknown", "params": {}})
    desk.send({"jsonrpc": "2.0", "method": "unknown", "params": {}})
    desk.send({"jsonrpc": "2.0", "id": "n", "method": "ping"}, {"jsonrpc": "2.0", "id": "m"}, b"{}", ping("p"))
    assert desk.answer("u")["error"]["code"] == -32601
    assert desk.answer("n")["error"]["code"] == -32602
    assert desk.result("p") == {"pong": True}


def test_an_answer_takes_no_note_of_the_stack(open_desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """pyln-client's `set_result` writes down the stack, which takes longer than the answer."""
    through: list[str] = []
    monkeypatch.setattr(Request, "set_result", lambda request, _: through.append(request.method))
    desk = open_desk()
    desk.send(ping("p"))
    desk.until(lambda: "p" in desk.answered() or "ping" in through)
    assert through == ["getmanifest"]


HOOK_FAILURES: dict[str, Callable[..., Any]] = {
    "raises": lambda **_: 1 / 0,
    "returns nothing": lambda **_: None,
    "returns a text": lambda **_: "continue",
    "returns no result": lambda **_: {},
    "returns no JSON": lambda **_: {"result": "continue", "x": {1}},
}


@pytest.mark.parametrize("broken", HOOK_FAILURES.values(), ids=HOOK_FAILURES)
def test_a_hook_that_breaks_is_answered_harmlessly(open_desk: Callable[..., Desk], broken: Callable[..., Any]) -> None:
    """cln:W8, cln:H9: an error or null as answer aborts lightningd; also where pyln-client has no fallback."""

    def prepare(desk: Desk) -> None:
        for name in ("custommsg", "openchannel", "onion_message_recv"):
            desk.host.hook(name, broken)

    desk = open_desk(prepare=prepare)
    for name in ("custommsg", "openchannel", "onion_message_recv"):
        desk.send({"jsonrpc": "2.0", "id": name, "method": name, "params": {"payload": "aa"}})
    assert desk.result("custommsg") == CONTINUE
    assert desk.result("openchannel")["result"] == "reject"
    assert desk.result("onion_message_recv") == CONTINUE


def test_a_hook_that_cannot_be_read_is_answered_harmlessly(open_desk: Callable[..., Desk]) -> None:
    """cln:H9: words that are no JSON come from lightningd only through a caller."""
    desk = open_desk(prepare=lambda desk: desk.host.hook("custommsg", lambda **_: CONTINUE))
    desk.send(b'{"jsonrpc":"2.0","id":"c","method":"custommsg","params":{"x":nonsense}}', ping("p"))
    assert desk.result("c") == CONTINUE
    desk.send(b'{"jsonrpc":"2.0","id":"m","method":"ping","params":{"x":nonsense}}')
    assert desk.answer("m")["error"]["code"] == -32602


def test_notifications_reach_their_subscribers(open_desk: Callable[..., Desk]) -> None:
    """cln:W3: under their own name; one that raises does not stop the next."""
    seen: queue.Queue[Any] = queue.Queue()

    def block(block_added: Any, **_: Any) -> None:
        seen.put(block_added["height"])
        raise ValueError("our bug")

    desk = open_desk(prepare=lambda desk: desk.host.subscribe("block_added", block))
    for height in (7, 8):
        desk.send({"jsonrpc": "2.0", "method": "block_added", "params": {"block_added": {"height": height}}})
    assert [seen.get(timeout=WAIT_S) for _ in range(2)] == [7, 8]
    desk.log_with("ValueError: our bug")


def test_only_forward_events_somebody_waits_for_come_through(open_desk: Callable[..., Desk]) -> None:
    """cln:W15: the others are dropped unseen; before the payments are known none is."""
    seen: queue.Queue[Any] = queue.Queue()

    def settled(forward_event: Any, **_: Any) -> None:
        seen.put(forward_event["payment_hash"])

    def event(payment_hash: str) -> dict[str, Any]:
        body = {**EVENT["params"]["forward_event"], "payment_hash": payment_hash}
        return {"jsonrpc": "2.0", "method": "forward_event", "params": {"forward_event": body}}

    desk = open_desk(prepare=lambda desk: desk.host.subscribe("forward_event", settled))
    desk.send(event("01" * 32))
    desk.load()
    desk.on_loop(desk.interest.payment_hashes.add, b"\x02" * 32)
    desk.send(event("03" * 32), event("02" * 32), event("04" * 32), ping("p"))
    desk.answer("p")
    assert [seen.get(timeout=WAIT_S) for _ in range(2)] == ["01" * 32, "02" * 32]
    assert seen.empty()


def test_a_task_that_fails_is_logged(desk: Desk) -> None:
    """Nothing of ours dies in silence."""

    async def broken() -> None:
        raise KeyError("our bug")

    desk.on_loop(lambda: desk.host.spawn(broken()) and None)
    desk.log_with("KeyError: 'our bug'")
