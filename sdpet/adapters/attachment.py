"""Attaching adapters to a UNet: which blocks get one, and how they are initialised."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import nn

from sdpet.adapters.attached import Adapters
from sdpet.adapters.compiled import forget_compiled
from sdpet.adapters.hooks import all_hooks
from sdpet.adapters.modules import build_adapter
from sdpet.adapters.routes import Route, find_routes
from sdpet.adapters.spec import AdapterSpec


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
    routes = find_routes(unet, spec.din, spec.dout)
    if not alongside:
        refuse_second(unet)
    adapters = Adapters(spec, _build(routes, spec, seed))
    adapters._connect(routes)
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
    return Adapters(spec, _build(find_routes(unet, spec.din, spec.dout), spec, None))


def matching_blocks(unet: nn.Module, spec: AdapterSpec) -> dict[str, nn.Module]:
    """Find the blocks of a UNet or transformer that get an adapter of a design.

    Parameters
    ----------
    unet : nn.Module
    spec : AdapterSpec

    Returns
    -------
    dict of str to nn.Module
        By path: every block that has both positions, and does not change the resolution.

    Raises
    ------
    ValueError
        If there is none, or one that cannot carry this adapter.
    """
    return {path: route.block for path, route in find_routes(unet, spec.din, spec.dout).items()}


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
        modules = [build_adapter(spec, route) for route in find_routes(unet, spec.din, spec.dout).values()]
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


def _build(routes: Mapping[str, Route], spec: AdapterSpec, seed: int | None) -> dict[str, nn.Sequential]:
    """Draw weights on the CPU in float32, so that a seed gives the same ones for every device and dtype."""
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        return {path: _placed(build_adapter(spec, route), route.block) for path, route in routes.items()}


def _placed(adapter: nn.Sequential, block: nn.Module) -> nn.Sequential:
    like = next(block.parameters())
    # accelerate's offloading leaves a block on the meta device, without values, whenever it does not run
    offloaded = like.is_meta and any(hasattr(module, "_hf_hook") for module in block.modules())
    device = torch.device("cpu") if offloaded else like.device
    return adapter.to(device=device, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)
