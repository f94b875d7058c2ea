"""`sdpet doctor unet=... adapter=...`: the size of a model and a design, and what is missing to train them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sdpet.choices import WHERE_WORDS
from sdpet.config import RunConfig, sized, validate
from sdpet.files.project import CONF
from sdpet.models.source import Source, architecture_of, source_of

if TYPE_CHECKING:
    from sdpet.models.estimate import Memory
    from sdpet.scoring.networks.memory import ScorerMemory

GIB = 2**30


def model_checks(overrides: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, finding, remedy) of each check of the config that the overrides give; see `doctor.checks`."""
    config = composed(overrides)
    unet, missing = config.unet, ""
    try:
        source: Source | None = source_of(asdict(unet), fetch=False)
    except ValueError as error:
        source, missing = architecture_of(asdict(unet)), str(error) if unet.path else "give unet.path=MODEL.ckpt"
    if source is not None:
        yield from _sizes(sized(config, source), source, here=not missing)
    yield "weights", "not on this machine" if missing else str(source and source.path), missing


def composed(overrides: Sequence[str]) -> RunConfig:
    """The checked config of train.py with these overrides; the base model need not be on this machine."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict

    from sdpet.commands.errors import sentence

    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", list(overrides))
    except HydraException as error:
        raise ValueError(sentence(error)) from None
    if OmegaConf.is_missing(config.unet, "path"):
        config.unet.path = ""
    unet = dict(OmegaConf.to_container(config.unet, resolve=True))  # type: ignore[arg-type]
    source = architecture_of(unet | {"config": unet.get("config")})
    known = {"path": unet.get("path") or None}  # without the file, an architecture is enough
    with open_dict(config):  # of an unknown architecture, the other groups are checked with the lab's model
        config.unet = unet | (known if source else {"path": None, "use_ema": False, "config": None, "vae": None})
        size = {key: config.adapter.get(key) for key in ("mid_dim", "params")}
    found = validate(config, source).changed(unet=unet)
    if source is not None or any(size.values()):
        return found
    return found.changed(adapter=size)  # as usual for the model, not for the lab


def _sizes(config: RunConfig, source: Source, here: bool) -> Iterator[tuple[str, str, str]]:
    """Yield the checks of the model, the design and the memory of a training step."""
    from sdpet.methods import build
    from sdpet.models import BaseModel
    from sdpet.models.estimate import BYTES, count, on_meta, step_memory
    from sdpet.models.estimate_loading import mapped_bytes
    from sdpet.models.estimate_passes import caching_bytes, sampling_bytes
    from sdpet.runs.libraries import library_bytes
    from sdpet.runs.setup import SCORERS_UNUSED_BY, make_design
    from sdpet.scoring.networks.memory import scorer_memory

    libraries = library_bytes() if config.trainer.device == "cpu" else 0  # now, before there are networks
    networks = on_meta(source)
    sizes = {name: count(network) for name, network in networks.items()}
    yield (
        "model",
        f"{config.unet.name}: "
        + ", ".join(f"{source.denoiser if n == 'unet' else n} {size:,}" for n, size in sizes.items()),
        "",
    )
    base = BaseModel(**networks, tokenizer=_tokenizer(source), scheduler=None, name="", weight_hash="", side=None)  # type: ignore[arg-type]
    base.side = config.unet.image_size
    design = make_design(config, base)
    handle = build(base, design)
    trainable = handle.num_parameters()
    form = f"{design.spec.placement} {design.spec.words}" if design.spec else design.method
    form += f" in the {WHERE_WORDS[design.where]}" if design.where in WHERE_WORDS else ""
    what = {"adapter": "adapters", "lora": "layers"}.get(design.method)
    blocks = f"{len(handle)} {what}, " if what else ""
    share = 100 * trainable / sizes["unet"]
    what_denoises = "UNet" if source.denoiser == "unet" else "transformer"
    yield "design", f"{form}: {blocks}{trainable:,} parameters, {share:.3g} % of the {what_denoises}", ""
    trainer = config.trainer
    rows = trainer.batch_size * (2 if config.task.reg_weight > 0 else 1)
    networks["unet"].train()
    needed = step_memory(
        networks, list(handle.parameters()), rows, base.latent_shape[-1], config.unet.dtype,
        trainer.precision, trainer.grad_checkpointing, handle.learns_text, trainer.accumulate,
    )  # fmt: skip
    unet = config.unet
    apart = count(networks["vae"]) * (BYTES[unet.vae_dtype or unet.dtype] - BYTES[unet.dtype])
    needed = replace(needed, weights=needed.weights + apart)
    unused = SCORERS_UNUSED_BY.get(config.task.name, ())
    wanted = {key: scorer for key, scorer in config.eval.scorers.items() if key not in unused}
    scorers = scorer_memory(wanted, trainer.device, base.image_size)
    yield "memory", _memory(needed, rows, base.image_size, config, scorers.total, handle.learns_text), ""
    networks["unet"].eval()
    half = [(unet.vae_dtype or unet.dtype) != "float32", unet.dtype != "float32" or config.sampler.autocast is not None]
    at_once = _images_of_vae(networks["vae"], config, base.image_size)
    caching = caching_bytes(networks["vae"], base.image_size, unet.vae_tiling, at_once) // (2 if half[0] else 1)
    shown = f"{at_once} x {base.image_size} x {base.image_size} pixels"
    frozen = sum(count(network) for network in networks.values()) * BYTES[unet.dtype] + apart
    yield "caching", f"{(frozen + caching) / GIB:.1f} GiB expected while the VAE encodes {shown} at a time", ""
    after = frozen + needed.trainable + scorers.total
    drawn = _drawn_together(config)
    guided = 2 if config.sampler.guidance != 1 and not base.family.embeds_guidance else 1
    sampling = after + sampling_bytes(
        networks, guided * drawn, base.latent_shape[-1], unet.vae_tiling, (half[1], half[0]), min(drawn, at_once)
    )  # fmt: skip
    yield "sampling", f"{sampling / GIB:.1f} GiB expected while {drawn} images are drawn together (eval.chunk)", ""
    changes = _change_of_noise(networks["unet"], base.latent_shape[-1], config)
    at_work = {name: size // (2 if config.eval.plan.get("autocast") else 1) for name, size in scorers.at_work.items()}
    scoring = after + max(changes, *at_work.values(), 0)
    yield "scoring", _scoring(scoring, scorers), ""
    phases = {"a step": needed.total + scorers.total, "caching": frozen + caching} | {
        "sampling": sampling, "scoring": scoring,
    }  # fmt: skip
    largest = max(phases, key=lambda phase: phases[phase])
    yield "largest", f"{largest}, {phases[largest] / GIB:.1f} GiB", ""
    if libraries:
        mapped = mapped_bytes(source, networks, lambda part: (part == "vae" and unet.vae_dtype) or unet.dtype)
        yield "process", _process(libraries, phases, frozen, mapped if here else None), ""
    yield _device(trainer.device, phases[largest])


def _process(libraries: int, phases: Mapping[str, int], frozen: int, mapped: int | None) -> str:
    """What a process takes that computes on the CPU."""
    step, most = phases["a step"] + libraries, max(phases.values()) + libraries
    words = f"{step / GIB:.2f} GiB expected in a step with {libraries / GIB:.2f} of Python and its libraries, at most "
    words += f"{most / GIB:.2f}"
    if mapped is None:
        return words
    return (
        f"{words}; {(frozen + libraries + mapped) / GIB:.2f} while weights are read, of which {mapped / GIB:.2f} are "
        "pages of their files, which the system drops if memory is short"
    )


def _images_of_vae(vae: Any, config: RunConfig, side: int) -> int:
    """Number of images that the VAE takes at a time on the device, as far as its memory is known."""
    import torch

    from sdpet.models.memory_limit import free_memory, images_that_fit

    if config.unet.vae_tiling:
        vae.enable_tiling()
    if config.unet.vae_slicing:
        vae.enable_slicing()
    known = config.trainer.device == "cpu" or torch.cuda.is_available()
    try:
        return images_that_fit(vae, side, side, free_memory(torch.device(config.trainer.device)) if known else 2**50)
    finally:
        vae.disable_tiling()


def _change_of_noise(denoiser: Any, latent_side: int, config: RunConfig) -> int:
    """Bytes beyond the weights while the change of the predicted noise is computed."""
    from sdpet.models.estimate import inputs
    from sdpet.models.estimate_passes import peak_bytes
    from sdpet.scoring.noise import LATENT_PIXELS

    images = 0 if config.task.name == "finetune" else config.eval.plan.get("noise_images", 0)
    if not images or config.task.reg_weight == 0:
        return 0
    rows = 2 * max(1, min(images, LATENT_PIXELS // (2 * latent_side**2)))
    call = inputs(denoiser, rows, latent_side)
    half = config.unet.dtype != "float32" or config.eval.plan.get("autocast") is not None
    return peak_bytes(denoiser, lambda: denoiser(**call)) // (2 if half else 1)


def _scoring(total: int, scorers: ScorerMemory) -> str:
    listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in scorers.weights.items())
    words = f"{total / GIB:.1f} GiB expected"
    words += f" with the scorers' weights, which are loaded from the beginning: {listed}" if listed else ""
    return words + (f"; not included: {', '.join(scorers.unknown)}" if scorers.unknown else "")


def _drawn_together(config: RunConfig) -> int:
    """Number of images that a run draws at a time."""
    from sdpet.runs.setup import make_plan

    plan = make_plan(config)
    if config.task.name == "finetune":
        return min(plan.chunk, plan.images)
    images = plan.subject_images + plan.class_images + plan.prompt_images * len(plan.prompts)
    return max(1, min(plan.chunk, images))


def _tokenizer(source: Source) -> Any:
    from sdpet.models.compvis.tokenizer import clip_tokenizer

    if not (source.configs / "tokenizer").is_dir():
        return clip_tokenizer()
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(source.configs / "tokenizer", local_files_only=True)


def _memory(needed: Memory, rows: int, side: int, config: RunConfig, scorers: int, learns_text: bool) -> str:
    parts = {
        "frozen weights": needed.weights,
        "trained weights": needed.trainable,
        "AdamW": needed.optimizer,
        **({"scorers": scorers} if scorers else {}),
    }
    gradients, activations = (f"{size / GIB:.2f}" for size in (needed.gradients, needed.activations))
    listed = " + ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    if needed.gradients_stay:
        listed += f" + gradients {gradients} + activations {activations}"
    elif needed.gradients > needed.activations:
        listed += f" + gradients {gradients}, which take the place of activations, {activations}"
    else:
        listed += f" + activations {activations}, whose place gradients take, {gradients}"
    return (
        f"{(needed.total + scorers) / GIB:.1f} GiB expected in a step of {rows} x {side} x {side} pixels = {listed} "
        f"(weights {config.unet.dtype}, precision {config.trainer.precision}; activations computed from the "
        f"architecture with fused attention; {'those of the text encoder, ' if learns_text else ''}torch itself and "
        "workspace not included)"
    )


def _device(device: str, needed: int) -> tuple[str, str, str]:
    import torch

    if device != "cpu":
        if not torch.cuda.is_available():
            return "device", device, "no usable CUDA device; trainer=cpu runs on the CPU"
        properties = torch.cuda.get_device_properties(device)
        available, name = properties.total_memory, properties.name
    else:
        import psutil

        available, name = psutil.virtual_memory().available, "the CPU"
    cure = (
        ""
        if available > needed
        else "too little memory; try trainer.batch_size=1, eval.chunk=4 or unet.dtype=bfloat16 on a GPU"
    )
    return "device", f"{name}, {available / GIB:.1f} GiB {'free' if device == 'cpu' else 'in total'}", cure
