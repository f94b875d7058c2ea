"""Adapters of equal shapes computed together: the form of M members at once.

Rows of the batch are those of the first member, then of the second, and so on. The members' weights lie in one buffer,
one row a member, and the members' own parameters are views of it. So the weights of a layer for all members are one
tensor without copying, which is what autograd differentiates. And all weights of a member are one vector: an
elementwise optimiser (AdamW) then updates one tensor instead of dozens. A form that does not say how it is stacked is
computed for one member after another, each with its own parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.adapters.forms import can_stack, compute, compute_stacked


class Stack:
    """The adapters of M members with equal shapes and forms.

    Like a single adapter, they compute in their own dtype.

    Parameters
    ----------
    members : sequence of mappings of str to nn.Module
        `Adapters.by_block` of each, in the same order; keys are those of the first. The parameters become views of
        this stack's buffer, and gradients that they hold are taken over.
    scales : sequence of float
        Factor on each member's additions.

    Attributes
    ----------
    weights, gradients : Tensor, shape (M, P)
        The P weights of each member, and their gradients.
    """

    def __init__(self, members: Sequence[Mapping[str, nn.Module]], scales: Sequence[float]) -> None:
        owned = [[p for adapter in member.values() for p in adapter.parameters()] for member in members]
        like = owned[0][0]
        size = sum(p.numel() for p in owned[0])
        self.weights = torch.empty(len(members), size, dtype=like.dtype, device=like.device)
        self.gradients = torch.zeros_like(self.weights)
        with torch.no_grad():
            for row, gradient, parameters in zip(self.weights, self.gradients, owned, strict=True):
                row.copy_(torch.cat([p.flatten() for p in parameters]))
                shapes = [p.shape for p in parameters]
                for p, mine, its in zip(parameters, _views(row, shapes), _views(gradient, shapes), strict=True):
                    if p.grad is not None:
                        its.copy_(p.grad)
                    p.data, p.grad = mine, its
        self._factors = None if all(s == 1 for s in scales) else self.weights.new_tensor(scales)
        self._shapes = {key: {n: p.shape for n, p in form.named_parameters()} for key, form in members[0].items()}
        # Where a form computes all members at once, one form without its weights; else the forms of all members.
        self._forms: dict[str, list[nn.Module]] = {
            key: [_without_weights(forms[0])] if can_stack(forms[0]) else list(forms)
            for key, *forms in zip(members[0], *(member.values() for member in members), strict=True)
        }
        self._stacked = self._stack()

    def __getstate__(self) -> dict[str, Any]:
        # Views of the buffer would be copied one by one.
        state = {name: value for name, value in vars(self).items() if name != "_stacked"}
        return state | {"_forms": {key: [_without_weights(f) for f in forms] for key, forms in self._forms.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._stacked = self._stack()
        for key, forms in self._forms.items():
            if not can_stack(forms[0]):
                for number, form in enumerate(forms):
                    _put_weights(form, self._stacked[key], number)

    def form(self, key: str) -> nn.Module:
        """One of the forms at a place; it may be without weights."""
        return self._forms[key][0]

    def delta(self, key: str, read: Tensor, dtype: torch.dtype, grid: tuple[int, int] | None = None) -> Tensor:
        """Compute what each member's adapter at one place adds.

        Parameters
        ----------
        key : str
            Of `Adapters.by_block`.
        read : Tensor, shape (M * R, N, c_in) or (M * R, c_in, H, W)
            R rows of each member, in the order of the members.
        dtype : torch.dtype
            Of the result.
        grid : tuple of int, optional
            Height and width of tokens, for forms that take it.

        Returns
        -------
        Tensor, shape (M * R, N, c_out) or (M * R, c_out, H, W)
        """
        forms, read = self._forms[key], read.to(self.weights.dtype)
        if can_stack(forms[0]):
            delta = compute_stacked(forms[0], self._stacked[key], read, grid).to(dtype)
        else:
            shares = read.unflatten(0, (len(forms), -1))
            delta = torch.cat([compute(form, own, grid) for form, own in zip(forms, shares, strict=True)]).to(dtype)
        if self._factors is None:
            return delta
        factors = self._factors.to(dtype).view(-1, *[1] * delta.dim())
        return (factors * delta.unflatten(0, (len(factors), -1))).flatten(0, 1)

    def _stack(self) -> dict[str, dict[str, Tensor]]:
        """By key and name, the weights (M, *shape) of all members: leaves of autograd, and views of the buffer."""
        shapes = [shape for named in self._shapes.values() for shape in named.values()]
        leaves = iter(zip(_views(self.weights, shapes), _views(self.gradients, shapes), strict=True))
        stacked: dict[str, dict[str, Tensor]] = {key: {} for key in self._shapes}
        for key, named in self._shapes.items():
            for name in named:
                weight, gradient = next(leaves)
                weight.requires_grad_().grad = gradient
                stacked[key][name] = weight
        return stacked


def _views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Divide flat (..., P) into views of these shapes, in order: (..., *shape)."""
    parts = flat.split([shape.numel() for shape in shapes], dim=-1)
    return [part.unflatten(-1, shape) if shape else part.squeeze(-1) for part, shape in zip(parts, shapes, strict=True)]


def _without_weights(form: nn.Module) -> nn.Module:
    """A copy of a form with its buffers, and with parameters on the device "meta"."""
    empty: dict[int, Any] = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in form.parameters()}
    return copy.deepcopy(form, empty)


def _put_weights(form: nn.Module, stacked: Mapping[str, Tensor], number: int) -> None:
    """Make the parameters of a member's form views of the stacked weights, and their gradients likewise."""
    for name, weights in stacked.items():
        path, _, last = name.rpartition(".")
        own = nn.Parameter(weights.detach()[number])
        own.grad = None if weights.grad is None else weights.grad[number]
        setattr(form.get_submodule(path), last, own)
