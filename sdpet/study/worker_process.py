"""A worker process of a study: `python -m sdpet.study.worker_process FD`, started by sdpet.study.worker_pool.

`python -m sdpet.study.worker_process warm FD` imports what every run needs and then forks workers on request, so that
they share one import and its memory, about 600 MB. Its descriptor is a socket. It gets, for each worker, descriptors
for its requests, its events and its end; through the last one it tells the worker's pid and, later, its exit status.

It reads requests from standard input, one JSON line each (train a fleet, measure the best fleet size, or load model and
data), and writes events to the file descriptor FD, one JSON line each. Its input ends when there is nothing left to do,
or when the parent has died; an unfinished run is then left to other processes.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from sdpet.config import RunConfig
from sdpet.runs.libraries import silence_libraries
from sdpet.study.progress import thinned
from sdpet.study.signals import exit_on_sigterm
from sdpet.study.warm import fork_on_request

if TYPE_CHECKING:
    from sdpet.runs.setup import ProgressCallback, Resources


class _NoteHandler(logging.Handler):
    """Sends what this package logs to the parent, which says each text once for all of its workers."""

    def __init__(self, events: Any) -> None:
        super().__init__()
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._events.write(json.dumps({"event": "note", "text": record.getMessage(), "level": record.levelno}) + "\n")


def main(descriptor: int) -> None:
    """Handle requests until the input ends."""
    exit_on_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_libraries()
    events = open(descriptor, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (stays open)
    logger = logging.getLogger("sdpet")
    logger.addHandler(_NoteHandler(events))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    requests: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()

    from sdpet.runs import Resources

    resources = Resources()
    while (line := requests.get()) is not None:
        try:
            _handle_request(json.loads(line), resources, events)
        except OSError as error:  # a full disk or a lost mount; other runs would fail as well
            what = [error.errno, error.strerror, error.filename]
            try:
                events.write(json.dumps({"event": "stop", "error": what}) + "\n")
            except BrokenPipeError:
                os._exit(1)  # the parent died during a run
            return
        requests.task_done()


def _handle_request(request: dict[str, Any], resources: Resources, events: Any) -> None:
    from sdpet.runs.start import load_ahead, run_together
    from sdpet.study.fleet_size import size_for

    configs = [RunConfig(values) for values in request["configs"]]

    def send(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")

    match request["request"]:
        case "load":
            load_ahead(configs[0], resources)
        case "size":
            size = size_for(configs, resources, request["sharers"], lambda size: send(event="trying", size=size))
            send(event="size", size=size)
        case _:
            records = run_together(configs, resources, _step_callback(events))
            send(event="done", claimed=[i for i, record in enumerate(records) if record is None])


def _read(requests: queue.Queue[str | None]) -> None:
    for line in sys.stdin:
        requests.put(line)
    if requests.unfinished_tasks:
        os._exit(1)  # the parent died during a run
    requests.put(None)


def _step_callback(events: Any) -> ProgressCallback:
    def send(phase: str, done: int, total: int) -> None:
        events.write(json.dumps({"event": "step", "phase": phase, "done": done, "total": total}) + "\n")

    return thinned(send, 0.5)


if __name__ == "__main__":
    if sys.argv[1] == "warm":
        if (forked := fork_on_request(int(sys.argv[2]))) is not None:
            main(forked)
    else:
        main(int(sys.argv[1]))
