"""An adapted UNet in diffusers' own pipelines, which know nothing of adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapter_tools import run, small_unet
from tiny_models import parts, pipeline, write_folder

from sdpet import AdapterSpec, attach, load_adapters
from sdpet.models import load_base
from sdpet.sampling import SamplerConfig, sample
from sdpet.seeds import generator


@pytest.fixture(scope="module")
def made():
    return parts("v1")


@pytest.fixture
def adapters(made):
    handle = attach(made["unet"], AdapterSpec.parse("attn2o-ffni", mid_dim=3, init="default"), seed=0)
    with torch.no_grad():
        for parameter in handle.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    yield handle
    handle.detach()


def picture(value=0.5):
    return np.linspace(0, value, 64 * 64 * 3, dtype=np.float32).reshape(64, 64, 3)


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipelines(made):
    """name -> (pipeline, arguments beside the prompt)"""
    from diffusers import (
        ControlNetModel,
        StableDiffusionControlNetPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
    )
    from PIL import Image

    image = Image.fromarray((picture() * 255).astype(np.uint8))
    mask = Image.fromarray(np.tile(np.repeat(np.uint8([0, 255]), 32), (64, 1)))
    control = ControlNetModel.from_unet(made["unet"], conditioning_embedding_out_channels=(4, 4, 8, 8))
    for layer in [*control.controlnet_down_blocks, control.controlnet_mid_block]:  # made at zero: without effect
        torch.nn.init.normal_(layer.weight, std=0.1)
    unsafe = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    size = {"height": 64, "width": 64}
    return {
        "txt2img": (pipeline("v1", made), size),
        "img2img": (StableDiffusionImg2ImgPipeline(**made, **unsafe), {"image": image, "strength": 0.8}),
        "inpaint": (StableDiffusionInpaintPipeline(**made, **unsafe), {"image": image, "mask_image": mask, **size}),
        "controlnet": (StableDiffusionControlNetPipeline(**made, **unsafe, controlnet=control), {"image": image}),
    }


def draw(pipe, **arguments):
    source = torch.Generator().manual_seed(0)
    return quiet(pipe)("a dog", num_inference_steps=3, generator=source, output_type="np", **arguments).images[0]


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpaint", "controlnet"])
def test_every_pipeline_draws_with_the_adapters(made, adapters, kind):
    pipe, arguments = pipelines(made)[kind]
    tuned = draw(pipe, **arguments)
    adapters.disable()
    base = draw(pipe, **arguments)
    adapters.enable()
    assert np.isfinite(tuned).all() and abs(tuned - base).max() > 1e-2
    assert np.array_equal(draw(pipe, **arguments), tuned)
    adapters.detach()
    assert np.array_equal(draw(pipe, **arguments), base)


def test_the_pipeline_draws_what_sdpet_draws(tmp_path):
    """The same adapters, prompt and starting noise."""
    from diffusers import DDIMScheduler

    made = write_folder(tmp_path)
    base = load_base("x", tmp_path)
    for unet in (base.unet, made["unet"]):
        attach(unet, AdapterSpec.parse("attn2c-attn2c", mid_dim=3, init="default", scale=4.0), seed=1)
    pipe = pipeline("v1", made)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    start = torch.randn(1, *base.latent_shape, generator=generator(5, "image"))
    theirs = quiet(pipe)("a dog", num_inference_steps=4, guidance_scale=7.0, latents=start, output_type="np").images[0]
    ours = sample(base, ["a dog"], [5], SamplerConfig("ddim", 4, 7.0))[0]
    assert abs(theirs * 255 - ours).max() <= 1


def test_a_saved_pipeline_holds_the_base_and_the_adapters_lie_beside(made, adapters, tmp_path):
    from diffusers import StableDiffusionPipeline

    pipe = pipeline("v1", made)
    tuned = draw(pipe, height=64, width=64)
    pipe.save_pretrained(tmp_path / "pipe")
    adapters.save(tmp_path / "adapters")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe", safety_checker=None)
    original = made["unet"].state_dict()
    saved = again.unet.state_dict()
    assert saved.keys() == original.keys() and all(torch.equal(saved[key], original[key]) for key in saved)
    load_adapters(again.unet, tmp_path / "adapters")
    np.testing.assert_allclose(draw(again, height=64, width=64), tuned, atol=1e-5)


def test_half_precision(made, adapters):
    exact = draw(pipeline("v1", made), height=64, width=64)
    pipe = pipeline("v1", parts("v1")).to(torch.bfloat16)
    half = attach(pipe.unet, adapters.spec)
    half.load_state_dict(adapters.state_dict())
    drawn = draw(pipe, height=64, width=64)
    half.disable()
    without = draw(pipe, height=64, width=64)
    assert abs(drawn - exact).mean() < 0.02 < abs(drawn - without).max()


@pytest.mark.slow
def test_compiled(made, adapters):
    pipe = pipeline("v1", made)
    plain = draw(pipe, height=64, width=64)
    torch._dynamo.reset()
    pipe.unet = torch.compile(made["unet"])
    np.testing.assert_allclose(draw(pipe, height=64, width=64), plain, atol=1e-3)
    torch._dynamo.reset()


def test_weights_that_are_offloaded_while_they_are_not_used(tmp_path):
    """What enable_sequential_cpu_offload does, with weights waiting on disk instead of beside a GPU: they are on the
    meta device but for the moment in which their layer runs. Adapters loaded before and after."""
    from accelerate import disk_offload

    unet = small_unet()
    handle = attach(unet, AdapterSpec.parse("attn2o-ffni", mid_dim=3, init="default"), seed=0)
    handle.save(tmp_path / "adapters")
    with torch.no_grad():
        expected = run(unet)
        for when in ("before", "after"):
            unet = small_unet()
            kept = load_adapters(unet, tmp_path / "adapters") if when == "before" else None
            disk_offload(unet, tmp_path / when, execution_device=torch.device("cpu"))
            kept = kept or load_adapters(unet, tmp_path / "adapters")
            assert all(parameter.is_meta for parameter in unet.parameters())
            torch.testing.assert_close(run(unet), expected)
            kept.save(tmp_path / f"again {when}")
            name = "adapters.safetensors"
            assert (tmp_path / f"again {when}" / name).read_bytes() == (tmp_path / "adapters" / name).read_bytes()


@pytest.mark.parametrize("placement", ["attn2o-ffni", "attn2c-attn2c", "resi-reso"])
def test_checkpointed_gradients_of_the_whole_unet_are_equal(placement):
    """Of v1's and XL's structure, with several transformer blocks in one attention."""
    for kind, width in (("v1", 16), ("sdxl", 40)):
        unet = parts(kind)["unet"].double().requires_grad_(False).train()
        handle = attach(unet, AdapterSpec.parse(placement, mid_dim=2, init="default"), seed=0)
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
        text = torch.randn(2, 77, width, generator=torch.Generator().manual_seed(1)).double()
        added = {"text_embeds": torch.ones(2, 24).double(), "time_ids": torch.ones(2, 6).double()}
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                unet.enable_gradient_checkpointing()
            handle.zero_grad()
            options = {"added_cond_kwargs": added} if kind == "sdxl" else {}
            unet(latents, torch.tensor([3, 900]), text, **options).sample.square().mean().backward()
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in handle.parameters()]))
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-13)
        assert gradients[0].abs().max() > 0


def test_a_context_with_images_of_an_ip_adapter(tmp_path):
    """IP-Adapters make the context a tuple; adapters at attn2c read and write its text, and leave its images."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
    from tiny_models import parts

    unet = parts("v1")["unet"]
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            with torch.random.fork_rng():
                torch.manual_seed(len(name))
                module.set_processor(IPAdapterAttnProcessor2_0(module.inner_dim, module.cross_attention_dim, (3,)))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    text, images = torch.randn(2, 7, 16, generator=generator), torch.randn(2, 1, 3, 16, generator=generator)

    def run(states):
        contexts = []
        hook = (
            unet.down_blocks[0]
            .attentions[0]
            .transformer_blocks[0]
            .attn2.register_forward_pre_hook(
                lambda module, args, kwargs: contexts.append(kwargs["encoder_hidden_states"]), with_kwargs=True
            )
        )
        with torch.no_grad():
            out = unet(latents, torch.tensor(5), (states, [images])).sample
        hook.remove()
        return out, contexts[0]

    before, _ = run(text)
    zero = attach(unet, AdapterSpec.parse("attn2c-attn2c", mid_dim=3), seed=0)
    assert torch.equal(run(text)[0], before)
    zero.detach()
    adapters = attach(unet, AdapterSpec.parse("attn2c-attn2c", mid_dim=3, init="default"), seed=0)
    after, (seen, rest) = run(text)
    adapters.detach()
    assert not torch.equal(after, before) and torch.equal(rest[0], images)
    first = next(iter(adapters.by_block.values()))
    assert torch.allclose(seen, text + first(text), atol=1e-6)


def test_diffusers_own_loader_takes_the_lab():
    from diffusers import DiffusionPipeline

    from sdpet.models import find_source

    folder = find_source(None).path
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a photo of a red star", num_inference_steps=1, output_type="np").images.shape == (1, 32, 32, 3)
    assert find_source(None).content_hash() == "b2b3deb622944d89987f7290627ecb73"  # as in version 0.1.0
