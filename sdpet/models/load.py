"""Load a base model from a pipeline folder or from one original checkpoint file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdpet import choices
from sdpet.models.base import BaseModel
from sdpet.models.pipeline_folder import PARTS_WITH_WEIGHTS, read_config
from sdpet.models.source import ARCHITECTURES, LAB_TRANSFORMER, Source, source_of

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in choices.DTYPES}


def load_base(
    name: str = "lab",
    path: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    *,
    use_ema: bool = False,
    config: str | Path | None = None,
    image_size: int | None = None,
    pooled: bool = True,
    t5: bool = True,
    noise_levels: str = "logit_normal",
    shift: float | None = None,
    vae: str | Path | None = None,
    prediction: str | None = None,
    vae_dtype: str | None = None,
    vae_tiling: bool = False,
    vae_slicing: bool = False,
    offload: bool = False,
) -> BaseModel:
    """Load a base model, frozen and in evaluation mode.

    Parameters
    ----------
    name : str
        "lab" for the small UNet that the package contains, "lab_dit" for its transformer, otherwise only a label for
        `path`.
    path : str or Path, optional
        A diffusers folder of Stable Diffusion (v1, v2, XL, 3), Flux or PixArt, a hub id such as
        "CompVis/stable-diffusion-v1-4" or an original checkpoint file. None means the lab's folder with the lab's
        names, and with any other name that the name is the path.
    device : str
    dtype : {"float32", "float16", "bfloat16"}
        Whatever the files contain.
    use_ema, config
        For a checkpoint file, see `find_source`.
    image_size : int, optional
        Side of square images in pixels; None for the model's own.
    pooled : bool
        False takes the lab's transformer that was trained without pooled text.
    t5 : bool
        False leaves out the third text encoder of Stable Diffusion 3, whose states are then zeros.
    noise_levels : {"logit_normal", "uniform"}
        How flow matching draws noise levels in training.
    shift : float, optional
        Shift of the noise levels of a flow matching model; None for the one in its scheduler's config.
    vae : str or Path, optional
        Another VAE than the model's own, see `find_source`.
    prediction : {"epsilon", "v_prediction"}, optional
        What the UNet predicts, if it differs from its scheduler's config: a checkpoint file does not say it.
    vae_dtype : {"float32", "float16", "bfloat16"}, optional
        Of the VAE, if it differs from `dtype`.
    vae_tiling : bool
        Whether the VAE works tile by tile (diffusers' `enable_tiling`): less memory for images that are larger than
        its own sample_size.
    vae_slicing : bool
        Whether the VAE takes one image at a time (diffusers' `enable_slicing`): the least memory, and the same bits
        however many images there are.
    offload : bool
        Whether VAE and text encoders are on the device only while they work.

    Returns
    -------
    BaseModel

    Raises
    ------
    ValueError
        If something is missing or incomplete, or the dtype or device is unknown; the message is one sentence.
    """
    for key in (dtype, vae_dtype or dtype):
        if key not in DTYPES:
            raise ValueError(f"dtype {key!r} is unknown; choose one of {', '.join(DTYPES)}.")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but this machine has no usable CUDA device; choose 'cpu'.")
    where = name if path is None and name not in ("lab", LAB_TRANSFORMER) else path
    unet = {"name": name, "path": where, "use_ema": use_ema, "config": config, "pooled": pooled, "t5": t5}
    unet["vae"] = vae
    source = source_of(unet)
    with no_progress_bars():
        dtypes = _Dtypes(DTYPES[dtype], DTYPES[vae_dtype or dtype])
        parts = (_read_checkpoint if source.is_checkpoint else _read_folder)(source, dtypes)
        if source.vae is not None:
            from sdpet.models.compvis.load import load_vae

            parts["vae"] = load_vae(source, dtypes.vae)
    if prediction is not None:
        parts["scheduler"].register_to_config(prediction_type=prediction)
    digest = source.content_hash() + ("" if prediction is None else f"-{prediction}")
    digest += "" if vae_dtype in (None, dtype) else f"-vae-{vae_dtype}"
    digest += "-tiled" * vae_tiling + "-sliced" * vae_slicing  # caches of latents and images are known by it
    for part in PARTS_WITH_WEIGHTS:
        if part in parts:
            _check_finite(parts[part], part, source)
            parts[part].requires_grad_(False).eval()
            parts[part].to("cpu" if offload and part not in ("unet", "transformer") else device)
    if "transformer" in parts:
        parts["unet"] = parts.pop("transformer")
    if vae_tiling:
        parts["vae"].enable_tiling()
    if vae_slicing:
        parts["vae"].enable_slicing()
    own = {"side": image_size, "pooled": pooled, "noise_levels": noise_levels, "offload": offload}
    base = BaseModel(name=name, weight_hash=digest, **own, **parts)  # type: ignore[arg-type]
    if base.prediction_type not in ("epsilon", "v_prediction", "flow"):
        raise ValueError(f"{source.path} predicts {base.prediction_type!r}; choose epsilon, v_prediction or flow.")
    if shift is not None:
        base.scheduler = _shifted(base, shift)
    if base.image_size % base.downsampling:
        raise ValueError(f"unet.image_size must be a multiple of {base.downsampling}, not {base.image_size}.")
    if vae_dtype is None and dtype == "float16" and base.vae.config.get("force_upcast") and base.is_xl:
        base.vae.float()  # activations of the VAE overflow float16
    return base


class _Dtypes(NamedTuple):
    """Of the denoiser and the text encoders, and of the VAE."""

    rest: torch.dtype
    vae: torch.dtype

    def of(self, part: str) -> torch.dtype:
        return self.vae if part == "vae" else self.rest


def _shifted(base: BaseModel, shift: float) -> Any:
    """The scheduler with another fixed shift of noise levels."""
    if not base.is_flow:
        raise ValueError("unet.shift goes with models trained by flow matching; leave it out.")
    return type(base.scheduler).from_config(base.scheduler.config, shift=shift, use_dynamic_shifting=False)


def _read_folder(source: Source, dtypes: _Dtypes) -> dict[str, Any]:
    """The parts of a pipeline folder by the names they have in BaseModel; a transformer by "transformer"."""
    parts: dict[str, Any] = {"scheduler": _scheduler(source)}
    for part in source.parts:
        folder = source.folder(part)
        if part.startswith("tokenizer"):
            parts[part] = _tokenizer(folder)
        elif part != "scheduler" and not (part == "vae" and source.vae is not None):
            options = {"torch_dtype": dtypes.of(part), "variant": source.variant(part), "local_files_only": True}
            parts[part] = _read_network(network_class(source, part), part, source, options)
    if "text_encoder_2" in parts and "unet" in parts:
        parts["zero_empty"] = _zeros_for_empty(source.path)
    return parts


def _scheduler(source: Source) -> Any:
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    kind = FlowMatchEulerDiscreteScheduler if source.is_flow else DDPMScheduler
    return kind.from_pretrained(source.folder("scheduler"))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer, CLIPTokenizer

    own = folder / "tokenizer_config.json"
    kind = read_config(own).get("tokenizer_class", "") if own.is_file() else ""
    return (AutoTokenizer if kind.startswith("T5") else CLIPTokenizer).from_pretrained(folder, local_files_only=True)


def network_class(source: Source, part: str) -> Any:
    """diffusers' or transformers' class of a part with weights, such as "vae"."""
    import diffusers
    import transformers

    config = source.config(part)
    if part == "vae":
        return diffusers.AutoencoderKL
    if part == "unet":
        return diffusers.UNet2DConditionModel
    if part == "transformer":
        return getattr(diffusers, config["_class_name"])
    if config.get("model_type") == "t5":
        return transformers.T5EncoderModel
    if source.denoiser == "unet":  # whatever the config says: one encoder, or the two of Stable Diffusion XL
        projected = part == "text_encoder_2"
    else:
        projected = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    return transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel


def _zeros_for_empty(folder: Path) -> bool:
    """Whether the pipeline in the folder takes zeros for the empty prompt, as Stable Diffusion XL does."""
    index = folder / "model_index.json"
    return not index.is_file() or read_config(index).get("force_zeros_for_empty_prompt", True)


def _read_network(kind: Any, part: str, source: Source, options: dict[str, Any]) -> Any:
    """One network of a pipeline folder; ValueError unless every one of its parameters got a value from its files."""
    folder = source.folder(part)
    try:
        network, told = kind.from_pretrained(folder, **options, output_loading_info=True)
    except Exception as error:  # the libraries raise many kinds, some of them for a tensor of another shape
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{part} of {source.path} cannot be loaded ({type(error).__name__}: {reason:.200})."
        ) from error
    # diffusers tells missing weights apart from those of another shape, transformers both by name.
    missing = sorted(str(key) for key in told.get("missing_keys", ()))
    unlike = sorted(str(key[0] if isinstance(key, tuple) else key) for key in told.get("mismatched_keys", ()))
    if missing or unlike:
        wrong = [*missing, *unlike]
        raise ValueError(
            f"{part} of {source.path} is incomplete: {len(wrong)} weights are missing or of another shape, first "
            f"{wrong[0]}; get the model's files again."
        )
    return network


def _check_finite(network: torch.nn.Module, part: str, source: Source) -> None:
    """Raise ValueError for weights that are NaN or infinite; it names the first such tensor."""
    for name, value in network.state_dict().items():
        # The sum is quick and finite for nearly all tensors; only where it is not, every value is looked at.
        if not value.is_floating_point() or torch.isfinite(value.sum(dtype=torch.float32)):
            continue
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{part} of {source.path} holds weights that are NaN or infinite, in {name}; get its files again."
            )


def _read_transformer_file(source: Source, dtypes: _Dtypes) -> dict[str, Any]:
    """The parts of a single file of Stable Diffusion 3 or Flux; those that it lacks come from the configs' folder."""
    from sdpet.models.compvis.load_transformer import load_transformer_file
    from sdpet.models.compvis.tokenizer import clip_tokenizer

    wanted = [p for p in source.parts if p in PARTS_WITH_WEIGHTS and not (p == "vae" and source.vae is not None)]
    kinds = {part: network_class(source, part) for part in wanted}
    held = {part: kind for part, kind in kinds.items() if not source.is_in_folder(part)}
    parts = load_transformer_file(source, held, dtypes.of)
    for part in [part for part in wanted if part not in held]:
        options = {"torch_dtype": dtypes.of(part), "variant": source.variant(part), "local_files_only": True}
        parts[part] = _read_network(kinds[part], part, source, options)
    for part in [part for part in wanted if part.startswith("text_encoder")]:
        name = part.replace("text_encoder", "tokenizer")
        there = source.folder(name).is_dir()
        parts[name] = _tokenizer(source.folder(name)) if there else clip_tokenizer("!" if name[-1] == "2" else None)
    return parts | {"scheduler": _scheduler(source)}


def _read_checkpoint(source: Source, dtypes: _Dtypes) -> dict[str, Any]:
    from diffusers import DDPMScheduler

    if source.single is not None:
        return _read_transformer_file(source, dtypes)

    from sdpet.models.compvis.load import load_checkpoint
    from sdpet.models.compvis.tokenizer import clip_tokenizer

    parts = load_checkpoint(source, dtypes.of)
    there = (source.configs / "scheduler").is_dir()
    schedule = (source.configs if there else ARCHITECTURES / "v1") / "scheduler"
    for part in [part for part in source.parts if part.startswith("tokenizer")]:
        if (source.configs / part).is_dir():
            from transformers import CLIPTokenizer

            parts[part] = CLIPTokenizer.from_pretrained(source.configs / part, local_files_only=True)
        else:
            openclip = part == "tokenizer_2" or source.configs == ARCHITECTURES / "v21"
            parts[part] = clip_tokenizer("!" if openclip else None)
    if "tokenizer_2" in parts:
        parts["zero_empty"] = _zeros_for_empty(source.configs)
    return parts | {"scheduler": DDPMScheduler.from_pretrained(schedule)}


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Switch off transformers' progress bars, which it shows for every file, inside the block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
