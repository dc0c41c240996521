"""How a story is entered, and what several of them begin with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from lsps2fast_plugin.cln.retry import LONGEST_PAUSE_MS
from lsps2fast_plugin.simnode import Client

from .case import MODES
from .stage import Sale, Stage

Play = Callable[[Stage], Awaitable[None]]
THIRDS = [3_000_000, 3_000_000, 4_000_000]
LONGEST_PAUSE_S = LONGEST_PAUSE_MS / 1000
WEBHOOK = {"app_name": "app", "webhook": "https://app.example/push"}


@dataclass(frozen=True)
class Scenario:
    """A story and the world it needs."""

    name: str
    play: Play
    modes: tuple[str, ...] = MODES
    options: dict[str, Any] = field(default_factory=dict)
    world: dict[str, Any] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def scenario(*modes: str, options: dict[str, Any] | None = None, **world: Any) -> Callable[[Play], Play]:
    """Enter a story into SCENARIOS under its function's name; without modes: both."""

    def enter(play: Play) -> Play:
        name = play.__name__.replace("_", "-")
        SCENARIOS[name] = Scenario(name, play, modes or MODES, options or {}, world)
        return play

    return enter


async def served(stage: Stage) -> Client:
    """A client that has bought a channel, which is in a block."""
    client = stage.client()
    stage.payer()
    first = await stage.sale(client)
    await stage.pay(stage.payers[0], first)
    await stage.quiet()
    stage.world.mine()
    await stage.quiet()
    return client


async def parts_held(stage: Stage, client: Client, sale: Sale, amounts: list[int]) -> Any:
    """A payment whose parts are all with the client, which holds them; or it has failed by now.

    Where one part was lost on its way the client fails the others, as wallets do after a minute.
    """
    payment = await stage.send(stage.payers[0], sale, amounts)
    ended = [part.result for part in payment.parts]

    def decided() -> bool:
        return len(client.held()) == len(amounts) or any(result.done() for result in ended)

    await stage.until(decided, "parts with the client")
    await stage.quiet()
    if any(result.done() for result in ended):
        for part in client.held():
            client.fail(part)
    return payment
