"""What the host does with HTLCs: let go, held, waiting for the scids."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from harness.host import (
    CHANNEL,
    CONTINUE,
    FINAL,
    FORWARD,
    INIT,
    JIT,
    JIT_SCID,
    PAYLOAD,
    Desk,
    htlc,
    ping,
)

# ---- the ordinary life


def test_manifest_and_init_are_pyln_s_own(open_desk: Callable[..., Desk]) -> None:
    """cln:M1, cln:W13: options, methods with usage and help, hooks and subscriptions."""

    async def quote(amount_msat: int, note: str = "", *, fast: bool = False) -> dict[str, Any]:
        """What it costs."""
        return {"note": note, "amount_msat": amount_msat, "fast": fast}

    started: list[Any] = []

    def prepare(desk: Desk) -> None:
        desk.plugin.add_option("lsps2-x", "7", "a number", "int")
        desk.plugin.init()(lambda options, configuration, plugin, **_: started.append(plugin.get_option("lsps2-x")))
        desk.host.method("quote", quote)
        desk.host.hook("custommsg", lambda **_: CONTINUE, filters=[37913])
        desk.host.subscribe("block_added", lambda **_: None)

    desk = open_desk(prepare=prepare)
    manifest = desk.result("cln:getmanifest#1")
    assert [option["name"] for option in manifest["options"]] == ["lsps2-x"]
    assert {m["name"]: (m["usage"].splitlines()[0].strip(), m["description"]) for m in manifest["rpcmethods"]} == {
        "ping": ("", "Answer at once."),
        "quote": ("amount_msat [note]", "What it costs."),
    }
    assert {(hook["name"], tuple(hook.get("filters", ()))) for hook in manifest["hooks"]} == {
        ("htlc_accepted", ()),
        ("custommsg", (37913,)),
    }
    assert set(manifest["subscriptions"]) == {"shutdown", "block_added"}
    desk.send({**INIT, "params": {**INIT["params"], "options": {"lsps2-x": 9}}})
    assert "error" not in desk.answer("cln:init#2")
    assert started == [9]
    assert desk.hang_up() == 0


def test_a_foreign_htlc_goes_its_way(desk: Desk) -> None:
    """rule:1, cln:H2: a forward to a known channel, an unknown scid and a payment that ends here."""
    other = json.loads(json.dumps(JIT).replace('"1x2x3"', '"1x2x4"'))
    desk.send(htlc("a", FORWARD), htlc("b", FINAL), htlc("c", other))
    assert [desk.result(call_id) for call_id in "abc"] == [CONTINUE] * 3
    assert desk.htlcs.empty()


def test_a_jit_part_is_held_until_its_owner_answers(desk: Desk) -> None:
    """cln:W2, cln:H5, cln:H7: any order, any time."""
    desk.send(*(htlc(call_id) for call_id in "abcd"), htlc("foreign", FORWARD), ping("p"))
    scans = [desk.htlc() for _ in "abcd"]
    assert [scan.id_raw for scan in scans] == [b'"a"', b'"b"', b'"c"', b'"d"']
    assert desk.result("foreign") == CONTINUE
    desk.answer("p")
    assert not desk.answered() & set("abcd")
    desk.on_loop(desk.host.let_go, b'"d"')
    desk.on_loop(desk.host.fail, b'"b"', "400a")
    desk.on_loop(desk.host.forward, b'"a"', PAYLOAD, CHANNEL, "")
    desk.on_loop(desk.host.final, b'"c"', PAYLOAD, 7)
    assert desk.result("d") == CONTINUE
    assert desk.result("b") == {"result": "fail", "failure_message": "400a"}
    assert desk.result("a") == {**CONTINUE, "payload": PAYLOAD, "forward_to": CHANNEL, "extra_tlvs": ""}
    assert desk.result("c") == {**CONTINUE, "payload": PAYLOAD, "invoice_msat": 7}


def test_the_owner_sees_what_the_call_says(desk: Desk) -> None:
    """cln:H2, cln:H3."""
    desk.send(htlc("a", id=5))
    scan = desk.htlc()
    assert (scan.next_scid, scan.htlc_id, scan.amount_msat) == (JIT_SCID, 5, 10_000_000)
    assert scan.payload_hex == JIT["params"]["onion"]["payload"]
    assert scan.payment_hash.hex() == JIT["params"]["htlc"]["payment_hash"]


def test_a_forward_into_a_withheld_channel_is_handed_over(desk: Desk) -> None:
    """rule:7, cln:H15."""
    desk.on_loop(desk.interest.channel_ids.add, FORWARD["params"]["forward_to"])
    desk.send(htlc("a", FORWARD))
    assert desk.htlc().forward_to == FORWARD["params"]["forward_to"]


def test_a_client_sees_the_final_hops_it_expects(open_desk: Callable[..., Desk]) -> None:
    """cln:C2: by payment hash; every other one goes its way."""
    desk = open_desk(final_hops=True)
    desk.on_loop(desk.interest.payment_hashes.add, bytes.fromhex(FINAL["params"]["htlc"]["payment_hash"]))
    desk.load()
    desk.send(htlc("a", FINAL, payment_hash="ab" * 32), htlc("b", FINAL))
    assert desk.result("a") == CONTINUE
    assert desk.htlc().id_raw == b'"b"'


def test_a_client_sees_final_hops_with_tlvs_of_their_own(open_desk: Callable[..., Desk]) -> None:
    """I-22: also when the call is worded oddly; a forward with such TLVs goes its way."""
    desk = open_desk(final_hops=True)
    desk.load()
    odd = json.dumps(htlc("odd", FINAL, extra_tlvs="0100")).replace('"htlc"', '"\\u0068tlc"').encode()
    desk.send(htlc("a", FINAL, extra_tlvs="0100"), odd, htlc("f", FORWARD, extra_tlvs="0100"), ping("p"))
    assert [desk.htlc().id_raw for _ in "ab"] == [b'"a"', b'"odd"']
    assert desk.result("f") == CONTINUE


# ---- before the scids are known


def test_what_may_be_ours_waits_in_order_until_the_scids_are_known(open_desk: Callable[..., Desk]) -> None:
    """cln:W11, trap:49, rule:15: parts come before init is answered."""
    desk = open_desk()
    foreign = json.loads(json.dumps(JIT).replace('"1x2x3"', '"1x2x4"'))
    desk.send(htlc("a"), htlc("x", foreign), htlc("b"), htlc("end", FINAL), htlc("f", FORWARD), INIT)
    assert desk.result("end") == CONTINUE
    desk.answer("cln:init#2")
    desk.send(htlc("c"), ping("p"))
    desk.answer("p")
    assert not desk.answered() & {"a", "x", "b", "c", "f"}
    desk.on_loop(desk.host.channels_loaded)
    assert desk.result("f") == CONTINUE
    assert desk.htlcs.empty()
    desk.load()
    assert [desk.htlc().id_raw for _ in "abc"] == [b'"a"', b'"b"', b'"c"']
    assert desk.result("x") == CONTINUE


def test_a_forward_waits_until_the_withheld_channels_are_known(open_desk: Callable[..., Desk]) -> None:
    """rule:7: before that it is unknown whether the channel may be entered."""
    desk = open_desk()
    desk.send(htlc("a", FORWARD), ping("p"))
    desk.answer("p")
    assert "a" not in desk.answered()
    desk.interest.channel_ids.add(FORWARD["params"]["forward_to"])
    desk.on_loop(desk.host.channels_loaded)
    desk.send(htlc("b", FORWARD), ping("q"))
    desk.answer("q")
    assert not desk.answered() & {"a", "b"}
    desk.load()
    assert [desk.htlc().id_raw for _ in "ab"] == [b'"a"', b'"b"']


def test_a_client_s_final_hop_waits_for_its_payment_hashes(open_desk: Callable[..., Desk]) -> None:
    """cln:W11."""
    desk = open_desk(final_hops=True)
    desk.send(htlc("a", FINAL), ping("p"))
    desk.answer("p")
    assert "a" not in desk.answered()
    desk.load()
    assert desk.result("a") == CONTINUE


def test_what_ends_here_and_waits_is_let_go_at_the_end(open_desk: Callable[..., Desk]) -> None:
    """rule:17, cln:W11: lightningd looks after its invoices itself; a part for a jit scid that waits is failed."""
    desk = open_desk(final_hops=True)
    desk.send(htlc("a", FINAL), htlc("b"), ping("p"))
    desk.answer("p")
    assert not {"a", "b"} & desk.answered()
    desk.hang_up()
    assert desk.result("a") == CONTINUE
    assert desk.result("b")["result"] == "fail"
