"""Whether a CUDA device trains the same adapters as the CPU, alone and in a fleet; also used by tests/gpu."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from workload import NoiseTask, fleet_designs

from sdpet.methods import build, build_fleet
from sdpet.models import BaseModel, load_base
from sdpet.training import Member, Rank, TrainConfig, fit_together

STEPS, LR, PARAMS = 3, 1e-3, 24_000
TOLERANCE = 1e-4  # of losses and weights in float32
Trained = tuple[torch.Tensor, torch.Tensor]  # losses (steps,) and all weights of a run (n,), on the CPU in float64


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Turn TF32 off for matrix products and convolutions inside the block."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def lab(device: str, dtype: str = "float32") -> tuple[BaseModel, NoiseTask]:
    """The lab's model on a device, and batches of two images that do not depend on the device."""
    base = load_base("lab", device=device, dtype=dtype)
    return base, NoiseTask(base, 2, base.tokenizer.model_max_length)


def alone(base: BaseModel, task: Any, number: int, rank: Rank | None = None, **options: Any) -> Trained:
    """Train the design of one placement (`number` counts the placements) for a few steps."""
    designs, seeds = fleet_designs(base, number + 1, PARAMS)
    handle = build(base, designs[number], seeds[number])
    try:
        config = TrainConfig(STEPS, LR, **options)
        result = fit_together(base, [Member(handle, seeds[number], config)], task, rank=rank)[0]
        return _trained(result.loss, handle.parameters())
    finally:
        handle.detach()


def together(base: BaseModel, task: Any, size: int, **options: Any) -> list[Trained]:
    """Train the designs of the first `size` placements as one fleet."""
    designs, seeds = fleet_designs(base, size, PARAMS)
    fleet = build_fleet(base, designs, seeds)
    try:
        config = TrainConfig(STEPS, LR, **options)
        members = [Member(handle, seed, config) for handle, seed in zip(fleet.members, seeds, strict=True)]
        results = fit_together(base, members, task, fleet)
        return [_trained(r.loss, h.parameters()) for r, h in zip(results, fleet.members, strict=True)]
    finally:
        fleet.detach()


def difference(ours: Trained, theirs: Trained) -> tuple[float, float]:
    """Norms of the differences of losses and of weights, relative to the norms.

    Norms, not single weights: where a gradient is next to nothing, Adam makes a step of full size of its rounding.
    """
    loss, weights = (float((a - b).norm() / b.norm()) for a, b in zip(ours, theirs, strict=True))
    return loss, weights


def one_process(device: str) -> tuple[str, Rank]:
    """(backend of torch.distributed, rank) of a group of this process alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return ("nccl" if device == "cuda" else "gloo"), Rank(0, 0, 1, 1, "127.0.0.1", port)


def _trained(loss: Sequence[float], parameters: Any) -> Trained:
    weights = torch.cat([parameter.detach().double().cpu().flatten() for parameter in parameters])
    return torch.tensor(loss, dtype=torch.float64), weights
