"""Which layers a method of peft tunes, how many parameters that takes, and the size that comes nearest to a number."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from sdpet.adapters.parts import TEXT_ENCODERS, Parts
from sdpet.adapters.routes import is_fused
from sdpet.methods.peft_kinds import KINDS, PeftSpec, peft_config

NAME = "default"  # peft's name of the one set of layers


def target_paths(unet: nn.Module, spec: PeftSpec) -> list[str]:
    """Find the linear layers that a method tunes.

    Parameters
    ----------
    unet : nn.Module
        Also `sdpet.adapters.Parts` of a pipeline.
    spec : PeftSpec

    Returns
    -------
    list of str
        Their paths, in the order of the UNet.

    Raises
    ------
    ValueError
        If no layer has the name of a target, a part has no layer of these names, or projections are fused
        (`fuse_qkv_projections`), so that what is added to them has no effect.
    """
    modules = dict(unet.named_modules())
    if any(is_fused(module) for module in modules.values()):
        raise ValueError(
            f"the UNet's attention has fused projections, past which {spec.method} would learn in vain; call "
            "unet.unfuse_qkv_projections() first."
        )
    linear = [path for path, module in modules.items() if isinstance(module, nn.Linear)]
    targets = spec.targets or _usual_targets(unet, spec.method)
    for target in targets:
        if not any(_ends_with(path, target) for path in linear):
            raise ValueError(
                f"adapter.targets: no linear layer of this {getattr(unet, 'words', type(unet).__name__)} is named "
                f"{target!r}; there are {_endings(linear)}."
            )
    found = [path for path in linear if any(_ends_with(path, target) for target in targets)]
    for part in dict(unet.named_children()) if isinstance(unet, Parts) else ():
        if not any(path.startswith(f"{part}.") for path in found):
            own = _endings([path for path in linear if path.startswith(f"{part}.")])
            raise ValueError(f"adapter.targets names no linear layer of the {part}; there are {own}.")
    return found


def nearest_spec(unet: nn.Module, spec: PeftSpec, params: int) -> PeftSpec:
    """The size for which the number of parameters comes nearest to a given one.

    For lokr, which has few parameters at its default way of splitting a matrix, `decompose_factor` is searched as well
    unless it is given.

    Parameters
    ----------
    unet : nn.Module
    spec : PeftSpec
        Its size is ignored.
    params : int
        Number of parameters to aim at.

    Returns
    -------
    PeftSpec
        Of the sizes that come equally near, the smallest.
    """
    kind = KINDS[spec.method]
    if kind.size is None:
        return spec
    shapes: dict[tuple[int, int], int] = {}
    for path in target_paths(unet, spec):
        layer: Any = unet.get_submodule(path)
        shapes[layer.in_features, layer.out_features] = shapes.get((layer.in_features, layer.out_features), 0) + 1
    open_options = {key: values for key, values in kind.searched.items() if key not in spec.options}
    best: tuple[int, PeftSpec] | None = None
    for key, value in [(key, value) for key, values in open_options.items() for value in values] or [("", None)]:
        options = {**spec.options, **({key: value} if key else {})}

        def specimen(size: int, options: Mapping[str, Any] = options) -> PeftSpec:
            return PeftSpec(**{**vars(spec), "size": size, "options": options})

        sizes = _block_sizes(shapes) if kind.size == "oft_block_size" else _around(specimen, shapes, params)
        for size in sizes:
            found = specimen(size)
            distance = abs(count_parameters(found, shapes) - params)
            if best is None or distance < best[0]:
                best = distance, found
    assert best is not None
    return best[1]


def count_parameters(spec: PeftSpec, shapes: Mapping[tuple[int, int], int]) -> int:
    """The number of trained parameters on linear layers of given shapes, as peft makes them.

    Parameters
    ----------
    spec : PeftSpec
    shapes : mapping of (in, out) to int
        How many layers there are of each shape.

    Returns
    -------
    int
    """
    from peft import get_peft_model

    with torch.device("meta"):
        layers = nn.ModuleDict({f"layer{i}": nn.Linear(*shape) for i, shape in enumerate(shapes)})
    config = peft_config(spec.method, spec.size, spec.scale, spec.options, list(layers))
    with quiet(), torch.random.fork_rng(devices=[]):
        get_peft_model(layers, config, NAME, low_cpu_mem_usage=True)  # type: ignore[arg-type]
    trained = [sum(p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers.values()]
    return sum(number * own for number, own in zip(shapes.values(), trained, strict=True))


@contextmanager
def quiet() -> Iterator[None]:
    """Without peft's warnings of values that it rounds, such as blocks that do not divide a layer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _around(specimen: Any, shapes: Mapping[tuple[int, int], int], params: int) -> list[int]:
    """The two neighbouring sizes between whose numbers of parameters the wanted one lies; numbers grow with size."""
    low, high = 1, 1
    while (reached := count_parameters(specimen(high), shapes)) < params:
        low, high = high, 2 * high
        if count_parameters(specimen(high), shapes) == reached:  # the matrices are whole and grow no more
            break
    while high - low > 1:
        middle = (low + high) // 2
        if count_parameters(specimen(middle), shapes) < params:
            low = middle
        else:
            high = middle
    return [low, high]


def _block_sizes(shapes: Mapping[tuple[int, int], int]) -> list[int]:
    """The smallest size of each range of sizes that gives the same blocks.

    peft takes the nearest divisor of a layer's width, the lower of two that are equally near. A size of 1 has no
    parameters.
    """
    found = {2}
    for width in {width for width, _ in shapes}:
        divisors = [n for n in range(1, width + 1) if width % n == 0]
        found |= {(lower + upper) // 2 + 1 for lower, upper in pairwise(divisors)}
    return sorted(found - {1})


def _usual_targets(model: nn.Module, method: str) -> tuple[str, ...]:
    kind = KINDS[method]
    if not isinstance(model, Parts):
        return kind.targets
    parts = [name in TEXT_ENCODERS for name, _ in model.named_children()]
    return (kind.targets if not all(parts) else ()) + kind.text_targets


def _endings(paths: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(_ending(path) for path in paths)) or "none"


def _ends_with(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _ending(path: str) -> str:
    """The shortest ending of a path that begins with a name, such as "to_q" or "to_out.0"."""
    parts = path.split(".")
    first = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[first:])
