"""Runs of train.py and evaluate.py in processes that are forked from a warm one, which saves their imports."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

SERVER = Path(__file__).parent / "fork_server.py"


class ForkServer:
    """Starts scripts, each in a process of its own (fork_server.py)."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()  # it is ready

    def start(
        self, command: list[str], environment: dict[str, str], cwd: Path | None, stdout: Path, stderr: Path
    ) -> int:
        """Start `SCRIPT ARGUMENTS`; returns its process id."""
        script, *arguments = command
        request = {"script": script, "arguments": arguments, "environment": environment, "cwd": str(cwd or Path.cwd())}
        return self._ask({**request, "stdout": str(stdout), "stderr": str(stderr)})

    def wait(self, pid: int) -> int:
        """The exit status of what was started; negative: the signal that ended it."""
        return self._ask(pid)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: object) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@cache
def shared_server() -> ForkServer:
    """The one of this test process, started when it is first asked."""
    from study_tools import environment

    server = ForkServer(environment())
    atexit.register(server.close)
    return server


def run_forked(
    command: list[str], environment: dict[str, str], cwd: Path | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` with its output captured as text."""
    server = shared_server()
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "stdout", Path(folder) / "stderr"
        out.touch()
        err.touch()
        pid = server.start(command, environment, cwd, out, err)
        late = threading.Event()

        def kill() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

        timer = threading.Timer(timeout, kill)
        timer.start()
        try:
            status = server.wait(pid)
        finally:
            timer.cancel()
        said = out.read_text(), err.read_text()
    if late.is_set():
        raise subprocess.TimeoutExpired(command, timeout, *said)
    return subprocess.CompletedProcess(command, status, *said)
