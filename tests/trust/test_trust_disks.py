"""A disk that fills, is read-only or is taken away, few file handles, a clock that jumps, a terminal that is closed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_tools import ROOT, command, composed, environment, tiny_overrides

from sdpet.commands.errors import sentence
from sdpet.config import run_folder, validate
from sdpet.files import lock
from sdpet.runs import Record, Resources, run
from sdpet.study import status_text, study_status


@pytest.fixture(scope="module")
def resources():
    return Resources()


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own, and a function that mounts it anew with an option."""
    place = tmp_path / "disk"
    place.mkdir()
    own = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50000000", "none", str(place)], capture_output=True)
    if own.returncode:
        pytest.skip(f"nothing can be mounted here: {own.stderr.decode().strip()}")

    def again(option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True)

    yield place, again
    subprocess.run(["umount", "-l", str(place)], check=True)


def asked(tiny_folder, subject_folders, place, *more):
    return composed(*tiny_overrides(tiny_folder, subject_folders, place), *more)


def one_sentence(error: BaseException) -> str:
    said = sentence(error)
    assert said.strip() and "\n" not in said and "Traceback" not in said
    return said


def test_a_read_only_disk_is_named_before_any_work(disk, tiny_folder, subject_folders):
    place, again = disk
    again("ro")
    with pytest.raises(ValueError, match=rf"output_root {place} cannot be written.*give another folder"):
        validate(asked(tiny_folder, subject_folders, place))


def test_a_disk_that_fills_midway(disk, tiny_folder, subject_folders, resources):
    place, again = disk
    config = asked(tiny_folder, subject_folders, place)

    def filled(now: str, *_: object) -> None:
        if now == "train":
            used = os.statvfs(place)
            again(f"size={(used.f_blocks - used.f_bfree) * used.f_frsize + 8192}")

    with pytest.raises(OSError) as caught:
        run(config, resources, filled)
    assert "No space left on device" in one_sentence(caught.value) and "make room" in one_sentence(caught.value)
    again("size=50000000")
    assert run(config, resources).status == "finished"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EMFILE, errno.EIO])
def test_rights_or_handles_that_are_lost_midway(tiny_folder, subject_folders, resources, tmp_path, monkeypatch, number):
    """Root's rights, and a disk with open files, cannot be taken away in a test, so the system's answer is played."""
    config = asked(tiny_folder, subject_folders, tmp_path)
    folder = run_folder(validate(config))
    other = asked(tiny_folder, subject_folders, tmp_path, "seed=1")
    assert run(other, resources).status == "finished"
    before = (run_folder(validate(other)) / "record.json").read_bytes()

    def refused(path: Path, *arguments: object, **options: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    def lost(now: str, *_: object) -> None:
        if now == "train":
            monkeypatch.setattr(Path, "write_text", refused)
            monkeypatch.setattr(Path, "write_bytes", refused)

    with pytest.raises(OSError) as caught:
        run(config, resources, lost)
    assert os.strerror(number) in one_sentence(caught.value)
    monkeypatch.undo()
    assert Record.find(folder) is None
    assert (run_folder(validate(other)) / "record.json").read_bytes() == before
    assert run(config, resources).status == "finished"


def test_without_a_handle_for_the_lock_nothing_begins(tiny_folder, subject_folders, resources, tmp_path, monkeypatch):
    config = asked(tiny_folder, subject_folders, tmp_path)

    def none_left(path, *_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    with monkeypatch.context() as few:
        few.setattr(lock, "_lock", none_left)
        with pytest.raises(OSError) as caught:
            run(config, resources)
    assert "Too many open files" in one_sentence(caught.value)
    assert not run_folder(validate(config)).exists()


def test_a_clock_that_jumps_back(tiny_folder, subject_folders, resources, tmp_path, monkeypatch):
    config = asked(tiny_folder, subject_folders, tmp_path)
    clock = [2e9]

    def backwards() -> float:
        clock[0] -= 3600
        return clock[0]

    monkeypatch.setattr(time, "time", backwards)
    record = run(config, resources)
    assert record.status == "finished" and all(value is None or value >= 0 for value in record.seconds.values())
    assert "1 run with a record: 1 finished" in status_text(study_status(tmp_path / "single"))


def test_a_lease_from_the_future_is_not_alive_for_ever(tmp_path):
    """Another machine's owner, dead for long, whose time stamp is ahead of a clock that was set back."""
    (tmp_path / ".claims").mkdir()
    lease = tmp_path / ".claims" / "0123456789ab.0"
    lease.write_text("another machine")
    now = time.time()
    os.utime(lease, (now + 86400, now + 86400))
    assert study_status(tmp_path).stale == ["0123456789ab"]
    os.utime(lease, (now, now))
    assert study_status(tmp_path).running == ["0123456789ab"]


WAITS = """
import sys, time
from sdpet.study.signals import exit_on_sigterm
exit_on_sigterm("bye")
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("cleaned", flush=True)
"""


@pytest.mark.parametrize("sign, status", [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_a_closed_terminal_ends_a_command_as_a_kill_does(sign, status):
    usual = signal.signal(sign, signal.SIG_DFL)  # tests may themselves run under nohup, which has SIGHUP ignored
    process = subprocess.Popen([sys.executable, "-c", WAITS], env=environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    signal.signal(sign, usual)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sign)
    said, farewell = process.communicate(timeout=60)
    assert (said, farewell.strip(), process.returncode) == ("cleaned\n", "bye", status)


def test_under_nohup_a_closed_terminal_ends_nothing():
    process = subprocess.Popen(["nohup", sys.executable, "-c", WAITS.replace("60", "3")], env=environment(),
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=60)[0] == "cleaned\n" and process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("handles", [64, 32])
def test_a_study_with_few_handles(tiny_folder, subject_folders, tmp_path, handles):
    """A fleet holds a lock for each of its runs: with too few handles, one sentence; with enough again, the rest."""
    given = ["-m", *tiny_overrides(tiny_folder, subject_folders, tmp_path), "study=many", "quiet=true",
             f"seed={','.join(map(str, range(48)))}", "hydra.sweeper.fleet_size=48"]  # fmt: skip
    line = " ".join(f"'{word}'" for word in command(*given))
    ended = subprocess.run(["bash", "-c", f"ulimit -n {handles}; exec {line}"], env=environment(), cwd=ROOT,
                           capture_output=True, text=True, timeout=900)  # fmt: skip
    assert "Traceback" not in ended.stderr
    if ended.returncode:
        errors = [text for text in ended.stderr.splitlines() if text.startswith("error:")]
        assert len(errors) == 1 and "open files" in errors[0], ended.stderr[-3000:]
    again = subprocess.run(command(*given), env=environment(), capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "many").glob("*/record.json"))) == 48
