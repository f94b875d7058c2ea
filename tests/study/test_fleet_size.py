"""How runs are packed into fleets, how large those are, and on which device they go."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from study_tools import composed, tiny_overrides, train

from sdpet.commands.study_progress import StudyProgressBar
from sdpet.config import fleet_key, run_folder, validate
from sdpet.runs import Record, Resources
from sdpet.study import Job, fleet_size
from sdpet.study import launcher as launch
from sdpet.study import worker_pool as workers
from sdpet.study.fleet_size import Measurement, known, size_for
from sdpet.study.run_queue import RunQueue, pack


@pytest.fixture
def make_jobs(tiny_folder, subject_folders, tmp_path):
    overrides = tiny_overrides(tiny_folder, subject_folders, tmp_path)

    def make(count, *more):
        configs = [validate(composed(*overrides, f"seed={seed}", *more)) for seed in range(count)]
        return [Job((), config, run_folder(config), f"seed {config.seed}") for config in configs]

    return make


def test_jobs_are_packed_by_kind_evenly_and_all_of_them(make_jobs):
    some, others = make_jobs(7), make_jobs(2, "trainer.batch_size=1")
    mixed = [some[0], others[0], *some[1:], others[1], *make_jobs(1, "adapter=full")]
    fleets = pack(mixed, size=4, workers=2)
    assert [job for fleet in sorted(fleets, key=lambda f: mixed.index(f[0])) for job in fleet if job in some] == some
    assert sorted(map(len, fleets)) == [1, 2, 3, 4] and sum(map(len, fleets)) == len(mixed)
    assert all(len({fleet_key(job.config) for job in fleet}) == 1 for fleet in fleets)
    assert list(map(len, pack(some, size=16, workers=2))) == [3, 4]  # both workers have something
    assert list(map(len, pack(some[:1], size=16, workers=2))) == [1]
    assert list(map(len, pack(some, size=1, workers=2))) == [1] * 7


def test_the_best_size_is_the_smallest_that_is_as_quick_as_any_and_fits():
    found = Measurement(
        seconds={1: 1.0, 2: 0.6, 4: 0.4, 8: 0.301, 16: 0.3}, extra={1: 20, 2: 30, 4: 50, 8: 90, 16: 170}
    )
    assert [found.fitting(free) for free in (25, 37.5, 125, 1e3)] == [1, 2, 9, 79]  # 80 % of it, 10 a member
    assert [found.best(free) for free in (1, 62.5, 125, 1e9)] == [1, 4, 8, 8]
    assert Measurement({1: 1.0}, {1: 5}).best(1e9) == 1


def test_sizes_are_measured_once_on_the_runs_at_hand(make_jobs, monkeypatch):
    """Real steps, real memory; then from the stored measurement, and again for runs of another kind."""
    configs = [job.config for job in make_jobs(6)]
    tried: list[int] = []
    monkeypatch.setattr(fleet_size, "free_memory", lambda device: 2**40)  # the peak is of this process, whatever it did
    size = size_for(configs, Resources(), trying=tried.append)
    found = known(configs[0], fleet_key(configs[0]))
    assert tried[:3] == [1, 2, 4] and found is not None and set(found.seconds) == set(found.extra) == set(tried)
    assert size in tried and all(seconds > 0 for seconds in found.seconds.values())
    assert size_for(configs, Resources(), trying=tried.append) == size and len(tried) == len(found.seconds)
    assert known(configs[0], "another kind") is None

    def out_of_memory(some, resources, step=fleet_size._time):
        if len(some) > 2:
            raise MemoryError("out of memory")
        return step(some, resources)

    monkeypatch.setattr(fleet_size, "_time", out_of_memory)
    other = [job.config for job in make_jobs(6, "trainer.batch_size=1")]
    assert size_for(other, Resources()) in (1, 2)


def test_a_queue_waits_for_the_size_and_then_gives_fleets_of_it(make_jobs, monkeypatch):
    monkeypatch.setattr("sdpet.study.run_queue.worth_measuring", lambda config, runs: runs > 4)
    jobs, few = make_jobs(6), make_jobs(2, "trainer.batch_size=1")
    queue = RunQueue([*jobs, *few], "auto", workers=1)
    assert queue.next() == few and queue.next() == [] and queue.waiting
    key, unsized = queue.to_measure()
    assert unsized == jobs and queue.to_measure() is None and queue.next() == [] and queue.waiting
    queue.measured(key, 3)
    assert [queue.next(), queue.next(), queue.next()] == [jobs[:3], jobs[3:], []] and not queue.waiting
    queue.split_and_requeue(jobs[:3])
    assert [queue.next(), queue.next()] == [jobs[:2], jobs[2:3]]


def test_a_study_measures_its_size_and_a_worker_that_dies_of_it_does_no_harm(
    tiny_folder, subject_folders, tmp_path, monkeypatch
):
    """As launched, with workers; sitecustomize makes the measuring worker die at size 4."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "import sdpet.study.fleet_size as fleet_size\n"
        "fleet_size.WORTH = 1\n"
        "if '-m' in sys.orig_argv and 'sdpet.study.worker_process' in sys.orig_argv:\n"
        "    step = fleet_size._time\n"
        "    fleet_size._time = lambda configs, made: os._exit(9) if len(configs) == 4 else step(configs, made)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = tmp_path / "out"
    overrides = tiny_overrides(tiny_folder, subject_folders, out)
    ended = train("-m", *overrides, "seed=range(5)", "study=dies", "hydra.launcher.workers=2")
    assert ended.returncode == 0, ended.stderr
    assert [Record.read(path.parent).status for path in (out / "dies").glob("*/record.json")] == ["finished"] * 5
    ended = train("-m", *overrides, "seed=range(5,10)", "study=dies", "hydra.launcher.workers=1")
    assert ended.returncode == 0, ended.stderr
    kept = [json.loads(file.read_text()) for file in (out / ".fleets").iterdir()]
    assert len(kept) == 1 and {"1", "2", "4"} <= kept[0]["seconds"].keys()


def test_workers_are_spread_over_the_gpus_that_may_be_used(make_jobs, monkeypatch):
    jobs = make_jobs(6)
    given = []

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5,GPU-77")
    assert workers.gpus_for(jobs) == []
    on_cuda = [Job((), j.config.changed(trainer={"device": "cuda"}), j.folder, "") for j in jobs]
    gpus = workers.gpus_for(on_cuda)
    assert gpus == ["3", "5", "GPU-77"] and workers.how_many("auto", gpus) == 3
    monkeypatch.setattr(launch, "_in_workers", lambda queue, progress, names, parent: given.extend(names))
    launch.launch(jobs, 5, StudyProgressBar(6, quiet=True), gpus=gpus)
    assert given == ["3", "5", "GPU-77", "3", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert workers.gpus_for(on_cuda) == [] and workers.how_many("auto", []) == workers.usable_cores()
    with pytest.raises(ValueError, match="workers must be auto or a whole number"):
        workers.how_many(0, [])


def test_a_worker_sees_its_gpu_alone():
    worker = workers.Worker("7")
    try:
        environment = Path(f"/proc/{worker.process.pid}/environ")
        until = time.monotonic() + 10
        while not (content := environment.read_text()) and time.monotonic() < until:  # the process is being started
            time.sleep(0.01)
        assert "CUDA_VISIBLE_DEVICES=7" in content.split("\0")
    finally:
        worker.request_stop()
        worker.wait()
