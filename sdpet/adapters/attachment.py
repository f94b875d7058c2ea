"""Attaching adapters to a UNet: which blocks get one, and how they are initialised."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from sdpet.adapters.attached import Adapters
from sdpet.adapters.compiled import forget_compiled
from sdpet.adapters.forms import Site, make_form
from sdpet.adapters.hooks import all_hooks
from sdpet.adapters.identity import sample_weights
from sdpet.adapters.parts import Parts, inside
from sdpet.adapters.positions import position
from sdpet.adapters.routes import Route, find_routes, placements_of
from sdpet.adapters.spec import JOIN, AdapterSpec
from sdpet.choices import BLOCKS

_WIDEST = 1 << 16  # mid_dim up to which a width is searched for


def attach(unet: nn.Module, spec: AdapterSpec, *, seed: int | None = None, alongside: bool = False) -> Adapters:
    """Put one adapter of the design into every matching block of a UNet.

    Parameters
    ----------
    unet : nn.Module
        diffusers' UNet2DConditionModel, or any module that holds its blocks; `model_at` gives one that holds those of
        the text encoder, too. Forward hooks are all that is changed. It may have been compiled before, and may have
        run: torch then compiles it, and other models, again.
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
    sites = sites_of(unet, spec)
    if not alongside:
        refuse_second(unet)
    adapters = Adapters(spec, _build(sites, seed), base=sample_weights(unet))
    adapters._connect(unet, sites)
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
    return Adapters(spec, _build(sites_of(unet, spec), None), base=sample_weights(unet))


def sites_of(unet: nn.Module, spec: AdapterSpec) -> dict[str, Site]:
    """Where the adapters of a design are in a UNet.

    Parameters
    ----------
    unet : nn.Module
    spec : AdapterSpec

    Returns
    -------
    dict of str to Site
        By the keys of `Adapters.by_block`: paths of blocks, and with several placements ``<path>.<placement>``.

    Raises
    ------
    ValueError
        As `matching_blocks`.
    """
    if isinstance(unet, Parts):
        _require_every_part(unet, spec)
    if not spec.placements:
        return {path: Site(path, route, spec) for path, route in matching_routes(unet, spec).items()}
    found = [(path, route, part) for part in spec.parts for path, route in matching_routes(unet, part).items()]
    order = {path: number for number, (path, _) in enumerate(getattr(unet, "_orig_mod", unet).named_modules())}
    found.sort(key=lambda item: order[item[0]])  # stable: in a block, placements keep their order
    return {f"{path}.{part.placement.replace('.', '_')}": Site(path, route, part) for path, route, part in found}


def matching_blocks(unet: nn.Module, spec: AdapterSpec) -> dict[str, nn.Module]:
    """Find the blocks of a UNet or transformer that get an adapter of a design.

    Parameters
    ----------
    unet : nn.Module
    spec : AdapterSpec

    Returns
    -------
    dict of str to nn.Module
        By path: every block that has both positions of a placement and does not change the resolution, as far as the
        design's `blocks` names it.

    Raises
    ------
    ValueError
        If there is none, or one that cannot carry this adapter.
    """
    return {site.path: site.route.block for site in sites_of(unet, spec).values()}


def matching_routes(unet: nn.Module, spec: AdapterSpec) -> dict[str, Route]:
    """The ways of a design with one placement, by path of the block; raises as `matching_blocks`."""
    routes = find_routes(unet, str(spec.din), str(spec.dout))
    pattern = re.compile(BLOCKS.get(spec.blocks, spec.blocks))
    found = {path: route for path, route in routes.items() if pattern.search(inside(unet, path))}
    if not found:
        raise ValueError(
            f"No block that {spec.placement} needs matches blocks={spec.blocks}; their paths are "
            f"{', '.join(inside(unet, path) for path in routes)}."
        )
    return found


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
        modules = [make_form(site.spec, site.shape) for site in sites_of(unet, spec).values()]
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def mid_dim_for(unet: nn.Module, spec: AdapterSpec, params: int) -> int:
    """The mid_dim for which the number of parameters comes nearest to a given one, found by counting.

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
        At least 1; the same for all placements of the design. 1 where the number does not depend on it.

    Raises
    ------
    ValueError
        If `params` is below 1 or no block of the UNet matches.
    """
    if params < 1:
        raise ValueError(f"params must be at least 1, not {params!r}.")

    @cache
    def count(mid_dim: int) -> int:
        return count_parameters(unet, replace(spec, mid_dim=mid_dim))

    each = count(2) - count(1)
    if each > 0:  # a form whose number of parameters is linear in mid_dim, as all of sdpet's are
        guess = max(1, round(1 + (params - count(1)) / each))
        if count(guess) == count(1) + (guess - 1) * each:
            return guess
    enough = 1  # the least power of two with at least as many parameters
    while count(enough) < params and enough < _WIDEST:
        enough *= 2
    above = bisect_left(range(enough + 1), params, lo=1, key=count)  # the number does not shrink with the width
    return min(range(max(1, above - 1), min(above, enough) + 1), key=lambda mid_dim: abs(count(mid_dim) - params))


def _require_every_part(model: Parts, spec: AdapterSpec) -> None:
    """Raise ValueError if a part of a pipeline has no placement of a design."""
    for name, part in model.named_children():
        known = placements_of(part)
        if not any(placement in known for placement in spec.placement.split(JOIN)):
            choices = ", ".join(p for p in known if not position(p.partition("-")[0]).is_projection)
            raise ValueError(f"{spec.placement} has no place in the {name}; placements there are {choices}.")


def refuse_second(unet: nn.Module) -> None:
    """Raise ValueError if a UNet carries adapters."""
    taken = next(all_hooks(unet), None)
    if taken is not None:
        raise ValueError(
            f"This model carries adapters already (in {taken.name}); detach() them first, or pass alongside=True to "
            "add more."
        )


def _build(sites: Mapping[str, Site], seed: int | None) -> dict[str, nn.Module]:
    """Draw weights on the CPU in float32, so that a seed gives the same ones for every device and dtype."""
    with torch.random.fork_rng(devices=[]) if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        return {key: placed(make_form(site.spec, site.shape), site.route.block) for key, site in sites.items()}


def placed(adapter: nn.Module, block: nn.Module) -> nn.Module:
    """Move an adapter to where a block is: float64 in a float64 block, else float32."""
    like = next(block.parameters())
    # accelerate's offloading leaves a block on the meta device, without values, whenever it does not run
    offloaded = like.is_meta and any(hasattr(module, "_hf_hook") for module in block.modules())
    device = torch.device("cpu") if offloaded else like.device
    return adapter.to(device=device, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)
