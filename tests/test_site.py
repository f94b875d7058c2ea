"""The documentation as a site: every page can be found, and the search works in pages opened from disk."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time

import pytest
import yaml
from browser import CHROMIUM, Browser
from study_tools import ROOT

DOCS = ROOT / "docs"
SEARCH = """(() => {
  const query = document.querySelector("[data-md-component=search-query]");
  query.focus();
  query.value = "sphericity";
  for (const event of [new KeyboardEvent("keyup", {bubbles: true}), new Event("input", {bubbles: true})])
    query.dispatchEvent(event);
})()"""


def test_every_page_is_in_the_navigation_and_links_lead_to_every_how_to_and_result():
    class Loader(yaml.SafeLoader):
        """Knows the tags of mkdocs.yml, whose values do not matter here."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    named = re.findall(r"[\w./-]+\.md", str(config["nav"]))
    assert sorted(named) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    linked = set(re.findall(r"\(([\w./-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert {name for name in named if name.startswith(("how-to/", "explanation/"))} | {"results/index.md"} <= linked
    found = re.findall(r"\(([\w-]+\.md)\)", (DOCS / "results" / "index.md").read_text())
    assert {name for name in named if name.startswith("results/")} <= {*linked, *(f"results/{page}" for page in found)}


def test_the_gallery_names_each_report_with_its_table():
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    text = (DOCS / "results" / "gallery.md").read_text()
    rows = re.findall(r'(?m)^\| <a href="\.\./gallery/(\w+)/index\.html">(\w+)</a> \|.*\| `(\S+)` \|$', text)
    assert {name: table for name, said, table in rows if name == said} == gallery.STUDIES
    assert all((ROOT / table).is_file() for table in gallery.STUDIES.values())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_search_finds_pages_that_are_opened_from_disk(tmp_path):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(build, cwd=ROOT, env=environment, check=True)
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(tmp_path / "site" / "how-to" / "fleets.html", 1280)
        browser.run(SEARCH)
        found: list[str] = []
        end = time.monotonic() + 30
        while not found and time.monotonic() < end:
            time.sleep(0.2)
            found = browser.run("[...document.querySelectorAll('.md-search-result__link')].map(link => link.href)")
        assert any(link.endswith("reference/analysis.html#analysis.sphericity") for link in found), found
        assert browser.complaints() == []
        assert [url for url in browser.requests() if not url.startswith(("file:", "data:"))] == []
    finally:
        browser.close()
