"""Models and adapters that others made: every weight got a value, a finite one, of the model it was made for."""

from __future__ import annotations

import copy
import json
import shutil
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdpet import AdapterSpec, attach, load_adapters
from sdpet.methods import Design, PeftSpec, build, load
from sdpet.models import load_base
from sdpet.models.compvis.load import read_weights
from sdpet.models.compvis.scan import TEXTS, UNET, VAE
from sdpet.models.source import find_source

TEXT = "cond_stage_model.transformer."  # of Stable Diffusion v1
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture
def model(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "model")
    return tmp_path / "model"


def change(model, part, edit):
    file = model / part / WEIGHTS[part]
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_part_that_lacks_weights_is_refused(model, part):
    names = []

    def drop(tensors):
        names.append(sorted(name for name in tensors if tensors[name].ndim > 1)[0])
        del tensors[names[0]]

    change(model, part, drop)
    with pytest.raises(ValueError, match=rf"{part} of .* is incomplete: 1 weights.*{names[0].rsplit('.', 2)[-2]}"):
        load_base("tiny", model)


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_of_another_shape_are_refused(model, part):
    def cut(tensors):
        name = next(name for name in tensors if tensors[name].ndim > 1)
        tensors[name] = tensors[name][:1].clone()

    change(model, part, cut)
    with pytest.raises(ValueError, match=rf"{part} of .*(is incomplete|cannot be loaded)"):
        load_base("tiny", model)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(model, part, value):
    names = []

    def spoil(tensors):
        names.append(next(name for name in tensors if tensors[name].ndim > 1))
        tensors[names[0]].flatten()[3] = value

    change(model, part, spoil)
    with pytest.raises(ValueError, match=rf"{part} of .*NaN or infinite, in .*{names[0].rsplit('.', 2)[-2]}"):
        load_base("tiny", model)


def test_large_weights_whose_sum_overflows_are_finite(model):
    change(model, "vae", lambda tensors: next(iter(tensors.values())).fill_(3e38))
    load_base("tiny", model)


def test_a_model_for_inpainting_is_refused_before_it_is_loaded(model):
    config = json.loads((model / "unet" / "config.json").read_text())
    (model / "unet" / "config.json").write_text(json.dumps({**config, "in_channels": 9}))
    with pytest.raises(ValueError, match=r"inpainting model: its UNet takes 9 channels"):
        find_source(model)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 200_000, '"x"'])
def test_configs_that_are_none_are_one_sentence(model, text):
    (model / "vae" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        find_source(model)


def safetensors_bytes(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


HEADERS = {
    "a list": safetensors_bytes(b'{"a": [1]}'),
    "no offsets": safetensors_bytes(b'{"a": {"dtype": "F32"}}'),
    "deep": safetensors_bytes(b'{"a":' * 200_000 + b"}" * 200_000),
    "cut short": safetensors_bytes(b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}', b"1234"),
    "a long header": struct.pack("<Q", 2**62) + b"{}",
    "not UTF-8": safetensors_bytes(b'{"\xff": 1}'),
    "nothing": b"",
    "zeros": bytes(64),
    "a text": b"hello",
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_damaged_checkpoints_are_one_sentence(tmp_path, name, ending):
    file = tmp_path / f"model{ending}"
    file.write_bytes(HEADERS[name])
    with pytest.raises(ValueError, match=str(file)):
        find_source(file)
    with pytest.raises(ValueError, match=str(file)):
        read_weights(file)


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_a_checkpoint_of_other_content_is_one_sentence(tmp_path, ending):
    file = tmp_path / f"model{ending}"
    tensors = {
        f"{prefix}{name}.weight": torch.zeros(2, 2)
        for prefix in (UNET, VAE, TEXTS["v1"]["text_encoder"])
        for name in "ab"
    }
    save_file(tensors, file)
    with pytest.raises(ValueError, match="does not fit"):
        load_base("model", file)
    torch.save({"state_dict": tensors}, file.with_suffix(".pt"))
    with pytest.raises(ValueError, match="does not fit"):
        load_base("model", file.with_suffix(".pt"))


def test_a_packed_checkpoint_is_not_unpacked(tmp_path):
    file = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(64 << 20))
    assert file.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="would unpack to"):
        find_source(file)
    with pytest.raises(ValueError, match="would unpack to"):
        read_weights(file)


@pytest.fixture
def saved(tiny_base, tmp_path):
    adapters = attach(tiny_base.unet, AdapterSpec.parse("attn2o-ffni", mid_dim=3), seed=0)
    adapters.save(tmp_path / "saved")
    adapters.detach()
    return tmp_path / "saved"


def test_adapters_know_the_model_they_were_made_for(saved, tiny_base, recwarn):
    other = copy.deepcopy(tiny_base.unet)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.05)
    with pytest.warns(UserWarning, match="adapters of another base model"):
        load_adapters(other, saved).detach()
    with pytest.raises(ValueError, match="adapters of another base model"):
        load_adapters(other, saved, strict=True)
    tiny_base_of_other = copy.copy(tiny_base)
    tiny_base_of_other.unet = other
    with pytest.raises(ValueError, match="adapters of another base model"):
        load(tiny_base_of_other, saved, strict=True)
    recwarn.clear()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        load_adapters(copy.deepcopy(tiny_base.unet).to(dtype), saved, strict=True).detach()
    assert not [w for w in recwarn if "another base" in str(w.message)]


METHODS = {
    "full": (Design("full"), "unet", "unet.json"),
    "lora": (Design("lora", rank=2, scale=1.0), "unet", "lora.json"),
    "embedding": (Design("embedding", token="dog"), "text_encoder", "embedding.json"),
    "dora": (Design("dora", peft=PeftSpec("dora", size=2, scale=1.0)), "unet", "peft.json"),
}


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_other_methods_know_their_model_and_their_digest(method, tiny_base, tmp_path, recwarn):
    design, part, file = METHODS[method]
    own, other = copy.copy(tiny_base), copy.copy(tiny_base)
    setattr(own, part, copy.deepcopy(getattr(tiny_base, part)))
    setattr(other, part, copy.deepcopy(getattr(tiny_base, part)))
    with torch.no_grad():
        for parameter in getattr(other, part).parameters():
            parameter.mul_(1.05)
    handle = build(own, design)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.add_(0.1)  # what was learned is no part of the model it was made for
    handle.save(tmp_path)
    handle.detach()
    load(own, tmp_path, strict=True).detach()
    assert not [w for w in recwarn if "another base" in str(w.message)]
    with pytest.warns(UserWarning, match="weights for another base model"):
        load(other, tmp_path).detach()
    with pytest.raises(ValueError, match="weights for another base model"):
        load(other, tmp_path, strict=True)
    load(own, tmp_path, strict=True).detach()  # nothing was left on the models
    weights = next(tmp_path.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-2] ^= 0x40
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=f"changed since it was saved.*{file}"):
        load(own, tmp_path)
    kept = json.loads((tmp_path / file).read_text())
    del kept["digest"], kept["base"]
    (tmp_path / file).write_text(json.dumps(kept))
    load(other, tmp_path, strict=True).detach()  # of an earlier version, which kept neither


def test_adapters_of_earlier_versions_tell_nothing_of_their_model(saved, tiny_base):
    design = json.loads((saved / "adapters.json").read_text())
    del design["base"], design["digest"]
    (saved / "adapters.json").write_text(json.dumps(design))
    load_adapters(tiny_base.unet, saved, strict=True).detach()


def test_changed_adapters_are_refused(saved, tiny_base):
    content = bytearray((saved / "adapters.safetensors").read_bytes())
    content[-2] ^= 64
    (saved / "adapters.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="was changed since it was saved"):
        load_adapters(tiny_base.unet, saved)


def test_adapters_that_are_not_finite_are_named(saved, tiny_base):
    tensors = load_file(saved / "adapters.safetensors")
    name = sorted(tensors)[-1]
    tensors[name].flatten()[0] = float("nan")
    save_file(tensors, saved / "adapters.safetensors")
    design = json.loads((saved / "adapters.json").read_text())
    del design["digest"]
    (saved / "adapters.json").write_text(json.dumps(design))
    with pytest.raises(ValueError, match=f"NaN or infinite, in {name}"):
        load_adapters(tiny_base.unet, saved)


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 1}', '{"format": 1, "spec": [1]}', '{"format":' * 10_000])
def test_designs_that_are_none_are_one_sentence(saved, tiny_base, text):
    (saved / "adapters.json").write_text(text)
    with pytest.raises(ValueError, match=r"adapters\.json"):
        load_adapters(tiny_base.unet, saved)
