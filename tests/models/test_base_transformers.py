"""Transformers as base models: text, calls and noise levels, against diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_pipelines
import torch

from sdpet.models import load_base
from sdpet.sampling import SamplerConfig, denoise
from sdpet.seeds import generator

PROMPTS = ["a photo of the red star", "A photo of sks"]


def latents_of(pipe, base, guidance: float, steps: int) -> torch.Tensor:
    """What diffusers' pipeline draws from the noise that sdpet draws for the seeds 5 and 6."""
    noise = torch.stack([torch.randn(base.latent_shape, generator=generator(seed, "image")) for seed in (5, 6)])
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "latent"}
    size = {"height": base.image_size, "width": base.image_size}
    if "Flux" in type(pipe).__name__:
        channels, side = noise.shape[1], noise.shape[-1]
        packed = pipe._pack_latents(noise, len(noise), channels, side, side)
        drawn = pipe(PROMPTS, latents=packed, **options, **size).images
        return pipe._unpack_latents(drawn, base.image_size, base.image_size, pipe.vae_scale_factor)
    more = {"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {}
    return pipe(PROMPTS, latents=noise, **options, **size, **more).images


@pytest.mark.parametrize("kind", tiny_pipelines.KINDS)
def test_latents_equal_those_of_diffusers_pipeline(kind: str, tmp_path: Path):
    pipe = tiny_pipelines.write_folder(tmp_path / "model", kind)
    base = load_base("model", tmp_path / "model", image_size=64)
    sampler = SamplerConfig("dpm" if kind == "pixart" else "euler", steps=4, guidance=3.0)
    if kind == "pixart":  # its timesteps as sdpet's dpm takes them
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, timestep_spacing="linspace", algorithm_type="dpmsolver++", solver_order=2
        )
    expected = latents_of(pipe, base, sampler.guidance, sampler.steps)
    with torch.no_grad():
        states = base.encode_text(["", *PROMPTS])
        drawn = denoise(base, states[1:], states[:1], [5, 6], sampler)
    assert (drawn - expected).abs().max() < 1e-4 * expected.abs().max()
    other = SamplerConfig(sampler.name, steps=4, guidance=1.0)  # guidance matters, so the above can fail
    with torch.no_grad():
        assert (denoise(base, states[1:], states[:1], [5, 6], other) - expected).abs().max() > 1e-3


def test_dpm_for_flows_agrees_with_euler_for_many_steps(tmp_path: Path):
    tiny_pipelines.write_folder(tmp_path / "model", "sd3")
    base = load_base("model", tmp_path / "model", image_size=64)
    with torch.no_grad():
        states = base.encode_text(["", PROMPTS[0]])
        drawn = {
            name: denoise(base, states[1:], states[:1], [5], SamplerConfig(name, steps=steps, guidance=1.0))
            for name, steps in (("euler", 400), ("dpm", 100))
        }
        coarse = denoise(base, states[1:], states[:1], [5], SamplerConfig("euler", steps=4, guidance=1.0))
    gap = (drawn["euler"] - drawn["dpm"]).abs().max()
    assert gap < 0.1 * (coarse - drawn["euler"]).abs().max()


def test_parts_that_are_left_out_change_the_identity(tmp_path: Path):
    tiny_pipelines.write_folder(tmp_path / "model", "sd3")
    whole = load_base("model", tmp_path / "model", image_size=64)
    small = load_base("model", tmp_path / "model", image_size=64, t5=False)
    assert small.text_encoder_3 is None and whole.weight_hash != small.weight_hash
    with torch.no_grad():
        first, second = (base.encode_text(PROMPTS) for base in (whole, small))
    assert torch.equal(first[:, :77], second[:, :77]) and not second[:, 77:-1].any() and first[:, 77:-1].any()
    tiny_pipelines.write_folder(tmp_path / "pixart", "pixart")
    with pytest.raises(ValueError, match=r"unet\.t5=false leaves out the third text encoder"):
        load_base("model", tmp_path / "pixart", t5=False)


@pytest.mark.parametrize("levels", ["logit_normal", "uniform"])
def test_noise_levels_of_training(levels: str, tmp_path: Path):
    tiny_pipelines.write_folder(tmp_path / "model", "sd3")
    base = load_base("model", tmp_path / "model", image_size=64, noise_levels=levels, shift=2.0)
    process = base.process
    t = process.draw(20_000, generator(0))
    s = (t / 1000).double()
    unshifted = s / (2 - s)  # the inverse of s' = 2 s / (1 + s)
    share = float((unshifted < 0.3).double().mean())
    expected = (
        0.3 if levels == "uniform" else float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(0.3).logit()))
    )
    assert abs(share - expected) < 0.012  # four standard errors
    x0, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    t = torch.tensor([250.0, 900.0])
    noisy, velocity = process.add_noise(x0, noise, t), process.target(x0, noise, t)
    assert torch.allclose(noisy[0], 0.75 * x0[0] + 0.25 * noise[0]) and torch.equal(velocity, noise - x0)
    assert torch.allclose(noisy - process.level(t).view(-1, 1, 1, 1) * velocity, x0, atol=1e-6)
