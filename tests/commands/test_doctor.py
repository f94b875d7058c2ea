"""What `sdpet doctor` says of a model and a design, without weights."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import tiny_pipelines
import torch
from diffusers import UNet2DConditionModel
from study_tools import environment
from tiny_models import UNETS, write_checkpoint, write_configs, write_folder

import sdpet.models.estimate
from sdpet import AdapterSpec, attach
from sdpet.adapters import count_parameters, matching_blocks
from sdpet.commands.doctor_model import composed, model_checks
from sdpet.models import ARCHITECTURES, Source, activation_bytes, find_source
from sdpet.models.estimate import checkpointed_classes, count, inputs, on_meta
from sdpet.models.estimate_passes import caching_bytes, peak_bytes, sampling_bytes
from sdpet.models.memory_limit import image_bytes
from sdpet.scoring.networks.memory import scorer_memory

SMALL = UNETS["v1"] | {
    "block_out_channels": (16, 32), "layers_per_block": 1, "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip


def said(*overrides):
    return {name: (found, cure) for name, found, cure in model_checks(overrides)}


@pytest.mark.parametrize(
    ("name", "unet", "blocks"), [("v1", 859_520_964, 16), ("v21", 865_910_724, 16), ("sdxl", 2_567_463_684, 70)]
)
def test_the_shipped_architectures_have_the_published_sizes(name, unet, blocks):
    networks = on_meta(Source(ARCHITECTURES / name, ARCHITECTURES / name))
    assert (count(networks["unet"]), count(networks["vae"])) == (unet, 83_653_863)
    assert count(networks["text_encoder"]) == {"v21": 340_387_840}.get(name, 123_060_480)
    assert count(networks["text_encoder_2"]) == 694_659_840 if name == "sdxl" else "text_encoder_2" not in networks
    assert len(matching_blocks(networks["unet"], AdapterSpec.parse("attn2o-ffni"))) == blocks
    if name == "v1":
        for mid_dim, expected in ((60, 1_511_040), (256, 6_406_336)):
            assert count_parameters(networks["unet"], AdapterSpec.parse("attn2o-ffni", mid_dim=mid_dim)) == expected


def test_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sdpet.commands.cli",
        "doctor",
        "unet=sd15",
        "adapter=attn2o-ffni",
        "adapter.mid_dim=60",
    ]
    offline = environment() | {"HF_HOME": str(tmp_path)}
    ended = subprocess.run([*command, "trainer=gpu"], env=offline, capture_output=True, text=True, timeout=120)
    lines = {line[3:].split()[0]: line for line in ended.stdout.splitlines()}
    assert "16 adapters, 1,511,040 parameters, 0.176 %" in lines["design"], ended
    assert "859,520,964" in lines["model"] and "2 x 512 x 512" in lines["memory"] and "AdamW 0.01" in lines["memory"]
    assert "while the VAE encodes 4 x 512 x 512 pixels" in lines["caching"]
    assert "while 32 images are drawn together" in lines["sampling"] and "GiB expected" in lines["scoring"]
    assert lines["largest"].startswith("ok  largest      sampling, ")
    assert lines["weights"].startswith("NO") and "hf download stable-diffusion-v1-5" in lines["weights"]
    assert ended.returncode == 1 and lines["device"].startswith("ok" if torch.cuda.is_available() else "NO")


def test_a_model_that_is_here_lacks_nothing(tmp_path):
    made = write_folder(tmp_path / "folder", "sdxl")
    found = said("unet=sdxl", f"unet.path={tmp_path / 'folder'}", "adapter.mid_dim=2", "unet.image_size=32")
    assert not any(cure for _, cure in found.values()), found
    assert f"unet {count(made['unet']):,}" in found["model"][0] and "28 adapters" in found["design"][0]
    assert "4 x 32 x 32" in found["memory"][0]
    made = write_folder(tmp_path / "v1")
    file = write_checkpoint(tmp_path / "a.ckpt", made)
    configs = write_configs(tmp_path / "configs", made)
    full = said("unet=ckpt", f"unet.path={file}", f"unet.config={configs}", "adapter=full", "task.reg_weight=0")
    assert "2 x 64 x 64" in full["memory"][0] and "100 % of the UNet" in full["design"][0]
    assert "unet.path=MODEL.ckpt" in said("unet=ckpt")["weights"][1]
    with pytest.raises(ValueError, match="relu, sig, silu, ident"):
        said("unet=sd15", "adapter.activation=swirl")


@pytest.mark.parametrize("placement", ["attn2o-ffni", "resi-reso"])
def test_activations_counted_on_the_meta_device_are_those_of_a_real_pass(placement, monkeypatch):
    sizes = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            unet = UNet2DConditionModel(**UNETS["v1"] | {"block_out_channels": (32, 32, 64, 64)})
        unet.requires_grad_(False).train()
        trained = list(attach(unet, AdapterSpec.parse(placement, mid_dim=3)).parameters())
        if device == "cpu":
            with monkeypatch.context() as patch:
                patch.setattr(sdpet.models.estimate, "fused_attention", contextlib.nullcontext)
                sizes.append(activation_bytes(unet, 2, 16, trained=trained))
        else:
            sizes.append(activation_bytes(unet, 2, 16, trained=trained))
            assert 0 < activation_bytes(unet, 2, 16, True, trained) < 0.5 * sizes[-1]
            # weights are not activations, of which twice the images have twice as many
            assert activation_bytes(unet, 4, 16, trained=trained) == pytest.approx(2 * sizes[-1], rel=0.01)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert not any(module._forward_hooks for module in unet.get_submodule("conv_in").modules())


@pytest.mark.parametrize("kind", ["v1", "sd3", "flux", "pixart"])
def test_checkpointing_is_counted_for_the_blocks_that_diffusers_computes_again(kind):
    with torch.device("meta"):
        denoiser = UNet2DConditionModel(**SMALL) if kind == "v1" else tiny_pipelines.denoiser(kind)
    again = set()

    def computed_again(block, *given):
        again.add(type(block).__name__)
        return block(*given)

    denoiser.train().enable_gradient_checkpointing(computed_again)
    with torch.enable_grad():
        denoiser(**inputs(denoiser, 1, 16))
    assert again and again <= set(checkpointed_classes(denoiser))
    outside = {type(module).__name__ for module in denoiser.modules()} - again
    assert not outside & set(checkpointed_classes(denoiser))


def test_bytes_that_are_alive_at_once_are_counted():
    """By hand for two layers, and for Stable Diffusion's VAE by what must be: more images, more memory; tiles, less."""
    with torch.device("meta"):
        net = torch.nn.Sequential(*(torch.nn.Linear(a, b, bias=False) for a, b in ((1000, 500), (500, 200), (200, 10))))
        given = torch.zeros(1, 1000)
    assert peak_bytes(net, lambda: net(given)) == 4 * (500 + 200)  # the input was there before, the weights as well
    networks = on_meta(Source(ARCHITECTURES / "v1", ARCHITECTURES / "v1"))
    vae, map_at_512 = networks["vae"], 4 * 128 * 512 * 512  # bytes of its largest map of one image
    whole, tiled = caching_bytes(vae, 1024), caching_bytes(vae, 1024, tiling=True)
    assert 4 * 3 * map_at_512 < whole == 4 * tiled < 4 * 8 * map_at_512  # 1 x 1024 x 1024 and one tile of 512 x 512
    few, many = (sampling_bytes(networks, rows, 64) for rows in (2, 128))
    assert few < many < 64 * few  # of few rows, decoding needs the most
    assert sampling_bytes(networks, 128, 64, half=(True, False)) == max(many // 2, few)


def test_scoring_counts_its_networks_and_the_largest_phase_is_named():
    """Parameters as published: CLIP ViT-B/32, DINO ViT-S/16, DINOv2 ViT-B/14."""
    given = ("unet=sd15", "trainer=gpu", "adapter.mid_dim=60", "eval=full", "unet.image_size=256")
    sizes = scorer_memory(composed(given).eval.scorers, "cuda", 256)
    assert sizes.weights["clip"] == 4 * 151_277_313 and sizes.unknown == ()
    assert sizes.weights["dino"] / 4e6 == pytest.approx(21.7, abs=0.2)  # with a pooler
    assert sizes.weights["dinov2"] / 4e6 == pytest.approx(86.6, abs=0.1)
    plain, full = said(*given[:3], given[4]), said(*given)
    assert "clip 0.56, lpips 0.01, dino 0.08, dinov2 0.32" in full["scoring"][0] and "scorers 0.98" in full["memory"][0]
    gib = {name: [float(found[name][0].split()[0]) for found in (plain, full)] for name in ("memory", "sampling")}
    assert all(after - before == pytest.approx(0.98, abs=0.11) for before, after in gib.values())
    own = said(
        *given, "eval.diversity.net=vgg", "eval.chunk=1", "+eval.similarity.mine={_target_: my_lab.Mine, device: cuda}"
    )
    assert own["largest"][0].startswith("scoring, ") and own["scoring"][0].endswith("; not included: mine")


@pytest.mark.parametrize("side", [32, 512])
def test_the_memory_of_an_image_in_the_vae_is_not_underestimated(side):
    """The estimate by which the VAE takes fewer images, against what is alive at once: from 1 to 2 times as much."""
    source = find_source(None) if side == 32 else Source(ARCHITECTURES / "v1", ARCHITECTURES / "v1")
    vae = on_meta(source)["vae"]
    with torch.device("meta"):
        pixels = torch.zeros(1, 3, side, side)
        latents = torch.zeros(
            1, vae.config.latent_channels, *2 * [side // 2 ** (len(vae.config.block_out_channels) - 1)]
        )
    peaks = [
        peak_bytes(vae, lambda: vae.encode(pixels).latent_dist.mean),
        peak_bytes(vae, lambda: vae.decode(latents)[0]),
    ]
    assert 1 <= image_bytes(vae, side, side) / max(peaks) < 2
