"""Chance comes in through one door."""

from __future__ import annotations

import random

import pytest

from lsps2fast_plugin.client.app import Client
from lsps2fast_plugin.cln.chance import SEED, chance
from lsps2fast_plugin.service.app import Service


def draws(dice: random.Random) -> tuple[int, bytes]:
    """A scid and a preimage."""
    return dice.getrandbits(64), dice.randbytes(32)


def test_without_a_seed_the_system_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """T-07: jit scids, preimages and ids of requests are the system's."""
    monkeypatch.delenv(SEED, raising=False)
    assert isinstance(chance(), random.SystemRandom)


@pytest.mark.parametrize("program", [Service, Client])
def test_a_seed_repeats_every_draw(monkeypatch: pytest.MonkeyPatch, program: type) -> None:
    """T-07: what a simulation found is found again."""
    monkeypatch.setenv(SEED, "7")
    first, second = draws(program()._dice), draws(program()._dice)
    assert first == second
    monkeypatch.setenv(SEED, "8")
    assert draws(program()._dice) != first
