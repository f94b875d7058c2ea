"""Find the best number of runs to train together, by measuring.

A measurement trains fleets of 1, 2, 4, ... of the study's designs for a few steps and stores the time and the peak
memory of each. It is stored in <output_root>/.fleets for each `fleet_key` and machine. The free memory is read again at
each use.
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
from sdpet.files.digests import read_signed, signed
from sdpet.models.memory_limit import free_memory
from sdpet.runs.libraries import quiet_libraries, torch_threads

if TYPE_CHECKING:
    from sdpet.runs.setup import Resources

MOST = 64  # largest fleet that is tried; larger ones gain nothing
FEW = 4  # up to this many runs are trained together without measuring
STEPS = 3  # steps for which each fleet is trained; their median is used
WORTH = 4000  # a study of at least this many run-steps is measured; measuring costs about 200 of them
UNMEASURED = 16  # size of a fleet if measuring fails
GAIN = 0.97  # a larger fleet must take less than this share of the time of a smaller one
SHARE = 0.8  # largest share of the free memory that a fleet may use


@dataclass(frozen=True)
class Measurement:
    """Time and memory of fleets, by their size; sizes that did not fit into memory are missing.

    Attributes
    ----------
    seconds : dict of int to float
        Seconds for each design and step.
    extra : dict of int to int
        Bytes in addition to the memory in use before.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    extra: dict[int, int] = field(default_factory=dict)

    def fitting(self, free: float) -> int:
        """The largest fleet that fits into `free` bytes, at least 1, if memory grows linearly with the members."""
        sizes = sorted(self.extra)
        if len(sizes) < 2:
            return 1
        slope = max((self.extra[sizes[-1]] - self.extra[sizes[0]]) / (sizes[-1] - sizes[0]), 0)
        over = SHARE * free - self.extra[sizes[0]]
        if slope == 0:
            return sizes[-1] if over >= 0 else 1
        return max(1, int(sizes[0] + over / slope))

    def best(self, free: float) -> int:
        """The smallest fleet that fits into `free` bytes and is at most 3 % slower per design than the fastest one."""
        room = self.fitting(free)
        within = {size: seconds for size, seconds in self.seconds.items() if size <= room}
        if not within:
            return 1
        least = min(within.values())
        return min(size for size, seconds in within.items() if seconds * GAIN <= least)


def worth_measuring(config: RunConfig, runs: int) -> bool:
    """Whether a study with this number of runs like `config` is long enough to measure the best size for.

    Compiled models are not measured, since each size would be compiled.
    """
    return not config.trainer.compile and runs > FEW and runs * config.trainer.steps >= WORTH


def size_for(
    configs: Sequence[RunConfig],
    resources: Resources,
    sharers: int = 1,
    trying: Callable[[int], None] | None = None,
) -> int:
    """The best size of a fleet of these runs with the memory that is free now.

    Parameters
    ----------
    configs, resources, sharers, trying
        See `measure`; a stored measurement is used if there is one.

    Returns
    -------
    int
        Number of runs; 16 if measuring fails.
    """
    key = fleet_key(configs[0])
    try:
        with quiet_libraries(), torch_threads(configs[0].trainer.threads):
            found = known(configs[0], key) or measure(configs, key, resources, sharers, trying)
            return found.best(free_memory(resources.base(configs[0]).device) / sharers)
    except Exception:  # the runs will report the error
        return UNMEASURED


def known(config: RunConfig, key: str) -> Measurement | None:
    """The stored measurement for this `fleet_key` and machine, or None."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stored = read_signed(_file(config, key), _made_from(key)) or {}
        return Measurement(*({int(k): v for k, v in stored[part].items()} for part in ("seconds", "extra")))
    return None


def measure(
    configs: Sequence[RunConfig],
    key: str,
    resources: Resources,
    sharers: int = 1,
    trying: Callable[[int], None] | None = None,
) -> Measurement:
    """Train fleets of 1, 2, 4, ... runs as long as they fit into memory and are faster, and store the measurement.

    Parameters
    ----------
    configs : sequence of RunConfig
        Runs with equal `fleet_key`; the first ones are trained.
    key : str
        Their `fleet_key`.
    resources : Resources
        Makes model and task.
    sharers : int
        Number of processes that use the device.
    trying : callable, optional
        Called as ``trying(size)`` before each fleet.

    Returns
    -------
    Measurement
        Time and memory by the size of the fleet.
    """
    from sdpet.runs.start import is_out_of_memory
    from sdpet.training import PeakMemory

    base = resources.base(configs[0])
    resources.task(configs[0])
    _time(configs[:1], resources)  # warm-up: libraries load code on first use
    free, before = free_memory(base.device) / sharers, PeakMemory(base.device).peak()
    found = Measurement()
    size = 1
    # While the peak does not grow with the size, the memory of larger fleets cannot be predicted, so they are tried.
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
    text = json.dumps(signed({**asdict(found), "key": _made_from(key)}), indent=1)
    write_atomic(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return found


def _time(configs: Sequence[RunConfig], resources: Resources) -> tuple[float, int]:
    """Train these runs as a fleet; returns seconds per design and step, and peak memory in bytes."""
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


def _made_from(key: str) -> dict[str, str]:
    return {"key": key, "machine": platform.node(), "processor": platform.processor()}


def _file(config: RunConfig, key: str) -> Path:
    name = hashlib.blake2b(json.dumps(_made_from(key), sort_keys=True).encode(), digest_size=8).hexdigest()
    return config.output_root / ".fleets" / f"{name}.json"
