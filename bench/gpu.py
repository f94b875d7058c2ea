"""Stable Diffusion v1's size on a CUDA device: python bench/gpu.py [--sizes 1,2,4,8,16,32] [--tiny].

A UNet of v1's widths with random weights, 64 x 64 latents (512 px), batch 1, bfloat16: seconds per design and step and
memory of fleets of K designs, adapters against full fine-tuning, and the share of the device's measured peak of matrix
products that is reached. The last line is one JSON object. Without a CUDA device it says so and exits 0; --tiny tries
the code with a small UNet on whatever device there is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from workload import NoiseTask, curve, v1_base

from sdpet.methods import Design, build
from sdpet.models import BaseModel
from sdpet.training import Member, TrainConfig, fit_together


def peak_flops(device: str, dtype: torch.dtype, side: int) -> float:
    """Floating-point operations a second of the product of two square matrices, best of some: the practical ceiling."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(5):
            a @ b
        synchronize(device)
        best = max(best, 5 * 2 * side**3 / (time.perf_counter() - start))
    return best


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def step_flops(base: BaseModel, task: Any) -> tuple[float, float]:
    """Operations of one image's forward pass, and of forward and backward pass to the input without any for weights,
    which is what an adapter that reads where the UNet begins asks for (less for one that reads later)."""
    batch = task.batch(0, 0)
    counts = []
    for backward in (False, True):
        noisy = batch.noisy[:1].clone().requires_grad_(backward)
        with FlopCounterMode(display=False) as counter:
            out = base.predict(noisy, batch.timesteps[:1], batch.text[:1])
            if backward:
                out.float().square().mean().backward()
        counts.append(float(counter.get_total_flops()))
    return counts[0], counts[1]


def full_step(base: BaseModel, task: Any, rounds: int, steps: int, precision: str) -> tuple[float, int]:
    """(seconds per step, peak bytes) of full fine-tuning."""
    seconds, peak = [], 0
    for _ in range(rounds):
        handle = build(base, Design("full"), 0)
        try:
            member = Member(handle, 0, TrainConfig(steps, 1e-6, precision=precision))
            result = fit_together(base, [member], task)[0]
            seconds.append(result.seconds_per_step)
            peak = max(peak, result.peak_memory_bytes)
        finally:
            handle.detach()
    return statistics.median(seconds), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,2,4,8,16,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--params", type=int, default=1_500_000, help="of each design's adapters")
    parser.add_argument("--tiny", action="store_true", help="a small UNet, on the CPU where there is no CUDA device")
    arguments = parser.parse_args()
    there = torch.cuda.is_available()
    if not there and not arguments.tiny:
        print("not measured: no CUDA device")
        return
    device = "cuda" if there else "cpu"
    dtype, precision = (torch.bfloat16, "bf16-mixed") if there else (torch.float32, "32-true")
    base = v1_base(8 if arguments.tiny else 64, device, dtype, arguments.tiny)
    task = NoiseTask(base, 1)
    ceiling = peak_flops(device, dtype, 256 if arguments.tiny else 8192)
    forward, both = step_flops(base, task)
    sizes = []
    for size in [int(size) for size in arguments.sizes.split(",")]:
        try:  # what does not fit is left out, and larger ones with it
            curve(base, task, [size], 1, 1, arguments.params, precision)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        sizes.append(size)
    points = curve(base, task, sizes, arguments.rounds, arguments.steps, arguments.params, precision)
    try:
        full: tuple[float, int] | None = full_step(base, task, arguments.rounds, arguments.steps, precision)
    except torch.OutOfMemoryError:
        full = None
    name = torch.cuda.get_device_name() if there else "CPU"
    print(f"{name}, {ceiling / 1e12:.1f} TFLOP/s in matrix products; a forward pass is {forward / 1e12:.4f} TFLOP")
    print(f"{'K':>4} {'ms per design and step':>24} {'TFLOP/s':>9} {'of peak':>8} {'extra GB':>9}")
    rows = {}
    for size, (seconds, extra) in points.items():
        rate = both / seconds
        rows[size] = {"seconds": seconds, "tflops": rate / 1e12, "share_of_peak": rate / ceiling, "extra_bytes": extra}
        print(f"{size:>4} {1000 * seconds:>24.1f} {rate / 1e12:>9.3f} {rate / ceiling:>8.1%} {extra / 2**30:>9.2f}")
    if full is not None:
        print(f"full {1000 * full[0]:>24.1f} ms a step, peak {full[1] / 2**30:.2f} GB")
    found: dict[str, Any] = {
        "device": name,
        "tiny": arguments.tiny,
        "peak_tflops": ceiling / 1e12,
        "forward_flops": forward,
        "curve": rows,
        "full": None if full is None else {"seconds": full[0], "peak_bytes": full[1]},
        "step_ratio": rows[1]["seconds"] / min(row["seconds"] for row in rows.values()) if 1 in rows else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
