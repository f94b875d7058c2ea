"""Compile the denoiser while images are drawn, where that is asked for and saves time.

Code is compiled for one number of images and for the hooks that the denoiser carries, so each call that draws compiles
again. A measurement (seconds of a pass as it is and compiled, and of compiling) is stored for each machine, model and
number of images.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sdpet.adapters.compiled import compiled, uncompiled
from sdpet.config.data_checks import COMPILERS
from sdpet.files.atomic import write_atomic
from sdpet.files.digests import read_signed, signed
from sdpet.models.base import BaseModel
from sdpet.sampling.config import SamplerConfig

WORTH = 60.0  # seconds of drawing in a call from which "auto" measures: compiling the lab's UNet took a minute and more
GAIN = 0.9  # compiled, all must take less than this share of the time


@dataclass(frozen=True)
class Measurement:
    """Seconds of a pass of the denoiser as it is and compiled, and of compiling it."""

    plain: float
    compiled: float
    compiling: float

    def pays(self, passes: int) -> bool:
        """Whether compiling saves a tenth of the time of so many passes."""
        return self.compiling + passes * self.compiled < GAIN * passes * self.plain


@contextmanager
def compiled_chunks(
    base: BaseModel, sampler: SamplerConfig, one_pass: Callable[[], Any], images: int, chunks: int
) -> Iterator[Callable[[int], AbstractContextManager[Any]]]:
    """Compile the denoiser inside the block, if the sampler's option `compile` says so.

    Parameters
    ----------
    base : BaseModel
        The model, with whatever is attached to it.
    sampler : SamplerConfig
        Its `compile` and `measured` count.
    one_pass : callable
        Calls the denoiser once with `images` images.
    images : int
        Number of images that are denoised together.
    chunks : int
        Number of times that so many images are.

    Yields
    ------
    callable
        Called with a number of images, it returns the context in which these are denoised: not compiled where they are
        fewer, as code is compiled for one number.
    """
    if not _wanted(base, sampler, one_pass, images, chunks * sampler.steps):
        yield lambda count: nullcontext()
        return
    with compiled(base.unet):
        yield lambda count: nullcontext() if count == images else uncompiled(base.unet)


def _wanted(base: BaseModel, sampler: SamplerConfig, one_pass: Callable[[], Any], images: int, passes: int) -> bool:
    if sampler.compile != "auto" or not passes:
        return bool(sampler.compile and passes)
    if base.device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return False
    key = _made_from(base, sampler, images)
    found = _known(sampler.measured, key)
    if found is None:
        plain = _seconds(base, one_pass)
        if plain * passes < WORTH:
            return False
        try:
            found = _measure(base, one_pass, plain)
        except Exception as error:  # what torch cannot compile is drawn as it is
            logging.getLogger("sdpet").warning("The denoiser could not be compiled (%s).", str(error).split("\n")[0])
            return False
        _keep(sampler.measured, key, found)
    return found.pays(passes)


def _measure(base: BaseModel, one_pass: Callable[[], Any], plain: float) -> Measurement:
    with compiled(base.unet):
        first = _seconds(base, one_pass, 1)
        later = _seconds(base, one_pass)
    return Measurement(plain, later, max(0.0, first - later))


def _seconds(base: BaseModel, work: Callable[[], Any], times: int = 2) -> float:
    """The least wall time of some calls."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        if base.device.type == "cuda":
            torch.cuda.synchronize(base.device)
        found.append(time.perf_counter() - start)
    return min(found)


def _made_from(base: BaseModel, sampler: SamplerConfig, images: int) -> dict[str, Any]:
    device = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else platform.processor()
    return {
        "machine": platform.node(), "device": device, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "weights": base.weight_hash, "dtype": str(base.dtype), "latents": list(base.latent_shape), "images": images,
        "guided": sampler.guidance != 1, "autocast": sampler.autocast,
    }  # fmt: skip


def _known(folder: Path | None, key: dict[str, Any]) -> Measurement | None:
    if folder is None:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = read_signed(_file(folder, key), key)
        return stored and Measurement(*(float(stored[name]) for name in ("plain", "compiled", "compiling")))
    return None


def _keep(folder: Path | None, key: dict[str, Any], found: Measurement) -> None:
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(signed({**asdict(found), "key": key}), indent=1)
    write_atomic(_file(folder, key), lambda partial: partial.write_text(text, encoding="utf-8"))


def _file(folder: Path, key: dict[str, Any]) -> Path:
    return folder / f"{hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()}.json"
