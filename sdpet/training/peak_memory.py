"""Measure peak memory."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory since this object was created: allocated on a GPU, or resident in the process on the CPU.

    Parameters
    ----------
    device : torch.device
        The device to measure.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # Linux: reset the high-water mark
                Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Peak memory in bytes; since the start of the process if the system cannot reset its high-water mark."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
