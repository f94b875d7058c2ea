"""A worker process of a study: `python -m sdpet.study.worker_process FD`, started by sdpet.study.launcher.

Reads one order a line from standard input (configs to train as a fleet, to find the best size of a fleet of, or to load
what they need) and writes one JSON line an event to the file descriptor FD.
The end of its input means that no more is to be done or that the parent died: an unfinished run is then left to others.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from sdpet.study.launcher import share
from sdpet.study.signals import exit_on_sigterm

if TYPE_CHECKING:
    from sdpet.runs.setup import Stage


def main(descriptor: int) -> None:
    exit_on_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = open(descriptor, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (open as long as the process)
    orders: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(orders,), daemon=True).start()

    from sdpet.runs.setup import Stage

    stage = Stage()
    while (line := orders.get()) is not None:
        try:
            _obey(json.loads(line), stage, reports)
        except OSError as error:  # a full disk, a lost mount: the other runs would end so too
            what = [error.errno, error.strerror, error.filename]
            reports.write(json.dumps({"event": "stop", "error": what}) + "\n")
            return
        orders.task_done()


def _obey(order: dict[str, Any], stage: Stage, reports: Any) -> None:
    from sdpet.runs.start import prepare, run_together
    from sdpet.study.fleet_size import size_for

    configs = order["configs"]

    def tell(**event: Any) -> None:
        reports.write(json.dumps(event) + "\n")

    if order["order"] == "prepare":
        prepare(configs[0], stage)
    elif order["order"] == "size":
        size = size_for(configs, stage, order["sharers"], lambda size: tell(event="trying", size=size))
        tell(event="size", size=size)
    else:
        records = run_together(configs, stage, _watch(reports))
        tell(event="done", claimed=[i for i, record in enumerate(records) if record is None])


def _read(orders: queue.Queue[str | None]) -> None:
    for line in sys.stdin:
        orders.put(line)
    if orders.unfinished_tasks:
        os._exit(1)  # the parent died in the middle of a run
    orders.put(None)


def _watch(reports: Any) -> Any:
    last = [0.0]

    def watch(phase: str, done: int, total: int, loss: float = 0.0) -> None:
        if time.monotonic() - last[0] > 0.5:
            last[0] = time.monotonic()
            reports.write(json.dumps({"event": "share", "share": share(phase, done, total)}) + "\n")

    return watch


if __name__ == "__main__":
    main(int(sys.argv[1]))
