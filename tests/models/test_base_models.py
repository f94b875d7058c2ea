"""Base models in the public formats: original checkpoints, hub ids, Stable Diffusion 2.1 and XL."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import types

import pytest
import torch
from study_tools import SMALL, composed, environment, train
from tiny_models import pipeline, write_checkpoint, write_configs, write_folder

from sdpet import AdapterSpec, attach
from sdpet.config import validate
from sdpet.models import find_source, load_base
from sdpet.models.compvis.load import read_weights
from sdpet.models.compvis.tokenizer import clip_tokenizer
from sdpet.runs import Record, run
from sdpet.sampling import SamplerConfig, sample


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    """Parts, their folder, the configs for a checkpoint, and a full checkpoint with its EMA weights."""
    root = tmp_path_factory.mktemp("v1")
    made = write_folder(root / "folder")
    ema = {key: 0.9 * value for key, value in made["unet"].state_dict().items()}
    configs = write_configs(root / "configs", made)
    return types.SimpleNamespace(
        root=root, made=made, folder=root / "folder", configs=configs, ema=ema,
        ckpt=write_checkpoint(root / "full.ckpt", made, ema), small=write_checkpoint(root / "small.ckpt", made),
    )  # fmt: skip


def same_weights(module, state):
    own = module.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def forbid_network(monkeypatch):
    import socket

    def refuse(*args, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", ["full.ckpt", "small.ckpt", "small.safetensors", "half.ckpt"])
def test_a_checkpoint_is_the_folder_bit_for_bit(v1, name, monkeypatch):
    forbid_network(monkeypatch)
    file = v1.root / name
    if not file.exists():
        write_checkpoint(file, v1.made, half="half" in name)
    base = load_base("ckpt", file, config=v1.configs)
    original = load_base("folder", v1.folder)
    for part in ("unet", "vae", "text_encoder"):
        for parameter in getattr(original, part).parameters():  # mapped from the file, not aligned as new ones are,
            parameter.data = parameter.data.clone()  # with which some kernels round otherwise
        expected = {
            k: v.half().float() if "half" in name else v for k, v in getattr(original, part).state_dict().items()
        }
        assert same_weights(getattr(base, part), expected), part
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in base.unet.parameters())
    if "half" not in name:
        text = original.encode_text(["a photo of a dog", ""])
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(base.encode_text(["a photo of a dog", ""]), text)
        assert torch.equal(base.predict(x, torch.tensor(7), text), original.predict(x, torch.tensor(7), text))
        assert torch.equal(torch.tensor(base.decode(x)), torch.tensor(original.decode(x)))
    assert base.scheduler.config.beta_end == 0.012 and base.prediction_type == "epsilon"


def test_ema_weights_are_used_when_asked_for(v1):
    base = load_base("ckpt", v1.ckpt, config=v1.configs, use_ema=True)
    assert same_weights(base.unet, v1.ema)
    assert same_weights(base.vae, v1.made["vae"].state_dict())
    plain = load_base("ckpt", v1.ckpt, config=v1.configs)
    assert same_weights(plain.unet, v1.made["unet"].state_dict()) and plain.weight_hash != base.weight_hash
    with pytest.raises(ValueError, match=r"holds no EMA weights .*use_ema=false"):
        find_source(v1.small, use_ema=True, config=v1.configs)
    with pytest.raises(ValueError, match="use_ema goes with a checkpoint file"):
        find_source(v1.folder, use_ema=True)


class Bomb:
    """Makes a folder when it is unpickled in the ordinary way."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused_and_not_executed(v1, tmp_path, legacy):
    bomb, file = tmp_path / "executed", tmp_path / "bad.ckpt"
    torch.save(
        {"state_dict": {"model.diffusion_model.a": 1}, "x": Bomb(bomb)}, file, _use_new_zipfile_serialization=not legacy
    )
    for read in (lambda: find_source(file), lambda: read_weights(file)):
        with pytest.raises(
            ValueError, match=r"could run code .* names posix\.mkdir.*\.safetensors.*source you trust"
        ) as e:
            read()
        assert "\n" not in str(e.value) and not bomb.exists()
    torch.load(file, weights_only=False)  # the bomb is live
    assert bomb.exists()


def test_even_unseen_code_is_not_executed(v1, tmp_path, monkeypatch):
    """torch's restricted unpickler stands behind our own look at the file."""
    monkeypatch.setattr("sdpet.models.compvis.load.refuse_code", lambda *args: None)
    torch.save({"state_dict": {}, "x": Bomb(tmp_path / "executed")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_weights(tmp_path / "bad.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_what_training_tools_leave_beside_the_weights_does_no_harm(v1, tmp_path, monkeypatch, legacy):
    """Classes of lightning that are not installed, numpy's numbers, containers of the standard library."""
    import argparse
    import collections

    import numpy as np

    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    exec("class ModelCheckpoint:\n    pass", module.__dict__)
    module.ModelCheckpoint.__module__ = name
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.setitem(sys.modules, part, module)
    callback = module.ModelCheckpoint()
    callback.best = np.float64(0.5)
    extras = {
        "callbacks": {module.ModelCheckpoint: {"best_model_score": torch.ones(1), "own": callback}},
        "hyper_parameters": argparse.Namespace(lr=np.float32(1e-4), seen=collections.defaultdict(list)),
        "loss": np.arange(3.0),
    }
    state = {f"model.diffusion_model.{i}": torch.full((2,), float(i)) for i in range(3)}
    torch.save({"state_dict": state, **extras}, tmp_path / "extras.ckpt", _use_new_zipfile_serialization=not legacy)
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks", name):
        monkeypatch.delitem(sys.modules, part)
    weights = read_weights(tmp_path / "extras.ckpt")
    assert weights.keys() == state.keys() and all(torch.equal(weights[key], state[key]) for key in state)
    assert name not in sys.modules


def test_a_checkpoint_that_does_not_fit_names_the_first_weight(v1, tmp_path):
    other = types.SimpleNamespace(**{k: v for k, v in vars(v1).items()})
    state = dict(torch.load(v1.small)["state_dict"])
    del state["model.diffusion_model.middle_block.1.norm.weight"]
    torch.save({"state_dict": state}, tmp_path / "cut.ckpt")
    with pytest.raises(ValueError, match=r"does not fit the UNet2D.*: 1 weights .*first mid_block.attentions.0.norm.w"):
        load_base("ckpt", tmp_path / "cut.ckpt", config=other.configs)
    with pytest.raises(ValueError, match=r"does not fit the UNet2DConditionModel of .*architectures/v1"):
        load_base("ckpt", v1.small)  # the shipped configs are of full size
    torch.save({"state_dict": {"layer.weight": torch.ones(1)}}, tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match=r"no Stable Diffusion checkpoint.*model\.diffusion_model"):
        find_source(tmp_path / "none.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(v1.small.read_bytes()[:5000])
    with pytest.raises(ValueError, match="neither a checkpoint"):
        find_source(tmp_path / "cut.safetensors")


def test_clips_tokens_without_a_download():
    """Equal ids to open_clip's own implementation, on real words, long words, other scripts, emoji and controls."""
    import open_clip

    theirs, ours = open_clip.SimpleTokenizer(), clip_tokenizer()
    rng = random.Random(0)
    words = "dog sks Painting don't we're 1234 3.14 naïve Zürich 東京 привет 🎨 #tag @you ... -- (ok) x_y".split()
    texts = ["", "a photo of a sks dog", "a painting of a virus monster playing guitar", "word " * 100]
    texts += [" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(500)]
    texts += ["".join(rng.choices("abcdefgh XYZ.,!'éß猫", k=rng.randint(1, 60))) for _ in range(500)]
    assert len(ours) == 49408 and ours.model_max_length == 77
    expected = theirs(texts)
    got = ours(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    ends = got.attention_mask.sum(1)
    assert torch.equal(torch.where(got.attention_mask.bool(), got.input_ids, 0), expected)
    assert (ends > 2).sum() > 900 and ours.pad_token_id == 49407


@pytest.mark.parametrize("kind", ["v21", "sdxl"])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_samples_are_those_of_diffusers_own_pipeline(kind, guidance, tmp_path):
    """Velocity prediction; two text encoders, pooled text, sizes and the zeros of the empty prompt."""
    from diffusers import DDIMScheduler

    from sdpet.seeds import generator

    made = write_folder(tmp_path / kind, kind)
    base = load_base(kind, tmp_path / kind)
    assert base.is_xl == (kind == "sdxl") and base.image_size == 64
    rows = base.encode_text(["a dog", "", "a dog"])
    assert len(rows) == 3 and torch.equal(rows[0], rows[2]) and bool((rows[1] == 0).all()) == base.is_xl
    pipe = pipeline(kind, made)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    pipe.set_progress_bar_config(disable=True)
    start = torch.randn(1, *base.latent_shape, generator=generator(3, "image"))
    options = {"height": 64, "width": 64} if base.is_xl else {}
    theirs = pipe(
        "a dog", num_inference_steps=4, guidance_scale=guidance, latents=start, output_type="np", **options
    ).images[0]
    ours = sample(base, ["a dog"], [3], SamplerConfig("ddim", 4, guidance))[0]
    assert abs(theirs * 255 - ours).max() <= 1
    if base.is_xl:
        adapters = attach(base.unet, AdapterSpec.parse("attn2o-ffni", mid_dim=2))
        assert len(adapters) == 2 * 2 + 2 * 3 + 3 + 3 * 3 + 3 * 2  # down, down, mid, up, up
        adapters.detach()


@pytest.mark.parametrize("kind", ["sd21", "sdxl", "ckpt"])
def test_a_run(kind, v1, tmp_path, subject_folders):
    """Train, sample, score, record, on the way of every other run; with a checkpoint from the command line."""
    if kind == "ckpt":
        model = [f"unet.path={v1.ckpt}", f"unet.config={v1.configs}", "unet.use_ema=true"]
    else:
        write_folder(tmp_path / kind, kind.replace("sd21", "v21"))
        model = [f"unet.path={tmp_path / kind}"]
    data = [f"data.{name}_dir={folder}" for name, folder in subject_folders.items()]
    given = [f"unet={kind}", *model, f"output_root={tmp_path}", *data, *SMALL, "trainer.steps=2", "adapter.mid_dim=2"]
    if kind == "ckpt":
        ended = train(*given)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        (file,) = tmp_path.glob("single/*/record.json")
        record = Record.read(file.parent)
    else:
        record = run(composed(*given))
    assert record.status == "finished" and len(record.loss) == 2 and "clip_i" in record.metrics, record.reason
    assert record.sizes["adapters"] == (28 if kind == "sdxl" else 16)
    assert len(list((tmp_path / "single" / record.run_id / "samples").glob("*.png"))) == 2


def test_identity_is_content_and_what_is_read_of_it(v1, tmp_path, subject_folders):
    import shutil

    from sdpet.config import run_id

    def name(*more):
        data = [f"data.{key}_dir={folder}" for key, folder in subject_folders.items()]
        return run_id(validate(composed(*data, f"output_root={tmp_path}", *more)))

    ckpt = ["unet=ckpt", f"unet.config={v1.configs}"]
    first = name(*ckpt, f"unet.path={v1.ckpt}")
    moved = shutil.copy(v1.ckpt, tmp_path / "other.ckpt")
    assert name(*ckpt, f"unet.path={moved}") == first
    assert name(*ckpt, f"unet.path={v1.ckpt}", "unet.use_ema=true") != first
    assert name(*ckpt, f"unet.path={v1.ckpt}", "unet.image_size=128") != first
    folder = shutil.copytree(v1.folder, tmp_path / "folder")
    plain = name("unet=sd15", f"unet.path={folder}")
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"other form")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"other form")
    assert name("unet=sd15", f"unet.path={folder}") == plain
    with pytest.raises(ValueError, match="multiple of 8, not 100"):
        validate(composed("unet=sd15", f"unet.path={folder}", "unet.image_size=100"))


def cached_model(cache, name, made_in):
    """The folder as the hub's client keeps what it has fetched."""
    import shutil

    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40)
    return shutil.copytree(made_in, repository / "snapshots" / ("a" * 40))


def test_a_hub_id_in_the_local_cache_needs_no_network(v1, tmp_path, monkeypatch, subject_folders):
    cached_model(tmp_path, "CompVis/stable-diffusion-v1-4", v1.folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    forbid_network(monkeypatch)
    config = validate(composed("unet=sd14", "quiet=true"))
    assert find_source(config.unet.path).path.parent.name == "snapshots"
    base = load_base("sd14", "CompVis/stable-diffusion-v1-4")
    assert same_weights(base.unet, v1.made["unet"].state_dict())
    assert base.weight_hash == load_base("x", v1.folder).weight_hash


def test_a_hub_id_that_cannot_be_had_is_one_sentence_before_any_work(tmp_path):
    program = "import sys; from sdpet.models import find_source\ntry: find_source('CompVis/none')\n"
    program += "except ValueError as error: print(error); assert 'torch' not in sys.modules"
    offline = environment() | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", program], env=offline, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and len(ended.stdout.splitlines()) == 1, ended
    for part in ("CompVis/none", "not in the local cache", "hf download", "pipeline folder"):
        assert part in ended.stdout


def test_a_folder_with_half_precision_weights_alone(v1, tmp_path):
    """As large models are often fetched: *.fp16.safetensors; an incomplete folder is named before any work."""
    from tiny_models import pipeline

    pipeline("v1", v1.made).save_pretrained(tmp_path, variant="fp16")
    base = load_base("x", tmp_path)
    assert same_weights(base.unet, v1.made["unet"].state_dict())
    assert same_weights(base.text_encoder, v1.made["text_encoder"].state_dict())
    next((tmp_path / "vae").glob("*.fp16.safetensors")).unlink()
    with pytest.raises(ValueError, match="has no weights in vae"):
        find_source(tmp_path)
