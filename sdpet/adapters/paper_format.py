"""The folder `<step>-adapters/` of the reference code (arXiv 2303.18181): one pickled state dict per adapter.

Files are named by CompVis' module path. Of a transformer block:
`input_blocks.1.1.transformer_blocks.0.adapter_inout.pt` with keys `adp.0.weight`, and a duplicate
`....adapter_inout.adp.pt` with keys `0.weight`. Of a ResBlock: `input_blocks.1.0.adapter.pt` with keys `0.weight`.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sdpet.adapters.attached import Adapters
from sdpet.adapters.attachment import matching_blocks
from sdpet.adapters.format import read_pickled
from sdpet.adapters.positions import position
from sdpet.adapters.spec import AdapterSpec
from sdpet.choices import DEFAULT_FORM

# kind of block -> (file, prefix of its keys); the proper file comes first, and its duplicate is read if it is missing
_FILES = {
    "transformer": (("adapter_inout.pt", "adp."), ("adapter_inout.adp.pt", "")),
    "resnet": (("adapter.pt", ""),),
}


def compvis_paths(unet: nn.Module) -> dict[str, str]:
    """Map paths in diffusers' UNet to paths in CompVis' UNetModel.

    CompVis numbers `input_blocks` consecutively: conv_in is the first, then each layer (a ResBlock with its attention)
    and each down-sampler is one. In `output_blocks` an up-sampler belongs to the layer before it. `middle_block`
    alternates ResBlock and attention. Layers are counted in this UNet, so it may have any number of them.

    Parameters
    ----------
    unet : nn.Module

    Returns
    -------
    dict of str to str
        For every ResBlock and Transformer2DModel in the blocks.
    """
    paths: dict[str, str] = {}
    index = 1  # input_blocks.0 is conv_in
    for b, block in enumerate(_get(unet, "down_blocks")):
        index = _layers(paths, f"down_blocks.{b}", block, "input_blocks", index)
        index += 1 if _get(block, "downsamplers") else 0
    middle = getattr(unet, "mid_block", None)
    if middle is not None:
        for kind, offset in (("resnets", 0), ("attentions", 1)):
            for j, _ in enumerate(_get(middle, kind)):
                paths[f"mid_block.{kind}.{j}"] = f"middle_block.{2 * j + offset}"
    index = 0
    for b, block in enumerate(_get(unet, "up_blocks")):
        index = _layers(paths, f"up_blocks.{b}", block, "output_blocks", index)
    return paths


def read_reference(unet: nn.Module, folder: Path, spec: AdapterSpec) -> dict[str, Tensor]:
    """Read the reference code's folder.

    Parameters
    ----------
    unet : nn.Module
        It decides which files are expected.
    folder : Path
    spec : AdapterSpec

    Returns
    -------
    dict of str to Tensor
        The weights, named as in `Adapters.state_dict()`.

    Raises
    ------
    ValueError
        If files are missing or left over, or a file and its duplicate differ; the message names them.
    """
    files = {path.name for path in folder.glob("*.pt")}
    tensors: dict[str, Tensor] = {}
    missing = []
    for block, names in _file_names(unet, spec).items():
        found = [(name, prefix) for name, prefix in names if name in files]
        if not found:
            missing.append(names[0][0])
            continue
        states = [_stripped(folder / name, prefix) for name, prefix in found]
        if not all(_equal(states[0], other) for other in states[1:]):
            raise ValueError(f"{folder / found[0][0]} and its duplicate {found[1][0]} differ; remove the stale one.")
        tensors.update({f"{block}.{key}": value for key, value in states[0].items()})
        files -= {name for name, _ in found}
    if missing or files:
        parts = [f"{what} {', '.join(sorted(names)[:4])} ({len(names)} in all)"
                 for what, names in (("missing", missing), ("left over", files)) if names]  # fmt: skip
        raise ValueError(f"{folder} does not fit this UNet and {spec.placement}: {'; '.join(parts)}.")
    return tensors


def export_reference(unet: nn.Module, adapters: Adapters, folder: str | Path) -> None:
    """Write adapters in the reference code's format, including its duplicate files. It does not contain the design.

    Parameters
    ----------
    unet : nn.Module
        It gives the file names.
    adapters : Adapters
    folder : str or Path
        Created if it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for block, names in _file_names(unet, adapters.spec).items():
        state = {key: value.detach().cpu() for key, value in adapters.by_block[block].state_dict().items()}
        for name, prefix in names:
            torch.save({prefix + key: value for key, value in state.items()}, folder / name)


def reference_mid_dim(folder: str | Path, kind: str) -> int:
    """Read the mid_dim of the adapters in the reference code's folder.

    Parameters
    ----------
    folder : str or Path
    kind : {"transformer", "resnet"}
        Kind of the blocks.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the folder holds no adapters of this kind of block.
    """
    layer = {"transformer": "0.weight", "resnet": "2.weight"}[kind]
    for name, prefix in _FILES[kind]:
        for path in sorted(Path(folder).glob(f"*.{name}")):
            state = read_pickled(path)
            if prefix + layer in state:
                return len(state[prefix + layer])
    raise ValueError(
        f"{folder} holds no adapters of {kind} blocks in the reference code's form (*.{_FILES[kind][0][0]})."
    )


def _file_names(unet: nn.Module, spec: AdapterSpec) -> dict[str, list[tuple[str, str]]]:
    """For each matching block, the files (name, prefix of the keys) that may hold its adapter."""
    if spec.placements or spec.form != DEFAULT_FORM:
        raise ValueError("The reference code's format holds adapters at one placement, of the form bottleneck.")
    compvis = compvis_paths(unet)
    names = {}
    for block in matching_blocks(unet, spec):
        head, dot, rest = block.partition(".transformer_blocks.")
        if head not in compvis:
            raise ValueError(f"{block} has no counterpart in the reference code's UNet.")
        stem = compvis[head] + dot + rest
        names[block] = [(f"{stem}.{suffix}", prefix) for suffix, prefix in _FILES[position(str(spec.din)).block]]
    return names


def _layers(paths: dict[str, str], path: str, block: nn.Module, name: str, index: int) -> int:
    attentions = len(_get(block, "attentions"))
    for j, _ in enumerate(_get(block, "resnets")):
        paths[f"{path}.resnets.{j}"] = f"{name}.{index}.0"
        if j < attentions:
            paths[f"{path}.attentions.{j}"] = f"{name}.{index}.1"
        index += 1
    return index


def _get(module: nn.Module, name: str) -> nn.ModuleList:
    return getattr(module, name, None) or nn.ModuleList()


def _stripped(path: Path, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in read_pickled(path).items()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
