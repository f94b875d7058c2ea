"""Copies from the host to a device that the host need not wait for."""

from __future__ import annotations

import torch


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy values to a device. A GPU gets them from pinned memory, so that the host does not wait for its earlier work.

    Parameters
    ----------
    values : Tensor
        On the CPU.
    device : torch.device

    Returns
    -------
    Tensor
    """
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
