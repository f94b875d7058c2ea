"""How many runs to train together: measured once per kind of run, not guessed.

A measurement trains fleets of 1, 2, 4, ... of the study's own designs for a few steps and notes seconds and peak memory
of each. It is kept in <output_root>/.fleets, by what is trained (`fleet_key`) and on which machine; the memory that is
free is looked at anew every time.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import RunConfig, fleet_key
from sdpet.files.atomic import write_atomic
from sdpet.runs.libraries import quiet_libraries, torch_threads

if TYPE_CHECKING:
    from sdpet.runs.setup import Resources

MOST = 64  # members of a fleet: the gain has long levelled off
FEW = 4  # so few runs are trained together without measuring
STEPS = 3  # of each fleet that is measured, of which the median counts
WORTH = 4000  # run-steps of a study from which measuring, about 200 of them, pays
UNMEASURED = 16
GAIN = 0.97  # a larger fleet is worth it when it takes less than this share of the time of a smaller one
SHARE = 0.8  # of the free memory may be filled


@dataclass(frozen=True)
class Measurement:
    """seconds: per design and step, and extra: bytes on top of what was in use before, of fleets by their size.

    Sizes that did not fit, by then, are not in it.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    extra: dict[int, int] = field(default_factory=dict)

    def fitting(self, free: float) -> int:
        """The largest fleet that fits into `free` bytes, at least 1: more members need as much each as the first."""
        sizes = sorted(self.extra)
        if len(sizes) < 2:
            return 1
        slope = max((self.extra[sizes[-1]] - self.extra[sizes[0]]) / (sizes[-1] - sizes[0]), 0)
        over = SHARE * free - self.extra[sizes[0]]
        if slope == 0:
            return sizes[-1] if over >= 0 else 1
        return max(1, int(sizes[0] + over / slope))

    def best(self, free: float) -> int:
        """The smallest fleet that fits and is as quick per design and step as any, but for a hair (3 %)."""
        room = self.fitting(free)
        within = {size: seconds for size, seconds in self.seconds.items() if size <= room}
        if not within:
            return 1
        least = min(within.values())
        return min(size for size, seconds in within.items() if seconds * GAIN <= least)


def worth_measuring(config: RunConfig, runs: int) -> bool:
    """Whether a study of so many runs of this kind is long enough to measure for."""
    return runs > FEW and runs * config.trainer.steps >= WORTH


def size_for(
    configs: Sequence[RunConfig],
    resources: Resources,
    sharers: int = 1,
    trying: Callable[[int], None] | None = None,
) -> int:
    """The best size of a fleet of these runs (equal `fleet_key`) with the memory that is free now."""
    key = fleet_key(configs[0])
    try:
        with quiet_libraries(), torch_threads(configs[0].trainer.threads):
            found = known(configs[0], key) or measure(configs, key, resources, sharers, trying)
            return found.best(free_memory(resources.base(configs[0]).device) / sharers)
    except Exception:  # the runs will report what is wrong
        return UNMEASURED


def known(config: RunConfig, key: str) -> Measurement | None:
    """What was measured before for this `fleet_key` on this machine, or None."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(_file(config, key).read_text(encoding="utf-8"))
        return Measurement(*({int(k): v for k, v in kept[part].items()} for part in ("seconds", "extra")))
    return None


def measure(
    configs: Sequence[RunConfig],
    key: str,
    resources: Resources,
    sharers: int = 1,
    trying: Callable[[int], None] | None = None,
) -> Measurement:
    """Train fleets of the first 1, 2, 4, ... of these configs (equal `fleet_key`), as long as they fit and larger is
    quicker, and keep what was found. sharers: processes that use the device; trying(size) is called before each.
    """
    from sdpet.runs.start import is_out_of_memory
    from sdpet.training import PeakMemory

    base = resources.base(configs[0])
    resources.task(configs[0])
    _time(configs[:1], resources)  # libraries load what they need on first use
    free, before = free_memory(base.device) / sharers, PeakMemory(base.device).peak()
    found = Measurement()
    size = 1
    # Where twice the members took no more memory than there was already, that says nothing against more of them.
    while size <= min(MOST, len(configs)) and (len(set(found.extra.values())) < 2 or size <= found.fitting(free)):
        if trying:
            trying(size)
        try:
            seconds, peak = _time(configs[:size], resources)
        except Exception as error:
            if not is_out_of_memory(error) or size == 1:
                raise
            break
        found.seconds[size], found.extra[size] = seconds, max(0, peak - before)
        if size > FEW and seconds > GAIN * found.seconds[size // 2]:
            break
        size *= 2
    file = _file(configs[0], key)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**asdict(found), "machine": platform.node()}, indent=1)
    write_atomic(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return found


def free_memory(device: Any) -> int:
    """Bytes that can still be had on a torch.device: of the GPU, or of the machine and of its control group."""
    import psutil
    import torch

    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free


def _time(configs: Sequence[RunConfig], resources: Resources) -> tuple[float, int]:
    """Seconds per design and step, and peak memory in bytes, of these runs as a fleet."""
    from sdpet.methods import build, build_fleet
    from sdpet.runs.setup import make_design, make_train_config
    from sdpet.training import Member, fit_together

    base, task = resources.base(configs[0]), resources.task(configs[0])
    designs, seeds = [make_design(config, base) for config in configs], [config.seed for config in configs]
    fleet = build_fleet(base, designs, seeds) if len(configs) > 1 else None
    handles: Sequence[Any] = fleet.members if fleet else [build(base, designs[0], seeds[0])]
    try:
        members = [
            Member(handle, seed, replace(make_train_config(config), steps=STEPS))
            for handle, seed, config in zip(handles, seeds, configs, strict=True)
        ]
        result = fit_together(base, members, task, fleet)[0]
    finally:
        for handle in handles:
            handle.detach()
        if fleet:
            fleet.detach()
    return result.seconds_per_step, result.peak_memory_bytes


def _file(config: RunConfig, key: str) -> Path:
    what = {"key": key, "machine": platform.node(), "processor": platform.processor()}
    name = hashlib.blake2b(json.dumps(what, sort_keys=True).encode(), digest_size=8).hexdigest()
    return config.output_root / ".fleets" / f"{name}.json"
