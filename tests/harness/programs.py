"""Where the nodes of others come from: a path that was given, PATH, or a build from the registries in bounded time.

Builds lie in `LSPS2FAST_INTEROP_DIR` (default `~/.cache/lsps2fast/interop`) and are made once for each version.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

LDK_NODE = "0.7.1"  # as in ldk/Cargo.toml
LND = "v0.21.2-beta"
BUILD_S = 2400
LIQUIDITY = "0.2.0"  # as in ldk_webhooks/Cargo.toml
SOURCE = Path(__file__).parents[1] / "interop" / "ldk"


class NotHere(Exception):
    """This program is neither here nor can be built; the message says what is missing."""


def cache() -> Path:
    """Where builds are kept."""
    return Path(os.environ.get("LSPS2FAST_INTEROP_DIR", Path.home() / ".cache" / "lsps2fast" / "interop"))


def ldk_peer() -> Path:
    """Our program around ldk-node: `LSPS2FAST_LDK_PEER`, or built with cargo."""
    if given := os.environ.get("LSPS2FAST_LDK_PEER"):
        return Path(given)
    target = cache() / f"ldk-node-{LDK_NODE}"
    _run("cargo", ["build", "--locked", "--quiet", "--target-dir", str(target)], SOURCE)
    return target / "debug" / "lsps2-peer"


def ldk_webhooks() -> Path:
    """LDK's readers of LSPS5, which ldk-node does not offer: `LSPS2FAST_LDK_WEBHOOKS`, or built with cargo."""
    if given := os.environ.get("LSPS2FAST_LDK_WEBHOOKS"):
        return Path(given)
    target = cache() / f"lightning-liquidity-{LIQUIDITY}"
    source = SOURCE.parent / "ldk_webhooks"
    _run("cargo", ["build", "--locked", "--quiet", "--target-dir", str(target)], source)
    return target / "debug" / "lsps5-peer"


def lnd() -> tuple[Path, Path]:
    """Lnd and lncli: those on PATH, or built with go."""
    found = shutil.which("lnd"), shutil.which("lncli")
    if found[0] and found[1]:
        return Path(found[0]), Path(found[1])
    target = cache() / f"lnd-{LND}"
    programs = target / "lnd", target / "lncli"
    if not all(program.exists() for program in programs):
        ask = ["mod", "download", "-json", f"github.com/lightningnetwork/lnd@{LND}"]
        module = json.loads(_run("go", ask, Path("/")))
        target.mkdir(parents=True, exist_ok=True)
        for program in programs:
            # In the module's own directory: its `replace` lines count only there.
            _run("go", ["build", "-o", str(program), f"./cmd/{program.name}"], Path(module["Dir"]))
    return programs


def _run(tool: str, words: list[str], directory: Path) -> str:
    """Run a build tool. NotHere when there is none, or when it fails or takes too long."""
    path = shutil.which(tool)
    if path is None:
        raise NotHere(f"{tool} is not on PATH")
    try:
        run = subprocess.run([path, *words], cwd=directory, capture_output=True, text=True, timeout=BUILD_S)
    except subprocess.TimeoutExpired:
        raise NotHere(f"{tool} {words[0]} took more than {BUILD_S} s") from None
    if run.returncode:
        raise NotHere(f"{tool} {words[0]} failed: {run.stderr.strip()[-500:]}")
    return run.stdout
