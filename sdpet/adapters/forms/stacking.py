"""A form for several members at once, through torch's vmap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def vmapped(form: nn.Module, weights: Mapping[str, Tensor], x: Tensor, **arguments: Any) -> Tensor:
    """Compute a form with the weights of M members at once. To be used as a form's method ``stacked``.

    Parameters
    ----------
    form : nn.Module
        Its own weights are not used. It has no buffers, and its `forward` no control flow that depends on values.
    weights : mapping of str to Tensor
        By the names of the form's parameters, each of shape (M, ...).
    x : Tensor, shape (M * R, ...)
        The rows of the first member, then of the second, and so on.
    **arguments
        Further arguments of `forward`, equal for all members.

    Returns
    -------
    Tensor, shape (M * R, ...)

    Examples
    --------
    >>> class Mine(nn.Module):
    ...     stacked = vmapped
    """
    members = len(next(iter(weights.values())))

    def one(own: dict[str, Tensor], rows: Tensor) -> Tensor:
        return torch.func.functional_call(form, own, (rows,), arguments)

    return torch.vmap(one)(dict(weights), x.unflatten(0, (members, -1))).flatten(0, 1)
