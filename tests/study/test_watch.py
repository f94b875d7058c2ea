"""`sdpet status --watch`: the status, renewed until every run has ended."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_study import write_study

from sdpet.study import watch as watching
from sdpet.study.__main__ import main
from sdpet.study.manifest import FILE


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def study(tmp_path):
    """Two of three planned runs have ended."""
    folder = write_study(tmp_path / "s", ["attn2o-ffni", "ffni-ffni", "resi-reso"], [0], samples=0)
    runs = {path.parent.name: "" for path in folder.glob("*/record.json")}
    (folder / FILE).write_text(json.dumps({"asked": 0.0, "command": ["train.py"], "runs": runs}))
    last = folder / list(runs)[-1] / "record.json"
    last.rename(last.with_suffix(".later"))
    return folder


@pytest.fixture
def ends_at(study, monkeypatch):
    """Let the last run end while the watch sleeps for the n-th time."""

    def at(n):
        naps = []

        def sleep(seconds):
            naps.append(seconds)
            if len(naps) == n:
                later = next(study.glob("*/record.later"))
                later.rename(later.with_suffix(".json"))

        monkeypatch.setattr(watching.time, "sleep", sleep)
        return naps

    return at


def test_a_log_gets_a_line_when_a_run_has_ended_and_the_status_at_the_end(study, ends_at, capsys):
    naps = ends_at(3)
    assert main(["status", "--watch", str(study)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1][:11] for line in lines[:2]] == ["2 of 3 runs", "3 of 3 runs"]
    assert "next      python -m analysis" in lines[-1] and not any("\x1b" in line for line in lines)
    assert naps == [watching.EVERY] * 3


def test_a_terminal_is_written_in_place_and_never_wider_than_it_is(study, ends_at, monkeypatch):
    ends_at(1)
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.chdir(study.parent)
    terminal = Terminal()
    assert watching.watch(Path("s"), terminal) == 0
    first, again = terminal.getvalue().split("\x1b[", 1)
    assert "2 of 3 runs (67%)" in first and "[##########################" in first
    assert again.startswith(f"{len(first.splitlines())}F\x1b[J") and "3 of 3 runs" in again
    assert max(map(len, first.splitlines())) < 50


def test_failures_and_ctrl_c_are_seen_in_the_exit_status(study, ends_at, monkeypatch):
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    assert watching.watch(study, io.StringIO()) == 130
    write_study(study, ["resi-reso"], [0], failed=[("resi-reso", 0)], samples=0)
    for later in study.glob("*/record.later"):
        later.rename(later.with_suffix(".json"))
    runs = {path.parent.name: "" for path in study.glob("*/record.json")}
    failed = next(study.glob("*/record.json"))
    failed.write_text(failed.read_text().replace('"status": "finished"', '"status": "failed"'))
    (study / FILE).write_text(json.dumps({"asked": 0.0, "command": ["train.py"], "runs": runs}))
    assert watching.watch(study, io.StringIO()) == 1


def test_watching_is_refused_where_there_is_nothing_to_watch(tmp_path, capsys):
    assert main(["status", "--watch", str(tmp_path)]) == 1
    assert "holds no run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["verify", "--watch", str(tmp_path)])
    assert "--watch belongs to status" in capsys.readouterr().err
