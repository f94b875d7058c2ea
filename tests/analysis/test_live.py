"""The page of a study under way: read by this machine only, and renewed when a run has ended."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import suppress

import pytest
from browser import CHROMIUM, Browser
from fake_study import write_study

from analysis.__main__ import main
from analysis.live import LiveServer, Renewed
from analysis.report import write_report
from sdpet.study.manifest import FILE

PLACEMENTS = ["attn2o-ffni", "ffni-ffni", "resi-reso", "attn1i-attn1o"]


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """Six of eight planned runs have ended; their report is served."""
    folder = write_study(tmp_path_factory.mktemp("outputs") / "mine", PLACEMENTS[:3], [0, 1], samples=0)
    ended = sorted(path.parent.name for path in folder.glob("*/record.json"))
    plan = {run: f"run {run}" for run in [*ended, "111111111111", "222222222222"]}
    (folder / FILE).write_text(json.dumps({"asked": 0.0, "command": ["train.py"], "runs": plan}))
    (folder.parent / "secret.csv").write_text("not part of the report")
    server = LiveServer(Renewed(folder, lambda: write_report(folder).page))
    assert server.report.renew()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(live, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", live.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for name in [f"127.0.0.1:{live.server_port}"] if host is None else host:
        connection.putheader("Host", name)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.headers


def test_page_and_what_lies_beside_it_are_served(live):
    status, page, headers = ask(live, "/")
    assert status == 200 and "Which adapter position matters?" in page
    assert "6 of 8 runs (75%)" in page and "2 waiting" in page
    assert headers["Cache-Control"] == "no-store" and "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    table = next((live.report.folder / "tables").glob("*.csv"))
    assert ask(live, f"/tables/{table.name}")[:2] == (200, table.read_text())
    assert ask(live, "/", host=[f"localhost:{live.server_port}"])[0] == 200
    head = ask(live, "/", "HEAD")
    assert head[:2] == (200, "") and int(head[2]["Content-Length"]) > 10_000


@pytest.mark.parametrize(
    "host",
    [["attacker.example"], ["127.0.0.1"], ["127.0.0.1:1"], [], ["attacker.example:PORT"], ["127.0.0.1:PORT"] * 2],
)
def test_another_hosts_name_is_refused(live, host):
    names = [name.replace("PORT", str(live.server_port)) for name in host]
    for path in ("/", "/version", "/tables/means.csv"):
        assert ask(live, path, host=names)[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../../secret.csv", "/%2e%2e/%2e%2e/secret.csv", "/tables/../../../secret.csv", "//etc/passwd", "/%00.csv",
        "/..%5c..%5csecret.csv", "/link.csv", "/tables", "/.hidden.csv", "/own.py", "/none.csv",
    ],
)  # fmt: skip
def test_nothing_outside_the_report_is_served(live, path):
    report = live.report.folder
    if not (report / "link.csv").is_symlink():
        (report / "link.csv").symlink_to(report.parent.parent / "secret.csv")
        (report / ".hidden.csv").write_text("hidden")
        (report / "own.py").write_text("code")
    assert (report / "../../secret.csv").resolve().is_file()
    assert ask(live, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_reading_is_answered(live, method):
    assert ask(live, "/", method)[0] == 501


def test_it_listens_on_the_loopback_address_only(live):
    assert live.socket.getsockname()[0] == "127.0.0.1"


def test_the_page_is_renewed_when_a_run_has_ended(live):
    before = json.loads(ask(live, "/version")[1])
    assert not live.report.renew(), "nothing has ended since"
    assert "attn1i-attn1o" not in ask(live, "/")[1]
    write_study(live.report.study, PLACEMENTS, [0, 1], samples=0)
    assert live.report.renew()
    after = json.loads(ask(live, "/version")[1])
    assert after["version"] == before["version"] + 1
    page = ask(live, "/")[1]
    assert "attn1i-attn1o" in page and f"!== {after['version']}" in page
    (live.report.study / ".race.json").write_text(json.dumps({"said": ["  race      look 2 of 9: attn2o-ffni leads"]}))
    assert "look 2 of 9" in json.loads(ask(live, "/version")[1])["status"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_an_open_page_loads_itself_again_when_a_run_has_ended(live, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.ask("Page.navigate", url=live.url)
        assert waited(lambda: browser.run("document.getElementById('live-status').textContent"), "")
        write_study(live.report.study, [*PLACEMENTS, "transo-transo"], [0, 1, 2], samples=0)
        assert live.report.renew()
        version = f"!== {json.loads(live.report.version())['version']}"
        shown = f"document.documentElement.outerHTML.includes({json.dumps(version)})"
        assert waited(lambda: browser.run(shown), False)
        assert "runs" in browser.run("document.getElementById('live-status').textContent")
        assert browser.complaints() == []
    finally:
        browser.close()


def waited(value, nothing, patience=30.0):
    """A value of the page, once it is there; a page that is being loaded has none."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(AssertionError):
            if found := value():
                return found
        time.sleep(0.2)
    return nothing


def test_a_study_without_a_finished_run_is_waited_for(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"asked": 0.0, "command": ["train.py"], "runs": {"111111111111": "a run"}}))
    report = Renewed(tmp_path, lambda: write_report(tmp_path).page)
    report.renew()
    page = report.page()
    assert "0 of 1 run" in page and "location.reload()" in page
    assert page.count("<body>") == 1 and "Traceback" not in page


def test_what_cannot_be_served_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "none.csv"), "--live"]) == 1
    assert "--live needs the folder of a study" in capsys.readouterr().err
    assert main([str(tmp_path), "--live", "--port", "99999"]) == 1
    assert "port 99999 of 127.0.0.1 cannot be used" in capsys.readouterr().err
