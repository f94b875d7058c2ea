"""Eight options swept at once come out as eight factors with the right levels, wherever a study is looked at."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study_tools import module, train

import analysis
from sdpet.lab.drawing import render
from sdpet.lab.world import sample_scenes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # 14 runs by five commands

LEVELS = {
    "task": {"dreambooth", "finetune"},
    "data": {"folder", "captions", "lab"},
    "ema": {"null", "0.9"},
    "sampler": {"ddim", "dpm"},
    "prompt_images": {0, 1},
    "activation": {"relu", "sig"},
    "method": {"adapter", "lora"},
    "min_snr": {"null", "5"},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i, image in enumerate(render(sample_scenes(24, seed=1))):
        Image.fromarray(np.asarray(image, np.uint8)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"a picture number {i}")
    return folder


@pytest.fixture(scope="module")
def study(pictures, tiny_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    small = [
        "unet=folder", f"unet.path={tiny_folder}", f"output_root={out}", "study=eight", "logger=wandb",
        "logger.mode=offline", "trainer.steps=2", "sampler.steps=2", "eval.subject_images=1", "eval.class_images=0",
        "eval.noise_images=0", "eval.images=2", "eval.prompts=['{prompt} at night']", "task.reg_weight=0",
        "eval.scorer._target_=tiny_scorer.TinyScorer", "adapter.params=2000", "quiet=true", "hydra/launcher=local",
        "hydra.launcher.workers=1",
    ]  # fmt: skip
    folder = ["data=folder", f"data.subject={pictures}", "data.class_word=thing"]
    swept = [  # by hand, over several commands, as people do; each leaves some options at their default
        ["task.min_snr=null,5", "trainer.ema=null,0.9", "eval.prompt_images=0,1"],
        ["sampler=ddim,dpm", "adapter.activation=relu,sig", "eval.prompt_images=1"],
        ["adapter=lora", "eval.prompt_images=1"],
        [*folder, "eval.prompt_images=0"],
    ]
    for more in swept:
        done = train("-m", *small, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    plain = [text for text in small if not text.startswith("task.reg")]
    done = train("-m", *plain, "task=finetune", "data=captions", f"data.folder={pictures}", "eval.prompt_images=0")
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "eight"


def test_they_are_columns_with_all_levels(study):
    runs = analysis.load_results(study)
    assert set(analysis.factor_columns(runs)) == set(LEVELS)
    assert {name: set(runs[name].dropna()) for name in LEVELS} == LEVELS


def test_they_are_in_the_reports_text_and_csv(study, tmp_path):
    done = module("analysis", str(study), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {name: {row[name] for row in rows} - {""} for name in LEVELS}
    assert found == {name: {str(level) for level in levels} for name, levels in LEVELS.items()}
    page = (tmp_path / "index.html").read_text()
    section = page[page.index('id="settings"') :]
    for name in LEVELS:
        assert re.search(rf"<td[^>]*>{name}</td>", section), name


def test_a_file_of_the_frame_has_the_same_factors(study, tmp_path):
    runs = analysis.load_results(study)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    again = analysis.load_results(tmp_path / "runs.csv")
    assert set(analysis.factor_columns(again)) == set(LEVELS)
    assert set(again["min_snr"]) == LEVELS["min_snr"]


def test_they_are_in_the_config_of_wandb(study):
    files = sorted((study / "wandb").glob("offline-run-*/*.wandb"))
    found: dict[str, set[str]] = {name: set() for name in LEVELS}
    for file in files:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(file)]
        told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
        for name in LEVELS:
            assert name in told["config"], name
            found[name].add(str(told["config"][name]))
    assert {name: len(levels) for name, levels in found.items()} == {
        name: len(levels) + (name == "activation") for name, levels in LEVELS.items()  # LoRA has none
    }  # fmt: skip


def test_offline_runs_of_wandb_load_like_the_folders(study):
    from analysis.runs.load_wandb import read_offline

    told = read_offline(study, [])
    runs = analysis.load_results(study)
    assert set(told.keys) == set(runs.attrs["keys"])
    assert {name: {row[name] for row in told.rows} - {None} for name in told.keys} == {
        name: set(runs[name].dropna()) for name in told.keys
    }
