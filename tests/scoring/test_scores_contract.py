"""What scoring asks of a task, and that closed sets are implemented exactly as they are written down."""

import inspect
import logging
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from study_tools import environment
from tiny_scorer import TinyScorer

import sdpet.scoring.plan
from sdpet import choices
from sdpet.lab import JudgeScorer
from sdpet.sampling import SamplerConfig
from sdpet.sampling.flow_samplers import FLOW_SAMPLER_CLASSES
from sdpet.sampling.samplers import SAMPLER_CLASSES
from sdpet.scoring import (
    EvalImage,
    EvalPlan,
    EvalTask,
    PromptSet,
    Scorers,
    SubjectTask,
    reference_scores,
)
from sdpet.scoring.plan import fill
from sdpet.tasks import TASKS, DreamBoothTask, FinetuneTask, class_folder

TASK_CLASSES = (DreamBoothTask, FinetuneTask, PromptSet)


def pictures(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tasks(tiny_base, subject_folders):
    words = ("a photo of a sks star", "a photo of a star")
    held = {"heldout_images": pictures(4), "heldout_captions": ["ring"] * 4}
    return [
        DreamBoothTask(tiny_base, subject_folders["subject"], subject_folders["class"], *words),
        DreamBoothTask(tiny_base, subject_folders["subject"], None, *words, reg_weight=0),
        FinetuneTask(tiny_base, None, images=pictures(4, 1), captions=["star"] * 4, **held),
        PromptSet(["star"], pictures(4)),
    ]


def test_every_task_can_be_evaluated(tasks):
    assert all(isinstance(task, EvalTask) for task in tasks)
    assert [isinstance(task, SubjectTask) for task in tasks] == [True, True, False, False]


@pytest.mark.parametrize("cls", TASK_CLASSES)
def test_every_task_takes_the_arguments_of_the_protocol(cls):
    methods = [name for name, value in vars(EvalTask).items() if inspect.isfunction(value) and name[0] != "_"]
    assert len(methods) >= 6
    for name in methods:
        asked, given = (inspect.signature(getattr(owner, name)).parameters for owner in (EvalTask, cls))
        assert list(given) == list(asked), name
        assert [p.default for p in given.values()] == [p.default for p in asked.values()], name


def test_samplers_are_exactly_the_choices():
    assert set(SAMPLER_CLASSES) == set(choices.DIFFUSION_SAMPLERS)
    assert set(FLOW_SAMPLER_CLASSES) == set(choices.FLOW_SAMPLERS)
    with pytest.raises(ValueError, match=", ".join(choices.SAMPLERS)):
        SamplerConfig("heun")


def test_tasks_are_exactly_the_choices():
    assert set(TASKS) == set(choices.TASKS)


def test_distances_are_exactly_the_choices():
    with pytest.raises(ValueError, match=", ".join(choices.DISTANCES)):
        EvalPlan(distances=("emd",))


@pytest.mark.parametrize("kind", choices.DISTANCES)
def test_each_distance_gives_numbers(kind):
    images, references, scorers = pictures(80), pictures(90, 1), Scorers({"clip": JudgeScorer()})
    task = PromptSet([], references)

    def scores(*distances):
        return task.scores(images, [EvalImage("", "prompt", "")] * len(images), scorers, EvalPlan(distances=distances))

    found = {name: value for name, value in scores(kind).items() if name not in scores()}
    assert found and all(np.isfinite(value) for value in found.values())


def test_suites_are_exactly_the_choices():
    folder = Path(sdpet.scoring.plan.__file__).parent / "suites"
    assert {file.stem for file in folder.iterdir()} == set(choices.SUITES)
    for name in choices.SUITES:
        assert len(EvalPlan(prompts=name).prompts) > 1
    with pytest.raises(ValueError, match=" or ".join(choices.SUITES)):
        EvalPlan(prompts="cars")


def test_every_placeholder_of_a_template_is_filled():
    filled = [fill(place, "a photo of a sks dog", "sks") for place in choices.PLACEHOLDERS]
    assert filled == ["a photo of a sks dog", "sks dog"]
    for place in choices.PLACEHOLDERS:
        EvalPlan(prompts=[f"{place} on grass"])
    with pytest.raises(ValueError, match="lacks"):
        EvalPlan(prompts=["{class} on grass"])


def test_an_evaluation_leaves_the_process_as_it_was(tiny_base, tasks, tmp_path, capfd):
    def state():
        levels = {
            name: logger.level for name, logger in logging.root.manager.loggerDict.items() if hasattr(logger, "level")
        }
        numeric = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
        return warnings.formatwarning, list(warnings.filters), logging.root.level, levels, numeric, random_state()

    def random_state():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    scorers = Scorers({"clip": TinyScorer(), "judge": JudgeScorer()})
    plan = EvalPlan(subject_images=2, class_images=1, images=4, prompt_images=0, noise_images=1, distances=("kid",))
    sampler = SamplerConfig("dpm", 2, 2.0)

    def evaluate(folder):
        for task in tasks[::2]:
            reference_scores(tiny_base, task, scorers, sampler, 0, plan, cache=folder)
            task.batch(0, 0)
        class_folder(folder, tiny_base, "a star", 2, sampler)

    evaluate(tmp_path / "first")  # libraries add filters of their own when they are imported
    before = state()
    capfd.readouterr()
    evaluate(tmp_path / "second")
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_a_sampler_is_checked_without_torch():
    code = "import sys; from sdpet.sampling import SamplerConfig; SamplerConfig(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())
