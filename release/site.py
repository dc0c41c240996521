"""Build the site of docs/ for each release and for what is now: `make site`.

Each version has a folder of its own, `main` among them; `versions.json` beside them is what the theme's version menu
reads, and the front page leads to the newest release. A release is a tag `vX.Y.Z`, built from its own pages.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
NOW: Final = "main"
FRONT: Final = '<!doctype html><meta http-equiv="refresh" content="0; url={0}/"><a href="{0}/">lsps2fast {0}</a>\n'


def run(*command: str | Path) -> str:
    """Run a command; end with what it said if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def releases(tags: str) -> list[str]:
    """Return the versions among the tags, the newest first."""
    found = re.findall(r"^v(\d+)\.(\d+)\.(\d+)$", tags, re.MULTILINE)
    return [".".join(version) for version in sorted(found, key=lambda each: [int(part) for part in each], reverse=True)]


def build(pages: Path, out: Path) -> None:
    """Build one version; a warning is an error."""
    run(
        sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--config-file", pages / "mkdocs.yml", "-d", out
    )


def main(out: Path = ROOT / "build" / "site") -> None:
    """Build all of them."""
    shutil.rmtree(out, ignore_errors=True)
    build(ROOT, out / NOW)
    versions = releases(run("git", "tag", "--list", "v*"))
    for version in versions:
        with tempfile.TemporaryDirectory() as folder:
            run("git", "worktree", "add", "--detach", "--force", folder, f"v{version}")
            try:
                build(Path(folder), out / version)
            finally:
                run("git", "worktree", "remove", "--force", folder)
    menu = [{"version": name, "title": name, "aliases": []} for name in (NOW, *versions)]
    (out / "versions.json").write_text(json.dumps(menu), encoding="utf-8")
    (out / "index.html").write_text(FRONT.format([*versions, NOW][0]), encoding="utf-8")


if __name__ == "__main__":
    main()
