"""`sdpet txt2img`: images from prompts, with the arguments of Stable Diffusion's script of that name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sdpet.commands.scripts.arguments import add_size, parser, sampler_name

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel

SCALE = 7.5


def build_parser() -> argparse.ArgumentParser:
    made = parser(
        "txt2img",
        'sdpet txt2img --model lab --prompt "a photo of a red star on an orange background"',
        "Draws images from a prompt, or from a file of prompts.",
        samples=3,
        rounds=2,
        scale=SCALE,
    )
    made.add_argument("--dpm_solver", action="store_true", help="sample with DPM-Solver++(2M) instead of DDIM")
    made.add_argument("--fixed_code", action="store_true", help="start every batch from the same noise")
    own = "the model's; 512 for Stable Diffusion v1"
    add_size(made, own, own)
    made.add_argument("--laion400m", action="store_true", help="refused: that model has another text encoder")
    return made


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    if options.laion400m:
        raise ValueError(
            "--laion400m names the latent diffusion model of LAION-400M, whose BERT text encoder sdpet does not have; "
            "leave it out and give a Stable Diffusion model by --ckpt or --model."
        )
    name = sampler_name(options)
    from sdpet.commands.scripts.draw import Output, draw, plan

    batches = plan(options)
    from sdpet.commands.scripts.model import load, scale_of
    from sdpet.sampling import SamplerConfig, Start

    SamplerConfig(name, options.ddim_steps, 1.0, options.ddim_eta)  # check the options before loading the model
    base, folder = load(options)
    sampler = SamplerConfig(name, options.ddim_steps, scale_of(options, base, SCALE), options.ddim_eta)
    height, width = size_of(options, base)
    output = Output(options, (height, width), folder, str(base.device))
    start = Start(size=(height // base.downsampling, width // base.downsampling))
    return draw(base, batches, sampler, output, start, options)


def size_of(options: argparse.Namespace, base: BaseModel) -> tuple[int, int]:
    """Height and width of the images in pixels; ValueError if one is not a multiple of the pixels per latent."""
    f = base.downsampling
    sizes = []
    for name, given in (("--H", options.H), ("--W", options.W)):
        size = given or base.image_size
        if size % f:
            below = size // f * f
            choices = f"{below} or {below + f}" if below else str(f)
            raise ValueError(f"{name} must be a multiple of {f} pixels for this model, not {size}; choose {choices}.")
        sizes.append(size)
    return sizes[0], sizes[1]
