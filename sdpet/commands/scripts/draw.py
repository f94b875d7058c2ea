"""Draw images batch by batch, and write each batch as soon as it is ready."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdpet.commands.scripts.arguments import read_prompts
from sdpet.commands.scripts.folder import Numbered
from sdpet.commands.scripts.safety import ABSENT, SafetyChecker, checker_of
from sdpet.commands.scripts.watermark import Watermark, markable

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel
    from sdpet.sampling import SamplerConfig, Start

PADDING = 2  # pixels between the images of a grid


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw.

    Attributes
    ----------
    prompt : str
        The prompt.
    seed : int
        Seed of the image's noise.
    code : int
        Seed of the initial noise; equal to `seed` unless --fixed_code is given.
    """

    prompt: str
    seed: int
    code: int


def plan(options: argparse.Namespace) -> list[list[ImageRequest]]:
    """Plan the images to draw, in batches.

    Image k of all images has the seed SEED + k, whatever the size of a batch. With --fixed_code, the initial noise of
    image j of each batch has the seed SEED + j.
    """
    lines = [options.prompt] * options.n_samples if options.from_file is None else read_prompts(options.from_file)
    batches = []
    for number in range(options.n_iter):
        for first in range(0, len(lines), options.n_samples):
            batch = []
            for place, prompt in enumerate(lines[first : first + options.n_samples]):
                seed = options.seed + number * len(lines) + first + place
                batch.append(ImageRequest(prompt, seed, options.seed + place if options.fixed_code else seed))
            batches.append(batch)
    return batches


class Output:
    """Writes images to samples/00000.png ... and grid-0000.png, after the safety checker and with a watermark.

    Parameters
    ----------
    options : Namespace
        The command line.
    size : (int, int)
        Height and width of the images in pixels.
    model : Path or None
        Folder of the base model, which may contain a safety checker.
    device : str
        Device of the safety checker.
    """

    def __init__(self, options: argparse.Namespace, size: tuple[int, int], model: Path | None, device: str) -> None:
        self._folder = Path(options.outdir).expanduser()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._samples = None if options.skip_save else Numbered(self._folder / "samples")
        self._grids = None if options.skip_grid else Numbered(self._folder, "grid-", 4)
        self._row, self._quiet = options.n_rows or options.n_samples, options.quiet
        self._drawn: list[np.ndarray] = []
        self.written: list[Path] = []
        if not markable(*size):
            self.note(f"images of {size[1]} x {size[0]} get no watermark, which needs at least 256 x 256 pixels.")
        place = checker_of(options.safety_checker, model)
        self._checker = None if place is None else SafetyChecker(place, device)
        if self._checker is None:
            self.note(ABSENT)
        self._watermark: Watermark | None = None
        if markable(*size):
            self._watermark = Watermark()

    def note(self, text: str) -> None:
        """Print a note on stderr, unless --quiet is given."""
        if not self._quiet:
            print(f"note: {text}", file=sys.stderr)

    def add(self, images: np.ndarray, metadata: Sequence[dict[str, Any]]) -> None:
        """Check and write images uint8 (N, H, W, 3), each with its metadata in the file."""
        flagged = [False] * len(images)
        if self._checker is not None:
            images, flagged = self._checker.replace(images)
        for image, withheld, entry in zip(images, flagged, metadata, strict=True):
            self._drawn.append(image)
            name = f"image {len(self._drawn)}"
            if self._samples is not None:
                path = self._write(self._samples, image, entry)
                self.written.append(path)
                name = path.name
            if withheld:
                print(f"{name} was withheld by the safety checker and replaced by a black image.", file=sys.stderr)

    def grid(self) -> Path | None:
        """Write a grid of all images so far; returns its path, or None if there are no images or no grid is wanted."""
        if self._grids is None or not self._drawn:
            return None
        import torch
        from torchvision.utils import make_grid

        images = torch.from_numpy(np.stack(self._drawn)).permute(0, 3, 1, 2)  # (N, 3, H, W)
        grid = make_grid(images, nrow=self._row, padding=PADDING).permute(1, 2, 0).numpy()
        return self._write(self._grids, np.ascontiguousarray(grid), {})

    def _write(self, files: Numbered, image: np.ndarray, entry: dict[str, Any]) -> Path:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        readable = True
        if markable(*image.shape[:2]):
            self._watermark = self._watermark or Watermark()
            image, readable = self._watermark.mark(image)
        info = PngInfo()
        if entry:
            info.add_text("sdpet", json.dumps(entry))
        path = files.add(lambda file: Image.fromarray(image).save(file, format="PNG", pnginfo=info))
        if not readable:
            self.note(f"the watermark of {path.name} cannot be read from the image.")
        return path


def draw(
    base: BaseModel,
    batches: Sequence[Sequence[ImageRequest]],
    sampler: SamplerConfig,
    output: Output,
    start: Start,
    options: argparse.Namespace,
) -> int:
    """Draw all batches and write their images.

    Parameters
    ----------
    base : BaseModel
        The model, with its adapters attached.
    batches : sequence of sequence of ImageRequest
        The images to draw.
    sampler : SamplerConfig
        How images are sampled.
    output : Output
        Writes the images.
    start : Start
        Where sampling starts: from noise, or from an image.
    options : Namespace
        The command line.

    Returns
    -------
    int
        Exit status: 0, or 130 if it was interrupted; finished images are kept.
    """
    import torch

    _note_cut_prompts(base, [options.negative_prompt, *(one.prompt for batch in batches for one in batch)], output)
    total, status = sum(map(len, batches)), 0
    shared = _metadata(base, sampler, start, options)
    if options.negative_prompt and sampler.guidance == 1:
        output.note("--negative_prompt has no effect with --scale 1.")
    bar = _bar(total, options.quiet)
    try:
        with torch.no_grad(), _half_precision(base, options.precision):
            empty = base.encode_text([options.negative_prompt])
            for batch in batches:
                images = _batch(base, batch, empty, sampler, start, bar)
                output.add(images, [{"prompt": request.prompt, "seed": request.seed, **shared} for request in batch])
    except KeyboardInterrupt:
        status = 130
    finally:
        if bar:
            bar.close()
    if status:
        print(f"\nInterrupted; {len(output.written)} of {total} images are kept.", file=sys.stderr)
    grid = output.grid()
    _summary(output, grid)
    return status


def _metadata(base: BaseModel, sampler: SamplerConfig, start: Start, options: argparse.Namespace) -> dict[str, Any]:
    """What all images of a call share: sampler, model, adapters and their strengths, size in pixels."""
    from sdpet.commands.scripts.model import adapters_of, strengths_of

    latents = start.latents.shape[-2:] if start.latents is not None else start.size or base.latent_shape[1:]
    height, width = (side * base.downsampling for side in latents)
    found: dict[str, Any] = {
        "sampler": sampler.name,
        "steps": sampler.steps,
        "scale": sampler.guidance,
        "eta": sampler.eta,
        "model": base.name,
        "model_hash": base.weight_hash,
        "width": width,
        "height": height,
    }
    if options.negative_prompt:
        found["negative_prompt"] = options.negative_prompt
    if start.latents is not None:
        found["strength"] = start.strength  # of img2img
    folders = adapters_of(options)
    if folders:
        strengths = strengths_of(options)
        pairs = zip(folders, strengths, strict=True)
        found["adapters"] = [{"folder": folder.resolve().name, "strength": strength} for folder, strength in pairs]
    return found


def _batch(
    base: BaseModel, batch: Sequence[ImageRequest], empty: Any, sampler: SamplerConfig, start: Start, bar: Any
) -> np.ndarray:
    """Draw the images uint8 (N, H, W, 3) of one batch."""
    import torch

    from sdpet.sampling import denoise

    text = base.encode_text([request.prompt for request in batch])
    seeds, codes = [request.seed for request in batch], [request.code for request in batch]
    start = replace(start, seeds=None if codes == seeds else codes)
    report: Callable[[int, int], None] | None = None
    if bar:
        before = bar.n

        def report(done: int, steps: int) -> None:
            bar.update(before + len(batch) * done / steps - bar.n)

    latents = denoise(base, text, empty, seeds, sampler, report, start)
    if not torch.isfinite(latents).all():
        raise ValueError("sampling gave values that are not finite; try --precision full or a smaller --scale.")
    with torch.autocast(base.device.type, enabled=False):  # float16 overflows in the autoencoder of some models
        return base.decode(latents, chunk=len(batch))


def _half_precision(base: BaseModel, precision: str) -> AbstractContextManager:
    """Autocast to float16 if --precision asks for it and the device is CUDA; the CPU always computes in float32."""
    import torch

    if precision == "autocast" and base.device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.float16)
    return nullcontext()


def _bar(total: int, quiet: bool) -> Any:
    if quiet or not sys.stderr.isatty():
        return None
    from tqdm import tqdm

    layout = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} images, {remaining} left"
    return tqdm(total=total, bar_format=layout, dynamic_ncols=True, leave=False)


def _note_cut_prompts(base: BaseModel, prompts: Sequence[str], output: Output) -> None:
    from sdpet.models.text import left_out, note_cut

    for prompt in dict.fromkeys(prompts):
        note_cut(prompt, left_out(base.tokenizer, prompt), "The text encoder", output.note)


def _summary(output: Output, grid: Path | None) -> None:
    written = output.written
    parts = []
    if written:
        names = written[0].name + (f" to {written[-1].name}" if len(written) > 1 else "")
        parts.append(f"{len(written)} image{'s' if len(written) > 1 else ''} in {written[0].parent} ({names})")
    if grid:
        parts.append(f"grid {grid}")
    print(", ".join(parts) or "nothing was written")
