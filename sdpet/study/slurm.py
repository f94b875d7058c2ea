"""Support Slurm clusters without accounting, where submitit, which asks sacct, would wait forever for a dead job."""

from __future__ import annotations

import getpass
import subprocess
from typing import Any


def watch_jobs() -> None:
    """Let submitit ask squeue for job states on clusters where sacct has none."""
    try:
        from submitit.slurm.slurm import SlurmJob
    except ImportError:
        return
    if not _has_accounting():
        SlurmJob.watcher = _queue_watcher()


def _has_accounting() -> bool:
    try:
        return subprocess.run(["sacct", "--noheader"], capture_output=True).returncode == 0
    except OSError:
        return False


def _queue_watcher() -> Any:
    from submitit.slurm.slurm import SlurmInfoWatcher

    class QueueWatcher(SlurmInfoWatcher):
        """Reads job states from squeue. Slurm lists an ended job for a while; a job that is not listed has ended."""

        def _make_command(self) -> list[str] | None:
            if not self._registered - self._finished:
                return None
            user = f"--user={getpass.getuser()}"
            return ["squeue", "--noheader", "--array", "--states=all", user, "--format=%i|%T|%N"]

        def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
            listed = string if isinstance(string, str) else string.decode()
            found = super().read_info(f"JobID|State|NodeList\n{listed}")
            gone = self._registered - self._finished - found.keys()
            return found | {job: {"JobID": job, "State": "GONE"} for job in gone}

    return QueueWatcher(delay_s=60)
