"""One training step of the v1-size UNet: adapters against full fine-tuning, time and peak memory side by side.

    python bench/adapter_vs_full.py [--latents 32] [--batch 1] [--rounds 3] [--device cpu]

Adapters are attn2o-ffni with mid_dim 60; both are trained with AdamW in float32 on random weights. Every measurement
has a process of its own, so that peaks are true; the four (each with and without gradient checkpointing) are taken in
turn, round after round, and medians compared. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

METHODS = ("adapters", "full")


def step_cost(method: str, checkpointing: bool, latents: int, batch: int, steps: int, device: str) -> dict[str, float]:
    """Median seconds of a step and peak bytes of `steps` steps, after one that fills AdamW's state. In this process."""
    import torch
    from torch.nn import functional

    from sdpet import AdapterSpec, attach
    from sdpet.training import PeakMemory

    unet = random_unet(device)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    if method == "adapters":
        trained = list(attach(unet, AdapterSpec.parse("attn2o-ffni", mid_dim=60), seed=0).parameters())
    else:
        trained = list(unet.requires_grad_(True).parameters())
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    noisy = torch.randn(batch, 4, latents, latents, device=device)
    text, noise = torch.randn(batch, 77, 768, device=device), torch.randn_like(noisy)
    timesteps = torch.full((batch,), 500, device=device)
    seconds = []
    memory = PeakMemory(torch.device(device))
    for step in range(steps + 1):
        if step == 1:
            memory = PeakMemory(torch.device(device))
        start = time.perf_counter()
        prediction = unet(noisy, timesteps, text, return_dict=False)[0]
        functional.mse_loss(prediction, noise).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    parameters = sum(parameter.numel() for parameter in trained)
    return {"seconds": statistics.median(seconds[1:]), "bytes": memory.peak(), "parameters": parameters}


def random_unet(device: str):
    """The UNet of Stable Diffusion v1 with random weights, frozen."""
    import torch
    from diffusers import UNet2DConditionModel

    from sdpet.models import ARCHITECTURES, Source

    source = Source(ARCHITECTURES / "v1", ARCHITECTURES / "v1")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(source.config("unet"))
    unet.to_empty(device=device).requires_grad_(False)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(0.5)
    return unet


def measured(arguments: argparse.Namespace, method: str, checkpointing: bool) -> dict[str, float]:
    """`step_cost` in a process of its own."""
    command = [sys.executable, __file__, "--one", method, *(["--checkpointing"] if checkpointing else [])]
    for name in ("latents", "batch", "steps", "device"):
        command += [f"--{name}", str(getattr(arguments, name))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path[1:]])}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=32, help="side of the square latents; 64 are 512 pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="steps measured in each process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        options = (arguments.latents, arguments.batch, arguments.steps, arguments.device)
        print(json.dumps(step_cost(arguments.one, arguments.checkpointing, *options)))
        return
    found: dict[tuple[str, bool], list[dict[str, float]]] = {(m, c): [] for c in (False, True) for m in METHODS}
    for number in range(arguments.rounds):
        for (method, checkpointing), results in found.items():
            print(f"round {number + 1} of {arguments.rounds}: {method}", file=sys.stderr)
            results.append(measured(arguments, method, checkpointing))
    print(f"{'':<9} {'checkpointing':>13} {'parameters':>12} {'s a step':>9} {'peak GB':>8}")
    middle = {key: {n: statistics.median(r[n] for r in results) for n in results[0]} for key, results in found.items()}
    for (method, checkpointing), cost in middle.items():
        row = f"{cost['parameters']:>12,.0f} {cost['seconds']:>9.2f} {cost['bytes'] / 1e9:>8.2f}"
        print(f"{method:<9} {'yes' if checkpointing else 'no':>13} {row}")
    ratios = {}
    for checkpointing, end in ((False, ""), (True, "_checkpointing")):
        ours, theirs = middle["adapters", checkpointing], middle["full", checkpointing]
        ratios[f"time_ratio{end}"] = round(ours["seconds"] / theirs["seconds"], 3)
        ratios[f"memory_ratio{end}"] = round(ours["bytes"] / theirs["bytes"], 3)
    said = {name: getattr(arguments, name) for name in ("latents", "batch", "device", "rounds", "steps")}
    print(json.dumps(ratios | said | {"costs": [[*key, cost] for key, cost in middle.items()]}))


if __name__ == "__main__":
    main()
