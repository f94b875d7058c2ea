"""Single files of Stable Diffusion 3 and Flux: with all parts, with some, and at full size on the meta device."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import FunctionType

import pytest
import tiny_pipelines
import torch
from diffusers.loaders import single_file_utils
from original_transformers import single_file, transformer_weights
from safetensors.torch import save_file
from tiny_models import vae_name

from sdpet.models import ARCHITECTURES, Source, find_source, load_base
from sdpet.models.compvis import load_transformer
from sdpet.models.compvis.transformer_file import transformer_file
from sdpet.models.estimate import part_on_meta
from sdpet.models.load import network_class


def same(module, other):
    ours, theirs = module.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def vae_weights(vae) -> dict[str, torch.Tensor]:
    found = {}
    for key, value in vae.state_dict().items():
        name = vae_name(key)
        is_projection = ".attn_1." in name and name.endswith("weight") and value.dim() == 2
        found[name] = value[:, :, None, None] if is_projection else value
    return found


@pytest.fixture
def narrow_flux(monkeypatch):
    """diffusers' converter has Flux's width, 3072, written in; this one has the width of the tiny model, 24."""
    convert = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    assert 3072 in convert.__code__.co_consts
    code = convert.__code__.replace(co_consts=tuple(24 if c == 3072 else c for c in convert.__code__.co_consts))
    narrow = FunctionType(code, convert.__globals__, convert.__name__)
    monkeypatch.setattr(single_file_utils, "convert_flux_transformer_checkpoint_to_diffusers", narrow)


@pytest.mark.parametrize(("kind", "ending"), [("sd3", "safetensors"), ("flux", "safetensors"), ("sd3", "ckpt")])
def test_a_single_file_is_its_pipeline_bit_for_bit(kind, ending, tmp_path: Path, narrow_flux):
    pipe = tiny_pipelines.write_folder(tmp_path / "model", kind)
    state = single_file(pipe.components, vae_weights(pipe.vae))
    file = tmp_path / f"file.{ending}"
    save_file(state, file) if ending == "safetensors" else torch.save({"state_dict": state}, file)
    theirs = load_base("model", tmp_path / "model", image_size=64)
    configs = tmp_path / "configs"
    shutil.copytree(
        tmp_path / "model", configs, ignore=lambda _, names: [n for n in names if n.endswith(".safetensors")]
    )
    base = load_base("file", file, config=configs, image_size=64)
    encoders = [
        name for name in ("text_encoder", "text_encoder_2", "text_encoder_3") if getattr(theirs, name) is not None
    ]
    assert len(encoders) == (3 if kind == "sd3" else 2)
    for part in ("unet", "vae", *encoders):
        assert same(getattr(base, part), getattr(theirs, part)), part
    t5 = getattr(base, encoders[-1])
    assert t5.encoder.embed_tokens.weight is t5.shared.weight
    rows, noisy = theirs.encode_text(["a red star"]), torch.randn(1, *base.latent_shape)
    torch.testing.assert_close(base.encode_text(["a red star"]), rows)
    t = torch.tensor(300.0)
    torch.testing.assert_close(base.predict(noisy, t, rows), theirs.predict(noisy, t, rows))
    assert base.is_flow and base.weight_hash != theirs.weight_hash
    assert find_source(file, config=configs).content_hash() == base.weight_hash


def test_parts_that_a_file_lacks_come_from_a_folder(tmp_path: Path):
    pipe = tiny_pipelines.write_folder(tmp_path / "model", "sd3")
    bare = transformer_weights(pipe.transformer)
    file, some = tmp_path / "bare.safetensors", tmp_path / "some.safetensors"
    save_file({key: value.contiguous().clone() for key, value in bare.items()}, file)
    base = load_base("file", file, config=tmp_path / "model", image_size=64)
    theirs = load_base("model", tmp_path / "model", image_size=64)
    assert same(base.unet, theirs.unet) and same(base.text_encoder_3, theirs.text_encoder_3)
    torch.testing.assert_close(base.encode_text(["a star"]), theirs.encode_text(["a star"]))
    for part in ("text_encoder_3", "vae"):  # what is read from the folder is part of the identity
        before = find_source(file, config=tmp_path / "model").content_hash()
        weights = next((tmp_path / "model" / part).glob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
        assert find_source(file, config=tmp_path / "model").content_hash() != before
    # Without a folder every part has to be there; T5 may be left out.
    with pytest.raises(ValueError, match=r"has no vae, text_encoder, text_encoder_2, text_encoder_3; give "):
        find_source(file)
    made = {**pipe.components, "text_encoder_3": None}
    save_file(single_file(made, vae_weights(pipe.vae)), some)
    with pytest.raises(ValueError, match=r"has no text_encoder_3; .*or set unet\.t5=false"):
        find_source(some)
    assert find_source(some, t5=False).configs == ARCHITECTURES / "sd3_medium"
    save_file(single_file(pipe.components, vae_weights(pipe.vae)), some)
    with pytest.raises(ValueError, match="has no tokenizer_3"):
        find_source(some)


def test_a_pickled_file_that_names_code_is_refused(tmp_path: Path):
    state = {"joint_blocks.0.x_block.attn.qkv.weight": torch.ones(1), "y_embedder.mlp.0.weight": torch.ones(1)}
    torch.save({"state_dict": state, "more": eval}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"was not read, as it could run code.*eval"):
        find_source(tmp_path / "model.ckpt")


def test_what_is_quantised_or_another_model_is_named(tmp_path: Path):
    tiny_pipelines.write_folder(tmp_path / "model", "sd3")
    theirs = load_base("model", tmp_path / "model", image_size=64)
    state = {key: value.contiguous().clone() for key, value in transformer_weights(theirs.unet).items()}
    key = "joint_blocks.0.x_block.mlp.fc1.weight"
    cases = {
        "holds 1 weights that the model does not have, first .*scale_weight": {key + ".scale_weight": torch.ones(1)},
        r"is quantised \(.*ff.net.0.proj.weight is torch.uint8\)": {key: state[key].to(torch.uint8)},
    }
    for number, (words, more) in enumerate(cases.items()):
        save_file(state | more, tmp_path / f"{number}.safetensors")
        with pytest.raises(ValueError, match=words):
            load_base("file", tmp_path / f"{number}.safetensors", config=tmp_path / "model")
    begin = "double_blocks.0.img_attn.qkv.weight"
    save_file({begin: torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"relative of Flux\.1 that is not read"):
        find_source(tmp_path / "other.safetensors")
    save_file({begin: torch.ones(1), "vector_in.in_layer.weight": torch.ones(1)}, tmp_path / "schnell.safetensors")
    with pytest.raises(ValueError, match="without guidance"):
        find_source(tmp_path / "schnell.safetensors")


@pytest.mark.parametrize("name", ["sd3_medium", "sd35_medium", "sd35_large", "flux_dev"])
def test_the_layout_of_the_full_size_is_known_by_its_names(name: str, tmp_path: Path, monkeypatch):
    configs = tmp_path / name
    shutil.copytree(ARCHITECTURES / name, configs)
    config = json.loads((configs / "transformer/config.json").read_text())
    if "pos_embed_max_size" in config:  # a table that takes seconds to compute
        (configs / "transformer/config.json").write_text(json.dumps(config | {"pos_embed_max_size": 8}))
    model = part_on_meta(Source(configs, configs), "transformer")
    state = transformer_weights(model)
    header = {key: torch.zeros(1) for key in state}  # its names
    header |= {f"text_encoders.{own}.transformer.x": torch.zeros(1) for own in ("clip_l", "clip_g", "t5xxl")}
    save_file(header | {"first_stage_model.decoder.x": torch.zeros(1)}, tmp_path / "names.safetensors")
    monkeypatch.setattr(load_transformer, "read_weights", lambda file: state)
    single = transformer_file(tmp_path / "names.safetensors")
    assert single.architecture == name and "vae" in single.parts
    made = Source(tmp_path / "names.safetensors", configs, single=single)
    kinds = {"transformer": network_class(made, "transformer")}
    loaded = load_transformer.load_transformer_file(made, kinds, lambda part: torch.float16)["transformer"]
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
