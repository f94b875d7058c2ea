"""Fleets: every member ends where it ends alone, whoever its neighbours are."""

from __future__ import annotations

import dataclasses
import itertools
import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from sdpet.adapters import PLACEMENTS, AdapterSpec
from sdpet.choices import ACTIVATIONS
from sdpet.methods import Design, build, build_fleet, load
from sdpet.sampling import SamplerConfig
from sdpet.scoring import EvalPlan, evaluate_run, evaluate_together
from sdpet.tasks import DreamBoothTask
from sdpet.training import Member, TrainConfig, fit, fit_together

STEPS = 4
# Every placement with its own form, seed and lr; then more of the same shapes, to be computed together.
RUNS = [
    (AdapterSpec.parse(placement, activation=activation, mid_dim=3 + i % 4, scale=0.5 + 0.1 * i, init=init), i, lr)
    for i, (placement, activation, init, lr) in enumerate(
        zip(
            PLACEMENTS,
            itertools.cycle(ACTIVATIONS),
            itertools.cycle(["zero", "default", "default"]),
            itertools.cycle([1e-3, 3e-3, 1e-2]),
        )
    )
]
RUNS += [
    (AdapterSpec(spec.din, spec.dout, spec.activation, spec.mid_dim, 2.0, "default"), seed + 100, lr / 2)
    for spec, seed, lr in RUNS[::2]
]


@pytest.fixture(scope="module")
def make_task(tiny_base, subject_folders):
    def make(**options):
        folders = subject_folders["subject"], subject_folders["class"]
        return DreamBoothTask(tiny_base, *folders, "a photo of a sks star", "a photo of a star", **options)

    return make


@pytest.fixture(scope="module")
def task(make_task):
    return make_task(batch_size=1)


def alone(base, task, spec, seed, lr, steps=STEPS, **options):
    handle = build(base, Design("adapter", spec), seed)
    try:
        result = fit(base, handle, task, steps=steps, lr=lr, seed=seed, **options)
        return [p.detach().clone() for p in handle.parameters()], result
    finally:
        handle.detach()


def together(base, task, runs, steps=STEPS, states=None, save=None, **options):
    fleet = build_fleet(base, [Design("adapter", spec) for spec, _, _ in runs], [seed for _, seed, _ in runs])
    members = [
        Member(handle, seed, TrainConfig(steps, lr, **options), state=state)
        for handle, (_, seed, lr), state in zip(fleet.members, runs, states or [None] * len(runs), strict=True)
    ]
    try:
        results = fit_together(base, members, task, fleet, save and (lambda step, state: save(fleet, step, state)))
        return [[p.detach().clone() for p in handle.parameters()] for handle in fleet.members], results
    finally:
        fleet.detach()


def distance(ours, theirs):
    """Norm of the difference of all weights, relative to their norm. (Where a gradient is next to nothing, Adam makes
    a whole step of its sign, so single weights of a float32 run may differ by more.)"""
    difference = math.sqrt(sum((a - b).double().square().sum().item() for a, b in zip(ours, theirs, strict=True)))
    return difference / math.sqrt(sum(b.double().square().sum().item() for b in theirs))


def farthest(ours, theirs):
    """Largest difference of single weights, relative to the largest weight of their tensor."""
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True))


def check(base, task, runs=RUNS, tolerance=1e-4, measure=distance, **options):
    """Members of a fleet of `runs` end where they end alone."""
    ours, results = together(base, task, runs, **options)
    far = {}
    for (spec, seed, lr), weights, result in zip(runs, ours, results, strict=True):
        theirs, expected = alone(base, task, spec, seed, lr, **options)
        far[f"{spec.placement} {seed}"] = measure(weights, theirs)
        assert result.loss == pytest.approx(expected.loss, rel=max(1e-4, tolerance / 10)), spec
    print(measure.__name__, max(far.items(), key=lambda item: item[1]))
    assert max(far.values()) < tolerance, far


def test_every_placement_in_one_fleet_ends_as_alone(tiny_base, task):
    assert {spec.placement for spec, _, _ in RUNS} == set(PLACEMENTS)
    check(tiny_base, task)


def test_in_double_precision_every_single_weight_is_equal(tiny_base, subject_folders):
    """What is left in float32 is rounding, not a leak from neighbour to neighbour."""
    base = dataclasses.replace(
        tiny_base, **{part: deepcopy(getattr(tiny_base, part)).double() for part in ("unet", "vae", "text_encoder")}
    )
    folders = subject_folders["subject"], subject_folders["class"]
    task = DreamBoothTask(base, *folders, "a photo of a sks star", "a photo of a star", batch_size=1)
    check(base, task, RUNS[:20:2] + RUNS[20:], tolerance=1e-7, measure=farthest, steps=3)


FORMS = [  # what a design may be beyond a placement of the bottleneck, twice each, so that two are computed together
    {"form": "lowrank"},
    {"form": "gated", "activation": "gelu"},
    {"form": "conv", "activation": "prelu"},
    {"form": "scale_shift", "mid_dim": None},
    {"form": "own_form.Gated", "options": {"gates": 2}},
    {"activation": "prelu", "blocks": "down"},
    {"when": (0.0, 0.4)},
    {"when": (0.4, 1.0)},
    {"placements": ("attn2o-ffni", "resi-resi")},
    {"placements": ("attn1i-ffni", "resi-resi")},
]


def test_every_form_and_extent_in_one_fleet_ends_as_alone(tiny_base, subject_folders):
    base = dataclasses.replace(
        tiny_base, **{part: deepcopy(getattr(tiny_base, part)).double() for part in ("unet", "vae", "text_encoder")}
    )
    folders = subject_folders["subject"], subject_folders["class"]
    task = DreamBoothTask(base, *folders, "a photo of a sks star", "a photo of a star", batch_size=2)
    runs = []
    for number, given in enumerate([*FORMS, *FORMS]):
        where = {} if "placements" in given else {"din": "attn2o", "dout": "ffni"}
        spec = AdapterSpec(**where, init="default", scale=1 + number / 10, **{"mid_dim": 3, **given})
        runs.append((spec, number, 3e-3))
    check(base, task, runs, tolerance=1e-5, measure=farthest, steps=3)


OPTIONS = [
    {"clip": 0.02, "warmup": 2, "weight_decay": 0.3},
    {"ema": 0.5, "accumulate": 2, "grad_checkpointing": True, "clip": 0.02},
    {"precision": "bf16-mixed"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_members_keep_their_own_options(tiny_base, task, options):
    check(tiny_base, task, RUNS[::5], tolerance=1e-4 if "clip" in options else 0.1, steps=3, **options)


def test_with_larger_batches_without_prior(tiny_base, make_task):
    check(tiny_base, make_task(batch_size=3, reg_weight=0.0), RUNS[::4])


def test_with_gradient_checkpointing(tiny_base, task):
    tiny_base.unet.enable_gradient_checkpointing()
    try:
        ours, _ = together(tiny_base, task, RUNS[::4])
    finally:
        tiny_base.unet.disable_gradient_checkpointing()
    for weights, (spec, seed, lr) in zip(ours, RUNS[::4], strict=True):
        assert distance(weights, alone(tiny_base, task, spec, seed, lr)[0]) < 1e-4


def test_neighbours_make_no_difference(tiny_base, task):
    mine = RUNS[:1] + RUNS[20:22]
    one, _ = together(tiny_base, task, mine + RUNS[1:7])
    other, _ = together(tiny_base, task, RUNS[12:20] + mine)
    for a, b in zip(one[:3], other[-3:], strict=True):
        assert distance(a, b) < 1e-4


def test_a_diverging_neighbour_leaves_and_does_no_harm(tiny_base, task):
    runs = [*RUNS[18:26]]
    bad = len(runs) // 2
    runs[bad] = (runs[bad][0], runs[bad][1], 1e30)
    runs.append(runs[bad])  # and one of its own shape
    runs[-1] = (runs[bad][0], 77, 1e-3)
    ours, results = together(tiny_base, task, runs)
    assert [result.diverged for result in results] == [i == bad for i in range(len(runs))]
    assert len(results[bad].loss) < STEPS and not math.isfinite(results[bad].loss[-1])
    for i, (spec, seed, lr) in enumerate(runs):
        theirs, expected = alone(tiny_base, task, spec, seed, lr)
        assert expected.diverged == (i == bad) and len(expected.loss) == len(results[i].loss)
        if i != bad:
            assert distance(ours[i], theirs) < 1e-4


def test_a_fleet_leaves_the_unet_as_it_was_and_its_adapters_load_alone(tiny_base, task, tmp_path):
    batch = task.batch(0, 0)

    def output():
        with torch.no_grad():
            return tiny_base.unet(batch.noisy, batch.timesteps, batch.text).sample

    before, keys = output(), list(tiny_base.unet.state_dict())
    fleet = build_fleet(tiny_base, [Design("adapter", spec) for spec, _, _ in RUNS[:4]], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="carries adapters already"):
        build(tiny_base, Design("adapter", RUNS[0][0]))
    with pytest.raises(ValueError, match="4 members got a batch of 2 rows"):
        output()
    fleet.detach()
    assert torch.equal(output(), before) and list(tiny_base.unet.state_dict()) == keys
    fleet.members[2].save(tmp_path)
    loaded = load(tiny_base, tmp_path)
    assert loaded.spec == RUNS[2][0]
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), fleet.members[2].parameters(), strict=True))
    loaded.detach()


def test_a_compiled_fleet_trains_as_written_and_is_compiled_again_without_a_member(
    tiny_base, task, monkeypatch, caplog
):
    """The graph is traced and run as it is, since generating code for it takes minutes on a CPU."""
    compiled = type(tiny_base.unet).compile
    traced = lambda self, mode=None: compiled(self, backend="eager")  # noqa: E731
    monkeypatch.setattr(type(tiny_base.unet), "compile", traced)
    runs = [RUNS[0], RUNS[1], (RUNS[1][0], 5, 1e30)]
    plain, expected = together(tiny_base, task, runs)
    with caplog.at_level("INFO"):
        ours, results = together(tiny_base, task, runs, compile=True)
    assert [result.diverged for result in results] == [False, False, True]
    assert [len(result.loss) for result in results] == [len(result.loss) for result in expected]
    assert all(distance(a, b) < 1e-4 for a, b in zip(ours[:2], plain[:2], strict=True))
    assert "Compiled: the first step took" in caplog.text and tiny_base.unet._compiled_call_impl is None


def test_what_cannot_share_is_refused(tiny_base, task):
    with pytest.raises(ValueError, match="train it alone"):
        build_fleet(tiny_base, [Design("full")], [0])
    with pytest.raises(ValueError, match="16-mixed"):
        together(tiny_base, task, RUNS[:2], precision="16-mixed")
    fleet = build_fleet(tiny_base, [Design("adapter", spec) for spec, _, _ in RUNS[:2]], [0, 1])
    try:
        members = [
            Member(handle, 0, TrainConfig(steps, 1e-3)) for handle, steps in zip(fleet.members, (2, 3), strict=True)
        ]
        with pytest.raises(ValueError, match="equal steps, not 2, 3"):
            fit_together(tiny_base, members, task, fleet)
    finally:
        fleet.detach()


def test_interrupted_at_any_step_it_goes_on_exactly(tiny_base, task):
    """In a fleet of the same members to the last bit; alone or among others within rounding."""
    runs = RUNS[15:20] + RUNS[-2:]
    undisturbed, results = together(tiny_base, task, runs)
    states = {}

    def save(fleet, step, state):
        if step == 2:
            states.update({i: state(i) for i in fleet.active})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together(tiny_base, task, runs, save=save)
    resumed, again = together(tiny_base, task, runs, states=[states[i] for i in range(len(runs))])
    for i in range(len(runs)):
        assert all(torch.equal(a, b) for a, b in zip(undisturbed[i], resumed[i], strict=True))
        assert again[i].loss == results[i].loss
    ours, _ = together(tiny_base, task, runs[1:3], states=[states[1], states[2]])
    assert distance(ours[0], undisturbed[1]) < 1e-4


def test_images_and_scores_of_a_fleet_are_those_of_each_member(tiny_base, task, tiny_scorer, tmp_path):
    runs, plan, sampler = (
        RUNS[16:22],
        EvalPlan(subject_images=3, class_images=2, prompt_images=0),
        SamplerConfig(steps=4),
    )
    fleet = build_fleet(tiny_base, [Design("adapter", spec) for spec, _, _ in runs], [seed for _, seed, _ in runs])
    try:
        with torch.no_grad():
            for handle in fleet.members:
                for parameter in handle.parameters():
                    parameter.add_(0.02)
            next(fleet.members[2].parameters()).fill_(math.nan)
        order = fleet.active
        seeds = [runs[i][1] for i in order]
        found = dict(zip(order, evaluate_together(tiny_base, task, tiny_scorer, sampler, seeds, plan), strict=True))
    finally:
        fleet.detach()
    assert found[2] is None
    for i, handle in enumerate(fleet.members):
        handle.save(tmp_path / str(i))
        if i == 2:
            with pytest.raises(ValueError, match="holds weights that are NaN or infinite"):
                load(tiny_base, tmp_path / str(i))
            continue
        again = load(tiny_base, tmp_path / str(i))
        try:
            expected = evaluate_run(tiny_base, task, tiny_scorer, sampler, runs[i][1], plan)
        finally:
            again.detach()
        assert np.abs(found[i].images.astype(int) - expected.images).max() <= 1  # rounded to 8 bit
        assert found[i].metrics == pytest.approx(expected.metrics, abs=1e-3)
        assert found[i].index == expected.index and found[i].protocol == expected.protocol
