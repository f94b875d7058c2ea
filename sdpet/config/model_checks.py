"""Check what of a config depends on its base model. torch is imported only where adapter.blocks picks some blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from sdpet.adapters.tables import TABLES, UNET_TABLES, BlockTable, cross, joint, single, text
from sdpet.choices import BLOCKS, DIFFUSION_SAMPLERS, DTYPES, FLOW_SAMPLERS
from sdpet.config.cells import InadmissibleCell
from sdpet.config.groups import ModelSettings
from sdpet.config.ids import cache_key
from sdpet.config.run_config import RunConfig
from sdpet.files.hashing import once
from sdpet.models.empty import block_paths
from sdpet.models.source import Source, source_of

TABLES_OF = {  # the tables of a denoiser's blocks, by its class; those of a UNet otherwise
    "SD3Transformer2DModel": (joint.SD3,),
    "FluxTransformer2DModel": (joint.FLUX, single.FLUX),
    "PixArtTransformer2DModel": (cross.PIXART,),
}


def check_model(config: RunConfig, source: Source | None = None) -> Source:
    """Check what depends on the base model: its files, sizes, placements and how it was trained.

    source: the base model, or its architecture; None finds the one that the config names. It is returned.
    """
    unet, trainer = config.unet, config.trainer
    named = config.values["unet"]
    source = source or once(cache_key("source", named), lambda: source_of(named, config.quiet))
    if unet.image_size is not None:
        step = 2 ** (len(source.config("vae")["block_out_channels"]) - 1)
        step *= 2 if source.denoiser == "transformer" else 1  # a token is 2 x 2 latents
        if unet.image_size % step:
            raise ValueError(f"unet.image_size must be a multiple of {step}, not {unet.image_size}.")
    _check_process(config, source)
    _check_where(config, source)
    _check_placement(config, source)
    _check_blocks(config, source)
    device, processes = trainer.device, trainer.world_size
    if device != "cpu" and device.split(":")[0] != "cuda":
        raise ValueError(f"trainer.device must be cpu, cuda or cuda:N, not {device!r}.")
    if processes > 1 and ":" in device:
        raise ValueError(f"trainer.device {device} is one GPU; with trainer.devices above 1 give cuda (or cpu).")
    if trainer.batch_size % processes:
        raise ValueError(
            f"trainer.batch_size {trainer.batch_size} must be a multiple of trainer.devices x trainer.num_nodes, "
            f"{processes}: it counts the images of a step on all of them together."
        )
    if device == "cpu" and (unet.vae_dtype or "float32") != "float32":
        raise ValueError(f"unet.vae_dtype {unet.vae_dtype} needs a GPU; on the CPU leave it null.")
    if device == "cpu" and unet.dtype != "float32":
        raise ValueError(f"unet.dtype {unet.dtype} needs a GPU; on the CPU use float32 (of {', '.join(DTYPES)}).")
    return source


def _check_process(config: RunConfig, source: Source) -> None:
    """What goes with diffusion, and what with flow matching."""
    unet, sampler = config.unet, config.sampler
    known, kind = (FLOW_SAMPLERS, "flow matching") if source.is_flow else (DIFFUSION_SAMPLERS, "diffusion")
    if sampler.target is None and sampler.name not in known:
        raise InadmissibleCell(
            f"sampler={sampler.name} does not go with {unet.name}, a {kind} model; choose {' or '.join(known)}.",
            f"{sampler.name} with {unet.name}",
        )
    if config.draws_class_images and (drawn := config.data.class_sampler) not in known:
        raise InadmissibleCell(
            f"data.class_sampler={drawn} does not go with {unet.name}, a {kind} model; choose {' or '.join(known)}.",
            f"{drawn} with {unet.name}",
        )
    if source.is_flow and config.task.options.get("min_snr") is not None:
        raise InadmissibleCell(
            f"task.min_snr weights the loss of diffusion models, and {unet.name} is trained by flow matching.",
            f"min_snr with {unet.name}",
        )
    if source.is_flow and unet.prediction is not None:
        raise InadmissibleCell(
            f"unet.prediction belongs to diffusion models, and {unet.name} is trained by flow matching.",
            f"prediction with {unet.name}",
        )
    changed = [key for key in ("noise_levels", "shift") if getattr(unet, key) != getattr(ModelSettings, key)]
    if changed and not source.is_flow:
        raise InadmissibleCell(
            f"unet.{changed[0]} belongs to flow matching, and {unet.name} is a diffusion model.",
            f"{changed[0]} with {unet.name}",
        )


def _clip_encoders(source: Source) -> list[str]:
    """Names of the text encoders that can carry adapters."""
    parts = [part for part in source.parts if part.startswith("text_encoder")]
    return [part for part in parts if source.config(part).get("model_type") == "clip_text_model"]


def _check_where(config: RunConfig, source: Source) -> None:
    """Refuse adapters in the text encoder where there is none of CLIP's, or it is away from the device."""
    where, name = config.adapter.where, config.unet.name
    if where == "unet":
        return
    if not _clip_encoders(source):
        raise InadmissibleCell(
            f"{name} has no CLIP text encoder for adapter.where={where}; choose adapter.where=unet.",
            f"where {where} with {name}",
        )
    if config.unet.offload:
        raise ValueError(
            f"adapter.where={where} needs the text encoder in each step; set unet.offload=false, or adapter.where=unet."
        )


def _check_placement(config: RunConfig, source: Source) -> None:
    """Refuse placements that no block of the parts which are tuned has, and parts that get no adapter."""
    adapter = config.adapter
    if adapter.placement is None:
        return
    own = TABLES_OF.get(source.config(source.denoiser).get("_class_name", ""), UNET_TABLES)
    denoiser = [*own, *(table for table in TABLES if table.package not in ("diffusers", text.CLIP.package))]
    parts: dict[str, list[BlockTable]] = {} if adapter.where == "text_encoder" else {config.unet.name: denoiser}
    if adapter.where != "unet":
        parts[f"the text encoder of {config.unet.name}"] = [text.CLIP]
    placements = list(adapter.placements or (adapter.placement,))
    for placement in placements:
        if not any(_has(tables, placement) for tables in parts.values()):
            _refuse(placement, *next(iter(parts.items())))
    for name, tables in parts.items():
        if not any(_has(tables, placement) for placement in placements):
            _refuse("+".join(placements), name, tables)


def _has(tables: Sequence[BlockTable], placement: str) -> bool:
    din, _, dout = placement.partition("-")
    return any(dout in table.outputs(din) for table in tables)


def _refuse(placement: str, name: str, tables: Sequence[BlockTable]) -> NoReturn:
    known = dict.fromkeys(
        f"{place.name}-{dout}"
        for table in tables
        for place in table.places
        if place.stream != place.name  # projections
        for dout in table.outputs(place.name)
    )
    raise InadmissibleCell(
        f"no block of {name} has the placement {placement}; choose one of {', '.join(known)}.",
        f"{placement} in {name}",
    )


def _check_blocks(config: RunConfig, source: Source) -> None:
    """Refuse `adapter.blocks` that name none of the blocks which a placement needs."""
    adapter = config.adapter
    if adapter.placement is None or adapter.blocks == "all":
        return
    pattern = re.compile(BLOCKS.get(adapter.blocks, adapter.blocks))
    if adapter.where == "text_encoder":
        _check_text_blocks(config, source, pattern)
        return
    network = source.config(source.denoiser)
    for placement in adapter.placements or (adapter.placement,):
        try:
            paths, others = block_paths(network, placement), block_paths(network)
        except ValueError:  # a class of one's own: known when it is loaded
            return
        if any(pattern.search(path) for path in paths):
            continue
        sentence = (
            f"adapter.blocks={adapter.blocks} matches no block of {config.unet.name} that {placement} needs; choose "
            f"{', '.join(BLOCKS)} or a regular expression for the paths {', '.join(paths)}."
        )
        if any(pattern.search(path) for path in others):  # another placement may need these blocks
            raise InadmissibleCell(sentence, f"{placement} in blocks {adapter.blocks} of {config.unet.name}")
        raise ValueError(sentence)


def _check_text_blocks(config: RunConfig, source: Source, pattern: re.Pattern[str]) -> None:
    """Refuse `adapter.blocks` that name no block of a text encoder."""
    for part in _clip_encoders(source):
        paths = [f"text_model.encoder.layers.{i}" for i in range(source.config(part)["num_hidden_layers"])]
        if not any(pattern.search(path) for path in paths):
            raise ValueError(
                f"adapter.blocks={config.adapter.blocks} matches no block of the {part} of {config.unet.name}; choose "
                f"all or a regular expression for the paths {paths[0]} to {paths[-1]}."
            )
