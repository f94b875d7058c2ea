"""How a run ended, in the words of any tool."""

from __future__ import annotations

import re

import pandas as pd

FINISHED = "finished"
_FINISHED = frozenset("finished finish completed complete done success successful succeeded ok passed ended".split())
_NOT = frozenset(
    """
    diverged failed fail failure error errored crashed crash killed aborted canceled cancelled interrupted stopped
    preempted preempting timeout timedout oom outofmemory nodefail bootfail deadline revoked pruned nan
    running run started starting initializing pending queued waiting scheduled submitted active inprogress unfinished
    incomplete requeued suspended resuming paused unknown skipped
    """.split()
)
_COLUMNS = ("status", "state", "run_status", "run_state", "sys/state", "job_status", "job_state", "outcome_status")


def with_status(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the column `status` in sdpet's words: "finished", or how else a run ended, in small letters.

    It is made from the first column called status or state (in any case) most of whose values say how a run ended;
    where there is none, a column called status stays as it is, and `has_status` is false.
    """
    for column in frame.columns:
        if ends_runs(frame, str(column)):
            status = frame[column].map(_plain).map(lambda word: FINISHED if word in _FINISHED else word)
            if column != "status" and "status" in frame:  # a factor of that name stays what it is
                continue
            return frame.assign(status=status)
    return frame


def has_status(frame: pd.DataFrame) -> bool:
    """Whether the column status tells how runs ended."""
    return "status" in frame and is_status(frame["status"])


def ends_runs(frame: pd.DataFrame, column: str) -> bool:
    """Whether a column is one from which `with_status` tells how runs ended."""
    return column.lower() in _COLUMNS and is_status(frame[column])


def is_status(column: pd.Series) -> bool:
    """Whether most values of a column are words for how a run ended."""
    known = column.dropna()
    if not len(known) or pd.api.types.is_numeric_dtype(known):
        return False
    words = known.map(_plain)
    return bool((words.isin(_FINISHED | _NOT)).mean() > 0.5)


def _plain(value: object) -> object:
    """`CANCELLED by 1000` -> cancelled; what is no text stays as it is."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[^a-z]", "", value.strip().lower().split(" by ")[0])
