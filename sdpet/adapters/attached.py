"""The handle that attaching returns, and finding handles again on a UNet that was copied or loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sdpet.adapters.edges import Attachment, Edge
from sdpet.adapters.format import save_adapters
from sdpet.adapters.forms import Site, compute, takes_grid
from sdpet.adapters.hooks import all_hooks, connect
from sdpet.adapters.identity import sample_weights
from sdpet.adapters.inputs import ModelInputs, find_inputs
from sdpet.adapters.parts import UNET, Parts, where_of
from sdpet.adapters.spec import ALWAYS, AdapterSpec, finite


class Adapters(nn.Module):
    """The adapters of one design in one UNet, one in every matching block. `attach` makes it.

    It is a module of its own and not registered in the UNet: `unet.state_dict()` and `pipe.save_pretrained` do not see
    it, and `adapters.parameters()` is all there is to train. Whether the UNet's own parameters get gradients is left
    as it is; freeze them with `unet.requires_grad_(False)`. Keys of the state dict are
    ``<path of the block>.<layer>.weight``, with several placements ``<path of the block>.<placement>.<layer>.weight``;
    of several parts of a pipeline (`model_at`) the path begins with the part, such as ``text_encoder``.
    `adapters.to(...)` casts and moves. Without it the adapters are float32
    (float64 in a float64 UNet), compute in their own dtype whatever the UNet's (under autocast in autocast's), and
    follow the UNet to another device when it runs there.

    `copy.deepcopy` and `pickle` of a handle give its weights and settings without a UNet: the copy is detached.
    `copy.deepcopy`, `torch.save` and `pickle` of the *UNet* take the adapters along, and the copy has weights of its
    own; `attached_adapters(copy)` gives its handle.

    Parameters
    ----------
    spec : AdapterSpec
    by_block : mapping of str to nn.Module
        The adapters, by the path of their block in the UNet; with several placements by ``<path>.<placement>``.
    attachment : Attachment, optional
        What connects these adapters to a UNet; a new one, connected to nothing, by default.
    base : sequence of float, optional
        A sample of the model's weights, which is saved with the adapters; see `sdpet.adapters.identity`.

    Attributes
    ----------
    spec : AdapterSpec
        The design.
    by_block : dict of str to nn.Module
    """

    def __init__(
        self,
        spec: AdapterSpec,
        by_block: Mapping[str, nn.Module],
        attachment: Attachment | None = None,
        base: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self._base = base
        self.spec = spec
        self.by_block = dict(by_block)
        self._attachment = attachment or Attachment()
        for path, adapter in by_block.items():
            _nest(self, path, adapter)

    def __len__(self) -> int:
        """Number of adapters: one for each placement in each matching block."""
        return len(self.by_block)

    def __bool__(self) -> bool:
        return True

    @property
    def blocks(self) -> tuple[str, ...]:
        """Paths in the UNet of the blocks that have an adapter."""
        several = bool(self.spec.placements)
        return tuple(dict.fromkeys(key.rpartition(".")[0] if several else key for key in self.by_block))

    @property
    def where(self) -> str:
        """The parts of a pipeline that they are for: "unet", "text_encoder" or "both"."""
        return where_of(self.by_block)

    @property
    def learns_text(self) -> bool:
        """Whether text states change with the adapters, so that they cannot be computed once."""
        return self.where != UNET

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
        save_adapters(folder, self.spec, list(self.blocks), self.state_dict(), self._base)

    def _connect(self, model: nn.Module, sites: Mapping[str, Site]) -> None:
        inputs = watched(model, self._attachment, [self])
        for key, site in sites.items():
            delta = AdapterDelta(self.spec, self.by_block[key], self._attachment, key, inputs)
            route = site.route
            connect(route.block, site.path, Edge((route.source,), route.target, delta, self._attachment))

    def extra_repr(self) -> str:
        return f"{self.spec}, strength={self.strength}, attached={self.attached}"


class AdapterDelta:
    """What one adapter adds: a callable that is copied and pickled with the block.

    Parameters
    ----------
    spec : AdapterSpec
        The whole design.
    adapter : nn.Module
    attachment : Attachment
        Its strength multiplies ``spec.scale``.
    key : str
        Of the adapter in `Adapters.by_block`.
    inputs : ModelInputs, optional
        For forms that need the tokens' grid, and designs that act at some noise only.
    """

    def __init__(
        self, spec: AdapterSpec, adapter: nn.Module, attachment: Attachment, key: str, inputs: ModelInputs | None
    ) -> None:
        self.spec, self.adapter, self.attachment = spec, adapter, attachment
        self.key, self.inputs = key, inputs

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
        weight = next(self.adapter.parameters())
        if weight.device != read.device:
            self.adapter.to(read.device)
        inside = None
        if self.spec.when != ALWAYS:
            assert self.inputs is not None
            inside = self.inputs.inside((self.spec.when,), slice(None), len(read), read.device)
            if inside is None:
                return read.new_zeros((), dtype=dtype)
        grid = grid_of(self.inputs, self.adapter, read)
        added = compute(self.adapter, read.to(weight.dtype), grid).to(dtype)
        added = (self.spec.scale * self.attachment.strength) * added
        return added if inside is None else only(inside, added)


def only(rows: Tensor, value: Tensor) -> Tensor:
    """The value (B, ...) with zeros in all rows but some; rows is bool, (B,)."""
    return torch.where(rows.view(-1, *[1] * (value.dim() - 1)), value, 0.0)


def grid_of(inputs: ModelInputs | None, form: nn.Module, read: Tensor) -> tuple[int, int] | None:
    """Height and width of the tokens that are read, (B, N, c), for forms that take them."""
    return inputs.grid(read.shape[1]) if inputs is not None and takes_grid(form) and read.dim() == 3 else None


def watched(model: nn.Module, attachment: Attachment, members: Sequence[Adapters]) -> ModelInputs | None:
    """Put on the model what these designs need to know of its calls; None if they need nothing."""
    forms = [form for member in members for form in member.by_block.values()]
    if all(member.spec.when == ALWAYS for member in members) and not any(map(takes_grid, forms)):
        return None
    if isinstance(model, Parts):
        raise ValueError(
            "adapters in the text encoder know neither the noise nor the grid of the latents; leave `when` out, and "
            "choose a form that takes no grid."
        )
    inputs = ModelInputs(attachment)
    inputs.watch(getattr(model, "_orig_mod", model))
    return inputs


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
                found.setdefault(edge.attachment, {})[edge.delta.key] = edge.delta
    base = sample_weights(unet) if found else None
    return [
        Adapters(next(iter(of.values())).spec, {key: delta.adapter for key, delta in of.items()}, attachment, base)
        for attachment, of in found.items()
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
    for inputs in find_inputs(getattr(unet, "_orig_mod", unet)):
        inputs.remove()


def _nest(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` in `root` under a dotted path, with plain modules in between, so that keys are dotted paths."""
    *parents, name = path.split(".")
    for parent in parents:
        # not add_module and get_submodule, as a path may begin with the name of a method here, such as `blocks`
        root = root._modules.setdefault(parent, nn.Module())  # type: ignore[assignment]
    root._modules[name] = module
