"""The judges that read digits and new shapes, and damaged images as controls of every score of the fine-tuning task."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from study_tools import composed

import analysis
from sdpet.choices import MISLEADING
from sdpet.commands.scored_again import Scored, run_text, study_text
from sdpet.config import validate
from sdpet.lab import DigitJudge, JudgeScorer, NewShapes, ShapeJudge, load_scorer
from sdpet.models import load_base
from sdpet.runs import Record, Resources
from sdpet.scoring import EvalImage, EvalPlan, Scorers
from sdpet.scoring.measures import protocol_entries
from sdpet.study.report import run_report
from sdpet.tasks import FinetuneTask

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "scores.md"
PLAN = EvalPlan(distances=("fid", "kid", "precision_recall", "density_coverage", "cmmd"))
PLANS = {"digits": PLAN, "shapes": replace(PLAN, images=200)}  # fewer show the same, in less time
JUDGES = {"digits": ("digit", DigitJudge), "shapes": ("shape", ShapeJudge)}
ONE_CLASS = {"digits": "seven", "shapes": "heart"}
LARGER_IS_BETTER = {"precision", "recall", "density", "coverage", "clip_t", "digit_right", "shape_right"}


@pytest.fixture(scope="module")
def tasks():
    base, source = load_base("lab"), NewShapes()
    (images, captions), (heldout, heldout_captions) = source.training(32), source.heldout(32)
    return {"digits": FinetuneTask(base, "digits"),
            "shapes": FinetuneTask(base, None, images=images, captions=captions, heldout_images=heldout,
                                   heldout_captions=heldout_captions)}  # fmt: skip


def scorers_of(data: str) -> Scorers:
    name, judge = JUDGES[data]
    return Scorers({"clip": load_scorer(), "judge": JudgeScorer(), name: judge()})


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


def right(read: list[str], captions: list[str]) -> float:
    return float(np.mean([word in caption.split() for word, caption in zip(read, captions, strict=True)]))


@pytest.mark.parametrize("data", JUDGES)
def test_a_judge_reads_held_out_images_as_the_task_shows_them(tasks, data):
    task, judge = tasks[data], JUDGES[data][1]()
    assert right(judge.read(task.base.through_vae(task.references)), task.heldout_captions) >= 0.97
    large = task.references.repeat(3, axis=1).repeat(3, axis=2)  # other base models draw larger images
    assert right(judge.read(large), task.heldout_captions) >= 0.97
    same = right(judge.read(np.repeat(task.references[:1], 100, axis=0)), task.heldout_captions[:100])
    assert same < 0.3


@pytest.mark.parametrize("data", JUDGES)
def test_damaged_images_score_worse_or_the_page_names_the_score(tasks, data):
    task, scorers, plan = tasks[data], scorers_of(data), PLANS[data]
    ceiling = task.ceiling(scorers, plan)
    rows = task._ceiling_rows(plan)
    real = task.base.through_vae(task.images[rows])
    drawn_for = [EvalImage(task.captions[i], "prompt", task.captions[i]) for i in rows]
    one_class = [place for place, i in enumerate(rows) if ONE_CLASS[data] in task.captions[i].split()]
    controls = {
        "blurred": blurred(real),
        "quarters": shuffled(real),
        "one class": real[np.resize(one_class, len(real))],
    }
    preferring: dict[str, set[str]] = {}
    for control, images in controls.items():
        for name, value in task.scores(images, drawn_for, scorers, plan).items():
            better = value - ceiling[name] if name in LARGER_IS_BETTER else ceiling[name] - value
            if name != "kid_deviation" and better >= 0:
                preferring.setdefault(name, set()).add(control)
    said = re.search(rf"^\*\*Not shown on {data}:\*\* (.*?)\.", PAGE.read_text(), re.M | re.S)
    assert said is not None and set(re.findall(r"`(\w+)`", said[1])) == set(MISLEADING[data])
    assert set(preferring) <= set(MISLEADING[data]), preferring
    own = JUDGES[data][0]
    assert not {f"{own}_right", f"{own}_fid", f"{own}_fid_infinity", "judge_fid"} & set(preferring), preferring
    assert "density" in preferring  # so the controls can tell


def test_scores_that_prefer_damaged_digits_are_not_shown(tasks, tmp_path):
    task, scorers = tasks["digits"], scorers_of("digits")
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
    alone = run_text(again, "a run")
    assert {line.split()[0] for line in alone.splitlines()} & set(metrics) == set(again.changed)
    assert "fid, fid_infinity, kid" in alone and "not shown, as damaged images score better" in alone
    record.task["data"] = "/my/folder"
    assert "not shown" not in run_report("a run", record, tmp_path, False)
    record.task["data"], made["fid"] = "digits", made["fid"] | {"scorer": "inception"}  # that was not measured
    assert any(line.split()[0] == "fid" for line in run_report("a run", record, tmp_path, False).splitlines())


def test_the_ceiling_of_digit_right_is_of_images_that_the_judge_never_saw(tasks):
    task = tasks["digits"]
    scorers = Scorers({"clip": load_scorer(), "digit": DigitJudge()})
    found = task.ceiling(scorers, EvalPlan(images=600, distances=()))
    read = DigitJudge().read(task.base.through_vae(task.references))
    assert found["digit_right"] == right(read, task.heldout_captions) < 1


def test_every_run_on_a_set_with_a_judge_is_read_by_it_and_no_other_run(tmp_path):
    resources, root = Resources(), f"output_root={tmp_path}"
    for data, (name, _) in JUDGES.items():
        scorers = resources.scorers(validate(composed("task=finetune", f"data={data}", root)))
        assert list(scorers) == ["clip", name]
    task = resources.task(validate(composed("task=finetune", "data=shapes", root)))
    assert (
        task.describe()["data"] == "shapes" and len(task.images) == 1200 and "moon" in " ".join(task.heldout_captions)
    )
    assert list(resources.scorers(validate(composed(root)))) == ["clip"]
