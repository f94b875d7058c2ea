"""Seconds per design and step of fleets of K designs: python bench/fleet.py [--sizes 1,4,16] [--base FOLDER].

Sizes are measured in turn, round after round, in one process; medians. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics

import numpy as np
import torch

from sdpet.adapters import AdapterSpec, mid_dim_for
from sdpet.base import load_base
from sdpet.fit import TrainConfig, fit_together
from sdpet.loop import Member
from sdpet.methods import Design, build, build_fleet
from sdpet.positions import PLACEMENTS
from sdpet.tasks import FinetuneTask


def measure(base, task, size: int, steps: int, params: int) -> tuple[float, int]:
    """(seconds per design and step, median of the steps; peak bytes) of a fleet of all placements in turn."""
    specs = [AdapterSpec.parse(PLACEMENTS[i % len(PLACEMENTS)], mid_dim=1) for i in range(size)]
    specs = [AdapterSpec(s.din, s.dout, mid_dim=mid_dim_for(base.unet, s, params)) for s in specs]
    designs, seeds = [Design("adapter", spec) for spec in specs], [i // len(PLACEMENTS) for i in range(size)]
    crew = build_fleet(base, designs, seeds) if size > 1 else None
    handles = crew.members if crew else [build(base, designs[0], 0)]
    members = [Member(handle, seed, TrainConfig(steps, 1e-3)) for handle, seed in zip(handles, seeds, strict=True)]
    try:
        result = fit_together(base, members, task, crew)[0]
        return result.seconds_per_step, result.peak_memory_bytes
    finally:
        for handle in handles:
            handle.detach()
        if crew:
            crew.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--params", type=int, default=24000)
    parser.add_argument("--base", default=None, help="a pipeline folder; the lab's where none is given")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base("lab", arguments.base)
    images = np.random.default_rng(0).integers(0, 256, (8, base.image_size, base.image_size, 3), dtype=np.uint8)
    captions = ["a photo of a star"] * len(images)
    task = FinetuneTask(
        base, None, arguments.batch, images=images, captions=captions, heldout_images=images, heldout_captions=captions
    )
    sizes = [int(size) for size in arguments.sizes.split(",")]
    found: dict[int, list[float]] = {size: [] for size in sizes}
    memory: dict[int, int] = {}
    for _ in range(arguments.rounds):
        for size in sizes:
            seconds, memory[size] = measure(base, task, size, arguments.steps, arguments.params)
            found[size].append(seconds)
    curve = {size: statistics.median(values) for size, values in found.items()}
    print(f"{'K':>4} {'ms per design and step':>24} {'times faster':>14} {'peak MB':>9}")
    for size in sizes:
        faster = curve[sizes[0]] / curve[size]
        print(f"{size:>4} {1000 * curve[size]:>24.1f} {faster:>14.2f} {memory[size] / 2**20:>9.0f}")
    ratio = curve[1] / curve[16] if {1, 16} <= curve.keys() else None
    print(json.dumps({"step_ratio": ratio, "seconds": curve, "peak_bytes": memory, "batch": arguments.batch}))


if __name__ == "__main__":
    main()
