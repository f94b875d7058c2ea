"""The files of a base model, and the hash that identifies them. Does not import torch, and is fast.

A base model is the lab, a pipeline folder in diffusers' format, a hub id (looked up in the local cache before the
network is asked) or one original checkpoint file. A checkpoint of a transformer may lack parts that a folder then has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sdpet
from sdpet.files.hashing import hash_file, hash_files
from sdpet.models.compvis.scan import check_checkpoint, check_vae, input_channels_sentence
from sdpet.models.compvis.transformer_file import TransformerFile, transformer_file
from sdpet.models.hub import from_hub, looks_like_hub_id
from sdpet.models.pipeline_folder import (
    PARTS_WITH_WEIGHTS,
    THIRD_PARTS,
    check_folder,
    check_transformer,
    config_files,
    files_of,
    loaded_files,
    parts_of,
    read_config,
    weights_of,
)

LAB_FOLDER = Path(sdpet.__file__).parent / "lab" / "pipeline"
LAB_TRANSFORMERS = {  # by unet.pooled; they share the other parts of the lab
    True: LAB_FOLDER.with_name("transformer"),
    False: LAB_FOLDER.with_name("transformer_without_pooled"),
}
ARCHITECTURES = Path(sdpet.__file__).parent / "architectures"
LAB_TRANSFORMER = "lab_dit"  # name in the group unet
# name of a file in conf/unet -> folder of its architecture
ARCHITECTURE_OF = {
    "sd14": "v1", "sd15": "v1", "ckpt": "v1", "sd21": "v21", "sdxl": "sdxl",
    "sd3": "sd3_medium", "sd35": "sd35_medium", "flux": "flux_dev", "pixart": "pixart_sigma",
}  # fmt: skip
CHECKPOINTS = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
# Hashes of the lab, and of what its transformer shares with it -> those before its text encoder said "float32".
SAME_AS = {
    "5ef114d753d692636cfc5004fe7d57b7": "b2b3deb622944d89987f7290627ecb73",
    "ad28099fabe137a8c7193fc87be250e4": "2c91b78eb3561d73576134e2e422d464",
}
USUAL_PARAMS = {"small": 24_000, "large": 1_511_040}  # of all adapters: in the lab; as in the paper, with mid_dim 60
LARGE = 320  # channels of the first block of Stable Diffusion


@dataclass(frozen=True)
class Source:
    """The files of one base model.

    Parameters
    ----------
    path : Path
        A pipeline folder or a checkpoint file.
    configs : Path
        Folder with the config of each part (``unet/config.json``, ...): the pipeline folder itself, or for a checkpoint
        the folder of its architecture.
    use_ema : bool
        For a checkpoint, use the averaged weights instead of the last ones.
    shared : Path, optional
        A pipeline folder that has the parts which `path` lacks.
    left_out : tuple of str
        Parts that are not loaded.
    vae : Path, optional
        Another VAE than the model's own: a file, or a folder in diffusers' format.
    single : TransformerFile, optional
        What a checkpoint of a transformer holds. The weights of the other parts are in `configs`.
    """

    path: Path
    configs: Path
    use_ema: bool = False
    shared: Path | None = None
    left_out: tuple[str, ...] = ()
    vae: Path | None = None
    single: TransformerFile | None = None

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is one original checkpoint file."""
        return self.path != self.configs

    def config(self, part: str) -> dict[str, Any]:
        """The config of a part, such as "vae"."""
        return read_config(self.folder(part) / "config.json")

    @property
    def denoiser(self) -> str:
        """Name of the part that denoises: "unet" or "transformer"."""
        return self.parts[0]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the pipeline's parts, the denoiser first."""
        return tuple(part for part in parts_of(self.configs, self.shared) if part not in self.left_out)

    @property
    def is_flow(self) -> bool:
        """Whether the model was trained by flow matching, as its scheduler's config says."""
        try:
            config = read_config(self.folder("scheduler") / "scheduler_config.json")
        except (OSError, ValueError):
            return False
        return "FlowMatch" in config.get("_class_name", "") or bool(config.get("use_flow_sigmas"))

    def is_in_folder(self, part: str) -> bool:
        """Whether a part's weights, or a tokenizer, are read from a folder and not from the checkpoint file."""
        return not self.is_checkpoint or (self.single is not None and part not in self.single.parts)

    def folder(self, part: str) -> Path:
        """The folder of a part's config, and of its weights unless this is a checkpoint."""
        own = self.configs / part
        return own if self.shared is None or own.is_dir() else self.shared / part

    def variant(self, part: str) -> str | None:
        """The variant of a part's weights: None for full precision, "fp16" if there are no others."""
        return None if weights_of(self.folder(part)) else "fp16"

    def content_hash(self) -> str:
        """Hash of the content of weights, configs and vocabulary, whatever their paths; hex digits."""
        return self._own_hash() + ("" if self.vae is None else f"-vae{self._vae_hash(self.vae)[:16]}")

    @property
    def usual_params(self) -> int:
        """The number of parameters that adapters of a model of this size usually have in all."""
        config = self.config(self.denoiser)
        heads = config.get("num_attention_heads") or 1
        widths = config.get("block_out_channels") or [heads * (config.get("attention_head_dim") or LARGE)]
        return USUAL_PARAMS["large" if widths[0] >= LARGE else "small"]

    def _vae_hash(self, vae: Path) -> str:
        if vae.is_file():
            return hash_file(vae)
        return hash_files(vae, [vae / "config.json", *(weights_of(vae) or weights_of(vae, "fp16"))])

    def _own_hash(self) -> str:
        if not self.is_checkpoint:
            apart = [part for part in self.parts if self.folder(part).parent != self.path]
            own = hash_files(
                self.path, loaded_files(self.path, tuple(part for part in self.parts if part not in apart))
            )
            if self.shared is None:
                return SAME_AS.get(own, own)
            rest = hash_files(self.shared, loaded_files(self.shared, tuple(apart)))
            return f"{own}-{SAME_AS.get(rest, rest)[:8]}"
        if self.single is None:
            read = [file for part in self.parts for file in files_of(self.configs / part)]
        else:
            from_folder = tuple(part for part in self.parts if self.is_in_folder(part))
            held = [file for part in self.single.parts for file in config_files(self.configs / part)]
            read = [*loaded_files(self.configs, from_folder), *held]
        configs = hash_files(self.configs, read)
        return f"{hash_file(self.path)}-{configs[:8]}{'-ema' if self.use_ema else ''}"


def find_source(
    path: str | Path | None,
    use_ema: bool = False,
    config: str | Path | None = None,
    quiet: bool = True,
    fetch: bool = True,
    vae: str | Path | None = None,
    t5: bool = True,
) -> Source:
    """Find a base model's files. A hub id that is not in the local cache is downloaded.

    Parameters
    ----------
    path : str, Path or None
        None for the lab, a pipeline folder, a hub id such as "CompVis/stable-diffusion-v1-4" or a checkpoint file.
    use_ema : bool
        For a checkpoint file, use its averaged weights.
    config : str or Path, optional
        For a checkpoint file that does not have the sizes of a known model: a folder in diffusers' format with its
        configs (``unet/config.json``, ...). For a file of Stable Diffusion 3 or Flux: a folder that also has the parts
        which the file lacks, such as text encoders.
    quiet : bool
        Do not log a download.
    fetch : bool
        Whether to use the network.
    vae : str or Path, optional
        Another VAE than the model's own: a file, a folder with config.json and weights, or a pipeline's folder.
    t5 : bool
        Whether the third text encoder of Stable Diffusion 3 is wanted, where a file lacks it.

    Returns
    -------
    Source

    Raises
    ------
    ValueError
        If files are missing, incomplete or unsafe to read; the message is one sentence.
    """
    text = str(LAB_FOLDER if path is None else path)
    place, other_vae = Path(text).expanduser(), None if vae is None else _vae(Path(vae).expanduser())
    if place.is_file() or (place.suffix.lower() in CHECKPOINTS and not place.is_dir()):
        return _checkpoint(place, None if config is None else Path(config).expanduser(), use_ema, other_vae, t5)
    if use_ema or config is not None:
        given = "use_ema" if use_ema else "config"
        raise ValueError(f"unet.{given} goes with a checkpoint file ({', '.join(CHECKPOINTS[:2])}), not with {text}.")
    if not place.is_dir() and looks_like_hub_id(text):
        place = from_hub(text, quiet, fetch)
    check_folder(place)
    source = Source(place, place, vae=other_vae)
    _check_channels(source)
    return source


def _vae(place: Path) -> Path:
    """A VAE's file, or the folder that holds its config and weights."""
    if place.is_file():
        check_vae(place)
        return place
    for folder in (place, place / "vae"):
        if (folder / "config.json").is_file() and (weights_of(folder) or weights_of(folder, "fp16")):
            return folder
    raise ValueError(
        f"unet.vae {place} is no VAE; give a .safetensors file, a folder with config.json and weights, or a pipeline's "
        "folder."
    )


def _check_channels(source: Source) -> None:
    """Raise ValueError unless the denoiser takes noisy latents of the VAE and nothing beside them."""
    try:
        unet, vae = source.config(source.denoiser), source.config("vae")
    except FileNotFoundError:
        return  # loading says which file is missing
    takes = unet.get("in_channels", 4)
    if unet.get("_class_name") == "FluxTransformer2DModel":
        takes //= 4  # its tokens are 2 x 2 latents
    if takes != vae.get("latent_channels", 4):
        raise ValueError(input_channels_sentence(source.path, takes))


def _checkpoint(file: Path, configs: Path | None, use_ema: bool, vae: Path | None, t5: bool) -> Source:
    if not file.is_file():
        raise ValueError(f"the checkpoint {file} does not exist; unet.path must be a .ckpt or .safetensors file.")
    if (configs is None or configs.is_dir()) and (single := transformer_file(file)) is not None:
        return _transformer_checkpoint(file, single, configs, use_ema, vae, t5)
    parts = ("unet", "vae", "text_encoder") if configs is None else parts_of(configs)
    needed = [part for part in parts if part in PARTS_WITH_WEIGHTS]
    missing = [] if configs is None else [part for part in needed if not (configs / part / "config.json").is_file()]
    if missing:
        raise ValueError(
            f"unet.config {configs} lacks {missing[0]}/config.json; give a folder with the configs of "
            f"{', '.join(needed)} in diffusers' format, or null for those of Stable Diffusion v1, 2.1 or XL."
        )
    family = check_checkpoint(file, use_ema, vae is not None)
    source = Source(file, ARCHITECTURES / family if configs is None else configs, use_ema, vae=vae)
    _check_channels(source)
    return source


def _transformer_checkpoint(
    file: Path, single: TransformerFile, configs: Path | None, use_ema: bool, vae: Path | None, t5: bool
) -> Source:
    """A file of Stable Diffusion 3 or Flux; ValueError unless it and the folder `configs` have all parts together."""
    if use_ema:
        raise ValueError(f"{file} holds no EMA weights; set unet.use_ema=false.")
    if configs is None and single.architecture is None:
        raise ValueError(
            f"{file} is a Flux without guidance (schnell); give its folder in diffusers' format as unet.config."
        )
    folder = configs or ARCHITECTURES / str(single.architecture)
    source = Source(file, folder, left_out=() if t5 else THIRD_PARTS, vae=vae, single=single)
    if source.denoiser != "transformer":
        raise ValueError(
            f"unet.config {folder} has no transformer, and {file} is one; give a folder of its own family."
        )
    check_transformer(folder / "transformer")
    lacking = [
        part
        for part in source.parts
        if part in PARTS_WITH_WEIGHTS
        and source.is_in_folder(part)
        and not (part == "vae" and vae is not None)
        and not (weights_of(folder / part) or weights_of(folder / part, "fp16"))
    ]
    long = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}[single.family]
    if not lacking and long in source.parts and not (folder / long.replace("text_encoder", "tokenizer")).is_dir():
        lacking = [long.replace("text_encoder", "tokenizer")]  # T5's, which no file holds
    if lacking:
        without = ", or set unet.t5=false" if lacking[0].endswith("_3") and len(lacking) == 1 else ""
        raise ValueError(
            f"{file} has no {', '.join(lacking)}; give unet.config a folder in diffusers' format that has it{without}."
        )
    _check_channels(source)
    return source


def source_of(unet: Mapping[str, Any], quiet: bool = True, fetch: bool = True) -> Source:
    """Find the base model that the group `unet` of a config names; see `find_source`.

    Raises
    ------
    ValueError
        As `find_source`, or `pooled` or `t5` is set for a model that has no such choice.
    """
    pooled, t5 = unet.get("pooled", True), unet.get("t5", True)
    if unet["path"] is None and unet.get("name") == LAB_TRANSFORMER:
        return lab_transformer(pooled)
    if not pooled:
        raise ValueError("unet.pooled=false goes with unet=lab_dit, of which there is a base without pooled text.")
    more = unet.get("use_ema", False), unet.get("config"), quiet, fetch, unet.get("vae"), t5
    source = find_source(unet["path"], *more)
    if t5:
        return source
    if "text_encoder_3" not in parts_of(source.configs):
        raise ValueError("unet.t5=false leaves out the third text encoder of Stable Diffusion 3; this model has none.")
    return replace(source, left_out=THIRD_PARTS)


def lab_transformer(pooled: bool = True) -> Source:
    """The lab's transformer, with or without pooled text; the other parts are those of the lab's UNet."""
    folder = LAB_TRANSFORMERS[pooled]
    return Source(folder, folder, shared=LAB_FOLDER)


def architecture_of(unet: Mapping[str, Any]) -> Source | None:
    """Find the configs of the model that the group `unet` of a config names, without its weights.

    Parameters
    ----------
    unet : mapping
        With name and config.

    Returns
    -------
    Source or None
        None if the architecture is not known.
    """
    folder = Path(unet.get("config") or "").expanduser()
    denoisers = [folder / part / "config.json" for part in ("unet", "transformer")]
    if unet.get("config") is not None and any(file.is_file() for file in denoisers):
        pass
    elif unet["name"] in ARCHITECTURE_OF:
        folder = ARCHITECTURES / ARCHITECTURE_OF[unet["name"]]
    else:
        return None
    return Source(folder, folder)
