"""Runs and studies as a user starts them: the same records whatever happens on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import shared_server
from study_tools import ROOT, command, composed, environment, records, start, tiny_overrides, train

from sdpet.adapters import PLACEMENTS
from sdpet.config import run_folder, run_id, validate
from sdpet.files import run_lock
from sdpet.runs import Record, Resources, run

SIX = ("-m", "+sweeps=smoke", "hydra/launcher=local")  # one by one: equal to the last bit


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def overrides(tiny_folder, subject_folders, out):
    return tiny_overrides(tiny_folder, subject_folders, out)


@pytest.fixture(scope="session")
def resources():
    return Resources()


def scores(study):
    return {path.parent.name: json.loads(path.read_text())["metrics"] for path in study.glob("*/record.json")}


def test_a_run_leaves_one_complete_folder(overrides, out, resources):
    config = composed(*overrides, "logger=csv")
    record = run(config, resources)
    folder = run_folder(validate(config))
    assert record.status == "finished", record.reason
    assert folder == out / "single" / record.run_id
    assert record == Record.read(folder)
    assert record.factors["placement"] == "attn2o-ffni" and record.factors["mid_dim"] >= 1
    assert set(record.metrics) == set(record.anchors) == {"clip_i", "clip_t", "prior_drift", "noise_difference"}
    base = folder.parent / "base" / "seed0"
    assert sorted(p.name for p in base.rglob("*")) == sorted(
        p.name for p in [*folder.rglob("samples/*"), folder / "samples", folder / "noise_difference.npz"]
    )
    assert {"trainable_params", "base_params", "adapters", "bytes"} == set(record.sizes)
    assert abs(record.sizes["trainable_params"] - 24000) < 1000
    assert {"train", "per_step", "sample", "score", "total"} == set(record.seconds)
    assert len(record.loss) == 3 and record.versions["torch"]
    index = [json.loads(line) for line in (folder / "samples" / "index.jsonl").read_text().splitlines()]
    assert index and all((folder / "samples" / row["file"]).exists() for row in index)
    there = {path.name for path in folder.iterdir()}
    assert {"adapters.safetensors", "adapters.json", "config.yaml", "loss.csv"} < there
    assert len((folder / "loss.csv").read_text().splitlines()) == 4


def test_a_run_asked_for_twice_is_one_run(overrides, out, resources):
    first = run(composed(*overrides), resources)
    stamp = (out / "single" / first.run_id / "record.json").stat().st_mtime_ns
    again = run(composed(*overrides, "quiet=true", "logger=csv"), resources)
    assert again == first
    there = {path.name for path in (out / "single").iterdir() if not path.name.startswith(".")}
    assert there == {"base", first.run_id}  # base: the samples of the untuned model
    assert (out / "single" / first.run_id / "record.json").stat().st_mtime_ns == stamp


def test_runs_of_one_process_do_not_leak_into_each_other(overrides, out, resources):
    """Full tuning, then an adapter: the adapter's run is that of a fresh process."""
    run(composed(*overrides, "adapter=full", "study=a"), resources)
    after = run(composed(*overrides, "study=a"), resources)
    fresh = run(composed(*overrides, "study=b"), Resources())
    assert after.loss == fresh.loss
    # Sampled images are 8-bit; the predicted noise itself may differ in float32's last bit from process to process.
    assert after.metrics == pytest.approx(fresh.metrics, rel=1e-5)
    assert {k: after.metrics[k] for k in ("clip_i", "clip_t")} == {k: fresh.metrics[k] for k in ("clip_i", "clip_t")}
    assert records(out / "a")[after.run_id] == records(out / "b")[fresh.run_id]


def test_a_run_that_fails_is_recorded_and_tried_again_when_asked(overrides, out, resources, monkeypatch):
    config = composed(*overrides)
    with monkeypatch.context() as broken:
        broken.setattr("sdpet.training.fit_together", lambda *a, **k: 1 / 0)
        record = run(config, resources)
    folder = out / "single" / record.run_id
    assert (record.status, record.reason) == ("failed", "ZeroDivisionError: division by zero")
    assert "Traceback" in (folder / "error.txt").read_text()
    assert run(config, resources).status == "finished"
    assert not (folder / "error.txt").exists()


def test_a_run_that_diverges_is_recorded_and_not_tried_again(overrides, resources):
    config = composed(*overrides, "trainer.lr=1e30", "trainer.steps=6")
    record = run(config, resources)
    assert record.status == "diverged" and "finite" in record.reason
    assert record.metrics == {} and record.loss
    assert run(config, resources) == record


def test_what_an_interrupted_run_left_is_cleared_away(overrides, out, resources, monkeypatch):
    config = composed(*overrides)
    folder = run_folder(validate(config))
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "99999.png").write_text("left over")
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("sdpet.training.fit_together", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        run(config, resources)
    assert not folder.exists()
    assert run(config, resources).status == "finished"
    assert not (folder / "samples" / "99999.png").exists()


def test_a_claim_is_exclusive_and_dies_with_its_owner(tmp_path):
    with run_lock(tmp_path / "run") as mine:
        assert mine
        with run_lock(tmp_path / "run") as second:
            assert not second
    child = os.fork()
    if child == 0:
        with run_lock(tmp_path / "run"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with run_lock(tmp_path / "run") as after_death:
        assert after_death


def test_a_claimed_run_is_left_alone(overrides, resources):
    config = composed(*overrides)
    with run_lock(run_folder(validate(config))):
        assert run(config, resources) is None


def test_the_placement_study_is_all_placements_and_three_seeds(overrides):
    """From any folder; what is given on the command line goes before the file."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from hydra_plugins.sdpet_sweeper import GridSweeper
    from sdpet.study import Composer, make_plan

    def plan(*arguments):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            given = [*overrides, *arguments]
            master = hydra.compose_config("config", list(given), RunMode.MULTIRUN, from_shell=False)
            sweeper = GridSweeper(master.hydra.sweeper.params)
            sweeper.hydra_context = type("Context", (), {"config_loader": hydra.config_loader})
            return make_plan(Composer(hydra.config_loader, master), sweeper.combinations(given))

    study = plan("+sweeps=placement")
    found = [(job.config.values["adapter"], job.config.seed) for job in study.jobs]
    cells = {(f"{adapter['din']}-{adapter['dout']}", seed) for adapter, seed in found}
    assert cells == {(placement, seed) for placement in PLACEMENTS for seed in (0, 1, 2)}
    assert len(study.jobs) == 60 and not study.dropped
    assert len({job.config.adapter.params for job in study.jobs}) == 1
    assert {job.folder.parent.name for job in study.jobs} == {"placement"}
    assert study.jobs[0].name == "attn1i-attn1i seed 0"

    mine = plan("+sweeps=placement", "seed=0,1,2,3,4", "study=mine", "trainer.lr=1e-3,2e-3")
    assert len(mine.jobs) == 200 and {job.folder.parent.name for job in mine.jobs} == {"mine"}
    assert mine.jobs[0].name == "attn1i-attn1i seed 0 lr 0.001"

    grid = plan("adapter.din=attn1i,attn2o", "adapter.dout=attn1i,ffni,transo", "seed=0,1")
    assert grid.dropped == ["attn2o-attn1i"] and len(grid.jobs) == 10
    assert plan("adapter.scale=1,1.0").doubled == 1
    for job in study.jobs[:3]:  # composed in short, yet as Hydra composes them one by one
        overridden = [o for o in job.overrides if not o.startswith("+sweeps")]
        assert run_id(validate(composed(*overridden))) == job.folder.name


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, subject_folders, tmp_path_factory):
    """The smoke study, done in one go by two workers: its folder and what was said."""
    out = tmp_path_factory.mktemp("undisturbed")
    ended = train(*SIX, *tiny_overrides(tiny_folder, subject_folders, out), "hydra.launcher.workers=2", cwd=out)
    assert ended.returncode == 0, ended.stderr
    return out / "smoke", ended


def test_a_study_says_what_was_done_and_litters_nothing(undisturbed):
    study, ended = undisturbed
    assert len(records(study)) == 6
    assert "6 runs: 6 completed" in ended.stdout and f"python -m analysis {study}" in ended.stdout
    assert ended.stderr == ""
    assert sorted(path.name for path in study.parent.iterdir()) == [".anchors", ".cache", ".features", "smoke"]


def test_a_study_asked_for_again_does_nothing(undisturbed, tiny_folder, subject_folders):
    study, _ = undisturbed
    ended = train(*SIX, *tiny_overrides(tiny_folder, subject_folders, study.parent))
    assert ended.returncode == 0 and "6 already complete" in ended.stdout


def wait_for(condition, process):
    """True when the condition holds while the process still works."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if condition():
            return True
        time.sleep(0.02)
    return False


def workers_of(process):
    import psutil

    return psutil.Process(process.pid).children(recursive=True)


SIGNALS = [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]


def test_stopped_just_after_its_record_a_run_keeps_it(overrides, out, resources, monkeypatch):
    def stop(folder):
        raise KeyboardInterrupt

    config = composed(*overrides)
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr("sdpet.runs.start.remove_checkpoint", stop)
        run(config, resources)
    folder = run_folder(validate(config))
    assert Record.find(folder) is not None and list((folder / "samples").glob("*.png"))


@pytest.mark.parametrize("sign", SIGNALS, ids=lambda sign: sign.name)
def test_killed_and_started_again_it_ends_with_the_same_records(undisturbed, overrides, out, sign):
    import psutil

    process = start(*SIX, *overrides, "hydra.launcher.workers=2")
    study = out / "smoke"
    assert wait_for(lambda: len(records(study)) >= 1, process), process.communicate()[0]
    workers = workers_of(process)
    process.send_signal(sign)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and len(records(study)) < 6
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    if sign != signal.SIGKILL:
        folders = {path.name for path in study.iterdir() if not path.name.startswith(".")}
        assert folders - {"base"} == set(records(study))  # nothing half done
    before = records(study)
    ended = train(*SIX, *overrides, "hydra.launcher.workers=1", "quiet=true")
    assert ended.returncode == 0 and f"{len(before)} already complete" in ended.stdout
    assert ended.stdout.startswith("6 runs") and ended.stderr == ""
    assert records(study) == records(undisturbed[0])  # also: the same in this process as in workers
    assert scores(study) == scores(undisturbed[0])


def test_two_processes_on_one_study_share_it(undisturbed, overrides, out):
    server, said = shared_server(), [out.parent / name for name in ("csv", "none")]
    commands = [command(*SIX, *overrides, "hydra.launcher.workers=1", f"logger={text.name}")[1:] for text in said]
    pair = [server.start(words, environment(), None, text, text) for words, text in zip(commands, said, strict=True)]
    status, said = [server.wait(pid) for pid in pair], [text.read_text() for text in said]
    assert status == [0, 0], said
    assert records(out / "smoke") == records(undisturbed[0])
    assert sum(int(text.split("completed in")[0].split()[-1]) if "completed in" in text else 0 for text in said) >= 6


def test_a_failing_run_stops_no_other_and_shows_in_the_exit_status(overrides, out, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    good = next(override.split("=")[1] for override in overrides if override.startswith("data.class_dir"))
    whole = sorted(Path(good).glob("*.png"))[0].read_bytes()
    (photos / "broken.png").write_bytes(whole[: len(whole) // 2])  # it opens, but cannot be read to its end
    ended = train("-m", *overrides, f"data.class_dir={photos},{out.parent / 'class_copy'}", "study=mixed", "quiet=true")
    assert ended.returncode == 1  # class_copy does not exist: refused before any work
    assert not (out / "mixed").exists()
    ended = train("-m", *overrides, f"data.class_dir={photos},{good}", "study=mixed", "hydra.launcher.workers=1")
    assert ended.returncode == 1
    assert len(records_by_status(out / "mixed", "finished")) == 1
    (failed,) = records_by_status(out / "mixed", "failed")
    assert "readable image" in failed.reason and failed.run_id in ended.stdout


def records_by_status(study, status):
    found = [Record.read(path.parent) for path in study.glob("*/record.json")]
    return [record for record in found if record.status == status]


@pytest.mark.slow
def test_a_worker_that_dies_is_a_failed_run(overrides, out):
    """As when the system kills a process that takes too much memory."""
    process = start("-m", *overrides, "seed=0,1", "study=dying", "trainer.steps=100000", "hydra.launcher.workers=2")
    assert wait_for(lambda: len(list((out / "dying").glob("*/config.yaml"))) == 2, process), process.communicate()[0]
    for worker in workers_of(process):
        worker.kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    failed = records_by_status(out / "dying", "failed")
    assert len(failed) == 2 and all("signal 9" in record.reason for record in failed), said


def test_scored_again_the_older_scores_stay(undisturbed):
    study, _ = undisturbed
    folder = next(path.parent for path in study.glob("*/record.json"))
    before = Record.read(folder)
    score_again(folder, "sampler.guidance=3")
    after = Record.read(folder)
    assert (after.metrics, after.protocol) == (before.metrics, before.protocol)
    (more,) = after.evaluations
    assert more["protocol"]["sampler"]["guidance"] == 3 and set(more["metrics"]) == set(before.metrics)
    assert (folder / more["samples"] / "index.jsonl").exists()
    score_again(folder, "sampler.guidance=3")
    assert Record.read(folder) == after
    score_again(folder, "sampler=ddim", "sampler.steps=2")
    assert [entry["protocol"]["sampler"]["name"] for entry in Record.read(folder).evaluations] == ["dpm", "ddim"]
    with pytest.raises(ValueError, match="seed"):
        score_again(folder, "+seed=3")


def score_again(folder, *overrides):
    from hydra import compose, initialize_config_dir

    from sdpet.commands.evaluate_runs import evaluate_again

    given = [f"run={folder}", "trust=true", *overrides]  # its scorer is one of these tests
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        evaluate_again(compose("evaluate", given), given)


@pytest.mark.slow
def test_wandb_keeps_runs_of_one_process_apart(overrides, out):
    """Offline; each run is closed, the failed one as failed."""
    ended = train("-m", *overrides, "seed=0,1", "study=wb", "logger=wandb", "hydra.launcher.workers=1")
    assert ended.returncode == 0, ended.stderr
    files = sorted((out / "wb" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    for file in files:
        assert file.read_bytes().count(b"trainable_params") == 1


@pytest.mark.slow
def test_other_launchers_do_the_same_study(undisturbed, overrides, out):
    ended = train(*SIX[:2], *overrides, "hydra/launcher=basic", "hydra.sweeper.fleet_size=1")
    assert ended.returncode == 0, ended.stderr
    assert records(out / "smoke") == records(undisturbed[0])


def test_a_study_in_fleets_is_the_study_one_by_one(undisturbed, overrides, out):
    """With a run that cannot share (full tuning) and one that diverges; each has its folder, log and status."""
    from safetensors.numpy import load

    fleet = ("hydra/launcher=fleet", "hydra.launcher.workers=1", "logger=csv")
    ended = train(*SIX[:2], *overrides, *fleet)
    assert ended.returncode == 0, ended.stderr
    ours, theirs = records(out / "smoke"), records(undisturbed[0])
    assert ours.keys() == theirs.keys()
    for name in ours:
        a, b = load(ours[name]), load(theirs[name])
        assert a.keys() == b.keys()
        difference = sum(float(((a[key] - b[key]) ** 2).sum()) for key in a)
        assert difference < 1e-8 * sum(float((b[key] ** 2).sum()) for key in b)
        assert len((out / "smoke" / name / "loss.csv").read_text().splitlines()) == 4
    for name, metrics in scores(out / "smoke").items():
        assert metrics == pytest.approx(scores(undisturbed[0])[name], abs=2e-3)
    mixed = ["adapter=attn2o-ffni,full", "trainer.lr=1e-3,1e30", "trainer.steps=6", "study=mixed"]
    ended = train("-m", *overrides, *mixed, *fleet[:2])
    statuses = sorted(Record.read(path.parent).status for path in (out / "mixed").glob("*/record.json"))
    assert statuses == ["diverged", "diverged", "finished", "finished"]
    assert ended.returncode == 0 and not list((out / "mixed").glob(".checkpoints/*"))


def test_a_fleet_with_too_little_memory_is_halved(overrides, out, monkeypatch):
    """An error stops only the runs that have it alone."""
    import sdpet.training.trainer
    from sdpet.runs import run_together

    sizes, original = [], sdpet.training.trainer.fit_together

    def small(base, members, *more):
        sizes.append(len(members))
        if len(members) > 1:
            raise MemoryError("out of memory")
        if members[0].seed == 2:
            raise ZeroDivisionError("its own fault")
        return original(base, members, *more)

    monkeypatch.setattr("sdpet.training.fit_together", small)
    records = run_together([composed(*overrides, f"seed={seed}", "study=oom") for seed in range(3)], Resources())
    assert sizes == [3, 2, 1, 1, 1]
    assert [record.status for record in records] == ["finished", "finished", "failed"]
    assert records[2].reason == "ZeroDivisionError: its own fault"


def test_a_killed_fleet_goes_on_from_its_checkpoint(overrides, out):
    from sdpet.runs import run_together
    from sdpet.runs.checkpoint import checkpoint_file

    configs = [
        composed(*overrides, f"seed={seed}", "study=again", "logger=csv", "checkpoint_seconds=0") for seed in range(2)
    ]
    whole = run_together([composed(*overrides, f"seed={seed}", "study=whole") for seed in range(2)], Resources())
    stop = iter([False, False, False, True])

    def progress(phase, done, total, *loss):
        if next(stop):  # after two steps of both: in the third
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_together(configs, Resources(), progress)
    folders = [run_folder(validate(config)) for config in configs]
    assert all(checkpoint_file(folder).exists() and not folder.exists() for folder in folders)
    seen = []
    again = run_together(
        configs, Resources(), lambda phase, done, *more: seen.append(done) if phase == "train" else None
    )
    assert min(seen) > 1 and [record.loss for record in again] == [record.loss for record in whole]
    assert records(out / "again") == records(out / "whole")
    assert not any(checkpoint_file(folder).exists() for folder in folders)
    assert len((folders[0] / "loss.csv").read_text().splitlines()) == 4


def test_a_signal_that_strikes_in_a_destructor_still_ends_the_process():
    program = """
import os, signal, time
from sdpet.study.signals import exit_on_sigterm
class Struck:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
exit_on_sigterm("farewell")
try:
    Struck()
    time.sleep(20)
finally:
    print("cleared away", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=15)
    assert ended.returncode == 143 and ended.stdout == "cleared away\n"
    assert ended.stderr.strip() == "farewell"
