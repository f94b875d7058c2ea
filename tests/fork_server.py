"""A process that has imported what a run needs, and forks a process that runs a script on request.

Writes its process id when it is ready. Then reads JSON lines: {"script", "arguments", "cwd", "environment", "stdout",
"stderr"}, which is answered with the process id of the child; and a process id, which is answered, once that child has
ended, with its exit status (negative: the signal). `forked.py` asks it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import sys
from pathlib import Path

import hydra  # noqa: F401
import torch

from sdpet.runs.libraries import import_libraries, quick_imports, silence_libraries


def run(script: str, arguments: list[str], cwd: str, environment: dict[str, str], stdout: str, stderr: str) -> int:
    """Run a script in this process as `python SCRIPT ARGUMENTS` does; the exit status."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in ((1, stdout), (2, stderr)):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    given = [Path(place) for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:0] = [str(Path(script).parent), *map(str, given)]
    sys.argv = [script, *arguments]
    status: object = 0
    try:
        for customize in (place / "sitecustomize.py" for place in given):  # as a new interpreter does
            if customize.is_file():
                runpy.run_path(str(customize))
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    return status


def main() -> None:
    silence_libraries()
    import_libraries()
    with quick_imports():
        import open_clip  # noqa: F401
    torch.set_num_threads(1)
    gc.freeze()
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
            continue
        if (pid := os.fork()) == 0:
            status = run(**asked)
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # to free all that was imported would take seconds
        print(pid, flush=True)


if __name__ == "__main__":
    main()
