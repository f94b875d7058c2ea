"""`sdpet img2img`: images from an image and a prompt, with the arguments of Stable Diffusion's script of that name."""

from __future__ import annotations

import argparse

from sdpet.commands.scripts.arguments import add_size, number, parser, sampler_name

SCALE = 5.0
LATENTS = 4  # height and width of the image become multiples of this many latents: 32 pixels for Stable Diffusion


def build_parser() -> argparse.ArgumentParser:
    made = parser(
        "img2img",
        'sdpet img2img --model lab --init-img photo.png --prompt "a photo of a blue star" --strength 0.6',
        "Draws images from an image instead of noise. The higher the strength, the less of the image remains.",
        samples=2,
        rounds=1,
        scale=SCALE,
    )
    made.add_argument(
        "--init-img",
        required=True,
        metavar="FILE",
        help="the image; it is resized down to multiples of 4 latents (32 pixels)",
    )
    made.add_argument("--dpm_solver", action="store_true", help="sample with DPM-Solver++(2M) instead of DDIM")
    own = "the image's, or in proportion to {}"
    add_size(made, own.format("--W"), own.format("--H"))
    made.add_argument(
        "--strength",
        type=number(0, 1),
        default=0.75,
        help="0 to 1: noise of int(strength * ddim_steps) steps is added to the image and removed (default 0.75)",
    )
    made.add_argument("--fixed_code", action="store_true", help="has no effect, as in the public script")
    return made


def main(arguments: list[str]) -> int:
    options = build_parser().parse_args(arguments)
    options.fixed_code = False
    name = sampler_name(options)
    from sdpet.commands.scripts.draw import Output, draw, plan
    from sdpet.commands.scripts.init_image import fitted, read_init

    batches = plan(options)
    image = read_init(options.init_img)
    from sdpet.commands.scripts.model import load, scale_of
    from sdpet.sampling import SamplerConfig, Start

    SamplerConfig(name, options.ddim_steps, 1.0, options.ddim_eta)  # check the options before loading the model
    base, folder = load(options)
    sampler = SamplerConfig(name, options.ddim_steps, scale_of(options, base, SCALE), options.ddim_eta)
    image = fitted(image, LATENTS * base.downsampling, options.H, options.W)
    output = Output(options, image.shape[:2], folder, str(base.device))  # type: ignore[arg-type]
    start = Start(latents=base.encode_images(image[None]), strength=options.strength)
    return draw(base, batches, sampler, output, start, options)
