"""A task, data, a sampler, a scorer and an optimiser of one's own, from a package that sdpet does not know."""

import json
import sys
from functools import partial

import pytest
import torch
from study_tools import composed, tiny_overrides, train
from transformers import Adafactor

import analysis
from sdpet.adapters import AdapterSpec
from sdpet.config import own_parts, run_id, validate
from sdpet.methods import Design, build, build_fleet
from sdpet.runs import Record
from sdpet.sampling import Sampler
from sdpet.scoring import Scorer
from sdpet.tasks import CaptionedSource, DreamBoothTask, SubjectSource, Task
from sdpet.training import Member, SingleRun, TrainConfig, fit_together

PACKAGE = '''
import numpy as np
import torch
from sdpet.tasks import DreamBoothTask

class Bold(DreamBoothTask):
    name = "bold"
    def __init__(self, base, subject_dir, class_dir, prompt, class_prompt, token, batch_size, strength, data=""):
        more = {"token": token, "batch_size": batch_size, "data": data}
        super().__init__(base, subject_dir, class_dir, prompt, class_prompt, **more)
        self.strength = strength
    def loss(self, prediction, batch):
        return self.strength * super().loss(prediction, batch)
    def describe(self):
        return {**super().describe(), "strength": self.strength}

class Photos:
    def __init__(self, shade, folder=None):
        self.shade = shade
    def subject_images(self, size):
        return np.full((3, size, size, 3), self.shade, np.uint8)
    def class_images(self, size):
        return np.full((4, size, size, 3), 50, np.uint8)
    def heldout_images(self, size):
        return None

class Scans:
    def training(self, size):
        return np.full((6, size, size, 3), 70, np.uint8), [f"scan {i}" for i in range(6)]
    def heldout(self, size):
        return np.full((3, size, size, 3), 70, np.uint8), ["scan"] * 3

class Small(Scans):
    def training(self, size):
        return np.zeros((6, 8, 8, 3), np.uint8), ["scan"] * 6

class Straight:
    """One jump from noise to image, with fresh noise of its own."""
    needs_noise = True
    def __init__(self, steps, skip, twist=1.0):
        self.timesteps, self.twist = list(range(999, 999 - steps, -1))[skip:], twist
    def step(self, out, i, x, noise=None):
        return x - 0.1 * self.twist * out + 0.01 * noise

class Mean:
    name, weight_hash = "mean colour", "0"
    def __init__(self, width=3):
        self.width = width
    def encode_image(self, images):
        found = images.float().mean(dim=(2, 3))[:, : self.width] + 1
        return found / found.norm(dim=1, keepdim=True)
    def encode_text(self, texts):
        return torch.ones(len(texts), self.width) / self.width**0.5

class Sign(torch.optim.Optimizer):
    def __init__(self, parameters, lr, momentum=0.0):
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                    mean.mul_(group["momentum"]).add_(p.grad)
                    p.sub_(group["lr"] * mean.sign())

def number(): ...
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package `their_lab`, importable here and in other processes."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "their_lab.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    own_parts.load_named.cache_clear()
    yield folder
    sys.modules.pop("their_lab", None)
    own_parts.load_named.cache_clear()


OWN = (
    "task=custom", "task._target_=their_lab.Bold", "data=custom", "data._target_=their_lab.Photos", "+data.shade=9",
    "data.class_word=dog", "sampler=custom", "sampler._target_=their_lab.Straight", "sampler.steps=2",
    "eval.scorer._target_=their_lab.Mean", "+eval.scorer.width=2", "+trainer/optimizer=custom",
    "trainer.optimizer._target_=their_lab.Sign", "+trainer.optimizer.momentum=0.5",
)  # fmt: skip


def test_a_study_of_own_parts_runs_in_fleets_and_is_scored_again_with_the_users_word(
    package, tiny_folder, subject_folders, tmp_path
):
    base = [
        each
        for each in tiny_overrides(tiny_folder, subject_folders, tmp_path)
        if not each.startswith(("data", "eval.scorer"))
    ]
    small = ["eval.subject_images=2", "trainer.steps=3", "quiet=true", "study=own"]
    done = train("-m", *base, *OWN, *small, "+task.strength=1,2", "seed=0,1")
    assert done.returncode == 0, done.stderr + done.stdout
    folders = sorted(path.parent for path in (tmp_path / "own").glob("*/record.json"))
    found = [Record.read(folder) for folder in folders]
    assert len(found) == 4 and {record.status for record in found} == {"finished"}
    assert {(record.task["name"], record.task["strength"], record.task["data"]) for record in found} == {
        ("bold", 1, "Photos"),
        ("bold", 2, "Photos"),
    }
    first = found[0].protocol
    assert first["sampler"]["name"] == "their_lab.Straight" and "mean colour" in json.dumps(first["scores"])
    by_strength = {record.task["strength"]: record.loss[0][1] for record in found if record.factors["seed"] == 0}
    assert by_strength[2] == pytest.approx(2 * by_strength[1])
    frame = analysis.load_results(tmp_path / "own")
    assert analysis.factor_columns(frame) == ["strength"] and sorted(set(frame["strength"])) == [1, 2]
    again = ["run=" + str(folders[0]), "sampler.steps=3"]
    refused = train(*again, script="evaluate.py")
    assert refused.returncode == 1 and "their_lab" in refused.stderr and "trust=true" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert train(*again, "trust=true", script="evaluate.py").returncode == 0
    assert len(Record.read(folders[0]).evaluations) == 1


def test_own_captions_and_their_options_are_part_of_the_id(package, tmp_path):
    def checked(*more):
        return validate(composed(f"output_root={tmp_path}", *more))

    captions = ("task=finetune", "data=custom", "data.kind=captions", "data._target_=their_lab.Scans")
    assert checked(*captions).data.kind == "captions" and "prompt" not in checked(*captions).values["data"]
    ids = {run_id(checked(*OWN, "+task.strength=1", *more)) for more in (
        [], ["task.strength=2"], ["data.shade=8"], ["+sampler.twist=2"], ["trainer.optimizer.momentum=0.4"],
        ["eval.scorer.width=3"], ["data.class_word=cat"], [f"+data.folder={package}"])}  # fmt: skip
    assert len(ids) == 8
    before = run_id(checked(*OWN, "+task.strength=1", f"+data.folder={package}"))
    (package / "more.bin").write_text("x")  # what a path leads to is part of the id, the path is not
    assert run_id(checked(*OWN, "+task.strength=1", f"+data.folder={package}")) != before


WRONG = {
    "task._target_=their_lab.Nothing": "module their_lab has no Nothing",
    "task._target_=nowhere.Task": "cannot be imported (No module named 'nowhere'); install",
    "task._target_=Bold": "must be the Python path of a class",
    "task._target_=their_lab.Photos": "lacks batch, loss, eval_images",
    "task._target_=their_lab.PACKAGE": "has no PACKAGE",
    "data._target_=their_lab.Scans": "lacks subject_images, class_images, heldout_images",
    "+task.strenth=1": "task.strenth: their_lab.Bold has no option strenth; its options are strength",
    "~task.strength": "their_lab.Bold needs the option strength: +task.strength=VALUE",
    "+task.batch_size=3": "sdpet gives this argument itself",
    "+sampler.order=2": "their_lab.Straight has no option order; its options are twist",
    "sampler._target_=their_lab.number": "must take the argument steps",
    "sampler.guidance=-1": "sampler.guidance must be a number of at least 0",
    "trainer.optimizer._target_=torch.optim.LBFGS": "choose one whose step needs no closure",
    "trainer.optimizer._target_=SGD": "Python path such as torch.optim.SGD",
    "+trainer.optimizer.nesterov=1": "has no option nesterov; its options are parameters, momentum",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_user_can_mend_is_one_sentence_before_any_work(package, tmp_path, wrong):
    with pytest.raises(ValueError) as raised:
        validate(composed(f"output_root={tmp_path}", *OWN, "+task.strength=1", wrong))
    text = str(raised.value)
    assert WRONG[wrong] in text and "\n" not in text and text.endswith(".")


def test_typos_in_sdpets_own_groups_are_still_found(tmp_path):
    for typo, words in (("+task.flipp=1", "did you mean flip?"), ("+sampler.order=2", "no key 'sampler.order'"),
                        ("trainer.optimizer=sgd", "adamw, adamw8bit, or one of your own")):  # fmt: skip
        with pytest.raises(ValueError, match=words.replace("?", r"\?")):
            validate(composed(f"output_root={tmp_path}", typo))


def test_images_of_the_wrong_shape_are_named(package, tiny_base):
    from their_lab import Small

    from sdpet.tasks import own_data_arguments

    with pytest.raises(ValueError, match=r"Small.training must give images as a uint8 array \(N, 32, 32, 3\)"):
        own_data_arguments(Small(), "captions", 32, "their_lab.Small")


def test_the_methods_asked_for_are_those_of_the_protocols():
    """What a config is checked for, against the types that the reference documents."""
    for kind, protocol in (("task", Task), ("subject data", SubjectSource), ("captions data", CaptionedSource),
                           ("sampler", Sampler)):  # fmt: skip
        methods = {name for name in dir(protocol) if not name.startswith("_") and callable(getattr(protocol, name))}
        assert set(own_parts.PART_KINDS[kind].needs) == methods
    assert issubclass(DreamBoothTask, object) and hasattr(Scorer, "encode_image")


OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, momentum=0.9),
    "adafactor": partial(Adafactor, scale_parameter=True, relative_step=False),  # looks at shapes and at whole tensors
}


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    return DreamBoothTask(
        tiny_base, subject_folders["subject"], subject_folders["class"], "a photo of a sks star", "a photo of a star"
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_own_optimiser_in_a_fleet_gives_the_weights_of_training_alone_and_resumes(tiny_base, task, name):
    designs = [Design("adapter", AdapterSpec.parse(placement, mid_dim=4)) for placement in ("attn2o-ffni", "ffni-ffni")]
    config = TrainConfig(4, 1e-2, clip=0.5, optimizer=OPTIMIZERS[name])

    def weights(handle):
        return [p.detach().clone() for p in handle.parameters()]

    def together(states=(None, None), kept=None):
        fleet = build_fleet(tiny_base, designs, [0, 0])
        keep = None if kept is None else lambda step, of: kept.update({step: [of(0), of(1)]})
        try:
            members = [Member(h, 0, config, state=s) for h, s in zip(fleet.members, states, strict=True)]
            fit_together(tiny_base, members, task, fleet, save=keep)
            return [weights(handle) for handle in fleet.members]
        finally:
            fleet.detach()
            for handle in fleet.members:
                handle.detach()

    kept: dict = {}
    found = together(kept=kept)
    for design, mine in zip(designs, found, strict=True):
        handle = build(tiny_base, design, 0)
        before = weights(handle)
        fit_together(tiny_base, [Member(handle, 0, config)], task, SingleRun())
        alone = weights(handle)
        handle.detach()
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-6)
        assert not all(torch.equal(a, b) for a, b in zip(alone, before, strict=True))
    resumed = together(kept[2])
    assert all(torch.equal(a, b) for x, y in zip(found, resumed, strict=True) for a, b in zip(x, y, strict=True))


def test_adamw_by_its_path_is_adamw(tiny_base, task):
    """The same optimiser, once as sdpet's own and once as the user's."""

    def trained(optimizer):
        handle = build(tiny_base, Design("adapter", AdapterSpec.parse("attn2o-ffni", mid_dim=4)), 0)
        config = TrainConfig(3, 1e-2, optimizer=optimizer, schedule="cosine")
        fit_together(tiny_base, [Member(handle, 0, config)], task)
        handle.detach()
        return torch.cat([p.detach().flatten() for p in handle.parameters()])

    own = trained(partial(torch.optim.AdamW, weight_decay=0.01, fused=True))
    assert torch.equal(own, trained("adamw"))
