"""The handle that attaching returns, and finding handles again on a UNet that was copied or loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.adapters.edges import Attachment, Edge
from sdpet.adapters.format import save_adapters
from sdpet.adapters.hooks import all_hooks, connect
from sdpet.adapters.routes import Route
from sdpet.adapters.spec import AdapterSpec, finite


class Adapters(nn.Module):
    """The adapters of one design in one UNet, one in every matching block. `attach` makes it.

    It is a module of its own and not registered in the UNet: `unet.state_dict()` and `pipe.save_pretrained` do not see
    it, and `adapters.parameters()` is all there is to train. Whether the UNet's own parameters get gradients is left
    as it is; freeze them with `unet.requires_grad_(False)`. Keys of the state dict are
    ``<path of the block>.<layer>.weight``. `adapters.to(...)` casts and moves. Without it the adapters are float32
    (float64 in a float64 UNet), compute in their own dtype whatever the UNet's (under autocast in autocast's), and
    follow the UNet to another device when it runs there.

    `copy.deepcopy` and `pickle` of a handle give its weights and settings without a UNet: the copy is detached.
    `copy.deepcopy`, `torch.save` and `pickle` of the *UNet* take the adapters along, and the copy has weights of its
    own; `attached_adapters(copy)` gives its handle.

    Parameters
    ----------
    spec : AdapterSpec
    by_block : mapping of str to nn.Sequential
        The adapters, by the path of their block in the UNet.
    attachment : Attachment, optional
        What connects these adapters to a UNet; a new one, connected to nothing, by default.

    Attributes
    ----------
    spec : AdapterSpec
        The design.
    by_block : dict of str to nn.Sequential
    """

    def __init__(
        self, spec: AdapterSpec, by_block: Mapping[str, nn.Sequential], attachment: Attachment | None = None
    ) -> None:
        super().__init__()
        self.spec = spec
        self.by_block = dict(by_block)
        self._attachment = attachment or Attachment()
        for path, adapter in by_block.items():
            _nest(self, path, adapter)

    def __len__(self) -> int:
        """Number of adapters, which is the number of matching blocks."""
        return len(self.by_block)

    def __bool__(self) -> bool:
        return True

    @property
    def blocks(self) -> tuple[str, ...]:
        """Paths in the UNet of the blocks that have an adapter."""
        return tuple(self.by_block)

    @property
    def attached(self) -> bool:
        """Whether the adapters are in a UNet."""
        return self._attachment.attached

    @property
    def strength(self) -> float:
        """Factor on what the adapters add, beside the design's own `spec.scale`; 1 unless `scale` changed it."""
        return self._attachment.strength

    def num_parameters(self) -> int:
        """Number of weights of all adapters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def scale(self, strength: float) -> None:
        """Set the strength: what the adapters add is multiplied by ``spec.scale * strength``.

        Parameters
        ----------
        strength : float
            1 is as trained, 0 is the base model.

        Raises
        ------
        ValueError
            If the strength is not a finite number.
        """
        self._attachment.strength = finite("The strength", strength)

    def disable(self) -> None:
        """Let the UNet compute as if it had no adapters, until `enable`."""
        self._attachment.active = False

    def enable(self) -> None:
        """Undo `disable`."""
        self._attachment.active = True

    def detach(self) -> None:
        """Remove the adapters from the UNet, which is then as it was. Their weights stay here and can be saved."""
        self._attachment.remove()

    def save(self, folder: str | Path) -> None:
        """Write adapters.safetensors and adapters.json. The strength is a run-time setting and is not saved.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        save_adapters(folder, self.spec, list(self.blocks), self.state_dict())

    def _connect(self, routes: Mapping[str, Route]) -> None:
        for path, route in routes.items():
            connect(route.block, path, Edge((route.source,), route.target, self._delta(path), self._attachment))

    def _delta(self, path: str) -> AdapterDelta:
        return AdapterDelta(self.spec, self.by_block[path], self._attachment)

    def extra_repr(self) -> str:
        return f"{self.spec}, strength={self.strength}, attached={self.attached}"


class AdapterDelta:
    """What one adapter adds: a callable that is copied and pickled with the block.

    Parameters
    ----------
    spec : AdapterSpec
    adapter : nn.Sequential
    attachment : Attachment
        Its strength multiplies ``spec.scale``.
    """

    def __init__(self, spec: AdapterSpec, adapter: nn.Sequential, attachment: Attachment) -> None:
        self.spec, self.adapter, self.attachment = spec, adapter, attachment

    def __call__(self, read: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute the addition.

        Parameters
        ----------
        read : Tensor, shape (B, N, c_in) or (B, c_in, H, W)
        dtype : torch.dtype
            Of the result; the adapter computes in its own.

        Returns
        -------
        Tensor, shape (B, N, c_out) or (B, c_out, H, W)
        """
        up: Any = self.adapter[-1]  # nn.Linear or nn.Conv2d
        if up.weight.device != read.device:
            self.adapter.to(read.device)
        return (self.spec.scale * self.attachment.strength) * self.adapter(read.to(up.weight.dtype)).to(dtype)


def attached_adapters(unet: nn.Module) -> list[Adapters]:
    """Find the handles of the adapters that a UNet carries, such as one that was copied or loaded by `torch.load`.

    Parameters
    ----------
    unet : nn.Module

    Returns
    -------
    list of Adapters
        One for each call of `attach`, in the order of attaching. They share weights and settings with the handles that
        `attach` returned. Members of a fleet are not among them.

    Examples
    --------
    >>> twin = copy.deepcopy(unet)
    >>> (adapters,) = attached_adapters(twin)
    >>> adapters.detach()
    """
    found: dict[Attachment, dict[str, AdapterDelta]] = {}
    for hooks in all_hooks(unet):
        for edge in hooks.edges:
            if isinstance(edge.delta, AdapterDelta):
                found.setdefault(edge.attachment, {})[hooks.name] = edge.delta
    return [
        Adapters(next(iter(deltas.values())).spec, {path: delta.adapter for path, delta in deltas.items()}, attachment)
        for attachment, deltas in found.items()
    ]


def detach_all(unet: nn.Module) -> None:
    """Remove all adapters from a UNet, also those of a fleet, whether their handle is known or not.

    Parameters
    ----------
    unet : nn.Module
        It is then as it was before the first `attach`.
    """
    for hooks in list(all_hooks(unet)):
        hooks.remove(hooks.edges)


def _nest(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` in `root` under a dotted path, with plain modules in between, so that keys are dotted paths."""
    *parents, name = path.split(".")
    for parent in parents:
        # not add_module and get_submodule, as a path may begin with the name of a method here, such as `blocks`
        root = root._modules.setdefault(parent, nn.Module())  # type: ignore[assignment]
    root._modules[name] = module
