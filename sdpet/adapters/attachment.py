"""Attaching adapters to a UNet: which blocks get one, and how they are initialised."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from sdpet.adapters.attached import Adapters
from sdpet.adapters.compiled import forget_compiled
from sdpet.adapters.hooks import all_hooks
from sdpet.adapters.modules import build_adapter
from sdpet.adapters.positions import position
from sdpet.adapters.spec import AdapterSpec

_BLOCKS: dict[str, type[nn.Module]] = {"transformer": BasicTransformerBlock, "resnet": ResnetBlock2D}


def attach(unet: nn.Module, spec: AdapterSpec, *, seed: int | None = None, alongside: bool = False) -> Adapters:
    """Put one adapter of the design into every matching block of a UNet.

    Parameters
    ----------
    unet : nn.Module
        diffusers' UNet2DConditionModel, or any module that holds its blocks. Forward hooks are all that is changed. It
        may have been compiled before, and may have run: torch then compiles it, and other models, again.
    spec : AdapterSpec
        The design.
    seed : int, optional
        The initial weights are drawn from it, and the global random generator stays as it is. None draws from the
        global generator.
    alongside : bool
        Attach although the UNet carries adapters already. Each adapter then reads what the network and the adapters
        that write earlier on the datapath compute, and additions at one position are summed: the order of attaching
        has no effect.

    Returns
    -------
    Adapters
        The handle: parameters, strength, switching, saving, detaching.

    Raises
    ------
    ValueError
        If no block matches, a block is of a kind that is not supported, or the UNet carries adapters and `alongside`
        is False. The UNet is then as it was.

    References
    ----------
    Xiang et al. 2023, arXiv 2303.18181.
    """
    blocks = matching_blocks(unet, spec)
    if not alongside:
        refuse_second(unet)
    adapters = Adapters(spec, _build(blocks, spec, seed))
    adapters._connect(blocks)
    forget_compiled()
    return adapters


def build_unattached(unet: nn.Module, spec: AdapterSpec) -> Adapters:
    """Build the adapters that `attach` would put into a UNet, without connecting them.

    Parameters
    ----------
    unet : nn.Module
    spec : AdapterSpec

    Returns
    -------
    Adapters
        Detached, with weights drawn from the global random generator.

    Raises
    ------
    ValueError
        If no block of the UNet matches.
    """
    return Adapters(spec, _build(matching_blocks(unet, spec), spec, None))


def matching_blocks(unet: nn.Module, spec: AdapterSpec) -> dict[str, nn.Module]:
    """Find the blocks of a UNet that get an adapter of a design.

    Parameters
    ----------
    unet : nn.Module
    spec : AdapterSpec

    Returns
    -------
    dict of str to nn.Module
        By path: every transformer block, or every ResBlock that does not change the resolution.

    Raises
    ------
    ValueError
        If there is none, or one that cannot carry this adapter.
    """
    if not isinstance(unet, nn.Module):
        raise ValueError(f"Adapters attach to a UNet, not to {type(unet).__name__}; of a pipeline pass `pipe.unet`.")
    unet = getattr(unet, "_orig_mod", unet)  # the module inside the wrapper that torch.compile returns
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
    """Count the parameters of all adapters of a design in a UNet. Attaches nothing and allocates nothing.

    Parameters
    ----------
    unet : nn.Module
        May be on the meta device.
    spec : AdapterSpec

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If no block of the UNet matches.
    """
    with torch.device("meta"):
        modules = [build_adapter(spec, block) for block in matching_blocks(unet, spec).values()]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def mid_dim_for(unet: nn.Module, spec: AdapterSpec, params: int) -> int:
    """The mid_dim for which the number of parameters comes nearest to a given one.

    Parameters
    ----------
    unet : nn.Module
        May be on the meta device.
    spec : AdapterSpec
        The design; its own mid_dim is ignored.
    params : int
        Number of parameters to aim at, of all adapters together.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If `params` is below 1 or no block of the UNet matches.
    """
    if params < 1:
        raise ValueError(f"params must be at least 1, not {params!r}.")
    one, two = (count_parameters(unet, replace(spec, mid_dim=mid_dim)) for mid_dim in (1, 2))
    return max(1, round(1 + (params - one) / (two - one)))  # the number is linear in mid_dim


def refuse_second(unet: nn.Module) -> None:
    """Raise ValueError if a UNet carries adapters."""
    taken = next(all_hooks(unet), None)
    if taken is not None:
        raise ValueError(
            f"This UNet carries adapters already (in {taken.name}); detach() them first, or pass alongside=True to add "
            "more."
        )


def _build(blocks: Mapping[str, nn.Module], spec: AdapterSpec, seed: int | None) -> dict[str, nn.Sequential]:
    """Draw weights on the CPU in float32, so that a seed gives the same ones for every device and dtype."""
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
