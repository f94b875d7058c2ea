"""Check what `sdpet doctor` expects against the measured memory of this process, at the size of Stable Diffusion v1.

    python bench/memory.py [SIDE]      on the CPU, in float32, with random weights; 5 GB and some minutes at 512 pixels

Each phase runs once. Measured is how much the process grew over what it had before the phase.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler

from sdpet.adapters import AdapterSpec
from sdpet.methods import Design, build
from sdpet.models import ARCHITECTURES, BaseModel, Source, caching_bytes, on_meta, sampling_bytes, step_memory
from sdpet.training import PeakMemory

GIB = 2**30


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def grown(run) -> int:
    """By how many bytes the process grows at most while a function runs."""
    before, memory = resident(), PeakMemory(torch.device("cpu"))
    run()
    return memory.peak() - before


def main(side: int) -> None:
    source = Source(ARCHITECTURES / "v1", ARCHITECTURES / "v1")
    shapes, networks = on_meta(source), on_meta(source)
    for network in networks.values():
        network.to_empty(device="cpu")
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    scheduler = DDPMScheduler.from_pretrained(ARCHITECTURES / "v1" / "scheduler")
    base = BaseModel(**networks, tokenizer=None, scheduler=scheduler, name="v1", weight_hash="", side=side)
    latents = side // base.downsampling
    rows = 2
    noisy, text = torch.randn(rows, 4, latents, latents), torch.randn(rows, 77, 768)

    def step() -> None:
        base.predict(noisy, torch.tensor([5, 500]), text).square().mean().backward()

    def draw() -> None:
        with torch.no_grad():
            base.predict(noisy, torch.tensor([5, 500]), text)
        base.decode(noisy[:1])

    images = np.zeros((1, side, side, 3), np.uint8)
    expected = {"caching": caching_bytes(shapes["vae"], side, images=1)}
    measured = {"caching": grown(lambda: base.encode_images(images))}
    expected["sampling"] = sampling_bytes(shapes, rows, latents, images=1)
    measured["sampling"] = grown(draw)
    handle = build(base, Design("adapter", AdapterSpec.parse("attn2o-ffni", mid_dim=60)), 0)
    base.unet.train()
    of_step = step_memory(networks, list(handle.parameters()), rows, latents)
    expected["step"] = of_step.activations + of_step.gradients
    measured["step"] = grown(step)
    for phase, size in expected.items():
        row = {"phase": phase, "side": side, "expected_gib": round(size / GIB, 3)}
        print(json.dumps({**row, "measured_gib": round(measured[phase] / GIB, 3)}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
