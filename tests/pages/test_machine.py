"""`make machine`: nothing of others is unpacked unless its makers signed for it."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("machine", Path(__file__).parents[2] / "release" / "machine.py")
assert SPEC is not None
assert SPEC.loader is not None
machine = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(machine)

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is missing: Debian's gnupg"),
]
BASE = "https://makers.example/1.2/"
ARCHIVE = "clightning-v1.2-Ubuntu-24.04-amd64.tar.xz"
NAMES = ("ann", "bob", "eve")


class Makers:
    """Keys of three people, and what two of them publish."""

    def __init__(self, home: str) -> None:
        self.gpg = ("gpg", "--homedir", home, "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
        self.home = Path(home)
        self.served: dict[str, bytes] = {}
        self.prints: dict[str, str] = {}
        for name in NAMES:
            self.run("--quick-gen-key", name, "ed25519", "sign", "never")
            rows = self.run("--with-colons", "--list-keys", name).decode().splitlines()
            self.prints[name] = next(row.split(":")[9] for row in rows if row.startswith("fpr"))
            self.served[f"https://keys.example/{name}"] = self.run("--armor", "--export", name)
        self.archive = packed("usr/bin/lightningd")
        self.publish("ann", "bob")

    def run(self, *words: str, given: bytes = b"") -> bytes:
        """Return what gpg says."""
        return subprocess.run([*self.gpg, *words], input=given, check=True, capture_output=True, timeout=60).stdout

    def publish(self, *who: str) -> None:
        """Serve the archive, its hash in a list, and the list's signatures."""
        digest = hashlib.sha256(self.archive).hexdigest()
        sums = f"{'0' * 64}  clightning-v1.2.zip\n{digest}  {ARCHIVE}\n".encode()
        signed = b"".join(self.run("--local-user", name, "--detach-sign", given=sums) for name in who)
        self.served |= {BASE + ARCHIVE: self.archive, f"{BASE}SUMS": sums, f"{BASE}SUMS.asc": signed}

    def read(self, address: str) -> bytes:
        """Return what is served."""
        if address not in self.served:
            raise OSError("404")
        return self.served[address]

    def install(self, place: Path) -> Path:
        """Install what is served as Core Lightning's own archive; ann and bob may sign."""
        trusted = {name: self.prints[name] for name in ("ann", "bob")}
        places = {"base": "https://makers.example/{version}/", "key": "https://keys.example/{name}", "sums": "SUMS"}
        made = machine.LIGHTNING._replace(signers=trusted, **places)
        folder: Path = machine.install(made, "1.2", place, self.read, "2.41")
        return folder


def packed(name: str) -> bytes:
    """Return an archive with one program."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as tar:
        row = tarfile.TarInfo(name)
        row.size, row.mode = 4, 0o755
        tar.addfile(row, io.BytesIO(b"true"))
    return out.getvalue()


@pytest.fixture(scope="module")
def keys() -> Iterator[Makers]:
    """A folder with a short name: gpg's agent puts its socket there."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="k-") as home:
        try:
            yield Makers(home)
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, timeout=60)


@pytest.fixture
def makers(keys: Makers, monkeypatch: pytest.MonkeyPatch) -> Makers:
    """What they publish, as it was."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(keys, "served", dict(keys.served))
    return keys


def test_what_two_makers_signed_is_unpacked(makers: Makers, tmp_path: Path) -> None:
    """The folder is the one that belongs on PATH, and an older try is gone."""
    (tmp_path / "lightningd-1.2" / "usr" / "old").mkdir(parents=True)
    folder = makers.install(tmp_path)
    assert (folder / "lightningd").read_bytes() == b"true"
    assert not (tmp_path / "lightningd-1.2" / "usr" / "old").exists()


@pytest.mark.parametrize("who", [(), ("ann",), ("ann", "ann"), ("ann", "eve")], ids="-".join)
def test_too_few_signatures_end_it(makers: Makers, tmp_path: Path, who: tuple[str, ...]) -> None:
    """One person twice is one, and the key of a stranger is none."""
    makers.publish(*who)
    with pytest.raises(SystemExit, match=r"good signatures of named keys, and 2 are asked for"):
        makers.install(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_archive_than_the_signed_one_ends_it(makers: Makers, tmp_path: Path) -> None:
    """A mirror may serve anything."""
    makers.served[BASE + ARCHIVE] = packed("usr/bin/another")
    with pytest.raises(SystemExit, match="its SHA-256 is not the signed one"):
        makers.install(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_list_that_was_changed_ends_it(makers: Makers, tmp_path: Path) -> None:
    """Its signatures are of another list."""
    makers.served[f"{BASE}SUMS"] += b"\n"
    with pytest.raises(SystemExit, match="0 good signatures"):
        makers.install(tmp_path)


def test_a_program_does_not_leave_its_folder(makers: Makers, tmp_path: Path) -> None:
    """Signed or not."""
    makers.archive = packed("../outside")
    makers.publish("ann", "bob")
    with pytest.raises(SystemExit, match="could not be unpacked"):
        makers.install(tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_an_archive_is_of_a_linux_that_is_not_newer() -> None:
    """Programs run on the C library that they were built with, and newer ones."""
    assert [machine.ubuntu(libc) for libc in ("2.35", "2.36", "2.39", "2.41", "2.43")] == [
        "22.04",
        "22.04",
        "24.04",
        "24.04",
        "26.04",
    ]
    with pytest.raises(SystemExit, match=r"glibc 2\.31"):
        machine.ubuntu("2.31")


def test_a_dry_run_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It tells the commands and the addresses."""
    monkeypatch.setattr(machine, "candidate", lambda package: package != "bitcoind")
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("ran something"))
    machine.main(["--dry-run", "--place", str(tmp_path / "none")])
    told = capsys.readouterr().out
    assert "apt-get install --yes --no-install-recommends python3-venv" in told
    assert "bitcoind: not on PATH; from https://bitcoincore.org/bin/" in told
    assert "bitcoind is not served here" in told
    assert not list(tmp_path.iterdir())


def test_a_node_that_cannot_be_had_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine without a way to GitHub gets all else."""

    def unreachable(*_: object) -> None:
        raise OSError("no way there")

    ran: list[list[str]] = []
    monkeypatch.setattr(machine, "packages", lambda dry: None)
    monkeypatch.setattr(machine, "install", unreachable)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command))
    assert machine.main(["--place", str(tmp_path)]) == 1
    assert ran == [["make", "build"]]
    assert capsys.readouterr().out.count("it cannot be had: no way there") == 2
