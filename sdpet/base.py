"""The frozen base model: a Stable Diffusion pipeline folder, loaded piece by piece.

The lab and Stable Diffusion v1 go through the same code: scaling factor, prediction type and noise schedule are
read from the folder's configs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

LAB_FOLDER = Path(__file__).parent / "lab" / "pipeline"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class BaseModel:
    """A frozen text-to-image latent diffusion model; adapters are attached to `unet` and taken off again.

    `scheduler` is a DDPMScheduler: the training noise schedule, from whose config samplers are made.
    `weight_hash` identifies the weights and configs on disk (hex digits).
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    name: str
    weight_hash: str

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image of `image_size`."""
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    @property
    def image_size(self) -> int:
        """Side of the model's square images in pixels."""
        return self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" or "v_prediction"."""
        return self.scheduler.config.prediction_type

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Non-pooled text states (N, L, D), padded to the tokenizer's length; equal prompts are computed once."""
        unique = list(dict.fromkeys(prompts))
        tokens = self.tokenizer(
            unique,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        states = self.text_encoder(tokens.input_ids.to(self.device))[0]  # (U, L, D)
        return states[[unique.index(prompt) for prompt in prompts]]

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """What the UNet predicts (B, C, h, w) for noisy latents (B, C, h, w) at timesteps (B,) or () and text states.

        text: rows of what `encode_text` gives, (B, L, D). The only place that calls the UNet.
        """
        return self.unet(noisy, timesteps, encoder_hidden_states=text, return_dict=False)[0]

    @torch.no_grad()
    def encode_images(self, images: np.ndarray | torch.Tensor, chunk: int = 64) -> torch.Tensor:
        """Latents (N, C, h, w) of uint8 images (N, H, W, 3): the posterior's mean, shifted and scaled."""
        shift, scale = self._affine()
        pixels = torch.as_tensor(images).permute(0, 3, 1, 2)  # (N, 3, H, W), uint8
        latents = []
        for part in pixels.split(chunk):
            x = part.to(self.device, self.dtype) / 127.5 - 1
            latents.append((self.vae.encode(x).latent_dist.mean - shift) * scale)
        return torch.cat(latents)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, chunk: int = 64) -> np.ndarray:
        """Images uint8 (N, H, W, 3) of latents (N, C, h, w), rounded to 8 bit as they would be on disk."""
        shift, scale = self._affine()
        images = []
        for part in latents.split(chunk):
            x = self.vae.decode((part / scale + shift).to(self.dtype), return_dict=False)[0]  # (n, 3, H, W) in [-1, 1]
            x = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            images.append(x.permute(0, 2, 3, 1).cpu())
        return torch.cat(images).numpy()

    def through_vae(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """The images encoded and decoded (uint8, same shape): what a perfect generator could at best draw."""
        return self.decode(self.encode_images(images))

    def _affine(self) -> tuple[float, float]:
        shift = self.vae.config.get("shift_factor")
        return (0.0 if shift is None else shift), self.vae.config.scaling_factor


def load_base(
    name: str = "lab", path: str | Path | None = None, device: str = "cpu", dtype: str = "float32"
) -> BaseModel:
    """Load a base model, frozen and in evaluation mode.

    name: "lab" for the small world shipped with the package, else only a label for `path`.
    path: a diffusers Stable Diffusion folder or a hub id such as "CompVis/stable-diffusion-v1-4"; None with name
        "lab" is the shipped folder, with any other name the name itself is taken as folder or hub id.
    dtype: "float32", "float16" or "bfloat16", whatever is stored on disk.
    Raises ValueError in one sentence for a missing or incomplete folder, an unknown dtype or an unknown device.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is unknown; choose one of {', '.join(DTYPES)}.")
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} was asked for, but this machine has no usable CUDA device; choose 'cpu'.")
    folder = find_folder(name, path)
    torch_dtype = DTYPES[dtype]

    def frozen(cls: Any, part: str) -> Any:
        module = cls.from_pretrained(folder / part, torch_dtype=torch_dtype, local_files_only=True)
        return module.requires_grad_(False).eval().to(device)

    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"{folder} predicts {scheduler.config.prediction_type!r}; sdpet knows epsilon and v_prediction."
        )
    with _no_progress_bars():
        return BaseModel(
            unet=frozen(UNet2DConditionModel, "unet"),
            vae=frozen(AutoencoderKL, "vae"),
            text_encoder=frozen(CLIPTextModel, "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            scheduler=scheduler,
            name=name,
            weight_hash=hash_folder(folder),
        )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """transformers draws a bar for every file it reads, however small."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def find_folder(name: str, path: str | Path | None) -> Path:
    """The local folder of a base model, fetched from the hub if `path` looks like a hub id and is no folder here."""
    wanted = path if path is not None else (LAB_FOLDER if name == "lab" else name)
    folder = Path(wanted).expanduser()
    if not folder.is_dir() and _looks_like_hub_id(str(wanted)):
        from huggingface_hub import snapshot_download

        patterns = [f"{part}/*{end}" for part in PARTS for end in (".json", ".txt", "model.safetensors")]
        try:
            folder = Path(snapshot_download(str(wanted), allow_patterns=patterns))
        except Exception as error:
            raise ValueError(
                f"the base model {str(wanted)!r} is neither a folder here nor to be had from the hub "
                f"({type(error).__name__}); give unet.path the path of a diffusers pipeline folder."
            ) from error
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ValueError(
            f"the base model folder {folder} lacks {', '.join(missing)}; expected is a diffusers Stable Diffusion "
            f"pipeline folder with {', '.join(PARTS)}."
        )
    return folder


def _looks_like_hub_id(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "~", "/")) and not text.endswith("/")


def hash_folder(folder: str | Path) -> str:
    """Hex hash of a pipeline folder's content: weights, configs and vocabulary, by relative path."""
    digest = hashlib.blake2b(digest_size=16)
    folder = Path(folder)
    files = [file for part in PARTS for file in sorted((folder / part).rglob("*")) if file.is_file()]
    for file in files:
        if file.suffix not in (".safetensors", ".bin", ".json", ".txt"):
            continue
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
