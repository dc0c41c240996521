"""The site has a folder for each release, and a menu of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("site_of_versions", ROOT / "release" / "site.py")
assert SPEC is not None
assert SPEC.loader is not None
site = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(site)


def test_releases_are_tags_with_three_numbers() -> None:
    """The newest first, by number and not by letter; candidates have no pages."""
    assert site.releases("v0.2.0\nv0.10.0\nv0.9.1\nv1.0.0rc1\nother\n") == ["0.10.0", "0.9.1", "0.2.0"]


@pytest.mark.parametrize(("tags", "front"), [("", "main"), ("v0.2.0\nv0.3.0\n", "0.3.0")])
def test_the_front_page_leads_to_the_newest(
    tags: str, front: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or to what is now, before the first release."""
    built: list[str] = []
    monkeypatch.setattr(site, "run", lambda *words: tags if words[1] == "tag" else "")
    monkeypatch.setattr(site, "build", lambda pages, out: (out.mkdir(parents=True), built.append(out.name)))
    site.main(tmp_path / "site")
    assert f'href="{front}/"' in (tmp_path / "site" / "index.html").read_text()
    menu = json.loads((tmp_path / "site" / "versions.json").read_text())
    assert [row["version"] for row in menu] == built == ["main", *site.releases(tags)]
