"""The report in a browser: nothing overflows, nothing is fetched, everyone can read it. Needs Chromium; slow."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from fake_study import write_base, write_full_tuning, write_study

from analysis.live import LiveServer, Renewed
from analysis.report import write_report

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

WINDOWS = [(390, False), (390, True), (1280, False), (1280, True)]
# What sticks out of the page (what scrolls inside its own box is meant to), and images without pixels.
PROBE = """(async () => {
  for (const d of document.querySelectorAll("details")) d.open = true;
  for (const i of document.images) i.loading = "eager";
  await Promise.all([...document.images].map(i => i.decode().catch(() => 0)));
  const inBox = e => e.parentElement && e.parentElement.closest(".scroll, .bar, pre");
  const out = [...document.querySelectorAll("body *")].filter(
    e => e.getBoundingClientRect().right > innerWidth + 1 && !inBox(e)).map(e => e.outerHTML.slice(0, 80));
  const dead = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
  return {width: document.documentElement.scrollWidth, inner: innerWidth, out, dead, images: document.images.length};
})()"""
# Where the focus goes, element by element: everything that scrolls or can be pressed must be reached by the keyboard.
UNREACHED = """[...document.querySelectorAll(".scroll, pre, summary, a[href]")].filter(
  e => (e.scrollWidth > e.clientWidth + 1 || e.matches("summary, a[href]")) && e.tabIndex < 0
).map(e => e.outerHTML.slice(0, 80))"""


# Text of drawings whose contrast with the cell below it, or with the page, is under 4.5 : 1, as WCAG counts it.
POOR_TEXT = """(() => {
  const rgb = c => c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = rgb(c).map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const ratio = (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
  const ground = getComputedStyle(document.body).backgroundColor;
  const cells = [...document.querySelectorAll('[id*="cell-"] path')].map(
    p => [p.getBoundingClientRect(), getComputedStyle(p).fill]);
  return [...document.querySelectorAll("figure svg text")].filter(t => t.getBoundingClientRect().width).filter(t => {
    const box = t.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    const under = cells.find(([r]) => r.left <= x && x <= r.right && r.top <= y && y <= r.bottom);
    return ratio(getComputedStyle(t).fill, under ? under[1] : ground) < 4.5;
  }).map(t => t.textContent + " " + getComputedStyle(t).fill);
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every part there is: base model, failed run, full tuning, noise maps, the paper beside it."""
    folder = tmp_path_factory.mktemp("outputs") / "placement"
    write_study(folder, diverged=[("reso-reso", 1)], failed=[("attn1o-ffni", 2)])
    write_base(folder)
    for seed in range(3):
        write_full_tuning(folder, seed, samples=4)
    return write_report(folder).page


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, fetched by npm."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(
        [npm, "install", "--no-save", "--no-audit", "--no-fund", "axe-core@4"], cwd=folder, capture_output=True,
        text=True, timeout=180, check=False,
    )  # fmt: skip
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if done.returncode or not script.is_file():
        pytest.skip(f"npm could not install axe-core: {done.stderr.strip()[-200:]}")
    return script.read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
def test_the_page_fits_loads_and_asks_for_nothing(width: int, dark: bool, browser: Browser, page: Path) -> None:
    browser.open(page, width, dark=dark)
    seen = browser.run(PROBE)
    assert seen["inner"] == width
    assert seen["width"] <= width and not seen["out"], seen
    assert seen["images"] > 100 and not seen["dead"]
    away = [url for url in browser.requests() if not url.startswith(("data:", page.as_uri()))]
    assert not away and not browser.complaints()


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
def test_axe_finds_nothing_to_complain_of(width: int, dark: bool, browser: Browser, page: Path, axe: str) -> None:
    """Contrast, names, landmarks, order of headings, reach by keyboard: all rules of axe-core, best practices too."""
    browser.open(page, width, dark=dark)
    browser.run(PROBE)
    browser.run(f"{axe}; 0")
    found = browser.run("axe.run(document, {resultTypes: ['violations', 'incomplete']})")
    assert len(found["passes"]) > 15
    said = [f"{v['id']}: {n['html'][:120]} {n['failureSummary']}" for v in found["violations"] for n in v["nodes"]]
    assert not said, "\n".join(said)
    assert not browser.run(UNREACHED)


def test_text_in_figures_has_contrast_in_light_and_dark(browser: Browser, page: Path) -> None:
    """axe does not look at text in drawings. 4.5 : 1 as WCAG asks, against the page or the cell below the text."""
    for dark in (False, True):
        browser.open(page, 1280, dark=dark)
        for shown in (1, 2, 3):  # the heatmap of each score
            browser.click(f"#choice-heatmap-score label:nth-of-type({shown})")
            poor = browser.run(POOR_TEXT)
            assert not poor, poor


def test_a_reader_hovers_sorts_filters_and_copies(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    browser.hover("#heatmap-cell-4-3")
    tip = browser.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
    assert tip.startswith("CA_out → FFN_in\nCLIP-I 0.") and "95% interval" in tip and "n = 3 runs" in tip
    browser.run("document.querySelector('#fig-ranking svg').focus()")
    for _ in range(2):  # with the keyboard, from mark to mark: full tuning is the best, then this placement
        browser.press("ArrowDown")
    assert browser.run("document.getElementById('tip').textContent").startswith("CA_out → FFN_in\nCLIP-I 0.")
    assert "CA_out → FFN_in, CLIP-I" in browser.run("document.querySelector('.said').textContent")
    browser.press("Escape")
    assert browser.run("document.getElementById('tip').hidden")

    table = "document.querySelector('#table-ranking')"
    browser.run(f"{table}.querySelector('details').open = true; 0")
    rows = f"[...{table}.querySelector('tbody').rows].filter(r => !r.hidden)"
    shown = f"{rows}.map(r => [...r.cells].map(c => c.textContent))"
    before = browser.run(shown)
    browser.click("#table-ranking th:nth-child(2) button")  # the score: largest first, as it stands
    assert browser.run(shown) == before
    browser.click("#table-ranking th:nth-child(2) button")
    rising = browser.run(shown)
    assert [row[1] for row in rising] == sorted((row[1] for row in before), key=float) and rising != before
    assert browser.run(f"{table}.querySelector('th:nth-child(2)').ariaSort") == "ascending"
    browser.click("#table-ranking input[type=search]")
    browser.type("ffn_out")
    left = browser.run(shown)
    assert [row[0] for row in left] == ["FFN_out → Trans_out"]
    assert browser.run(f"{table}.querySelector('.tools [role=status]').textContent") == "1 of 21 rows"
    browser.run("navigator.clipboard.writeText = async text => { window.copied = text; }; 0")
    browser.click("#table-ranking .links button:nth-of-type(1)")
    assert browser.run("copied").splitlines()[1:] == [",".join(left[0])]
    browser.click("#table-ranking .links button:nth-of-type(2)")
    assert r"FFN\_out $\to$ Trans\_out & " in browser.run("copied")
    assert not browser.complaints()


def test_a_reader_picks_a_score_and_zooms_into_samples(browser: Browser, page: Path) -> None:
    browser.open(page, 1280)
    seen = "[...document.querySelectorAll('#choice-heatmap-score .options > *')].map(e => e.offsetHeight > 0)"
    assert browser.run(seen).index(True) == 0
    browser.click("#choice-heatmap-score label:nth-of-type(2)")
    assert browser.run(seen).index(True) == 1 and sum(browser.run(seen)) == 1

    rows = "[...document.querySelectorAll('.wall tbody tr')].map(r => r.cells[0].firstChild.textContent)"
    before = browser.run(rows)
    browser.run(
        "(s => { s.value = '2'; s.dispatchEvent(new Event('change')); })(document.querySelector('.wall select'))"
    )
    after = browser.run(rows)
    assert after[:2] == before[:2] == ["reference images", "base model"] and after != before
    values = browser.run(
        "[...document.querySelectorAll('.wall [data-values]')].map(r => +r.dataset.values.split(' ')[2])"
    )
    assert values == sorted(values), "prior drift: the smallest is the best, and comes first"
    width = "document.querySelector('.wall td img').offsetWidth"
    small = browser.run(width)
    browser.run("(s => { s.value = 9; s.dispatchEvent(new Event('input')); })(document.querySelector('.wall input'))")
    assert browser.run(width) > 1.4 * small
    browser.click(".wall [data-values] td button")
    words = browser.run("document.querySelector('dialog').open && document.querySelector('dialog p').textContent")
    assert after[2] in words and "CLIP-I 0." in words and "seed 0" in words
    assert browser.run("document.querySelector('dialog img').offsetWidth") > 300
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('dialog p').textContent") != words
    browser.press("Escape")
    assert not browser.run("document.querySelector('dialog').open")
    browser.press("ArrowDown")  # the button that was pressed has the focus again
    assert browser.run("document.activeElement.closest('tr').cells[0].firstChild.textContent") == after[3]

    assert browser.run("document.querySelectorAll('.face .over').length") == 8
    browser.run(
        "(s => { s.value = 20; s.dispatchEvent(new Event('input')); })(document.querySelector('.face [type=range]'))"
    )
    cut = "getComputedStyle(document.querySelector('.face .over img')).clipPath"
    assert browser.run(cut) in ("inset(0px 80% 0px 0px)", "inset(0px calc(80%) 0px 0px)")
    assert not browser.complaints()


def test_without_script_all_of_it_can_be_read(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 1280)
        shot = browser.ask("DOM.getDocument", depth=0)["root"]["nodeId"]
        count = len(browser.ask("DOM.querySelectorAll", nodeId=shot, selector="svg .tip > title")["nodeIds"])
        assert count > 100, "the browser itself shows what a mark stands for"
        for selector in (".tools", "dialog", "th > button"):
            assert not browser.ask("DOM.querySelectorAll", nodeId=shot, selector=selector)["nodeIds"], "nothing is dead"
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_a_live_page_renews_itself_and_keeps_what_was_chosen(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.live.renewal.EVERY", 0.1)
    folder = write_study(tmp_path / "mine", ["attn2o-ffni", "ffni-ffni", "resi-reso"], [0, 1], samples=0)
    server = LiveServer(Renewed(folder, lambda: write_report(folder).page))
    server.report.renew()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.open(server.url, 1280)
        browser.click("#choice-heatmap-score label:nth-of-type(2)")
        browser.click("header .detail summary")
        of_new = "document.querySelector('#heatmap-cell-1-1') !== null"
        assert not browser.run(of_new)
        write_study(folder, ["attn2o-ffni", "ffni-ffni", "resi-reso", "attn1o-attn2i"], [0, 1], samples=0)
        assert server.report.renew()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            time.sleep(0.1)
            with suppress(AssertionError):  # a page that is being loaded answers nothing
                if browser.run(f"document.readyState === 'complete' && {of_new}"):
                    break
        assert browser.run(of_new), "the new placement is there, and nobody loaded the page"
        assert browser.run("document.querySelector('#heatmap-score-2').checked")
        assert browser.run("document.querySelector('header .detail').open")
        browser.hover("#heatmap-clip_t-cell-1-1")
        assert browser.run("document.getElementById('tip').textContent").startswith("SA_out → CA_in\nCLIP-T")
        assert all(url.startswith((server.url, "data:")) for url in browser.requests()) and not browser.complaints()
    finally:
        browser.open("about:blank", 1280)
        server.shutdown()
        server.server_close()


def test_it_prints_in_ink_on_paper(browser: Browser, page: Path) -> None:
    """Also from a dark screen: the paper stays white, and nothing is cut off at its edge."""
    browser.open(page, 794, dark=True, paper=True)  # A4 at 96 dpi
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("document.documentElement.scrollWidth") <= 794
    browser.run("""addEventListener("beforeprint", () => {
      window.printed = document.querySelector("header .detail p").offsetHeight; }); 0""")
    browser.pdf()
    assert browser.run("printed") > 0, "the whole conclusion is on paper, though it is folded on the screen"
    assert not browser.run("document.querySelector('header .detail').open")
    pages = len(re.findall(rb"/Type\s*/Page\b", browser.pdf()))
    assert 4 <= pages <= 40
