"""Watch a study from a terminal or a log, until every run has ended."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TextIO

from sdpet.study.status import Status, status_text, study_status

EVERY = 2.0  # seconds between two looks at the folder
BAR = 40  # signs


def watch(folder: Path, stream: TextIO, every: float = EVERY) -> int:
    """Show the status of a study, renewed in place, until every run has ended or Ctrl-C ends it.

    Where the stream is no terminal, a line is written when a run has ended, and the whole status at the end.

    Parameters
    ----------
    folder : Path
        The study's folder.
    stream : text stream
        Where it is shown.
    every : float
        Seconds between two looks at the folder. The first one also compares the files of the runs with their digests.

    Returns
    -------
    int
        An exit status: 0 if all runs ended without failure, 1 if some failed, 130 after Ctrl-C.

    Raises
    ------
    ValueError
        The folder does not exist, or there is no study in it.
    """
    screen = _Screen(stream) if stream.isatty() else _Log(stream)
    status = study_status(folder)
    problems = status.problems
    try:
        while True:
            screen.show(status)
            if all(run in status.ended for run in status.runs):
                screen.end(status)
                return 1 if status.having("failed") else 0
            time.sleep(every)
            status = study_status(folder, check_files=False)
            status.problems = problems
    except KeyboardInterrupt:
        stream.write("\n")
        return 130


def bar(status: Status) -> str:
    """The share of runs that have ended, as a bar of signs."""
    runs = status.runs
    share = sum(run in status.ended for run in runs) / len(runs) if runs else 0.0
    full = int(share * BAR)
    return f"  [{'#' * full}{'.' * (BAR - full)}] {share:.0%}   {time.strftime('%H:%M:%S')}   Ctrl-C ends the watch"


class _Screen:
    """A terminal, whose last lines are written again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lines = stream, 0

    def show(self, status: Status) -> None:
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for line in (*status_text(status).splitlines(), bar(status))]
        lines = lines[: max(2, size.lines - 1)]
        up = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        self._stream.write(up + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._lines = len(lines)

    def end(self, status: Status) -> None:
        """What is shown stays."""


class _Log:
    """A file or a pipe, which gets a line when a run has ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._ended = stream, -1

    def show(self, status: Status) -> None:
        if len(status.ended) != self._ended:
            self._ended = len(status.ended)
            self._stream.write(status_text(status).splitlines()[0] + "\n")
            self._stream.flush()

    def end(self, status: Status) -> None:
        self._stream.write("\n".join(status_text(status).splitlines()[1:]) + "\n")
