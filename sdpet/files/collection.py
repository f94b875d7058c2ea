"""Pause Python's garbage collector while thousands of objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Make objects without looking for unused cycles among them, which takes a fifth of the time of a large plan.

    It is a decorator as well. Objects in no cycle are freed as always.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
