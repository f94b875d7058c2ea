"""The parts of bench/gpu.py: each yields rows, one after another. All weights are random; widths are v1's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from gpu_agreement import TOLERANCE, alone, difference, lab, one_process, together, without_tf32
from gpu_steps import GIB, Row, Size, compiled, fleet, full, now, peak_flops
from workload import NoiseTask, fleet_designs, v1_base

from sdpet.adapters import PLACEMENTS
from sdpet.methods import Design, build
from sdpet.models import ARCHITECTURES, BaseModel, step_memory
from sdpet.sampling import SamplerConfig, denoise
from sdpet.training import Member, PeakMemory, TrainConfig, fit_together


@dataclass(frozen=True)
class Part:
    """A part of the benchmark: what it measures, and the seconds it may take."""

    measure: Callable[[Size], Iterator[Row]]
    seconds: float
    about: str


def peak(size: Size) -> Iterator[Row]:
    """Matrix products in each precision."""
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("float16", torch.float16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        yield {"precision": name, "tflops": peak_flops(size, dtype) / 1e12}


def agreement(size: Size) -> Iterator[Row]:
    """The lab's model: each placement on the CPU, on the device and in a fleet there; then lower precisions."""
    count = 4 if size.tiny else len(PLACEMENTS)
    host, device = lab("cpu"), lab(size.device)
    with without_tf32():
        expected = [alone(*host, number) for number in range(count)]
        single = [alone(*device, number) for number in range(count)]
        fleet = together(*device, count)
    for number, one in enumerate(expected):
        for way, found in ((size.device, single[number]), ("fleet", fleet[number])):
            loss, weights = difference(found, one)
            row = {"placement": PLACEMENTS[number], "way": way, "loss": loss, "weights": weights}
            yield row | {"agrees": max(loss, weights) < TOLERANCE}
    for dtype, precision in (("float32", "bf16-mixed"), ("bfloat16", "bf16-mixed"), ("float32", "16-mixed")):
        row = {"weights_in": dtype, "precision": precision}
        if precision == "16-mixed" and size.device == "cpu":
            yield row | {"not_measured": "needs a CUDA device"}
            continue
        loss, weights = difference(alone(*lab(size.device, dtype), 0, precision=precision, clip=1.0), expected[0])
        yield row | {"loss": loss, "weights": weights}


def nccl(size: Size) -> Iterator[Row]:
    """A group of one process against training without one, on the lab's model."""
    backend, rank = one_process(size.device)
    device = lab(size.device)
    with without_tf32():
        loss, weights = difference(alone(*device, 0, rank), alone(*device, 0))
    yield {"backend": backend, "loss": loss, "weights": weights, "agrees": max(loss, weights) < TOLERANCE}


def sampling(size: Size) -> Iterator[Row]:
    """25 steps of DPM-Solver++ with guidance at several numbers of images; then the VAE, both ways."""
    base = size.base()
    counts, steps = ((1, 2), 2) if size.tiny else ((1, 4, 16), 25)
    base.unet.requires_grad_(False)
    text = NoiseTask(base, max(counts)).text
    sampler = SamplerConfig("dpm", steps, 7.0)
    for count in counts:

        def draw(count: int = count) -> None:
            denoise(base, text[:count], text[:1], list(range(count)), sampler)

        yield {"images": count, "steps": steps} | _images(size, draw, count)
    base.unet.to("meta")
    for dtype in (torch.float32, torch.bfloat16) if size.device == "cuda" else (torch.float32,):
        base.vae = _vae(size, base).to(size.device, dtype)
        for count in (1, 2) if size.tiny else (1, 2, 4, 8):
            yield from _vae_rows(size, base, dtype, count)


def _vae(size: Size, base: BaseModel) -> Any:
    if size.tiny:
        return base.vae
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_config(AutoencoderKL.load_config(ARCHITECTURES / "v1" / "vae"))


def _vae_rows(size: Size, base: BaseModel, dtype: torch.dtype, count: int) -> Iterator[Row]:
    """Encoding and decoding `count` images at once."""
    pixels = torch.zeros(count, 3, 8 * size.side, 8 * size.side, device=size.device, dtype=dtype)
    latents = torch.zeros(count, 4, size.side, size.side, device=size.device, dtype=dtype)
    for way, work in (("encode", lambda: base.vae.encode(pixels)), ("decode", lambda: base.vae.decode(latents))):
        row = {"vae": way, "weights_in": _name(dtype), "images": count}
        try:
            yield row | _images(size, work, count)
        except torch.OutOfMemoryError:
            yield row | {"failed": "out of memory"}
            torch.cuda.empty_cache()


@torch.no_grad()
def _images(size: Size, work: Callable[[], Any], count: int) -> Row:
    """Seconds per image of the second call, and its peak of memory."""
    work()
    memory, start = PeakMemory(torch.device(size.device)), now(size)
    work()
    seconds = (now(size) - start) / count
    return {"seconds_per_image": seconds, "peak_gib": memory.peak() / GIB}


def doctor(size: Size) -> Iterator[Row]:
    """The memory that `sdpet doctor` expects in a step against the measured peak, without what was there before.

    On the CPU the peak is that of the process, so that small sizes say nothing.
    """
    dtype, precision = size.mixed
    for method, rows, checkpointing in (
        ("adapter", 1, False),
        ("adapter", 4, False),
        ("adapter", 4, True),
        ("full", 1, False),
    ):
        frozen = torch.float32 if method == "full" else dtype
        expected = expected_memory(size, method, rows, frozen, precision, checkpointing)
        before = torch.cuda.memory_allocated() if size.device == "cuda" else PeakMemory(torch.device("cpu")).peak()
        base = size.base(frozen)
        handle = build(base, _design(base, method, size), 0)
        config = TrainConfig(3, 1e-6, precision=precision, grad_checkpointing=checkpointing)
        result = fit_together(base, [Member(handle, 0, config)], NoiseTask(base, rows))[0]
        measured = result.peak_memory_bytes - before
        row = {"method": method, "rows": rows, "checkpointing": checkpointing, "weights_in": _name(frozen)}
        sizes = {"expected_gib": expected / GIB, "measured_gib": measured / GIB}
        yield row | sizes | {"measured_over_expected": measured / expected}
        del base, handle, result
        if size.device == "cuda":
            torch.cuda.empty_cache()


def _design(base: BaseModel, method: str, size: Size) -> Design:
    return fleet_designs(base, 1, size.params)[0][0] if method == "adapter" else Design("full")


def expected_memory(size: Size, method: str, rows: int, dtype: torch.dtype, precision: str, checkpointing: bool) -> int:
    """Bytes, as `sdpet doctor` computes them."""
    base = v1_base(size.side, "meta", torch.float32, size.tiny)
    trained = list(build(base, _design(base, method, size)).parameters())
    base.unet.train()
    networks = {"unet": base.unet}
    return step_memory(networks, trained, rows, size.side, _name(dtype), precision, checkpointing).total


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


PARTS = {
    "peak": Part(peak, 40, "matrix products in each precision"),
    "agreement": Part(agreement, 90, "CPU = device = fleet for all placements, bf16 and fp16"),
    "fleet": Part(fleet, 150, "1 to 32 designs at v1's size, 512 px: time, memory, share of the peak"),
    "full": Part(full, 60, "an adapter against full fine-tuning; forward, backward and optimiser apart"),
    "nccl": Part(nccl, 40, "a process group of one process"),
    "sampling": Part(sampling, 60, "drawing images; the VAE at several numbers of images"),
    "doctor": Part(doctor, 60, "estimates of memory against measured peaks"),
    "compile": Part(compiled, 240, "eager, compiled, CUDA graphs"),  # last: it may take what time is left
}
