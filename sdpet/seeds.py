"""Random numbers from names, never from global state.

Every random number in sdpet comes from a generator that is seeded by what it is for, such as
(run seed, step, "noise"). So data order, noise and timesteps of a step can be had without the steps before it
(resuming is exact), designs of one seed see the same noise, and runs in one process cannot influence each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*parts: int | str) -> int:
    """A seed in [0, 2**31) from the given names and numbers; equal parts give equal seeds on every machine.

    31 bits, as torch's CPU generator uses the low 32 bits of a seed only.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF


def generator(*parts: int | str) -> torch.Generator:
    """A fresh CPU generator seeded by the given parts (the CPU, so that every device sees the same numbers)."""
    import torch

    return torch.Generator("cpu").manual_seed(derive(*parts))


@contextmanager
def isolated(*parts: int | str) -> Iterator[None]:
    """Inside, torch's global CPU generator is seeded by `parts`; outside, it is as if nothing had happened.

    For code that draws from global state, such as the initialisation of torch's own layers.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(*parts))
        yield
