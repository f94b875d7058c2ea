"""Sampling against diffusers' own pipeline, and its independence of the batch."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler, StableDiffusionPipeline

from sdpet.sampling import SamplerConfig, denoise, sample
from sdpet.seeds import generator

SCHEDULERS = {"dpm": DPMSolverMultistepScheduler, "ddim": DDIMScheduler, "plms": PNDMScheduler}
PROMPTS, SEEDS = ["red star", "blue ring", "red star"], [3, 1, 2]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_samplers_agree_with_diffusers_pipeline(tiny_base, tiny_folder, name):
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder)
    # DPM-Solver's published steps run from the last timestep; a PNDM folder's "leading" would leave out the noisiest
    spacing = "linspace" if name == "dpm" else "leading"
    options = {"timestep_spacing": spacing} | ({"clip_sample": False} if name == "ddim" else {})  # latents exceed 1
    pipe.scheduler = SCHEDULERS[name].from_config(pipe.scheduler.config, **options)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.stack([torch.randn(4, 8, 8, generator=generator(seed, "image")) for seed in SEEDS])
    theirs = pipe(PROMPTS, num_inference_steps=8, guidance_scale=3.0, latents=noise, output_type="latent").images
    text = tiny_base.encode_text(PROMPTS)
    with torch.no_grad():
        ours = denoise(tiny_base, text, tiny_base.encode_text([""]), SEEDS, SamplerConfig(name, 8, 3.0))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", [SamplerConfig("dpm", 4, 2.0), SamplerConfig("ddim", 4, 1.0, eta=1.0)], ids=str)
def test_an_image_does_not_depend_on_its_batch(tiny_base, sampler):
    text, empty = tiny_base.encode_text(PROMPTS), tiny_base.encode_text([""])
    with torch.no_grad():
        together = denoise(tiny_base, text, empty, SEEDS, sampler)
        alone = torch.cat([denoise(tiny_base, text[i : i + 1], empty, SEEDS[i : i + 1], sampler) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert (together[0] - together[2]).abs().max() > 0.1, "another seed is another image"
    images = sample(tiny_base, PROMPTS, SEEDS, sampler, chunk=2)
    assert abs(images.astype(int) - tiny_base.decode(together)).max() <= 1
    assert images.shape == (3, 32, 32, 3)


def test_guidance(tiny_base):
    sizes = []
    hook = tiny_base.unet.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    text, empty = tiny_base.encode_text(["red star"]), tiny_base.encode_text([""])
    with torch.no_grad():
        one = denoise(tiny_base, text, empty, [0], SamplerConfig("ddim", 3, 1.0))
        assert sizes == [1, 1, 1], "guidance 1 needs no unconditional pass"
        zero = denoise(tiny_base, text, empty, [0], SamplerConfig("ddim", 3, 0.0))
        assert sizes[3:] == [2, 2, 2]
        unconditional = denoise(tiny_base, empty, empty, [0], SamplerConfig("ddim", 3, 1.0))
    hook.remove()
    torch.testing.assert_close(zero, unconditional, rtol=1e-4, atol=1e-4)
    assert (zero - one).abs().max() > 1e-3


def test_progress_counts_every_step_once(tiny_base):
    seen = []
    sample(tiny_base, PROMPTS, SEEDS, SamplerConfig("dpm", 3, 1.0), lambda *count: seen.append(count), chunk=2)
    assert seen == [(i, 6) for i in range(1, 7)]


def test_values_that_are_not_finite_are_an_error(tiny_base):
    hook = tiny_base.unet.register_forward_hook(lambda module, arguments, out: (out[0] * float("nan"),))
    try:
        with pytest.raises(FloatingPointError, match="not finite"):
            sample(tiny_base, ["red star"], [0], SamplerConfig("dpm", 2, 1.0))
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "heun"}, "dpm, ddim, plms, euler"),
        ({"steps": 0}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"steps": 1000}, "999 steps"),
        ({"guidance": -1}, "guidance"),
        ({"name": "ddim", "eta": 1.5}, "eta"),
        ({"name": "plms", "eta": 0.5}, "ddim"),
    ],
)
def test_sampler_options_are_checked(wrong, words):
    with pytest.raises(ValueError, match=words):
        SamplerConfig(**wrong)
