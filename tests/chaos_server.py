"""A process that has imported all that a run needs and forks a `train.py` on request: kills by the dozen in seconds.

Reads one JSON line a command, {"arguments": [...], "log": FILE}, and answers with the child's process id, and, when it
has ended, its exit status (negative: the signal).
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import diffusers  # noqa: F401
import torch
import transformers  # noqa: F401
from lightning.pytorch import Trainer  # noqa: F401

from sdpet.models import load_base  # noqa: F401

TRAIN = str(Path(__file__).parent.parent / "train.py")


def child(arguments: list[str], log: str) -> None:
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.setsid()
    sys.argv = [TRAIN, *arguments]
    status = 1
    try:
        runpy.run_path(TRAIN, run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        os._exit(status)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        command = json.loads(line)
        if (pid := os.fork()) == 0:
            child(**command)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
