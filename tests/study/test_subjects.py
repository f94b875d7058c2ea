"""Subjects as levels: the layout of the public DreamBooth data set, scores of single images, tests over subjects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study_tools import SMALL, composed, train

import analysis
from sdpet.config import run_id, settings_of, validate
from sdpet.config.dreambench import read_dreambench
from sdpet.lab.drawing import render
from sdpet.lab.world import sample_scenes
from sdpet.runs import run_together

SUBJECTS = {"can": "can", "cat2": "cat", "duck_toy": "toy"}
# In the layout of prompts_and_classes.txt of github.com/google/dreambooth, with other prompts.
TEXT = """Classes

subject_name,class
can,can
cat2,cat
duck_toy,toy
lost,vase

Prompts

Object Prompts

prompt_list = [
'a {0} {1} under a tree'.format(unique_token, class_token),
'a {0} {1} on ice, at dawn'.format(unique_token, class_token),
'a green {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} under a tree'.format(unique_token, class_token),
'a {0} {1} with a straw hat'.format(unique_token, class_token),
'a green {0} {1}'.format(unique_token, class_token)
]
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bench") / "dataset"
    for number, name in enumerate(SUBJECTS):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(render(sample_scenes(3, seed=number))):
            Image.fromarray(np.asarray(image, np.uint8)).save(root / name / f"{i:02d}.png")
    (root / "prompts_and_classes.txt").write_text(TEXT)
    return root


@pytest.fixture
def given(bench, tiny_folder, tmp_path):
    small = [text for text in SMALL if not text.startswith("eval.prompt")]
    return [
        "unet=folder", f"unet.path={tiny_folder}", "data=dreambench", f"data.root={bench}", "task.reg_weight=0",
        f"output_root={tmp_path / 'out'}", "study=s", "quiet=true", *small, "eval.prompt_images=1",
        "eval.noise_images=0", "eval.class_images=0",
    ]  # fmt: skip


def test_classes_and_prompts_are_those_of_the_file(bench, given):
    found = read_dreambench(bench)
    assert found.classes == SUBJECTS  # lost has no folder
    assert read_dreambench(bench.parent).root == bench  # a clone of the repository is above it
    assert found.objects[1] == "a {subject} on ice, at dawn" and found.living[1] == "a {subject} with a straw hat"

    can, cat = (validate(composed(*given, f"data.subject={name}")) for name in ("can", "cat2"))
    assert (can.data.prompt, cat.data.class_prompt) == ("a photo of a sks can", "a photo of a cat")
    assert can.eval.plan["prompts"] == found.objects and cat.eval.plan["prompts"] == found.living
    assert validate(composed(*given, "data.subject=cat2", "data.living=false")).eval.plan["prompts"] == found.objects
    own = validate(composed(*given, "data.subject=can", "data.prompts=eval", "eval.prompts=objects"))
    assert own.eval.plan["prompts"] == "objects"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("data.subject=cat", "did you mean cat2"),
        ("data.subject=all", "needs a study"),
        ("data.subject=lost", "subjects are can, cat2, duck_toy"),
        ("data.root=/nowhere", "prompts_and_classes.txt"),
        ("data.class_word=[]", "data.class_word must be some text"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(given, wrong, says):
    with pytest.raises(ValueError, match=says):
        validate(composed(*given, "data.subject=can", wrong))


def test_the_place_of_the_data_is_no_part_of_a_run(bench, given, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(bench, moved)
    here, there = (validate(composed(*given, *more, "data.subject=can")) for more in ([], [f"data.root={moved}"]))
    assert run_id(here) == run_id(there)
    assert settings_of(here) == settings_of(there)


def test_all_subjects_are_levels_of_a_study(given):
    done = train("-m", *given, "data.subject=all", "seed=0,1", "hydra.sweeper.dry_run=true")
    assert done.returncode == 0, done.stderr
    assert "factors   subject (3), seed (2)" in done.stdout


@pytest.fixture(scope="module")
def study(bench, tiny_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    small = [text for text in SMALL if not text.startswith("eval.prompt")]
    given = [
        "unet=folder", f"unet.path={tiny_folder}", "data=dreambench", f"data.root={bench}", "task.reg_weight=0",
        f"output_root={out}", "study=s", *small, "eval.prompt_images=1", "eval.noise_images=0", "eval.class_images=0",
    ]  # fmt: skip
    for name in SUBJECTS:
        own = [f"data.subject={name}", f"data.heldout_dir={bench / name}"]
        cells = [(a, s) for a in ("relu", "sig") for s in (0, 1)]
        together = [composed(*given, *own, f"adapter.activation={a}", f"seed={s}") for a, s in cells]
        assert all(record and record.status == "finished" for record in run_together(together))
    return out / "s"


def test_subjects_are_loaded_with_floors_and_ceilings_of_their_own(study):
    runs = analysis.load_results(study)
    assert analysis.factor_columns(runs) == ["activation", "subject"]
    assert sorted(runs["subject"].unique()) == sorted(SUBJECTS)
    assert runs.groupby("subject")["clip_i_ceiling"].first().nunique() == 3
    report = analysis.conclude(runs, "clip_i")
    assert "subject" in report


def test_subjects_that_were_scored_by_other_scorers_do_not_compare(study, tmp_path):
    shutil.copytree(study, tmp_path / "s")
    for file in (tmp_path / "s").glob("*/record.json"):
        record = json.loads(file.read_text())
        if record["settings"]["data.subject"] == "can":
            record["protocol"]["scores"]["clip_i"]["scorer_hash"] = "another"
            file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="clip_i"):
        analysis.load_results(tmp_path / "s")


def test_scores_of_images_average_to_those_of_the_run(study):
    images = analysis.load_image_scores(study)
    runs = analysis.load_results(study).set_index("run_id")
    for metric in ("clip_i", "clip_t"):
        means = images.groupby("run_id")[metric].mean()
        assert means.to_numpy() == pytest.approx(runs.loc[means.index, metric].to_numpy(), abs=1e-12)
    assert set(images["template"]) >= {"a {subject} under a tree", "a {subject} with a straw hat"}
    assert images.groupby("run_id")["noise_seed"].nunique().min() > 1
    table = analysis.anova(images, "clip_t", ["activation"])  # images of one run are one unit
    assert table.loc["residual", "df"] == len(runs) - 2


@pytest.mark.usefixtures("undrawn")
def test_the_report_tests_over_subjects(study, tmp_path):
    from analysis.__main__ import main

    main([str(study), "--out", str(tmp_path / "report")])
    page = (tmp_path / "report" / "index.html").read_text()
    assert "subjects like these" in page and "of the way" in page
    over = (tmp_path / "report" / "tables" / "over_subjects.csv").read_text()
    assert over.count("activation") >= 2  # of runs, and of images by prompt
    runs = (tmp_path / "report" / "runs.csv").read_text().splitlines()
    assert len(runs) == 13 and {"subject", "activation", "clip_i_share"} <= set(runs[0].split(","))
