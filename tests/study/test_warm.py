"""Workers that are forked from one warm process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sdpet.study import warm
from sdpet.study.worker_pool import Worker

pytestmark = pytest.mark.skipif(not warm.CAN_FORK, reason="this platform does not fork workers")
LIGHT = """
import sys, time, types
import sdpet.runs.libraries as libraries
libraries.import_libraries = lambda: time.sleep(SECONDS)
sys.modules["open_clip"] = types.ModuleType("open_clip")
"""


@pytest.fixture
def parent_that_imports(tmp_path, monkeypatch):
    """Starts a warm parent whose imports take so many seconds, and do nothing."""
    parents = []

    def start(seconds):
        (tmp_path / "sitecustomize.py").write_text(LIGHT.replace("SECONDS", str(seconds)))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        parents.append(warm.WarmParent())
        return parents[-1]

    yield start
    for parent in parents:
        parent.close()
        assert parent.process.poll() is not None


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def pid_of(worker):
    while worker.process._pid is None:
        with pytest.raises(subprocess.TimeoutExpired):
            worker.process.wait(0.1)  # it waits for requests
    return worker.process._pid


def test_workers_are_forked_and_end_as_processes_of_their_own(parent_that_imports):
    parent = parent_that_imports(0)
    first, second, third = (Worker(None, parent) for _ in range(3))
    pids = [pid_of(worker) for worker in (first, second, third)]
    assert len(set(pids)) == 3 and {parent_of(pid) for pid in pids} == {parent.process.pid}
    assert [os.getsid(pid) for pid in pids] == pids, "Ctrl-C reaches only the process that launched the study"
    first.process.kill()
    assert first.process.wait(20) == -9 and first.read() is None
    second.process.terminate()
    assert second.process.wait(20) == 143
    third.request_stop()  # idle: its input ends
    assert third.process.wait(20) == 0
    for worker in (first, second, third):
        worker.wait()


def test_without_its_parent_a_worker_is_started_anew(parent_that_imports):
    parent = parent_that_imports(0)
    forked = Worker(None, parent)
    pid_of(forked)
    parent.process.kill()
    parent.process.wait(20)
    new = Worker(None, parent)
    assert isinstance(new.process, subprocess.Popen) and isinstance(forked.process, warm.ForkedProcess)
    for worker in (new, forked):
        worker.request_stop()
        worker.wait()
    assert new.process.returncode == 0


def test_all_launches_of_a_sweep_share_one_parent_and_others_have_their_own(parent_that_imports):
    parent_that_imports(0)  # others import nothing either
    with warm.one_warm_parent():
        with warm.warm_parent() as first:
            pass
        with warm.warm_parent() as again:
            assert again is first and first.process.poll() is None
        first.process.kill()
        first.process.wait(20)
        with warm.warm_parent() as second:
            assert second is not first and second.process.poll() is None
    assert second.process.poll() is not None
    with warm.warm_parent() as own:
        assert own is not second
    assert own.process.poll() is not None


def test_a_worker_that_finds_its_parent_dead_ends_without_a_word(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\n"
        "def run_together(*given):\n"
        "    raise BrokenPipeError(32, 'Broken pipe')  # as an event does that nobody reads\n"
        "sys.modules['sdpet.runs.start'] = types.SimpleNamespace(run_together=run_together, load_ahead=None)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "sdpet.study.worker_process", str(write)],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[write],
    ) as worker:  # fmt: skip
        os.close(write)
        os.close(read)
        worker.stdin.write(b'{"request": "train", "configs": []}\n')
        worker.stdin.flush()  # and it stays open: what the worker sees first is up to chance
        assert (worker.wait(60), worker.stderr.read()) == (1, b"")


def test_a_study_that_is_stopped_while_the_parent_imports_does_not_wait_for_it(parent_that_imports):
    parent = parent_that_imports(60)
    worker = Worker(None, parent)
    began = time.monotonic()
    worker.process.terminate()
    assert worker.process.wait(20) == -9 and time.monotonic() - began < 20
    worker.wait()
