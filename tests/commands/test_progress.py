"""What is shown while work goes on: a bar in a terminal, lines in a log, nothing when quiet."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import time

import pytest
from study_tools import command, environment, tiny_overrides, train

from sdpet.commands import progress_bar as bar_module
from sdpet.commands import study_progress, ticker
from sdpet.commands.progress_bar import Bar
from sdpet.commands.study_progress import StudyProgressBar
from sdpet.study.progress import Event, Timeline


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_rate_time_left_and_loss_and_is_left_clean():
    screen = Terminal()
    bar = Bar(stream=screen)
    bar.prepare("getting ready")
    for step in range(1, 41):
        time.sleep(0.01)
        bar("train", step, 40, 1.0 / step)
    bar("sample", 1, 4)
    bar.close()
    shown = screen.getvalue()
    assert "getting ready" in shown and "\n" not in shown.rstrip("\n")
    last = [part for part in shown.split("\r") if part.startswith("train")][-1]
    assert "left" in last and "it/s" in last and "loss 0.0" in last
    assert not shown.split("\r")[-1].strip(), "nothing stays behind"


def test_a_log_gets_a_line_now_and_then_and_quiet_gets_none(monkeypatch):
    monkeypatch.setattr(bar_module, "LINE_EVERY", 0.05)
    logged, quiet = io.StringIO(), io.StringIO()
    began = time.monotonic()
    for stream, silent in ((logged, False), (quiet, True)):
        bar = Bar(silent, stream)
        bar.prepare("getting ready")
        for step in range(1, 31):
            time.sleep(0.01)
            bar("train", step, 30, 0.5)
        bar.close()
    lines = logged.getvalue().splitlines()
    assert 2 <= len(lines) <= 2 + (time.monotonic() - began) / 0.05 and "\r" not in logged.getvalue()
    assert all(line.startswith("train ") and "left" in line and line.endswith("loss 0.500") for line in lines)
    assert not quiet.getvalue()


def test_the_clock_goes_on_while_nothing_is_reported(monkeypatch):
    """Before the first step the time passed is shown, and after one the time left counts down."""
    monkeypatch.setattr(ticker, "EVERY", 0.1)
    screen, lines = Terminal(), io.StringIO()
    bar = Bar(stream=screen, work={"train": 100.0, "sample": 1.0})
    bar.prepare("getting ready")
    time.sleep(1.3)
    for step in range(1, 4):
        bar("train", step, 100)
        time.sleep(0.4)
    time.sleep(2.0)
    bar.close()
    assert "getting ready, 00:01" in screen.getvalue()
    shown = [part.rpartition(", ")[2] for part in screen.getvalue().split("\r") if " left" in part]
    seconds = [int(text.split()[0]) for text in shown if not text.startswith("?")]
    assert shown[0] == "? left" and seconds[-1] <= max(seconds) - 1, "it counts down without a step"

    monkeypatch.setattr(study_progress, "LINE_EVERY", 0.3)
    study = StudyProgressBar(2, stream=lines)
    timeline = Timeline(time.monotonic(), {"a": {"train": 1.0}, "b": {"train": 1.0}})
    for phase, done in (("start", 0), ("train", 1), ("train", 6)):
        timeline = timeline.after(Event(time.monotonic() - 50 + 10 * done / 1.2, ("a",), phase, done, 11))
        study.moved(timeline)
    time.sleep(1.0)
    study.close()
    said = lines.getvalue().splitlines()
    assert 1 <= len(said) <= 4 and all(
        line.startswith("[0/2, ") and line.endswith("1 run: train 6/11") for line in said
    )


@pytest.mark.parametrize("study", [False, True])
def test_nothing_but_ours_is_said_in_a_terminal_and_in_a_pipe(study, tiny_folder, subject_folders, tmp_path):
    """No words of Hydra, Lightning, diffusers or transformers; in a pipe only lines."""
    arguments = tiny_overrides(tiny_folder, subject_folders, tmp_path / "out")
    arguments = ["-m", *arguments, "seed=0,1", "hydra.launcher.workers=1"] if study else arguments
    piped = train(*arguments)  # what imports say is seen in the terminal
    beside = [line for line in piped.stderr.splitlines() if not line.startswith(("train ", "sample "))]
    assert piped.returncode == 0 and not beside, piped.stderr
    seen = in_terminal(command(*arguments, "study=terminal"))
    assert "\r" not in piped.stdout and "\x1b" not in piped.stdout
    for word in ("hydra", "lightning", "diffusers", "warning", "GPU available", "Seed set", "HTTP", "shards"):
        assert word.lower() not in (piped.stdout + seen).lower(), word
    # a run of three steps may end before its time left is known
    assert ("runs" in seen and "left" in seen) if study else "preparing" in seen
    if study:
        assert f"writes {tmp_path / 'out' / 'single' / 'report' / 'index.html'}" in piped.stdout


def in_terminal(arguments: list[str]) -> str:
    """All that the command writes to a terminal 120 columns wide."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(arguments, env=environment(), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen, end = b"", time.monotonic() + 300
    while time.monotonic() < end:
        if select.select([master], [], [], 0.2)[0]:
            try:
                content = os.read(master, 1 << 16)
            except OSError:  # the other end is closed
                break
            seen += content
        elif process.poll() is not None:
            break
    os.close(master)
    assert process.wait(10) == 0, seen.decode()
    return seen.decode()
