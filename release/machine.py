"""Set a Debian or Ubuntu machine up for work on lsps2fast: packages, real nodes, `.venv`. `make machine`.

Packages come from the distribution's own registry. Neither Debian nor Ubuntu serves Core Lightning, and only some of
their releases serve bitcoind: what is not served is taken from its makers, in the archive that they built for a Linux
like this one. An archive is unpacked only when its hash stands in the makers' list, and the list bears the signature
of as many of the named keys as SIGNATURES says. What is on PATH already stays.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
NEEDED: Final = ("python3-venv", "python3-dev", "build-essential", "git", "xz-utils", "ca-certificates")
USEFUL: Final = {  # what tests can use besides; they say what they lack
    "valgrind": "make count",
    "chromium": "tests/browser",
    "postgresql": "make ha and make fleet",
    "bitcoind": "make real",
    "gnupg": "signatures of the real nodes",
    "libsodium23": "lightningd",
    "libpq5": "lightningd",
    "libsqlite3-0": "lightningd",
}
SIGNATURES: Final = 2  # good ones, of different keys below
TIMEOUT_S: Final = 120


class Makers(NamedTuple):
    """Where a program's makers publish it, and who of them signs."""

    program: str
    base: str  # {version} in it
    sums: str
    archive: str  # a pattern of names in the list; {version}, {machine} in it
    key: str  # {name} in it
    signers: dict[str, str]  # name of the key's file: fingerprint
    inside: str  # the folder of the programs in the archive, a pattern


BITCOIN: Final = Makers(
    "bitcoind",
    "https://bitcoincore.org/bin/bitcoin-core-{version}/",
    "SHA256SUMS",
    r"bitcoin-{version}-{machine}-linux-gnu\.tar\.gz",
    "https://raw.githubusercontent.com/bitcoin-core/guix.sigs/main/builder-keys/{name}.gpg",
    {
        "achow101": "152812300785C96444D3334D17565732E08E5E41",
        "fanquake": "E777299FC265DD04793070EB944D35F9AC3DB76A",
        "glozow": "6B002C6EA3F91B1B0DF0C9BC8F617F1200A6D25C",
        "Sjors": "ED9BDF7AD6A55E232E84524257FF9BDBCC301009",
    },
    "bitcoin-*/bin",
)
LIGHTNING: Final = Makers(
    "lightningd",
    "https://github.com/ElementsProject/lightning/releases/download/v{version}/",
    "SHA256SUMS-v{version}",
    r"clightning-v{version}-Ubuntu-{ubuntu}(-{machine})?\.tar\.(xz|gz)",
    "https://raw.githubusercontent.com/ElementsProject/lightning/master/contrib/keys/{name}.txt",
    {
        "cln": "616C52F99D0612B2A151B1074129A994AA7E9852",
        "rustyrussell": "15EE8D6CAB0E7F0CF999BFCBD9200E6CD1ADB8F1",
        "cdecker": "B731AAC521B013859313F674A26D6D9FE088ED58",
        "madel": "7169D26272B50A3F531AA1C2A57AFC231B580804",
        "pneuroth": "653B19F33DF7EFF3E9D1C94CC3F21EE387FF4CD2",
    },
    "usr/bin",
)
GLIBC: Final = {(2, 43): "26.04", (2, 39): "24.04", (2, 35): "22.04"}  # of the Ubuntu that an archive was built on

Read = Callable[[str], bytes]


def read(address: str) -> bytes:
    """Return what an address serves."""
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
        return bytes(answer.read())


def ubuntu(libc: str) -> str:
    """Return the newest Ubuntu whose programs run on this C library."""
    have = tuple(int(part) for part in libc.split(".")[:2])
    for least, release in GLIBC.items():
        if have >= least:
            return release
    raise SystemExit(f"no archive of lightningd is built for glibc {libc}: build it from source")


def signers(makers: Makers, sums: bytes, signature: bytes, read: Read) -> set[str]:
    """Return whose good signatures a list bears, of those who are named."""
    with tempfile.TemporaryDirectory(prefix="gpg-") as home:
        (Path(home) / "sums").write_bytes(sums)
        (Path(home) / "sums.asc").write_bytes(signature)
        gpg = ("gpg", "--homedir", home, "--batch", "--quiet")
        for name in makers.signers:
            try:
                key = read(makers.key.format(name=name))
            except OSError as error:
                print(f"  the key of {name} cannot be had: {error}")
                continue
            subprocess.run([*gpg, "--import"], input=key, check=False, capture_output=True, timeout=TIMEOUT_S)
        ask = [*gpg, "--status-fd", "1", "--verify", f"{home}/sums.asc", f"{home}/sums"]
        told = subprocess.run(ask, check=False, capture_output=True, text=True, timeout=TIMEOUT_S).stdout
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, timeout=TIMEOUT_S)
    good = set(re.findall(r"^\[GNUPG:\] VALIDSIG .*\b([0-9A-F]{40})$", told, re.M))  # the last one is the main key's
    return {name for name, fingerprint in makers.signers.items() if fingerprint in good}


def install(makers: Makers, version: str, place: Path, read: Read = read, libc: str = platform.libc_ver()[1]) -> Path:
    """Return the folder with a program of its makers, unpacked; end with a sentence if anything is wrong."""
    base = makers.base.format(version=version)
    name = makers.sums.format(version=version)
    sums, signature = read(base + name), read(f"{base}{name}.asc")
    who = signers(makers, sums, signature, read)
    if len(who) < SIGNATURES:
        raise SystemExit(f"{base}{name}: {len(who)} good signatures of named keys, and {SIGNATURES} are asked for")
    print(f"  {name} is signed by {', '.join(sorted(who))}")
    machine = platform.machine()
    if makers is not BITCOIN:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    wanted = makers.archive.format(version=re.escape(version), machine=machine, ubuntu=ubuntu(libc))
    for line in sums.decode().splitlines():
        digest, _, file = line.partition(" ")
        file = file.strip(" *")
        if re.fullmatch(wanted, file):
            archive = read(base + file)
            if hashlib.sha256(archive).hexdigest() != digest:
                raise SystemExit(f"{base}{file}: its SHA-256 is not the signed one")
            break
    else:
        raise SystemExit(f"{base}{name} has no archive for this machine ({wanted})")
    target = place / f"{makers.program}-{version}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.NamedTemporaryFile() as packed:  # tar refuses what would leave its folder; Debian 12's Python cannot
        packed.write(archive)
        packed.flush()
        unpack = ["tar", "--extract", "--no-same-owner", "--file", packed.name, "--directory", str(target)]
        if subprocess.run(unpack, check=False, timeout=TIMEOUT_S).returncode:
            raise SystemExit(f"{base}{file}: could not be unpacked")
    (folder,) = target.glob(makers.inside)
    return folder


def packages(dry: bool) -> None:
    """Install what the distribution serves; name what it does not."""
    root = [] if os.geteuid() == 0 else ["sudo"]
    apt = [*root, "apt-get", "install", "--yes", "--no-install-recommends"]
    needed = all(carry_out(command, dry) for command in ([*root, "apt-get", "update"], [*apt, *NEEDED]))
    if not needed:
        raise SystemExit("what is needed could not be installed; apt-get says why")
    for name, use in USEFUL.items():
        if not candidate(name):
            print(f"  {name} is not served here ({use})")
        elif not carry_out([*apt, name], dry):
            print(f"  {name} could not be installed ({use})")


def carry_out(command: list[str], dry: bool) -> bool:
    """Show a command, run it, return whether it went well."""
    print("  $", " ".join(command), flush=True)
    return dry or not subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode


def candidate(package: str) -> bool:
    """Return whether apt can install a package."""
    told = subprocess.run(["apt-cache", "policy", package], check=False, capture_output=True, text=True).stdout
    return re.search(r"Candidate: (?!\(none\))", told) is not None


def main(words: list[str] | None = None) -> int:
    """Set the machine up, or with --dry-run tell what that takes; return 1 if a node is missing."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--dry-run", action="store_true", help="tell the commands and addresses, do nothing")
    ask.add_argument("--no-nodes", action="store_true", help="leave the real nodes out")
    ask.add_argument("--bitcoin", default="30.2", metavar="VERSION", help="Bitcoin Core (%(default)s)")
    ask.add_argument("--lightning", default="26.06.6", metavar="VERSION", help="Core Lightning (%(default)s)")
    ask.add_argument("--place", type=Path, default=Path.home() / ".local/share/lsps2fast", help="where nodes go")
    asked = ask.parse_args(words)
    if sys.version_info < (3, 11):  # noqa: UP036 - it may be what the machine brought
        raise SystemExit(f"Python 3.11 or newer is needed, and this is {platform.python_version()}")
    if not shutil.which("apt-get"):
        raise SystemExit("this knows the packages of Debian and Ubuntu: CONTRIBUTING.md says what others need")
    print("packages:")
    packages(asked.dry_run)
    folders, missing = [], 0
    for makers, version in ((BITCOIN, asked.bitcoin), (LIGHTNING, asked.lightning)):
        there = shutil.which(makers.program)
        if there or asked.no_nodes:
            print(f"{makers.program}: {there or 'left out'}")
        elif asked.dry_run:
            print(f"{makers.program}: not on PATH; from {makers.base.format(version=version)}")
        else:
            print(f"{makers.program}: from {makers.base.format(version=version)}")
            try:
                folders.append(install(makers, version, asked.place))
            except OSError as error:
                missing += 1
                print(f"  it cannot be had: {error}; `make real` needs it, all else goes on without")
    print("  $ make build")
    if not asked.dry_run:
        subprocess.run(["make", "build"], cwd=ROOT, check=True)
    if folders:
        print(f"for make real, in your shell's start file: export PATH={':'.join(map(str, folders))}:$PATH")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
