"""What adapters may need to know of the call of their model: how noisy each row is, and the size of the latents."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdpet.adapters.edges import Attachment, Edge

TIMESTEPS = 1000  # of the noise schedules of diffusers' models, numbered from 0
OF_SHARES = ("FluxTransformer2DModel", "QwenImageTransformer2DModel")  # models called with the share itself


class ModelInputs:
    """Remembers the timesteps and the latents' size of a model's last call, by a forward pre-hook on the model.

    With gradient checkpointing, blocks are computed again in the backward pass. They see the last call, so a backward
    pass must come before the next call.

    Parameters
    ----------
    attachment : Attachment
        Whose removal takes the hook off the model.
    """

    edges: Sequence[Edge] = ()  # a carrier of an attachment that has none
    _timesteps: Tensor | None  # of the model's last call
    _size: tuple[int, int] | None  # of its latents

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self._handle: RemovableHandle | None = None
        self._copied: dict[tuple[tuple[tuple[float, float], ...], torch.device], Tensor] = {}
        self._forget()
        attachment.carriers.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"attachment": self.attachment, "_handle": self._handle}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._copied = {}
        self._forget()
        self.attachment.carriers.add(self)

    def watch(self, model: nn.Module) -> None:
        """Put the hook on a model."""
        self._handle = model.register_forward_pre_hook(self._remember, with_kwargs=True)

    def remove(self, edges: Sequence[Edge] = ()) -> None:
        """Take the hook off."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self.attachment.carriers.discard(self)

    def inside(
        self, whens: tuple[tuple[float, float], ...], rows: slice, count: int, device: torch.device
    ) -> Tensor | None:
        """Which rows are in their share of the noise schedule. On a GPU the host does not wait for the answer.

        Parameters
        ----------
        whens : tuple of pairs of float
            First and last share, for all rows or for each of M members with equally many rows.
        rows : slice
            The rows among all rows of the call.
        count : int
            Their number.
        device : torch.device
            Of the rows.

        Returns
        -------
        Tensor of bool, shape (count,)
            None if there is none, so that nothing need be computed. Only the CPU can tell without waiting, and only
            where no gradient is asked for.

        Raises
        ------
        ValueError
            If the model was called without timesteps, or the numbers of rows differ.
        """
        if self._timesteps is None:
            raise ValueError("Adapters with `when` need a model that is called with its timesteps.")
        self._timesteps = self._timesteps.to(device)
        share = self._timesteps / TIMESTEPS
        share = share.expand(count) if share.numel() == 1 else share[rows]
        if len(share) != count:
            raise ValueError(f"The model was called with {len(self._timesteps)} timesteps for other rows of a batch.")
        first, last = self._limits(whens, device).repeat_interleave(count // len(whens), 0).unbind(1)
        found = (share >= first) & ((share < last) | (last == 1))
        if torch.is_grad_enabled() or device.type != "cpu":
            return found
        return found if bool(found.any()) else None

    def grid(self, tokens: int) -> tuple[int, int]:
        """Height and width of tokens that cover the latents; ValueError if they cannot be told."""
        if self._size is None:
            raise ValueError(
                "This form needs a model that is called with latents (B, C, H, W), to know its tokens' grid."
            )
        height, width = self._size
        while height * width > tokens:
            height, width = (height + 1) // 2, (width + 1) // 2
        if height * width != tokens:
            raise ValueError(f"{tokens} tokens are no grid over latents of {self._size[0]} x {self._size[1]}.")
        return height, width

    def _limits(self, whens: tuple[tuple[float, float], ...], device: torch.device) -> Tensor:
        """The shares (M, 2) on a device, copied there once, as the host waits for such a copy."""
        if (whens, device) not in self._copied:
            self._copied[whens, device] = torch.tensor(whens, device=device)
        return self._copied[whens, device]

    def _forget(self) -> None:
        self._timesteps = self._size = None

    def _remember(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        self._forget()
        names = _arguments(type(model))
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        timestep = given.get("timestep")
        if timestep is not None:
            shares = type(getattr(model, "_orig_mod", model)).__name__ in OF_SHARES
            self._timesteps = torch.as_tensor(timestep).detach().flatten().float() * (TIMESTEPS if shares else 1)
        latents = given.get(names[0]) if names else None
        if isinstance(latents, Tensor) and latents.dim() == 4:
            self._size = (latents.shape[2], latents.shape[3])


def _arguments(kind: type) -> list[str]:
    return list(inspect.signature(kind.forward).parameters)[1:]  # type: ignore[attr-defined]


def find_inputs(model: nn.Module) -> list[ModelInputs]:
    """What hangs on a model of this kind."""
    owners = (getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values())
    return [owner for owner in owners if isinstance(owner, ModelInputs)]
