"""Calling a form with what it takes: tokens or maps, with or without the tokens' grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

Grid = tuple[int, int]  # height and width
_MARK = "_sdpet_takes"


def mark(form: nn.Module, maps: bool, grid: bool) -> None:
    """Note at a form what it takes, so that a forward pass need not look it up."""
    form.__dict__[_MARK] = (maps, grid)


def takes_grid(form: nn.Module) -> bool:
    """Whether the form's `forward` has an argument `grid`."""
    return form.__dict__[_MARK][1]


def can_stack(form: nn.Module) -> bool:
    """Whether members with this form can be computed at once. Buffers may differ between members."""
    return hasattr(form, "stacked") and next(form.buffers(), None) is None


def compute(form: nn.Module, x: Tensor, grid: Grid | None = None) -> Tensor:
    """Compute a form, with pixels as tokens where it takes no maps.

    Parameters
    ----------
    form : nn.Module
        `make_form` made it.
    x : Tensor, shape (B, N, c_in) or (B, c_in, H, W)
    grid : tuple of int, optional
        Height and width of tokens, for forms that take it.

    Returns
    -------
    Tensor, shape (B, N, c_out) or (B, c_out, H, W)
    """
    return _called(form, form, x, grid)


def compute_stacked(form: nn.Module, weights: Mapping[str, Tensor], x: Tensor, grid: Grid | None = None) -> Tensor:
    """`compute` for M members at once: weights (M, ...) by name, x (M * R, ...)."""
    stacked: Any = form.stacked
    return _called(form, lambda rows, **arguments: stacked(weights, rows, **arguments), x, grid)


def _called(form: nn.Module, function: Any, x: Tensor, grid: Grid | None) -> Tensor:
    maps, has_grid = form.__dict__[_MARK]
    if x.dim() == 4 and not maps:
        size = (x.shape[2], x.shape[3])
        arguments = {"grid": size} if has_grid else {}
        out = function(x.flatten(2).transpose(1, 2), **arguments)  # (B, H * W, c_out)
        return out.transpose(1, 2).unflatten(2, size)
    return function(x, grid=grid) if has_grid else function(x)
