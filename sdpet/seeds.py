"""Random numbers from names, never from global state.

Every random number in sdpet comes from a generator whose seed is derived from its purpose, such as
(run seed, step, "noise"). So data order, noise and timesteps of a step do not depend on the steps before it
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
    """Derive a seed from names and numbers.

    Parameters
    ----------
    *parts : int or str

    Returns
    -------
    int
        In [0, 2**31), because torch's CPU generator uses only the low 32 bits of a seed. Equal parts give equal seeds
        on every machine.
    """
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF


def generator(*parts: int | str) -> torch.Generator:
    """Make a new generator.

    Parameters
    ----------
    *parts : int or str
        Names and numbers from which `derive` makes its seed.

    Returns
    -------
    torch.Generator
        On the CPU, so that every device gets the same numbers.
    """
    import torch

    return torch.Generator("cpu").manual_seed(derive(*parts))


@contextmanager
def isolated_rng(*parts: int | str) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block, and restore its state afterwards.

    For code that draws from the global generator, such as the initialisation of torch's own layers.

    Parameters
    ----------
    *parts : int or str
        Names and numbers from which `derive` makes the seed.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(*parts))
        yield
