"""Studies through the launchers of others: fleets as their jobs, and every run there once whatever happens to a job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from study_tools import composed, records, tiny_overrides, train

from sdpet.commands.study_progress import StudyProgressBar
from sdpet.config import RunConfig, run_folder, validate
from sdpet.files import run_lock
from sdpet.runs import Record, factors
from sdpet.study import Job
from sdpet.study.other_launchers import launch_in_fleets, run_fleet_job
from sdpet.study.run_queue import pack

SMOKE = ("-m", "+sweeps=smoke", "hydra.sweeper.fleet_size=3")


@pytest.fixture
def jobs(tiny_folder, subject_folders, tmp_path):
    """Five runs, the last one of a method that cannot share a fleet."""
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path / "out")
    configs = [validate(composed(*given, f"seed={seed}")) for seed in range(4)]
    configs.append(validate(composed(*given, "adapter=full")))
    return [Job((), config, run_folder(config), f"run {i}") for i, config in enumerate(configs)]


@pytest.fixture
def done(monkeypatch):
    """Runs that were done, in order, by a stand-in for training that writes a record."""
    folders = []

    def run_together(configs, resources=None, progress=None, done=None):
        found = []
        for config in configs:
            folder = run_folder(config)
            with run_lock(folder) as mine:
                if mine and Record.find(folder) is None:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / "config.yaml").touch()
                    (folder / "samples").mkdir(exist_ok=True)
                    (folder / "samples" / "index.jsonl").touch()
                    Record(folder.name, "s", "finished", factors(config), {}).write(folder)
                    folders.append(folder)
            found.append(Record.find(folder))
        return found

    monkeypatch.setattr("sdpet.runs.run_together", run_together)
    return folders


QUIET = StudyProgressBar(5, quiet=True)


class Cluster:
    """A launcher whose job n calls fate[n], if there is such, instead of doing its fleet."""

    def __init__(self, **fate):
        self.fate = {int(name[1:]): act for name, act in fate.items()}
        self.sizes = []

    def launch(self, job_overrides, initial_job_idx):
        returned = []
        for n, (override,) in enumerate(job_overrides, initial_job_idx):
            file = override.removeprefix("+fleet='").removesuffix("'")
            self.sizes.append(len(configs_in(file)))
            result = JobReturn(overrides=[override], status=JobStatus.COMPLETED)
            try:
                self.fate[n](file) if n in self.fate else run_fleet_job(file)
            except ValueError as error:  # what Hydra catches; the rest is the death of a process
                result.status, result.return_value = JobStatus.FAILED, error
            returned.append(result)
        return returned


def configs_in(file):
    return json.loads(Path(file).read_text())["configs"]


def begin_and_die(file):
    """As a worker that is killed in the middle: a folder without a record stays."""
    for config in configs_in(file):
        run_folder(RunConfig(config)).mkdir(parents=True, exist_ok=True)
    raise RuntimeError("node failure")


def test_a_fleet_is_a_job_and_holds_what_can_share_it(jobs, done, capsys):
    cluster = Cluster()
    assert [len(fleet) for fleet in pack(jobs, 3)] == [2, 2, 1]
    launch_in_fleets(cluster, jobs, 3, StudyProgressBar(5))
    assert cluster.sizes == [2, 2, 1] and sorted(done) == sorted(job.folder for job in jobs)
    assert capsys.readouterr().out.count("finished") == 5  # reported as their records appear
    assert [path.name for path in jobs[0].folder.parent.iterdir() if path.name == ".fleets"] == []


def test_runs_of_dead_jobs_are_launched_again_in_halves(jobs, done):
    """The first job dies, and all of the second launch: still every run is done once."""
    cluster = Cluster(_0=begin_and_die, _1=begin_and_die)
    launch_in_fleets(cluster, jobs[:4], 4, QUIET)
    assert cluster.sizes == [4, 2, 1, 1, 1, 1]
    assert sorted(done) == sorted(job.folder for job in jobs[:4])


def test_a_run_whose_job_dies_alone_is_recorded_as_failed(jobs, done):
    always = {f"_{n}": begin_and_die for n in range(20)}
    launch_in_fleets(Cluster(**always), jobs[:2], 2, QUIET)
    found = [Record.find(job.folder) for job in jobs[:2]]
    assert [record.status for record in found] == ["failed", "failed"]
    assert "node failure" in found[0].reason


def test_a_launcher_that_cannot_start_ends_in_one_sentence(jobs):
    def no_slurm(file):
        raise RuntimeError("Could not detect sbatch, are you indeed on a slurm cluster?")

    with pytest.raises(ValueError, match="Could not detect sbatch"):
        launch_in_fleets(Cluster(_0=no_slurm), jobs, 16, QUIET)
    with pytest.raises(ValueError, match="share"):  # jobs end, but what they write is not seen here
        launch_in_fleets(Cluster(**{f"_{n}": lambda file: None for n in range(9)}), jobs[:1], 16, QUIET)


def test_a_full_disk_in_a_job_ends_the_study(jobs):
    def full(file):
        raise OSError(28, "No space left on device", "x.pt")

    with pytest.raises(OSError, match="No space left"):
        launch_in_fleets(Cluster(_0=full), jobs, 16, QUIET)


def test_runs_that_another_study_is_doing_are_waited_for(jobs, done, monkeypatch):
    """Held by another process during the launch, then given up: done here after all."""
    monkeypatch.setattr("sdpet.study.other_launchers.POLL", 0.05)
    hold = f"""
import pathlib, time
from sdpet.files.lock import run_lock
with run_lock(pathlib.Path({str(jobs[0].folder)!r})):
    print(1, flush=True)
    time.sleep(3)
"""
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    other.stdout.readline()
    launch_in_fleets(Cluster(), jobs[:2], 2, QUIET)
    other.wait()
    assert sorted(done) == sorted(job.folder for job in jobs[:2])


def test_without_accounting_a_dead_job_of_slurm_is_noticed(tmp_path, monkeypatch):
    """sacct has nothing to tell there; submitit alone would take the job for one that is still to come."""
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    from sdpet.study.slurm import watch_jobs

    states = tmp_path / "states"
    for name, script in (("sacct", "exit 1"), ("squeue", f"cat {states}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(SlurmJob, "watcher", SlurmInfoWatcher())
    watch_jobs()

    def ended():
        time.sleep(0.01)  # it does not ask twice in a millisecond
        return {n for n in range(4) if SlurmJob.watcher.is_done(f"7_{n}", mode="force")}

    for n in range(4):
        SlurmJob.watcher.register_job(f"7_{n}")
    states.write_text("7_0|RUNNING|n1\n7_1|PENDING|\n7_2|FAILED|n2\n7_3|NODE_FAIL|n2\n8|RUNNING|n1\n")
    assert ended() == {2, 3}
    states.write_text("7_0|COMPLETING|n1\n8|RUNNING|n1\n")
    assert ended() == {1, 2, 3}, "what is no longer in the queue has ended"
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert ended() == {1, 2, 3}, "a controller that cannot be reached tells nothing"


@pytest.fixture(scope="module")
def local(tiny_folder, subject_folders, tmp_path_factory):
    """The smoke study in fleets of three on this machine."""
    out = tmp_path_factory.mktemp("local")
    here = ("hydra/launcher=fleet", "hydra.launcher.workers=1", "hydra.launcher.size=3")
    ended = train(*SMOKE, *tiny_overrides(tiny_folder, subject_folders, out), *here, cwd=out)
    assert ended.returncode == 0, ended.stderr
    return out / "smoke"


LAUNCHERS = {
    "submitit_local": (),
    "joblib": ("hydra.launcher.n_jobs=1",),
    "ray": ("hydra.launcher.ray.init.address=null", "+hydra.launcher.ray.init.num_cpus=1"),
    "basic": (),
}


@pytest.mark.parametrize("name", [n if n == "submitit_local" else pytest.param(n, marks=pytest.mark.slow)
                                  for n in LAUNCHERS])  # fmt: skip
def test_a_launcher_does_the_study_of_the_local_one(local, tiny_folder, subject_folders, tmp_path, name):
    """Bit for bit: the same fleets. Nothing is left in the current folder."""
    overrides = tiny_overrides(tiny_folder, subject_folders, tmp_path / "out")
    folder = tmp_path / "here"
    folder.mkdir()
    ended = train(*SMOKE, *overrides, f"hydra/launcher={name}", *LAUNCHERS[name], cwd=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "6 runs: 6 completed" in ended.stdout and "[6/6" in ended.stdout
    assert records(tmp_path / "out" / "smoke") == records(local)
    assert not list(folder.iterdir())


def test_callbacks_and_numbers_of_jobs_under_fleets(tiny_folder, subject_folders, tmp_path, monkeypatch):
    """As under Hydra's own launcher: each job starts and ends once, and ${hydra:job.num} counts them."""
    (tmp_path / "mine.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Told(Callback):\n"
        "    def _say(self, what):\n"
        "        with open('told.txt', 'a') as file: print(what, file=file)\n"
        "    def on_job_start(self, config, **more): self._say(f'start {config.hydra.job.num} {config.seed}')\n"
        "    def on_job_end(self, config, job_return, **more):\n"
        "        self._say(f'end {config.hydra.job.num} {job_return.return_value.metrics[\"clip_i\"] < 2}')\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    given = [*tiny_overrides(tiny_folder, subject_folders, tmp_path / "out"), "study=mine", "seed=${hydra:job.num}"]
    given += ["adapter=attn2o-ffni,ffni-transo", "+hydra.callbacks.mine._target_=mine.Told"]
    done = train("-m", *given, "hydra.launcher.workers=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "told.txt").read_text().split("\n")[:-1]
    assert sorted(told) == ["end 0 True", "end 1 True", "start 0 0", "start 1 1"]
    seeds = {json.loads(path.read_text())["factors"]["seed"] for path in (tmp_path / "out").glob("mine/*/record.json")}
    assert seeds == {0, 1}
