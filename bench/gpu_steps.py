"""What a training step costs on a device: fleets, compiled models, adapters against full fine-tuning (bench/gpu.py)."""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from workload import NoiseTask, fleet_designs, fleet_step, v1_base

from sdpet.methods import Design, build
from sdpet.models import BaseModel
from sdpet.training import PeakMemory

Row = dict[str, Any]
GIB = 2**30


@dataclass(frozen=True)
class Size:
    """Where and at which size a part measures: v1's widths at 512 px, or a tenth of them at 64 px (tiny)."""

    device: str
    tiny: bool

    @property
    def side(self) -> int:
        """Of the latents."""
        return 8 if self.tiny else 64

    @property
    def params(self) -> int:
        """Of each design's adapters."""
        return 20_000 if self.tiny else 1_500_000

    @property
    def mixed(self) -> tuple[torch.dtype, str]:
        """(dtype of the frozen weights, precision): bfloat16 on a CUDA device."""
        return (torch.bfloat16, "bf16-mixed") if self.device == "cuda" else (torch.float32, "32-true")

    def base(self, dtype: torch.dtype | None = None) -> BaseModel:
        """The UNet."""
        return v1_base(self.side, self.device, dtype or self.mixed[0], self.tiny)

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def peak_flops(size: Size, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the product of two square matrices, best of some: the practical ceiling."""
    side = 256 if size.tiny else 8192
    a, b = (torch.randn(side, side, device=size.device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(3 if size.tiny else 10):
        size.wait()
        start = time.perf_counter()
        for _ in range(5):
            a @ b
        size.wait()
        best = max(best, 5 * 2 * side**3 / (time.perf_counter() - start))
    return best


def fleet(size: Size) -> Iterator[Row]:
    """Fleets of 1 to 32 designs, one image each; then with gradient checkpointing where memory did not suffice."""
    dtype, precision = size.mixed
    base, ceiling = size.base(), peak_flops(size, dtype)
    task = NoiseTask(base, 1)
    forward, both = step_flops(base, task)
    yield {"forward_tflop": forward / 1e12, "forward_and_backward_tflop": both / 1e12, "peak_tflops": ceiling / 1e12}
    fleet_step(base, task, 1, 2, size.params, precision)  # libraries load what they need on first use
    checkpointing = False
    for members in (1, 2) if size.tiny else (1, 2, 4, 8, 16, 32):
        row: Row = {"K": members, "checkpointing": checkpointing}
        try:
            found = _fleet_row(base, task, members, size, checkpointing)
        except torch.OutOfMemoryError:
            yield row | {"failed": "out of memory"}
            torch.cuda.empty_cache()
            if checkpointing:
                return
            checkpointing = True
            row["checkpointing"] = True
            found = _fleet_row(base, task, members, size, True)
        rate = both / found["seconds"]
        yield row | found | {"tflops": rate / 1e12, "share_of_peak": rate / ceiling}


def _fleet_row(base: BaseModel, task: Any, members: int, size: Size, checkpointing: bool) -> Row:
    """Seconds per design and step: the lower of two medians; the first also fills caches."""
    options = {"grad_checkpointing": checkpointing}
    found = [fleet_step(base, task, members, 6, size.params, size.mixed[1], **options) for _ in range(2)]
    return {"seconds": min(seconds for seconds, _ in found), "peak_gib": found[-1][1] / GIB}


def step_flops(base: BaseModel, task: Any) -> tuple[float, float]:
    """Operations of one image's forward pass, and of forward and backward pass to the input without any for weights,
    which is what an adapter that reads where the UNet begins asks for (less for one that reads later)."""
    from torch.utils.flop_counter import FlopCounterMode

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


def compiled(size: Size) -> Iterator[Row]:
    """One design's step: eager, compiled, and compiled with CUDA graphs."""
    base = size.base()
    task = NoiseTask(base, 1)
    ways: list[tuple[str, Row | None]] = [("eager", None)]
    # On the CPU compiling takes minutes, so that --tiny only traces the graph.
    ways += [("compile", {} if size.device == "cuda" else {"backend": "eager"})]
    ways += [("graphs", {"mode": "reduce-overhead"})]
    for way, options in ways:
        if way == "graphs" and size.device == "cpu":
            yield {"way": way, "not_measured": "needs a CUDA device"}
            continue
        handle = build(base, fleet_designs(base, 1, size.params)[0][0], 0)
        torch.compiler.reset()
        if options is not None:
            base.unet.compile(**options)
        try:
            yield {"way": way, **(options or {}), **step_times(base, task, handle, size, 10)}
        except Exception as error:  # the other ways may still work
            yield {"way": way, "failed": f"{type(error).__name__}: {error}"[:300]}
        finally:
            base.unet._compiled_call_impl = None
            handle.detach()


def step_times(base: BaseModel, task: Any, handle: Any, size: Size, steps: int, optimizer: Any = None) -> Row:
    """Median seconds of forward pass, backward pass, optimiser and the whole step, and the peak of memory."""
    handle_parameters = list(handle.parameters())
    optimizer = (optimizer or _fused)(handle_parameters)
    batch = task.batch(0, 0)
    took: list[tuple[float, ...]] = []
    first = 0.0
    memory = PeakMemory(base.device)
    for step in range(steps + 3):
        if step == 3:
            memory = PeakMemory(base.device)
        torch.compiler.cudagraph_mark_step_begin()
        times = [now(size)]
        with torch.autocast(size.device, torch.bfloat16, enabled=size.device == "cuda"):
            prediction = base.predict(batch.noisy, batch.timesteps, batch.text)
            loss = task.loss(prediction, batch)
        times.append(now(size))
        loss.backward()
        times.append(now(size))
        optimizer.step()
        optimizer.zero_grad()
        times.append(now(size))
        first = first or times[-1] - times[0]
        took.append((*(b - a for a, b in itertools.pairwise(times)), times[-1] - times[0]))
    names = ("forward", "backward", "optimizer", "step")
    middle = {name: statistics.median(values) for name, values in zip(names, zip(*took[3:], strict=True), strict=True)}
    return middle | {"first_step": first, "peak_gib": memory.peak() / GIB}


def now(size: Size) -> float:
    size.wait()
    return time.perf_counter()


def _fused(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-6, fused=True)


def _eight_bit(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(parameters, lr=1e-6)


def full(size: Size) -> Iterator[Row]:
    """An adapter against full fine-tuning, with AdamW fused and in 8 bits; bf16-mixed."""
    for method, dtype, optimizer in (
        ("adapter", size.mixed[0], _fused),
        ("adapter", torch.float32, _fused),
        ("full", torch.float32, _fused),
        ("full", torch.float32, _eight_bit),
    ):
        row = {
            "method": method,
            "weights_in": str(dtype).removeprefix("torch."),
            "adamw": optimizer.__name__.strip("_"),
        }
        if optimizer is _eight_bit and (size.device == "cpu" or importlib.util.find_spec("bitsandbytes") is None):
            yield row | {"not_measured": "needs a CUDA device and the package bitsandbytes"}
            continue
        base = size.base(dtype)
        design = fleet_designs(base, 1, size.params)[0][0] if method == "adapter" else Design("full")
        handle = build(base, design, 0)
        yield (
            row
            | {"parameters": handle.num_parameters()}
            | step_times(base, NoiseTask(base, 1), handle, size, 3 if size.tiny else 10, optimizer)
        )
        del base, handle
        if size.device == "cuda":
            torch.cuda.empty_cache()
