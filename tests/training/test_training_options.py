"""Options of training: each against its formula or an independent implementation, alone and in a fleet."""

import copy
import dataclasses
import math
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from study_tools import composed, tiny_overrides

from sdpet.adapters import AdapterSpec
from sdpet.config import fleet_key, run_folder, run_id, validate
from sdpet.methods import Design, build, build_fleet
from sdpet.runs import Record, run_together
from sdpet.seeds import generator
from sdpet.tasks import Batch, DreamBoothTask, make_noisy_batch
from sdpet.training import Member, TrainConfig, fit, fit_together

SPECS = [AdapterSpec.parse("attn2o-ffni", mid_dim=4), AdapterSpec.parse("resi-reso", mid_dim=2)]
PROMPTS = ("a photo of a sks star", "a photo of a star")


def make_task(base, folders, **more):
    return DreamBoothTask(base, folders["subject"], folders["class"], *PROMPTS, **more)


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    return make_task(tiny_base, subject_folders)


def weights(handle):
    return [p.detach().clone() for p in handle.parameters()]


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def train(base, task, spec=SPECS[0], state=None, save=None, **options):
    handle = build(base, Design("adapter", spec), 0)
    try:
        config = TrainConfig(**{"steps": 4, "lr": 1e-2} | options)
        result = fit_together(base, [Member(handle, 0, config, state=state)], task, save=save)[0]
        return weights(handle), result
    finally:
        handle.detach()


def train_fleet(base, task, configs):
    fleet = build_fleet(base, [Design("adapter", spec) for spec in SPECS], [0, 0])
    try:
        members = [Member(handle, 0, config) for handle, config in zip(fleet.members, configs, strict=True)]
        fit_together(base, members, task, fleet)
        return [weights(handle) for handle in fleet.members]
    finally:
        fleet.detach()


class Halves:
    """Batches of one image: the two halves of those of a task, one after the other."""

    def __init__(self, task):
        self._task, self.loss = task, task.loss

    def batch(self, seed, number):
        whole, part = self._task.batch(seed, number // 2), slice(number % 2, None, 2)  # a subject and a class image
        own = {name: getattr(whole, name)[part] for name in whole.__dataclass_fields__}
        return Batch(**own | {"weight": own["weight"] * 2})  # an image's share in a batch half as large


def test_two_batches_accumulated_are_one_of_twice_the_size(tiny_base, task):
    whole, result = train(tiny_base, task, clip=0.1)
    parts, accumulated = train(tiny_base, Halves(task), clip=0.1, accumulate=2)
    assert accumulated.loss == pytest.approx(result.loss, rel=1e-5) and len(result.loss) == 4
    for a, b in zip(parts, whole, strict=True):  # AdamW's step magnifies rounding where gradients are next to nothing
        assert (a - b).abs().mean() < 1e-5
    fleet = train_fleet(tiny_base, Halves(task), [TrainConfig(4, 1e-2, clip=0.1, accumulate=2)] * 2)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(fleet[0], parts, strict=True))


def test_a_part_that_is_not_finite_stops_before_the_weights(tiny_base, task):
    class Breaking(Halves):
        def batch(self, seed, number):
            batch = super().batch(seed, number)
            return replace(batch, target=batch.target * math.nan) if number == 5 else batch  # half of the third step

    broken, result = train(tiny_base, Breaking(task), accumulate=2)
    two, _ = train(tiny_base, Halves(task), accumulate=2, steps=2)
    assert result.diverged and len(result.loss) == 3 and equal(broken, two)


@pytest.mark.parametrize("placement", ["attn2o-ffni", "resi-reso", "transo-transo"])
def test_checkpointed_activations_give_the_same_gradients(tiny_base, task, placement):
    handle = build(tiny_base, Design("adapter", AdapterSpec.parse(placement, mid_dim=4, init="default")), 0)
    batch, found, calls = task.batch(0, 0), [], [0]
    block = tiny_base.unet.mid_block.resnets[1]
    hook = block.conv1.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    counts = []
    for on in (False, True):
        if on:
            tiny_base.unet.enable_gradient_checkpointing()
        loss = task.loss(tiny_base.predict(batch.noisy, batch.timesteps, batch.text), batch)
        loss.backward()
        tiny_base.unet.disable_gradient_checkpointing()
        found.append([p.grad.clone() for p in handle.parameters()])
        counts.append(calls[0])
        for parameter in handle.parameters():
            parameter.grad = None
    hook.remove()
    handle.detach()
    assert counts == [1, 3], "the second pass must recompute what it did not keep"
    assert equal(*found) and any(gradient.abs().sum() > 0 for gradient in found[0])


def test_grad_checkpointing_is_switched_on_for_training_alone(tiny_base, task):
    seen = []

    class Watching:
        loss = staticmethod(task.loss)

        def batch(self, seed, step):
            seen.append(tiny_base.unet.is_gradient_checkpointing)
            return task.batch(seed, step)

    plain, _ = train(tiny_base, Watching())
    saving, _ = train(tiny_base, Watching(), grad_checkpointing=True)
    assert equal(plain, saving) and seen == [False] * 4 + [True] * 4
    assert not tiny_base.unet.is_gradient_checkpointing


def test_ema_is_that_of_diffusers_and_is_what_remains(tiny_base, task):
    trained: list = []
    handle = build(tiny_base, Design("adapter", SPECS[0]), 0)
    theirs = EMAModel(handle.parameters(), decay=0.3)
    handle.detach()
    for steps in range(1, 5):  # the weights after each step of a training without EMA (constant lr)
        raw, _ = train(tiny_base, task, steps=steps)
        trained.append(raw)
        theirs.step([torch.nn.Parameter(value) for value in raw])
    ours, _ = train(tiny_base, task, ema=0.3)
    for mine, other in zip(ours, theirs.shadow_params, strict=True):
        torch.testing.assert_close(mine, other)
    assert not equal(ours, trained[-1])
    by_hand = trained[0]  # decays 0, 2/11, 3/12, then 0.3
    for decay, later in zip((2 / 11, 3 / 12, 0.3), trained[1:], strict=True):
        by_hand = [decay * old + (1 - decay) * new for old, new in zip(by_hand, later, strict=True)]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, by_hand, strict=True))
    kept: dict = {}
    again, _ = train(tiny_base, task, ema=0.3, save=lambda step, state: kept.update({step: state(0)}))
    resumed, _ = train(tiny_base, task, ema=0.3, state=kept[2])
    assert equal(again, ours) and equal(resumed, ours)
    done, _ = train(tiny_base, task, ema=0.3, state=kept[4])  # interrupted after the last step
    assert equal(done, ours)


def test_members_of_a_fleet_have_their_own_optimiser_options(tiny_base, task):
    configs = [TrainConfig(4, 1e-2, ema=0.5, schedule="linear"), TrainConfig(4, 3e-3, clip=0.1, warmup=2)]
    fleet = train_fleet(tiny_base, task, configs)
    for spec, config, together in zip(SPECS, configs, fleet, strict=True):
        alone, _ = train(tiny_base, task, spec, **config.__dict__)
        assert all(torch.allclose(a, b, rtol=1e-3, atol=2e-5) for a, b in zip(together, alone, strict=True))
    plain = train_fleet(tiny_base, task, [TrainConfig(4, 1e-2, schedule="linear"), configs[1]])
    assert not equal(plain[0], fleet[0]) and equal(plain[1], fleet[1])


@pytest.mark.parametrize("name", ["constant_with_warmup", "linear", "cosine_with_restarts", "polynomial"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_schedules_are_those_of_diffusers(name, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.02)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=10)
    config = TrainConfig(10, 0.02, schedule=name, warmup=warmup)
    for step in range(10):
        assert config.lr_at(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()
    assert config.lr_at(9) < 0.02 or name == "constant_with_warmup"


def test_offset_noise_and_min_snr_are_their_formulas(tiny_base, subject_folders, task):
    with_offset = make_task(tiny_base, subject_folders, noise_offset=0.1)
    weighted = make_task(tiny_base, subject_folders, min_snr=5.0)
    for step in range(3):
        plain, shifted, snr = (t.batch(7, step) for t in (task, with_offset, weighted))
        assert torch.equal(plain.timesteps, shifted.timesteps)
        added = 0.1 * torch.randn(4, 4, 1, 1, generator=generator(7, step, "noise offset"))
        torch.testing.assert_close(shifted.target, plain.target + added)
        kept = tiny_base.scheduler.alphas_cumprod[plain.timesteps].view(-1, 1, 1, 1)
        torch.testing.assert_close(shifted.noisy - plain.noisy, (1 - kept).sqrt() * added.expand_as(plain.noisy))
        ratio = (kept / (1 - kept)).flatten()
        torch.testing.assert_close(snr.weight, plain.weight * torch.minimum(ratio, torch.tensor(5.0)) / ratio)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_has_finite_weights_where_the_schedule_ends_without_signal(tiny_base, prediction):
    schedule = DDPMScheduler(rescale_betas_zero_snr=True, beta_schedule="scaled_linear", prediction_type=prediction)
    schedule.alphas_cumprod[-1] = 0.0  # as published; diffusers may keep a trace of signal
    base, latents = dataclasses.replace(tiny_base, scheduler=schedule), torch.zeros(1000, 4, 1, 1)
    seen = torch.cat([torch.stack([b.timesteps.float(), b.weight]) for b in (
        make_noisy_batch(base, latents, torch.zeros(1), [""], torch.ones(1000), 0, step, 5.0) for step in range(8)
    )], dim=1)  # fmt: skip
    last = seen[1, seen[0] == 999]
    assert len(last) and torch.isfinite(seen[1]).all() and last.unique().tolist() == [float(prediction == "epsilon")]


def test_8_bit_adamw_needs_its_package(tiny_folder, subject_folders, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        TrainConfig(1, 1e-3, optimizer="adamw8bit")
    overrides = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        validate(composed(*overrides, "trainer.optimizer=adamw8bit"))


def test_validation_samples_disturb_nothing_and_are_those_of_the_end(tiny_folder, subject_folders, tmp_path):
    base = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), "trainer.ema=0.5", "trainer.steps=4"]
    base += ["adapter.params=3000", "eval.prompt_images=1", "quiet=true"]
    seeds = ["seed=0", "seed=1"]
    records = {}
    for every, study in ((2, "with"), ("null", "without")):
        configs = [composed(*base, seed, f"study={study}", f"trainer.validate_every={every}") for seed in seeds]
        records[study] = run_together(configs)
        folders = [run_folder(validate(config)) for config in configs]
        found = [(folder / "adapters.safetensors").read_bytes() for folder in folders]
        records[study, "weights"] = found
    assert records["with", "weights"] == records["without", "weights"]
    for one, other in zip(records["with"], records["without"], strict=True):
        assert isinstance(one, Record) and one.loss == other.loss
        assert one.metrics == pytest.approx(other.metrics, rel=1e-5)  # predicted noise: float32's last bit
        assert one.run_id == other.run_id, "what changes no result is not in the id"
        folder = tmp_path / "with" / one.run_id
        assert sorted(path.name for path in (folder / "validation").iterdir()) == ["000002", "000004"]
        assert len(list((folder / "validation/000004").glob("*.png"))) == 4
        for place, name in enumerate(("00000.png", "00001.png")):  # the subject's first image, the first prompt's
            last = (folder / "validation/000004" / f"{place:05d}.png").read_bytes()
            assert last == (folder / "samples" / name).read_bytes()
            assert last != (folder / "validation/000002" / f"{place:05d}.png").read_bytes()


def test_what_shares_a_fleet_and_what_is_in_a_runs_id(tiny_folder, subject_folders, tmp_path):
    def both(*more):
        config = validate(composed(*tiny_overrides(tiny_folder, subject_folders, tmp_path), *more))
        return fleet_key(config), run_id(config)

    key, name = both()
    for option in ("ema=0.9", "schedule=linear", "clip=1"):
        assert both(f"trainer.{option}")[0] == key and both(f"trainer.{option}")[1] != name
    for option in ("accumulate=2", "grad_checkpointing=true", "compile=true"):
        assert both(f"trainer.{option}")[0] != key and both(f"trainer.{option}")[1] != name
    assert both("trainer.compile=true")[0] == both("trainer.compile=true", "seed=1")[0]
    with pytest.raises(ValueError, match=r"trainer\.compile=graphs needs a GPU"):
        both("trainer.compile=graphs")
    assert both("task.noise_offset=0.1")[0] != key
    without = copy.deepcopy(validate(composed(*tiny_overrides(tiny_folder, subject_folders, tmp_path))))
    for option in ("accumulate", "optimizer", "ema", "grad_checkpointing", "compile", "validate_every"):
        del without.values["trainer"][option]
    assert run_id(without) == name, "a config stored before these options existed names the same run"


@pytest.mark.slow
def test_a_compiled_unet_trains_as_written(tiny_base, task):
    plain, result = train(tiny_base, task)
    compiled, other = train(tiny_base, task, compile=True)
    assert other.loss == pytest.approx(result.loss, rel=1e-4)
    assert all((a - b).abs().mean() < 1e-4 for a, b in zip(compiled, plain, strict=True))
    assert tiny_base.unet._compiled_call_impl is None


def test_fit_takes_the_options_of_the_config(tiny_base, task):
    handle = build(tiny_base, Design("adapter", SPECS[0]), 0)
    assert len(fit(tiny_base, handle, task, seed=0, steps=2, lr=1e-3, accumulate=2).loss) == 2
    handle.detach()
    for wrong in ({"accumulate": 0}, {"ema": 1.0}, {"optimizer": "sgd"}, {"validate_every": 0}, {"schedule": "step"}):
        with pytest.raises(ValueError, match=f"trainer.{next(iter(wrong))}"):
            TrainConfig(1, 1e-3, **wrong)


def test_weights_that_never_moved_are_told(tiny_folder, subject_folders, tmp_path, caplog):
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    with caplog.at_level("INFO", "sdpet"):
        still, moved = run_together(
            [composed(*given, "trainer.warmup=0", f"trainer.lr={lr}") for lr in ("1e-30", "1e-5")]
        )
    assert still.reason == "the weights never moved: trainer.lr 1e-30 is too small for them" and moved.reason is None
    assert still.status == "finished" and sum("never moved" in r.message for r in caplog.records) == 1


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_clipping_in_mixed_precision_clips_the_true_gradients(tiny_base, task, precision, monkeypatch):
    """Fused AdamW under bf16-mixed, and a loss scale of 65,536 under 16-mixed: weights move as in full precision."""
    handle = build(tiny_base, Design("adapter", SPECS[0]), 0)
    start = weights(handle)
    handle.detach()

    def way(**options):
        after, _ = train(tiny_base, task, clip=1e-3, **options)
        return torch.cat([(a - b).flatten() for a, b in zip(after, start, strict=True)])

    true = way()
    if precision == "16-mixed":  # on the CPU Lightning would take bf16 instead
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))

        def trainer(**options):
            options["precision"] = None
            return Trainer(**{**options, "plugins": [*options["plugins"], plugin]})

        monkeypatch.setattr("sdpet.training.trainer.Trainer", trainer)
    mixed = way(precision=precision)
    assert mixed.norm().item() == pytest.approx(true.norm().item(), rel=0.1)
    assert torch.nn.functional.cosine_similarity(mixed, true, dim=0) > 0.9
