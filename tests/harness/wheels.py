"""The wheel for any machine, built from this very tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("src", "plugin", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def build_pure(folder: Path) -> Path:
    """Return the wheel, made in `folder`; nothing is written into the tree."""
    sources = folder / "sources"
    sources.mkdir()
    for name in NEEDED:
        (sources / name).symlink_to(ROOT / name)
    command = [sys.executable, "-c", "import setuptools.build_meta as it; it.build_wheel('..')"]
    env = {**os.environ, "LSPS2FAST_BUILD": "pure", "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=sources, env=env, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel
