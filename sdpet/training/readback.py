"""Read numbers from a device without stopping it."""

from __future__ import annotations

import torch


class Reading:
    """Numbers of a device that are copied to the host in the background.

    The copy is queued behind the work that gives the numbers. `values` waits for this work only, and not for work that
    was queued later. So a loss can be read while the backward pass is still being computed.

    Parameters
    ----------
    numbers : Tensor, shape (N,)
        On any device. On the CPU nothing is copied.
    """

    def __init__(self, numbers: torch.Tensor) -> None:
        self._numbers, self._copied = numbers.detach(), None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(numbers.device))

    @property
    def is_ready(self) -> bool:
        """Whether `values` would not have to wait."""
        return self._copied is None or self._copied.query()

    def values(self) -> list[float]:
        """The numbers, as soon as they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._numbers.tolist()
