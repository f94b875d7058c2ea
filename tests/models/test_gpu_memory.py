"""Options for models that hardly fit on a GPU: what they do can be seen on the CPU, how much they save cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from study_tools import composed, tiny_overrides

from sdpet.config import run_id, validate
from sdpet.methods import Design, build
from sdpet.models import base as base_module
from sdpet.models import load_base
from sdpet.runs.setup import make_sampler
from sdpet.sampling import SamplerConfig, sample

PROMPTS = ["a red star", "a dog"]


def images(side=32):
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)


def test_the_vae_has_a_dtype_of_its_own(tiny_folder, tiny_base):
    base = load_base("tiny", tiny_folder, dtype="bfloat16", vae_dtype="float32")
    assert (base.unet.dtype, base.text_encoder.dtype, base.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    assert base.encode_images(images()).dtype == torch.bfloat16
    exact = zip(base.vae.parameters(), tiny_base.vae.parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in exact)  # never rounded to bfloat16
    others = [load_base("tiny", tiny_folder, **{option: True}) for option in ("vae_tiling", "vae_slicing")]
    assert len({one.weight_hash for one in (base, tiny_base, *others)}) == 4


def test_large_images_go_through_the_vae_in_tiles(tiny_folder, tiny_base):
    tiled, large = load_base("tiny", tiny_folder, vae_tiling=True), images(96)
    calls = []
    tiled.vae.encoder.register_forward_pre_hook(lambda module, given: calls.append(given[0].shape[-1]))
    near, exact = tiled.encode_images(large), tiny_base.encode_images(large)
    assert max(calls) <= tiled.vae.tile_sample_min_size < 96 and near.shape == exact.shape
    assert torch.equal(tiled.encode_images(images()), tiny_base.encode_images(images()))  # one tile is enough


def test_networks_that_rest_are_not_on_the_device(tiny_folder, tiny_base, monkeypatch):
    """The device is the CPU here; what is moved where is seen from the calls."""
    base, moves = load_base("tiny", tiny_folder, offload=True), []
    names = {id(base.vae): "vae", id(base.text_encoder): "text"}
    to = torch.nn.Module.to

    def moved(self, *given, **more):
        moves.append((names.get(id(self)), str(given[0])))
        return to(self, *given, **more)

    monkeypatch.setattr(type(base), "device", property(lambda self: torch.device("cpu:0")))
    monkeypatch.setattr(torch.nn.Module, "to", moved)
    latents = base.encode_images(images())
    base.decode(latents)
    states = base.encode_text(PROMPTS)
    assert moves == [(name, where) for name in ("vae", "vae", "text") for where in ("cpu:0", "cpu")]
    assert torch.equal(latents, tiny_base.encode_images(images()))
    assert torch.equal(states, tiny_base.encode_text(PROMPTS))
    with pytest.raises(ValueError, match=r"set unet\.offload=false"):
        build(base, Design("embedding", token="star"), 0)


def test_many_prompts_are_encoded_in_parts(tiny_base, monkeypatch):
    whole, counts = tiny_base.encode_text(["a", "b", "c", "a", "d", "e"]), []
    hook = tiny_base.text_encoder.register_forward_hook(lambda module, given, out: counts.append(len(out[0])))
    monkeypatch.setattr(base_module, "TEXTS", 2)
    parts = tiny_base.encode_text(["a", "b", "c", "a", "d", "e"])
    hook.remove()
    assert counts == [2, 2, 1]
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_the_denoiser_draws_in_the_precision_that_is_asked(tiny_base):
    seen = []
    layer = tiny_base.unet.mid_block.attentions[0].proj_in
    hook = layer.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    sampler = SamplerConfig("ddim", 3, 2.0)
    exact = sample(tiny_base, PROMPTS, [0, 1], sampler)
    rounded = sample(tiny_base, PROMPTS, [0, 1], SamplerConfig("ddim", 3, 2.0, autocast="bf16-mixed"))
    hook.remove()
    assert seen == [torch.float32] * 3 + [torch.bfloat16] * 3
    assert 0 < np.abs(exact.astype(int) - rounded).mean() < 5
    assert "autocast" not in sampler.describe()


def test_only_what_changes_results_changes_the_id(tiny_folder, subject_folders, tmp_path):
    few = tiny_overrides(tiny_folder, subject_folders, tmp_path)
    plain = validate(composed(*few))
    neutral = ("unet.offload=true", "sampler.autocast=null", "eval.autocast=null", "sampler.compile=false")
    ids = {wish: run_id(validate(composed(*few, wish))) for wish in neutral}
    assert set(ids.values()) == {run_id(plain)}
    changing = (
        "unet.vae_tiling=true", "sampler.autocast=bf16-mixed", "sampler.compile=auto", "unet.vae_slicing=true",
        "eval.autocast=bf16-mixed",
    )  # fmt: skip
    others = [validate(composed(*few, wish)) for wish in changing]
    assert len({run_id(plain), *map(run_id, others)}) == 6
    drawn = make_sampler(others[2])
    assert drawn.compile == "auto" and drawn.measured == tmp_path / ".sampling" and "compile" not in drawn.describe()
    assert make_sampler(others[1]).describe()["autocast"] == "bf16-mixed"
    for wrong, said in (
        ("unet.vae_dtype=float16", "needs a GPU"),
        ("sampler.autocast=bf16", "must be one of 16-mixed, bf16-mixed"),
        ("sampler.compile=1", "must be true, false or auto"),
    ):
        with pytest.raises(ValueError, match=said):
            validate(composed(*few, wrong))
