"""Workers that are forked from one warm process: one import for all, and one copy of the libraries in memory.

parent: the warm process and its workers, as the process sees them that launches a study; forking: the warm process.
"""

from sdpet.study.warm.forking import fork_on_request
from sdpet.study.warm.parent import (
    CAN_FORK,
    ForkedProcess,
    WarmParent,
    one_warm_parent,
    start_process,
    warm_parent,
)

__all__ = [
    "CAN_FORK",
    "ForkedProcess",
    "WarmParent",
    "fork_on_request",
    "one_warm_parent",
    "start_process",
    "warm_parent",
]
