"""Single files as the hub has them: Stable Diffusion v1, 2 and XL, averages only, parts that others lack."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from study_tools import composed, tiny_overrides
from tiny_models import original_weights, parts, write_checkpoint, write_configs, write_folder

from sdpet.commands.scripts.ldm_config import write_configs as configs_of_yaml
from sdpet.config import identity, run_id, validate
from sdpet.models import ARCHITECTURES, find_source, load_base
from sdpet.models.compvis.load import dotted
from sdpet.models.compvis.scan import UNET


def same(module, other):
    ours, theirs = module.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    root = tmp_path_factory.mktemp("v1")
    made = parts("v1")
    return made, write_configs(root / "configs", made), root


@pytest.mark.parametrize("kind", ["v21", "sdxl"])
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_single_file_is_its_pipeline_bit_for_bit(kind, ending, tmp_path):
    made = write_folder(tmp_path / "folder", kind)
    file = write_checkpoint(tmp_path / f"model.{ending}", made)
    base = load_base("ckpt", file, config=write_configs(tmp_path / "configs", made))
    theirs = load_base("folder", tmp_path / "folder")
    for part in [part for part in made if part in ("unet", "vae") or part.startswith("text_encoder")]:
        assert same(getattr(base, part), made[part]), part
    assert base.is_xl == (kind == "sdxl") and base.prediction_type == theirs.prediction_type
    assert base.zero_empty == theirs.zero_empty
    noisy, rows = torch.randn(1, *base.latent_shape), theirs.encode_text(["a dog"])
    step = torch.tensor(7)
    assert torch.allclose(base.predict(noisy, step, rows), theirs.predict(noisy, step, rows), atol=1e-5)
    assert find_source(file).configs == ARCHITECTURES / kind  # of full size, by what the file holds


def test_open_clips_texts_are_filled_up_with_zeros(tmp_path):
    made = parts("sdxl")
    base = load_base("ckpt", write_checkpoint(tmp_path / "xl.safetensors", made), config=write_configs(tmp_path, made))
    rows = [made_by("a dog", padding="max_length").input_ids for made_by in (base.tokenizer, base.tokenizer_2)]
    assert rows[0][-1] == 49407 and rows[1][-1] == 0


def test_a_file_with_averages_only(v1, tmp_path):
    made, configs, _ = v1
    averages = {key: 0.9 * value for key, value in made["unet"].state_dict().items()}
    state = {key: v for key, v in original_weights(made, averages).items() if not key.startswith(UNET)}
    save_file(state, tmp_path / "ema.safetensors")
    with pytest.raises(ValueError, match=r"EMA weights of the UNet only.*unet\.use_ema=true"):
        find_source(tmp_path / "ema.safetensors")
    base = load_base("ckpt", tmp_path / "ema.safetensors", config=configs, use_ema=True)
    assert all(torch.equal(value, averages[key]) for key, value in base.unet.state_dict().items())
    names = [key for kind in ("v1", "sdxl") for key in original_weights(parts(kind)) if key.startswith(UNET)]
    assert all("model." + dotted(key.removeprefix("model.").replace(".", "")) == key for key in names)
    with pytest.raises(ValueError, match="no averaged weight"):
        dotted("diffusion_modelsurpriseweight")


def test_what_other_tools_leave_in_the_text_part_is_left_out(v1, tmp_path):
    made, configs, _ = v1
    state = original_weights(made)
    state["cond_stage_model.transformer.text_projection.weight"] = torch.eye(16)
    save_file(state, tmp_path / "more.safetensors")
    assert same(load_base("ckpt", tmp_path / "more.safetensors", config=configs).text_encoder, made["text_encoder"])


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.bin", "model"])
def test_safetensors_under_another_ending(v1, tmp_path, name):
    made, configs, _ = v1
    os.replace(write_checkpoint(tmp_path / "model.safetensors", made), tmp_path / name)
    assert same(load_base("ckpt", tmp_path / name, config=configs).unet, made["unet"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({UNET + "input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}, "is an inpainting model: its UNet takes 9 chan"),
        ({UNET + "input_blocks.0.0.weight": torch.zeros(8, 8, 3, 3)}, "for editing images: its UNet takes 8"),
        (None, "no text encoder of a known kind"),
    ],
)
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_models_of_other_kinds_are_named_and_refused(v1, tmp_path, more, words, ending):
    made, configs, _ = v1
    state = original_weights(made) | (more or {})
    if more is None:
        state = {key: value for key, value in state.items() if not key.startswith("cond_stage_model.")}
    file = tmp_path / f"other.{ending}"
    save_file(state, file) if ending == "safetensors" else torch.save({"state_dict": state}, file)
    with pytest.raises(ValueError, match=words):
        load_base("ckpt", file, config=configs)


def test_parts_and_other_files_are_named(tmp_path):
    for number, (key, words) in enumerate(
        {
            "lora_unet_mid_block.alpha": "a LoRA in kohya's format",
            "conditioner.embedders.0.model.ln_final.weight": "the refiner",
            "decoder.conv_in.weight": "a VAE.*unet.vae",
        }.items()
    ):
        save_file({key: torch.ones(1)}, tmp_path / f"{number}.safetensors")
        with pytest.raises(ValueError, match=words):
            find_source(tmp_path / f"{number}.safetensors")
    write_folder(tmp_path / "folder")
    config = json.loads((tmp_path / "folder/unet/config.json").read_text())
    (tmp_path / "folder/unet/config.json").write_text(json.dumps(config | {"in_channels": 9}))
    with pytest.raises(ValueError, match="is an inpainting model"):
        find_source(tmp_path / "folder")


def test_another_vae_from_a_file_and_a_folder(v1, tmp_path, tiny_folder, subject_folders):
    made, configs, root = v1
    other = parts("v1", seed=1)
    write_folder(tmp_path / "other", seed=1)
    bare = {key: value.contiguous() for key, value in other["vae"].state_dict().items()}
    save_file(bare, tmp_path / "diffusers.safetensors")
    whole = original_weights(other)
    originals = {key.removeprefix("first_stage_model."): v for key, v in whole.items() if "first_stage" in key}
    save_file(originals | {"loss.logvar": torch.zeros(1)}, tmp_path / "original.safetensors")
    torch.save({"state_dict": originals}, tmp_path / "original.ckpt")
    file = write_checkpoint(root / "model.safetensors", made)
    hashes = {load_base("ckpt", file, config=configs).weight_hash}
    for vae in ("diffusers.safetensors", "original.safetensors", "original.ckpt", "other", "other/vae"):
        base = load_base("ckpt", file, config=configs, vae=tmp_path / vae)
        assert same(base.vae, other["vae"]) and same(base.unet, made["unet"]), vae
        hashes.add(base.weight_hash)
    assert len(hashes) == 5  # `other` and `other/vae` are one VAE
    without = {key: value for key, value in original_weights(made).items() if not key.startswith("first_stage_model.")}
    save_file(without, tmp_path / "without.safetensors")
    with pytest.raises(ValueError, match=r"has no VAE.*unet\.vae"):
        find_source(tmp_path / "without.safetensors")
    assert same(
        load_base("ckpt", tmp_path / "without.safetensors", config=configs, vae=tmp_path / "other").vae, other["vae"]
    )
    with pytest.raises(ValueError, match=r"unet\.vae .* is no VAE"):
        find_source(file, config=configs, vae=file.parent)
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    plain = validate(composed(*given))
    assert run_id(plain) != run_id(validate(composed(*given, f"unet.vae={tiny_folder}")))


def test_what_the_unet_predicts_can_be_said(tiny_folder, subject_folders, tmp_path):
    assert load_base("x", tiny_folder).prediction_type == "epsilon"
    base = load_base("x", tiny_folder, prediction="v_prediction")
    assert base.prediction_type == "v_prediction" and base.weight_hash != load_base("x", tiny_folder).weight_hash
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    config = validate(composed(*given, "unet.prediction=v_prediction"))
    assert identity(config)["unet"]["prediction"] == "v_prediction"
    assert "prediction" not in identity(validate(composed(*given)))["unet"]
    with pytest.raises(ValueError, match=r"unet\.prediction must be one of epsilon, v_prediction"):
        validate(composed(*given, "unet.prediction=v"))


V2 = """
model:
  params:
    parameterization: "v"
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    scale_factor: 0.18215
    unet_config:
      params: {in_channels: 4, out_channels: 4, model_channels: 320, attention_resolutions: [4, 2, 1],
               num_res_blocks: 2, channel_mult: [1, 2, 4, 4], num_head_channels: 64, use_linear_in_transformer: True,
               transformer_depth: 1, context_dim: 1024}
    first_stage_config:
      params:
        ddconfig: {in_channels: 3, out_ch: 3, z_channels: 4, ch: 128, ch_mult: [1, 2, 4, 4], num_res_blocks: 2}
    cond_stage_config: {target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder}
"""


def test_a_yaml_says_that_the_velocity_is_predicted(tmp_path):
    (tmp_path / "v2.yaml").write_text(V2)
    folder = configs_of_yaml(tmp_path / "v2.yaml", tmp_path / "configs")
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        file = f"{name}/{'scheduler_' if name == 'scheduler' else ''}config.json"
        ours, shipped = (json.loads((place / file).read_text()) for place in (folder, ARCHITECTURES / "v21"))
        ours.pop("transformer_layers_per_block", None)
        assert ours | {"sample_size": 0} == shipped | {"sample_size": 0}
    (tmp_path / "v2.yaml").write_text(V2.replace('"v"', "x0"))
    with pytest.raises(ValueError, match="parameterization 'x0'; sdpet knows eps, v"):
        configs_of_yaml(tmp_path / "v2.yaml", tmp_path / "again")


def test_the_size_of_adapters_follows_the_model(tiny_folder, subject_folders, tmp_path):
    given = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    assert validate(composed(*given)).adapter.params == validate(composed()).adapter.params == 24000
    config = json.loads((tiny_folder / "unet/config.json").read_text())
    large = tmp_path / "large"
    large.mkdir()
    for part in tiny_folder.iterdir():
        (large / part.name).symlink_to(part)
    (large / "unet").unlink()
    (large / "unet").mkdir()
    widths = [320, *config["block_out_channels"][1:]]
    (large / "unet/config.json").write_text(json.dumps(config | {"block_out_channels": widths}))
    (large / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"12345678{}")
    for unet in ("folder", "lab"):
        assert validate(composed(*given, f"unet={unet}", f"unet.path={large}")).adapter.params == 1511040
    assert validate(composed(*given, f"unet.path={large}", "adapter.params=24000")).adapter.params == 24000
    assert validate(composed(*given, f"unet.path={large}", "adapter.mid_dim=4")).adapter.params is None
