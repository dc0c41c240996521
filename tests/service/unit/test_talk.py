"""Between lightningd's hook and the negotiation: what is kept before the service sells, and what of it is answered."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from harness.logs import Log
from harness.negotiator import ALICE, Datastore, Shop

from lsps2fast.lsps import lsps0
from lsps2fast.lsps.lsps0 import MESSAGE_TYPE_HEX
from lsps2fast_plugin.service import lsps0_server
from lsps2fast_plugin.service.lsps0_server import Lsps0Server

CONTINUE = {"result": "continue"}
MENU = MESSAGE_TYPE_HEX + lsps0.encode_request("x", "lsps2.get_info", {}).hex()


class Host:
    """Runs what is spawned when it is told to."""

    def __init__(self) -> None:
        self.work: list[Coroutine[Any, Any, None]] = []
        self.log = Log()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Later."""
        self.work.append(work)


async def test_what_comes_before_the_service_sells_is_answered_then_and_bounded(monkeypatch: Any) -> None:
    """cln:W11, T-37, rule:14: the hook goes on at once; what there was no room for is counted."""
    monkeypatch.setattr(lsps0_server, "MOST_EARLY", 3)
    host, shop, node = Host(), Shop(), Datastore()
    sent: list[dict[str, Any]] = []
    node.methods = {"sendcustommsg": lambda params: sent.append(params) or {}}
    heard = Lsps0Server(host)  # type: ignore[arg-type]
    assert [heard.on_custommsg(ALICE, MENU) for _ in range(5)] == [CONTINUE] * 5
    assert host.work == []
    heard.begin(node, shop.negotiator)
    assert heard.on_custommsg(ALICE, MENU) == CONTINUE
    for work in host.work:
        await work
    assert [params["node_id"] for params in sent] == [ALICE] * 4
    assert shop.counted() == {"too_early": 2}
    assert host.log == []


async def test_a_message_of_another_type_is_none_of_ours() -> None:
    """T-01: also where lightningd would not filter."""
    host, shop = Host(), Shop()
    heard = Lsps0Server(host)  # type: ignore[arg-type]
    heard.begin(Datastore(), shop.negotiator)
    assert heard.on_custommsg(ALICE, "941b" + MENU[4:]) == CONTINUE
    assert (host.work, shop.counted()) == ([], {})
