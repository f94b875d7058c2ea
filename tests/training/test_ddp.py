"""One run on several processes (gloo, on the CPU): the adapters of one process, within rounding."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from safetensors.numpy import load
from study_tools import ROOT, composed, environment, records, start, tiny_overrides, train

from sdpet.runs import Record, Resources, run
from sdpet.runs.distributed import alone_on_its_gpu
from sdpet.training import Rank

DDP = ("trainer=ddp", "trainer.device=cpu", "trainer.precision=32-true", "unet.dtype=float32", "trainer.lr=3e-3")
TOLERANCE = 1e-5  # of the norm of the adapters; 1.6e-7 was seen


@pytest.fixture
def overrides(tiny_folder, subject_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    return [*tiny_overrides(tiny_folder, subject_folders, tmp_path), *DDP, "trainer.steps=6"]


def other_ranks() -> list[psutil.Process]:
    """Processes that train a run together with this one. Other tests may have left a child of another kind."""
    children = psutil.Process().children()
    return [child for child in children if child.is_running() and "sdpet.runs.distributed" in child.cmdline()]


def difference(ours: bytes, theirs: bytes) -> float:
    """Distance between two sets of weights, relative to the norm of the second."""
    a, b = load(ours), load(theirs)
    assert a.keys() == b.keys()
    distance = sum(float(((a[key] - b[key]) ** 2).sum()) for key in a)
    return (distance / sum(float((b[key] ** 2).sum()) for key in b)) ** 0.5


def test_two_processes_give_the_adapters_of_one(overrides, tmp_path):
    """With clipping, whose norm is that of the whole batch; only rank 0 leaves anything behind."""
    given = [*overrides, "trainer.clip=0.05", "trainer.batch_size=4"]
    one = run(composed(*given, "trainer.devices=1", "study=one"), Resources())
    before = dict(os.environ)
    watched = ("logger=csv", "trainer.validate_every=3", "trainer.strategy=ddp_find_unused_parameters_true")
    two = run(composed(*given, "study=two", *watched), Resources())
    assert (one.status, two.status) == ("finished", "finished"), two.reason
    (alone,), (together,) = records(tmp_path / "one").values(), records(tmp_path / "two").values()
    assert alone != b"" and difference(together, alone) < TOLERANCE
    assert [loss for _, loss in two.loss] == pytest.approx([loss for _, loss in one.loss], rel=1e-5)
    assert two.metrics == pytest.approx(one.metrics, abs=2e-3)
    folders = {path.name for path in (tmp_path / "two").iterdir() if path.name[0] != "."}
    assert folders == {"base", two.run_id} and len((tmp_path / "two" / two.run_id / "loss.csv").open().readlines()) == 7
    validated = sorted(path.name for path in (tmp_path / "two" / two.run_id / "validation").iterdir())
    assert validated == ["000003", "000006"]
    assert dict(os.environ) == before and not other_ranks()


@pytest.mark.parametrize(("visible", "seen"), [(1, (0, 1, 6)), (2, (1, 2, 3))])
def test_a_process_that_sees_one_gpu_uses_it(monkeypatch, visible, seen):
    """Under srun --gpus-per-task=1, the GPU of the second process on a machine is cuda:0 to it."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    rank = alone_on_its_gpu(Rank(3, 1, 2, 3, "there", 1))
    assert (rank.rank, rank.world, rank.local, rank.per_node, rank.nodes) == (3, 6, *seen)


def test_a_process_that_dies_fails_its_run_with_the_reason(overrides):
    """No hang: the run ends with a record, and no process is left over."""

    def kill_soon():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (others := other_ranks()):
            time.sleep(0.01)
        others[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_soon)
    killer.start()
    record = run(composed(*overrides, "study=dying", "trainer.steps=100000"), Resources())
    killer.join()
    assert record.status == "failed" and "process 1 of 2 ended with status -9" in record.reason
    assert not other_ranks()


@pytest.mark.slow
def test_a_multirun_of_such_runs_lands_in_the_right_folders(overrides, tmp_path):
    overrides = [*overrides, "trainer.accumulate=2"]
    alone = train("-m", *overrides, "trainer.devices=1", "seed=0,1", "study=one", "hydra.launcher.workers=1", anew=True)
    several = train("-m", *overrides, "seed=0,1", "study=two", "hydra.launcher.workers=2", cwd=tmp_path, anew=True)
    assert (alone.returncode, several.returncode) == (0, 0), several.stderr
    found = {name: {Record.read(p.parent).factors["seed"]: p.parent for p in (tmp_path / name).glob("*/record.json")}
             for name in ("one", "two")}  # fmt: skip
    assert found["one"].keys() == found["two"].keys() == {0, 1}
    for seed, folder in found["two"].items():
        ours, theirs = (next(path.glob("*.safetensors")).read_bytes() for path in (folder, found["one"][seed]))
        assert difference(ours, theirs) < TOLERANCE
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {
        "one",
        "two",
    }  # nothing in the current folder


@pytest.mark.slow
def test_processes_that_torchrun_has_started_train_together(overrides, tmp_path):
    """As srun does on several machines; asked for again, nothing is done."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    for _ in range(2):
        ended = subprocess.run([*launcher, str(ROOT / "train.py"), *overrides, "study=run"], env=environment(),
                               capture_output=True, text=True, timeout=300)  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("record  ") == 1
    one = run(composed(*overrides, "trainer.devices=1", "study=one"), Resources())
    ((theirs, folder),) = [(p.read_bytes(), p.parent) for p in (tmp_path / "run").glob("*/*.safetensors")]
    (alone,) = records(tmp_path / "one").values()
    assert difference(theirs, alone) < TOLERANCE
    assert json.loads((folder / "record.json").read_text())["metrics"] == pytest.approx(one.metrics, abs=2e-3)


@pytest.mark.slow
def test_killed_it_goes_on_from_its_checkpoint(overrides, tmp_path):
    """And the processes it started are gone when it is."""
    given = [*overrides, "trainer.steps=40", "study=killed", "checkpoint_seconds=0", "quiet=true"]
    process = start(*given)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not list((tmp_path / "killed" / ".checkpoints").glob("*.pt")):
        time.sleep(0.02)
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(others, timeout=20)
    assert others and not alive
    assert train(*given, anew=True).returncode == 0
    assert train(*given[:-3], "study=whole", anew=True).returncode == 0
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
