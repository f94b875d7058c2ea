"""Worker processes of a study, and their devices."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdpet.config import RunConfig
from sdpet.study.plan import Job
from sdpet.study.warm import ForkedProcess, WarmParent, start_process


def usable_cores() -> int:
    """The number of cores this process may use, limited by its affinity and the quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores


def local_gpus() -> list[str]:
    """Names of the GPUs that this process may use, in the form of CUDA_VISIBLE_DEVICES."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def require_device(config: RunConfig) -> None:
    """Raise ValueError if the config needs a GPU and this machine has none."""
    device = config.trainer.device
    if device.startswith("cuda") and not local_gpus():
        raise ValueError(f"trainer.device is {device}, but this machine has no usable CUDA device; choose trainer=cpu.")


def gpus_for(jobs: Sequence[Job]) -> list[str]:
    """The GPUs to distribute these jobs over: all of this machine if trainer.device is cuda without a number."""
    return local_gpus() if any(job.config.trainer.device == "cuda" for job in jobs) else []


def how_many(wanted: int | str, gpus: Sequence[str]) -> int:
    """The number of processes for hydra.launcher.workers; "auto" is one per GPU or, without GPUs, per usable core."""
    count = (len(gpus) or usable_cores()) if wanted == "auto" else wanted
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"hydra.launcher.workers must be auto or a whole number of at least 1, not {wanted!r}.")
    return count


class Worker:
    """A process that trains fleets one after another. It receives requests and sends events, as JSON lines.

    It exits when its input ends. So it also exits if this process is killed.

    Parameters
    ----------
    gpu : str, optional
        The only GPU that the process sees.
    parent : WarmParent, optional
        Forks the process. Without it, or if it has died, the process is started anew.
    """

    def __init__(self, gpu: str | None = None, parent: WarmParent | None = None) -> None:
        device = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        read_end, write_end = os.pipe()
        forked = parent and parent.fork(write_end)
        self.process: subprocess.Popen[bytes] | ForkedProcess = forked or start_process(
            write_end, stdin=subprocess.PIPE, device=device
        )
        os.close(write_end)
        self.gpu = gpu
        self.events = read_end
        self._partial = b""
        self.fleet: list[Job] = []
        self.measuring: str | None = None  # the `fleet_key` of the runs whose best fleet size it measures
        self.trying = 1  # the size it is measuring
        self.loaded = False

    def read(self) -> list[dict[str, Any]] | None:
        """Events since the last call; None if the process has died."""
        content = os.read(self.events, 1 << 16)
        *lines, self._partial = (self._partial + content).split(b"\n")
        return [json.loads(line) for line in lines] if content else None

    @property
    def busy(self) -> bool:
        """Whether the worker is training or measuring."""
        return bool(self.fleet) or self.measuring is not None

    def request_training(self, fleet: list[Job]) -> None:
        """Request to train a fleet."""
        self.fleet = fleet
        self._request("train", fleet)

    def request_size(self, key: str, jobs: Sequence[Job], sharers: int) -> None:
        """Request to measure the best fleet size of runs with this `fleet_key`; `sharers` processes use the device."""
        self.measuring, self.trying = key, 1
        self._request("size", jobs[:64], sharers=sharers)

    def request_loading(self, job: Job) -> None:
        """Request to load model and data of this job, once, while the worker is idle."""
        if not self.loaded:
            self._request("load", [job])
        self.loaded = True

    def _request(self, kind: str, jobs: Sequence[Job], **more: Any) -> None:
        assert self.process.stdin is not None
        self.loaded = True
        request = {"request": kind, "configs": [dict(job.config.values) for job in jobs], **more}
        with suppress(BrokenPipeError):  # the end of its events shows that a worker has died
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def request_stop(self) -> None:
        """Stop the worker: by SIGTERM if it is busy, so that it removes its run; by closing its input if it is idle."""
        assert self.process.stdin is not None
        if self.busy:
            self.process.terminate()
        else:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def wait(self, patience: float = 10.0) -> None:
        """Wait for the process to exit; kill it after `patience` seconds."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.events)
