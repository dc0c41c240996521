"""Pin what development, docs and release install: `make lock` writes release/lock/*.txt, for each Python and platform.

Each file is one of pyproject.toml's groups, with the versions of dev.txt where both have a package, so that all fit
into one environment. `make audit` asks for the known faults of what is pinned.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = Path("release", "lock")
GROUPS = ("dev", "docs", "dist", "wheels")  # dev.txt first: the others keep to it

EXTRAS = ("terminal", "metrics", "page", "fleet")


def pin(group: str) -> None:
    """Write one file; the project's own dependencies stand in dev.txt."""
    command = ["uv", "pip", "compile", "--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"]
    command += ["--upgrade", "--no-annotate", "--custom-compile-command", "make lock", "--group", group]
    if group == "dev":
        command += ["pyproject.toml"]
        command += [word for extra in EXTRAS for word in ("--extra", extra)]
    else:
        command += ["--constraints", str(LOCK / "dev.txt")]
    subprocess.run([sys.executable, "-m", *command, "--output-file", str(LOCK / f"{group}.txt")], cwd=ROOT, check=True)


def audit(group: str) -> tuple[int, list[str]]:
    """Return how many packages of a file could be asked about, and the faults that are known of them."""
    command = ["pip_audit", "--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    command += ["--requirement", str(LOCK / f"{group}.txt")]
    told = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    rows = [row for row in json.loads(told.stdout or '{"dependencies": []}')["dependencies"] if "vulns" in row]
    return len(rows), [f"{row['name']} {row['version']}: {fault['id']}" for row in rows for fault in row["vulns"]]


def main() -> None:
    """Pin all. With `audit`, ask for known faults: fail where there are some, or no package could be asked about."""
    if sys.argv[1:] != ["audit"]:
        for group in GROUPS:
            pin(group)
        return
    asked, faults = map(sum, zip(*(audit(group) for group in GROUPS), strict=True), (0, []))
    print(f"{asked} packages asked about, {len(faults)} known faults", *faults, sep="\n")
    raise SystemExit(bool(faults) or not asked)


if __name__ == "__main__":
    main()
