"""LoRA (Hu et al. 2021, arXiv 2106.09685) on projections of a model, as low-rank adapters at these positions."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.adapters.attached import Adapters
from sdpet.adapters.attachment import count_parameters, placed, refuse_second, sites_of
from sdpet.adapters.compiled import forget_compiled
from sdpet.adapters.forms import Site, make_form
from sdpet.adapters.identity import sample_weights
from sdpet.adapters.parts import TEXT_ENCODERS, UNET, model_at
from sdpet.adapters.positions import position
from sdpet.adapters.routes import placements_of
from sdpet.adapters.spec import AdapterSpec
from sdpet.methods.saved import check_base, check_fit, read_method, save_method
from sdpet.models.base import BaseModel

ATTENTION, FEED_FORWARD = "attention", "feed_forward"  # layers that LoRA can tune
_PREFIXES = ("unet.", "transformer.")  # of diffusers' names: where a pipeline has the denoiser
_SIDES = (("lora_A", "down"), ("lora_B", "up"))  # diffusers' names, and those of the form lowrank


class LoraTuning(Adapters):
    """Replaces W x by W x + scale * B A x at the projections of attention, and of feed-forwards if they are asked for.

    B starts at zero, so step 0 is the base model. It is the design `lora_design` of adapters, so it can be a member of
    a fleet like any other: A reads what the projection reads, and B adds to what it gives. The new weights are
    float32, also in a half-precision model. Files have diffusers' names.

    Parameters
    ----------
    base : BaseModel
    rank : int
        A has shape (rank, in) and B (out, rank).
    scale : float
        Factor on the update; peft's lora_alpha / rank.
    attached : bool
        Whether it is attached to the model now. Members of a fleet are attached by the fleet.
    layers : collection of str, or mapping of str to such
        "attention", "feed_forward" or both; of several parts of a model also by part, such as "text_encoder".
    where : {"unet", "text_encoder", "both"}
        The parts of the model, see `sdpet.adapters.model_at`. All have the same rank.

    Raises
    ------
    ValueError
        If the rank is below 1, or the model has no attention, or its projections are fused, or it carries adapters.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685.
    """

    DESIGN = "lora.json"
    FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers' pipe.load_lora_weights(folder) looks for

    def __init__(
        self,
        base: BaseModel,
        rank: int,
        scale: float = 1.0,
        *,
        attached: bool = True,
        layers: Collection[str] | Mapping[str, Collection[str]] = (ATTENTION,),
        where: str = UNET,
    ):
        if rank < 1:
            raise ValueError(f"rank must be at least 1, not {rank}.")
        model = model_at(base, where)
        by_part = layers if isinstance(layers, Mapping) else {}
        spec = lora_design(model, rank, scale, {name for names in by_part.values() for name in names} or layers)
        sites = {
            key: site
            for key, site in sites_of(model, spec).items()
            if not by_part or _layer_of(str(site.spec.din)) in by_part.get(key.partition(".")[0], ())
        }
        if attached:
            refuse_second(model)
        drawn = {key: _drawn(site) for key, site in sites.items()}
        super().__init__(spec, drawn, base=sample_weights(model))
        self.layers = {**layers} if isinstance(layers, Mapping) else tuple(layers)
        self._prefix = "" if where != UNET else _PREFIXES[0 if hasattr(base.unet, "down_blocks") else 1]
        self._paths = {key: f"{site.path}.{site.route.source.reads[0].path}" for key, site in sites.items()}
        if attached:
            self._connect(model, sites)
            forget_compiled()

    @property
    def rank(self) -> int:
        """Rank of the updates."""
        return int(self.spec.mid_dim or 1)

    def save(self, folder: str | Path) -> None:
        """Write lora.json and, last, the weights with diffusers' key names; both atomically.

        The strength is in the file's metadata, where diffusers finds it. `export_format` writes it for other readers.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        header = {"lora_adapter_metadata": json.dumps(self._header())}
        meta: dict[str, Any] = {"format": 1, "method": "lora", "rank": self.rank, "scale": self.spec.scale}
        meta["parameters"] = self.num_parameters()
        if self.where != UNET:
            meta["where"] = self.where
        if self.layers != (ATTENTION,):
            meta["layers"] = self.layers if isinstance(self.layers, dict) else list(self.layers)
        save_method(Path(folder), self.DESIGN, meta, self.FILE, self._named(), self._base, {"format": "pt", **header})

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path, strict: bool = False) -> LoraTuning:
        """Put saved weights back on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` wrote.
        strict : bool
            Whether weights that were made for another base model are an error; by default a warning says so.

        Returns
        -------
        LoraTuning

        Raises
        ------
        ValueError
            If the saved weights do not fit this model.
        """
        meta, tensors = read_method(Path(folder), cls.DESIGN, cls.FILE)
        where = meta.get("where", UNET)
        check_base(Path(folder), meta, model_at(base, where), strict)
        with torch.random.fork_rng(devices=[]):
            handle = cls(base, meta["rank"], meta["scale"], layers=meta.get("layers", (ATTENTION,)), where=where)
        try:
            handle._fill(tensors, folder)
        except ValueError:
            handle.detach()
            raise
        return handle

    @torch.no_grad()
    def _fill(self, tensors: Mapping[str, Tensor], source: object) -> None:
        named = self._named()
        if self._prefix == _PREFIXES[1] and all(key.startswith(_PREFIXES[0]) for key in tensors):
            # Earlier versions wrote "unet." for transformers, too.
            tensors = {self._prefix + key.removeprefix(_PREFIXES[0]): value for key, value in tensors.items()}
        check_fit(source, tensors, named)
        for key, parameter in named.items():
            parameter.copy_(tensors[key])

    def _header(self) -> dict[str, Any]:
        """Rank, alpha and layers as diffusers reads them, for each part of a pipeline.

        A text encoder's layers are told by their last names, as its paths differ between versions of transformers.
        """
        found: dict[str, Any] = {}
        for path in self._paths.values():
            part, _, layer = (self._prefix + path).partition(".")
            layer = layer.rpartition(".")[2] if part in TEXT_ENCODERS else layer
            found |= {f"{part}.r": self.rank, f"{part}.lora_alpha": self.rank * self.spec.scale}
            targets = found.setdefault(f"{part}.target_modules", [])
            targets += [layer] if layer not in targets else []
        return found

    def _named(self) -> dict[str, nn.Parameter]:
        """The weights by diffusers' names."""
        return {
            f"{self._prefix}{self._paths[key]}.{side}.weight": form.get_submodule(name).weight  # type: ignore[misc]
            for key, form in self.by_block.items()
            for side, name in _SIDES
        }


def lora_design(model: nn.Module, rank: int, scale: float = 1.0, layers: Collection[str] = (ATTENTION,)) -> AdapterSpec:
    """The design of adapters that is LoRA: form lowrank at every projection of these layers that a model has.

    Parameters
    ----------
    model : nn.Module
    rank : int
    scale : float
    layers : collection of str
        "attention", "feed_forward" or both.

    Returns
    -------
    AdapterSpec

    Raises
    ------
    ValueError
        If the model has no such layers in its blocks, or attention elsewhere.
    """
    if unknown := sorted({*layers} - {ATTENTION, FEED_FORWARD}) or not layers:
        raise ValueError(f"layers of LoRA are {ATTENTION} and {FEED_FORWARD}, not {unknown or 'none'}.")
    found = [p for p in placements_of(model) if _layer_of(p.partition("-")[0]) in layers]
    if not found:
        raise ValueError(f"this {type(model).__name__} has no attention, which LoRA tunes; choose an adapter at resi.")
    spec = AdapterSpec(placements=tuple(found), form="lowrank", mid_dim=rank, scale=float(scale))
    if ATTENTION in layers:
        _refuse_attention_elsewhere(model, spec)
    return spec


def rank_for(unet: nn.Module, params: int) -> int:
    """The rank for which the number of parameters comes nearest to a given one.

    Parameters
    ----------
    unet : nn.Module
    params : int
        Number of parameters to aim at.

    Returns
    -------
    int
        At least 1.
    """
    return max(1, round(params / count_parameters(unet, lora_design(unet, 1))))


def _layer_of(name: str) -> str | None:
    """The layers to which a position belongs that is a projection; None for other positions."""
    layer, _, projection = name.partition(".")
    if not position(name).is_projection:
        return None
    if layer.endswith("ff"):
        return FEED_FORWARD if projection in ("in", "out") else None
    return ATTENTION if "ff" not in layer and projection in ("q", "k", "v", "out") else None


def _refuse_attention_elsewhere(model: nn.Module, spec: AdapterSpec) -> None:
    """Old UNets have attention between their blocks; tuning all but that would be another method than is said."""
    blocks = {site.path for site in sites_of(model, spec).values()}
    for path, module in getattr(model, "_orig_mod", model).named_modules():
        parts = path.split(".")
        if hasattr(module, "to_q") and not any(".".join(parts[:n]) in blocks for n in range(len(parts))):
            raise ValueError(
                f"{path} is attention outside of the blocks that adapters know, which LoRA would leave out."
            )


def _drawn(site: Site) -> nn.Module:
    """Initial values as peft draws them, from the same random numbers: a run is the same with it and without."""
    spec = replace(site.spec, init="zero")
    form: Any = make_form(spec, site.shape)
    nn.init.kaiming_uniform_(form.down.weight, a=math.sqrt(5))
    dtype = next(site.route.block.parameters()).dtype
    with torch.no_grad():
        form.down.weight.copy_(form.down.weight.to(dtype))  # peft rounds to the dtype of the model
    return placed(form, site.route.block)
