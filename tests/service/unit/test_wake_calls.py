"""When a client is called, and how often: with a server that answers as a test says, and a clock that a test turns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from harness.negotiator import ALICE, BOB, Datastore, StillClock, no_late_replies
from harness.rows import peer_channel

from lsps2fast.errors import PeerError, StoreError
from lsps2fast.lsps import lsps5
from lsps2fast.lsps.lsps5 import WebhookAsk, WebhookUrl
from lsps2fast_plugin.cln.datastore import DatastoreRecords
from lsps2fast_plugin.service.wake import webhooks
from lsps2fast_plugin.service.wake.caller import COOLDOWN_MS, FIRST_RETRY_MS, HOUR_S, Caller
from lsps2fast_plugin.service.wake.posting import PostFailed
from lsps2fast_plugin.service.wake.requests import WebhookRequests
from lsps2fast_plugin.service.wake.waker import expiries
from lsps2fast_plugin.service.wake.webhooks import KEPT_MS, MOST_STRANGERS, ROOT, WebhookBook

INCOMING = lsps5.PAYMENT_INCOMING
URL = "https://a.example/push"
HOUR_MS = HOUR_S * 1000


class FakeSigner:
    async def sign(self, text: str) -> str:
        return "y" * 104

    async def close(self) -> None:
        return


class SlowSigner(FakeSigner):
    """Signs once it is told to."""

    def __init__(self, signs: asyncio.Event) -> None:
        self._signs = signs

    async def sign(self, text: str) -> str:
        await self._signs.wait()
        return await super().sign(text)


class FakePost:
    """Remembers what was asked; `fails` is raised, but for the host that is `alive`; `status` answered."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.fails: PostFailed | None = None
        self.alive = ""
        self.status = 200
        self.wait: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0

    async def __call__(self, url: WebhookUrl, headers: dict[str, str], body: bytes) -> int:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if self.wait is not None:
            await self.wait.wait()
        self.at_once -= 1
        self.asked.append((url.host, body.decode().split('"')[7].removeprefix("lsps5.")))
        if self.fails is not None and url.host != self.alive:
            raise self.fails
        return self.status

    def close(self) -> None:
        return


class Scene:
    """A caller with everything around it."""

    def __init__(self, most: int = 2) -> None:
        self.clock = StillClock()
        self.node = Datastore()
        self.online: set[str] = set()
        self.owners: set[str] = set()
        self.offers: set[str] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.most = most
        self.post = FakePost()
        self.build()

    def build(self) -> None:
        self.book = WebhookBook(DatastoreRecords(self.node, no_late_replies), self.clock, self.most)
        self.caller = Caller(
            book=self.book,
            post=self.post,
            clock=self.clock,
            spawn=lambda work: self.tasks.append(asyncio.ensure_future(work)),
            is_online=self.online.__contains__,
        )
        self.caller.signer = FakeSigner()
        self.requests = WebhookRequests(
            self.book,
            self.caller,
            is_served=lambda peer: peer != BOB,
            has_channel=self.has_channel,
            has_offer=self.offers.__contains__,
            allow_loopback=False,
        )

    async def has_channel(self, peer_id: str) -> bool:
        return peer_id in self.owners

    async def at_work(self) -> None:
        """Let what was begun go as far as it can."""
        for _ in range(100):
            await asyncio.sleep(0)

    async def rest(self) -> None:
        while self.tasks:
            await self.tasks.pop()

    async def register(self, name: str = "app", url: str = URL, peer: str = ALICE) -> dict[str, Any]:
        result = await self.requests.set_webhook(peer, {"app_name": name, "webhook": url})
        await self.rest()
        return result

    async def wake(self, method: str = INCOMING) -> bool:
        called = self.caller.wake(ALICE, method)
        await self.rest()
        return called

    def reconnect(self) -> None:
        self.caller.forget(ALICE)

    @property
    def kinds(self) -> list[str]:
        return [kind for _, kind in self.post.asked]


async def test_one_call_of_a_kind_until_the_client_connects_or_minutes_pass() -> None:
    """N-17: the five payments of a minute are one call; other kinds have their own."""
    scene = Scene()
    await scene.register()
    assert [await scene.wake() for _ in range(5)] == [True, False, False, False, False]
    assert await scene.wake(lsps5.LIQUIDITY_MANAGEMENT_REQUEST)
    scene.clock.pass_ms(COOLDOWN_MS - 1)
    assert not await scene.wake()
    scene.clock.pass_ms(1)
    assert await scene.wake()
    scene.reconnect()
    assert await scene.wake()
    assert scene.kinds.count("payment_incoming") == 3


async def test_who_is_there_is_not_called() -> None:
    """N-09."""
    scene = Scene()
    await scene.register()
    scene.online.add(ALICE)
    assert not await scene.wake()
    assert scene.kinds == ["webhook_registered"]


@pytest.mark.parametrize("fails", [None, PostFailed("no answer")])
async def test_a_client_that_flaps_gets_no_more_than_its_allowance(fails: PostFailed | None) -> None:
    """trap:47, N-17: a thousand comings and goings in an hour, each with a payment: 2 webhooks, 52 calls in all.

    Also of a server that lets nothing in, so that `webhook_registered` is always the next.
    """
    scene = Scene()
    scene.post.fails = fails
    await scene.register()
    await scene.register("second", "https://b.example/")
    for _ in range(1_000):
        await scene.wake()
        scene.reconnect()
        scene.clock.pass_ms(HOUR_MS // 1_000)
    assert len(scene.post.asked) <= 2 * (20 + 6)
    assert scene.caller.outcomes["limited"] > 1_000


@pytest.mark.parametrize("told", [True, False])
async def test_a_client_that_has_one_webhook_of_two_gets_the_calls_of_one(told: bool) -> None:
    """trap:47, N-17: 26 calls at most to one URL within an hour, whatever else its client might have registered.

    Also of a server that lets its registration in only later: each request counts.
    """
    scene = Scene(most=2)
    scene.post.fails = None if told else PostFailed("no answer")
    await scene.register()
    scene.post.fails = None
    for _ in range(1_000):
        await scene.wake()
        scene.reconnect()
        scene.clock.pass_ms(HOUR_MS // 1_000)
    assert len(scene.post.asked) <= 20 + 6


async def test_setting_webhooks_again_and_again_is_bounded() -> None:
    """trap:47: each new URL is a request to a server; beyond the allowance the client hears so, and nothing changes."""
    scene = Scene(most=1)
    codes = []
    for number in range(100):
        try:
            await scene.register(url=f"https://a{number}.example/")
        except PeerError as error:
            codes.append(error.code)
    assert codes == [-32603] * 94
    assert len(scene.post.asked) == 6
    assert scene.book.of(ALICE)[0].webhook == "https://a5.example/"


async def test_a_call_that_reached_no_server_is_made_again_sooner() -> None:
    """N-17: the pauses grow to those of a call that came through."""
    scene = Scene()
    await scene.register()
    scene.post.fails = PostFailed("no answer")
    pauses = []
    for _ in range(6):
        assert await scene.wake()
        waited_ms = 0
        while not scene.caller._kinds[ALICE][INCOMING].next_ms <= scene.clock.now_ms():
            scene.clock.pass_ms(FIRST_RETRY_MS)
            waited_ms += FIRST_RETRY_MS
        pauses.append(waited_ms // 1000)
    assert pauses == [15, 30, 60, 120, 180, 180]


async def test_a_call_by_hand_says_why_none_was_made() -> None:
    """N-09, N-17: each reason in a sentence, until a server answers."""
    scene, kind = Scene(most=1), lsps5.LIQUIDITY_MANAGEMENT_REQUEST
    assert await scene.caller.call(ALICE, kind) == "it has registered no webhook"
    await scene.register()
    signer, scene.caller.signer = scene.caller.signer, None
    assert "no signature" in str(await scene.caller.call(ALICE, kind))
    scene.caller.signer = signer
    scene.online.add(ALICE)
    assert await scene.caller.call(ALICE, kind) == "it is connected"
    scene.online.clear()
    scene.post.fails = PostFailed("10.0.0.1 is no address of the public internet", refused=True)
    assert await scene.caller.call(ALICE, kind) == (
        "a.example was not reached: 10.0.0.1 is no address of the public internet"
    )
    assert "may be again in 15 s" in str(await scene.caller.call(ALICE, kind))
    scene.reconnect()
    scene.post.fails = None
    assert await scene.caller.call(ALICE, kind) is None
    assert "may be again in 180 s" in str(await scene.caller.call(ALICE, kind))
    for _ in range(4):
        scene.reconnect()
        why = await scene.caller.call(ALICE, kind)
    assert why == "this client has had its 20 calls of each webhook in an hour"


async def test_one_webhook_that_answers_is_a_call() -> None:
    """N-16: a client with two of them, one behind a server that is gone."""
    scene = Scene()
    await scene.register()
    await scene.register("second", "https://b.example/")
    scene.post.fails, scene.post.alive = PostFailed("no answer"), "b.example"
    assert await scene.caller.call(ALICE, INCOMING) is None
    scene.reconnect()
    scene.post.alive = ""
    why = await scene.caller.call(ALICE, INCOMING)
    assert why == "a.example was not reached: no answer; b.example was not reached: no answer"


async def test_nothing_comes_before_webhook_registered() -> None:
    """N-18: where that did not get through it is sent first; an answer that is not 200 counts as one."""
    scene = Scene()
    scene.post.fails = PostFailed("no answer")
    await scene.register()
    await scene.wake()
    assert scene.kinds == ["webhook_registered", "webhook_registered"]
    scene.post.fails, scene.post.status = None, 404
    scene.clock.pass_ms(COOLDOWN_MS)
    await scene.wake()
    assert scene.kinds[2:] == ["webhook_registered", "payment_incoming"]
    scene.reconnect()
    await scene.wake()
    assert scene.kinds[4:] == ["payment_incoming"]


async def test_all_webhooks_are_called_but_only_the_new_one_is_told() -> None:
    """N-09, N-18."""
    scene = Scene()
    await scene.register()
    await scene.register("second", "https://b.example/")
    assert scene.post.asked == [("a.example", "webhook_registered"), ("b.example", "webhook_registered")]
    await scene.wake()
    assert sorted(scene.post.asked[2:]) == [("a.example", "payment_incoming"), ("b.example", "payment_incoming")]
    assert (await scene.register())["no_change"]
    assert len(scene.post.asked) == 4


async def test_strangers_have_two_of_eight_places() -> None:
    """rule:24: servers that say nothing, of clients without a channel, keep no place of those with one."""
    scene = Scene()
    scene.post.wait = asyncio.Event()
    strangers, owners = [[f"02{number:064x}" for number in range(first, first + 20)] for first in (0, 20)]
    scene.owners.update(owners)
    for peers, places in ((strangers, 2), (owners, 8)):
        for peer in peers:
            await scene.requests.set_webhook(peer, {"app_name": "a", "webhook": URL})
        await scene.at_work()
        assert scene.post.at_once == places
    scene.post.wait.set()
    await scene.rest()
    assert scene.post.most_at_once == 8


async def test_whom_a_payment_waits_for_is_called_whatever_strangers_do() -> None:
    """rule:24: 2,000 new identities a minute set webhooks whose servers hang; one without a channel is paid meanwhile.

    Its payment is what costs its payer something, so it waits behind none of them.
    """
    scene = Scene(most=3)
    await scene.register()
    scene.post.wait = asyncio.Event()
    for number in range(MOST_STRANGERS - 1):
        await scene.requests.set_webhook(f"02{number:064x}", {"app_name": "a", "webhook": "https://trap.example/"})
        scene.clock.pass_ms(30)
    await scene.at_work()
    assert scene.caller.wake(ALICE, INCOMING)
    await scene.at_work()
    assert scene.post.at_once == 3
    scene.post.wait.set()
    await scene.rest()
    assert scene.kinds.count("payment_incoming") == 1


async def test_one_client_has_two_of_eight_places() -> None:
    """rule:24: a client with a channel and ten webhooks that hang keeps no call of another waiting."""
    scene = Scene(most=10)
    scene.owners.update((ALICE, BOB))
    for number in range(10):
        await scene.register(f"app {number}", f"https://a{number}.example/")
    await scene.book.set(BOB, WebhookAsk("app", "https://b.example/"), True)
    scene.post.wait = asyncio.Event()
    scene.caller.wake(ALICE, INCOMING)
    await scene.at_work()
    assert scene.post.at_once == 2
    scene.caller.wake(BOB, INCOMING)
    await scene.at_work()
    assert scene.post.at_once == 3
    scene.post.wait.set()
    await scene.rest()


async def test_a_webhook_that_was_replaced_meanwhile_is_not_called() -> None:
    """N-18: the old URL, which a call had begun with, may belong to another by now."""
    scene = Scene(most=10)
    names = [f"app {number}" for number in range(10)]
    for name in names:
        await scene.register(name)
    scene.post.wait = asyncio.Event()
    scene.caller.wake(ALICE, INCOMING)
    await scene.at_work()
    for name in names:
        await scene.requests.set_webhook(ALICE, {"app_name": name, "webhook": "https://new.example/"})
    scene.post.wait.set()
    await scene.rest()
    assert scene.post.asked.count(("a.example", "payment_incoming")) == 2


@pytest.mark.parametrize("again", [False, True])
async def test_a_webhook_that_is_removed_while_a_call_is_signed_is_not_called(again: bool) -> None:
    """N-07, N-18: a program that signs takes its time; the same one, set again, hears first that it is one."""
    scene, signed = Scene(), asyncio.Event()
    await scene.register()
    scene.caller.signer = SlowSigner(signed)
    assert scene.caller.wake(ALICE, INCOMING)
    await scene.at_work()
    await scene.requests.remove_webhook(ALICE, {"app_name": "app"})
    if again:
        await scene.requests.set_webhook(ALICE, {"app_name": "app", "webhook": URL})
        await scene.at_work()
    signed.set()
    await scene.rest()
    assert scene.kinds == ["webhook_registered"] * (2 if again else 1)


async def test_who_comes_while_a_call_is_signed_is_not_called() -> None:
    """N-09: it is there by then."""
    scene, signed = Scene(), asyncio.Event()
    await scene.register()
    scene.caller.signer = SlowSigner(signed)
    assert scene.caller.wake(ALICE, INCOMING)
    await scene.at_work()
    scene.online.add(ALICE)
    signed.set()
    await scene.rest()
    assert scene.kinds == ["webhook_registered"]


async def test_offers_that_cost_nothing_give_no_room_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """rule:14, rule:24: a webhook is kept for a week, an offer is not; who has a channel has room all the same."""
    monkeypatch.setattr(webhooks, "MOST_WITH_OFFERS", 5)
    scene = Scene()
    for number in range(5):
        scene.offers.add(f"{number}")
        await scene.register(peer=f"{number}")
        scene.offers.clear()
    scene.offers.add("6")
    with pytest.raises(PeerError):
        await scene.register(peer="6")
    scene.owners.add("7")
    await scene.register(peer="7")
    await scene.register(url="https://b.example/", peer="1")
    assert len(scene.book) == 6


async def test_who_sets_its_webhook_again_is_remembered_for_another_week() -> None:
    """N-15: also where that changes nothing; one commit a day, however often."""
    scene = Scene()
    await scene.register()
    for _ in range(20):
        scene.clock.pass_ms(86_400_000)
        before = len(scene.node.calls)
        for _ in range(5):
            assert (await scene.register())["no_change"]
        assert len(scene.node.calls) == before + 1
        await scene.book.look(ALICE, False, False)
    assert scene.book.of(ALICE)


async def test_addresses_in_figures_are_refused_at_once() -> None:
    """trap:47: 501; names are judged when they are called."""
    scene = Scene()
    for host in ("127.0.0.1", "10.1.2.3", "169.254.169.254"):
        with pytest.raises(PeerError) as refused:
            await scene.register(url=f"https://{host}/")
        assert refused.value.code == 501
    await scene.register(url="https://localhost/")
    assert (await scene.requests.list_webhooks(ALICE, {}))["app_names"] == ["app"]


async def test_who_is_not_served_has_no_webhooks() -> None:
    """N-01: code 1, as for a menu."""
    scene = Scene()
    with pytest.raises(PeerError) as refused:
        await scene.register(peer=BOB)
    assert refused.value.code == 1


async def test_what_cannot_be_stored_is_not_answered_as_if_it_were() -> None:
    """N-08, rule:11: the webhook is as it was before."""
    scene = Scene()
    await scene.register()
    scene.node.broken = True
    for work in (
        scene.requests.set_webhook(ALICE, {"app_name": "app", "webhook": "https://b.example/"}),
        scene.requests.remove_webhook(ALICE, {"app_name": "app"}),
    ):
        with pytest.raises(StoreError):
            await work
    assert [each.webhook for each in scene.book.of(ALICE)] == [URL]


async def test_webhooks_are_kept_for_a_week_without_a_channel() -> None:
    """N-15: while there is a channel for good; then, or without one, seven days and no more than nine."""
    scene = Scene()
    await scene.register()
    day_ms = 86_400_000
    assert 7 * day_ms < KEPT_MS < 9 * day_ms
    for _ in range(20):
        scene.clock.pass_ms(day_ms)
        await scene.book.look(ALICE, True, False)
    for day in range(7):
        await scene.book.look(ALICE, False, False)
        assert scene.book.of(ALICE), day
        scene.clock.pass_ms(day_ms)
    scene.clock.pass_ms(2 * day_ms)
    await scene.book.look(ALICE, False, True)  # it has an offer
    assert scene.book.of(ALICE)
    await scene.book.look(ALICE, False, False)
    assert scene.book.of(ALICE) == ()
    assert scene.node.rows == {}


async def test_a_start_finds_what_was_there() -> None:
    """N-08, N-15: also whether it was told, and since when; what is not understood stays as it is."""
    scene = Scene()
    await scene.register()
    scene.node.rows[(*ROOT, BOB)] = b'{"webhooks": 7}'.hex()
    scene.build()
    await scene.book.load()
    assert list(scene.book) == [ALICE]
    assert scene.book.of(ALICE)[0].told
    assert (*ROOT, BOB) in scene.node.rows


async def test_so_many_strangers_are_remembered() -> None:
    """rule:14, rule:24: one more is refused for now; those with a channel have room."""
    scene = Scene()
    for number in range(MOST_STRANGERS):
        await scene.book.set(f"{number}", WebhookAsk("a", URL), False)
    with pytest.raises(PeerError):
        await scene.register()
    await scene.book.look("7", True, False)
    await scene.register()


async def test_who_depends_on_its_webhook_has_room() -> None:
    """rule:22, rule:24: however many strangers registered; a channel or an offer is what they do not have."""
    scene = Scene()
    for number in range(MOST_STRANGERS):
        await scene.book.set(f"{number}", WebhookAsk("a", URL), False)
    for having in (scene.offers, scene.owners):
        with pytest.raises(PeerError):
            await scene.register()
        having.add(ALICE)
        await scene.register()
        await scene.book.remove(ALICE, "app")
        having.clear()


async def test_a_lost_channel_that_cannot_be_written_is_looked_at_again() -> None:
    """N-15, rule:11: else what it was told long ago would count, and the client be forgotten the day after."""
    scene = Scene()
    scene.owners.add(ALICE)
    await scene.register()
    scene.clock.pass_ms(KEPT_MS)
    scene.node.broken = True
    with pytest.raises(StoreError):
        await scene.book.look(ALICE, False, False)
    scene.node.broken = False
    scene.clock.pass_ms(86_400_000)
    for _ in range(2):
        await scene.book.look(ALICE, False, False)
    assert scene.book.of(ALICE)


@pytest.mark.parametrize(
    ("direction", "state", "expiry", "foreseen"),
    [
        ("out", "SENT_ADD_ACK_REVOCATION", 123, [124]),
        ("out", "SENT_ADD_ACK_REVOCATION", 124, []),
        ("out", "SENT_ADD_ACK_REVOCATION", 0, []),
        ("out", "RCVD_REMOVE_HTLC", 110, []),
        ("in", "RCVD_ADD_ACK_REVOCATION", 110, []),
    ],
)
def test_which_htlcs_end_in_a_close(direction: str, state: str, expiry: int, foreseen: list[int]) -> None:
    """N-14: lightningd closes one block after an HTLC that it offered has expired; 24 blocks ahead at most."""
    htlc = {"direction": direction, "id": 1, "state": state, "expiry": expiry}
    assert list(expiries(peer_channel(htlcs=[htlc]), 100)) == foreseen
