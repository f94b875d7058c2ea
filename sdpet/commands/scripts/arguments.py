"""The command line that both scripts share: names, defaults and meaning are those of Stable Diffusion's own scripts."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

PROMPT = "a painting of a virus monster playing guitar"
CHECKPOINT = "models/ldm/stable-diffusion-v1/model.ckpt"
LAB_SCALE = 2.5  # guidance that suits the lab; more draws caricatures there


class Parser(argparse.ArgumentParser):
    """Errors are one sentence, without the usage, which would fill the screen."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; {self.prog} --help shows all options.", file=sys.stderr)
        sys.exit(2)


def parser(script: str, example: str, purpose: str, *, samples: int, rounds: int, scale: float) -> Parser:
    """A parser with the options that both scripts have; the defaults in which they differ are given."""
    made = Parser(
        f"sdpet {script}",
        description=f"example: {example}\n\n{purpose}",
        usage=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--prompt", default=PROMPT, help=f'what to draw (default "{PROMPT}")')
    add("--from-file", metavar="FILE", help="a prompt a line, instead of --prompt; empty lines are left out")
    outdir = f"outputs/{script}-samples"
    add("--outdir", default=outdir, help=f"folder for samples/00000.png ... and grid-0000.png (default {outdir})")
    add("--skip_grid", action="store_true", help="write no grid")
    add("--skip_save", action="store_true", help="write no single images")
    add("--ddim_steps", type=whole(1), default=50, metavar="N", help="steps of the sampler, whichever (default 50)")
    add("--ddim_eta", type=number(0, 1), default=0.0, metavar="ETA", help="DDIM: share of fresh noise (default 0)")
    add("--plms", action="store_true", help="sample with PLMS instead of DDIM")
    add("--n_iter", type=whole(1), default=rounds, metavar="N", help=f"so many times over (default {rounds})")
    add(
        "--n_samples",
        type=whole(1),
        default=samples,
        metavar="N",
        help=f"images drawn together: copies of --prompt, or lines of --from-file (default {samples})",
    )
    add("--n_rows", type=whole(0), default=0, metavar="N", help="images in a row of the grid (default 0: n_samples)")
    add("--C", type=whole(1), help="channels of the latents; checked against the model (4 for Stable Diffusion)")
    add("--f", type=whole(1), help="pixels a latent; checked against the model (8 for Stable Diffusion, 4 for the lab)")
    add(
        "--scale",
        type=number(0),
        help=f"guidance: eps(empty) + scale (eps(prompt) - eps(empty)) (default {scale:g}, {LAB_SCALE:g} with the lab)",
    )
    add("--seed", type=int, default=42, help="image k is drawn from the seed SEED + k (default 42)")
    add(
        "--precision",
        choices=("full", "autocast"),
        default="autocast",
        help="autocast: half precision on CUDA; full: float32. The CPU computes in float32 either way",
    )
    model = made.add_argument_group("the model")
    model.add_argument("--model", help="lab, a diffusers folder, a hub id or a .ckpt or .safetensors file")
    model.add_argument("--ckpt", metavar="FILE", help=f"checkpoint in CompVis' format (default {CHECKPOINT})")
    model.add_argument(
        "--config",
        metavar="FILE",
        help="of the checkpoint: CompVis' .yaml, or a folder of diffusers' configs (default: v1's)",
    )
    model.add_argument("--use-ema", action="store_true", help="of a full checkpoint, the averaged weights")
    model.add_argument("--adapters", metavar="FOLDER", help="draw with these adapters: a run's folder, or saved ones")
    model.add_argument("--adapter-scale", type=number(), default=1.0, help="their strength; 0 is the base (default 1)")
    model.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    model.add_argument(
        "--safety-checker",
        metavar="FOLDER",
        help="folder or hub id of Stable Diffusion's safety checker (default: the model folder's, if it has one)",
    )
    made.add_argument("--quiet", action="store_true", help="no progress bar and no notes")
    return made


def sampler_name(options: argparse.Namespace) -> str:
    """ddim, plms or dpm, as the flags say."""
    if options.plms and getattr(options, "dpm_solver", False):
        raise ValueError("--plms and --dpm_solver are two samplers; choose one.")
    name = "plms" if options.plms else "dpm" if getattr(options, "dpm_solver", False) else "ddim"
    if options.ddim_eta and name != "ddim":
        raise ValueError(
            f"--ddim_eta must be 0 with {'--plms' if name == 'plms' else '--dpm_solver'}; only DDIM has it."
        )
    return name


def read_prompts(file: str) -> list[str]:
    """The lines of a text file that hold something. ValueError where there is none, or no text."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"--from-file {file} does not exist; give a text file with a prompt a line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"--from-file {file} is not UTF-8 text; give a text file with a prompt a line.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"--from-file {file} holds no prompt; give a text file with a prompt a line.")
    return prompts


def whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return value

    return read


def number(least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    bounds = (
        "" if least == -math.inf else f" of at least {least:g}" if most == math.inf else f" from {least:g} to {most:g}"
    )

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"must be a number{bounds}, not {text!r}")
        return value

    return read
