"""The resumable training loop of all stages of the lab."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from sdpet.files.plain_json import to_json


def log(work: Path, stage: str, **figures: object) -> None:
    """Append measured figures to WORK/figures.jsonl and print them.

    Parameters
    ----------
    work : Path
        Folder of the file.
    stage : str
        Name of the stage.
    **figures : object
        The figures by name.
    """
    with open(work / "figures.jsonl", "a") as file:
        file.write(to_json({"stage": stage, **figures}) + "\n")
    print(stage, " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items()))


def save(path: Path, state: object) -> None:
    """Write with torch.save, atomically.

    Parameters
    ----------
    path : Path
        The file.
    state : object
        What is saved.
    """
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def fit(
    stage: str,
    modules: nn.Module,
    loss: Callable[[int], torch.Tensor],
    *,
    work: Path,
    steps: int,
    lr: float,
    warmup: int = 100,
    weight_decay: float = 0.01,
    ema_decay: float | None = None,
    every: int = 500,
) -> nn.Module:
    """Minimise loss(step) with AdamW, warm-up and cosine decay. Resume if WORK/stage.pt exists.

    Under torch.distributed each process computes its own loss(step), and gradients are averaged.

    Parameters
    ----------
    stage : str
        Name of the stage and of its checkpoint.
    modules : Module
        What is trained.
    loss : callable
        loss(step) gives a scalar. It must derive its batch from the step alone, so that a resumed stage sees the same
        data.
    work : Path
        Folder of checkpoints and figures.
    steps, warmup : int
        Numbers of steps.
    lr, weight_decay : float
        As in AdamW; lr is the highest value.
    ema_decay : float, optional
        Decay of a running average of the weights, which the modules hold at the end.
    every : int
        Steps between checkpoints.

    Returns
    -------
    Module
        `modules`, trained.
    """
    path = work / f"{stage}.pt"
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99), fused=True)
    average = [p.detach().clone() for p in parameters] if ema_decay else []
    start, main, previous = 0, not dist.is_initialized() or dist.get_rank() == 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        average, start, previous = state["average"], state["step"], state["seconds"]
    begin, smooth = time.monotonic(), float("nan")
    bar = tqdm(
        range(start, steps), initial=start, total=steps, desc=stage, disable=None if main else True, mininterval=5
    )
    for step in bar:
        for group in optimizer.param_groups:
            ramp = min(1.0, (step + 1) / warmup)
            group["lr"] = lr * ramp * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        if dist.is_initialized():
            _average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if ema_decay:
            keep = min(ema_decay, (step + 1) / (step + 10))
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - keep)
        if step % 50 == 0 and main:
            smooth = value.item()
            bar.set_postfix(loss=f"{smooth:.4f}")
        if main and ((step + 1) % every == 0 or step + 1 == steps):
            seconds = previous + time.monotonic() - begin
            save(
                path,
                {
                    "modules": modules.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                    "step": step + 1,
                    "seconds": seconds,
                },
            )
            log(work, stage, step=step + 1, loss=value.item(), seconds=round(seconds))
    if ema_decay:
        with torch.no_grad():
            for p, a in zip(parameters, average, strict=True):
                p.copy_(a)
    return modules


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """One all-reduce over all gradients, which is faster than one for each of a few hundred tensors."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    offset = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = flat[offset : offset + gradient.numel()].view_as(parameter)
        offset += gradient.numel()
