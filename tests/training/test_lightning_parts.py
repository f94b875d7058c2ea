"""What users of Lightning set on its Trainer does here what it does there."""

from __future__ import annotations

import csv
import re

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from study_tools import composed, tiny_overrides

from sdpet.adapters import AdapterSpec
from sdpet.config import fleet_key, run_folder, run_id, validate
from sdpet.methods import Design, build, build_fleet
from sdpet.runs import run
from sdpet.tasks import DreamBoothTask
from sdpet.training import LightningParts, Member, TrainConfig, fit_together

SPEC = AdapterSpec.parse("attn2o-ffni", mid_dim=4)
OF = "lightning.pytorch"


@pytest.fixture
def overrides(tiny_folder, subject_folders, tmp_path):
    return [*tiny_overrides(tiny_folder, subject_folders, tmp_path / "outputs"), "quiet=true"]


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    words = ("a photo of a sks star", "a photo of a star")
    return DreamBoothTask(tiny_base, subject_folders["subject"], subject_folders["class"], *words)


def train(base, task, *callbacks, seeds=(0,), state=None, save=None, told=None, folder=None, **options):
    """Train one run, or a fleet of one design with several seeds; returns weights and results."""
    config = TrainConfig(**{"steps": 6, "lr": 1e-2, "validate_every": 2} | options)
    fleet = build_fleet(base, [Design("adapter", SPEC)] * len(seeds), list(seeds)) if len(seeds) > 1 else None
    handles = [build(base, Design("adapter", SPEC), seeds[0])] if fleet is None else fleet.members
    try:
        members = [Member(handle, seed, config, None, state, told) for handle, seed in zip(handles, seeds, strict=True)]
        parts = LightningParts(callbacks=callbacks, folder=folder)
        results = fit_together(base, members, task, fleet, save=save, lightning=parts)
        return [torch.cat([p.detach().flatten() for p in handle.parameters()]) for handle in handles], results
    finally:
        for owner in handles if fleet is None else [fleet]:
            owner.detach()


class Watcher(Callback):
    """Keeps what monitors see after each step, and the number of steps of each epoch."""

    def __init__(self):
        self.seen, self.epochs, self.count = [], [], 0

    def on_train_batch_end(self, trainer, *_):
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.count += 1

    def on_train_epoch_end(self, *_):
        self.epochs.append(self.count)


def test_monitors_see_losses_rates_and_norms(tiny_base, task):
    told, watcher, rates = {}, Watcher(), LearningRateMonitor(logging_interval="step")
    tell = lambda step, values: told.setdefault(step, {}).update(values)  # noqa: E731
    plain, _ = train(tiny_base, task, schedule="cosine", clip=0.01)
    weights, (result,) = train(tiny_base, task, watcher, rates, told=tell, schedule="cosine", clip=0.01)
    assert torch.equal(weights[0], plain[0])
    assert [seen["loss"] for seen in watcher.seen] == pytest.approx(result.loss)
    assert [seen["lr"] for seen in watcher.seen] == pytest.approx([told[step]["lr"] for step in range(1, 7)])
    norms = [told[step]["grad_norm"] for step in range(1, 7)]
    assert [seen["grad_norm"] for seen in watcher.seen] == pytest.approx(norms) and min(norms) > 0.01  # before clipping
    config = TrainConfig(6, 1e-2, schedule="cosine")
    assert [told[step]["lr-AdamW"] for step in range(1, 7)] == [config.lr_at(step) for step in range(6)]
    assert watcher.epochs == [2, 4, 6]


def test_the_gradient_norm_is_that_of_each_member(tiny_base, task):
    watcher, alone = Watcher(), []
    train(tiny_base, task, watcher, seeds=(0, 1))
    for seed in (0, 1):
        alone.append(Watcher())
        train(tiny_base, task, alone[-1], seeds=(seed,))
    for i, own in enumerate(alone):
        for name in ("loss", "grad_norm"):
            assert watcher.seen[3][f"{name}/{i}"] == pytest.approx(own.seen[3][name], rel=1e-3)


def test_early_stopping_stops_and_its_patience_survives_a_checkpoint(tiny_base, task):
    """It counts epochs of two steps; none is ever better by 1, so patience 2 ends the third."""
    stop = lambda: EarlyStopping("loss", min_delta=1.0, patience=2)  # noqa: E731
    kept = {}

    def save(step, state):
        kept[step] = state(0)

    _, (result,) = train(tiny_base, task, stop(), save=save, steps=20)
    assert len(result.loss) == 6 and not result.diverged
    _, (resumed,) = train(tiny_base, task, stop(), state=kept[5], steps=20)
    assert len(resumed.loss) == 6


def test_model_checkpoints_hold_what_a_run_resumes_from(tiny_base, task, tmp_path):
    best = ModelCheckpoint(monitor="loss", every_n_train_steps=3, save_top_k=-1, filename="{step}")
    whole, _ = train(tiny_base, task, best, folder=tmp_path)
    files = sorted(tmp_path.rglob("*.ckpt"))
    assert len(files) == 2 and all("checkpoints" in str(file) for file in files)
    state = torch.load(files[0], weights_only=True)["members"][0]
    assert state["step"] == 3
    again, _ = train(tiny_base, task, state=state)
    assert torch.equal(again[0], whole[0])


def test_a_run_takes_them_from_its_config(overrides):
    """As its users write them; what only watches changes no id, what acts does and is trained alone."""
    watching = f"trainer.callbacks=[{{_target_:{OF}.callbacks.LearningRateMonitor,logging_interval:step}}]"
    acting = f"trainer.callbacks=[{{_target_:{OF}.callbacks.EarlyStopping,monitor:loss,min_delta:9,patience:1}}]"
    few = [*overrides, "trainer.steps=8", "trainer.validate_every=2"]
    plain, watched = (
        validate(composed(*few)),
        validate(composed(*few, watching, "trainer.profiler=simple", "logger=csv")),
    )
    stopped, sometimes = validate(composed(*few, acting)), validate(composed(*few, acting, "trainer.validate_every=4"))
    assert run_id(watched) == run_id(plain) != run_id(stopped) != run_id(sometimes)
    others = [config.changed(seed=1) for config in (plain, watched, stopped)]
    alike = [fleet_key(a) == fleet_key(b) for a, b in zip((plain, watched, stopped), others, strict=True)]
    assert alike == [True, True, False]

    record = run(watched)
    folder = run_folder(watched)
    assert record.status == "finished", record.reason
    with (folder / "metrics.csv").open() as file:
        assert [(row["step"], row["metric"]) for row in csv.DictReader(file)] == [
            (str(step), "lr-AdamW") for step in range(1, 9)
        ]
    assert "training_step" in (folder / "fit-profile.txt").read_text()
    assert "trainer.callbacks" not in record.settings or record.settings["trainer.callbacks"] is None

    record = run(stopped)
    assert (record.status, len(record.loss)) == ("finished", 4)
    assert record.reason == "a callback ended training after 4 of 8 steps"
    assert record.settings["trainer.callbacks.EarlyStopping.min_delta"] == 9


class Algorithms(Callback):
    """Keeps whether torch's algorithms are deterministic, and only warn, in each step."""

    def __init__(self):
        self.seen = set()

    def on_train_batch_start(self, *_):
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        self.seen.add((torch.are_deterministic_algorithms_enabled(), warns))


@pytest.mark.parametrize(("asked", "state"), [(True, (True, False)), ("warn", (True, True)), (False, (False, False))])
def test_deterministic_algorithms_are_for_the_training_alone(tiny_base, task, asked, state):
    algorithms = Algorithms()
    plain, _ = train(tiny_base, task)
    weights, _ = train(tiny_base, task, algorithms, deterministic=asked)
    assert algorithms.seen == {state} and not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(weights[0], plain[0])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (f"trainer.callbacks=[{{_target_:{OF}.callbacks.EarlyStopping,mode:min}}]", "needs the option monitor"),
        (f"trainer.callbacks=[{{_target_:{OF}.callbacks.Timer,colour:red}}]", "Timer has no option colour"),
        (f"trainer.callbacks=[{{_target_:{OF}.callbacks.StochasticWeightAveraging}}]", "use trainer.ema=0.999"),
        ("trainer.callbacks=[{_target_:torch.nn.ReLU}]", "ReLU lacks on_train_batch_end"),
        ("trainer.callbacks=[early]", "must be mappings with a Python path such as"),
        ("trainer.profiler=simpel", "did you mean simple"),
        ("trainer.strategy=ddp", "trainer.strategy is for a run on several devices"),
        ("trainer.deterministic=1", "must be true, false or warn"),
        ("trainer.tf32=true", "trainer.tf32 is for CUDA devices"),
        (
            f"trainer.strategy={{_target_:{OF}.strategies.FSDPStrategy}} trainer.batch_size=4 trainer.devices=2",
            "is not a DDP",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(overrides, wrong, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        validate(composed(*overrides, *wrong.split()))
    assert "\n" not in str(error.value)
