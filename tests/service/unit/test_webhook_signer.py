"""Who signs notifications: lightningd where it signs what is meant, else a program (cln:N14)."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest
from harness import ln_signature
from harness.negotiator import Datastore

from lsps2fast.errors import ConfigError, NodeError
from lsps2fast_plugin.service.wake import signer
from lsps2fast_plugin.service.wake.signer import NodeSigner, NotSigned, ProgramSigner, choose, is_sound
from lsps2fast_plugin.tools import sign_webhooks

SECRET = 0x4242
NODE_ID = ln_signature.node_id(SECRET).hex()
WORDS = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"  # BIP 39's own
PLAIN = bytes(range(32))


def node(*, mended: bool) -> Datastore:
    """A lightningd that signs the text, or the text as it stands in JSON."""
    rpc = Datastore()

    def signmessage(params: dict[str, str]) -> dict[str, str]:
        text = params["message"] if mended else json.dumps(params["message"])[1:-1]
        return {"zbase": ln_signature.sign(SECRET, text.encode())}

    rpc.methods["signmessage"] = signmessage
    return rpc


def program(code: str) -> tuple[str, ...]:
    """A program in Python; `text` is what it is asked to sign."""
    return sys.executable, "-c", f"import json, sys\nfor line in sys.stdin:\n text = json.loads(line)\n {code}"


async def test_a_mended_lightningd_signs() -> None:
    """N-11: no program is needed, nor run."""
    assert isinstance(await choose(node(mended=True), ("no such program",), NODE_ID), NodeSigner)


async def test_todays_lightningd_signs_what_no_receiver_believes() -> None:
    """N-11, cln:N14: the sentence says what to do."""
    assert not await is_sound(NodeSigner(node(mended=False)), NODE_ID)
    with pytest.raises(ConfigError, match="lsps2-webhook-signer"):
        await choose(node(mended=False), None, NODE_ID)


async def test_a_node_that_does_not_answer_is_asked_again() -> None:
    """rule:10: NotSigned is no verdict."""
    rpc = Datastore()
    with pytest.raises(NotSigned):
        await choose(rpc, None, NODE_ID)
    assert isinstance((await asyncio.gather(choose(rpc, None, NODE_ID), return_exceptions=True))[0], NotSigned)
    assert not isinstance(NotSigned("x"), NodeError)


@pytest.mark.parametrize("secret", [PLAIN, bytes(32) + WORDS.encode()])
async def test_the_program_that_comes_with_us_signs(tmp_path: Path, secret: bytes) -> None:
    """N-11: both forms of hsm_secret without a passphrase; its key is that of the node."""
    file = tmp_path / "hsm_secret"
    file.write_bytes(secret)
    node_id = ln_signature.node_id(int.from_bytes(sign_webhooks.node_key(secret), "big")).hex()
    command = (sys.executable, "-m", "lsps2fast_plugin.tools.cli", "sign-webhooks", str(file))
    found = await choose(node(mended=False), command, node_id)
    assert await is_sound(found, node_id)
    await found.close()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print(json.dumps('y' * 104), flush=True)", "another key"),  # the one that is final
        ("print('null', flush=True)", "does not work"),
        ("print('no json', flush=True)", "does not work"),
        ("print('\"' + 'y' * 100_000 + '\"', flush=True)", "does not work"),
        ("sys.exit()", "does not work"),
    ],
)
async def test_a_program_that_cannot_sign(code: str, why: str) -> None:
    """N-11: whatever it answers, it ends in a sentence."""
    final = ConfigError if why == "another key" else NotSigned
    with pytest.raises(final, match=why):
        await choose(node(mended=False), program(code), NODE_ID)


async def test_a_program_that_ends_is_started_again_and_one_that_hangs_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """rule:10: a fault of the program costs one signature."""
    once = ProgramSigner(program("print(json.dumps(text), flush=True)\n sys.exit()"))
    assert [await once.sign("a"), await once.sign("b")] == ["a", "b"]
    monkeypatch.setattr(signer, "PATIENCE_S", 0.3)
    hanging = ProgramSigner(program("sys.stdin.readline()"))
    with pytest.raises(NotSigned, match="TimeoutError"):
        await hanging.sign("a")
    await once.close()


def test_what_the_program_does_not_sign() -> None:
    """N-11: no text but those of bLIP-55, else it would sign anything for who reaches it."""
    key = sign_webhooks.node_key(PLAIN)
    for text in ("", "I own this node", "x LSPS5: DO NOT SIGN", sign_webhooks.PREFIX + "x" * 2_000):
        with pytest.raises(ConfigError):
            sign_webhooks.sign(key, text)
    assert sign_webhooks.PREFIX == "LSPS5: DO NOT SIGN THIS MESSAGE MANUALLY: LSP: "


@pytest.mark.parametrize("secret", [b"", b"\1" * 31, b"\1" * 73, b"\1" * 32 + WORDS.encode(), bytes(33)[:32] + b"\xff"])
def test_files_it_cannot_use(tmp_path: Path, secret: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """N-11: encrypted, with a passphrase, or none: a sentence and 2."""
    file = tmp_path / "hsm_secret"
    file.write_bytes(secret)
    assert sign_webhooks.run(file) == 2
    assert sign_webhooks.run(tmp_path / "nothing") == 2
    assert str(file) in capsys.readouterr().err


def test_it_answers_every_line(tmp_path: Path) -> None:
    """N-11: also what it does not sign: null."""
    file = tmp_path / "hsm_secret"
    file.write_bytes(PLAIN)
    out = io.StringIO()
    good = sign_webhooks.PREFIX + "At x I notify y"
    assert sign_webhooks.run(file, io.StringIO(f'"other"\n{{\n7\n{json.dumps(good)}\n'), out) == 0
    answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert answers[:3] == [None, None, None]
    secret = int.from_bytes(sign_webhooks.node_key(PLAIN), "big")
    assert answers[3] == ln_signature.sign(secret, good.encode())


async def test_the_end_waits_for_no_signature() -> None:
    """rule:17: a program that says nothing has ten seconds, the whole end of the plugin five."""
    hangs = ProgramSigner(program("if text == 'first': print(json.dumps(text), flush=True)"))
    assert await hangs.sign("first") == "first"
    text = asyncio.ensure_future(hangs.sign("second"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert hangs._turn.locked()
    async with asyncio.timeout(2):
        await hangs.close()
    with pytest.raises(NotSigned):
        await text
