"""Drawing batch after batch, and writing each image as soon as it is there."""

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
class Shot:
    """One image to draw: `seed` is that of its noise, `code` that of its starting noise if it is another."""

    prompt: str
    seed: int
    code: int


def plan(options: argparse.Namespace) -> list[list[Shot]]:
    """Batches of shots. Image k in all is drawn from seed + k, whatever the size of a batch; with --fixed_code the
    image at place j of any batch begins with the code of seed + j."""
    lines = [options.prompt] * options.n_samples if options.from_file is None else read_prompts(options.from_file)
    batches = []
    for number in range(options.n_iter):
        for first in range(0, len(lines), options.n_samples):
            batch = []
            for place, prompt in enumerate(lines[first : first + options.n_samples]):
                seed = options.seed + number * len(lines) + first + place
                batch.append(Shot(prompt, seed, options.seed + place if options.fixed_code else seed))
            batches.append(batch)
    return batches


class Output:
    """The folder of a script: samples/00000.png ... and grid-0000.png, marked and checked on their way there."""

    def __init__(self, options: argparse.Namespace, size: tuple[int, int], model: Path | None, device: str) -> None:
        self._folder = Path(options.outdir).expanduser()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._samples = None if options.skip_save else Numbered(self._folder / "samples")
        self._grids = None if options.skip_grid else Numbered(self._folder, "grid-", 4)
        self._row, self._quiet = options.n_rows or options.n_samples, options.quiet
        self._drawn: list[np.ndarray] = []
        self.written: list[Path] = []
        if not markable(*size):
            self.note(f"images of {size[1]} x {size[0]} carry no watermark, which takes at least 256 x 256 pixels.")
        place = checker_of(options.safety_checker, model)
        self._checker = None if place is None else SafetyChecker(place, device)
        if self._checker is None:
            self.note(ABSENT)
        self._watermark: Watermark | None = None
        if markable(*size):
            self._watermark = Watermark()

    def note(self, text: str) -> None:
        if not self._quiet:
            print(f"note: {text}", file=sys.stderr)

    def add(self, images: np.ndarray, told: Sequence[dict[str, Any]]) -> None:
        """Check, mark and write images uint8 (N, H, W, 3), with what is told of each in its file."""
        flagged = [False] * len(images)
        if self._checker is not None:
            images, flagged = self._checker.replace(images)
        for image, withheld, words in zip(images, flagged, told, strict=True):
            self._drawn.append(image)
            name = f"image {len(self._drawn)}"
            if self._samples is not None:
                path = self._write(self._samples, image, words)
                self.written.append(path)
                name = path.name
            if withheld:
                print(f"{name} was withheld by the safety checker; a black image stands for it.", file=sys.stderr)

    def grid(self) -> Path | None:
        """Write the grid of all images so far, if one is wanted and there are any."""
        if self._grids is None or not self._drawn:
            return None
        import torch
        from torchvision.utils import make_grid

        images = torch.from_numpy(np.stack(self._drawn)).permute(0, 3, 1, 2)  # (N, 3, H, W)
        grid = make_grid(images, nrow=self._row, padding=PADDING).permute(1, 2, 0).numpy()
        return self._write(self._grids, np.ascontiguousarray(grid), {})

    def _write(self, files: Numbered, image: np.ndarray, words: dict[str, Any]) -> Path:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        readable = True
        if markable(*image.shape[:2]):
            self._watermark = self._watermark or Watermark()
            image, readable = self._watermark.mark(image)
        info = PngInfo()
        if words:
            info.add_text("sdpet", json.dumps(words))
        path = files.add(lambda file: Image.fromarray(image).save(file, format="PNG", pnginfo=info))
        if not readable:
            self.note(f"the watermark of {path.name} cannot be read back from this image.")
        return path


def draw(
    base: BaseModel,
    batches: Sequence[Sequence[Shot]],
    sampler: SamplerConfig,
    output: Output,
    start: Start,
    options: argparse.Namespace,
) -> int:
    """Draw all batches, each from `start`. Returns the exit status: 130 when interrupted; finished images are kept."""
    import torch

    _note_cut_prompts(base, batches, output)
    total, status = sum(map(len, batches)), 0
    bar = _bar(total, options.quiet)
    try:
        with torch.no_grad(), _half_precision(base, options.precision):
            empty = base.encode_text([""])
            for batch in batches:
                images = _batch(base, batch, empty, sampler, start, bar)
                told = {"sampler": sampler.name, "steps": sampler.steps, "scale": sampler.guidance, "eta": sampler.eta}
                output.add(images, [{"prompt": shot.prompt, "seed": shot.seed, **told} for shot in batch])
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


def _batch(
    base: BaseModel, batch: Sequence[Shot], empty: Any, sampler: SamplerConfig, start: Start, bar: Any
) -> np.ndarray:
    """Images uint8 (N, H, W, 3) of one batch."""
    import torch

    from sdpet.sampling import denoise

    text = base.encode_text([shot.prompt for shot in batch])
    seeds, codes = [shot.seed for shot in batch], [shot.code for shot in batch]
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
    """float16 where it is asked for and there is CUDA; the CPU computes in float32 either way."""
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


def _note_cut_prompts(base: BaseModel, batches: Sequence[Sequence[Shot]], output: Output) -> None:
    from sdpet.models.text import left_out, note_cut

    for prompt in dict.fromkeys(shot.prompt for batch in batches for shot in batch):
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
