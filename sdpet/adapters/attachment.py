"""Attaching adapters to a UNet, and the handle that attaching returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from sdpet.adapters.format import save_adapters
from sdpet.adapters.hooks import Edge, connect, is_connected
from sdpet.adapters.modules import build_adapter
from sdpet.adapters.positions import position
from sdpet.adapters.spec import AdapterSpec, finite

_BLOCKS: dict[str, type[nn.Module]] = {"transformer": BasicTransformerBlock, "resnet": ResnetBlock2D}


class Adapters(nn.Module):
    """The adapters of one design in one UNet, one in every matching block. Made by `attach`.

    A module of its own, not registered in the UNet: `unet.state_dict()` and `pipe.save_pretrained` do not see it, and
    `adapters.parameters()` is all there is to train. Whether the UNet's own parameters get gradients is left as it
    is; freeze it with `unet.requires_grad_(False)`. Keys of the state dict are `<path of the block>.<layer>.weight`.
    `adapters.to(...)` casts and moves; left alone, they are float32 (float64 in a float64 UNet), compute in their own
    dtype whatever the UNet's (under autocast in autocast's), and follow the UNet to another device when it runs there.
    """

    def __init__(self, spec: AdapterSpec, by_block: Mapping[str, nn.Sequential]) -> None:
        super().__init__()
        self.spec = spec
        self.by_block = dict(by_block)
        self.strength = 1.0
        self._edges: list[Edge] = []
        self._undo: list[Callable[[], None]] = []
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
        return bool(self._undo)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def scale(self, strength: float) -> None:
        """Set the strength: what the adapters add is multiplied by spec.scale * strength. 1, as trained, at first."""
        self.strength = finite("The strength", strength)

    def disable(self) -> None:
        """Let the UNet compute as if there were no adapters, until `enable`."""
        for edge in self._edges:
            edge.active = False

    def enable(self) -> None:
        for edge in self._edges:
            edge.active = True

    def detach(self) -> None:
        """Take the adapters out of the UNet, which is then as it was. Their weights stay here and can be saved."""
        while self._undo:
            self._undo.pop()()
        self._edges.clear()

    def save(self, folder: str | Path) -> None:
        """Write adapters.safetensors and adapters.json into `folder`. The strength, a run-time setting, is not kept."""
        save_adapters(folder, self.spec, list(self.blocks), self.state_dict())

    def _connect(self, blocks: Mapping[str, nn.Module]) -> None:
        din, dout = position(self.spec.din), position(self.spec.dout)
        for path, block in blocks.items():
            edge = Edge((din.reads,), dout.writes, self.change(path))
            self._edges.append(edge)
            self._undo.append(connect(block, path, edge))

    def change(self, path: str) -> Callable[[Tensor, torch.dtype], Tensor]:
        """change(read, dtype): what the adapter of that block adds to a value of that dtype, given what it read."""
        adapter = self.by_block[path]

        def change(read: Tensor, dtype: torch.dtype) -> Tensor:
            up: Any = adapter[-1]  # nn.Linear or nn.Conv2d
            if up.weight.device != read.device:
                adapter.to(read.device)
            return (self.spec.scale * self.strength) * adapter(read.to(up.weight.dtype)).to(dtype)

        return change

    def extra_repr(self) -> str:
        return f"{self.spec}, strength={self.strength}, attached={self.attached}"


def attach(unet: nn.Module, spec: AdapterSpec, *, seed: int | None = None, alongside: bool = False) -> Adapters:
    """Put one adapter of the design into every matching block of the UNet; returns the handle.

    unet: diffusers' UNet2DConditionModel, or any module that holds its blocks; it is changed by forward hooks alone.
    Attach before `torch.compile`, which does not notice hooks that come later.
    seed: draws the initial weights from it and leaves the global generator alone; None draws from the global one.
    alongside: attach although the UNet carries adapters already. Each then reads what the network and the adapters
    that write earlier on the datapath give, and additions at one position are summed: the order of attaching has no
    effect.
    ValueError: no block matches, a block is of an unsupported variant, or adapters are there and `alongside` is False.
    """
    blocks = matching_blocks(unet, spec)
    if not alongside:
        refuse_second(unet)
    adapters = Adapters(spec, _build(blocks, spec, seed))
    adapters._connect(blocks)
    return adapters


def unattached(unet: nn.Module, spec: AdapterSpec) -> Adapters:
    """The adapters that `attach` would put into the UNet, drawn from the global generator, without connecting them."""
    return Adapters(spec, _build(matching_blocks(unet, spec), spec, None))


def matching_blocks(unet: nn.Module, spec: AdapterSpec) -> dict[str, nn.Module]:
    """The blocks, by path, that get an adapter of this design: every transformer block, or every ResBlock that does not
    change the resolution. ValueError if there is none, or one that cannot carry this adapter."""
    if not isinstance(unet, nn.Module):
        raise ValueError(f"Adapters attach to a UNet, not to {type(unet).__name__}; of a pipeline pass `pipe.unet`.")
    unet = getattr(unet, "_orig_mod", unet)  # what torch.compile wraps
    din, dout = position(spec.din), position(spec.dout)
    kind = _BLOCKS[din.block]
    blocks = {}
    for path, module in unet.named_modules():
        resamples = getattr(module, "up", False) or getattr(module, "down", False)
        if not path or not isinstance(module, kind) or resamples:
            continue
        variant = getattr(module, "norm_type", "layer_norm")
        if variant != "layer_norm":
            raise ValueError(f"{path} normalises with {variant!r}; adapters support blocks with 'layer_norm' only.")
        for tap in (*din.reads, *dout.writes):
            if tap.path and getattr(module, tap.path, None) is None:
                raise ValueError(f"{path} has no {tap.path}, which an adapter at {spec.placement} needs.")
        blocks[path] = module
    if not blocks:
        raise ValueError(
            f"No block of this {type(unet).__name__} matches {spec.placement}, which needs a {kind.__name__}; "
            "choose a placement of another kind of block or another UNet."
        )
    return blocks


def count_parameters(unet: nn.Module, spec: AdapterSpec) -> int:
    """Number of parameters of all adapters of this design in this UNet. Attaches nothing and allocates nothing."""
    with torch.device("meta"):
        modules = [build_adapter(spec, block) for block in matching_blocks(unet, spec).values()]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def mid_dim_for(unet: nn.Module, spec: AdapterSpec, params: int) -> int:
    """The mid_dim, at least 1, for which the number of parameters comes nearest to `params` (spec's own is ignored)."""
    if params < 1:
        raise ValueError(f"params must be at least 1, not {params!r}.")
    one, two = (count_parameters(unet, replace(spec, mid_dim=mid_dim)) for mid_dim in (1, 2))
    return max(1, round(1 + (params - one) / (two - one)))  # the number is linear in mid_dim


def _build(blocks: Mapping[str, nn.Module], spec: AdapterSpec, seed: int | None) -> dict[str, nn.Sequential]:
    """Weights are drawn on the CPU in float32, so that a seed gives the same ones for every device and dtype."""
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        return {path: _placed(build_adapter(spec, block), block) for path, block in blocks.items()}


def _placed(adapter: nn.Sequential, block: nn.Module) -> nn.Sequential:
    like = next(block.parameters())
    # accelerate's offloading leaves a block on the meta device, without values, whenever it does not run
    offloaded = like.is_meta and any(hasattr(module, "_hf_hook") for module in block.modules())
    device = torch.device("cpu") if offloaded else like.device
    return adapter.to(device=device, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)


def refuse_second(unet: nn.Module) -> None:
    """ValueError when the UNet carries adapters."""
    taken = next((path for path, module in unet.named_modules() if is_connected(module)), None)
    if taken is not None:
        raise ValueError(
            f"This UNet carries adapters already (in {taken}); detach() them first, or pass alongside=True to add more."
        )


def _nest(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` in `root` under a dotted path, with plain modules in between, so that keys are dotted paths."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)
