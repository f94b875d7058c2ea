"""The same study on another device or in another precision: one study, each run once."""

from __future__ import annotations

import numpy as np
import pytest
from study_tools import composed, tiny_overrides, train
from test_planning import sweeper_of  # noqa: F401 (a fixture)

import analysis
from sdpet.commands.train import TrainCommand
from sdpet.config import run_folder, run_id, validate
from sdpet.runs import Record, factors, prepare_run_folder
from sdpet.study.manifest import read_manifest
from sdpet.study.plan import make_plan

GRID = ("adapter=attn2o-ffni,ffni-transo,resi-reso",)
GPU = ("trainer.device=cuda", "trainer.precision=bf16-mixed", "trainer.threads=4", "trainer.grad_checkpointing=true")
WAYS = ("trainer.devices=2", "trainer.compile=true")


class Launcher:
    """Writes the record that a run would end with, in a folder made as runs make it."""

    fleet_size = 1

    def __init__(self):
        self.launched = []

    def launch(self, job_overrides, initial_job_idx):
        for job in make_plan(self.composer, job_overrides).jobs:
            self.launched.append(job.folder.name)
            finish(job.folder, job.config, 0.5 + 0.1 * np.random.default_rng(len(self.launched)).standard_normal())
        return []


def finish(folder, config, clip_i):
    prepare_run_folder(folder, config, resumes=False)
    (folder / "samples").mkdir()
    (folder / "samples" / "index.jsonl").touch()
    record = Record(folder.name, config.study, "finished", factors(config), {"name": "dreambooth"})
    record.metrics, record.sizes = {"clip_i": clip_i}, {"trainable_params": 1}
    record.write(folder)


@pytest.fixture
def study(sweeper_of, tmp_path, monkeypatch):  # noqa: F811
    """A function that does a study as the command does; returns the ids of the runs that were done."""
    monkeypatch.setattr("sdpet.config.checks._check_trainer", lambda trainer: None)  # no GPU here
    launcher = Launcher()

    def do(*given, seed="0,1"):
        before = len(launcher.launched)
        sweeper_of(launcher=launcher).sweep([*GRID, f"seed={seed}", f"output_root={tmp_path}", "study=mine", *given])
        return launcher.launched[before:]

    return do


def residual_df(folder):
    runs = analysis.load_results(folder)
    return analysis.anova(runs, "clip_i", ["placement"], block="seed").loc["residual", "df"], runs


def test_begun_on_a_laptop_and_finished_on_a_gpu_it_is_one_study(study, tmp_path, capsys):
    laptop = study(seed="0")
    assert len(laptop) == 3
    capsys.readouterr()
    gpu = study(*GPU)
    assert len(gpu) == 3 and not set(gpu) & set(laptop)  # seed 1 only
    plan = read_manifest(tmp_path / "mine")
    assert set(plan.runs) == {*laptop, *gpu}
    df, runs = residual_df(tmp_path / "mine")
    assert df == 2 and len(runs) == 6
    said = " ".join(runs.attrs["notes"])
    assert "computed in 2 ways, which are no factor here: " in said
    assert "3 with device cuda, threads 4, precision bf16-mixed" in said and "3 with device cpu, threads 1" in said
    assert study(*GPU, *WAYS) == [] and study() == []


def test_what_is_asked_for_again_is_no_replicate(study, tmp_path):
    assert len(study()) == len(study(*GPU, "again=true")) == 6
    df, runs = residual_df(tmp_path / "mine")
    assert df == 2 and len(runs) == 6  # of 12: 2 degrees of freedom, not 8
    assert any("6 of 12 runs repeat another run with the same seed" in note for note in runs.attrs["notes"])


def test_a_way_that_a_command_compares_is_a_question(study, tmp_path):
    assert len(study()) == 6
    assert len(study("trainer.precision=32-true,bf16-mixed")) == 6  # 6 of the 12 are there
    assert read_manifest(tmp_path / "mine").ways == ("precision",)
    assert len(analysis.load_results(tmp_path / "mine")) == 12
    assert len(study("trainer.lr=1e-4")) == 6  # what is no way of computing is another run


def test_one_run_is_not_done_again_either(tiny_folder, subject_folders, tmp_path):
    given = [*tiny_overrides(tiny_folder, subject_folders, tmp_path)]
    config = validate(composed(*given, "trainer.threads=2"))
    folder = run_folder(config)
    finish(folder, config, 0.5)
    again = train(*given, "quiet=true")
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stdout and "computed  with trainer.threads=2" in again.stdout
    assert [path.parent.name for path in folder.parent.glob("*/record.json")] == [folder.name]
    assert TrainCommand(composed(*given, "again=true")).folder != folder
    assert run_id(config) == folder.name


def test_what_workers_note_is_said_once(tiny_folder, subject_folders, tmp_path):
    long = "a photo of a sks " + "red star " * 30
    given = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), "study=mine", f"data.prompt={long}"]
    done = train("-m", *given, "seed=0,1,2,3", "hydra/launcher=local", "hydra.launcher.workers=2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The text encoder reads the beginning of") == 1, done.stderr
