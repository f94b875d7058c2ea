"""Saved adapters: sdpet's folder (adapters.safetensors + adapters.json), and loading of it or of the reference's."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sdpet.adapters.attached import Adapters
from sdpet.adapters.attachment import attach, sites_of
from sdpet.adapters.format import DESIGN, WEIGHTS, read_design, read_spec, read_weights
from sdpet.adapters.forms import make_form
from sdpet.adapters.identity import is_other_model
from sdpet.adapters.parts import UNET, model_at
from sdpet.adapters.spec import AdapterSpec
from sdpet.choices import FORMS
from sdpet.files.trust import require_trust

_SHOWN = 4  # how many blocks with missing or unknown keys an error names


# What torch and peft put before the names of a model that they wrap.
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")


def load_adapters(
    unet: Any,
    folder: str | Path,
    spec: AdapterSpec | None = None,
    *,
    alongside: bool = False,
    strict: bool = False,
    trust: bool | Collection[str] = False,
) -> Adapters:
    """Attach saved adapters to a UNet, and to the text encoder if they are for it.

    Parameters
    ----------
    unet : nn.Module or DiffusionPipeline
        The UNet or transformer, or the pipeline. Adapters in the text encoder need the pipeline.
    folder : str or Path
        sdpet's own folder, or the reference code's ``<step>-adapters/``.
    spec : AdapterSpec, optional
        The design. Needed for the reference code's folder, which does not contain it.
    alongside : bool
        Attach although the UNet carries adapters already, see `attach`. Strengths are set by each handle's `scale`.
    strict : bool
        Whether adapters that were made for another base model are an error. By default a warning says so.
    trust : bool or collection of str
        Whether the folder may name a form that is not sdpet's own, whose class is then imported: True, or the paths of
        the classes that it may name. The form of `spec` may be named anyway.

    Returns
    -------
    Adapters
        The handle.

    Raises
    ------
    ValueError
        If the folder is missing, holds no adapters, is damaged, names a form that is not trusted, or does not fit the
        UNet or `spec`; keys that are missing or unknown are named. The UNet is then as it was.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    if (folder / DESIGN).is_file():
        design, saved = read_design(folder / DESIGN), read_spec(folder / DESIGN)
        if spec is not None and spec != saved:
            raise ValueError(f"{folder} holds adapters of another design than spec: {saved}; leave spec out.")
        require_trusted_form(saved, folder / DESIGN, (saved.form,) if spec is not None else trust)
        tensors = read_weights(folder / WEIGHTS, design.get("digest"))
        unet = model_at(unet, design["where"])
        other = is_other_model(design.get("base"), unet)
        said = f"{folder} holds adapters of another base model: the weights of this one differ from those they were for"
        if other and strict:
            raise ValueError(f"{said}; load the model that they were trained on.")
        adapters = attach_weights(unet, saved, tensors, folder, alongside=alongside)
        if other:
            warnings.warn(f"{said}.", stacklevel=2)
        return adapters
    if any(folder.glob("*.pt")):
        if spec is None:
            raise ValueError(f"{folder} is the reference code's, which keeps no design; pass spec=AdapterSpec(...).")
        from sdpet.adapters.paper_format import read_reference

        unet = model_at(unet, UNET)
        return attach_weights(unet, spec, read_reference(unet, folder, spec), folder, alongside=alongside)
    raise ValueError(f"{folder} holds neither {DESIGN} (sdpet) nor *.pt files (reference code).")


def require_trusted_form(spec: AdapterSpec, where: Path, trust: bool | Collection[str] = False) -> None:
    """Raise ValueError if a received file names a form of others and the user has not said that it may be imported."""
    if spec.form not in FORMS:
        require_trust(spec.form, where, trust is True, () if isinstance(trust, bool) else trust)


def attach_weights(
    unet: nn.Module, spec: AdapterSpec, tensors: Mapping[str, Tensor], source: object, *, alongside: bool = False
) -> Adapters:
    """Attach adapters with given weights.

    Parameters
    ----------
    unet : nn.Module
    spec : AdapterSpec
    tensors : mapping of str to Tensor
        Named as in `Adapters.state_dict()`.
    source : object
        What errors call the weights, such as their folder.
    alongside : bool
        See `load_adapters`.

    Returns
    -------
    Adapters

    Raises
    ------
    ValueError
        If keys or shapes do not fit; the message names them.
    """
    adapters = attach(unet, spec, seed=0, alongside=alongside)
    try:
        _fill(adapters, tensors, source)
    except BaseException:
        adapters.detach()
        raise
    return adapters


def unattached_weights(unet: nn.Module, spec: AdapterSpec, tensors: Mapping[str, Tensor], source: object) -> Adapters:
    """Build adapters with given weights without attaching them; the UNet may be on the meta device.

    Parameters, result and errors are those of `attach_weights`.
    """
    adapters = Adapters(spec, {key: make_form(site.spec, site.shape) for key, site in sites_of(unet, spec).items()})
    _fill(adapters, tensors, source)
    return adapters


def _fill(adapters: Adapters, tensors: Mapping[str, Tensor], source: object) -> None:
    own, spec = adapters.state_dict(), adapters.spec
    places = {_unwrapped(key): key for key in own}  # the model may be wrapped now, or have been when it was saved
    tensors = {places.get(_unwrapped(key), key): value for key, value in tensors.items()}
    if missing := own.keys() - tensors.keys():
        raise ValueError(f"{source} does not fit this UNet and {spec.placement}: missing {_names(missing)}.")
    if unknown := tensors.keys() - own.keys():
        raise ValueError(f"{source} does not fit this UNet and {spec.placement}: left over {_names(unknown)}.")
    for key, value in own.items():
        if value.shape != tensors[key].shape:
            shapes = f"{tuple(tensors[key].shape)} in {source} but {tuple(value.shape)} in the design"
            raise ValueError(f"{key} has shape {shapes} (mid_dim {spec.mid_dim}).")
    adapters.load_state_dict(dict(tensors))


def _unwrapped(key: str) -> str:
    """A name without what wrappers of the whole model (DataParallel, torch.compile, peft) put before it."""
    while (prefix := next((prefix for prefix in _WRAPPERS if key.startswith(prefix)), None)) is not None:
        key = key.removeprefix(prefix)
    return key


def _names(keys: set[str]) -> str:
    """Format keys by block: `mid_block.attentions.0.transformer_blocks.0 (0.bias, 0.weight), ...`."""
    by_block: dict[str, list[str]] = {}
    for key in sorted(keys):
        block, *inner = key.rsplit(".", 2)
        by_block.setdefault(block, []).append(".".join(inner))
    named = ", ".join(f"{block} ({', '.join(inner)})" for block, inner in list(by_block.items())[:_SHOWN])
    return named + (f" and {len(by_block) - _SHOWN} more blocks" if len(by_block) > _SHOWN else "")
