"""The crowd of `lsps2fast bench --flood`, small: the real process under it, and what the report says."""

from __future__ import annotations

import json
import time

import pytest

from lsps2fast_plugin.tools.bench.flood import SIZE_MSAT, Heard, Wallet, crowd_frames, custommsg_frame, run_flood, text

OFFERS = {f"0{number}": {"promise": f"{number}"} for number in range(10)}


@pytest.mark.slow
def test_the_service_bounds_its_work_and_serves_the_wallets_in_a_crowd() -> None:
    """trap:31, T-36, B-14, rule:14: 30 peers, far above their rates: few answers and commits, ten wallets get
    channels.
    """
    said: list[str] = []
    began_s = time.monotonic()
    flood = run_flood(seed=1, per_s=4_000, seconds=1.0, say=said.append, peers=30)
    assert flood.wallets_served == flood.wallets == 10
    assert flood.wallet_us["p50_us"] > 0
    assert flood.forward_us["p50_us"] > 0
    assert flood.commits == flood.sold <= 30 * 10 + 10  # unused buys a peer may hold, and the wallets'
    took_s = time.monotonic() - began_s  # far more than a second where the machine has other work
    assert flood.replies < 30 * (60 + 12 + 2 * (1 + took_s)) + 100  # at once, then one of each a second for each peer
    assert flood.rss_most_kb - flood.rss_before_kb < 40_000
    assert set(flood.refusals) >= {"rate_peer"}
    assert "10 of 10 served" in text(flood)


def test_the_crowd_asks_for_menus_and_buys_also_with_offers_of_others() -> None:
    """What the flood consists of; the same seed makes the same one."""
    frames = [json.loads(frame) for frame in crowd_frames(OFFERS, seed=1)]
    requests = [
        (call["params"]["peer_id"], json.loads(bytes.fromhex(call["params"]["payload"])[2:])) for call in frames
    ]
    buys = [(peer, request["params"]) for peer, request in requests if request["method"] == "lsps2.buy"]
    assert len(requests) == 2 * len(buys) == 20
    assert {params["payment_size_msat"] for _, params in buys} == {str(SIZE_MSAT)}
    assert sum(OFFERS[peer] != params["opening_fee_params"] for peer, params in buys) == 2
    assert crowd_frames(OFFERS, seed=1) != crowd_frames(OFFERS, seed=2)


def test_a_wallet_of_the_flood_asks_again_until_it_is_served() -> None:
    """Protocols, menu, buy; a refusal or silence costs it a second, an answer is timed once."""
    wallet = Wallet("02", enters_s=5.0)
    assert wallet.frame(4.9) is None
    menu, sold = {"opening_fee_params_menu": [{}]}, {"jit_channel_scid": "1x1x1"}
    late = {"id": "0", "result": {}}
    answers = [{"id": "0", "error": {}}, late, {"id": "1", "result": menu}, late, {"id": "2", "result": sold}]
    methods = []
    for now_s, answer in zip((5.0, 6.0, 6.1, 6.2, 7.2), answers, strict=True):
        frame = wallet.frame(now_s)
        assert frame is not None
        assert wallet.frame(now_s) is None
        methods.append(json.loads(bytes.fromhex(json.loads(frame)["params"]["payload"])[2:])["method"])
        wallet.take(Heard("02", now_s + 0.05, answer))
    assert methods == ["lsps0.list_protocols"] * 2 + ["lsps2.get_info"] + ["lsps2.buy"] * 2
    assert wallet.served
    assert [round(late_us) for late_us in wallet.late_us] == [50_000] * 3
    assert wallet.frame(99.0) is None


def test_a_message_of_a_peer_is_called_as_lightningd_does() -> None:
    """cln:W1: a string id, one frame; the payload begins with its type (T-01)."""
    call = json.loads(custommsg_frame("02", b"{}", 7))
    assert call["id"] == "cln:custommsg#7"
    assert call["params"] == {"peer_id": "02", "payload": "94197b7d"}
