"""Options that both scripts share. Names, defaults and meaning are those of Stable Diffusion's scripts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from sdpet.choices import PREDICTIONS
from sdpet.files.command_parser import CommandParser

PROMPT = "a painting of a virus monster playing guitar"
CHECKPOINT = "models/ldm/stable-diffusion-v1/model.ckpt"
LAB_SCALE = 2.5  # default guidance with the lab; larger values exaggerate there


def parser(script: str, example: str, purpose: str, *, samples: int, rounds: int, scale: float) -> CommandParser:
    """A parser with the options that both scripts share.

    Parameters
    ----------
    script : str
        Name of the script.
    example, purpose : str
        Beginning of the help text.
    samples, rounds : int
        Defaults of --n_samples and --n_iter.
    scale : float
        Default of --scale.
    """
    made = CommandParser(
        f"sdpet {script}",
        description=f"example: {example}\n\n{purpose}",
        usage=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--prompt", default=PROMPT, help=f'what to draw (default "{PROMPT}")')
    add(
        "--from-file",
        metavar="FILE",
        help="text file with one prompt per line, instead of --prompt; empty lines are ignored",
    )
    add("--negative_prompt", "--negative-prompt", default="", metavar="TEXT", help="what not to draw (default none)")
    outdir = f"outputs/{script}-samples"
    add("--outdir", default=outdir, help=f"folder for samples/00000.png ... and grid-0000.png (default {outdir})")
    add("--skip_grid", action="store_true", help="do not write a grid")
    add("--skip_save", action="store_true", help="do not write single images")
    add("--ddim_steps", type=integer(1), default=50, metavar="N", help="steps of any sampler (default 50)")
    add(
        "--ddim_eta",
        type=number(0, 1),
        default=0.0,
        metavar="ETA",
        help="DDIM: share of new noise in each step (default 0)",
    )
    add("--plms", action="store_true", help="sample with PLMS instead of DDIM")
    add("--n_iter", type=integer(1), default=rounds, metavar="N", help=f"number of repetitions (default {rounds})")
    add(
        "--n_samples",
        type=integer(1),
        default=samples,
        metavar="N",
        help=f"images drawn together: copies of --prompt, or lines of --from-file (default {samples})",
    )
    add("--n_rows", type=integer(0), default=0, metavar="N", help="images per row of the grid (default 0: n_samples)")
    add("--C", type=integer(1), help="channels of the latents; checked against the model (4 for Stable Diffusion)")
    add(
        "--f",
        type=integer(1),
        help="pixels per latent; checked against the model (8 for Stable Diffusion, 4 for the lab)",
    )
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
        help="config of the checkpoint: CompVis' .yaml, or a folder of diffusers' configs (default: v1's)",
    )
    model.add_argument("--use-ema", action="store_true", help="use the averaged weights of a full checkpoint")
    model.add_argument(
        "--adapters",
        metavar="FOLDER",
        action="append",
        help="folder of a run, or of saved adapters, to draw with; give it again to combine several",
    )
    model.add_argument(
        "--adapter-scale", type=number(), default=1.0, help="strength of the adapters; 0 is the base model (default 1)"
    )
    model.add_argument(
        "--strengths", type=numbers, metavar="A,B,...", help="strength of each of several --adapters, such as 0.7,0.5"
    )
    model.add_argument("--vae", metavar="PATH", help="another VAE than the model's own: a file or a folder")
    model.add_argument(
        "--prediction",
        choices=PREDICTIONS,
        help="what the UNet predicts, where the model's files do not say it (default: what they say)",
    )
    model.add_argument("--device", help="cpu or cuda (default: cuda if available)")
    model.add_argument(
        "--safety-checker",
        metavar="FOLDER",
        help="folder or hub id of Stable Diffusion's safety checker (default: the model folder's, if it has one)",
    )
    made.add_argument("--quiet", action="store_true", help="no progress bar and no notes")
    return made


def add_size(made: argparse.ArgumentParser, height: str, width: str) -> None:
    """Add --H and --W; `height` and `width` say what they default to."""
    made.add_argument("--H", type=integer(1), help=f"height in pixels (default: {height})")
    made.add_argument("--W", type=integer(1), help=f"width in pixels (default: {width})")


def sampler_name(options: argparse.Namespace) -> str:
    """The sampler that the flags choose: "ddim", "plms" or "dpm". ValueError if they contradict each other."""
    if options.plms and getattr(options, "dpm_solver", False):
        raise ValueError("--plms and --dpm_solver are two samplers; choose one.")
    name = "plms" if options.plms else "dpm" if getattr(options, "dpm_solver", False) else "ddim"
    if options.ddim_eta and name != "ddim":
        raise ValueError(
            f"--ddim_eta must be 0 with {'--plms' if name == 'plms' else '--dpm_solver'}; only DDIM has it."
        )
    return name


def read_prompts(file: str) -> list[str]:
    """The lines of a text file that are not empty. ValueError if there is no file, no text or no such line."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"--from-file {file} does not exist; give a text file with one prompt per line.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"--from-file {file} is not UTF-8 text; give a text file with one prompt per line.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"--from-file {file} holds no prompt; give a text file with one prompt per line.")
    return prompts


def integer(least: int) -> Callable[[str], int]:
    """The type of an option: a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text!r}")
        return value

    return read


def numbers(text: str) -> list[float]:
    """The type of an option: finite numbers with commas between them."""
    read = number()
    return [read(part) for part in text.split(",")]


def number(least: float = -math.inf, most: float = math.inf) -> Callable[[str], float]:
    """The type of an option: a finite number from `least` to `most`."""
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
