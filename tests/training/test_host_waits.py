"""The host waits for the device once a step. Waits are counted on the CPU, and tensors on a GPU are shapes only."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import tiny_models
import tiny_pipelines
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sdpet.adapters import AdapterSpec, attach
from sdpet.adapters.edges import Attachment
from sdpet.adapters.inputs import ModelInputs
from sdpet.methods import Design, build, build_fleet
from sdpet.models import BaseModel
from sdpet.sampling import SamplerConfig, denoise
from sdpet.tasks import DreamBoothTask
from sdpet.training import Member, TrainConfig, fit_together

WAITING = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")
SPECS = [AdapterSpec.parse("attn2o-ffni", mid_dim=4, when=when) for when in ((0.0, 0.7), (0.3, 1.0))]


class Calls(TorchFunctionMode):
    """The methods of tensors on a device that need its values on the host."""

    def __init__(self):
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if (name := getattr(function, "__name__", "")) in WAITING:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


class Reads(TorchDispatchMode):
    """Numbers that are read from a device, and values that are copied to a GPU from ordinary memory."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name, first = function.name(), args[0] if args else None
        copied = name == "aten::_to_copy" and (first.device.type, out.device.type) == ("cpu", "cuda")
        if (copied and not getattr(first, "pinned", False)) or name == "aten::_local_scalar_dense":
            self.found.append(name)
        return out


@pytest.fixture
def pinning(monkeypatch):
    """Mark what is copied to pinned memory, which shapes cannot be: the host does not wait for copies from there."""

    def pin_memory(values):
        copy = values.clone()
        copy.pinned = True
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    folders = subject_folders["subject"], subject_folders["class"]
    return DreamBoothTask(tiny_base, *folders, "a photo of a sks star", "a photo of a star", batch_size=1)


def scaled(monkeypatch, scale=2.0**16):
    """Have 16-mixed on the CPU, where Lightning would take bf16 instead."""
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    def trainer(**options):
        return Trainer(**{**options, "precision": None, "plugins": [*options["plugins"], plugin]})

    monkeypatch.setattr("sdpet.training.trainer.Trainer", trainer)
    return plugin


def waits(base, task, designs, steps, **options):
    """What is read in training, without its beginning and end, which two lengths of training share."""
    calls, reads = Calls(), Reads()
    fleet = build_fleet(base, designs, [0, 1]) if len(designs) > 1 else None
    handles = fleet.members if fleet else [build(base, designs[0], 0)]
    members = [Member(handle, i, TrainConfig(steps, 1e-3, clip=1.0, **options)) for i, handle in enumerate(handles)]
    try:
        with reads, calls:
            fit_together(base, members, task, fleet)
    finally:
        (fleet or handles[0]).detach()
    return calls.names, reads.found


@pytest.mark.parametrize("kind", ["alone", "fleet", "16-mixed", "16-mixed, fused Adam"])
def test_a_step_reads_its_losses_and_no_other_unfinished_work(tiny_base, task, kind, monkeypatch):
    """Two readings a step: its losses, for which it waits, and norms, which are read when they are there already."""
    designs = [Design("adapter", spec) for spec in SPECS[: 2 if kind == "fleet" else 1]]
    options = {}
    if kind.startswith("16-mixed"):
        scaled(monkeypatch)
        options["precision"] = "16-mixed"
    if kind.endswith("Adam"):
        options["optimizer"] = partial(torch.optim.Adam, fused=True, weight_decay=0.1)
    short, long = (waits(tiny_base, task, designs, steps, **options) for steps in (2, 4))
    assert sorted(short[0] + ["tolist"] * 2 * 2) == sorted(long[0])
    assert short[1] == long[1]


def test_an_overflow_under_16_mixed_does_not_reach_the_weights(tiny_base, task, monkeypatch):
    """With this loss scale every gradient overflows; the scale is halved each time, and nothing else happens."""
    plugin = scaled(monkeypatch, 2.0**127)
    handle = build(tiny_base, Design("adapter", AdapterSpec.parse("attn2o-ffni", mid_dim=4)), 0)
    try:
        before = [parameter.detach().clone() for parameter in handle.parameters()]
        member = Member(handle, 0, TrainConfig(3, 1e-3, clip=1.0, precision="16-mixed"))
        result = fit_together(tiny_base, [member], task)[0]
        assert all(torch.equal(a, b) for a, b in zip(before, handle.parameters(), strict=True))
        assert plugin.scaler.get_scale() == 2.0**124 and not result.moved and not result.diverged
    finally:
        handle.detach()


def shapes_only(module: torch.nn.Module) -> None:
    """Put a module's tensors onto a GPU that is not there."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(torch.empty(value.shape, device="cuda"), False)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")


SMALL_XL = tiny_models.UNETS["sdxl"] | {
    "block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 2, "transformer_layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["sdxl", "flux", "pixart"])
def test_a_denoiser_is_called_without_copies_from_the_host(kind):
    """The second call, as values may be copied once for all calls. Ids and sizes are made on the device."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(**SMALL_XL) if kind == "sdxl" else tiny_pipelines.denoiser(kind)
    handle = attach(unet.eval(), AdapterSpec.parse("transo-transo", mid_dim=2, when=(0.2, 0.8)))
    vae = SimpleNamespace(config=SimpleNamespace(block_out_channels=(8, 8)))
    second = SimpleNamespace(config=SimpleNamespace(projection_dim=24)) if kind == "sdxl" else None
    base = BaseModel(unet, vae, None, None, None, kind, "", text_encoder_2=second)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        shapes_only(unet)
        shapes_only(handle)
        width = {"sdxl": 40, "flux": 40, "pixart": 41}[kind]
        rows = torch.zeros(2, {"pixart": 300}.get(kind, 9), width, device="cuda")
        noisy, time = torch.zeros(2, 4, 8, 8, device="cuda"), torch.zeros((), device="cuda")
        base.predict(noisy, time, rows)
        with Reads() as reads:
            out = base.predict(noisy, time, rows)
        assert out.shape == noisy.shape and out.device.type == "cuda"
    assert reads.found == []


def test_a_step_that_learns_a_token_encodes_its_text_without_copies_that_are_waited_for(pinning, monkeypatch):
    """Token ids come from pinned memory, and so do the places of repeated prompts."""
    from diffusers import UNet2DConditionModel

    unet, encoders = UNet2DConditionModel(**SMALL_XL), (tiny_models.text_encoder(16), tiny_models.text_encoder(24, 24))
    tokenizer = tiny_models.clip_tokenizer()
    second = {"text_encoder_2": encoders[1], "tokenizer_2": tokenizer, "zero_empty": True}
    base = BaseModel(unet, None, encoders[0], tokenizer, None, "sdxl", "", **second)
    handle = build(base, Design("embedding", token="dog"), 0)
    ids = lambda tokenizer, texts: torch.zeros(len(texts), 77, dtype=torch.long)  # noqa: E731
    monkeypatch.setattr("sdpet.models.families.stable_diffusion_xl.tokenize", ids)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in (unet, *encoders):
            shapes_only(part)
        for look_up in handle._look_ups.values():
            look_up.rows = torch.nn.Parameter(torch.empty(look_up.rows.shape, device="cuda"))
        with Reads() as reads:
            rows = base.encode_text(["a dog", "a cat", "", "a dog"])
    assert reads.found == [] and len(rows) == 4 and rows.requires_grad and rows.device.type == "cuda"


def test_whether_adapters_act_is_found_on_the_device():
    """Of a fleet's rows, and without gradients; on the CPU, where it costs nothing, none of them need be computed."""
    whens, rows = ((0.0, 0.5), (0.5, 1.0)), slice(0, 4)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        inputs, gpu = ModelInputs(Attachment()), torch.device("cuda")
        inputs._timesteps = torch.zeros(4, device="cuda")
        inputs.inside(whens, rows, 4, gpu)
        with Reads() as reads:
            assert inputs.inside(whens, rows, 4, gpu).device.type == "cuda"
        assert reads.found == []
    inputs._timesteps, cpu = torch.tensor([10.0, 900.0, 10.0, 900.0]), torch.device("cpu")
    with torch.no_grad():
        assert inputs.inside(whens, rows, 4, cpu).tolist() == [True, False, False, True]
        assert inputs.inside(((0.95, 1.0),), rows, 4, cpu) is None


class Ancestral:
    """Adds fresh noise at each step."""

    needs_noise = True

    def __init__(self, steps, **options):
        self.timesteps = [float(t) for t in reversed(range(steps))]

    def step(self, out, i, x, noise=None):
        return x - out + noise


def test_drawing_does_not_wait_between_its_steps(tiny_base, pinning):
    """Timesteps are copied before it begins, and fresh noise comes from pinned memory."""
    from diffusers import UNet2DConditionModel

    sizes = {key: value for key, value in SMALL_XL.items() if "addition" not in key and "projection" not in key}
    unet, counts, reads = UNet2DConditionModel(**sizes).eval(), [], Reads()
    base = BaseModel(unet, tiny_base.vae, None, None, tiny_base.scheduler, "v1", "", side=16)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        shapes_only(unet)
        unet.register_forward_pre_hook(lambda module, given: counts.append(len(reads.found)))
        text = torch.zeros(2, 9, 40, device="cuda")
        with reads:
            out = denoise(base, text, text[:1], [0, 1], SamplerConfig("own", 2, 2.0, make=Ancestral))
    assert out.device.type == "cuda" and len(counts) == 2 and len(set(counts)) == 1
    assert len(reads.found) == counts[0]
