"""Every state of the page for the browser, as its readers see it, hear it and press it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.browser import Browser, Tab
from harness.page import HASH, PEER, FakeService, served

from lsps2fast.errors import NodeError
from lsps2fast_plugin.service.alarms import KINDS
from lsps2fast_plugin.service.rpc_errors import NO_LEDGER, UNKNOWN, refusal

PICTURES = os.environ.get("LSPS2FAST_PICTURES")
TOKEN = "a token of sixteen".replace(" ", "-")
CHANNEL = {
    "short_channel_id": "840000x12x1",
    "idle_days": 41,
    "opening_fee_msat": 2_500_000,
    "routing_fees_msat": 1_250,
    "capacity_msat": 350_000_000,
    "to_us_msat": 12_000_000,
    "last_used_at": "2026-10-19T08:00:00Z",
}


def busy() -> FakeService:
    """A service in the middle of its day."""
    service = FakeService()
    for number in range(7):
        service.pay(840_000 + number, number % 5, sum_msat=25_000_000 + 1_234_567 * number)
    stages = [lane[3].lower() for lane in service.under_way.values()]
    service.now["payments_by_stage"] = {name: stages.count(name) for name in dict.fromkeys(stages)}
    service.end(service.pay(839_990))
    lost = {"failed_by": "client", "code": "not_ready", "reason": "the channel did not become usable in time"}
    service.end(service.pay(839_991), "Failed", **lost)
    service.alarms.tell({"at_ms": service.clock.wall_ms(), "kind": "coins", "text": "no coins for 839999x1x1"})
    service.questions["closable"]["channels"] = [CHANNEL]
    return service


async def keep(tab: Tab, name: str) -> None:
    """Write a picture where they are wanted; a page with faults has none."""
    assert tab.faults == []
    if PICTURES:
        await tab.picture(Path(PICTURES) / f"page-{name}.png")


@pytest.mark.parametrize(
    ("look", "width", "dark"), [("light", 1_200, False), ("dark", 1_200, True), ("phone", 390, False)]
)
async def test_a_busy_day(browser: Browser, look: str, width: int, dark: bool) -> None:
    """operator:O12: lanes, funnel with drop-off, money, limits, alarms; nothing is wider than the screen."""
    service = busy()
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/", width=width, height=1_000, dark=dark)
        await tab.says("selling", "live", "840003x1x1", "client takes it (4 of 5, 3 parts)", "26,234.567")
        await tab.says("912", "12 refused: too small", "14 failed by the payer: incomplete", where="#funnel")
        await tab.says("half ≤ 0.5 s, 99 % ≤ 5 s", where="#funnel")
        await tab.says("withheld budget: reached", "180,000 sat of 200,000 sat", where="#limits")
        await tab.says("coins", "no coins for 839999x1x1", where="#alarms")
        await tab.says("30 days: 150 sold, 30 failed", "net")
        await tab.says("paid", "failed", "the channel did not become usable in time", where="#ended")
        await tab.value("document.querySelector('#alarms summary').click()")
        await tab.says("Send coins to", where="#alarms")
        await tab.value("document.querySelector('#ask-closable').click()")
        await tab.says("840000x12x1", "2,500", where="#closable")
        await keep(tab, look)
        assert await tab.value("document.documentElement.scrollWidth <= innerWidth")
        ink, paper = await tab.value(
            "[document.body, document.body].map((e, i) => getComputedStyle(e)[i ? 'backgroundColor' : 'color'])"
        )
        assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, paper[4:-1].split(",")))) == dark


async def test_closes_by_rule_have_a_number_where_there_are_rules(browser: Browser) -> None:
    """operator:O2: how many rules have closed since the start, what is under way, and that it is off."""
    service = FakeService()
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("owed to the chain", where="#now")
        assert "closed by rule" not in await tab.value("document.querySelector('#now').textContent")
        rules = {"rules": 2, "is_on": True, "is_cheap": True, "under_way": 1, "closed": 3}
        service.now["closes_by_rule"] = rules
        await tab.says("closed by rule", "3", "1 under way, cheap hours now", where="#now")
        service.now["closes_by_rule"] = rules | {"is_on": False}
        await tab.says("off: the dry run says what would be", where="#now")
        assert tab.faults == []


async def test_lanes_move_and_end(browser: Browser) -> None:
    """operator:O12: a payment goes through its stages, and its end stays for a moment, won or lost."""
    service = FakeService()
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("no payment is under way")
        await keep(tab, "empty")
        name = service.pay(1, 0)
        other = service.pay(2, 2)
        await tab.says("parts come in (1 of 5", "becomes usable (3 of 5", where="#rows")
        service.pay(1, 3)
        await tab.says("client takes it (4 of 5", where="#rows")
        assert await tab.value("document.querySelectorAll('#rows tr')[0].querySelectorAll('i.past').length") == 3
        service.end(name)
        service.end(other, "Failed", failed_by="client", code="not_ready", reason="it is away")
        await tab.says("paid", "failed: not_ready", where="#rows")
        assert await tab.value("[...document.querySelectorAll('#rows tr')].map(r => r.className)") == ["won", "lost"]
        await keep(tab, "ends")
        await tab.until("document.querySelectorAll('#rows tr').length === 0")
        assert tab.faults == []


async def test_a_held_picture_stands_still(browser: Browser) -> None:
    """operator:O12: until it is let go, by the keyboard."""
    service = FakeService()
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("no payment is under way")
        await tab.value("document.querySelector('#hold').focus()")
        await tab.press(" ")
        await tab.says("Held: go on")
        assert await tab.value("document.querySelector('#hold').getAttribute('aria-pressed')") == "true"
        service.pay(7)
        await tab.until("lanes.size === 1")
        assert "7x1x1" not in await tab.text("#rows")
        await tab.press("Enter")
        await tab.says("7x1x1", where="#rows")
        assert tab.faults == []


@pytest.mark.parametrize(
    ("name", "now", "words"),
    [
        ("paused", {"paused": True}, ["paused"]),
        ("starting", {"starting": True}, ["starting"]),
        (
            "ledger",
            {"ledger_in_trouble": True, "ledger": {"trouble": "the disk is full"}},
            ["The sales ledger cannot be written: the disk is full"],
        ),
        ("not-looked", {"free_coins_sat": None, "held_blocks_left": None}, ["not looked at", "none held"]),
    ],
)
async def test_a_state_of_the_service(browser: Browser, name: str, now: dict[str, object], words: list[str]) -> None:
    """operator:O12: what an operator must see stands out."""
    service = FakeService()
    service.now.update(now)
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/", height=600)
        await tab.says(*words)
        await keep(tab, name)


async def test_no_ledger_no_money(browser: Browser) -> None:
    """operator:O2: with `lsps2-ledger=off` the page lives, and says why there is no money on it."""
    service = FakeService()
    service.questions["report"] = refusal(NO_LEDGER, "no sales ledger is kept: lsps2-ledger is off")
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("no sales ledger is kept: lsps2-ledger is off", "not known")
        tab.faults = [fault for fault in tab.faults if "409" not in fault]
        await keep(tab, "no-ledger")


async def test_a_day_old_ledger(browser: Browser) -> None:
    """operator:O2: one day, nothing sold."""
    service = FakeService()
    report = service.days(1)
    report["rows"][0] |= {"sales": 0, "earned_msat": 0, "mining_msat": 0, "net_msat": 0}
    service.questions["report"] = report | {"total": report["rows"][0]}
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("1 day: 0 sold", "net, at most 0 sat a day")
        assert tab.faults == []


async def test_the_story_of_a_payment(browser: Browser) -> None:
    """operator:O1: asked by the keyboard, or of one that has just ended; what is wrong is a sentence."""
    service = FakeService()
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("live")
        await tab.value("document.querySelector('#about').focus()")
        await tab.type(f"  {HASH} ")
        await tab.press("Enter")
        await tab.says("It began.", "It is paid: 1,000 sat.", where="#story")
        await keep(tab, "story")
        service.questions["explain"] = refusal(UNKNOWN, f"the sales ledger knows nothing of {HASH}")
        await tab.press("Enter")
        await tab.says("knows nothing of", where="#story")
        service.end(service.pay(5))
        await tab.says("story", where="#ended")
        service.questions["explain"] = {"offers": [{"jit_channel_scid": "5x1x1", "story": ["<b>no markup</b>"]}]}
        await tab.value("document.querySelector('#ended button').click()")
        await tab.says("<b>no markup</b>", where="#story")
        assert await tab.value("document.querySelector('#about').value") == f"{5:064x}"


async def test_channels_that_may_be_closed(browser: Browser) -> None:
    """operator:O12: none, some, and a node that does not answer."""
    service = FakeService()
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("live")
        await tab.value("document.querySelector('#ask-closable').click()")
        await tab.says("none may be closed now; closing one costs 184 sat", where="#closable-note")
        assert await tab.value("document.querySelector('#closable').hidden")
    service.questions["closable"] = NodeError("listforwards", -1, "busy")
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("live")
        await tab.value("document.querySelector('#ask-closable').click()")
        await tab.says("lightningd does not answer", where="#closable-note")


async def test_a_plugin_that_goes_and_comes_back(browser: Browser) -> None:
    """operator:O12: the page says that it is old, and goes on by itself when the plugin is back."""
    service = FakeService()
    service.pay(1)
    async with served(service) as server:
        port = server.port
        tab = await browser.open(f"http://127.0.0.1:{port}/")
        await tab.says("live", "1x1x1")
    await tab.says("what is shown is old; next try in")
    if PICTURES:
        await tab.picture(Path(PICTURES) / "page-lost.png")
    after = FakeService()
    after.pay(2)
    async with served(after, port=port):
        await tab.says("live", "2x1x1")
        assert "1x1x1" not in (await tab.text("#rows")).replace("2x1x1", "")


async def test_the_token(browser: Browser) -> None:
    """operator:O12: nothing is told without it; by hand, wrong and right, or behind the #, where no server sees it."""
    service = FakeService()
    service.pay(1)
    async with served(service, TOKEN) as server:
        url = f"http://127.0.0.1:{server.port}/"
        tab = await browser.open(url)
        await tab.says("a token is needed", "lsps2-page-token")
        assert await tab.value("document.activeElement.id") == "token"
        await tab.type("wrong")
        await tab.press("Enter")
        await tab.says("the token was refused")
        await tab.value("document.querySelector('#token').value = ''")
        if PICTURES:
            await tab.picture(Path(PICTURES) / "page-token.png")
        await tab.type(TOKEN)
        await tab.press("Enter")
        await tab.says("live", "1x1x1")
        other = await browser.open(f"{url}#token={TOKEN}")
        await other.says("live", "1x1x1")
        assert TOKEN not in await other.value("location.href")
        assert other.faults == []


async def test_by_keyboard_and_for_a_screen_reader(browser: Browser) -> None:
    """operator:O12: every control is reached by Tab in the order it is seen, and everything has a name."""
    service = busy()
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("live", "840003x1x1", "30 days", where="body")
        reached = []
        for _ in range(9):
            await tab.press("Tab")
            reached.append(await tab.value("document.activeElement.id || document.activeElement.tagName"))
        assert reached == ["A", "hold", "SUMMARY", "SUMMARY", "about", "BUTTON", "BUTTON", "BUTTON", "ask-closable"]
        told = await tab.told()
        names = {role: [name for each, name in told if each == role] for role, _ in told}
        for heading in ("Alarms", "Payments under way", "Limits", "Money per day", "Channels that may be closed"):
            assert heading in names["heading"]
            assert heading in names["region"]
        assert f"story of {839_990:064x}" in names["button"]
        assert any(name.startswith("net of each of 30 days") for name in names["image"])
        assert {"mining budget", "capital budget"} <= set(names["meter"])
        assert "840003x1x1" in names["rowheader"]
        assert any("parts come in" in name for name in names["StaticText"])
        assert not await tab.value(
            "[...document.querySelectorAll('button,input')]"
            ".some(e => !e.textContent && !e.labels?.length && !e.ariaLabel)"
        )


async def test_a_thousand_payments(browser: Browser) -> None:
    """rule:14: a thousand lanes, and the others are counted."""
    service = FakeService()
    for number in range(1_200):
        service.pay(number, number % 5)
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/")
        await tab.says("and 200 more")
        assert await tab.value("document.querySelectorAll('#rows tr').length") == 1_000
        for number in range(1_200):
            service.pay(number, (number + 1) % 5)
        await tab.says("channel is opened (2 of 5", where="#rows tr")
        assert tab.faults == []


async def test_every_kind_of_alarm_has_its_advice(browser: Browser) -> None:
    """operator:O12: the section of the runbook beside each."""
    service = FakeService()
    for kind in KINDS:
        service.alarms.tell(
            {"at_ms": service.clock.wall_ms(), "kind": kind.name, "text": f"<i>{kind.name}</i> of {PEER}"}
        )
    async with served(service) as server:
        tab = await browser.open(f"http://127.0.0.1:{server.port}/", width=700)
        await tab.says("funding-late", where="#alarms")
        await tab.until("Object.keys(runbook).length > 0")
        await tab.value("document.querySelectorAll('#alarms details').forEach(d => d.open = true)")
        lengths = await tab.value("[...document.querySelectorAll('#alarms details p')].map(p => p.innerText.length)")
        assert len(lengths) == len(KINDS)
        assert min(lengths) > 80
        await keep(tab, "alarms")
