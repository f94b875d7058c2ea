"""The report in a browser: nothing is wider than the screen, every image loads. Needs Chromium; slow."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from fake_study import write_study

from analysis.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
# What sticks out of the page (what scrolls inside its own box is meant to), and images without pixels.
PROBE = """<script>addEventListener("load", () => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  const inBox = e => e.parentElement && e.parentElement.closest(".scroll, pre");
  const out = [...document.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !inBox(e)).map(e => e.outerHTML.slice(0, 80));
  const dead = [...document.images].filter(i => { i.loading = "eager"; return i.complete && !i.naturalWidth; }).length;
  const asked = performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:"));
  const seen = {width: document.documentElement.scrollWidth, out, dead, asked, inner: innerWidth};
  parent.postMessage(JSON.stringify(seen), "*");
})</script>"""
# A frame of the wanted width, as a window of Chromium's is at least 500 pixels wide.
FRAME = """<!doctype html><title></title><script>addEventListener("message", e => document.title = e.data)</script>
<iframe src="probed.html" width="WIDTH" height="900" style="border: 0"></iframe>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_overflows_and_nothing_is_fetched(width: int, tmp_path: Path) -> None:
    write_study(tmp_path / "placement", seeds=[0, 1], diverged=[("reso-reso", 1)])
    page = write_report(tmp_path / "placement").page
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text(encoding="utf-8").replace("</head>", PROBE + "</head>"), encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(CHROMIUM), *FLAGS, profile, "--window-size=1400,1000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title, done.stderr
    seen = json.loads(unescape(title.group(1)))
    assert seen["inner"] == width
    assert seen["width"] <= width, seen["out"]
    assert not seen["out"] and not seen["dead"] and not seen["asked"], seen
