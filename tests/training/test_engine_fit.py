"""Training: equal to a plain loop, repeatable, without leaks from run to run."""

import math
import signal

import pytest
import torch

from sdpet.adapters import AdapterSpec
from sdpet.methods import Design, build
from sdpet.tasks import DreamBoothTask
from sdpet.training import TrainConfig, fit

RECIPE = Design("adapter", AdapterSpec.parse("attn2o-ffni", mid_dim=4))


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    return DreamBoothTask(
        tiny_base, subject_folders["subject"], subject_folders["class"], "a photo of a sks star", "a photo of a star"
    )


def train(base, task, design=RECIPE, seed=0, **options):
    """Final trainable values and the result, with the base left untuned."""
    handle = build(base, design, seed)
    try:
        result = fit(base, handle, task, **{"steps": 6, "lr": 1e-2, "seed": seed} | options)
        return [p.detach().clone() for p in handle.parameters()], result
    finally:
        handle.detach()


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"clip": 0.01, "warmup": 3, "weight_decay": 0.3}, {"schedule": "cosine", "warmup": 1}]
)
def test_fit_equals_a_plain_loop(tiny_base, task, options):
    ours, result = train(tiny_base, task, **options)
    handle = build(tiny_base, RECIPE, 0)
    parameters = list(handle.parameters())
    optimizer = torch.optim.AdamW(parameters, weight_decay=options.get("weight_decay", 0.01), fused=True)
    losses = []
    for step in range(6):
        lr = 1e-2 * min(1, (step + 1) / (options.get("warmup", 0) + 1))
        if "schedule" in options:
            lr = 1e-2 * [0.5, 1.0, 0.9045085, 0.6545085, 0.3454915, 0.0954915][step]
        optimizer.param_groups[0]["lr"] = lr
        batch = task.batch(0, step)
        loss = task.loss(tiny_base.unet(batch.noisy, batch.timesteps, batch.text).sample, batch)
        optimizer.zero_grad()
        loss.backward()
        if "clip" in options:
            torch.nn.utils.clip_grad_norm_(parameters, options["clip"])
        optimizer.step()
        losses.append(loss.item())
    plain = [p.detach().clone() for p in parameters]
    handle.detach()
    assert equal(ours, plain) and result.loss == losses


def test_runs_of_one_process_do_not_influence_each_other(tiny_base, task):
    alone, result = train(tiny_base, task, seed=1)
    state = torch.random.get_rng_state()
    train(tiny_base, task, seed=0)
    train(tiny_base, task, Design("full"), lr=1e-3)
    assert torch.equal(torch.random.get_rng_state(), state), "a run must not draw from global state"
    torch.manual_seed(123)
    after, again = train(tiny_base, task, seed=1)
    assert equal(alone, after) and result.loss == again.loss
    other, _ = train(tiny_base, task, seed=2)
    assert not equal(alone, other)


def test_only_the_design_is_trained(tiny_base, task):
    before = {name: p.clone() for name, p in tiny_base.unet.named_parameters()}
    _, result = train(tiny_base, task, steps=30)
    assert sum(result.loss[-10:]) < sum(result.loss[:10])
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in tiny_base.unet.named_parameters())
    assert not result.diverged and result.peak_memory_bytes > 0
    assert 0 < result.seconds_per_step < result.seconds


def test_a_loss_that_is_not_finite_stops_before_the_weights(tiny_base, task):
    class Breaking:
        batch = staticmethod(task.batch)

        def loss(self, prediction, batch):
            loss = task.loss(prediction, batch)
            return loss * math.nan if torch.equal(batch.timesteps, task.batch(0, 3).timesteps) else loss

    steps = []
    broken, result = train(tiny_base, Breaking(), steps=9, on_step=lambda step, loss: steps.append(step))
    three, good = train(tiny_base, task, steps=3)
    assert result.diverged and not good.diverged
    assert len(result.loss) == 4 and math.isnan(result.loss[-1]) and steps == [1, 2, 3, 4]
    assert equal(broken, three)


def test_ctrl_c_stays_a_keyboard_interrupt(tiny_base, task):
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny_base, task, on_step=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler


def test_bf16_mixed_trains(tiny_base, task):
    weights, result = train(tiny_base, task, precision="bf16-mixed", steps=2)
    _, exact = train(tiny_base, task, steps=2)
    assert weights[0].dtype == torch.float32
    assert result.loss != exact.loss and result.loss == pytest.approx(exact.loss, rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1.5},
        {"lr": 0},
        {"lr": math.nan},
        {"weight_decay": -1},
        {"warmup": -1},
        {"clip": 0},
        {"precision": "fp8"},
    ],
)
def test_training_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainConfig(**{"steps": 1, "lr": 1e-3} | wrong)
