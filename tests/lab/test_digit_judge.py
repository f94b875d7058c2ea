"""The judge of digits, and damaged digits as controls of every score of the fine-tuning task."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from study_tools import composed

import analysis
from sdpet.choices import MISLEADING
from sdpet.commands.scored_again import Scored, study_text
from sdpet.config import validate
from sdpet.lab import DigitJudge, JudgeScorer, load_scorer
from sdpet.models import load_base
from sdpet.runs import Record, Resources
from sdpet.scoring import EvalImage, EvalPlan, Scorers
from sdpet.scoring.measures import protocol_entries
from sdpet.study.report import run_report
from sdpet.tasks import FinetuneTask

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "scores.md"
PLAN = EvalPlan(distances=("fid", "kid", "precision_recall", "density_coverage", "cmmd"))
LARGER_IS_BETTER = {"precision", "recall", "density", "coverage", "clip_t", "digit_right"}


@pytest.fixture(scope="module")
def task():
    return FinetuneTask(load_base("lab"), "digits")


def blurred(images: np.ndarray) -> np.ndarray:
    """A blur with a standard deviation of 3 pixels; a stroke is about 4 wide."""
    return np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3))) for image in images])


def shuffled(images: np.ndarray) -> np.ndarray:
    """The four quarters of every image in another order."""
    rng, found = np.random.default_rng(0), []
    for image in images:
        quarters = [half for row in np.split(image, 2) for half in np.split(row, 2, axis=1)]
        a, b, c, d = (quarters[i] for i in np.roll(np.arange(4), rng.integers(1, 4)))
        found.append(np.block([[[a], [b]], [[c], [d]]]))
    return np.stack(found)


def test_the_judge_reads_held_out_digits_as_the_task_shows_them(task):
    words = [caption.split()[-1] for caption in task.heldout_captions]
    read = DigitJudge().read(task.base.through_vae(task.references))
    assert np.mean([a == b for a, b in zip(read, words, strict=True)]) >= 0.97
    large = task.references.repeat(3, axis=1).repeat(3, axis=2)  # other base models draw larger images
    assert np.mean([a == b for a, b in zip(DigitJudge().read(large), words, strict=True)]) >= 0.97


def test_damaged_digits_score_worse_or_the_page_names_the_score(task):
    scorers = Scorers({"clip": load_scorer(), "judge": JudgeScorer(), "digit": DigitJudge()})
    ceiling = task.ceiling(scorers, PLAN)
    rows = task._ceiling_rows(PLAN)
    real = task.base.through_vae(task.images[rows])
    drawn_for = [EvalImage(task.captions[i], "prompt", task.captions[i]) for i in rows]
    sevens = [place for place, i in enumerate(rows) if task.captions[i].endswith("seven")]
    controls = {
        "blurred": blurred(real),
        "quarters": shuffled(real),
        "one class": real[np.resize(sevens, len(real))],
    }
    preferring: dict[str, set[str]] = {}
    for control, images in controls.items():
        for name, value in task.scores(images, drawn_for, scorers, PLAN).items():
            better = value - ceiling[name] if name in LARGER_IS_BETTER else ceiling[name] - value
            if name != "kid_deviation" and better >= 0:
                preferring.setdefault(name, set()).add(control)
    said = re.search(r"^\*\*Not shown on digits:\*\* (.*?)\.", PAGE.read_text(), re.M | re.S)
    assert said is not None and set(re.findall(r"`(\w+)`", said[1])) == set(MISLEADING["digits"])
    assert set(preferring) <= set(MISLEADING["digits"]), preferring
    assert not {"digit_right", "digit_fid", "digit_fid_infinity", "judge_fid"} & set(preferring), preferring


def test_scores_that_prefer_damaged_digits_are_not_shown(task, tmp_path):
    scorers = Scorers({"clip": load_scorer(), "judge": JudgeScorer(), "digit": DigitJudge()})
    made = protocol_entries(task.measures(scorers, PLAN), [EvalImage("a", "prompt", "a")], scorers)
    metrics = {name: 0.5 for name in made}
    record = Record("0123456789ab", "s", "finished", {"seed": 0}, {"name": "finetune", "data": "digits"})
    record.metrics, record.protocol, record.sizes = metrics, {"scores": made}, {"trainable_params": 1}
    (tmp_path / record.run_id).mkdir()
    record.write(tmp_path / record.run_id)
    printed = run_report("a run", record, tmp_path, False)
    assert set(MISLEADING["digits"]) <= set(metrics)
    rows = {line.split()[0] for line in printed.splitlines()}
    assert not rows & set(MISLEADING["digits"]) - {"fid,"} and {"digit_right", "judge_fid"} <= rows
    assert "not shown, as damaged images score better" in printed
    frame = analysis.load_results(tmp_path)
    assert analysis.metric_columns(frame)[0] == "digit_right" and {"fid", "clip_t"} <= set(frame.columns)
    assert (
        not set(analysis.metric_columns(frame)) & set(MISLEADING["digits"]) and "not shown" in frame.attrs["notes"][0]
    )
    entry = {"metrics": metrics, "anchors": {}, "protocol": {"scores": made}, "samples": "samples"}
    again = Scored(tmp_path / record.run_id, record, entry, True)
    assert not set(again.changed) & set(MISLEADING["digits"]) and "not shown" in study_text([again])
    record.task["data"] = "/my/folder"
    assert "not shown" not in run_report("a run", record, tmp_path, False)
    record.task["data"], made["fid"] = "digits", made["fid"] | {"scorer": "inception"}  # that was not measured
    assert any(line.split()[0] == "fid" for line in run_report("a run", record, tmp_path, False).splitlines())


def test_the_ceiling_of_digit_right_is_of_images_that_the_judge_never_saw(task):
    scorers = Scorers({"clip": load_scorer(), "digit": DigitJudge()})
    found = task.ceiling(scorers, EvalPlan(images=600, distances=()))
    words = [caption.split()[-1] for caption in task.heldout_captions]
    read = DigitJudge().read(task.base.through_vae(task.references))
    assert found["digit_right"] == np.mean([a == b for a, b in zip(read, words, strict=True)]) < 1


def test_every_run_on_digits_is_read_by_the_judge_and_no_other_run(tmp_path):
    resources, root = Resources(), f"output_root={tmp_path}"
    on_digits = resources.scorers(validate(composed("task=finetune", "data=digits", root)))
    assert list(on_digits) == ["clip", "digit"] and list(resources.scorers(validate(composed(root)))) == ["clip"]
