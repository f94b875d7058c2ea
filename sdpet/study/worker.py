"""A worker process of a study: `python -m sdpet.study.worker FD`, started by sdpet.study.launch.

Reads the configs of one fleet a line from standard input and writes one JSON line an event to the file descriptor FD.
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
from typing import Any

from sdpet.study.launch import share
from sdpet.study.stopping import exit_on_sigterm


def main(descriptor: int) -> None:
    exit_on_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reports = open(descriptor, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (open as long as the process)
    configs: queue.Queue[str | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_read, args=(configs, busy), daemon=True).start()

    from sdpet.run import run_together
    from sdpet.stage import Stage

    stage = Stage()
    while (line := configs.get()) is not None:
        try:
            records = run_together(json.loads(line), stage, _watch(reports))
        except OSError as error:  # a full disk, a lost mount: the other runs would end so too
            what = [error.errno, error.strerror, error.filename]
            reports.write(json.dumps({"event": "stop", "error": what}) + "\n")
            return
        busy.clear()
        claimed = [i for i, record in enumerate(records) if record is None]
        reports.write(json.dumps({"event": "done", "claimed": claimed}) + "\n")


def _read(configs: queue.Queue[str | None], busy: threading.Event) -> None:
    for line in sys.stdin:
        busy.set()
        configs.put(line)
    if busy.is_set():
        os._exit(1)  # the parent died in the middle of a run
    configs.put(None)


def _watch(reports: Any) -> Any:
    last = [0.0]

    def watch(phase: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 0.5:
            last[0] = time.monotonic()
            reports.write(json.dumps({"event": "share", "share": share(phase, done, total)}) + "\n")

    return watch


if __name__ == "__main__":
    main(int(sys.argv[1]))
