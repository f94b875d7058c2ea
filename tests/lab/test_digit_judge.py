"""The judge of digits, and damaged digits as controls of every score of the fine-tuning task."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from study_tools import composed

from sdpet.config import validate
from sdpet.lab import DigitJudge, JudgeScorer, load_scorer
from sdpet.models import load_base
from sdpet.runs import Resources
from sdpet.scoring import EvalImage, EvalPlan, Scorers
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
    said = re.search(r"^\*\*Not to be trusted on digits:\*\* (.*?)\.", PAGE.read_text(), re.M | re.S)
    assert said is not None and set(re.findall(r"`(\w+)`", said[1])) >= set(preferring), preferring
    assert not {"digit_right", "digit_fid", "digit_fid_infinity", "judge_fid"} & set(preferring), preferring


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
